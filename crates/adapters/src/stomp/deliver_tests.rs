//! MESSAGE frames.

use bytes::Bytes;
use tidings_ports::{Conversation as _, Event, Framed, Gap, GapReason, SubscriptionKey};
use tidings_types::{FrameFormat as _, Limits, PayloadFormat};

use super::codec::Version;
use super::destination::{Kind, Manner, Separator};
use super::format;
use super::testing::*;

#[test]
fn a_message_is_a_head_of_its_own_and_a_shared_tail() {
    for (version, headers, head) in [
        ("1.0", "destination:/topic/a/b", "MESSAGE\n"),
        (
            "1.0",
            "id:s\ndestination:/topic/a/b",
            "MESSAGE\nsubscription:s\n",
        ),
        (
            "1.1",
            "id:s:0\ndestination:/topic/a/b",
            "MESSAGE\nsubscription:s\\c0\n",
        ),
        (
            "1.2",
            "id:s\ndestination:/topic/a/b",
            "MESSAGE\nsubscription:s\n",
        ),
    ] {
        let mut client = Client::connected(version);
        client.subscribe(headers);
        let expect = format!(
            "{head}destination:/topic/a/b\nmessage-id:{}\ntimestamp:1234\ncontent-length:5\n\nhello\0",
            at(3)
        );
        assert_eq!(client.deliver(1, &message(3, "a/b", "hello")), expect);
    }
}

#[test]
fn properties_become_headers() {
    let mut draft = draft("a", "{}");
    draft.ttl = Some(std::time::Duration::from_millis(766));
    draft.retain = true;
    let properties = &mut draft.properties;
    properties.content_type = Some("application/json".into());
    properties.event = Some("sale".into());
    properties.response_topic = Some("re/ply".into());
    properties.correlation = Some(Bytes::from_static(b"c1"));
    properties.headers = [
        ("trace", "7"),
        ("subscription", "evil"),
        ("trace", "8"),
        ("li\nne", "a:b"),
        // What SEND would mean something by: a client that sends what it was given changes nothing.
        ("idempotency-key", "k"),
        ("tidings-key", "k"),
        ("tidings-ttl", "1"),
        ("expiration", "1"),
        ("priority", "1"),
        ("persistent", "true"),
        ("login", "l"),
        ("passcode", "p"),
        ("transaction", "t"),
        ("receipt", "r"),
        ("content-length", "1"),
        ("tidings-correlation", "base64"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec();
    let message = commit(draft, 9);
    let mut client = Client::connected("1.2");
    client.subscribe("id:0\ndestination:/topic/a");
    let expect = format!(
        "MESSAGE\nsubscription:0\ndestination:/topic/a\nmessage-id:{}\ncontent-type:application/json\ntimestamp:1234\nexpires:2000\ntidings-event:sale\nretain:true\nreply-to:/topic/re/ply\ncorrelation-id:c1\ntrace:7\ntrace:8\nli\\nne:a\\cb\ncontent-length:2\n\n{{}}\0",
        at(9)
    );
    assert_eq!(client.deliver(1, &message), expect);
    let mut client = Client::connected("1.0");
    client.subscribe("id:0\ndestination:/topic/a");
    let out = client.deliver(1, &message);
    assert!(
        out.contains("\ntrace:8\ncontent-length:2\n"),
        "1.0 cannot carry a line end: {out}"
    );
}

#[test]
fn a_correlation_comes_back_as_it_was() {
    for (bytes, header) in [
        (&b"\0\xff"[..], "AP8="),
        (b"a\nb", "YQpi"),
        (b"base64:x", "base64:x"),
        (b"base64:AP8=", "base64:AP8="),
        (b"", ""),
    ] {
        let mut draft = draft("a", "");
        draft.properties.correlation = Some(Bytes::from_static(bytes));
        let message = commit(draft, 1);
        let mut client = Client::connected("1.1");
        client.subscribe("id:0\ndestination:/topic/a");
        let out = client.deliver(1, &message);
        let lines: Vec<&str> = out
            .lines()
            .filter(|line| line.contains("correlation"))
            .collect();
        assert_eq!(
            lines[0].replace("\\c", ":"),
            format!("correlation-id:{header}")
        );
        let is_encoded = str::from_utf8(bytes).is_err() || bytes.contains(&b'\n');
        let marks: &[&str] = if is_encoded {
            &["tidings-correlation:base64"]
        } else {
            &[]
        };
        assert_eq!(&lines[1..], marks);
        let line = lines.join("\n");
        client.send(format!("SEND\ndestination:/topic/b\n{line}\n\n\0"));
        let Some(tidings_ports::Command::Publish { drafts, .. }) = client.commands().pop() else {
            panic!("nothing was published");
        };
        let correlation = drafts[0].properties.correlation.as_deref();
        assert_eq!(correlation, Some(bytes), "{line}");
    }
}

#[test]
fn a_destination_is_written_as_the_subscription_was() {
    let mut client = Client::connected("1.2");
    for (key, destination, expect) in [
        (1, "/topic/a.*", "\ndestination:/topic/a.b\n"),
        (2, "/topic/a/+", "\ndestination:/topic/a/b\n"),
        (3, "/queue/a.#", "\ndestination:/queue/a.b\n"),
        (4, "/queue/a/b", "\ndestination:/queue/a/b\n"),
    ] {
        client.subscribe(&format!("id:{key}\nack:client\ndestination:{destination}"));
        let out = client.deliver(key, &message(1, "a/b", ""));
        assert!(out.contains(expect), "{out}");
    }
}

#[test]
fn only_since_1_2_a_message_has_an_ack_header() {
    for (version, ack, expect) in [
        ("1.2", "client", Some("\nack:1-4\n")),
        ("1.2", "client-individual", Some("\nack:1-4\n")),
        ("1.2", "auto", None),
        ("1.1", "client-individual", None),
        ("1.0", "client", None),
    ] {
        let mut client = Client::connected(version);
        client.subscribe(&format!("id:1\ndestination:/topic/a\nack:{ack}"));
        let out = client.deliver(1, &message(4, "a", ""));
        match expect {
            Some(expect) => assert!(out.contains(expect), "{out}"),
            None => assert!(!out.contains("\nack:"), "{out}"),
        }
    }
}

#[test]
fn a_message_that_came_before_says_how_often() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/queue/a\nack:client");
    assert_eq!(client.offer(1, &message(4, "a", ""), 1), Framed::Put);
    let out = client.out();
    assert!(
        out.starts_with(
            "MESSAGE\nsubscription:1\nack:1-4\nredelivered:true\ntidings-deliveries:2\ndestination:"
        ),
        "{out}"
    );
}

#[test]
fn the_first_message_after_a_gap_tells_of_it() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a");
    client.subscribe("id:2\ndestination:/topic/#");
    client.tell(Event::Gap {
        key: SubscriptionKey(1),
        gap: Gap {
            reason: GapReason::Retention,
            after: Some(at(2)),
            resume: at(7),
        },
    });
    assert_eq!(client.out(), "");
    let eight = message(8, "a", "");
    assert!(!client.deliver(2, &eight).contains("gap"));
    let out = client.deliver(1, &eight);
    let expect = format!(
        "\ntidings-gap:retention\ntidings-gap-after:{}\ndestination:",
        at(2)
    );
    assert!(out.contains(&expect), "{out}");
    assert!(!client.deliver(1, &message(9, "a", "")).contains("gap"));
}

#[test]
fn the_tail_is_made_once_for_all_subscribers() {
    let long = "x".repeat(600);
    let message = message(1, "a", &long);
    let mut tails = Vec::new();
    for id in ["1", "two"] {
        let mut client = Client::connected("1.2");
        client.subscribe(&format!("id:{id}\ndestination:/topic/a"));
        let mut frames = Vec::new();
        let delivery = tidings_ports::Delivery {
            key: SubscriptionKey(1),
            message: &message,
            retained: false,
            own: false,
            redelivered: 0,
            now: tidings_types::Timestamp(0),
        };
        assert_eq!(
            client.conversation.frame(delivery, &mut frames),
            Framed::Put
        );
        assert_eq!(frames[0], format!("MESSAGE\nsubscription:{id}\n"));
        tails.push(frames.pop().unwrap());
    }
    assert_eq!(tails[0].as_ptr(), tails[1].as_ptr(), "one buffer");
}

#[test]
fn each_format_has_its_own_name_and_bytes() {
    let message = message(1, "a/b.c", "");
    let mut seen = std::collections::HashMap::new();
    for version in Version::ALL {
        for kind in [Kind::Topic, Kind::Queue] {
            for separator in [Separator::Slash, Separator::Dot] {
                let format = format::of(version, Manner { kind, separator });
                assert!(format.id().starts_with(&format!("stomp/{version}/")));
                assert!(seen.insert(format.id(), format.encode(&message)).is_none());
            }
        }
    }
    assert_eq!(seen.len(), 12);
}

#[test]
fn binary_that_is_no_text_is_delivered_as_it_is() {
    let mut draft = draft("a", "");
    draft.payload = Bytes::from_static(b"\xff\0\n");
    draft.format = PayloadFormat::Binary;
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a");
    assert_eq!(client.offer(1, &commit(draft, 1), 0), Framed::Put);
    assert!(
        client
            .bytes()
            .ends_with(b"\ncontent-length:3\n\n\xff\0\n\0")
    );
}

#[test]
fn a_queue_message_that_needs_no_acknowledgement_is_acknowledged_as_it_is_sent() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/queue/a");
    assert_eq!(client.offer(1, &message(1, "a", "x"), 0), Framed::Held);
    assert_eq!(client.offer(1, &message(2, "a", "y"), 0), Framed::Held);
    assert_eq!(client.out(), "");
    client.tell(Event::Held);
    assert_eq!(client.asked(), ["Ack 1-1", "Ack 1-2"]);
    let out = client.out();
    assert!(
        out.ends_with("\n\ny\0") && out.contains("\n\nx\0MESSAGE\n"),
        "{out}"
    );
}

#[test]
fn what_is_held_for_a_subscription_that_ends_is_not_sent() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/queue/a");
    assert_eq!(client.offer(1, &message(1, "a", "x"), 0), Framed::Held);
    client.subscribe("id:2\ndestination:/queue/b");
    assert_eq!(client.offer(2, &message(2, "b", "y"), 0), Framed::Held);
    client.send("UNSUBSCRIBE\nid:1\n\n\0");
    assert_eq!(client.asked(), ["Unseen 1-1", "unsubscribe #3 1"]);
    client.tell(Event::Held);
    assert!(client.out().starts_with("MESSAGE\nsubscription:2\n"));
    assert_eq!(client.asked(), ["Ack 2-2"]);
    assert_eq!(client.offer(1, &message(2, "a", "y"), 0), Framed::Full);
}

#[test]
fn what_is_held_when_the_connection_ends_is_given_back() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/queue/a");
    assert_eq!(client.offer(1, &message(1, "a", "x"), 0), Framed::Held);
    client.send("ACK\nid:nonsense\n\n\0");
    assert_eq!(client.error().0, "not-yours");
    assert_eq!(client.asked(), ["refused not-yours", "Unseen 1-1"]);
}

#[test]
fn what_is_held_is_bounded() {
    let limits = Limits {
        outbox_bytes_max: 150,
        ..limits()
    };
    let mut client = Client::with("1.2", limits);
    client.subscribe("id:1\ndestination:/queue/a");
    assert_eq!(client.offer(1, &message(1, "a", "x"), 0), Framed::Held);
    assert_eq!(client.offer(1, &message(2, "a", "y"), 0), Framed::Held);
    assert_eq!(client.offer(1, &message(3, "a", "z"), 0), Framed::Full);
    client.tell(Event::Held);
    assert_eq!(client.asked(), ["Ack 1-1", "Ack 1-2", "unblock 1"]);
}
