//! Foreign programs: curl, Node, a browser, the Autobahn cases.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

/// The folder of the end-to-end tests.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Runs a program to its end; the test fails if it cannot be started.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("{error}: {command:?}: `cargo xtask test` installs what is missing")
        })
}

/// Runs a program to its end and gives what it wrote; the test fails if it fails.
#[track_caller]
pub fn stdout(command: &mut Command) -> String {
    let output = output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{errors}",
        output.status
    );
    text
}

/// curl, silent but for errors, and never for longer than a test may take.
pub fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "60"])
        .args(arguments);
    command
}

/// A program in the background that ends with the test.
pub struct Background(Child);

impl Background {
    /// Starts it with all its outputs piped.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{error}: {command:?}: `cargo xtask test` installs what is missing")
            });
        Self(child)
    }

    /// Starts it with what it says going somewhere, where it cannot fill a pipe that nobody reads.
    #[track_caller]
    pub fn start_into(command: &mut Command, log: Stdio) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{error}: {command:?}: `cargo xtask test` installs what is missing")
            });
        Self(child)
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its input, once.
    pub fn stdin(&mut self) -> ChildStdin {
        self.0.stdin.take().expect("the input is taken once")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}
