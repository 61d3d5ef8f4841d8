//! What is known of each work queue, and what may become of its messages.

use std::collections::{BTreeMap, BTreeSet};

use tidings_ports::Verdict;
use tidings_types::{Cursor, Message, Topic};

use super::super::worker::OUTPUT_TOPIC;
use super::queues::{BRIEF, QUEUES};

const DEAD_LETTER: &str = "dead-letter";
/// A message that no timer takes from its worker.
const NEVER: u64 = u64::MAX;

/// A message that was given to a worker, as the worker knows it.
struct Lease {
    worker: usize,
    /// No other delivery may follow before this moment, in milliseconds.
    until: u64,
    /// Whether the worker said that it is done.
    is_done: bool,
}

/// One message as its worker names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Work {
    pub queue: usize,
    pub offset: u64,
    /// How often it was delivered before.
    pub count: u64,
}

/// A verdict on a message.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub work: Work,
    pub verdict: Verdict,
}

/// What is known of one queue.
#[derive(Default)]
struct Ledger {
    /// The first position that a worker was told.
    start: Option<u64>,
    /// Delivered, ever.
    seen: BTreeSet<u64>,
    /// Acknowledged, ever.
    done: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    /// In the dead-letter topic.
    dead: BTreeSet<u64>,
    /// What the log was seen to have settled: it must not be delivered once more after this many deliveries. After
    /// the server was started anew, not at all.
    settled: BTreeMap<u64, Option<u64>>,
    /// In the dead-letter topic since the server was started, after this many deliveries.
    dead_now: BTreeMap<u64, u64>,
    /// Every delivery since the server was started: by offset and count.
    leases: BTreeMap<(u64, u64), Lease>,
}

/// What is known of all queues.
#[derive(Default)]
pub struct Ledgers {
    by_queue: [Ledger; QUEUES.len()],
    /// What transactions were to settle, by the number in their message.
    outputs: BTreeMap<u64, Vec<Said>>,
    /// Those that the log has.
    committed: BTreeSet<u64>,
    deliveries_max: u64,
}

impl Ledger {
    /// A delivery that is known now, though it may have been made before others that were known earlier.
    fn deliver(&mut self, work: Work, lease: Lease, now: u64) -> bool {
        let Work { offset, count, .. } = work;
        match self.settled.get(&offset) {
            Some(None) => panic!("{offset} was settled durably, and comes again after a restart"),
            Some(Some(after)) => {
                assert!(
                    count <= *after,
                    "{offset} was settled durably, and comes again"
                );
            }
            None => {}
        }
        let is_dead = self.dead_now.get(&offset).is_some_and(|it| count >= *it);
        assert!(!is_dead, "{offset} is a dead letter, and comes again");
        for ((_, other), known) in self.leases.range((offset, 0)..=(offset, NEVER)) {
            assert_ne!(*other, count, "{offset} was delivered twice as the same");
            let earlier = if *other < count { known } else { &lease };
            assert!(
                earlier.until <= now,
                "{offset} went to two workers, or was done and comes again: {count} after {other}"
            );
        }
        let newest = self.leases.range(..=(offset, NEVER)).next_back();
        let is_stale = newest.is_some_and(|((it, other), _)| *it == offset && *other > count);
        self.leases.insert((offset, count), lease);
        let is_new = self.seen.insert(offset);
        assert!(
            is_new || count > 0 || is_stale,
            "{offset} was seen, and is said to be new"
        );
        is_new
    }

    fn until(&self, work: Work) -> u64 {
        let lease = self.leases.get(&(work.offset, work.count));
        lease.map_or(0, |lease| lease.until)
    }

    fn release(&mut self, work: Work) {
        if let Some(lease) = self.leases.get_mut(&(work.offset, work.count)) {
            lease.until = 0;
        }
    }

    /// The log has it that a worker is done with a message, which was certainly this worker's if its time was not
    /// over.
    fn settle(&mut self, work: Work, now: u64) {
        let is_certain = self.until(work) > now;
        let after = if is_certain { work.count } else { NEVER };
        self.settled.entry(work.offset).or_insert(Some(after));
    }
}

impl Ledgers {
    pub fn new(deliveries_max: u32) -> Self {
        Self {
            deliveries_max: u64::from(deliveries_max),
            ..Self::default()
        }
    }

    pub fn started(&mut self, queue: usize, at: u64) {
        self.by_queue[queue].start.get_or_insert(at);
    }

    pub fn has_started(&self, queue: usize) -> bool {
        self.by_queue[queue].start.is_some()
    }

    /// A worker got a message. Until a moment it is certainly its own. Whether nobody had it before.
    pub fn deliver(&mut self, work: Work, worker: usize, until: u64, now: u64) -> bool {
        let lease = Lease {
            worker,
            until,
            is_done: false,
        };
        if work.queue == BRIEF {
            // It is forgotten every now and then, and begins anew.
            return true;
        }
        self.by_queue[work.queue].deliver(work, lease, now)
    }

    /// A worker says something of a message, and nobody else gets it but for that.
    pub fn say(&mut self, said: Said) {
        let ledger = &mut self.by_queue[said.work.queue];
        let Work { offset, count, .. } = said.work;
        match said.verdict {
            Verdict::Ack => {
                ledger.done.insert(offset);
                if let Some(lease) = ledger.leases.get_mut(&(offset, count)) {
                    lease.is_done = true;
                }
            }
            Verdict::Nack | Verdict::Unseen => ledger.release(said.work),
            Verdict::Reject => {
                ledger.rejected.insert(offset);
                ledger.release(said.work);
            }
        }
    }

    /// Whether a message may have gone to another worker by now.
    pub fn may_be_late(&self, work: Work, now: u64) -> bool {
        self.by_queue[work.queue].until(work) <= now
    }

    /// A verdict is answered: it is durable, if the message was still this worker's.
    pub fn answered(&mut self, said: Said, until: u64, now: u64) {
        if until > now && said.verdict != Verdict::Nack && said.work.queue != BRIEF {
            let after = Some(said.work.count);
            let settled = &mut self.by_queue[said.work.queue].settled;
            settled.entry(said.work.offset).or_insert(after);
        }
    }

    /// When a message may go to another worker.
    pub fn until(&self, work: Work) -> u64 {
        self.by_queue[work.queue].until(work)
    }

    /// A transaction is about to be asked for.
    pub fn begin(&mut self, output: u64, steps: Vec<Said>) {
        self.outputs.insert(output, steps);
    }

    pub fn is_committed(&self, output: u64) -> bool {
        self.committed.contains(&output)
    }

    /// A worker is gone, or left a queue: what it was not done with goes to others.
    pub fn leave(&mut self, worker: usize, queue: usize) {
        for lease in self.by_queue[queue].leases.values_mut() {
            if lease.worker == worker && !lease.is_done {
                lease.until = 0;
            }
            if lease.worker == worker {
                // Its next connection is another member.
                lease.worker = usize::MAX;
            }
        }
    }

    /// The server died.
    pub fn restart(&mut self) {
        for ledger in &mut self.by_queue {
            ledger.leases.clear();
            ledger.dead_now.clear();
            ledger.settled.values_mut().for_each(|after| *after = None);
        }
    }

    /// Whether a message in the log is one that a queue gave up or a transaction published.
    pub fn is_known(&self, message: &Message) -> bool {
        is_letter(&message.topic) || self.outputs.contains_key(&number_of(message))
    }

    /// The log has a message, which may be one that a queue gave up or that a transaction published. `again` if it
    /// is found there after a restart.
    pub fn committed(&mut self, message: &Message, now: u64, again: bool) {
        if is_letter(&message.topic) {
            return self.letter(message, again);
        }
        if message.topic.as_str() != OUTPUT_TOPIC {
            return;
        }
        let output = number_of(message);
        assert!(self.committed.insert(output), "an output is there twice");
        for said in &self.outputs[&output] {
            let Work { queue, offset, .. } = said.work;
            let ledger = &mut self.by_queue[queue];
            if said.verdict == Verdict::Nack {
                ledger.release(said.work);
                continue;
            }
            if queue == BRIEF {
                if said.verdict == Verdict::Reject {
                    ledger.rejected.insert(offset);
                }
                continue;
            }
            assert!(
                !ledger.settled.contains_key(&offset),
                "{offset} was settled, and a transaction settled it again"
            );
            match said.verdict {
                Verdict::Ack => ledger.done.insert(offset),
                _ => ledger.rejected.insert(offset),
            };
            assert!(
                !ledger.dead_now.contains_key(&offset),
                "{offset} is a dead letter, and a transaction settled it"
            );
            ledger.settle(said.work, now);
            if again {
                ledger.settled.insert(offset, None);
            }
        }
    }

    fn letter(&mut self, message: &Message, again: bool) {
        let header = |name: &str| {
            let headers = &message.properties.headers;
            let found = headers.iter().find(|(known, _)| &**known == name);
            found.map(|(_, value)| value.to_string()).unwrap()
        };
        let name = header("tidings-dead-queue");
        let cursor: Cursor = header("tidings-dead-message").parse().unwrap();
        let count: u64 = header("tidings-dead-deliveries").parse().unwrap();
        let queue = QUEUES.iter().position(|(known, _)| *known == name).unwrap();
        let ledger = &mut self.by_queue[queue];
        let offset = cursor.offset.0;
        assert!(ledger.dead.insert(offset), "{offset} has two dead letters");
        let is_rejected = ledger.rejected.contains(&offset);
        if header("tidings-dead-reason") == "rejected" {
            assert!(is_rejected, "{offset} was not rejected");
        } else {
            let max = self.deliveries_max;
            assert!(max > 0 && count >= max, "{offset} was given up too early");
        }
        assert!(
            is_rejected || !ledger.settled.contains_key(&offset),
            "{offset} was settled, and is a dead letter"
        );
        if !again {
            ledger.dead_now.insert(offset, count);
        }
    }

    /// Whether a message was given to workers by this queue and is settled by now.
    pub fn is_over(&self, queue: usize, offset: u64) -> bool {
        let ledger = &self.by_queue[queue];
        ledger.done.contains(&offset) || ledger.dead.contains(&offset)
    }

    /// The position of a queue's first message.
    pub fn start(&self, queue: usize) -> Option<u64> {
        self.by_queue[queue].start
    }
}

/// Whether a topic is one of messages that queues gave up.
pub fn is_letter(topic: &Topic) -> bool {
    topic.as_str().starts_with(DEAD_LETTER)
}

fn number_of(message: &Message) -> u64 {
    u64::from_be_bytes(message.payload[..8].try_into().unwrap())
}

/// When a message that a worker has for this long, and got at this moment at the earliest, may go to another one.
pub fn lease_end(since: u64, timeout_ms: Option<u64>) -> u64 {
    timeout_ms.map_or(NEVER, |timeout| since + timeout)
}
