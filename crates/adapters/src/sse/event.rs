//! Events as bytes.
//!
//! Every value that a publisher chose is made harmless here, whatever protocol it came by: `data` is split on
//! every line end, and an event type with a control character, or one of the server's own, is left out. So no
//! payload can end its event early, forge an `id`, or speak as the server.

use std::time::Duration;

use bytes::Bytes;
use memchr::memchr2;
use tidings_ports::Gap;
use tidings_types::{Cursor, FormatId, FrameFormat, Message, Refusal};

use crate::envelope::{members_capacity, write_display, write_json_string, write_members};
use crate::http::write_gap;

/// A comment that keeps the connection alive.
pub const HEARTBEAT: &[u8] = b": hb\n\n";

/// The event type of bytes that are not UTF-8, on a raw stream: `data` is the JSON envelope then.
pub const BINARY_EVENT: &str = "tidings-binary";

/// `sse/raw`: `data` is the payload.
#[derive(Debug)]
pub struct SseRaw;

impl FrameFormat for SseRaw {
    fn id(&self) -> FormatId {
        "sse/raw"
    }

    fn encode(&self, message: &Message) -> Bytes {
        Bytes::from(raw(message))
    }
}

/// `sse/envelope`: `data` is the message as JSON.
#[derive(Debug)]
pub struct SseEnvelope;

impl FrameFormat for SseEnvelope {
    fn id(&self) -> FormatId {
        "sse/envelope"
    }

    fn encode(&self, message: &Message) -> Bytes {
        Bytes::from(envelope(message))
    }
}

/// The message as an event with its payload.
#[must_use]
pub fn raw(message: &Message) -> Vec<u8> {
    let Some(text) = message.text() else {
        let mut out = Vec::with_capacity(members_capacity(message) + 96);
        write_field(b"event: ", BINARY_EVENT.as_bytes(), &mut out);
        write_id(&message.cursor(), &mut out);
        write_envelope(message, &mut out);
        return out;
    };
    // A line end in the payload costs six bytes more; a sixteenth is room for lines of a hundred.
    let mut out = Vec::with_capacity(text.len() + text.len() / 16 + event_capacity(message));
    write_event_type(message, &mut out);
    write_id(&message.cursor(), &mut out);
    write_data(text.as_bytes(), &mut out);
    out.push(b'\n');
    out
}

/// The message as an event with the JSON envelope.
#[must_use]
pub fn envelope(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(members_capacity(message) + event_capacity(message));
    write_event_type(message, &mut out);
    write_id(&message.cursor(), &mut out);
    write_envelope(message, &mut out);
    out
}

fn event_capacity(message: &Message) -> usize {
    64 + message
        .properties
        .event
        .as_ref()
        .map_or(0, |event| event.len())
}

fn write_envelope(message: &Message, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    let start = out.len();
    out.push(b'{');
    write_members(message, out);
    out.push(b'}');
    // Strings in JSON have no line ends, but an embedded JSON payload may have some between its tokens, where
    // any of them may become LF.
    if memchr2(b'\n', b'\r', &out[start..]).is_some() {
        let json = out.split_off(start);
        out.truncate(start - b"data: ".len());
        write_data(&json, out);
        out.push(b'\n');
    } else {
        out.extend_from_slice(b"\n\n");
    }
}

fn write_event_type(message: &Message, out: &mut Vec<u8>) {
    if let Some(event) = &message.properties.event
        && !event.is_empty()
        && !event.bytes().any(|byte| byte < 0x20)
        && !is_reserved_event(event)
    {
        write_field(b"event: ", event.as_bytes(), out);
    }
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn write_id(cursor: &Cursor, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    write_display(cursor, out);
    out.push(b'\n');
}

/// Appends a `data` field for every line. CR, LF and CRLF all end a line, as they do for the reader, who joins
/// the lines with LF. Nothing at all is one empty line, so that the event is dispatched.
pub fn write_data(data: &[u8], out: &mut Vec<u8>) {
    let mut rest = data;
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let is_crlf = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(is_crlf)..];
    }
}

/// Whether an event type is one of the server's own: `gap`, `drain`, `lost`, `expiring`, and what begins with `tidings-`.
#[must_use]
pub fn is_reserved_event(event: &str) -> bool {
    matches!(event, "gap" | "drain" | "lost" | "expiring") || event.starts_with("tidings-")
}

/// Moves the reader's last event id without an event: a block with an `id` and no `data` is not dispatched.
pub fn write_position(cursor: &Cursor, out: &mut Vec<u8>) {
    write_id(cursor, out);
    out.push(b'\n');
}

/// Appends the reconnection time in milliseconds.
pub fn write_retry(ms: u64, out: &mut Vec<u8>) {
    write_field(b"retry: ", itoa::Buffer::new().format(ms).as_bytes(), out);
}

/// Appends a farewell: when to come back, and an event with the reason.
pub fn write_farewell(event: &str, retry_ms: u64, refusal: &Refusal, out: &mut Vec<u8>) {
    let mut json = Vec::with_capacity(96 + refusal.detail.len());
    json.extend_from_slice(b"{\"code\":");
    write_json_string(refusal.code.slug(), &mut json);
    json.extend_from_slice(b",\"message\":");
    write_json_string(&refusal.detail, &mut json);
    json.extend_from_slice(b",\"reconnect_after_ms\":");
    json.extend_from_slice(itoa::Buffer::new().format(retry_ms).as_bytes());
    json.push(b'}');
    write_retry(retry_ms, out);
    write_field(b"event: ", event.as_bytes(), out);
    write_data(&json, out);
    out.push(b'\n');
}

/// Appends the event that says that the reader's credential ends soon, and where it can show a new one.
pub fn write_expiring_event(left: Duration, renew_at: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: expiring\ndata: {\"expires_in_ms\":");
    write_display(&left.as_millis(), out);
    if let Some(path) = renew_at {
        out.extend_from_slice(b",\"renew\":");
        write_json_string(path, out);
    }
    out.extend_from_slice(b"}\n\n");
}

/// Appends the event that says that messages are missing; its id is the position to go on from.
pub fn write_gap_event(gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: gap\n");
    write_id(&gap.resume, out);
    out.extend_from_slice(b"data: ");
    write_gap(gap, out);
    out.extend_from_slice(b"\n\n");
}
