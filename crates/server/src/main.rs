//! The `tidings` binary: reads the command line, and calls what carries it out.
//!
//! Exit codes: 0 done, 1 the world failed, 2 the operator's input is wrong.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use tidings_client::cli::{bench, health, publish, subscribe};
use tidings_log::Report;
use tidings_server::cli::{CheckArgs, Cli, Command, ServeArgs};
use tidings_server::config::{self, DataPlace};
use tidings_server::secrets;

/// Many small allocations of few sizes, freed on the thread that made them: what mimalloc is best at.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve(&args),
        Command::Pub(args) => publish(args),
        Command::Sub(args) => subscribe(args),
        Command::Bench(args) => bench(args),
        Command::Health(args) => health(args),
        Command::Passwd(args) => made(secrets::passwd(&args)),
        Command::Key(command) => made(secrets::key(command)),
        Command::Token(command) => made(secrets::token(command)),
        Command::Check(args) => check(&args),
        Command::Docs => print(&config::docs()),
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    let inputs = args.inputs.inputs();
    let loaded = match inputs.load() {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&errors, WRONG_INPUT),
    };
    if args.print_config {
        return print(&config::print(&loaded));
    }
    match tidings_server::serve::launch(&inputs, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, FAILED),
    }
}

fn made(outcome: Result<String, secrets::SecretsError>) -> ExitCode {
    match outcome {
        Ok(text) => print(&text),
        Err(error) => fail(&error, FAILED),
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    let loaded = match args.inputs.inputs().load() {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&errors, WRONG_INPUT),
    };
    if let Err(error) = tidings_server::serve::check_tls(&loaded.config) {
        return fail(&error, WRONG_INPUT);
    }
    let file = match &loaded.file {
        Some(path) => path.display().to_string(),
        None => "no file".to_owned(),
    };
    let mut text = format!("the configuration is good ({file})\n");
    let mut whole = true;
    // Only when it is named: the log of a server that runs here is in use, and the default may not exist.
    if args.inputs.names_log()
        && let DataPlace::Dir(path) = &loaded.config.data
    {
        match tidings_log::verify(path) {
            Ok(report) => {
                whole = report.damaged.is_empty();
                text += &describe(&report);
            }
            Err(error) => return fail(&error, FAILED),
        }
    }
    match print(&text) {
        ExitCode::SUCCESS if !whole => ExitCode::from(FAILED),
        code => code,
    }
}

/// What a check of the log found, for people.
fn describe(report: &Report) -> String {
    let Report {
        segments,
        messages,
        bytes,
        damaged,
        torn,
    } = report;
    let mut lines = vec![format!(
        "the log has {messages} messages in {segments} segments, {bytes} bytes"
    )];
    lines.extend(damaged.iter().map(|damage| {
        let (file, offset, what) = (&damage.file, damage.offset, damage.what);
        format!("damaged: {file} at byte {offset}: {what}")
    }));
    lines.extend(torn.iter().map(|torn| {
        let (file, offset) = (&torn.file, torn.offset);
        format!("{file} ends in an unfinished write at byte {offset}: the server cuts it off when it starts")
    }));
    if damaged.is_empty() {
        lines.push("the log is whole".to_owned());
    }
    lines.join("\n") + "\n"
}

/// Writes to standard output. A reader that has gone, as in `| head`, is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error, FAILED),
        _ => ExitCode::SUCCESS,
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("tidings: {error}");
    ExitCode::from(code)
}
