//! What the threads of a log share: the table, the segments of both chains, counters and health.
//!
//! Invariant: the lock is never held over a read, a write or a sync of the storage.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tidings_ports::{Clock, EngineHealth, EngineStats};
use tidings_types::{Epoch, Storage as Class};

use crate::config::LogConfig;
use crate::segment::{MemoryIndex, Segment};
use crate::states::States;
use crate::storage::{Storage, StorageFile};
use crate::table::Table;

/// What all parts of an open log share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: LogConfig,
    pub(crate) clock: ClockRef,
    pub(crate) epoch: Epoch,
    /// The head when the log was opened: what is up to it may have been lost if it was not durable.
    pub(crate) start: u64,
    /// Durable messages up to here may have been lost when it was opened; 0 if none can be.
    pub(crate) lost_to: u64,
    pub(crate) magic: u64,
    pub(crate) secret: [u8; 16],
    /// The id of the next segment to be created.
    pub(crate) next_segment: AtomicU64,
    pub(crate) counters: Counters,
    state: RwLock<State>,
    states: Mutex<States>,
    failed: AtomicBool,
    health: Mutex<EngineHealth>,
}

/// A clock that can be printed.
#[derive(Clone)]
pub(crate) struct ClockRef(pub(crate) Arc<dyn Clock>);

impl std::fmt::Debug for ClockRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// What is behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    /// The last committed offset.
    pub(crate) head: u64,
    /// No message is older than one before it: the wall clock may go back, the log's does not.
    pub(crate) last_time: u64,
    pub(crate) table: Table,
    pub(crate) durable: Chain,
    pub(crate) memory: Chain,
}

/// One sequence of segments.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) storage: Arc<dyn Storage>,
    /// In offset order.
    pub(crate) sealed: Arc<Vec<Arc<Segment>>>,
    pub(crate) active: Option<Active>,
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) name: String,
    pub(crate) base: u64,
    pub(crate) id: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) index: MemoryIndex,
    pub(crate) len: u32,
    pub(crate) last: u64,
    pub(crate) last_time: u64,
    /// By class, as in `Segment`.
    pub(crate) live: Vec<u64>,
    /// How much of the file is on the disk for sure.
    pub(crate) synced: Arc<AtomicU32>,
}

impl Chain {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            sealed: Arc::default(),
            active: None,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|s| u64::from(s.len)).sum();
        sealed + self.active.as_ref().map_or(0, |a| u64::from(a.len))
    }

    pub(crate) fn segments(&self) -> u64 {
        (self.sealed.len() + usize::from(self.active.is_some())) as u64
    }
}

impl State {
    pub(crate) fn chain(&self, class: Class) -> &Chain {
        match class {
            Class::Memory => &self.memory,
            Class::Durable | Class::None => &self.durable,
        }
    }

    pub(crate) fn chain_mut(&mut self, class: Class) -> &mut Chain {
        match class {
            Class::Memory => &mut self.memory,
            Class::Durable | Class::None => &mut self.durable,
        }
    }
}

macro_rules! counters {
    ($($name:ident,)*) => {
        /// Counters as in [`EngineStats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        impl Counters {
            fn read(&self) -> EngineStats {
                EngineStats { $($name: self.$name.load(Ordering::Relaxed),)* ..EngineStats::default() }
            }
        }
    };
}

counters! {
    messages, bytes_written, batches, syncs, commit_us, replays, keys_evicted, busy, full, failed, removed,
    pages_read, messages_read, read_errors, keys, queued, states_written,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// What `Shared` is made of.
pub(crate) struct SharedParts {
    pub(crate) config: LogConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) epoch: Epoch,
    pub(crate) magic: u64,
    pub(crate) secret: [u8; 16],
    pub(crate) next_segment: u64,
    pub(crate) lost_to: u64,
    pub(crate) state: State,
    pub(crate) states: States,
}

impl Shared {
    pub(crate) fn new(parts: SharedParts) -> Self {
        Self {
            config: parts.config,
            clock: ClockRef(parts.clock),
            epoch: parts.epoch,
            start: parts.state.head,
            lost_to: parts.lost_to,
            magic: parts.magic,
            secret: parts.secret,
            next_segment: AtomicU64::new(parts.next_segment),
            counters: Counters::default(),
            state: RwLock::new(parts.state),
            states: Mutex::new(parts.states),
            failed: AtomicBool::new(false),
            health: Mutex::new(EngineHealth::Writable),
        }
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken after `state`, where both are.
    pub(crate) fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.0.now().0
    }

    /// No write follows (E7): the first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.failed.swap(true, Ordering::AcqRel) {
            tracing::error!(reason, "the log takes no writes until it is opened again");
            *health = EngineHealth::Failed(reason);
        }
    }

    /// No write follows, and none is wanted.
    pub(crate) fn close(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.failed.swap(true, Ordering::AcqRel) {
            *health = EngineHealth::Failed("the log is closed".to_owned());
        }
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn set_full(&self, full: bool) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let new = if full {
            EngineHealth::Full
        } else {
            EngineHealth::Writable
        };
        if !self.is_failed() && *health != new {
            *health = new;
        }
    }

    pub(crate) fn health(&self) -> EngineHealth {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.clone()
    }

    pub(crate) fn stats(&self) -> EngineStats {
        let state = self.state();
        let states = self.states();
        EngineStats {
            segments: state.durable.segments(),
            bytes_stored: state.durable.bytes() + states.bytes(),
            states: states.map.names(),
            bytes_memory: state.memory.bytes(),
            topics: state.table.len() as u64,
            ..self.counters.read()
        }
    }
}
