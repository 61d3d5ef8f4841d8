//! A session's subscriptions, and which of them a message is for.

use bytestring::ByteString;
use tidings_ports::SubscriptionKey;
use tidings_types::{Message, Offset, TopicFilter};

use super::codec::{Qos, SubscriptionId, SubscriptionOptions};

/// Names a filter within its session, also after another one took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilterSerial(pub(super) u32);

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) serial: FilterSerial,
    pub(super) text: TopicFilter,
    pub(super) options: SubscriptionOptions,
    pub(super) id: Option<SubscriptionId>,
    /// Messages up to this one are not for it.
    pub(super) since: Offset,
    /// Set if it is shared.
    pub(super) share: Option<Box<Share>>,
}

/// A shared subscription (4.8.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The share name.
    pub(super) group: ByteString,
    /// Its subscription on this connection.
    pub(super) key: Option<SubscriptionKey>,
}

impl Filter {
    pub(super) fn is_plain(&self) -> bool {
        self.share.is_none()
    }

    /// Whether it is the subscription that a client calls by this name.
    pub(super) fn is(&self, group: Option<&str>, text: &TopicFilter) -> bool {
        let mine = self.share.as_ref().map(|share| &*share.group);
        mine == group && self.text == *text
    }
}

/// What the filters that a message is for say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The highest level that any of them asks for (3.3.5).
    pub(super) qos: Qos,
    /// Whether any of them wants the retain flag as it was published.
    pub(super) retain_as_published: bool,
    /// Those of all of them (MQTT-3.3.4-3).
    pub(super) ids: Vec<SubscriptionId>,
}

impl Wanted {
    /// Judges a message by these filters; `None` if none wants it.
    pub(super) fn by<'a>(
        filters: impl Iterator<Item = &'a Filter>,
        message: &Message,
        own: bool,
    ) -> Option<Self> {
        let mut found: Option<Self> = None;
        for filter in filters {
            // MQTT-3.8.3-3.
            if (own && filter.options.no_local) || !filter.text.matches(&message.topic) {
                continue;
            }
            let wanted = found.get_or_insert_with(|| Self {
                qos: Qos::AtMostOnce,
                retain_as_published: false,
                ids: Vec::new(),
            });
            wanted.qos = wanted.qos.max(filter.options.maximum_qos);
            wanted.retain_as_published |= filter.options.retain_as_published;
            wanted.ids.extend(filter.id);
        }
        found
    }
}

/// The level at which a message travels: the lower of the publisher's and the subscriber's (4.3).
pub(super) fn effective(published: tidings_types::Qos, wanted: Qos) -> Qos {
    let published = match published {
        tidings_types::Qos::AtMostOnce => Qos::AtMostOnce,
        tidings_types::Qos::AtLeastOnce => Qos::AtLeastOnce,
        tidings_types::Qos::ExactlyOnce => Qos::ExactlyOnce,
    };
    published.min(wanted)
}
