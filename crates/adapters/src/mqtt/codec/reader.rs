//! The fields of one packet, read from front to back (1.5).

use bytes::Bytes;
use bytestring::ByteString;

use super::rule::Rule;
use super::version::{PacketId, VARINT_MAX};

/// The body of one packet, and how far it has been read.
///
/// What becomes of texts and binary fields is in [`Fields`]. A packet without them costs no allocation.
///
/// Invariant: `at <= end <= body.len()`, and nothing at or after `end` is read.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
    fields: Fields,
}

/// What texts and binary fields are made of.
enum Fields {
    /// Each is an allocation of its own, so that a client identifier or a filter, which lives long, does not
    /// hold a password or another filter with it.
    Own,
    /// They are slices of one allocation: the bytes of the body from the number on. It is made when the first
    /// of them is read.
    Shared(Option<(Bytes, usize)>),
}

impl<'a> Reader<'a> {
    /// Reads a body; each field becomes a copy.
    pub(super) fn owning(body: &'a [u8]) -> Self {
        Self::new(body, Fields::Own)
    }

    /// Reads a body; its fields share one copy of it.
    pub(super) fn copying(body: &'a [u8]) -> Self {
        Self::new(body, Fields::Shared(None))
    }

    /// Reads a body; its fields are slices of it.
    pub(super) fn sharing(body: &'a Bytes) -> Self {
        Self::new(body, Fields::Shared(Some((body.clone(), 0))))
    }

    fn new(body: &'a [u8], fields: Fields) -> Self {
        Self {
            body,
            at: 0,
            end: body.len(),
            fields,
        }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    /// Reads with an end that is `len` bytes from here, until [`Reader::widen`] is given what this returns.
    pub(super) fn narrow(&mut self, len: usize) -> Result<usize, Rule> {
        if len > self.left() {
            return Err(Rule::Truncated);
        }
        Ok(std::mem::replace(&mut self.end, self.at + len))
    }

    /// Gives the end back that [`Reader::narrow`] took.
    pub(super) fn widen(&mut self, end: usize) {
        self.end = end;
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Rule> {
        if len > self.left() {
            return Err(Rule::Truncated);
        }
        let field = &self.body[self.at..self.at + len];
        self.at += len;
        Ok(field)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Rule> {
        self.take(1).map(|field| field[0])
    }

    pub(super) fn two_bytes(&mut self) -> Result<u16, Rule> {
        let field = self.take(2)?;
        Ok(u16::from_be_bytes([field[0], field[1]]))
    }

    pub(super) fn four_bytes(&mut self) -> Result<u32, Rule> {
        let field = self.take(4)?;
        Ok(u32::from_be_bytes([field[0], field[1], field[2], field[3]]))
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, Rule> {
        PacketId::new(self.two_bytes()?).ok_or(Rule::ZeroPacketId)
    }

    /// A variable byte integer (1.5.5).
    pub(super) fn varint(&mut self) -> Result<u32, Rule> {
        match varint(&self.body[self.at..self.end]) {
            Ok(Some((number, size))) => {
                self.at += size;
                Ok(number)
            }
            Ok(None) => Err(Rule::Truncated),
            Err(VarintError::Padded) => Err(Rule::PaddedInteger),
            Err(VarintError::TooLong) => Err(Rule::LongInteger),
        }
    }

    /// Text with its length in front (1.5.4).
    pub(super) fn text(&mut self) -> Result<ByteString, Rule> {
        let len = self.two_bytes()?;
        let start = self.at;
        let field = self.take(usize::from(len))?;
        if memchr::memchr(0, field).is_some() {
            return Err(Rule::NulInText);
        }
        // Judged before it is copied, so that ill-formed text costs nothing.
        if simdutf8::basic::from_utf8(field).is_err() {
            return Err(Rule::IllFormedText);
        }
        ByteString::try_from(self.keep(start, field)).map_err(|_| Rule::IllFormedText)
    }

    /// Binary data with its length in front (1.5.6).
    pub(super) fn binary(&mut self) -> Result<Bytes, Rule> {
        let len = self.two_bytes()?;
        let start = self.at;
        let field = self.take(usize::from(len))?;
        Ok(self.keep(start, field))
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        let start = self.at;
        let field = &self.body[start..self.end];
        self.at = self.end;
        self.keep(start, field)
    }

    /// Everything was read.
    pub(super) fn finish(&self) -> Result<(), Rule> {
        if self.left() == 0 {
            Ok(())
        } else {
            Err(Rule::TrailingBytes)
        }
    }

    /// The field that begins at `start`, to keep.
    fn keep(&mut self, start: usize, field: &[u8]) -> Bytes {
        if field.is_empty() {
            return Bytes::new();
        }
        let Fields::Shared(shared) = &mut self.fields else {
            return Bytes::copy_from_slice(field);
        };
        let body = self.body;
        let (shared, base) =
            shared.get_or_insert_with(|| (Bytes::copy_from_slice(&body[start..]), start));
        let from = start - *base;
        shared.slice(from..from + field.len())
    }
}

/// Why bytes are no variable byte integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VarintError {
    /// Its last byte adds nothing (MQTT-1.5.5-1).
    Padded,
    /// It has more than four bytes.
    TooLong,
}

/// The variable byte integer at the front of `bytes` and how many of them spell it; `None` if it goes on after
/// them.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, VarintError> {
    let mut number = 0u32;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        number |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(VarintError::Padded);
            }
            debug_assert!(number <= VARINT_MAX);
            return Ok(Some((number, index + 1)));
        }
    }
    if bytes.len() < 4 {
        Ok(None)
    } else {
        Err(VarintError::TooLong)
    }
}
