//! One open stream.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Response};
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Event, Framed, Framing, SubscriptionKey, Tag, Turn,
    Until,
};
use tidings_types::{Cursor, Limits, Protocol, Refusal};

use super::event::{
    HEARTBEAT, write_expiring_event, write_farewell, write_gap_event, write_position, write_retry,
};
use super::gzip::{HEADER, chunk};
use super::{Format, SseRequest, event_stream_head};

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
    /// Where the reader's credential is renewed, if it has an end.
    renew_at: Option<Box<str>>,
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
            renew_at: None,
        }
    }

    /// Tells the reader that its credential can be renewed at this path. Call it before the connection is open.
    pub fn set_renewal(&mut self, path: String) {
        self.renew_at = Some(path.into());
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
    fn end(&mut self, event: &str, retry_ms: u64, refusal: &Refusal, turn: &mut Turn<'_>) {
        let mut text = Vec::with_capacity(160 + refusal.detail.len());
        write_farewell(event, retry_ms, refusal, &mut text);
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

/// The earliest that a refused reader comes back.
fn after_ms(refusal: &Refusal) -> u64 {
    let after = refusal.retry_after().unwrap_or_default();
    u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
}

/// The answer to a reader that is to come back: an event stream that says when, and ends.
///
/// An `EventSource` comes back by itself after a stream that ended, and never again after any status but 200 (WHATWG
/// HTML, 9.2.3, "fail the connection"). Others see what it is by `Tidings-Refused` and `Retry-After`. Readers are sent
/// away for different times: up to as long again.
#[must_use]
pub fn come_back(refusal: &Refusal, random: u64) -> Response<Bytes> {
    let after_ms = after_ms(refusal);
    let retry_ms = after_ms + random % after_ms.max(RETRY_MS);
    let mut text = Vec::with_capacity(160 + refusal.detail.len());
    write_farewell("drain", retry_ms, refusal, &mut text);
    let mut response = Response::from_parts(event_stream_head(false), Bytes::from(text));
    let headers = response.headers_mut();
    // Nothing of it may be shown to the next one who asks.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(RETRY_AFTER, HeaderValue::from(retry_ms.div_ceil(1_000)));
    let code = HeaderValue::from_static(refusal.code.slug());
    headers.insert("tidings-refused", code);
    response
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
        if let Some(path) = &self.renew_at {
            text.extend_from_slice(b"\n: renew ");
            text.extend_from_slice(path.as_bytes());
        }
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
            Event::Expiring { left } => {
                let mut text = Vec::with_capacity(128);
                write_expiring_event(left, self.renew_at.as_deref(), &mut text);
                self.write(text, turn);
            }
            Event::Refused { refusal, .. } | Event::Lost { refusal, .. } => {
                let after_ms = after_ms(&refusal);
                self.end("lost", after_ms + retry_ms(turn.random), &refusal, turn);
            }
            Event::Drain {
                reconnect_after,
                refusal,
            } => {
                let after_ms = u64::try_from(reconnect_after.as_millis()).unwrap_or(u64::MAX);
                self.end("drain", after_ms, &refusal, turn);
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
