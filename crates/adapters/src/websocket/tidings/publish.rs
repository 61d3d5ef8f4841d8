//! From a `publish` request to a draft.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use tidings_types::{
    Draft, Limits, Origin, PayloadFormat, Properties, Qos, Refusal, RefusalCode, Topic,
};

use super::request::{Field, Request, bad_field};
use crate::query::{check_headers, check_line};

/// With or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The message that the request asks to publish.
pub(super) fn draft(request: &Request<'_>, limits: &Limits) -> Result<Draft, Refusal> {
    let topic: String = request
        .get(Field::Topic, "a string")?
        .ok_or_else(|| bad_field(Field::Topic, "there: it names the topic to publish to"))?;
    let topic = Topic::new(topic)
        .map_err(|error| Refusal::new(RefusalCode::BadTopic, error.to_string()))?;
    let body = body(request)?;
    if body.payload.len() > limits.message_bytes_max {
        let detail = format!(
            "the payload has {} bytes, more than the {} of `limits.message_bytes_max`",
            body.payload.len(),
            limits.message_bytes_max
        );
        return Err(Refusal::new(RefusalCode::MessageTooLarge, detail));
    }
    let properties = properties(request, body.content_type, limits)?;
    Ok(Draft {
        topic,
        payload: body.payload,
        format: body.format,
        ttl: ttl(request)?,
        retain: request
            .get(Field::Retain, "true or false")?
            .unwrap_or_default(),
        qos: Qos::default(),
        key: key(request, limits)?,
        origin: Origin::default(),
        properties,
    })
}

struct Body {
    payload: Bytes,
    format: PayloadFormat,
    /// Where the body implies one.
    content_type: Option<ByteString>,
}

fn body(request: &Request<'_>) -> Result<Body, Refusal> {
    let base64: Option<Cow<'_, str>> = request.get(Field::Base64, "a string of base64")?;
    match (request.raw(Field::Data), base64) {
        (Some(json), None) if json.starts_with('"') => Ok(Body {
            payload: string(json)?,
            format: PayloadFormat::Text,
            content_type: None,
        }),
        (Some(json), None) => Ok(Body {
            payload: Bytes::copy_from_slice(json.as_bytes()),
            format: PayloadFormat::Text,
            content_type: Some(ByteString::from_static("application/json")),
        }),
        (None, Some(text)) => Ok(Body {
            payload: BASE64
                .decode(text.as_bytes())
                .map_err(|_| bad_field(Field::Base64, "a string of base64 (RFC 4648 4)"))?
                .into(),
            format: PayloadFormat::Binary,
            content_type: None,
        }),
        (Some(_), Some(_)) => Err(bad_field(Field::Base64, "alone: leave out `data`")),
        (None, None) => Err(bad_field(
            Field::Data,
            "there: a string, or any JSON value; or send bytes in `base64`",
        )),
    }
}

/// The text of a JSON string.
fn string(json: &str) -> Result<Bytes, Refusal> {
    // Without escapes the text is what is between the quotes.
    let inner = &json[1..json.len() - 1];
    if !inner.as_bytes().contains(&b'\\') {
        return Ok(Bytes::copy_from_slice(inner.as_bytes()));
    }
    let text: String = serde_json::from_str(json).map_err(|_| {
        let detail = "`data` holds half of a surrogate pair, which is no character";
        Refusal::new(RefusalCode::BadJson, detail)
    })?;
    Ok(text.into())
}

fn ttl(request: &Request<'_>) -> Result<Option<Duration>, Refusal> {
    const EXPECTED: &str = "a number of seconds above 0";
    let Some(seconds) = request.get::<f64>(Field::Ttl, EXPECTED)? else {
        return Ok(None);
    };
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|ttl| !ttl.is_zero())
        .map(Some)
        .ok_or_else(|| bad_field(Field::Ttl, EXPECTED))
}

fn key(request: &Request<'_>, limits: &Limits) -> Result<Option<ByteString>, Refusal> {
    let Some(key) = request.get::<String>(Field::Key, "a string")? else {
        return Ok(None);
    };
    if key.is_empty() || key.len() > limits.key_bytes_max {
        let expected = format!("1 to {} bytes", limits.key_bytes_max);
        return Err(bad_field(Field::Key, &expected));
    }
    Ok(Some(key.into()))
}

fn properties(
    request: &Request<'_>,
    implied: Option<ByteString>,
    limits: &Limits,
) -> Result<Properties, Refusal> {
    let headers: Headers = request
        .get(
            Field::Headers,
            "an object whose values are strings or lists of strings",
        )?
        .unwrap_or_default();
    let properties = Properties {
        content_type: line(request, Field::ContentType)?.or(implied),
        event: line(request, Field::Event)?,
        headers: headers.0,
        ..Properties::default()
    };
    if properties.headers.len() > limits.message_headers_max {
        let expected = format!("at most {} headers", limits.message_headers_max);
        return Err(bad_field(Field::Headers, &expected));
    }
    if properties.size() > limits.message_header_bytes_max {
        let expected = format!(
            "smaller: headers, event and content type have {} bytes together",
            limits.message_header_bytes_max
        );
        return Err(bad_field(Field::Headers, &expected));
    }
    check_headers(&properties.headers)?;
    Ok(properties)
}

/// A text that other protocols put on a line of its own.
fn line(request: &Request<'_>, field: Field) -> Result<Option<ByteString>, Refusal> {
    let Some(text) = request.get::<String>(field, "a string")? else {
        return Ok(None);
    };
    check_line(field.name(), &text)?;
    Ok(Some(text.into()))
}

/// User properties as the envelope writes them: an object, where a name that repeats has a list of its values.
#[derive(Default)]
struct Headers(Vec<(ByteString, ByteString)>);

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    One(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let mut headers = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, HeaderValue>()? {
            let name = ByteString::from(name);
            match value {
                HeaderValue::One(value) => headers.push((name, value.into())),
                HeaderValue::Several(values) => {
                    headers.extend(values.into_iter().map(|value| (name.clone(), value.into())));
                }
            }
        }
        Ok(Headers(headers))
    }
}
