//! The members' end of work queues: subscriptions whose messages a queue hands out.

use std::sync::Arc;

use tidings_ports::{Event, Framed, Group, Start, SubscriptionKey};
use tidings_types::{Cursor, Message, Offset, Refusal, RefusalCode, TopicFilter};

use super::Shard;
use super::connection::{ConnectionId, Ended};
use super::fanout::{Encoding, Offer};
use super::subscribe::{Ask, each_once};
use super::subscription::{Membership, Source, SubscriptionId};
use crate::gate::{self, Wanted};
use crate::inbox::Note;
use crate::queue::{self, Join, MemberId, Request, Told};
use crate::session::home_shard;

/// The most that a member may have unacknowledged, whatever it asks for.
const PREFETCH_MAX: u32 = 10_000;
/// The longest name of a queue.
const NAME_BYTES_MAX: usize = 2048;

impl Shard {
    /// Has a connection take part in a queue. The answer comes when the queue is kept durably.
    pub(super) fn join_queue(
        &mut self,
        id: ConnectionId,
        ask: &Ask,
        filters: Vec<TopicFilter>,
        start: Start,
        group: &Group,
    ) -> Result<(), Refusal> {
        let Some(principal) = self.check_subscribe(id, ask.key)? else {
            return Ok(());
        };
        if group.name.is_empty() || group.name.len() > NAME_BYTES_MAX || group.prefetch == 0 {
            let detail = format!(
                "a work queue has a name of 1 to {NAME_BYTES_MAX} bytes, and its members take at least one message"
            );
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        let wanted = gate::subscribe(&principal, Wanted { filters, start }, &self.limits)?;
        let wanted = wanted.into_inner();
        let membership = Membership {
            key: queue::key_of(&group.name),
            home: home_shard(&group.name, self.inboxes.len()),
            tag: ask.tag,
        };
        let subscription = self.add_member(id, ask, membership);
        let join = Join {
            filters: each_once(wanted.filters),
            start: wanted.start,
            prefetch: group.prefetch.min(PREFETCH_MAX) as usize,
            expiry: group.expiry,
        };
        self.request(subscription, Request::Join(Box::new(join)));
        Ok(())
    }

    /// Sends something to the queue of a member.
    pub(super) fn request(&mut self, subscription: SubscriptionId, request: Request) {
        let member = MemberId {
            shard: self.index,
            subscription,
        };
        let Some(membership) = self
            .subscription(subscription)
            .and_then(|it| it.membership.as_ref())
        else {
            return;
        };
        let (home, key) = (membership.home, membership.key.clone());
        self.send(home, Note::Request(key, member, request));
    }

    /// Sends a note to a shard, which may be this one.
    pub(super) fn send(&mut self, shard: usize, note: Note) {
        if shard == self.index {
            self.own_notes.push_back(note);
        } else {
            self.inboxes.send(shard, note);
        }
    }

    pub(super) fn ack_for(&mut self, id: ConnectionId, key: SubscriptionKey, offset: Offset) {
        if let Some(subscription) = self.subscription_of(id, key) {
            self.request(subscription, Request::Ack(offset));
        }
    }

    pub(super) fn nack_for(&mut self, id: ConnectionId, key: SubscriptionKey, offset: Offset) {
        if let Some(subscription) = self.subscription_of(id, key) {
            self.request(subscription, Request::Nack(offset));
        }
    }

    /// A queue tells one of this shard's members something.
    pub(super) fn told(&mut self, id: SubscriptionId, told: Told) {
        let Some(subscription) = self.subscription(id) else {
            // It has left, and the queue will hear of it.
            return;
        };
        let (connection, key) = (subscription.connection, subscription.key);
        let tag = subscription.membership.as_ref().map(|it| it.tag);
        match told {
            Told::Joined(offset) => {
                let epoch = self.engine.epoch();
                let cursor = Cursor { epoch, offset };
                if let Some(tag) = tag {
                    self.tell(connection, Event::Subscribed { tag, key, cursor });
                }
            }
            Told::Refused(refusal) => {
                self.end_subscription(connection, id);
                if let Some(tag) = tag {
                    self.refuse(connection, tag, refusal);
                }
            }
            Told::Message {
                message,
                redelivered,
            } => self.deliver_to_member(id, message, redelivered),
            Told::Lost(refusal) => {
                self.end_subscription(connection, id);
                self.tell(connection, Event::Lost { key, refusal });
            }
        }
    }

    fn deliver_to_member(&mut self, id: SubscriptionId, message: Arc<Message>, redelivered: u32) {
        let now = self.clock.now();
        let subscription = &mut self.subscriptions[id.index as usize];
        let connection = &mut self.connections[subscription.connection.index as usize];
        if connection.ended != Ended::No {
            // It leaves when it is gone, and the message goes to another one.
            return;
        }
        if subscription.source != Source::Member {
            // Sent before the queue knew that it takes no more.
            return self.request(id, Request::GiveBack(message));
        }
        if message.is_expired(now) {
            self.metrics.expired.add(1);
            return self.request(id, Request::Ack(message.offset));
        }
        if connection.outbox.cost() >= self.limits.outbox_bytes_max {
            subscription.source = Source::Blocked;
            connection.blocked += 1;
            return self.request(id, Request::GiveBack(message));
        }
        self.formats.next_message();
        let offer = Offer {
            message: &message,
            retained: false,
            redelivered,
            now,
        };
        let framed = Encoding {
            formats: &mut self.formats,
            scratch: &mut self.own_frames,
            held: &mut self.held,
            metrics: &self.metrics,
        }
        .put(connection, subscription, offer);
        match framed {
            Framed::Put => {
                let connection = connection.id;
                self.mark_dirty(connection);
            }
            Framed::Held => {}
            Framed::Full => {
                subscription.source = Source::Paused;
                self.request(id, Request::GiveBack(message));
            }
            Framed::Unwanted | Framed::Unfit => self.request(id, Request::Ack(message.offset)),
        }
    }
}
