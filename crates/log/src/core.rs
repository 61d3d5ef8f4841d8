//! The log without threads: the engine puts threads around it, a simulation drives it step by step.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{
    Clock, Commit, EngineHealth, EngineStats, Page, ReadError, ReadRequest, Submission, TopicsPage,
    TopicsQuery,
};
use tidings_types::{Epoch, Offset};

use crate::config::{LogConfig, Place};
use crate::error::OpenError;
use crate::keeper::Keeper;
use crate::meta::Clean;
use crate::state::Shared;
use crate::storage::{DirectoryStorage, LockError, MemoryStorage, Storage};
use crate::writer::Writer;
use crate::{reader, recovery};

/// An open log. Every call does its work before it returns.
#[derive(Debug)]
pub struct LogCore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    pub(crate) keeper: Keeper,
}

/// The storage that a configuration names, locked.
pub(crate) fn storage_of(config: &LogConfig) -> Result<Arc<dyn Storage>, OpenError> {
    match &config.place {
        Place::Memory => Ok(Arc::new(MemoryStorage::default())),
        Place::Directory(path) => match DirectoryStorage::open(path) {
            Ok(storage) => Ok(Arc::new(storage)),
            Err(LockError::Held { pid }) => Err(OpenError::Locked {
                directory: path.clone(),
                pid,
            }),
            Err(LockError::Io(source)) => Err(OpenError::Io {
                what: format!("open the data directory {}", path.display()),
                source,
            }),
        },
    }
}

impl LogCore {
    /// Opens the log that the configuration names, or begins one.
    pub fn open(config: LogConfig, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_on(storage_of(&config)?, config, clock)
    }

    /// The same on a storage of the caller's, whatever the configuration names.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "who opens a log gives it its storage, as with the engine"
    )]
    pub fn open_on(
        storage: Arc<dyn Storage>,
        config: LogConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let writer = recovery::open(&storage, config.bounded(), clock)?;
        let shared = Arc::clone(&writer.shared);
        let mut keeper = Keeper::new(Arc::clone(&shared));
        // What retention removed before must not come back for a moment.
        keeper.retain();
        shared.state_mut().table.doubt();
        Ok(Self {
            shared,
            writer,
            keeper,
        })
    }

    /// Appends what was submitted as one batch.
    pub fn append(&mut self, submissions: Vec<Submission>) -> Commit {
        self.writer.append(submissions)
    }

    /// Reads one page.
    pub fn read(&self, request: &ReadRequest) -> Result<Page, ReadError> {
        reader::read(&self.shared, request)
    }

    /// Applies retention as of now, writes what indexes are due, drops and compacts segments.
    pub fn keep(&mut self) {
        self.keeper.keep();
    }

    /// Makes durable what `durability = os` has not yet.
    pub fn sync(&mut self) {
        self.keeper.sync();
    }

    /// The log's identity.
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// The last committed offset.
    pub fn head(&self) -> Offset {
        Offset(self.shared.state().head)
    }

    /// Every name whose state is kept, with its newest value.
    pub fn states(&self) -> Vec<(ByteString, Bytes)> {
        self.shared.states().map.all()
    }

    /// Lists topics.
    pub fn topics(&self, query: &TopicsQuery) -> TopicsPage {
        self.shared.state().table.list(query)
    }

    /// Whether writes are taken.
    pub fn health(&self) -> EngineHealth {
        self.shared.health()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Syncs, and marks a clean end. Dropping a log without this is like a crash of the process.
    pub fn close(mut self) {
        close(&mut self.writer);
    }
}

/// Syncs, and marks a clean end, unless a write failed before.
pub(crate) fn close(writer: &mut Writer) {
    let shared = Arc::clone(&writer.shared);
    if shared.is_failed() {
        return;
    }
    let flushed = writer.journal.flush(&shared);
    if let Err(error) = flushed.and_then(|()| writer.durable.flush(&shared)) {
        shared.fail(format!("cannot sync the log at its end: {error:?}"));
        return;
    }
    let (storage, last_base) = {
        let state = shared.state();
        let active = state.durable.active.as_ref().map(|active| active.base);
        let newest = state.durable.sealed.last().map(|segment| segment.base);
        let base = active.or(newest).unwrap_or(0);
        (Arc::clone(&state.durable.storage), base)
    };
    let clean = Clean {
        next: writer.next,
        last_base,
        end: writer.durable.end().1,
        states: writer.journal.end(),
    };
    // Without the mark the next opening only takes longer.
    if let Err(error) = clean.store(&*storage) {
        tracing::warn!(%error, "cannot leave the mark of a clean end");
    }
    shared.close();
}
