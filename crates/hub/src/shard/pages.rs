//! Reading the log for subscriptions that are behind.

use std::collections::HashSet;
use std::sync::Arc;

use tidings_ports::{
    Event, Gap, GapReason, Page, ReadError, ReadFrom, ReadRequest, ReplyTo, SubscriptionKey,
};
use tidings_types::{Cursor, Offset, Topic};

use super::Shard;
use super::catchup::Offered;
use super::connection::{ConnectionId, Ended};
use super::history::gap_of;
use super::pending::Waiter;
use super::subscription::{First, LiveOnly, Source, SubscriptionId};

/// Reads that one shard has under way at once; the others wait their turn in its own queue.
const READS_AT_ONCE: usize = 64;

/// The least that a page holds for a conversation that takes few messages at a time.
const PAGE_MESSAGES_MIN: usize = 8;

impl Shard {
    /// Starts reads while there are free ones.
    pub(super) fn start_reads(&mut self) {
        while self.pending.reads < READS_AT_ONCE {
            let Some(id) = self.read_queue.pop_front() else {
                return;
            };
            if self
                .subscription(id)
                .is_none_or(|it| it.source != Source::Queued)
            {
                continue;
            }
            self.tell_live_only_gap(id);
            if !self.start_read(id) {
                self.read_queue.push_front(id);
                return;
            }
        }
    }

    fn start_read(&mut self, id: SubscriptionId) -> bool {
        let limits = Arc::clone(&self.limits);
        let Some(subscription) = self.subscription(id) else {
            return true;
        };
        let from = match subscription.first {
            First::Last(n, _) => ReadFrom::Last(n),
            First::Retained => ReadFrom::Retained {
                after: subscription.cursor,
            },
            First::Resume => ReadFrom::After {
                offset: subscription.cursor,
                resume: true,
            },
            // A start at the earliest message claims nothing; further on, a reader that retention overtakes
            // is told.
            First::Known => ReadFrom::After {
                offset: subscription.cursor,
                resume: subscription.cursor > Offset::ZERO,
            },
        };
        let request = ReadRequest {
            filters: Arc::clone(&subscription.filters),
            from,
            messages_max: limits.page_messages_max.min(subscription.page_messages),
            // More than an outbox holds would be read in vain.
            bytes_max: limits.page_bytes_max.min(limits.outbox_bytes_max),
        };
        subscription.source = Source::Reading;
        subscription.altered_at = None;
        let token = self.pending.add(Waiter::Page(id));
        let reply = ReplyTo {
            shard: self.index,
            token,
        };
        if self.engine.read(request, reply).is_ok() {
            return true;
        }
        self.pending.take(token);
        if let Some(subscription) = self.subscription(id) {
            subscription.source = Source::Queued;
        }
        false
    }

    /// Messages that are in no log and not in the tail any more are gone for this subscription.
    fn tell_live_only_gap(&mut self, id: SubscriptionId) {
        let floor = self.tail.floor();
        let epoch = self.engine.epoch();
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let missed = subscription.live_only.as_deref();
        let Some(LiveOnly { first, last }) = missed.copied().filter(|it| it.first <= floor) else {
            return;
        };
        subscription.live_only = (last > floor).then(|| {
            Box::new(LiveOnly {
                first: first.max(floor.next()),
                last,
            })
        });
        let cursor = Cursor {
            epoch,
            offset: subscription.cursor,
        };
        self.metrics.live_only_missed.add(1);
        let gap = Gap {
            reason: GapReason::LiveOnly,
            after: Some(cursor),
            resume: cursor,
        };
        self.has_gap(id, gap);
    }

    /// Something that a subscription has not read is gone: its conversation is told, or its queue's members are.
    fn has_gap(&mut self, id: SubscriptionId, gap: Gap) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        if let Some(queue) = subscription.queue {
            return self.queue_missed(queue, gap);
        }
        let (connection, key) = (subscription.connection, subscription.key);
        self.metrics.gap(gap.reason);
        self.tell_gap(connection, key, gap);
    }

    /// Tells of a gap, and carries out at once what the conversation asks for then: it may want to frame the message
    /// behind the gap itself.
    pub(super) fn tell_gap(&mut self, connection: ConnectionId, key: SubscriptionKey, gap: Gap) {
        self.tell(connection, Event::Gap { key, gap });
        self.settle_one(connection);
    }

    /// A page for a subscription has been read, or has not.
    pub(super) fn page_read(&mut self, id: SubscriptionId, result: Result<Page, ReadError>) {
        let Some(subscription) = self.subscription(id) else {
            return self.start_reads();
        };
        subscription.source = Source::Queued;
        let (connection, key) = (subscription.connection, subscription.key);
        let queue = subscription.queue;
        let unanswered = match subscription.first {
            First::Last(_, tag) => Some(tag),
            _ => None,
        };
        match result {
            Ok(page) if queue.is_some() || self.ended(connection) == Ended::No => {
                self.take_page(id, &page);
            }
            Ok(_) => {}
            Err(ReadError::Busy) => self.read_queue.push_back(id),
            Err(ReadError::Storage) => {
                let refusal = self.read_refusal(ReadError::Storage);
                if let Some(queue) = queue {
                    self.queue_lost(queue, &refusal);
                    return self.start_reads();
                }
                self.end_subscription(connection, id);
                self.tell(
                    connection,
                    match unanswered {
                        Some(tag) => Event::Refused { tag, refusal },
                        None => Event::Lost { key, refusal },
                    },
                );
            }
        }
        self.start_reads();
    }

    fn take_page(&mut self, id: SubscriptionId, page: &Page) {
        let now = self.clock.now();
        self.begin_page(id, page);
        let limit = self.page_limit(id);
        let replaced = self.replaced(id);
        let usable = page
            .messages
            .iter()
            .take_while(|message| message.offset <= limit)
            .filter(|message| !replaced.contains(&message.topic));
        for (taken, message) in usable.enumerate() {
            if let Offered::Stopped(source) = self.offer_behind(id, message, now) {
                if let Some(subscription) = self.subscription(id) {
                    // Reading what its conversation does not take would be in vain.
                    subscription.page_messages = (2 * taken).max(PAGE_MESSAGES_MIN);
                }
                return self.stop(id, source);
            }
        }
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        subscription.page_messages = subscription.page_messages.saturating_mul(2);
        let all_told = page.at_head || page.scanned_to >= subscription.start;
        if subscription.first == First::Retained && all_told {
            if subscription.ends_at.is_some() {
                return self.caught_up(id);
            }
            // What was retained is told; from here on it is an ordinary start at `latest`.
            subscription.first = First::Known;
            subscription.cursor = subscription.start;
        } else {
            subscription.cursor = subscription.cursor.max(page.scanned_to.min(limit));
        }
        self.advance(id);
    }

    /// The topics whose retained message was replaced since a subscription that ends with them began. Another
    /// subscription of the connection brings the new one, or has brought it: the old one must not come after it.
    fn replaced(&mut self, id: SubscriptionId) -> HashSet<Topic> {
        let mut topics = HashSet::new();
        let floor = self.tail.floor();
        let start = match self.subscription(id) {
            Some(it) if it.first == First::Retained && it.ends_at.is_some() => it.start,
            _ => return topics,
        };
        let mut cursor = start.max(floor);
        while let Some(batch) = self.tail.batch_after(cursor) {
            let newer = batch.messages.iter().filter(|it| it.offset > start);
            topics.extend(newer.filter(|it| it.retain).map(|it| it.topic.clone()));
            cursor = batch.last();
        }
        topics
    }

    /// How far a page of the log may be used. What the feed has not brought to this shard yet it will bring,
    /// live-only messages among it; and live-only messages that the tail still has are taken from there. A
    /// page that was asked for with other filters counts up to where they were altered.
    fn page_limit(&mut self, id: SubscriptionId) -> Offset {
        let (floor, head) = (self.tail.floor(), self.tail.head());
        let Some(subscription) = self.subscription(id) else {
            return head;
        };
        let altered_at = subscription.altered_at.take().unwrap_or(Offset(u64::MAX));
        if subscription.first == First::Retained {
            // A message after the start comes because it was published, in its turn.
            return subscription.start.min(altered_at);
        }
        let limit = head.min(altered_at);
        match subscription.live_only.as_deref() {
            Some(LiveOnly { first, .. }) if *first > floor => limit.min(Offset(first.0 - 1)),
            _ => limit,
        }
    }

    /// What a page says besides its messages: where the newest N begin, and whether something is missing.
    fn begin_page(&mut self, id: SubscriptionId, page: &Page) {
        let epoch = self.engine.epoch();
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let (connection, key) = (subscription.connection, subscription.key);
        let before = Cursor {
            epoch,
            offset: subscription.cursor,
        };
        let first = subscription.first.clone();
        if let First::Last(_, tag) = first {
            let oldest = page.messages.first();
            let offset = oldest.map_or(page.scanned_to, |oldest| Offset(oldest.offset.0 - 1));
            // What filters that it was given meanwhile find counts from there on.
            let offset = offset.min(subscription.altered_at.unwrap_or(offset));
            // From here on it claims to have seen everything up to there.
            subscription.first = First::Resume;
            subscription.start = offset;
            subscription.cursor = offset;
            subscription.covers_after = subscription.covers_after.max(offset);
            let cursor = Cursor { epoch, offset };
            let queue = subscription.queue;
            self.tell(connection, Event::Subscribed { tag, key, cursor });
            if let Some(queue) = queue {
                self.queue_changed(queue);
            }
        }
        self.tell_live_only_gap(id);
        if let Some(gap) = gap_of(page, Some(before), epoch) {
            self.has_gap(id, gap);
        }
    }
}
