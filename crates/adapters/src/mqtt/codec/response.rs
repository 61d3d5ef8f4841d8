//! CONNACK, SUBACK, UNSUBACK and PINGRESP, and what the client's CONNECT permits in them.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::connect::{Authentication, Connect};
use super::ending::put_authentication;
use super::packet::Diagnostics;
use super::property::id;
use super::reason::ReasonCode;
use super::version::{PacketId, PacketKind, Qos, Version};
use super::writer::{
    self, Body, put_byte_property, put_four_byte_property, put_text_property, put_two_byte_property,
};

/// The answer to a PINGREQ.
pub const PINGRESP: Bytes = Bytes::from_static(b"\xd0\x00");

/// A packet is larger than the client takes, even without what may be left out. It must not be sent
/// (MQTT-3.1.2-24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketTooLarge;

impl fmt::Display for PacketTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet is larger than the client takes")
    }
}

impl std::error::Error for PacketTooLarge {}

/// What a client said about what it can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The form of the packets.
    pub version: Version,
    /// The largest packet, from its first byte to its last.
    pub packet_bytes_max: u32,
    /// Whether reason strings and user properties may stand in any packet.
    pub problem_information: bool,
}

impl Wire {
    /// A client that set no limit.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            packet_bytes_max: u32::MAX,
            problem_information: true,
        }
    }
}

impl From<&Connect> for Wire {
    fn from(connect: &Connect) -> Self {
        let packet_bytes_max = connect.properties.packet_bytes_max;
        Self {
            version: connect.version,
            packet_bytes_max: packet_bytes_max.map_or(u32::MAX, NonZeroU32::get),
            problem_information: connect.properties.problem_information,
        }
    }
}

/// The answer to a CONNECT (3.2). Before 5.0 only its first two fields travel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the packet, independent of the others"
)]
pub struct Connack {
    /// Whether the session of before goes on. Never with a refusal (MQTT-3.2.2-6); not in 3.1.
    pub session_present: bool,
    /// `Success`, or why not.
    pub reason: ReasonCode,
    /// How long the session outlives the connection, in seconds, if not as the client asked.
    pub session_expiry_s: Option<u32>,
    /// How many unacknowledged messages of `QoS` 1 and 2 the server takes; `None` is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest level that the server takes; 2 is not said.
    pub maximum_qos: Qos,
    /// Whether retained messages are available; `true` is not said, as with the next three.
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcard_subscription_available: bool,
    /// Whether subscriptions may have identifiers.
    pub subscription_id_available: bool,
    /// Whether subscriptions may be shared.
    pub shared_subscription_available: bool,
    /// The largest packet that the server takes; `None` is no limit.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The client identifier, if the server chose it.
    pub assigned_client_id: Option<ByteString>,
    /// The highest topic alias that the client may use; 0 is not said.
    pub topic_alias_maximum: u16,
    /// The keep alive in seconds, if not what the client asked for.
    pub server_keep_alive_s: Option<u16>,
    /// Where answers may be awaited, if the client asked for it.
    pub response_information: Option<ByteString>,
    /// Where to go instead.
    pub server_reference: Option<ByteString>,
    /// The end of enhanced authentication.
    pub authentication: Option<Authentication>,
    /// For people.
    pub diagnostics: Diagnostics,
}

impl Connack {
    /// A connection without restrictions.
    #[must_use]
    pub fn accepted(session_present: bool) -> Self {
        Self {
            session_present,
            reason: ReasonCode::Success,
            session_expiry_s: None,
            receive_maximum: None,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_id_available: true,
            shared_subscription_available: true,
            packet_bytes_max: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            server_keep_alive_s: None,
            response_information: None,
            server_reference: None,
            authentication: None,
            diagnostics: Diagnostics::default(),
        }
    }

    /// No connection.
    #[must_use]
    pub fn refused(reason: ReasonCode) -> Self {
        debug_assert!(reason.is_failure());
        Self {
            reason,
            ..Self::accepted(false)
        }
    }

    /// Appends the packet. Nothing before 5.0 if there is no return code for the reason: then the server
    /// closes without a CONNACK (MQTT-3.2.2-6 of 3.1.1).
    pub fn encode(&self, wire: Wire, out: &mut BytesMut) -> Result<(), PacketTooLarge> {
        debug_assert!(self.reason.server_may_send(PacketKind::Connack));
        let present = self.session_present && self.reason == ReasonCode::Success;
        let first_byte = PacketKind::Connack.first_byte();
        let mut body = Body::default();
        if wire.version == Version::V5 {
            body.before.put_u8(u8::from(present));
            body.before.put_u8(self.reason.number());
            self.put_properties(&mut body.properties);
        } else {
            let Some(code) = self.reason.return_code() else {
                return Ok(());
            };
            body.before
                .put_u8(u8::from(present && wire.version == Version::V4));
            body.before.put_u8(code);
        }
        writer::packet(first_byte, &body, &self.diagnostics, wire, out)
    }

    /// Everything but the diagnostics, without what says no more than its absence.
    fn put_properties(&self, out: &mut BytesMut) {
        let four_bytes = [
            (id::SESSION_EXPIRY, self.session_expiry_s),
            (
                id::MAXIMUM_PACKET_SIZE,
                self.packet_bytes_max.map(NonZeroU32::get),
            ),
        ];
        for (id, number) in four_bytes {
            if let Some(number) = number {
                put_four_byte_property(out, id, number);
            }
        }
        let alias_maximum = NonZeroU16::new(self.topic_alias_maximum);
        let two_bytes = [
            (
                id::RECEIVE_MAXIMUM,
                self.receive_maximum.map(NonZeroU16::get),
            ),
            (id::TOPIC_ALIAS_MAXIMUM, alias_maximum.map(NonZeroU16::get)),
            (id::SERVER_KEEP_ALIVE, self.server_keep_alive_s),
        ];
        for (id, number) in two_bytes {
            if let Some(number) = number {
                put_two_byte_property(out, id, number);
            }
        }
        if self.maximum_qos != Qos::ExactlyOnce {
            put_byte_property(out, id::MAXIMUM_QOS, self.maximum_qos as u8);
        }
        let available = [
            (id::RETAIN_AVAILABLE, self.retain_available),
            (
                id::WILDCARD_SUBSCRIPTION_AVAILABLE,
                self.wildcard_subscription_available,
            ),
            (
                id::SUBSCRIPTION_ID_AVAILABLE,
                self.subscription_id_available,
            ),
            (
                id::SHARED_SUBSCRIPTION_AVAILABLE,
                self.shared_subscription_available,
            ),
        ];
        for (id, available) in available {
            if !available {
                put_byte_property(out, id, 0);
            }
        }
        let texts = [
            (id::ASSIGNED_CLIENT_ID, &self.assigned_client_id),
            (id::RESPONSE_INFORMATION, &self.response_information),
            (id::SERVER_REFERENCE, &self.server_reference),
        ];
        for (id, text) in texts {
            if let Some(text) = text {
                put_text_property(out, id, text);
            }
        }
        if let Some(authentication) = &self.authentication {
            put_authentication(out, authentication);
        }
    }
}

/// The answer to a SUBSCRIBE (3.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter, in their order. Before 5.0 every failure is 0x80; 3.1 itself knows no failure, but
    /// there is nothing better to tell its clients.
    pub reasons: Vec<ReasonCode>,
    /// For people.
    pub diagnostics: Diagnostics,
}

/// The answer to an UNSUBSCRIBE (3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter, in their order. They do not travel before 5.0.
    pub reasons: Vec<ReasonCode>,
    /// For people.
    pub diagnostics: Diagnostics,
}

impl Suback {
    /// Appends the packet.
    pub fn encode(&self, wire: Wire, out: &mut BytesMut) -> Result<(), PacketTooLarge> {
        let kind = PacketKind::Suback;
        let mut body = Body::default();
        body.before.put_u16(self.packet_id.get());
        for reason in &self.reasons {
            debug_assert!(reason.server_may_send(kind));
            body.after.put_u8(match wire.version {
                Version::V3 | Version::V4 if reason.is_failure() => 0x80,
                _ => reason.number(),
            });
        }
        writer::packet(kind.first_byte(), &body, &self.diagnostics, wire, out)
    }
}

impl Unsuback {
    /// Appends the packet.
    pub fn encode(&self, wire: Wire, out: &mut BytesMut) -> Result<(), PacketTooLarge> {
        let kind = PacketKind::Unsuback;
        let mut body = Body::default();
        body.before.put_u16(self.packet_id.get());
        if wire.version == Version::V5 {
            for reason in &self.reasons {
                debug_assert!(reason.server_may_send(kind));
                body.after.put_u8(reason.number());
            }
        }
        writer::packet(kind.first_byte(), &body, &self.diagnostics, wire, out)
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
