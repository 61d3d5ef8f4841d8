//! Many messages in one request: a JSON array, or one JSON object a line.
//!
//! A batch is atomic: one bad message refuses all, and the refusal names the message (its index from 0, or its
//! line from 1) and the field.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use bytestring::ByteString;
use http::request::Parts;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tidings_types::{Draft, Limits, PayloadFormat, Refusal, RefusalCode, Topic};

use super::draft::{
    check_coding, check_event, check_key, check_payload, check_properties, check_ttl,
    is_binary_type,
};
use super::route::essence;
use crate::query::parse_duration;

/// The messages of a batch request, in order; at least one.
///
/// Each has `topic` and `data` (a string is the payload; any other JSON value is its text, with the content
/// type `application/json` if none is given) or `base64`, and may have `event`, `key`, `ttl`, `retain`,
/// `content_type` and `headers`.
///
/// `application/json` is an array or one object; `application/x-ndjson` (or `ndjson`, `jsonl`) has one object
/// a line; with no type, or what curl sends by itself, an array begins with `[`. Refuses with
/// `batch-too-large`, `unsupported-media-type`, `bad-json`, and with what is wrong with one message.
pub fn batch(parts: &Parts, body: &Bytes, limits: &Limits) -> Result<Vec<Draft>, Refusal> {
    let max = limits.batch_bytes_max;
    if body.len() > max {
        return Err(Refusal::new(
            RefusalCode::BatchTooLarge,
            format!("the batch is over {max} bytes (`limits.batch_bytes_max`): send it in several"),
        ));
    }
    check_coding(parts)?;
    let text = str::from_utf8(body).map_err(|_| {
        Refusal::new(
            RefusalCode::BadText,
            "the batch is not UTF-8: send bytes that are not text as `base64`",
        )
    })?;
    let drafts = match Layout::of(parts, text)? {
        Layout::Array => array(text, limits)?,
        Layout::One => vec![read_draft(text, &Position::Index(0), limits)?],
        Layout::Lines => lines(text, limits)?,
    };
    if drafts.is_empty() {
        return Err(Refusal::new(
            RefusalCode::BadJson,
            "the batch has no message: send at least one",
        ));
    }
    Ok(drafts)
}

enum Layout {
    Array,
    One,
    Lines,
}

impl Layout {
    fn of(parts: &Parts, text: &str) -> Result<Self, Refusal> {
        let is_array = text.trim_start().starts_with('[');
        match &*essence(parts) {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Ok(Self::Lines),
            "application/json" if is_array => Ok(Self::Array),
            "application/json" => Ok(Self::One),
            ""
            | "application/x-www-form-urlencoded"
            | "text/plain"
            | "application/octet-stream" => Ok(if is_array { Self::Array } else { Self::Lines }),
            _ => Err(Refusal::new(
                RefusalCode::UnsupportedMediaType,
                "send a batch as `application/json` or `application/x-ndjson`",
            )),
        }
    }
}

/// Where in the batch a message stands.
enum Position {
    Index(usize),
    Line(usize),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "message {index}"),
            Self::Line(line) => write!(f, "line {line}"),
        }
    }
}

fn too_many(limits: &Limits) -> Refusal {
    let max = limits.batch_messages_max;
    Refusal::new(
        RefusalCode::BatchTooLarge,
        format!(
            "a batch has at most {max} messages (`limits.batch_messages_max`): send it in several"
        ),
    )
}

fn array(text: &str, limits: &Limits) -> Result<Vec<Draft>, Refusal> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let items = reader
        .deserialize_seq(Items {
            max: limits.batch_messages_max,
        })
        .and_then(|items| reader.end().map(|()| items))
        .map_err(|error| {
            Refusal::new(
                RefusalCode::BadJson,
                format!("the batch is not a JSON array: {error}"),
            )
        })?;
    let items = items.ok_or_else(|| too_many(limits))?;
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read_draft(item.get(), &Position::Index(index), limits))
        .collect()
}

/// Reads the elements of an array without looking into them; `None` if there are more than `max`, of which no
/// more are kept: eight megabytes of `1,` are four million elements.
struct Items {
    max: usize,
}

impl<'de> Visitor<'de> for Items {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.max {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(Some(items)),
            }
        }
        let mut more = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok((!more).then_some(items))
    }
}

fn lines(text: &str, limits: &Limits) -> Result<Vec<Draft>, Refusal> {
    let mut drafts = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if drafts.len() == limits.batch_messages_max {
            return Err(too_many(limits));
        }
        drafts.push(read_draft(line, &Position::Line(index + 1), limits)?);
    }
    Ok(drafts)
}

/// The fields as they stand, so that a refusal can name the one that is wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    base64: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    retain: Option<&'a RawValue>,
    #[serde(borrow)]
    content_type: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
}

/// `null` is a JSON value like any other, and not nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

fn read_draft(json: &str, at: &Position, limits: &Limits) -> Result<Draft, Refusal> {
    let fields: Fields<'_> = serde_json::from_str(json).map_err(|error| {
        Refusal::new(
            RefusalCode::BadJson,
            format!("{at} is not a message object: {error}"),
        )
    })?;
    // Whatever refuses a message says where the message stands.
    read_fields(&fields, limits).map_err(|refusal| Refusal {
        detail: format!("{at}: {}", refusal.detail),
        ..refusal
    })
}

fn read_fields(fields: &Fields<'_>, limits: &Limits) -> Result<Draft, Refusal> {
    let topic: String =
        field("topic", fields.topic)?.ok_or_else(|| bad("topic", "it is missing"))?;
    let topic = Topic::new(topic)
        .map_err(|error| Refusal::new(RefusalCode::BadTopic, format!("`topic`: {error}")))?;
    let content_type: Option<ByteString> =
        field::<String>("content_type", fields.content_type)?.map(ByteString::from);
    let payload = payload(fields)?;
    check_payload(payload.bytes.len(), limits)?;
    let mut draft = Draft::new(topic, payload.bytes);
    let is_binary = payload.is_bytes || is_binary_type(content_type.as_deref());
    if is_binary {
        draft.format = PayloadFormat::Binary;
    }
    if content_type
        .as_ref()
        .is_some_and(|text| text.chars().any(char::is_control))
    {
        return Err(bad("content_type", "it holds a control character"));
    }
    let implied = payload
        .is_json
        .then(|| ByteString::from_static("application/json"));
    draft.properties.content_type = content_type.filter(|text| !text.is_empty()).or(implied);
    if let Some(event) = field::<String>("event", fields.event)? {
        check_event("event", &event)?;
        draft.properties.event = Some(event.into());
    }
    if let Some(key) = field::<String>("key", fields.key)? {
        check_key("key", &key, limits)?;
        draft.key = Some(key.into());
    }
    if let Some(Ttl(ttl)) = field("ttl", fields.ttl)? {
        let ttl = match ttl {
            TtlText::Seconds(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|_| bad("ttl", "it is a number of seconds above 0"))?,
            TtlText::Text(text) => parse_duration("ttl", &text)?,
        };
        draft.ttl = Some(check_ttl("ttl", ttl)?);
    }
    draft.retain = field("retain", fields.retain)?.unwrap_or(false);
    if let Some(Headers(headers)) = field("headers", fields.headers)? {
        draft.properties.headers = headers;
    }
    check_properties(&draft, limits)?;
    Ok(draft)
}

struct Payload {
    bytes: Bytes,
    /// The publisher said so, by `base64`.
    is_bytes: bool,
    /// It is the text of a JSON value that was no string.
    is_json: bool,
}

fn payload(fields: &Fields<'_>) -> Result<Payload, Refusal> {
    match (fields.data, fields.base64) {
        (Some(data), None) if data.get().starts_with('"') => Ok(Payload {
            bytes: Bytes::from(field::<String>("data", Some(data))?.unwrap_or_default()),
            is_bytes: false,
            is_json: false,
        }),
        (Some(data), None) => Ok(Payload {
            bytes: Bytes::copy_from_slice(data.get().as_bytes()),
            is_bytes: false,
            is_json: true,
        }),
        (None, Some(_)) => {
            let text: String = field("base64", fields.base64)?.unwrap_or_default();
            let config = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let bytes = GeneralPurpose::new(&STANDARD, config)
                .decode(text)
                .map_err(|_| bad("base64", "it is not base64 (RFC 4648, 4)"))?;
            Ok(Payload {
                bytes: Bytes::from(bytes),
                is_bytes: true,
                is_json: false,
            })
        }
        (None, None) => Err(bad("data", "it is missing: give `data` or `base64`")),
        (Some(_), Some(_)) => Err(bad("data", "give `data` or `base64`, not both")),
    }
}

/// Reads one field, if it is there.
fn field<T: DeserializeOwned>(name: &str, raw: Option<&RawValue>) -> Result<Option<T>, Refusal> {
    raw.map(|raw| serde_json::from_str(raw.get()))
        .transpose()
        .map_err(|error| bad(name, &error.to_string()))
}

fn bad(name: &str, why: &str) -> Refusal {
    Refusal::new(RefusalCode::BadJson, format!("`{name}`: {why}"))
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Ttl(TtlText);

/// Seconds as a number, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of seconds, or a text such as \"10s\"")]
enum TtlText {
    Seconds(f64),
    Text(String),
}

/// An object whose values are texts, or arrays of them for a name that repeats; also where the JSON repeats it.
struct Headers(Vec<(ByteString, ByteString)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor).map(Self)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Vec<(ByteString, ByteString)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts, or of arrays of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut headers = Vec::new();
        while let Some((name, values)) = map.next_entry::<String, OneOrMany>()? {
            let name = ByteString::from(name);
            match values {
                OneOrMany::One(value) => headers.push((name, value.into())),
                OneOrMany::Many(values) => {
                    headers.extend(values.into_iter().map(|value| (name.clone(), value.into())));
                }
            }
        }
        Ok(headers)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or an array of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
