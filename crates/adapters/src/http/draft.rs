//! A message from a request: its body is the payload, its headers are the properties.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use tidings_types::{Draft, Limits, PayloadFormat, Refusal, RefusalCode, Topic};

use super::route::essence;
use crate::query::{bad_parameter, check_headers, parse_duration, parse_flag, percent_decode};
use crate::sse::is_reserved_event;

/// In front of the names of user properties.
const USER_PREFIX: &str = "tidings-header-";

/// The message that a publish request asks for.
///
/// `Content-Type` is kept, but for `application/x-www-form-urlencoded`, which is what curl says when nobody
/// said anything. Values of `Tidings-Event` and `Tidings-Header-<name>` are percent-decoded, as most clients
/// cannot send UTF-8 in headers; the names of user properties are in lower case, as HTTP has no case in names,
/// and in the order of their first appearance.
///
/// Refuses with `message-too-large`, `unsupported-media-type` (a content coding), `bad-parameter` (which names
/// the header) and `bad-text`.
pub fn draft(parts: &Parts, topic: Topic, body: Bytes, limits: &Limits) -> Result<Draft, Refusal> {
    check_payload(body.len(), limits)?;
    check_coding(parts)?;
    let mut draft = Draft::new(topic, body);
    if !matches!(&*essence(parts), "" | "application/x-www-form-urlencoded") {
        draft.properties.content_type = header(parts, CONTENT_TYPE.as_str())?.map(ByteString::from);
    }
    if is_binary_type(draft.properties.content_type.as_deref()) {
        draft.format = PayloadFormat::Binary;
    }
    if let Some(key) = header(parts, "idempotency-key")? {
        check_key("Idempotency-Key", key, limits)?;
        draft.key = Some(key.into());
    }
    if let Some(event) = decoded(parts, "tidings-event")? {
        check_event("Tidings-Event", &event)?;
        draft.properties.event = Some(event);
    }
    if let Some(ttl) = header(parts, "tidings-ttl")? {
        draft.ttl = Some(check_ttl(
            "Tidings-Ttl",
            parse_duration("Tidings-Ttl", ttl)?,
        )?);
    }
    if let Some(retain) = header(parts, "tidings-retain")? {
        draft.retain = parse_flag("Tidings-Retain", retain)?;
    }
    for (name, value) in &parts.headers {
        let Some(user) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        if user.is_empty() {
            return Err(bad_parameter(
                "Tidings-Header-",
                "put the name of the property behind it, as in `Tidings-Header-Trace: 7`",
            ));
        }
        let value = decode_value(name.as_str(), value)?;
        draft.properties.headers.push((user.into(), value));
    }
    check_properties(&draft, limits)?;
    Ok(draft)
}

/// A content coding would have to be undone to be checked and kept; it is not worth a bomb.
pub(super) fn check_coding(parts: &Parts) -> Result<(), Refusal> {
    match parts
        .headers
        .get(CONTENT_ENCODING)
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"" | b"identity") => Ok(()),
        Some(_) => Err(Refusal::new(
            RefusalCode::UnsupportedMediaType,
            "send the body without a `Content-Encoding`",
        )),
    }
}

/// The value of a header as it stands, if it is there.
fn header<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = parts.headers.get(name) else {
        return Ok(None);
    };
    match str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(not_utf8(name)),
    }
}

fn decoded(parts: &Parts, name: &str) -> Result<Option<ByteString>, Refusal> {
    parts
        .headers
        .get(name)
        .map(|value| decode_value(name, value))
        .transpose()
}

fn decode_value(name: &str, value: &HeaderValue) -> Result<ByteString, Refusal> {
    let text = str::from_utf8(value.as_bytes()).map_err(|_| not_utf8(name))?;
    let text = percent_decode(text, &format!("the header `{name}`"))?;
    Ok(ByteString::from(text.into_owned()))
}

fn not_utf8(name: &str) -> Refusal {
    Refusal::new(
        RefusalCode::BadText,
        format!("the header `{name}` is not UTF-8: send it as UTF-8 or percent-encoded"),
    )
}

/// Whether the publisher says that these are bytes, even where they could be read as text.
pub(crate) fn is_binary_type(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else {
        return false;
    };
    let starts = |prefix: &str| {
        content_type
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    ["application/octet-stream", "image/", "audio/", "video/"]
        .into_iter()
        .any(starts)
}

pub(super) fn check_payload(bytes: usize, limits: &Limits) -> Result<(), Refusal> {
    let max = limits.message_bytes_max;
    if bytes <= max {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::MessageTooLarge,
        format!(
            "the payload is over {max} bytes (`limits.message_bytes_max`): send less, or a link to it"
        ),
    ))
}

pub(super) fn check_key(name: &str, key: &str, limits: &Limits) -> Result<(), Refusal> {
    let max = limits.key_bytes_max;
    if key.is_empty() || key.len() > max {
        return Err(bad_parameter(
            name,
            &format!("a key has 1 to {max} bytes (`limits.key_bytes_max`)"),
        ));
    }
    Ok(())
}

pub(super) fn check_event(name: &str, event: &str) -> Result<(), Refusal> {
    if event.is_empty() || event.chars().any(char::is_control) {
        return Err(bad_parameter(
            name,
            "an event type has at least one character and no control character",
        ));
    }
    if is_reserved_event(event) {
        return Err(bad_parameter(
            name,
            "`gap`, `drain`, `lost`, `expiring` and names that begin with `tidings-` are the server's own event types: choose another",
        ));
    }
    Ok(())
}

pub(super) fn check_ttl(name: &str, ttl: Duration) -> Result<Duration, Refusal> {
    if ttl.is_zero() {
        return Err(bad_parameter(
            name,
            "it is more than nothing: leave it away for a message that does not expire",
        ));
    }
    Ok(ttl)
}

/// Checks the user properties, and what the limits say about the properties together.
pub(super) fn check_properties(draft: &Draft, limits: &Limits) -> Result<(), Refusal> {
    let properties = &draft.properties;
    check_headers(&properties.headers)?;
    if properties.headers.len() > limits.message_headers_max {
        let max = limits.message_headers_max;
        return Err(bad_parameter(
            "headers",
            &format!("a message has at most {max} user properties (`limits.message_headers_max`)"),
        ));
    }
    if properties.size() > limits.message_header_bytes_max {
        let max = limits.message_header_bytes_max;
        return Err(bad_parameter(
            "headers",
            &format!(
                "content type, event type and user properties have at most {max} bytes together (`limits.message_header_bytes_max`)"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "draft_tests.rs"]
mod tests;
