//! What reaches a shard from outside its thread: committed batches, and answers of the engine.
//!
//! An inbox is bounded. When a shard falls so far behind that its inbox is full of batches, the batches are
//! dropped and the shard is told to what offset: its live subscriptions then read the log. Answers are
//! bounded by what the shard asked for, so they are never dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytestring::ByteString;
use tidings_ports::{Answer, Commit, Feed, Page, Permission, ReadError, ReplyTo, Tag};
use tidings_types::{Batch, Limits, Message, Offset, Principal, Refusal, Storage, Topic};

use crate::queue::{MemberId, QueueId, Request, Settled, Told};
use crate::shard::{ConnectionId, Recheck, Renewal, SubscriptionId};

/// Live-only topics named in one `Lagged` note; over it every subscription is told of a gap.
const LIVE_ONLY_TOPICS_MAX: usize = 256;

/// Batches that did not fit.
#[derive(Debug, Default)]
pub(crate) struct Lagged {
    /// The last offset that was dropped.
    pub to: Offset,
    /// The topics of dropped messages that are in no log.
    pub live_only: Vec<Topic>,
    /// Whether there were more such topics than are named.
    pub live_only_more: bool,
}

/// One thing to do for a shard.
#[derive(Debug)]
pub(crate) enum Note {
    /// Committed messages, after those of every earlier note.
    Batch(Arc<Batch>),
    /// Batches are missing here.
    Lagged(Lagged),
    /// The engine answers.
    Answer(u64, Answer),
    /// A member asks something of a queue of this shard.
    Request(ByteString, MemberId, Request),
    /// A queue tells a member on this shard something.
    Told(SubscriptionId, Told),
    /// What became of a verdict, by this shard's token.
    Settled(u64, Settled),
    /// A message of a queue of this shard was not delivered to the member that it was handed to, which may have left
    /// it meanwhile.
    GivenBack {
        queue: QueueId,
        member: MemberId,
        /// How often the member was to be told that it was delivered before.
        told: u32,
        message: Arc<Message>,
    },
    /// Who the peer of a connection is, or why that is not believed.
    Identified(ConnectionId, Tag, Result<Arc<Principal>, Refusal>),
    /// Something was revoked or read again: who the peers are is asked anew.
    Recheck(Arc<Recheck>),
    /// The peer of a connection has shown a new credential elsewhere.
    Renew(ConnectionId, Renewal),
    /// What is permitted of the command of this number that a connection waits with.
    Permitted(ConnectionId, u64, Permission),
    /// Whether a connection's subscription may go on.
    Repermitted(ConnectionId, SubscriptionId, Permission),
}

#[derive(Debug, Default)]
struct Waiting {
    notes: VecDeque<Note>,
    batches: usize,
    bytes: usize,
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// The inbox of one shard.
pub struct Inbox {
    waiting: Mutex<Waiting>,
    /// Whether something waits. Written under the lock; read without it, as a hint.
    is_waiting: AtomicBool,
    wake: OnceLock<Wake>,
    batches_max: usize,
    bytes_max: usize,
}

impl Inbox {
    fn new(limits: &Limits) -> Self {
        Self {
            waiting: Mutex::default(),
            is_waiting: AtomicBool::new(false),
            wake: OnceLock::new(),
            batches_max: limits.inbox_batches_max,
            bytes_max: limits.inbox_bytes_max,
        }
    }

    /// Sets what is called, from any thread, when something arrives in an empty inbox. The first call
    /// counts.
    pub fn on_arrival(&self, wake: impl Fn() + Send + Sync + 'static) {
        let set = self.wake.set(Box::new(wake));
        debug_assert!(set.is_ok(), "an inbox has one owner");
    }

    /// Has the shard come back to its inbox soon, after others had their turn.
    pub(crate) fn call(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Whether something waits, or does so a moment later.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Relaxed)
    }

    /// Takes everything that waits, into an empty queue.
    pub(crate) fn take(&self, into: &mut VecDeque<Note>) {
        debug_assert!(into.is_empty());
        let mut waiting = self.lock();
        std::mem::swap(&mut waiting.notes, into);
        waiting.batches = 0;
        waiting.bytes = 0;
        self.is_waiting.store(false, Relaxed);
    }

    fn put(&self, put: impl FnOnce(&mut Waiting)) {
        let was_empty = {
            let mut waiting = self.lock();
            let was_empty = waiting.notes.is_empty();
            put(&mut waiting);
            self.is_waiting.store(!waiting.notes.is_empty(), Relaxed);
            was_empty && !waiting.notes.is_empty()
        };
        if was_empty {
            self.call();
        }
    }

    fn put_batch(&self, waiting: &mut Waiting, batch: &Arc<Batch>) {
        let full = waiting.batches >= self.batches_max || waiting.bytes >= self.bytes_max;
        if !full {
            waiting.batches += 1;
            waiting.bytes += batch.bytes;
            waiting.notes.push_back(Note::Batch(Arc::clone(batch)));
            return;
        }
        // Other notes may stand behind the last dropped batch; they do not depend on its place.
        let last = waiting
            .notes
            .iter_mut()
            .rev()
            .find(|note| matches!(note, Note::Batch(_) | Note::Lagged(_)));
        let mut fresh = Lagged::default();
        let lagged = match last {
            Some(Note::Lagged(lagged)) => lagged,
            _ => &mut fresh,
        };
        lagged.to = batch.last();
        for message in batch
            .messages
            .iter()
            .filter(|message| message.storage == Storage::None)
        {
            if lagged.live_only.contains(&message.topic) {
                continue;
            }
            if lagged.live_only.len() < LIVE_ONLY_TOPICS_MAX {
                lagged.live_only.push(message.topic.clone());
            } else {
                lagged.live_only_more = true;
            }
        }
        if fresh.to > Offset::ZERO {
            waiting.notes.push_back(Note::Lagged(fresh));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The inboxes of all shards: the feed that the engine reports to.
pub struct Inboxes {
    inboxes: Vec<Arc<Inbox>>,
}

impl Inboxes {
    /// One inbox for each of `shards` shards.
    #[must_use]
    pub fn new(shards: usize, limits: &Limits) -> Self {
        Self {
            inboxes: (0..shards).map(|_| Arc::new(Inbox::new(limits))).collect(),
        }
    }

    /// How many shards there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.inboxes.len()
    }

    /// Passes a note of one shard to another. What shards ask of each other is bounded by what members of work
    /// queues may have unacknowledged, so it is never dropped.
    pub(crate) fn send(&self, shard: usize, note: Note) {
        self.inboxes[shard].put(|waiting| waiting.notes.push_back(note));
    }

    /// Has every shard ask again who its peers are, with [`Authenticator::standing`](tidings_ports::Authenticator). What
    /// was revoked must have been revoked before. `done` is told how many connections ended, when all are through.
    pub fn recheck(&self, done: impl FnOnce(u64) + Send + 'static) {
        let recheck = Arc::new(Recheck::new(Box::new(done)));
        for shard in 0..self.len() {
            self.send(shard, Note::Recheck(Arc::clone(&recheck)));
        }
    }

    /// The inbox of a shard.
    #[must_use]
    pub fn of(&self, shard: usize) -> Arc<Inbox> {
        Arc::clone(&self.inboxes[shard])
    }
}

impl Feed for Inboxes {
    fn committed(&self, commit: Commit) {
        let Commit { batch, answers } = commit;
        let mut by_shard: Vec<Vec<(u64, Answer)>> = Vec::new();
        by_shard.resize_with(self.inboxes.len(), Vec::new);
        for (reply, answer) in answers {
            by_shard[reply.shard].push((reply.token, answer));
        }
        for (inbox, answers) in self.inboxes.iter().zip(by_shard) {
            if answers.is_empty() && batch.is_none() {
                continue;
            }
            inbox.put(|waiting| {
                // Receipts come before the fan-out: a publisher that also subscribes learns its offset first.
                for (token, answer) in answers {
                    waiting.notes.push_back(Note::Answer(token, answer));
                }
                if let Some(batch) = &batch {
                    inbox.put_batch(waiting, batch);
                }
            });
        }
    }

    fn read(&self, reply: ReplyTo, result: Result<Page, ReadError>) {
        self.inboxes[reply.shard].put(|waiting| {
            waiting
                .notes
                .push_back(Note::Answer(reply.token, Answer::Read(result)));
        });
    }
}
