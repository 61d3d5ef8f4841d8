//! The JSON of `tidings.v1` and of the message envelope: requests out, server messages in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_types::TopicFilter;

use crate::error::{Lost, Refused};
use crate::message::{Gap, Message, Outgoing, PayloadForm, Receipt, Start, Verdict};

/// What the server says over `tidings.v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerWord {
    /// A request was carried out.
    Ok {
        /// The request's.
        id: Option<u64>,
        /// A publish's receipt, or where a subscription starts.
        receipt: Receipt,
        /// A subscription's number on its connection.
        sub: Option<u32>,
    },
    /// A request was refused; without an id, a subscription ended.
    Error {
        /// The request's.
        id: Option<u64>,
        /// Why.
        refused: Refused,
    },
    /// A message.
    Message(Message),
    /// Something is missing.
    Gap(Gap),
    /// The server goes away.
    Drain {
        /// When to come back.
        reconnect: Duration,
    },
    /// The credential ends soon, and the connection with it.
    Expiring,
    /// An operation of a newer server, to be passed over.
    Unknown,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    time: u64,
    #[serde(default)]
    replayed: bool,
    #[serde(default)]
    sub: Option<u32>,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    retry_after: Option<f64>,
    #[serde(default)]
    reconnect_ms: u64,
}

#[derive(Deserialize)]
struct WireMessage<'a> {
    topic: String,
    id: String,
    time: u64,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    base64: Option<String>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default, deserialize_with = "crate::message::headers")]
    headers: Vec<(String, String)>,
    #[serde(default)]
    retain: bool,
    #[serde(default)]
    deliveries: Option<u32>,
}

impl ServerWord {
    /// Reads one text message of the server.
    pub fn parse(text: &[u8]) -> Result<Self, Lost> {
        // Nearly every word is a message, and begins like this.
        if text.starts_with(br#"{"op":"message","#) {
            return Ok(Self::Message(parse_message(text)?));
        }
        let wire: Wire<'_> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        let id = wire.id.and_then(|id| id.get().parse().ok());
        Ok(match &*wire.op {
            "ok" => Self::Ok {
                id,
                receipt: Receipt {
                    id: wire.cursor,
                    time_ms: wire.time,
                    replayed: wire.replayed,
                },
                sub: wire.sub,
            },
            "error" => {
                let retry_after = wire.retry_after.map(Duration::try_from_secs_f64);
                let retry_after = retry_after.and_then(Result::ok);
                Self::Error {
                    id,
                    refused: Refused::from_code(&wire.code, &wire.message, retry_after),
                }
            }
            "message" => Self::Message(parse_message(text)?),
            "gap" => Self::Gap(serde_json::from_slice(text).map_err(|error| not_json(&error))?),
            "drain" => Self::Drain {
                reconnect: Duration::from_millis(wire.reconnect_ms),
            },
            "expiring" => Self::Expiring,
            _ => Self::Unknown,
        })
    }
}

fn not_json(error: &serde_json::Error) -> Lost {
    Lost::Json(error.to_string())
}

/// Reads the envelope of a message; members that are not known are passed over.
pub fn parse_message(text: &[u8]) -> Result<Message, Lost> {
    let wire: WireMessage<'_> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
    let (payload, form) = match (wire.data, wire.base64) {
        (Some(data), None) if data.get().starts_with('"') => {
            let text: String =
                serde_json::from_str(data.get()).map_err(|error| not_json(&error))?;
            (Bytes::from(text), PayloadForm::Text)
        }
        (Some(data), None) => {
            let text = Bytes::copy_from_slice(data.get().as_bytes());
            (text, PayloadForm::Json)
        }
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => (Bytes::from(bytes), PayloadForm::Binary),
            Err(_) => return Err(Lost::Json("`base64` is not base64".to_owned())),
        },
        // An embedded `null` is a payload too, which an option reads as nothing.
        (None, None) if wire.content_type.is_some() => {
            (Bytes::from_static(b"null"), PayloadForm::Json)
        }
        _ => return Err(Lost::Json("a message has no payload".to_owned())),
    };
    Ok(Message {
        topic: wire.topic,
        id: wire.id,
        time_ms: wire.time,
        payload,
        form,
        event: wire.event,
        content_type: wire.content_type,
        headers: wire.headers,
        retain: wire.retain,
        deliveries: wire.deliveries,
    })
}

#[derive(Serialize)]
struct Publish<'a> {
    op: &'static str,
    id: u64,
    topic: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retain: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    headers: &'a [(String, String)],
}

/// A `publish` request. The key is the message's own, or else this one.
pub fn publish_request(id: u64, outgoing: &Outgoing, key: &str) -> Vec<u8> {
    let text = str::from_utf8(&outgoing.payload).ok();
    let request = Publish {
        op: "publish",
        id,
        topic: outgoing.topic.as_str(),
        key: outgoing.key.as_deref().unwrap_or(key),
        data: text,
        base64: text.is_none().then(|| STANDARD.encode(&outgoing.payload)),
        event: outgoing.event.as_deref(),
        content_type: outgoing.content_type.as_deref(),
        ttl: outgoing.ttl.map(|ttl| ttl.as_secs()),
        retain: outgoing.retain,
        headers: &outgoing.headers,
    };
    serde_json::to_vec(&request).expect("a struct of texts is always JSON")
}

#[derive(Serialize)]
struct Subscribe<'a> {
    op: &'static str,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefetch: Option<u32>,
}

/// What a `subscribe` request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// At least one; one alone with a group.
    pub filters: &'a [TopicFilter],
    /// Where to start.
    pub start: &'a Start,
    /// The work queue to take part in.
    pub group: Option<&'a str>,
    /// With a group: how many messages may be out; `None` leaves it to the server.
    pub prefetch: Option<u32>,
}

impl<'a> Asked<'a> {
    /// A subscription of its own.
    pub fn new(filters: &'a [TopicFilter], start: &'a Start) -> Self {
        Self {
            filters,
            start,
            group: None,
            prefetch: None,
        }
    }
}

/// A `subscribe` request for all filters as one subscription, so that one cursor stands for all of them.
pub fn subscribe_request(id: u64, asked: Asked<'_>) -> Vec<u8> {
    let Asked { filters, start, .. } = asked;
    let one = match filters {
        [only] => Some(only.as_str()),
        _ => None,
    };
    let request = Subscribe {
        op: "subscribe",
        id,
        topic: one,
        topics: match one {
            Some(_) => Vec::new(),
            None => filters.iter().map(TopicFilter::as_str).collect(),
        },
        after: start.after(),
        last: match start {
            Start::Last(count) => Some(*count),
            _ => None,
        },
        group: asked.group,
        prefetch: asked.prefetch,
    };
    serde_json::to_vec(&request).expect("a struct of texts is always JSON")
}

/// An `auth` request, with a token.
pub fn auth_request(id: u64, token: &str) -> Vec<u8> {
    let token = serde_json::Value::from(token);
    format!(r#"{{"op":"auth","id":{id},"token":{token}}}"#).into_bytes()
}

/// An `unsubscribe` request.
pub fn unsubscribe_request(id: u64, sub: u32) -> Vec<u8> {
    format!(r#"{{"op":"unsubscribe","id":{id},"sub":{sub}}}"#).into_bytes()
}

/// An `ack` or `nack` of a message by its id; without an id of its own, and so without an answer.
pub fn settle_request(sub: u32, message: &str, verdict: Verdict) -> Vec<u8> {
    #[derive(Serialize)]
    struct Settle<'a> {
        op: &'static str,
        sub: u32,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        requeue: Option<bool>,
    }
    let (op, requeue) = match verdict {
        Verdict::Ack => ("ack", None),
        Verdict::Nack => ("nack", None),
        Verdict::Reject => ("nack", Some(false)),
    };
    let request = Settle {
        op,
        sub,
        message,
        requeue,
    };
    serde_json::to_vec(&request).expect("a struct of texts is always JSON")
}

/// Appends a message's envelope as one line, without its line end.
pub fn write_message(message: &Message, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Line<'a> {
        topic: &'a str,
        id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        time: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Data<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<&'a str>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<&'a str, Values<'a>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        retain: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        deliveries: Option<u32>,
    }

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Values<'a> {
        One(&'a str),
        Several(Vec<&'a str>),
    }

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Data<'a> {
        Text(&'a str),
        Json(serde_json::Value),
    }

    let text = || str::from_utf8(&message.payload).ok();
    let data = match message.form {
        PayloadForm::Binary => None,
        PayloadForm::Text => text().map(Data::Text),
        // Through a value, because a payload may hold line ends and an envelope is one line.
        PayloadForm::Json => serde_json::from_slice(&message.payload)
            .ok()
            .map(Data::Json),
    };
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &message.headers {
        names.entry(name).or_default().push(value);
    }
    let line = Line {
        topic: &message.topic,
        id: &message.id,
        time: (message.time_ms > 0).then_some(message.time_ms),
        base64: data.is_none().then(|| STANDARD.encode(&message.payload)),
        data,
        event: message.event.as_deref(),
        content_type: message.content_type.as_deref(),
        headers: names
            .into_iter()
            .map(|(name, values)| match values[..] {
                [only] => (name, Values::One(only)),
                _ => (name, Values::Several(values)),
            })
            .collect(),
        retain: message.retain,
        deliveries: message.deliveries,
    };
    serde_json::to_writer(out, &line).expect("a struct of texts is always JSON");
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
