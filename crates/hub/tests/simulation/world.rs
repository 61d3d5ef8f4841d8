//! Everything in one thread: the server's parts, the peers, the publishers and what goes wrong.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_hub::{ConnectionId, Inboxes, Metrics, Shard, ShardConfig, SharedMetrics};
use tidings_log::LogConfig;
use tidings_log::storage::{Faults, SimStorage};
use tidings_ports::{
    Clock, Commit, Engine, EngineHealth, Feed, ManualClock, ReadFrom, ReadRequest, Start,
};
use tidings_types::{
    Cursor, Draft, Durability, Limits, Offset, Principal, Receipt, Refusal, RefusalCode, Storage,
    Timestamp, Topic, TopicFilter,
};

pub use self::ledger::is_letter;
use self::queues::Workshop;
use self::sessions::{Client, Wills};
use self::settings::rules;
pub use self::tally::Tally;
use self::tally::count_metrics;
use super::engine::SimEngine;
use super::model::{Model, TOPICS, View};
use super::peer::{self, RECORD_BYTES, Record, TestConversation, Wish};

mod ledger;
mod queues;
mod sessions;
mod settings;
mod tally;

const SHARDS: usize = 2;
/// Single filters, for sessions that alter theirs.
pub const FILTER_CHOICES: [&str; 6] = ["d/#", "d/a", "m/#", "few/#", "+/a", "d/+"];
const FILTERS: [&[&str]; 10] = [
    &["#"],
    &["d/#"],
    &["d/+"],
    &["m/#"],
    &["n/#"],
    &["few/#"],
    &["d/a"],
    &["d/a", "n/a"],
    &["+/a"],
    &["d/a", "d/#", "few/a"],
];

struct Peer {
    wish: Wish,
    at: Option<(usize, ConnectionId)>,
    bytes: BytesMut,
    views: Vec<View>,
    /// Of the current connection, for peers with overlapping subscriptions.
    seen: HashSet<u64>,
    last: Option<Cursor>,
    /// Bytes that it reads at a time.
    appetite: usize,
}

type Replies = Rc<RefCell<Vec<(u64, Topic, Result<Vec<Receipt>, Refusal>)>>>;

pub struct World {
    random: u64,
    clock: Arc<ManualClock>,
    storage: SimStorage,
    config: LogConfig,
    limits: Arc<Limits>,
    engine: Arc<SimEngine>,
    inboxes: Arc<Inboxes>,
    shards: Vec<Shard>,
    head: Arc<AtomicU64>,
    model: Model,
    peers: Vec<Peer>,
    clients: Vec<Client>,
    wills: Wills,
    workshop: Workshop,
    /// When each shard took its inbox, and the time before that: what it passes on now was not put in earlier.
    taken: [u64; SHARDS],
    given_since: [Rc<Cell<u64>>; SHARDS],
    next_id: u64,
    /// Published and not acknowledged, by id.
    unacknowledged: BTreeMap<u64, Topic>,
    /// Of those: in flight now.
    in_flight: HashSet<u64>,
    acknowledged: BTreeMap<u64, Offset>,
    replies: Replies,
    tally: Tally,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let limits = Arc::new(Limits {
            // A frame or two, or a handful; a few messages, or no bound that is ever met.
            outbox_bytes_max: if seed.is_multiple_of(2) { 200 } else { 1_000 },
            tail_scan_max: if seed.is_multiple_of(3) { 1_000 } else { 8 },
            inbox_batches_max: 3,
            tail_bytes_max: 3_000,
            page_messages_max: 4,
            deliveries_max: [0, 2, 3][seed as usize / 4 % 3],
            ..Limits::default()
        });
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let storage = SimStorage::default();
        let mut config = LogConfig::in_memory();
        config.durability = Durability::Sync;
        config.rules = rules();
        config.limits = (*limits).clone();
        config.segment_bytes = 4_000;
        config.memory_segment_bytes = 2_000;
        config.seed = Some(seed);
        let engine = SimEngine::open(config.clone(), &storage, &clock).expect("a new log opens");
        let workshop = Workshop::new(limits.deliveries_max, seed % 4 >= 2);
        let mut world = Self {
            random: seed,
            engine: Arc::new(engine),
            inboxes: Arc::new(Inboxes::new(SHARDS, &limits)),
            shards: Vec::new(),
            clock,
            storage,
            config,
            limits,
            head: Arc::default(),
            model: Model::default(),
            peers: Vec::new(),
            clients: Vec::new(),
            wills: Wills::default(),
            workshop,
            taken: [0; SHARDS],
            given_since: Default::default(),
            next_id: 1,
            unacknowledged: BTreeMap::new(),
            in_flight: HashSet::new(),
            acknowledged: BTreeMap::new(),
            replies: Rc::default(),
            tally: Tally::default(),
        };
        world.start_shards();
        world
    }

    pub fn steps(&mut self) -> u64 {
        300 + self.pick(500)
    }

    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        for shard in &self.shards {
            count_metrics(&mut tally, shard.metrics());
        }
        tally
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn start_shards(&mut self) {
        self.inboxes = Arc::new(Inboxes::new(SHARDS, &self.limits));
        self.taken = [self.clock.tick().0; SHARDS];
        let shared = Arc::new(SharedMetrics::default());
        for shard in std::mem::take(&mut self.shards) {
            count_metrics(&mut self.tally, shard.metrics());
        }
        let homes = tidings_hub::states_by_home(&*self.engine, SHARDS);
        for (index, states) in homes.into_iter().enumerate() {
            let seed = self.pick(u64::MAX);
            self.shards.push(Shard::new(ShardConfig {
                expiry_notice_ms: 60_000,
                authenticator: Arc::new(tidings_ports::Everybody),
                permitter: Arc::new(tidings_ports::GrantsAlone),
                dead_letter: Some(Topic::new("dead-letter").unwrap()),
                index,
                engine: Arc::clone(&self.engine) as Arc<dyn Engine>,
                inboxes: Arc::clone(&self.inboxes),
                states,
                head: self.engine.head(),
                clock: self.clock.clone(),
                limits: Arc::clone(&self.limits),
                meters: Arc::default(),
                metrics: Arc::new(Metrics::default()),
                shared: Arc::clone(&shared),
                seed,
            }));
        }
    }

    pub fn step(&mut self) {
        match self.pick(8) {
            0..2 => return self.step_client(),
            2 => return self.step_worker(),
            _ => {}
        }
        match self.pick(100) {
            0..30 => self.publish(),
            30..45 => {
                let some = 1 + self.pick(6) as usize;
                self.commit(some);
            }
            45..53 => self.read_one(),
            53..68 => {
                let shard = self.pick(SHARDS as u64) as usize;
                self.take_inbox(shard);
            }
            68..88 => self.drain_one(),
            88..92 => self.connect_one(),
            92..94 => self.disconnect_one(),
            94..96 => {
                self.clock.advance_ms(50);
                self.engine.keep();
                self.shards.iter_mut().for_each(Shard::tick);
            }
            96..98 => self.change_fault(),
            _ => {
                if self.pick(6) == 0 {
                    self.restart();
                }
            }
        }
        self.take_replies();
    }

    fn take_inbox(&mut self, shard: usize) {
        let now = self.clock.tick().0;
        let before = std::mem::replace(&mut self.taken[shard], now);
        self.given_since[shard].set(before);
        self.shards[shard].take_inbox();
    }

    fn publish(&mut self) {
        let retry = self
            .unacknowledged
            .keys()
            .copied()
            .find(|id| !self.in_flight.contains(id));
        let id = match retry {
            Some(id) if self.pick(2) == 0 => id,
            _ => {
                let topic = TOPICS[self.pick(TOPICS.len() as u64) as usize].0;
                self.next_id += 1;
                self.unacknowledged
                    .insert(self.next_id, Topic::new(topic).unwrap());
                self.next_id
            }
        };
        self.submit(id);
    }

    fn submit(&mut self, id: u64) {
        let topic = self.unacknowledged[&id].clone();
        let mut draft = Draft::new(topic.clone(), Bytes::copy_from_slice(&id.to_be_bytes()));
        draft.key = Some(ByteString::from(id.to_string()));
        self.in_flight.insert(id);
        let replies = Rc::clone(&self.replies);
        let reply = Box::new(move |result| replies.borrow_mut().push((id, topic, result)));
        let shard = self.pick(SHARDS as u64) as usize;
        self.shards[shard].publish(&Arc::new(Principal::anonymous()).into(), vec![draft], reply);
    }

    fn take_replies(&mut self) {
        let replies: Vec<_> = self.replies.borrow_mut().drain(..).collect();
        for (id, topic, result) in replies {
            self.in_flight.remove(&id);
            match result {
                Ok(receipts) => {
                    let Receipt {
                        cursor, replayed, ..
                    } = receipts[0];
                    self.tally.count("replayed", u64::from(replayed));
                    if replayed && !self.model.committed.contains_key(&cursor.offset.0) {
                        // Written before a crash and not acknowledged, and removed by retention before the
                        // log was compared: only its key is left to tell.
                        assert!(topic.as_str().starts_with("few/"), "a receipt for nothing");
                        let storage = Storage::Durable;
                        self.model.add(cursor.offset.0, topic.clone(), id, storage);
                    }
                    let entry = self.model.committed.get(&cursor.offset.0);
                    let entry = entry.expect("a receipt for nothing");
                    assert_eq!((entry.id, &entry.topic), (id, &topic));
                    self.unacknowledged.remove(&id);
                    self.acknowledged.insert(id, cursor.offset);
                }
                Err(refusal) => {
                    let what = match refusal.code {
                        RefusalCode::Busy => "busy",
                        RefusalCode::StorageFull => "full",
                        RefusalCode::StorageFailed => "sync failure",
                        other => panic!("{other:?}"),
                    };
                    self.tally.count(what, 1);
                }
            }
        }
    }

    fn commit(&mut self, some: usize) {
        let engine = Arc::clone(&self.engine);
        let inboxes = Arc::clone(&self.inboxes);
        let (model, head) = (&mut self.model, &self.head);
        let (ledgers, now) = (&mut self.workshop.ledgers, self.clock.tick().0);
        engine.commit(some, &*inboxes as &dyn Feed, |commit| {
            note(model, head, commit);
            let batch = commit.batch.iter();
            for message in batch.flat_map(|batch| &batch.messages) {
                ledgers.committed(message, now, false);
            }
        });
    }

    fn read_one(&mut self) {
        let which = self.pick(8) as usize;
        self.engine.read_one(which, &*self.inboxes);
    }

    fn connect_one(&mut self) {
        let away: Vec<usize> = (0..self.peers.len())
            .filter(|at| self.peers[*at].at.is_none())
            .collect();
        if !away.is_empty() && (self.pick(2) == 0 || self.peers.len() >= 12) {
            let at = away[self.pick(away.len() as u64) as usize];
            return self.connect(at);
        }
        if self.peers.len() >= 12 {
            return;
        }
        let wish = self.wish();
        let appetite =
            [RECORD_BYTES / 2, RECORD_BYTES * 2, RECORD_BYTES * 20][self.pick(3) as usize];
        self.peers.push(Peer {
            wish,
            at: None,
            bytes: BytesMut::new(),
            views: Vec::new(),
            seen: HashSet::new(),
            last: None,
            appetite,
        });
        self.connect(self.peers.len() - 1);
    }

    fn wish(&mut self) -> Wish {
        let count = if self.pick(5) == 0 { 2 } else { 1 };
        let subscriptions = (0..count)
            .map(|_| {
                let filters = FILTERS[self.pick(FILTERS.len() as u64) as usize];
                let filters = filters
                    .iter()
                    .map(|text| TopicFilter::new(*text).unwrap())
                    .collect();
                let start = match self.pick(8) {
                    0..3 => Start::Latest,
                    3..6 => Start::Earliest,
                    6 => Start::Last(1 + self.pick(6)),
                    _ => Start::Unknown,
                };
                (filters, start)
            })
            .collect();
        Wish {
            subscriptions,
            own_frames: self.pick(3) == 0,
        }
    }

    fn connect(&mut self, at: usize) {
        let shard = self.pick(SHARDS as u64) as usize;
        let head = self.engine.head().0;
        let peer = &mut self.peers[at];
        let mut wish = peer.wish.clone();
        if let (Some(last), 1) = (peer.last, wish.subscriptions.len()) {
            wish.subscriptions[0].1 = Start::After(last);
        }
        peer.bytes.clear();
        peer.seen.clear();
        peer.views = wish
            .subscriptions
            .iter()
            .map(|(filters, start)| View::new(filters.clone(), start.clone(), head))
            .collect();
        if wish.subscriptions.len() > 1 {
            self.tally.count("two subscriptions", 1);
        }
        let conversation = TestConversation::new(wish, Vec::new(), Arc::clone(&self.head));
        let principal = Arc::new(Principal::anonymous());
        let id = self.shards[shard].connect(Box::new(conversation), principal, Bytes::new());
        self.peers[at].at = Some((shard, id));
    }

    fn disconnect_one(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let at = self.pick(self.peers.len() as u64) as usize;
        if let Some((shard, id)) = self.peers[at].at.take() {
            self.shards[shard].disconnect(id);
        }
    }

    fn drain_one(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let at = self.pick(self.peers.len() as u64) as usize;
        self.drain(at);
    }

    /// Lets a peer read as much as it does at a time. Returns whether it read anything.
    fn drain(&mut self, at: usize) -> bool {
        let peer = &mut self.peers[at];
        let Some((shard, id)) = peer.at else {
            return false;
        };
        let shard = &mut self.shards[shard];
        let Some(outbox) = shard.outbox(id) else {
            return false;
        };
        let mut left = peer.appetite.min(outbox.bytes());
        let taken = left;
        let frames: Vec<Bytes> = outbox.frames().cloned().collect();
        for frame in frames {
            let part = left.min(frame.len());
            peer.bytes.extend_from_slice(&frame[..part]);
            left -= part;
        }
        outbox.advance(taken);
        shard.drained(id);
        while peer.bytes.len() >= RECORD_BYTES {
            let record = Record::parse(&peer.bytes.split_to(RECORD_BYTES));
            take_record(
                peer,
                record,
                &self.model,
                &mut self.tally,
                self.engine.epoch(),
            );
        }
        taken > 0
    }

    fn change_fault(&mut self) {
        let faults = match self.pick(6) {
            0 => Faults {
                capacity: Some(0),
                ..Faults::default()
            },
            1 => Faults {
                syncs_left: Some(self.pick(10)),
                ..Faults::default()
            },
            _ => Faults::default(),
        };
        self.storage.set_faults(faults);
    }

    fn restart(&mut self) {
        let crash = self.pick(2) == 0;
        if crash {
            let seed = self.pick(u64::MAX);
            self.storage.reboot(seed);
        } else {
            self.storage.kill();
        }
        self.tally.count(if crash { "crash" } else { "kill" }, 1);
        self.storage.set_faults(Faults::default());
        for peer in &mut self.peers {
            peer.at = None;
        }
        self.lose_clients();
        self.lose_workers();
        self.replies.borrow_mut().clear();
        self.in_flight.clear();
        self.model.run += 1;
        let epoch = self.engine.epoch();
        let engine = SimEngine::open(self.config.clone(), &self.storage, &self.clock)
            .expect("a log that crashed opens again");
        self.engine = Arc::new(engine);
        assert_eq!(self.engine.epoch(), epoch, "the epoch is the log's");
        self.compare_log();
        self.start_shards();
    }

    /// After a restart: what was acknowledged is there, and what else is there was published.
    fn compare_log(&mut self) {
        let mut after = Offset::ZERO;
        let mut found = HashSet::new();
        loop {
            let page = self
                .engine
                .look(&ReadRequest {
                    filters: vec![TopicFilter::all()].into(),
                    from: ReadFrom::After {
                        offset: after,
                        resume: false,
                    },
                    messages_max: 100,
                    bytes_max: 1 << 20,
                })
                .expect("the log can be read");
            for message in &page.messages {
                let id = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
                assert!(found.insert(message.offset.0), "twice in the log");
                if let Some(entry) = self.model.committed.get(&message.offset.0) {
                    assert_eq!(entry.id, id);
                    continue;
                }
                let ledgers = &mut self.workshop.ledgers;
                let published = self.unacknowledged.contains_key(&id)
                    || self.wills.is_one(id)
                    || ledgers.is_known(message);
                ledgers.committed(message, self.clock.tick().0, true);
                assert!(published, "never published: {id}");
                self.model
                    .add(message.offset.0, message.topic.clone(), id, message.storage);
            }
            after = page.scanned_to;
            if page.at_head {
                break;
            }
        }
        for offset in self.model.committed.keys() {
            let kept = self.model.is_kept(*offset);
            assert!(
                !kept || found.contains(offset),
                "{offset} was committed and is lost"
            );
        }
        self.head.store(self.engine.head().0, Ordering::Relaxed);
    }

    /// No more faults: everything goes on until nothing moves.
    pub fn settle(&mut self) {
        self.storage.set_faults(Faults::default());
        if matches!(self.engine.health(), EngineHealth::Failed(_)) {
            self.restart();
        }
        for at in 0..self.peers.len() {
            if self.peers[at].at.is_none() {
                self.connect(at);
            }
        }
        let mut quiet = 0;
        for _ in 0..20_000 {
            self.gather_clients();
            self.gather_workers();
            let retry: Vec<u64> = self
                .unacknowledged
                .keys()
                .copied()
                .filter(|id| !self.in_flight.contains(id))
                .collect();
            for id in retry {
                self.submit(id);
            }
            self.commit(100);
            for _ in 0..4 {
                self.read_one();
            }
            self.clock.advance_ms(50);
            for shard in 0..SHARDS {
                self.take_inbox(shard);
                self.shards[shard].tick();
            }
            let mut moved = false;
            for at in 0..self.peers.len() {
                moved |= self.drain(at);
            }
            moved |= self.serve_clients();
            moved |= self.serve_workers();
            self.take_replies();
            let rests = !moved && !self.engine.waits();
            quiet = if rests && self.unacknowledged.is_empty() && self.is_live() {
                quiet + 1
            } else {
                0
            };
            // What was busy is tried again by a timer.
            if quiet > 5 {
                return;
            }
        }
        panic!(
            "the world did not come to rest: waits {}, unacknowledged {}, live {}",
            self.engine.waits(),
            self.unacknowledged.len(),
            self.is_live()
        );
    }

    fn is_live(&self) -> bool {
        self.shards
            .iter()
            .all(|shard| shard.metrics().catching_up.get() == 0)
    }

    pub fn check_end(&mut self) {
        assert!(self.unacknowledged.is_empty());
        for (id, offset) in &self.acknowledged {
            assert_eq!(self.model.committed[&offset.0].id, *id);
        }
        for peer in &self.peers {
            assert!(peer.bytes.is_empty(), "half a record is left");
            if let [view] = &peer.views[..] {
                view.check_end(&self.model);
            }
        }
        self.check_clients();
        self.check_workers();
    }
}

fn note(model: &mut Model, head: &AtomicU64, commit: &Commit) {
    let Some(batch) = &commit.batch else { return };
    for message in &batch.messages {
        let id = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
        assert!(message.offset.0 > model.head(), "out of order in the feed");
        model.add(message.offset.0, message.topic.clone(), id, message.storage);
    }
    head.store(batch.last().0, Ordering::Relaxed);
}

fn take_record(
    peer: &mut Peer,
    record: Record,
    model: &Model,
    tally: &mut Tally,
    epoch: tidings_types::Epoch,
) {
    if let Record::Message { offset, .. } = record {
        tally.count("delivered", 1);
        assert!(
            peer.seen.insert(offset.0),
            "{offset:?} twice on one connection"
        );
        peer.last = Some(Cursor { epoch, offset });
    }
    if let Record::Gap { reason, .. } = record {
        tally.count(
            match reason {
                peer::RETENTION => "gap: retention",
                peer::UNKNOWN => "gap: unknown",
                peer::LIVE_ONLY => "gap: live-only",
                _ => "gap: restart",
            },
            1,
        );
        // What was seen before an unknown position is seen again.
        if reason == peer::UNKNOWN {
            peer.seen.clear();
        }
    }
    if let Record::Subscribed { cursor } = record
        && peer.last.is_none()
    {
        peer.last = Some(cursor);
    }
    if let [view] = &mut peer.views[..] {
        view.take(record, model);
    }
}
