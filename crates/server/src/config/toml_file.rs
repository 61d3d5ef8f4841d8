//! Reads a TOML file into dotted keys with their lines. Knows no options.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::given::Given;

/// One key with its value.
#[derive(Debug)]
pub struct Entry {
    /// Dotted.
    pub key: String,
    /// As it stands there.
    pub given: Given,
    /// From 1.
    pub line: usize,
}

/// One `[[retention]]` table.
#[derive(Debug)]
pub struct RuleEntries {
    /// Its keys.
    pub entries: Vec<Entry>,
    /// The line that it begins on.
    pub line: usize,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct FileEntries {
    /// In the order of the file.
    pub entries: Vec<Entry>,
    /// In the order of the file.
    pub rules: Vec<RuleEntries>,
}

/// What is wrong with the syntax of a line.
#[derive(Debug)]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// What the parser says.
    pub message: String,
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<FileEntries, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let describe = |error: toml::de::Error| SyntaxError {
            line: line_at(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        return Err(errors.into_iter().map(describe).collect());
    }
    let mut file = FileEntries::default();
    for (key, value) in table.get_ref() {
        if key.get_ref() == "retention"
            && let DeValue::Array(rules) = value.get_ref()
        {
            file.rules
                .extend(rules.iter().map(|rule| rule_entries(text, rule)));
        } else {
            flatten(
                text,
                key.get_ref(),
                value,
                key.span().start,
                &mut file.entries,
            );
        }
    }
    // The parser sorts by name; errors read best in the order of the file.
    file.entries.sort_by_key(|entry| entry.line);
    Ok(file)
}

fn rule_entries(text: &str, rule: &Spanned<DeValue<'_>>) -> RuleEntries {
    let mut entries = Vec::new();
    match rule.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                flatten(text, key.get_ref(), value, key.span().start, &mut entries);
            }
        }
        _ => flatten(text, "", rule, rule.span().start, &mut entries),
    }
    RuleEntries {
        entries,
        line: line_at(text, rule.span().start),
    }
}

/// Adds the value under its dotted key. A table without keys stands for itself, so that a mistyped section
/// is found even when it is empty.
fn flatten(
    text: &str,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    at: usize,
    entries: &mut Vec<Entry>,
) {
    if let DeValue::Table(table) = value.get_ref()
        && !table.is_empty()
    {
        for (name, value) in table {
            let dotted = format!("{key}.{}", name.get_ref());
            flatten(text, &dotted, value, name.span().start, entries);
        }
        return;
    }
    entries.push(Entry {
        key: key.to_owned(),
        given: given(text, value),
        line: line_at(text, at),
    });
}

fn given(text: &str, value: &Spanned<DeValue<'_>>) -> Given {
    // A table without keys has no text of its own that would read well.
    let as_written = || match value.get_ref() {
        DeValue::Table(_) => Given::Other("{}".to_owned()),
        _ => Given::Other(text.get(value.span()).unwrap_or_default().to_owned()),
    };
    match value.get_ref() {
        DeValue::String(text) => Given::Text(text.clone().into_owned()),
        DeValue::Boolean(flag) => Given::Bool(*flag),
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| as_written(), Given::Integer),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect();
            let tables = || -> Option<Vec<_>> {
                let tables = items.iter().map(|item| texts_of(item.get_ref()));
                tables.collect()
            };
            texts
                .map(Given::List)
                .or_else(|| tables().map(Given::Tables))
                .unwrap_or_else(as_written)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => as_written(),
    }
}

/// The entries of a table that has nothing but strings.
fn texts_of(value: &DeValue<'_>) -> Option<Vec<(String, String)>> {
    let table = value.as_table()?;
    let text = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        Some((key.to_string(), value.get_ref().as_str()?.to_owned()))
    };
    table.iter().map(text).collect()
}

fn line_at(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    before.filter(|byte| **byte == b'\n').count() + 1
}
