//! SUBSCRIBE and UNSUBSCRIBE (3.8, 3.10).

use super::filter::RequestedFilter;
use super::packet::UserProperties;
use super::property::{self, Place, Property};
use super::reader::Reader;
use super::rule::Rule;
use super::version::{PacketId, PacketKind, Qos, SubscriptionId, Version};

/// A wish for subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// For the answer.
    pub packet_id: PacketId,
    /// At least one, in their order.
    pub subscriptions: Vec<RequestedSubscription>,
    /// Comes back with each message of any of them (5.0).
    pub subscription_id: Option<SubscriptionId>,
    /// Whatever the client likes.
    pub user_properties: UserProperties,
}

/// One wish for a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedSubscription {
    /// To what.
    pub filter: RequestedFilter,
    /// How.
    pub options: SubscriptionOptions,
}

/// How to be subscribed (3.8.3.1). Before 5.0 only the level can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The highest level of its messages.
    pub maximum_qos: Qos,
    /// Whether the client's own messages do not come back. Never with a share.
    pub no_local: bool,
    /// Whether live messages keep the retain flag of their publisher.
    pub retain_as_published: bool,
    /// Whether retained messages come first.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages come at the start of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send,
    /// If the session had no such subscription yet.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// A wish to end subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// For the answer.
    pub packet_id: PacketId,
    /// At least one, in their order.
    pub filters: Vec<RequestedFilter>,
    /// Whatever the client likes.
    pub user_properties: UserProperties,
}

impl SubscriptionOptions {
    fn read(byte: u8, version: Version) -> Result<Self, Rule> {
        let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
        if byte & reserved != 0 {
            return Err(Rule::SubscriptionReservedBits);
        }
        Ok(Self {
            maximum_qos: Qos::of(byte & 3).ok_or(Rule::SubscriptionQos)?,
            no_local: byte & 0x04 != 0,
            retain_as_published: byte & 0x08 != 0,
            retain_handling: match byte >> 4 & 3 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(Rule::RetainHandling),
            },
        })
    }
}

impl RequestedSubscription {
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Rule> {
        let filter = RequestedFilter::parse(reader.text()?, version)?;
        let options = SubscriptionOptions::read(reader.byte()?, version)?;
        if options.no_local && matches!(filter, RequestedFilter::Share { .. }) {
            return Err(Rule::SharedNoLocal);
        }
        Ok(Self { filter, options })
    }
}

impl Subscribe {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        let mut user_properties = Vec::new();
        if version == Version::V5 {
            let place = Place::Packet(PacketKind::Subscribe);
            property::read(reader, place, items_max, |property| {
                match property {
                    Property::SubscriptionId(id) => subscription_id = Some(id),
                    Property::User(name, value) => user_properties.push((name, value)),
                    _ => return Err(Rule::MisplacedProperty),
                }
                Ok(())
            })?;
        }
        let subscriptions = list(reader, items_max, Rule::NothingToSubscribe, |reader| {
            RequestedSubscription::read(reader, version)
        })?;
        Ok(Self {
            packet_id,
            subscriptions,
            subscription_id,
            user_properties,
        })
    }
}

impl Unsubscribe {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let packet_id = reader.packet_id()?;
        let mut user_properties = Vec::new();
        if version == Version::V5 {
            let place = Place::Packet(PacketKind::Unsubscribe);
            property::read(reader, place, items_max, |property| {
                let Property::User(name, value) = property else {
                    return Err(Rule::MisplacedProperty);
                };
                user_properties.push((name, value));
                Ok(())
            })?;
        }
        let filters = list(reader, items_max, Rule::NothingToUnsubscribe, |reader| {
            RequestedFilter::parse(reader.text()?, version)
        })?;
        Ok(Self {
            packet_id,
            filters,
            user_properties,
        })
    }
}

/// Everything that is left, item by item: at least one, at most `items_max`.
fn list<T>(
    reader: &mut Reader<'_>,
    items_max: usize,
    none: Rule,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, Rule>,
) -> Result<Vec<T>, Rule> {
    let mut items = Vec::new();
    while reader.left() > 0 {
        if items.len() == items_max {
            return Err(Rule::TooManyItems);
        }
        items.push(item(reader)?);
    }
    if items.is_empty() {
        return Err(none);
    }
    Ok(items)
}
