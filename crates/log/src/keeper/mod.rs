//! What happens beside writing and reading: retention, index files, compaction, background syncs.
//!
//! Retention is logical first: a class's floor moves, and what is below it is not read any more. The room comes
//! back when a segment is dropped, or rewritten without what is dead. Only sealed segments are touched, and
//! never the newest of a chain: it knows the last offset.
//!
//! Each step on the disk leaves, if it is the last one before a crash, a log that opens with the same messages.

mod compact;
mod retention;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidings_types::{Durability, Storage as Class, Topic};

use crate::segment::{FileIndex, Identity, Index, Segment, encode_index, index_name};
use crate::state::{Chain, Shared, State, count};
use crate::states::keep_snapshot;
use crate::storage::{StorageFile, is_full, replace};

/// Once in so many rounds what seldom changes is looked at again.
const SELDOM: u64 = 64;

/// Keeps. There is one for a log.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    round: u64,
    /// By segment id: bytes of retained messages that keep an otherwise dead segment.
    pinned: HashMap<u64, u64>,
    /// By class with a `per_topic_max`: its live bytes when they were last counted.
    counted: HashMap<usize, u64>,
}

/// What is gone of a topic.
#[derive(Clone, Copy, Debug, Default)]
struct Removal {
    to: u64,
    /// The ordinal after it.
    next: u64,
    messages: u64,
}

type Removals = HashMap<Topic, Removal>;

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            round: 0,
            pinned: HashMap::new(),
            counted: HashMap::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// One round of everything.
    pub(crate) fn keep(&mut self) {
        self.round += 1;
        self.retain();
        if self.round.is_multiple_of(SELDOM) {
            self.pinned.clear();
            self.forget_idle();
        }
        // The directory is not ours any more after a failure: what is on it is for an operator to look at.
        if !self.shared.is_failed() {
            self.write_indexes();
            keep_snapshot(&self.shared);
        }
        for class in [Class::Durable, Class::Memory] {
            if !self.shared.is_failed() {
                self.reclaim(class);
            }
        }
    }

    /// Syncs what `durability = os` left to the background.
    pub(crate) fn sync(&mut self) {
        if self.shared.config.durability != Durability::Os || self.shared.is_failed() {
            return;
        }
        let segment = {
            let state = self.shared.state();
            let active = state.durable.active.as_ref();
            active.map(|a| {
                (
                    a.name.clone(),
                    Arc::clone(&a.file),
                    a.len,
                    Arc::clone(&a.synced),
                )
            })
        };
        // After the segment, as states can tell that the messages of their submission are missing, not the reverse:
        // every change that belongs to a message of that segment is in this journal, or in one that is synced.
        let journal = self.shared.states().active.clone();
        if let Some(journal) = journal {
            self.sync_file(&journal.name, &*journal.file, journal.len, &journal.synced);
        }
        if let Some((name, file, len, synced)) = segment {
            self.sync_file(&name, &*file, len, &synced);
        }
    }

    fn sync_file(&self, name: &str, file: &dyn StorageFile, len: u32, synced: &AtomicU32) {
        if self.shared.is_failed() {
            return;
        }
        if synced.load(Ordering::Acquire) >= len {
            return;
        }
        match file.sync() {
            Ok(()) => {
                count(&self.shared.counters.syncs, 1);
                synced.fetch_max(len, Ordering::AcqRel);
            }
            Err(error) => self.shared.fail(format!("cannot sync {name}: {error}")),
        }
    }

    /// Writes the index files of segments that were sealed since.
    fn write_indexes(&mut self) {
        let (storage, sealed) = {
            let state = self.shared.state();
            (
                Arc::clone(&state.durable.storage),
                Arc::clone(&state.durable.sealed),
            )
        };
        for segment in sealed.iter() {
            let Index::Memory(index) = &segment.index else {
                continue;
            };
            let identity = Identity {
                id: segment.id,
                len: segment.len,
                last: segment.last,
                last_time: segment.last_time,
            };
            let name = index_name(segment.base);
            let written = replace(&*storage, &name, &encode_index(index, identity))
                .and_then(|()| storage.open(&name))
                .and_then(FileIndex::open);
            match written {
                Ok(opened) => {
                    let indexed = segment.with_index(Index::File(opened.index));
                    let mut state = self.shared.state_mut();
                    swap(&mut state.durable, segment.id, indexed);
                }
                Err(error) => {
                    let file = storage.describe(&name);
                    if !is_full(&error) || self.round.is_multiple_of(SELDOM) {
                        tracing::warn!(file, %error, "cannot write an index file; it stays in memory");
                    }
                    return;
                }
            }
        }
    }

    /// Topics that are not kept are remembered for a while only.
    fn forget_idle(&self) {
        const IDLE_MS: u64 = 3_600_000;
        let now = self.shared.now();
        let mut state = self.shared.state_mut();
        let idle: Vec<Topic> = state
            .table
            .all()
            .filter(|(_, known)| {
                known.storage == Class::None
                    && known.tip_ordinal == known.next_ordinal
                    && known.last_time + IDLE_MS <= now
            })
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in idle {
            state.table.forget(&topic);
        }
    }

    /// Notes what is gone, and forgets topics of which nothing is left.
    fn note(state: &mut State, removals: &Removals) -> u64 {
        let mut removed = 0;
        for (topic, removal) in removals {
            let Some(known) = state.table.get_mut(topic) else {
                continue;
            };
            known.removed_to = known.removed_to.max(removal.to);
            known.first_ordinal = known.first_ordinal.max(removal.next);
            removed += removal.messages;
            let nothing_left =
                known.last_offset <= known.removed_to && known.tip_ordinal == known.next_ordinal;
            if nothing_left && known.retained.is_none() {
                state.table.forget(topic);
            }
        }
        removed
    }
}

impl Segment {
    fn with_index(&self, index: Index) -> Self {
        let live = self
            .live
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Self {
            name: self.name.clone(),
            base: self.base,
            id: self.id,
            last: self.last,
            len: self.len,
            last_time: self.last_time,
            record_bytes: self.record_bytes,
            file: Arc::clone(&self.file),
            index,
            live: live.clone().into(),
        }
    }

    fn live_bytes(&self) -> u64 {
        let live = self
            .live
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        live.iter().sum()
    }
}

/// Puts a segment in the place of the one with this id.
fn swap(chain: &mut Chain, id: u64, new: Segment) {
    let sealed = Arc::make_mut(&mut chain.sealed);
    if let Some(place) = sealed.iter_mut().find(|segment| segment.id == id) {
        *place = Arc::new(new);
    }
}
