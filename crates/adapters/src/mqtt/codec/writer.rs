//! Packets that a server sends, from their parts.

use bytes::{BufMut, BytesMut};

use super::packet::Diagnostics;
use super::property::id;
use super::reason::ReasonCode;
use super::response::{PacketTooLarge, Wire};
use super::version::{PacketKind, VARINT_MAX, Version};

/// The parts of a packet around its property length.
#[derive(Default)]
pub(super) struct Body {
    /// What stands before the property length.
    pub(super) before: BytesMut,
    /// A reason code after that, which may be left out, with the property length, if there is nothing more to
    /// say than success (3.4.2.1), or the property length alone (3.4.2.2.1).
    reason: Option<ReasonCode>,
    /// Properties that may not be left out.
    pub(super) properties: BytesMut,
    /// What stands after the properties.
    pub(super) after: BytesMut,
}

impl Body {
    /// Ends the packet with a reason code that may be left out.
    pub(super) fn omit_success(&mut self, reason: ReasonCode) {
        self.reason = Some(reason);
    }

    /// How long the packet is with so many bytes of further properties, and the parts of its length.
    fn measure(&self, extra: usize, version: Version) -> Size {
        let properties = self.properties.len() + extra;
        let mut remaining = self.before.len() + self.after.len();
        let mut form = Form::Properties;
        if version == Version::V5 {
            form = match self.reason {
                Some(ReasonCode::Success) if properties == 0 => Form::Nothing,
                Some(_) if properties == 0 => Form::Reason,
                _ => Form::Properties,
            };
            remaining += match form {
                Form::Nothing => 0,
                Form::Reason => 1,
                Form::Properties => {
                    usize::from(self.reason.is_some()) + varint_len(properties) + properties
                }
            };
        }
        Size {
            remaining,
            properties,
            form,
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Nothing,
    Reason,
    Properties,
}

struct Size {
    remaining: usize,
    properties: usize,
    form: Form,
}

impl Size {
    /// Of the whole packet.
    fn packet(&self) -> usize {
        packet_len(self.remaining)
    }
}

/// Appends a packet. Of the diagnostics goes out what the client permits and what fits: without user
/// properties, then also without the reason string (MQTT-3.2.2-19, MQTT-3.2.2-20 and their like).
pub(super) fn packet(
    first_byte: u8,
    body: &Body,
    diagnostics: &Diagnostics,
    wire: Wire,
    out: &mut BytesMut,
) -> Result<(), PacketTooLarge> {
    let mut extra = BytesMut::new();
    let mut reason_len = 0;
    if wire.version == Version::V5 && permits_diagnostics(first_byte, wire) {
        if let Some(reason) = &diagnostics.reason_string {
            put_text_property(&mut extra, id::REASON_STRING, reason);
        }
        reason_len = extra.len();
        for (name, value) in &diagnostics.user_properties {
            put_pair_property(&mut extra, name, value);
        }
    }
    let max = wire.packet_bytes_max as usize;
    for keep in [extra.len(), reason_len, 0] {
        let size = body.measure(keep, wire.version);
        if size.packet() > max || size.remaining > VARINT_MAX as usize {
            continue;
        }
        out.reserve(size.packet());
        out.put_u8(first_byte);
        put_varint(out, size.remaining);
        out.put_slice(&body.before);
        if wire.version == Version::V5 {
            if let (Form::Reason | Form::Properties, Some(reason)) = (size.form, body.reason) {
                out.put_u8(reason.number());
            }
            if let Form::Properties = size.form {
                put_varint(out, size.properties);
                out.put_slice(&body.properties);
                out.put_slice(&extra[..keep]);
            }
        }
        out.put_slice(&body.after);
        return Ok(());
    }
    Err(PacketTooLarge)
}

/// MQTT-3.1.2-29: a client may want reason strings and user properties in PUBLISH, CONNACK and DISCONNECT only.
fn permits_diagnostics(first_byte: u8, wire: Wire) -> bool {
    wire.problem_information
        || matches!(
            PacketKind::of(first_byte >> 4),
            Some(PacketKind::Connack | PacketKind::Disconnect)
        )
}

/// How many bytes spell a variable byte integer.
pub(super) const fn varint_len(number: usize) -> usize {
    match number {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// The length of a whole packet with this remaining length.
pub(super) const fn packet_len(remaining: usize) -> usize {
    1 + varint_len(remaining) + remaining
}

/// Appends a variable byte integer of at most [`VARINT_MAX`].
pub(super) fn put_varint(out: &mut BytesMut, number: usize) {
    debug_assert!(number <= VARINT_MAX as usize);
    let mut rest = number;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Whether MQTT can carry the text: at most 65,535 bytes and no U+0000 (1.5.4). Texts that came by another
/// protocol may not be so.
fn is_carried(text: &str) -> bool {
    u16::try_from(text.len()).is_ok() && memchr::memchr(0, text.as_bytes()).is_none()
}

/// Appends bytes with their length; longer ones than 65,535 never come here.
pub(super) fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    debug_assert!(u16::try_from(bytes.len()).is_ok());
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

/// Appends a property with a text; nothing if MQTT cannot carry it.
pub(super) fn put_text_property(out: &mut BytesMut, id: u8, text: &str) {
    if is_carried(text) {
        out.put_u8(id);
        put_binary(out, text.as_bytes());
    }
}

/// Appends a property with bytes; nothing if MQTT cannot carry them.
pub(super) fn put_binary_property(out: &mut BytesMut, id: u8, bytes: &[u8]) {
    if u16::try_from(bytes.len()).is_ok() {
        out.put_u8(id);
        put_binary(out, bytes);
    }
}

/// Appends a user property; nothing if MQTT cannot carry it.
pub(super) fn put_pair_property(out: &mut BytesMut, name: &str, value: &str) {
    if is_carried(name) && is_carried(value) {
        out.put_u8(id::USER_PROPERTY);
        put_binary(out, name.as_bytes());
        put_binary(out, value.as_bytes());
    }
}

/// Appends a property of one byte.
pub(super) fn put_byte_property(out: &mut BytesMut, id: u8, byte: u8) {
    out.put_u8(id);
    out.put_u8(byte);
}

/// Appends a property of two bytes.
pub(super) fn put_two_byte_property(out: &mut BytesMut, id: u8, number: u16) {
    out.put_u8(id);
    out.put_u16(number);
}

/// Appends a property of four bytes.
pub(super) fn put_four_byte_property(out: &mut BytesMut, id: u8, number: u32) {
    out.put_u8(id);
    out.put_u32(number);
}
