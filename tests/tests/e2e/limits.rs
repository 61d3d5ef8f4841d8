//! Limits of rate and number: by address, and by identity over all protocols together.

mod http2;
mod newcomers;

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_e2e::http::{self, Opened, Request, connect};
use tidings_e2e::mqtt::{Client as Mqtt, Connect, Publish, kind};
use tidings_e2e::server::tidings;
use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::{Client as Stomp, Frame};
use tidings_e2e::tools::stdout;
use tidings_e2e::websocket::{WebSocket, upgrade};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

/// Who showed no credential is an address: here all peers together. A byte a second, so that nothing of note comes
/// back while a test runs.
#[track_caller]
fn with_bytes(burst: u64) -> Server {
    Server::start(
        Options::default()
            .set("limits.publish_bytes_per_identity_rate", 1)
            .set("limits.publish_bytes_per_identity_burst", burst),
    )
}

fn reached(server: &Server, limit: &str) -> f64 {
    server.metric("tidings_limits_reached_total", &format!("\"{limit}\""))
}

#[test]
fn what_one_identity_publishes_is_counted_over_all_protocols_together() {
    let server = with_bytes(10_000);
    let large = "x".repeat(3_000);
    let topic = "/v1/topics/a";
    let mut socket = WebSocket::tidings(server.address());
    let (mut v5, _) = Mqtt::open(server.mqtt(), &Connect::v5("five"));
    let (mut v3, _) = Mqtt::open(server.mqtt(), &Connect::v3("three"));
    let mut stomp = Stomp::open(server.stomp(), "1.2");
    // Each of them may, and takes of what the others have left.
    for text in [&large[..], "small"] {
        assert_eq!(
            http::post(server.address(), topic, text.as_bytes()).status,
            201
        );
    }
    socket.ask(&json!({"op":"publish","id":1,"topic":"a","data":large}));
    assert_eq!(socket.json()["op"], "ok");
    v5.publish(&Publish::new("a", large.clone()).qos(1, 1));
    v3.publish(&Publish::new("a", "small").qos(1, 1));
    stomp.ask(Frame::new("SEND", &[("destination", "/topic/a")], "small"));

    // Less than 1,000 bytes are left, and more than 2,000 seconds go by until there are 3,000.
    let refused = http::post(server.address(), topic, large.as_bytes());
    refused.assert_problem(429, "rate-limited");
    let after: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1_900..2_300).contains(&after), "{after}");
    assert!(
        refused
            .text()
            .contains("limits.publish_bytes_per_identity_rate")
    );
    socket.ask(&json!({"op":"publish","id":2,"topic":"a","data":large}));
    let refused = socket.json();
    assert_eq!(refused["code"], "rate-limited");
    let after = refused["retry_after"].as_u64().unwrap();
    assert!((1_900..2_300).contains(&after), "{after}");
    // MQTT 5 has a word for it, which is not that of the rate: 0x96 may not be in a PUBACK.
    v5.send(&Publish::new("a", large.clone()).qos(1, 2));
    let refused = v5.answer(kind::PUBACK);
    assert_eq!((refused.id, refused.reason()), (2, 0x97));
    v5.send(&Publish::new("a", large.clone()));
    v5.ping();
    // 3.1.1 has none: it has to bring the message again.
    v3.send(&Publish::new("a", large.clone()).qos(1, 2));
    assert_eq!(v3.until_closed(), None);
    stomp
        .send(&Frame::new(
            "SEND",
            &[("destination", "/topic/a")],
            large.clone(),
        ))
        .unwrap();
    let refused = stomp.error();
    assert_eq!(refused.expect("tidings-code"), "rate-limited");
    let after: u64 = refused.expect("tidings-reconnect-ms").parse().unwrap();
    assert!((1_900_000..2_300_000).contains(&after), "{after}");

    // What is small still passes, and nothing of what was refused is there.
    assert_eq!(http::post(server.address(), topic, b"last").status, 201);
    assert_eq!(server.history("a").len(), 7);
    assert!(reached(&server, "publish_bytes_per_identity_rate") > 5.5);
    assert!(server.metric("tidings_refusals_total", "\"rate-limited\"") > 5.5);
    assert!(server.metric("tidings_identities", "") > 0.5);
}

#[test]
fn a_batch_is_taken_as_a_whole_or_not_at_all_and_one_that_never_can_be_is_told_so() {
    let server = with_bytes(1_000);
    let batch = |count: usize, bytes: usize| {
        let message = json!({"topic": "a", "data": "x".repeat(bytes)});
        Request::post("/v1/publish")
            .header("Content-Type", "application/json")
            .body(Value::Array(vec![message; count]).to_string())
            .send(server.address())
    };
    let refused = batch(3, 334);
    refused.assert_problem(413, "batch-too-large");
    assert_eq!(refused.header("retry-after"), None);
    assert!(refused.text().contains("publish_bytes_per_identity_burst"));
    assert_eq!(batch(2, 300).status, 201);
    batch(2, 300).assert_problem(429, "rate-limited");
    assert_eq!(batch(1, 300).status, 201);
    assert_eq!(server.history("a").len(), 3);
    let refused = http::post(server.address(), "/v1/topics/a", &[b'x'; 1_001]);
    refused.assert_problem(413, "message-too-large");
}

#[test]
fn subscriptions_and_reads_come_no_faster_than_their_rate() {
    let server = Server::start(
        Options::default()
            .set("limits.requests_per_identity_rate", 1)
            .set("limits.requests_per_identity_burst", 3),
    );
    let begin = Instant::now();
    let mut socket = WebSocket::tidings(server.address());
    for id in 0..100 {
        socket.ask(&json!({"op":"subscribe","id":id,"topic":format!("t/{id}")}));
    }
    let answers: Vec<Value> = (0..100).map(|_| socket.json()).collect();
    let passed = 3 + begin.elapsed().as_secs() + 1;
    let made = answers.iter().filter(|it| it["op"] == "ok").count() as u64;
    assert!((3..=passed).contains(&made), "{made} of {passed}");
    let refused = answers.iter().find(|it| it["op"] == "error").unwrap();
    assert_eq!(refused["code"], "rate-limited");
    assert_eq!(refused["retry_after"], 1);
    // The same identity over other protocols, each faster than one in a second.
    let (mut mqtt, _) = Mqtt::open(server.mqtt(), &Connect::v5("a"));
    let mut number = 0;
    eventually("mqtt is refused", PATIENCE, || {
        number += 1;
        mqtt.subscribe(&[(&format!("b/{number}"), 0)]) == [0x97]
    });
    mqtt.ping();
    eventually("a page is refused", PATIENCE, || {
        let page = http::get(server.address(), "/v1/topics/a?after=earliest");
        page.status == 429 && page.header("retry-after").is_some()
    });
    eventually("a list is refused", PATIENCE, || {
        http::get(server.address(), "/v1/topics").status == 429
    });
    eventually("stomp is refused", PATIENCE, || {
        let mut stomp = Stomp::open(server.stomp(), "1.2");
        let headers = [("destination", "/topic/a"), ("id", "0")];
        let frame = Frame::new("SUBSCRIBE", &headers, "");
        let refused = stomp.try_ask(frame).is_err();
        refused || reached(&server, "requests_per_identity_rate") < 1.0
    });
    // An event stream is there, says why it ends, and is tried again.
    eventually("a stream is put off", PATIENCE, || {
        let mut stream = EventStream::open(server.address(), "/v1/topics/a");
        stream.patience(Duration::from_millis(100));
        let ended = stream.try_event();
        ended.is_ok_and(|event| event.json()["code"] == "rate-limited")
    });
    assert!(reached(&server, "requests_per_identity_rate") > 95.0);
}

/// A server that knows two keys, each good for two connections.
#[track_caller]
fn with_keys() -> (Server, [String; 2], tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys").to_str().unwrap().to_owned();
    let key = |name: &str| {
        let made = [
            "key",
            "new",
            &file,
            name,
            "--publish",
            "#",
            "--subscribe",
            "#",
        ];
        stdout(&mut tidings(&made)).trim().to_owned()
    };
    let keys = [key("ann"), key("bob")];
    let options = Options::default()
        .set("auth.keys_file", &file)
        .set("limits.connections_per_identity_max", 2);
    (Server::start(options), keys, folder)
}

#[test]
fn connections_of_one_identity_are_counted_over_all_protocols_together() {
    let (server, [ann, bob], _folder) = with_keys();
    let bearer = format!("Bearer {ann}");
    let login = [("login", "x"), ("passcode", &*ann)];
    let stream = |key: &str| {
        let request =
            Request::get("/v1/topics/a").header("Authorization", &format!("Bearer {key}"));
        EventStream::send(server.address(), request)
    };
    let mut first = stream(&ann);
    let (second, welcome) = Stomp::try_open(server.stomp(), "1.2", &login).unwrap();
    assert_eq!(welcome.command, "CONNECTED");

    let (_, told) = Stomp::try_open(server.stomp(), "1.2", &login).unwrap();
    assert_eq!(told.expect("tidings-code"), "too-many-connections");
    let reason = |connect: &Connect| Mqtt::try_open(server.mqtt(), connect).unwrap().1.reason();
    assert_eq!(reason(&Connect::v5("a").login("x", &ann)), 0x97);
    assert_eq!(reason(&Connect::v3("a").login("x", &ann)), 3);
    let mut socket = WebSocket::tidings(server.address());
    socket.ask(&json!({"op":"auth","id":1,"token":ann}));
    assert_eq!(socket.json()["code"], "too-many-connections");
    let opened = upgrade("/v1/topics/a")
        .header("Authorization", &bearer)
        .open(server.address())
        .unwrap();
    assert_eq!(opened.status, 101);
    let goodbye = stream(&ann).event();
    assert_eq!(goodbye.name, "drain");
    assert_eq!(goodbye.json()["code"], "too-many-connections");
    assert!(goodbye.retry.unwrap() >= 5_000);
    let poll = Request::get("/v1/topics/a?after=latest&wait=20s").header("Authorization", &bearer);
    poll.send(server.address())
        .assert_problem(429, "too-many-connections");
    assert!(reached(&server, "connections_per_identity_max") > 5.5);

    // Requests that are over at once are not counted, others have room, and those that are there stay.
    let publish = Request::post("/v1/topics/a")
        .header("Authorization", &bearer)
        .body("hello");
    assert_eq!(publish.send(server.address()).status, 201);
    assert_eq!(first.event().data.as_deref(), Some("hello"));
    assert_eq!(reason(&Connect::v5("b").login("x", &bob)), 0);
    drop(second);
    eventually("there is room again", PATIENCE, || {
        reason(&Connect::v5("a").login("x", &ann)) == 0
    });
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let server = Server::start(Options::default().set("limits.request_body_ms_max", 700));
    let mut stream = connect(server.address()).unwrap();
    let head = "POST /v1/topics/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let begin = Instant::now();
    // Each byte is in time for any limit between two of them.
    while begin.elapsed() < Duration::from_secs(2) && stream.write_all(b"x").is_ok() {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let answer = Opened::read(stream).unwrap();
    assert_eq!(answer.status, 408);
    assert!(server.metric("tidings_refusals_total", "\"request-timeout\"") > 0.5);
}
