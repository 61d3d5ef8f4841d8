//! What waits for an answer of the engine.

use bytestring::ByteString;
use slab::Slab;
use tidings_ports::{Gap, Page, Tag};
use tidings_types::{Draft, Offset, Receipt, Refusal};

use super::connection::ConnectionId;
use super::subscription::SubscriptionId;
use crate::gate::Admitted;
use crate::queue::QueueId;
use crate::states::Written;

/// Called with the answer to a publish that no conversation made.
pub type PublishReply = Box<dyn FnOnce(Result<Vec<Receipt>, Refusal>)>;
/// Called with the answer to a read that no subscription made: a page, and the gap before it.
pub type ReadReply = Box<dyn FnOnce(Result<(Page, Option<Gap>), Refusal>)>;
pub(super) type PageReply = Box<dyn FnOnce(Result<Page, Refusal>)>;

/// Who waits.
pub(super) enum Waiter {
    Publish {
        whose: Publisher,
        /// The session's state that is written with it.
        state: Option<ByteString>,
    },
    LocalPublish(PublishReply),
    States(Vec<Written>),
    Will(Box<DueWill>),
    Page(SubscriptionId),
    LocalRead(PageReply),
    /// Of a queue: its returned messages, from this one on.
    Fetch(QueueId, Offset),
    /// Of a queue: a message that it gave up.
    Letter(QueueId, Offset),
}

/// Whose publish.
#[derive(Clone, Copy, Debug)]
pub(super) enum Publisher {
    Connection(ConnectionId, Tag),
    /// Of this shard's.
    Transaction(usize),
}

/// A will that is to be published now.
pub(super) struct DueWill {
    /// The session's record, from which it is taken when it is published.
    pub key: ByteString,
    /// Which of the session's wills.
    pub id: u64,
    pub draft: Admitted<Draft>,
}

/// Waiters by token. The engine answers every submission and read that it took exactly once, so a slot is
/// never answered for an earlier occupant.
#[derive(Default)]
pub(super) struct Pending {
    waiters: Slab<Waiter>,
    /// Subscription reads among them.
    pub reads: usize,
}

impl Pending {
    pub fn add(&mut self, waiter: Waiter) -> u64 {
        self.reads += usize::from(matches!(waiter, Waiter::Page(_)));
        self.waiters.insert(waiter) as u64
    }

    pub fn take(&mut self, token: u64) -> Waiter {
        let waiter = self.waiters.remove(token as usize);
        self.reads -= usize::from(matches!(waiter, Waiter::Page(_)));
        waiter
    }
}
