//! The log behind the hub.
//!
//! What every engine promises (E1 to E10 in `ARCHITECTURE.md`): committed batches reach the feed in offset
//! order, none twice; receipts and deliveries come only after the promised durability; what was committed
//! can be read until retention removes it; the same idempotency key within its window gives the same
//! receipt; every queue is bounded and says `Busy` at once; after a storage failure there are no more writes;
//! one offset order spans all topics; finding a position is an index look-up.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_types::{
    Batch, Draft, Epoch, Offset, Receipt, Refusal, RefusalCode, Storage, Timestamp, Topic,
    TopicFilter,
};

/// Who gets an answer: opaque to the engine, which hands it back to the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The shard.
    pub shard: usize,
    /// What waits there.
    pub token: u64,
}

/// Drafts and changes of states that are one unit: all of them count, or none, also after a crash at any moment and
/// when the storage refuses a part. The drafts are appended consecutively.
///
/// Of topics that are not stored durably nothing survives a restart, whatever was submitted with it: there the states
/// go with the drafts that are stored durably, and alone if none is. So do the states of drafts whose idempotency keys
/// are known: these drafts are there already.
#[derive(Debug)]
pub struct Submission {
    /// At least one draft or one state.
    pub drafts: Vec<Draft>,
    /// Kept with the drafts, each name's last change.
    pub states: Vec<StateChange>,
    /// Who gets the receipts, once the drafts and the states are as durable as was promised. Without drafts
    /// there are none, and the answer says that the states are kept.
    pub reply: Option<ReplyTo>,
}

/// A new value for a name, of which only the newest counts: a session's state, a queue's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The name.
    pub name: ByteString,
    /// The value; `None` forgets the name.
    pub value: Option<Bytes>,
}

/// Why a submission was not even queued. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The queue is at its bound.
    Busy,
    /// The log takes no writes any more (E7), or is closing.
    Failed,
}

/// Why a queued submission was not committed. Nothing of it was appended, or it is unknown whether it was
/// (`Failed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The disk, or the file size limit, is exhausted. A later submission may succeed.
    StorageFull,
    /// A write or sync failed; the log takes no writes until it is opened anew.
    Failed,
    /// The log knows as many topics as it may.
    TooManyTopics,
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy => Self::new(
                RefusalCode::Busy,
                "too many messages wait for the log: publish it again in a moment, with the same idempotency key",
            ),
            SubmitError::Failed => PublishError::Failed.into(),
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::StorageFull => Self::new(
                RefusalCode::StorageFull,
                "the message was not stored: free some space or lower the retention, then publish it again",
            ),
            PublishError::Failed => Self::new(
                RefusalCode::StorageFailed,
                "a write to the log failed; reading goes on: repair the storage, restart the server, then publish again with the same idempotency key",
            ),
            PublishError::TooManyTopics => Self::new(
                RefusalCode::TooManyTopics,
                "the server knows as many topics as `limits.topics_max` permits: publish to one that exists",
            ),
        }
    }
}

/// Where a read starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// After this offset. With `resume`, the reader claims to have seen everything up to it, and is told of
    /// a gap if something that matched was removed since.
    After {
        /// Exclusive.
        offset: Offset,
        /// Whether to look for a gap.
        resume: bool,
    },
    /// At the oldest of the newest N matching messages; N is at least 1.
    Last(u64),
    /// Only the retained message of each matching topic, in offset order, after this offset (0 for all).
    /// `Page::at_head` then says that there are no more of them; `scanned_to` is where to read on.
    Retained {
        /// Exclusive.
        after: Offset,
    },
}

/// A read of one page.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Messages that match any of these.
    pub filters: Arc<[TopicFilter]>,
    /// Where to start.
    pub from: ReadFrom,
    /// At most this many messages; at least 1.
    pub messages_max: usize,
    /// At most this many bytes of messages, but always one message if there is one.
    pub bytes_max: usize,
}

/// What a read found.
#[derive(Debug)]
pub struct Page {
    /// Matching messages in offset order, without expired ones.
    pub messages: Vec<Arc<tidings_types::Message>>,
    /// Every committed message up to and including this offset was considered: it is where to read on.
    pub scanned_to: Offset,
    /// Whether `scanned_to` was the head of the log when the page was read.
    pub at_head: bool,
    /// Something that matched and was after the start is not there any more, here or further on: the first
    /// offset that is still there, or the head if none is.
    pub gap: Option<Offset>,
    /// Where the topics' storage made that gap: `Durable` is retention, `Memory` a restart, `None` live-only.
    pub gap_storage: Storage,
}

/// Why a page could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The queue of reads is at its bound: ask again when another read has returned.
    Busy,
    /// The storage failed or its bytes are damaged; the log has recorded where.
    Storage,
}

/// One publisher's or reader's answer.
#[derive(Debug)]
pub enum Answer {
    /// Receipts in the order of the drafts, or why there are none.
    Published(Result<Vec<Receipt>, PublishError>),
    /// A page, or why there is none.
    Read(Result<Page, ReadError>),
}

/// What the engine's commit thread reports at once.
#[derive(Debug, Default)]
pub struct Commit {
    /// Newly committed messages, in offset order after every earlier commit's.
    pub batch: Option<Arc<Batch>>,
    /// Answers that became due with it.
    pub answers: Vec<(ReplyTo, Answer)>,
}

/// Where an engine reports to. Called from the engine's threads; never blocks.
pub trait Feed: Send + Sync {
    /// From the commit thread, in commit order. Receipts are handed on before the batch.
    fn committed(&self, commit: Commit);
    /// From a reading thread: one page.
    fn read(&self, reply: ReplyTo, result: Result<Page, ReadError>);
}

/// Whether the engine takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineHealth {
    /// It does.
    Writable,
    /// The last submission found the storage full.
    Full,
    /// Not until it is opened anew; the text says what failed.
    Failed(String),
}

/// One topic in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// Messages that can be read, as near as the index knows without reading them.
    pub messages: u64,
    /// The newest message.
    pub last: Offset,
    /// When that was committed.
    pub last_time: Timestamp,
    /// Whether it has a retained message.
    pub retained: bool,
}

/// A page of the topic list, in the order of the names' bytes.
#[derive(Clone, Debug)]
pub struct TopicsQuery {
    /// Topics that match this.
    pub filter: TopicFilter,
    /// Names after this one.
    pub after: Option<Topic>,
    /// At most this many.
    pub limit: usize,
}

/// What a topic listing found.
#[derive(Clone, Debug, Default)]
pub struct TopicsPage {
    /// In order.
    pub topics: Vec<TopicInfo>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Numbers for `/metrics`. Counters count since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Messages committed.
    pub messages: u64,
    /// Bytes written to the storage.
    pub bytes_written: u64,
    /// Batches committed.
    pub batches: u64,
    /// Syncs of the storage.
    pub syncs: u64,
    /// Microseconds spent in writes and syncs.
    pub commit_us: u64,
    /// Publishes that got an earlier receipt by their idempotency key.
    pub replays: u64,
    /// Idempotency keys forgotten before their window passed.
    pub keys_evicted: u64,
    /// Submissions refused because the queue was full.
    pub busy: u64,
    /// Submissions refused because the storage was full.
    pub full: u64,
    /// Submissions refused because the log had failed.
    pub failed: u64,
    /// Messages removed by retention.
    pub removed: u64,
    /// Pages read.
    pub pages_read: u64,
    /// Messages read.
    pub messages_read: u64,
    /// Reads that found damaged or unreadable bytes.
    pub read_errors: u64,
    /// Gauge: segments.
    pub segments: u64,
    /// Gauge: bytes in the storage.
    pub bytes_stored: u64,
    /// Gauge: bytes held in memory by topics with `storage = memory`.
    pub bytes_memory: u64,
    /// Gauge: topics.
    pub topics: u64,
    /// Gauge: idempotency keys remembered.
    pub keys: u64,
    /// Gauge: messages and state changes waiting to be committed.
    pub queued: u64,
    /// State changes written.
    pub states_written: u64,
    /// Gauge: names whose state is kept.
    pub states: u64,
}

/// The log behind the hub.
pub trait Engine: Send + Sync {
    /// The log's identity; never changes while it is open.
    fn epoch(&self) -> Epoch;
    /// The last committed offset. A message is in the feed, or on its way there, before it shows here.
    fn head(&self) -> Offset;
    /// Queues drafts; the answer comes through the feed. Never blocks.
    fn submit(&self, submission: Submission) -> Result<(), SubmitError>;
    /// Queues a read; the answer comes through the feed. Never blocks; `Busy` is the only error here.
    fn read(&self, request: ReadRequest, reply: ReplyTo) -> Result<(), ReadError>;
    /// Every name whose state is kept, with its newest value, in no order. For starting up: it copies.
    fn states(&self) -> Vec<(ByteString, Bytes)>;
    /// Lists topics, from memory.
    fn topics(&self, query: &TopicsQuery) -> TopicsPage;
    /// Whether writes are taken.
    fn health(&self) -> EngineHealth;
    /// Numbers for `/metrics`.
    fn stats(&self) -> EngineStats;
    /// Commits what is queued, syncs, and takes no more submissions. Blocks until done.
    fn close(&self);
}

impl fmt::Display for EngineHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writable => f.write_str("writable"),
            Self::Full => f.write_str("the storage is full"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}
