//! Catching up: from the tail if everything that is missing is there, else from the log; and the flip to
//! live.
//!
//! The flip is exact because there is one thread: a subscription that has taken everything up to the tail's
//! head becomes live before the next batch is fanned out, and while it is not live it is offered nothing.

use tidings_ports::{Event, Framed};
use tidings_types::{Message, Offset, Timestamp};

use super::Shard;
use super::connection::Ended;
use super::fanout::{Encoding, Offer};
use super::subscription::{First, Source, Subscription, SubscriptionId};
use crate::queue::Request;

/// Whether a message found room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It was delivered, or needs no delivery.
    Done,
    /// The subscription waits like this until it can be offered again: `Blocked` or `Paused`.
    Stopped(Source),
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

    /// Lets a subscription that waited like this go on: `Blocked` or `Paused`.
    pub(super) fn resume(&mut self, id: SubscriptionId, waited: Source) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        if subscription.source != waited {
            return;
        }
        let is_member = subscription.membership.is_some();
        subscription.source = if is_member {
            Source::Member
        } else {
            Source::Queued
        };
        let connection = subscription.connection;
        if let Some(connection) = self.connection(connection) {
            connection.blocked -= u32::from(waited == Source::Blocked);
        }
        if is_member {
            self.request(id, Request::Ready);
        } else {
            self.advance(id);
        }
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
                if let Offered::Stopped(source) = self.offer_behind(id, message, now) {
                    return self.stop(id, source);
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
        let head = self.tail.head();
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        match subscription.ends_at {
            // The feed is still to bring what it ends with; until then it is behind.
            Some(end) if end > head => self.awaiting_feed.push(id),
            Some(_) => self.caught_up(id),
            None => {
                subscription.source = Source::Live;
                subscription.first = First::Known;
                subscription.live_only = None;
                self.metrics.catching_up.sub(1);
            }
        }
    }

    /// Ends a subscription that was to end here.
    pub(super) fn caught_up(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let (connection, key) = (subscription.connection, subscription.key);
        self.end_subscription(connection, id);
        self.tell(connection, Event::CaughtUp { key });
    }

    /// Goes on with subscriptions that wait for what the feed brings.
    pub(super) fn feed_advanced(&mut self) {
        if self.awaiting_feed.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.awaiting_feed) {
            if self
                .subscription(id)
                .is_some_and(|it| it.source == Source::Queued)
            {
                self.advance(id);
            }
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

    pub(super) fn stop(&mut self, id: SubscriptionId, source: Source) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        subscription.source = source;
        let connection = subscription.connection;
        if let Some(connection) = self.connection(connection) {
            connection.blocked += u32::from(source == Source::Blocked);
        }
    }

    /// Offers the next message to a subscription that is not live, and moves its cursor past it.
    pub(super) fn offer_behind(
        &mut self,
        id: SubscriptionId,
        message: &Message,
        now: Timestamp,
    ) -> Offered {
        let Some(subscription) = self.subscription(id) else {
            return Offered::Done;
        };
        let retained = subscription.first == First::Retained;
        let behind = retained || message.offset > subscription.cursor;
        let wanted = behind && subscription.wants(message);
        if wanted && !self.is_covered(id, message) {
            if message.is_expired(now) {
                self.metrics.expired.add(1);
            } else {
                let offer = Offer {
                    message,
                    retained,
                    redelivered: 0,
                    now,
                };
                let offered = self.deliver_behind(id, offer);
                if offered != Offered::Done {
                    return offered;
                }
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
        if subscription.queue.is_some() {
            return false;
        }
        let connection = &self.connections[subscription.connection.index as usize];
        if !subscription.echo && message.origin == connection.origin {
            return true;
        }
        // One that ends by itself repeats on purpose what others have delivered.
        if subscription.ends_at.is_some() || connection.offered.is_none() {
            return false;
        }
        connection
            .subscriptions
            .iter()
            .filter(|other| **other != id)
            .any(|other| {
                let position = self.position_of(*other);
                let other = &self.subscriptions[other.index as usize];
                let delivered = other.covers_after < message.offset
                    && Some(message.offset) <= position
                    && other.ends_at.is_none()
                    && other.membership.is_none();
                let left_out = !other.echo && message.origin == connection.origin;
                delivered && !left_out && other.wants(message)
            })
    }

    fn deliver_behind(&mut self, id: SubscriptionId, offer: Offer<'_>) -> Offered {
        let subscription = &self.subscriptions[id.index as usize];
        if let Some(queue) = subscription.queue {
            return if self.offer_to_queue(queue, offer.message) {
                Offered::Done
            } else {
                Offered::Stopped(Source::Paused)
            };
        }
        let connection = &mut self.connections[subscription.connection.index as usize];
        let ended = connection.ended != Ended::No;
        if ended || connection.outbox.cost() >= self.limits.outbox_bytes_max {
            return Offered::Stopped(Source::Blocked);
        }
        self.formats.next_message();
        let framed = Encoding {
            formats: &mut self.formats,
            scratch: &mut self.own_frames,
            held: &mut self.held,
            metrics: &self.metrics,
        }
        .put(connection, subscription, offer);
        match framed {
            Framed::Full => return Offered::Stopped(Source::Paused),
            Framed::Put => {
                self.metrics.caught_up.add(1);
                let connection = connection.id;
                self.mark_dirty(connection);
            }
            Framed::Held => self.metrics.caught_up.add(1),
            Framed::Unwanted | Framed::Unfit => {}
        }
        Offered::Done
    }
}
