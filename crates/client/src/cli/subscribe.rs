//! `tidings sub`.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use tidings_types::TopicFilter;

use super::terminal::{failed, misused, runtime, say};
use super::{SubArgs, SubscribeWire};
use crate::client::Client;
use crate::envelope::write_message;
use crate::message::{Message, PayloadForm, Start};
use crate::subscription::{Item, Subscription, Wire};

/// Messages that are printed before the output is flushed, if so many are there at once.
const BATCH_MAX: usize = 1_000;

/// Prints messages as they come, until `--count`, Ctrl-C, or a closed standard output.
#[expect(
    clippy::needless_pass_by_value,
    reason = "as the other commands, which consume their options"
)]
pub fn subscribe(args: SubArgs) -> ExitCode {
    let client = match &args.mqtt_url {
        Some(url) => Client::mqtt(url, args.qos.into()),
        None => Client::new(&args.url),
    };
    let client = match client {
        Ok(client) => client,
        Err(error) => return misused(&error),
    };
    let filters: Result<Vec<_>, _> = args
        .filters
        .iter()
        .map(|text| TopicFilter::new(text.as_str()).map_err(|error| format!("`{text}`: {error}")))
        .collect();
    let filters = match filters {
        Ok(filters) => filters,
        Err(error) => return misused(&error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    if args.count == Some(0) {
        return ExitCode::SUCCESS;
    }
    let wire = match args.protocol {
        SubscribeWire::Tidings => Wire::Tidings,
        SubscribeWire::Sse => Wire::Sse,
    };
    let subscription = client.subscribe_over(wire, filters, start(&args));
    let out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    let printer = Printer {
        args: &args,
        out,
        printed: 0,
    };
    runtime.block_on(print(subscription, printer))
}

fn start(args: &SubArgs) -> Start {
    match (args.after.as_deref(), args.last) {
        (Some("earliest"), _) => Start::Earliest,
        (Some("latest"), _) | (None, None | Some(0)) => Start::Latest,
        (Some(cursor), _) => Start::After(cursor.to_owned()),
        (None, Some(count)) => Start::Last(count),
    }
}

async fn print<W: Write>(mut subscription: Subscription, mut printer: Printer<'_, W>) -> ExitCode {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let item = tokio::select! {
            item = subscription.next() => item,
            _ = &mut interrupted => {
                printer.say_how_to_resume(subscription.cursor());
                subscription.close().await;
                return ExitCode::from(130);
            }
        };
        let outcome = match item {
            Ok(item) => printer.batch(item, &mut subscription),
            Err(refused) => return failed(&refused),
        };
        match outcome {
            Ok(false) => {}
            Ok(true) => {
                subscription.close().await;
                return ExitCode::SUCCESS;
            }
            // Who reads the output has seen enough, as `head` does.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Err(error) => return failed(&format!("cannot write to standard output: {error}")),
        }
    }
}

struct Printer<'a, W> {
    args: &'a SubArgs,
    out: W,
    printed: u64,
}

impl<W: Write> Printer<'_, W> {
    /// Prints an item and those that are ready, then flushes; true once enough is printed.
    fn batch(&mut self, first: Item, subscription: &mut Subscription) -> std::io::Result<bool> {
        let mut next = Some(first);
        let mut left = BATCH_MAX;
        while let Some(item) = next {
            self.item(item)?;
            if self.args.count == Some(self.printed) {
                self.out.flush()?;
                return Ok(true);
            }
            left -= 1;
            next = if left > 0 {
                subscription.next_ready()
            } else {
                None
            };
        }
        self.out.flush()?;
        Ok(false)
    }

    fn item(&mut self, item: Item) -> std::io::Result<()> {
        match item {
            Item::Message(message) => {
                self.printed += 1;
                write_line(&message, self.args.json, &mut self.out)?;
            }
            // On standard error, but after what was printed before it.
            Item::Gap(gap) => {
                self.out.flush()?;
                if !self.args.quiet {
                    let after = gap
                        .after
                        .map_or(String::new(), |after| format!(" after {after}"));
                    say(&format!(
                        "gap{after}: messages may be missing ({})",
                        gap.reason
                    ));
                }
            }
            Item::Disconnected { reason, retry_in } => {
                self.out.flush()?;
                if !self.args.quiet {
                    say(&format!(
                        "{reason}; trying again in {} ms",
                        retry_in.as_millis()
                    ));
                }
            }
            Item::Connected => {}
        }
        Ok(())
    }

    fn say_how_to_resume(&self, cursor: Option<&str>) {
        if let Some(cursor) = cursor
            && !self.args.quiet
        {
            let filters = self.args.filters.join(" ");
            say(&format!(
                "to go on from here: tidings sub {filters} --after {cursor}"
            ));
        }
    }
}

fn write_line(message: &Message, json: bool, out: &mut impl Write) -> std::io::Result<()> {
    if json {
        let mut line = Vec::with_capacity(message.payload.len() + 128);
        write_message(message, &mut line);
        line.push(b'\n');
        return out.write_all(&line);
    }
    out.write_all(&message.payload)?;
    match message.form {
        // Bytes are passed on as they are, for a program that knows where they end.
        PayloadForm::Binary => Ok(()),
        PayloadForm::Text | PayloadForm::Json => out.write_all(b"\n"),
    }
}
