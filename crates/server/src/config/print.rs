//! `--print-config`: the whole configuration as a file that would give it again, with the source of each value.

use std::fmt::{self, Write as _};

use super::given::quoted;
use super::layers::{Loaded, Source};
use super::options::{OPTIONS, SECTIONS};
use super::retention::FIELDS;

/// The configuration as TOML; behind each value a comment says where it came from.
#[must_use]
pub fn print(loaded: &Loaded) -> String {
    let mut out = String::from("# every option with its value, and where that came from\n");
    write_all(&mut out, loaded).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, loaded: &Loaded) -> fmt::Result {
    let mut config = loaded.config.clone();
    for (section, _) in SECTIONS {
        writeln!(out, "\n[{section}]")?;
        for spec in OPTIONS {
            let (of, name) = spec.section_and_name();
            if of == *section {
                let value = (spec.slot)(&mut config).toml();
                let source = one_line(loaded.provenance.of(spec.key));
                writeln!(out, "{name} = {value} # {source}")?;
            }
        }
    }
    let rules = loaded.config.retention.rules.iter();
    for ((filter, retention), source) in rules.zip(&loaded.provenance.rules) {
        writeln!(out, "\n[[retention]] # {}", one_line(source))?;
        writeln!(out, "topics = {}", quoted(filter.as_str()))?;
        let mut retention = *retention;
        for (name, slot) in FIELDS {
            writeln!(out, "{name} = {}", slot(&mut retention).toml())?;
        }
    }
    Ok(())
}

/// A comment ends at the line's end, and a path may hold one.
fn one_line(source: &Source) -> String {
    source.to_string().replace(char::is_control, "?")
}
