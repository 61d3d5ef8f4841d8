use super::*;
use tidings_types::Topic;

fn word(text: &str) -> ServerWord {
    ServerWord::parse(text.as_bytes()).unwrap()
}

fn payload(text: &str) -> (Vec<u8>, PayloadForm) {
    let text = format!(r#"{{"op":"message","topic":"a","id":"c","time":5,{text}}}"#);
    match word(&text) {
        ServerWord::Message(message) => (message.payload.to_vec(), message.form),
        other => panic!("{other:?}"),
    }
}

#[test]
fn payloads_come_back_as_they_were_published() {
    for (text, expect, form) in [
        (r#""data":"hi\n\"""#, &b"hi\n\""[..], PayloadForm::Text),
        (
            r#""data":{"a": 1.10}"#,
            br#"{"a": 1.10}"#,
            PayloadForm::Json,
        ),
        (
            r#""data":null,"content_type":"application/json""#,
            b"null",
            PayloadForm::Json,
        ),
        (r#""base64":"/w==""#, b"\xff", PayloadForm::Binary),
    ] {
        assert_eq!(payload(text), (expect.to_vec(), form), "{text}");
    }
}

#[test]
fn the_words_of_a_server_are_read() {
    let receipt = Receipt {
        id: "c".into(),
        time_ms: 7,
        replayed: true,
    };
    assert_eq!(
        word(r#"{"op":"ok","id":3,"cursor":"c","time":7,"replayed":true}"#),
        ServerWord::Ok {
            id: Some(3),
            receipt,
            sub: None
        }
    );
    let busy = word(r#"{"op":"error","id":3,"code":"busy","message":"m","retry_after":1}"#);
    let refused = Refused::from_code("busy", "m", Some(Duration::from_secs(1)));
    assert_eq!(
        busy,
        ServerWord::Error {
            id: Some(3),
            refused
        }
    );
    let gap =
        word(r#"{"op":"gap","sub":1,"topic":"a","reason":"retention","after":null,"cursor":"c"}"#);
    let expect = Gap {
        reason: "retention".into(),
        after: None,
        cursor: Some("c".into()),
    };
    assert_eq!(gap, ServerWord::Gap(expect));
    let reconnect = Duration::from_millis(250);
    assert_eq!(
        word(r#"{"op":"drain","reconnect_ms":250}"#),
        ServerWord::Drain { reconnect }
    );
    assert_eq!(word(r#"{"op":"news","id":"x"}"#), ServerWord::Unknown);
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"op":"message","topic":"a"}"#,
        r#"{"op":1}"#,
    ] {
        assert!(ServerWord::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn properties_of_a_message_are_kept() {
    let text = r#"{"topic":"a","id":"c","time":5,"data":"x","event":"e","content_type":"t/p","headers":{"k":"v","l":["1","2"]},"retain":true,"new":[]}"#;
    let message = parse_message(text.as_bytes()).unwrap();
    assert_eq!(message.event.as_deref(), Some("e"));
    assert_eq!(message.content_type.as_deref(), Some("t/p"));
    let expect = [("k", "v"), ("l", "1"), ("l", "2")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(message.headers, expect);
    assert!(message.retain);
}

#[test]
fn an_envelope_is_one_line_whatever_the_payload_holds() {
    for (form, bytes, expect) in [
        (PayloadForm::Text, &b"a\nb"[..], r#""data":"a\nb""#),
        (PayloadForm::Json, b"{\"a\":\n1}", r#""data":{"a":1}"#),
        (PayloadForm::Binary, b"\xff", r#""base64":"/w==""#),
    ] {
        let message = Message {
            topic: "t".into(),
            id: "c".into(),
            time_ms: 1,
            payload: Bytes::copy_from_slice(bytes),
            form,
            event: None,
            content_type: None,
            headers: [("h", "1"), ("g", "2"), ("h", "3")]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
            retain: false,
            deliveries: None,
        };
        let mut out = Vec::new();
        write_message(&message, &mut out);
        let headers = r#""headers":{"g":"2","h":["1","3"]}"#;
        let expect = format!(r#"{{"topic":"t","id":"c","time":1,{expect},{headers}}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }
}

#[test]
fn requests_carry_only_what_is_set() {
    let mut outgoing = Outgoing::new(Topic::new("a/b").unwrap(), "x");
    let text = |outgoing: &Outgoing| String::from_utf8(publish_request(1, outgoing, "k")).unwrap();
    assert_eq!(
        text(&outgoing),
        r#"{"op":"publish","id":1,"topic":"a/b","key":"k","data":"x"}"#
    );
    outgoing.payload = Bytes::from_static(b"\xff");
    outgoing.key = Some("own".into());
    outgoing.retain = true;
    outgoing.ttl = Some(Duration::from_secs(9));
    outgoing.headers = vec![("h".into(), "v".into())];
    assert_eq!(
        text(&outgoing),
        r#"{"op":"publish","id":1,"topic":"a/b","key":"own","base64":"/w==","ttl":9,"retain":true,"headers":[["h","v"]]}"#
    );
    let filters = ["a/#", "b"].map(|text| TopicFilter::new(text).unwrap());
    let text = |filters, start| {
        let request = subscribe_request(1, Asked::new(filters, &start));
        String::from_utf8(request).unwrap()
    };
    assert_eq!(
        text(&filters[..1], Start::Last(5)),
        r#"{"op":"subscribe","id":1,"topic":"a/#","last":5}"#
    );
    assert_eq!(
        text(&filters, Start::After("c".into())),
        r#"{"op":"subscribe","id":1,"topics":["a/#","b"],"after":"c"}"#
    );
}

#[test]
fn a_message_of_a_work_queue_says_how_often_it_was_delivered() {
    let text =
        r#"{"op":"message","sub":1,"deliveries":2,"topic":"a","id":"c","time":5,"data":"x"}"#;
    let ServerWord::Message(message) = word(text) else {
        panic!("a message");
    };
    assert_eq!(message.deliveries, Some(2));
    let mut out = Vec::new();
    write_message(&message, &mut out);
    assert_eq!(
        str::from_utf8(&out).unwrap(),
        r#"{"topic":"a","id":"c","time":5,"data":"x","deliveries":2}"#
    );
}

#[test]
fn a_verdict_names_its_message_and_asks_for_no_answer() {
    for (verdict, expect) in [
        (Verdict::Ack, r#"{"op":"ack","sub":3,"message":"c\"d"}"#),
        (Verdict::Nack, r#"{"op":"nack","sub":3,"message":"c\"d"}"#),
        (
            Verdict::Reject,
            r#"{"op":"nack","sub":3,"message":"c\"d","requeue":false}"#,
        ),
    ] {
        let request = settle_request(3, "c\"d", verdict);
        assert_eq!(str::from_utf8(&request).unwrap(), expect);
    }
}
