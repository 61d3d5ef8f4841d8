//! What a client has begun and not finished: nothing, for one that is idle.

use std::collections::VecDeque;

use bytestring::ByteString;
use tidings_ports::{Gap, SubscriptionKey, Tag, Tick};

use super::catch_up::CatchUp;
use super::codec::{Connack, PacketId};
use super::inbound::PendingAck;
use super::on_demand::Empty;
use super::operation::Operation;
use super::saving::{After, Held};
use super::state::{Former, Inbound};

/// A CONNECT that is not answered.
pub(super) struct Connecting {
    pub(super) connack: Connack,
    pub(super) client_id: ByteString,
    pub(super) clean_start: bool,
    /// Whether the client showed a credential.
    pub(super) has_credential: bool,
}

/// What is under way in one session.
#[derive(Default)]
pub(super) struct Unfinished {
    pub(super) connecting: Option<Box<Connecting>>,
    pub(super) operation: Option<Box<Operation>>,
    pub(super) former: Vec<Former>,
    pub(super) catch_ups: Vec<CatchUp>,
    /// The next message says that some before it may be missing.
    pub(super) gap: Option<Gap>,
    /// Catch-ups and shared subscriptions that the hub has not answered.
    pub(super) extras: Vec<(Tag, SubscriptionKey)>,

    /// Messages of `QoS` 2 that are gone, but may be known to the client.
    pub(super) pubrels_due: Vec<PacketId>,
    /// Subscriptions that stopped because the window, or what is held, was full.
    pub(super) blocked: Vec<SubscriptionKey>,
    /// When they are let go on.
    pub(super) nudge: Option<Tick>,
    /// Subscriptions that were ended behind a WebSocket's close frame.
    pub(super) unsubscribed: Vec<SubscriptionKey>,
    pub(super) held: VecDeque<Held>,
    pub(super) held_bytes: usize,
    /// How many of the held wait for a save that is asked for.
    pub(super) held_for_save: usize,

    pub(super) inbound: Vec<Inbound>,
    pub(super) acks: VecDeque<PendingAck>,

    /// The save that is asked for, and what waits for it.
    pub(super) under_way: Option<(Tag, Vec<After>)>,
    /// What waits for the save after that.
    pub(super) next: Vec<After>,
}

impl Empty for Unfinished {
    const EMPTY: &'static Self = &Self {
        connecting: None,
        operation: None,
        former: Vec::new(),
        catch_ups: Vec::new(),
        gap: None,
        extras: Vec::new(),
        pubrels_due: Vec::new(),
        blocked: Vec::new(),
        nudge: None,
        unsubscribed: Vec::new(),
        held: VecDeque::new(),
        held_bytes: 0,
        held_for_save: 0,
        inbound: Vec::new(),
        acks: VecDeque::new(),
        under_way: None,
        next: Vec::new(),
    };
}

impl Unfinished {
    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        // Each by its name, so that none that is added is forgotten here.
        let Self {
            connecting,
            operation,
            former,
            catch_ups,
            gap,
            extras,
            pubrels_due,
            blocked,
            nudge,
            unsubscribed,
            held,
            held_bytes: _,
            held_for_save: _,
            inbound,
            acks,
            under_way,
            next,
        } = self;
        connecting.is_none()
            && operation.is_none()
            && former.is_empty()
            && catch_ups.is_empty()
            && gap.is_none()
            && extras.is_empty()
            && pubrels_due.is_empty()
            && blocked.is_empty()
            && nudge.is_none()
            && unsubscribed.is_empty()
            && held.is_empty()
            && inbound.is_empty()
            && acks.is_empty()
            && under_way.is_none()
            && next.is_empty()
    }
}
