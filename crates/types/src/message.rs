//! Messages: before they are committed (`Draft`), after (`Message`), and encoded for a wire (frames).

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use crate::{Cursor, Epoch, Offset, Storage, Timestamp, Topic};

/// Whether a payload is text, as its publisher said or as its bytes show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PayloadFormat {
    /// Any bytes; travels as base64 in JSON and as a binary WebSocket message.
    #[default]
    Binary,
    /// Valid UTF-8, checked on the way in; travels as it is.
    Text,
}

/// With how much assurance a message is delivered, as in MQTT: what a subscriber gets is the least of what the
/// publisher gave the message and what the subscriber asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// Once, if the peer is there.
    AtMostOnce,
    /// Until it is acknowledged; perhaps several times.
    AtLeastOnce,
    /// Exactly once. Protocols that have no such word publish so, and leave it to the subscriber.
    #[default]
    ExactlyOnce,
}

/// The connection that published a message, so that it can be left out of its own echo. Zero is nobody:
/// a publisher that does not subscribe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// What a message carries besides its payload. All of it crosses over between protocols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The media type of the payload, as HTTP's `Content-Type` (RFC 9110, 8.3).
    pub content_type: Option<ByteString>,
    /// The event type: SSE's `event` field. Holds no line end and no NUL.
    pub event: Option<ByteString>,
    /// User properties, in order, names may repeat.
    pub headers: Vec<(ByteString, ByteString)>,
    /// Where an answer is awaited (MQTT 5, 3.3.2.3.5).
    pub response_topic: Option<ByteString>,
    /// What an answer must carry (MQTT 5, 3.3.2.3.6).
    pub correlation: Option<Bytes>,
}

impl Properties {
    /// The bytes that these properties add to a message, for limits.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [&self.content_type, &self.event, &self.response_topic];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        texts + headers + self.correlation.as_ref().map_or(0, Bytes::len)
    }
}

/// A message that a peer asks to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Where to.
    pub topic: Topic,
    /// The bytes.
    pub payload: Bytes,
    /// Whether they are text.
    pub format: PayloadFormat,
    /// How long it may be delivered; `None` is as long as it is kept.
    pub ttl: Option<Duration>,
    /// Whether it becomes the topic's retained message; an empty payload then clears it.
    pub retain: bool,
    /// With how much assurance it may be delivered at most.
    pub qos: Qos,
    /// The idempotency key: a second draft with the same key on the same topic, within the window, is not
    /// appended and gets the first receipt.
    pub key: Option<ByteString>,
    /// The publishing connection.
    pub origin: Origin,
    /// Everything else.
    pub properties: Properties,
}

impl Draft {
    /// A draft with a topic and a payload and nothing else. Its format is text if the payload is UTF-8.
    #[must_use]
    pub fn new(topic: Topic, payload: Bytes) -> Self {
        let text = str::from_utf8(&payload).is_ok();
        Self {
            topic,
            payload,
            format: if text {
                PayloadFormat::Text
            } else {
                PayloadFormat::Binary
            },
            ttl: None,
            retain: false,
            qos: Qos::default(),
            key: None,
            origin: Origin::default(),
            properties: Properties::default(),
        }
    }

    /// The bytes that it costs in a queue.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.as_str().len()
            + self.payload.len()
            + self.key.as_ref().map_or(0, |key| key.len())
            + self.properties.size()
    }
}

/// What a publisher gets once its message is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id.
    pub cursor: Cursor,
    /// When it was committed.
    pub time: Timestamp,
    /// Whether an earlier publish with the same idempotency key had committed it already.
    pub replayed: bool,
}

/// The name of one wire format. Two encodings of one message that differ in a byte have different names.
pub type FormatId = &'static str;

/// Encodes a message for one wire. The result depends on the message alone, so that it is made once for all
/// subscribers.
pub trait FrameFormat: Send + Sync {
    /// The name, unique over all adapters, as in `sse/envelope+gzip`.
    fn id(&self) -> FormatId;
    /// Whether this message's frame is the same for everybody at any time.
    fn is_shared(&self, _message: &Message) -> bool {
        true
    }
    /// The bytes to write to a peer.
    fn encode(&self, message: &Message) -> Bytes;
}

/// A committed message.
pub struct Message {
    /// Its place in the log.
    pub offset: Offset,
    /// The log.
    pub epoch: Epoch,
    /// When it was committed.
    pub time: Timestamp,
    /// When it stops being delivered.
    pub expires: Option<Timestamp>,
    /// Where it was published.
    pub topic: Topic,
    /// The bytes.
    pub payload: Bytes,
    /// Whether they are text.
    pub format: PayloadFormat,
    /// Whether it was published as the topic's retained message.
    pub retain: bool,
    /// With how much assurance it is delivered at most.
    pub qos: Qos,
    /// Where it is kept; `Storage::None` cannot be caught up on.
    pub storage: Storage,
    /// The publishing connection.
    pub origin: Origin,
    /// Everything else.
    pub properties: Properties,
    frames: Frames,
}

/// Where a draft came to stand in the log.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its offset.
    pub offset: Offset,
    /// The log.
    pub epoch: Epoch,
    /// The time of commit.
    pub time: Timestamp,
    /// Where it is kept.
    pub storage: Storage,
}

impl Message {
    /// The message that a draft becomes at this place.
    #[must_use]
    pub fn commit(draft: Draft, place: Place) -> Self {
        Self {
            offset: place.offset,
            epoch: place.epoch,
            time: place.time,
            expires: draft.ttl.map(|ttl| place.time.plus(ttl)),
            topic: draft.topic,
            payload: draft.payload,
            format: draft.format,
            retain: draft.retain,
            qos: draft.qos,
            storage: place.storage,
            origin: draft.origin,
            properties: draft.properties,
            frames: Frames::default(),
        }
    }

    /// The same message, without the frames that were made of it.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            offset: self.offset,
            epoch: self.epoch,
            time: self.time,
            expires: self.expires,
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            format: self.format,
            retain: self.retain,
            qos: self.qos,
            storage: self.storage,
            origin: self.origin,
            properties: self.properties.clone(),
            frames: Frames::default(),
        }
    }

    /// The id that clients see and resume from.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            offset: self.offset,
        }
    }

    /// Whether its time to live has passed.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The payload as text, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self.format {
            PayloadFormat::Text => str::from_utf8(&self.payload).ok(),
            PayloadFormat::Binary => None,
        }
    }

    /// The bytes that it costs in memory, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.topic.as_str().len() + self.payload.len() + self.properties.size()
    }

    /// The message in a wire format: encoded at the first call, shared from then on, by all shards.
    #[must_use]
    pub fn frame(&self, format: &dyn FrameFormat) -> Bytes {
        // The lock is held while encoding, so that two shards never encode (or compress) the same thing.
        let mut frames = self.frames.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format.id();
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == id) {
            return frame.clone();
        }
        let frame = format.encode(self);
        frames.push((id, frame.clone()));
        frame
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("offset", &self.offset)
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// The frames that were made of a message so far, by format.
#[derive(Default)]
struct Frames(Mutex<Vec<(FormatId, Bytes)>>);

/// Messages that were committed together, in offset order.
#[derive(Debug)]
pub struct Batch {
    /// At least one, offsets ascending.
    pub messages: Vec<Message>,
    /// The sum of their sizes, for bounds on memory.
    pub bytes: usize,
}

impl Batch {
    /// Takes messages in offset order; `None` if there are none.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Option<Self> {
        debug_assert!(messages.is_sorted_by(|a, b| a.offset < b.offset));
        let bytes = messages.iter().map(Message::size).sum();
        (!messages.is_empty()).then_some(Self { messages, bytes })
    }

    /// The first message's offset.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.messages
            .first()
            .map_or(Offset::ZERO, |message| message.offset)
    }

    /// The last message's offset.
    #[must_use]
    pub fn last(&self) -> Offset {
        self.messages
            .last()
            .map_or(Offset::ZERO, |message| message.offset)
    }
}
