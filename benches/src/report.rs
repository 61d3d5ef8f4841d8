//! What a measurement says at its end, on the terminal and in the file of results.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};

use crate::{Options, machine};

/// A measurement that cannot go on, in a sentence.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// The sentence says what failed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.to_string())
    }
}

/// One table of results.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What was measured, with the load's numbers.
    pub title: String,
    /// The heads of the columns.
    pub columns: Vec<&'static str>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Lines under the table: targets, what was left out, how to read it.
    pub notes: Vec<String>,
}

impl Table {
    /// The table with its title and notes as Markdown, the columns aligned so that it reads well as it is.
    pub fn markdown(&self) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| -> String {
            let cells = cells.zip(&widths).enumerate();
            // Names to the left, numbers to the right.
            let cells: Vec<String> = cells
                .map(|(index, (cell, width))| match index {
                    0 => format!(" {cell:<width$} "),
                    _ => format!(" {cell:>width$} "),
                })
                .collect();
            format!("|{}|\n", cells.join("|"))
        };
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(index, width)| {
                let dashes = "-".repeat(width + 1);
                format!("{dashes}{}", if index == 0 { '-' } else { ':' })
            })
            .collect();
        let mut text = format!("### {}\n\n", self.title);
        text.push_str(&line(&mut self.columns.iter().copied()));
        text.extend(["|", &rule.join("|"), "|\n"]);
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str("- ");
            text.push_str(note);
            text.push('\n');
        }
        text
    }
}

/// Whether a target was reached, as a note: `target: at most 1.15 x the floor: reached (1.08)`.
pub fn target(text: &str, reached: bool, found: &str) -> String {
    let verdict = if reached { "reached" } else { "missed" };
    format!("target: {text}: **{verdict}** ({found})")
}

/// Prints the tables of a subcommand and, unless it ran with tiny numbers, writes them into the file of results in
/// place of what was there of it.
pub fn publish_section(options: &Options, name: &str, tables: &[Table]) -> Result<(), Failure> {
    let machine = machine::describe();
    let mut section = format!("`cargo xtask bench {name}` on {machine}.\n");
    for table in tables {
        section.extend(["\n", &table.markdown()]);
    }
    say(&format!("## {name}\n\n{section}"));
    if options.quick || options.results.as_os_str().is_empty() {
        return Ok(());
    }
    let path = &options.results;
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            return Err(Failure::new(text));
        }
    };
    fs::write(path, replaced(&before, name, &section))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

/// The file with the section between its two marks, in the place of the old one or at the end.
fn replaced(before: &str, name: &str, section: &str) -> String {
    let begin = format!("<!-- begin {name} -->\n");
    let end = format!("<!-- end {name} -->\n");
    let whole = format!("{begin}\n{section}\n{end}");
    if let Some((head, rest)) = before.split_once(&begin)
        && let Some((_, tail)) = rest.split_once(&end)
    {
        return format!("{head}{whole}{tail}");
    }
    let head = if before.is_empty() {
        "# Results\n"
    } else {
        before
    };
    format!("{head}\n## {name}\n\n{whole}")
}

/// Writes to standard output.
pub fn say(text: &str) {
    // A reader that went away wants nothing more; the file of results is written all the same.
    drop(writeln!(io::stdout().lock(), "{text}"));
}

/// Writes to standard error: progress, and what went wrong.
pub fn complain(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_old_self_and_no_other() {
        let first = replaced("", "idle", "one");
        let second = replaced(&first, "fanout", "two");
        let third = replaced(&second, "idle", "three");
        assert!(!third.contains("one") && third.contains("two"), "{third}");
        assert!(third.find("three") < third.find("two"), "{third}");
        assert_eq!(replaced(&third, "idle", "three"), third);
    }

    #[test]
    fn columns_are_aligned() {
        let table = Table {
            title: "t".to_owned(),
            columns: vec!["who", "x"],
            rows: vec![vec!["nchan".to_owned(), "10.5".to_owned()]],
            notes: vec!["n".to_owned()],
        };
        let expect = "### t\n\n| who   |    x |\n|-------|-----:|\n| nchan | 10.5 |\n\n- n\n";
        assert_eq!(table.markdown(), expect);
    }
}
