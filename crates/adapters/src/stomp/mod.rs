//! STOMP 1.0, 1.1 and 1.2, over TCP and WebSocket (`WIRE.md` beside this file lists the rules).
//!
//! One connection is one [`StompConversation`]. [`codec`] knows frames; the rest knows what they ask for: `connect`
//! opens the session, `send` publishes, `subscribe` subscribes, `deliver` makes MESSAGE frames, `settle`
//! acknowledges, `transactions` collects, `answers` owes receipts, and `farewell` says what was wrong.
//!
//! Each subscription is one of the hub, with one filter. What is refused ends the connection, as the protocol
//! demands. A connection that waits keeps no buffer, and nothing of what it does not use.

mod answers;
pub mod codec;
mod connect;
mod deliver;
mod destination;
mod farewell;
mod format;
mod heartbeat;
mod send;
mod settle;
mod subscribe;
mod transactions;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_ports::{
    Command, Conversation, Credential, Delivery, Event, Framed, SignOn, SubscriptionKey, Tag, Tick,
    Turn, Verdict,
};
use tidings_types::{Epoch, Limits, Protocol, Refusal, RefusalCode};

use self::answers::{Pending, What};
use self::codec::{Decoder, Encoder, Frame, HEART_BEAT, Item, Sender, Version};
use self::deliver::Held;
use self::farewell::Farewell;
use self::heartbeat::HeartBeat;
use self::settle::Ended;
use self::subscribe::Subscription;
use self::transactions::Transaction;
use crate::transport::{PROTOCOL_ERROR, Payloads, Stream};

/// The sub-protocol names of STOMP over WebSocket, the preferred one first.
pub const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

/// Input that waits for the hub, or shares a WebSocket message, over that of one frame.
const HELD_BYTES_MAX: usize = 1 << 20;

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream of bytes.
    Tcp,
    /// WebSocket messages, which frames may span and share; the version of the chosen sub-protocol.
    WebSocket(Option<Version>),
}

impl Transport {
    /// A WebSocket for which this one of [`SUBPROTOCOLS`] was chosen, or none.
    #[must_use]
    pub fn websocket(subprotocol: Option<&str>) -> Self {
        Self::WebSocket(match subprotocol {
            Some("v12.stomp") => Some(Version::V12),
            Some("v11.stomp") => Some(Version::V11),
            Some("v10.stomp") => Some(Version::V10),
            _ => None,
        })
    }
}

/// What a connection was opened with.
#[derive(Clone, Debug)]
pub struct StompOptions {
    /// What carries the frames.
    pub transport: Transport,
    /// The limits.
    pub limits: Arc<Limits>,
    /// Whether clients must say who they are.
    pub sign_on: SignOn,
    /// What the handshake of a WebSocket showed: it counts for a CONNECT that shows nothing.
    pub shown: Credential,
}

/// One STOMP client.
pub struct StompConversation {
    limits: Arc<Limits>,
    sign_on: SignOn,
    /// By the sub-protocol.
    offered: Option<Version>,
    stream: Stream,
    decoder: Decoder,
    /// When the CONNECT must be there.
    connect_by: Tick,
    beat: HeartBeat,
    /// In the order of their keys.
    subscriptions: Vec<Subscription>,
    /// The first is 1.
    last_key: u32,
    /// Commands that the hub has not answered.
    unanswered: usize,
    last_tag: u64,
    /// Of the log; known once there is a subscription.
    epoch: Epoch,
    work: Option<Box<Work>>,
}

/// What a connection that only listens has none of.
#[derive(Debug, Default)]
struct Work {
    /// Ascending tags.
    pending: VecDeque<Pending>,
    /// How many of them must be done before anything else.
    barriers: usize,
    transactions: Vec<Transaction>,
    held: Vec<Held>,
    held_bytes: usize,
    /// Subscriptions that stopped because too much is held.
    blocked: Vec<SubscriptionKey>,
    goodbye: Option<Goodbye>,
    /// The last ones, the oldest first.
    ended: VecDeque<Ended>,
    /// What the handshake showed, until the CONNECT.
    shown: Option<Credential>,
}

/// What the client asked for with its goodbye.
#[derive(Debug)]
struct Goodbye {
    receipt: Option<ByteString>,
}

impl Work {
    fn is_idle(&self) -> bool {
        self.pending.is_empty()
            && self.transactions.is_empty()
            && self.held.is_empty()
            && self.blocked.is_empty()
            && self.goodbye.is_none()
            && self.ended.is_empty()
            && self.shown.is_none()
    }
}

/// The largest frame that is taken.
fn frame_bytes_max(limits: &Limits) -> usize {
    limits
        .message_bytes_max
        .saturating_add(limits.request_head_bytes_max)
        .saturating_add(64)
}

impl StompConversation {
    /// A conversation for a connection that was just accepted, or whose WebSocket handshake is done.
    #[must_use]
    pub fn new(options: StompOptions) -> Self {
        let StompOptions {
            transport,
            limits,
            sign_on,
            shown,
        } = options;
        let shown = Some(shown).filter(|it| !matches!(it, Credential::Anonymous));
        let (stream, offered) = match transport {
            Transport::Tcp => (Stream::plain(), None),
            Transport::WebSocket(offered) => {
                let bytes_max = frame_bytes_max(&limits).saturating_add(HELD_BYTES_MAX);
                (Stream::wrapped(&limits, bytes_max, Payloads::Any), offered)
            }
        };
        let of_frames = codec::Limits {
            header_count_max: limits.stomp_headers_max,
            header_line_bytes_max: limits.request_head_bytes_max,
            header_bytes_max: limits.request_head_bytes_max,
            body_bytes_max: limits.message_bytes_max,
        };
        Self {
            offered,
            stream,
            decoder: Decoder::new(Sender::Client, of_frames),
            limits,
            sign_on,
            connect_by: Tick::default(),
            beat: HeartBeat::default(),
            subscriptions: Vec::new(),
            last_key: 0,
            unanswered: 0,
            last_tag: 0,
            epoch: Epoch(0),
            work: shown.map(|shown| {
                Box::new(Work {
                    shown: Some(shown),
                    ..Work::default()
                })
            }),
        }
    }

    /// The version that is spoken. Before that is agreed on, 1.0 is what every client understands.
    fn version(&self) -> Version {
        self.decoder.version().unwrap_or(Version::V10)
    }

    fn encoder(&self) -> Encoder {
        Encoder::new(self.version())
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    /// Whether what comes next has to wait for the hub.
    fn is_busy(&self) -> bool {
        self.unanswered >= self.limits.publishes_in_flight_max.max(1)
            || self.work.as_ref().is_some_and(|work| work.barriers > 0)
    }

    /// Takes frames off the front of the bytes until they are used up, or have to wait.
    fn pump(&mut self, bytes: &mut BytesMut, turn: &mut Turn<'_>) {
        // Nothing at all is not the front of a frame whose rest the hub has.
        while !bytes.is_empty() && !self.is_deaf() && !self.is_busy() {
            match self.decoder.decode(bytes) {
                Ok(Some(Item::Frame(frame))) => self.received(frame, turn),
                Ok(Some(Item::HeartBeat)) => {}
                Ok(None) => break,
                Err(violation) => self.violated(violation, turn),
            }
        }
        if self.is_deaf() {
            bytes.clear();
        }
    }

    /// Whether nothing that still comes counts: after a DISCONNECT, or an ERROR of ours.
    fn is_deaf(&self) -> bool {
        self.stream.has_ended() || self.said_goodbye()
    }

    fn received(&mut self, frame: Frame, turn: &mut Turn<'_>) {
        let headers = &frame.headers;
        let receipt = headers.get("receipt").cloned();
        let asked = receipt.clone();
        let done = match frame.command {
            codec::Command::Connect | codec::Command::Stomp => {
                return self.connect(headers, turn);
            }
            codec::Command::Send => self.send(frame, receipt, turn),
            codec::Command::Subscribe => self.subscribe(headers, receipt, turn),
            codec::Command::Unsubscribe => self.unsubscribe(headers, receipt, turn),
            codec::Command::Ack => self.acknowledge(headers, Verdict::Ack, receipt, turn),
            codec::Command::Nack => self.acknowledge(headers, Verdict::Nack, receipt, turn),
            codec::Command::Begin => self.begin(headers, receipt),
            codec::Command::Commit => self.commit(headers, receipt, turn),
            codec::Command::Abort => self.abort(headers, receipt),
            codec::Command::Disconnect => {
                self.disconnect(receipt);
                Ok(())
            }
            // The decoder takes none of these from a client.
            codec::Command::Connected
            | codec::Command::Message
            | codec::Command::Receipt
            | codec::Command::Error => Ok(()),
        };
        if let Err(refusal) = done {
            self.refuse(&refusal, &Farewell::to(asked), turn);
        }
    }

    /// Takes what was held, once it need not wait any more.
    fn pump_held(&mut self, turn: &mut Turn<'_>) {
        if self.stream.held.is_empty() || self.is_busy() {
            return;
        }
        let mut held = std::mem::take(&mut self.stream.held);
        self.pump(&mut held, turn);
        if !held.is_empty() {
            self.stream.held = held;
        }
    }

    /// Takes what can be taken of the input, frame by frame and message by message, in their order.
    fn take(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        if !self.stream.is_websocket() {
            return self.pump(input, turn);
        }
        loop {
            self.pump_held(turn);
            let waits = self.is_busy() && !self.stream.has_ended();
            if waits || !self.stream.unwrap_one(input, turn) {
                return;
            }
        }
    }

    /// Takes input that had to wait, once it need not wait any more.
    fn take_waiting(&mut self, turn: &mut Turn<'_>) {
        if self.is_busy() && !self.stream.has_ended() {
            return;
        }
        let mut waiting = std::mem::take(self.stream.waiting());
        self.take(&mut waiting, turn);
        if !waiting.is_empty() {
            *self.stream.waiting() = waiting;
        }
    }

    fn told(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Subscribed { tag, cursor, .. } => {
                self.epoch = cursor.epoch;
                self.done(tag);
            }
            Event::Published { tag, .. }
            | Event::Unsubscribed { tag, .. }
            | Event::Settled { tag } => self.done(tag),
            Event::Authenticated { tag, left, .. } => self.identified(tag, left, turn),
            Event::Refused { tag, refusal } => self.refused(tag, refusal, turn),
            Event::Gap { key, gap } => self.gap(key, gap),
            Event::Lost { refusal, .. } => self.dismiss(&refusal, &Farewell::default(), turn),
            Event::Held => self.send_held(turn),
            Event::Drain {
                reconnect_after,
                refusal,
            } => {
                let farewell = Farewell {
                    reconnect_after: Some(reconnect_after),
                    ..Farewell::default()
                };
                self.dismiss(&refusal, &farewell, turn);
            }
            // There are no sessions, and no subscription that ends by itself.
            Event::CaughtUp { .. }
            | Event::Session { .. }
            | Event::Saved { .. }
            | Event::TakenOver
            // An ERROR is its only word for it, and ends the connection.
            | Event::Expiring { .. }
            | Event::PeerFinished
            | Event::Closed => {}
        }
    }

    /// The hub did not carry out a command, and has counted that.
    fn refused(&mut self, tag: Tag, refusal: Refusal, turn: &mut Turn<'_>) {
        let pending = self.answered(tag);
        let refusal = match &pending {
            Some(pending) if matches!(pending.what, What::Commit { .. }) => {
                transactions::not_committed(refusal)
            }
            _ => refusal,
        };
        let farewell = Farewell::to(pending.and_then(|pending| pending.receipt));
        self.dismiss(&refusal, &farewell, turn);
    }

    /// What the end of every call has to do.
    fn finish(&mut self, turn: &mut Turn<'_>) {
        self.leave_if_done(turn);
        self.stream.flush(turn);
        if self.stream.has_ended() {
            self.give_back(|_| true, turn);
        }
        if self.stream.has_ended() && self.stream.is_websocket() {
            // The close frame is the last one, and the peer's is awaited.
            self.end_subscriptions(turn);
        }
        if self.work.as_ref().is_some_and(|work| work.is_idle()) {
            self.work = None;
        }
        let opening = self.decoder.version().is_none().then_some(self.connect_by);
        let ours = opening.or_else(|| self.beat.wake());
        let ours = ours.filter(|_| !self.stream.has_ended());
        let wake = [self.stream.wake(), ours].into_iter().flatten().min();
        turn.wake = wake.or(turn.wake);
    }
}

impl Conversation for StompConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Stomp
    }

    fn wants_each(&self) -> bool {
        true
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        self.stream.opened(turn);
        self.connect_by = turn.now.plus_ms(self.limits.handshake_ms_max);
        self.finish(turn);
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        if self.stream.has_ended() && !self.stream.is_websocket() {
            input.clear();
            return;
        }
        self.beat.heard(turn.now);
        if self.stream.waiting().is_empty() {
            self.take(input, turn);
            if self.is_busy() && !input.is_empty() {
                *self.stream.waiting() = input.split();
            }
        } else {
            self.stream.waiting().extend_from_slice(input);
            input.clear();
            self.take_waiting(turn);
        }
        let max = frame_bytes_max(&self.limits).saturating_add(HELD_BYTES_MAX);
        if self.stream.kept() > max {
            let detail = "too much was sent ahead of an answer: wait for receipts";
            let refusal = Refusal::new(RefusalCode::RateLimited, detail);
            self.refuse(&refusal, &Farewell::default(), turn);
        }
        self.finish(turn);
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Closed => return,
            Event::PeerFinished => self.stream.peer_finished(),
            event => self.told(event, turn),
        }
        self.take_waiting(turn);
        self.finish(turn);
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.stream.tick(turn);
        if self.stream.has_ended() {
            return self.finish(turn);
        }
        if turn.is_slow {
            self.beat.heard(turn.now);
        }
        if self.decoder.version().is_none() {
            if turn.now >= self.connect_by {
                let text = "no CONNECT came in time";
                let refusal = Refusal::new(RefusalCode::RequestTimeout, text);
                turn.commands.push(Command::Refused(refusal));
                self.stream.close(PROTOCOL_ERROR, text, turn);
            }
        } else if self.beat.is_dead(turn.now) {
            let detail = format!(
                "nothing was heard for three times the {} ms of the heart-beat",
                self.beat.in_ms
            );
            let refusal = Refusal::new(RefusalCode::Silent, detail);
            self.refuse(&refusal, &Farewell::default(), turn);
        } else if self.beat.is_due(turn.now) {
            self.stream.out.extend_from_slice(HEART_BEAT);
            self.beat.schedule(turn.now, turn.random);
        }
        self.finish(turn);
    }

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        self.deliver(delivery, frames)
    }
}

/// A header that a frame must have is missing.
fn missing(header: &str, command: &str) -> Refusal {
    let detail = format!("{command} needs the header `{header}`");
    Refusal::new(RefusalCode::BadFrame, detail)
}

#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod connect_tests;
#[cfg(test)]
mod deliver_tests;
#[cfg(test)]
mod send_tests;
#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod subscribe_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod transaction_tests;
#[cfg(test)]
mod websocket_tests;
