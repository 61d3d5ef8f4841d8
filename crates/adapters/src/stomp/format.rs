//! The part of a MESSAGE that is the same for all subscribers of one version and manner of writing destinations.
//!
//! A frame of these formats has one byte more in front: the first one of a WebSocket message that holds it, which
//! says whether it is text (RFC 6455 5.6). So it is found out once, and the rest is shared with TCP.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tidings_types::{FormatId, FrameFormat, Message, PayloadFormat, Topic};

use super::codec::{Encoder, OutboundMessage, Version};
use super::destination::{self, Kind, Manner, Separator};
use crate::transport::first_byte;
use crate::websocket::Opcode;

/// Says that a `correlation-id` stands for bytes, and how.
pub(super) const CORRELATION: &str = "tidings-correlation";
/// Its value.
pub(super) const BASE64: &str = "base64";

/// Headers that are no user properties: what frames have of their own, and what SEND or MESSAGE means something by. They
/// are the same in both directions, so that a client which sends what it was given changes nothing by their copies.
pub(super) const OURS: [&str; 29] = [
    "destination",
    "message-id",
    "subscription",
    "ack",
    "content-type",
    "content-length",
    "receipt",
    "receipt-id",
    "transaction",
    "login",
    "passcode",
    "persistent",
    "priority",
    "expiration",
    "timestamp",
    "expires",
    "redelivered",
    "reply-to",
    "correlation-id",
    "idempotency-key",
    "retain",
    "tidings-retain",
    "tidings-event",
    "tidings-key",
    "tidings-ttl",
    "tidings-correlation",
    "tidings-deliveries",
    "tidings-gap",
    "tidings-gap-after",
];

/// One format.
#[derive(Debug)]
pub(super) struct MessageFormat {
    id: FormatId,
    version: Version,
    manner: Manner,
}

const fn format(id: FormatId, version: Version, kind: Kind, separator: Separator) -> MessageFormat {
    MessageFormat {
        id,
        version,
        manner: Manner { kind, separator },
    }
}

static FORMATS: [MessageFormat; 12] = {
    use Kind::{Queue, Topic};
    use Separator::{Dot, Slash};
    use Version::{V10, V11, V12};
    [
        format("stomp/1.0/topic", V10, Topic, Slash),
        format("stomp/1.0/topic.", V10, Topic, Dot),
        format("stomp/1.0/queue", V10, Queue, Slash),
        format("stomp/1.0/queue.", V10, Queue, Dot),
        format("stomp/1.1/topic", V11, Topic, Slash),
        format("stomp/1.1/topic.", V11, Topic, Dot),
        format("stomp/1.1/queue", V11, Queue, Slash),
        format("stomp/1.1/queue.", V11, Queue, Dot),
        format("stomp/1.2/topic", V12, Topic, Slash),
        format("stomp/1.2/topic.", V12, Topic, Dot),
        format("stomp/1.2/queue", V12, Queue, Slash),
        format("stomp/1.2/queue.", V12, Queue, Dot),
    ]
};

/// The format of a subscription's messages.
pub(super) fn of(version: Version, manner: Manner) -> &'static MessageFormat {
    let at = version as usize * 4 + manner.kind as usize * 2 + manner.separator as usize;
    let format = &FORMATS[at];
    debug_assert_eq!((format.version, format.manner), (version, manner));
    format
}

impl MessageFormat {
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// A message from its destination to its NUL, and the first byte of a WebSocket message with it.
    pub(super) fn tail(&self, message: &Message) -> (u8, Bytes) {
        let frame = message.frame(self);
        (frame[0], frame.slice(1..))
    }
}

impl FrameFormat for MessageFormat {
    fn id(&self) -> FormatId {
        self.id
    }

    fn encode(&self, message: &Message) -> Bytes {
        let properties = &message.properties;
        let time = message.time.0.to_string();
        let expires = message.expires.map(|expires| expires.0.to_string());
        let reply_to = properties.response_topic.as_ref().map(reply_to);
        let correlation = properties.correlation.as_deref().map(correlation);
        let is_encoded = correlation
            .as_ref()
            .is_some_and(|(_, is_encoded)| *is_encoded);
        let ours = [
            ("timestamp", Some(&*time)),
            ("expires", expires.as_deref()),
            ("tidings-event", properties.event.as_deref()),
            ("retain", message.retain.then_some("true")),
            ("reply-to", reply_to.as_deref()),
            ("correlation-id", correlation.as_ref().map(|(id, _)| &**id)),
            (CORRELATION, is_encoded.then_some(BASE64)),
        ];
        let ours = ours
            .iter()
            .filter_map(|(name, value)| Some((*name, (*value)?)));
        let theirs = properties.headers.iter();
        let theirs = theirs.map(|(name, value)| (&**name, &**value));
        let theirs = theirs.filter(|(name, _)| !OURS.contains(name));
        let headers: Vec<(&str, &str)> = ours.chain(theirs).collect();
        let tail = Encoder::new(self.version).shared_message(&OutboundMessage {
            destination: &destination::write(self.manner, &message.topic),
            message_id: &message.cursor().to_string(),
            content_type: properties.content_type.as_deref(),
            headers: &headers,
            body: &message.payload,
        });
        let is_text = message.format == PayloadFormat::Text
            || simdutf8::basic::from_utf8(&message.payload).is_ok();
        let opcode = if is_text {
            Opcode::Text
        } else {
            Opcode::Binary
        };
        let mut out = BytesMut::with_capacity(tail.len() + 1);
        out.put_u8(first_byte(opcode));
        out.put_slice(&tail);
        out.freeze()
    }
}

/// Where an answer is awaited, as a destination if it is a topic.
fn reply_to(response_topic: &bytestring::ByteString) -> String {
    let manner = Manner {
        kind: Kind::Topic,
        separator: Separator::Slash,
    };
    match Topic::new(response_topic.clone()) {
        Ok(topic) => destination::write(manner, &topic),
        Err(_) => response_topic.to_string(),
    }
}

/// An identifier as a header, and whether it is encoded.
fn correlation(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    match str::from_utf8(bytes) {
        // What a header of some version cannot carry is as if it were no text.
        Ok(text) if !text.contains(['\0', '\r', '\n']) => (text.into(), false),
        _ => (STANDARD.encode(bytes).into(), true),
    }
}
