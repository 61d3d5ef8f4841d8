//! Topic aliases of one connection, in both directions (5.0, 3.3.2.3.4).

use std::collections::HashMap;
use std::num::NonZeroU16;

use tidings_types::Topic;

use super::codec::{ReasonCode, TopicAlias, TopicName};

/// What the topics of one direction may take up together.
const BYTES_MAX: usize = 64 << 10;

/// What the client's aliases stand for.
#[derive(Debug, Default)]
pub(super) struct InboundAliases {
    topics: HashMap<NonZeroU16, TopicName>,
    bytes: usize,
}

impl InboundAliases {
    /// Takes a new meaning of an alias; what it says otherwise ends the connection.
    pub(super) fn assign(
        &mut self,
        alias: NonZeroU16,
        topic: &TopicName,
        max: u16,
    ) -> Result<(), ReasonCode> {
        if alias.get() > max {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        self.bytes += size(topic);
        if let Some(before) = self.topics.insert(alias, topic.clone()) {
            self.bytes -= size(&before);
        }
        if self.bytes > BYTES_MAX {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(())
    }

    /// What an alias stands for; that it stands for nothing is a protocol error (3.3.2.3.4).
    pub(super) fn topic(&self, alias: NonZeroU16, max: u16) -> Result<TopicName, ReasonCode> {
        if alias.get() > max {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let topic = self.topics.get(&alias);
        topic.cloned().ok_or(ReasonCode::ProtocolError)
    }
}

fn size(topic: &TopicName) -> usize {
    match topic {
        Ok(topic) => topic.as_str().len(),
        Err(unfit) => unfit.text.len(),
    }
}

/// The aliases that we use. The first topics get one, and keep it.
#[derive(Debug)]
pub(super) struct OutboundAliases {
    aliases: HashMap<Topic, NonZeroU16>,
    max: u16,
    bytes: usize,
}

/// Shorter names are not worth an alias, which takes three bytes itself.
const NAME_BYTES_MIN: usize = 6;

impl OutboundAliases {
    /// `None` if the client takes none.
    pub(super) fn new(max: u16) -> Option<Box<Self>> {
        (max > 0).then(|| {
            Box::new(Self {
                aliases: HashMap::new(),
                max,
                bytes: 0,
            })
        })
    }

    /// How the next packet says its topic. [`OutboundAliases::sent`] makes it so.
    pub(super) fn alias(&self, topic: &Topic) -> TopicAlias {
        if let Some(alias) = self.aliases.get(topic) {
            return TopicAlias::Use(*alias);
        }
        let len = topic.as_str().len();
        let room = self.aliases.len() < usize::from(self.max) && self.bytes + len <= BYTES_MAX;
        if !room || len < NAME_BYTES_MIN {
            return TopicAlias::None;
        }
        let next = u16::try_from(self.aliases.len() + 1).ok();
        next.and_then(NonZeroU16::new)
            .map_or(TopicAlias::None, TopicAlias::Assign)
    }

    /// The packet with this alias is on its way.
    pub(super) fn sent(&mut self, topic: &Topic, alias: TopicAlias) {
        if let TopicAlias::Assign(alias) = alias {
            self.bytes += topic.as_str().len();
            self.aliases.insert(topic.clone(), alias);
        }
    }
}
