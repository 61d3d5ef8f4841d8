//! One peer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use tidings_ports::{Certificate, Command, Conversation, Ending, Tick};
use tidings_types::{Offset, Origin, Principal, Protocol};

use super::petitions::Petitioned;
use super::subscription::SubscriptionId;
use crate::meter::Seat;
use crate::outbox::Outbox;
use crate::session::SessionId;

/// Names a connection within its shard; never used again for another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The slot.
    pub(crate) index: u32,
    /// Tells the slot's occupants apart.
    pub(crate) serial: u32,
}

impl ConnectionId {
    /// The slot: small, and free again after the connection's end.
    #[must_use]
    pub fn slot(self) -> usize {
        self.index as usize
    }

    /// The name as a number.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.serial)
    }

    /// The name of such a number; there may be no connection of it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            index: (bits >> 32) as u32,
            serial: bits as u32,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who, as far as that is known.
    pub principal: Arc<Principal>,
    /// From where, if that is known.
    pub address: Option<IpAddr>,
    /// The certificate that it proved to have, if that says who it is.
    pub certificate: Option<Arc<Certificate>>,
}

impl From<Arc<Principal>> for Peer {
    fn from(principal: Arc<Principal>) -> Self {
        Self {
            principal,
            address: None,
            certificate: None,
        }
    }
}

/// Whether a conversation ended its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It goes on.
    No,
    /// Write what is pending, then close.
    AfterFlush,
    /// Close.
    AtOnce,
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::AfterFlush => Self::AfterFlush,
            Ending::AtOnce => Self::AtOnce,
        }
    }
}

/// What becomes of a peer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// They are passed on.
    Read,
    /// At times since the last tick they were left unread.
    Paused,
}

/// What was asked while it is found out who the peer is, or whether it may do what it asked for first.
#[derive(Default)]
pub(super) struct Unidentified {
    pub waiting: VecDeque<Command>,
    /// Set if that is known, and a permission is waited for.
    pub petitioned: Option<Petitioned>,
}

pub(super) struct Connection {
    pub id: ConnectionId,
    pub conversation: Box<dyn Conversation>,
    /// The conversation's, asked once.
    pub protocol: Protocol,
    pub principal: Arc<Principal>,
    pub address: Option<IpAddr>,
    pub certificate: Option<Arc<Certificate>>,
    /// Its share of what its identity may take; `None` if that is not limited.
    pub seat: Option<Seat>,
    /// Set while it is found out who the peer is, or what it may do.
    pub unidentified: Option<Box<Unidentified>>,
    pub origin: Origin,
    pub outbox: Outbox,
    pub subscriptions: Vec<SubscriptionId>,
    /// The last message that was offered live, so that a second subscription does not offer it again; `None` if
    /// each of its subscriptions gets what several of them match.
    pub offered: Option<Offset>,
    /// How many of its subscriptions wait for room in the outbox.
    pub blocked: u32,
    /// Whether its conversation kept a message, and was not told yet that the others are through.
    pub held: bool,
    /// The session that it opened.
    pub session: Option<SessionId>,
    /// Publishes, and saves of its session, that it waits for.
    pub in_flight: usize,
    pub wake: Option<Tick>,
    /// The earliest entry in the wheel; `wake` may be later.
    pub scheduled: Option<Tick>,
    /// How long before its principal's end the peer is to be told; 0 once it was, or if it is not to be.
    pub notice_ms: u32,
    pub dirty: bool,
    pub input: Input,
    pub ended: Ended,
    /// Whether its conversation had its last event.
    pub knows_closed: bool,
}

impl Connection {
    pub fn new(
        id: ConnectionId,
        conversation: Box<dyn Conversation>,
        peer: Peer,
        origin: Origin,
    ) -> Self {
        Self {
            id,
            protocol: conversation.protocol(),
            offered: (!conversation.wants_each()).then_some(Offset::ZERO),
            conversation,
            principal: peer.principal,
            address: peer.address,
            certificate: peer.certificate,
            seat: None,
            unidentified: None,
            origin,
            outbox: Outbox::default(),
            subscriptions: Vec::new(),
            blocked: 0,
            held: false,
            session: None,
            in_flight: 0,
            wake: None,
            scheduled: None,
            notice_ms: 0,
            dirty: false,
            input: Input::Read,
            ended: Ended::No,
            knows_closed: false,
        }
    }

    /// Whether a command of it waits for a permission.
    pub fn is_petitioning(&self) -> bool {
        let waits = self.unidentified.as_ref();
        waits.is_some_and(|it| it.petitioned.is_some())
    }
}
