//! Real clients that are scripts, of Node and of Python: each takes JSON commands on its input and answers in JSON lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::tools::{Background, folder};
use crate::{PATIENCE, spawn};

/// A script of `tests/node` or `tests/python` that runs in the background.
pub struct Peer {
    // Declared first, so that the process ends before its error reader is let go.
    program: Background,
    input: ChildStdin,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Peer {
    /// Starts `tests/node/{script}`.
    #[track_caller]
    pub fn node(script: &str, arguments: &[&str]) -> Self {
        let scripts = folder().join("node");
        let mut command = Command::new("node");
        command
            .arg(scripts.join(script))
            .args(arguments)
            .current_dir(scripts);
        Self::start(&mut command)
    }

    /// Starts `tests/python/{script}` with the packages of `tests/requirements.txt`.
    #[track_caller]
    pub fn python(script: &str, arguments: &[&str]) -> Self {
        let tests = folder();
        let mut command = Command::new(tests.join(".venv/bin/python"));
        command
            .arg(tests.join("python").join(script))
            .args(arguments);
        Self::start(&mut command)
    }

    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut program = Background::start(command);
        let stdout = program.child().stdout.take().expect("the output is piped");
        let mut stderr = program.child().stderr.take().expect("the errors are piped");
        let (sender, lines) = channel();
        spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = spawn(move || {
            let mut text = String::new();
            stderr
                .read_to_string(&mut text)
                .map(|_| text)
                .unwrap_or_default()
        });
        Self {
            input: program.stdin(),
            program,
            lines,
            errors: Some(errors),
        }
    }

    /// Sends a command and does not wait.
    #[track_caller]
    pub fn tell(&mut self, command: &Value) {
        if let Err(error) = writeln!(self.input, "{command}") {
            panic!("the script is gone ({error}): {}", self.error_text());
        }
    }

    /// Sends a command and waits for one line.
    #[track_caller]
    pub fn ask(&mut self, command: &Value) -> Value {
        self.tell(command);
        self.line()
    }

    /// The next line.
    #[track_caller]
    pub fn line(&mut self) -> Value {
        self.line_within(PATIENCE * 2)
    }

    /// The next line, within a time of one's own.
    #[track_caller]
    pub fn line_within(&mut self, patience: Duration) -> Value {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
            }
            Err(RecvTimeoutError::Timeout) => panic!("the script says nothing for {patience:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the script ended: {}", self.error_text())
            }
        }
    }

    fn error_text(&mut self) -> String {
        self.program.child().kill().unwrap_or_default();
        let reader = self.errors.take().expect("a script ends once");
        reader.join().unwrap_or_default()
    }
}
