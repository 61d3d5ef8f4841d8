use super::*;
use crate::http::testing::{Seeded, request};

fn read(headers: &[&str], body: &[u8]) -> Result<Draft, Refusal> {
    let parts = request("POST", "/v1/topics/t", headers);
    let topic = Topic::new("t").unwrap();
    draft(
        &parts,
        topic,
        Bytes::copy_from_slice(body),
        &Limits::default(),
    )
}

#[test]
fn curl_needs_no_headers() {
    let draft = read(
        &[
            "content-type: application/x-www-form-urlencoded",
            "accept: */*",
        ],
        b"hello",
    )
    .unwrap();
    let expect = Draft::new(Topic::new("t").unwrap(), Bytes::from_static(b"hello"));
    assert_eq!(draft, expect);
    assert_eq!(draft.format, PayloadFormat::Text);
}

#[test]
fn the_format_is_what_the_type_says_or_else_what_the_bytes_show() {
    use PayloadFormat::{Binary, Text};
    for (content_type, body, expect) in [
        (None, &b"text"[..], Text),
        (None, b"", Text),
        (None, b"\xff", Binary),
        (Some("text/plain"), b"\xff", Binary),
        (Some("application/json"), b"{}", Text),
        (Some("application/octet-stream"), b"text", Binary),
        (Some("image/svg+xml"), b"<svg/>", Binary),
        (Some("Audio/Mpeg"), b"x", Binary),
        (Some("video/mp4; codecs=x"), b"x", Binary),
        (Some("application/cbor"), b"x", Text),
    ] {
        let header = content_type.map(|text| format!("content-type: {text}"));
        let headers: Vec<&str> = header.as_deref().into_iter().collect();
        let draft = read(&headers, body).unwrap();
        assert_eq!(draft.format, expect, "{content_type:?}");
        assert_eq!(draft.properties.content_type.as_deref(), content_type);
    }
}

#[test]
fn headers_become_properties() {
    let draft = read(
        &[
            "content-type: text/markdown; charset=utf-8",
            "idempotency-key: order-7",
            "tidings-event: order%20made",
            "tidings-ttl: 5m",
            "tidings-retain: 1",
            "tidings-header-b: 2",
            "tidings-header-Trace: %E6%B0%B4",
            "tidings-header-b: käse",
            "x-other: no",
        ],
        b"x",
    )
    .unwrap();
    assert_eq!(draft.key.as_deref(), Some("order-7"));
    assert_eq!(draft.ttl, Some(Duration::from_mins(5)));
    assert!(draft.retain);
    let properties = draft.properties;
    assert_eq!(
        properties.content_type.as_deref(),
        Some("text/markdown; charset=utf-8")
    );
    assert_eq!(properties.event.as_deref(), Some("order made"));
    let headers: Vec<_> = properties
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(headers, [("b", "2"), ("b", "käse"), ("trace", "水")]);
}

#[test]
fn bad_headers_are_refused_by_name() {
    use RefusalCode::{BadParameter, BadRequest, BadText, UnsupportedMediaType};
    let long = format!("idempotency-key: {}", "k".repeat(257));
    for (header, code, word) in [
        ("tidings-ttl: soon", BadParameter, "Tidings-Ttl"),
        ("tidings-ttl: 0", BadParameter, "Tidings-Ttl"),
        ("tidings-ttl: -1", BadParameter, "Tidings-Ttl"),
        ("tidings-retain: yes", BadParameter, "Tidings-Retain"),
        ("tidings-event: ", BadParameter, "Tidings-Event"),
        ("tidings-event: a%0Adata:x", BadParameter, "Tidings-Event"),
        ("tidings-event: a%00", BadParameter, "Tidings-Event"),
        ("tidings-event: gap", BadParameter, "Tidings-Event"),
        ("tidings-event: tidings-x", BadParameter, "Tidings-Event"),
        ("tidings-event: %zz", BadRequest, "tidings-event"),
        ("tidings-header-a: %ff", BadText, "tidings-header-a"),
        ("tidings-header-: x", BadParameter, "Tidings-Header-"),
        ("tidings-header-a: 1%0ab: 2", BadParameter, "control"),
        ("tidings-header-a: %00", BadParameter, "control"),
        ("idempotency-key: ", BadParameter, "Idempotency-Key"),
        (&long, BadParameter, "limits.key_bytes_max"),
        (
            "content-encoding: gzip",
            UnsupportedMediaType,
            "Content-Encoding",
        ),
    ] {
        let refusal = read(&[header], b"x").unwrap_err();
        assert_eq!(refusal.code, code, "{header}");
        assert!(refusal.detail.contains(word), "{header}: {refusal}");
    }
    assert!(read(&["content-encoding: identity"], b"x").is_ok());
    let mut parts = request("POST", "/", &[]);
    let latin = HeaderValue::from_bytes(b"k\xe4se").unwrap();
    parts.headers.insert("tidings-header-a", latin);
    let refusal = draft(
        &parts,
        Topic::new("t").unwrap(),
        Bytes::new(),
        &Limits::default(),
    );
    assert_eq!(refusal.unwrap_err().code, RefusalCode::BadText);
}

#[test]
fn messages_are_bounded() {
    let limits = Limits {
        message_bytes_max: 4,
        message_headers_max: 2,
        message_header_bytes_max: 10,
        ..Limits::default()
    };
    for (headers, body, expect) in [
        (&[][..], &b"1234"[..], None),
        (&[], b"12345", Some("limits.message_bytes_max")),
        (&["tidings-header-a: 1", "tidings-header-b: 2"], b"", None),
        (
            &[
                "tidings-header-a: 1",
                "tidings-header-a: 2",
                "tidings-header-a: 3",
            ],
            b"",
            Some("limits.message_headers_max"),
        ),
        (&["tidings-header-a: 123456789"], b"", None),
        (
            &["tidings-header-a: 1234567890"],
            b"",
            Some("limits.message_header_bytes_max"),
        ),
        (
            &["tidings-event: 12345678901"],
            b"",
            Some("limits.message_header_bytes_max"),
        ),
    ] {
        let parts = request("POST", "/", headers);
        let topic = Topic::new("t").unwrap();
        let refusal = draft(&parts, topic, Bytes::copy_from_slice(body), &limits).err();
        let detail = refusal.map(|refusal| refusal.detail);
        assert_eq!(detail.is_some(), expect.is_some(), "{headers:?} {detail:?}");
        assert!(
            detail
                .unwrap_or_default()
                .contains(expect.unwrap_or_default())
        );
    }
}

#[test]
fn no_headers_make_drafting_panic() {
    let mut random = Seeded(0x7469_6469_6e67_7302);
    let mut drafted = 0;
    for _ in 0..20_000 {
        let mut parts = request("POST", "/v1/topics/t", &[]);
        for (name, seed) in [
            ("content-type", "application/json; charset=utf-8"),
            ("idempotency-key", "key"),
            ("tidings-event", "made%20it"),
            ("tidings-ttl", "500ms"),
            ("tidings-header-a", "%E6%B0%B4"),
        ] {
            let text = if random.below(3) == 0 {
                random.mutate(seed.as_bytes())
            } else {
                seed.as_bytes().to_vec()
            };
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                parts.headers.append(name, value);
            }
        }
        let body = Bytes::from(random.mutate(b"payload"));
        if let Ok(draft) = draft(&parts, Topic::new("t").unwrap(), body, &Limits::default()) {
            drafted += 1;
            let event = draft.properties.event.unwrap_or_default();
            assert!(!event.contains(['\r', '\n', '\0']));
            assert!(
                draft.format == PayloadFormat::Binary || str::from_utf8(&draft.payload).is_ok()
            );
        }
    }
    assert!(drafted > 1_000, "{drafted}");
}
