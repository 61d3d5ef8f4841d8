//! `tidings.v1`: JSON requests and answers over a WebSocket, one object to a text frame.
//!
//! An error is an answer and leaves the connection open; only what breaks WebSocket itself, or a binary
//! message, closes it. Answers carry the request's `id` as it was written. Answers to `publish`, `ack` and `nack`
//! come when that is durable, so they may overtake each other; everything else is answered in order.

mod answer;
mod nearest;
mod publish;
mod request;
mod subscription;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidings_ports::{
    Command, Conversation, Credential, Delivery, Event, Framed, Framing, Gap, Secret, SignOn,
    SubscriptionKey, Tag, Turn, Until,
};
use tidings_types::{Cursor, Limits, Protocol, Receipt, Refusal, RefusalCode, Timestamp};

use self::answer::Answer;
use self::request::{Field, Op, Request, RequestId, bad_field};
use self::subscription::{Subscription, Wish, only_with_group, settle, unknown_subscription};
use super::extension::Deflate;
use super::format::{self, QueuePlace};
use super::link::{Link, Received};

/// The name in the handshake.
pub const SUBPROTOCOL: &str = "tidings.v1";

/// JSON around a payload: base64 makes it a third longer, escapes make text longer.
const ENVELOPE_FACTOR: usize = 2;
/// What a request may have besides its payload: field names, a topic, headers.
const ENVELOPE_BYTES: usize = 64 << 10;

/// The connection is not read while it has `publishes_in_flight_max` unanswered publishes, but one read may
/// bring many more requests at once: so many times that number are taken, and the rest is refused.
const PIPELINE_FACTOR: usize = 32;

/// Unanswered requests whose list is given back to the allocator when it is empty again.
const PENDING_KEPT: usize = 16;

/// One peer that speaks `tidings.v1`.
pub struct TidingsConversation {
    link: Link,
    subscriptions: Vec<Subscription>,
    /// Requests that the hub has not answered, in the order of their tags.
    pending: VecDeque<Pending>,
    /// The last subscription's key; the first is 1.
    key: u32,
    /// The last tag.
    tag: u64,
    sign_on: SignOn,
}

struct Pending {
    tag: Tag,
    id: RequestId,
    what: Asked,
}

#[derive(Clone, Copy)]
enum Asked {
    Publish,
    Subscribe(SubscriptionKey),
    Unsubscribe,
    Settle,
    Auth,
}

impl TidingsConversation {
    /// A conversation for a connection whose handshake is done.
    #[must_use]
    pub fn new(deflate: Option<Deflate>, limits: Arc<Limits>) -> Self {
        let message_bytes_max = limits
            .message_bytes_max
            .saturating_mul(ENVELOPE_FACTOR)
            .saturating_add(limits.message_header_bytes_max + ENVELOPE_BYTES);
        Self {
            link: Link::new(limits, deflate, message_bytes_max),
            subscriptions: Vec::new(),
            pending: VecDeque::new(),
            key: 0,
            tag: 0,
            sign_on: SignOn::Open,
        }
    }

    /// With peers who may, or must, say who they are.
    #[must_use]
    pub fn with_sign_on(self, sign_on: SignOn) -> Self {
        Self { sign_on, ..self }
    }

    fn request(&mut self, payload: &[u8], turn: &mut Turn<'_>) {
        // The codec has validated it; this only makes it a `str` again.
        let text = simdutf8::basic::from_utf8(payload).unwrap_or_default();
        let (request, id) = match Request::parse(text) {
            Ok(parsed) => parsed,
            Err(rejected) => return refuse(rejected.id.as_deref(), &rejected.refusal, turn),
        };
        let carried_out = match request.op {
            Op::Auth => self.authenticate(&request, &id, turn),
            Op::Ping => {
                turn.frames.push(Answer::new("ok", id.as_deref()).frame());
                Ok(())
            }
            Op::Subscribe => self.subscribe(&request, &id, turn),
            Op::Unsubscribe => self.unsubscribe(&request, &id, turn),
            Op::Publish => self.publish(&request, &id, turn),
            Op::Ack | Op::Nack => self.settle(&request, &id, turn),
        };
        if let Err(refusal) = carried_out {
            refuse(id.as_deref(), &refusal, turn);
        }
    }

    /// Asks who the peer is, as the first request or to renew that. Where nobody is asked, everybody is good.
    fn authenticate(
        &mut self,
        request: &Request<'_>,
        id: &RequestId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let credential = credential(request)?;
        if self.sign_on == SignOn::Open {
            turn.frames.push(Answer::new("ok", id.as_deref()).frame());
            return Ok(());
        }
        let tag = self.pend(id, Asked::Auth)?;
        turn.commands
            .push(Command::Authenticate { tag, credential });
        Ok(())
    }

    fn authenticated(&mut self, tag: Tag, expires: Option<Timestamp>, turn: &mut Turn<'_>) {
        if let Some(pending) = self.pended(tag) {
            let answer = Answer::new("ok", pending.id.as_deref());
            let answer = match expires {
                Some(expires) => answer.plain("expires", expires.0),
                None => answer,
            };
            turn.frames.push(answer.frame());
        }
    }

    fn publish(
        &mut self,
        request: &Request<'_>,
        id: &RequestId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let draft = publish::draft(request, &self.link.limits)?;
        let tag = self.pend(id, Asked::Publish)?;
        turn.commands.push(Command::Publish {
            tag,
            drafts: vec![draft],
            save: None,
            settle: Vec::new(),
        });
        Ok(())
    }

    fn subscribe(
        &mut self,
        request: &Request<'_>,
        id: &RequestId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let limits = Arc::clone(&self.link.limits);
        let wish = Wish::read(request, &limits)?;
        if self.subscriptions.len() >= limits.subscriptions_per_connection_max {
            let detail = format!(
                "the connection has {} subscriptions, as many as `limits.subscriptions_per_connection_max` permits: end one, or use a wildcard",
                self.subscriptions.len()
            );
            return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
        }
        if let Some(known) = self.subscriptions.iter().find(|it| it.is(&wish)) {
            let detail = format!(
                "already subscribed, as sub {}: unsubscribe first to start at another place",
                known.key.0
            );
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        let key = self.next_key();
        let tag = self.pend(id, Asked::Subscribe(key))?;
        // A message of a work queue goes to one member, and its frame says how often it was delivered.
        let (framing, name, group) = match wish.group {
            Some(wanted) => (Framing::Own, Some(wanted.name), Some(wanted.group)),
            None => (Framing::Shared(format::json(self.link.deflate)), None, None),
        };
        self.subscriptions
            .push(Subscription::new(key, &wish.filters, name));
        turn.commands.push(Command::Subscribe {
            tag,
            key,
            filters: wish.filters,
            start: wish.start,
            framing,
            echo: wish.echo,
            until: Until::Ended,
            group,
        });
        Ok(())
    }

    fn unsubscribe(
        &mut self,
        request: &Request<'_>,
        id: &RequestId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let sub: Option<u32> =
            request.get(Field::Sub, "the number that the subscribe's answer gave")?;
        let topic: Option<String> = request.get(Field::Topic, "a string")?;
        let forget = request.get(Field::Forget, "true or false")?;
        let place = match (sub, topic) {
            (Some(sub), None) => self.subscriptions.iter().position(|it| it.key.0 == sub),
            // Who takes part in a work queue of the topic may be subscribed to the topic besides.
            (None, Some(topic)) => self.subscriptions.iter().position(|it| {
                it.group().is_none() && matches!(&*it.filters, [only] if only.as_str() == topic)
            }),
            _ => return Err(bad_field(Field::Sub, "there, or `topic`, but not both")),
        };
        let place = place.ok_or_else(unknown_subscription)?;
        if forget.is_some() && self.subscriptions[place].group().is_none() {
            return Err(only_with_group(Field::Forget));
        }
        let tag = self.pend(id, Asked::Unsubscribe)?;
        let key = self.subscriptions.remove(place).key;
        turn.commands.push(Command::Unsubscribe {
            tag,
            key,
            forget: forget.unwrap_or_default(),
        });
        Ok(())
    }

    /// Passes a verdict on. It is answered if the peer can tell by its id what the answer is to.
    fn settle(
        &mut self,
        request: &Request<'_>,
        id: &RequestId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let settle = settle(request, &self.subscriptions)?;
        let tag = match id {
            Some(_) => Some(self.pend(id, Asked::Settle)?),
            None => None,
        };
        turn.commands.push(Command::Settle { tag, settle });
        Ok(())
    }

    /// Notes a request that the hub is going to answer.
    fn pend(&mut self, id: &RequestId, what: Asked) -> Result<Tag, Refusal> {
        let max = self.link.limits.publishes_in_flight_max.max(1) * PIPELINE_FACTOR;
        if self.pending.len() >= max {
            let detail = format!("{max} requests wait for their answers: wait for some of them");
            return Err(Refusal::new(RefusalCode::RateLimited, detail));
        }
        self.tag += 1;
        let tag = Tag(self.tag);
        self.pending.push_back(Pending {
            tag,
            id: id.clone(),
            what,
        });
        Ok(tag)
    }

    /// The request that an answer belongs to. Answers mostly come in order, so it is near the front.
    fn pended(&mut self, tag: Tag) -> Option<Pending> {
        let place = self.pending.iter().position(|it| it.tag == tag)?;
        let pending = self.pending.remove(place);
        if self.pending.is_empty() && self.pending.capacity() > PENDING_KEPT {
            self.pending = VecDeque::new();
        }
        pending
    }

    fn next_key(&mut self) -> SubscriptionKey {
        loop {
            self.key = self.key.wrapping_add(1);
            let key = SubscriptionKey(self.key);
            if self.key != 0 && self.subscriptions.iter().all(|it| it.key != key) {
                return key;
            }
        }
    }

    /// Ends every subscription, so that no message follows the close frame that is written next.
    fn end_subscriptions(&mut self, turn: &mut Turn<'_>) {
        for subscription in self.subscriptions.drain(..) {
            self.tag += 1;
            turn.commands.push(Command::Unsubscribe {
                tag: Tag(self.tag),
                key: subscription.key,
                forget: false,
            });
        }
    }

    fn published(&mut self, tag: Tag, receipts: &[Receipt], turn: &mut Turn<'_>) {
        if let (Some(pending), [receipt]) = (self.pended(tag), receipts) {
            let answer = Answer::new("ok", pending.id.as_deref())
                .text("cursor", &receipt.cursor.to_string())
                .plain("time", receipt.time.0)
                .plain("replayed", receipt.replayed);
            turn.frames.push(answer.frame());
        }
    }

    fn subscribed(&mut self, tag: Tag, key: SubscriptionKey, cursor: Cursor, turn: &mut Turn<'_>) {
        let Some(pending) = self.pended(tag) else {
            return;
        };
        let answer = Answer::new("ok", pending.id.as_deref());
        let subscription = self.subscriptions.iter_mut().find(|it| it.key == key);
        let answer = match subscription {
            Some(subscription) => {
                subscription.begun(cursor);
                subscription.name(answer)
            }
            // It was ended before it had begun.
            None => answer.plain("sub", key.0),
        };
        let answer = answer.text("cursor", &cursor.to_string());
        turn.frames.push(answer.frame());
    }

    fn refused(&mut self, tag: Tag, refusal: &Refusal, turn: &mut Turn<'_>) {
        if let Some(pending) = self.pended(tag) {
            if let Asked::Subscribe(key) = pending.what {
                self.subscriptions.retain(|it| it.key != key);
            }
            turn.frames
                .push(error(pending.id.as_deref(), refusal).frame());
        }
    }

    fn gap(&mut self, key: SubscriptionKey, gap: Gap, turn: &mut Turn<'_>) {
        let Some(subscription) = self.subscriptions.iter().find(|it| it.key == key) else {
            return;
        };
        let answer = subscription
            .name(Answer::new("gap", None))
            .text("reason", gap.reason.name());
        let answer = match gap.after {
            Some(after) => answer.text("after", &after.to_string()),
            None => answer.plain("after", "null"),
        };
        turn.frames
            .push(answer.text("cursor", &gap.resume.to_string()).frame());
    }

    fn lost(&mut self, key: SubscriptionKey, refusal: &Refusal, turn: &mut Turn<'_>) {
        let Some(place) = self.subscriptions.iter().position(|it| it.key == key) else {
            return;
        };
        let subscription = self.subscriptions.remove(place);
        turn.frames
            .push(subscription.name(error(None, refusal)).frame());
    }
}

impl Conversation for TidingsConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Tidings
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        self.link.opened(turn);
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        while let Some(received) = self.link.receive(input, turn) {
            match received {
                Received::Text(payload) => self.request(&payload, turn),
                Received::Binary(_) => {
                    self.end_subscriptions(turn);
                    let detail = "tidings.v1 takes text messages only: send JSON as text, and bytes in `base64`";
                    self.link
                        .refuse(RefusalCode::UnsupportedMediaType, detail, turn);
                }
            }
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        if let Event::PeerFinished = event {
            return self.link.peer_finished(turn);
        }
        if !self.link.is_open() {
            return;
        }
        match event {
            Event::Published { tag, receipts } => self.published(tag, &receipts, turn),
            Event::Authenticated { tag, expires, .. } => self.authenticated(tag, expires, turn),
            Event::Refused { tag, refusal } => self.refused(tag, &refusal, turn),
            Event::Subscribed { tag, key, cursor } => self.subscribed(tag, key, cursor, turn),
            Event::Unsubscribed { tag, .. } | Event::Settled { tag } => {
                if let Some(pending) = self.pended(tag) {
                    let answer = Answer::new("ok", pending.id.as_deref());
                    turn.frames.push(answer.frame());
                }
            }
            Event::Gap { key, gap } => self.gap(key, gap, turn),
            Event::Lost { key, refusal } => self.lost(key, &refusal, turn),
            Event::Expiring { left } => {
                let ms = left.as_millis();
                let answer = Answer::new("expiring", None).plain("expires_in_ms", ms);
                turn.frames.push(answer.frame());
            }
            Event::Drain {
                reconnect_after,
                refusal,
            } => {
                self.end_subscriptions(turn);
                let ms = reconnect_after.as_millis();
                let answer = Answer::new("drain", None)
                    .plain("reconnect_ms", ms)
                    .text("code", refusal.code.slug())
                    .text("message", &refusal.detail);
                turn.frames.push(answer.frame());
                self.link.drain(reconnect_after, &refusal, turn);
            }
            _ => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.link.tick(turn);
    }

    /// A message of a work queue.
    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        if !self.link.is_open() {
            // Nothing follows a close frame: the queue gets the message back.
            return Framed::Full;
        }
        let deflate = self.link.deflate;
        let place = QueuePlace {
            sub: delivery.key.0,
            deliveries: delivery.redelivered.saturating_add(1),
        };
        frames.push(format::queued_json(deflate, delivery.message, place));
        Framed::Put
    }
}

/// What the peer shows: a token or a key, or a user with a password.
fn credential(request: &Request<'_>) -> Result<Credential, Refusal> {
    let token: Option<String> = request.get(Field::Token, "a string")?;
    let user: Option<String> = request.get(Field::User, "a string")?;
    let password: Option<String> = request.get(Field::Password, "a string")?;
    match (token, user, password) {
        (None, None, None) => Ok(Credential::Anonymous),
        (Some(token), None, None) => Ok(Credential::Bearer(Secret::new(token))),
        (None, Some(user), Some(password)) => Ok(Credential::Password {
            user,
            password: Secret::new(password),
        }),
        _ => Err(bad_field(
            Field::Token,
            "alone, or in its place `user` with `password`",
        )),
    }
}

/// An error that the conversation itself speaks, counted.
fn refuse(id: Option<&str>, refusal: &Refusal, turn: &mut Turn<'_>) {
    turn.commands.push(Command::Refused(refusal.clone()));
    turn.frames.push(error(id, refusal).frame());
}

fn error(id: Option<&str>, refusal: &Refusal) -> Answer {
    let answer = Answer::new("error", id)
        .text("code", refusal.code.slug())
        .text("message", &refusal.detail);
    match refusal.retry_after_s() {
        Some(seconds) => answer.plain("retry_after", seconds),
        None => answer,
    }
}

#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
