//! Messages as this client sends and receives them.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use tidings_types::{Topic, TopicFilter};

use crate::random::Random;

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: Topic,
    /// The bytes.
    pub payload: Bytes,
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// The event type.
    pub event: Option<String>,
    /// User properties, in order.
    pub headers: Vec<(String, String)>,
    /// How long it may be delivered; whole seconds travel.
    pub ttl: Option<Duration>,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// The idempotency key; without one the publisher makes one, so that a retry is never a second message.
    pub key: Option<String>,
}

impl Outgoing {
    /// A topic and a payload and nothing else.
    pub fn new(topic: Topic, payload: impl Into<Bytes>) -> Self {
        Self {
            topic,
            payload: payload.into(),
            content_type: None,
            event: None,
            headers: Vec::new(),
            ttl: None,
            retain: false,
            key: None,
        }
    }
}

/// The server's word that a message is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id: a cursor, to resume after it. Empty if the protocol did not say, as MQTT.
    pub id: String,
    /// When it was committed, in ms since 1970; 0 if the protocol did not say.
    pub time_ms: u64,
    /// Whether an earlier publish with the same key had committed it already, as far as the wire says.
    pub replayed: bool,
}

/// How a payload stood in its envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadForm {
    /// As a string: the payload is UTF-8.
    Text,
    /// As a JSON value: the payload is its text.
    Json,
    /// As base64.
    Binary,
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// A cursor: to resume after this message. Empty if the server has none, as a foreign MQTT server.
    pub id: String,
    /// When it was committed, in ms since 1970; 0 if the protocol did not say, as MQTT.
    pub time_ms: u64,
    /// The bytes, as they were published.
    pub payload: Bytes,
    /// What the bytes are.
    pub form: PayloadForm,
    /// The event type.
    pub event: Option<String>,
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// User properties, in order; the values of a name that repeats stand together.
    pub headers: Vec<(String, String)>,
    /// Whether it was published as the topic's retained message.
    pub retain: bool,
    /// How often its work queue has delivered it, this time included; `None` if it came by no queue.
    pub deliveries: Option<u32>,
}

/// What a member of a work queue says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Ack,
    /// It goes out again: to another member, if there is one.
    Nack,
    /// It is of no use to anybody, and goes to the dead-letter topic.
    Reject,
}

/// Something that matched may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// Why, as in `retention`.
    pub reason: String,
    /// The last position before it, if it is known.
    pub after: Option<String>,
    /// A position to go on from.
    #[serde(alias = "resume")]
    pub cursor: Option<String>,
}

/// Where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Latest,
    /// With the oldest message that is kept.
    Earliest,
    /// After a message, by its id.
    After(String),
    /// With the newest so many.
    Last(u64),
}

impl Start {
    /// The text of `after`, or none for [`Start::Last`].
    pub fn after(&self) -> Option<&str> {
        match self {
            Self::Latest => Some("latest"),
            Self::Earliest => Some("earliest"),
            Self::After(cursor) => Some(cursor),
            Self::Last(_) => None,
        }
    }
}

/// A work queue to take part in: its members share the messages of a filter, and each message goes to one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkQueue {
    /// Names it, together with the filter.
    pub group: String,
    /// Whose messages.
    pub filter: TopicFilter,
    /// Where the queue starts if it is new; one that is there goes on where it stands.
    pub start: Start,
    /// The most messages that are out before one of them is settled; `None` leaves it to the server.
    pub prefetch: Option<u32>,
}

/// Makes idempotency keys: a random name of this publisher, and a count.
#[derive(Clone, Debug)]
pub struct Keys {
    client: u128,
    count: u64,
}

impl Keys {
    /// A new name.
    pub fn new(random: &mut Random) -> Self {
        Self {
            client: (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64()),
            count: 0,
        }
    }

    /// A key that was not used before.
    pub fn next_key(&mut self) -> String {
        self.count += 1;
        format!("{:032x}-{}", self.client, self.count)
    }
}

/// Headers in an envelope: an object whose values are strings, or lists of them.
pub(crate) fn headers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(String, String)>, D::Error> {
    struct Visitor;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Values {
        One(String),
        Several(Vec<String>),
    }

    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut headers = Vec::new();
            while let Some((name, values)) = map.next_entry::<String, Values>()? {
                match values {
                    Values::One(value) => headers.push((name, value)),
                    Values::Several(values) => {
                        headers.extend(values.into_iter().map(|value| (name.clone(), value)));
                    }
                }
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_map(Visitor)
}
