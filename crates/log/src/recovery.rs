//! Opens what is on the disk: decides what is whole, cuts a torn tail, refuses damage, and builds the table.
//!
//! What can be wrong without anything being lost, after a crash: the newest segment's last batches are torn;
//! a segment was created and not begun; a compaction left its sources or its unfinished result; an index
//! file is missing or older than its segment. All else is damage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use tidings_ports::Clock;
use tidings_types::{Durability, Epoch, Storage as Class, Topic};

use crate::appender::{Appender, OpenFile, Room, WriteError};
use crate::config::LogConfig;
use crate::error::OpenError;
use crate::keys::{self, Keys, newest_keys};
use crate::meta::{Clean, Meta, load_keys};
use crate::segment::{
    Entry, FileIndex, HEADER_LEN, Header, Identity, Index, KeyMark, MemoryIndex, NewPosting,
    Posting, RetainMark, Scan, Segment, Visit, index_name, proof_of_damage, scan, segment_name,
};
use crate::state::{Active, Chain, Shared, SharedParts, State};
use crate::states::{self, Journal, Recovered};
use crate::storage::{MemoryStorage, Storage, StorageFile, has_suffix, read_all};
use crate::table::Table;
use crate::writer::Writer;

/// With `durability = os` a crash may lose offsets that were handed out; the log goes on this far behind them.
pub(crate) const SKIP_AFTER_CRASH: u64 = 1 << 20;

/// What a scan puts into an index.
pub(crate) struct Scanned {
    pub(crate) index: MemoryIndex,
    pub(crate) scan: Scan,
}

/// Scans a segment's content into an index.
pub(crate) fn index_content(bytes: &[u8], header: &Header, secret: &[u8; 16]) -> Scanned {
    let mut index = MemoryIndex::default();
    let mut marked = None;
    let scan = scan(bytes, header, |visit| match visit {
        Visit::Batch { position, head } => marked = Some((head.first, position)),
        Visit::Message {
            position,
            len,
            head,
        } => {
            if let Some((first, position)) = marked.take() {
                index.mark(first, position, head.time);
            }
            let Ok(topic) = Topic::new(head.topic.to_owned()) else {
                return;
            };
            let number = index.intern(&topic);
            let (offset, time) = (head.offset, head.time);
            index.add(
                number,
                NewPosting {
                    posting: Posting {
                        offset,
                        ordinal: head.in_topic.ordinal,
                        position,
                        len,
                    },
                    prev: head.in_topic.prev,
                    time,
                    retain: head.retain.then_some(RetainMark {
                        offset,
                        clears: head.clears,
                    }),
                    expires: head.expires.is_some(),
                },
            );
            if let Some(key) = head.key {
                let hash = keys::hash(secret, head.topic, key);
                index.keys.push(KeyMark { hash, offset, time });
            }
        }
    });
    Scanned { index, scan }
}

/// A log that is being opened.
struct Opening<'a> {
    storage: &'a dyn Storage,
    meta: Meta,
    clean: Option<Clean>,
    table: Table,
    keys: Vec<KeyMark>,
    /// Older keys are past their window.
    keys_since: u64,
    sealed: Vec<Arc<Segment>>,
    active: Option<(Active, u64)>,
    last: u64,
    last_time: u64,
    ceiling: u64,
    next_segment: u64,
}

struct Found {
    name: String,
    header: Header,
    file: Arc<dyn StorageFile>,
    len: u64,
}

/// Opens the log on this storage, or begins one.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    config: LogConfig,
    clock: Arc<dyn Clock>,
) -> Result<Writer, OpenError> {
    let names = storage
        .list()
        .map_err(OpenError::io("list the data directory"))?;
    let bases = segment_bases(&names);
    let meta = match Meta::load(&**storage)? {
        Some(meta) => meta,
        None if bases.is_empty() && !states::has_files(&names) => {
            Meta::create(&**storage, config.seed)?
        }
        None => {
            return Err(OpenError::Damaged {
                file: storage.describe("meta"),
                offset: 0,
                what: "there are segments or states, but the file that identifies the log is missing",
            });
        }
    };
    let clean = Clean::load(&**storage)?;
    let mut opening = Opening {
        storage: &**storage,
        meta,
        clean,
        table: Table::new(config.rules.clone()),
        keys: load_keys(&**storage)?,
        keys_since: clock.now().0.saturating_sub(config.limits.key_window_ms),
        sealed: Vec::new(),
        active: None,
        last: 0,
        last_time: 0,
        ceiling: 0,
        next_segment: 1,
    };
    opening.segments(&names, &bases, config.verify_bytes_max)?;
    // After the segments: their end decides which states count.
    let recovered = states::recover(&**storage, &names, meta, clean, opening.last)?;
    Clean::clear(&**storage).map_err(OpenError::io("remove the mark of a clean end"))?;
    opening.finish(recovered, Arc::clone(storage), config, clock)
}

fn segment_bases(names: &[String]) -> BTreeMap<u64, String> {
    let base = |name: &String| {
        let base = name.strip_suffix(".seg")?.parse().ok()?;
        Some((base, name.clone()))
    };
    names.iter().filter_map(base).collect()
}

impl Opening<'_> {
    fn remove(&self, name: &str) -> Result<(), OpenError> {
        self.storage.remove(name).map_err(OpenError::io(format!(
            "remove {}",
            self.storage.describe(name)
        )))
    }

    fn read(&self, found: &Found) -> Result<Vec<u8>, OpenError> {
        read_all(&*found.file).map_err(OpenError::io(format!(
            "read {}",
            self.storage.describe(&found.name)
        )))
    }

    fn segments(
        &mut self,
        names: &[String],
        bases: &BTreeMap<u64, String>,
        verify_bytes_max: u64,
    ) -> Result<(), OpenError> {
        for name in names.iter().filter(|name| has_suffix(name, "tmp")) {
            self.remove(name)?;
        }
        let mut segments: Vec<Found> = Vec::new();
        let mut covered = 0;
        for (base, name) in bases {
            if *base <= covered {
                // Its live messages are in the compacted segment before it.
                self.remove(name)?;
                continue;
            }
            let newest = bases.last_key_value().is_some_and(|(last, _)| last == base);
            if let Some(found) = self.open_segment(name, newest)? {
                covered = found.header.covers_to;
                segments.push(found);
            }
        }
        for name in names.iter().filter(|name| has_suffix(name, "idx")) {
            let of = |found: &Found| index_name(found.header.base) == **name;
            if !segments.iter().any(of) {
                self.remove(name)?;
            }
        }
        let mut unverified: u64 = segments.iter().map(|found| found.len).sum();
        if self.clean.is_some() {
            unverified = 0;
        }
        let count = segments.len();
        for (at, found) in segments.into_iter().enumerate() {
            let verify = unverified > 0 && unverified <= verify_bytes_max;
            unverified = unverified.saturating_sub(found.len);
            self.next_segment = self.next_segment.max(found.header.id + 1);
            if found.header.base > self.last + 1 || found.header.covers_to > 0 {
                let removed_to = found.header.covers_to.max(found.header.base - 1);
                for class in &mut self.table.classes {
                    class.forgotten_to = class.forgotten_to.max(removed_to);
                }
            }
            if at + 1 == count {
                self.newest(found)?;
            } else {
                self.sealed(found, verify)?;
            }
        }
        Ok(())
    }

    /// Opens a segment and reads its header; `None` if it was created but never begun.
    fn open_segment(&self, name: &str, newest: bool) -> Result<Option<Found>, OpenError> {
        let described = self.storage.describe(name);
        let failed = |what| OpenError::io(format!("{what} {described}"));
        let file = self.storage.open(name).map_err(failed("open"))?;
        let len = file.len().map_err(failed("open"))?;
        let mut bytes = vec![0; (HEADER_LEN as usize).min(len as usize)];
        file.read_at(&mut bytes, 0).map_err(failed("read"))?;
        let header = match Header::decode(&bytes, &described) {
            Ok(header) => header,
            Err(error @ OpenError::Damaged { .. }) if newest => {
                let all = read_all(&*file).map_err(failed("read"))?;
                let begun = all
                    .get(HEADER_LEN as usize..)
                    .is_some_and(|rest| rest.iter().any(|byte| *byte != 0));
                let clean_end = self
                    .clean
                    .is_some_and(|clean| segment_name(clean.last_base) == name);
                if begun || clean_end {
                    return Err(error);
                }
                self.remove(name)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if header.epoch != self.meta.epoch || segment_name(header.base) != name {
            return Err(OpenError::Foreign { file: described });
        }
        Ok(Some(Found {
            name: name.to_owned(),
            header,
            file,
            len,
        }))
    }

    fn absorb(&mut self, entries: &[Entry], keys: Vec<KeyMark>) -> Vec<u64> {
        let mut live = vec![0; self.table.classes.len()];
        for entry in entries {
            self.table.absorb(entry, Class::Durable);
            if let Some(known) = self.table.get(&entry.topic)
                && known.storage == Class::Durable
            {
                live[known.class] += entry.bytes;
            }
        }
        let since = self.keys_since;
        self.keys
            .extend(keys.into_iter().filter(|key| key.time >= since));
        live
    }

    fn damaged(&self, found: &Found, offset: u32, what: &'static str) -> OpenError {
        OpenError::Damaged {
            file: self.storage.describe(&found.name),
            offset: u64::from(offset),
            what,
        }
    }

    fn sealed(&mut self, found: Found, verify: bool) -> Result<(), OpenError> {
        let opened = self.index_file(&found);
        let len = u32::try_from(found.len)
            .map_err(|_| self.damaged(&found, 0, "it is larger than a segment can be"))?;
        let mut scanned = None;
        if verify || opened.is_none() {
            let bytes = self.read(&found)?;
            let all = index_content(&bytes, &found.header, &self.meta.secret);
            if let Some(invalid) = all.scan.broken {
                return Err(self.damaged(&found, all.scan.end, invalid.0));
            }
            if all.scan.sealed.is_none() {
                let what = "it ends before its seal, though newer segments follow";
                return Err(self.damaged(&found, all.scan.end, what));
            }
            scanned = Some(all);
        }
        let (index, entries, keys, last, last_time) = match (opened, scanned) {
            (Some(opened), _) => {
                let Identity {
                    last, last_time, ..
                } = opened.identity;
                let index = Index::File(opened.index);
                (index, opened.entries, opened.keys, last, last_time)
            }
            (None, Some(Scanned { mut index, scan })) => {
                let keys = std::mem::take(&mut index.keys);
                index.keys.clone_from(&keys);
                let entries = index.entries();
                (
                    Index::Memory(index),
                    entries,
                    keys,
                    scan.last,
                    scan.last_time,
                )
            }
            (None, None) => return Ok(()),
        };
        self.ceiling = self.ceiling.max(found.header.ceiling);
        let live = self.absorb(&entries, keys);
        let last = last.max(found.header.covers_to).max(found.header.base - 1);
        self.last = last;
        self.last_time = self.last_time.max(last_time);
        self.sealed.push(Arc::new(Segment {
            name: found.name,
            base: found.header.base,
            id: found.header.id,
            last,
            len,
            last_time,
            record_bytes: entries.iter().map(|entry| entry.bytes).sum(),
            file: found.file,
            index,
            live: live.into(),
        }));
        Ok(())
    }

    /// The segment's index file, if it is there, whole and of this very segment.
    fn index_file(&self, found: &Found) -> Option<crate::segment::OpenedIndex> {
        let name = index_name(found.header.base);
        let file = self.storage.open(&name).ok()?;
        match FileIndex::open(file) {
            Ok(opened) => {
                let Identity { id, len, .. } = opened.identity;
                (id == found.header.id && u64::from(len) == found.len).then_some(opened)
            }
            Err(error) => {
                let file = self.storage.describe(&name);
                tracing::warn!(file, %error, "an index is rebuilt from its segment");
                None
            }
        }
    }

    fn newest(&mut self, found: Found) -> Result<(), OpenError> {
        let bytes = self.read(&found)?;
        let Scanned { index, scan } = index_content(&bytes, &found.header, &self.meta.secret);
        let clean_end = self
            .clean
            .filter(|clean| clean.last_base == found.header.base)
            .map_or(0, |clean| clean.end);
        if let Some(invalid) = scan.broken
            && (scan.end < clean_end
                || proof_of_damage(&bytes, self.meta.magic, scan.end).is_some())
        {
            return Err(self.damaged(&found, scan.end, invalid.0));
        }
        if scan.end < clean_end {
            let what = "it ends before the place where the log was closed";
            return Err(self.damaged(&found, scan.end, what));
        }
        if let Some(invalid) = scan.broken {
            let file = self.storage.describe(&found.name);
            let bytes = found.len - u64::from(scan.end);
            tracing::warn!(
                file,
                offset = scan.end,
                bytes,
                what = invalid.0,
                "the last write was torn by a crash and is cut off"
            );
            let cut = found.file.set_len(u64::from(scan.end));
            cut.and_then(|()| found.file.sync())
                .map_err(OpenError::io(format!("cut the torn end off {file}")))?;
        }
        if scan.sealed.is_some() {
            // The seal may be in the page cache only, and nothing syncs a sealed segment later.
            let cut = found.file.set_len(u64::from(scan.end));
            let file = self.storage.describe(&found.name);
            cut.and_then(|()| found.file.sync())
                .map_err(OpenError::io(format!("end {file}")))?;
        }
        let entries = index.entries();
        let live = self.absorb(&entries, index.keys.clone());
        let covers = found.header.covers_to;
        self.last = scan.last.max(found.header.base - 1).max(covers);
        self.last_time = self.last_time.max(scan.last_time);
        self.ceiling = self.ceiling.max(scan.ceiling);
        let allocated = if scan.broken.is_some() { 0 } else { found.len };
        let active = Active {
            name: found.name,
            base: found.header.base,
            id: found.header.id,
            file: found.file,
            index,
            len: scan.end,
            last: self.last,
            last_time: scan.last_time,
            live,
            // What is in the file may not have reached the disk; only the next sync says so.
            synced: Arc::new(AtomicU32::new(HEADER_LEN)),
        };
        if scan.sealed.is_some() {
            self.sealed.push(Arc::new(active.into_segment(scan.end)));
        } else {
            self.active = Some((active, allocated));
        }
        Ok(())
    }

    fn finish(
        mut self,
        recovered: Recovered,
        storage: Arc<dyn Storage>,
        config: LogConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Writer, OpenError> {
        let begun = self.last > 0 || self.ceiling > 0 || self.active.is_some();
        let mut next = (self.last + 1).max(self.ceiling);
        let crashed = begun && self.clean.is_none();
        match self.clean {
            // The exact place: a cursor at the old head is still at the head.
            Some(clean) => next = clean.next.max(self.last + 1),
            None if crashed && config.durability == Durability::Os => next += SKIP_AFTER_CRASH,
            None => {}
        }
        let mut durable = Chain::new(storage);
        durable.sealed = Arc::new(std::mem::take(&mut self.sealed));
        let resumed = self.active.map(|(active, allocated)| {
            let open = OpenFile {
                name: durable.storage.describe(&active.name),
                base: active.base,
                file: Arc::clone(&active.file),
                len: active.len,
                room: Room::taken(allocated),
                synced: Arc::clone(&active.synced),
                sealed: false,
            };
            durable.active = Some(active);
            open
        });
        let memory = Chain::new(Arc::new(MemoryStorage::default()));
        let limits = &config.limits;
        let mut keys = Keys::new(self.meta.secret, limits.key_window_ms, limits.keys_max);
        for key in newest_keys(self.keys, limits.keys_max) {
            keys.insert(key);
        }
        let shared = Arc::new(Shared::new(SharedParts {
            clock,
            epoch: Epoch(self.meta.epoch),
            magic: self.meta.magic,
            secret: self.meta.secret,
            next_segment: self.next_segment,
            lost_to: match config.durability {
                Durability::Os if crashed => next - 1,
                _ => 0,
            },
            state: State {
                head: next - 1,
                last_time: self.last_time,
                table: self.table,
                durable,
                memory,
            },
            states: recovered.states,
            config,
        }));
        keys.trim(shared.now().max(self.last_time));
        let mut writer = Writer {
            durable: Appender::new(Class::Durable, &shared, self.last, self.ceiling),
            memory: Appender::new(Class::Memory, &shared, next - 1, 0),
            journal: Journal::new(&shared, recovered.resumed),
            keys,
            next,
            shared,
        };
        if let Some(open) = resumed {
            writer.durable.resume(open);
        }
        if crashed {
            settle(&mut writer, next)?;
        }
        Ok(writer)
    }
}

/// After a crash the end of the newest segment may be in the page cache only, and what is skipped must stay
/// skipped: a durable RESERVE settles both, before anything is answered.
fn settle(writer: &mut Writer, next: u64) -> Result<(), OpenError> {
    let ceiling = writer.durable.ceiling;
    writer.durable.reserve(next);
    let settled = writer.durable.commit(&writer.shared);
    let failed = |reason: &str| {
        let source = std::io::Error::other(reason.to_owned());
        Err(OpenError::io("write to the log")(source))
    };
    match settled {
        Ok(_) => {}
        // The log can be read, and the first publish will say that there is no room.
        Err(WriteError::Full) => {
            writer.durable.discard(ceiling);
            // What was found is read as committed, so it has to be on the disk all the same.
            match writer.durable.flush(&writer.shared) {
                Ok(()) => {}
                Err(WriteError::Full) => return failed("there is no room"),
                Err(WriteError::Failed(reason)) => return failed(&reason),
            }
        }
        Err(WriteError::Failed(reason)) => return failed(&reason),
    }
    let mut state = writer.shared.state_mut();
    if let Some(active) = &mut state.durable.active {
        active.len = writer.durable.end().1;
    }
    Ok(())
}
