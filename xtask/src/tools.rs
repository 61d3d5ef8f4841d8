//! Installs foreign programs where they are missing. The end-to-end tests drive the server with a browser, Node
//! packages, MQTT and STOMP clients and the Autobahn cases. What is there already is left alone.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Failure, root, run};

/// Debian packages, and a program that each brings.
const DEBIAN: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("nodejs", "node"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("python3-venv", "python3"),
    ("chromium", "chromium"),
    ("mosquitto-clients", "mosquitto_sub"),
    ("pebble", "pebble"),
    ("systemd", "systemd-analyze"),
];

/// Makes sure that everything is there.
pub fn install() -> Result<(), Failure> {
    let missing = DEBIAN.iter().filter(|(_, program)| !is_there(program));
    let missing: Vec<&str> = missing.map(|(package, _)| *package).collect();
    debian_packages("the tests", &missing)?;
    node_packages()?;
    python_packages("tests").map(drop)
}

/// Installs Debian packages that are missing, for the purpose that is named where that is not possible.
pub fn debian_packages(purpose: &str, missing: &[&str]) -> Result<(), Failure> {
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    );
    if !is_root() || !is_there("apt-get") {
        return Err(Failure::new(format!(
            "{purpose} need {}: install it, on Debian by `sudo {install}`, then run this again",
            missing.join(", ")
        )));
    }
    run(Command::new("apt-get").args(["-qq", "update"]))?;
    run(Command::new("apt-get")
        .args(["-qq", "install", "-y", "--no-install-recommends"])
        .args(missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null()))
}

/// The packages that the tests and measurements use from npm.
pub fn node_packages() -> Result<(), Failure> {
    let folder = root().join("tests/node");
    // npm writes this copy of the lock file after everything else.
    let installed = folder.join("node_modules/.package-lock.json");
    if is_newer(&installed, &folder.join("package-lock.json")) {
        return Ok(());
    }
    run(Command::new("npm")
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ])
        .current_dir(folder))
}

/// A virtual environment in the folder with what its `requirements.txt` names; returns its Python.
pub fn python_packages(of: &str) -> Result<PathBuf, Failure> {
    let folder = root().join(of).join(".venv");
    let requirements = root().join(of).join("requirements.txt");
    let installed = folder.join("installed");
    let python = folder.join("bin/python");
    if is_newer(&installed, &requirements) {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(&requirements))?;
    std::fs::write(&installed, "")
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", installed.display())))?;
    Ok(python)
}

fn is_newer(installed: &Path, wanted: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|found| found.modified());
    match (modified(installed), modified(wanted)) {
        (Ok(installed), Ok(wanted)) => installed >= wanted,
        _ => false,
    }
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder: PathBuf| folder.join(program).is_file())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
