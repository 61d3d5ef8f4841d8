//! The connection's bytes: packets out, over TCP or in binary WebSocket messages, and input that has to wait.
//!
//! While the hub has to answer first (the session is being opened, a subscription is being made), or too many
//! publishes wait, what came after is held here and taken later, so that packets take effect in their order.

use bytes::{BufMut, Bytes, BytesMut};
use tidings_ports::{Ending, Turn};
use tidings_types::Limits;

use super::Transport;
use super::codec::{
    Ack, AckKind, Connack, Farewell, PINGRESP, PacketKind, PacketTooLarge, ReasonCode, Version,
    Wire,
};
use crate::websocket::{self, Received};

/// RFC 6455 7.4.1.
const NORMAL_CLOSURE: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
/// FIN and the opcode of a binary message.
const BINARY: u8 = 0x82;

/// What carries the packets of a connection over WebSocket.
struct Wrapped {
    link: websocket::Link,
    /// Input whose messages wait to be taken out: a close frame is not seen before the packets in front of it.
    input: BytesMut,
}

/// One connection's bytes.
pub(super) struct Link {
    websocket: Option<Box<Wrapped>>,
    /// Packets that wait, or of which the rest is awaited.
    pub(super) held: BytesMut,
    /// Packets that are not among the turn's frames yet.
    out: BytesMut,
    /// What the client takes.
    pub(super) wire: Wire,
    /// The CONNACK is sent.
    pub(super) is_welcome: bool,
    /// The peer sent its last byte.
    is_finished: bool,
    /// Nothing is sent any more.
    ended: bool,
}

impl Link {
    pub(super) fn new(transport: Transport, limits: &std::sync::Arc<Limits>) -> Self {
        let websocket = match transport {
            Transport::Tcp => None,
            Transport::WebSocket => {
                let bytes_max = super::packet_bytes_max(limits);
                Some(Box::new(Wrapped {
                    link: websocket::Link::new(std::sync::Arc::clone(limits), None, bytes_max),
                    input: BytesMut::new(),
                }))
            }
        };
        Self {
            websocket,
            held: BytesMut::new(),
            out: BytesMut::new(),
            wire: Wire::new(Version::V4),
            is_welcome: false,
            is_finished: false,
            ended: false,
        }
    }

    pub(super) fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn opened(&mut self, turn: &mut Turn<'_>) {
        if let Some(wrapped) = &mut self.websocket {
            wrapped.link.opened(turn);
        }
    }

    /// Takes the next WebSocket message out of the input and keeps what it carries. `false` if there is none, or
    /// this is TCP.
    pub(super) fn unwrap_one(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) -> bool {
        let Some(wrapped) = &mut self.websocket else {
            return false;
        };
        let websocket = &mut wrapped.link;
        let received = websocket.receive(input, turn);
        match &received {
            Some(Received::Binary(payload)) => self.held.extend_from_slice(payload),
            Some(Received::Text(_)) => {
                // MQTT-6.0.0-1.
                websocket.close(
                    UNSUPPORTED_DATA,
                    "MQTT packets travel in binary messages",
                    turn,
                );
            }
            None => {}
        }
        self.ended |= !websocket.is_open();
        received.is_some()
    }

    /// Input that has to wait before anything is taken out of it.
    pub(super) fn waiting(&mut self) -> &mut BytesMut {
        match &mut self.websocket {
            Some(wrapped) => &mut wrapped.input,
            None => &mut self.held,
        }
    }

    /// How much input is kept.
    pub(super) fn kept(&self) -> usize {
        let wrapped = self.websocket.as_ref();
        self.held.len() + wrapped.map_or(0, |wrapped| wrapped.input.len())
    }

    /// Appends a packet, if the client takes it; ends the connection if it is too small for what must be said.
    pub(super) fn send(
        &mut self,
        turn: &mut Turn<'_>,
        encode: impl FnOnce(Wire, &mut BytesMut) -> Result<(), PacketTooLarge>,
    ) {
        if self.ended {
            return;
        }
        if encode(self.wire, &mut self.out).is_err() {
            self.end(turn);
        }
    }

    pub(super) fn ack(&mut self, turn: &mut Turn<'_>, kind: AckKind, ack: &Ack) {
        self.send(turn, |wire, out| ack.encode(kind, wire, out));
    }

    pub(super) fn pong(&mut self) {
        if !self.ended {
            self.out.put_slice(&PINGRESP);
        }
    }

    /// Adds frames that are complete, behind the packets before them.
    pub(super) fn put(&mut self, turn: &mut Turn<'_>, frames: impl Iterator<Item = Bytes>) {
        self.flush(turn);
        if !self.ended {
            turn.frames.extend(frames);
        }
    }

    /// Gives the packets to the turn.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>) {
        if self.out.is_empty() {
            return;
        }
        let packets = std::mem::take(&mut self.out).freeze();
        if self.websocket.is_some() {
            turn.frames
                .push(websocket::frame(websocket::Opcode::Binary, &packets));
        } else {
            turn.frames.push(packets);
        }
    }

    /// Says why, and ends the connection: with a DISCONNECT (5.0), or with the CONNACK if there was none yet
    /// (MQTT-3.14.0-1).
    pub(super) fn disconnect(&mut self, turn: &mut Turn<'_>, farewell: Farewell) {
        // One that is too large is left away: the connection ends anyway.
        if self.is_welcome {
            self.send(turn, |wire, out| farewell.encode(wire, out).or(Ok(())));
        } else {
            let permitted = farewell.reason.server_may_send(PacketKind::Connack);
            let reason = if permitted {
                farewell.reason
            } else {
                ReasonCode::UnspecifiedError
            };
            let connack = Connack {
                server_reference: farewell.server_reference,
                diagnostics: farewell.diagnostics,
                ..Connack::refused(reason)
            };
            self.send(turn, |wire, out| connack.encode(wire, out).or(Ok(())));
        }
        self.end(turn);
    }

    /// Sends these last bytes, if any, and ends the connection.
    pub(super) fn dismiss(&mut self, turn: &mut Turn<'_>, last: Option<Bytes>) {
        if let (Some(last), false) = (last, self.ended) {
            self.out.put_slice(&last);
        }
        self.close(turn, PROTOCOL_ERROR);
    }

    /// Ends the connection once everything is written.
    pub(super) fn end(&mut self, turn: &mut Turn<'_>) {
        self.close(turn, NORMAL_CLOSURE);
    }

    fn close(&mut self, turn: &mut Turn<'_>, code: u16) {
        if self.ended {
            return;
        }
        self.flush(turn);
        self.ended = true;
        self.held = BytesMut::new();
        match &mut self.websocket {
            Some(wrapped) => wrapped.link.close(code, "", turn),
            None => turn.ending = Some(Ending::AfterFlush),
        }
    }

    /// The peer sent its last byte. What it sent before is taken first.
    pub(super) fn peer_finished(&mut self) {
        self.is_finished = true;
    }

    /// Ends the connection if the peer sent its last byte, and nothing of it has to wait.
    pub(super) fn end_if_finished(&mut self, turn: &mut Turn<'_>, is_busy: bool) {
        if !self.is_finished || (is_busy && !self.ended && self.kept() > 0) {
            return;
        }
        self.flush(turn);
        self.ended = true;
        match &mut self.websocket {
            Some(wrapped) => wrapped.link.peer_finished(turn),
            None => turn.ending = Some(Ending::AfterFlush),
        }
    }

    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        if let Some(wrapped) = &mut self.websocket {
            wrapped.link.tick(turn);
            self.ended |= !wrapped.link.is_open();
        }
    }

    /// When [`Link::tick`] is needed next.
    pub(super) fn wake(&self) -> Option<tidings_ports::Tick> {
        self.websocket
            .as_ref()
            .and_then(|wrapped| wrapped.link.wake())
    }
}

/// The head of a binary WebSocket message with a payload of this length (RFC 6455 5.2).
pub(super) fn put_binary_head(out: &mut impl BufMut, len: usize) {
    out.put_u8(BINARY);
    match len {
        ..=125 => out.put_u8(len as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

/// How long that head is.
pub(super) const fn binary_head_len(len: usize) -> usize {
    match len {
        ..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Just a reason, with a sentence.
pub(super) fn farewell(reason: ReasonCode, text: impl Into<bytestring::ByteString>) -> Farewell {
    Farewell {
        diagnostics: super::codec::Diagnostics::text(text),
        ..Farewell::new(reason)
    }
}
