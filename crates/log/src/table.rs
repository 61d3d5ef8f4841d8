//! The topics that the log knows, in memory: where each stands, and what of it is gone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use tidings_ports::{TopicInfo, TopicsPage, TopicsQuery};
use tidings_types::{Offset, RetentionRules, Storage, Timestamp, Topic, TopicFilter};

use crate::segment::{Entry, Posting, RetainMark};

/// One topic.
#[derive(Debug)]
pub(crate) struct TopicState {
    /// Its retention rule.
    pub(crate) class: usize,
    pub(crate) storage: Storage,
    /// What the writer hands out next; ahead of the committed numbers while a batch is being written.
    pub(crate) tip_ordinal: u64,
    pub(crate) tip_offset: u64,
    /// One more than the last committed message's; ordinals have no holes within one life of a topic.
    pub(crate) next_ordinal: u64,
    /// Of the last committed message; 0 if there is none yet.
    pub(crate) last_offset: u64,
    pub(crate) last_time: u64,
    /// Of the first message that retention by age and bytes left.
    pub(crate) first_ordinal: u64,
    /// All messages up to this offset are gone.
    pub(crate) removed_to: u64,
    /// The retained message, or what took it away.
    pub(crate) retained: Option<RetainMark>,
    /// Its number in the active segment's index: segment id and number.
    pub(crate) local: (u64, u32),
}

/// Why a message is not read any more, as numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    pub(crate) offset: u64,
    pub(crate) ordinal: u64,
}

impl Floor {
    pub(crate) fn keeps(&self, posting: &Posting) -> bool {
        posting.offset >= self.offset && posting.ordinal >= self.ordinal
    }
}

/// What one retention rule removed so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClassState {
    /// Messages before this offset are gone.
    pub(crate) floor: u64,
    /// Bytes of records that are live, or more: what a `per_topic_max` removed is counted until it is surveyed.
    pub(crate) bytes: u64,
    /// Topics of this class that were forgotten had nothing after this offset.
    pub(crate) forgotten_to: u64,
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Table {
    names: HashMap<Topic, u32>,
    sorted: BTreeMap<Topic, u32>,
    slots: Vec<Option<TopicState>>,
    free: Vec<u32>,
    pub(crate) classes: Vec<ClassState>,
    rules: RetentionRules,
}

impl Table {
    pub(crate) fn new(rules: RetentionRules) -> Self {
        Self {
            names: HashMap::new(),
            sorted: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            classes: vec![ClassState::default(); rules.rules.len() + 1],
            rules,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn id(&self, topic: &Topic) -> Option<u32> {
        self.names.get(topic).copied()
    }

    pub(crate) fn get(&self, topic: &Topic) -> Option<&TopicState> {
        self.slot(self.id(topic)?)
    }

    pub(crate) fn get_mut(&mut self, topic: &Topic) -> Option<&mut TopicState> {
        let id = self.id(topic)?;
        self.slots[id as usize].as_mut()
    }

    pub(crate) fn slot(&self, id: u32) -> Option<&TopicState> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(crate) fn slot_mut(&mut self, id: u32) -> Option<&mut TopicState> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// Adds a topic that is not known, whose first message will have this offset. Ordinals begin there, so
    /// that a topic that was forgotten and comes back never repeats one.
    pub(crate) fn add(&mut self, topic: &Topic, first: u64) -> u32 {
        let class = self.rules.class_of(topic);
        // If it was known before and forgotten, its last message is not known any more, only a bound.
        let removed_to = self.classes[class].forgotten_to.min(first - 1);
        let state = TopicState {
            class,
            storage: self.rules.class(class).storage,
            tip_ordinal: first,
            tip_offset: removed_to,
            next_ordinal: first,
            last_offset: 0,
            last_time: 0,
            first_ordinal: first,
            removed_to,
            retained: None,
            local: (0, 0),
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[id as usize] = Some(state);
        self.names.insert(topic.clone(), id);
        self.sorted.insert(topic.clone(), id);
        id
    }

    /// Forgets a topic of which nothing is left.
    pub(crate) fn forget(&mut self, topic: &Topic) {
        let Some(id) = self.names.remove(topic) else {
            return;
        };
        self.sorted.remove(topic);
        if let Some(state) = self.slots[id as usize].take() {
            let class = &mut self.classes[state.class];
            class.forgotten_to = class
                .forgotten_to
                .max(state.last_offset)
                .max(state.removed_to);
        }
        self.free.push(id);
    }

    /// Takes up what a segment has of a topic; segments come in the order of the log.
    pub(crate) fn absorb(&mut self, entry: &Entry, storage: Storage) {
        let id = self.id(&entry.topic).unwrap_or_else(|| {
            let id = self.add(&entry.topic, entry.first_ordinal.max(1));
            if let Some(state) = self.slot_mut(id) {
                state.next_ordinal = entry.first_ordinal;
                state.first_ordinal = entry.first_ordinal;
                state.removed_to = entry.prev;
            }
            id
        });
        let Some(state) = self.slots[id as usize].as_mut() else {
            return;
        };
        if entry.first_ordinal != state.next_ordinal || entry.prev > state.last_offset {
            state.removed_to = state.removed_to.max(entry.prev);
            state.first_ordinal = entry.first_ordinal;
        }
        if entry.hole.0 > 0 {
            state.removed_to = state.removed_to.max(entry.hole.0);
            state.first_ordinal = entry.hole.1;
        }
        state.next_ordinal = entry.last_ordinal + 1;
        state.last_offset = entry.last_offset;
        state.last_time = entry.last_time;
        (state.tip_ordinal, state.tip_offset) = (state.next_ordinal, state.last_offset);
        // The rule may have changed since.
        state.storage = self.rules.class(state.class).storage;
        if state.storage != storage {
            // Readers would look for it where it is not: it is gone, and shows as a gap.
            state.removed_to = state.removed_to.max(entry.last_offset);
            state.first_ordinal = state.next_ordinal;
            state.retained = None;
            return;
        }
        if entry.retain.is_some() {
            state.retained = entry.retain;
        }
        self.classes[state.class].bytes += entry.bytes;
    }

    /// After opening and retention: where only a retained message is left of a topic, what was after it is not
    /// known any more, only a bound.
    pub(crate) fn doubt(&mut self) {
        for state in self.slots.iter_mut().flatten() {
            if state.last_offset <= state.removed_to {
                let bound = self.classes[state.class].forgotten_to;
                state.removed_to = state.removed_to.max(bound);
                state.tip_offset = state.tip_offset.max(state.removed_to);
            }
        }
    }

    /// Where the readable part of a topic begins; `None` if nothing of it is known.
    pub(crate) fn floor(&self, topic: &Topic) -> Option<Floor> {
        self.get(topic).map(|state| self.floor_of(state))
    }

    pub(crate) fn floor_of(&self, state: &TopicState) -> Floor {
        let capped = match self.per_topic_max(state) {
            Some(max) => state.next_ordinal.saturating_sub(max),
            None => 0,
        };
        Floor {
            offset: self.classes[state.class].floor.max(state.removed_to + 1),
            ordinal: capped.max(state.first_ordinal),
        }
    }

    pub(crate) fn per_topic_max(&self, state: &TopicState) -> Option<u64> {
        self.rules.class(state.class).per_topic_max
    }

    /// Calls for each topic that matches a filter, in the order of names, until it says to stop.
    pub(crate) fn matching<'a>(
        &'a self,
        filter: &'a TopicFilter,
        after: Option<&'a Topic>,
    ) -> Box<dyn Iterator<Item = (&'a Topic, &'a TopicState)> + 'a> {
        if let Some(topic) = filter.as_topic() {
            let known = self.names.get_key_value(&topic);
            let known = known.filter(|(topic, _)| after.is_none_or(|after| *topic > after));
            let state = known.and_then(|(topic, id)| Some((topic, self.slot(*id)?)));
            return Box::new(state.into_iter());
        }
        let prefix = filter.literal_prefix();
        let parent = prefix.strip_suffix('/').unwrap_or(prefix);
        // Between the parent of a `#` and its children are other names, such as `a-b` between `a` and `a/b`.
        let from = match after {
            Some(after) if after.as_str() >= parent => Bound::Excluded(after.clone()),
            _ => Topic::new(parent.to_owned()).map_or(Bound::Unbounded, Bound::Included),
        };
        let range = self.sorted.range((from, Bound::Unbounded));
        let within = range.take_while(move |(topic, _)| topic.as_str().starts_with(parent));
        let matching = within.filter(move |(topic, _)| filter.matches(topic));
        Box::new(matching.filter_map(|(topic, id)| Some((topic, self.slot(*id)?))))
    }

    /// One page of the list. Topics without a committed message do not show.
    pub(crate) fn list(&self, query: &TopicsQuery) -> TopicsPage {
        let mut page = TopicsPage::default();
        for (topic, state) in self.matching(&query.filter, query.after.as_ref()) {
            if state.last_offset == 0 {
                continue;
            }
            if page.topics.len() == query.limit {
                page.more = true;
                break;
            }
            page.topics.push(TopicInfo {
                topic: topic.clone(),
                messages: self.readable(state),
                last: Offset(state.last_offset),
                last_time: Timestamp(state.last_time),
                retained: state.retained.is_some_and(|mark| !mark.clears),
            });
        }
        page
    }

    /// How many messages can be read, as near as is known here.
    pub(crate) fn readable(&self, state: &TopicState) -> u64 {
        if state.storage == Storage::None || state.last_offset <= state.removed_to {
            return 0;
        }
        let floor = self.floor_of(state);
        state.next_ordinal.saturating_sub(floor.ordinal)
    }

    /// All topics, in the order of names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Topic, &TopicState)> {
        let state = |id: &u32| self.slot(*id);
        self.sorted
            .iter()
            .filter_map(move |(topic, id)| Some((topic, state(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_of(names: &[&str]) -> Table {
        let mut table = Table::new(RetentionRules::default());
        for (at, name) in names.iter().enumerate() {
            let id = table.add(&Topic::new(*name).unwrap(), at as u64 + 1);
            table.slot_mut(id).unwrap().last_offset = at as u64 + 1;
        }
        table
    }

    #[test]
    fn topics_list_by_filter_in_pages_and_in_order() {
        let table = table_of(&["a", "a-b", "a/b", "a/c", "b", "$sys"]);
        for (filter, after, limit, expect, more) in [
            ("a/#", None, 9, &["a", "a/b", "a/c"][..], false),
            ("a/#", None, 2, &["a", "a/b"], true),
            ("a/#", Some("a/b"), 9, &["a/c"], false),
            ("#", None, 9, &["a", "a-b", "a/b", "a/c", "b"], false),
            ("#", Some("a/c"), 1, &["b"], false),
            ("b", None, 9, &["b"], false),
            ("b", Some("b"), 9, &[], false),
            ("+/c", None, 9, &["a/c"], false),
            ("$sys", None, 9, &["$sys"], false),
        ] {
            let page = table.list(&TopicsQuery {
                filter: TopicFilter::new(filter).unwrap(),
                after: after.map(|name| Topic::new(name).unwrap()),
                limit,
            });
            let names: Vec<&str> = page.topics.iter().map(|info| info.topic.as_str()).collect();
            assert_eq!((names.as_slice(), page.more), (expect, more), "{filter}");
        }
    }
}
