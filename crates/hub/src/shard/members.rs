//! The members' end of work queues: subscriptions whose messages a queue hands out.

use tidings_ports::{Event, Framed, Group, Start, SubscriptionKey, Tag, Verdict};
use tidings_types::{Cursor, Message, Refusal, RefusalCode, TopicFilter};

use super::Shard;
use super::connection::{ConnectionId, Ended};
use super::fanout::{Encoding, Offer};
use super::subscribe::{Ask, each_once};
use super::subscription::{Membership, Source, SubscriptionId};
use super::verdicts::Awaited;
use crate::gate::{self, Wanted};
use crate::inbox::Note;
use crate::queue::{self, Handed, Join, MemberId, Request, Told};
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
            joining: Some(ask.tag),
            leaving: None,
            filters: wanted.filters.clone().into(),
        };
        let subscription = self.add_member(id, ask, membership);
        let ack_ms = group.ack_timeout.map_or(u64::MAX, |timeout| {
            u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
        });
        let ack_ms = ack_ms.clamp(1, self.limits.ack_ms_max.max(1));
        let join = Join {
            filters: each_once(wanted.filters),
            start: wanted.start,
            prefetch: group.prefetch.min(PREFETCH_MAX) as usize,
            expiry: group.expiry,
            ack_ms,
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

    /// A queue tells one of this shard's members something.
    pub(super) fn told(&mut self, id: SubscriptionId, told: Told) {
        let Some(subscription) = self.subscription(id) else {
            // It has left, and the queue will hear of it, but not what it has not seen.
            if let Told::Message(handed) = told {
                self.give_back(id, handed);
            }
            return;
        };
        let (connection, key) = (subscription.connection, subscription.key);
        let membership = subscription.membership.as_mut();
        let (joining, leaving) = membership.map_or((None, None), |it| {
            let is_answer = matches!(told, Told::Joined(_) | Told::Refused(_));
            let joining = it.joining.take_if(|_| is_answer);
            (joining, it.leaving.take_if(|_| is_answer))
        });
        match told {
            Told::Joined(offset) => {
                let epoch = self.engine.epoch();
                let cursor = Cursor { epoch, offset };
                if let Some(tag) = joining {
                    self.tell(connection, Event::Subscribed { tag, key, cursor });
                }
            }
            Told::Refused(refusal) => {
                if leaving.is_none() {
                    self.end_subscription(connection, id);
                }
                if let Some(tag) = joining {
                    self.refuse(connection, tag, refusal);
                }
            }
            Told::Message(handed) => self.deliver_to_member(id, handed),
            Told::Gap(gap) => self.tell_gap(connection, key, gap),
            Told::Lost(refusal) => {
                self.end_subscription(connection, id);
                self.tell(connection, Event::Lost { key, refusal });
            }
        }
        if let Some((tag, forget)) = leaving {
            self.landed(connection);
            self.leave_queue(connection, id, (tag, key), forget);
        }
    }

    /// Ends a subscription that has joined its queue, or has not been let in.
    pub(super) fn leave_queue(
        &mut self,
        connection: ConnectionId,
        id: SubscriptionId,
        (tag, key): (Tag, SubscriptionKey),
        forget: bool,
    ) {
        if forget {
            if let Some(connection) = self.connection(connection) {
                connection.in_flight += 1;
            }
            let awaited = Awaited::Unsubscribe(connection, tag, key);
            let token = self.awaited.insert(awaited) as u64;
            // Before it leaves by itself.
            self.request(
                id,
                Request::Leave {
                    forget: Some(token),
                },
            );
        }
        self.end_subscription(connection, id);
        if !forget {
            self.tell(connection, Event::Unsubscribed { tag, key });
        }
    }

    /// A message did not reach the member that it was handed to.
    fn give_back(&mut self, id: SubscriptionId, handed: Handed) {
        let member = MemberId {
            shard: self.index,
            subscription: id,
        };
        let note = Note::GivenBack {
            queue: handed.queue,
            member,
            told: handed.redelivered,
            message: handed.message,
        };
        self.send(handed.home, note);
    }

    fn deliver_to_member(&mut self, id: SubscriptionId, handed: Handed) {
        let now = self.clock.now();
        let subscription = &mut self.subscriptions[id.index as usize];
        let connection = &mut self.connections[subscription.connection.index as usize];
        if connection.ended != Ended::No || subscription.source != Source::Member {
            // Sent before the queue knew that it takes no more.
            return self.give_back(id, handed);
        }
        let message = &handed.message;
        if message.is_expired(now) {
            self.metrics.expired.add(1);
            return self.request(id, done(message));
        }
        if connection.outbox.cost() >= self.limits.outbox_bytes_max {
            subscription.source = Source::Blocked;
            connection.blocked += 1;
            return self.give_back(id, handed);
        }
        self.formats.next_message();
        let offer = Offer {
            message,
            retained: false,
            redelivered: handed.redelivered,
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
                self.give_back(id, handed);
            }
            Framed::Unwanted | Framed::Unfit => self.request(id, done(message)),
        }
    }
}

/// A message that nobody needs any more.
fn done(message: &Message) -> Request {
    Request::Settle(message.offset, Verdict::Ack, None)
}
