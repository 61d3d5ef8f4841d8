//! The queues' end of work queues: handing out messages, and keeping what is not done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{
    Expiry, Framing, Gap, GapReason, PublishError, Start, SubscriptionKey, Tag, Tick, Until,
    Verdict,
};
use tidings_types::{Cursor, Message, Offset, Refusal, RefusalCode};

use super::Shard;
use super::connection::ConnectionId;
use super::subscribe::Ask;
use super::subscription::First;
use crate::inbox::Note;
use crate::queue::{Awaiting, Join, MemberId, QueueId, Record, Request, Settled, Told};

/// How long acknowledgements are collected before a queue's position is written.
pub(super) const SAVE_MS: u64 = 250;
/// Queues that are looked at before the shard's other work gets its turn.
const QUEUES_A_TURN: usize = 256;

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
            // It is gone, and with it what was to be settled.
            if let Request::Settle(_, _, Some(token))
            | Request::Leave {
                forget: Some(token),
            }
            | Request::Hold(_, token)
            | Request::Release(_, _, token) = request
            {
                let shard = member.shard;
                self.tell_settled(&[Awaiting { shard, token }], Settled::NotYours);
            }
            return;
        };
        let id = queue.id;
        let changed = match request {
            Request::Join(_) => false,
            Request::Leave { forget } => {
                let was_kept = queue.is_kept();
                let left = queue.leave(member);
                if left {
                    self.member_left(id, forget.is_some());
                }
                if let Some(token) = forget {
                    let shard = member.shard;
                    self.has_left(id, was_kept.then_some(key), Awaiting { shard, token });
                }
                left
            }
            Request::Settle(offset, verdict, token) => {
                let settled = queue.settle(member, offset, verdict);
                self.verdict_given(id, member, settled, token);
                if verdict == Verdict::Reject {
                    self.bury(id);
                }
                settled
            }
            Request::Hold(offset, token) => {
                let held = queue.hold(member, offset);
                self.verdict_given(id, member, held, Some(token));
                held
            }
            Request::Release(offset, verdict, token) => {
                let now = self.clock.tick();
                if let Some(deadline) = queue.release(member, offset, verdict, now) {
                    self.queues.set_due(id, deadline);
                }
                self.verdict_given(id, member, true, Some(token));
                if verdict == Some(Verdict::Reject) {
                    self.bury(id);
                }
                true
            }
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

    /// Sees to it that who forgets a queue is told, when it is forgotten for good if it is. `kept` is the name of what
    /// is on record of it.
    fn has_left(&mut self, id: QueueId, kept: Option<&ByteString>, awaiting: Awaiting) {
        // Others may still be there.
        let is_over = self.queues.get(id).is_none_or(|queue| queue.is_over());
        match kept.filter(|_| is_over) {
            Some(key) => self.states.awaited_verdict(key.clone(), awaiting),
            None => self.tell_settled(&[awaiting], Settled::Durable),
        }
    }

    /// A message that this shard's queue handed out was not delivered.
    pub(super) fn given_back(
        &mut self,
        id: QueueId,
        (member, told): (MemberId, u32),
        message: Arc<Message>,
    ) {
        if let Some(queue) = self.queues.get(id) {
            queue.give_back(member, told, message);
            self.queues.set_due(id, self.clock.tick().plus_ms(SAVE_MS));
            self.pump(id);
        }
    }

    /// Sees to it that who waits for a verdict, or for a step of a transaction, is told.
    fn verdict_given(&mut self, id: QueueId, member: MemberId, given: bool, token: Option<u64>) {
        if !given {
            self.metrics.queue_strays.add(1);
        }
        let Some(token) = token else {
            return;
        };
        let awaiting = Awaiting {
            shard: member.shard,
            token,
        };
        match self.queues.get(id) {
            Some(queue) if given && queue.is_kept() => {
                self.states.awaited_verdict(queue.key.clone(), awaiting);
            }
            _ if given => self.tell_settled(&[awaiting], Settled::Durable),
            _ => self.tell_settled(&[awaiting], Settled::NotYours),
        }
    }

    pub(super) fn tell_settled(&mut self, awaiting: &[Awaiting], settled: Settled) {
        for awaiting in awaiting {
            self.send(awaiting.shard, Note::Settled(awaiting.token, settled));
        }
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
        queue.join(member, &join);
        queue.filters = join.filters;
        let was_kept = queue.is_kept();
        // Of several that want it kept, the one that wants it longest counts, also while that one is away.
        queue.expiry = longer(queue.expiry, join.expiry);
        if was_kept != queue.is_kept() {
            // From now on it is to be on record.
            queue.is_open = false;
        }
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
        let max = self.limits.queues_max;
        if !self.shared.queues.add_one(max) {
            let detail = format!(
                "the server keeps {max} work queues, the most that are permitted (limits.queues_max): end those that nobody needs"
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
            let cursor = Cursor {
                epoch,
                offset: position,
            };
            (Start::After(cursor), position)
        } else {
            let (offset, unknown) = self.locate(&start);
            if unknown {
                let epoch = self.engine.epoch();
                let gap = Gap {
                    reason: GapReason::UnknownCursor,
                    after: match start {
                        Start::After(cursor) => Some(cursor),
                        _ => None,
                    },
                    resume: Cursor { epoch, offset },
                };
                self.queue_missed(id, gap);
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
            if !queue.is_kept() {
                // There is nothing to wait for.
                queue.is_open = queue.since.is_none();
                self.welcome(id);
            } else if queue.is_open || queue.since.is_some() {
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
        for (member, gap) in joining {
            let told = Told::Joined(position.unwrap_or(Offset::ZERO));
            self.tell_member(member, told);
            if let Some(gap) = gap {
                self.tell_member(member, Told::Gap(gap));
            }
        }
    }

    /// Messages are gone that a queue has not read: all its members are told.
    pub(super) fn queue_missed(&mut self, id: QueueId, gap: Gap) {
        self.metrics.gap(gap.reason);
        self.metrics.queue_missed.add(1);
        let members = self.queues.get(id).map(|queue| queue.missed(gap));
        for member in members.into_iter().flatten() {
            self.tell_member(member, Told::Gap(gap));
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
        for (member, _) in joining {
            if let Some(queue) = self.queues.get(id) {
                queue.leave(member);
            }
            self.tell_member(member, Told::Refused(error.into()));
        }
        self.member_left(id, false);
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
            let told = if joining.iter().any(|(joining, _)| *joining == member) {
                Told::Refused(refusal.clone())
            } else {
                Told::Lost(refusal.clone())
            };
            self.tell_member(member, told);
        }
        self.member_left(id, false);
    }

    /// A member left: if it was the last one, the queue waits, or ends.
    fn member_left(&mut self, id: QueueId, forget: bool) {
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
        queue.shrink();
        if forget || !queue.is_kept() || !located {
            return self.end_queue(id);
        }
        self.queue_changed(id);
        self.queue_is_due(id);
    }

    fn end_queue(&mut self, id: QueueId) {
        self.shared.queues.remove_one();
        self.metrics.queues.sub(1);
        if let Some(key) = self.queues.end(id) {
            self.states.changed(key);
        }
        self.bury(id);
    }

    /// The time has come to write a queue's position, to try again what was busy, or to end it.
    fn queue_is_due(&mut self, id: QueueId) {
        let now = self.clock.now();
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let Some(since) = queue.since else {
            let tick = self.clock.tick();
            while queue.take_late(tick) {
                self.metrics.queue_late.add(1);
            }
            if let Some(deadline) = queue.next_deadline() {
                self.queues.set_due(id, deadline);
            }
            self.queue_changed(id);
            self.bury(id);
            return self.pump_now(id);
        };
        self.bury(id);
        let Some(queue) = self.queues.get(id).filter(|queue| !queue.is_over()) else {
            return;
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
        if record.since.is_none() {
            // Its members may have got more than the record knows of.
            record.suspect_to = self.engine.head();
            for it in record.outstanding.values_mut() {
                it.count = it.count.max(1);
            }
        }
        let id = self.queues.add(key, record, now);
        if let Some(queue) = self.queues.get(id) {
            queue.is_placed = true;
        }
        self.shared.queues.add_one(usize::MAX);
        self.metrics.queues.add(1);
        self.queue_changed(id);
        self.queues.set_due(id, self.clock.tick());
    }

    /// Looks at the queues whose time has come.
    pub(super) fn tick_queues(&mut self, now: Tick) {
        for _ in 0..QUEUES_A_TURN {
            let Some(id) = self.queues.take_due(now) else {
                return;
            };
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
                self.member_left(id, false);
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
