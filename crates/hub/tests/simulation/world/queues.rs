//! Work queues with workers that come and go, and what they say of their messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_hub::ConnectionId;
use tidings_hub::shard::Ended;
use tidings_ports::{Clock, Engine, Expiry, Start, Verdict};
use tidings_types::{Principal, TopicFilter};

use super::super::peer::RECORD_BYTES;
use super::super::session::Line;
use super::super::worker::{FIRST_TAG, Given, Manner, NOT_YOURS, Part, WorkerConversation};
use super::ledger::{Ledgers, Said, Work, lease_end};
use super::{SHARDS, World};

pub const QUEUES: [(&str, &str); 3] = [("jobs", "d/#"), ("mixed", "+/a"), ("brief", "d/a")];
/// The queue that is not kept, or that its last worker takes along.
pub const BRIEF: usize = 2;
const WORKERS_MAX: usize = 5;
/// The numbers of what transactions publish, above all others.
const OUTPUTS: u64 = 1 << 63;
/// How long hasty queues leave a message with a worker. In the end each message is answered sooner.
const TIMEOUT_MS: u64 = 150;

pub struct Workshop {
    pub ledgers: Ledgers,
    workers: Vec<Worker>,
    next_tag: u64,
    /// Whether some workers lose what they hold for long.
    is_hasty: bool,
}

/// What a worker waits to hear of.
enum Asked {
    Verdict(Said, u64),
    Transaction { output: u64, steps: Vec<Said> },
}

struct Worker {
    queues: Vec<usize>,
    at: Option<(usize, ConnectionId)>,
    bytes: BytesMut,
    appetite: usize,
    timeout_ms: Option<u64>,
    holds: BTreeSet<Work>,
    asked: BTreeMap<u64, Asked>,
    /// Queues that it left.
    left: BTreeSet<usize>,
    /// Messages of which it may have spoken before it knew that it has them once more.
    loose: BTreeSet<(usize, u64)>,
    is_full: bool,
}

impl Workshop {
    pub fn new(deliveries_max: u32, is_hasty: bool) -> Self {
        Self {
            ledgers: Ledgers::new(deliveries_max),
            workers: Vec::new(),
            next_tag: FIRST_TAG,
            is_hasty,
        }
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }
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
        match self.pick(34) {
            0..14 => {
                self.serve_worker(at);
            }
            14..20 => self.answer_one(at, Verdict::Ack),
            20..22 => self.answer_one(at, Verdict::Nack),
            22 => self.answer_one(at, Verdict::Reject),
            23..27 => self.begin_transaction(at),
            27 => self.close_worker(at),
            28 => self.leave_queue(at),
            29 => self.set_full(at, true),
            _ => self.set_full(at, false),
        }
    }

    fn add_worker(&mut self, queue: usize) {
        let appetite = [RECORD_BYTES, RECORD_BYTES * 8][self.pick(2) as usize];
        let is_hasty = self.workshop.is_hasty && self.pick(2) == 0;
        let mut queues = vec![queue];
        if self.pick(3) == 0 {
            queues.push((queue + 1) % QUEUES.len());
        }
        self.workshop.workers.push(Worker {
            queues,
            at: None,
            bytes: BytesMut::new(),
            appetite: if is_hasty {
                RECORD_BYTES * 20
            } else {
                appetite
            },
            timeout_ms: is_hasty.then_some(TIMEOUT_MS),
            holds: BTreeSet::new(),
            asked: BTreeMap::new(),
            left: BTreeSet::new(),
            loose: BTreeSet::new(),
            is_full: false,
        });
        self.connect_worker(self.workshop.workers.len() - 1);
    }

    fn connect_worker(&mut self, at: usize) {
        let queues = self.workshop.workers[at].queues.clone();
        let mut parts = Vec::new();
        for queue in queues {
            let (name, filter) = QUEUES[queue];
            let is_brief = queue == BRIEF && self.pick(3) > 0;
            parts.push(Part {
                queue: queue as u32,
                name: ByteString::from_static(name),
                filter: TopicFilter::new(filter).unwrap(),
                expiry: if is_brief {
                    Expiry::WithConnection
                } else {
                    Expiry::Never
                },
            });
        }
        let start = match self.pick(4) {
            0 => Start::Earliest,
            1 => Start::Last(3),
            _ => Start::Latest,
        };
        let shard = self.pick(SHARDS as u64) as usize;
        let timeout_ms = self.workshop.workers[at].timeout_ms;
        let manner = Manner {
            parts,
            start,
            prefetch: 1 + self.pick(4) as u32,
            ack_timeout: timeout_ms.map(Duration::from_millis),
            given_since: std::rc::Rc::clone(&self.given_since[shard]),
        };
        let conversation = Box::new(WorkerConversation::new(manner));
        let principal = std::sync::Arc::new(Principal::anonymous());
        let id = self.shards[shard].connect(conversation, principal, Bytes::new());
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
        for queue in &worker.queues {
            self.workshop.ledgers.leave(at, *queue);
        }
        worker.at = None;
        worker.bytes.clear();
        worker.holds.clear();
        worker.asked.clear();
        worker.left.clear();
        worker.loose.clear();
        worker.is_full = false;
    }

    fn say_to(&mut self, at: usize, line: Line) {
        if let Some((shard, id)) = self.workshop.workers[at].at {
            let mut input = BytesMut::from(&line.bytes()[..]);
            self.shards[shard].receive(id, &mut input);
        }
    }

    /// Whether the server listens to a worker still.
    fn is_heard(&self, at: usize) -> bool {
        let at = self.workshop.workers[at].at;
        at.is_some_and(|(shard, id)| self.shards[shard].ended(id) == Ended::No)
    }

    /// A message that a worker holds, and from now on does not.
    fn put_down(&mut self, at: usize, verdict: Verdict) -> Option<Said> {
        let count = self.workshop.workers[at].holds.len() as u64;
        let which = self.pick(count.max(1)) as usize;
        let worker = &mut self.workshop.workers[at];
        let work = *worker.holds.iter().nth(which)?;
        worker.holds.remove(&work);
        if worker.timeout_ms.is_some() {
            worker.loose.insert((work.queue, work.offset));
        }
        Some(Said { work, verdict })
    }

    fn answer_one(&mut self, at: usize, verdict: Verdict) {
        if !self.is_heard(at) {
            return;
        }
        let Some(said) = self.put_down(at, verdict) else {
            return;
        };
        let until = self.workshop.ledgers.until(said.work);
        self.workshop.ledgers.say(said);
        let tag = if self.pick(2) == 0 {
            let tag = self.workshop.tag();
            let asked = Asked::Verdict(said, until);
            self.workshop.workers[at].asked.insert(tag, asked);
            tag
        } else {
            0
        };
        if verdict != Verdict::Ack {
            self.tally.count("nacked", 1);
        }
        let Work { queue, offset, .. } = said.work;
        self.say_to(at, Line(letter_of(verdict), offset, tag, queue as u64));
    }

    /// Publishes, and settles one message or a few with it.
    fn begin_transaction(&mut self, at: usize) {
        if !self.is_heard(at) {
            return;
        }
        let mut steps = Vec::new();
        for _ in 0..=self.pick(3) {
            let verdict = match self.pick(4) {
                _ if steps.is_empty() => Verdict::Ack,
                0 => Verdict::Nack,
                1 => Verdict::Reject,
                _ => Verdict::Ack,
            };
            steps.extend(self.put_down(at, verdict));
        }
        let Some(first) = steps.first() else {
            return;
        };
        let tag = self.workshop.tag();
        let output = OUTPUTS | tag << 40 | (first.work.queue as u64) << 32 | first.work.offset;
        self.workshop.ledgers.begin(output, steps.clone());
        for said in &steps {
            let Work { queue, offset, .. } = said.work;
            let letter = letter_of(said.verdict).to_ascii_lowercase();
            self.say_to(at, Line(letter, offset, 0, queue as u64));
        }
        let asked = Asked::Transaction { output, steps };
        self.workshop.workers[at].asked.insert(tag, asked);
        self.say_to(at, Line(b'P', tag, output, 0));
    }

    /// Unsubscribes from a queue; from the brief one for good.
    fn leave_queue(&mut self, at: usize) {
        let which = self.pick(self.workshop.workers[at].queues.len() as u64) as usize;
        let worker = &mut self.workshop.workers[at];
        let queue = worker.queues[which];
        if !worker.left.insert(queue) {
            return;
        }
        worker.holds.retain(|work| work.queue != queue);
        self.workshop.ledgers.leave(at, queue);
        self.tally.count("left a queue", 1);
        let forget = u64::from(queue == BRIEF);
        self.say_to(at, Line(b'L', queue as u64, forget, 0));
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
            self.take_line(at, line);
        }
        if is_over {
            self.close_worker(at);
        }
        taken > 0
    }

    fn take_line(&mut self, at: usize, line: Line) {
        match line {
            Line(b'S', offset, queue, _) => self.workshop.ledgers.started(queue as usize, offset),
            Line(b'Q', offset, id, given) => {
                let given = Given::unpack(given);
                self.take_work(at, (offset, id), &given);
            }
            Line(kind, tag, reason, _) => self.take_answer(at, kind, tag, reason),
        }
    }

    fn take_work(&mut self, at: usize, (offset, id): (u64, u64), given: &Given) {
        let entry = &self.model.committed[&offset];
        assert_eq!(entry.id, id, "the wrong message at {offset}");
        let queue = given.queue as usize;
        let filter = TopicFilter::new(QUEUES[queue].1).unwrap();
        assert!(filter.matches(&entry.topic));
        let count = given.count;
        let work = Work {
            queue,
            offset,
            count,
        };
        let worker = &mut self.workshop.workers[at];
        let has_left = worker.left.contains(&queue);
        let mut until = lease_end(given.since, worker.timeout_ms);
        if has_left || worker.loose.contains(&(queue, offset)) {
            until = 0;
        }
        let now = self.clock.tick().0;
        let is_new = self.workshop.ledgers.deliver(work, at, until, now);
        // What it says next is of the newest delivery.
        worker
            .holds
            .retain(|held| (held.queue, held.offset) != (queue, offset));
        if !has_left {
            worker.holds.insert(work);
        }
        self.tally.count("work", 1);
        self.tally.count("work again", u64::from(!is_new));
        self.tally.count("work new", u64::from(count == 0));
    }

    fn take_answer(&mut self, at: usize, kind: u8, tag: u64, reason: u64) {
        let asked = self.workshop.workers[at].asked.remove(&tag);
        let asked = asked.expect("an answer to nothing, or the second one");
        let now = self.clock.tick().0;
        match (kind, asked) {
            (b'T', Asked::Verdict(said, until)) => {
                self.tally.count("settled", 1);
                self.workshop.ledgers.answered(said, until, now);
            }
            (b'P', Asked::Transaction { output, .. }) => {
                self.tally.count("transaction", 1);
                let is_committed = self.workshop.ledgers.is_committed(output);
                assert!(is_committed, "published, and not in the log");
            }
            (b'E', Asked::Verdict(..)) => {
                assert_ne!(reason, NOT_YOURS);
                self.tally.count("verdict refused", 1);
            }
            (b'E', Asked::Transaction { output, steps }) => {
                let is_committed = self.workshop.ledgers.is_committed(output);
                assert!(!is_committed, "refused, and in the log");
                if reason == NOT_YOURS {
                    self.tally.count("transaction too late", 1);
                    let mut steps = steps.iter();
                    let late = steps.any(|said| self.workshop.ledgers.may_be_late(said.work, now));
                    assert!(late, "refused as another's, and nothing was");
                }
                self.tally.count("transaction refused", 1);
                self.pick_up(at, &steps);
            }
            _ => panic!("the stream is out of step: {kind}"),
        }
    }

    /// A transaction did not happen: the messages are the worker's again. If it goes away, they are somebody else's.
    fn pick_up(&mut self, at: usize, steps: &[Said]) {
        let worker = &mut self.workshop.workers[at];
        let theirs = steps.iter().map(|said| said.work);
        let theirs = theirs.filter(|work| !worker.left.contains(&work.queue));
        worker.holds.extend(theirs);
        if self.pick(3) == 0 {
            self.close_worker(at);
        }
    }

    /// The server died.
    pub(super) fn lose_workers(&mut self) {
        for at in 0..self.workshop.workers.len() {
            self.worker_lost(at);
        }
        self.workshop.ledgers.restart();
    }

    pub(super) fn gather_workers(&mut self) {
        for queue in 0..QUEUES.len() {
            let begun = self.workshop.ledgers.has_started(queue);
            let mut workers = self.workshop.workers.iter();
            if begun && !workers.any(|it| it.queues.contains(&queue)) {
                self.add_worker(queue);
            }
        }
        for at in 0..self.workshop.workers.len() {
            if !self.workshop.workers[at].left.is_empty() {
                self.close_worker(at);
            }
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
            while self.is_heard(at) && !self.workshop.workers[at].holds.is_empty() {
                self.answer_one(at, Verdict::Ack);
            }
        }
        moved
    }

    pub(super) fn check_workers(&self) {
        for worker in &self.workshop.workers {
            assert!(worker.asked.is_empty(), "a command has no answer");
        }
        let left = self.engine.states();
        let mut left = left.iter().filter(|(name, _)| name.starts_with("settled/"));
        assert_eq!(left.next(), None, "a transaction is never forgotten");
        let strays = self.tally().of("stray verdict");
        assert!(
            strays == 0 || self.workshop.is_hasty,
            "{strays} verdicts were on messages of others"
        );
        for (queue, (name, filter)) in QUEUES.iter().enumerate() {
            let Some(start) = self.workshop.ledgers.start(queue) else {
                continue;
            };
            let filter = TopicFilter::new(*filter).unwrap();
            for (offset, entry) in self.model.committed.range(start + 1..) {
                let wanted = filter.matches(&entry.topic) && self.model.is_kept(*offset);
                let is_over = queue == BRIEF || self.workshop.ledgers.is_over(queue, *offset);
                assert!(
                    !wanted || is_over,
                    "{offset} ({:?}) was skipped by {name} since {start}",
                    entry.topic
                );
            }
        }
    }
}

fn letter_of(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ack => b'A',
        Verdict::Nack | Verdict::Unseen => b'N',
        Verdict::Reject => b'R',
    }
}
