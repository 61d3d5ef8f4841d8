//! Live delivery: the path that every message takes for every live subscriber.

use std::sync::Arc;

use bytes::Bytes;
use tidings_types::{Batch, Message, Offset, Storage, Timestamp};

use super::connection::{Connection, Ended};
use super::subscription::{Formats, LiveOnly, SlotFraming, Source, Subscription};
use super::{Shard, runs};
use crate::inbox::Lagged;
use crate::metrics::Metrics;

/// What it takes to encode a message for a subscriber.
pub(super) struct Encoding<'a> {
    pub formats: &'a mut Formats,
    pub scratch: &'a mut Vec<Bytes>,
    pub metrics: &'a Metrics,
}

impl Encoding<'_> {
    /// Puts a message's frame into the outbox of a subscription's connection.
    pub fn put(self, connection: &mut Connection, subscription: &Subscription, message: &Message) {
        let before = connection.outbox.bytes();
        match subscription.framing {
            SlotFraming::Shared(slot) => {
                connection
                    .outbox
                    .push(self.formats.frame(slot, message).clone());
            }
            SlotFraming::Own => {
                connection
                    .conversation
                    .frame(subscription.key, message, self.scratch);
                if self.scratch.is_empty() {
                    self.metrics.unframed.add(1);
                }
                for frame in self.scratch.drain(..) {
                    connection.outbox.push(frame);
                }
            }
        }
        let counts = &self.metrics.protocols[connection.protocol.index()];
        counts.delivered.add(1);
        counts
            .delivered_bytes
            .add((connection.outbox.bytes() - before) as u64);
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
        let connection = &mut self.connections[subscription.connection.index as usize];
        // Nothing follows a farewell.
        if connection.ended != Ended::No {
            return;
        }
        let own_echo = !subscription.echo && message.origin == connection.origin;
        // `offered` also catches a subscription of which several filters match.
        if message.offset <= subscription.cursor || connection.offered == message.offset || own_echo
        {
            return;
        }
        if message.is_expired(now) {
            self.metrics.expired.add(1);
            return;
        }
        if connection.outbox.cost() >= self.limits.outbox_bytes_max {
            // The message before this one is the last that it was given.
            subscription.cursor = Offset(message.offset.0 - 1);
            subscription.source = Source::Blocked;
            if message.storage == Storage::None {
                LiveOnly::note(&mut subscription.live_only, message.offset, message.offset);
            }
            connection.blocked += 1;
            self.metrics.lagged.add(1);
            self.metrics.catching_up.add(1);
            return;
        }
        connection.offered = message.offset;
        Encoding {
            formats: &mut self.formats,
            scratch: &mut self.own_frames,
            metrics: &self.metrics,
        }
        .put(connection, subscription, message);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(connection.id);
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
