//! The bytes of protocols that are streams: as they are over TCP, in messages over WebSocket, which packets may span
//! and share.
//!
//! Input that has to wait for an answer of the hub is held here, so that packets take effect in their order.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tidings_ports::{Ending, Tick, Turn};
use tidings_types::Limits;

use crate::websocket::{self, Opcode, Received};

/// Close codes (RFC 6455 7.4.1).
pub(crate) const NORMAL_CLOSURE: u16 = 1000;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;

/// The FIN bit of a WebSocket frame.
const FIN: u8 = 0x80;

/// Which WebSocket messages carry a protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payloads {
    /// Binary ones in both directions; what is said of text.
    Binary(&'static str),
    /// Either from the peer; what is sent by [`Stream::flush`] is text.
    Any,
}

/// What carries the bytes over WebSocket.
struct Wrapped {
    link: websocket::Link,
    payloads: Payloads,
    /// Input whose messages wait to be taken out: a close frame is not seen before the packets in front of it.
    input: BytesMut,
}

/// One connection's bytes.
pub(crate) struct Stream {
    websocket: Option<Box<Wrapped>>,
    /// Bytes that wait, or of which the rest is awaited.
    pub(crate) held: BytesMut,
    /// Bytes that are not among the turn's frames yet.
    pub(crate) out: BytesMut,
    /// The peer sent its last byte.
    is_finished: bool,
    /// Nothing is sent any more.
    ended: bool,
}

impl Stream {
    /// Over TCP.
    pub(crate) fn plain() -> Self {
        Self {
            websocket: None,
            held: BytesMut::new(),
            out: BytesMut::new(),
            is_finished: false,
            ended: false,
        }
    }

    /// Over WebSocket, in messages that are at most this large on their way in.
    pub(crate) fn wrapped(
        limits: &Arc<Limits>,
        message_bytes_max: usize,
        payloads: Payloads,
    ) -> Self {
        let wrapped = Wrapped {
            link: websocket::Link::new(Arc::clone(limits), None, message_bytes_max),
            payloads,
            input: BytesMut::new(),
        };
        Self {
            websocket: Some(Box::new(wrapped)),
            ..Self::plain()
        }
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn opened(&mut self, turn: &mut Turn<'_>) {
        if let Some(wrapped) = &mut self.websocket {
            wrapped.link.opened(turn);
        }
    }

    /// Takes the next WebSocket message out of the input and keeps what it carries. `false` if there is none, or
    /// this is TCP.
    pub(crate) fn unwrap_one(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) -> bool {
        let Some(wrapped) = &mut self.websocket else {
            return false;
        };
        let link = &mut wrapped.link;
        let received = link.receive(input, turn);
        match (&received, wrapped.payloads) {
            (Some(Received::Text(_)), Payloads::Binary(detail)) => {
                link.close(UNSUPPORTED_DATA, detail, turn);
            }
            (Some(Received::Binary(payload) | Received::Text(payload)), _) => {
                self.held.extend_from_slice(payload);
            }
            (None, _) => {}
        }
        self.ended |= !link.is_open();
        received.is_some()
    }

    /// Input that has to wait before anything is taken out of it.
    pub(crate) fn waiting(&mut self) -> &mut BytesMut {
        match &mut self.websocket {
            Some(wrapped) => &mut wrapped.input,
            None => &mut self.held,
        }
    }

    /// How much input is kept.
    pub(crate) fn kept(&self) -> usize {
        let wrapped = self.websocket.as_ref();
        self.held.len() + wrapped.map_or(0, |wrapped| wrapped.input.len())
    }

    /// Adds frames that are complete, behind the bytes before them.
    pub(crate) fn put(&mut self, turn: &mut Turn<'_>, frames: impl Iterator<Item = Bytes>) {
        self.flush(turn);
        if !self.ended {
            turn.frames.extend(frames);
        }
    }

    /// Gives the bytes to the turn.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_>) {
        if self.out.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.out).freeze();
        turn.frames.push(match &self.websocket {
            Some(wrapped) => websocket::frame(wrapped.payloads.opcode(), &bytes),
            None => bytes,
        });
    }

    /// Ends the connection once everything is written. The code and the reason are for WebSocket.
    pub(crate) fn close(&mut self, code: u16, reason: &str, turn: &mut Turn<'_>) {
        if self.ended {
            return;
        }
        self.flush(turn);
        self.ended = true;
        self.held = BytesMut::new();
        match &mut self.websocket {
            Some(wrapped) => wrapped.link.close(code, reason, turn),
            None => turn.ending = Some(Ending::AfterFlush),
        }
    }

    /// The peer sent its last byte. What it sent before is taken first.
    pub(crate) fn peer_finished(&mut self) {
        self.is_finished = true;
    }

    /// Whether the peer sent its last byte, and nothing of it has to wait.
    pub(crate) fn is_done(&self, is_busy: bool) -> bool {
        self.is_finished && !(is_busy && !self.ended && self.kept() > 0)
    }

    /// Ends the connection of a peer that sent its last byte.
    pub(crate) fn finish(&mut self, turn: &mut Turn<'_>) {
        self.flush(turn);
        self.ended = true;
        match &mut self.websocket {
            Some(wrapped) => wrapped.link.peer_finished(turn),
            None => turn.ending = Some(Ending::AfterFlush),
        }
    }

    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        if let Some(wrapped) = &mut self.websocket {
            wrapped.link.tick(turn);
            self.ended |= !wrapped.link.is_open();
        }
    }

    /// When [`Stream::tick`] is needed next.
    pub(crate) fn wake(&self) -> Option<Tick> {
        self.websocket
            .as_ref()
            .and_then(|wrapped| wrapped.link.wake())
    }
}

impl Payloads {
    fn opcode(self) -> Opcode {
        match self {
            Self::Binary(_) => Opcode::Binary,
            Self::Any => Opcode::Text,
        }
    }
}

/// The first byte of an unfragmented WebSocket message.
pub(crate) const fn first_byte(opcode: Opcode) -> u8 {
    FIN | opcode as u8
}

/// The head of a WebSocket message with a payload of this length (RFC 6455 5.2).
pub(crate) fn put_message_head(out: &mut impl BufMut, first: u8, len: usize) {
    out.put_u8(first);
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
pub(crate) const fn message_head_len(len: usize) -> usize {
    match len {
        ..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}
