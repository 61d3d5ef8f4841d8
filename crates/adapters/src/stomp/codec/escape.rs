//! Escapes in headers (Value Encoding).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::command::Command;
use super::version::Version;

/// Which escapes a frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escapes {
    /// A backslash is a character like others.
    None,
    /// `\n`, `\c` and `\\`.
    Three,
    /// `\r` too.
    Four,
}

impl Escapes {
    /// Those of a command in a version; `None` before the connection has one.
    pub(super) const fn of(command: Command, version: Option<Version>) -> Self {
        match (command, version) {
            (Command::Connect | Command::Connected, _) => Self::None,
            (Command::Stomp, _) | (_, Some(Version::V12)) => Self::Four,
            (_, Some(Version::V11)) => Self::Three,
            (_, Some(Version::V10) | None) => Self::None,
        }
    }

    /// Undoes them; `None` if there is an undefined one. Allocates only if there is any.
    pub(super) fn unescape(self, text: &str) -> Option<Cow<'_, str>> {
        if self == Self::None || !text.contains('\\') {
            return Some(Cow::Borrowed(text));
        }
        let mut plain = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, escaped)) = rest.split_once('\\') {
            plain.push_str(before);
            plain.push(match escaped.as_bytes().first()? {
                b'n' => '\n',
                b'c' => ':',
                b'\\' => '\\',
                b'r' if self == Self::Four => '\r',
                _ => return None,
            });
            rest = &escaped[1..];
        }
        plain.push_str(rest);
        Some(Cow::Owned(plain))
    }

    /// Whether a header can be written with them.
    pub(super) fn carries(self, name: &str, value: &str) -> bool {
        let has = |text: &str, byte| memchr::memchr(byte, text.as_bytes()).is_some();
        let breaks =
            self == Self::None && (has(name, b':') || has(name, b'\n') || has(value, b'\n'));
        !(name.is_empty() || breaks || has(name, 0) || has(value, 0))
    }

    /// Writes a text that is carried. Without an escape for it a CR is written as it is.
    pub(super) fn put(self, text: &str, out: &mut BytesMut) {
        if self == Self::None {
            return out.put_slice(text.as_bytes());
        }
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| self.escape(*byte).is_some()) {
            out.put_slice(&rest[..at]);
            out.put_u8(b'\\');
            out.put_u8(self.escape(rest[at]).unwrap_or(rest[at]));
            rest = &rest[at + 1..];
        }
        out.put_slice(rest);
    }

    /// What stands for a byte behind the backslash.
    const fn escape(self, byte: u8) -> Option<u8> {
        match byte {
            b'\n' => Some(b'n'),
            b':' => Some(b'c'),
            b'\\' => Some(b'\\'),
            b'\r' if matches!(self, Self::Four) => Some(b'r'),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "escape_tests.rs"]
mod tests;
