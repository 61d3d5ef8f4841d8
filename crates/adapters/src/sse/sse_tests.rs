use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use proptest::prelude::*;
use tidings_ports::{Gap, GapReason};
use tidings_types::{Draft, Message, PayloadFormat, Topic};

use super::event::{SseEnvelope, SseRaw, write_gap_event, write_position, write_retry};
use super::gzip::{HEADER, chunk};
use super::*;
use crate::http::testing::{commit, cursor, message};

/// What a reader dispatches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispatched {
    pub event: String,
    pub id: String,
    pub data: String,
}

/// A reader as the standard describes it (WHATWG HTML, 9.2.6), written to be compared with it.
#[derive(Default)]
pub struct Reader {
    pub events: Vec<Dispatched>,
    pub last_id: String,
    pub retry_ms: Option<u64>,
    pub comments: usize,
}

impl Reader {
    pub fn read(stream: &[u8]) -> Self {
        let text = str::from_utf8(stream).unwrap();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Self::default();
        let (mut data, mut event, mut id) = (String::new(), String::new(), String::new());
        let mut rest = text;
        while let Some(end) = rest.find(['\n', '\r']) {
            let line = &rest[..end];
            let is_crlf = rest[end..].starts_with("\r\n");
            rest = &rest[end + 1 + usize::from(is_crlf)..];
            if line.is_empty() {
                reader.last_id.clone_from(&id);
                if data.is_empty() {
                    event.clear();
                    continue;
                }
                reader.events.push(Dispatched {
                    event: std::mem::take(&mut event),
                    id: id.clone(),
                    data: data.strip_suffix('\n').unwrap().to_owned(),
                });
                data.clear();
                continue;
            }
            if line.starts_with(':') {
                reader.comments += 1;
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut event),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                "id" if !value.contains('\0') => value.clone_into(&mut id),
                "retry" => reader.retry_ms = value.parse().ok(),
                other => panic!("a field that we do not send: {other}"),
            }
        }
        assert_eq!(rest, "", "the stream ends within a line");
        assert_eq!(
            (data, event),
            Default::default(),
            "the stream ends within an event"
        );
        reader
    }
}

fn with(payload: &[u8], event: Option<&str>, content_type: Option<&str>) -> Message {
    let mut draft = Draft::new(Topic::new("t").unwrap(), Bytes::copy_from_slice(payload));
    draft.properties.event = event.map(Into::into);
    draft.properties.content_type = content_type.map(Into::into);
    commit(draft, 5)
}

fn only(frame: &[u8]) -> Dispatched {
    let reader = Reader::read(frame);
    assert_eq!(
        reader.events.len(),
        1,
        "{:?}",
        String::from_utf8_lossy(frame)
    );
    reader.events.into_iter().next().unwrap()
}

#[test]
fn a_raw_event_is_its_payload_line_by_line() {
    let id = cursor(5).to_string();
    for (payload, lines) in [
        ("hello", "data: hello\n"),
        ("", "data: \n"),
        ("a\nb", "data: a\ndata: b\n"),
        ("a\rb", "data: a\ndata: b\n"),
        ("a\r\nb", "data: a\ndata: b\n"),
        ("a\n\rb", "data: a\ndata: \ndata: b\n"),
        ("a\n", "data: a\ndata: \n"),
        ("\n", "data: \ndata: \n"),
        ("\n\n", "data: \ndata: \ndata: \n"),
        (" a", "data:  a\n"),
        (":a", "data: :a\n"),
        ("\u{feff}a", "data: \u{feff}a\n"),
        ("a\u{2028}b\0", "data: a\u{2028}b\0\n"),
        (
            "x\n\nid: 9\nevent: gap\ndata: y",
            "data: x\ndata: \ndata: id: 9\ndata: event: gap\ndata: data: y\n",
        ),
    ] {
        let frame = message(5, payload).frame(&SseRaw);
        let expect = format!("id: {id}\n{lines}\n");
        assert_eq!(str::from_utf8(&frame).unwrap(), expect, "{payload:?}");
        let read = only(&frame);
        assert_eq!(read.data, payload.replace("\r\n", "\n").replace('\r', "\n"));
        assert_eq!(read.id, id);
        assert_eq!(read.event, "");
    }
}

#[test]
fn the_event_type_is_sent_unless_it_would_lie() {
    for (event, expect) in [
        (Some("made"), "made"),
        (Some("order made: 水"), "order made: 水"),
        (None, ""),
        (Some(""), ""),
        // From a protocol that lets such a type pass.
        (Some("a\nid: 1"), ""),
        (Some("a\rdata: x"), ""),
        (Some("a\0"), ""),
        (Some("gap"), ""),
        (Some("drain"), ""),
        (Some("lost"), ""),
        (Some("tidings-binary"), ""),
    ] {
        let message = with(b"x", event, None);
        for format in [&SseRaw as &dyn FrameFormat, &SseEnvelope] {
            let read = only(&message.frame(format));
            assert_eq!(read.event, expect, "{event:?} {}", format.id());
            assert_eq!(read.id, cursor(5).to_string());
        }
    }
}

#[test]
fn bytes_that_are_no_text_cannot_be_mistaken_for_it() {
    let message = with(b"\xff\n\ndata: x", Some("made"), None);
    let read = only(&message.frame(&SseRaw));
    assert_eq!(read.event, "tidings-binary");
    let json: serde_json::Value = serde_json::from_str(&read.data).unwrap();
    assert_eq!(json["base64"], "/woKZGF0YTogeA==");
    assert_eq!(json["event"], "made");
    let read = only(&message.frame(&SseEnvelope));
    assert_eq!(read.event, "made");
    assert!(read.data.contains("\"base64\":"));
}

#[test]
fn an_envelope_stays_json_when_its_payload_has_line_ends() {
    for (payload, content_type, data) in [
        ("a\r\nb", None, serde_json::json!("a\r\nb")),
        (
            "{\r\n \"a\":\r1\n}",
            Some("application/json"),
            serde_json::json!({"a": 1}),
        ),
        ("", None, serde_json::json!("")),
    ] {
        let message = with(payload.as_bytes(), None, content_type);
        let frame = message.frame(&SseEnvelope);
        let read = only(&frame);
        let json: serde_json::Value = serde_json::from_str(&read.data).unwrap();
        assert_eq!(json["data"], data);
        assert_eq!(json["topic"], "t");
        assert_eq!(json["id"], read.id);
    }
}

#[test]
fn the_servers_own_blocks_are_read_as_meant() {
    let mut stream = Vec::new();
    write_retry(2_500, &mut stream);
    stream.extend_from_slice(b": tidings\n\n");
    write_position(&cursor(3), &mut stream);
    let reader = Reader::read(&stream);
    assert_eq!(reader.retry_ms, Some(2_500));
    assert_eq!(reader.comments, 1);
    assert_eq!(reader.last_id, cursor(3).to_string());
    assert_eq!(reader.events, []);
    let gap = Gap {
        reason: GapReason::Retention,
        after: Some(cursor(3)),
        resume: cursor(8),
    };
    write_gap_event(&gap, &mut stream);
    stream.extend_from_slice(event::HEARTBEAT);
    let reader = Reader::read(&stream);
    assert_eq!(reader.comments, 2);
    let read = &reader.events[0];
    assert_eq!(read.event, "gap");
    assert_eq!(read.id, cursor(8).to_string());
    let expect = format!(
        "{{\"reason\":\"retention\",\"after\":\"{}\",\"resume\":\"{}\"}}",
        cursor(3),
        cursor(8)
    );
    assert_eq!(read.data, expect);
    let unknown = Gap { after: None, ..gap };
    let mut stream = Vec::new();
    write_gap_event(&unknown, &mut stream);
    assert!(only(&stream).data.contains("\"after\":null"));
}

#[test]
fn frames_have_one_name_for_each_encoding() {
    let names: Vec<_> = [Format::Raw, Format::Envelope]
        .into_iter()
        .flat_map(|format| [false, true].map(|gzip| format.frames(gzip).id()))
        .collect();
    assert_eq!(
        names,
        [
            "sse/raw",
            "sse/raw+gzip",
            "sse/envelope",
            "sse/envelope+gzip"
        ]
    );
}

/// Reads a gzip stream that has no end, as browsers do: everything up to where it breaks off.
pub fn gunzip(stream: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let error = GzDecoder::new(stream).read_to_end(&mut out).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    out
}

#[test]
fn compressed_chunks_of_any_origin_are_one_gzip_stream() {
    let long = "again and again, ".repeat(5_000);
    let noise: String = (0..30_000u32)
        .map(|n| char::from(33 + (n.wrapping_mul(2_654_435_761) >> 20) as u8 % 90))
        .collect();
    let mut stream = HEADER.to_vec();
    let mut expect = Vec::new();
    for payload in ["hello", "", &long, "hello", &noise, "x"] {
        let message = message(5, payload);
        for (packed, plain) in [
            (Format::Raw.frames(true), Format::Raw.frames(false)),
            (
                Format::Envelope.frames(true),
                Format::Envelope.frames(false),
            ),
        ] {
            stream.extend_from_slice(&message.frame(packed));
            expect.extend_from_slice(&message.frame(plain));
            // Every event is there as soon as its chunk is: nothing waits for the next.
            assert!(gunzip(&stream) == expect, "{}", payload.len());
        }
        stream.extend_from_slice(&chunk(event::HEARTBEAT));
        expect.extend_from_slice(event::HEARTBEAT);
    }
    // A chunk that a shard on another core made fits in too.
    let other = std::thread::spawn(|| chunk(b"data: other\n\n"))
        .join()
        .unwrap();
    stream.extend_from_slice(&other);
    expect.extend_from_slice(b"data: other\n\n");
    assert!(gunzip(&stream) == expect);
    assert!(chunk(long.as_bytes()).len() < long.len() / 50);
    assert!(chunk(noise.as_bytes()).len() < noise.len() + 64);
}

#[test]
fn chunks_are_complete_at_every_length() {
    // The flush must be whole also when the output buffer is full just before it.
    let mut random = crate::http::testing::Seeded(0x7469_6469_6e67_7304);
    for length in (0..600).chain([4_095, 4_096, 65_535, 65_536, 200_000]) {
        let bytes: Vec<u8> = (0..length).map(|_| b'a' + random.below(26) as u8).collect();
        let packed = chunk(&bytes);
        assert!(packed.ends_with(&[0, 0, 0xff, 0xff]), "{length}");
        let mut stream = HEADER.to_vec();
        stream.extend_from_slice(&packed);
        assert!(gunzip(&stream) == bytes, "{length}");
    }
}

#[test]
fn the_response_head_keeps_proxies_from_holding_the_stream_back() {
    let request = SseRequest {
        filters: Vec::new(),
        start: Start::Latest,
        format: Format::Raw,
        padding: false,
        gzip: true,
    };
    let head = request.response_head(false);
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(head.headers["cache-control"], "no-cache, no-transform");
    assert_eq!(head.headers["x-accel-buffering"], "no");
    assert_eq!(head.headers["x-content-type-options"], "nosniff");
    assert!(!head.headers.contains_key("content-length"));
    assert!(!head.headers.contains_key("content-encoding"));
    assert_eq!(
        request.response_head(true).headers["content-encoding"],
        "gzip"
    );
}

proptest! {
    #[test]
    fn any_payload_comes_back_line_by_line(
        payloads in prop::collection::vec("([a-z: ]|\r|\n|\r\n|\u{feff}|data: |\u{2028}|水){0,40}", 1..8),
        event in prop::option::of("[a-z:\r\n\0 ]{0,6}"),
    ) {
        let mut stream = Vec::new();
        let mut packed = HEADER.to_vec();
        for payload in &payloads {
            let message = with(payload.as_bytes(), event.as_deref(), None);
            stream.extend_from_slice(&message.frame(&SseRaw));
            packed.extend_from_slice(&message.frame(Format::Raw.frames(true)));
        }
        prop_assert_eq!(&gunzip(&packed), &stream);
        let read = Reader::read(&stream).events;
        prop_assert_eq!(read.len(), payloads.len());
        for (read, payload) in read.iter().zip(&payloads) {
            prop_assert_eq!(&read.data, &payload.replace("\r\n", "\n").replace('\r', "\n"));
            prop_assert_eq!(&read.id, &cursor(5).to_string());
        }
    }

    #[test]
    fn any_bytes_come_back_from_the_envelope(payload: Vec<u8>, is_json: bool, is_text: bool) {
        let mut draft = Draft::new(Topic::new("t").unwrap(), Bytes::from(payload.clone()));
        if !is_text {
            draft.format = PayloadFormat::Binary;
        }
        draft.properties.content_type = is_json.then(|| "application/json".into());
        let message = commit(draft, 5);
        let read = only(&message.frame(&SseEnvelope));
        let json: serde_json::Value = serde_json::from_str(&read.data).unwrap();
        match message.text() {
            None => {
                use base64::Engine as _;
                let text = json["base64"].as_str().unwrap();
                let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
                prop_assert_eq!(bytes, payload);
            }
            Some(text) => match &json["data"] {
                serde_json::Value::String(data) if data == text => {}
                data => prop_assert_eq!(data, &serde_json::from_str::<serde_json::Value>(text).unwrap()),
            },
        }
    }
}
