//! The `tidings` binary: reads the command line, and calls what carries it out.
//!
//! Exit codes: 0 done, 1 the world failed, 2 the operator's input is wrong.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use tidings_server::cli::{CheckArgs, Cli, Command, ServeArgs};
use tidings_server::config;

/// Many small allocations of few sizes, freed on the thread that made them: what mimalloc is best at.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve(&args),
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

fn check(args: &CheckArgs) -> ExitCode {
    let loaded = match args.inputs.inputs().load() {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&errors, WRONG_INPUT),
    };
    let file = match &loaded.file {
        Some(path) => path.display().to_string(),
        None => "no file, defaults".to_owned(),
    };
    print(&format!("the configuration is good ({file})\n"))
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
