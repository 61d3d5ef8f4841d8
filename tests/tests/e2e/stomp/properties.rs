//! What a message carries crosses between STOMP and the other protocols, and so does its cursor.

use serde_json::{Value, json};
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{self, Connect, Publish};
use tidings_e2e::sse::EventStream;
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{open, sending};

const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION: u8 = 0x09;

#[test]
fn headers_of_stomp_arrive_everywhere() {
    let server = Server::start(Options::default());
    let (mut by_mqtt, _) = mqtt::Client::open(server.mqtt(), &Connect::v5("p"));
    assert_eq!(by_mqtt.subscribe(&[("props", 2)]), [2]);
    let mut by_tidings = WebSocket::tidings(server.address());
    by_tidings.ask(&json!({"op": "subscribe", "id": 1, "topic": "props"}));
    assert_eq!(by_tidings.json()["op"], "ok");
    let mut stream = EventStream::open(server.address(), "/v1/topics/props?format=json");
    let send = sending("/topic/props", r#"{"a":1}"#)
        .header("content-type", "application/json")
        .header("tidings-event", "measured")
        .header("reply-to", "/topic/answers/7")
        .header("correlation-id", "c-7")
        .header("room", "4")
        .header("room", "5")
        .header("priority", "4")
        .header("persistent", "true");
    open(&server).ask(send);
    let check = |message: &Value| {
        assert_eq!(message["content_type"], "application/json", "{message}");
        assert_eq!(message["event"], "measured", "{message}");
        assert_eq!(message["data"], json!({"a": 1}), "{message}");
        assert_eq!(message["headers"], json!({"room": ["4", "5"]}), "{message}");
    };
    check(&server.history("props")[0]);
    check(&by_tidings.json());
    check(&stream.event().json());
    let message = by_mqtt.receive();
    let received = &message.received;
    let text = |id| received.text(id);
    assert_eq!(text(CONTENT_TYPE).as_deref(), Some("application/json"));
    assert_eq!(text(RESPONSE_TOPIC).as_deref(), Some("answers/7"));
    assert_eq!(text(CORRELATION).as_deref(), Some("c-7"));
    assert_eq!(received.user("room"), Some("4"), "{received:?}");
    assert_eq!(received.user("tidings-event"), Some("measured"));
    assert_eq!(received.user("priority"), None, "{received:?}");
}

#[test]
fn properties_of_every_protocol_arrive_as_headers_of_stomp() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.subscribe("1", "/topic/props/#", &[]);
    let posted = Request::post("/v1/topics/props/http")
        .header("Content-Type", "text/csv")
        .header("Tidings-Event", "measured")
        .header("Tidings-Header-Room", "4")
        .header("Tidings-Header-Destination", "/topic/elsewhere")
        .body("1,2");
    assert_eq!(posted.send(server.address()).status, 201);
    let mut socket = WebSocket::tidings(server.address());
    socket.ask(&json!({
        "op": "publish", "id": 1, "topic": "props/tidings", "data": "1,2", "event": "measured",
        "content_type": "text/csv", "headers": {"room": "4"},
    }));
    assert_eq!(socket.json()["op"], "ok");
    let (mut mqtt, _) = mqtt::Client::open(server.mqtt(), &Connect::v5("p"));
    let publish = Publish::new("props/mqtt", "1,2").qos(1, 1).with(|it| {
        it.text(CONTENT_TYPE, "text/csv")
            .text(RESPONSE_TOPIC, "answers/7")
            .text(CORRELATION, [0, 0xff, 7])
            .user("room", "4")
            .user("tidings-event", "measured")
    });
    mqtt.publish(&publish);
    for by in ["http", "tidings", "mqtt"] {
        let message = client.message();
        assert_eq!(message.expect("destination"), format!("/topic/props/{by}"));
        assert_eq!(message.text(), "1,2");
        assert_eq!(message.expect("content-type"), "text/csv", "{message:?}");
        assert_eq!(message.expect("tidings-event"), "measured", "{message:?}");
        assert_eq!(message.expect("room"), "4", "{message:?}");
        let named = message
            .headers
            .iter()
            .filter(|(name, _)| name == "destination");
        assert_eq!(named.count(), 1, "{message:?}");
        if by == "mqtt" {
            assert_eq!(message.expect("reply-to"), "/topic/answers/7");
            // And back again.
            let id = message.expect("correlation-id");
            let back = sending("/topic/back", "x").header("correlation-id", id);
            client.ask(back.header("tidings-correlation", message.expect("tidings-correlation")));
        }
    }
    assert_eq!(mqtt.subscribe(&[("back", 1)]), [1]);
    let bytes = sending("/topic/back", "x").header("correlation-id", "AP8H");
    client.ask(bytes.header("tidings-correlation", "base64"));
    let texts = mqtt.receive().received.texts;
    assert!(
        texts.contains(&(CORRELATION, vec![0, 0xff, 7])),
        "{texts:?}"
    );
}

#[test]
fn a_cursor_of_stomp_resumes_an_event_stream_and_the_other_way_round() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.subscribe("1", "/topic/cursor", &[]);
    let texts: Vec<String> = (0..6).map(|n| n.to_string()).collect();
    server.publish_batch("cursor", &texts);
    let third = (0..3).map(|_| client.message()).last().unwrap();
    let target = format!("/v1/topics/cursor?after={}", third.expect("message-id"));
    let mut stream = EventStream::open(server.address(), &target);
    let first = stream.event();
    assert_eq!(first.data.as_deref(), Some("3"));
    let mut other = open(&server);
    let after = first.id.as_deref().unwrap();
    other.subscribe("1", "/topic/cursor", &[("x-after", after)]);
    assert_eq!(other.texts(2), ["4", "5"]);
}

#[test]
fn what_stomp_retains_is_found_and_says_so() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    for text in ["old", "new"] {
        client.ask(sending("/topic/kept/a", text).header("tidings-retain", "true"));
    }
    client.publish("/topic/kept/a", "passing");
    client.subscribe("1", "/topic/kept/#", &[("x-after", "retained")]);
    let message = client.message();
    assert_eq!(message.text(), "new");
    assert_eq!(message.get("retain"), Some("true"), "{message:?}");
    client.publish("/topic/kept/a", "live");
    let message = client.message();
    assert_eq!(
        (message.text().as_str(), message.get("retain")),
        ("live", None)
    );
}

#[test]
fn a_message_of_stomp_expires_for_everybody() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.ask(sending("/topic/expiry", "brief").header("expiration", "300"));
    client.ask(sending("/topic/expiry", "also").header("tidings-ttl", "1"));
    client.ask(sending("/topic/expiry", "long").header("expiration", "600000"));
    let kept = || server.history("expiry").len();
    assert!(kept() >= 2);
    eventually("two expire", PATIENCE, || kept() == 1);
    client.subscribe("1", "/topic/expiry", &[("x-after", "earliest")]);
    let message = client.message();
    assert_eq!(message.text(), "long");
    assert!(message.expect("expires").len() >= 13, "{message:?}");
}
