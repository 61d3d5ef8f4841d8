//! What is kept, for how long, and how surely.

use std::time::Duration;

use crate::{Topic, TopicFilter};

/// Where a topic's messages are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Storage {
    /// In the log on disk; survives a crash as [`Durability`] promises.
    #[default]
    Durable,
    /// In memory, within the same retention; gone after a restart, which shows as a gap.
    Memory,
    /// Nowhere: live subscribers get it, nobody can catch up on it.
    None,
}

/// When a message counts as committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Once `fdatasync` has returned: survives a power cut.
    #[default]
    Sync,
    /// Once the operating system has the bytes: survives `kill -9`, not a power cut. Synced about once a
    /// second in the background.
    Os,
}

/// How much of the matching topics is kept. The oldest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Where.
    pub storage: Storage,
    /// For how long; `None` is for ever.
    pub age_max: Option<Duration>,
    /// How many bytes of records, over all topics of this rule together; `None` is unbounded.
    pub bytes_max: Option<u64>,
    /// How many messages of each topic; `None` is unbounded.
    pub per_topic_max: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            storage: Storage::Durable,
            age_max: Some(Duration::from_hours(24)),
            bytes_max: Some(1 << 30),
            per_topic_max: None,
        }
    }
}

/// Retention by topic filter: the first rule that matches a topic decides, and the default if none does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRules {
    /// In the order of the configuration file.
    pub rules: Vec<(TopicFilter, Retention)>,
    /// For every other topic.
    pub default: Retention,
}

impl RetentionRules {
    /// The index of the rule that decides for the topic; the default has the index `rules.len()`.
    #[must_use]
    pub fn class_of(&self, topic: &Topic) -> usize {
        self.rules
            .iter()
            .position(|(filter, _)| filter.matches(topic))
            .unwrap_or(self.rules.len())
    }

    /// The retention with this index.
    #[must_use]
    pub fn class(&self, index: usize) -> &Retention {
        self.rules
            .get(index)
            .map_or(&self.default, |(_, retention)| retention)
    }

    /// The retention of the topic.
    #[must_use]
    pub fn of(&self, topic: &Topic) -> &Retention {
        self.class(self.class_of(topic))
    }
}
