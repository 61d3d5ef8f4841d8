//! What clients send, and the parts that several packets share.

use bytes::Bytes;
use bytestring::ByteString;
use tidings_types::PayloadFormat;

use super::acknowledge::{Ack, AckKind};
use super::connect::Connect;
use super::ending::{Auth, Disconnect};
use super::property::Property;
use super::publish::Publish;
use super::rule::Rule;
use super::subscribe::{Subscribe, Unsubscribe};
use super::version::{PacketId, Qos};

/// One packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The first packet, and the only one of its kind.
    Connect(Box<Connect>),
    /// A message.
    Publish(Box<Publish>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(AckKind, Ack),
    /// A wish for subscriptions.
    Subscribe(Subscribe),
    /// A wish to end them.
    Unsubscribe(Unsubscribe),
    /// A sign of life, to be answered.
    Pingreq,
    /// The goodbye. Nothing after it counts.
    Disconnect(Disconnect),
    /// A step of authentication (5.0).
    Auth(Auth),
}

/// Names and values in their order; names may repeat.
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// What a packet says for diagnosis. Either may be left out for want of space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// A sentence for people.
    pub reason_string: Option<ByteString>,
    /// Whatever its sender likes.
    pub user_properties: UserProperties,
}

impl Diagnostics {
    /// Just a sentence.
    pub fn text(reason: impl Into<ByteString>) -> Self {
        Self {
            reason_string: Some(reason.into()),
            user_properties: Vec::new(),
        }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }

    /// Takes a property if it is one of these.
    pub(super) fn take(&mut self, property: Property) -> Result<(), Rule> {
        match property {
            Property::ReasonString(text) => self.reason_string = Some(text),
            Property::User(name, value) => self.user_properties.push((name, value)),
            _ => return Err(Rule::MisplacedProperty),
        }
        Ok(())
    }
}

/// What a message carries besides its payload (3.3.2.3, 3.1.3.2). Empty before 5.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// What the publisher says of its payload; `None` if it says nothing. That text is UTF-8 is not checked
    /// here: the specification leaves it open, and refuses one message for it, not the connection
    /// (reason code 0x99).
    pub format: Option<PayloadFormat>,
    /// How long it may be delivered, in seconds.
    pub expiry_s: Option<u32>,
    /// The media type of the payload.
    pub content_type: Option<ByteString>,
    /// Where an answer is awaited: not empty, no wildcard.
    pub response_topic: Option<ByteString>,
    /// What an answer must carry.
    pub correlation: Option<Bytes>,
    /// Whatever its publisher likes.
    pub user_properties: UserProperties,
}

impl MessageProperties {
    /// Takes a property if it is one of these.
    pub(super) fn take(&mut self, property: Property) -> Result<(), Rule> {
        match property {
            Property::PayloadFormat(format) => self.format = Some(format),
            Property::MessageExpiry(seconds) => self.expiry_s = Some(seconds),
            Property::ContentType(text) => self.content_type = Some(text),
            Property::ResponseTopic(text) => self.response_topic = Some(text),
            Property::CorrelationData(bytes) => self.correlation = Some(bytes),
            Property::User(name, value) => self.user_properties.push((name, value)),
            _ => return Err(Rule::MisplacedProperty),
        }
        Ok(())
    }
}

/// A message's level, with the packet identifier that the higher ones need (MQTT-2.2.1-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `QoS` 0.
    AtMostOnce,
    /// `QoS` 1.
    AtLeastOnce(PacketId),
    /// `QoS` 2.
    ExactlyOnce(PacketId),
}

impl Delivery {
    /// The level.
    #[must_use]
    pub const fn qos(self) -> Qos {
        match self {
            Self::AtMostOnce => Qos::AtMostOnce,
            Self::AtLeastOnce(_) => Qos::AtLeastOnce,
            Self::ExactlyOnce(_) => Qos::ExactlyOnce,
        }
    }

    /// The packet identifier.
    #[must_use]
    pub const fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce(id) | Self::ExactlyOnce(id) => Some(id),
        }
    }
}
