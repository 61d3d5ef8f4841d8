//! One client's session while it is connected: what all parts of the conversation share.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;
use tidings_ports::{Expiry, SubscriptionKey, Tag, Tick, Turn, Will};
use tidings_types::{Cursor, Limits, Offset};

use super::alias::{InboundAliases, OutboundAliases};
use super::auth::Exchange;
use super::catch_up::CatchUp;
use super::codec::{Ack, AckKind, Connack, PacketId, ReasonCode, Version};
use super::filters::{Filter, FilterSerial};
use super::inbound::PendingAck;
use super::link::Link;
use super::operation::Operation;
use super::saving::{Held, Saving};
use super::state::{Former, Inbound, State};
use super::window::Window;

/// The session's ordinary subscriptions in the hub.
pub(super) const MAIN: SubscriptionKey = SubscriptionKey(0);

/// What a tag is for: the top byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// A publish of `QoS` 0.
    Publish0 = 1,
    /// A publish that is acknowledged.
    Publish,
    /// A save.
    Save,
    /// A step of the SUBSCRIBE or UNSUBSCRIBE under way.
    Operation,
    /// The session.
    Open,
    /// The ordinary subscriptions, taken up again.
    Main,
    /// A shared subscription, taken up again, or a catch-up.
    Extra,
    /// Nothing hangs on the answer.
    Ignored,
}

impl Class {
    pub(super) fn of(tag: Tag) -> Option<Self> {
        let all = [
            Self::Publish0,
            Self::Publish,
            Self::Save,
            Self::Operation,
            Self::Open,
            Self::Main,
            Self::Extra,
            Self::Ignored,
        ];
        all.into_iter().find(|class| *class as u64 == tag.0 >> 56)
    }
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// AUTH goes back and forth.
    Authenticating,
    /// The hub opens the session.
    Opening,
    /// The session is saved, or its subscriptions are taken up.
    Resuming,
    /// The CONNACK is sent.
    Open,
}

/// What the client's CONNECT said, as it counts here.
pub(super) struct Client {
    pub(super) version: Version,
    pub(super) is_websocket: bool,
    pub(super) id: ByteString,
    pub(super) clean_start: bool,
    /// How long it may be silent; `None` is for ever.
    pub(super) silence_ms_max: Option<u64>,
    pub(super) expiry: Expiry,
    pub(super) will: Option<Box<Will>>,
    /// How many messages it has unacknowledged at most.
    pub(super) quota: usize,
}

/// Lists of this length at most stay allocated when they are empty.
const KEPT_MAX: usize = 8;

/// Gives an empty list's memory back, if it was a long one.
pub(super) fn give_back<T>(list: &mut VecDeque<T>) {
    if list.is_empty() && list.capacity() > KEPT_MAX {
        *list = VecDeque::new();
    }
}

/// Whether messages from before this connection may have been sent already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovered {
    /// What was sent is known.
    No,
    /// What was sent since the last save is not known: the server stopped.
    Yes,
    /// As `Yes`, up to this position.
    Until(Offset),
}

/// The ordinary subscriptions in the hub.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Main {
    /// Whether they are there.
    pub(super) is_there: bool,
    /// Whether their frames are shared.
    pub(super) is_shared: bool,
    /// As it was before the change that is asked for.
    pub(super) was_shared: bool,
}

/// One client's session while it is connected.
pub(super) struct Session {
    pub(super) limits: Arc<Limits>,
    pub(super) client: Client,
    pub(super) stage: Stage,
    /// The answer to the CONNECT, until it is sent.
    pub(super) connack: Option<Box<Connack>>,
    pub(super) exchange: Option<Box<Exchange>>,
    /// When the client last sent a byte.
    pub(super) heard: Tick,
    last_tag: u64,
    last_key: u32,
    last_serial: u32,

    pub(super) filters: Vec<Filter>,
    pub(super) former: Vec<Former>,
    pub(super) main: Main,
    pub(super) delivered: Option<Cursor>,
    pub(super) recovered: Recovered,
    pub(super) catch_ups: Vec<CatchUp>,
    pub(super) operation: Option<Box<Operation>>,
    /// Catch-ups and shared subscriptions that the hub has not answered.
    pub(super) extras: Vec<(Tag, SubscriptionKey)>,

    pub(super) window: Window,
    /// Messages of `QoS` 2 that are gone, but may be known to the client.
    pub(super) pubrels_due: Vec<PacketId>,
    /// Subscriptions that stopped because the window, or what is held, was full.
    pub(super) blocked: Vec<SubscriptionKey>,
    /// Subscriptions that were ended behind a WebSocket's close frame.
    pub(super) unsubscribed: Vec<SubscriptionKey>,
    pub(super) held: VecDeque<Held>,
    pub(super) held_bytes: usize,
    /// How many of the held wait for a save that is asked for.
    pub(super) held_for_save: usize,
    pub(super) outbound_aliases: Option<Box<OutboundAliases>>,

    pub(super) inbound: Vec<Inbound>,
    pub(super) acks: VecDeque<PendingAck>,
    /// Publishes of `QoS` 0 that wait for their receipt.
    pub(super) publishing0: usize,
    /// Messages of `QoS` 1 and 2 of this connection that are not acknowledged to the end.
    pub(super) receiving: usize,
    /// In front of the keys of messages of `QoS` 2, with a number behind it.
    pub(super) nonce: u64,
    pub(super) keyed: u64,
    pub(super) inbound_aliases: InboundAliases,

    pub(super) saving: Saving,
    /// When subscriptions that stopped are let go on.
    nudge: Option<Tick>,
    /// The client said goodbye, so that there is no will.
    pub(super) said_goodbye: bool,
    /// Another connection has the session.
    pub(super) is_taken_over: bool,
    /// The hub keeps something that the end of the connection may change.
    pub(super) was_saved: bool,
}

impl Session {
    pub(super) fn new(client: Client, limits: Arc<Limits>, turn: &Turn<'_>) -> Self {
        Self {
            limits,
            client,
            stage: Stage::Opening,
            connack: None,
            exchange: None,
            heard: turn.now,
            last_tag: 0,
            last_key: MAIN.0,
            last_serial: 0,
            filters: Vec::new(),
            former: Vec::new(),
            main: Main::default(),
            delivered: None,
            recovered: Recovered::No,
            catch_ups: Vec::new(),
            operation: None,
            extras: Vec::new(),
            window: Window::default(),
            pubrels_due: Vec::new(),
            unsubscribed: Vec::new(),
            blocked: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            held_for_save: 0,
            outbound_aliases: None,
            inbound: Vec::new(),
            acks: VecDeque::new(),
            publishing0: 0,
            receiving: 0,
            nonce: turn.random,
            keyed: 0,
            inbound_aliases: InboundAliases::default(),
            saving: Saving::default(),
            nudge: None,
            said_goodbye: false,
            is_taken_over: false,
            was_saved: false,
        }
    }

    /// Whether it outlives its connection.
    pub(super) fn is_persistent(&self) -> bool {
        self.client.expiry != Expiry::WithConnection
    }

    /// Whether packets have to wait for the hub.
    pub(super) fn is_busy(&self) -> bool {
        match self.stage {
            Stage::Authenticating => false,
            Stage::Opening | Stage::Resuming => true,
            Stage::Open => self.operation.is_some() || self.publishes_too_much(),
        }
    }

    /// Whether so many publishes wait that the next has to. A client of 5.0 keeps to the receive maximum, or is
    /// disconnected.
    fn publishes_too_much(&self) -> bool {
        let max = self.receive_maximum();
        let acknowledged = self.acks.len();
        match self.client.version {
            Version::V3 | Version::V4 => acknowledged + self.publishing0 >= max,
            Version::V5 => self.publishing0 >= max || acknowledged > 2 * max,
        }
    }

    pub(super) fn tag(&mut self, class: Class) -> Tag {
        self.last_tag += 1;
        Tag((class as u64) << 56 | self.last_tag)
    }

    pub(super) fn key(&mut self) -> SubscriptionKey {
        loop {
            self.last_key = self.last_key.wrapping_add(1);
            let key = SubscriptionKey(self.last_key);
            let in_use = |filter: &Filter| {
                let share = filter.share.as_ref();
                share.is_some_and(|share| share.key == Some(key))
            };
            if key != MAIN
                && !self.filters.iter().any(in_use)
                && self.catch_ups.iter().all(|it| it.key != key)
            {
                return key;
            }
        }
    }

    pub(super) fn serial(&mut self) -> FilterSerial {
        self.last_serial = self.last_serial.wrapping_add(1);
        FilterSerial(self.last_serial)
    }

    /// Takes up what was kept.
    pub(super) fn adopt(&mut self, state: State) {
        self.last_serial = state.filters.len() as u32;
        self.filters = state.filters;
        self.former = state.former;
        self.delivered = state.delivered;
        self.window = Window::restore(state.exchanges, state.last_id);
        self.window.forget_shared();
        self.inbound = state.inbound;
        self.recovered = if state.is_closed {
            Recovered::No
        } else {
            Recovered::Yes
        };
        self.catch_ups = state.catch_ups.into_iter().map(CatchUp::restore).collect();
    }

    /// At the end of every call: does what became due.
    pub(super) fn settle(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        if self.stage == Stage::Authenticating || self.stage == Stage::Opening || self.is_taken_over
        {
            return;
        }
        for id in std::mem::take(&mut self.pubrels_due) {
            link.ack(turn, AckKind::Pubrel, &Ack::new(id, ReasonCode::Success));
        }
        self.reframe(link, turn);
        self.nudge_if_due(turn);
        self.save_if_due(turn);
    }

    fn nudge_if_due(&mut self, turn: &mut Turn<'_>) {
        match (self.nudge, self.nudge_ms()) {
            (_, None) => self.nudge = None,
            (None, Some(ms)) => self.nudge = Some(turn.now.plus_ms(ms)),
            (Some(at), Some(_)) if turn.now >= at => {
                self.nudge = None;
                self.unblock(turn, true);
            }
            (Some(_), Some(_)) => {}
        }
    }

    /// When something is to be done without anybody's doing.
    pub(super) fn wake(&self) -> Option<Tick> {
        let silent = self.silent_at();
        [silent, self.saving.due, self.nudge]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the client has been silent for too long.
    pub(super) fn silent_at(&self) -> Option<Tick> {
        let max = self.client.silence_ms_max?;
        Some(self.heard.plus_ms(max))
    }
}
