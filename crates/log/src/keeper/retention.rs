//! Moves the floors: what is too old, or too much.

use std::io;
use std::sync::{Arc, PoisonError};

use tidings_types::{Retention, Storage as Class};

use crate::segment::{Entry, Mark, Posting, Segment};
use crate::state::{State, count};
use crate::table::Floor;

use super::{Keeper, Removal, Removals};

/// A topic's part of a segment with what is live of it.
struct Part {
    entry: Entry,
    floor: Floor,
    postings: Vec<Posting>,
}

/// Where bytes are counted: by segment id.
type Bytes = Vec<(u64, u64)>;

impl Keeper {
    /// Applies age and bytes of every rule, as of now.
    pub(crate) fn retain(&mut self) {
        let rules = self.shared.config.rules.clone();
        for class in 0..=rules.rules.len() {
            let rule = rules.class(class);
            if rule.storage == Class::None {
                continue;
            }
            if let Err(error) = self.retain_class(class, rule) {
                count(&self.shared.counters.read_errors, 1);
                tracing::error!(%error, class, "cannot read an index to apply retention");
            }
        }
    }

    fn retain_class(&mut self, class: usize, rule: &Retention) -> io::Result<()> {
        if rule.per_topic_max.is_some() {
            self.recount_if_due(class, rule)?;
        }
        let now = self.shared.now();
        let by_age = rule
            .age_max
            .and_then(|age| now.checked_sub(u64::try_from(age.as_millis()).ok()?))
            .map_or(0, |cutoff| self.age_floor(rule.storage, cutoff));
        self.advance(class, rule.storage, by_age)?;
        if let Some(max) = rule.bytes_max {
            let floor = self.bytes_floor(class, rule.storage, max)?;
            self.advance(class, rule.storage, floor)?;
        }
        Ok(())
    }

    /// The first offset whose stretch of the log has a message younger than the cutoff.
    fn age_floor(&self, storage: Class, cutoff: u64) -> u64 {
        let state = self.shared.state();
        let chain = state.chain(storage);
        let young = |marks: &[Mark]| {
            let at = marks.partition_point(|mark| mark.until <= cutoff);
            marks.get(at).map(|mark| mark.offset)
        };
        let at = chain
            .sealed
            .partition_point(|segment| segment.last_time <= cutoff);
        let in_sealed = chain.sealed[at..]
            .iter()
            .find_map(|segment| young(segment.index.marks()));
        let in_active = || young(chain.active.as_ref()?.index.marks.as_slice());
        in_sealed.or_else(in_active).unwrap_or(state.head + 1)
    }

    /// Live postings of a class in the sealed segments that reach beyond its floor, oldest first; the visitor
    /// says whether to go on.
    fn parts(&self, class: usize, segment: &Segment) -> io::Result<Vec<Part>> {
        let mut entries = segment.index.entries()?;
        let mut floors = Vec::new();
        {
            let state = self.shared.state();
            entries.retain(|entry| match state.table.get(&entry.topic) {
                Some(known) if known.class == class => {
                    let floor = state.table.floor_of(known);
                    let live = entry.last_offset >= floor.offset;
                    if live {
                        floors.push(floor);
                    }
                    live
                }
                _ => false,
            });
        }
        let postings = segment.index.all_postings(&entries)?;
        let parts = entries.into_iter().zip(floors).zip(postings);
        Ok(parts
            .map(|((entry, floor), mut postings)| {
                postings.retain(|posting| floor.keeps(posting));
                Part {
                    entry,
                    floor,
                    postings,
                }
            })
            .collect())
    }

    fn active_parts(state: &State, class: usize, storage: Class) -> Option<(u64, Vec<Part>)> {
        let active = state.chain(storage).active.as_ref()?;
        let mut parts = Vec::new();
        for entry in active.index.entries() {
            let Some(known) = state.table.get(&entry.topic) else {
                continue;
            };
            if known.class != class {
                continue;
            }
            let floor = state.table.floor_of(known);
            let mut postings = active.index.postings(&entry, 0, entry.count);
            postings.retain(|posting| floor.keeps(posting));
            parts.push(Part {
                entry,
                floor,
                postings,
            });
        }
        Some((active.id, parts))
    }

    /// The floor that leaves at most this many bytes.
    fn bytes_floor(&mut self, class: usize, storage: Class, max: u64) -> io::Result<u64> {
        let (mut excess, floor, sealed) = {
            let state = self.shared.state();
            let known = state.table.classes[class];
            let sealed = Arc::clone(&state.chain(storage).sealed);
            (known.bytes.saturating_sub(max), known.floor, sealed)
        };
        if excess == 0 {
            return Ok(0);
        }
        if self
            .shared
            .config
            .rules
            .class(class)
            .per_topic_max
            .is_some()
        {
            excess = self.recount(class, storage)?.saturating_sub(max);
            if excess == 0 {
                return Ok(0);
            }
        }
        for segment in sealed.iter().filter(|segment| segment.last >= floor) {
            let live = segment.live.lock().unwrap_or_else(PoisonError::into_inner)[class];
            if live <= excess {
                excess -= live;
                if excess == 0 {
                    return Ok(segment.last + 1);
                }
                continue;
            }
            return Ok(cut(self.parts(class, segment)?, excess));
        }
        let state = self.shared.state();
        let parts = Self::active_parts(&state, class, storage);
        Ok(parts.map_or(0, |(_, parts)| cut(parts, excess)))
    }

    fn recount_if_due(&mut self, class: usize, rule: &Retention) -> io::Result<()> {
        let bytes = self.shared.state().table.classes[class].bytes;
        let before = self.counted.get(&class).copied().unwrap_or(0);
        if bytes > 2 * before + u64::from(self.shared.config.segment_bytes) / 8 {
            self.recount(class, rule.storage)?;
        }
        Ok(())
    }

    /// Counts what is live of a class of which a `per_topic_max` removes silently.
    fn recount(&mut self, class: usize, storage: Class) -> io::Result<u64> {
        let mut found: Bytes = Vec::new();
        let (sealed, before) = {
            let state = self.shared.state();
            if let Some((id, parts)) = Self::active_parts(&state, class, storage) {
                found.push((id, bytes_of(&parts)));
            }
            let sealed = Arc::clone(&state.chain(storage).sealed);
            (sealed, state.table.classes[class].bytes)
        };
        let grown: u64 = found.iter().map(|(_, bytes)| bytes).sum();
        let mut total = grown;
        for segment in sealed.iter() {
            let bytes = bytes_of(&self.parts(class, segment)?);
            segment.live.lock().unwrap_or_else(PoisonError::into_inner)[class] = bytes;
            total += bytes;
        }
        let mut state = self.shared.state_mut();
        let known = &mut state.table.classes[class];
        known.bytes = total + known.bytes.saturating_sub(before);
        self.counted.insert(class, total);
        Ok(total)
    }

    /// Removes everything of a class that is before this offset.
    fn advance(&mut self, class: usize, storage: Class, target: u64) -> io::Result<()> {
        let mut removals = Removals::new();
        let mut bytes: Bytes = Vec::new();
        let mut in_active = None;
        let (sealed, old) = {
            let state = self.shared.state();
            let old = state.table.classes[class].floor;
            if target <= old {
                return Ok(());
            }
            if let Some(active) = &state.chain(storage).active
                && active.base < target
                && let Some((id, parts)) = Self::active_parts(&state, class, storage)
            {
                in_active = Some((id, take_below(&parts, target, &mut removals)));
            }
            (Arc::clone(&state.chain(storage).sealed), old)
        };
        let touched = |segment: &&Arc<Segment>| segment.last >= old && segment.base < target;
        for segment in sealed.iter().filter(touched) {
            let parts = self.parts(class, segment)?;
            let taken = take_below(&parts, target, &mut removals);
            // With nothing of the class left, the count is exact whatever it was before.
            let mut live = segment.live.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = if segment.last < target {
                live[class]
            } else {
                taken.min(live[class])
            };
            live[class] -= taken;
            bytes.push((segment.id, taken));
        }
        let mut state = self.shared.state_mut();
        if let Some((id, taken)) = in_active {
            let chain = state.chain_mut(storage);
            bytes.push((id, taken));
            match &mut chain.active {
                Some(active) if active.id == id => active.live[class] -= taken,
                _ => {
                    // It was sealed meanwhile.
                    let sealed = chain.sealed.iter().find(|segment| segment.id == id);
                    if let Some(segment) = sealed {
                        segment.live.lock().unwrap_or_else(PoisonError::into_inner)[class] -= taken;
                    }
                }
            }
        }
        let known = &mut state.table.classes[class];
        known.floor = target;
        let taken: u64 = bytes.iter().map(|(_, taken)| taken).sum();
        known.bytes = known.bytes.saturating_sub(taken);
        let removed = Self::note(&mut state, &removals);
        count(&self.shared.counters.removed, removed);
        Ok(())
    }
}

fn bytes_of(parts: &[Part]) -> u64 {
    let postings = parts.iter().flat_map(|part| &part.postings);
    postings.map(|posting| u64::from(posting.len)).sum()
}

/// The offset behind the oldest postings that together have this many bytes or more.
fn cut(parts: Vec<Part>, excess: u64) -> u64 {
    let postings = parts.into_iter().flat_map(|part| part.postings);
    let mut postings: Vec<Posting> = postings.collect();
    postings.sort_unstable_by_key(|posting| posting.offset);
    let mut bytes = 0;
    for posting in &postings {
        bytes += u64::from(posting.len);
        if bytes >= excess {
            return posting.offset + 1;
        }
    }
    postings.last().map_or(0, |posting| posting.offset + 1)
}

/// Notes what is below an offset as removed, and says how many bytes it has.
fn take_below(parts: &[Part], target: u64, removals: &mut Removals) -> u64 {
    let mut bytes = 0;
    for part in parts {
        let below = part
            .postings
            .partition_point(|posting| posting.offset < target);
        // What a `per_topic_max` took before goes with it.
        let silent = part.floor.ordinal.checked_sub(1);
        let last = match below {
            0 if part.postings.is_empty() && part.entry.last_offset < target => {
                silent.map(|_| (part.entry.last_offset, part.entry.last_ordinal))
            }
            0 => None,
            _ => {
                let last = part.postings[below - 1];
                Some((last.offset, last.ordinal))
            }
        };
        let Some((to, ordinal)) = last else {
            continue;
        };
        let taken = part.postings[..below].iter();
        bytes += taken.map(|posting| u64::from(posting.len)).sum::<u64>();
        let removal: &mut Removal = removals.entry(part.entry.topic.clone()).or_default();
        removal.to = removal.to.max(to);
        removal.next = removal.next.max(ordinal + 1);
        removal.messages += below as u64;
    }
    bytes
}
