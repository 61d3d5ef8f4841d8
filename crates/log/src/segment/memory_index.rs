//! What is in a segment that is being written, or was not indexed on disk yet.

use std::collections::HashMap;

use tidings_types::{Topic, TopicFilter};

use super::{Entry, KeyMark, Mark, Posting, RetainMark};

/// A stretch of the file between two marks is at least this long, or this old.
const MARK_BYTES: u32 = 64 << 10;
pub(crate) const MARK_MS: u64 = 1_000;

/// Postings in the order of the file, and by topic.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex {
    /// In offset order, with the number of the topic.
    sequence: Vec<(Posting, u32)>,
    names: HashMap<Topic, u32>,
    topics: Vec<TopicPostings>,
    pub(crate) keys: Vec<KeyMark>,
    pub(crate) marks: Vec<Mark>,
    /// The time of the newest mark's first batch.
    stretch_since: u64,
    pub(crate) expiring: bool,
    pub(crate) record_bytes: u64,
}

#[derive(Debug)]
struct TopicPostings {
    /// Its count, start and postings are not kept here.
    entry: Entry,
    /// Indexes into the sequence.
    at: Vec<u32>,
}

/// A message that is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewPosting {
    pub(crate) posting: Posting,
    pub(crate) prev: u64,
    pub(crate) time: u64,
    pub(crate) retain: Option<RetainMark>,
    pub(crate) expires: bool,
}

impl MemoryIndex {
    /// The number of a topic in this index, new if need be.
    pub(crate) fn intern(&mut self, topic: &Topic) -> u32 {
        if let Some(number) = self.names.get(topic) {
            return *number;
        }
        let number = self.topics.len() as u32;
        self.names.insert(topic.clone(), number);
        self.topics.push(TopicPostings {
            entry: Entry {
                topic: topic.clone(),
                start: number,
                count: 0,
                first_ordinal: 0,
                last_offset: 0,
                last_ordinal: 0,
                last_time: 0,
                prev: 0,
                hole: (0, 0),
                bytes: 0,
                retain: None,
            },
            at: Vec::new(),
        });
        number
    }

    /// Notes that a batch begins here.
    pub(crate) fn mark(&mut self, offset: u64, position: u32, time: u64) {
        match self.marks.last_mut() {
            Some(mark)
                if position - mark.position < MARK_BYTES && time < self.stretch_since + MARK_MS =>
            {
                mark.until = time;
            }
            _ => {
                self.stretch_since = time;
                self.marks.push(Mark {
                    offset,
                    position,
                    until: time,
                });
            }
        }
    }

    /// Adds the newest message, of the topic with this number.
    pub(crate) fn add(&mut self, number: u32, new: NewPosting) {
        let at = self.sequence.len() as u32;
        let posting = new.posting;
        self.sequence.push((posting, number));
        self.expiring |= new.expires;
        self.record_bytes += u64::from(posting.len);
        if let Some(mark) = self.marks.last_mut() {
            mark.until = mark.until.max(new.time);
        }
        let topic = &mut self.topics[number as usize];
        topic.at.push(at);
        let entry = &mut topic.entry;
        if entry.count == 0 {
            entry.first_ordinal = posting.ordinal;
            entry.prev = new.prev;
        } else if posting.ordinal != entry.last_ordinal + 1 || new.prev > entry.last_offset {
            entry.hole = (new.prev, posting.ordinal);
        }
        entry.count += 1;
        entry.last_offset = posting.offset;
        entry.last_ordinal = posting.ordinal;
        entry.last_time = new.time;
        entry.bytes += u64::from(posting.len);
        if new.retain.is_some() {
            entry.retain = new.retain;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sequence.len()
    }

    pub(crate) fn find(&self, topic: &str) -> Option<Entry> {
        let topic = Topic::new(topic).ok()?;
        let number = self.names.get(&topic)?;
        let entry = &self.topics[*number as usize].entry;
        (entry.count > 0).then(|| entry.clone())
    }

    pub(crate) fn matching(&self, filters: &[TopicFilter]) -> Vec<Entry> {
        if filters.iter().all(|filter| !filter.has_wildcard()) {
            let mut names: Vec<&str> = filters.iter().map(TopicFilter::as_str).collect();
            names.sort_unstable();
            names.dedup();
            return names
                .into_iter()
                .filter_map(|name| self.find(name))
                .collect();
        }
        let matches = |topic: &&TopicPostings| {
            topic.entry.count > 0
                && filters
                    .iter()
                    .any(|filter| filter.matches(&topic.entry.topic))
        };
        let matching = self.topics.iter().filter(matches);
        matching.map(|topic| topic.entry.clone()).collect()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entries = self.topics.iter().map(|topic| topic.entry.clone());
        entries.filter(|entry| entry.count > 0).collect()
    }

    pub(crate) fn postings(&self, entry: &Entry, from: u32, limit: u32) -> Vec<Posting> {
        let at = &self.topics[entry.start as usize].at;
        let from = (from as usize).min(at.len());
        let to = (from + limit as usize).min(at.len());
        let posting = |at: &u32| self.sequence[*at as usize].0;
        at[from..to].iter().map(posting).collect()
    }

    /// The number of the topic's first posting after this offset.
    pub(crate) fn lower_bound(&self, entry: &Entry, after: u64) -> u32 {
        let at = &self.topics[entry.start as usize].at;
        at.partition_point(|at| self.sequence[*at as usize].0.offset <= after) as u32
    }

    /// The number of the topic's first posting with at least this ordinal.
    pub(crate) fn lower_bound_ordinal(&self, entry: &Entry, ordinal: u64) -> u32 {
        let at = &self.topics[entry.start as usize].at;
        at.partition_point(|at| self.sequence[*at as usize].0.ordinal < ordinal) as u32
    }

    /// Postings in offset order after this offset, with the entries of their topics.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = (Posting, &Entry)> {
        let start = self
            .sequence
            .partition_point(|(posting, _)| posting.offset <= after);
        let entry = |number: u32| &self.topics[number as usize].entry;
        self.sequence[start..]
            .iter()
            .map(move |(posting, number)| (*posting, entry(*number)))
    }
}
