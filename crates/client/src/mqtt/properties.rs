//! The properties of packets (MQTT 5, 2.2.2), as far as this client needs them; the others are passed over.

use super::fields::{Fields, PacketError, put_text};
use crate::message::Gap;

/// The user property that carries a message's id, or where a subscription starts.
const CURSOR: &str = "tidings-cursor";
/// The user property that carries the event type.
const EVENT: &str = "tidings-event";
/// What the names of the server's own user properties begin with.
const OWN: &str = "tidings-";
/// The user property of the first message behind a gap: why there is one.
const GAP: &str = "tidings-gap";
/// The user property that carries the last position before the gap.
const GAP_AFTER: &str = "tidings-gap-after";

/// What a server says in properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Whether the payload is said to be UTF-8 (3.3.2.3.2).
    pub is_text: bool,
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// Why something was refused, for people.
    pub reason_string: Option<String>,
    /// How many publishes may be unacknowledged (3.2.2.3.3).
    pub receive_maximum: Option<u16>,
    /// The largest packet that the server takes, in bytes (3.2.2.3.6).
    pub packet_bytes_max: Option<u32>,
    /// The highest `QoS` that the server takes (3.2.2.3.4).
    pub maximum_qos: Option<u8>,
    /// The keep alive that the server uses in place of the client's, in seconds (3.2.2.3.14).
    pub server_keep_alive_s: Option<u16>,
    /// Another server to use (4.13).
    pub server_reference: Option<String>,
    /// User properties, in order.
    pub user: Vec<(String, String)>,
}

impl Properties {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, PacketError> {
        let mut part = fields.part()?;
        let mut read = Self::default();
        while !part.is_empty() {
            match part.u8()? {
                0x01 => read.is_text = part.u8()? == 1,
                0x03 => read.content_type = Some(part.text()?),
                0x1c => read.server_reference = Some(part.text()?),
                0x1f => read.reason_string = Some(part.text()?),
                0x13 => read.server_keep_alive_s = Some(part.u16()?),
                0x21 => read.receive_maximum = Some(part.u16()?),
                0x24 => read.maximum_qos = Some(part.u8()?),
                0x26 => read.user.push((part.text()?, part.text()?)),
                0x27 => read.packet_bytes_max = Some(part.u32()?),
                id => pass_over(id, &mut part)?,
            }
        }
        Ok(read)
    }

    /// A message's id, or where a subscription starts, if the server is a Tidings server.
    pub fn cursor(&self) -> Option<&str> {
        self.own(CURSOR)
    }

    /// The event type.
    pub fn event(&self) -> Option<&str> {
        self.own(EVENT)
    }

    /// What may be missing in front of the message.
    pub fn gap(&self) -> Option<Gap> {
        Some(Gap {
            reason: self.own(GAP)?.to_owned(),
            after: self.own(GAP_AFTER).map(str::to_owned),
            cursor: None,
        })
    }

    fn own(&self, name: &str) -> Option<&str> {
        let found = self.user.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The user properties that are the publisher's, in order.
    pub fn headers(self) -> Vec<(String, String)> {
        let mut user = self.user;
        user.retain(|(name, _)| !name.starts_with(OWN));
        user
    }
}

/// Properties whose values are of no use here, by the type of the value (2.2.2.2).
fn pass_over(id: u8, part: &mut Fields) -> Result<(), PacketError> {
    match id {
        0x17 | 0x19 | 0x25 | 0x28..=0x2a => drop(part.u8()?),
        0x22 | 0x23 => drop(part.u16()?),
        0x02 | 0x11 | 0x18 => drop(part.u32()?),
        0x0b => drop(part.varint()?),
        0x08 | 0x12 | 0x15 | 0x1a => drop(part.text()?),
        0x09 | 0x16 => drop(part.binary()?),
        _ => return Err(PacketError::Property(id)),
    }
    Ok(())
}

/// Appends a user property.
pub(super) fn put_user(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0x26);
    put_text(name, out);
    put_text(value, out);
}
