//! What the commands say to people: on standard error, and never an error itself if nobody reads it.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

/// Input is long once it takes so long.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// A line on standard error.
pub(crate) fn say(line: &str) {
    // A closed standard error is no reason to stop.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// The options cannot be meant: exit code 2.
pub(crate) fn misused(error: &dyn std::fmt::Display) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::from(2)
}

/// It did not work: exit code 1.
pub(crate) fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::FAILURE
}

/// The single-threaded runtime of a command.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// A line that is redrawn, on a terminal and after a while; nothing otherwise.
pub(crate) struct Progress {
    started: Instant,
    is_wanted: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self {
            started: Instant::now(),
            is_wanted: !is_quiet && std::io::stderr().is_terminal(),
            bar: None,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        if !self.is_wanted || self.started.elapsed() < PROGRESS_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_message(text());
        bar.tick();
    }

    /// Says a line above the progress.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A count and its noun: `1 message`, `2 messages`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Events in a second.
pub(crate) fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}
