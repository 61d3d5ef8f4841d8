//! Gives room back: drops segments of which nothing is needed, and rewrites neighbours of which little is.
//!
//! A rewrite is crash-safe in each step: the new file is written and synced under another name; its header says
//! which offsets it covers; renaming it over the first of its sources makes it count; the other sources are
//! then left-overs, which opening removes if this did not come to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidings_types::{Storage as Class, Topic};

use crate::keys::newest_keys;
use crate::meta::{load_keys, store_keys};
use crate::record::{self, BATCH_LEN, BatchHead, open_head, open_record};
use crate::recovery::{Scanned, index_content};
use crate::segment::{
    HEADER_LEN, Header, Index, KeyMark, MARK_MS, Posting, Segment, index_name, segment_name,
};
use crate::state::count;
use crate::storage::{Storage, is_full};

use super::{Keeper, Removal, Removals};

/// Records of a rewritten segment are put into batches of about this size.
const BATCH_BYTES: usize = 256 << 10;
/// Of a damaged segment nothing is removed.
const NEVER: u64 = u64::MAX / 4;

/// What a run of segments holds that is needed.
#[derive(Default)]
struct Survey {
    /// By segment of the run, in the order of the file.
    kept: Vec<Vec<Posting>>,
    /// By class, over all of the run.
    live: Vec<u64>,
    pinned: u64,
    removals: Removals,
    /// Topics whose retained message was taken away, and nothing old is left that could bring it back.
    tombstones: Vec<(Topic, u64)>,
}

impl Survey {
    fn is_empty(&self) -> bool {
        self.kept.iter().all(Vec::is_empty)
    }
}

impl Keeper {
    /// Drops and compacts what is due in one chain.
    pub(super) fn reclaim(&mut self, class: Class) {
        let (sealed, storage, usable) = {
            let state = self.shared.state();
            let chain = state.chain(class);
            let usable = match chain.active {
                Some(_) => chain.sealed.len(),
                None => chain.sealed.len().saturating_sub(1),
            };
            (
                Arc::clone(&chain.sealed),
                Arc::clone(&chain.storage),
                usable,
            )
        };
        let full = u64::from(match class {
            Class::Memory => self.shared.config.memory_segment_bytes,
            _ => self.shared.config.segment_bytes,
        });
        let mut at = 0;
        while at < usable {
            let len = self.run_len(&sealed[at..usable], full);
            let run = &sealed[at..at + len.max(1)];
            at += len.max(1);
            if len == 0 {
                continue;
            }
            let oldest = run[0].id == sealed[0].id;
            if let Err(error) = self.compact(class, &*storage, run, oldest) {
                let file = storage.describe(&run[0].name);
                if !is_full(&error) {
                    for segment in run {
                        self.pinned.insert(segment.id, NEVER);
                    }
                }
                tracing::warn!(file, %error, "cannot compact a segment");
            }
        }
    }

    fn needed(&self, segment: &Segment) -> u64 {
        segment.live_bytes() + self.pinned.get(&segment.id).copied().unwrap_or(0)
    }

    /// How many neighbours from the front are worth a rewrite together; 0 if the first is not.
    fn run_len(&self, sealed: &[Arc<Segment>], full: u64) -> usize {
        let (mut needed, mut bytes) = (0, 0);
        let (mut best, mut small) = (0, 0);
        for (at, segment) in sealed.iter().enumerate() {
            let more = self.needed(segment);
            let len = segment.record_bytes;
            let is_small = u64::from(segment.len) < full / 8;
            // A segment that is mostly needed ends the run, unless it is a small one among small ones.
            if (more * 2 > len && !is_small) || needed + more > full / 2 {
                break;
            }
            needed += more;
            bytes += len;
            small += usize::from(is_small);
            if needed * 2 <= bytes || (small == at + 1 && small >= 4) {
                best = at + 1;
            }
        }
        best
    }

    fn compact(
        &mut self,
        class: Class,
        storage: &dyn Storage,
        run: &[Arc<Segment>],
        oldest: bool,
    ) -> io::Result<()> {
        let survey = self.survey(run, oldest)?;
        let mut unsaved = Vec::new();
        if survey.is_empty() {
            match self.save_keys(class, storage, run) {
                // A full disk must not keep the segment that it could do without: the keys come after it.
                Err((error, keys)) if is_full(&error) => unsaved = keys,
                Err((error, _)) => return Err(error),
                Ok(()) => {}
            }
            self.put(class, run, None, &survey);
        } else {
            let bytes: u64 = survey.kept.iter().flatten().map(|p| u64::from(p.len)).sum();
            let old: u64 = run.iter().map(|segment| segment.record_bytes).sum();
            if run.len() == 1 && bytes * 2 > old {
                // Retained messages make up most of it.
                self.pinned.insert(run[0].id, survey.pinned);
                return Ok(());
            }
            self.save_keys(class, storage, run)
                .map_err(|(error, _)| error)?;
            let new = self.rewrite(storage, run, &survey)?;
            self.pinned.insert(new.id, survey.pinned);
            self.put(class, run, Some(new), &survey);
        }
        let keep_first = !survey.is_empty();
        for (at, segment) in run.iter().enumerate() {
            self.pinned.remove(&segment.id);
            if at > 0 || !keep_first {
                storage.remove(&segment.name)?;
            }
            match storage.remove(&index_name(segment.base)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        storage.sync_names()?;
        if unsaved.is_empty() {
            return Ok(());
        }
        store_keys(storage, &unsaved)
    }

    /// Keeps the idempotency keys of a run that goes, as long as their window lasts. What could not be stored
    /// comes back with the error.
    fn save_keys(
        &self,
        class: Class,
        storage: &dyn Storage,
        run: &[Arc<Segment>],
    ) -> Result<(), (io::Error, Vec<KeyMark>)> {
        if class != Class::Durable {
            return Ok(());
        }
        let now = self.shared.now().max(self.shared.state().last_time);
        let limits = &self.shared.config.limits;
        let since = now.saturating_sub(limits.key_window_ms);
        let mut keys = Vec::new();
        for segment in run.iter().filter(|segment| segment.last_time >= since) {
            let known = segment.index.keys();
            keys.extend(known.map_err(|error| (error, Vec::new()))?);
        }
        keys.retain(|key| key.time >= since);
        if keys.is_empty() {
            return Ok(());
        }
        let stored = load_keys(storage);
        let stored = stored.map_err(|error| (io::Error::other(error), Vec::new()))?;
        keys.extend(stored.into_iter().filter(|key| key.time >= since));
        let keys = newest_keys(keys, limits.keys_max);
        store_keys(storage, &keys).map_err(|error| (error, keys))
    }

    /// Finds what is needed of a run.
    fn survey(&self, run: &[Arc<Segment>], oldest: bool) -> io::Result<Survey> {
        let mut survey = Survey {
            live: vec![0; self.shared.state().table.classes.len()],
            ..Survey::default()
        };
        for segment in run {
            let entries = segment.index.entries()?;
            let postings = segment.index.all_postings(&entries)?;
            let mut kept = Vec::new();
            let state = self.shared.state();
            for (entry, postings) in entries.iter().zip(postings) {
                let Some(known) = state.table.get(&entry.topic) else {
                    continue;
                };
                let floor = state.table.floor_of(known);
                let mut removal = Removal::default();
                for posting in postings {
                    let retained = known.retained.filter(|mark| mark.offset == posting.offset);
                    if floor.keeps(&posting) {
                        survey.live[known.class] += u64::from(posting.len);
                        kept.push(posting);
                        continue;
                    }
                    removal.to = posting.offset;
                    removal.next = posting.ordinal + 1;
                    match retained {
                        Some(mark) if mark.clears && oldest => {
                            survey.tombstones.push((entry.topic.clone(), mark.offset));
                        }
                        Some(_) => {
                            survey.pinned += u64::from(posting.len);
                            kept.push(posting);
                        }
                        None => {}
                    }
                }
                if removal.to > 0 {
                    survey.removals.insert(entry.topic.clone(), removal);
                }
            }
            drop(state);
            kept.sort_unstable_by_key(|posting| posting.position);
            survey.kept.push(kept);
        }
        Ok(survey)
    }

    /// Puts the new segment, or nothing, in the place of a run.
    fn put(&mut self, class: Class, run: &[Arc<Segment>], new: Option<Segment>, survey: &Survey) {
        let mut state = self.shared.state_mut();
        Self::note(&mut state, &survey.removals);
        for (topic, offset) in &survey.tombstones {
            let Some(known) = state.table.get_mut(topic) else {
                continue;
            };
            if known.retained.is_some_and(|mark| mark.offset == *offset) {
                known.retained = None;
            }
        }
        let topics = survey.tombstones.iter().map(|(topic, _)| topic.clone());
        let topics = topics.map(|topic| (topic, Removal::default())).collect();
        Self::note(&mut state, &topics);
        let before: Vec<u64> = (0..survey.live.len()).map(|c| live_of(run, c)).collect();
        for (known, (before, now)) in state
            .table
            .classes
            .iter_mut()
            .zip(before.iter().zip(&survey.live))
        {
            known.bytes = (known.bytes + now).saturating_sub(*before);
        }
        let sealed = Arc::make_mut(&mut state.chain_mut(class).sealed);
        let Some(at) = sealed.iter().position(|segment| segment.id == run[0].id) else {
            return;
        };
        sealed.splice(at..at + run.len(), new.map(Arc::new));
    }

    /// Writes what is needed of a run into a new file over the first of it.
    fn rewrite(
        &self,
        storage: &dyn Storage,
        run: &[Arc<Segment>],
        survey: &Survey,
    ) -> io::Result<Segment> {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let header = Header {
            epoch: self.shared.epoch.0,
            base: first.base,
            id: self.shared.next_segment.fetch_add(1, Ordering::Relaxed),
            magic: self.shared.magic,
            ceiling: 0,
            covers_to: last.last,
        };
        let mut content = header.encode();
        for (segment, kept) in run.iter().zip(&survey.kept) {
            self.copy(segment, kept, &mut content)?;
        }
        let mut seal = vec![0; BATCH_LEN];
        record::put_seal(&mut seal, last.last);
        finish(
            &mut seal,
            self.shared.magic,
            1,
            last.last + 1,
            content.len(),
        );
        content.extend_from_slice(&seal);
        let Scanned { index, scan } = index_content(&content, &header, &self.shared.secret);
        let expected: usize = survey.kept.iter().map(Vec::len).sum();
        if scan.end as usize != content.len() || index.len() != expected {
            return Err(io::Error::other("the rewritten segment does not read back"));
        }
        let name = segment_name(first.base);
        let temporary = format!("{name}.tmp");
        let file = storage.create(&temporary)?;
        let written = file.write_at(&content, 0).and_then(|()| file.sync());
        if let Err(error) = written {
            storage.remove(&temporary)?;
            return Err(error);
        }
        storage.rename(&temporary, &name)?;
        storage.sync_names()?;
        count(&self.shared.counters.bytes_written, content.len() as u64);
        Ok(Segment {
            name,
            base: first.base,
            id: header.id,
            last: last.last,
            len: content.len() as u32,
            last_time: last.last_time.max(scan.last_time),
            record_bytes: index.record_bytes,
            file,
            index: Index::Memory(index),
            live: survey.live.clone().into(),
        })
    }

    /// Copies records, checked, in batches.
    fn copy(&self, segment: &Segment, kept: &[Posting], content: &mut Vec<u8>) -> io::Result<()> {
        let mut batch = vec![0; BATCH_LEN];
        let (mut records, mut first, mut since) = (0, 0, 0);
        for posting in kept {
            let mut bytes = vec![0; posting.len as usize];
            let position = u64::from(posting.position);
            segment.file.read_at(&mut bytes, position)?;
            let time = open_record(&bytes).and_then(|(kind, content, _)| {
                let head = open_head(kind, content)?;
                Ok((head.offset == posting.offset).then_some(head.time))
            });
            let Ok(Some(time)) = time else {
                count(&self.shared.counters.read_errors, 1);
                let what = format!("{} is damaged at byte {position}", segment.name);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            // Retention by age finds its place by the times of batches, so none spans a long time.
            let full = batch.len() >= BATCH_BYTES || time >= since + MARK_MS;
            if records > 0 && full {
                finish(&mut batch, self.shared.magic, records, first, content.len());
                content.extend_from_slice(&batch);
                batch.truncate(BATCH_LEN);
                records = 0;
            }
            if records == 0 {
                (first, since) = (posting.offset, time);
            }
            batch.extend_from_slice(&bytes);
            records += 1;
        }
        if records > 0 {
            finish(&mut batch, self.shared.magic, records, first, content.len());
            content.extend_from_slice(&batch);
        }
        Ok(())
    }
}

fn finish(batch: &mut [u8], magic: u64, records: u32, first: u64, synced_to: usize) {
    let head = BatchHead {
        records,
        bytes: (batch.len() - BATCH_LEN) as u32,
        synced_to: (synced_to as u32).max(HEADER_LEN),
        first,
    };
    record::finish_batch(batch, magic, head);
}

fn live_of(run: &[Arc<Segment>], class: usize) -> u64 {
    run.iter()
        .map(|segment| {
            let live = segment.live.lock();
            live.unwrap_or_else(std::sync::PoisonError::into_inner)[class]
        })
        .sum()
}
