//! Work queues: a cursor over the log whose messages are shared out among members.
//!
//! A queue lives on the home shard of its name; its members may be connections of other shards, which it talks
//! with by notes. It pulls a message only when a member has room for it, so what it holds is bounded by what its
//! members may have unacknowledged. What is returned goes out again before anything new.
//!
//! It is kept by the engine under `queue/<name>`: see [`record`]. One that does not outlive its members is not
//! kept.
//!
//! Invariants: every message up to the cursor is done, or in exactly one of `unacked`, `held`, `returned` and
//! `graves`. A queue without members has no cursor subscription, only a position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use tidings_ports::{Expiry, Gap, PublishError, Start, Tick, Verdict};
use tidings_types::{Message, Offset, Refusal, Timestamp, TopicFilter};

use crate::shard::SubscriptionId;

mod dead;
mod queues;
mod record;
mod transaction;

pub(crate) use dead::{Dead, DeadReason, Graves, letter};
pub(crate) use queues::{QueueId, Queues};
pub(crate) use record::{Outstanding, Record};
pub(crate) use transaction::{Part, Stage, Transaction, fold_settled};

const PREFIX: &str = "queue/";

/// A member: a subscription of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberId {
    pub shard: usize,
    pub subscription: SubscriptionId,
}

/// What a member asks of a queue.
#[derive(Debug)]
pub(crate) enum Request {
    Join(Box<Join>),
    /// With a token, the last member takes the queue along, and is answered when that is durable.
    Leave {
        forget: Option<u64>,
    },
    /// With a token, answered by [`Note::Settled`](crate::inbox::Note::Settled) when it is durable.
    Settle(Offset, Verdict, Option<u64>),
    /// A transaction is about to settle it: answered when it is certain that it can, and when that the message is
    /// not done is durable.
    Hold(Offset, u64),
    /// What became of the transaction: the verdict counts, or the message is its member's again. Answered when that
    /// is durable.
    Release(Offset, Option<Verdict>, u64),
    /// It takes messages again, after it has given one back.
    Ready,
}

/// Who joins.
#[derive(Debug)]
pub(crate) struct Join {
    /// Each once, in order.
    pub filters: Vec<TopicFilter>,
    /// For a new queue.
    pub start: Start,
    pub prefetch: usize,
    pub expiry: Expiry,
    /// How long the member may have a message.
    pub ack_ms: u64,
}

/// What becomes of a verdict that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Durable,
    /// The message is not the member's, or not any more.
    NotYours,
    Failed(PublishError),
}

/// Who waits for a verdict: a token of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaiting {
    pub shard: usize,
    pub token: u64,
}

/// What a queue tells a member.
#[derive(Debug)]
pub(crate) enum Told {
    Joined(Offset),
    Refused(Refusal),
    Message(Handed),
    /// What the queue has not read yet and is gone.
    Gap(Gap),
    Lost(Refusal),
}

/// A message on its way from a queue to a member.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Where it goes back if it is not delivered: the home shard, and the queue there.
    pub home: usize,
    pub queue: QueueId,
    pub message: Arc<Message>,
    pub redelivered: u32,
}

#[derive(Debug)]
struct Member {
    id: MemberId,
    prefetch: usize,
    ack_ms: u64,
    /// How many it has unacknowledged, or held by transactions, and what they take in memory.
    unacked: usize,
    bytes: usize,
    /// Whether it was told that it has joined.
    has_joined: bool,
    is_ready: bool,
    /// What it is to be told of when it has joined.
    gap: Option<Gap>,
}

#[derive(Debug)]
struct Unacked {
    member: MemberId,
    /// Before.
    deliveries: Deliveries,
    bytes: usize,
    /// When it goes to another member.
    due: Tick,
    /// Only of topics that are in no log.
    message: Option<Arc<Message>>,
}

/// How often a message was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deliveries {
    /// As its next consumer is told. Differs from what any other was told.
    pub told: u32,
    /// How many of them were none, as came out when another one had been told already.
    unseen: u32,
}

impl Deliveries {
    pub fn new(made: u32) -> Self {
        Self {
            told: made,
            unseen: 0,
        }
    }

    /// How many there were.
    pub fn made(self) -> u32 {
        self.told.saturating_sub(self.unseen)
    }

    fn plus(self, more: u32) -> Self {
        let told = self.told.saturating_add(more);
        Self { told, ..self }
    }
}

/// A message that has to go out again.
#[derive(Debug, Default)]
pub(crate) struct Returned {
    pub deliveries: Deliveries,
    /// Who had it last and is still there: another one is better.
    pub last: Option<MemberId>,
    /// If it is in memory.
    pub message: Option<Arc<Message>>,
}

/// One work queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub id: QueueId,
    /// The name of its record.
    pub key: ByteString,
    pub filters: Vec<TopicFilter>,
    pub expiry: Expiry,
    /// Its cursor; `Some` exactly if it has members.
    pub subscription: Option<SubscriptionId>,
    /// Where the cursor was when there was none.
    pub position: Offset,
    /// Messages up to here may have been delivered before, without a record of it.
    pub suspect_to: Offset,
    /// When its last member left; `Some` exactly if it has none.
    pub since: Option<Timestamp>,
    /// Whether `position` was ever known: then it counts, and no member's start.
    pub is_placed: bool,
    /// Since when it has members: differs between the times that it had none.
    pub sitting: u64,
    /// Whether it was written durably that it has members, so that after a crash it is known that they may have
    /// got more than is on record. Before that they get nothing.
    pub is_open: bool,
    /// Whether a page of returned messages is being read.
    pub is_fetching: bool,
    pub returned: BTreeMap<Offset, Returned>,
    members: Vec<Member>,
    /// Who is next.
    turn: usize,
    unacked: BTreeMap<Offset, Unacked>,
    /// When each of `unacked` is due.
    deadlines: BTreeSet<(Tick, Offset)>,
    /// Part of a transaction that is being committed.
    held: BTreeMap<Offset, Unacked>,
    pub graves: Graves,
    due: Option<Tick>,
}

impl Queue {
    /// Whether it outlives its members, and the process.
    pub fn is_kept(&self) -> bool {
        self.expiry != Expiry::WithConnection
    }

    pub fn join(&mut self, id: MemberId, join: &Join) {
        self.members.push(Member {
            id,
            prefetch: join.prefetch,
            ack_ms: join.ack_ms,
            unacked: 0,
            bytes: 0,
            has_joined: false,
            is_ready: false,
            gap: None,
        });
        self.since = None;
    }

    /// Members that were not told yet that they have joined; from now on they were. With what they are to be told of
    /// besides.
    pub fn take_joining(&mut self) -> Vec<(MemberId, Option<Gap>)> {
        let joining = self.members.iter_mut().filter(|member| !member.has_joined);
        joining
            .map(|member| {
                member.has_joined = true;
                member.is_ready = true;
                (member.id, member.gap.take())
            })
            .collect()
    }

    /// Messages are gone that the queue has not read: gives who is to be told. Who has not joined yet is told then.
    pub fn missed(&mut self, gap: Gap) -> Vec<MemberId> {
        let mut joined = Vec::new();
        for member in &mut self.members {
            if member.has_joined {
                joined.push(member.id);
            } else if let Some(before) = &mut member.gap {
                before.resume = gap.resume;
            } else {
                member.gap = Some(gap);
            }
        }
        joined
    }

    pub fn members(&self) -> impl Iterator<Item = MemberId> {
        self.members.iter().map(|member| member.id)
    }

    /// Removes a member; what it had goes out again. Whether it was one.
    pub fn leave(&mut self, id: MemberId) -> bool {
        let Some(at) = self.members.iter().position(|member| member.id == id) else {
            return false;
        };
        self.members.remove(at);
        if at < self.turn {
            self.turn -= 1;
        }
        let theirs: Vec<Offset> = self
            .unacked
            .iter()
            .filter(|(_, unacked)| unacked.member == id)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in theirs {
            if let Some(unacked) = self.unacked.remove(&offset) {
                self.deadlines.remove(&(unacked.due, offset));
                self.put_back(offset, unacked, None, 1);
            }
        }
        for returned in self.returned.values_mut() {
            returned.last = returned.last.filter(|last| *last != id);
        }
        true
    }

    /// Sets whether a member takes messages.
    pub fn set_ready(&mut self, id: MemberId, ready: bool) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.is_ready = ready && member.has_joined;
        }
    }

    /// How many messages members would take, and how many they take at most.
    pub fn room(&self) -> (usize, usize) {
        let ready = self.members.iter().filter(|member| member.is_ready);
        ready.fold((0, 0), |(free, all), member| {
            (
                free + member.prefetch.saturating_sub(member.unacked),
                all + member.prefetch,
            )
        })
    }

    pub fn has_unacked(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// The member whose turn it is for a message of this size. `not` is taken only if there is no other.
    /// `bytes_max` bounds what one member holds, but for a single message.
    pub fn pick(
        &mut self,
        bytes: usize,
        bytes_max: usize,
        not: Option<MemberId>,
    ) -> Option<MemberId> {
        let count = self.members.len();
        let takes = |member: &Member| {
            member.is_ready
                && member.unacked < member.prefetch
                && (member.unacked == 0 || member.bytes + bytes <= bytes_max)
        };
        let in_turn = (0..count).map(|step| (self.turn + step) % count);
        let mut second = None;
        for at in in_turn {
            let member = &self.members[at];
            if !takes(member) {
                continue;
            }
            if Some(member.id) == not {
                second = Some(at);
                continue;
            }
            second = Some(at);
            break;
        }
        let at = second?;
        self.turn = (at + 1) % count;
        Some(self.members[at].id)
    }

    /// Gives a message to a member. Gives when it is due.
    pub fn assign(
        &mut self,
        id: MemberId,
        message: &Arc<Message>,
        deliveries: Deliveries,
        now: Tick,
    ) -> Tick {
        let in_no_log = message.storage == tidings_types::Storage::None;
        self.returned.remove(&message.offset);
        let unacked = Unacked {
            member: id,
            deliveries,
            bytes: message.size(),
            due: now,
            message: in_no_log.then(|| Arc::clone(message)),
        };
        if let Some(member) = self.member(id) {
            member.unacked += 1;
            member.bytes += unacked.bytes;
        }
        self.entrust(message.offset, unacked, now)
    }

    fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    fn entrust(&mut self, offset: Offset, mut unacked: Unacked, now: Tick) -> Tick {
        if let Some(member) = self.member(unacked.member) {
            unacked.due = now.plus_ms(member.ack_ms);
        }
        let due = unacked.due;
        self.deadlines.insert((due, offset));
        let before = self.unacked.insert(offset, unacked);
        assert!(before.is_none(), "one message went to two members");
        due
    }

    /// Takes a message that is this member's; what the member has unacknowledged is the caller's matter.
    fn take(&mut self, id: MemberId, offset: Offset) -> Option<Unacked> {
        if self.unacked.get(&offset)?.member != id {
            return None;
        }
        let unacked = self.unacked.remove(&offset)?;
        self.deadlines.remove(&(unacked.due, offset));
        Some(unacked)
    }

    /// A member has a message less, if it is still there.
    fn discharge(&mut self, unacked: &Unacked) {
        if let Some(member) = self.member(unacked.member) {
            member.unacked -= 1;
            member.bytes -= unacked.bytes;
        }
    }

    /// A message goes out again that was delivered `times` more than before, 0 or 1. `last` is who had it, if that
    /// one is still there.
    fn put_back(&mut self, offset: Offset, unacked: Unacked, last: Option<MemberId>, times: u32) {
        let returned = Returned {
            deliveries: unacked.deliveries.plus(times),
            last,
            message: unacked.message,
        };
        self.returned.insert(offset, returned);
    }

    /// Carries out a member's verdict; whether the message was this member's.
    pub fn settle(&mut self, id: MemberId, offset: Offset, verdict: Verdict) -> bool {
        let Some(unacked) = self.take(id, offset) else {
            return false;
        };
        self.judge(offset, unacked, verdict);
        true
    }

    fn judge(&mut self, offset: Offset, unacked: Unacked, verdict: Verdict) {
        self.discharge(&unacked);
        match verdict {
            Verdict::Ack => {}
            Verdict::Nack | Verdict::Unseen => {
                let last = Some(unacked.member);
                let times = u32::from(verdict == Verdict::Nack);
                self.put_back(offset, unacked, last, times);
            }
            Verdict::Reject => {
                let deliveries = unacked.deliveries.plus(1);
                let dead = Dead::new(deliveries, DeadReason::Rejected, unacked.message);
                self.graves.add(offset, dead);
            }
        }
    }

    /// Keeps a message for a transaction, and its place among what the member has; whether it was this member's.
    pub fn hold(&mut self, id: MemberId, offset: Offset) -> bool {
        let Some(unacked) = self.take(id, offset) else {
            return false;
        };
        self.held.insert(offset, unacked);
        true
    }

    /// Ends what [`Queue::hold`] began. Without a verdict the message is its member's again, if that one is still
    /// there: then it says when it is due.
    pub fn release(
        &mut self,
        id: MemberId,
        offset: Offset,
        verdict: Option<Verdict>,
        now: Tick,
    ) -> Option<Tick> {
        if self.held.get(&offset)?.member != id {
            // Of another queue of this name, which is gone.
            return None;
        }
        let unacked = self.held.remove(&offset)?;
        if let Some(verdict) = verdict {
            self.judge(offset, unacked, verdict);
            return None;
        }
        if self.members.iter().any(|it| it.id == unacked.member) {
            return Some(self.entrust(offset, unacked, now));
        }
        self.put_back(offset, unacked, None, 1);
        None
    }

    /// Takes back a message whose time has passed, if there is one.
    pub fn take_late(&mut self, now: Tick) -> bool {
        let Some(&(due, offset)) = self.deadlines.first() else {
            return false;
        };
        if due > now {
            return false;
        }
        let Some(member) = self.unacked.get(&offset).map(|it| it.member) else {
            return false;
        };
        self.settle(member, offset, Verdict::Nack)
    }

    /// When the next message is to be taken back.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// A message that a member was to be told was delivered so often before did not reach it. If the member is still
    /// there, it takes no more for now.
    pub fn give_back(&mut self, id: MemberId, told: u32, message: Arc<Message>) {
        self.set_ready(id, false);
        let offset = message.offset;
        let unacked = self.unacked.get(&offset);
        if unacked.is_none_or(|it| it.deliveries.told != told) {
            // It was taken back before: when the member left, or because of its time.
            return self.was_unseen(offset, told);
        }
        if let Some(mut unacked) = self.take(id, offset) {
            self.discharge(&unacked);
            unacked.message = Some(message);
            self.put_back(offset, unacked, Some(id), 0);
        }
    }

    /// A delivery that was counted was none: corrects that, wherever the message is now.
    fn was_unseen(&mut self, offset: Offset, told: u32) {
        if let Some(Dead {
            deliveries,
            message,
            ..
        }) = self.graves.revive(offset)
        {
            let returned = Returned {
                deliveries,
                last: None,
                message,
            };
            self.returned.insert(offset, returned);
        }
        if let Some(returned) = self.returned.get_mut(&offset)
            && returned.deliveries.told == told + 1
        {
            // Nobody was told.
            returned.deliveries.told = told;
            return;
        }
        let unacked = self.unacked.get_mut(&offset);
        let unacked = unacked.or_else(|| self.held.get_mut(&offset));
        let deliveries = unacked.map(|it| &mut it.deliveries);
        let deliveries =
            deliveries.or_else(|| Some(&mut self.returned.get_mut(&offset)?.deliveries));
        if let Some(deliveries) = deliveries {
            deliveries.unseen += 1;
        }
    }

    /// A message that was out before, if it is in memory.
    pub fn message(&self, offset: Offset) -> Option<&Arc<Message>> {
        let returned = self
            .returned
            .get(&offset)
            .and_then(|it| it.message.as_ref());
        returned.or_else(|| self.graves.get(offset)?.message.as_ref())
    }

    /// Takes a message that was read for [`Queue::message`].
    pub fn put_message(&mut self, message: Arc<Message>) {
        if let Some(returned) = self.returned.get_mut(&message.offset) {
            returned.message = Some(message);
        } else {
            self.graves.put_message(message);
        }
    }

    /// What was out before and is not in memory, between two offsets.
    pub fn missing(&self, first: Offset, last: Offset) -> Vec<Offset> {
        let returned = self.returned.range(first..=last);
        let returned = returned.filter(|(_, it)| it.message.is_none());
        let returned = returned.map(|(offset, _)| *offset);
        returned.chain(self.graves.missing(first, last)).collect()
    }

    /// Lets go of messages that can be read again.
    pub fn shrink(&mut self) {
        for returned in self.returned.values_mut() {
            let_go(&mut returned.message);
        }
        self.graves.shrink();
    }

    /// What is not done, with how often each was delivered by the time that it goes out again.
    pub fn outstanding(&self) -> BTreeMap<Offset, Outstanding> {
        let to_members = |offset: &Offset, count| {
            let is_rejected = false;
            (*offset, Outstanding { count, is_rejected })
        };
        let unacked = self.unacked.iter().chain(&self.held);
        let unacked = unacked.map(|(offset, it)| to_members(offset, it.deliveries.made() + 1));
        let returned = self.returned.iter();
        let returned = returned.map(|(offset, it)| to_members(offset, it.deliveries.made()));
        let dead = self.graves.outstanding();
        unacked.chain(returned).chain(dead).collect()
    }

    /// Whether its name is not its own any more, and it only waits until what it gave up is published.
    pub fn is_over(&self) -> bool {
        self.graves.are_last
    }

    /// Has nobody get anything any more: only what was given up is still to be published.
    fn end(&mut self) {
        self.graves.are_last = true;
        self.returned = BTreeMap::new();
        self.held = BTreeMap::new();
    }
}

/// Lets go of a message that can be read again.
fn let_go(place: &mut Option<Arc<Message>>) {
    *place = place
        .take()
        .filter(|message| message.storage == tidings_types::Storage::None);
}

/// The name of a queue's record.
pub(crate) fn key_of(name: &str) -> ByteString {
    ByteString::from(format!("{PREFIX}{name}"))
}

/// Whether a kept state is a queue's.
pub(crate) fn is_queue(key: &str) -> bool {
    key.starts_with(PREFIX)
}
