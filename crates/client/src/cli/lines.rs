//! `tidings pub --lines`: each line of the input is a message, published as it comes.

use std::io::{BufRead, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::PubArgs;
use super::publish::PAYLOAD_BYTES_MAX;
use super::terminal::{Progress, counted, failed, rate, say};
use crate::client::Client;
use crate::message::Outgoing;
use crate::pipeline::{Pipeline, PipelineStatus};

/// Lines that are read and wait for the pipeline.
const LINES_MAX: usize = 64;
const REDRAW: Duration = Duration::from_millis(100);

/// Why reading ended before the input did.
enum Stopped {
    /// The input did.
    Ended,
    /// Reading failed, or a line has no end.
    Input(std::io::Error),
    /// The server refused a message, or the connection.
    Refused,
    /// Ctrl-C.
    Interrupted,
}

pub(super) async fn publish_lines(
    client: &Client,
    template: &Outgoing,
    args: &PubArgs,
) -> ExitCode {
    let mut pipeline = client.pipeline(args.window);
    let mut progress = Progress::new(args.quiet);
    let mut reporter = Reporter::new(pipeline.status(), args.quiet);
    let stopped = feed(&mut pipeline, template, &mut reporter, &mut progress).await;
    if let Stopped::Interrupted = stopped
        && !args.quiet
    {
        progress.say("interrupted: waiting for the messages in flight; Ctrl-C again to leave them");
    }
    let finish = pipeline.finish();
    tokio::pin!(finish);
    let status = loop {
        tokio::select! {
            status = &mut finish => break status,
            () = reporter.report(&mut progress) => {}
            _ = tokio::signal::ctrl_c() => break reporter.status.borrow().clone(),
        }
    };
    progress.clear();
    conclude(&stopped, &status, progress.elapsed(), args)
}

/// Moves lines into the pipeline until there are no more.
async fn feed(
    pipeline: &mut Pipeline,
    template: &Outgoing,
    reporter: &mut Reporter,
    progress: &mut Progress,
) -> Stopped {
    let mut lines = read_lines(std::io::BufReader::with_capacity(
        64 << 10,
        std::io::stdin(),
    ));
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = reporter.report(progress) => {
                if reporter.is_refused() {
                    return Stopped::Refused;
                }
                continue;
            }
            _ = &mut interrupted => return Stopped::Interrupted,
        };
        let payload = match line {
            None => return Stopped::Ended,
            Some(Err(error)) => return Stopped::Input(error),
            Some(Ok(payload)) => payload,
        };
        let outgoing = Outgoing {
            payload: payload.into(),
            ..template.clone()
        };
        let sending = pipeline.send(outgoing);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => {
                    if sent.is_err() || reporter.is_refused() {
                        return Stopped::Refused;
                    }
                    break;
                }
                () = reporter.report(progress) => {}
                _ = &mut interrupted => return Stopped::Interrupted,
            }
        }
    }
}

/// Tells of lost connections as they happen, and redraws the progress now and then.
struct Reporter {
    status: watch::Receiver<PipelineStatus>,
    is_quiet: bool,
    told: u64,
    redraw: tokio::time::Interval,
}

impl Reporter {
    fn new(status: watch::Receiver<PipelineStatus>, is_quiet: bool) -> Self {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            status,
            is_quiet,
            told: 0,
            redraw,
        }
    }

    fn is_refused(&self) -> bool {
        self.status.borrow().refused > 0
    }

    async fn report(&mut self, progress: &mut Progress) {
        self.redraw.tick().await;
        let status = self.status.borrow_and_update().clone();
        if status.failures > self.told && !self.is_quiet {
            self.told = status.failures;
            if let Some((reason, wait_ms)) = &status.trouble {
                progress.say(&format!("{reason}; trying again in {wait_ms} ms"));
            }
        }
        let elapsed = progress.elapsed();
        progress.show(|| {
            format!(
                "{} published, {:.0}/s, {} in flight, {}",
                status.acknowledged,
                rate(status.acknowledged, elapsed),
                status.in_flight,
                counted(status.reconnects(), "reconnect"),
            )
        });
    }
}

/// Reads lines on a thread of its own, because reading standard input cannot be cancelled.
fn read_lines(
    mut input: impl BufRead + Send + 'static,
) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (lines, taken) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        loop {
            let line = read_line(&mut input).transpose();
            let Some(line) = line else { return };
            let is_last = line.is_err();
            if lines.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    taken
}

/// A line without its end (LF or CR LF); the last one need not have an end.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = input
        .by_ref()
        .take(PAYLOAD_BYTES_MAX + 1)
        .read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if read as u64 > PAYLOAD_BYTES_MAX {
        let text = format!("a line is longer than {PAYLOAD_BYTES_MAX} bytes");
        return Err(std::io::Error::other(text));
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    Ok(Some(line))
}

fn conclude(
    stopped: &Stopped,
    status: &PipelineStatus,
    elapsed: Duration,
    args: &PubArgs,
) -> ExitCode {
    if !args.quiet {
        let last = status
            .last_id
            .as_ref()
            .map_or(String::new(), |id| format!(", last {id}"));
        say(&format!(
            "published {} to {} in {:.1} s ({:.0}/s), {}{last}",
            counted(status.acknowledged, "message"),
            args.topic,
            elapsed.as_secs_f64(),
            rate(status.acknowledged, elapsed),
            counted(status.reconnects(), "reconnect"),
        ));
    }
    if let Some(refused) = &status.first_refusal {
        return failed(&refused);
    }
    match stopped {
        Stopped::Input(error) => failed(&format!("cannot read standard input: {error}")),
        Stopped::Interrupted => {
            if status.in_flight > 0 {
                let left = counted(status.in_flight as u64, "message");
                say(&format!("{left} may or may not have been published"));
            }
            ExitCode::from(130)
        }
        Stopped::Ended | Stopped::Refused if status.in_flight == 0 => ExitCode::SUCCESS,
        Stopped::Ended | Stopped::Refused => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut input: &[u8] = b"a\n\n b \r\nc\rd\n\xff\nlast";
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [&b"a"[..], b"", b" b ", b"c\rd", b"\xff", b"last"]);
    }
}
