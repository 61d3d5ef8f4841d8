//! Packets of an MQTT 5 client: what it sends, and what a server sends it.

use std::fmt;

use bytes::{Bytes, BytesMut};
use tidings_types::{Qos, TopicFilter};

use super::fields::{Fields, PacketError, VARINT_MAX, put_text, put_varint, varint};
use super::properties::{Properties, put_user};
use crate::login::Login;
use crate::message::Outgoing;

/// A packet that a server sends to this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to CONNECT (3.2).
    Connack(Connack),
    /// A message (3.3).
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7).
    Ack(Ack),
    /// The answer to SUBSCRIBE (3.9).
    Suback(Suback),
    /// The answer to PINGREQ (3.13).
    Pingresp,
    /// The server ends the connection (3.14).
    Disconnect(Disconnect),
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// 0 is success.
    pub reason: u8,
    /// The server's limits, or why it refuses.
    pub properties: Properties,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where it was published.
    pub topic: String,
    /// With how much assurance it comes.
    pub qos: Qos,
    /// The flag RETAIN.
    pub retain: bool,
    /// To acknowledge it by; 0 with `QoS` 0.
    pub packet_id: u16,
    /// The bytes.
    pub payload: Bytes,
    /// Everything else.
    pub properties: Properties,
}

/// Which of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// `QoS` 1: done.
    Puback,
    /// `QoS` 2: received.
    Pubrec,
    /// `QoS` 2: the identifier is released.
    Pubrel,
    /// `QoS` 2: done.
    Pubcomp,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which.
    pub kind: AckKind,
    /// Of the publish.
    pub packet_id: u16,
    /// Below 0x80 is success.
    pub reason: u8,
    /// Perhaps why not.
    pub properties: Properties,
}

/// SUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// Of the subscribe.
    pub packet_id: u16,
    /// One for each filter; below 0x80 is success.
    pub reasons: Bytes,
    /// Perhaps why not, and where the subscription starts.
    pub properties: Properties,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: u8,
    /// In words.
    pub properties: Properties,
}

/// A message, or a filter, that no packet can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// A text over 65,535 bytes (1.5.4).
    Long(&'static str),
    /// A text with U+0000 (MQTT-1.5.4-2).
    Nul(&'static str),
    /// A packet over 268,435,455 bytes (2.1.4).
    Packet,
}

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long(what) => write!(f, "the {what} is longer than 65535 bytes: shorten it"),
            Self::Nul(what) => write!(f, "the {what} holds U+0000: remove it"),
            Self::Packet => write!(
                f,
                "the message is larger than an MQTT packet may be ({VARINT_MAX} bytes)"
            ),
        }
    }
}

impl std::error::Error for Unsendable {}

/// Takes a whole packet from the front of the input: the first byte of its fixed header, and what follows the
/// header.
pub fn split_packet(
    input: &mut BytesMut,
    packet_bytes_max: usize,
) -> Result<Option<(u8, Bytes)>, PacketError> {
    let Some((first, rest)) = input.split_first() else {
        return Ok(None);
    };
    let Some((len, len_bytes)) = varint(rest)? else {
        return Ok(None);
    };
    let (first, head) = (*first, 1 + len_bytes);
    if head + len > packet_bytes_max {
        return Err(PacketError::TooLarge);
    }
    if input.len() < head + len {
        return Ok(None);
    }
    let packet = input.split_to(head + len).freeze();
    Ok(Some((first, packet.slice(head..))))
}

impl Incoming {
    /// Reads a packet that [`split_packet`] gave.
    pub fn parse(first: u8, body: Bytes) -> Result<Self, PacketError> {
        let mut fields = Fields(body);
        let kind = match first {
            0x30..=0x3f => return publish(first, fields).map(Self::Publish),
            0x40 => AckKind::Puback,
            0x50 => AckKind::Pubrec,
            0x62 => AckKind::Pubrel,
            0x70 => AckKind::Pubcomp,
            0x20 => {
                // Whether a session is there, which is never asked for.
                fields.u8()?;
                if fields.is_empty() {
                    return Err(PacketError::Short);
                }
                let (reason, properties) = reason_and_properties(&mut fields)?;
                return Ok(Self::Connack(Connack { reason, properties }));
            }
            0x90 => {
                return Ok(Self::Suback(Suback {
                    packet_id: fields.packet_id()?,
                    properties: Properties::read(&mut fields)?,
                    reasons: fields.0,
                }));
            }
            0xd0 => return Ok(Self::Pingresp),
            0xe0 => {
                let (reason, properties) = reason_and_properties(&mut fields)?;
                return Ok(Self::Disconnect(Disconnect { reason, properties }));
            }
            // Extended authentication (AUTH) is not asked for, and nothing is unsubscribed.
            0x00..=0x1f | 0x80..=0x8f | 0xa0..=0xcf | 0xf0..=0xff => {
                return Err(PacketError::Unexpected(first));
            }
            _ => return Err(PacketError::Flags(first)),
        };
        let packet_id = fields.packet_id()?;
        let (reason, properties) = reason_and_properties(&mut fields)?;
        Ok(Self::Ack(Ack {
            kind,
            packet_id,
            reason,
            properties,
        }))
    }
}

/// Both may be left out (3.4.2.1, 3.14.2.1).
fn reason_and_properties(fields: &mut Fields) -> Result<(u8, Properties), PacketError> {
    let reason = if fields.is_empty() { 0 } else { fields.u8()? };
    let properties = if fields.is_empty() {
        Properties::default()
    } else {
        Properties::read(fields)?
    };
    Ok((reason, properties))
}

fn publish(first: u8, mut fields: Fields) -> Result<Publish, PacketError> {
    let qos = match (first >> 1) & 3 {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        2 => Qos::ExactlyOnce,
        _ => return Err(PacketError::Flags(first)),
    };
    let topic = fields.text()?;
    let packet_id = match qos {
        Qos::AtMostOnce => 0,
        _ => fields.packet_id()?,
    };
    let properties = Properties::read(&mut fields)?;
    Ok(Publish {
        topic,
        qos,
        retain: first & 1 == 1,
        packet_id,
        payload: fields.0,
        properties,
    })
}

/// A CONNECT with a clean start and a session that ends with the connection (3.1).
pub fn connect_packet(
    (client_id, login): (&str, Option<&Login>),
    keep_alive_s: u16,
    receive_maximum: u16,
    packet_bytes_max: u32,
) -> Result<Vec<u8>, Unsendable> {
    let mut properties = vec![0x21];
    properties.extend_from_slice(&receive_maximum.to_be_bytes());
    properties.push(0x27);
    properties.extend_from_slice(&packet_bytes_max.to_be_bytes());
    let mut body = Vec::with_capacity(64);
    put_text("MQTT", &mut body);
    let (user, password) = login.map_or((None, None), |login| {
        let (user, password) = login.parts();
        (user, Some(password))
    });
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    let flags = 0x02 | flag(0x80, user.is_some()) | flag(0x40, password.is_some());
    body.extend_from_slice(&[5, flags]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    put_part(&properties, &mut body);
    put_text(client_id, &mut body);
    for text in user.into_iter().chain(password.as_deref()) {
        if text.len() > usize::from(u16::MAX) {
            return Err(Unsendable::Long("user name or password"));
        }
        put_text(text, &mut body);
    }
    packet(0x10, &body, b"")
}

/// A PUBLISH of a message (3.3). The packet identifier is of use with `QoS` 1 and 2 only, and then not 0. The
/// idempotency key is the message's own, or else this one.
pub fn publish_packet(
    outgoing: &Outgoing,
    qos: Qos,
    packet_id: u16,
    key: Option<&str>,
) -> Result<Vec<u8>, Unsendable> {
    let mut properties = Vec::new();
    if str::from_utf8(&outgoing.payload).is_ok() {
        properties.extend_from_slice(&[0x01, 1]);
    }
    if let Some(ttl) = outgoing.ttl {
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        properties.push(0x02);
        properties.extend_from_slice(&seconds.to_be_bytes());
    }
    if let Some(content_type) = &outgoing.content_type {
        check("content type", content_type)?;
        properties.push(0x03);
        put_text(content_type, &mut properties);
    }
    let key = outgoing.key.as_deref().or(key);
    let own = [
        ("tidings-event", outgoing.event.as_deref()),
        ("tidings-key", key),
    ];
    let own = own
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let headers = &outgoing.headers;
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.chain(headers) {
        check("name of a user property", name)?;
        check("value of a user property", value)?;
        put_user(name, value, &mut properties);
    }
    if properties.len() > VARINT_MAX {
        return Err(Unsendable::Packet);
    }
    let topic = outgoing.topic.as_str();
    check("topic", topic)?;
    let mut head = Vec::with_capacity(topic.len() + properties.len() + 8);
    put_text(topic, &mut head);
    if qos != Qos::AtMostOnce {
        head.extend_from_slice(&packet_id.to_be_bytes());
    }
    put_part(&properties, &mut head);
    let flags = (level(qos) << 1) | u8::from(outgoing.retain);
    packet(0x30 | flags, &head, &outgoing.payload)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with success.
pub fn ack_packet(kind: AckKind, packet_id: u16) -> [u8; 4] {
    let first = match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    };
    let [high, low] = packet_id.to_be_bytes();
    [first, 2, high, low]
}

/// What a SUBSCRIBE asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// At least one.
    pub filters: &'a [TopicFilter],
    /// The most that messages are to come with.
    pub qos: Qos,
    /// The user property `tidings-after`: where to start.
    pub after: Option<&'a str>,
    /// Whether the retained messages are wanted first.
    pub retained: bool,
}

/// A SUBSCRIBE (3.8). The flag RETAIN of what comes says how a message was published.
pub fn subscribe_packet(packet_id: u16, asked: Asked<'_>) -> Result<Vec<u8>, Unsendable> {
    let mut properties = Vec::new();
    if let Some(after) = asked.after {
        check("position to start from", after)?;
        put_user("tidings-after", after, &mut properties);
    }
    let mut body = packet_id.to_be_bytes().to_vec();
    put_part(&properties, &mut body);
    // 3.8.3.1: retain as published, and retain handling 2, which is none.
    let handling = if asked.retained { 0 } else { 0x20 };
    for filter in asked.filters {
        check("topic filter", filter.as_str())?;
        put_text(filter.as_str(), &mut body);
        body.push(handling | 0x08 | level(asked.qos));
    }
    packet(0x82, &body, b"")
}

/// PINGREQ (3.12).
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT with success (3.14).
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// `QoS` as its number.
pub(super) const fn level(qos: Qos) -> u8 {
    match qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    }
}

fn check(what: &'static str, text: &str) -> Result<(), Unsendable> {
    if text.len() > usize::from(u16::MAX) {
        return Err(Unsendable::Long(what));
    }
    if text.contains('\0') {
        return Err(Unsendable::Nul(what));
    }
    Ok(())
}

fn put_part(properties: &[u8], out: &mut Vec<u8>) {
    put_varint(properties.len(), out);
    out.extend_from_slice(properties);
}

fn packet(first: u8, head: &[u8], payload: &[u8]) -> Result<Vec<u8>, Unsendable> {
    let len = head.len() + payload.len();
    if len > VARINT_MAX {
        return Err(Unsendable::Packet);
    }
    let mut out = Vec::with_capacity(len + 5);
    out.push(first);
    put_varint(len, &mut out);
    out.extend_from_slice(head);
    out.extend_from_slice(payload);
    Ok(out)
}
