use super::*;
use crate::http::testing::{Seeded, request};

fn read(content_type: &str, body: &str) -> Result<Vec<Draft>, Refusal> {
    let header = format!("content-type: {content_type}");
    let headers: &[&str] = if content_type.is_empty() {
        &[]
    } else {
        &[&header]
    };
    let parts = request("POST", "/v1/publish", headers);
    batch(
        &parts,
        &Bytes::copy_from_slice(body.as_bytes()),
        &Limits::default(),
    )
}

fn topics(drafts: &[Draft]) -> String {
    let names: Vec<_> = drafts.iter().map(|draft| draft.topic.as_str()).collect();
    names.join(" ")
}

#[test]
fn batches_are_arrays_objects_or_lines() {
    let array = r#" [{"topic":"a","data":"1"},{"topic":"b","data":"2"}] "#;
    let lines = "{\"topic\":\"a\",\"data\":\"1\"}\r\n\n  {\"topic\":\"b\",\"data\":\"2\"}";
    for (content_type, body, expect) in [
        ("application/json", array, Ok("a b")),
        ("application/json; charset=utf-8", array, Ok("a b")),
        (
            "application/json",
            "{\n\"topic\":\"a\",\n\"data\":1}",
            Ok("a"),
        ),
        ("application/x-ndjson", lines, Ok("a b")),
        ("application/jsonl", lines, Ok("a b")),
        ("", array, Ok("a b")),
        ("", lines, Ok("a b")),
        ("application/x-www-form-urlencoded", array, Ok("a b")),
        ("application/x-www-form-urlencoded", lines, Ok("a b")),
        ("application/x-ndjson", array, Err(RefusalCode::BadJson)),
        ("application/json", lines, Err(RefusalCode::BadJson)),
        (
            "application/xml",
            array,
            Err(RefusalCode::UnsupportedMediaType),
        ),
        ("", "", Err(RefusalCode::BadJson)),
        ("application/json", "[]", Err(RefusalCode::BadJson)),
        ("application/json", "[] x", Err(RefusalCode::BadJson)),
        ("application/json", "[1", Err(RefusalCode::BadJson)),
    ] {
        let read = read(content_type, body)
            .map(|drafts| topics(&drafts))
            .map_err(|refusal| refusal.code);
        assert_eq!(
            read.as_deref(),
            expect.as_ref().copied(),
            "{content_type} {body}"
        );
    }
}

#[test]
fn every_field_is_read() {
    let body = r#"[{"topic":"a/b","data":"x","event":"made","key":"k","ttl":2.5,"retain":true,
        "content_type":"text/plain","headers":{"Z":"1","a":["2","3"],"n":[]}}]"#;
    let drafts = read("application/json", body).unwrap();
    let draft = &drafts[0];
    assert_eq!(draft.topic.as_str(), "a/b");
    assert_eq!(&draft.payload[..], b"x");
    assert_eq!(draft.format, PayloadFormat::Text);
    assert_eq!(draft.ttl, Some(Duration::from_millis(2_500)));
    assert!(draft.retain);
    assert_eq!(draft.key.as_deref(), Some("k"));
    assert_eq!(draft.properties.event.as_deref(), Some("made"));
    assert_eq!(draft.properties.content_type.as_deref(), Some("text/plain"));
    let headers: Vec<_> = draft
        .properties
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(headers, [("Z", "1"), ("a", "2"), ("a", "3")]);
}

#[test]
fn data_is_text_or_json_and_base64_is_bytes() {
    use PayloadFormat::{Binary, Text};
    let json = Some("application/json");
    for (fields, payload, format, content_type) in [
        (r#""data":"a\n\u00e4""#, "a\nä".as_bytes(), Text, None),
        (r#""data":"""#, b"", Text, None),
        (
            r#""data": {"a" : [1, 2]} "#,
            br#"{"a" : [1, 2]}"#,
            Text,
            json,
        ),
        (r#""data":12"#, b"12", Text, json),
        (r#""data":null"#, b"null", Text, json),
        (
            r#""data":{},"content_type":"application/vnd.x+json""#,
            b"{}",
            Text,
            Some("application/vnd.x+json"),
        ),
        (
            r#""data":"{}","content_type":"application/json""#,
            b"{}",
            Text,
            json,
        ),
        (
            r#""data":"x","content_type":"image/png""#,
            b"x",
            Binary,
            Some("image/png"),
        ),
        (r#""base64":"aGk=""#, b"hi", Binary, None),
        (r#""base64":"aGk""#, b"hi", Binary, None),
        (r#""base64":"/w==""#, b"\xff", Binary, None),
        (r#""base64":"""#, b"", Binary, None),
    ] {
        let body = format!(r#"{{"topic":"t",{fields}}}"#);
        let drafts =
            read("application/json", &body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(&drafts[0].payload[..], payload, "{body}");
        assert_eq!(drafts[0].format, format, "{body}");
        assert_eq!(
            drafts[0].properties.content_type.as_deref(),
            content_type,
            "{body}"
        );
    }
}

#[test]
fn one_bad_message_refuses_the_batch_by_its_place_and_field() {
    use RefusalCode::{BadJson, BadParameter, BadTopic};
    for (fields, code, word) in [
        (r#""data":"x""#, BadJson, "`topic`"),
        (r#""topic":"a/+","data":"x""#, BadTopic, "`topic`"),
        (r#""topic":7,"data":"x""#, BadJson, "`topic`"),
        (r#""topic":"t""#, BadJson, "`data`"),
        (r#""topic":"t","data":"\ud800""#, BadJson, "`data`"),
        (
            r#""topic":"t","data":"x","base64":"aGk=""#,
            BadJson,
            "`data`",
        ),
        (r#""topic":"t","base64":"?""#, BadJson, "`base64`"),
        (r#""topic":"t","data":"x","ttl":-1"#, BadJson, "`ttl`"),
        (r#""topic":"t","data":"x","ttl":1e300"#, BadJson, "`ttl`"),
        (
            r#""topic":"t","data":"x","ttl":"soon""#,
            BadParameter,
            "`ttl`",
        ),
        (r#""topic":"t","data":"x","ttl":0"#, BadParameter, "`ttl`"),
        (
            r#""topic":"t","data":"x","retain":"yes""#,
            BadJson,
            "`retain`",
        ),
        (
            r#""topic":"t","data":"x","event":"a\nid: 1""#,
            BadParameter,
            "`event`",
        ),
        (
            r#""topic":"t","data":"x","event":"drain""#,
            BadParameter,
            "`event`",
        ),
        (r#""topic":"t","data":"x","key":"""#, BadParameter, "`key`"),
        (
            r#""topic":"t","data":"x","headers":{"a":1}"#,
            BadJson,
            "`headers`",
        ),
        (
            r#""topic":"t","data":"x","headers":[]"#,
            BadJson,
            "`headers`",
        ),
        (
            r#""topic":"t","data":"x","content_type":"a\nb""#,
            BadJson,
            "`content_type`",
        ),
        (r#""topic":"t","data":"x","tll":1"#, BadJson, "`tll`"),
        (r#""topic":"t","topic":"u","data":"x""#, BadJson, "`topic`"),
    ] {
        let good = r#"{"topic":"t","data":"x"}"#;
        let refusal = read("application/json", &format!("[{good},{{{fields}}}]")).unwrap_err();
        assert_eq!(refusal.code, code, "{fields}: {refusal}");
        assert!(refusal.detail.contains("message 1"), "{fields}: {refusal}");
        assert!(refusal.detail.contains(word), "{fields}: {refusal}");
        let refusal = read("application/x-ndjson", &format!("{good}\n\n{{{fields}}}")).unwrap_err();
        assert!(refusal.detail.contains("line 3"), "{fields}: {refusal}");
    }
}

#[test]
fn batches_are_bounded() {
    let limits = Limits {
        batch_messages_max: 2,
        batch_bytes_max: 200,
        message_bytes_max: 10,
        ..Limits::default()
    };
    let good = r#"{"topic":"t","data":"x"}"#;
    let long = "x".repeat(11);
    for (body, expect) in [
        (format!("[{good},{good}]"), None),
        (
            format!("[{good},{good},{good}]"),
            Some("limits.batch_messages_max"),
        ),
        (
            format!("{good}\n{good}\n{good}"),
            Some("limits.batch_messages_max"),
        ),
        (
            format!("[{}1]", "1,".repeat(90)),
            Some("limits.batch_messages_max"),
        ),
        (" ".repeat(201), Some("limits.batch_bytes_max")),
        (
            format!(r#"[{{"topic":"t","data":"{long}"}}]"#),
            Some("limits.message_bytes_max"),
        ),
        (
            format!(r#"[{{"topic":"t","data":[{}1]}}]"#, "1,".repeat(10)),
            Some("limits.message_bytes_max"),
        ),
    ] {
        let parts = request("POST", "/v1/publish", &[]);
        let detail = batch(&parts, &Bytes::from(body.clone()), &limits)
            .err()
            .map(|refusal| refusal.detail);
        assert_eq!(detail.is_some(), expect.is_some(), "{body}: {detail:?}");
        assert!(
            detail
                .unwrap_or_default()
                .contains(expect.unwrap_or_default()),
            "{body}"
        );
    }
}

#[test]
fn deep_json_does_not_overflow_the_stack() {
    let deep = "[".repeat(500_000);
    for body in [
        deep.clone(),
        format!(r#"[{{"topic":"t","data":{deep}"#),
        format!(
            r#"[{{"topic":"t","data":"x","headers":{deep}{}}}]"#,
            "]".repeat(500_000)
        ),
    ] {
        assert_eq!(
            read("application/json", &body).unwrap_err().code,
            RefusalCode::BadJson
        );
    }
    let whole = format!(r#"{{"topic":"t","data":{deep}{}}}"#, "]".repeat(500_000));
    let drafts = read("application/json", &whole).unwrap();
    assert_eq!(drafts[0].payload.len(), 1_000_000);
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let parts = request("POST", "/v1/publish", &[]);
    let refusal = batch(
        &parts,
        &Bytes::from_static(b"[\"\xff\"]"),
        &Limits::default(),
    );
    assert_eq!(refusal.unwrap_err().code, RefusalCode::BadText);
}

#[test]
fn no_body_makes_a_batch_panic() {
    let seed = br#"[{"topic":"a","data":{"x":[1,"\u00e4"]},"ttl":"5s","headers":{"a":["1","2"]}},
{"topic":"b","base64":"/w==","event":"e","key":"k","retain":true,"content_type":"image/png"}]"#;
    let mut random = Seeded(0x7469_6469_6e67_7303);
    let parts = request("POST", "/v1/publish", &[]);
    let mut read = 0;
    for _ in 0..20_000 {
        let body = Bytes::from(random.mutate(seed));
        if let Ok(drafts) = batch(&parts, &body, &Limits::default()) {
            assert!(!drafts.is_empty());
            read += 1;
        }
    }
    assert!(read > 100, "{read}");
}
