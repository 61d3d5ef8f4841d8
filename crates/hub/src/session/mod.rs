//! The sessions whose home is one shard: what outlives their connections, and when it ends.
//!
//! A session is kept by the engine under `session/<name>` as one record:
//!
//! ```text
//! version: u8 = 2 | expiry | since | will | owner: text | state: the rest
//! expiry: 0 = with the connection | 1, milliseconds: varint | 2 = never
//! since:  0 = it had a connection when this was written | 1, wall clock of its end in milliseconds: varint
//! owner:  empty = whoever comes | source `/` name of the principal; not in version 1
//! will:   0 = none | 1, id: u64 | delay in milliseconds: varint | draft
//! draft:  topic | payload | flags: u8 | qos: u8 | [ttl in milliseconds: varint] | properties
//! ```
//!
//! Invariant: a session has at most one connection, and a deadline only while it has none.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hasher;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use siphasher::sip::SipHasher13;
use slab::Slab;
use tidings_ports::{Engine, Expiry, Submission, Tick};
use tidings_types::{Draft, Epoch, Origin, Timestamp};

use crate::gate::Admitted;
use crate::queue::fold_settled;
use crate::shard::ConnectionId;

mod record;

pub(crate) use record::Record;

/// What the names of kept sessions begin with.
const PREFIX: &str = "session/";

/// Names a session within its shard; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    index: u32,
    serial: u32,
}

/// A will that passed the gate.
#[derive(Debug)]
pub(crate) struct KeptWill {
    /// Tells it from earlier wills of the session: part of the key that keeps it from being published twice.
    pub id: u64,
    pub delay: Duration,
    pub draft: Admitted<Draft>,
    /// Whether it was handed to the log already, and waits for its receipt.
    pub is_due: bool,
}

/// What was saved of a session.
#[derive(Debug)]
pub(crate) struct Saved {
    pub state: Bytes,
    pub expiry: Expiry,
    pub will: Option<Box<KeptWill>>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: SessionId,
    /// The name of its record.
    pub key: ByteString,
    pub connection: Option<ConnectionId>,
    /// The principal that made it, by source and name; `None` is whoever comes.
    pub owner: Option<ByteString>,
    /// When it lost its connection; `Some` exactly if it has none.
    pub since: Option<Timestamp>,
    /// `None` until its connection saves it for the first time: most sessions end with their connections.
    pub saved: Option<Box<Saved>>,
    /// Whether the engine may have a record of it.
    pub is_stored: bool,
    /// Its entry among the deadlines.
    due: Option<Tick>,
}

impl Session {
    /// Whether there is something to keep.
    pub fn is_kept(&self) -> bool {
        self.saved
            .as_ref()
            .is_some_and(|saved| saved.expiry != Expiry::WithConnection || saved.will.is_some())
    }

    /// The record to keep, which the engine now has; `None` if there is nothing to keep. The state becomes a
    /// part of the record, so that it is in memory once.
    pub fn record(&mut self) -> Option<Bytes> {
        self.is_stored = self.is_kept();
        let saved = self.saved.as_mut().filter(|_| self.is_stored)?;
        let record = record::encode(saved, self.since, self.owner.as_deref());
        if saved.expiry != Expiry::WithConnection {
            saved.state = record.slice(record.len() - saved.state.len()..);
        }
        Some(record)
    }

    /// Until when, from the loss of its connection on, something is to be done: its will, or its end.
    pub fn waits(&self) -> Option<Duration> {
        let saved = self.saved.as_ref()?;
        let end = match saved.expiry {
            Expiry::WithConnection => Some(Duration::ZERO),
            Expiry::After(expiry) => Some(expiry),
            Expiry::Never => None,
        };
        let will = saved.will.as_ref().filter(|will| !will.is_due);
        match (end, will.map(|will| will.delay)) {
            (Some(end), Some(will)) => Some(end.min(will)),
            (end, will) => end.or(will),
        }
    }

    /// Whether it is over after so long without a connection.
    pub fn is_over(&self, away: Duration) -> bool {
        match self.saved.as_ref().map(|saved| saved.expiry) {
            None | Some(Expiry::WithConnection) => true,
            Some(Expiry::After(expiry)) => away >= expiry,
            Some(Expiry::Never) => false,
        }
    }
}

/// The sessions of one shard.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Slab<Session>,
    by_key: HashMap<ByteString, u32>,
    serial: u32,
    due: BTreeSet<(Tick, u32)>,
}

impl Sessions {
    /// Adds a session that has a connection.
    pub fn add(&mut self, key: ByteString, connection: ConnectionId) -> SessionId {
        self.insert(key, Some(connection), None)
    }

    /// Takes back a session from its record. `now` is when it lost its connection, if the record knows of
    /// none.
    pub fn restore(&mut self, key: ByteString, record: Record, now: Timestamp) -> SessionId {
        let id = self.insert(key, None, Some(record.since.unwrap_or(now)));
        let session = &mut self.slots[id.index as usize];
        session.saved = Some(Box::new(record.saved));
        session.owner = record.owner;
        session.is_stored = true;
        id
    }

    fn insert(
        &mut self,
        key: ByteString,
        connection: Option<ConnectionId>,
        since: Option<Timestamp>,
    ) -> SessionId {
        self.serial = self.serial.wrapping_add(1);
        let entry = self.slots.vacant_entry();
        let id = SessionId {
            index: entry.key() as u32,
            serial: self.serial,
        };
        entry.insert(Session {
            id,
            key: key.clone(),
            connection,
            owner: None,
            since,
            saved: None,
            is_stored: false,
            due: None,
        });
        let before = self.by_key.insert(key, id.index);
        assert!(before.is_none(), "a session's name is in use");
        id
    }

    pub fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|session| session.id == id)
    }

    /// What is kept of a session.
    pub fn saved(&self, id: SessionId) -> Option<&Saved> {
        let session = self.slots.get(id.index as usize);
        session.filter(|it| it.id == id)?.saved.as_deref()
    }

    pub fn find(&mut self, key: &ByteString) -> Option<&mut Session> {
        let index = *self.by_key.get(key)?;
        self.slots.get_mut(index as usize)
    }

    /// Forgets a session here; its record is the caller's matter.
    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.set_due(id, None);
        self.get(id)?;
        let session = self.slots.remove(id.index as usize);
        self.by_key.remove(&session.key);
        Some(session)
    }

    /// Sets when a session is looked at, or that it is not.
    pub fn set_due(&mut self, id: SessionId, due: Option<Tick>) {
        let Some(session) = self.get(id) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut session.due, due) {
            self.due.remove(&(before, id.index));
        }
        if let Some(due) = due {
            self.due.insert((due, id.index));
        }
    }

    /// Takes a session whose time has come.
    pub fn take_due(&mut self, now: Tick) -> Option<SessionId> {
        let (due, index) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let session = &mut self.slots[index as usize];
        session.due = None;
        Some(session.id)
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Tick> {
        self.due.first().map(|(due, _)| *due)
    }
}

/// The name of a session's record.
pub(crate) fn key_of(name: &str) -> ByteString {
    ByteString::from(format!("{PREFIX}{name}"))
}

/// Whether a kept state is a session's.
pub(crate) fn is_session(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// The name by which a kept state finds its home: its own without what tells its kind.
pub(crate) fn name_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(_, name)| name)
}

/// The shard where what has this name lives: a session, a work queue. The same for as long as there are as many
/// shards.
#[must_use]
pub fn home_shard(name: &str, shards: usize) -> usize {
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    (hasher.finish() % shards.max(1) as u64) as usize
}

/// What an engine kept, by the home of what it is of: one list for each of `shards` shards.
#[must_use]
pub fn states_by_home(engine: &dyn Engine, shards: usize) -> Vec<Vec<(ByteString, Bytes)>> {
    let mut homes = Vec::new();
    homes.resize_with(shards, Vec::new);
    let mut kept = engine.states();
    let states = fold_settled(&mut kept);
    if !states.is_empty() {
        let submission = Submission {
            drafts: Vec::new(),
            states,
            reply: None,
        };
        // A log that takes no writes is as it was at the next start.
        engine.submit(submission).ok();
    }
    for (key, value) in kept {
        homes[home_shard(name_of(&key), shards)].push((key, value));
    }
    homes
}

/// What messages say of who published them, for a session: the same after each restart, and of no use to tell
/// the name. Never the origin of nobody.
pub(crate) fn origin_of(key: &str, epoch: Epoch) -> Origin {
    let mut hasher = SipHasher13::new_with_keys(epoch.0, 0x7469_6469_6e67_7321);
    hasher.write(key.as_bytes());
    Origin(hasher.finish().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_spread_over_the_shards_and_stay_there() {
        let mut counts = [0u32; 4];
        for number in 0..4_000 {
            let name = format!("mqtt/sensor-{number}");
            let home = home_shard(&name, 4);
            assert_eq!(home, home_shard(&name, 4));
            counts[home] += 1;
        }
        assert!(counts.iter().all(|count| *count > 800), "{counts:?}");
        assert_eq!(home_shard("anything", 1), 0);
        // Fixed, so that a test that names shards stays right.
        assert_eq!(home_shard("mqtt/sensor-7", 64), 29);
    }

    #[test]
    fn a_session_is_due_once_and_not_after_it_is_gone() {
        let mut sessions = Sessions::default();
        let now = Timestamp(1);
        let mut ids = Vec::new();
        for number in 0..3 {
            let record = Record {
                since: None,
                owner: None,
                saved: Saved {
                    state: Bytes::new(),
                    expiry: Expiry::Never,
                    will: None,
                },
            };
            ids.push(sessions.restore(key_of(&number.to_string()), record, now));
        }
        sessions.set_due(ids[0], Some(Tick(20)));
        sessions.set_due(ids[1], Some(Tick(10)));
        sessions.set_due(ids[2], Some(Tick(5)));
        sessions.set_due(ids[0], Some(Tick(15)));
        assert!(sessions.remove(ids[2]).is_some());
        assert_eq!(sessions.next_due(), Some(Tick(10)));
        assert_eq!(sessions.take_due(Tick(9)), None);
        assert_eq!(sessions.take_due(Tick(15)), Some(ids[1]));
        assert_eq!(sessions.take_due(Tick(15)), Some(ids[0]));
        assert_eq!(sessions.take_due(Tick(100)), None);
        assert!(sessions.get(ids[2]).is_none());
    }
}
