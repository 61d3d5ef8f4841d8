//! PUBACK, PUBREC, PUBREL and PUBCOMP (3.4 to 3.7), in both directions.

use bytes::{BufMut, BytesMut};

use super::packet::Diagnostics;
use super::property::{self, Place};
use super::reader::Reader;
use super::reason::ReasonCode;
use super::response::{PacketTooLarge, Wire};
use super::rule::Rule;
use super::version::{PacketId, PacketKind, Version};
use super::writer::{self, Body};

/// Which step of a message's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// The only one of `QoS` 1.
    Puback,
    /// The first of `QoS` 2, by the receiver.
    Pubrec,
    /// The second of `QoS` 2, by the sender.
    Pubrel,
    /// The last of `QoS` 2, by the receiver.
    Pubcomp,
}

impl AckKind {
    /// The packet's kind.
    #[must_use]
    pub const fn packet_kind(self) -> PacketKind {
        match self {
            Self::Puback => PacketKind::Puback,
            Self::Pubrec => PacketKind::Pubrec,
            Self::Pubrel => PacketKind::Pubrel,
            Self::Pubcomp => PacketKind::Pubcomp,
        }
    }

    const fn reason_rule(self) -> Rule {
        match self {
            Self::Puback => Rule::PubackReason,
            Self::Pubrec => Rule::PubrecReason,
            Self::Pubrel => Rule::PubrelReason,
            Self::Pubcomp => Rule::PubcompReason,
        }
    }

    const fn first_byte(self) -> u8 {
        match self {
            // MQTT-3.6.1-1.
            Self::Pubrel => PacketKind::Pubrel.first_byte() | 2,
            _ => self.packet_kind().first_byte(),
        }
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which message.
    pub packet_id: PacketId,
    /// `Success` before 5.0.
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub diagnostics: Diagnostics,
}

impl Ack {
    /// One that says just this.
    #[must_use]
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            diagnostics: Diagnostics::default(),
        }
    }

    pub(super) fn read(
        reader: &mut Reader<'_>,
        kind: AckKind,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let mut ack = Self::new(reader.packet_id()?, ReasonCode::Success);
        if version != Version::V5 || reader.left() == 0 {
            return Ok(ack);
        }
        let packet_kind = kind.packet_kind();
        ack.reason = ReasonCode::of(reader.byte()?)
            .filter(|reason| reason.client_may_send(packet_kind))
            .ok_or(kind.reason_rule())?;
        // A remaining length of 3 has no property length either (3.4.2.2.1).
        if reader.left() > 0 {
            let diagnostics = &mut ack.diagnostics;
            property::read(reader, Place::Packet(packet_kind), items_max, |property| {
                diagnostics.take(property)
            })?;
        }
        Ok(ack)
    }

    /// Appends the packet. Before 5.0 it is the packet identifier alone, which says success.
    pub fn encode(
        &self,
        kind: AckKind,
        wire: Wire,
        out: &mut BytesMut,
    ) -> Result<(), PacketTooLarge> {
        debug_assert!(self.reason.server_may_send(kind.packet_kind()));
        let first_byte = kind.first_byte();
        let bare = wire.version != Version::V5 || self.diagnostics.is_empty();
        if bare && wire.packet_bytes_max >= 5 {
            // By far the most common: no property, no second look at the size.
            out.reserve(5);
            let said = wire.version == Version::V5 && self.reason != ReasonCode::Success;
            out.put_u8(first_byte);
            out.put_u8(if said { 3 } else { 2 });
            out.put_u16(self.packet_id.get());
            if said {
                out.put_u8(self.reason.number());
            }
            return Ok(());
        }
        let mut body = Body::default();
        body.before.put_u16(self.packet_id.get());
        body.omit_success(self.reason);
        writer::packet(first_byte, &body, &self.diagnostics, wire, out)
    }
}
