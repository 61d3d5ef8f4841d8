//! Runs all tests and adds up what their programs report.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::{Failure, cargo};

#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs the tests whose names hold one of the filters, or all of them. The last line is the totals.
pub fn run(filters: &[String]) -> Result<(), Failure> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast", "--"])
        .args(filters)
        .stdout(Stdio::piped());
    eprintln!("$ cargo test --workspace");
    let mut child = command
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run cargo: {error}")))?;
    let mut totals = Totals::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            totals.add(&line);
            say(&line);
        }
    }
    let status = child
        .wait()
        .map_err(|error| Failure::new(format!("cannot wait for cargo: {error}")))?;
    say(&format!(
        "\n{} passed, {} failed",
        totals.passed, totals.failed
    ));
    if totals.ignored > 0 {
        return Err(Failure::new(format!(
            "{} tests are ignored",
            totals.ignored
        )));
    }
    if status.success() && totals.failed == 0 && totals.passed > 0 {
        Ok(())
    } else {
        Err(Failure::new(format!("the tests failed: {status}")))
    }
}

impl Totals {
    /// Takes in a line such as `test result: ok. 12 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<&str> = counts.split([' ', ';']).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a program for a terminal")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn totals_add_up_over_test_programs() {
        let mut totals = Totals::default();
        totals.add("running 3 tests");
        totals.add("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.10s");
        totals.add("test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        assert_eq!((totals.passed, totals.failed, totals.ignored), (15, 2, 1));
    }
}
