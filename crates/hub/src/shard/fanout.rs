//! Live delivery: the path that every message takes for every live subscriber.

use std::sync::Arc;

use bytes::Bytes;
use tidings_ports::{Delivery, Framed};
use tidings_types::{Batch, Message, Offset, Storage, Timestamp};

use super::connection::{Connection, ConnectionId, Ended};
use super::subscription::{Formats, LiveOnly, SlotFraming, Source, Subscription};
use super::{Shard, runs};
use crate::inbox::Lagged;
use crate::metrics::Metrics;
use crate::queue::QueueId;

/// What it takes to encode a message for a subscriber.
pub(super) struct Encoding<'a> {
    pub formats: &'a mut Formats,
    pub scratch: &'a mut Vec<Bytes>,
    pub held: &'a mut Vec<ConnectionId>,
    pub metrics: &'a Metrics,
}

/// A message as it is offered, whoever it is offered to.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    pub message: &'a Message,
    pub retained: bool,
    pub redelivered: u32,
    pub now: Timestamp,
}

impl<'a> Offer<'a> {
    /// A message that was just committed.
    fn live(message: &'a Message, now: Timestamp) -> Self {
        Self {
            message,
            retained: false,
            redelivered: 0,
            now,
        }
    }
}

impl Encoding<'_> {
    /// Puts a message's frame into the outbox of a subscription's connection.
    pub fn put(
        self,
        connection: &mut Connection,
        subscription: &Subscription,
        offer: Offer<'_>,
    ) -> Framed {
        let shared = match subscription.framing {
            SlotFraming::Shared(slot) => self.formats.frame(slot, offer.message),
            SlotFraming::Own => None,
        };
        let Some(frame) = shared else {
            return self.put_own(connection, subscription, offer);
        };
        let counts = &self.metrics.protocols[connection.protocol.index()];
        counts.delivered.add(1);
        counts.delivered_bytes.add(frame.len() as u64);
        connection.outbox.push(frame.clone());
        Framed::Put
    }

    /// The conversation makes the frame, or judges the message.
    fn put_own(
        self,
        connection: &mut Connection,
        subscription: &Subscription,
        offer: Offer<'_>,
    ) -> Framed {
        let delivery = Delivery {
            key: subscription.key,
            message: offer.message,
            retained: offer.retained,
            own: offer.message.origin == connection.origin,
            redelivered: offer.redelivered,
            now: offer.now,
        };
        let framed = connection.conversation.frame(delivery, self.scratch);
        let counts = &self.metrics.protocols[connection.protocol.index()];
        match framed {
            Framed::Put => {
                let bytes: usize = self.scratch.iter().map(Bytes::len).sum();
                counts.delivered.add(1);
                counts.delivered_bytes.add(bytes as u64);
                for frame in self.scratch.drain(..) {
                    connection.outbox.push(frame);
                }
            }
            Framed::Held => {
                counts.delivered.add(1);
                if !connection.held {
                    connection.held = true;
                    self.held.push(connection.id);
                }
            }
            Framed::Unfit => self.metrics.unframed.add(1),
            Framed::Unwanted | Framed::Full => {}
        }
        debug_assert!(self.scratch.is_empty(), "frames of what was not put");
        self.scratch.clear();
        framed
    }
}

impl Shard {
    /// Offers each message of a batch to each live subscription that matches, and keeps the batch for those
    /// that are a little behind.
    pub(super) fn fan_out(&mut self, batch: Arc<Batch>) {
        let now = self.clock.now();
        let mut matched = std::mem::take(&mut self.matched);
        for run in runs::of(&batch.messages) {
            // Nothing subscribes in between.
            self.trie.matches(&run[0].topic, &mut matched);
            self.offer_run(run, &mut matched, now);
            for message in run {
                self.formats.next_message();
                for entry in &matched {
                    self.offer_live(entry.subscription as usize, message, now);
                }
            }
        }
        self.matched = matched;
        self.tail.push(batch);
    }

    fn offer_live(&mut self, index: usize, message: &Message, now: Timestamp) {
        let subscription = &mut self.subscriptions[index];
        if subscription.source != Source::Live {
            if message.storage == Storage::None {
                LiveOnly::note(&mut subscription.live_only, message.offset, message.offset);
            }
            return;
        }
        if let Some(queue) = subscription.queue {
            return self.offer_live_to_queue(index, queue, message, now);
        }
        let connection = &mut self.connections[subscription.connection.index as usize];
        // Nothing follows a farewell.
        if connection.ended != Ended::No {
            return;
        }
        let own_echo = !subscription.echo && message.origin == connection.origin;
        // `offered` also catches a subscription of which several filters match.
        let is_offered = connection.offered == Some(message.offset);
        if message.offset <= subscription.cursor || is_offered || own_echo {
            return;
        }
        if message.is_expired(now) {
            self.metrics.expired.add(1);
            return;
        }
        if connection.outbox.cost() >= self.limits.outbox_bytes_max {
            connection.blocked += 1;
            stop_before(subscription, message, Source::Blocked, &self.metrics);
            return;
        }
        let framed = Encoding {
            formats: &mut self.formats,
            scratch: &mut self.own_frames,
            held: &mut self.held,
            metrics: &self.metrics,
        }
        .put(connection, subscription, Offer::live(message, now));
        if framed == Framed::Full {
            stop_before(subscription, message, Source::Paused, &self.metrics);
            return;
        }
        connection.offered = connection.offered.map(|_| message.offset);
        if framed == Framed::Put && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(connection.id);
        }
    }

    fn offer_live_to_queue(
        &mut self,
        index: usize,
        queue: QueueId,
        message: &Message,
        now: Timestamp,
    ) {
        if message.offset <= self.subscriptions[index].cursor {
            return;
        }
        if message.is_expired(now) {
            self.metrics.expired.add(1);
            return;
        }
        let taken = self.offer_to_queue(queue, message);
        let subscription = &mut self.subscriptions[index];
        if taken {
            // Another of its filters may match too.
            subscription.cursor = message.offset;
        } else {
            stop_before(subscription, message, Source::Paused, &self.metrics);
        }
    }

    /// The inbox overflowed: what was live reads the log from where it was.
    pub(super) fn fall_behind(&mut self, lagged: &Lagged) {
        self.metrics.inbox_overflows.add(1);
        let seen = self.tail.head();
        self.tail.reset(lagged.to);
        let mut behind = Vec::new();
        for (_, subscription) in &mut self.subscriptions {
            let misses = lagged.live_only_more
                || lagged.live_only.iter().any(|topic| {
                    subscription
                        .filters
                        .iter()
                        .any(|filter| filter.matches(topic))
                });
            if subscription.source == Source::Live {
                if subscription.cursor >= lagged.to {
                    continue;
                }
                subscription.cursor = subscription.cursor.max(seen);
                subscription.source = Source::Queued;
                self.metrics.catching_up.add(1);
                behind.push(subscription.id);
            }
            if misses {
                LiveOnly::note(&mut subscription.live_only, seen.next(), lagged.to);
            }
        }
        for id in behind {
            self.advance(id);
        }
    }
}

/// Takes a live subscription off the feed: the message before this one is the last that it was given.
fn stop_before(
    subscription: &mut Subscription,
    message: &Message,
    source: Source,
    metrics: &Metrics,
) {
    subscription.cursor = Offset(message.offset.0 - 1);
    subscription.source = source;
    if message.storage == Storage::None {
        LiveOnly::note(&mut subscription.live_only, message.offset, message.offset);
    }
    metrics.lagged.add(u64::from(subscription.queue.is_none()));
    metrics.catching_up.add(1);
}
