//! What both WebSocket conversations share: decoding, heartbeats, silence, and the close handshake
//! (RFC 6455 5.5, 7).
//!
//! A link is open, then closing (our close frame went first, and the peer's is awaited for a bounded time), then
//! ended. Whoever closes first, exactly one close frame is written, and nothing after it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidings_ports::{Command, Ending, Tick, Turn};
use tidings_types::{Limits, Refusal, RefusalCode};

use super::codec::{Decoder, Incoming, Rules};
use super::extension::Deflate;
use super::frame::{self, Opcode};

/// A message from the peer.
pub(crate) enum Received {
    Text(Bytes),
    Binary(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our close frame is written; the peer's is awaited until then.
    Closing(Tick),
    Ended,
}

/// One connection's frames and deadlines.
pub(crate) struct Link {
    pub(crate) limits: Arc<Limits>,
    pub(crate) deflate: Option<Deflate>,
    decoder: Decoder,
    message_bytes_max: usize,
    phase: Phase,
    /// When the peer last sent a byte.
    heard: Tick,
    ping_at: Tick,
}

impl Link {
    /// A link whose messages in are at most this large.
    pub(crate) fn new(
        limits: Arc<Limits>,
        deflate: Option<Deflate>,
        message_bytes_max: usize,
    ) -> Self {
        Self {
            limits,
            deflate,
            decoder: Decoder::default(),
            message_bytes_max,
            phase: Phase::Open,
            heard: Tick::default(),
            ping_at: Tick::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Starts the deadlines.
    pub(crate) fn opened(&mut self, turn: &mut Turn<'_>) {
        self.heard = turn.now;
        self.ping_at = self.next_ping(turn);
        turn.wake = Some(self.deadline());
    }

    /// Takes the next message from the input and answers what is not a message. Every ping gets its pong:
    /// RFC 6455 5.5.3 would permit to answer the newest alone, but Autobahn 2.10 wants all, and a pong is
    /// shorter than its ping.
    pub(crate) fn receive(
        &mut self,
        input: &mut BytesMut,
        turn: &mut Turn<'_>,
    ) -> Option<Received> {
        self.heard = turn.now;
        let rules = Rules {
            message_bytes_max: self.message_bytes_max,
            deflate: self.deflate.is_some(),
        };
        while self.phase != Phase::Ended {
            let incoming = match self.decoder.next(input, rules) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return None,
                Err(violation) => {
                    // What follows cannot be read any more (RFC 6455 7.1.7): no close is awaited.
                    self.refuse(violation.code(), violation.reason(), turn);
                    self.end(Ending::AfterFlush, turn);
                    break;
                }
            };
            match incoming {
                Incoming::Text(payload) if self.is_open() => return Some(Received::Text(payload)),
                Incoming::Binary(payload) if self.is_open() => {
                    return Some(Received::Binary(payload));
                }
                Incoming::Ping(payload) if self.is_open() => {
                    turn.frames.push(frame::frame(Opcode::Pong, &payload));
                }
                Incoming::Close(code) => self.answer_close(code, turn),
                // After our own close frame only the peer's still matters.
                _ => {}
            }
        }
        input.clear();
        None
    }

    /// Echoes the peer's close, unless it is the answer to ours, and ends.
    fn answer_close(&mut self, code: Option<u16>, turn: &mut Turn<'_>) {
        if self.is_open() {
            turn.frames.push(frame::close(code, ""));
        }
        self.end(Ending::AfterFlush, turn);
    }

    /// Writes a close frame and waits for the peer's.
    pub(crate) fn close(&mut self, code: u16, reason: &str, turn: &mut Turn<'_>) {
        if !self.is_open() {
            return;
        }
        turn.frames.push(frame::close(Some(code), reason));
        let until = turn.now.plus_ms(self.limits.close_ms_max);
        self.phase = Phase::Closing(until);
        turn.wake = Some(until);
    }

    /// Closes for a refusal that the conversation speaks itself, and counts it.
    pub(crate) fn refuse(&mut self, code: RefusalCode, detail: &str, turn: &mut Turn<'_>) {
        if self.is_open() {
            turn.commands
                .push(Command::Refused(Refusal::new(code, detail)));
        }
        self.close(code.close_code(), detail, turn);
    }

    /// Closes because the server goes down or sheds the connection; the reason says when to come back.
    pub(crate) fn drain(&mut self, after: Duration, refusal: &Refusal, turn: &mut Turn<'_>) {
        let why = match refusal.code {
            RefusalCode::ShuttingDown => "restarting",
            RefusalCode::Unauthorized => &refusal.detail,
            _ => refusal.code.title(),
        };
        let reason = format!("{why}, reconnect in {} ms", after.as_millis());
        self.close(refusal.code.close_code(), &reason, turn);
    }

    /// The peer sent its last byte: there will be no close frame of it.
    pub(crate) fn peer_finished(&mut self, turn: &mut Turn<'_>) {
        if self.phase != Phase::Ended {
            self.end(Ending::AfterFlush, turn);
        }
    }

    /// Pings when it is time, and gives up on a peer that is silent or does not close.
    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        if turn.is_slow {
            self.heard = turn.now;
        }
        match self.phase {
            Phase::Ended => {}
            Phase::Closing(until) if turn.now >= until => self.end(Ending::AtOnce, turn),
            Phase::Closing(until) => turn.wake = Some(until),
            Phase::Open if turn.now >= self.dead_at() => {
                let detail = format!(
                    "nothing was heard for {} ms, not even a pong",
                    self.limits.silence_ms_max
                );
                self.refuse(RefusalCode::Silent, &detail, turn);
                self.end(Ending::AfterFlush, turn);
            }
            Phase::Open => {
                if turn.now >= self.ping_at {
                    turn.frames.push(frame::ping());
                    self.ping_at = self.next_ping(turn);
                }
                turn.wake = Some(self.deadline());
            }
        }
    }

    fn end(&mut self, ending: Ending, turn: &mut Turn<'_>) {
        self.phase = Phase::Ended;
        self.decoder = Decoder::default();
        turn.ending = Some(ending);
    }

    /// When [`Link::tick`] is needed next.
    pub(crate) fn wake(&self) -> Option<Tick> {
        match self.phase {
            Phase::Open => Some(self.deadline()),
            Phase::Closing(until) => Some(until),
            Phase::Ended => None,
        }
    }

    fn dead_at(&self) -> Tick {
        self.heard.plus_ms(self.limits.silence_ms_max)
    }

    fn deadline(&self) -> Tick {
        self.ping_at.min(self.dead_at())
    }

    /// A heartbeat from now, an eighth more or less, so that peers that came together do not stay together.
    fn next_ping(&self, turn: &Turn<'_>) -> Tick {
        let interval = self.limits.heartbeat_ms.max(1);
        turn.now
            .plus_ms(interval - interval / 8 + turn.random % (interval / 4 + 1))
    }

    /// The bytes kept of an incomplete message.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.decoder.buffered()
    }
}
