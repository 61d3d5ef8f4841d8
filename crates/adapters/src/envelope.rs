//! The JSON envelope of a message: the members that SSE, long-polling, history pages and `tidings.v1` share.
//!
//! The members come without braces, so that each format can put its own in front (`"op":"message"`). The bytes
//! depend on the message alone. Everything that is written is valid JSON in valid UTF-8 whatever the payload
//! holds: a payload is embedded as JSON only if strict readers take it too, and is a string otherwise.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use serde::de::IgnoredAny;
use tidings_types::{FormatId, FrameFormat, Message, PayloadFormat};

/// Arrays and objects within each other in an embedded JSON payload. A deeper one travels as a string: it
/// would break readers that parse recursively, and with it every other message on their stream.
pub const JSON_DEPTH_MAX: usize = 64;

/// `json/envelope`: the message as one JSON object, for history pages and long-polls.
#[derive(Debug)]
pub struct JsonEnvelope;

impl FrameFormat for JsonEnvelope {
    fn id(&self) -> FormatId {
        "json/envelope"
    }

    fn encode(&self, message: &Message) -> Bytes {
        let mut out = Vec::with_capacity(members_capacity(message) + 2);
        out.push(b'{');
        write_members(message, &mut out);
        out.push(b'}');
        Bytes::from(out)
    }
}

/// The bytes that the members usually take, to allocate once. A guess, not a bound: escapes make more.
#[must_use]
pub fn members_capacity(message: &Message) -> usize {
    // Topic, id, time and the member names take 96 bytes at most besides the topic's own text; a sixteenth
    // is room for the escapes in ordinary text.
    let bytes = message.payload.len();
    let payload = match message.format {
        PayloadFormat::Text => bytes + bytes / 16,
        PayloadFormat::Binary => bytes.div_ceil(3) * 4,
    };
    112 + message.topic.as_str().len() + payload + message.properties.size() * 5 / 4
}

/// Appends `"topic":..,"id":"<cursor>","time":ms,"data":..`, without braces. A payload that is not text is
/// `"base64":".."` in place of `data`. Only when present follow `"event"`, `"content_type"`, `"headers"` (an
/// object; a name that repeats has an array of its values, in order) and `"retain":true`.
///
/// `data` is the JSON value itself when the content type is `application/json` or ends with `+json` and the
/// payload is JSON that every reader takes; it is a string otherwise.
pub fn write_members(message: &Message, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"topic\":");
    write_json_string(message.topic.as_str(), out);
    out.extend_from_slice(b",\"id\":\"");
    write_display(&message.cursor(), out);
    out.extend_from_slice(b"\",\"time\":");
    out.extend_from_slice(itoa::Buffer::new().format(message.time.0).as_bytes());
    write_payload(message, out);
    let properties = &message.properties;
    for (name, text) in [
        (",\"event\":", &properties.event),
        (",\"content_type\":", &properties.content_type),
    ] {
        if let Some(text) = text {
            out.extend_from_slice(name.as_bytes());
            write_json_string(text, out);
        }
    }
    write_headers(&properties.headers, out);
    if message.retain {
        out.extend_from_slice(b",\"retain\":true");
    }
}

fn write_payload(message: &Message, out: &mut Vec<u8>) {
    let Some(text) = message.text() else {
        out.extend_from_slice(b",\"base64\":\"");
        write_base64(&message.payload, out);
        out.push(b'"');
        return;
    };
    out.extend_from_slice(b",\"data\":");
    if is_json_type(message.properties.content_type.as_deref()) && is_embeddable_json(text) {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_json_string(text, out);
    }
}

fn write_headers(headers: &[(ByteString, ByteString)], out: &mut Vec<u8>) {
    if headers.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"headers\":{");
    for (at, (name, value)) in headers.iter().enumerate() {
        // Quadratic, over at most `limits.message_headers_max` names.
        if headers[..at].iter().any(|(earlier, _)| earlier == name) {
            continue;
        }
        if at > 0 {
            out.push(b',');
        }
        write_json_string(name, out);
        out.push(b':');
        let mut repeats = headers[at + 1..]
            .iter()
            .filter(|(later, _)| later == name)
            .map(|(_, value)| value)
            .peekable();
        if repeats.peek().is_none() {
            write_json_string(value, out);
            continue;
        }
        out.push(b'[');
        write_json_string(value, out);
        for value in repeats {
            out.push(b',');
            write_json_string(value, out);
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// Appends the text as a JSON string with its quotes (RFC 8259, 7).
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            // U+007F needs no escape, the rest of the controls do.
            0..=0x1f => 0,
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        if short == 0 {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
        } else {
            out.extend_from_slice(&[b'\\', short]);
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Appends base64 with padding (RFC 4648, 4).
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("the slice has the length of the padded text");
    out.truncate(start + written);
}

/// Appends what the value prints, such as a cursor, which needs no escapes.
pub fn write_display(value: &dyn std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

/// Whether the media type says JSON: `application/json` or a `+json` suffix (RFC 6839, 3.1), parameters aside.
#[must_use]
pub fn is_json_type(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let ends_json = essence
        .len()
        .checked_sub(5)
        .and_then(|at| essence.get(at..))
        .is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"));
    ends_json || essence.eq_ignore_ascii_case("application/json")
}

/// Whether the text is JSON that can stand inside another JSON text and that strict readers take.
fn is_embeddable_json(text: &str) -> bool {
    if json_depth(text) > JSON_DEPTH_MAX {
        return false;
    }
    // Escapes of surrogates are the one thing that a skipping reader lets pass and a strict one does not: a
    // lone one is no character. They are rare, so only they pay for a parse that builds the strings.
    if text.contains("\\ud") || text.contains("\\uD") {
        serde_json::from_str::<serde_json::Value>(text).is_ok()
    } else {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }
}

/// The deepest nesting of what may be JSON, without recursion. Brackets inside strings do not count.
fn json_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidings_types::message::Place;
    use tidings_types::{Draft, Epoch, Offset, Properties, Storage, Timestamp, Topic};

    use super::*;

    fn message(payload: &[u8], properties: Properties) -> Message {
        let mut draft = Draft::new(
            Topic::new("a/\"b\"").unwrap(),
            Bytes::copy_from_slice(payload),
        );
        draft.properties = properties;
        let place = Place {
            offset: Offset(5),
            epoch: Epoch(1),
            time: Timestamp(1_700_000_000_000),
            storage: Storage::Durable,
        };
        Message::commit(draft, place)
    }

    fn typed(content_type: &str) -> Properties {
        Properties {
            content_type: Some(content_type.into()),
            ..Properties::default()
        }
    }

    fn encoded(message: &Message) -> Value {
        let frame = message.frame(&JsonEnvelope);
        serde_json::from_slice(&frame)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&frame)))
    }

    #[test]
    fn a_text_message_has_the_documented_members() {
        let frame = message(b"hi \"you\"\n\x01\x7f", Properties::default()).frame(&JsonEnvelope);
        assert_eq!(
            str::from_utf8(&frame).unwrap(),
            "{\"topic\":\"a/\\\"b\\\"\",\"id\":\"AQAAAAAAAAABBQ\",\"time\":1700000000000,\
             \"data\":\"hi \\\"you\\\"\\n\\u0001\u{7f}\"}"
        );
    }

    #[test]
    fn bytes_that_are_not_text_travel_as_base64() {
        for (payload, expect) in [(&b"\xff"[..], "/w=="), (b"\xff\xfe\xfd", "//79")] {
            let value = encoded(&message(payload, Properties::default()));
            assert_eq!(value["base64"], expect);
            assert_eq!(value.get("data"), None);
        }
        let mut draft = Draft::new(Topic::new("t").unwrap(), Bytes::from_static(b"text"));
        draft.format = PayloadFormat::Binary;
        let place = Place {
            offset: Offset(1),
            epoch: Epoch(1),
            time: Timestamp(0),
            storage: Storage::Durable,
        };
        assert_eq!(
            encoded(&Message::commit(draft, place))["base64"],
            "dGV4dA=="
        );
    }

    #[test]
    fn json_is_embedded_only_if_it_is_json_for_every_reader() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for (content_type, payload, embedded) in [
            ("application/json", "{\"a\":[1,2]}", true),
            ("application/json; charset=utf-8", " [1]\n", true),
            ("Application/JSON", "null", true),
            ("application/vnd.api+json", "{}", true),
            ("application/json", "{\"a\":", false),
            ("application/json", "", false),
            ("application/json", "1 2", false),
            ("application/json", "\u{feff}{}", false),
            ("application/json", "{},\"topic\":\"x\"", false),
            ("application/json", "\"\\ud800\"", false),
            ("application/json", "\"\\ud83d\\ude00\"", true),
            ("application/json", &deep(JSON_DEPTH_MAX), true),
            ("application/json", &deep(JSON_DEPTH_MAX + 1), false),
            ("application/json", &deep(300_000), false),
            ("application/json", "\"[[[[\\\"[[[[\"", true),
            ("text/plain", "{}", false),
            ("application/json-seq", "{}", false),
            ("+json", "{}", true),
            ("json", "{}", false),
        ] {
            let value = encoded(&message(payload.as_bytes(), typed(content_type)));
            let expect = if embedded {
                serde_json::from_str(payload).unwrap()
            } else {
                json!(payload)
            };
            assert_eq!(value["data"], expect, "{content_type} {payload:.40}");
            assert_eq!(value["content_type"], content_type);
        }
    }

    #[test]
    fn properties_are_there_only_when_set() {
        let properties = Properties {
            event: Some("made".into()),
            headers: [("a", "1"), ("b", "x"), ("a", "2"), ("a", "3")]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
            ..Properties::default()
        };
        let mut with = message(b"x", properties);
        with.retain = true;
        let value = encoded(&with);
        assert_eq!(value["event"], "made");
        assert_eq!(value["headers"], json!({"a": ["1", "2", "3"], "b": "x"}));
        assert_eq!(value["retain"], true);
        let without = encoded(&message(b"x", Properties::default()));
        let members: Vec<_> = without.as_object().unwrap().keys().cloned().collect();
        assert_eq!(members, ["data", "id", "time", "topic"]);
    }
}
