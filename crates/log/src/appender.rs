//! Appends batches to one chain's files: one write, one sync, a new segment when one is full.
//!
//! Invariants: a batch is written whole into one segment; bytes behind the last good batch are cut away
//! before anything else is written; after a failure other than "full" nothing is written any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidings_types::Storage as Class;
use tidings_types::message::Place;
use tidings_types::{Draft, Durability};

use crate::record::{self, BATCH_LEN, BatchHead, SEAL_LEN, TopicPlace};
use crate::recovery::SKIP_AFTER_CRASH;
use crate::segment::{HEADER_LEN, Header, Index, MemoryIndex, Segment, segment_name};
use crate::state::{Active, Shared, count};
use crate::storage::{BLOCK_BYTES, Storage, StorageFile, is_full};

/// Room is taken from the file system in steps of this.
const ALLOCATE_BYTES: u64 = 8 << 20;
/// Zeros are written ahead in steps of this, once more than [`ZERO_AFTER`] batches in a row were no longer than
/// [`ZERO_FOR_MAX`]: to write a larger one twice would cost more than it saves.
const ZERO_BYTES: u64 = 256 << 10;
const ZERO_FOR_MAX: u64 = 32 << 10;
const ZERO_AFTER: u32 = 4;
/// A buffer that grew beyond this is not kept.
const BUFFER_KEEP: usize = 8 << 20;

/// Why a batch was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// There is no room; the file is as it was.
    Full,
    /// The storage failed.
    Failed(String),
}

pub(crate) fn classify(what: &str, name: &str, error: &io::Error) -> WriteError {
    if is_full(error) {
        WriteError::Full
    } else {
        WriteError::Failed(format!("cannot {what} {name}: {error}"))
    }
}

/// The end of one chain.
#[derive(Debug)]
pub(crate) struct Appender {
    class: Class,
    storage: Arc<dyn Storage>,
    durability: Durability,
    segment_bytes: u64,
    buffer: Vec<u8>,
    records: u32,
    first: u64,
    /// The last message's offset in the buffer, or else in the chain.
    buffered: u64,
    /// A RESERVE is buffered: it counts only once it is on the disk.
    reserves: bool,
    last: u64,
    /// The last offset that a commit synced.
    settled: u64,
    /// The newest RESERVE that was written.
    pub(crate) ceiling: u64,
    file: Option<OpenFile>,
}

/// How far an open file is prepared for what will be appended to it, in bytes from its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    /// Taken from the file system.
    pub(crate) taken: u64,
    /// Zeros were written ahead up to here, as far as that is possible; never more than what is taken.
    ahead: u64,
    /// So many of the newest batches were small.
    small_in_row: u32,
}

impl Room {
    pub(crate) fn taken(taken: u64) -> Self {
        Self {
            taken,
            ..Self::default()
        }
    }
}

/// The file that is appended to.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) name: String,
    pub(crate) base: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) len: u32,
    pub(crate) room: Room,
    pub(crate) synced: Arc<AtomicU32>,
    /// The seal is written, but the next segment could not be created yet.
    pub(crate) sealed: bool,
}

impl Appender {
    pub(crate) fn new(class: Class, shared: &Shared, last: u64, ceiling: u64) -> Self {
        let state = shared.state();
        let config = &shared.config;
        let memory = class == Class::Memory;
        Self {
            class,
            storage: Arc::clone(&state.chain(class).storage),
            durability: if memory {
                Durability::Os
            } else {
                config.durability
            },
            segment_bytes: u64::from(if memory {
                config.memory_segment_bytes
            } else {
                config.segment_bytes
            }),
            buffer: Vec::new(),
            records: 0,
            first: 0,
            buffered: last,
            reserves: false,
            last,
            settled: last,
            ceiling,
            file: None,
        }
    }

    pub(crate) fn resume(&mut self, file: OpenFile) {
        self.file = Some(file);
    }

    fn begin_record(&mut self, offset: u64) {
        if self.buffer.is_empty() {
            self.buffer.resize(BATCH_LEN, 0);
            self.first = offset;
        }
        self.records += 1;
    }

    /// Buffers a message; where its record is in the buffer, and how long.
    pub(crate) fn push(&mut self, draft: &Draft, place: Place, in_topic: TopicPlace) -> (u32, u32) {
        self.begin_record(place.offset.0);
        let start = self.buffer.len();
        record::put_message(&mut self.buffer, draft, place, in_topic);
        self.buffered = place.offset.0;
        (start as u32, (self.buffer.len() - start) as u32)
    }

    /// Buffers a RESERVE.
    pub(crate) fn reserve(&mut self, ceiling: u64) {
        self.begin_record(self.buffered + 1);
        record::put_reserve(&mut self.buffer, ceiling);
        self.reserves = true;
        self.ceiling = ceiling;
    }

    /// The last message's offset, buffered ones included.
    pub(crate) fn buffered(&self) -> u64 {
        self.buffered
    }

    /// The last message's offset in the buffer, if one is there.
    pub(crate) fn uncommitted(&self) -> Option<u64> {
        (self.buffered > self.last).then_some(self.buffered)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Drops what is buffered.
    pub(crate) fn discard(&mut self, ceiling: u64) {
        self.clear();
        self.buffered = self.last;
        self.ceiling = ceiling;
    }

    fn clear(&mut self) {
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_KEEP {
            self.buffer = Vec::new();
        }
        self.records = 0;
        self.reserves = false;
    }

    /// Writes what is buffered, as durably as promised: the position of the batch in the active segment.
    pub(crate) fn commit(&mut self, shared: &Shared) -> Result<(u32, u64), WriteError> {
        self.make_room(shared)?;
        let Some(open) = &mut self.file else {
            return Err(WriteError::Failed("there is no segment to write to".into()));
        };
        let head = BatchHead {
            records: self.records,
            bytes: (self.buffer.len() - BATCH_LEN) as u32,
            synced_to: open.synced.load(Ordering::Acquire),
            first: self.first,
        };
        record::finish_batch(&mut self.buffer, shared.magic, head);
        let position = open.len;
        let end = u64::from(open.len) + self.buffer.len() as u64;
        let room = end.next_multiple_of(ALLOCATE_BYTES).min(self.segment_bytes);
        open.take_room(end, room)?;
        if self.durability == Durability::Sync {
            open.zero_ahead(end);
        }
        open.write(&mut self.buffer)?;
        // What a crash loses must be less than what the log then skips, however late the background syncs are.
        let far = self.buffered > self.settled + SKIP_AFTER_CRASH / 2;
        if self.durability == Durability::Sync || self.reserves || far {
            open.sync(shared)?;
            self.settled = self.buffered;
        }
        let first = self.first;
        count(&shared.counters.bytes_written, self.buffer.len() as u64);
        self.last = self.buffered;
        self.clear();
        Ok((position, first))
    }

    fn make_room(&mut self, shared: &Shared) -> Result<(), WriteError> {
        if let Some(open) = &self.file {
            let end = u64::from(open.len) + (self.buffer.len() + SEAL_LEN) as u64;
            // Two segments would have one name if the first had no message.
            let begun = self.last >= open.base;
            if open.sealed || (end > self.segment_bytes && begun) {
                self.seal(shared)?;
            }
        }
        if self.file.is_none() {
            self.create(shared)?;
        }
        Ok(())
    }

    /// Ends the active segment: everything in it is on the disk before the next one exists, so that only the
    /// newest segment can be torn.
    fn seal(&mut self, shared: &Shared) -> Result<(), WriteError> {
        let Some(open) = &mut self.file else {
            return Ok(());
        };
        if !open.sealed {
            let mut seal = vec![0; BATCH_LEN];
            record::put_seal(&mut seal, self.last);
            let head = BatchHead {
                records: 1,
                bytes: (seal.len() - BATCH_LEN) as u32,
                synced_to: open.synced.load(Ordering::Acquire),
                first: self.last + 1,
            };
            record::finish_batch(&mut seal, shared.magic, head);
            open.write(&mut seal)?;
            let cut = open.file.set_len(u64::from(open.len));
            cut.map_err(|error| classify("cut", &open.name, &error))?;
            open.sync(shared)?;
            open.sealed = true;
        }
        let len = open.len;
        self.file = None;
        let mut state = shared.state_mut();
        let chain = state.chain_mut(self.class);
        if let Some(active) = chain.active.take() {
            Arc::make_mut(&mut chain.sealed).push(Arc::new(active.into_segment(len)));
        }
        Ok(())
    }

    fn create(&mut self, shared: &Shared) -> Result<(), WriteError> {
        let base = self.last + 1;
        let name = segment_name(base);
        let header = Header {
            epoch: shared.epoch.0,
            base,
            id: shared.next_segment.fetch_add(1, Ordering::Relaxed),
            magic: shared.magic,
            ceiling: self.ceiling,
            covers_to: 0,
        };
        let described = self.storage.describe(&name);
        let created = self.create_file(&name, &header);
        let file = match created {
            Ok(file) => file,
            Err(error) => {
                if is_full(&error)
                    && let Err(error) = self.storage.remove(&name)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(file = described, %error, "cannot remove a segment that was not begun");
                }
                return Err(classify("create", &described, &error));
            }
        };
        let synced = Arc::new(AtomicU32::new(HEADER_LEN));
        self.file = Some(OpenFile {
            name: described,
            base,
            file: Arc::clone(&file),
            len: HEADER_LEN,
            room: Room::default(),
            synced: Arc::clone(&synced),
            sealed: false,
        });
        let mut state = shared.state_mut();
        let classes = state.table.classes.len();
        state.chain_mut(self.class).active = Some(Active {
            name,
            base,
            id: header.id,
            file,
            index: MemoryIndex::default(),
            len: HEADER_LEN,
            last: base - 1,
            last_time: 0,
            live: vec![0; classes],
            synced,
        });
        Ok(())
    }

    fn create_file(&self, name: &str, header: &Header) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.storage.create(name)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        self.storage.sync_names()?;
        Ok(file)
    }

    /// Makes everything durable, for a clean end.
    pub(crate) fn flush(&self, shared: &Shared) -> Result<(), WriteError> {
        self.file.as_ref().map_or(Ok(()), |open| open.sync(shared))
    }

    /// The active segment's base and length.
    pub(crate) fn end(&self) -> (u64, u32) {
        (self.last, self.file.as_ref().map_or(0, |open| open.len))
    }
}

impl OpenFile {
    /// Takes room up to this length if the end of what is appended next is behind what was taken before.
    pub(crate) fn take_room(&mut self, end: u64, room: u64) -> Result<(), WriteError> {
        let room = room.max(end);
        if end <= self.room.taken {
            return Ok(());
        }
        match self.file.allocate(room) {
            Ok(()) => self.room.taken = room,
            // Where room cannot be taken in advance, the write itself decides.
            Err(error) if is_full(&error) => {}
            Err(error) => return Err(classify("allocate room in", &self.name, &error)),
        }
        Ok(())
    }

    /// Before small appends that are synced one by one, writes zeros where the next ones will go: otherwise each
    /// sync has to write, besides the data, what the file system notes of the first use of a block.
    pub(crate) fn zero_ahead(&mut self, end: u64) {
        let room = &mut self.room;
        if end - u64::from(self.len) > ZERO_FOR_MAX {
            room.small_in_row = 0;
            return;
        }
        room.small_in_row = room.small_in_row.saturating_add(1);
        let Room { taken, ahead, .. } = *room;
        if end <= ahead || room.small_in_row <= ZERO_AFTER {
            return;
        }
        let from = ahead.max(u64::from(self.len).next_multiple_of(BLOCK_BYTES));
        let to = (end + ZERO_BYTES).min(taken) / BLOCK_BYTES * BLOCK_BYTES;
        if from >= to {
            return;
        }
        // It is for speed only. What is wrong with the file, if anything, the write itself finds out.
        if let Err(error) = self.file.write_zeros(from, to) {
            tracing::debug!(file = self.name, %error, "cannot write zeros ahead");
        }
        self.room.ahead = to;
    }

    /// Appends what is in the buffer.
    pub(crate) fn write(&mut self, bytes: &mut Vec<u8>) -> Result<(), WriteError> {
        let end = u64::from(self.len) + bytes.len() as u64;
        let Ok(new_len) = u32::try_from(end) else {
            return Err(WriteError::Failed(format!("{} grew too large", self.name)));
        };
        // Up to the end of its last block, as the zeros there are on the disk only: to change a part of a block, the
        // file system would have to read it first.
        let len = bytes.len();
        let whole = end.next_multiple_of(BLOCK_BYTES);
        if whole <= self.room.ahead {
            bytes.resize(len + (whole - end) as usize, 0);
        }
        let written = self.file.write_at(bytes, u64::from(self.len));
        bytes.truncate(len);
        if let Err(error) = written {
            // A part may have been written. It must go before a shorter batch is written over it.
            if let Err(error) = self.file.set_len(u64::from(self.len)) {
                return Err(WriteError::Failed(format!(
                    "cannot cut a failed write off {}: {error}",
                    self.name
                )));
            }
            self.room = Room::default();
            return Err(classify("write to", &self.name, &error));
        }
        self.len = new_len;
        Ok(())
    }

    /// After a failed sync nobody knows what is on the disk (the kernel drops the dirty pages), so "full" is
    /// a failure here as well.
    pub(crate) fn sync(&self, shared: &Shared) -> Result<(), WriteError> {
        let synced = self.file.sync();
        synced
            .map_err(|error| WriteError::Failed(format!("cannot sync {}: {error}", self.name)))?;
        count(&shared.counters.syncs, 1);
        self.synced.fetch_max(self.len, Ordering::AcqRel);
        Ok(())
    }
}

impl Active {
    pub(crate) fn into_segment(self, len: u32) -> Segment {
        Segment {
            name: self.name,
            base: self.base,
            id: self.id,
            last: self.last,
            len,
            last_time: self.last_time,
            record_bytes: self.index.record_bytes,
            file: self.file,
            index: Index::Memory(self.index),
            live: self.live.into(),
        }
    }
}
