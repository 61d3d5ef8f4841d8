//! The project's own commands: `cargo xtask test`, `ci`, `bench`, `deny` and `docs`.
//!
//! `test` is everything that has to hold before a change lands, on a fresh machine too: it installs what the
//! tests need and is not there yet, and its last line is the totals. This crate uses the standard library
//! alone, so that the command starts at once.

mod bench;
mod deny;
mod tests_run;
mod tools;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [FILTER..]  format, lints, licences and advisories, build and all tests; prints the totals last
  ci               the same: what continuous integration runs
  bench [WHAT..]   measures next to other servers, into benches/RESULTS.md; --quick only tries it
  deny             licences, sources and known vulnerabilities of other people's crates, alone
  docs             writes docs/configuration.md anew from the server's option table";

/// A command of ours that cannot go on, in a sentence.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Failure {
    /// The sentence says what failed and what to do.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("test") => test(&arguments[1..]),
        Some("ci") => test(&[]),
        Some("bench") => bench::run(&arguments[1..]),
        Some("deny") => deny::check(),
        Some("docs") => docs(),
        _ => Err(Failure::new(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn test(filters: &[String]) -> Result<(), Failure> {
    tools::install()?;
    run(cargo().args(["fmt", "--check"]))?;
    run(cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    deny::check()?;
    // The end-to-end tests run the binary itself. Built with the whole workspace, so that it shares every
    // dependency with the tests: cargo chooses features by what is built together.
    run(cargo().args(["build", "--locked", "--workspace", "--bins"]))?;
    tests_run::run(filters)
}

fn docs() -> Result<(), Failure> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "tidings", "--", "docs"]);
    let output = command
        .output()
        .map_err(|error| Failure::new(format!("cannot run {command:?}: {error}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("`tidings docs` failed:\n{text}")));
    }
    let path = root().join("docs/configuration.md");
    std::fs::write(&path, output.stdout)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// A cargo command at the root of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end, with its output where ours goes.
pub fn run(command: &mut Command) -> Result<(), Failure> {
    let line = shown(command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .map_err(|error| Failure::new(format!("cannot run `{line}`: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("`{line}` failed: {status}")))
    }
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
