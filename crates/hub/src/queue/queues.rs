//! The work queues of one shard: by name, by id, and by when they are to be looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytestring::ByteString;
use slab::Slab;
use tidings_ports::Tick;
use tidings_types::Timestamp;

use super::{Dead, DeadReason, Deliveries, Graves, Outstanding, Queue, Record, Returned};

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
        let mut returned = BTreeMap::new();
        let mut graves = Graves::default();
        for (offset, Outstanding { count, is_rejected }) in record.outstanding {
            if is_rejected {
                graves.add(
                    offset,
                    Dead::new(Deliveries::new(count), DeadReason::Rejected, None),
                );
                continue;
            }
            let it = Returned {
                deliveries: Deliveries::new(count),
                ..Returned::default()
            };
            returned.insert(offset, it);
        }
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
            returned,
            members: Vec::new(),
            turn: 0,
            unacked: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            held: BTreeMap::new(),
            graves,
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

    /// Ends a queue: its name is free. It stays until what it gave up is published. Gives the name of its record, if
    /// it may have one.
    pub fn end(&mut self, id: QueueId) -> Option<ByteString> {
        let queue = self.get(id).filter(|queue| !queue.is_over())?;
        queue.end();
        let (key, was_kept) = (queue.key.clone(), queue.is_kept());
        self.by_key.remove(&key);
        self.drop_ended(id);
        was_kept.then_some(key)
    }

    /// Removes a queue that has ended and has nothing left to publish.
    pub fn drop_ended(&mut self, id: QueueId) {
        let Some(queue) = self.get(id) else {
            return;
        };
        if !queue.is_over() || !queue.graves.is_empty() {
            return;
        }
        if let Some(due) = queue.due {
            self.due.remove(&(due, id.index));
        }
        self.slots.remove(id.index as usize);
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
