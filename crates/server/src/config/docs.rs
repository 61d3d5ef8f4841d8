//! `docs/configuration.md`, from the option table.

use std::fmt::{self, Write as _};

use super::Config;
use super::layers::OTHER_VARIABLES;
use super::options::{Flag, OPTIONS, OptionSpec, SECTIONS};
use super::retention::{FIELDS, default_of};

const HEAD: &str = "\
# Configuration

<!-- Generated from the option table in crates/server/src/config/options.rs by `cargo xtask docs`. -->

Every option has a default: `tidings serve` with nothing set works. A value is looked for in this order, and
the last one found wins:

1. the default,
2. the file that `--config FILE` names, or else `TIDINGS_CONFIG`, or else `./tidings.toml` if it is there,
3. the environment: `TIDINGS_` and the key in capitals, with `_` for `.`,
4. flags of `tidings serve`: the ones listed here, and `--set key=value` for every option.

A key or a `TIDINGS_` variable that does not exist is an error, and all errors are reported at once.
`tidings serve --print-config` prints the whole configuration with the place that each value came from;
`tidings check` checks it without starting the server.

A *size* is a whole number of bytes, or one with a unit: `64KiB`, `1MiB`, `2GB`. A *time* is a whole number of
milliseconds, or one with a unit: `250ms`, `15s`, `10m`, `24h`, `7d`. A list is an array in the file, and
separated by commas in the environment and in flags. Paths are relative to the directory that the server is
started in.

On SIGHUP the server reads the file again, applies the options that are marked *reload*, and says which others
need a restart.
";

const RULES: &str = r#"
## `[[retention]]`

What is kept, by topic. The first rule that matches a topic decides; `[retention_default]` is for the others, and
for what a rule does not say. Whichever bound is reached first removes the oldest messages. Rules stand in the
file only. When a rule moves a topic out of the durable log, its history is gone at the next start.

```toml
[[retention]]
topics = "chat/#"
age_max = "7d"
bytes_max = "10GiB"

[[retention]]
topics = "sensors/+/now"
storage = "memory"
per_topic_max = 1
```

| key | value | |
|---|---|---|
| `topics` | topic filter | The topics that the rule is for; `+` is any one level, `#` the rest. |
"#;

/// The text of `docs/configuration.md`.
#[must_use]
pub fn docs() -> String {
    let mut out = HEAD.to_owned();
    write_tables(&mut out).expect("a String takes every write");
    out
}

fn write_tables(out: &mut String) -> fmt::Result {
    for (section, about) in SECTIONS {
        write_section(out, section, about)?;
        if *section == "retention_default" {
            write_rules(out)?;
        }
    }
    writeln!(
        out,
        "\n## Other environment variables\n\n| variable | |\n|---|---|"
    )?;
    for (name, about) in OTHER_VARIABLES {
        writeln!(out, "| `{name}` | {} |", sentence(about))?;
    }
    Ok(())
}

fn write_section(out: &mut String, section: &str, about: &str) -> fmt::Result {
    writeln!(out, "\n## `[{section}]`\n\n{about}\n")?;
    writeln!(
        out,
        "| key | value | default | flag | | |\n|---|---|---|---|---|---|"
    )?;
    let mut defaults = Config::default();
    for spec in OPTIONS {
        let (of, name) = spec.section_and_name();
        if of != section {
            continue;
        }
        let slot = (spec.slot)(&mut defaults);
        let (kind, default, flags) = (escaped(&slot.kind()), slot.toml(), escaped(&flags(spec)));
        let reload = if spec.reloadable { "*reload*" } else { "" };
        let doc = escaped(spec.doc);
        writeln!(
            out,
            "| `{name}` | {kind} | `{default}` | {flags} | {reload} | {doc} |"
        )?;
    }
    Ok(())
}

fn write_rules(out: &mut String) -> fmt::Result {
    out.push_str(RULES);
    let mut defaults = Config::default();
    for (name, _) in FIELDS {
        if let Some(spec) = default_of(name) {
            let kind = escaped(&(spec.slot)(&mut defaults).kind());
            writeln!(out, "| `{name}` | {kind} | {} |", escaped(spec.doc))?;
        }
    }
    Ok(())
}

fn flags(spec: &OptionSpec) -> String {
    let texts: Vec<String> = spec
        .flags
        .iter()
        .map(|flag| match flag {
            Flag::Value { long, name } => format!("`--{long} {name}`"),
            Flag::Word { long, .. } => format!("`--{long}`"),
        })
        .collect();
    texts.join(", ")
}

/// A cell of a table ends at a bar, in code too.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}
