//! What the tests of this folder share: one client, whose frames are written as text, and commands as lines.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidings_ports::{
    Command, Conversation, Credential, Delivery, Ending, Event, Framed, Settle, SignOn,
    SubscriptionKey, Tag, Tick, Turn,
};
use tidings_types::message::Place;
use tidings_types::{
    Cursor, Draft, Epoch, Limits, Message, Offset, Receipt, Refusal, RefusalCode, Storage,
    Timestamp, Topic,
};

use super::{StompConversation, StompOptions, Transport};

pub(super) const EPOCH: Epoch = Epoch(7);

/// One connection, driven by hand.
pub(super) struct Client {
    pub(super) conversation: StompConversation,
    pub(super) now: Tick,
    pub(super) wake: Option<Tick>,
    pub(super) is_slow: bool,
    pub(super) ending: Option<Ending>,
    random: u64,
    input: BytesMut,
    commands: Vec<Command>,
    frames: Vec<Bytes>,
}

pub(super) fn limits() -> Limits {
    Limits {
        message_bytes_max: 1_000,
        request_head_bytes_max: 2_000,
        stomp_headers_max: 20,
        message_headers_max: 10,
        heartbeat_ms: 10_000,
        handshake_ms_max: 5_000,
        publishes_in_flight_max: 3,
        subscriptions_per_connection_max: 4,
        transaction_steps_max: 4,
        batch_bytes_max: 2_000,
        prefetch: 5,
        session_expiry_s_max: 60,
        ..Limits::default()
    }
}

impl Client {
    pub(super) fn new(transport: Transport, limits: Limits) -> Self {
        Self::opened(StompOptions {
            sign_on: SignOn::Open,
            shown: Credential::Anonymous,
            transport,
            limits: Arc::new(limits),
        })
    }

    /// Over TCP, where clients must say who they are; with what the handshake showed.
    pub(super) fn judged(shown: Credential) -> Self {
        Self::opened(StompOptions {
            sign_on: SignOn::Judged,
            shown,
            transport: Transport::Tcp,
            limits: Arc::new(limits()),
        })
    }

    fn opened(options: StompOptions) -> Self {
        let mut client = Self {
            conversation: StompConversation::new(options),
            now: Tick(1_000),
            wake: None,
            is_slow: false,
            ending: None,
            random: 0,
            input: BytesMut::new(),
            commands: Vec::new(),
            frames: Vec::new(),
        };
        client.turn(StompConversation::opened);
        client
    }

    /// Over TCP, connected with this version.
    pub(super) fn connected(version: &str) -> Self {
        Self::with(version, limits())
    }

    pub(super) fn with(version: &str, limits: Limits) -> Self {
        let mut client = Self::new(Transport::Tcp, limits);
        client.send(format!(
            "CONNECT\naccept-version:{version}\nhost:here\n\n\0"
        ));
        assert!(client.out().starts_with("CONNECTED\n"));
        client
    }

    fn turn(&mut self, step: impl FnOnce(&mut StompConversation, &mut Turn<'_>)) {
        // As the hub has it: nothing is said to a conversation that has ended.
        assert_eq!(self.ending, None, "the conversation has ended");
        self.random += 0x100;
        let mut turn = Turn {
            now: self.now,
            is_slow: self.is_slow,
            random: self.random,
            commands: &mut self.commands,
            frames: &mut self.frames,
            ending: None,
            wake: None,
        };
        step(&mut self.conversation, &mut turn);
        self.ending = turn.ending;
        self.wake = turn.wake.or(self.wake);
    }

    /// Bytes come from the client.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes.as_ref());
        self.turn(|conversation, turn| conversation.receive(&mut input, turn));
        self.input = input;
    }

    /// Time passes.
    pub(super) fn tick(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.turn(StompConversation::tick);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.turn(|conversation, turn| conversation.event(event, turn));
    }

    /// The hub published so many drafts.
    pub(super) fn published(&mut self, tag: u64, count: u64) {
        let receipt = |offset| Receipt {
            cursor: at(offset),
            time: Timestamp(1),
            replayed: false,
        };
        let receipts = (1..=count).map(receipt).collect();
        self.tell(Event::Published {
            tag: Tag(tag),
            receipts,
        });
    }

    pub(super) fn subscribed(&mut self, tag: u64, key: u32) {
        self.tell(Event::Subscribed {
            tag: Tag(tag),
            key: SubscriptionKey(key),
            cursor: at(0),
        });
    }

    pub(super) fn refused(&mut self, tag: u64, code: RefusalCode, detail: &str) {
        self.tell(Event::Refused {
            tag: Tag(tag),
            refusal: Refusal::new(code, detail),
        });
    }

    /// Subscribes, with the answer, and forgets what was said.
    pub(super) fn subscribe(&mut self, headers: &str) {
        self.send(format!("SUBSCRIBE\n{headers}\n\n\0"));
        let (tag, key) = self
            .commands
            .iter()
            .find_map(|command| match command {
                Command::Subscribe { tag, key, .. } => Some((*tag, *key)),
                _ => None,
            })
            .unwrap_or_else(|| panic!("not subscribed: {}", self.text()));
        self.commands.clear();
        self.subscribed(tag.0, key.0);
        self.frames.clear();
    }

    /// The hub offers a message.
    pub(super) fn offer(&mut self, key: u32, message: &Message, redelivered: u32) -> Framed {
        let delivery = Delivery {
            key: SubscriptionKey(key),
            message,
            retained: false,
            own: false,
            redelivered,
            now: Timestamp(0),
        };
        self.conversation.frame(delivery, &mut self.frames)
    }

    /// The same, with what becomes of it.
    pub(super) fn deliver(&mut self, key: u32, message: &Message) -> String {
        assert_eq!(self.offer(key, message, 0), Framed::Put);
        self.out()
    }

    /// What was sent since the last call.
    pub(super) fn bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frames).concat()
    }

    /// The same, as text.
    pub(super) fn out(&mut self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.frames.concat()).into_owned()
    }

    /// What was asked for since the last call.
    pub(super) fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands)
            .iter()
            .map(line)
            .collect()
    }

    pub(super) fn commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// The ERROR that ended the connection: its code, its receipt, and its body.
    #[track_caller]
    pub(super) fn error(&mut self) -> (String, Option<String>, String) {
        let out = self.out();
        let at = out
            .find("ERROR\n")
            .unwrap_or_else(|| panic!("no error: {out:?}"));
        assert_eq!(self.ending, Some(Ending::AfterFlush));
        let (head, body) = out[at..].split_once("\n\n").unwrap();
        let header = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?[1..].to_owned()))
        };
        assert_eq!(header("content-type").as_deref(), Some("text/plain"));
        assert!(header("message").is_some());
        let body = body.strip_suffix('\0').unwrap();
        (
            header("tidings-code").unwrap(),
            header("receipt-id"),
            body.to_owned(),
        )
    }
}

pub(super) fn at(offset: u64) -> Cursor {
    Cursor {
        epoch: EPOCH,
        offset: Offset(offset),
    }
}

pub(super) fn draft(topic: &str, payload: &str) -> Draft {
    Draft::new(
        Topic::new(topic).unwrap(),
        Bytes::copy_from_slice(payload.as_bytes()),
    )
}

pub(super) fn commit(draft: Draft, offset: u64) -> Message {
    let place = Place {
        offset: Offset(offset),
        epoch: EPOCH,
        time: Timestamp(1_234),
        storage: Storage::Durable,
    };
    Message::commit(draft, place)
}

pub(super) fn message(offset: u64, topic: &str, payload: &str) -> Message {
    commit(draft(topic, payload), offset)
}

/// A command in one line.
fn line(command: &Command) -> String {
    match command {
        Command::Publish {
            tag,
            drafts,
            settle,
            save: None,
        } => {
            let drafts = drafts.iter().map(|draft| {
                let payload = String::from_utf8_lossy(&draft.payload);
                format!(" {}={payload}", draft.topic)
            });
            let settle = settle.iter().map(|it| format!(" {}", verdict(it)));
            let parts: String = drafts.chain(settle).collect();
            format!("publish #{}{parts}", tag.0)
        }
        Command::Subscribe {
            tag,
            key,
            filters,
            start,
            echo,
            group,
            ..
        } => {
            let echo = if *echo { "" } else { " no echo" };
            let group = group.as_ref().map_or(String::new(), |group| {
                let timeout = group.ack_timeout.map(|timeout| format!(" in {timeout:?}"));
                let timeout = timeout.unwrap_or_default();
                let (name, prefetch, expiry) = (&group.name, group.prefetch, group.expiry);
                format!(" as {name} x{prefetch} {expiry:?}{timeout}")
            });
            let (tag, key, filter) = (tag.0, key.0, &filters[0]);
            format!("subscribe #{tag} {key} to {filter} {start:?}{echo}{group}")
        }
        Command::Settle { tag: None, settle } => verdict(settle),
        Command::Settle {
            tag: Some(tag),
            settle,
        } => format!("{} #{}", verdict(settle), tag.0),
        Command::Unsubscribe { tag, key, forget } => {
            let forget = if *forget { " forget" } else { "" };
            format!("unsubscribe #{} {}{forget}", tag.0, key.0)
        }
        Command::Unblock(key) => format!("unblock {}", key.0),
        Command::Refused(refusal) => format!("refused {}", refusal.code.slug()),
        _ => "a command that is not for STOMP".to_owned(),
    }
}

fn verdict(settle: &Settle) -> String {
    format!("{:?} {}-{}", settle.verdict, settle.key.0, settle.offset.0)
}
