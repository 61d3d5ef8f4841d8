//! The real log's core as an engine whose every step the simulation takes itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use bytestring::ByteString;
use tidings_log::storage::SimStorage;
use tidings_log::{LogConfig, LogCore};
use tidings_ports::{
    Clock, Commit, Engine, EngineHealth, EngineStats, Feed, ManualClock, ReadError, ReadRequest,
    ReplyTo, Submission, SubmitError, TopicsPage, TopicsQuery,
};
use tidings_types::{Epoch, Offset};

/// Queues that are small enough to overflow.
const SUBMISSIONS_MAX: usize = 12;
const READS_MAX: usize = 3;

pub struct SimEngine {
    core: Mutex<LogCore>,
    epoch: Epoch,
    submissions: Mutex<VecDeque<Submission>>,
    reads: Mutex<VecDeque<(ReadRequest, ReplyTo)>>,
    /// Whether every submission is refused for now.
    busy: AtomicBool,
    /// Whether what is read is damaged for now.
    damaged: AtomicBool,
}

impl SimEngine {
    pub fn open(config: LogConfig, storage: &SimStorage, clock: &Arc<ManualClock>) -> Option<Self> {
        let clock: Arc<dyn Clock> = clock.clone();
        let core = LogCore::open_on(Arc::new(storage.clone()), config, clock).ok()?;
        Some(Self {
            epoch: core.epoch(),
            core: Mutex::new(core),
            submissions: Mutex::default(),
            reads: Mutex::default(),
            busy: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        })
    }

    /// Commits some of what waits. `spy` sees it before the shards do.
    pub fn commit(&self, some: usize, feed: &dyn Feed, spy: impl FnOnce(&Commit)) {
        let taken: Vec<Submission> = {
            let mut waiting = self.submissions.lock().unwrap();
            let count = some.min(waiting.len());
            waiting.drain(..count).collect()
        };
        if taken.is_empty() {
            return;
        }
        let commit = self.core.lock().unwrap().append(taken);
        spy(&commit);
        feed.committed(commit);
    }

    /// Answers one read, not always the oldest.
    pub fn read_one(&self, which: usize, feed: &dyn Feed) {
        let next = {
            let mut waiting = self.reads.lock().unwrap();
            if waiting.is_empty() {
                return;
            }
            let at = which % waiting.len();
            waiting.remove(at)
        };
        if let Some((request, reply)) = next {
            let result = if self.damaged.load(Ordering::Relaxed) {
                Err(ReadError::Storage)
            } else {
                self.core.lock().unwrap().read(&request)
            };
            feed.read(reply, result);
        }
    }

    /// Retention, indexes and compaction.
    pub fn keep(&self) {
        self.core.lock().unwrap().keep();
    }

    /// A read that no subscription makes, for the checks.
    pub fn look(&self, request: &ReadRequest) -> Result<tidings_ports::Page, ReadError> {
        self.core.lock().unwrap().read(request)
    }

    pub fn be_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    pub fn be_damaged(&self, damaged: bool) {
        self.damaged.store(damaged, Ordering::Relaxed);
    }

    pub fn waits(&self) -> bool {
        !self.submissions.lock().unwrap().is_empty() || !self.reads.lock().unwrap().is_empty()
    }
}

impl Engine for SimEngine {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn head(&self) -> Offset {
        self.core.lock().unwrap().head()
    }

    fn submit(&self, submission: Submission) -> Result<(), SubmitError> {
        if let EngineHealth::Failed(_) = self.health() {
            return Err(SubmitError::Failed);
        }
        let mut waiting = self.submissions.lock().unwrap();
        if waiting.len() >= SUBMISSIONS_MAX || self.busy.load(Ordering::Relaxed) {
            return Err(SubmitError::Busy);
        }
        waiting.push_back(submission);
        Ok(())
    }

    fn read(&self, request: ReadRequest, reply: ReplyTo) -> Result<(), ReadError> {
        let mut waiting = self.reads.lock().unwrap();
        if waiting.len() >= READS_MAX {
            return Err(ReadError::Busy);
        }
        waiting.push_back((request, reply));
        Ok(())
    }

    fn states(&self) -> Vec<(ByteString, Bytes)> {
        self.core.lock().unwrap().states()
    }

    fn topics(&self, _query: &TopicsQuery) -> TopicsPage {
        TopicsPage::default()
    }

    fn health(&self) -> EngineHealth {
        self.core.lock().unwrap().health()
    }

    fn stats(&self) -> EngineStats {
        self.core.lock().unwrap().stats()
    }

    fn close(&self) {}
}
