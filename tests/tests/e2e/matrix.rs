//! Every protocol reaches every other: text and bytes, live and retained.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{Client, Connect, Inbox, Publish};
use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::{self, Frame as StompFrame};
use tidings_e2e::websocket::{Frame, WebSocket};
use tidings_e2e::{Options, Server};

const TEXT: &str = "text: \u{e9}\u{6c34}\nand a line";
const BYTES: [u8; 5] = [0, 0xff, 0xfe, b'"', 0x80];

/// Publishes a payload to a topic over one protocol.
type Publisher = fn(&Server, &str, &[u8], bool);

/// What a subscriber saw: topic and payload.
type Seen = (String, Vec<u8>);

fn by_http(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    let retain = if retain { "true" } else { "false" };
    let request = Request::post(&format!("/v1/topics/{topic}")).body(payload);
    let response = request
        .header("Tidings-Retain", retain)
        .send(server.address());
    assert_eq!(response.status, 201, "{}", response.text());
}

fn by_raw_socket(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    assert!(!retain, "a raw WebSocket has no word for it");
    let mut socket = WebSocket::raw(server.address(), &format!("/v1/topics/{topic}"));
    let first = if str::from_utf8(payload).is_ok() {
        0x81
    } else {
        0x82
    };
    socket.sender().frame(first, payload).unwrap();
    // Its own echo says that it is stored.
    socket.frame();
}

fn by_tidings(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    let mut socket = WebSocket::tidings(server.address());
    let mut request = json!({"op": "publish", "id": 1, "topic": topic, "retain": retain});
    match str::from_utf8(payload) {
        Ok(text) => request["data"] = text.into(),
        Err(_) => request["base64"] = STANDARD.encode(payload).into(),
    }
    socket.ask(&request);
    let answer = socket.json();
    assert_eq!(answer["op"], "ok", "{answer}");
}

fn by_mqtt(server: &Server, with: &Connect, publish: Publish, retain: bool) {
    let (mut client, _) = Client::open(server.mqtt(), with);
    client.publish(&if retain { publish.retained() } else { publish });
    // At QoS 0 nothing else says that it has arrived.
    client.ping();
    client.leave();
}

fn by_mqtt_3_qos_0(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    let publish = Publish::new(topic, payload);
    by_mqtt(server, &Connect::v3("p"), publish, retain);
}

fn by_mqtt_3_qos_2(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    let publish = Publish::new(topic, payload).qos(2, 1);
    by_mqtt(server, &Connect::v3("p"), publish, retain);
}

fn by_mqtt_5(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    let publish = Publish::new(topic, payload).qos(1, 1);
    by_mqtt(server, &Connect::v5("p"), publish, retain);
}

fn by_stomp(server: &Server, version: &str, topic: &str, payload: &[u8], retain: bool) {
    let mut client = stomp::Client::open(server.stomp(), version);
    let mut send = StompFrame::new(
        "SEND",
        &[("destination", &format!("/topic/{topic}"))],
        payload,
    );
    if retain {
        send = send.header("retain", "true");
    }
    client.ask(send);
    client.leave();
}

fn by_stomp_10(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    by_stomp(server, "1.0", topic, payload, retain);
}

fn by_stomp_12(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    by_stomp(server, "1.2", topic, payload, retain);
}

/// To a queue, which is no more than a way to consume a topic.
fn by_stomp_queue(server: &Server, topic: &str, payload: &[u8], retain: bool) {
    let mut client = stomp::Client::open(server.stomp(), "1.1");
    let destination = format!("/queue/{topic}");
    let retain = if retain { "true" } else { "false" };
    let headers = [("destination", &*destination), ("tidings-retain", retain)];
    client.ask(StompFrame::new("SEND", &headers, payload));
}

const PUBLISHERS: [(&str, Publisher); 9] = [
    ("http", by_http),
    ("raw", by_raw_socket),
    ("tidings", by_tidings),
    ("mqtt-3-qos-0", by_mqtt_3_qos_0),
    ("mqtt-3-qos-2", by_mqtt_3_qos_2),
    ("mqtt-5", by_mqtt_5),
    ("stomp-1.0", by_stomp_10),
    ("stomp-1.2", by_stomp_12),
    ("stomp-queue", by_stomp_queue),
];

/// A subscriber on some protocol, to the filter that it was opened with.
enum Subscriber {
    Sse(EventStream),
    Raw(WebSocket),
    Tidings(WebSocket),
    Mqtt(Client, Inbox),
    Stomp(stomp::Client),
    /// Acknowledges what it gets.
    StompWorker(stomp::Client),
}

/// What a message in JSON carries.
fn of_json(message: &Value) -> Seen {
    let topic = message["topic"].as_str().expect("a topic").to_owned();
    let payload = match (&message["data"], &message["base64"]) {
        (Value::String(text), _) => text.as_bytes().to_vec(),
        (_, Value::String(bytes)) => STANDARD.decode(bytes).unwrap(),
        _ => panic!("no payload: {message}"),
    };
    (topic, payload)
}

/// What a message of STOMP carries.
fn of_stomp(message: StompFrame) -> Seen {
    let destination = message.expect("destination");
    let topic = ["/topic/", "/queue/"]
        .iter()
        .find_map(|prefix| destination.strip_prefix(prefix));
    let topic = topic.expect("a known prefix").replace("%2E", ".");
    (topic, message.body)
}

impl Subscriber {
    fn all(server: &Server, level: &str, start: &str) -> BTreeMap<&'static str, Self> {
        let target = format!("/v1/topics/{level}/%23?after={start}");
        let filter = format!("{level}/#");
        let mut tidings = WebSocket::tidings(server.address());
        tidings.ask(&json!({"op": "subscribe", "id": 1, "topic": filter, "after": start}));
        assert_eq!(tidings.json()["op"], "ok");
        let mqtt = |with: Connect, qos| {
            let (mut client, _) = Client::open(server.mqtt(), &with);
            assert_eq!(client.subscribe(&[(&filter, qos)]), [qos]);
            Self::Mqtt(client, Inbox::default())
        };
        let stomp = |version, kind, ack| {
            let mut client = stomp::Client::open(server.stomp(), version);
            let headers = [("x-after", start), ("ack", ack)];
            client.subscribe("s", &format!("/{kind}/{filter}"), &headers);
            client
        };
        let mut all = BTreeMap::from([
            (
                "sse",
                Self::Sse(EventStream::open(server.address(), &target)),
            ),
            ("raw", Self::Raw(WebSocket::raw(server.address(), &target))),
            ("tidings", Self::Tidings(tidings)),
            ("mqtt-3-qos-0", mqtt(Connect::v3("m30"), 0)),
            ("mqtt-3-qos-2", mqtt(Connect::v3("m32"), 2)),
            ("mqtt-5-qos-0", mqtt(Connect::v5("m50"), 0)),
            ("mqtt-5-qos-1", mqtt(Connect::v5("m51"), 1)),
            ("stomp-1.0", Self::Stomp(stomp("1.0", "topic", "auto"))),
            ("stomp-1.1", Self::Stomp(stomp("1.1", "topic", "auto"))),
            ("stomp-1.2", Self::Stomp(stomp("1.2", "topic", "auto"))),
        ]);
        // What is retained is nobody's work.
        if start == "latest" {
            let client = Self::StompWorker(stomp("1.2", "topic", "client"));
            all.insert("stomp-client", client);
            all.insert("stomp-queue", Self::Stomp(stomp("1.2", "queue", "auto")));
        }
        all
    }

    /// The next message. A raw WebSocket does not say the topic, which the caller knows.
    fn next(&mut self, topic: &str) -> Seen {
        match self {
            Self::Sse(stream) => of_json(&stream.event().json()),
            Self::Raw(socket) => match socket.frame() {
                Frame::Text(text) => (topic.to_owned(), text.into_bytes()),
                Frame::Binary(bytes) => {
                    assert!(str::from_utf8(&bytes).is_err(), "text comes as text");
                    (topic.to_owned(), bytes)
                }
                other => panic!("{other:?}"),
            },
            Self::Tidings(socket) => of_json(&socket.json()),
            Self::Mqtt(client, inbox) => {
                let message = inbox.next(client);
                (message.topic, message.payload)
            }
            Self::Stomp(client) => of_stomp(client.message()),
            Self::StompWorker(client) => {
                let message = client.message();
                client.ack(&message);
                of_stomp(message)
            }
        }
    }
}

fn of_page(server: &Server, level: &str, start: &str) -> Vec<Seen> {
    let target = format!("/v1/topics/{level}/%23?after={start}");
    let page = Request::get(&target)
        .header("Accept", "application/json")
        .send(server.address())
        .json();
    page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(of_json)
        .collect()
}

#[test]
fn what_any_protocol_publishes_every_protocol_receives_live() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut subscribers = Subscriber::all(&server, "live", "latest");
    let mut expect = Vec::new();
    for (by, publish) in PUBLISHERS {
        for payload in [TEXT.as_bytes(), &BYTES] {
            let topic = format!("live/{by}");
            publish(&server, &topic, payload, false);
            for (to, subscriber) in &mut subscribers {
                let seen = subscriber.next(&topic);
                assert_eq!(seen, (topic.clone(), payload.to_vec()), "{by} -> {to}");
            }
            expect.push((topic, payload.to_vec()));
        }
    }
    assert_eq!(of_page(&server, "live", "earliest"), expect);
}

#[test]
fn what_any_protocol_retains_every_protocol_finds() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut expect = Vec::new();
    for (by, publish) in PUBLISHERS {
        if by == "raw" {
            continue;
        }
        for (kind, payload) in [("text", TEXT.as_bytes()), ("bytes", &BYTES)] {
            let topic = format!("kept/{by}/{kind}");
            publish(&server, &topic, b"not this one", true);
            publish(&server, &topic, payload, true);
            expect.push((topic, payload.to_vec()));
        }
    }
    assert_eq!(of_page(&server, "kept", "retained"), expect);
    for (to, mut subscriber) in Subscriber::all(&server, "kept", "retained") {
        let seen: Vec<Seen> = expect
            .iter()
            .map(|(topic, _)| subscriber.next(topic))
            .collect();
        assert_eq!(seen, expect, "{to}");
    }
}

#[test]
fn an_empty_payload_is_a_message_everywhere() {
    let server = Server::start(Options::default());
    let mut subscribers = Subscriber::all(&server, "empty", "latest");
    by_mqtt_5(&server, "empty/a", b"", false);
    by_http(&server, "empty/a", b"", false);
    by_stomp_12(&server, "empty/a", b"", false);
    for (to, subscriber) in &mut subscribers {
        for _ in 0..3 {
            let seen = subscriber.next("empty/a");
            assert_eq!(seen, ("empty/a".to_owned(), Vec::new()), "{to}");
        }
    }
}
