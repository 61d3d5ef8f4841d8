//! A value as it was given, before it is checked against its option.

use std::fmt;

use tidings_types::ByteSize;

/// A value from some layer. A file has types; the environment and flags have only words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// `true` or `false` in a file.
    Bool(bool),
    /// A whole number in a file.
    Integer(u64),
    /// A string in a file.
    Text(String),
    /// An array of strings in a file.
    List(Vec<String>),
    /// An array of tables of strings in a file.
    Tables(Vec<Vec<(String, String)>>),
    /// The environment or a flag: lists are separated by commas.
    Word(String),
    /// Something else in a file, as it stands there.
    Other(String),
}

impl Given {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is `off`: no listener, no bound.
    pub fn is_off(&self) -> bool {
        self.text() == Some("off")
    }

    /// Yes or no.
    pub fn bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Word(word) => match word.as_str() {
                "true" | "on" | "yes" | "1" => Some(true),
                "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// A whole number; `1_000` is one too.
    pub fn integer(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Word(word) => word.trim().replace('_', "").parse().ok(),
            _ => None,
        }
    }

    /// A number of bytes, with or without a unit.
    pub fn bytes(&self) -> Option<u64> {
        self.integer().or_else(|| {
            self.text()
                .and_then(|text| text.parse::<ByteSize>().ok())
                .map(|size| size.0)
        })
    }

    /// A number of milliseconds, or a time with a unit.
    pub fn millis(&self) -> Option<u64> {
        self.integer().or_else(|| {
            self.text()
                .filter(|text| !text.trim().ends_with(|c: char| c.is_ascii_digit()))
                .and_then(parse_millis)
        })
    }

    /// A list of words.
    pub fn list(&self) -> Option<Vec<String>> {
        match self {
            Self::List(list) => Some(list.clone()),
            Self::Word(word) => Some(
                word.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Given {
    /// As it would stand in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(text) | Self::Word(text) => f.write_str(&quoted(text)),
            Self::List(list) => f.write_str(&quoted_list(list)),
            Self::Tables(tables) => {
                let table = |entries: &Vec<(String, String)>| {
                    let entries = entries.iter();
                    let texts = entries.map(|(key, value)| format!("{key} = {}", quoted(value)));
                    format!("{{ {} }}", texts.collect::<Vec<_>>().join(", "))
                };
                let texts: Vec<String> = tables.iter().map(table).collect();
                write!(f, "[{}]", texts.join(", "))
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// The text as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The texts as a TOML array on one line.
pub fn quoted_list(list: &[String]) -> String {
    let parts: Vec<String> = list.iter().map(|text| quoted(text)).collect();
    format!("[{}]", parts.join(", "))
}

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// `250ms`, `15s`, `10m`, `24h`, `7d`.
fn parse_millis(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that divides the time exactly, so that the text parses back to it.
pub fn millis_text(ms: u64) -> String {
    let (name, factor) = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor))
        .unwrap_or(&UNITS[0]);
    format!("{}{name}", ms / factor)
}
