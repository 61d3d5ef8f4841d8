//! What a message carries crosses between MQTT 5 and the other protocols, and so does its cursor.

use serde_json::json;
use tidings_e2e::mqtt::{Client, Connect, Properties, Publish, kind};
use tidings_e2e::sse::EventStream;
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{numbered, post};

const EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION: u8 = 0x09;

#[test]
fn properties_of_mqtt_arrive_over_http() {
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("p"));
    let publish = Publish::new("props", r#"{"a":1}"#)
        .qos(1, 1)
        .with(|properties| {
            properties
                .text(CONTENT_TYPE, "application/json")
                .user("room", "4")
                .user("tidings-event", "measured")
                .user("room", "5")
        });
    client.publish(&publish);
    let message = server.history("props").remove(0);
    assert_eq!(message["content_type"], "application/json", "{message}");
    assert_eq!(message["event"], "measured", "{message}");
    assert_eq!(message["headers"], json!({"room": ["4", "5"]}), "{message}");
    let mut stream = EventStream::open(server.address(), "/v1/topics/props?after=earliest");
    let event = stream.event();
    assert_eq!(event.name, "measured");
    assert_eq!(event.data.as_deref(), Some(r#"{"a":1}"#));
}

#[test]
fn properties_of_http_arrive_over_mqtt() {
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("p"));
    assert_eq!(client.subscribe(&[("props", 2)]), [2]);
    let headers = [
        ("Content-Type", "text/csv"),
        ("Tidings-Event", "measured"),
        ("Tidings-Ttl", "600"),
        ("Tidings-Header-Room", "4"),
    ];
    post(&server, "props", "1,2", &headers);
    let message = client.receive();
    assert_eq!(message.text(), "1,2");
    let received = &message.received;
    assert_eq!(received.text(CONTENT_TYPE).as_deref(), Some("text/csv"));
    assert_eq!(received.user("room"), Some("4"), "{received:?}");
    assert_eq!(received.user("tidings-event"), Some("measured"));
    let left = received.number(EXPIRY).expect("what is left");
    assert!((500..=600).contains(&left), "{left}");
    let id = server.history("props")[0]["id"].clone();
    assert_eq!(received.user("tidings-cursor").map(Into::into), Some(id));
}

#[test]
fn a_request_finds_its_way_back_by_its_properties() {
    let server = Server::start(Options::default());
    let (mut asker, _) = Client::open(server.mqtt(), &Connect::v5("asker"));
    let (mut answerer, _) = Client::open(server.mqtt(), &Connect::v5("answerer"));
    assert_eq!(asker.subscribe(&[("answers/asker", 1)]), [1]);
    assert_eq!(answerer.subscribe(&[("questions", 1)]), [1]);
    let question = Publish::new("questions", "how much?").with(|properties| {
        properties
            .text(RESPONSE_TOPIC, "answers/asker")
            .text(CORRELATION, [0, 0xff, 7])
    });
    asker.send(&question);
    let question = answerer.receive();
    let to = question.received.text(RESPONSE_TOPIC).expect("a topic");
    let texts = &question.received.texts;
    let correlation = texts.iter().find(|(id, _)| *id == CORRELATION);
    let (_, correlation) = correlation.expect("a correlation").clone();
    assert_eq!(correlation, [0, 0xff, 7]);
    let answer =
        Publish::new(&to, "7").with(|properties| properties.text(CORRELATION, correlation));
    answerer.send(&answer);
    let answer = asker.receive();
    assert_eq!(answer.text(), "7");
    assert_eq!(
        answer.received.texts.first(),
        Some(&(CORRELATION, vec![0, 0xff, 7]))
    );
}

#[test]
fn a_cursor_of_mqtt_resumes_an_event_stream_and_the_other_way_round() {
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("c"));
    assert_eq!(client.subscribe(&[("cursor", 1)]), [1]);
    server.publish_batch("cursor", &numbered("m", 6));
    let messages: Vec<Publish> = (0..6).map(|_| client.receive()).collect();
    let third = messages[2].received.user("tidings-cursor");
    let third = third.expect("a cursor").to_owned();
    let target = format!("/v1/topics/cursor?after={third}");
    let mut stream = EventStream::open(server.address(), &target);
    let events: Vec<_> = (0..3).map(|_| stream.event()).collect();
    let texts: Vec<_> = events
        .iter()
        .map(|event| event.data.clone().unwrap())
        .collect();
    assert_eq!(texts, numbered("m", 6)[3..]);

    let after = Properties::default().user("tidings-after", events[0].id.as_deref().unwrap());
    let (mut other, _) = Client::open(server.mqtt(), &Connect::v5("d"));
    assert_eq!(other.subscribe_with(&[("cursor", 1)], &after), [1]);
    assert_eq!(other.receive().text(), "m-4");
    assert_eq!(other.receive().text(), "m-5");
    server.publish("cursor", "and live");
    assert_eq!(other.receive().text(), "and live");
}

#[test]
fn a_subscription_starts_where_it_is_told_to() {
    let server = Server::start(Options::default());
    server.publish_batch("start", &numbered("m", 10));
    for (after, expect) in [("earliest", 0), ("last:3", 7), ("latest", 10)] {
        let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("s"));
        let property = Properties::default().user("tidings-after", after);
        assert_eq!(client.subscribe_with(&[("start", 1)], &property), [1]);
        for text in &numbered("m", 10)[expect..] {
            assert_eq!(&client.receive().text(), text, "{after}");
        }
        client.ping();
        client.leave();
    }
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("s"));
    let wrong = Properties::default().user("tidings-after", "yesterday");
    assert_eq!(client.subscribe_with(&[("start", 1)], &wrong), [0x83]);
}

#[test]
fn an_idempotency_key_holds_over_protocols() {
    let server = Server::start(Options::default());
    post(&server, "keyed", "once", &[("Idempotency-Key", "k1")]);
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("k"));
    let again = Publish::new("keyed", "once")
        .qos(1, 1)
        .with(|properties| properties.user("tidings-key", "k1"));
    client.publish(&again);
    assert_eq!(super::texts(&server, "keyed"), ["once"]);
}

#[test]
fn a_message_of_mqtt_expires_for_everybody() {
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("e"));
    let brief = Publish::new("expiry", "brief")
        .qos(1, 1)
        .with(|properties| properties.long(EXPIRY, 1));
    client.publish(&brief);
    assert_eq!(super::texts(&server, "expiry"), ["brief"]);
    eventually("the message expires", PATIENCE, || {
        super::texts(&server, "expiry").is_empty()
    });
}

#[test]
fn a_retained_message_is_cleared_by_an_empty_one() {
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v3("r"));
    client.publish(&Publish::new("kept/a", "a").qos(1, 1).retained());
    client.publish(&Publish::new("kept/b", "b").qos(1, 1).retained());
    client.publish(&Publish::new("kept/a", "").qos(1, 1).retained());
    assert_eq!(client.subscribe(&[("kept/#", 1)]), [1]);
    let message = client.receive();
    assert_eq!((message.text().as_str(), message.retain), ("b", true));
    client.publish(&Publish::new("kept/b", "live").qos(1, 1).retained());
    let message = client.receive();
    // MQTT-3.3.1-9: not retained for those who were there.
    assert_eq!((message.text().as_str(), message.retain), ("live", false));
    let page = server.page("kept/%23", "after=retained").json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{page}");
}

#[test]
fn payloads_of_a_claimed_format_are_checked() {
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("f"));
    let claimed = |payload: &[u8]| {
        Publish::new("format", payload)
            .qos(1, 1)
            .with(|properties: Properties| properties.byte(0x01, 1))
    };
    client.publish(&claimed(b"text"));
    client.send(&claimed(&[0xff, 0xfe]));
    let answer = client.answer(kind::PUBACK);
    assert_eq!(answer.reason(), 0x99);
    assert_eq!(super::texts(&server, "format"), ["text"]);
}
