//! Properties of 5.0 (2.2.2), in one table: identifier, type, where they may stand, whether they may repeat.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use tidings_types::PayloadFormat;

use super::reader::Reader;
use super::rule::Rule;
use super::version::{PacketKind, SubscriptionId};

/// How a property's value is spelt (1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Byte,
    TwoBytes,
    FourBytes,
    Varint,
    Text,
    Binary,
    TextPair,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    kind: Type,
    /// The packets that it may stand in: a bit for each packet kind's number, and bit 0 for the will.
    places: u16,
    repeats: bool,
}

/// Where properties stand: in a packet, or in the will of a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Packet(PacketKind),
    Will,
}

impl Place {
    const fn bit(self) -> u16 {
        match self {
            Self::Packet(kind) => 1 << kind as u8,
            Self::Will => 1,
        }
    }
}

macro_rules! properties {
    ($($name:ident $id:literal $kind:ident $repeats:ident [$($place:ident)*],)*) => {
        /// The identifiers.
        pub(super) mod id {
            $(pub(in crate::mqtt::codec) const $name: u8 = $id;)*
        }

        /// The row of a property; `None` if there is none with this identifier.
        const fn row(id: u32) -> Option<Row> {
            match id {
                $($id => Some(Row {
                    kind: Type::$kind,
                    places: 0 $(| properties!(@bit $place))*,
                    repeats: properties!(@repeats $repeats),
                }),)*
                _ => None,
            }
        }
    };
    (@bit Will) => { Place::Will.bit() };
    (@bit $kind:ident) => { Place::Packet(PacketKind::$kind).bit() };
    (@repeats once) => { false };
    (@repeats often) => { true };
}

properties! {
    PAYLOAD_FORMAT 0x01 Byte once [Publish Will],
    MESSAGE_EXPIRY 0x02 FourBytes once [Publish Will],
    CONTENT_TYPE 0x03 Text once [Publish Will],
    RESPONSE_TOPIC 0x08 Text once [Publish Will],
    CORRELATION_DATA 0x09 Binary once [Publish Will],
    SUBSCRIPTION_ID 0x0b Varint once [Publish Subscribe],
    SESSION_EXPIRY 0x11 FourBytes once [Connect Connack Disconnect],
    ASSIGNED_CLIENT_ID 0x12 Text once [Connack],
    SERVER_KEEP_ALIVE 0x13 TwoBytes once [Connack],
    AUTHENTICATION_METHOD 0x15 Text once [Connect Connack Auth],
    AUTHENTICATION_DATA 0x16 Binary once [Connect Connack Auth],
    REQUEST_PROBLEM_INFORMATION 0x17 Byte once [Connect],
    WILL_DELAY 0x18 FourBytes once [Will],
    REQUEST_RESPONSE_INFORMATION 0x19 Byte once [Connect],
    RESPONSE_INFORMATION 0x1a Text once [Connack],
    SERVER_REFERENCE 0x1c Text once [Connack Disconnect],
    REASON_STRING 0x1f Text once [Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth],
    RECEIVE_MAXIMUM 0x21 TwoBytes once [Connect Connack],
    TOPIC_ALIAS_MAXIMUM 0x22 TwoBytes once [Connect Connack],
    TOPIC_ALIAS 0x23 TwoBytes once [Publish],
    MAXIMUM_QOS 0x24 Byte once [Connack],
    RETAIN_AVAILABLE 0x25 Byte once [Connack],
    USER_PROPERTY 0x26 TextPair often [Connect Connack Publish Will Puback Pubrec Pubrel Pubcomp
        Subscribe Suback Unsubscribe Unsuback Disconnect Auth],
    MAXIMUM_PACKET_SIZE 0x27 FourBytes once [Connect Connack],
    WILDCARD_SUBSCRIPTION_AVAILABLE 0x28 Byte once [Connack],
    SUBSCRIPTION_ID_AVAILABLE 0x29 Byte once [Connack],
    SHARED_SUBSCRIPTION_AVAILABLE 0x2a Byte once [Connack],
}

/// A property that a client may send, its value checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Property {
    PayloadFormat(PayloadFormat),
    MessageExpiry(u32),
    ContentType(ByteString),
    ResponseTopic(ByteString),
    CorrelationData(Bytes),
    SubscriptionId(SubscriptionId),
    SessionExpiry(u32),
    AuthenticationMethod(ByteString),
    AuthenticationData(Bytes),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ServerReference,
    ReasonString(ByteString),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    User(ByteString, ByteString),
    MaximumPacketSize(NonZeroU32),
}

enum Value {
    Byte(u8),
    TwoBytes(u16),
    FourBytes(u32),
    Varint(u32),
    Text(ByteString),
    Binary(Bytes),
    TextPair(ByteString, ByteString),
}

/// Reads a packet's properties with their length, and hands each to `take`, which fails on what the packet
/// has no use for.
///
/// At most `users_max` user properties are taken, so that small ones cannot fill the memory: each costs
/// more there than on the wire.
pub(super) fn read(
    reader: &mut Reader<'_>,
    place: Place,
    users_max: usize,
    mut take: impl FnMut(Property) -> Result<(), Rule>,
) -> Result<(), Rule> {
    let len = reader.varint()?;
    let end = reader.narrow(len as usize)?;
    let mut seen = 0u64;
    let mut users = 0;
    while reader.left() > 0 {
        let id = reader.varint()?;
        let row = row(id).ok_or(Rule::UnknownProperty)?;
        if row.places & place.bit() == 0 {
            return Err(Rule::MisplacedProperty);
        }
        if row.repeats {
            users += 1;
            if users > users_max {
                return Err(Rule::TooManyItems);
            }
        } else {
            // Identifiers in the table are below 64.
            let bit = 1u64 << id;
            if seen & bit != 0 {
                return Err(Rule::RepeatedProperty);
            }
            seen |= bit;
        }
        let value = value(reader, row.kind)?;
        take(checked(id as u8, value)?)?;
    }
    reader.widen(end);
    Ok(())
}

fn value(reader: &mut Reader<'_>, kind: Type) -> Result<Value, Rule> {
    Ok(match kind {
        Type::Byte => Value::Byte(reader.byte()?),
        Type::TwoBytes => Value::TwoBytes(reader.two_bytes()?),
        Type::FourBytes => Value::FourBytes(reader.four_bytes()?),
        Type::Varint => Value::Varint(reader.varint()?),
        Type::Text => Value::Text(reader.text()?),
        Type::Binary => Value::Binary(reader.binary()?),
        Type::TextPair => Value::TextPair(reader.text()?, reader.text()?),
    })
}

/// What the value may be, and what it means. Only what a client may send is known here; the table lets nothing
/// else through.
fn checked(id: u8, value: Value) -> Result<Property, Rule> {
    Ok(match (id, value) {
        (id::PAYLOAD_FORMAT, Value::Byte(0)) => Property::PayloadFormat(PayloadFormat::Binary),
        (id::PAYLOAD_FORMAT, Value::Byte(1)) => Property::PayloadFormat(PayloadFormat::Text),
        (id::PAYLOAD_FORMAT, _) => return Err(Rule::PayloadFormat),
        (id::MESSAGE_EXPIRY, Value::FourBytes(seconds)) => Property::MessageExpiry(seconds),
        (id::CONTENT_TYPE, Value::Text(text)) => Property::ContentType(text),
        (id::RESPONSE_TOPIC, Value::Text(text)) => response_topic(text)?,
        (id::CORRELATION_DATA, Value::Binary(bytes)) => Property::CorrelationData(bytes),
        (id::SUBSCRIPTION_ID, Value::Varint(number)) => {
            Property::SubscriptionId(SubscriptionId::new(number).ok_or(Rule::ZeroSubscriptionId)?)
        }
        (id::SESSION_EXPIRY, Value::FourBytes(seconds)) => Property::SessionExpiry(seconds),
        (id::AUTHENTICATION_METHOD, Value::Text(text)) => Property::AuthenticationMethod(text),
        (id::AUTHENTICATION_DATA, Value::Binary(bytes)) => Property::AuthenticationData(bytes),
        (id::REQUEST_PROBLEM_INFORMATION, Value::Byte(byte)) => {
            Property::RequestProblemInformation(flag(byte)?)
        }
        (id::WILL_DELAY, Value::FourBytes(seconds)) => Property::WillDelay(seconds),
        (id::REQUEST_RESPONSE_INFORMATION, Value::Byte(byte)) => {
            Property::RequestResponseInformation(flag(byte)?)
        }
        (id::SERVER_REFERENCE, Value::Text(_)) => Property::ServerReference,
        (id::REASON_STRING, Value::Text(text)) => Property::ReasonString(text),
        (id::RECEIVE_MAXIMUM, Value::TwoBytes(number)) => {
            Property::ReceiveMaximum(NonZeroU16::new(number).ok_or(Rule::ZeroReceiveMaximum)?)
        }
        (id::TOPIC_ALIAS_MAXIMUM, Value::TwoBytes(number)) => Property::TopicAliasMaximum(number),
        (id::TOPIC_ALIAS, Value::TwoBytes(number)) => {
            Property::TopicAlias(NonZeroU16::new(number).ok_or(Rule::ZeroTopicAlias)?)
        }
        (id::USER_PROPERTY, Value::TextPair(name, value)) => Property::User(name, value),
        (id::MAXIMUM_PACKET_SIZE, Value::FourBytes(bytes)) => {
            Property::MaximumPacketSize(NonZeroU32::new(bytes).ok_or(Rule::ZeroMaximumPacketSize)?)
        }
        _ => return Err(Rule::MisplacedProperty),
    })
}

fn flag(byte: u8) -> Result<bool, Rule> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Rule::FlagProperty),
    }
}

/// A response topic is a topic name (3.3.2.3.5).
fn response_topic(text: ByteString) -> Result<Property, Rule> {
    if text.is_empty() {
        return Err(Rule::EmptyTopic);
    }
    if text.contains(['+', '#']) {
        return Err(Rule::WildcardInResponseTopic);
    }
    Ok(Property::ResponseTopic(text))
}
