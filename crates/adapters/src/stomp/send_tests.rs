//! SEND, destinations, and receipts.

use std::time::Duration;

use bytes::Bytes;
use tidings_ports::{Command, Ending, Event, Tag};
use tidings_types::{Draft, PayloadFormat, RefusalCode};

use super::destination::{self, Kind, Manner, Separator};
use super::testing::*;

/// The draft of a SEND with these headers.
fn sent(headers: &str, body: &str) -> Result<Draft, (String, String)> {
    let mut client = Client::connected("1.2");
    client.send(format!("SEND\ndestination:/topic/a\n{headers}\n{body}\0"));
    if client.ending.is_some() {
        let (code, _, detail) = client.error();
        return Err((code, detail));
    }
    match client.commands().pop() {
        Some(Command::Publish { mut drafts, .. }) => Ok(drafts.pop().unwrap()),
        _ => panic!("nothing was published"),
    }
}

#[test]
fn destinations_name_topics() {
    for (destination, topic) in [
        ("/topic/a/b", Ok("a/b")),
        ("/topic/a.b", Ok("a/b")),
        ("/topic/a", Ok("a")),
        ("/queue/a/b", Ok("a/b")),
        ("/queue/a.b.c", Ok("a/b/c")),
        ("/topic/a.b/c", Ok("a.b/c")),
        ("/topic/a%2Eb", Ok("a.b")),
        ("/topic/a%2eb.c", Ok("a.b/c")),
        ("/topic/a%2Fb", Ok("a/b")),
        ("/topic/100%25", Ok("100%")),
        ("/topic/%2A", Ok("*")),
        ("/topic//x", Ok("/x")),
        ("/topic/k%C3%A4se", Ok("käse")),
        ("/topic/*", Err("bad-topic")),
        ("/topic/a.*", Err("bad-topic")),
        ("/topic/a/+", Err("bad-topic")),
        ("/topic/#", Err("bad-topic")),
        ("/topic/", Err("bad-topic")),
        ("/topic/a%", Err("bad-request")),
        ("/topic/%ff", Err("bad-text")),
        ("/topic/%00", Err("bad-topic")),
        ("a/b", Err("bad-topic")),
        ("/a/b", Err("bad-topic")),
        ("/topic", Err("bad-topic")),
        ("/exchange/a/b", Err("bad-topic")),
        ("/amq/queue/a", Err("bad-topic")),
        ("/temp-queue/a", Err("bad-topic")),
        ("/reply-queue/a", Err("bad-topic")),
    ] {
        let got = destination::topic(destination);
        let got = got.as_ref().map(tidings_types::Topic::as_str);
        let got = got.map_err(|refusal| refusal.code.slug());
        assert_eq!(got, topic, "{destination}");
    }
    let refusal = destination::topic("/exchange/x").unwrap_err();
    assert!(refusal.detail.contains("`/topic/..`"), "{refusal}");
}

#[test]
fn a_topic_is_written_as_a_destination_that_names_it_again() {
    let dotted = [
        "a", "a/b", "a.b", "a.b/c", "100%/x", "*", "a/*", "/", "a/", "käse",
    ];
    for text in dotted {
        let topic = tidings_types::Topic::new(text).unwrap();
        for separator in [Separator::Slash, Separator::Dot] {
            for kind in [Kind::Topic, Kind::Queue] {
                let written = destination::write(Manner { kind, separator }, &topic);
                assert_eq!(destination::topic(&written).unwrap(), topic, "{written}");
            }
        }
    }
    let manner = Manner {
        kind: Kind::Topic,
        separator: Separator::Dot,
    };
    let topic = tidings_types::Topic::new("a/b.c").unwrap();
    assert_eq!(destination::write(manner, &topic), "/topic/a.b%2Ec");
}

#[test]
fn headers_become_what_every_protocol_knows() {
    let draft = sent(
        "content-type:text/plain\nexpiration:1500\ntidings-event:sale\nretain:true\nidempotency-key:k1\nreply-to:/topic/re.ply\ncorrelation-id:c1\npersistent:true\npriority:4\nreceipt:5\nb:2\na:1\nb:3\nmessage-id:old\nsubscription:0\nack:1\n",
        "body",
    )
    .unwrap();
    assert_eq!(draft.topic.as_str(), "a");
    assert_eq!(draft.payload, "body");
    assert_eq!(draft.format, PayloadFormat::Text);
    assert_eq!(draft.ttl, Some(Duration::from_millis(1_500)));
    assert!(draft.retain);
    assert_eq!(draft.key.as_deref(), Some("k1"));
    let properties = draft.properties;
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.event.as_deref(), Some("sale"));
    assert_eq!(properties.response_topic.as_deref(), Some("re/ply"));
    assert_eq!(properties.correlation, Some(Bytes::from_static(b"c1")));
    let headers = properties.headers.iter();
    let headers: Vec<String> = headers
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(headers, ["b=2", "a=1", "b=3"]);
}

#[test]
fn the_first_of_repeated_headers_counts_and_others_are_optional() {
    let draft = sent("tidings-ttl:2m\ntidings-ttl:1\ntidings-key:k\n", "").unwrap();
    assert_eq!(draft.ttl, Some(Duration::from_mins(2)));
    assert_eq!(draft.key.as_deref(), Some("k"));
    let plain = sent("", "x").unwrap();
    assert_eq!(plain, crate::stomp::testing::draft("a", "x"));
    let bytes = sent("content-type:image/png\n", "text").unwrap();
    assert_eq!(bytes.format, PayloadFormat::Binary);
    let headers = "correlation-id:AP8=\ntidings-correlation:base64\n";
    let bytes = sent(headers, "").unwrap();
    assert_eq!(
        bytes.properties.correlation,
        Some(Bytes::from_static(b"\0\xff"))
    );
    assert_eq!(sent("expiration:0\n", "").unwrap().ttl, None);
}

#[test]
fn headers_that_other_protocols_cannot_carry_are_refused() {
    const HEADERS: &str =
        "`headers` must be without control characters, and with names that are not empty";
    const TYPE: &str = "`content-type` must be not empty and without control characters";
    for (headers, detail) in [
        ("x:a\\nb\n", HEADERS),
        ("x\\ry:a\n", HEADERS),
        ("x:\u{7}\n", HEADERS),
        ("x:\u{85}\n", HEADERS),
        ("content-type:a\\nb\n", TYPE),
    ] {
        let expect = ("bad-parameter".to_owned(), detail.to_owned());
        assert_eq!(sent(headers, "x").unwrap_err(), expect, "{headers:?}");
    }
    for version in ["1.0", "1.1"] {
        let mut client = Client::connected(version);
        client.send("SEND\ndestination:/topic/a\nx:a\tb\n\nx\0");
        assert_eq!(client.error().2, HEADERS);
    }
    assert!(sent("x:a b\\c\\\\ä\n", "x").is_ok());
}

#[test]
fn a_body_with_nul_needs_its_length() {
    let mut client = Client::connected("1.2");
    client.send("SEND\ndestination:/topic/a\ncontent-length:3\n\nx\0y\0");
    assert_eq!(client.asked(), ["publish #1 a=x\0y"]);
}

#[test]
fn headers_with_impossible_values_are_errors() {
    let long = format!("idempotency-key:{}\n", "k".repeat(257));
    let many = "h:1\n".repeat(11);
    for (headers, code) in [
        ("tidings-ttl:0\n", "bad-parameter"),
        (
            "correlation-id:x\ntidings-correlation:hex\n",
            "bad-parameter",
        ),
        (
            "correlation-id:x\ntidings-correlation:base64\n",
            "bad-parameter",
        ),
        ("expiration:soon\n", "bad-parameter"),
        ("expiration:+5\n", "bad-parameter"),
        ("tidings-ttl:1y\n", "bad-parameter"),
        ("retain:perhaps\n", "bad-parameter"),
        ("tidings-event:gap\n", "bad-parameter"),
        ("tidings-event:\n", "bad-parameter"),
        ("idempotency-key:\n", "bad-parameter"),
        (&*long, "bad-parameter"),
        (&*many, "message-too-large"),
        ("reply-to:/temp-queue/x\n", "bad-topic"),
        ("transaction:none\n", "bad-parameter"),
    ] {
        assert_eq!(sent(headers, "x").unwrap_err().0, code, "{headers}");
    }
    let mut client = Client::connected("1.2");
    client.send("SEND\nreceipt:r\n\n\0");
    let (code, receipt, detail) = client.error();
    assert_eq!((&*code, receipt.as_deref()), ("bad-frame", Some("r")));
    assert!(detail.contains("`destination`"), "{detail}");
}

#[test]
fn a_receipt_says_that_the_message_is_durable() {
    let mut client = Client::connected("1.2");
    client.send("SEND\ndestination:/topic/a\nreceipt:m:1\n\nx\0SEND\ndestination:/topic/a\nreceipt:2\n\ny\0");
    assert_eq!(client.asked(), ["publish #1 a=x", "publish #2 a=y"]);
    assert_eq!(client.out(), "");
    client.published(2, 1);
    assert_eq!(
        client.out(),
        "RECEIPT\nreceipt-id:2\n\n\0",
        "receipts may overtake"
    );
    client.published(1, 1);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:m\\c1\n\n\0");
}

#[test]
fn without_a_receipt_only_a_refusal_is_answered() {
    let mut client = Client::connected("1.2");
    client.send("SEND\ndestination:/topic/a\n\nx\0SEND\ndestination:/topic/b\n\ny\0");
    client.published(1, 1);
    assert_eq!(client.out(), "");
    client.refused(2, RefusalCode::Forbidden, "not there");
    let (code, receipt, detail) = client.error();
    assert_eq!(
        (&*code, receipt, &*detail),
        ("forbidden", None, "not there")
    );
}

#[test]
fn a_refusal_ends_the_connection_and_names_its_receipt() {
    let mut client = Client::connected("1.1");
    client.send("SEND\ndestination:/topic/a\nreceipt:7\n\nx\0");
    client.asked();
    client.refused(1, RefusalCode::Busy, "later");
    assert_eq!(
        client.out(),
        "ERROR\nmessage:The server is busy\ntidings-code:busy\nreceipt-id:7\ncontent-type:text/plain\ntidings-reconnect-ms:1000\ncontent-length:5\n\nlater\0"
    );
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    assert!(client.asked().is_empty(), "the hub counted it");
}

#[test]
fn what_is_over_the_publishes_in_flight_waits() {
    let mut client = Client::connected("1.2");
    let send = "SEND\ndestination:/topic/a\n\nx\0";
    client.send(send.repeat(5));
    assert_eq!(client.asked().len(), 3);
    client.send(format!("{send}DISCONNECT\nreceipt:bye\n\n\0"));
    assert!(client.asked().is_empty());
    client.published(1, 1);
    assert_eq!(client.asked(), ["publish #4 a=x"]);
    for tag in 2..=5 {
        client.published(tag, 1);
    }
    assert_eq!(client.asked(), ["publish #5 a=x", "publish #6 a=x"]);
    assert_eq!(client.out(), "");
    client.published(6, 1);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:bye\n\n\0");
    assert_eq!(client.ending, Some(Ending::AfterFlush));
}

#[test]
fn too_much_ahead_of_an_answer_is_refused() {
    let limits = tidings_types::Limits {
        message_bytes_max: 1 << 20,
        publishes_in_flight_max: 1,
        ..limits()
    };
    let mut client = Client::with("1.2", limits);
    let send = format!("SEND\ndestination:/topic/a\n\n{}\0", "x".repeat(1 << 19));
    for _ in 0..9 {
        client.send(&send);
        if client.ending.is_some() {
            break;
        }
    }
    assert_eq!(client.error().0, "rate-limited");
}

#[test]
fn a_goodbye_is_answered_after_everything_before_it() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a\nack:client-individual");
    assert_eq!(
        client.offer(1, &message(5, "a", "x"), 0),
        tidings_ports::Framed::Put
    );
    client.out();
    client.send("SEND\ndestination:/topic/a\nreceipt:1\n\nx\0ACK\nid:1-5\nreceipt:2\n\n\0DISCONNECT\nreceipt:3\n\n\0SEND\ndestination:/topic/late\n\n\0");
    assert_eq!(client.asked(), ["publish #2 a=x", "Ack 1-5 #3"]);
    client.tell(Event::Settled { tag: Tag(3) });
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:2\n\n\0");
    assert_eq!(client.ending, None);
    client.published(2, 1);
    assert_eq!(
        client.out(),
        "RECEIPT\nreceipt-id:1\n\n\0RECEIPT\nreceipt-id:3\n\n\0"
    );
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    let mut client = Client::connected("1.0");
    client.send("DISCONNECT\n\n\0");
    assert_eq!(client.out(), "");
    assert_eq!(client.ending, Some(Ending::AfterFlush));
}

#[test]
fn an_answer_in_the_middle_of_a_frame_leaves_it_whole() {
    let mut client = Client::connected("1.2");
    client.send("SEND\ndestination:/topic/a\nreceipt:1\n\nx\0SEND\ndesti");
    assert_eq!(client.asked(), ["publish #1 a=x"]);
    client.published(1, 1);
    client.send("nation:/topic/b\n\ny\0");
    assert_eq!(client.asked(), ["publish #2 b=y"]);
}
