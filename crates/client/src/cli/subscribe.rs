//! `tidings sub`.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use tidings_types::TopicFilter;

use super::terminal::{failed, misused, runtime, say};
use super::{SubArgs, SubscribeWire};
use crate::client::Client;
use crate::envelope::write_message;
use crate::message::{Message, PayloadForm, Start, Verdict, WorkQueue};
use crate::subscription::{Item, Subscription, Wire};

/// Messages that are printed before the output is flushed, if so many are there at once.
const BATCH_MAX: usize = 1_000;

/// Of a work queue, a member that ends after fewer messages than this asks for no more at a time.
const FEW: u32 = 64;

/// Prints messages as they come, until `--count`, Ctrl-C, or a closed standard output.
#[expect(
    clippy::needless_pass_by_value,
    reason = "as the other commands, which consume their options"
)]
pub fn subscribe(args: SubArgs) -> ExitCode {
    let tls = args.tls.files();
    let client = match &args.mqtt_url {
        Some(url) => Client::mqtt(url, args.qos.into(), &tls),
        None => Client::new(&args.url, &tls),
    };
    let client = match client {
        Ok(client) => client,
        Err(error) => return misused(&error),
    };
    let client = match args.login.login() {
        Ok(login) => client.with_login(login),
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
    let subscription = match open(&client, filters, &args) {
        Ok(subscription) => subscription,
        Err(error) => return misused(&error),
    };
    let out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    let printer = Printer {
        args: &args,
        out,
        printed: 0,
        unsettled: Vec::new(),
    };
    runtime.block_on(print(subscription, printer))
}

fn open(
    client: &Client,
    filters: Vec<TopicFilter>,
    args: &SubArgs,
) -> Result<Subscription, &'static str> {
    let wire = match args.protocol {
        SubscribeWire::Tidings => Wire::Tidings,
        SubscribeWire::Sse => Wire::Sse,
    };
    let Some(group) = &args.group else {
        return Ok(client.subscribe_over(wire, filters, start(args)));
    };
    let [filter] = &filters[..] else {
        return Err("a work queue is of one filter: with --group, give one");
    };
    Ok(client.work(WorkQueue {
        group: group.clone(),
        filter: filter.clone(),
        start: start(args),
        prefetch: prefetch(args),
    }))
}

/// Not more than are to be printed: the others wait here for nothing, while other members could have them.
fn prefetch(args: &SubArgs) -> Option<u32> {
    let count = args.count.and_then(|count| u32::try_from(count).ok());
    match (args.prefetch, count) {
        (Some(prefetch), Some(count)) => Some(prefetch.min(count)),
        (None, Some(count)) if count < FEW => Some(count),
        (prefetch, _) => prefetch,
    }
}

fn start(args: &SubArgs) -> Start {
    match (args.after.as_deref(), args.last) {
        (None, None) if args.group.is_some() => Start::Earliest,
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
    /// Of a work queue: printed, perhaps not flushed, and not acknowledged. At most [`BATCH_MAX`].
    unsettled: Vec<String>,
}

impl<W: Write> Printer<'_, W> {
    /// Prints an item and those that are ready, flushes, and acknowledges messages of a work queue; true once
    /// enough is printed.
    fn batch(&mut self, first: Item, subscription: &mut Subscription) -> std::io::Result<bool> {
        let mut next = Some(first);
        let mut left = BATCH_MAX;
        while let Some(item) = next {
            self.item(item)?;
            left -= 1;
            next = if left > 0 && !self.is_done() {
                subscription.next_ready()
            } else {
                None
            };
        }
        self.out.flush()?;
        // Not before: what is not printed when this ends is another member's to print.
        for id in self.unsettled.drain(..) {
            subscription.settle(&id, Verdict::Ack);
        }
        Ok(self.is_done())
    }

    fn is_done(&self) -> bool {
        self.args.count == Some(self.printed)
    }

    fn item(&mut self, item: Item) -> std::io::Result<()> {
        match item {
            Item::Message(message) => {
                self.printed += 1;
                write_line(&message, self.args.json, &mut self.out)?;
                if message.deliveries.is_some() {
                    self.unsettled.push(message.id);
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeServer;
    use crate::tls::TlsFiles;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SubArgs,
    }

    fn parse(line: &str) -> Result<SubArgs, clap::Error> {
        let words = std::iter::once("sub").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.args)
    }

    /// A standard output that takes bytes, and fails when they are to be there.
    struct Clogged;

    impl Write for Clogged {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Prints the one message of a queue; the outcome, and whether it is still to be settled.
    async fn print_one<W: Write>(out: W) -> (std::io::Result<bool>, bool) {
        let (server, client) = FakeServer::start().await;
        let args = parse("jobs/# --group w").unwrap();
        let mut subscription =
            open(&client, vec![TopicFilter::new("jobs/#").unwrap()], &args).expect("one filter");
        let serve = async {
            let mut peer = server.accept_tidings().await;
            peer.hear().await;
            peer.say(r#"{"op":"ok","id":1,"sub":1,"topic":"jobs/#","group":"w","cursor":"c0"}"#)
                .await;
            peer.say(r#"{"op":"message","sub":1,"deliveries":1,"topic":"jobs/a","id":"c1","time":1,"data":"x"}"#)
                .await;
            peer
        };
        let follow = async {
            let mut printer = Printer {
                args: &args,
                out,
                printed: 0,
                unsettled: Vec::new(),
            };
            subscription.next().await.unwrap();
            let item = subscription.next().await.unwrap();
            let outcome = printer.batch(item, &mut subscription);
            (outcome, subscription.settle("c1", Verdict::Ack))
        };
        let (_peer, outcome) = tokio::join!(serve, follow);
        outcome
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_of_a_work_queue_is_acknowledged_once_it_is_printed() {
        let mut out = Vec::new();
        let (outcome, is_unsettled) = print_one(&mut out).await;
        assert!(!outcome.unwrap());
        assert!(!is_unsettled);
        assert_eq!(out, b"x\n");
        let (outcome, is_unsettled) = print_one(Clogged).await;
        assert!(outcome.is_err());
        assert!(is_unsettled);
    }

    #[test]
    fn a_new_queue_starts_with_the_oldest_message_and_a_subscription_with_the_next() {
        for (line, expect) in [
            ("a", Start::Latest),
            ("a --group w", Start::Earliest),
            ("a --group w --after latest", Start::Latest),
            ("a --group w --last 3", Start::Last(3)),
            ("a --group w --last 0", Start::Latest),
        ] {
            assert_eq!(start(&parse(line).unwrap()), expect, "{line}");
        }
    }

    #[test]
    fn a_member_asks_for_no_more_than_it_prints() {
        for (line, expect) in [
            ("a --group w", None),
            ("a --group w --prefetch 5", Some(5)),
            ("a --group w --count 3", Some(3)),
            ("a --group w --count 64", None),
            ("a --group w --count 3 --prefetch 5", Some(3)),
            ("a --group w --count 9 --prefetch 5", Some(5)),
        ] {
            assert_eq!(prefetch(&parse(line).unwrap()), expect, "{line}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for line in [
            "a --prefetch 5",
            "a --group w --prefetch 0",
            "a --group w --protocol sse",
            "a --group w --mqtt-url mqtt://127.0.0.1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for other in [
            "",
            " --url http://127.0.0.1",
            " --protocol sse",
            " --group w",
        ] {
            assert!(parse(&format!("a --qos 2{other}")).is_err(), "{other}");
        }
        assert!(parse("a --qos 2 --mqtt-url mqtt://127.0.0.1").is_ok());
        let client = Client::new("http://127.0.0.1:9", &TlsFiles::default()).unwrap();
        let filters = ["a", "b"].map(|text| TopicFilter::new(text).unwrap());
        let args = parse("a b --group w").unwrap();
        assert!(open(&client, filters.to_vec(), &args).is_err());
    }
}
