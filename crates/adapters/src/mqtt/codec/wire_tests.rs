//! `WIRE.md` says of each statement where it is shown; what it says must be so.

use crate::mqtt::codec::Version;
use crate::mqtt::codec::testing::{decode_pieces, decoder, violating};

const WIRE: &str = include_str!("../WIRE.md");

const TESTS: &[&str] = &[
    include_str!("decoder_tests.rs"),
    include_str!("mutation_tests.rs"),
    include_str!("reason_tests.rs"),
    include_str!("response_tests.rs"),
    include_str!("template_tests.rs"),
];

/// The statements of a section and where they are shown.
fn rows(section: &str) -> Vec<(&'static str, &'static str)> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = WIRE.split_once(&heading).unwrap();
    let text = rest.split("\n## ").next().unwrap_or(rest);
    text.lines()
        .filter(|line| line.starts_with("| MQTT-"))
        .map(|line| {
            let columns: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            (columns[0].trim(), columns[2].trim())
        })
        .collect()
}

/// The statements that packets of the table break, with the version of their sender.
fn broken() -> Vec<(&'static str, Option<Version>)> {
    violating()
        .map(|row| {
            let (_, violation, _) = decode_pieces(decoder(row.state), [row.bytes]);
            (row.statement, violation.unwrap().version)
        })
        .collect()
}

/// Whether the table itself shows the statement, under its own number.
fn is_in_table(shown: &str) -> bool {
    shown == "table"
        || ["table,", "table;", "table (wills)"]
            .iter()
            .any(|it| shown.starts_with(it))
}

#[test]
fn statements_shown_by_the_table_are_those_that_its_packets_break() {
    let broken = broken();
    for (section, version) in [("3.1.1", Version::V4), ("5.0", Version::V5)] {
        let of_section = |sender: Option<Version>| match sender {
            Some(sender) => (sender == Version::V5) == (version == Version::V5),
            None => true,
        };
        let rows = rows(section);
        for (statement, shown) in &rows {
            let found = broken
                .iter()
                .any(|(number, sender)| number == statement && of_section(*sender));
            assert!(
                found || !is_in_table(shown),
                "{section}: no packet of the table breaks {statement}"
            );
            let known = broken.iter().any(|(number, sender)| {
                number == statement && sender.is_some_and(|it| of_section(Some(it)))
            });
            assert!(
                !known || is_in_table(shown),
                "{section}: packets of the table break {statement}, but the row says {shown}"
            );
        }
        for (number, sender) in &broken {
            let listed = rows.iter().any(|(statement, _)| statement == number);
            let here = sender.is_some_and(|sender| of_section(Some(sender)));
            assert!(
                listed || !here || !number.starts_with("MQTT-"),
                "{section}: {number} is not listed"
            );
        }
    }
}

#[test]
fn each_statement_is_listed_once() {
    for (section, count) in [("3.1.1", 141), ("5.0", 251)] {
        let mut statements: Vec<_> = rows(section).into_iter().map(|(it, _)| it).collect();
        assert_eq!(statements.len(), count, "{section}");
        statements.sort_unstable();
        statements.dedup();
        assert_eq!(statements.len(), count, "{section}");
    }
}

#[test]
fn the_tests_that_are_named_exist() {
    let mut named = 0;
    for word in WIRE.split('`').skip(1).step_by(2) {
        let Some((_, name)) = word.rsplit_once("::") else {
            continue;
        };
        if word.starts_with("tidings-types") || name == "*" || word == "file::name" {
            continue;
        }
        let function = format!("fn {name}(");
        assert!(
            TESTS.iter().any(|source| source.contains(&function)),
            "{word}"
        );
        named += 1;
    }
    assert!(named > 20);
}
