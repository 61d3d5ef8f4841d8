//! What is asked of other people's crates, by cargo-deny and `deny.toml`: licences, where they come from, which ones are
//! not to be there, and known vulnerabilities.

use std::path::PathBuf;
use std::process::Command;

use crate::{Failure, cargo, root, run};

/// The version that is installed, with the dependencies that it was published with.
const VERSION: &str = "0.20.2";

/// Checks all that can be checked from here. Vulnerabilities need the advisory database, which is on GitHub: without it
/// that is told, and the rest counts.
pub fn check() -> Result<(), Failure> {
    let program = installed()?;
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--locked").args(arguments).current_dir(root());
        command
    };
    run(&mut deny(&["check", "licenses", "bans", "sources"]))?;
    // A network that swallows everything is given up on.
    let mut fetch = deny(&["fetch", "db"]);
    fetch
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "30");
    if run(&mut fetch).is_err() {
        eprintln!(
            "WARNING: known vulnerabilities were NOT looked for: the advisory database at \
             https://github.com/RustSec/advisory-db cannot be fetched from here"
        );
        return Ok(());
    }
    run(&mut deny(&["check", "advisories"]))
}

/// The program, which is built once for a checkout: a minute or two, kept in `target/tools`.
fn installed() -> Result<PathBuf, Failure> {
    let folder = root().join("target/tools");
    let own = folder.join(format!("cargo-deny-{VERSION}"));
    let program = own.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    let build = folder.join("build");
    run(cargo()
        .args(["install", "cargo-deny", "--quiet", "--locked"])
        .args(["--version", VERSION])
        .arg("--root")
        .arg(&own)
        .arg("--target-dir")
        .arg(&build)
        // Its own profile takes three times as long to build, for a program that runs for a second.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"))?;
    std::fs::remove_dir_all(&build)
        .map_err(|error| Failure::new(format!("cannot remove {}: {error}", build.display())))?;
    Ok(program)
}
