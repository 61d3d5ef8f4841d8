//! Work queues: a cursor over the log whose messages are shared out among members.
//!
//! A queue lives on the home shard of its name; its members may be connections of other shards, which it talks
//! with by notes. It pulls a message only when a member has room for it, so what it holds is bounded by what its
//! members may have unacknowledged. What is returned goes out again before anything new.
//!
//! It is kept by the engine under `queue/<name>`: see [`record`].
//!
//! Invariants: every message up to the cursor is done, or in `unacked`, or in `returned`; no message is in both.
//! A queue without members has no cursor subscription, only a position.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytestring::ByteString;
use slab::Slab;
use tidings_ports::{Expiry, Start, Tick};
use tidings_types::{Message, Offset, Refusal, Timestamp, TopicFilter};

use crate::shard::SubscriptionId;

mod record;

pub(crate) use record::Record;

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
    Leave,
    Ack(Offset),
    /// It goes out again, and counts as delivered.
    Nack(Offset),
    /// It was not delivered, and the member takes no more until `Ready`.
    GiveBack(Arc<Message>),
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
}

/// What a queue tells a member.
#[derive(Debug)]
pub(crate) enum Told {
    Joined(Offset),
    Refused(Refusal),
    Message {
        message: Arc<Message>,
        redelivered: u32,
    },
    Lost(Refusal),
}

#[derive(Debug)]
struct Member {
    id: MemberId,
    prefetch: usize,
    /// How many it has unacknowledged, and what they take in memory.
    unacked: usize,
    bytes: usize,
    /// Whether it was told that it has joined.
    has_joined: bool,
    is_ready: bool,
}

#[derive(Debug)]
struct Unacked {
    member: MemberId,
    /// How often it was delivered before.
    count: u32,
    bytes: usize,
    /// Only of topics that are in no log.
    message: Option<Arc<Message>>,
}

/// A message that has to go out again.
#[derive(Debug, Default)]
pub(crate) struct Returned {
    /// How often it was delivered.
    pub count: u32,
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
    due: Option<Tick>,
}

impl Queue {
    pub fn join(&mut self, id: MemberId, prefetch: usize) {
        self.members.push(Member {
            id,
            prefetch,
            unacked: 0,
            bytes: 0,
            has_joined: false,
            is_ready: false,
        });
        self.since = None;
    }

    /// Members that were not told yet that they have joined; from now on they were.
    pub fn take_joining(&mut self) -> Vec<MemberId> {
        let joining = self.members.iter_mut().filter(|member| !member.has_joined);
        joining
            .map(|member| {
                member.has_joined = true;
                member.is_ready = true;
                member.id
            })
            .collect()
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
                let returned = Returned {
                    count: unacked.count + 1,
                    last: None,
                    message: unacked.message,
                };
                self.returned.insert(offset, returned);
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

    /// Gives a message to a member.
    pub fn assign(&mut self, id: MemberId, message: &Arc<Message>, count: u32) {
        let bytes = message.size();
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.unacked += 1;
            member.bytes += bytes;
        }
        let in_no_log = message.storage == tidings_types::Storage::None;
        self.returned.remove(&message.offset);
        let before = self.unacked.insert(
            message.offset,
            Unacked {
                member: id,
                count,
                bytes,
                message: in_no_log.then(|| Arc::clone(message)),
            },
        );
        assert!(before.is_none(), "one message went to two members");
    }

    /// A member is done with a message, or does not want it. Gives how often it was delivered before.
    fn take(&mut self, id: MemberId, offset: Offset) -> Option<Unacked> {
        if self.unacked.get(&offset)?.member != id {
            return None;
        }
        let unacked = self.unacked.remove(&offset)?;
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.unacked -= 1;
            member.bytes -= unacked.bytes;
        }
        Some(unacked)
    }

    /// Whether it was this member's to acknowledge.
    pub fn ack(&mut self, id: MemberId, offset: Offset) -> bool {
        self.take(id, offset).is_some()
    }

    /// A message goes out again. Where a limit on deliveries would act.
    pub fn nack(&mut self, id: MemberId, offset: Offset) -> bool {
        let Some(unacked) = self.take(id, offset) else {
            return false;
        };
        let returned = Returned {
            count: unacked.count + 1,
            last: Some(id),
            message: unacked.message,
        };
        self.returned.insert(offset, returned);
        true
    }

    /// A message was not delivered after all, and its member takes no more for now.
    pub fn give_back(&mut self, id: MemberId, message: Arc<Message>) -> bool {
        self.set_ready(id, false);
        let offset = message.offset;
        let Some(unacked) = self.take(id, offset) else {
            return false;
        };
        let returned = Returned {
            count: unacked.count,
            last: Some(id),
            message: Some(message),
        };
        self.returned.insert(offset, returned);
        true
    }

    /// What is not done, with how often each was delivered by the time that it goes out again.
    pub fn outstanding(&self) -> BTreeMap<Offset, u32> {
        let unacked = self
            .unacked
            .iter()
            .map(|(offset, unacked)| (*offset, unacked.count + 1));
        let returned = self
            .returned
            .iter()
            .map(|(offset, returned)| (*offset, returned.count));
        unacked.chain(returned).collect()
    }
}

/// Names a queue within its home shard; never used again for another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueId {
    index: u32,
    serial: u32,
}

/// The queues of one shard.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    slots: Slab<Queue>,
    by_key: HashMap<ByteString, u32>,
    serial: u32,
    due: BTreeSet<(Tick, u32)>,
}

impl Queues {
    /// Adds a queue as a record has it, without members. `now` is when it lost them, if the record knows of
    /// none.
    pub fn add(&mut self, key: ByteString, record: Record, now: Timestamp) -> QueueId {
        self.serial = self.serial.wrapping_add(1);
        let entry = self.slots.vacant_entry();
        let id = QueueId {
            index: entry.key() as u32,
            serial: self.serial,
        };
        let returned = record.outstanding.into_iter().map(|(offset, count)| {
            let returned = Returned {
                count,
                ..Returned::default()
            };
            (offset, returned)
        });
        entry.insert(Queue {
            id,
            key: key.clone(),
            filters: record.filters,
            expiry: record.expiry,
            subscription: None,
            position: record.position,
            suspect_to: record.suspect_to,
            since: Some(record.since.unwrap_or(now)),
            is_placed: false,
            sitting: 0,
            is_open: false,
            is_fetching: false,
            returned: returned.collect(),
            members: Vec::new(),
            turn: 0,
            unacked: BTreeMap::new(),
            due: None,
        });
        let before = self.by_key.insert(key, id.index);
        assert!(before.is_none(), "a queue's name is in use");
        id
    }

    pub fn get(&mut self, id: QueueId) -> Option<&mut Queue> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|queue| queue.id == id)
    }

    pub fn find(&mut self, key: &str) -> Option<&mut Queue> {
        let index = *self.by_key.get(key)?;
        self.slots.get_mut(index as usize)
    }

    pub fn ids(&self) -> Vec<QueueId> {
        self.slots.iter().map(|(_, queue)| queue.id).collect()
    }

    pub fn remove(&mut self, id: QueueId) -> Option<Queue> {
        let due = self.get(id)?.due;
        let queue = self.slots.remove(id.index as usize);
        if let Some(due) = due {
            self.due.remove(&(due, id.index));
        }
        self.by_key.remove(&queue.key);
        Some(queue)
    }

    /// Has a queue looked at by then, if not earlier.
    pub fn set_due(&mut self, id: QueueId, due: Tick) {
        let Some(queue) = self.get(id) else {
            return;
        };
        if queue.due.is_some_and(|before| before <= due) {
            return;
        }
        if let Some(before) = queue.due.replace(due) {
            self.due.remove(&(before, id.index));
        }
        self.due.insert((due, id.index));
    }

    /// Takes a queue whose time has come.
    pub fn take_due(&mut self, now: Tick) -> Option<QueueId> {
        let (due, index) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let queue = &mut self.slots[index as usize];
        queue.due = None;
        Some(queue.id)
    }

    pub fn next_due(&self) -> Option<Tick> {
        self.due.first().map(|(due, _)| *due)
    }
}

/// The name of a queue's record.
pub(crate) fn key_of(name: &str) -> ByteString {
    ByteString::from(format!("{PREFIX}{name}"))
}

/// Whether a kept state is a queue's.
pub(crate) fn is_queue(key: &str) -> bool {
    key.starts_with(PREFIX)
}
