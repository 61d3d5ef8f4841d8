//! One client's session while it is connected: what all parts of the conversation share.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use tidings_ports::{Expiry, SignOn, SubscriptionKey, Tag, Tick, Turn, Will};
use tidings_types::{Cursor, Limits, Offset};

use super::alias::{InboundAliases, OutboundAliases};
use super::auth::Exchange;
use super::catch_up::CatchUp;
use super::codec::{Ack, AckKind, ReasonCode, Version};
use super::filters::{Filter, FilterSerial};
use super::link::Link;
use super::on_demand::OnDemand;
use super::saving::Saving;
use super::state::State;
use super::unfinished::Unfinished;
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
    /// Who the client is.
    Identify,
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
            Self::Identify,
        ];
        all.into_iter().find(|class| *class as u64 == tag.0 >> 56)
    }
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// AUTH goes back and forth.
    Authenticating,
    /// The hub finds out who the client is.
    Identifying,
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
    /// How long it may be silent; `None` is for ever.
    pub(super) silence_ms_max: Option<NonZeroU32>,
    pub(super) expiry: Expiry,
    pub(super) will: Option<Box<Will>>,
    /// How many messages it has unacknowledged at most.
    pub(super) quota: u16,
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
    pub(super) sign_on: SignOn,
    /// Of a client that named a method in its CONNECT.
    pub(super) exchange: Option<Exchange>,
    /// When the client last sent a byte.
    pub(super) heard: Tick,
    last_tag: u64,
    last_key: u32,
    last_serial: u32,

    pub(super) filters: Vec<Filter>,
    pub(super) main: Main,
    pub(super) delivered: Option<Cursor>,
    pub(super) recovered: Recovered,
    /// What is under way.
    pub(super) unfinished: OnDemand<Unfinished>,

    pub(super) window: Window,
    pub(super) outbound_aliases: Option<Box<OutboundAliases>>,

    /// Publishes of `QoS` 0 that wait for their receipt.
    pub(super) publishing0: u32,
    /// Messages of `QoS` 1 and 2 of this connection that are not acknowledged to the end.
    pub(super) receiving: u32,
    /// In front of the keys of messages of `QoS` 2, with a number behind it.
    pub(super) nonce: u64,
    pub(super) keyed: u64,
    pub(super) inbound_aliases: Option<Box<InboundAliases>>,

    pub(super) saving: Saving,
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
            sign_on: SignOn::Open,
            exchange: None,
            heard: turn.now,
            last_tag: 0,
            last_key: MAIN.0,
            last_serial: 0,
            filters: Vec::new(),
            main: Main::default(),
            delivered: None,
            recovered: Recovered::No,
            unfinished: OnDemand::default(),
            window: Window::default(),
            outbound_aliases: None,
            publishing0: 0,
            receiving: 0,
            nonce: turn.random,
            keyed: 0,
            inbound_aliases: None,
            saving: Saving::Nothing,
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
            Stage::Identifying | Stage::Opening | Stage::Resuming => true,
            Stage::Open => self.unfinished.operation.is_some() || self.publishes_too_much(),
        }
    }

    /// Whether so many publishes wait that the next has to. A client of 5.0 keeps to the receive maximum, or is
    /// disconnected.
    fn publishes_too_much(&self) -> bool {
        let max = self.receive_maximum();
        let acknowledged = self.unfinished.acks.len();
        let publishing0 = self.publishing0 as usize;
        match self.client.version {
            Version::V3 | Version::V4 => acknowledged + publishing0 >= max,
            Version::V5 => publishing0 >= max || acknowledged > 2 * max,
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
                && self.unfinished.catch_ups.iter().all(|it| it.key != key)
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
        self.unfinished.former = state.former;
        self.delivered = state.delivered;
        self.window = Window::restore(state.exchanges, state.last_id);
        self.window.forget_shared();
        self.unfinished.inbound = state.inbound;
        self.recovered = if state.is_closed {
            Recovered::No
        } else {
            Recovered::Yes
        };
        self.unfinished.catch_ups = state.catch_ups.into_iter().map(CatchUp::restore).collect();
    }

    /// Gives back the memory of what is finished. Not after each message: a client that has just sent or received one
    /// has the next one soon.
    pub(super) fn give_back(&mut self) {
        self.unfinished.give_back_if(Unfinished::is_empty);
        self.window.give_back();
    }

    /// At the end of every call: does what became due.
    pub(super) fn settle(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        if self.stage == Stage::Authenticating || self.stage == Stage::Opening || self.is_taken_over
        {
            return;
        }
        if !self.unfinished.pubrels_due.is_empty() {
            for id in std::mem::take(&mut self.unfinished.pubrels_due) {
                link.ack(turn, AckKind::Pubrel, &Ack::new(id, ReasonCode::Success));
            }
        }
        self.reframe(link, turn);
        self.nudge_if_due(turn);
        self.save_if_due(turn);
    }

    fn nudge_if_due(&mut self, turn: &mut Turn<'_>) {
        match (self.unfinished.nudge, self.nudge_ms()) {
            (Some(_), None) => self.unfinished.nudge = None,
            (None, Some(ms)) => self.unfinished.nudge = Some(turn.now.plus_ms(ms)),
            (Some(at), Some(_)) if turn.now >= at => {
                self.unfinished.nudge = None;
                self.unblock(turn, true);
            }
            _ => {}
        }
    }

    /// When something is to be done without anybody's doing.
    pub(super) fn wake(&self) -> Option<Tick> {
        let silent = self.silent_at();
        let save = match self.saving {
            Saving::Due(due) => Some(due),
            Saving::Nothing | Saving::Changed => None,
        };
        [silent, save, self.unfinished.nudge]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the client has been silent for too long.
    pub(super) fn silent_at(&self) -> Option<Tick> {
        let max = self.client.silence_ms_max?;
        Some(self.heard.plus_ms(max.get().into()))
    }
}
