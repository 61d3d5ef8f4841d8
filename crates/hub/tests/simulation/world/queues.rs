//! Work queues with workers that come and go, and what must become of each message.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_hub::ConnectionId;
use tidings_hub::shard::Ended;
use tidings_ports::Start;
use tidings_types::{Principal, TopicFilter};

use super::super::peer::RECORD_BYTES;
use super::super::session::Line;
use super::super::worker::WorkerConversation;
use super::{SHARDS, World};

const QUEUES: [(&str, &str); 2] = [("jobs", "d/#"), ("mixed", "+/a")];
const WORKERS_MAX: usize = 5;

/// What is known of one queue.
#[derive(Default)]
struct Ledger {
    /// The first position that a worker was told.
    start: Option<u64>,
    /// Delivered, ever.
    seen: BTreeSet<u64>,
    /// Acknowledged, ever.
    done: BTreeSet<u64>,
    /// Acknowledged since the server was started.
    done_now: BTreeSet<u64>,
    /// Who works on it.
    holders: BTreeMap<u64, usize>,
}

#[derive(Default)]
pub struct Workshop {
    ledgers: [Ledger; QUEUES.len()],
    workers: Vec<Worker>,
}

struct Worker {
    queue: usize,
    at: Option<(usize, ConnectionId)>,
    bytes: BytesMut,
    appetite: usize,
    holds: BTreeSet<u64>,
    is_full: bool,
}

impl World {
    pub(super) fn step_worker(&mut self) {
        let count = self.workshop.workers.len();
        if count == 0 || (count < WORKERS_MAX && self.pick(6) == 0) {
            let queue = self.pick(QUEUES.len() as u64) as usize;
            return self.add_worker(queue);
        }
        let at = self.pick(count as u64) as usize;
        if self.workshop.workers[at].at.is_none() {
            return self.connect_worker(at);
        }
        match self.pick(30) {
            0..15 => {
                self.serve_worker(at);
            }
            15..24 => self.answer_one(at, b'A'),
            24..26 => self.answer_one(at, b'N'),
            26 => self.close_worker(at),
            27 => self.set_full(at, true),
            _ => self.set_full(at, false),
        }
    }

    fn add_worker(&mut self, queue: usize) {
        let appetite = [RECORD_BYTES, RECORD_BYTES * 8][self.pick(2) as usize];
        self.workshop.workers.push(Worker {
            queue,
            at: None,
            bytes: BytesMut::new(),
            appetite,
            holds: BTreeSet::new(),
            is_full: false,
        });
        self.connect_worker(self.workshop.workers.len() - 1);
    }

    fn connect_worker(&mut self, at: usize) {
        let (name, filter) = QUEUES[self.workshop.workers[at].queue];
        let start = match self.pick(4) {
            0 => Start::Earliest,
            1 => Start::Last(3),
            _ => Start::Latest,
        };
        let prefetch = 1 + self.pick(4) as u32;
        let filter = TopicFilter::new(filter).unwrap();
        let name = ByteString::from_static(name);
        let conversation = WorkerConversation::new(name, filter, start, prefetch);
        let shard = self.pick(SHARDS as u64) as usize;
        let principal = std::sync::Arc::new(Principal::anonymous());
        let id = self.shards[shard].connect(Box::new(conversation), principal, Bytes::new());
        self.workshop.workers[at].at = Some((shard, id));
    }

    fn close_worker(&mut self, at: usize) {
        if let Some((shard, id)) = self.workshop.workers[at].at {
            self.shards[shard].disconnect(id);
        }
        self.worker_lost(at);
    }

    fn worker_lost(&mut self, at: usize) {
        let worker = &mut self.workshop.workers[at];
        let ledger = &mut self.workshop.ledgers[worker.queue];
        for offset in std::mem::take(&mut worker.holds) {
            ledger.holders.remove(&offset);
        }
        worker.at = None;
        worker.bytes.clear();
        worker.is_full = false;
    }

    fn say_to(&mut self, at: usize, line: Line) {
        if let Some((shard, id)) = self.workshop.workers[at].at {
            let mut input = BytesMut::from(&line.bytes()[..]);
            self.shards[shard].receive(id, &mut input);
        }
    }

    fn answer_one(&mut self, at: usize, kind: u8) {
        let count = self.workshop.workers[at].holds.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.pick(count) as usize;
        let worker = &mut self.workshop.workers[at];
        let Some(offset) = worker.holds.iter().nth(which).copied() else {
            return;
        };
        worker.holds.remove(&offset);
        let ledger = &mut self.workshop.ledgers[worker.queue];
        ledger.holders.remove(&offset);
        let is_over = worker
            .at
            .is_none_or(|(shard, id)| self.shards[shard].ended(id) != Ended::No);
        if kind == b'A' && !is_over {
            ledger.done.insert(offset);
            ledger.done_now.insert(offset);
        } else {
            self.tally.count("nacked", 1);
        }
        self.say_to(at, Line(kind, offset, 0, 0));
    }

    fn set_full(&mut self, at: usize, full: bool) {
        let worker = &mut self.workshop.workers[at];
        if worker.is_full != full {
            worker.is_full = full;
            self.say_to(at, Line(if full { b'F' } else { b'U' }, 0, 0, 0));
        }
    }

    /// Lets a worker read as much as it does at a time. Returns whether it read anything.
    fn serve_worker(&mut self, at: usize) -> bool {
        let worker = &mut self.workshop.workers[at];
        let Some((shard, id)) = worker.at else {
            return false;
        };
        let shard = &mut self.shards[shard];
        let outbox = shard.outbox(id).expect("it is open");
        let mut left = worker.appetite.min(outbox.bytes());
        let taken = left;
        let frames: Vec<Bytes> = outbox.frames().cloned().collect();
        for frame in frames {
            let part = left.min(frame.len());
            worker.bytes.extend_from_slice(&frame[..part]);
            left -= part;
        }
        outbox.advance(taken);
        let is_over = shard.ended(id) != Ended::No;
        shard.drained(id);
        while self.workshop.workers[at].bytes.len() >= RECORD_BYTES {
            let line = Line::parse(&self.workshop.workers[at].bytes.split_to(RECORD_BYTES));
            self.take_work(at, line);
        }
        if is_over {
            self.close_worker(at);
        }
        taken > 0
    }

    fn take_work(&mut self, at: usize, Line(kind, offset, id, count): Line) {
        let worker = &mut self.workshop.workers[at];
        let ledger = &mut self.workshop.ledgers[worker.queue];
        if kind == b'S' {
            ledger.start.get_or_insert(offset);
            return;
        }
        assert_eq!(kind, b'Q');
        let entry = &self.model.committed[&offset];
        assert_eq!(entry.id, id, "the wrong message at {offset}");
        let filter = TopicFilter::new(QUEUES[worker.queue].1).unwrap();
        assert!(filter.matches(&entry.topic));
        assert!(
            !ledger.done_now.contains(&offset),
            "{offset} was done, and comes again"
        );
        let before = ledger.holders.insert(offset, at);
        assert_eq!(before, None, "{offset} went to two workers");
        let is_new = ledger.seen.insert(offset);
        assert!(
            is_new || count > 0,
            "{offset} was seen, and is said to be new"
        );
        worker.holds.insert(offset);
        self.tally.count("work", 1);
        self.tally.count("work again", u64::from(!is_new));
        self.tally.count("work new", u64::from(count == 0));
    }

    /// The server died.
    pub(super) fn lose_workers(&mut self) {
        for at in 0..self.workshop.workers.len() {
            self.worker_lost(at);
        }
        for ledger in &mut self.workshop.ledgers {
            ledger.done_now.clear();
        }
    }

    pub(super) fn gather_workers(&mut self) {
        for queue in 0..QUEUES.len() {
            let begun = self.workshop.ledgers[queue].start.is_some();
            let has_one = self.workshop.workers.iter().any(|it| it.queue == queue);
            if begun && !has_one {
                self.add_worker(queue);
            }
        }
        for at in 0..self.workshop.workers.len() {
            if self.workshop.workers[at].at.is_none() {
                self.connect_worker(at);
            }
            self.set_full(at, false);
        }
    }

    pub(super) fn serve_workers(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.workshop.workers.len() {
            moved |= self.serve_worker(at);
            while !self.workshop.workers[at].holds.is_empty() {
                self.answer_one(at, b'A');
            }
        }
        moved
    }

    pub(super) fn check_workers(&self) {
        for (ledger, (name, filter)) in self.workshop.ledgers.iter().zip(QUEUES) {
            let Some(start) = ledger.start else {
                continue;
            };
            let filter = TopicFilter::new(filter).unwrap();
            for (offset, entry) in self.model.committed.range(start + 1..) {
                let wanted = filter.matches(&entry.topic) && self.model.is_kept(*offset);
                assert!(
                    !wanted || ledger.done.contains(offset),
                    "{offset} ({:?}) was skipped by {name} since {start}",
                    entry.topic
                );
            }
        }
    }
}
