//! One core's connections, outboxes and subscriptions.
//!
//! Whoever drives a shard calls [`Shard::connect`], [`Shard::receive`], [`Shard::drained`], [`Shard::tick`] and
//! [`Shard::take_inbox`], and after each of them writes out the outboxes that [`Shard::take_dirty`] names.
//! Nothing here blocks, and nothing here knows what a socket is.

mod catchup;
mod commands;
mod connection;
mod fanout;
mod handout;
mod history;
mod identity;
mod keeping;
mod letters;
mod members;
mod metering;
mod pages;
mod pending;
mod petitions;
mod publish;
mod queues;
mod recheck;
mod runs;
mod sessions;
mod subscribe;
mod subscription;
mod verdicts;
mod wills;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use slab::Slab;
use tidings_ports::{
    Answer, Authenticator, Clock, Command, Conversation, Engine, Event, Permitter, Start, Tick,
};
use tidings_types::{Limits, Offset, Origin, Refusal, RefusalCode, Topic};

use connection::{Connection, Input};
pub use connection::{ConnectionId, Ended, Peer};
pub use identity::{Renewal, RenewalOutcome};
use pending::{DueWill, Pending};
pub use pending::{PublishReply, ReadReply};
pub(crate) use recheck::Recheck;
pub(crate) use subscription::SubscriptionId;
use subscription::{Formats, Source, Subscription};
use verdicts::Awaited;

use crate::inbox::{Inbox, Inboxes, Note};
use crate::meter::Meters;
use crate::metrics::{Metrics, SharedMetrics};
use crate::outbox::Outbox;
use crate::queue::{self, Queues, Transaction};
use crate::session::{self, Sessions};
use crate::states::States;
use crate::tail::Tail;
use crate::trie::{Entry, Trie};
use crate::wheel::Wheel;

/// How long a shard whose reads were all refused waits before it asks again.
const READ_RETRY_MS: u64 = 20;
/// Pages of the log that are carried out before the shard's other work gets its turn.
const PAGES_A_TURN: usize = 4;

/// What a shard is made of.
pub struct ShardConfig {
    /// Its number, from 0.
    pub index: usize,
    /// The log.
    pub engine: Arc<dyn Engine>,
    /// Everybody's inboxes; its own has its number.
    pub inboxes: Arc<Inboxes>,
    /// What the engine kept of the sessions and queues whose home it is: see [`crate::states_by_home`].
    pub states: Vec<(ByteString, Bytes)>,
    /// The head of the log when the inbox was empty: everything after it comes, or has come, through the inbox.
    pub head: Offset,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The limits.
    pub limits: Arc<Limits>,
    /// Who finds out who a peer is.
    pub authenticator: Arc<dyn Authenticator>,
    /// What identities may take.
    pub meters: Arc<Meters>,
    /// How long before its credential ends a peer is told, or half of its time if that is less; 0 is never.
    pub expiry_notice_ms: u64,
    /// Who says what grants do not.
    pub permitter: Arc<dyn Permitter>,
    /// Where messages go that work queues give up, each under its own topic; `None` drops them.
    pub dead_letter: Option<Topic>,
    /// Its own numbers.
    pub metrics: Arc<Metrics>,
    /// The numbers of all.
    pub shared: Arc<SharedMetrics>,
    /// Draws origins and jitter; differs between processes and shards.
    pub seed: u64,
}

/// One core's part of the hub.
pub struct Shard {
    index: usize,
    engine: Arc<dyn Engine>,
    inbox: Arc<Inbox>,
    inboxes: Arc<Inboxes>,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
    authenticator: Arc<dyn Authenticator>,
    meters: Arc<Meters>,
    expiry_notice_ms: u64,
    permitter: Arc<dyn Permitter>,
    dead_letter: Option<Topic>,
    metrics: Arc<Metrics>,
    shared: Arc<SharedMetrics>,
    /// State of a small generator (splitmix64); never the same output twice in a row.
    random: u64,
    connections: Slab<Connection>,
    subscriptions: Slab<Subscription>,
    serial: u32,
    trie: Trie,
    tail: Tail,
    wheel: Wheel<ConnectionId>,
    formats: Formats,
    pending: Pending,
    /// Subscriptions that wait for a free read.
    read_queue: VecDeque<subscription::SubscriptionId>,
    /// Subscriptions whose scan of the tail was put off, for the sake of the others on this shard.
    scans: VecDeque<subscription::SubscriptionId>,
    /// Subscriptions that end with what the feed is still to bring.
    awaiting_feed: Vec<subscription::SubscriptionId>,
    /// How many filters may still be tried on messages of the tail in this turn.
    scan_left: usize,
    /// Connections whose outbox or state changed since they were last taken.
    dirty: Vec<ConnectionId>,
    /// Connections whose conversation kept a message and is to be told that the others are through.
    held: Vec<ConnectionId>,
    sessions: Sessions,
    queues: Queues,
    /// How often a queue of this shard got its first member.
    sittings: u64,
    /// Verdicts of this shard's members that somebody waits for.
    awaited: Slab<Awaited>,
    transactions: Slab<Transaction>,
    /// How many there were.
    transaction_number: u64,
    /// What this shard's queues and members have for each other.
    own_notes: VecDeque<Note>,
    /// What of them, and of the queues, is to be written.
    states: States,
    /// Wills that are to be published.
    due_wills: VecDeque<DueWill>,
    /// Set while the log has no room for them: when to try again.
    wills_retry_at: Option<Tick>,
    /// Commands that conversations gave and that are not yet carried out.
    commands: VecDeque<(ConnectionId, Command)>,
    /// Set while it is asked again who the peers are.
    rechecking: Option<recheck::Rechecking>,
    /// Pages that were read and are not yet carried out: what is live goes first.
    pages: VecDeque<(u64, Answer)>,
    /// Scratch, kept for its memory.
    notes: VecDeque<Note>,
    matched: Vec<Entry>,
    due: Vec<(Tick, ConnectionId)>,
    own_frames: Vec<Bytes>,
    dropped: commands::DroppedLog,
}

impl Shard {
    /// A shard without connections, at the head of the log.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let scan_left = config.limits.tail_scan_max;
        let mut shard = Self {
            index: config.index,
            tail: Tail::new(config.head, config.limits.tail_bytes_max),
            wheel: Wheel::new(config.clock.tick()),
            engine: config.engine,
            inbox: config.inboxes.of(config.index),
            inboxes: config.inboxes,
            clock: config.clock,
            limits: config.limits,
            authenticator: config.authenticator,
            meters: config.meters,
            expiry_notice_ms: config.expiry_notice_ms,
            permitter: config.permitter,
            dead_letter: config.dead_letter,
            metrics: config.metrics,
            shared: config.shared,
            random: config.seed,
            connections: Slab::new(),
            subscriptions: Slab::new(),
            serial: 0,
            trie: Trie::default(),
            formats: Formats::default(),
            pending: Pending::default(),
            read_queue: VecDeque::new(),
            scans: VecDeque::new(),
            awaiting_feed: Vec::new(),
            scan_left,
            dirty: Vec::new(),
            held: Vec::new(),
            sessions: Sessions::default(),
            queues: Queues::default(),
            sittings: 0,
            awaited: Slab::new(),
            transactions: Slab::new(),
            transaction_number: 0,
            own_notes: VecDeque::new(),
            states: States::default(),
            due_wills: VecDeque::new(),
            wills_retry_at: None,
            commands: VecDeque::new(),
            rechecking: None,
            pages: VecDeque::new(),
            notes: VecDeque::new(),
            matched: Vec::new(),
            due: Vec::new(),
            own_frames: Vec::new(),
            dropped: commands::DroppedLog::default(),
        };
        for (name, value) in config.states {
            shard.restore(name, &value);
        }
        shard
    }

    fn restore(&mut self, name: ByteString, value: &Bytes) {
        if session::is_session(&name) {
            self.restore_session(name, value);
        } else if queue::is_queue(&name) {
            self.restore_queue(name, value);
        }
    }

    /// What [`Shard::connect`] calls the next connection.
    #[must_use]
    pub fn next_connection(&self) -> ConnectionId {
        ConnectionId {
            index: self.connections.vacant_key() as u32,
            // Zero is nobody's.
            serial: self.serial.wrapping_add(1).max(1),
        }
    }

    /// Opens a connection and lets its conversation begin. `head` goes out before anything else: the response
    /// head of a stream, the answer to an upgrade.
    pub fn connect(
        &mut self,
        conversation: Box<dyn Conversation>,
        peer: impl Into<Peer>,
        head: Bytes,
    ) -> ConnectionId {
        let peer = peer.into();
        let seat = self
            .meters
            .sit(&peer.principal, peer.address, self.clock.tick());
        let id = self.next_connection();
        self.serial = id.serial;
        let origin = Origin(self.next_random());
        let counts = &self.metrics.protocols[conversation.protocol().index()];
        counts.connections.add(1);
        counts.connections_total.add(1);
        let connection =
            self.connections
                .vacant_entry()
                .insert(Connection::new(id, conversation, peer, origin));
        if !head.is_empty() {
            connection.outbox.push(head);
            connection.dirty = true;
            self.dirty.push(id);
        }
        self.begin_term(id);
        self.converse(id, Conversation::opened);
        self.take_seat(id, seat);
        // Since it was found out who the peer is, that may have been revoked.
        self.recheck(id);
        self.settle();
        id
    }

    /// Passes what the peer sent to its conversation. An unfinished rest stays in `input`.
    pub fn receive(&mut self, id: ConnectionId, input: &mut BytesMut) {
        self.scan_left = self.limits.tail_scan_max;
        self.converse(id, |conversation, turn| conversation.receive(input, turn));
        self.settle();
    }

    /// The peer sent its last byte.
    pub fn peer_finished(&mut self, id: ConnectionId) {
        self.tell(id, Event::PeerFinished);
        self.settle();
    }

    /// Forgets a connection: its socket is closed.
    pub fn disconnect(&mut self, id: ConnectionId) {
        if self.connection(id).is_none() {
            return;
        }
        self.tell_closed(id);
        // Only its own: what it saves at last is written once, together with that it is gone.
        self.settle_one(id);
        let connection = self.connections.remove(id.index as usize);
        if let Some(session) = connection.session {
            self.leave_session(session);
        }
        self.metrics.protocols[connection.protocol.index()]
            .connections
            .sub(1);
        for subscription in connection.subscriptions {
            self.remove_subscription(subscription);
        }
        self.start_reads();
        self.settle();
    }

    /// Forgets all connections, and hands what is still to be written to the log: the server ends.
    pub fn close(&mut self) {
        let open: Vec<ConnectionId> = self.connections().collect();
        for id in open {
            self.disconnect(id);
        }
        self.close_queues();
        self.states.hurry();
        self.write_states();
    }

    /// Says goodbye to a connection: at the end of its conversation's farewell it ends by itself.
    pub fn drain(
        &mut self,
        id: ConnectionId,
        reconnect_after: std::time::Duration,
        refusal: Refusal,
    ) {
        self.tell(
            id,
            Event::Drain {
                reconnect_after,
                refusal,
            },
        );
        self.settle();
    }

    /// The connections that are open.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.iter().map(|(_, connection)| connection.id)
    }

    /// What waits for a peer.
    pub fn outbox(&mut self, id: ConnectionId) -> Option<&mut Outbox> {
        self.connection(id).map(|connection| &mut connection.outbox)
    }

    /// Lets subscriptions that waited for room in the outbox go on. Call it after each write that made room.
    pub fn drained(&mut self, id: ConnectionId) {
        let low_water = self.limits.outbox_bytes_max / 2;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let ended = connection.ended != Ended::No;
        if ended || connection.outbox.cost() > low_water || connection.blocked == 0 {
            return;
        }
        // One that goes on may end by that.
        for subscription in connection.subscriptions.clone() {
            self.resume(subscription, Source::Blocked);
        }
        self.settle();
    }

    /// Whether the peer's bytes should be read now. While its outbox is full, or too many of its publishes
    /// wait, they stay in the kernel, and TCP slows the peer down.
    pub fn wants_input(&mut self, id: ConnectionId) -> bool {
        let bytes_max = self.limits.outbox_bytes_max;
        let publishes_max = self.limits.publishes_in_flight_max;
        let Some(connection) = self.connection(id) else {
            return false;
        };
        let wants = connection.ended == Ended::No
            && connection.outbox.cost() < bytes_max
            && connection.in_flight < publishes_max
            && connection.unidentified.is_none();
        if !wants {
            connection.input = Input::Paused;
        }
        wants
    }

    /// Whether, and how, the conversation ended the connection.
    pub fn ended(&self, id: ConnectionId) -> Ended {
        match self.connections.get(id.index as usize) {
            // What it asked for before its farewell is still found out about.
            Some(connection) if connection.id == id && connection.is_petitioning() => {
                match connection.ended {
                    Ended::AfterFlush => Ended::No,
                    ended => ended,
                }
            }
            Some(connection) if connection.id == id => connection.ended,
            _ => Ended::AtOnce,
        }
    }

    /// The conversation of a connection, if it is of this type.
    pub fn conversation<C: Conversation>(&mut self, id: ConnectionId) -> Option<&mut C> {
        let conversation: &mut dyn std::any::Any = &mut *self.connection(id)?.conversation;
        conversation.downcast_mut()
    }

    /// The connections that need a look: bytes to write, or an end.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnectionId>) {
        debug_assert!(into.is_empty());
        std::mem::swap(into, &mut self.dirty);
        for id in into.iter() {
            if let Some(connection) = self.connection(*id) {
                connection.dirty = false;
            }
        }
    }

    /// Whether something waits in the inbox. Who has much else to do looks here in between, so that what is
    /// live does not wait for it.
    pub fn has_arrivals(&self) -> bool {
        self.inbox.is_waiting()
    }

    /// Carries out what waits in the inbox: all that is live, and some of the pages that were read.
    pub fn take_inbox(&mut self) {
        self.scan_left = self.limits.tail_scan_max;
        let mut notes = std::mem::take(&mut self.notes);
        self.inbox.take(&mut notes);
        for note in notes.drain(..) {
            match note {
                Note::Answer(token, answer @ Answer::Read(_)) => {
                    self.pages.push_back((token, answer));
                }
                note => self.take_note(note),
            }
        }
        self.notes = notes;
        for _ in 0..PAGES_A_TURN {
            let Some((token, page)) = self.pages.pop_front() else {
                break;
            };
            self.answered(token, page);
        }
        if !self.pages.is_empty() {
            self.inbox.call();
        }
        self.go_on_rechecking();
        self.feed_advanced();
        self.resume_scans();
        self.settle();
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Batch(batch) => self.fan_out(batch),
            Note::Lagged(lagged) => self.fall_behind(&lagged),
            Note::Answer(token, answer) => self.answered(token, answer),
            Note::Request(key, member, request) => self.requested(&key, member, request),
            Note::Told(subscription, told) => self.told(subscription, told),
            Note::Settled(token, settled) => self.settled(token, settled),
            Note::GivenBack {
                queue,
                member,
                told,
                message,
            } => self.given_back(queue, (member, told), message),
            Note::Identified(id, tag, outcome) => self.identified(id, tag, outcome),
            Note::Recheck(recheck) => self.recheck_all(recheck),
            Note::Renew(id, renewal) => self.renewed(id, renewal),
            Note::Permitted(id, number, permission) => self.permitted(id, number, permission),
            Note::Repermitted(id, subscription, permission) => {
                self.repermitted(id, subscription, permission);
            }
        }
    }

    /// Fires the timers that are due.
    pub fn tick(&mut self) {
        let now = self.clock.tick();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.turn(now, &mut due);
        for (deadline, id) in due.drain(..) {
            let Some(connection) = self.connection(id) else {
                continue;
            };
            // An entry that a shorter one replaced is void.
            if connection.scheduled != Some(deadline) {
                continue;
            }
            connection.scheduled = None;
            match connection.wake {
                Some(wake) if wake <= now => {
                    connection.wake = None;
                    // Nobody may have asked since it became so.
                    self.wants_input(id);
                    self.converse(id, Conversation::tick);
                    if self.wants_input(id)
                        && let Some(connection) = self.connection(id)
                    {
                        connection.input = Input::Read;
                    }
                }
                Some(later) => {
                    connection.scheduled = Some(later);
                    self.wheel.set(later, id);
                }
                None => {}
            }
            self.end_if_over(id);
        }
        self.due = due;
        self.meters.tick(now);
        self.tick_sessions(now);
        self.tick_queues(now);
        self.start_reads();
        self.settle();
    }

    /// When [`Shard::tick`] is needed next.
    pub fn next_tick(&self) -> Option<Tick> {
        let timers = [
            self.wheel.next(),
            self.sessions_next_tick(),
            self.queues.next_due(),
        ];
        let timers = timers.into_iter().flatten().min();
        if self.read_queue.is_empty() || self.pending.reads > 0 {
            return timers;
        }
        // The log was busy with the reads of others, so no answer of our own will bring us back.
        let retry = self.clock.tick().plus_ms(READ_RETRY_MS);
        Some(timers.map_or(retry, |timers| timers.min(retry)))
    }

    /// The limits.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The log.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// This shard's numbers.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A number that nobody can tell in advance without the seed.
    pub fn next_random(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections
            .get_mut(id.index as usize)
            .filter(|connection| connection.id == id)
    }

    fn mark_dirty(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
    }

    fn refused(&self, code: RefusalCode) {
        self.shared.refused(code);
    }

    /// Where a start lies, and whether the peer's position was unknown.
    fn locate(&self, start: &Start) -> (Offset, bool) {
        let (epoch, head) = (self.engine.epoch(), self.engine.head());
        match start {
            Start::Latest | Start::Retained => (head, false),
            Start::Earliest | Start::Last(_) => (Offset::ZERO, false),
            Start::After(cursor) if cursor.epoch == epoch && cursor.offset <= head => {
                (cursor.offset, false)
            }
            Start::After(_) | Start::Unknown => (Offset::ZERO, true),
        }
    }
}
