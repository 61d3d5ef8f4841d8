//! `--print-config`: the whole configuration as a file that would give it again, with the source of each value.

use super::Config;
use super::given::quoted;
use super::layers::Loaded;
use super::options::{OPTIONS, SECTIONS};
use super::retention::FIELDS;

/// The configuration as TOML; behind each value a comment says where it came from.
#[must_use]
pub fn print(loaded: &Loaded) -> String {
    let mut config = loaded.config.clone();
    let mut out = String::from("# every option with its value, and where that came from\n");
    for (section, _) in SECTIONS {
        print_section(&mut out, section, &mut config, loaded);
    }
    for (index, (filter, retention)) in loaded.config.retention.rules.iter().enumerate() {
        let source = loaded
            .provenance
            .rules
            .get(index)
            .cloned()
            .unwrap_or_default();
        let source = one_line(&source.to_string());
        push(&mut out, &format!("\n[[retention]] # {source}\n"));
        push(&mut out, &format!("topics = {}\n", quoted(filter.as_str())));
        let mut retention = *retention;
        for (name, slot) in FIELDS {
            push(
                &mut out,
                &format!("{name} = {}\n", slot(&mut retention).toml()),
            );
        }
    }
    out
}

fn print_section(out: &mut String, section: &str, config: &mut Config, loaded: &Loaded) {
    push(out, &format!("\n[{section}]\n"));
    for spec in OPTIONS {
        let (of, name) = spec.section_and_name();
        if of == section {
            let value = (spec.slot)(config).toml();
            let source = one_line(&loaded.provenance.of(spec.key).to_string());
            push(out, &format!("{name} = {value} # {source}\n"));
        }
    }
}

/// A comment ends at the line's end, and a path may hold one.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn push(out: &mut String, text: &str) {
    out.push_str(text);
}
