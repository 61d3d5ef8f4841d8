//! Messages that a queue gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::sync::Arc;

use bytestring::ByteString;
use siphasher::sip::SipHasher13;
use tidings_types::{Draft, Message, Offset, Topic};

use super::{Deliveries, Outstanding};
use crate::session::name_of;

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadReason {
    /// It was delivered as often as is permitted.
    Deliveries,
    /// A member rejected it.
    Rejected,
}

impl DeadReason {
    fn name(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Rejected => "rejected",
        }
    }
}

/// A message on its way to the dead-letter topic.
#[derive(Debug)]
pub(crate) struct Dead {
    pub deliveries: Deliveries,
    pub reason: DeadReason,
    /// If it is in memory.
    pub message: Option<Arc<Message>>,
}

impl Dead {
    pub fn new(deliveries: Deliveries, reason: DeadReason, message: Option<Arc<Message>>) -> Self {
        Self {
            deliveries,
            reason,
            message,
        }
    }
}

/// With what the names of a dead letter's own headers begin.
const HEADER_PREFIX: &str = "tidings-dead-";
/// Letters of one queue that the log has and has not answered: the others of its places are for publishers.
const SUBMITTED_MAX: usize = 32;
/// Messages that wait for the dead-letter topic before the queue hands out nothing more: so many are kept in memory.
const DEAD_MAX: usize = 1_000;

/// What a queue gave up and is not yet in the dead-letter topic.
#[derive(Debug, Default)]
pub(crate) struct Graves {
    dead: BTreeMap<Offset, Dead>,
    /// Those of them that the log does not have.
    waiting: BTreeSet<Offset>,
    /// Whether the queue has ended, and is there only for them.
    pub are_last: bool,
}

impl Graves {
    pub fn add(&mut self, offset: Offset, dead: Dead) {
        self.dead.insert(offset, dead);
        self.waiting.insert(offset);
    }

    pub fn get(&self, offset: Offset) -> Option<&Dead> {
        self.dead.get(&offset)
    }

    pub fn remove(&mut self, offset: Offset) {
        self.dead.remove(&offset);
        self.waiting.remove(&offset);
    }

    /// Takes out a message that was not delivered as often as it was thought, unless the log has it.
    pub fn revive(&mut self, offset: Offset) -> Option<Dead> {
        let is_delivered = self.dead.get(&offset)?.reason == DeadReason::Deliveries;
        if self.are_last || !is_delivered || !self.waiting.remove(&offset) {
            return None;
        }
        self.dead.remove(&offset)
    }

    pub fn is_empty(&self) -> bool {
        self.dead.is_empty()
    }

    /// Whether nothing may be added by handing out more.
    pub fn are_full(&self) -> bool {
        self.dead.len() >= DEAD_MAX
    }

    /// The next one to publish, unless enough of them are on their way.
    pub fn next(&self) -> Option<Offset> {
        let submitted = self.dead.len() - self.waiting.len();
        let next = self.waiting.first().copied();
        next.filter(|_| submitted < SUBMITTED_MAX)
    }

    /// The log has it.
    pub fn submitted(&mut self, offset: Offset) {
        self.waiting.remove(&offset);
        if let Some(dead) = self.dead.get_mut(&offset) {
            super::let_go(&mut dead.message);
        }
    }

    /// The log could not take it. Whether it is still to be published.
    pub fn failed(&mut self, offset: Offset) -> bool {
        let is_there = self.dead.contains_key(&offset);
        if is_there {
            self.waiting.insert(offset);
        }
        is_there
    }

    pub fn put_message(&mut self, message: Arc<Message>) {
        // What the log has needs no message.
        if self.waiting.contains(&message.offset)
            && let Some(dead) = self.dead.get_mut(&message.offset)
        {
            dead.message = Some(message);
        }
    }

    /// What waits and is not in memory, between two offsets.
    pub fn missing(&self, first: Offset, last: Offset) -> impl Iterator<Item = Offset> {
        let waiting = self.waiting.range(first..=last).copied();
        waiting.filter(|offset| {
            let dead = self.dead.get(offset);
            dead.is_some_and(|dead| dead.message.is_none())
        })
    }

    pub fn shrink(&mut self) {
        for dead in self.dead.values_mut() {
            super::let_go(&mut dead.message);
        }
    }

    pub fn outstanding(&self) -> impl Iterator<Item = (Offset, Outstanding)> {
        self.dead.iter().map(|(offset, dead)| {
            let it = Outstanding {
                count: dead.deliveries.made(),
                is_rejected: dead.reason == DeadReason::Rejected,
            };
            (*offset, it)
        })
    }
}

/// What is published of a message that a queue gave up; `None` if it came from the dead-letter topic itself.
/// Its idempotency key has it stored once, though a crash may have it published twice.
pub(crate) fn letter(
    prefix: &Topic,
    queue: &str,
    message: &Message,
    count: u32,
    reason: DeadReason,
) -> Option<Draft> {
    let is_beneath = message
        .topic
        .as_str()
        .strip_prefix(prefix.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_beneath {
        return None;
    }
    // A name that has become too long leaves the prefix alone; a header says the topic in any case.
    let topic =
        Topic::new(format!("{prefix}/{}", message.topic)).unwrap_or_else(|_| prefix.clone());
    let mut draft = Draft::new(topic, message.payload.clone());
    draft.format = message.format;
    draft.qos = message.qos;
    draft.properties = message.properties.clone();
    // A letter may itself be the copy of a dead letter that a consumer has published again.
    let headers = &mut draft.properties.headers;
    headers.retain(|(name, _)| !is_ours(name));
    draft.key = Some(key(queue, message));
    let mut put = |name: &'static str, value: String| {
        draft
            .properties
            .headers
            .push((ByteString::from_static(name), value.into()));
    };
    put("tidings-dead-topic", message.topic.to_string());
    put("tidings-dead-message", message.cursor().to_string());
    put("tidings-dead-queue", name_of(queue).to_owned());
    put("tidings-dead-deliveries", count.to_string());
    put("tidings-dead-reason", reason.name().to_owned());
    Some(draft)
}

/// Whether a header has one of the names that a dead letter's own have, in whatever case.
fn is_ours(name: &str) -> bool {
    let prefix = name.as_bytes().get(..HEADER_PREFIX.len());
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(HEADER_PREFIX.as_bytes()))
}

/// Differs between logs, so that a publisher cannot tell it from the queue's name and an offset alone.
fn key(queue: &str, message: &Message) -> ByteString {
    let Offset(offset) = message.offset;
    let mut hasher = SipHasher13::new_with_keys(message.epoch.0, offset);
    hasher.write(queue.as_bytes());
    format!("dead-letter/{:016x}/{offset}", hasher.finish()).into()
}
