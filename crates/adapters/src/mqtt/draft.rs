//! Messages from clients become drafts, and refusals become reason codes.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_types::{Draft, Limits, PayloadFormat, Properties, Qos, Refusal, RefusalCode, Topic};

use super::codec::{self, MessageProperties, TopicName};
use super::format::{EVENT_PROPERTY, is_ours};
use crate::http::is_binary_type;
use crate::sse::is_reserved_event;

/// The user property that holds an idempotency key.
const KEY_PROPERTY: &str = "tidings-key";

/// A message, as PUBLISH and a will say it.
pub(super) struct Parts {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
    pub(super) qos: codec::Qos,
    pub(super) retain: bool,
    pub(super) properties: MessageProperties,
}

/// The message that a client asks to publish.
///
/// The user property `tidings-key` is the idempotency key and `tidings-event` the event type; what is the server's own
/// to say, as `tidings-cursor`, is left out. All others are kept, in their order (MQTT-3.3.2-17, MQTT-3.3.2-18).
pub(super) fn draft(parts: Parts, limits: &Limits) -> Result<Draft, Refusal> {
    let topic = topic(parts.topic)?;
    let given = parts.properties;
    let mut draft = Draft::new(topic, parts.payload);
    draft.format = payload_format(&draft, &given)?;
    draft.ttl = given
        .expiry_s
        .map(|seconds| Duration::from_secs(u64::from(seconds)));
    draft.retain = parts.retain;
    draft.qos = published_qos(parts.qos);
    draft.properties = Properties {
        content_type: given.content_type.filter(|text| !text.is_empty()),
        response_topic: given.response_topic,
        correlation: given.correlation,
        ..Properties::default()
    };
    for (name, value) in given.user_properties {
        match &*name {
            KEY_PROPERTY => draft.key = Some(key(value, limits)?),
            EVENT_PROPERTY => draft.properties.event = Some(event(value)?),
            ours if is_ours(ours) => {}
            _ => draft.properties.headers.push((name, value)),
        }
    }
    Ok(draft)
}

fn topic(name: TopicName) -> Result<Topic, Refusal> {
    name.map_err(|unfit| Refusal::new(RefusalCode::BadTopic, unfit.error.to_string()))
}

/// What the publisher said is kept (MQTT-3.3.2-4). If it said nothing, the bytes decide, as for every protocol
/// that cannot say.
fn payload_format(draft: &Draft, given: &MessageProperties) -> Result<PayloadFormat, Refusal> {
    match given.format {
        Some(PayloadFormat::Text) if draft.format == PayloadFormat::Binary => Err(Refusal::new(
            RefusalCode::BadText,
            "the payload is not UTF-8, as its format indicator says",
        )),
        Some(format) => Ok(format),
        None if is_binary_type(given.content_type.as_deref()) => Ok(PayloadFormat::Binary),
        None => Ok(draft.format),
    }
}

fn key(value: ByteString, limits: &Limits) -> Result<ByteString, Refusal> {
    let max = limits.key_bytes_max;
    if value.is_empty() || value.len() > max {
        let detail = format!("`tidings-key` has 1 to {max} bytes (`limits.key_bytes_max`)");
        return Err(Refusal::new(RefusalCode::BadParameter, detail));
    }
    Ok(value)
}

fn event(value: ByteString) -> Result<ByteString, Refusal> {
    if value.is_empty() || value.chars().any(char::is_control) || is_reserved_event(&value) {
        let detail = "`tidings-event` is some text, no control character, and not `gap`, `drain`, `lost`, `expiring` or `tidings-..`";
        return Err(Refusal::new(RefusalCode::BadParameter, detail));
    }
    Ok(value)
}

fn published_qos(qos: codec::Qos) -> Qos {
    match qos {
        codec::Qos::AtMostOnce => Qos::AtMostOnce,
        codec::Qos::AtLeastOnce => Qos::AtLeastOnce,
        codec::Qos::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// Whether the same message may be taken later. A client of 3.1.1 cannot be told that it was refused: it is
/// disconnected to bring the message again, or it would be, for ever, and so what can never be taken is
/// acknowledged and dropped (MQTT-3.3.5-2).
pub(super) fn may_succeed_later(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Busy
            | RefusalCode::StorageFull
            | RefusalCode::StorageFailed
            | RefusalCode::ShuttingDown
            | RefusalCode::RateLimited
            // There is room again once something is released or acknowledged.
            | RefusalCode::SessionTooLarge
            | RefusalCode::Internal
    )
}
