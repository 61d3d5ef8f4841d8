//! Clients whose sessions outlive their connections, and what they must see.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_hub::ConnectionId;
use tidings_hub::shard::Ended;
use tidings_ports::{Engine, Expiry, Will};
use tidings_types::{Draft, Principal, Topic, TopicFilter};

use super::super::model::Model;
use super::super::peer::RECORD_BYTES;
use super::super::session::{Line, Manner, SessionConversation, will};
use super::{FILTER_CHOICES, SHARDS, Tally, World};

const CLIENTS_MAX: usize = 5;
/// Sessions that may end by themselves end after this.
const SHORT_MS: u64 = 100;

/// Wills by the number in their payload.
#[derive(Default)]
pub struct Wills {
    all: BTreeSet<u64>,
    /// Those that must be published by the end.
    expected: BTreeSet<u64>,
}

impl Wills {
    pub fn is_one(&self, id: u64) -> bool {
        self.all.contains(&id)
    }
}

/// A read of everything that is kept, beside the session's own subscription.
struct History {
    filter: TopicFilter,
    /// The head when it began.
    head: u64,
    seen: BTreeSet<u64>,
}

pub struct Client {
    name: ByteString,
    filters: Vec<TopicFilter>,
    expiry: Expiry,
    at: Option<(usize, ConnectionId)>,
    /// Connections that another one took the session from.
    old: Vec<(usize, ConnectionId)>,
    bytes: BytesMut,
    appetite: usize,
    /// What it was told that it gets, and after which position.
    wants: Vec<(TopicFilter, u64)>,
    asked: Vec<TopicFilter>,
    /// Which of its connections began the session.
    birth: u64,
    /// Whether it waits for the answer to an alteration.
    altering: bool,
    /// Whether the server said that this connection's session is kept.
    is_kept: bool,
    seen: BTreeSet<u64>,
    newest: u64,
    unacknowledged: Vec<u64>,
    extras: u64,
    histories: BTreeMap<u64, History>,
    /// Of this connection.
    will: Option<(u64, Will)>,
}

impl Client {
    fn new(number: usize, filters: Vec<TopicFilter>, expiry: Expiry, appetite: usize) -> Self {
        Self {
            name: ByteString::from(format!("test/{number}")),
            asked: filters.clone(),
            filters,
            expiry,
            at: None,
            old: Vec::new(),
            bytes: BytesMut::new(),
            appetite,
            wants: Vec::new(),
            birth: 0,
            altering: false,
            is_kept: false,
            seen: BTreeSet::new(),
            newest: 0,
            unacknowledged: Vec::new(),
            extras: 0,
            histories: BTreeMap::new(),
            will: None,
        }
    }

    /// Its connection is gone.
    fn lost(&mut self) {
        self.at = None;
        self.bytes.clear();
        self.unacknowledged.clear();
        self.histories.clear();
        self.extras = 0;
        self.altering = false;
        self.is_kept = false;
    }

    fn take(&mut self, line: Line, model: &Model, tally: &mut Tally) {
        let Line(kind, a, b, c) = line;
        match kind {
            b'O' if a == 1 => tally.count("session resumed", 1),
            b'O' => {}
            b'K' => {
                self.is_kept = true;
                if self.birth != b {
                    // Perhaps it never heard that the session was a new one.
                    self.begin(tally);
                    self.birth = b;
                }
                if self.wants.is_empty() {
                    let filters = self.filters.iter().cloned();
                    self.wants = filters.map(|filter| (filter, a)).collect();
                }
            }
            b'M' => {
                self.check(a, b, model);
                assert!(a > self.newest, "{a} is new after {}", self.newest);
                assert!(
                    self.seen.insert(a),
                    "{a} was seen, and is not said to be sent again"
                );
                self.newest = a;
                self.unacknowledged.push(c);
            }
            b'R' => {
                self.check(a, b, model);
                tally.count("sent again", 1);
                self.seen.insert(a);
                self.newest = self.newest.max(a);
                self.unacknowledged.push(c);
            }
            b'B' | b'b' => {
                tally.count("altered", 1);
                self.altering = false;
                let filter = choice(a);
                if kind == b'B' && self.wants.iter().all(|(known, _)| *known != filter) {
                    self.wants.push((filter, b));
                }
            }
            b'H' => {
                let history = self.histories.get_mut(&a).expect("nothing after its end");
                let entry = &model.committed[&b];
                assert_eq!(entry.id, c);
                assert!(history.filter.matches(&entry.topic));
                assert!(history.seen.last().is_none_or(|last| *last < b));
                history.seen.insert(b);
            }
            b'E' => {
                tally.count("caught up and gone", 1);
                let history = self.histories.remove(&a).expect("it ends once");
                for (offset, entry) in model.committed.range(..=history.head) {
                    let wanted = history.filter.matches(&entry.topic) && model.is_kept(*offset);
                    let seen = history.seen.contains(offset);
                    assert!(
                        !wanted || seen,
                        "{offset} is missing in {:?}",
                        history.filter
                    );
                }
            }
            other => panic!("the stream is out of step: {other}"),
        }
    }

    /// The server knows no session of this name.
    fn begin(&mut self, tally: &mut Tally) {
        if !self.wants.is_empty() {
            assert_ne!(self.expiry, Expiry::Never, "the session is lost");
            tally.count("session expired", 1);
        }
        self.wants.clear();
        self.seen.clear();
        self.newest = 0;
    }

    fn check(&self, offset: u64, id: u64, model: &Model) {
        let entry = model.committed.get(&offset).expect("never committed");
        assert_eq!(entry.id, id, "the wrong message at {offset}");
        let asked = self.asked.iter().any(|filter| filter.matches(&entry.topic));
        assert!(asked, "{:?} does not match", entry.topic);
    }

    fn check_end(&self, model: &Model) {
        assert!(self.bytes.is_empty(), "half a line is left");
        for (filter, since) in &self.wants {
            for (offset, entry) in model.committed.range(since + 1..) {
                if filter.matches(&entry.topic) && model.is_kept(*offset) {
                    assert!(
                        self.seen.contains(offset),
                        "{offset} ({:?}) is missing for {}, {filter:?} since {since}",
                        entry.topic,
                        self.name
                    );
                }
            }
        }
        assert!(self.histories.is_empty(), "a read never ended");
    }
}

fn choice(number: u64) -> TopicFilter {
    TopicFilter::new(FILTER_CHOICES[number as usize]).unwrap()
}

impl World {
    pub(super) fn step_client(&mut self) {
        if self.clients.is_empty() || (self.clients.len() < CLIENTS_MAX && self.pick(8) == 0) {
            return self.add_client();
        }
        let at = self.pick(self.clients.len() as u64) as usize;
        if self.clients[at].at.is_none() {
            if self.pick(3) == 0 {
                self.connect_client(at);
            }
            return;
        }
        match self.pick(40) {
            0..24 => {
                self.serve_client(at);
            }
            24 => self.connect_client(at),
            25..27 => self.close_client(at),
            27 => {
                if self.clients[at].is_kept {
                    self.clients[at].will = None;
                    self.send(at, Line(b'D', 0, 0, 0));
                }
            }
            28..32 => self.alter_client(at),
            32..34 => self.read_history(at),
            _ => self.acknowledge(at),
        }
    }

    fn add_client(&mut self) {
        let filters = vec![choice(self.pick(FILTER_CHOICES.len() as u64))];
        let expiry = if self.pick(4) == 0 {
            Expiry::After(std::time::Duration::from_millis(SHORT_MS))
        } else {
            Expiry::Never
        };
        let appetite = [RECORD_BYTES, RECORD_BYTES * 8][self.pick(2) as usize];
        let client = Client::new(self.clients.len(), filters, expiry, appetite);
        self.clients.push(client);
        self.connect_client(self.clients.len() - 1);
    }

    /// Connects a client, perhaps while the server thinks that it still is.
    fn connect_client(&mut self, at: usize) {
        self.expect_will(at);
        let old = self.clients[at].at;
        self.clients[at].old.extend(old);
        self.clients[at].lost();
        self.clients[at].will = (self.pick(3) > 0).then(|| {
            self.next_id += 1;
            let id = self.next_id;
            self.wills.all.insert(id);
            let topic = Topic::new("d/a").unwrap();
            let draft = Draft::new(topic, Bytes::copy_from_slice(&id.to_be_bytes()));
            (id, will(draft, 200 * self.pick(2)))
        });
        self.next_id += 1;
        let birth = self.next_id;
        let client = &self.clients[at];
        let manner = Manner {
            name: client.name.clone(),
            filters: client.filters.clone(),
            will: client.will.as_ref().map(|(_, will)| will.clone()),
            expiry: client.expiry,
            epoch: self.engine.epoch(),
            birth,
        };
        let shard = tidings_hub::home_shard(&client.name, SHARDS);
        let conversation = Box::new(SessionConversation::new(manner));
        let principal = std::sync::Arc::new(Principal::anonymous());
        let id = self.shards[shard].connect(conversation, principal, Bytes::new());
        self.clients[at].at = Some((shard, id));
    }

    fn close_client(&mut self, at: usize) {
        self.expect_will(at);
        if let Some((shard, id)) = self.clients[at].at {
            self.shards[shard].disconnect(id);
        }
        self.clients[at].lost();
    }

    /// A connection ends without a goodbye: if its will was kept and waits for nothing, it is published.
    fn expect_will(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.at.is_some()
            && client.is_kept
            && let Some((id, will)) = client.will.take()
            && will.delay.is_zero()
        {
            self.wills.expected.insert(id);
            self.tally.count("will expected", 1);
        }
    }

    fn send(&mut self, at: usize, line: Line) {
        if let Some((shard, id)) = self.clients[at].at {
            let mut input = BytesMut::from(&line.bytes()[..]);
            self.shards[shard].receive(id, &mut input);
        }
    }

    fn acknowledge(&mut self, at: usize) {
        let unacknowledged = std::mem::take(&mut self.clients[at].unacknowledged);
        for number in unacknowledged {
            self.send(at, Line(b'A', number, 0, 0));
        }
    }

    fn alter_client(&mut self, at: usize) {
        let number = self.pick(FILTER_CHOICES.len() as u64);
        let adds = self.pick(2) == 0;
        let client = &mut self.clients[at];
        if client.altering || !client.is_kept {
            return;
        }
        client.altering = true;
        let filter = choice(number);
        if adds {
            client.asked.push(filter);
        } else {
            client.wants.retain(|(known, _)| *known != filter);
        }
        if client.wants.is_empty() {
            // It would look like a new one.
            client.wants.push((filter_of_nothing(), 0));
        }
        self.send(at, Line(if adds { b'+' } else { b'-' }, number, 0, 0));
    }

    fn read_history(&mut self, at: usize) {
        let number = self.pick(FILTER_CHOICES.len() as u64);
        let head = self.model.head();
        let client = &mut self.clients[at];
        if !client.is_kept {
            return;
        }
        client.extras += 1;
        let history = History {
            filter: choice(number),
            head,
            seen: BTreeSet::new(),
        };
        client.histories.insert(client.extras, history);
        self.send(at, Line(b'H', number, 0, 0));
    }

    /// Lets a client read as much as it does at a time. Returns whether it read anything.
    fn serve_client(&mut self, at: usize) -> bool {
        self.bury_old(at);
        let client = &mut self.clients[at];
        let Some((shard, id)) = client.at else {
            return false;
        };
        let shard = &mut self.shards[shard];
        let outbox = shard.outbox(id).expect("it is open");
        let mut left = client.appetite.min(outbox.bytes());
        let taken = left;
        let frames: Vec<Bytes> = outbox.frames().cloned().collect();
        for frame in frames {
            let part = left.min(frame.len());
            client.bytes.extend_from_slice(&frame[..part]);
            left -= part;
        }
        outbox.advance(taken);
        let is_over = match shard.ended(id) {
            Ended::No => false,
            Ended::AfterFlush => outbox_is_empty(shard, id),
            Ended::AtOnce => true,
        };
        shard.drained(id);
        while client.bytes.len() >= RECORD_BYTES {
            let line = Line::parse(&client.bytes.split_to(RECORD_BYTES));
            client.take(line, &self.model, &mut self.tally);
        }
        if is_over {
            self.close_client(at);
        }
        taken > 0
    }

    /// The server closes sockets whose conversation is over.
    fn bury_old(&mut self, at: usize) {
        for (shard, id) in std::mem::take(&mut self.clients[at].old) {
            self.shards[shard].disconnect(id);
        }
    }

    pub(super) fn gather_clients(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].at.is_none() {
                self.connect_client(at);
            }
        }
    }

    pub(super) fn serve_clients(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.clients.len() {
            moved |= self.serve_client(at);
            self.acknowledge(at);
        }
        moved
    }

    /// The server died.
    pub(super) fn lose_clients(&mut self) {
        // A will that was due may be overtaken by its session's next connection.
        self.wills.expected.clear();
        for client in &mut self.clients {
            client.lost();
            client.old.clear();
            client.will = None;
        }
    }

    pub(super) fn check_clients(&self) {
        for client in &self.clients {
            client.check_end(&self.model);
        }
        for id in &self.wills.expected {
            let published = self.model.committed.values().any(|entry| entry.id == *id);
            assert!(published, "will {id} was not published");
        }
    }
}

fn outbox_is_empty(shard: &mut tidings_hub::Shard, id: ConnectionId) -> bool {
    shard.outbox(id).is_none_or(|outbox| outbox.is_empty())
}

fn filter_of_nothing() -> TopicFilter {
    TopicFilter::new("nothing").unwrap()
}
