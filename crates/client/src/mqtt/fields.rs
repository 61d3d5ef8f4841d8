//! The data types of packets (MQTT 5, 1.5): read from a packet, appended to one.

use std::fmt;

use bytes::{Buf as _, Bytes};

/// The largest number of a variable byte integer (1.5.5), and so of what follows a fixed header.
pub(super) const VARINT_MAX: usize = 268_435_455;

/// The server breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// A variable byte integer of more than four bytes (1.5.5).
    Length,
    /// A packet over the limit of this client.
    TooLarge,
    /// A packet that ends before its fields do.
    Short,
    /// A text that is not UTF-8 (1.5.4).
    Text,
    /// A packet that a server does not send, or not here.
    Unexpected(u8),
    /// Flags of the fixed header that the packet cannot have (2.1.3).
    Flags(u8),
    /// A property that is not defined (2.2.2.2).
    Property(u8),
    /// A packet identifier of zero (2.2.1).
    PacketId,
    /// More packets are unacknowledged than this client permitted (3.3.4).
    Window,
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("a length is not validly written"),
            Self::TooLarge => f.write_str("a packet is larger than this client takes"),
            Self::Short => f.write_str("a packet ends too early"),
            Self::Text => f.write_str("text is not valid UTF-8"),
            Self::Unexpected(first) => write!(f, "a packet of type {} came here", first >> 4),
            Self::Flags(first) => write!(f, "a packet has the flags {:#x}", first & 0xf),
            Self::Property(id) => write!(f, "the property {id:#04x} is not defined"),
            Self::PacketId => f.write_str("a packet identifier is zero"),
            Self::Window => f.write_str("more is unacknowledged than was permitted"),
        }
    }
}

impl std::error::Error for PacketError {}

/// What is left of a packet.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<Bytes, PacketError> {
        if self.0.len() < len {
            return Err(PacketError::Short);
        }
        Ok(self.0.split_to(len))
    }

    pub(super) fn u8(&mut self) -> Result<u8, PacketError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, PacketError> {
        Ok(self.take(2)?.get_u16())
    }

    pub(super) fn u32(&mut self) -> Result<u32, PacketError> {
        Ok(self.take(4)?.get_u32())
    }

    pub(super) fn packet_id(&mut self) -> Result<u16, PacketError> {
        match self.u16()? {
            0 => Err(PacketError::PacketId),
            id => Ok(id),
        }
    }

    pub(super) fn varint(&mut self) -> Result<usize, PacketError> {
        let (value, len) = varint(&self.0)?.ok_or(PacketError::Short)?;
        self.0.advance(len);
        Ok(value)
    }

    pub(super) fn binary(&mut self) -> Result<Bytes, PacketError> {
        let len = self.u16()?;
        self.take(len.into())
    }

    pub(super) fn text(&mut self) -> Result<String, PacketError> {
        let bytes = self.binary()?;
        let text = str::from_utf8(&bytes).map_err(|_| PacketError::Text)?;
        Ok(text.to_owned())
    }

    /// The properties' part, which has its length in front.
    pub(super) fn part(&mut self) -> Result<Self, PacketError> {
        let len = self.varint()?;
        self.take(len).map(Self)
    }
}

/// A variable byte integer and its length; none if it is not complete.
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    match bytes.len() {
        0..4 => Ok(None),
        _ => Err(PacketError::Length),
    }
}

/// Appends a variable byte integer of at most [`VARINT_MAX`].
pub(crate) fn put_varint(mut value: usize, out: &mut Vec<u8>) {
    debug_assert!(value <= VARINT_MAX);
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// Appends a text of at most 65,535 bytes.
pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).expect("texts are checked before they are written");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
