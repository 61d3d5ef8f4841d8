//! Catching up: from the tail if everything that is missing is there, else from the log; and the flip to
//! live.
//!
//! The flip is exact because there is one thread: a subscription that has taken everything up to the tail's
//! head becomes live before the next batch is fanned out, and while it is not live it is offered nothing.

use std::sync::Arc;

use tidings_ports::{Event, Gap, GapReason, Page, ReadError, ReadFrom, ReadRequest, ReplyTo};
use tidings_types::{Cursor, Message, Offset, Timestamp};

use super::Shard;
use super::commands::gap_of;
use super::connection::Ended;
use super::fanout::Encoding;
use super::pending::Waiter;
use super::subscription::{First, LiveOnly, Source, Subscription, SubscriptionId};

/// Reads that one shard has under way at once; the others wait their turn in its own queue.
const READS_AT_ONCE: usize = 64;

/// Whether a message found room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offered {
    /// It was delivered, or needs no delivery.
    Done,
    /// The outbox is full.
    Full,
}

impl Shard {
    pub(super) fn subscription(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.subscriptions
            .get_mut(id.index as usize)
            .filter(|subscription| subscription.id == id)
    }

    /// The position up to which a subscription was given everything.
    pub(super) fn position_of(&self, id: SubscriptionId) -> Option<Offset> {
        let subscription = self
            .subscriptions
            .get(id.index as usize)
            .filter(|subscription| subscription.id == id)?;
        Some(match (subscription.source, &subscription.first) {
            (Source::Live, _) => subscription.cursor.max(self.tail.head()),
            (_, First::Retained) => subscription.start,
            _ => subscription.cursor,
        })
    }

    /// Lets a subscription that waited for room go on.
    pub(super) fn unblock(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        if subscription.source != Source::Blocked {
            return;
        }
        subscription.source = Source::Queued;
        let connection = subscription.connection;
        if let Some(connection) = self.connection(connection) {
            connection.blocked -= 1;
        }
        self.advance(id);
    }

    /// Moves a subscription that is not live forward as far as it goes now.
    pub(super) fn advance(&mut self, id: SubscriptionId) {
        let floor = self.tail.floor();
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let known = matches!(subscription.first, First::Known | First::Resume);
        if known && subscription.cursor >= floor {
            self.advance_from_tail(id);
        } else {
            self.read_queue.push_back(id);
            self.start_reads();
        }
    }

    fn advance_from_tail(&mut self, id: SubscriptionId) {
        let now = self.clock.now();
        let Some((mut cursor, filters)) = self
            .subscription(id)
            .map(|subscription| (subscription.cursor, subscription.filters.len()))
        else {
            return;
        };
        while let Some(batch) = self.tail.batch_after(cursor) {
            let at = batch
                .messages
                .partition_point(|message| message.offset <= cursor);
            for message in &batch.messages[at..] {
                if self.offer_behind(id, message, now) == Offered::Full {
                    return self.block(id);
                }
            }
            cursor = batch.last();
            // A batch is the least step, so that a scan always comes to an end.
            self.scan_left = self
                .scan_left
                .saturating_sub(batch.messages.len() * filters);
            if self.scan_left == 0 && cursor < self.tail.head() {
                self.scans.push_back(id);
                return self.inbox.call();
            }
        }
        if let Some(subscription) = self.subscription(id) {
            subscription.source = Source::Live;
            subscription.first = First::Known;
            subscription.live_only = None;
            self.metrics.catching_up.sub(1);
        }
    }

    /// Goes on with scans that were put off, as far as this turn's budget goes.
    pub(super) fn resume_scans(&mut self) {
        while self.scan_left > 0 {
            let Some(id) = self.scans.pop_front() else {
                return;
            };
            if self
                .subscription(id)
                .is_some_and(|it| it.source == Source::Queued)
            {
                self.advance(id);
            }
        }
        if !self.scans.is_empty() {
            self.inbox.call();
        }
    }

    fn block(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        subscription.source = Source::Blocked;
        let connection = subscription.connection;
        if let Some(connection) = self.connection(connection) {
            connection.blocked += 1;
        }
    }

    /// Offers the next message to a subscription that is not live, and moves its cursor past it.
    fn offer_behind(&mut self, id: SubscriptionId, message: &Message, now: Timestamp) -> Offered {
        let Some(subscription) = self.subscription(id) else {
            return Offered::Done;
        };
        let retained = subscription.first == First::Retained;
        let behind = retained || message.offset > subscription.cursor;
        let wanted = behind && subscription.wants(message);
        if wanted && !self.is_covered(id, message) {
            if message.is_expired(now) {
                self.metrics.expired.add(1);
            } else if self.deliver_behind(id, message) == Offered::Full {
                return Offered::Full;
            }
        }
        if let Some(subscription) = self.subscription(id) {
            subscription.cursor = subscription.cursor.max(message.offset);
        }
        Offered::Done
    }

    /// Whether another subscription of the same connection has delivered the message already, or it is the
    /// connection's own and is not to come back.
    fn is_covered(&self, id: SubscriptionId, message: &Message) -> bool {
        let subscription = &self.subscriptions[id.index as usize];
        let connection = &self.connections[subscription.connection.index as usize];
        if !subscription.echo && message.origin == connection.origin {
            return true;
        }
        connection
            .subscriptions
            .iter()
            .filter(|other| **other != id)
            .any(|other| {
                let position = self.position_of(*other);
                let other = &self.subscriptions[other.index as usize];
                let delivered = other.start < message.offset && Some(message.offset) <= position;
                let left_out = !other.echo && message.origin == connection.origin;
                delivered && !left_out && other.wants(message)
            })
    }

    fn deliver_behind(&mut self, id: SubscriptionId, message: &Message) -> Offered {
        let subscription = &self.subscriptions[id.index as usize];
        let connection = &mut self.connections[subscription.connection.index as usize];
        let ended = connection.ended != Ended::No;
        if ended || connection.outbox.cost() >= self.limits.outbox_bytes_max {
            return Offered::Full;
        }
        self.formats.next_message();
        Encoding {
            formats: &mut self.formats,
            scratch: &mut self.own_frames,
            metrics: &self.metrics,
        }
        .put(connection, subscription, message);
        self.metrics.caught_up.add(1);
        let connection = connection.id;
        self.mark_dirty(connection);
        Offered::Done
    }

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
            messages_max: limits.page_messages_max,
            // More than an outbox holds would be read in vain.
            bytes_max: limits.page_bytes_max.min(limits.outbox_bytes_max),
        };
        subscription.source = Source::Reading;
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
        let Some(LiveOnly { first, last }) = subscription.live_only.filter(|it| it.first <= floor)
        else {
            return;
        };
        subscription.live_only = (last > floor).then(|| LiveOnly {
            first: first.max(floor.next()),
            last,
        });
        let cursor = Cursor {
            epoch,
            offset: subscription.cursor,
        };
        let (connection, key) = (subscription.connection, subscription.key);
        self.metrics.live_only_missed.add(1);
        self.metrics.gap(GapReason::LiveOnly);
        let gap = Gap {
            reason: GapReason::LiveOnly,
            after: Some(cursor),
            resume: cursor,
        };
        self.tell(connection, Event::Gap { key, gap });
    }

    /// A page for a subscription has been read, or has not.
    pub(super) fn page_read(&mut self, id: SubscriptionId, result: Result<Page, ReadError>) {
        let Some(subscription) = self.subscription(id) else {
            return self.start_reads();
        };
        subscription.source = Source::Queued;
        let (connection, key) = (subscription.connection, subscription.key);
        let unanswered = match subscription.first {
            First::Last(_, tag) => Some(tag),
            _ => None,
        };
        match result {
            Ok(page) if self.ended(connection) == Ended::No => self.take_page(id, &page),
            Ok(_) => {}
            Err(ReadError::Busy) => self.read_queue.push_back(id),
            Err(ReadError::Storage) => {
                let refusal = self.read_refusal(ReadError::Storage);
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
        for message in page
            .messages
            .iter()
            .take_while(|message| message.offset <= limit)
        {
            if self.offer_behind(id, message, now) == Offered::Full {
                return self.block(id);
            }
        }
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let all_told = page.at_head || page.scanned_to >= subscription.start;
        if subscription.first == First::Retained && all_told {
            // What was retained is told; from here on it is an ordinary start at `latest`.
            subscription.first = First::Known;
            subscription.cursor = subscription.start;
        } else {
            subscription.cursor = subscription.cursor.max(page.scanned_to.min(limit));
        }
        self.advance(id);
    }

    /// How far a page of the log may be used. What the feed has not brought to this shard yet it will bring,
    /// live-only messages among it; and live-only messages that the tail still has are taken from there.
    fn page_limit(&mut self, id: SubscriptionId) -> Offset {
        let (floor, head) = (self.tail.floor(), self.tail.head());
        match self
            .subscription(id)
            .and_then(|subscription| subscription.live_only)
        {
            Some(LiveOnly { first, .. }) if first > floor => head.min(Offset(first.0 - 1)),
            _ => head,
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
            let offset = match page.messages.first() {
                Some(oldest) => Offset(oldest.offset.0 - 1),
                None => page.scanned_to,
            };
            // From here on it claims to have seen everything up to there.
            subscription.first = First::Resume;
            subscription.start = offset;
            subscription.cursor = offset;
            let cursor = Cursor { epoch, offset };
            self.tell(connection, Event::Subscribed { tag, key, cursor });
        }
        self.tell_live_only_gap(id);
        if let Some(gap) = gap_of(page, Some(before), epoch) {
            self.metrics.gap(gap.reason);
            self.tell(connection, Event::Gap { key, gap });
        }
    }
}
