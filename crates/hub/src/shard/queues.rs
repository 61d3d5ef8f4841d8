//! The queues' end of work queues: handing out messages, and keeping what is not done.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{
    Expiry, Framing, GapReason, PublishError, Start, SubscriptionKey, Tag, Tick, Until,
};
use tidings_types::{Offset, Refusal, RefusalCode};

use super::Shard;
use super::connection::ConnectionId;
use super::subscribe::Ask;
use super::subscription::First;
use crate::inbox::Note;
use crate::queue::{Join, MemberId, QueueId, Record, Request, Told};

/// How long acknowledgements are collected before a queue's position is written.
pub(super) const SAVE_MS: u64 = 250;

impl Shard {
    /// A member asks something of a queue of this shard.
    pub(super) fn requested(&mut self, key: &ByteString, member: MemberId, request: Request) {
        if let Request::Join(join) = request {
            if let Err(refusal) = self.join(key, member, *join) {
                self.tell_member(member, Told::Refused(refusal));
            }
            return;
        }
        let Some(queue) = self.queues.find(key) else {
            return;
        };
        let id = queue.id;
        let changed = match request {
            Request::Join(_) => false,
            Request::Leave => {
                let left = queue.leave(member);
                if left {
                    self.member_left(id);
                }
                left
            }
            Request::Ack(offset) => queue.ack(member, offset),
            Request::Nack(offset) => queue.nack(member, offset),
            Request::GiveBack(message) => queue.give_back(member, message),
            Request::Ready => {
                queue.set_ready(member, true);
                false
            }
        };
        if changed {
            let due = self.clock.tick().plus_ms(SAVE_MS);
            self.queues.set_due(id, due);
        }
        self.pump(id);
    }

    pub(super) fn tell_member(&mut self, member: MemberId, told: Told) {
        self.send(member.shard, Note::Told(member.subscription, told));
    }

    fn join(&mut self, key: &ByteString, member: MemberId, join: Join) -> Result<(), Refusal> {
        let id = match self.queues.find(key) {
            Some(queue) => queue.id,
            None => self.new_queue(key)?,
        };
        let Some(queue) = self.queues.get(id) else {
            return Ok(());
        };
        if queue.since.is_none() && queue.filters != join.filters {
            return Err(Refusal::new(
                RefusalCode::BadRequest,
                "the members of a work queue subscribe to the same topics: use another name for others",
            ));
        }
        queue.join(member, join.prefetch);
        queue.filters = join.filters;
        // Of several that want it kept, the one that wants it longest counts, also while that one is away.
        queue.expiry = longer(queue.expiry, join.expiry);
        if queue.subscription.is_none() {
            self.sittings += 1;
            queue.sitting = self.sittings;
            self.begin_cursor(id, join.start);
        }
        self.queue_changed(id);
        self.welcome(id);
        self.pump(id);
        Ok(())
    }

    fn new_queue(&mut self, key: &ByteString) -> Result<QueueId, Refusal> {
        let max = self.limits.sessions_max;
        if !self.shared.add_session(max) {
            let detail = format!(
                "the server keeps {max} sessions and work queues, the most that are permitted (limits.sessions_max)"
            );
            return Err(Refusal::new(RefusalCode::TooManySessions, detail));
        }
        self.metrics.queues.add(1);
        let record = Record {
            expiry: Expiry::WithConnection,
            since: None,
            position: Offset::ZERO,
            suspect_to: Offset::ZERO,
            filters: Vec::new(),
            outstanding: std::collections::BTreeMap::new(),
        };
        Ok(self.queues.add(key.clone(), record, self.clock.now()))
    }

    /// Subscribes for a queue, which has got its first member.
    fn begin_cursor(&mut self, id: QueueId, start: Start) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let (position, filters) = (queue.position, queue.filters.clone());
        let (start, offset) = if queue.is_placed {
            let epoch = self.engine.epoch();
            let cursor = tidings_types::Cursor {
                epoch,
                offset: position,
            };
            (Start::After(cursor), position)
        } else {
            let (offset, unknown) = self.locate(&start);
            if unknown {
                self.metrics.gap(GapReason::UnknownCursor);
            }
            // What is retained is for each subscriber of its own, and not for one of many.
            match start {
                _ if unknown => (Start::Earliest, offset),
                Start::Retained => (Start::Latest, offset),
                start => (start, offset),
            }
        };
        let ask = Ask {
            tag: Tag(0),
            key: SubscriptionKey(0),
            framing: Framing::Own,
            echo: true,
            until: Until::Ended,
        };
        let subscription =
            self.add_subscription(ConnectionId::default(), &ask, filters, &start, offset);
        if let Some(it) = self.subscription(subscription) {
            it.queue = Some(id);
        }
        if let Some(queue) = self.queues.get(id) {
            queue.subscription = Some(subscription);
        }
        self.advance(subscription);
    }

    /// Whether it is known where a queue stands: not before the page with the newest N is read.
    fn is_located(&mut self, id: QueueId) -> bool {
        let subscription = self.queues.get(id).and_then(|queue| queue.subscription);
        subscription
            .and_then(|it| self.subscription(it))
            .is_none_or(|it| !matches!(it.first, First::Last(..)))
    }

    /// A queue's record is to be written.
    pub(super) fn queue_changed(&mut self, id: QueueId) {
        if !self.is_located(id) {
            return;
        }
        if let Some(queue) = self.queues.get(id) {
            if queue.is_open || queue.since.is_some() {
                self.states.changed(queue.key.clone());
            } else {
                self.states.urgent(queue.key.clone());
            }
        }
    }

    /// Answers members that join, once the queue is there for good.
    fn welcome(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(id).filter(|queue| queue.is_open) else {
            return;
        };
        let (joining, subscription) = (queue.take_joining(), queue.subscription);
        let position = subscription.and_then(|it| self.position_of(it));
        for member in joining {
            let told = Told::Joined(position.unwrap_or(Offset::ZERO));
            self.tell_member(member, told);
        }
    }

    /// A queue's record is durable.
    pub(super) fn queue_written(&mut self, key: &ByteString, sitting: Option<u64>) {
        let Some(queue) = self.queues.find(key) else {
            return;
        };
        let id = queue.id;
        let is_current = queue.since.is_none() && sitting == Some(queue.sitting);
        if is_current && !queue.is_open {
            queue.is_open = true;
            self.welcome(id);
            self.pump(id);
        }
    }

    /// A queue's record could not be written. One that is not there for good yet refuses who wants to join.
    pub(super) fn queue_not_written(&mut self, key: &ByteString, error: PublishError) {
        let Some(queue) = self.queues.find(key).filter(|queue| !queue.is_open) else {
            return;
        };
        let (id, joining) = (queue.id, queue.take_joining());
        if joining.is_empty() {
            // Nobody left it, so nothing changed: it is not to be written once more for that.
            return;
        }
        for member in joining {
            if let Some(queue) = self.queues.get(id) {
                queue.leave(member);
            }
            self.tell_member(member, Told::Refused(error.into()));
        }
        self.member_left(id);
    }

    /// A queue cannot go on: its members are told, and it waits for the next one.
    pub(super) fn queue_lost(&mut self, id: QueueId, refusal: &Refusal) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let joining = queue.take_joining();
        let members: Vec<MemberId> = queue.members().collect();
        for member in members {
            if let Some(queue) = self.queues.get(id) {
                queue.leave(member);
            }
            let told = if joining.contains(&member) {
                Told::Refused(refusal.clone())
            } else {
                Told::Lost(refusal.clone())
            };
            self.tell_member(member, told);
        }
        self.member_left(id);
    }

    /// A member left: if it was the last one, the queue waits, or ends.
    fn member_left(&mut self, id: QueueId) {
        let now = self.clock.now();
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        if queue.members().next().is_some() {
            return;
        }
        let located = self.is_located(id);
        let subscription = self.queues.get(id).and_then(|it| it.subscription.take());
        if let Some(subscription) = subscription {
            let position = self.position_of(subscription);
            self.remove_subscription(subscription);
            if let (Some(position), Some(queue)) = (position, self.queues.get(id)) {
                queue.position = position;
                queue.is_placed = true;
            }
        }
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        queue.since = Some(now);
        queue.is_open = false;
        for returned in queue.returned.values_mut() {
            // What is in the log is read again.
            returned.message = returned
                .message
                .take()
                .filter(|message| message.storage == tidings_types::Storage::None);
        }
        if queue.expiry == Expiry::WithConnection || !located {
            return self.end_queue(id);
        }
        self.queue_changed(id);
        self.queue_is_due(id);
    }

    fn end_queue(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.remove(id) {
            self.shared.remove_session();
            self.metrics.queues.sub(1);
            self.states.changed(queue.key);
        }
    }

    /// The time has come to write a queue's position, to try again what was busy, or to end it.
    fn queue_is_due(&mut self, id: QueueId) {
        let now = self.clock.now();
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let Some(since) = queue.since else {
            self.queue_changed(id);
            return self.pump_now(id);
        };
        let Expiry::After(expiry) = queue.expiry else {
            return;
        };
        let left = expiry.saturating_sub(now.since(since));
        if left == Duration::ZERO {
            return self.end_queue(id);
        }
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let due = self.clock.tick().plus_ms(left);
        self.queues.set_due(id, due);
    }

    /// The record of a queue, and since when it has members, if it has any.
    pub(super) fn queue_record(&mut self, key: &ByteString) -> Option<(Bytes, Option<u64>)> {
        let queue = self.queues.find(key)?;
        let (id, subscription) = (queue.id, queue.subscription);
        if !self.is_located(id) {
            return None;
        }
        let position = subscription.and_then(|it| self.position_of(it));
        let queue = self.queues.get(id)?;
        let record = Record {
            expiry: queue.expiry,
            since: queue.since,
            position: position.unwrap_or(queue.position),
            suspect_to: queue.suspect_to,
            filters: queue.filters.clone(),
            outstanding: queue.outstanding(),
        };
        let sitting = queue.since.is_none().then_some(queue.sitting);
        Some((record.encode(), sitting))
    }

    /// Takes back what the engine kept of a queue.
    pub(super) fn restore_queue(&mut self, key: ByteString, record: &Bytes) {
        let now = self.clock.now();
        let Some(mut record) = Record::decode(record) else {
            self.metrics.sessions_unread.add(1);
            return;
        };
        if record.expiry == Expiry::WithConnection {
            // Its members are gone, with the process at the latest.
            return self.states.changed(key);
        }
        if record.since.is_none() {
            // Its members may have got more than the record knows of.
            record.suspect_to = self.engine.head();
            for count in record.outstanding.values_mut() {
                *count = (*count).max(1);
            }
        }
        let id = self.queues.add(key, record, now);
        if let Some(queue) = self.queues.get(id) {
            queue.is_placed = true;
        }
        self.shared.add_session(usize::MAX);
        self.metrics.queues.add(1);
        self.queue_changed(id);
        self.queues.set_due(id, self.clock.tick());
    }

    /// Looks at the queues whose time has come.
    pub(super) fn tick_queues(&mut self, now: Tick) {
        while let Some(id) = self.queues.take_due(now) {
            self.queue_is_due(id);
        }
    }

    /// Leaves every queue without members: the server ends.
    pub(super) fn close_queues(&mut self) {
        for id in self.queues.ids() {
            let members: Vec<MemberId> = match self.queues.get(id) {
                Some(queue) => queue.members().collect(),
                None => continue,
            };
            for member in &members {
                if let Some(queue) = self.queues.get(id) {
                    queue.leave(*member);
                }
            }
            if !members.is_empty() {
                self.member_left(id);
            }
        }
    }
}

/// The one that keeps something longer.
fn longer(one: Expiry, other: Expiry) -> Expiry {
    match (one, other) {
        (Expiry::Never, _) | (_, Expiry::Never) => Expiry::Never,
        (Expiry::After(one), Expiry::After(other)) => Expiry::After(one.max(other)),
        (Expiry::WithConnection, expiry) | (expiry, Expiry::WithConnection) => expiry,
    }
}
