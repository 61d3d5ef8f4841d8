//! MQTT 3.1, 3.1.1 and 5.0 (`WIRE.md` beside this file lists the normative statements).
//!
//! One connection is one [`MqttConversation`]. [`codec`] knows packets; the rest knows sessions: `connect` opens
//! one, `inbound` publishes what the client sends, `operation` subscribes, `deliver` sends, `catch_up`
//! brings older messages, `state` is what is kept of it.
//!
//! All ordinary subscriptions of a session are one subscription in the hub, which offers each message once; which of
//! them a message is for is judged here. A session that is kept is its filters, a position in the log, and the
//! exchanges that are not finished: no message is queued for it anywhere.

mod acknowledge;
mod alias;
mod auth;
mod catch_up;
pub mod codec;
mod connect;
mod deliver;
mod draft;
mod filters;
mod first;
mod format;
mod inbound;
mod link;
mod on_demand;
mod operation;
mod saving;
mod session;
mod state;
mod subscribing;
mod subscriptions;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_bytes;
mod unfinished;
mod window;

pub use first::FirstReader;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_ports::{
    Command, Conversation, Credential, Delivery, Event, Framed, SignOn, Tick, Turn,
};
use tidings_types::{Limits, Protocol, Refusal, RefusalCode};

use self::codec::{Farewell, Packet, PacketKind, ReasonCode, Version, Violation};
use self::link::{Link, farewell};
use self::session::{Class, Session, Stage};

/// The sub-protocol names of MQTT over WebSocket, the preferred one first.
pub const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Filters, and user properties, of one packet.
const ITEMS_MAX: usize = 1_024;

/// What the properties and the topic of a packet may add to its payload and its user properties.
const PACKET_HEAD_BYTES: usize = 128 << 10;

/// Input that waits for the hub, over that of one packet.
const HELD_BYTES_MAX: usize = 1 << 20;

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream of bytes.
    Tcp,
    /// Binary WebSocket messages, which packets may span.
    WebSocket,
}

/// What a connection was opened with.
#[derive(Clone, Debug)]
pub struct MqttOptions {
    /// What carries the packets.
    pub transport: Transport,
    /// The limits.
    pub limits: Arc<Limits>,
    /// The client identifier for a client that gives none; its home is the connection's shard.
    pub assigned_id: Option<ByteString>,
    /// Whether clients must say who they are.
    pub sign_on: SignOn,
    /// What the handshake of a WebSocket showed: it counts for a CONNECT that shows nothing.
    pub shown: Credential,
    /// Where clients are sent when the server goes down.
    pub server_reference: Option<Arc<ByteString>>,
}

/// What the first bytes of a connection say about where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// The CONNECT is not there yet.
    Incomplete,
    /// The connection belongs on this session's home.
    Session(ByteString),
    /// The client leaves the choice of its identifier to the server: any shard will do.
    Anonymous,
    /// This is no CONNECT that can be accepted: a conversation answers it, anywhere.
    Refused,
}

/// Looks at the first bytes of a connection, and takes none. At most 512 KiB are waited for.
#[must_use]
pub fn first_packet(input: &[u8], transport: Transport) -> FirstPacket {
    FirstReader::new(transport).look(input)
}

/// The name of a client's session in the hub.
#[must_use]
pub fn session_name(client_id: &str) -> ByteString {
    format!("mqtt/{client_id}").into()
}

/// The largest packet that is taken: the server's Maximum Packet Size.
fn packet_bytes_max(limits: &Limits) -> usize {
    limits
        .message_bytes_max
        .saturating_add(limits.message_header_bytes_max)
        .saturating_add(PACKET_HEAD_BYTES)
}

/// One MQTT client.
pub struct MqttConversation {
    link: Link,
    server_reference: Option<Arc<ByteString>>,
    /// Until there is a session.
    opening: Option<Box<Opening>>,
    session: Option<Box<Session>>,
}

/// What is needed up to the CONNECT.
struct Opening {
    options: MqttOptions,
    /// When the CONNECT must be there.
    connect_by: Tick,
    /// The first bytes were judged, and are a CONNECT.
    is_judged: bool,
}

impl MqttConversation {
    /// A conversation for a connection that was just accepted, or whose WebSocket handshake is done.
    #[must_use]
    pub fn new(options: MqttOptions) -> Self {
        Self {
            link: Link::new(options.transport, &options.limits),
            server_reference: options.server_reference.clone(),
            opening: Some(Box::new(Opening {
                options,
                connect_by: Tick::default(),
                is_judged: false,
            })),
            session: None,
        }
    }

    fn is_busy(&self) -> bool {
        self.session.as_ref().is_some_and(|it| it.is_busy())
    }

    /// Judges the first bytes as the server did when it chose the shard. What it could not tell the session of must not
    /// open one here.
    fn judge_first(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) -> bool {
        let Some(opening) = self.opening.as_mut().filter(|it| !it.is_judged) else {
            return true;
        };
        match first_packet(input, opening.options.transport) {
            FirstPacket::Incomplete => false,
            FirstPacket::Session(_) | FirstPacket::Anonymous => {
                opening.is_judged = true;
                true
            }
            FirstPacket::Refused => {
                if self.link.stream.is_websocket() {
                    while self.link.stream.unwrap_one(input, turn) {}
                } else {
                    self.link.stream.held.unsplit(input.split());
                }
                let mut packets = std::mem::take(&mut self.link.stream.held);
                let (text, last) = match self.link.decoder.decode(&mut packets) {
                    Err(violation) => (violation.text(), violation.farewell()),
                    Ok(_) => ("the first bytes are no CONNECT", None),
                };
                let refusal = Refusal::new(RefusalCode::BadFrame, text);
                turn.commands.push(Command::Refused(refusal));
                self.link.dismiss(turn, last);
                input.clear();
                false
            }
        }
    }

    /// Takes packets off the front of the bytes until they are used up, or have to wait.
    fn pump(&mut self, bytes: &mut BytesMut, turn: &mut Turn<'_>) {
        while !self.link.stream.has_ended() && !self.is_busy() {
            match self.link.decoder.decode(bytes) {
                Ok(Some(packet)) => self.packet(packet, turn),
                Ok(None) => break,
                Err(violation) => self.violated(violation, turn),
            }
        }
        if self.link.stream.has_ended() {
            bytes.clear();
        }
    }

    /// Takes what was held, once it need not wait any more.
    fn pump_held(&mut self, turn: &mut Turn<'_>) {
        if self.link.stream.held.is_empty() || self.is_busy() {
            return;
        }
        let mut held = std::mem::take(&mut self.link.stream.held);
        self.pump(&mut held, turn);
        if !held.is_empty() {
            self.link.stream.held = held;
        }
    }

    /// Takes what can be taken of the input, packet by packet and message by message, in their order.
    fn take(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        if !self.link.stream.is_websocket() {
            return self.pump(input, turn);
        }
        loop {
            self.pump_held(turn);
            let waits = self.is_busy() && !self.link.stream.has_ended();
            if waits || !self.link.stream.unwrap_one(input, turn) {
                return;
            }
        }
    }

    /// Takes input that had to wait, once it need not wait any more.
    fn take_waiting(&mut self, turn: &mut Turn<'_>) {
        if self.is_busy() && !self.link.stream.has_ended() {
            return;
        }
        let mut waiting = std::mem::take(self.link.stream.waiting());
        self.take(&mut waiting, turn);
        if !waiting.is_empty() {
            *self.link.stream.waiting() = waiting;
        }
    }

    fn violated(&mut self, violation: Violation, turn: &mut Turn<'_>) {
        let code = match violation.reason() {
            ReasonCode::PacketTooLarge => RefusalCode::MessageTooLarge,
            ReasonCode::QuotaExceeded => RefusalCode::TooManySubscriptions,
            _ => RefusalCode::BadFrame,
        };
        let refusal = Refusal::new(code, violation.text());
        turn.commands.push(Command::Refused(refusal));
        if self.session.is_none() {
            return self.link.dismiss(turn, violation.farewell());
        }
        let why = farewell(violation.reason(), violation.text());
        self.link.say(turn, why);
        self.link.dismiss(turn, None);
    }

    fn packet(&mut self, packet: Packet, turn: &mut Turn<'_>) {
        let link = &mut self.link;
        let Some(session) = &mut self.session else {
            if let (Packet::Connect(connect), Some(opening)) = (packet, &self.opening) {
                self.session = connect::connect(*connect, &opening.options, link, turn);
                if self.session.is_some() {
                    self.opening = None;
                }
            }
            return;
        };
        if session.stage == Stage::Authenticating
            && !matches!(packet, Packet::Auth(_) | Packet::Disconnect(_))
        {
            // MQTT-3.1.2-30.
            let text = "only AUTH and DISCONNECT may come before the CONNACK";
            return misbehaved(link, turn, ReasonCode::ProtocolError, text);
        }
        match packet {
            // The decoder takes no second one.
            Packet::Connect(_) => {}
            Packet::Publish(publish) => session.publish(link, turn, *publish),
            Packet::Ack(kind, ack) => session.acknowledged(link, turn, kind, &ack),
            Packet::Subscribe(subscribe) => session.subscribe(link, turn, subscribe),
            Packet::Unsubscribe(unsubscribe) => session.unsubscribe(link, turn, unsubscribe),
            Packet::Pingreq => {
                session.give_back();
                link.pong();
            }
            Packet::Disconnect(disconnect) => session.goodbye(link, turn, &disconnect),
            Packet::Auth(auth) => {
                if let Some(exchange) = &mut session.exchange {
                    let outcome = exchange.take(&auth);
                    return session.authenticate(link, turn, outcome);
                }
                // 4.12: without a method in the CONNECT there is no AUTH.
                let text = "AUTH without an authentication method in the CONNECT";
                misbehaved(link, turn, ReasonCode::ProtocolError, text);
            }
        }
    }

    /// Gives back the memory of what is finished.
    fn give_back(&mut self) {
        if let Some(session) = &mut self.session {
            session.give_back();
        }
    }

    /// What the end of every call has to do.
    fn finish(&mut self, turn: &mut Turn<'_>) {
        if let Some(session) = &mut self.session {
            session.settle(&mut self.link, turn);
        }
        self.link.stream.flush(turn);
        if self.link.stream.has_ended() && self.link.stream.is_websocket() {
            // The close frame is the last one, and the peer's is awaited.
            if let Some(session) = &mut self.session {
                session.end_subscriptions(turn);
            }
        }
        let open = !self.link.stream.has_ended();
        let session = match &self.session {
            Some(session) if open => session.wake(),
            Some(_) => None,
            None => {
                let opening = self.opening.as_ref().filter(|_| open);
                opening.map(|it| it.connect_by)
            }
        };
        let wake = [self.link.stream.wake(), session]
            .into_iter()
            .flatten()
            .min();
        turn.wake = wake.or(turn.wake);
    }

    fn refused(&mut self, tag: tidings_ports::Tag, refusal: &Refusal, turn: &mut Turn<'_>) {
        let (link, Some(session)) = (&mut self.link, &mut self.session) else {
            return;
        };
        match Class::of(tag) {
            Some(Class::Publish0 | Class::Publish) => {
                session.publish_refused(link, turn, tag, refusal);
            }
            Some(Class::Operation) => session.operation_refused(link, turn, refusal),
            Some(Class::Main) if session.stage == Stage::Resuming => {
                session.not_resumed(link, turn, refusal);
            }
            Some(Class::Identify) => session.not_identified(link, turn, refusal),
            Some(Class::Save | Class::Open | Class::Main) => connect::fail(link, turn, refusal),
            Some(Class::Extra) => session.extra_refused(turn, tag),
            Some(Class::Ignored) | None => {}
        }
    }

    fn told(&mut self, event: Event, turn: &mut Turn<'_>) {
        let (link, Some(session)) = (&mut self.link, &mut self.session) else {
            return;
        };
        match event {
            Event::Published { tag, .. } => session.published(link, turn, tag),
            Event::Subscribed { tag, cursor, .. } => match Class::of(tag) {
                Some(Class::Operation) => session.operation_granted(link, turn, cursor),
                Some(Class::Main) => session.resumed(link, turn, cursor),
                Some(Class::Extra) => session.unfinished.extras.retain(|extra| extra.0 != tag),
                _ => {}
            },
            Event::Unsubscribed { tag, .. } if Class::of(tag) == Some(Class::Operation) => {
                let nowhere = session.delivered.unwrap_or(NOWHERE);
                session.operation_granted(link, turn, nowhere);
            }
            Event::Lost { refusal, .. } => connect::fail(link, turn, &refusal),
            Event::CaughtUp { key } => {
                session.end_catch_up(turn, key);
            }
            Event::Authenticated { left, .. } => session.identified(link, turn, left),
            Event::Session { state, .. } => session.opened(link, turn, state.as_deref()),
            Event::Saved { tag } => session.saved(link, turn, tag),
            Event::Held => session.held(link, turn),
            Event::TakenOver => {
                session.last_save(turn);
                session.is_taken_over = true;
                let text = "another connection has the session";
                let why = farewell(ReasonCode::SessionTakenOver, text);
                link.disconnect(turn, why);
            }
            // 3.1.1 has no place for it; the hub counts it.
            Event::Gap { gap, .. } if session.client.version == Version::V5 => {
                session.unfinished.gap.get_or_insert(gap);
            }
            _ => {}
        }
    }

    fn drain(&mut self, after: std::time::Duration, refusal: &Refusal, turn: &mut Turn<'_>) {
        let text = format!(
            "{}, reconnect in {} ms",
            refusal.code.title(),
            after.as_millis()
        );
        let reference = self.server_reference.as_deref().cloned();
        if self.session.is_none() {
            return self.link.end(turn);
        }
        let mut reason = ReasonCode::of_refusal(refusal.code, PacketKind::Disconnect);
        let is_down = refusal.code == RefusalCode::ShuttingDown;
        if is_down && reference.is_some() {
            reason = ReasonCode::UseAnotherServer;
        } else if is_down && !self.link.is_welcome {
            reason = ReasonCode::ServerUnavailable;
        }
        let why = Farewell {
            server_reference: reference.filter(|_| is_down),
            ..farewell(reason, text)
        };
        self.link.disconnect(turn, why);
    }
}

/// Ends the connection of a client that broke a rule.
fn misbehaved(link: &mut Link, turn: &mut Turn<'_>, reason: ReasonCode, text: &'static str) {
    let refusal = Refusal::new(RefusalCode::BadFrame, text);
    refuse(link, turn, reason, refusal);
}

/// Ends the connection for a refusal of this conversation.
fn refuse(link: &mut Link, turn: &mut Turn<'_>, reason: ReasonCode, refusal: Refusal) {
    link.disconnect(turn, farewell(reason, refusal.detail.clone()));
    turn.commands.push(Command::Refused(refusal));
}

const NOWHERE: tidings_types::Cursor = tidings_types::Cursor {
    epoch: tidings_types::Epoch(0),
    offset: tidings_types::Offset::ZERO,
};

impl Conversation for MqttConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Mqtt
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        self.link.stream.opened(turn);
        if let Some(opening) = &mut self.opening {
            let limit = opening.options.limits.handshake_ms_max;
            opening.connect_by = turn.now.plus_ms(limit);
        }
        self.finish(turn);
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        if self.link.stream.has_ended() && !self.link.stream.is_websocket() {
            input.clear();
            return;
        }
        if let Some(session) = &mut self.session {
            session.heard = turn.now;
        }
        if !self.link.stream.has_ended() && !self.judge_first(input, turn) {
            return self.finish(turn);
        }
        if self.link.stream.waiting().is_empty() {
            self.take(input, turn);
            if self.is_busy() && !input.is_empty() {
                *self.link.stream.waiting() = input.split();
            }
        } else {
            self.link.stream.waiting().extend_from_slice(input);
            input.clear();
            self.take_waiting(turn);
        }
        let max = self.link.decoder.packet_bytes_max() + HELD_BYTES_MAX;
        if self.link.stream.kept() > max {
            let text = "too much was sent ahead of an answer";
            misbehaved(&mut self.link, turn, ReasonCode::QuotaExceeded, text);
        }
        self.finish(turn);
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        let is_traffic = matches!(event, Event::Published { .. } | Event::Held);
        match event {
            Event::PeerFinished => self.link.stream.peer_finished(),
            Event::Closed => {
                if let Some(session) = &mut self.session {
                    session.last_save(turn);
                    session.is_taken_over = true;
                }
                return;
            }
            Event::Refused { tag, refusal } => self.refused(tag, &refusal, turn),
            Event::Drain {
                reconnect_after,
                refusal,
            } => self.drain(reconnect_after, &refusal, turn),
            event => self.told(event, turn),
        }
        self.take_waiting(turn);
        if self.link.stream.is_done(self.is_busy()) {
            self.link.stream.finish(turn);
        }
        self.finish(turn);
        if !is_traffic {
            self.give_back();
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.give_back();
        self.link.stream.tick(turn);
        if self.link.stream.has_ended() {
            return self.finish(turn);
        }
        if let Some(session) = self.session.as_mut().filter(|_| turn.is_slow) {
            session.heard = turn.now;
        }
        let silent = |session: &Session| session.silent_at().is_some_and(|at| turn.now >= at);
        let is_late = |opening: &Opening| turn.now >= opening.connect_by;
        match &self.session {
            None if self.opening.as_deref().is_some_and(is_late) => {
                let text = "no CONNECT came in time (limits.handshake_ms_max)";
                let refusal = Refusal::new(RefusalCode::RequestTimeout, text);
                turn.commands.push(Command::Refused(refusal));
                self.link.end(turn);
            }
            Some(session) if silent(session) => {
                // MQTT-3.1.2-22.
                let text = "nothing was heard for one and a half times the keep alive";
                let refusal = Refusal::new(RefusalCode::Silent, text);
                refuse(&mut self.link, turn, ReasonCode::KeepAliveTimeout, refusal);
            }
            _ => {}
        }
        self.finish(turn);
    }

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        match &mut self.session {
            Some(session) => session.frame(&self.link, delivery, frames),
            None => Framed::Unwanted,
        }
    }
}

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod connect_tests;
#[cfg(test)]
mod deliver_tests;
#[cfg(test)]
mod inbound_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod subscribe_tests;
#[cfg(test)]
mod websocket_tests;
