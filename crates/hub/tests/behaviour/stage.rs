//! A hub on a stage: the log, two shards, and puppets whose every line the test says.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_hub::meter::Meters;
use tidings_hub::{
    ConnectionId, Inboxes, Metrics, Shard, ShardConfig, SharedMetrics, home_shard, states_by_home,
};
use tidings_log::LogConfig;
use tidings_log::storage::{Faults, SimStorage, Storage as _};
use tidings_ports::{
    Attempt, Authenticator, Credential, Granted, Outcome, Permission, Permitter, Petition, Standing,
};
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Engine, Event, Expiry, Framed, Framing, ManualClock,
    SessionSave, Start, SubscriptionKey, Tag, Tick, Turn, Until, Will,
};
use tidings_types::{
    Cursor, Draft, FrameFormat, Limits, Message, Offset, Origin, Principal, Protocol, Refusal,
    RefusalCode, Retention, RetentionRules, Storage, Timestamp, Topic, TopicFilter,
};

use super::engine::SimEngine;

pub const SHARDS: usize = 2;

/// What a puppet heard, in words that compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Subscribed(u64, u64),
    Unsubscribed,
    Published(u64),
    Refused(u64, &'static str),
    Message {
        key: u32,
        topic: String,
        retained: bool,
        own: bool,
        redelivered: u32,
    },
    CaughtUp(u32),
    Gap,
    Lost,
    Session(Option<String>),
    Saved(u64),
    Authenticated(u64),
    Expiring(Duration),
    Settled(u64),
    TakenOver,
    Closed,
    Held,
    Other,
}

/// A message, as a puppet hears it when nothing is special about it.
pub fn message(key: u32, topic: &str) -> Heard {
    Heard::Message {
        key,
        topic: topic.to_owned(),
        retained: false,
        own: false,
        redelivered: 0,
    }
}

/// What a puppet knows and is told to do; shared with the test.
#[derive(Default)]
pub struct Mind {
    pub heard: Vec<Heard>,
    pub offsets: Vec<Offset>,
    pub cursors: Vec<Cursor>,
    pub origins: Vec<Origin>,
    /// How it judges the next messages; then `Put`.
    pub judges: VecDeque<Framed>,
    /// How long after what it is sent it is to be woken.
    pub wake_ms: Option<u64>,
    /// What it was told, each time, of whether its peer's bytes were left unread.
    pub was_slow: Vec<bool>,
    /// What it asks for when it hears an event of this kind.
    pub answers: BTreeMap<&'static str, Vec<Command>>,
}

pub type Shared = Rc<RefCell<Mind>>;

struct Puppet {
    mind: Shared,
    next: Rc<RefCell<Vec<Command>>>,
    wants_each: bool,
}

impl Puppet {
    fn wake_from(&self, turn: &Turn<'_>) -> Option<Tick> {
        let wake_ms = self.mind.borrow().wake_ms;
        wake_ms.map(|wake_ms| turn.now.plus_ms(wake_ms))
    }
}

impl Conversation for Puppet {
    fn wants_each(&self) -> bool {
        self.wants_each
    }

    fn protocol(&self) -> Protocol {
        Protocol::Tidings
    }

    fn opened(&mut self, _turn: &mut Turn<'_>) {}

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        input.clear();
        turn.commands.append(&mut self.next.borrow_mut());
        turn.wake = self.wake_from(turn);
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        let mut mind = self.mind.borrow_mut();
        let (heard, kind) = match event {
            Event::Subscribed { tag, cursor, .. } => {
                mind.cursors.push(cursor);
                (Heard::Subscribed(tag.0, cursor.offset.0), "")
            }
            Event::Unsubscribed { .. } => (Heard::Unsubscribed, ""),
            Event::Published { tag, .. } => (Heard::Published(tag.0), ""),
            Event::Refused { tag, refusal } => (Heard::Refused(tag.0, refusal.code.slug()), ""),
            Event::CaughtUp { key } => (Heard::CaughtUp(key.0), ""),
            Event::Gap { .. } => (Heard::Gap, "gap"),
            Event::Lost { .. } => (Heard::Lost, ""),
            Event::Session { state, .. } => {
                let text = state.map(|state| String::from_utf8(state.to_vec()).unwrap());
                (Heard::Session(text), "session")
            }
            Event::Authenticated { tag, .. } => (Heard::Authenticated(tag.0), ""),
            Event::Expiring { left } => (Heard::Expiring(left), ""),
            Event::Settled { tag } => (Heard::Settled(tag.0), ""),
            Event::Saved { tag } => (Heard::Saved(tag.0), ""),
            Event::TakenOver => (Heard::TakenOver, "taken over"),
            Event::Closed => (Heard::Closed, "closed"),
            Event::Held => (Heard::Held, "held"),
            Event::Drain { .. } | Event::PeerFinished => {
                turn.ending = Some(Ending::AfterFlush);
                (Heard::Other, "")
            }
        };
        mind.heard.push(heard);
        if let Some(commands) = mind.answers.remove(kind) {
            turn.commands.extend(commands);
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.mind.borrow_mut().was_slow.push(turn.is_slow);
        turn.wake = self.wake_from(turn);
    }

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        let mut mind = self.mind.borrow_mut();
        let framed = mind.judges.pop_front().unwrap_or(Framed::Put);
        if matches!(framed, Framed::Put | Framed::Held) {
            mind.offsets.push(delivery.message.offset);
            mind.origins.push(delivery.message.origin);
            mind.heard.push(Heard::Message {
                key: delivery.key.0,
                topic: delivery.message.topic.as_str().to_owned(),
                retained: delivery.retained,
                own: delivery.own,
                redelivered: delivery.redelivered,
            });
        }
        if framed == Framed::Put {
            frames.push(Bytes::from_static(b"frame;"));
        }
        framed
    }
}

/// A format that shares text, and leaves everything else to the conversation.
pub struct TextOnly;

impl FrameFormat for TextOnly {
    fn id(&self) -> &'static str {
        "test/text"
    }

    fn is_shared(&self, message: &Message) -> bool {
        message.text().is_some()
    }

    fn encode(&self, message: &Message) -> Bytes {
        message.payload.clone()
    }
}

/// One peer on the stage.
pub struct Peer {
    pub shard: usize,
    pub id: ConnectionId,
    mind: Shared,
    next: Rc<RefCell<Vec<Command>>>,
}

impl Peer {
    /// What it heard since it was last asked.
    pub fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.mind.borrow_mut().heard)
    }

    /// The first of it.
    pub fn heard_first(&self) -> Heard {
        self.mind.borrow_mut().heard.remove(0)
    }

    pub fn mind(&self) -> std::cell::RefMut<'_, Mind> {
        self.mind.borrow_mut()
    }
}

pub struct Stage {
    pub clock: Arc<ManualClock>,
    pub engine: Arc<SimEngine>,
    pub shards: Vec<Shard>,
    pub limits: Arc<Limits>,
    storage: SimStorage,
    config: LogConfig,
    inboxes: Arc<Inboxes>,
    pub principal: Arc<Principal>,
    porter: Arc<Porter>,
    /// Asked from when on `asks` is set.
    pub clerk: Arc<Clerk>,
}

/// Says nothing until it is told to.
#[derive(Default)]
struct Porter {
    outcomes: Mutex<Vec<Outcome>>,
    /// Names that are revoked, or may do something else now.
    changed: Mutex<BTreeMap<String, Option<tidings_types::Grants>>>,
}

impl Authenticator for Porter {
    fn authenticate(&self, _attempt: Attempt, outcome: Outcome) {
        self.outcomes.lock().unwrap().push(outcome);
    }

    fn standing(&self, principal: &Arc<Principal>) -> Standing {
        match self.changed.lock().unwrap().get(&principal.name) {
            None => Standing::Good,
            Some(None) => Standing::Ended(Refusal::new(RefusalCode::Unauthorized, "revoked")),
            Some(Some(grants)) => Standing::Changed(Arc::new(Principal {
                grants: grants.clone(),
                ..(**principal).clone()
            })),
        }
    }
}

/// Is asked what grants do not decide, and says nothing until it is told to.
#[derive(Default)]
pub struct Clerk {
    pub asks: AtomicBool,
    pub petitions: Mutex<VecDeque<(Petition, Granted)>>,
}

impl Permitter for Clerk {
    fn is_asked(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    fn recall(&self, _petition: &Petition) -> Option<Permission> {
        None
    }

    fn ask(&self, petition: Petition, granted: Granted) {
        self.petitions
            .lock()
            .unwrap()
            .push_back((petition, granted));
    }
}

impl Stage {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let storage = SimStorage::default();
        let mut config = LogConfig::in_memory();
        config.limits = limits.clone();
        config.rules = rules();
        config.segment_bytes = 2 << 20;
        config.seed = Some(7);
        let engine = SimEngine::open(config.clone(), &storage, &clock).unwrap();
        let mut stage = Self {
            clock,
            engine: Arc::new(engine),
            shards: Vec::new(),
            inboxes: Arc::new(Inboxes::new(SHARDS, &limits)),
            limits: Arc::new(limits),
            storage,
            config,
            principal: Arc::new(Principal::anonymous()),
            porter: Arc::default(),
            clerk: Arc::default(),
        };
        stage.start();
        stage
    }

    fn start(&mut self) {
        self.inboxes = Arc::new(Inboxes::new(SHARDS, &self.limits));
        let shared = Arc::new(SharedMetrics::default());
        let meters = Arc::new(Meters::new(&self.limits));
        let homes = states_by_home(&*self.engine, SHARDS);
        self.shards = (0..SHARDS)
            .zip(homes)
            .map(|(index, states)| {
                Shard::new(ShardConfig {
                    expiry_notice_ms: 60_000,
                    authenticator: Arc::clone(&self.porter) as Arc<dyn Authenticator>,
                    permitter: Arc::clone(&self.clerk) as Arc<dyn Permitter>,
                    dead_letter: Some(Topic::new("dead-letter").unwrap()),
                    index,
                    engine: Arc::clone(&self.engine) as Arc<dyn Engine>,
                    inboxes: Arc::clone(&self.inboxes),
                    states,
                    head: self.engine.head(),
                    clock: self.clock.clone(),
                    limits: Arc::clone(&self.limits),
                    meters: Arc::clone(&meters),
                    metrics: Arc::new(Metrics::default()),
                    shared: Arc::clone(&shared),
                    seed: index as u64,
                })
            })
            .collect();
    }

    /// The process dies and starts again; what was not written durably is gone.
    pub fn crash(&mut self) {
        self.storage.reboot(1);
        self.reopen();
    }

    fn reopen(&mut self) {
        self.shards.clear();
        let engine = SimEngine::open(self.config.clone(), &self.storage, &self.clock).unwrap();
        self.engine = Arc::new(engine);
        self.start();
    }

    /// From now on the storage does this.
    pub fn set_faults(&self, faults: Faults) {
        self.storage.set_faults(faults);
    }

    /// From now on there is room for small changes only.
    pub fn fill_up(&self) {
        let names = self.storage.list().unwrap();
        let len = |name: &String| self.storage.content(name).unwrap().len() as u64;
        let used: u64 = names.iter().map(len).sum();
        self.set_faults(Faults {
            capacity: Some(used + 1_000),
            ..Faults::default()
        });
    }

    /// Answers the credential that waits, and runs.
    pub fn judge(&mut self, judged: Result<Principal, Refusal>) {
        self.judge_without_telling(judged);
        self.run();
    }

    /// Answers the credential that waits, and the shard has not seen it yet.
    pub fn judge_without_telling(&mut self, judged: Result<Principal, Refusal>) {
        let outcome = self.porter.outcomes.lock().unwrap().remove(0);
        outcome(judged.map(Arc::new));
    }

    /// From now on nobody of this name is let in, or they may do this alone; no shard was told yet.
    pub fn change(&self, name: &str, grants: Option<tidings_types::Grants>) {
        let mut changed = self.porter.changed.lock().unwrap();
        changed.insert(name.to_owned(), grants);
    }

    /// Tells the shards to ask again. How many connections ended, once all are through.
    pub fn recheck(&self) -> Arc<Mutex<Option<u64>>> {
        let ended = Arc::new(Mutex::new(None));
        let told = Arc::clone(&ended);
        self.inboxes
            .recheck(move |count| *told.lock().unwrap() = Some(count));
        ended
    }

    pub fn permit(&mut self, grants: tidings_types::Grants) {
        self.principal = Arc::new(Principal {
            name: "someone".to_owned(),
            grants,
            ..Principal::anonymous()
        });
    }

    pub fn connect(&mut self, shard: usize) -> Peer {
        self.connect_wanting(shard, false)
    }

    /// A peer, and whether each of its subscriptions gets what several match.
    pub fn connect_wanting(&mut self, shard: usize, wants_each: bool) -> Peer {
        let mind = Shared::default();
        let next = Rc::default();
        let puppet = Puppet {
            mind: Rc::clone(&mind),
            next: Rc::clone(&next),
            wants_each,
        };
        let principal = Arc::clone(&self.principal);
        let id = self.shards[shard].connect(Box::new(puppet), principal, Bytes::new());
        Peer {
            shard,
            id,
            mind,
            next,
        }
    }

    /// A peer on the home shard of a session.
    pub fn connect_home(&mut self, name: &str) -> Peer {
        self.connect(home_shard(name, SHARDS))
    }

    pub fn say(&mut self, peer: &Peer, command: Command) {
        peer.next.borrow_mut().push(command);
        let mut input = BytesMut::from(&b"!"[..]);
        self.shards[peer.shard].receive(peer.id, &mut input);
    }

    pub fn disconnect(&mut self, peer: &Peer) {
        self.shards[peer.shard].disconnect(peer.id);
    }

    /// Commits and carries out until nothing moves.
    pub fn run(&mut self) {
        for _ in 0..50 {
            self.engine.commit(100, &*self.inboxes, |_| {});
            for _ in 0..20 {
                self.engine.read_one(0, &*self.inboxes);
            }
            for shard in &mut self.shards {
                shard.take_inbox();
            }
        }
        assert!(!self.engine.waits(), "the stage did not come to rest");
    }

    /// Commits, and tells nobody yet.
    pub fn commit(&mut self) {
        self.engine.commit(100, &*self.inboxes, |_| {});
    }

    /// Commits the first of what waits, and tells nobody yet.
    pub fn commit_first(&mut self) {
        self.engine.commit(1, &*self.inboxes, |_| {});
    }

    /// Reads what is asked for, and tells nobody yet.
    pub fn read(&mut self) {
        self.engine.read_one(0, &*self.inboxes);
    }

    pub fn take_inboxes(&mut self) {
        for shard in &mut self.shards {
            shard.take_inbox();
        }
    }

    /// Lets time pass, with the timers that are due, and runs.
    pub fn pass(&mut self, span: Duration) {
        self.clock.advance_ms(span.as_millis() as u64);
        for shard in &mut self.shards {
            shard.tick();
        }
        self.run();
    }

    pub fn publish(&mut self, topic: &str) {
        self.publish_draft(draft(topic));
    }

    pub fn publish_draft(&mut self, draft: Draft) {
        let principal = Arc::clone(&self.principal);
        self.shards[0].publish(
            &principal.into(),
            vec![draft],
            Box::new(|result| {
                result.unwrap();
            }),
        );
    }

    /// The peer's outbox, written out.
    pub fn drain(&mut self, peer: &Peer) -> usize {
        let shard = &mut self.shards[peer.shard];
        let outbox = shard.outbox(peer.id).unwrap();
        let bytes = outbox.bytes();
        outbox.advance(bytes);
        shard.drained(peer.id);
        bytes
    }

    pub fn sum(&self, of: impl Fn(&Metrics) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(shard.metrics())).sum()
    }

    /// The names of what the log keeps besides messages.
    pub fn kept(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .engine
            .states()
            .into_iter()
            .map(|(name, _)| name.to_string())
            .collect();
        names.sort();
        names
    }
}

fn rules() -> RetentionRules {
    let kept = Retention {
        storage: Storage::Durable,
        age_max: None,
        bytes_max: None,
        per_topic_max: None,
    };
    let live = Retention {
        storage: Storage::None,
        ..kept
    };
    RetentionRules {
        rules: vec![(filter("live/#"), live)],
        default: kept,
    }
}

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

pub fn draft(topic: &str) -> Draft {
    Draft::new(
        Topic::new(topic.to_owned()).unwrap(),
        Bytes::from_static(b"payload"),
    )
}

pub fn retained(topic: &str) -> Draft {
    Draft {
        retain: true,
        ..draft(topic)
    }
}

pub fn publish(tag: u64, topic: &str, save: Option<SessionSave>) -> Command {
    Command::Publish {
        tag: Tag(tag),
        drafts: vec![draft(topic)],
        save,
        settle: Vec::new(),
    }
}

pub fn subscribe(key: u32, filters: &[&str], start: Start, until: Until) -> Command {
    Command::Subscribe {
        tag: Tag(u64::from(key)),
        key: SubscriptionKey(key),
        filters: filters.iter().map(|text| filter(text)).collect(),
        start,
        framing: Framing::Own,
        echo: true,
        until,
        group: None,
    }
}

pub fn alter(tag: u64, key: u32, filters: &[&str]) -> Command {
    Command::Alter {
        tag: Tag(tag),
        key: SubscriptionKey(key),
        filters: filters.iter().map(|text| filter(text)).collect(),
        framing: Framing::Own,
    }
}

pub fn authenticate(tag: u64) -> Command {
    Command::Authenticate {
        tag: Tag(tag),
        credential: Credential::Anonymous,
    }
}

pub fn open(name: &'static str, fresh: bool) -> Command {
    Command::OpenSession {
        tag: Tag(0),
        name: ByteString::from_static(name),
        fresh,
    }
}

pub fn save(state: &'static str, expiry: Expiry, will: Option<Will>) -> SessionSave {
    SessionSave {
        state: Bytes::from_static(state.as_bytes()),
        expiry,
        will,
    }
}

pub fn keep(tag: Option<u64>, save: SessionSave) -> Command {
    Command::SaveSession {
        tag: tag.map(Tag),
        save,
    }
}

pub fn will(topic: &str, delay: Duration) -> Will {
    Will {
        delay,
        draft: draft(topic),
    }
}
