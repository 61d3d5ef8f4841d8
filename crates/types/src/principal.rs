//! Who a peer is and what it may do.

use crate::{Topic, TopicFilter};

/// What a principal may publish to and subscribe to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Topics that may be published to.
    pub publish: Vec<TopicFilter>,
    /// Topics that may be read.
    pub subscribe: Vec<TopicFilter>,
}

impl Grants {
    /// May publish and subscribe everywhere but on `$` topics, which a leading wildcard never covers.
    #[must_use]
    pub fn everything() -> Self {
        let all = TopicFilter::all();
        Self {
            publish: vec![all.clone()],
            subscribe: vec![all],
        }
    }

    /// Whether a message may be published to the topic.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|grant| grant.matches(topic))
    }

    /// Whether every topic that the filter could match may be read. The filter is judged as a whole: a
    /// grant on `a/+` does not give `a/#`.
    #[must_use]
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.subscribe.iter().any(|grant| grant.covers(filter))
    }
}

/// An identity with its grants. Shared by all that one peer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name in logs.
    pub name: String,
    /// What it may do.
    pub grants: Grants,
}

impl Principal {
    /// The identity of a peer that showed no credential, where that is permitted.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            grants: Grants::everything(),
        }
    }
}
