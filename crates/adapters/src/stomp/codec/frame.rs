//! What comes out of the decoder.

use bytes::Bytes;
use bytestring::ByteString;

use super::command::Command;

/// The next thing on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A frame.
    Frame(Frame),
    /// Ends of lines between frames: one item for all of them that have arrived.
    HeartBeat,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub command: Command,
    /// The headers, unescaped.
    pub headers: Headers,
    /// The body; empty if the command has none.
    pub body: Bytes,
}

/// A header, unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name; not empty, and case counts.
    pub name: ByteString,
    /// The value.
    pub value: ByteString,
}

/// The headers of a frame in their order, repeated ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// The value of a header; the first one, if it is repeated (Repeated Header Entries).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ByteString> {
        self.iter()
            .find(|header| header.name == name)
            .map(|header| &header.value)
    }

    /// Every header in its order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, header: Header) {
        self.0.push(header);
    }

    /// Takes spaces and tabs off both ends of the values.
    pub(super) fn trim_values(&mut self) {
        for header in &mut self.0 {
            header.value = header.value.slice_ref(trimmed(&header.value));
        }
    }
}

/// A value as a peer of 1.0 means it.
pub(super) fn trimmed(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Header;
    type IntoIter = std::slice::Iter<'a, Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(headers: T) -> Self {
        let owned = |(name, value): (&str, &str)| Header {
            name: name.into(),
            value: value.into(),
        };
        Self(headers.into_iter().map(owned).collect())
    }
}
