//! Topic filters to subscriptions: one node a level, `+` and `#` as fixed slots.

use std::collections::HashMap;

use tidings_types::{Topic, TopicFilter};

/// One filter of one subscription, as it stands in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The subscription.
    pub subscription: u32,
    /// Which of its filters.
    pub filter: u32,
}

/// Where an entry stands, so that it is removed without a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    node: u32,
    /// Whether it is among the node's `#` entries.
    rest: bool,
    at: u32,
}

#[derive(Debug, Default)]
struct Node {
    parent: u32,
    /// The level that leads here from the parent.
    level: Box<str>,
    children: HashMap<Box<str>, u32>,
    any: Option<u32>,
    /// Filters that end here.
    here: Vec<Entry>,
    /// Filters that end here with `/#`.
    rest: Vec<Entry>,
}

impl Node {
    fn is_unused(&self) -> bool {
        self.children.is_empty()
            && self.any.is_none()
            && self.here.is_empty()
            && self.rest.is_empty()
    }
}

const ROOT: u32 = 0;

/// The filters of one shard's subscriptions.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
        }
    }
}

impl Trie {
    /// Adds a filter of a subscription.
    pub fn insert(&mut self, filter: &TopicFilter, entry: Entry) -> Place {
        let mut at = ROOT;
        let mut rest = false;
        for level in filter.levels() {
            match level {
                "#" => rest = true,
                "+" => at = self.any_child(at),
                _ => at = self.child(at, level),
            }
        }
        let node = &mut self.nodes[at as usize];
        let list = if rest { &mut node.rest } else { &mut node.here };
        list.push(entry);
        Place {
            node: at,
            rest,
            at: (list.len() - 1) as u32,
        }
    }

    /// Removes an entry. If another one moved to its place, says which.
    pub fn remove(&mut self, place: Place) -> Option<Entry> {
        let node = &mut self.nodes[place.node as usize];
        let list = if place.rest {
            &mut node.rest
        } else {
            &mut node.here
        };
        list.swap_remove(place.at as usize);
        let moved = list.get(place.at as usize).copied();
        if list.is_empty() {
            *list = Vec::new();
        }
        self.prune(place.node);
        moved
    }

    /// Collects every entry whose filter matches the topic.
    pub fn matches(&self, topic: &Topic, into: &mut Vec<Entry>) {
        into.clear();
        let reserved = topic.is_reserved();
        self.walk(ROOT, Some(topic.as_str()), reserved, into);
    }

    /// `levels` is what is left of the topic, `None` after its last level. `reserved` closes wildcards, in
    /// the first level only. The depth is bounded by the levels of a topic.
    fn walk(&self, at: u32, levels: Option<&str>, reserved: bool, into: &mut Vec<Entry>) {
        let node = &self.nodes[at as usize];
        if !reserved {
            into.extend_from_slice(&node.rest);
        }
        let Some(levels) = levels else {
            into.extend_from_slice(&node.here);
            return;
        };
        let (level, left) = match levels.split_once('/') {
            Some((level, left)) => (level, Some(left)),
            None => (levels, None),
        };
        if let Some(child) = node.children.get(level) {
            self.walk(*child, left, false, into);
        }
        if let Some(any) = node.any.filter(|_| !reserved) {
            self.walk(any, left, false, into);
        }
    }

    fn child(&mut self, at: u32, level: &str) -> u32 {
        if let Some(child) = self.nodes[at as usize].children.get(level) {
            return *child;
        }
        let child = self.add_node(at, level);
        self.nodes[at as usize].children.insert(level.into(), child);
        child
    }

    fn any_child(&mut self, at: u32) -> u32 {
        if let Some(any) = self.nodes[at as usize].any {
            return any;
        }
        let any = self.add_node(at, "+");
        self.nodes[at as usize].any = Some(any);
        any
    }

    fn add_node(&mut self, parent: u32, level: &str) -> u32 {
        let node = Node {
            parent,
            level: level.into(),
            ..Node::default()
        };
        if let Some(free) = self.free.pop() {
            self.nodes[free as usize] = node;
            return free;
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.nodes[at as usize].is_unused() {
            let node = std::mem::take(&mut self.nodes[at as usize]);
            let parent = &mut self.nodes[node.parent as usize];
            if parent.any == Some(at) {
                parent.any = None;
            } else {
                parent.children.remove(&node.level);
            }
            self.free.push(at);
            at = node.parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filters() -> impl Strategy<Value = TopicFilter> {
        let level = prop_oneof![Just("a"), Just("b"), Just("$c"), Just("+"), Just("")];
        (prop::collection::vec(level, 1..5), any::<bool>()).prop_filter_map(
            "empty",
            |(mut levels, rest)| {
                if rest {
                    levels.push("#");
                }
                TopicFilter::new(levels.join("/")).ok()
            },
        )
    }

    fn topics() -> impl Strategy<Value = Topic> {
        let level = prop_oneof![Just("a"), Just("b"), Just("$c"), Just("")];
        prop::collection::vec(level, 1..5)
            .prop_filter_map("empty", |levels| Topic::new(levels.join("/")).ok())
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_each_filter_after_inserts_and_removals(
            filters in prop::collection::vec((filters(), any::<bool>()), 0..40),
            topics in prop::collection::vec(topics(), 1..10),
        ) {
            let mut trie = Trie::default();
            let mut places: Vec<Option<Place>> = Vec::new();
            for (index, (filter, _)) in filters.iter().enumerate() {
                places.push(Some(trie.insert(filter, Entry { subscription: index as u32, filter: 0 })));
            }
            for (index, (_, keep)) in filters.iter().enumerate() {
                if !keep {
                    let place = places[index].take().unwrap();
                    if let Some(moved) = trie.remove(place) {
                        places[moved.subscription as usize] = Some(place);
                    }
                }
            }
            for topic in topics {
                let mut found = Vec::new();
                trie.matches(&topic, &mut found);
                let mut found: Vec<u32> = found.iter().map(|entry| entry.subscription).collect();
                found.sort_unstable();
                let expect: Vec<u32> = filters.iter().enumerate()
                    .filter(|(_, (filter, keep))| *keep && filter.matches(&topic))
                    .map(|(index, _)| index as u32).collect();
                prop_assert_eq!(found, expect);
            }
        }
    }

    #[test]
    fn removed_filters_leave_no_nodes() {
        let mut trie = Trie::default();
        let filter = TopicFilter::new("a/+/c/#").unwrap();
        let place = trie.insert(
            &filter,
            Entry {
                subscription: 1,
                filter: 0,
            },
        );
        trie.remove(place);
        assert_eq!(trie.free.len(), trie.nodes.len() - 1);
    }
}
