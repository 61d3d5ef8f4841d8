//! Bad input: each is refused as its protocol says, with a text that says what to do, and counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use tidings_e2e::http::{Opened, Request, Response, connect, post};
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, Server};

fn refusals(server: &Server, code: &str) -> f64 {
    server.metric("tidings_refusals_total", &format!("\"{code}\""))
}

fn head(stream: TcpStream) -> Response {
    Opened::read(stream)
        .expect("an answer")
        .finish()
        .expect("its end")
}

#[test]
fn each_wrong_request_has_its_refusal_and_is_counted() {
    let options = Options::default()
        .set("limits.message_bytes_max", 1_000)
        .set("limits.batch_messages_max", 2)
        .set("limits.filters_per_subscription_max", 3);
    let server = Server::start(options);
    let json = |request: Request| request.header("Content-Type", "application/json");
    let page = |target: &str| Request::get(target).header("Accept", "application/json");
    let three =
        json!([{"topic": "a", "data": ""}, {"topic": "a", "data": ""}, {"topic": "a", "data": ""}]);
    let cases = [
        (
            Request::post("/v1/topics/a").body("x".repeat(1_001)),
            413,
            "message-too-large",
        ),
        (
            Request::post("/v1/topics/a/%2B").body("x"),
            400,
            "bad-topic",
        ),
        (
            Request::post("/v1/topics/a/%23").body("x"),
            400,
            "bad-topic",
        ),
        (Request::post("/v1/topics/%FF").body("x"), 400, "bad-text"),
        (
            Request::post("/v1/topics/a%00b").body("x"),
            400,
            "bad-topic",
        ),
        (page("/v1/topics/a/%23/b"), 400, "bad-filter"),
        (page("/v1/topics/a?after=nonsense"), 400, "bad-cursor"),
        (page("/v1/topics/a?last=many"), 400, "bad-parameter"),
        (
            json(Request::post("/v1/publish")).body("{\"topic\":"),
            400,
            "bad-json",
        ),
        (
            json(Request::post("/v1/publish")).body(three.to_string()),
            413,
            "batch-too-large",
        ),
        (
            Request::get("/v1/subscribe?topic=a&topic=b&topic=c&topic=d")
                .header("Accept", "text/event-stream"),
            429,
            "too-many-subscriptions",
        ),
        (Request::get("/nowhere"), 404, "not-found"),
        (
            Request::new("DELETE", "/v1/topics/a"),
            405,
            "method-not-allowed",
        ),
        (Request::get("/v1/ws"), 426, "upgrade-required"),
    ];
    for (request, status, code) in cases {
        let before = refusals(&server, code);
        let shown = format!("{request:?}");
        let response = request.send(server.address());
        assert_eq!(response.status, status, "{shown:.200}: {}", response.text());
        response.assert_problem(status, code);
        assert!(refusals(&server, code) > before, "{code} is counted");
    }
    assert_eq!(post(server.address(), "/v1/topics/a", b"fine").status, 201);
}

#[test]
fn a_body_that_announces_too_much_is_refused_before_it_is_sent() {
    let server = Server::start(Options::default());
    let mut stream = connect(server.address()).unwrap();
    let text = format!(
        "POST /v1/topics/a HTTP/1.1\r\nHost: {}\r\nContent-Length: 99999999999\r\n\r\n",
        server.address()
    );
    stream.write_all(text.as_bytes()).unwrap();
    head(stream).assert_problem(413, "message-too-large");
}

#[test]
fn a_body_without_an_end_is_cut_at_the_limit() {
    let server = Server::start(Options::default().set("limits.message_bytes_max", 100_000));
    let mut stream = connect(server.address()).unwrap();
    let text = format!(
        "POST /v1/topics/a HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.address()
    );
    stream.write_all(text.as_bytes()).unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    // The server may close while this is still writing; what counts is what it said and counted.
    for _ in 0..10_000 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert!(refusals(&server, "message-too-large") >= 1.0);
    assert_eq!(server.history("a").len(), 0);
}

#[test]
fn headers_without_an_end_are_refused_at_the_limit() {
    let server = Server::start(Options::default());
    let mut stream = connect(server.address()).unwrap();
    stream.write_all(b"GET /v1/topics/a HTTP/1.1\r\n").unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1_000));
    for _ in 0..64 {
        if stream.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    // A reset may follow at once: bytes that nobody read are on their way.
    stream
        .read_to_end(&mut answer)
        .map(|_| ())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&answer);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 431"),
        "{text}"
    );
    assert!(refusals(&server, "head-too-large") >= 1.0);
}

#[test]
fn slow_headers_are_cut_in_time() {
    let server = Server::start(Options::default().set("limits.handshake_ms_max", 500));
    let started = Instant::now();
    for first in [
        "",
        "GET /v1/topics/a HTTP/1.1\r\nHost: x\r\n",
        "PRI * HTTP/2.0\r\n",
    ] {
        let mut stream = connect(server.address()).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 408"),
            "{first:?}: {text}"
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert!(refusals(&server, "request-timeout") >= 1.0);
}

#[test]
fn bytes_that_are_no_http_are_refused() {
    let server = Server::start(Options::default());
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\x10\x1a\0\x04MQTT\x04\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut stream = connect(server.address()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert!(refusals(&server, "bad-request") >= 1.0);
    server.publish("still", "there");
}

#[test]
fn a_websocket_that_breaks_the_rules_is_closed_with_the_code_for_it() {
    let server = Server::start(Options::default().set("limits.message_bytes_max", 1_000));
    let long = "x".repeat(1_001);
    for (first, payload, code, slug) in [
        (0x81, &b"\xff\xfe"[..], 1007, "bad-text"),
        (0x81, long.as_bytes(), 1009, "message-too-large"),
        (0xc1, b"compressed without leave", 1002, "bad-frame"),
        (0x83, b"reserved opcode", 1002, "bad-frame"),
        (0x80, b"continues nothing", 1002, "bad-frame"),
        (0x88, b"\x03\xed", 1002, "bad-frame"),
    ] {
        let before = refusals(&server, slug);
        let mut socket = WebSocket::raw(server.address(), "/v1/topics/a");
        socket.sender().frame(first, payload).unwrap();
        let (got, reason) = socket.close_frame();
        assert_eq!(got, code, "{first:x}: {reason}");
        assert!(!reason.is_empty(), "{first:x}");
        assert!(refusals(&server, slug) > before, "{slug} is counted");
    }
    let mut unmasked = WebSocket::raw(server.address(), "/v1/topics/a");
    unmasked.socket().write_all(b"\x81\x02hi").unwrap();
    assert_eq!(unmasked.close_frame().0, 1002);
}

#[test]
fn subscriptions_over_the_limit_are_refused_one_by_one() {
    let server =
        Server::start(Options::default().set("limits.subscriptions_per_connection_max", 2));
    let mut socket = WebSocket::tidings(server.address());
    for (id, topic) in ["a", "b", "c"].into_iter().enumerate() {
        socket.ask(&json!({"op": "subscribe", "id": id, "topic": topic}));
    }
    let answers = [socket.json(), socket.json(), socket.json()];
    let answer = |id: usize| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(
        (&answer(0)["op"], &answer(1)["op"]),
        (&json!("ok"), &json!("ok"))
    );
    assert_eq!(answer(2)["op"], "error");
    assert_eq!(answer(2)["code"], "too-many-subscriptions");
    assert!(refusals(&server, "too-many-subscriptions") >= 1.0);
    server.publish("a", "the others work on");
    assert_eq!(socket.json()["data"], "the others work on");
}

#[test]
fn connections_over_the_limit_are_refused() {
    let server = Server::start(Options::default().set("limits.connections_max", 3));
    let held: Vec<WebSocket> = (0..3)
        .map(|_| WebSocket::raw(server.address(), "/v1/topics/a"))
        .collect();
    let mut stream = connect(server.address()).unwrap();
    let text = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n",
        server.address()
    );
    let sent = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_default();
    let text = String::from_utf8_lossy(&answer);
    assert!(
        sent.is_err() || text.is_empty() || text.starts_with("HTTP/1.1 503"),
        "{text}"
    );
    drop(held);
    tidings_e2e::eventually("there is room again", tidings_e2e::PATIENCE, || {
        Request::get("/healthz")
            .try_send(server.address())
            .is_ok_and(|answer| answer.status == 200)
    });
    assert!(refusals(&server, "at-capacity") >= 1.0);
}
