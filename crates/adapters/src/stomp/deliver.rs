//! MESSAGE: a short head for each subscription, in front of what all share.

use bytes::Bytes;
use std::io::Write as _;

use tidings_ports::{Command, Delivery, Framed, Gap, Settle, SubscriptionKey, Turn, Verdict};
use tidings_types::Offset;

use super::StompConversation;
use super::codec::Version;
use super::subscribe::{AckMode, Subscription};
use crate::transport::{message_head_len, put_message_head};

/// A shorter tail is copied behind its head: a piece more for the socket costs more than that.
const COPY_BYTES_MAX: usize = 512;

/// A message of a work queue that counts as acknowledged when it is sent.
#[derive(Debug)]
pub(super) struct Held {
    frames: [Bytes; 2],
    key: SubscriptionKey,
    offset: Offset,
}

impl StompConversation {
    /// Makes the frames of a message for one of the subscriptions.
    pub(super) fn deliver(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        let is_over = self.stream.has_ended() || self.said_goodbye();
        let found = self
            .subscriptions
            .binary_search_by_key(&delivery.key, |it| it.key);
        // A queue gives what is not taken to another one.
        let (Ok(at), false) = (found, is_over) else {
            return Framed::Full;
        };
        let is_held = self.subscriptions[at].is_member() && !self.subscriptions[at].acks();
        if is_held && self.is_crowded() {
            self.work().blocked.push(delivery.key);
            return Framed::Full;
        }
        let is_websocket = self.stream.is_websocket();
        let subscription = &mut self.subscriptions[at];
        let made = subscription.frames(delivery, is_websocket);
        subscription.note(delivery.message.offset);
        if !is_held {
            frames.extend(made.into_iter().filter(|frame| !frame.is_empty()));
            return Framed::Put;
        }
        let work = self.work();
        work.held_bytes += made.iter().map(Bytes::len).sum::<usize>();
        work.held.push(Held {
            frames: made,
            key: delivery.key,
            offset: delivery.message.offset,
        });
        Framed::Held
    }

    /// Whether as much is held as may wait for one peer.
    fn is_crowded(&self) -> bool {
        let held_bytes = self.work.as_ref().map_or(0, |work| work.held_bytes);
        held_bytes >= self.limits.outbox_bytes_max
    }

    /// Sends what was held, and acknowledges it.
    pub(super) fn send_held(&mut self, turn: &mut Turn<'_>) {
        let Some(work) = &mut self.work else {
            return;
        };
        work.held_bytes = 0;
        let held = std::mem::take(&mut work.held);
        let blocked = std::mem::take(&mut work.blocked);
        if self.stream.has_ended() {
            return;
        }
        for held in held {
            let (key, offset) = (held.key, held.offset);
            turn.commands.push(Command::Settle {
                tag: None,
                settle: Settle {
                    key,
                    offset,
                    verdict: Verdict::Ack,
                },
            });
            let frames = held.frames.into_iter().filter(|frame| !frame.is_empty());
            self.stream.put(turn, frames);
        }
        turn.commands
            .extend(blocked.into_iter().map(Command::Unblock));
    }

    /// Gives back what is held for the subscriptions that end: it never went out.
    pub(super) fn give_back(
        &mut self,
        ends: impl Fn(SubscriptionKey) -> bool,
        turn: &mut Turn<'_>,
    ) {
        let Some(work) = &mut self.work else {
            return;
        };
        work.blocked.retain(|blocked| !ends(*blocked));
        for held in work.held.extract_if(.., |held| ends(held.key)) {
            let settle = Settle {
                key: held.key,
                offset: held.offset,
                verdict: Verdict::Unseen,
            };
            turn.commands.push(Command::Settle { tag: None, settle });
        }
    }

    /// The next message of the subscription says that some are missing.
    pub(super) fn gap(&mut self, key: SubscriptionKey, gap: Gap) {
        let found = self.subscriptions.binary_search_by_key(&key, |it| it.key);
        if let Ok(at) = found {
            self.subscriptions[at].gap = Some(Box::new(gap));
        }
    }
}

impl Subscription {
    fn frames(&mut self, delivery: Delivery<'_>, is_websocket: bool) -> [Bytes; 2] {
        let (first, tail) = self.format.tail(delivery.message);
        let extra = self.extra(delivery);
        let head_len = self.head.len() + extra.len();
        let copied = tail.len() <= COPY_BYTES_MAX;
        let len = head_len + tail.len();
        // Exactly as much as is needed: a buffer with room left costs another allocation when it is frozen.
        let mut size = if copied { len } else { head_len };
        if is_websocket {
            size += message_head_len(len);
        }
        let mut head = Vec::with_capacity(size);
        if is_websocket {
            put_message_head(&mut head, first, len);
        }
        head.extend_from_slice(&self.head);
        head.extend_from_slice(&extra);
        if copied {
            head.extend_from_slice(&tail);
            return [head.into(), Bytes::new()];
        }
        [head.into(), tail]
    }

    /// The headers of this delivery alone. None of them holds anything to be escaped.
    fn extra(&mut self, delivery: Delivery<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        if self.acks() && self.format.version() == Version::V12 {
            put(
                &mut out,
                format_args!("ack:{}-{}", self.key.0, delivery.message.offset.0),
            );
        }
        if delivery.redelivered > 0 {
            let count = delivery.redelivered.saturating_add(1);
            put(
                &mut out,
                format_args!("redelivered:true\ntidings-deliveries:{count}"),
            );
        }
        if let Some(gap) = self.gap.take() {
            put(&mut out, format_args!("tidings-gap:{}", gap.reason.name()));
            if let Some(after) = gap.after {
                put(&mut out, format_args!("tidings-gap-after:{after}"));
            }
        }
        out
    }

    /// Whether the client acknowledges its messages.
    pub(super) fn acks(&self) -> bool {
        self.ack != AckMode::Auto
    }
}

fn put(out: &mut Vec<u8>, header: std::fmt::Arguments<'_>) {
    writeln!(out, "{header}").expect("a Vec takes every write");
}
