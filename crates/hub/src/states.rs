//! What has to be written to the engine's states: sessions' records and queues' positions.
//!
//! Nobody waits for most changes, so they are collected while an earlier write is under way, and of several
//! changes of one name only the newest is written. A change that somebody waits for is written at once.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use tidings_ports::{Tag, Tick};

use crate::queue::Awaiting;
use crate::shard::ConnectionId;

/// Names in one submission.
const NAMES_MAX: usize = 256;

/// A name whose state is being written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub name: ByteString,
    /// Who is told when it is written.
    pub tags: Vec<(ConnectionId, Tag)>,
    /// If it is a work queue's that has members: since when it has any.
    pub sitting: Option<u64>,
    /// Whose verdicts are on record with it, if it is a work queue's.
    pub awaiting: Vec<Awaiting>,
}

impl Written {
    fn new(name: ByteString, waiters: Waiters) -> Self {
        Self {
            name,
            tags: waiters.tags,
            sitting: None,
            awaiting: waiters.awaiting,
        }
    }
}

/// Who waits for a name's next write; nobody, if it is only to be soon.
#[derive(Debug, Default)]
struct Waiters {
    tags: Vec<(ConnectionId, Tag)>,
    awaiting: Vec<Awaiting>,
}

/// Names whose state changed since it was given to the engine.
#[derive(Debug, Default)]
pub(crate) struct States {
    changed: BTreeSet<ByteString>,
    /// Those that somebody waits for.
    awaited: BTreeMap<ByteString, Waiters>,
    /// Submissions that are under way.
    writing: usize,
    /// Set while the engine takes nothing: when to try again.
    pub retry_at: Option<Tick>,
}

impl States {
    /// A state changed, and is to be written soon.
    pub fn changed(&mut self, name: ByteString) {
        self.changed.insert(name);
    }

    /// A state changed, and a connection waits until it is durable.
    pub fn awaited(&mut self, name: ByteString, id: ConnectionId, tag: Tag) {
        self.awaited.entry(name).or_default().tags.push((id, tag));
    }

    /// A work queue's state changed by a verdict, and somebody waits until that is durable.
    pub fn awaited_verdict(&mut self, name: ByteString, awaiting: Awaiting) {
        let waiters = self.awaited.entry(name).or_default();
        waiters.awaiting.push(awaiting);
    }

    /// A state changed, and is to be written at once.
    pub fn urgent(&mut self, name: ByteString) {
        self.awaited.entry(name).or_default();
    }

    /// A state is being written by another way: with a publish.
    pub fn supersede(&mut self, name: &ByteString) {
        self.changed.remove(name);
    }

    /// The next names to write, if it is time. [`States::done`] or [`States::put_back`] must follow.
    pub fn take(&mut self) -> Option<Vec<Written>> {
        if self.retry_at.is_some() {
            return None;
        }
        let mut names: Vec<Written> = Vec::new();
        while names.len() < NAMES_MAX
            && let Some((name, waiters)) = self.awaited.pop_first()
        {
            self.changed.remove(&name);
            names.push(Written::new(name, waiters));
        }
        if names.is_empty() && self.writing > 0 {
            return None;
        }
        while names.len() < NAMES_MAX
            && let Some(name) = self.changed.pop_first()
        {
            names.push(Written::new(name, Waiters::default()));
        }
        if names.is_empty() {
            return None;
        }
        self.writing += 1;
        Some(names)
    }

    /// Lets the next [`States::take`] wait for nothing: there will be no answers.
    pub fn hurry(&mut self) {
        self.writing = 0;
        self.retry_at = None;
    }

    /// What was taken is written, or never will be.
    pub fn done(&mut self) {
        self.writing = self.writing.saturating_sub(1);
    }

    /// What was taken could not be written now.
    pub fn put_back(&mut self, names: Vec<Written>, retry_at: Tick) {
        self.done();
        self.retry_at = Some(retry_at);
        for it in names {
            if it.tags.is_empty() && it.awaiting.is_empty() {
                self.changed.insert(it.name);
            } else {
                let waiters = self.awaited.entry(it.name).or_default();
                waiters.tags.extend(it.tags);
                waiters.awaiting.extend(it.awaiting);
            }
        }
    }

    /// Tries again, if it is time.
    pub fn tick(&mut self, now: Tick) {
        self.retry_at = self.retry_at.filter(|retry_at| *retry_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ByteString {
        ByteString::from(text)
    }

    fn names(taken: Option<Vec<Written>>) -> Vec<String> {
        taken
            .into_iter()
            .flatten()
            .map(|written| written.name.to_string())
            .collect()
    }

    #[test]
    fn changes_that_nobody_waits_for_are_collected_while_a_write_is_under_way() {
        let mut states = States::default();
        states.changed(name("a"));
        assert_eq!(names(states.take()), ["a"]);
        states.changed(name("a"));
        states.changed(name("b"));
        states.changed(name("b"));
        assert!(states.take().is_none());
        let id = ConnectionId::default();
        states.awaited(name("c"), id, Tag(1));
        states.awaited(name("a"), id, Tag(2));
        assert_eq!(names(states.take()), ["a", "c", "b"]);
        states.done();
        states.done();
        assert!(states.take().is_none());
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_later_with_those_who_wait() {
        let mut states = States::default();
        let id = ConnectionId::default();
        let verdict = Awaiting { shard: 1, token: 2 };
        states.awaited(name("a"), id, Tag(1));
        states.awaited_verdict(name("a"), verdict);
        states.changed(name("b"));
        let taken = states.take().unwrap();
        states.put_back(taken, Tick(20));
        states.tick(Tick(19));
        assert!(states.take().is_none());
        states.tick(Tick(20));
        let taken = states.take().unwrap();
        let expect = [
            Written {
                tags: vec![(id, Tag(1))],
                awaiting: vec![verdict],
                ..Written::new(name("a"), Waiters::default())
            },
            Written::new(name("b"), Waiters::default()),
        ];
        assert_eq!(taken, expect);
    }
}
