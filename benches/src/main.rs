//! Measures Tidings next to other servers: the same load, the same machine, one after the other.
//!
//! People run it as `cargo xtask bench`, which installs the other servers, builds the release binaries and passes
//! their paths. One module is one subcommand; each writes its own section of `benches/RESULTS.md`. The server
//! under test has one core of its own ([`machine::SERVER_CPU`]) and the load another, and every figure is a ratio
//! to something measured in the same run, because absolute times of two runs cannot be compared.

mod compress;
mod crowd;
mod fanout;
mod floor;
mod idle;
mod link;
mod machine;
mod micro;
mod peers;
mod process;
mod publish;
mod report;
mod scan;
mod spread;
mod storm;
mod topics;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::report::Failure;

const USAGE: &str = "\
usage: compare [SUBCOMMAND..] [--quick] [--rounds N] --tidings FILE [--results FILE] [--node-modules DIR]
               [--python FILE]

  fanout    one message to many subscribers
  idle      connections that nothing is sent to
  publish   durable acknowledged publishes
  topics    many topics and filters
  storm     thousands of clients that come back at once
  compress  compressed fan-out
  micro     parts of the server on their own

Without a subcommand, all of them. Without --results, nothing is written.";

/// A subcommand: its name, and what it runs.
type Subcommand = (&'static str, fn(&Options) -> Result<(), Failure>);

const SUBCOMMANDS: [Subcommand; 7] = [
    ("fanout", fanout::run),
    ("idle", idle::run),
    ("publish", publish::run),
    ("topics", topics::run),
    ("storm", storm::run),
    ("compress", compress::run),
    ("micro", micro::run),
];

/// What was asked for, and where things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The release binary of Tidings.
    pub tidings: PathBuf,
    /// Tiny numbers, Tidings and the floor alone, and no results written: only that everything works.
    pub quick: bool,
    /// The file with the results; empty for none.
    pub results: PathBuf,
    /// Where npm has put the packages of the tests.
    pub node_modules: PathBuf,
    /// The Python that has the packages of `benches/requirements.txt`.
    pub python: PathBuf,
    /// How often each figure is measured.
    pub rounds: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = if arguments.first().is_some_and(|first| first == "floor") {
        floor::serve(&arguments[1..])
    } else {
        parse(&arguments).and_then(|(options, chosen)| run(&options, &chosen))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, chosen: &[String]) -> Result<(), Failure> {
    machine::allow_many_files();
    machine::pin_to_load_cpu();
    for (name, subcommand) in SUBCOMMANDS {
        if chosen.is_empty() || chosen.iter().any(|wanted| wanted == name) {
            subcommand(options).map_err(|failure| Failure::new(format!("{name}: {failure}")))?;
        }
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<(Options, Vec<String>), Failure> {
    let mut options = Options {
        tidings: PathBuf::new(),
        quick: false,
        results: PathBuf::new(),
        node_modules: PathBuf::new(),
        python: PathBuf::new(),
        rounds: 3,
    };
    let mut chosen = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| Failure::new(format!("{argument} needs a value\n{USAGE}")))
        };
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--tidings" => options.tidings = value()?.into(),
            "--results" => options.results = value()?.into(),
            "--node-modules" => options.node_modules = value()?.into(),
            "--python" => options.python = value()?.into(),
            "--rounds" => {
                options.rounds = value()?
                    .parse()
                    .ok()
                    .filter(|rounds| *rounds > 0)
                    .ok_or_else(|| Failure::new("--rounds needs a number from 1"))?;
            }
            name if SUBCOMMANDS.iter().any(|(known, _)| *known == name) => {
                chosen.push(name.to_owned());
            }
            _ => return Err(Failure::new(format!("what is {argument}?\n{USAGE}"))),
        }
    }
    if options.tidings.as_os_str().is_empty() {
        return Err(Failure::new(format!("--tidings is missing\n{USAGE}")));
    }
    // Servers are started in folders of their own. A Python of a virtual environment is a link that must not be
    // followed: it finds its packages by its own path.
    for path in [
        &mut options.tidings,
        &mut options.node_modules,
        &mut options.python,
    ] {
        if !path.as_os_str().is_empty() {
            *path = std::path::absolute(&path)?;
        }
    }
    if options.quick {
        options.rounds = 1;
    }
    Ok((options, chosen))
}
