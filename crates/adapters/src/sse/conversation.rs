//! One open stream.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Event, Framed, Framing, SubscriptionKey, Tag, Turn,
    Until,
};
use tidings_types::{Cursor, Limits, Protocol, Refusal};

use super::event::{HEARTBEAT, write_data, write_gap_event, write_position, write_retry};
use super::gzip::{HEADER, chunk};
use super::{Format, SseRequest};
use crate::envelope::write_json_string;

const TAG: Tag = Tag(0);
const KEY: SubscriptionKey = SubscriptionKey(0);

/// How long a reader waits before it comes back, before jitter: from half of it to one and a half.
const RETRY_MS: u64 = 3_000;

/// The comment that [`SseRequest::padding`] asks for.
const PADDING_BYTES: usize = 2_048;

/// One open stream: subscribes by itself, says where it is, and keeps the connection alive.
///
/// The server writes the response's head. What the gate refuses is refused before, with a status; what is refused
/// after that is told as an event `lost`, and the reader, which would give up for good on a status, comes back.
pub struct SseConversation {
    /// Taken when the connection is open, so that an idle stream does not hold it.
    request: Option<Box<SseRequest>>,
    format: Format,
    padding: bool,
    gzip: bool,
    heartbeat_ms: u64,
    is_ended: bool,
}

impl SseConversation {
    /// A stream for this request, compressed or not.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "as the other conversations, which keep the limits"
    )]
    pub fn new(request: SseRequest, gzip: bool, limits: Arc<Limits>) -> Self {
        Self {
            format: request.format,
            padding: request.padding,
            request: Some(Box::new(request)),
            gzip,
            heartbeat_ms: limits.heartbeat_ms,
            is_ended: false,
        }
    }

    /// Puts the conversation's own bytes into the outbox, in the coding of the stream.
    fn write(&self, text: Vec<u8>, turn: &mut Turn<'_>) {
        let bytes = if self.gzip { chunk(&text) } else { text };
        turn.frames.push(Bytes::from(bytes));
    }

    /// The position is handed out before any message: who loses the connection now can resume from here.
    fn subscribed(&self, cursor: &Cursor, turn: &mut Turn<'_>) {
        let mut text = Vec::with_capacity(48);
        write_position(cursor, &mut text);
        self.write(text, turn);
    }

    /// Says goodbye: when to come back, and an event with the reason.
    fn end(&mut self, event: &[u8], retry_ms: u64, refusal: &Refusal, turn: &mut Turn<'_>) {
        let mut json = Vec::with_capacity(96 + refusal.detail.len());
        json.extend_from_slice(b"{\"code\":");
        write_json_string(refusal.code.slug(), &mut json);
        json.extend_from_slice(b",\"message\":");
        write_json_string(&refusal.detail, &mut json);
        json.extend_from_slice(b",\"reconnect_after_ms\":");
        json.extend_from_slice(itoa::Buffer::new().format(retry_ms).as_bytes());
        json.push(b'}');
        let mut text = Vec::with_capacity(json.len() + 64);
        write_retry(retry_ms, &mut text);
        text.extend_from_slice(b"event: ");
        text.extend_from_slice(event);
        text.push(b'\n');
        write_data(&json, &mut text);
        text.push(b'\n');
        self.write(text, turn);
        self.is_ended = true;
        turn.ending = Some(Ending::AfterFlush);
    }

    fn set_heartbeat(&self, turn: &mut Turn<'_>) {
        // Up to a quarter early, so that streams that were opened together do not beat together.
        let whole_ms = self.heartbeat_ms.max(4);
        let wait_ms = whole_ms - turn.random % (whole_ms / 4);
        turn.wake = Some(turn.now.plus_ms(wait_ms));
    }
}

/// Readers of a server that was restarted come back at different times.
fn retry_ms(random: u64) -> u64 {
    RETRY_MS / 2 + random % RETRY_MS
}

impl Conversation for SseConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Sse
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        let Some(request) = self.request.take() else {
            return;
        };
        turn.commands.push(Command::Subscribe {
            tag: TAG,
            key: KEY,
            filters: request.filters,
            start: request.start,
            framing: Framing::Shared(self.format.frames(self.gzip)),
            echo: true,
            until: Until::Ended,
            group: None,
        });
        if self.gzip {
            turn.frames.push(Bytes::from_static(&HEADER));
        }
        // Written at once, so that proxies and clients see the response begin.
        let padding = if self.padding { PADDING_BYTES } else { 0 };
        let mut text = Vec::with_capacity(padding + 48);
        write_retry(retry_ms(turn.random), &mut text);
        text.extend_from_slice(b": tidings");
        text.resize(text.len() + padding, b' ');
        text.extend_from_slice(b"\n\n");
        self.write(text, turn);
        self.set_heartbeat(turn);
    }

    fn receive(&mut self, input: &mut BytesMut, _turn: &mut Turn<'_>) {
        // A pipelined request is never answered: the stream's response does not end.
        input.clear();
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        if self.is_ended {
            return;
        }
        match event {
            Event::Subscribed { cursor, .. } => self.subscribed(&cursor, turn),
            Event::Gap { gap, .. } => {
                let mut text = Vec::with_capacity(192);
                write_gap_event(&gap, &mut text);
                self.write(text, turn);
            }
            Event::Refused { refusal, .. } | Event::Lost { refusal, .. } => {
                let after_ms = refusal
                    .code
                    .retry_after_s()
                    .map_or(0, |s| u64::from(s) * 1_000);
                self.end(b"lost", after_ms + retry_ms(turn.random), &refusal, turn);
            }
            Event::Drain {
                reconnect_after,
                refusal,
            } => {
                let after_ms = u64::try_from(reconnect_after.as_millis()).unwrap_or(u64::MAX);
                self.end(b"drain", after_ms, &refusal, turn);
            }
            Event::PeerFinished => {
                // Nobody reads any more, as far as HTTP goes: who wants the answer keeps its side open.
                self.is_ended = true;
                turn.ending = Some(Ending::AtOnce);
            }
            _ => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if self.is_ended {
            return;
        }
        if self.gzip {
            turn.frames.push(Bytes::from(chunk(HEARTBEAT)));
        } else {
            turn.frames.push(Bytes::from_static(HEARTBEAT));
        }
        self.set_heartbeat(turn);
    }

    /// Never called, as the framing is shared; right all the same.
    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        frames.push(delivery.message.frame(self.format.frames(self.gzip)));
        Framed::Put
    }
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
