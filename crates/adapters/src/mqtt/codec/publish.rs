//! PUBLISH from a client (3.3).

use std::num::NonZeroU16;

use bytes::Bytes;

use super::filter::{TopicName, topic_name};
use super::packet::{Delivery, MessageProperties};
use super::property::{self, Place, Property};
use super::reader::Reader;
use super::rule::Rule;
use super::version::{PacketKind, Qos, Version};

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub topic: PublishTopic,
    /// The bytes.
    pub payload: Bytes,
    /// How surely, and under which packet identifier.
    pub delivery: Delivery,
    /// Whether the client sends it again.
    pub duplicate: bool,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// Everything else.
    pub properties: MessageProperties,
}

/// How a message says its topic (3.3.2.3.4). That an alias is within the maximum, and was assigned, is for the
/// conversation to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishTopic {
    /// By its name.
    Name(TopicName),
    /// By its name, which the alias stands for from now on.
    Assign(NonZeroU16, TopicName),
    /// By an alias that stands for it.
    Alias(NonZeroU16),
}

/// The flags of the fixed header (3.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublishFlags {
    pub(super) qos: Qos,
    pub(super) duplicate: bool,
    pub(super) retain: bool,
}

impl PublishFlags {
    pub(super) const DUPLICATE: u8 = 0x08;
    pub(super) const RETAIN: u8 = 0x01;

    /// Judges the lower half of the first byte.
    pub(super) fn read(flags: u8, version: Version) -> Result<Self, Rule> {
        let qos = Qos::of(flags >> 1 & 3).ok_or(Rule::PublishQos)?;
        let duplicate = flags & Self::DUPLICATE != 0;
        // 3.1 gives the flag no meaning for QoS 0, and does not forbid it.
        if duplicate && qos == Qos::AtMostOnce && version != Version::V3 {
            return Err(Rule::DuplicateAtMostOnce);
        }
        Ok(Self {
            qos,
            duplicate: duplicate && qos != Qos::AtMostOnce,
            retain: flags & Self::RETAIN != 0,
        })
    }
}

impl Publish {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        flags: u8,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let flags = PublishFlags::read(flags, version)?;
        let topic = reader.text()?;
        let delivery = match flags.qos {
            Qos::AtMostOnce => Delivery::AtMostOnce,
            Qos::AtLeastOnce => Delivery::AtLeastOnce(reader.packet_id()?),
            Qos::ExactlyOnce => Delivery::ExactlyOnce(reader.packet_id()?),
        };
        let mut properties = MessageProperties::default();
        let mut alias = None;
        if version == Version::V5 {
            let place = Place::Packet(PacketKind::Publish);
            property::read(reader, place, items_max, |property| match property {
                Property::TopicAlias(number) => {
                    alias = Some(number);
                    Ok(())
                }
                Property::SubscriptionId(_) => Err(Rule::SubscriptionIdInPublish),
                property => properties.take(property),
            })?;
        }
        let topic = match alias {
            Some(alias) if topic.is_empty() => PublishTopic::Alias(alias),
            Some(alias) => PublishTopic::Assign(alias, topic_name(topic, Rule::WildcardInTopic)?),
            None if topic.is_empty() => return Err(Rule::NoTopic),
            None => PublishTopic::Name(topic_name(topic, Rule::WildcardInTopic)?),
        };
        Ok(Self {
            topic,
            payload: reader.rest(),
            delivery,
            duplicate: flags.duplicate,
            retain: flags.retain,
            properties,
        })
    }
}
