//! The end of the journal: changes are appended, and a new journal is begun when a snapshot pays.
//!
//! Invariants: a batch is written whole into one journal; what is behind the last good batch is cut away before
//! anything else is written; a journal is on the disk, to its end, before the next one exists.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidings_ports::StateChange;
use tidings_types::Durability;

use crate::appender::{OpenFile, Room, WriteError, classify};
use crate::record::{self, BATCH_LEN, BatchHead};
use crate::state::{Shared, count};
use crate::storage::{Storage, StorageFile, is_full};

use super::{ActiveJournal, FileKind, HEADER_LEN, Header};

/// Room is taken from the file system in steps of this.
const ALLOCATE_BYTES: u64 = 1 << 20;
/// A journal that is larger ends, whether a snapshot pays or not: positions in it are 32 bits.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;
/// A buffer that grew beyond this is not kept.
const BUFFER_KEEP: usize = 1 << 20;
/// Of what changed during a snapshot, so much is put in place with each batch, besides as much as the batch has.
const SETTLE_STEP: usize = 256;

/// Appends changes of states. There is one for a log.
#[derive(Debug)]
pub(crate) struct Journal {
    /// `None` if it would be gone with the process anyway.
    storage: Option<Arc<dyn Storage>>,
    durability: Durability,
    slack: u64,
    buffer: Vec<u8>,
    /// Its `base` is its number.
    file: Option<OpenFile>,
    /// In the file.
    batches: u64,
    /// Where the last batch began, and how many there were before it.
    undo: Option<(u32, u64)>,
}

/// The journal that an earlier process left.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(super) file: OpenFile,
    pub(super) batches: u64,
}

impl Journal {
    pub(crate) fn new(shared: &Shared, resumed: Option<Resumed>) -> Self {
        let storage = Arc::clone(&shared.state().durable.storage);
        let (file, batches) =
            resumed.map_or((None, 0), |resumed| (Some(resumed.file), resumed.batches));
        Self {
            storage: (!storage.is_volatile()).then_some(storage),
            durability: shared.config.durability,
            slack: shared.config.states_slack_bytes,
            buffer: Vec::new(),
            file,
            batches,
            undo: None,
        }
    }

    /// Writes changes, as durably as promised. They do not show before [`Self::apply`]. After a crash they count only
    /// if the segments reach the offset `with`, if there is one: that of the last message that is written with them.
    pub(crate) fn commit(
        &mut self,
        shared: &Shared,
        changes: &[StateChange],
        with: Option<u64>,
    ) -> Result<(), WriteError> {
        self.undo = None;
        let Some(storage) = self.storage.clone() else {
            return Ok(());
        };
        if changes.is_empty() {
            return Ok(());
        }
        self.encode(changes, with);
        if self.buffer.len() as u64 > JOURNAL_BYTES_MAX {
            return Err(WriteError::Full);
        }
        self.make_room(shared, &*storage)?;
        let Some(open) = &mut self.file else {
            return Err(WriteError::Failed("there is no journal of states".into()));
        };
        let head = BatchHead {
            records: changes.len() as u32 + u32::from(with.is_some()),
            bytes: (self.buffer.len() - BATCH_LEN) as u32,
            synced_to: open.synced.load(Ordering::Acquire),
            first: self.batches,
        };
        record::finish_batch(&mut self.buffer, shared.magic, head);
        let begin = open.len;
        let end = u64::from(begin) + self.buffer.len() as u64;
        open.take_room(end, end.next_multiple_of(ALLOCATE_BYTES))?;
        if self.durability == Durability::Sync {
            open.zero_ahead(end);
        }
        open.write(&mut self.buffer)?;
        if self.durability == Durability::Sync {
            open.sync(shared)?;
        }
        self.undo = Some((begin, self.batches));
        self.batches += 1;
        let written = self.buffer.len() as u64;
        count(&shared.counters.bytes_written, written);
        let mut states = shared.states();
        states.uncovered += written;
        states.active = Some(active(open));
        drop(states);
        if self.buffer.capacity() > BUFFER_KEEP {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Makes changes that were written show.
    pub(crate) fn apply(shared: &Shared, changes: Vec<StateChange>) {
        if changes.is_empty() {
            return;
        }
        count(&shared.counters.states_written, changes.len() as u64);
        let mut states = shared.states();
        states.map.settle(changes.len() + SETTLE_STEP);
        for change in changes {
            states.map.apply(change);
        }
    }

    /// Takes the last commit back, as what it should be kept with could not be written; whether there was one.
    pub(crate) fn undo(&mut self, shared: &Shared) -> Result<bool, WriteError> {
        let (Some((begin, batches)), Some(open)) = (self.undo.take(), &mut self.file) else {
            return Ok(false);
        };
        let failed = |error: &io::Error, name: &str| {
            WriteError::Failed(format!("cannot take back a write to {name}: {error}"))
        };
        let cut = open.file.set_len(u64::from(begin));
        cut.map_err(|error| failed(&error, &open.name))?;
        let taken = u64::from(open.len - begin);
        (open.len, open.room) = (begin, Room::default());
        // A sync in the background that began before must not count for what is written here next.
        let synced = open.synced.load(Ordering::Acquire).min(begin);
        open.synced = Arc::new(AtomicU32::new(synced));
        self.batches = batches;
        // Whatever the durability: the offsets of its messages are handed out again, and would make it count.
        open.sync(shared)?;
        let mut states = shared.states();
        states.uncovered -= taken;
        states.active = Some(active(open));
        Ok(true)
    }

    /// Makes everything durable.
    pub(crate) fn flush(&self, shared: &Shared) -> Result<(), WriteError> {
        self.file.as_ref().map_or(Ok(()), |open| open.sync(shared))
    }

    /// The journal's number and length; its number is 0 if there is none.
    pub(crate) fn end(&self) -> (u64, u32) {
        self.file
            .as_ref()
            .map_or((0, 0), |open| (open.base, open.len))
    }

    fn encode(&mut self, changes: &[StateChange], with: Option<u64>) {
        self.buffer.clear();
        self.buffer.resize(BATCH_LEN, 0);
        if let Some(last) = with {
            record::put_with(&mut self.buffer, last);
        }
        for change in changes {
            record::put_state(&mut self.buffer, &change.name, change.value.as_deref());
        }
    }

    fn make_room(&mut self, shared: &Shared, storage: &dyn Storage) -> Result<(), WriteError> {
        let (number, len) = self.end();
        if self.file.is_none() {
            return self.begin(shared, storage, number + 1, 0);
        }
        let end = u64::from(len) + self.buffer.len() as u64;
        let large = end > JOURNAL_BYTES_MAX;
        let pays = shared.states().wants_snapshot(self.slack);
        if !large && !pays {
            return Ok(());
        }
        match self.rotate(shared, storage, number + 1) {
            Ok(()) => {}
            // The one that there is will do.
            Err(WriteError::Full) if !large => {
                shared.states().put_off(self.slack);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if pays {
            shared.states().rotate(number + 1);
        }
        Ok(())
    }

    /// Ends this journal and begins the next.
    fn rotate(
        &mut self,
        shared: &Shared,
        storage: &dyn Storage,
        number: u64,
    ) -> Result<(), WriteError> {
        let Some(open) = &mut self.file else {
            return Ok(());
        };
        let len = u64::from(open.len);
        let cut = open.file.set_len(len);
        cut.map_err(|error| classify("cut", &open.name, &error))?;
        open.room = Room::default();
        open.sync(shared)?;
        self.begin(shared, storage, number, len)
    }

    fn begin(
        &mut self,
        shared: &Shared,
        storage: &dyn Storage,
        number: u64,
        before: u64,
    ) -> Result<(), WriteError> {
        let name = FileKind::Journal.name(number);
        let header = Header {
            epoch: shared.epoch.0,
            number,
            before,
            magic: shared.magic,
        };
        let described = storage.describe(&name);
        let file = match create(storage, &name, &header) {
            Ok(file) => file,
            Err(error) => {
                if is_full(&error) {
                    take_away(storage, &name).map_err(|error| {
                        WriteError::Failed(format!(
                            "cannot remove {described}, which was not begun: {error}"
                        ))
                    })?;
                }
                return Err(classify("create", &described, &error));
            }
        };
        self.batches = 0;
        let open = OpenFile {
            name: described,
            base: number,
            file,
            len: HEADER_LEN as u32,
            room: Room::default(),
            synced: Arc::new(AtomicU32::new(HEADER_LEN as u32)),
            sealed: false,
        };
        self.file = Some(open);
        Ok(())
    }
}

pub(super) fn active(open: &OpenFile) -> ActiveJournal {
    ActiveJournal {
        name: open.name.clone(),
        file: Arc::clone(&open.file),
        len: open.len,
        synced: Arc::clone(&open.synced),
    }
}

fn create(storage: &dyn Storage, name: &str, header: &Header) -> io::Result<Arc<dyn StorageFile>> {
    let file = storage.create(name)?;
    file.write_at(&header.encode(FileKind::Journal), 0)?;
    file.sync()?;
    storage.sync_names()?;
    Ok(file)
}

/// Removes a journal that could not be begun, for good: the one before it goes on, and must be the newest after a
/// crash as well.
fn take_away(storage: &dyn Storage, name: &str) -> io::Result<()> {
    match storage.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => storage.sync_names(),
    }
}
