//! What begins at the end of the log: the newest N messages, and the retained ones. Both go by postings alone;
//! a message is read only to see whether its time to live has passed.

use tidings_types::{Storage as Class, Timestamp, Topic, TopicFilter};

use crate::segment::{Index, MemoryIndex, Posting, Segment};
use crate::table::Table;

use super::collect::snapshot;
use super::{Hit, Reader, Trouble};

impl Reader<'_> {
    /// Just before the oldest of the newest N hits.
    pub(super) fn start_of_last(&mut self, n: usize) -> Result<u64, Trouble> {
        let (mut newest, views, head) = {
            let shared = self.shared;
            let state = shared.state();
            let mut newest = Vec::new();
            for class in [Class::Durable, Class::Memory] {
                let Some(active) = &state.chain(class).active else {
                    continue;
                };
                let mut found = newest_in_memory(&active.index, &state.table, self.filters, n);
                if active.index.expiring {
                    let source = self.active_source(&state, active, class);
                    newest.extend(found.drain(..).map(|posting| (posting, Some(source))));
                } else {
                    newest.extend(found.into_iter().map(|posting| (posting, None)));
                }
            }
            let views = [Class::Durable, Class::Memory].map(|class| snapshot(&state, class).sealed);
            (newest, views, state.head)
        };
        self.drop_expired(&mut newest, n)?;
        let count = self.known_count();
        for (view, class) in views.iter().zip([Class::Durable, Class::Memory]) {
            for segment in view.iter().rev() {
                newest.sort_unstable_by_key(|(posting, _)| std::cmp::Reverse(posting.offset));
                newest.truncate(n);
                // Older segments of this chain have nothing that is newer than these.
                let oldest = newest.last().map_or(0, |(posting, _)| posting.offset);
                if (newest.len() == n && oldest > segment.last)
                    || count.is_some_and(|count| newest.len() as u64 >= count)
                {
                    break;
                }
                let found = self.newest_in_segment(segment, n)?;
                let source = segment
                    .index
                    .expiring()
                    .then(|| self.source(segment, class));
                let mut found: Vec<_> = found.into_iter().map(|p| (p, source)).collect();
                self.drop_expired(&mut found, n)?;
                newest.extend(found);
            }
        }
        newest.sort_unstable_by_key(|(posting, _)| std::cmp::Reverse(posting.offset));
        newest.truncate(n);
        Ok(newest
            .last()
            .map_or(head, |(posting, _)| posting.offset - 1))
    }

    /// How many messages there are, if the filters are exact.
    fn known_count(&self) -> Option<u64> {
        let state = self.shared.state();
        let count = |filter: &TopicFilter| {
            let topic = filter.as_topic()?;
            let known = state.table.get(&topic);
            Some(known.map_or(0, |topic| state.table.readable(topic)))
        };
        self.filters.iter().map(count).sum()
    }

    /// Leaves the newest N that are alive, newest first.
    fn drop_expired(
        &self,
        found: &mut Vec<(Posting, Option<usize>)>,
        n: usize,
    ) -> Result<(), Trouble> {
        let now = Timestamp(self.shared.now());
        found.sort_unstable_by_key(|(posting, _)| std::cmp::Reverse(posting.offset));
        let mut kept = Vec::with_capacity(found.len().min(n));
        for (posting, source) in found.drain(..) {
            if kept.len() == n {
                break;
            }
            if let Some(source) = source {
                let mut messages = Vec::new();
                self.run(&[Hit { source, posting }], now, &mut messages)?;
                if messages.is_empty() {
                    continue;
                }
            }
            kept.push((posting, None));
        }
        *found = kept;
        Ok(())
    }

    fn newest_in_segment(&self, segment: &Segment, n: usize) -> Result<Vec<Posting>, Trouble> {
        let trouble = Trouble::io(&segment.name, 0);
        let index = &segment.index;
        let n = if index.expiring() { usize::MAX } else { n };
        if let Index::Memory(memory) = index {
            let table = &self.shared.state().table;
            return Ok(newest_in_memory(memory, table, self.filters, n));
        }
        let entries = index.matching(self.filters).map_err(&trouble)?;
        let mut found = Vec::new();
        for (entry, floor) in self.readable(entries, 0) {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            let from = entry.count.saturating_sub(n);
            let postings = index.postings(&entry, from, n).map_err(&trouble)?;
            found.extend(postings.into_iter().filter(|posting| floor.keeps(posting)));
        }
        Ok(found)
    }

    /// Retained messages after an offset in order, whether there are more, and the head.
    pub(super) fn retained_hits(
        &mut self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Hit>, bool, u64), Trouble> {
        let shared = self.shared;
        let mut wanted: Vec<(u64, Topic, Class)> = Vec::new();
        let mut hits = Vec::new();
        let (views, more, head) = {
            let state = shared.state();
            for filter in self.filters {
                for (topic, known) in state.table.matching(filter, None) {
                    if let Some(mark) = known.retained
                        && !mark.clears
                        && mark.offset > after
                    {
                        wanted.push((mark.offset, topic.clone(), known.storage));
                        // Those that cannot be on the page go at times, not at the end.
                        if wanted.len() > 2 * limit + 64 {
                            oldest(&mut wanted, limit + 1);
                        }
                    }
                }
            }
            oldest(&mut wanted, limit + 1);
            let more = wanted.len() > limit;
            wanted.truncate(limit);
            wanted.retain(|(offset, topic, class)| {
                let Some(active) = &state.chain(*class).active else {
                    return true;
                };
                let Some(posting) = posting_in_memory(&active.index, topic, *offset) else {
                    return true;
                };
                let source = self.active_source(&state, active, *class);
                hits.push(Hit { source, posting });
                false
            });
            let views = [Class::Durable, Class::Memory].map(|class| snapshot(&state, class).sealed);
            (views, more, state.head)
        };
        for (offset, topic, class) in wanted {
            let view = &views[usize::from(class == Class::Memory)];
            let at = view.partition_point(|segment| segment.last < offset);
            let Some(segment) = view.get(at) else {
                continue;
            };
            if let Some(posting) = posting_in(segment, &topic, offset)? {
                let source = self.source(segment, class);
                hits.push(Hit { source, posting });
            }
        }
        hits.sort_unstable_by_key(|hit| hit.posting.offset);
        Ok((hits, more, head))
    }
}

/// Leaves the first of these, each once, in offset order.
fn oldest(wanted: &mut Vec<(u64, Topic, Class)>, limit: usize) {
    wanted.sort_unstable_by_key(|(offset, ..)| *offset);
    wanted.dedup_by_key(|(offset, ..)| *offset);
    wanted.truncate(limit);
}

/// The newest N live hits in an index in memory, or more, in no order.
fn newest_in_memory(
    index: &MemoryIndex,
    table: &Table,
    filters: &[TopicFilter],
    n: usize,
) -> Vec<Posting> {
    let n = if index.expiring {
        u32::MAX
    } else {
        u32::try_from(n).unwrap_or(u32::MAX)
    };
    let mut found = Vec::new();
    for entry in index.matching(filters) {
        let Some(floor) = table.floor(&entry.topic) else {
            continue;
        };
        let postings = index.postings(&entry, entry.count.saturating_sub(n), n);
        found.extend(postings.into_iter().filter(|posting| floor.keeps(posting)));
    }
    found
}

fn posting_in_memory(index: &MemoryIndex, topic: &Topic, offset: u64) -> Option<Posting> {
    let entry = index.find(topic.as_str())?;
    let from = index.lower_bound(&entry, offset - 1);
    let posting = index.postings(&entry, from, 1).first().copied()?;
    (posting.offset == offset).then_some(posting)
}

/// The posting of the topic's message with this offset.
fn posting_in(segment: &Segment, topic: &Topic, offset: u64) -> Result<Option<Posting>, Trouble> {
    let trouble = Trouble::io(&segment.name, 0);
    let Some(entry) = segment.index.find(topic.as_str()).map_err(&trouble)? else {
        return Ok(None);
    };
    let from = segment
        .index
        .lower_bound(&entry, offset - 1)
        .map_err(&trouble)?;
    let posting = segment.index.postings(&entry, from, 1).map_err(&trouble)?;
    Ok(posting
        .first()
        .copied()
        .filter(|posting| posting.offset == offset))
}
