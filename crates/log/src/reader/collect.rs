//! Where matching messages are: from the postings of the topics that match, or, if most of a segment matches,
//! from front to back through its file.

use std::collections::HashMap;
use std::sync::Arc;

use tidings_types::{Storage as Class, Topic, TopicFilter};

use crate::record::{FRAME_LEN, is_message, open_head, open_record};
use crate::segment::{Entry, Index, MemoryIndex, Posting, Segment, mark_before};
use crate::state::{Active, State};
use crate::table::{Floor, Table};

use super::{Hit, Reader, Source, Trouble};

/// One read looks through this much at most, so that a filter that matches little does not hold a reading
/// thread for the whole log: the page then says how far it came.
pub(super) const BUDGET_BYTES: u64 = 16 << 20;
/// What looking into one segment's directory counts for.
const SEGMENT_COST: u64 = 64 << 10;
/// A wildcard that matches fewer topics of a segment than this goes by their postings.
const SCAN_TOPICS_MIN: usize = 64;
const SCAN_CHUNK: usize = 256 << 10;

/// What was found after an offset.
#[derive(Debug)]
pub(super) struct Forward {
    /// In no order; some may be beyond `complete_to`.
    pub(super) hits: Vec<Hit>,
    /// Everything that matches up to here is among the hits.
    pub(super) complete_to: u64,
    pub(super) head: u64,
}

pub(super) struct Snapshot {
    pub(super) sealed: Arc<Vec<Arc<Segment>>>,
    pub(super) active: Option<u64>,
}

pub(super) fn snapshot(state: &State, class: Class) -> Snapshot {
    let chain = state.chain(class);
    Snapshot {
        sealed: Arc::clone(&chain.sealed),
        active: chain.active.as_ref().map(|active| active.id),
    }
}

/// Where the search in one chain stands.
struct Progress {
    class: Class,
    hits: Vec<Hit>,
    /// Complete up to here.
    position: u64,
    done: bool,
    active: Option<u64>,
}

impl Reader<'_> {
    /// Up to `limit` hits of each chain after an offset.
    pub(super) fn forward(&mut self, after: u64, limit: usize) -> Result<Forward, Trouble> {
        if let Some(head) = self.nothing_after(after) {
            return Ok(Forward {
                hits: Vec::new(),
                complete_to: head,
                head,
            });
        }
        let mut chains = [Class::Durable, Class::Memory].map(|class| Progress {
            class,
            hits: Vec::new(),
            position: after,
            done: false,
            active: None,
        });
        loop {
            for chain in &mut chains {
                self.sealed_forward(chain, limit)?;
            }
            let shared = self.shared;
            let state = shared.state();
            // A segment that was sealed since it was looked for is looked for again.
            let moved = chains
                .iter()
                .any(|chain| !chain.done && snapshot(&state, chain.class).active != chain.active);
            if moved {
                continue;
            }
            let head = state.head;
            for chain in &mut chains {
                self.active_forward(&state, chain, limit);
            }
            let complete_to = chains.iter().map(|chain| chain.position).min();
            return Ok(Forward {
                complete_to: complete_to.unwrap_or(head),
                hits: chains.into_iter().flat_map(|chain| chain.hits).collect(),
                head,
            });
        }
    }

    /// The head, if the filters are exact and none of their topics has anything after the offset.
    fn nothing_after(&self, after: u64) -> Option<u64> {
        let state = self.shared.state();
        let last = |filter: &TopicFilter| {
            let topic = filter.as_topic()?;
            Some(state.table.get(&topic).map_or(0, |topic| topic.last_offset))
        };
        let nothing = self
            .filters
            .iter()
            .all(|filter| last(filter).is_some_and(|last| last <= after));
        nothing.then_some(state.head)
    }

    fn sealed_forward(&mut self, chain: &mut Progress, limit: usize) -> Result<(), Trouble> {
        if chain.done {
            return Ok(());
        }
        let view = snapshot(&self.shared.state(), chain.class);
        chain.active = view.active;
        let from = view
            .sealed
            .partition_point(|segment| segment.last <= chain.position);
        for segment in &view.sealed[from..] {
            let room = limit - chain.hits.len();
            let (postings, stopped) = self.in_segment(segment, chain.position, room)?;
            chain.position = stopped.unwrap_or(segment.last);
            if !postings.is_empty() {
                let source = self.source(segment, chain.class);
                let hits = postings.into_iter().map(|posting| Hit { source, posting });
                chain.hits.extend(hits);
            }
            self.budget = self.budget.saturating_sub(SEGMENT_COST);
            if stopped.is_some() || chain.hits.len() >= limit || self.budget == 0 {
                chain.done = true;
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn source(&mut self, segment: &Segment, class: Class) -> usize {
        self.sources.push(Source {
            file: Arc::clone(&segment.file),
            name: self
                .shared
                .state()
                .chain(class)
                .storage
                .describe(&segment.name),
            class,
        });
        self.sources.len() - 1
    }

    pub(super) fn active_source(&mut self, state: &State, active: &Active, class: Class) -> usize {
        self.sources.push(Source {
            file: Arc::clone(&active.file),
            name: state.chain(class).storage.describe(&active.name),
            class,
        });
        self.sources.len() - 1
    }

    fn active_forward(&mut self, state: &State, chain: &mut Progress, limit: usize) {
        if chain.done {
            return;
        }
        let room = limit - chain.hits.len();
        let after = chain.position;
        chain.position = state.head;
        let Some(active) = &state.chain(chain.class).active else {
            return;
        };
        let postings = in_memory(&active.index, &state.table, self.filters, after, room);
        if postings.len() == room {
            chain.position = postings.last().map_or(state.head, |last| last.offset);
        }
        if !postings.is_empty() {
            let source = self.active_source(state, active, chain.class);
            let hits = postings.into_iter().map(|posting| Hit { source, posting });
            chain.hits.extend(hits);
        }
    }

    /// Hits of one sealed segment in offset order, and how far the search came if it was cut short.
    fn in_segment(
        &mut self,
        segment: &Segment,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Posting>, Option<u64>), Trouble> {
        let trouble = Trouble::io(&segment.name, 0);
        let index = &segment.index;
        if let Index::Memory(memory) = index {
            let state = self.shared.state();
            let found = in_memory(memory, &state.table, self.filters, after, limit);
            return Ok(full(found, limit));
        }
        let entries = index.matching(self.filters).map_err(&trouble)?;
        let entries = self.readable(entries, after);
        let bytes: u64 = entries.iter().map(|(entry, _)| entry.bytes).sum();
        if entries.len() >= SCAN_TOPICS_MIN && bytes * 2 > u64::from(segment.len) {
            return self.scan(segment, after, limit);
        }
        let mut found = Vec::new();
        let (small, large): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|(entry, _)| entry.count as usize <= limit.max(256));
        let small_entries: Vec<Entry> = small.iter().map(|(entry, _)| entry.clone()).collect();
        let postings = index.all_postings(&small_entries).map_err(&trouble)?;
        for (postings, (_, floor)) in postings.into_iter().zip(small) {
            let keeps = |posting: &Posting| posting.offset > after && floor.keeps(posting);
            found.extend(postings.into_iter().filter(keeps));
        }
        for (entry, floor) in large {
            let start = after.max(floor.offset.saturating_sub(1));
            let mut from = index.lower_bound(&entry, start).map_err(&trouble)?;
            let mut room = limit;
            // What a `per_topic_max` removed stands before what it left.
            while room > 0 && from < entry.count {
                let postings = index
                    .postings(&entry, from, limit as u32)
                    .map_err(&trouble)?;
                from += postings.len() as u32;
                let kept = postings.into_iter().filter(|posting| floor.keeps(posting));
                let before = found.len();
                found.extend(kept.take(room));
                room -= found.len() - before;
            }
        }
        found.sort_unstable_by_key(|posting| posting.offset);
        found.truncate(limit);
        Ok(full(found, limit))
    }

    /// The entries of which something after the offset is live, with what makes it so.
    pub(super) fn readable(&self, entries: Vec<Entry>, after: u64) -> Vec<(Entry, Floor)> {
        let state = self.shared.state();
        let floor = |entry: Entry| {
            let floor = state.table.floor(&entry.topic)?;
            let live = entry.last_offset >= floor.offset && entry.last_ordinal >= floor.ordinal;
            (entry.last_offset > after && live).then_some((entry, floor))
        };
        entries.into_iter().filter_map(floor).collect()
    }

    /// Goes through a segment's file.
    fn scan(
        &mut self,
        segment: &Segment,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Posting>, Option<u64>), Trouble> {
        let mut position = mark_before(segment.index.marks(), after);
        let mut topics: HashMap<String, Option<Floor>> = HashMap::new();
        let mut found = Vec::new();
        let mut last = after;
        let mut chunk = SCAN_CHUNK;
        while position < segment.len {
            let len = chunk.min((segment.len - position) as usize);
            let mut bytes = vec![0; len];
            let at = u64::from(position);
            let read = segment.file.read_at(&mut bytes, at);
            read.map_err(Trouble::io(&segment.name, at))?;
            self.budget = self.budget.saturating_sub(len as u64);
            let mut used = 0;
            while let Some(record) = whole_record(&bytes[used..]) {
                let (kind, content, _) = open_record(record).map_err(|invalid| Trouble {
                    file: segment.name.clone(),
                    offset: at + used as u64,
                    what: invalid.0.to_owned(),
                })?;
                if is_message(kind)
                    && let Ok(head) = open_head(kind, content)
                {
                    let posting = Posting {
                        offset: head.offset,
                        ordinal: head.in_topic.ordinal,
                        position: position + used as u32,
                        len: record.len() as u32,
                    };
                    last = last.max(head.offset);
                    if head.offset > after && self.wants(&mut topics, head.topic, &posting) {
                        found.push(posting);
                        if found.len() == limit {
                            return Ok((found, Some(head.offset)));
                        }
                    }
                }
                used += record.len();
            }
            if used == 0 {
                if len < chunk {
                    return Err(Trouble {
                        file: segment.name.clone(),
                        offset: at,
                        what: "the record is cut off".to_owned(),
                    });
                }
                // A record that is larger than a chunk.
                chunk *= 4;
            }
            position += used as u32;
            if self.budget == 0 && used > 0 {
                return Ok((found, Some(last)));
            }
        }
        Ok((found, None))
    }

    fn wants(
        &self,
        topics: &mut HashMap<String, Option<Floor>>,
        topic: &str,
        posting: &Posting,
    ) -> bool {
        if !topics.contains_key(topic) {
            let floor = Topic::new(topic.to_owned()).ok().and_then(|topic| {
                let matches = self.filters.iter().any(|filter| filter.matches(&topic));
                matches.then(|| self.shared.state().table.floor(&topic))?
            });
            topics.insert(topic.to_owned(), floor);
        }
        topics
            .get(topic)
            .is_some_and(|floor| floor.is_some_and(|floor| floor.keeps(posting)))
    }
}

fn full(found: Vec<Posting>, limit: usize) -> (Vec<Posting>, Option<u64>) {
    let stopped = (found.len() >= limit).then(|| found.last().map_or(0, |last| last.offset));
    (found, stopped)
}

/// The record at the front, if it is there as a whole; unchecked.
fn whole_record(bytes: &[u8]) -> Option<&[u8]> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    bytes.get(..FRAME_LEN + len)
}

/// Live hits after an offset in an index in memory, in offset order.
fn in_memory(
    index: &MemoryIndex,
    table: &Table,
    filters: &[TopicFilter],
    after: u64,
    limit: usize,
) -> Vec<Posting> {
    let mut found = Vec::new();
    if filters.iter().all(|filter| !filter.has_wildcard()) {
        for entry in index.matching(filters) {
            let Some(floor) = table.floor(&entry.topic) else {
                continue;
            };
            let start = after.max(floor.offset.saturating_sub(1));
            let from = index.lower_bound(&entry, start);
            let from = from.max(index.lower_bound_ordinal(&entry, floor.ordinal));
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            found.extend(index.postings(&entry, from, limit));
        }
        found.sort_unstable_by_key(|posting| posting.offset);
        found.truncate(limit);
        return found;
    }
    let mut topics: HashMap<u32, Option<Floor>> = HashMap::new();
    for (posting, entry) in index.after(after) {
        let floor = topics.entry(entry.start).or_insert_with(|| {
            let matches = filters.iter().any(|filter| filter.matches(&entry.topic));
            matches.then(|| table.floor(&entry.topic))?
        });
        if floor.is_some_and(|floor| floor.keeps(&posting)) {
            found.push(posting);
            if found.len() == limit {
                break;
            }
        }
    }
    found
}
