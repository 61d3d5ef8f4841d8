//! PUBLISH to clients (3.3): encoded once for all of them.
//!
//! A message is encoded once for each form that differs: before 5.0 or 5.0, retain flag or not. The result is
//! one buffer, a complete packet of `QoS` 0, which goes to every such subscriber as it is:
//!
//! ```text
//! 30 | remaining length | topic | property length | properties | payload
//!                                                 |<------- tail ------>|
//! ```
//!
//! For everybody else a short head is written that leads up to the tail of the same buffer. The head holds what
//! differs between subscribers: `QoS` and DUP, the packet identifier, and those properties that are the
//! subscriber's own, at the front of the property section whose rest is the tail.

use std::num::NonZeroU16;

use bytes::{BufMut, Bytes, BytesMut};
use tidings_types::{PayloadFormat, Topic};

use super::packet::Delivery;
use super::property::id;
use super::publish::PublishFlags;
use super::reader::varint;
use super::response::PacketTooLarge;
use super::version::{PacketKind, SubscriptionId, VARINT_MAX, Version};
use super::writer::{
    packet_len, put_binary, put_binary_property, put_byte_property, put_four_byte_property,
    put_pair_property, put_text_property, put_two_byte_property, put_varint, varint_len,
};

/// The property Message Expiry Interval: its identifier and four bytes.
const EXPIRY_SIZE: usize = 5;
/// The property Topic Alias: its identifier and two bytes.
const ALIAS_SIZE: usize = 3;
/// The property User Property: its identifier and the lengths of its two texts.
const PAIR_SIZE: usize = 5;

/// A message to encode. The properties do not travel before 5.0. A text that MQTT cannot carry (over 65,535
/// bytes, or with U+0000), as another protocol may bring it, is left out.
#[derive(Clone, Copy, Debug)]
pub struct OutboundPublish<'a> {
    /// Where it was published.
    pub topic: &'a Topic,
    /// The bytes.
    pub payload: &'a [u8],
    /// The retain flag.
    pub retain: bool,
    /// The payload format indicator; `Binary` is not said.
    pub format: PayloadFormat,
    /// How long it may still be delivered, in seconds (MQTT-3.3.2-6).
    pub expiry_s: Option<u32>,
    /// The media type of the payload.
    pub content_type: Option<&'a str>,
    /// Where an answer is awaited.
    pub response_topic: Option<&'a str>,
    /// What an answer must carry.
    pub correlation: Option<&'a [u8]>,
    /// User properties in their order (MQTT-3.3.2-18).
    pub user_properties: &'a [(&'a str, &'a str)],
}

impl<'a> OutboundPublish<'a> {
    /// A message without properties.
    #[must_use]
    pub const fn new(topic: &'a Topic, payload: &'a [u8]) -> Self {
        Self {
            topic,
            payload,
            retain: false,
            format: PayloadFormat::Binary,
            expiry_s: None,
            content_type: None,
            response_topic: None,
            correlation: None,
            user_properties: &[],
        }
    }

    /// The property section. The expiry comes first, where [`PublishTemplate`] finds it.
    fn properties(&self) -> BytesMut {
        let mut out = BytesMut::new();
        if let Some(seconds) = self.expiry_s {
            put_four_byte_property(&mut out, id::MESSAGE_EXPIRY, seconds);
        }
        if self.format == PayloadFormat::Text {
            put_byte_property(&mut out, id::PAYLOAD_FORMAT, 1);
        }
        let texts = [
            (id::CONTENT_TYPE, self.content_type),
            (id::RESPONSE_TOPIC, self.response_topic),
        ];
        for (id, text) in texts {
            if let Some(text) = text {
                put_text_property(&mut out, id, text);
            }
        }
        if let Some(bytes) = self.correlation {
            put_binary_property(&mut out, id::CORRELATION_DATA, bytes);
        }
        for (name, value) in self.user_properties {
            put_pair_property(&mut out, name, value);
        }
        out
    }
}

/// How a subscriber is told the topic (5.0, 3.3.2.3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicAlias {
    /// By its name.
    #[default]
    None,
    /// By its name, which the alias stands for from now on.
    Assign(NonZeroU16),
    /// By an alias that stands for it; the name is left out.
    Use(NonZeroU16),
}

/// What one subscriber's copy of a message has for itself. Before 5.0 only the first two fields travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing<'a> {
    /// How surely, and under which packet identifier.
    pub delivery: Delivery,
    /// Whether it is sent again (MQTT-3.3.1-1); never with `QoS` 0 (MQTT-3.3.1-2).
    pub duplicate: bool,
    /// Instead of the topic's name.
    pub topic_alias: TopicAlias,
    /// Of every subscription that it is delivered for (MQTT-3.3.4-3).
    pub subscription_ids: &'a [SubscriptionId],
    /// The expiry in seconds, if the message waited so that it is not the template's any more (MQTT-3.3.2-6).
    pub expiry_s: Option<u32>,
    /// User properties in front of the message's own; short ones.
    pub user_properties: &'a [(&'a str, &'a str)],
}

impl Addressing<'_> {
    /// For a first copy with nothing of its own.
    #[must_use]
    pub const fn new(delivery: Delivery) -> Self {
        Self {
            delivery,
            duplicate: false,
            topic_alias: TopicAlias::None,
            subscription_ids: &[],
            expiry_s: None,
            user_properties: &[],
        }
    }

    /// How many bytes of properties are this subscriber's own.
    fn properties_len(&self) -> usize {
        let alias = match self.topic_alias {
            TopicAlias::None => 0,
            TopicAlias::Assign(_) | TopicAlias::Use(_) => ALIAS_SIZE,
        };
        let ids: usize = self
            .subscription_ids
            .iter()
            .map(|id| 1 + varint_len(id.get() as usize))
            .sum();
        let user = self.user_properties.iter();
        let user: usize = user
            .map(|(name, value)| PAIR_SIZE + name.len() + value.len())
            .sum();
        alias + ids + user + self.expiry_s.map_or(0, |_| EXPIRY_SIZE)
    }

    fn put_properties(&self, out: &mut BytesMut) {
        if let Some(seconds) = self.expiry_s {
            put_four_byte_property(out, id::MESSAGE_EXPIRY, seconds);
        }
        if let TopicAlias::Assign(alias) | TopicAlias::Use(alias) = self.topic_alias {
            put_two_byte_property(out, id::TOPIC_ALIAS, alias.get());
        }
        for id in self.subscription_ids {
            out.put_u8(id::SUBSCRIPTION_ID);
            put_varint(out, id.get() as usize);
        }
        for (name, value) in self.user_properties {
            put_pair_property(out, name, value);
        }
    }
}

/// A message encoded for all subscribers. Cheap to clone. See the head of the file.
///
/// Invariant: `topic_at + 2 <= topic_end <= tail_at`, and `tail_at + properties_len <= frame.len()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTemplate {
    /// The packet of `QoS` 0.
    frame: Bytes,
    /// Whether the packet has properties.
    has_properties: bool,
    /// The topic with its length.
    topic_at: usize,
    topic_end: usize,
    /// Where the tail begins.
    tail_at: usize,
    /// The shared properties, at the front of the tail.
    properties_len: usize,
}

impl PublishTemplate {
    /// Encodes a message. The result is the same for 3.1 and 3.1.1.
    pub fn encode(version: Version, message: &OutboundPublish<'_>) -> Result<Self, PacketTooLarge> {
        let has_properties = version == Version::V5;
        let topic = message.topic.as_str().as_bytes();
        let mut properties = BytesMut::new();
        let mut section_len = 0;
        if has_properties {
            properties = message.properties();
            section_len = varint_len(properties.len()) + properties.len();
        }
        let remaining = 2 + topic.len() + section_len + message.payload.len();
        if remaining > VARINT_MAX as usize {
            return Err(PacketTooLarge);
        }
        let mut out = BytesMut::with_capacity(packet_len(remaining));
        out.put_u8(PacketKind::Publish.first_byte() | u8::from(message.retain));
        put_varint(&mut out, remaining);
        let topic_at = out.len();
        put_binary(&mut out, topic);
        let topic_end = out.len();
        if has_properties {
            put_varint(&mut out, properties.len());
        }
        let tail_at = out.len();
        out.put_slice(&properties);
        out.put_slice(message.payload);
        Ok(Self {
            frame: out.freeze(),
            has_properties,
            topic_at,
            topic_end,
            tail_at,
            properties_len: properties.len(),
        })
    }

    /// The template that a packet of [`PublishTemplate::encode`] was taken from by [`PublishTemplate::frame`], so
    /// that the packet alone need be kept. `None` for any other bytes, as far as that shows.
    #[must_use]
    pub fn from_frame(version: Version, frame: Bytes) -> Option<Self> {
        let &[first, ref rest @ ..] = &*frame else {
            return None;
        };
        if first & !PublishFlags::RETAIN != PacketKind::Publish.first_byte() {
            return None;
        }
        let (remaining, size) = varint(rest).ok()??;
        let topic_at = 1 + size;
        if topic_at + remaining as usize != frame.len() {
            return None;
        }
        let topic_len = frame[topic_at..].first_chunk::<2>()?;
        let topic_end = topic_at + 2 + usize::from(u16::from_be_bytes(*topic_len));
        let has_properties = version == Version::V5;
        let (properties_len, size) = if has_properties {
            varint(frame.get(topic_end..)?).ok()??
        } else {
            (0, 0)
        };
        let tail_at = topic_end + size;
        if tail_at + properties_len as usize > frame.len() {
            return None;
        }
        Some(Self {
            frame,
            has_properties,
            topic_at,
            topic_end,
            tail_at,
            properties_len: properties_len as usize,
        })
    }

    /// The packet for every subscriber of `QoS` 0 with nothing of its own.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Makes one subscriber's packet: appends its head to `head`, and gives the tail to send after it. For
    /// `QoS` 0 with nothing of its own the head is empty and the tail is the whole packet.
    ///
    /// Fails, and appends nothing, if the packet is larger than `packet_bytes_max`: it must not be sent then,
    /// and counts as delivered (MQTT-3.1.2-24, MQTT-3.1.2-25).
    pub fn address(
        &self,
        to: &Addressing<'_>,
        packet_bytes_max: u32,
        head: &mut BytesMut,
    ) -> Result<Bytes, PacketTooLarge> {
        let own_len = if self.has_properties {
            to.properties_len()
        } else {
            0
        };
        if to.delivery == Delivery::AtMostOnce && own_len == 0 {
            if self.frame.len() > packet_bytes_max as usize {
                return Err(PacketTooLarge);
            }
            return Ok(self.frame.clone());
        }
        let replaced = self.replaced(to);
        let shared = self.frame.len() - self.tail_at - replaced;
        let properties_len = own_len + self.properties_len - replaced;
        let named = !(self.has_properties && matches!(to.topic_alias, TopicAlias::Use(_)));
        let topic: &[u8] = if named {
            &self.frame[self.topic_at..self.topic_end]
        } else {
            &[0, 0]
        };
        let id = to.delivery.packet_id();
        let mut head_len = topic.len() + id.map_or(0, |_| 2) + own_len;
        if self.has_properties {
            head_len += varint_len(properties_len);
        }
        let remaining = head_len + shared;
        let packet_size = packet_len(remaining);
        if remaining > VARINT_MAX as usize || packet_size > packet_bytes_max as usize {
            return Err(PacketTooLarge);
        }
        head.reserve(packet_size - shared);
        head.put_u8(self.first_byte(to));
        put_varint(head, remaining);
        head.put_slice(topic);
        if let Some(id) = id {
            head.put_u16(id.get());
        }
        if self.has_properties {
            put_varint(head, properties_len);
            to.put_properties(head);
        }
        Ok(self.frame.slice(self.tail_at + replaced..))
    }

    /// How many bytes at the front of the tail the subscriber's own properties stand for.
    fn replaced(&self, to: &Addressing<'_>) -> usize {
        let expires =
            self.properties_len >= EXPIRY_SIZE && self.frame[self.tail_at] == id::MESSAGE_EXPIRY;
        if expires && to.expiry_s.is_some() {
            EXPIRY_SIZE
        } else {
            0
        }
    }

    fn first_byte(&self, to: &Addressing<'_>) -> u8 {
        let qos = to.delivery.qos();
        let duplicate = to.duplicate && to.delivery != Delivery::AtMostOnce;
        let flags = (qos as u8) << 1
            | if duplicate {
                PublishFlags::DUPLICATE
            } else {
                0
            };
        self.frame[0] | flags
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
