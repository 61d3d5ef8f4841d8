//! What the tests of this folder share: a hub small enough to be obviously right, and bytes as clients write them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_ports::{
    Command, Conversation, Credential, Delivery, Ending, Event, Expiry, Framed, Framing,
    SessionSave, Start, SubscriptionKey, Tag, Tick, Turn, Until, Verdict, Will,
};
use tidings_types::message::Place;
use tidings_types::{
    Cursor, Draft, Epoch, Limits, Message, Offset, Origin, Receipt, Refusal, RefusalCode, Storage,
    Timestamp, Topic, TopicFilter,
};

pub(super) use super::testing_bytes::*;
use super::{MqttConversation, MqttOptions, Transport};

pub(super) const EPOCH: Epoch = Epoch(7);

/// What is kept of a session.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) state: Bytes,
    pub(super) expiry: Expiry,
    pub(super) will: Option<Will>,
    /// Later ones have higher numbers.
    number: u64,
}

/// A log, sessions, and the answers of a hub.
pub(super) struct World {
    pub(super) limits: Limits,
    pub(super) log: Vec<Message>,
    /// Offsets that no message has any more.
    removed: u64,
    keys: HashMap<(Topic, ByteString), Receipt>,
    /// What a crash leaves.
    pub(super) durable: HashMap<ByteString, Kept>,
    /// What the hub has in mind.
    pub(super) latest: HashMap<ByteString, Kept>,
    pub(super) now: Tick,
    pub(super) wall: Timestamp,
    /// Saves with a tag, and publishes, are not answered until [`World::answer_held`].
    pub(super) holds_saves: bool,
    pub(super) holds_publishes: bool,
    /// May not be subscribed to, or published to.
    pub(super) forbidden: Vec<&'static str>,
    /// A publish saves its state, and then the server stops.
    pub(super) stops_before_commit: bool,
    /// Every publish is refused so.
    pub(super) refuses: Option<RefusalCode>,
    random: u64,
    saves: u64,
}

struct Subscription {
    filters: Vec<TopicFilter>,
    position: Offset,
    framing: Framing,
    echo: bool,
    until: Until,
    retained: bool,
    group: Option<String>,
    is_blocked: bool,
}

/// One connection.
pub(super) struct Peer {
    pub(super) conversation: MqttConversation,
    subscriptions: BTreeMap<SubscriptionKey, Subscription>,
    session: Option<ByteString>,
    input: BytesMut,
    pub(super) frames: Vec<Bytes>,
    pub(super) ending: Option<Ending>,
    pub(super) wake: Option<Tick>,
    /// Commands that were carried out, by their names, for tests that look.
    pub(super) trace: Vec<String>,
    pub(super) acked: Vec<Offset>,
    held: VecDeque<(Event, Option<(ByteString, Kept)>)>,
    pub(super) unfit: usize,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            limits: Limits {
                message_bytes_max: 10_000,
                publishes_in_flight_max: 4,
                filters_per_subscription_max: 6,
                mqtt_window_max: 8,
                mqtt_topic_alias_max: 2,
                session_expiry_s_max: 1_000,
                ..Limits::default()
            },
            log: Vec::new(),
            removed: 0,
            keys: HashMap::new(),
            durable: HashMap::new(),
            latest: HashMap::new(),
            now: Tick(1_000),
            wall: Timestamp(1_000_000),
            holds_saves: false,
            holds_publishes: false,
            forbidden: Vec::new(),
            stops_before_commit: false,
            refuses: None,
            random: 1,
            saves: 0,
        }
    }

    pub(super) fn head(&self) -> Offset {
        Offset(self.log.len() as u64 + self.removed)
    }

    /// So many messages were removed from the log.
    pub(super) fn skip(&mut self, count: u64) {
        self.removed += count;
    }

    pub(super) fn options(&self, transport: Transport) -> MqttOptions {
        MqttOptions {
            sign_on: tidings_ports::SignOn::Open,
            transport,
            limits: Arc::new(self.limits.clone()),
            assigned_id: None,
            server_reference: None,
            shown: tidings_ports::Credential::Anonymous,
        }
    }

    pub(super) fn open_with(&mut self, options: MqttOptions) -> Peer {
        let mut peer = Peer {
            conversation: MqttConversation::new(options),
            subscriptions: BTreeMap::new(),
            session: None,
            input: BytesMut::new(),
            frames: Vec::new(),
            ending: None,
            wake: None,
            trace: Vec::new(),
            acked: Vec::new(),
            held: VecDeque::new(),
            unfit: 0,
        };
        self.call(&mut peer, Conversation::opened);
        peer
    }

    pub(super) fn open(&mut self) -> Peer {
        let options = self.options(Transport::Tcp);
        self.open_with(options)
    }

    /// A connection whose CONNECT is taken; its CONNACK is not looked at.
    pub(super) fn connect(&mut self, connect: &[u8]) -> Peer {
        let mut peer = self.open();
        let out = self.receive(&mut peer, connect);
        assert_eq!(out[0], 0x20, "a CONNACK: {out:02x?}");
        peer
    }

    fn call(&mut self, peer: &mut Peer, act: impl FnOnce(&mut MqttConversation, &mut Turn<'_>)) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let mut commands = Vec::new();
        let mut turn = Turn {
            now: self.now,
            is_slow: false,
            random: self.random,
            commands: &mut commands,
            frames: &mut peer.frames,
            ending: None,
            wake: None,
        };
        act(&mut peer.conversation, &mut turn);
        peer.ending = peer.ending.or(turn.ending);
        peer.wake = turn.wake.or(peer.wake);
        for command in commands {
            self.carry_out(peer, command);
        }
    }

    fn tell(&mut self, peer: &mut Peer, event: Event) {
        if peer.ending.is_none() {
            self.call(peer, |conversation, turn| conversation.event(event, turn));
        }
    }

    /// Bytes from the client; gives what is sent to it.
    pub(super) fn receive(&mut self, peer: &mut Peer, bytes: &[u8]) -> Vec<u8> {
        let mut input = std::mem::take(&mut peer.input);
        input.extend_from_slice(bytes);
        if peer.ending.is_none() {
            self.call(peer, |conversation, turn| {
                conversation.receive(&mut input, turn);
            });
        }
        peer.input = input;
        self.deliver(peer);
        peer.take()
    }

    pub(super) fn event(&mut self, peer: &mut Peer, event: Event) -> Vec<u8> {
        self.tell(peer, event);
        self.deliver(peer);
        peer.take()
    }

    pub(super) fn tick(&mut self, peer: &mut Peer, ms: u64) -> Vec<u8> {
        self.now = self.now.plus_ms(ms);
        self.wall = self.wall.plus(Duration::from_millis(ms));
        self.call(peer, Conversation::tick);
        self.deliver(peer);
        peer.take()
    }

    /// The connection is gone, and the server goes on.
    pub(super) fn close(&mut self, mut peer: Peer) -> Peer {
        peer.ending = None;
        self.call(&mut peer, |conversation, turn| {
            conversation.event(Event::Closed, turn);
        });
        if let Some(name) = &peer.session
            && self
                .latest
                .get(name)
                .is_some_and(|kept| kept.expiry == Expiry::WithConnection)
        {
            self.latest.remove(name);
            self.durable.remove(name);
        }
        if let Some(name) = &peer.session
            && let Some(kept) = self.latest.get(name)
        {
            self.durable.insert(name.clone(), kept.clone());
        }
        peer.ending = Some(Ending::AtOnce);
        peer
    }

    /// Of what was saved without a tag, or is not answered yet, some reached the disk.
    pub(super) fn save_some(&mut self, mask: u8) {
        let mut names: Vec<ByteString> = self.latest.keys().cloned().collect();
        names.sort_unstable();
        for (at, name) in names.into_iter().enumerate() {
            if mask >> at & 1 != 0 {
                self.durable
                    .insert(name.clone(), self.latest[&name].clone());
            }
        }
    }

    /// The server stops where it is. What was saved without a tag is lost.
    pub(super) fn crash(&mut self) {
        self.latest = self.durable.clone();
        self.latest
            .retain(|_, kept| kept.expiry != Expiry::WithConnection);
    }

    /// Answers what was held.
    pub(super) fn answer_held(&mut self, peer: &mut Peer) -> Vec<u8> {
        (self.holds_saves, self.holds_publishes) = (false, false);
        while let Some((event, save)) = peer.held.pop_front() {
            if let Some((name, kept)) = save {
                self.make_durable(name, kept);
            }
            self.tell(peer, event);
        }
        self.deliver(peer);
        peer.take()
    }

    /// Somebody else publishes.
    pub(super) fn append(&mut self, draft: Draft) -> Receipt {
        let name = draft.key.clone().map(|key| (draft.topic.clone(), key));
        if let Some(first) = name.as_ref().and_then(|name| self.keys.get(name)) {
            return Receipt {
                replayed: true,
                ..*first
            };
        }
        let offset = self.head().next();
        let place = Place {
            offset,
            epoch: EPOCH,
            time: self.wall,
            storage: Storage::Durable,
        };
        let receipt = Receipt {
            cursor: Cursor {
                epoch: EPOCH,
                offset,
            },
            time: self.wall,
            replayed: false,
        };
        self.log.push(Message::commit(draft, place));
        if let Some(name) = name {
            self.keys.insert(name, receipt);
        }
        receipt
    }

    /// Somebody else publishes to a topic.
    pub(super) fn publish(&mut self, topic: &str, payload: &[u8]) {
        let topic = Topic::new(topic).unwrap();
        self.append(Draft::new(topic, Bytes::copy_from_slice(payload)));
    }

    fn refusal(&self, text: &str) -> Option<Refusal> {
        let code = if self.forbidden.contains(&text) {
            RefusalCode::Forbidden
        } else {
            return None;
        };
        Some(Refusal::new(code, format!("not `{text}`")))
    }

    fn carry_out(&mut self, peer: &mut Peer, command: Command) {
        match command {
            Command::Publish {
                tag, drafts, save, ..
            } => self.publish_for(peer, tag, drafts, save),
            Command::Subscribe { .. } => self.subscribe_for(peer, command),
            Command::Alter { .. } => self.alter_for(peer, command),
            Command::Authenticate { tag, credential } => {
                self.authenticate_for(peer, tag, &credential);
            }
            Command::Unsubscribe { tag, key, .. } => {
                peer.trace.push(format!("unsubscribe {}", key.0));
                peer.subscriptions.remove(&key);
                self.tell(peer, Event::Unsubscribed { tag, key });
            }
            Command::Unblock(key) => {
                if let Some(subscription) = peer.subscriptions.get_mut(&key) {
                    subscription.is_blocked = false;
                }
            }
            Command::Settle { settle, .. } if settle.verdict == Verdict::Ack => {
                peer.acked.push(settle.offset);
            }
            Command::Settle { .. } => {}
            Command::OpenSession { tag, name, fresh } => {
                if fresh {
                    self.latest.remove(&name);
                    self.durable.remove(&name);
                }
                let state = self.latest.get(&name).map(|kept| kept.state.clone());
                peer.session = Some(name);
                self.tell(peer, Event::Session { tag, state });
            }
            Command::SaveSession { tag, save } => self.save_for(peer, tag, save),
            Command::Refused(it) => peer.trace.push(format!("refused {}", it.code.slug())),
            Command::Dropped(it) => peer.trace.push(format!("dropped {}", it.code.slug())),
        }
    }

    fn subscribe_for(&mut self, peer: &mut Peer, command: Command) {
        let Command::Subscribe {
            tag,
            key,
            filters,
            start,
            framing,
            echo,
            until,
            group,
        } = command
        else {
            return;
        };
        let refused = filters.iter().find_map(|it| self.refusal(it.as_str()));
        peer.trace.push(format!("subscribe {} {start:?}", key.0));
        if let Some(refusal) = refused {
            return self.tell(peer, Event::Refused { tag, refusal });
        }
        let (position, cursor) = self.place(&start, &filters);
        let subscription = Subscription {
            filters,
            position,
            framing,
            echo,
            until,
            retained: start == Start::Retained,
            group: group.map(|it| format!("{} {}", it.name, it.prefetch)),
            is_blocked: false,
        };
        let before = peer.subscriptions.insert(key, subscription);
        assert!(before.is_none(), "the key {} is in use", key.0);
        self.tell(peer, Event::Subscribed { tag, key, cursor });
    }

    /// Everybody is who they say, but for those with the password or the token "wrong".
    fn authenticate_for(&mut self, peer: &mut Peer, tag: Tag, credential: &Credential) {
        if let Credential::Password { password, .. } | Credential::Bearer(password) = credential
            && password.expose() == b"wrong"
        {
            let refusal = Refusal::new(RefusalCode::Unauthorized, "no");
            return self.tell(peer, Event::Refused { tag, refusal });
        }
        let event = match credential {
            Credential::Anonymous => Event::Refused {
                tag,
                refusal: Refusal::new(RefusalCode::Unauthorized, "nothing shown"),
            },
            _ => Event::Authenticated {
                tag,
                expires: None,
                left: Some(Duration::from_secs(90)),
            },
        };
        self.tell(peer, event);
    }

    fn alter_for(&mut self, peer: &mut Peer, command: Command) {
        let Command::Alter {
            tag,
            key,
            filters,
            framing,
        } = command
        else {
            return;
        };
        peer.trace.push(format!(
            "alter {} {} {}",
            key.0,
            filters
                .iter()
                .map(TopicFilter::as_str)
                .collect::<Vec<_>>()
                .join(" "),
            matches!(framing, Framing::Shared(_))
        ));
        if let Some(refusal) = filters.iter().find_map(|it| self.refusal(it.as_str())) {
            return self.tell(peer, Event::Refused { tag, refusal });
        }
        let offset = self.head();
        let subscription = peer.subscriptions.get_mut(&key).expect("it is there");
        (subscription.filters, subscription.framing) = (filters, framing);
        let cursor = Cursor {
            epoch: EPOCH,
            offset,
        };
        self.tell(peer, Event::Subscribed { tag, key, cursor });
    }

    fn place(&self, start: &Start, filters: &[TopicFilter]) -> (Offset, Cursor) {
        let matching = |message: &&Message| filters.iter().any(|it| it.matches(&message.topic));
        let position = match start {
            Start::Latest => self.head(),
            Start::After(cursor) => cursor.offset,
            Start::Last(count) => {
                let newest = self.log.iter().rev().filter(matching);
                let oldest = newest.take(*count as usize).last();
                oldest.map_or(self.head(), |message| Offset(message.offset.0 - 1))
            }
            Start::Retained | Start::Earliest | Start::Unknown => Offset::ZERO,
        };
        let offset = match start {
            Start::Retained => self.head(),
            _ => position,
        };
        let cursor = Cursor {
            epoch: EPOCH,
            offset,
        };
        (position, cursor)
    }

    fn publish_for(
        &mut self,
        peer: &mut Peer,
        tag: Tag,
        drafts: Vec<Draft>,
        save: Option<SessionSave>,
    ) {
        let refused = drafts.iter().find_map(|it| self.refusal(it.topic.as_str()));
        let code = self.refuses.map(|code| Refusal::new(code, "not now"));
        if let Some(refusal) = refused.or(code) {
            return self.tell(peer, Event::Refused { tag, refusal });
        }
        let kept = save.map(|save| self.keep(peer, save));
        if let Some((name, kept)) = kept {
            self.make_durable(name, kept);
        }
        if self.stops_before_commit {
            return;
        }
        let origin = Origin(peer.origin());
        let drafts = drafts.into_iter().map(|draft| Draft { origin, ..draft });
        let receipts = drafts.map(|draft| self.append(draft)).collect();
        let event = Event::Published { tag, receipts };
        if self.holds_publishes {
            return peer.held.push_back((event, None));
        }
        self.tell(peer, event);
    }

    fn keep(&mut self, peer: &Peer, save: SessionSave) -> (ByteString, Kept) {
        let name = peer.session.clone().expect("a session is open");
        self.saves += 1;
        let kept = Kept {
            state: save.state,
            expiry: save.expiry,
            will: save.will,
            number: self.saves,
        };
        self.latest.insert(name.clone(), kept.clone());
        (name, kept)
    }

    fn make_durable(&mut self, name: ByteString, kept: Kept) {
        let known = self.durable.get(&name);
        if known.is_none_or(|known| known.number < kept.number) {
            self.durable.insert(name, kept);
        }
    }

    fn save_for(&mut self, peer: &mut Peer, tag: Option<Tag>, save: SessionSave) {
        let kept = self.keep(peer, save);
        let Some(tag) = tag else {
            return;
        };
        if self.holds_saves {
            return peer.held.push_back((Event::Saved { tag }, Some(kept)));
        }
        self.make_durable(kept.0, kept.1);
        self.tell(peer, Event::Saved { tag });
    }

    /// Offers a peer what it did not have, subscription by subscription.
    pub(super) fn deliver(&mut self, peer: &mut Peer) {
        loop {
            let mut frames = std::mem::take(&mut peer.frames);
            let mut held = false;
            let mut caught_up = Vec::new();
            let keys: Vec<SubscriptionKey> = peer.subscriptions.keys().copied().collect();
            for key in keys {
                held |= self.offer(peer, key, &mut frames);
                let subscription = &peer.subscriptions[&key];
                if subscription.until == Until::CaughtUp && !subscription.is_blocked {
                    caught_up.push(key);
                }
            }
            peer.frames = frames;
            if held {
                self.tell(peer, Event::Held);
            }
            for key in &caught_up {
                peer.subscriptions.remove(key);
                self.tell(peer, Event::CaughtUp { key: *key });
            }
            if !held && caught_up.is_empty() {
                return;
            }
        }
    }

    fn is_retained(&self, message: &Message) -> bool {
        let later = self.log.iter().filter(|it| it.offset > message.offset);
        let mut replaced = later.filter(|it| it.retain && it.topic == message.topic);
        message.retain && !message.payload.is_empty() && replaced.next().is_none()
    }

    fn offer(&mut self, peer: &mut Peer, key: SubscriptionKey, frames: &mut Vec<Bytes>) -> bool {
        let origin = peer.origin();
        let mut held = false;
        for message in &self.log {
            let Some(subscription) = peer.subscriptions.get_mut(&key) else {
                break;
            };
            if subscription.is_blocked || peer.ending.is_some() {
                break;
            }
            let own = message.origin == Origin(origin);
            let wanted = message.offset > subscription.position
                && subscription
                    .filters
                    .iter()
                    .any(|it| it.matches(&message.topic))
                && (subscription.echo || !own)
                && !message.is_expired(self.wall)
                && (!subscription.retained || self.is_retained(message));
            if !wanted {
                continue;
            }
            let shared = match subscription.framing {
                Framing::Shared(format) if format.is_shared(message) => Some(format),
                _ => None,
            };
            let framed = match shared {
                Some(format) => {
                    frames.push(message.frame(format));
                    Framed::Put
                }
                None => peer.conversation.frame(
                    Delivery {
                        key,
                        message,
                        retained: subscription.retained,
                        own,
                        redelivered: 0,
                        now: self.wall,
                    },
                    frames,
                ),
            };
            match framed {
                Framed::Full => {
                    subscription.is_blocked = true;
                    break;
                }
                Framed::Held => held = true,
                Framed::Unfit => peer.unfit += 1,
                Framed::Put | Framed::Unwanted => {}
            }
            subscription.position = message.offset;
        }
        if let Some(subscription) = peer.subscriptions.get_mut(&key)
            && !subscription.is_blocked
            && subscription.until == Until::Ended
        {
            subscription.position = self.head();
        }
        held
    }
}

impl Peer {
    /// What was sent since it was last asked.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.frames
            .drain(..)
            .flat_map(|frame| frame.to_vec())
            .collect()
    }

    /// How the ordinary subscriptions are framed.
    pub(super) fn framing(&self) -> Option<Framing> {
        let main = self.subscriptions.get(&SubscriptionKey(0));
        main.map(|subscription| subscription.framing)
    }

    /// The work queues that it takes part in, and the prefetch.
    pub(super) fn groups(&self) -> Vec<String> {
        let groups = self.subscriptions.values();
        groups.filter_map(|it| it.group.clone()).collect()
    }

    fn origin(&self) -> u64 {
        let name = self
            .session
            .as_ref()
            .map_or(&[][..], |name| name.as_bytes());
        let hash = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        name.iter().fold(1, hash)
    }
}
