//! Threads around the core: one commits, two read, one keeps.
//!
//! - `submit` and `read` only queue, and say `Busy` at the bound.
//! - The commit thread takes all that waits, up to a bound, as one batch (group commit): under load a sync is
//!   shared by what arrived during the one before, and without load nothing waits for company.
//! - A batch is readable, and `head` shows it, before its receipts go out: who has a receipt can read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{
    Answer, Clock, Commit, Engine, EngineHealth, EngineStats, Feed, PublishError, ReadError,
    ReadRequest, ReplyTo, Submission, SubmitError, TopicsPage, TopicsQuery,
};
use tidings_types::{Draft, Epoch, Offset};

use crate::config::LogConfig;
use crate::core::{LogCore, close, storage_of};
use crate::error::OpenError;
use crate::keeper::Keeper;
use crate::reader;
use crate::state::{Shared, count};
use crate::storage::Storage;
use crate::writer::Writer;

const READERS: usize = 2;
/// One batch takes no more than this, so that nobody's receipt waits for a very long write.
const BATCH_MESSAGES_MAX: usize = 4_096;
const BATCH_BYTES_MAX: usize = 4 << 20;
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// The log behind a server.
pub struct EmbeddedEngine {
    shared: Arc<Shared>,
    feed: Arc<dyn Feed>,
    commits: Arc<Queue<Submission>>,
    reads: Arc<Queue<(ReadRequest, ReplyTo)>>,
    keeping: Arc<Queue<()>>,
    head: Arc<AtomicU64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A bounded queue that one side never waits on.
struct Queue<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
    closed: AtomicBool,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    messages: usize,
    bytes: usize,
}

impl<T> Queue<T> {
    fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                messages: 0,
                bytes: 0,
            }),
            filled: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let _guard = self.lock();
        self.closed.store(true, Ordering::Release);
        self.filled.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until there is something, or the queue is closed and empty.
    fn wait(&self) -> MutexGuard<'_, Inner<T>> {
        let mut inner = self.lock();
        while inner.waiting.is_empty() && !self.is_closed() {
            inner = self
                .filled
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inner
    }
}

/// What a submission counts for in the queue: drafts and changes of states, and their bytes.
fn size(submission: &Submission) -> (usize, usize) {
    let drafts = submission.drafts.iter().map(Draft::size);
    let states = submission.states.iter().map(|change| {
        let value = change.value.as_ref().map_or(0, Bytes::len);
        change.name.len() + value
    });
    let count = submission.drafts.len() + submission.states.len();
    (count, drafts.chain(states).sum())
}

impl EmbeddedEngine {
    /// Opens the log that the configuration names, or begins one, and starts its threads.
    pub fn open(
        config: LogConfig,
        clock: Arc<dyn Clock>,
        feed: Arc<dyn Feed>,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_on(storage_of(&config)?, config, clock, feed)
    }

    /// The same on a storage of the caller's, whatever the configuration names.
    pub fn open_on(
        storage: Arc<dyn Storage>,
        config: LogConfig,
        clock: Arc<dyn Clock>,
        feed: Arc<dyn Feed>,
    ) -> Result<Arc<Self>, OpenError> {
        let LogCore {
            shared,
            writer,
            keeper,
        } = LogCore::open_on(storage, config, clock)?;
        let head = shared.state().head;
        let engine = Arc::new(Self {
            shared,
            feed,
            commits: Arc::new(Queue::new()),
            reads: Arc::new(Queue::new()),
            keeping: Arc::new(Queue::new()),
            head: Arc::new(AtomicU64::new(head)),
            threads: Mutex::default(),
        });
        engine.start(writer, keeper)?;
        Ok(engine)
    }

    fn start(&self, writer: Writer, keeper: Keeper) -> Result<(), OpenError> {
        let mut threads = Vec::new();
        let mut spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name).spawn(run);
            thread
                .map(|thread| threads.push(thread))
                .map_err(OpenError::io("start a thread of the log"))
        };
        let committer = Committer {
            writer,
            queue: Arc::clone(&self.commits),
            feed: Arc::clone(&self.feed),
            head: Arc::clone(&self.head),
        };
        spawn("log-commit".into(), Box::new(move || committer.run()))?;
        for number in 0..READERS {
            let (shared, feed) = (Arc::clone(&self.shared), Arc::clone(&self.feed));
            let queue = Arc::clone(&self.reads);
            let run = move || read_pages(&shared, &*feed, &queue);
            spawn(format!("log-read-{number}"), Box::new(run))?;
        }
        let queue = Arc::clone(&self.keeping);
        spawn("log-keep".into(), Box::new(move || keep(keeper, &queue)))?;
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(())
    }
}

struct Committer {
    writer: Writer,
    queue: Arc<Queue<Submission>>,
    feed: Arc<dyn Feed>,
    head: Arc<AtomicU64>,
}

/// If the commit thread dies of a defect, publishers must learn that nobody commits any more.
struct Sentinel(Arc<Shared>);

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .fail("the thread that writes the log ended by a defect".to_owned());
        }
    }
}

impl Committer {
    fn run(mut self) {
        let _sentinel = Sentinel(Arc::clone(&self.writer.shared));
        loop {
            let submissions = self.take();
            if submissions.is_empty() {
                break;
            }
            let commit = self.writer.append(submissions);
            let head = self.writer.shared.state().head;
            self.head.store(head, Ordering::Release);
            if commit.batch.is_some() || !commit.answers.is_empty() {
                self.feed.committed(commit);
            }
        }
        close(&mut self.writer);
    }

    fn take(&self) -> Vec<Submission> {
        let mut inner = self.queue.wait();
        let (mut taken, mut messages, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = inner.waiting.front() {
            let (more_messages, more_bytes) = size(next);
            let over = messages + more_messages > BATCH_MESSAGES_MAX
                || bytes + more_bytes > BATCH_BYTES_MAX;
            if over && !taken.is_empty() {
                break;
            }
            messages += more_messages;
            bytes += more_bytes;
            taken.extend(inner.waiting.pop_front());
        }
        inner.messages -= messages;
        inner.bytes -= bytes;
        let queued = inner.messages as u64;
        let counters = &self.writer.shared.counters;
        counters.queued.store(queued, Ordering::Relaxed);
        taken
    }
}

fn read_pages(shared: &Shared, feed: &dyn Feed, queue: &Queue<(ReadRequest, ReplyTo)>) {
    loop {
        let next = queue.wait().waiting.pop_front();
        let Some((request, reply)) = next else {
            return;
        };
        feed.read(reply, reader::read(shared, &request));
    }
}

fn keep(mut keeper: Keeper, queue: &Queue<()>) {
    let _sentinel = Sentinel(Arc::clone(keeper.shared()));
    while !queue.is_closed() {
        keeper.sync();
        keeper.keep();
        let inner = queue.lock();
        if !queue.is_closed() {
            let waited = queue.filled.wait_timeout(inner, KEEP_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Engine for EmbeddedEngine {
    fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    fn head(&self) -> Offset {
        Offset(self.head.load(Ordering::Acquire))
    }

    fn submit(&self, submission: Submission) -> Result<(), SubmitError> {
        let counters = &self.shared.counters;
        if self.shared.is_failed() {
            count(&counters.failed, 1);
            return Err(SubmitError::Failed);
        }
        let limits = &self.shared.config.limits;
        let (messages, bytes) = size(&submission);
        let mut inner = self.commits.lock();
        if self.commits.is_closed() {
            count(&counters.failed, 1);
            return Err(SubmitError::Failed);
        }
        // What is over a bound by itself is still taken by an empty queue, or it could never be published.
        let over = inner.messages + messages > limits.submit_messages_max
            || inner.bytes + bytes > limits.submit_bytes_max;
        if over && !inner.waiting.is_empty() {
            count(&counters.busy, 1);
            return Err(SubmitError::Busy);
        }
        inner.messages += messages;
        inner.bytes += bytes;
        counters
            .queued
            .store(inner.messages as u64, Ordering::Relaxed);
        let idle = inner.waiting.is_empty();
        inner.waiting.push_back(submission);
        drop(inner);
        if idle {
            self.commits.filled.notify_one();
        }
        Ok(())
    }

    fn read(&self, request: ReadRequest, reply: ReplyTo) -> Result<(), ReadError> {
        let mut inner = self.reads.lock();
        let full = inner.waiting.len() >= self.shared.config.limits.reads_max;
        if full || self.reads.is_closed() {
            return Err(ReadError::Busy);
        }
        inner.waiting.push_back((request, reply));
        drop(inner);
        self.reads.filled.notify_one();
        Ok(())
    }

    fn states(&self) -> Vec<(ByteString, Bytes)> {
        self.shared.states().map.all()
    }

    fn topics(&self, query: &TopicsQuery) -> TopicsPage {
        self.shared.state().table.list(query)
    }

    fn health(&self) -> EngineHealth {
        self.shared.health()
    }

    fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    fn close(&self) {
        // Readers and the keeper first, so that nothing changes files once the clean end is marked.
        self.reads.close();
        self.keeping.close();
        self.commits.close();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..).rev() {
            let name = thread.thread().name().unwrap_or("log").to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread of the log ended by a defect");
            }
        }
        // A commit thread that died left submissions behind.
        let mut inner = self.commits.lock();
        let left = inner.waiting.drain(..);
        let failed = || Answer::Published(Err(PublishError::Failed));
        let answers: Vec<_> = left
            .filter_map(|left| Some((left.reply?, failed())))
            .collect();
        drop(inner);
        if !answers.is_empty() {
            self.feed.committed(Commit {
                batch: None,
                answers,
            });
        }
    }
}

impl Drop for EmbeddedEngine {
    fn drop(&mut self) {
        self.close();
    }
}
