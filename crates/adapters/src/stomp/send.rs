//! SEND: a frame becomes a message.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{Command, Turn};
use tidings_types::{Draft, Limits, PayloadFormat, Refusal, RefusalCode};

use super::StompConversation;
use super::answers::What;
use super::codec::{Frame, Headers};
use super::connect::AUTH;
use super::destination;
use super::format::{BASE64, CORRELATION, OURS};
use crate::http::is_binary_type;
use crate::query::{bad_parameter, check_headers, check_line, parse_duration, parse_flag};
use crate::sse::is_reserved_event;

impl StompConversation {
    /// Publishes a message, or notes it in its transaction.
    pub(super) fn send(
        &mut self,
        frame: Frame,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        if frame.headers.get("destination").map(|it| &**it) == Some(AUTH) {
            return self.renew(&frame, receipt, turn);
        }
        let draft = draft(&frame.headers, frame.body, &self.limits)?;
        if let Some(name) = frame.headers.get("transaction") {
            self.stage(name, draft)?;
            self.receipt(receipt);
            return Ok(());
        }
        let tag = self.ask(What::Plain, receipt);
        turn.commands.push(Command::Publish {
            tag,
            drafts: vec![draft],
            save: None,
            settle: Vec::new(),
        });
        Ok(())
    }
}

/// The message that a SEND asks to publish.
fn draft(headers: &Headers, body: Bytes, limits: &Limits) -> Result<Draft, Refusal> {
    let Some(to) = headers.get("destination") else {
        return Err(super::missing("destination", "SEND"));
    };
    let mut draft = Draft::new(destination::topic(to)?, body);
    draft.ttl = ttl(headers)?;
    draft.retain = flag(headers, "tidings-retain")? || flag(headers, "retain")?;
    let key = headers.get("idempotency-key");
    draft.key = key
        .or_else(|| headers.get("tidings-key"))
        .map(|key| checked_key(key, limits))
        .transpose()?;
    let properties = &mut draft.properties;
    let content_type = headers.get("content-type");
    if let Some(content_type) = content_type.filter(|text| !text.is_empty()) {
        check_line("content-type", content_type)?;
        properties.content_type = Some(detached(content_type));
    }
    properties.event = headers.get("tidings-event").map(event).transpose()?;
    if let Some(reply_to) = headers.get("reply-to").filter(|it| !it.is_empty()) {
        let topic = destination::reply_topic(reply_to)?;
        properties.response_topic = Some(topic.text().clone());
    }
    properties.correlation = correlation(headers)?;
    let theirs = headers.iter().filter(|it| !OURS.contains(&&*it.name));
    properties.headers = theirs
        .map(|header| (detached(&header.name), detached(&header.value)))
        .collect();
    check_count(properties.headers.len(), limits)?;
    check_headers(&properties.headers)?;
    if is_binary_type(properties.content_type.as_deref()) {
        draft.format = PayloadFormat::Binary;
    }
    Ok(draft)
}

/// `tidings-ttl` as everywhere, or `expiration` in milliseconds.
fn ttl(headers: &Headers) -> Result<Option<Duration>, Refusal> {
    let ttl = if let Some(text) = headers.get("tidings-ttl") {
        parse_duration("tidings-ttl", text)?
    } else if let Some(text) = headers.get("expiration") {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let ms = text.parse().ok().filter(|_| digits);
        let ms = ms.ok_or_else(|| bad_parameter("expiration", "pass a number of milliseconds"))?;
        // As JMS has it.
        if ms == 0 {
            return Ok(None);
        }
        Duration::from_millis(ms)
    } else {
        return Ok(None);
    };
    if ttl.is_zero() {
        let what = "it is more than nothing: leave it away for a message that does not expire";
        return Err(bad_parameter("tidings-ttl", what));
    }
    Ok(Some(ttl))
}

/// A copy. What a frame's headers are parts of would be kept by any of them, and is not counted in a message's size.
fn detached(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

/// Each header costs more in memory than its bytes.
fn check_count(count: usize, limits: &Limits) -> Result<(), Refusal> {
    let max = limits.message_headers_max;
    if count <= max {
        return Ok(());
    }
    let detail = format!(
        "{count} headers are the user's; at most {max} are taken (`limits.message_headers_max`)"
    );
    Err(Refusal::new(RefusalCode::MessageTooLarge, detail))
}

/// Whether a header is there and says so.
pub(super) fn flag(headers: &Headers, name: &str) -> Result<bool, Refusal> {
    headers
        .get(name)
        .map_or(Ok(false), |value| parse_flag(name, value))
}

fn checked_key(key: &ByteString, limits: &Limits) -> Result<ByteString, Refusal> {
    let max = limits.key_bytes_max;
    if key.is_empty() || key.len() > max {
        let what = format!("a key has 1 to {max} bytes (`limits.key_bytes_max`)");
        return Err(bad_parameter("idempotency-key", &what));
    }
    Ok(detached(key))
}

fn event(event: &ByteString) -> Result<ByteString, Refusal> {
    if event.is_empty() || event.chars().any(char::is_control) || is_reserved_event(event) {
        let detail = "`tidings-event` is at least one character, no control character, and none of `gap`, `drain`, `lost`, `expiring` and `tidings-..`";
        return Err(Refusal::new(RefusalCode::BadParameter, detail));
    }
    Ok(detached(event))
}

/// The bytes that an answer must carry: text, or what MESSAGE makes of bytes that are none.
fn correlation(headers: &Headers) -> Result<Option<Bytes>, Refusal> {
    let Some(id) = headers.get("correlation-id") else {
        return Ok(None);
    };
    match headers.get(CORRELATION).map(|text| &**text) {
        None => Ok(Some(Bytes::copy_from_slice(id.as_bytes()))),
        Some(BASE64) => match STANDARD.decode(&**id) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(_) => Err(bad_parameter(
                "correlation-id",
                "it is not base64, as `tidings-correlation` says: leave that away, or encode it (RFC 4648 4)",
            )),
        },
        Some(_) => Err(bad_parameter(
            CORRELATION,
            "pass `base64`, or leave it away for text",
        )),
    }
}
