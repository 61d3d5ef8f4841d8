//! The filters of a shard on their own, for the micro benchmarks. Not part of the interface.

use tidings_types::{Topic, TopicFilter};

use crate::trie::{Entry, Trie};

/// Filters, as a shard keeps them.
#[derive(Debug, Default)]
pub struct Filters {
    trie: Trie,
    count: u32,
}

impl Filters {
    /// Adds a filter.
    pub fn insert(&mut self, filter: &TopicFilter) {
        let entry = Entry {
            subscription: self.count,
            filter: 0,
        };
        // Nothing is removed here, so its place is of no use.
        let _place = self.trie.insert(filter, entry);
        self.count += 1;
    }

    /// Matches topics, one after the other, as a shard does: into one buffer that is kept.
    pub fn matcher(&self) -> Matcher<'_> {
        Matcher {
            trie: &self.trie,
            found: Vec::new(),
        }
    }
}

/// Matches topics with filters.
#[derive(Debug)]
pub struct Matcher<'a> {
    trie: &'a Trie,
    found: Vec<Entry>,
}

impl Matcher<'_> {
    /// How many of the filters match the topic.
    pub fn matches(&mut self, topic: &Topic) -> usize {
        self.trie.matches(topic, &mut self.found);
        self.found.len()
    }
}
