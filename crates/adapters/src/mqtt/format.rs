//! PUBLISH packets that are the same for all subscribers.
//!
//! Four formats are complete frames of `QoS` 0, for each form of the packets, and as they are or in a WebSocket
//! message. Those without WebSocket are also what every other subscriber's packet is made from, and so are two
//! more with the retain flag.

use bytes::{Bytes, BytesMut};
use tidings_types::{FormatId, FrameFormat, Message};

use super::codec::{OutboundPublish, PublishTemplate, Version};
use crate::transport::{first_byte, put_message_head};
use crate::websocket::Opcode;

/// The user property that holds a message's cursor.
pub(super) const CURSOR_PROPERTY: &str = "tidings-cursor";
/// The user property that holds a message's event type.
pub(super) const EVENT_PROPERTY: &str = "tidings-event";

/// The user property of the first message behind a gap: why there is one.
pub(super) const GAP_PROPERTY: &str = "tidings-gap";
/// The user property of the same message that holds the last position before the gap, if it is known.
pub(super) const GAP_AFTER_PROPERTY: &str = "tidings-gap-after";

/// Whether the server alone says this of a message.
pub(super) fn is_ours(name: &str) -> bool {
    matches!(name, CURSOR_PROPERTY | GAP_PROPERTY | GAP_AFTER_PROPERTY)
}

/// Larger messages are not encoded: a packet holds 268,435,455 bytes.
const SHARED_BYTES_MAX: usize = 255 << 20;

/// One format.
pub(super) struct PublishFormat {
    id: FormatId,
    version: Version,
    retain: bool,
    websocket: bool,
}

const fn format(id: FormatId, version: Version, retain: bool, websocket: bool) -> PublishFormat {
    PublishFormat {
        id,
        version,
        retain,
        websocket,
    }
}

static V4: PublishFormat = format("mqtt/3/0", Version::V4, false, false);
static V5: PublishFormat = format("mqtt/5/0", Version::V5, false, false);
static V4_WEBSOCKET: PublishFormat = format("mqtt/3/0+ws", Version::V4, false, true);
static V5_WEBSOCKET: PublishFormat = format("mqtt/5/0+ws", Version::V5, false, true);
static V4_RETAINED: PublishFormat = format("mqtt/3/0+retain", Version::V4, true, false);
static V5_RETAINED: PublishFormat = format("mqtt/5/0+retain", Version::V5, true, false);

/// The frame that all subscribers share.
pub(super) fn shared(version: Version, websocket: bool) -> &'static PublishFormat {
    match (version, websocket) {
        (Version::V5, false) => &V5,
        (Version::V5, true) => &V5_WEBSOCKET,
        (_, false) => &V4,
        (_, true) => &V4_WEBSOCKET,
    }
}

/// What one subscriber's packet is made from; `None` if the message is too large for any.
pub(super) fn template(
    version: Version,
    retain: bool,
    message: &Message,
) -> Option<PublishTemplate> {
    let format = match (version, retain) {
        (Version::V5, false) => &V5,
        (Version::V5, true) => &V5_RETAINED,
        (_, false) => &V4,
        (_, true) => &V4_RETAINED,
    };
    if is_oversized(message) {
        return None;
    }
    PublishTemplate::from_frame(format.version, message.frame(format))
}

/// What is left of a message's time to live, in seconds (MQTT-3.3.2-6), begun ones counted.
pub(super) fn expiry_s(message: &Message, now: tidings_types::Timestamp) -> Option<u32> {
    let left = message.expires?.since(now);
    let seconds = left.as_millis().div_ceil(1_000);
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

fn is_oversized(message: &Message) -> bool {
    message.payload.len() + message.properties.size() > SHARED_BYTES_MAX
}

impl FrameFormat for PublishFormat {
    fn id(&self) -> FormatId {
        self.id
    }

    fn is_shared(&self, message: &Message) -> bool {
        // In 5.0 a packet says how much of its time is left.
        !(is_oversized(message) || self.version == Version::V5 && message.expires.is_some())
    }

    fn encode(&self, message: &Message) -> Bytes {
        let cursor = message.cursor().to_string();
        let properties = &message.properties;
        let ours = |name: &str| is_ours(name) || name == EVENT_PROPERTY;
        let mut user: Vec<(&str, &str)> = Vec::new();
        if self.version == Version::V5 {
            let theirs = properties.headers.iter().filter(|(name, _)| !ours(name));
            user.extend(theirs.map(|(name, value)| (&**name, &**value)));
            let event = properties.event.as_deref();
            user.extend(event.map(|event| (EVENT_PROPERTY, event)));
            user.push((CURSOR_PROPERTY, &cursor));
        }
        let publish = OutboundPublish {
            topic: &message.topic,
            payload: &message.payload,
            retain: self.retain,
            format: message.format,
            expiry_s: expiry_s(message, message.time),
            content_type: properties.content_type.as_deref(),
            response_topic: properties.response_topic.as_deref(),
            correlation: properties.correlation.as_deref(),
            user_properties: &user,
        };
        let Ok(template) = PublishTemplate::encode(self.version, &publish) else {
            return Bytes::new();
        };
        if !self.websocket {
            return template.frame().clone();
        }
        let packet = template.frame();
        let mut out = BytesMut::with_capacity(packet.len() + 10);
        put_message_head(&mut out, first_byte(Opcode::Binary), packet.len());
        out.extend_from_slice(packet);
        out.freeze()
    }
}
