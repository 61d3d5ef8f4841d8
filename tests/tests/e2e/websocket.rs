//! WebSocket: raw topics and `tidings.v1`, with npm's `ws` and with literal frames.

use serde_json::{Value, json};
use tidings_e2e::peer::Peer;
use tidings_e2e::websocket::{Frame, WebSocket, upgrade};
use tidings_e2e::{Options, Server};

#[track_caller]
fn open(server: &Server, target: &str, protocols: &Value) -> (Peer, Value) {
    let mut peer = Peer::node("websocket.mjs", &[]);
    let opened = peer.ask(&json!({"open": server.ws_url(target), "protocols": protocols}));
    (peer, opened)
}

#[test]
fn a_raw_socket_publishes_what_it_is_sent_and_hears_it() {
    let server = Server::start(Options::default());
    let (mut peer, opened) = open(&server, "/v1/topics/chat/lobby", &json!([]));
    assert_eq!(opened["open"]["protocol"], "");
    assert!(
        opened["open"]["extensions"]
            .as_str()
            .unwrap()
            .contains("permessage-deflate")
    );
    assert_eq!(
        peer.ask(&json!({"send": "hello"})),
        json!({"message": "hello"})
    );
    assert_eq!(
        peer.ask(&json!({"sendBinary": "/wD+"})),
        json!({"binary": "/wD+"})
    );
    let long = "the same words again and again ".repeat(3_000);
    assert_eq!(peer.ask(&json!({"send": long})), json!({"message": long}));
    server.publish("chat/lobby", "from http");
    assert_eq!(peer.line(), json!({"message": "from http"}));
    assert_eq!(server.history("chat/lobby").len(), 4);
}

#[test]
fn a_raw_socket_without_echo_hears_others_only() {
    let server = Server::start(Options::default());
    let mut silent = WebSocket::raw(server.address(), "/v1/topics/chat?echo=false");
    let mut other = WebSocket::raw(server.address(), "/v1/topics/chat");
    silent.send("mine");
    assert_eq!(other.text(), "mine");
    other.send("yours");
    assert_eq!(silent.text(), "yours");
}

#[test]
fn tidings_v1_subscribes_publishes_and_resumes() {
    let server = Server::start(Options::default());
    let (mut peer, opened) = open(&server, "/v1/ws", &json!(["other", "tidings.v1"]));
    assert_eq!(opened["open"]["protocol"], "tidings.v1");
    let request = |value: Value| json!({"send": value.to_string()});
    let answer = |line: &Value| -> Value {
        serde_json::from_str(line["message"].as_str().expect("a message")).expect("JSON")
    };
    let ok = answer(&peer.ask(&request(
        json!({"op": "subscribe", "id": 1, "topic": "news/#"}),
    )));
    assert_eq!((&ok["op"], &ok["id"]), (&json!("ok"), &json!(1)));
    let start = ok["cursor"]
        .as_str()
        .expect("a position, also on an empty topic")
        .to_owned();

    peer.tell(&request(
        json!({"op": "publish", "id": "two", "topic": "news/a", "data": "x", "event": "e"}),
    ));
    let both = [answer(&peer.line()), answer(&peer.line())];
    // The publisher learns its cursor first, so that it can recognise its own message.
    assert_eq!(
        (&both[0]["op"], &both[0]["id"]),
        (&json!("ok"), &json!("two"))
    );
    let message = &both[1];
    assert_eq!(
        (&message["op"], &message["topic"], &message["data"]),
        (&json!("message"), &json!("news/a"), &json!("x"))
    );
    assert_eq!(message["id"], both[0]["cursor"]);
    assert_eq!(message["event"], "e");

    let mut again = WebSocket::tidings(server.address());
    again.ask(&json!({"op": "subscribe", "id": 1, "topic": "news/#", "after": start}));
    assert_eq!(again.json()["op"], "ok");
    assert_eq!(again.json()["id"], message["id"]);
    again.ask(&json!({"op": "unsubscribe", "id": 2, "topic": "news/#"}));
    assert_eq!(again.json(), json!({"op": "ok", "id": 2}));
    again.ask(&json!({"op": "ping", "id": 3}));
    assert_eq!(again.json(), json!({"op": "ok", "id": 3}));
}

#[test]
fn tidings_v1_works_off_a_queue() {
    let server = Server::start(Options::default());
    for job in ["one", "two", "three"] {
        server.publish("jobs/a", job);
    }
    let join = json!({"op": "subscribe", "id": 1, "topic": "jobs/#", "group": "w", "prefetch": 1});
    let next = |member: &mut WebSocket, data: &str, deliveries: u32| -> Value {
        let message = member.json();
        assert_eq!(
            (&message["data"], &message["deliveries"]),
            (&json!(data), &json!(deliveries))
        );
        assert_eq!(
            (&message["op"], &message["sub"]),
            (&json!("message"), &json!(1))
        );
        message["id"].clone()
    };
    let mut member = WebSocket::tidings(server.address());
    member.ask(&join);
    assert_eq!(member.json()["group"], "w");
    let one = next(&mut member, "one", 1);
    member.ask(&json!({"op": "nack", "sub": 1, "message": one}));
    let one = next(&mut member, "one", 2);
    member.ask(&json!({"op": "ack", "sub": 1, "message": one}));
    next(&mut member, "two", 1);
    member.ask(&json!({"op": "unsubscribe", "id": 9, "sub": 1}));
    assert_eq!(member.json(), json!({"op": "ok", "id": 9}));

    // The next member goes on with what the first one left.
    let mut member = WebSocket::tidings(server.address());
    member.ask(&join);
    assert_eq!(member.json()["op"], "ok");
    let two = next(&mut member, "two", 2);
    member.ask(&json!({"op": "nack", "sub": 1, "message": two, "requeue": false}));
    next(&mut member, "three", 1);
    let mut dead = WebSocket::tidings(server.address());
    dead.ask(&json!({"op": "subscribe", "topic": "dead-letter/#", "after": "earliest"}));
    assert_eq!(dead.json()["op"], "ok");
    let letter = dead.json();
    assert_eq!(
        (&letter["data"], &letter["headers"]["tidings-dead-message"]),
        (&json!("two"), &two)
    );

    // Nothing is left of a queue that is forgotten.
    member.ask(&json!({"op": "unsubscribe", "id": 9, "sub": 1, "forget": true}));
    assert_eq!(member.json(), json!({"op": "ok", "id": 9}));
    let mut member = WebSocket::tidings(server.address());
    member.ask(&join);
    assert_eq!(member.json()["op"], "ok");
    next(&mut member, "one", 1);
}

#[test]
fn errors_name_the_request_and_leave_the_connection_open() {
    let server = Server::start(Options::default());
    let mut socket = WebSocket::tidings(server.address());
    for (request, code) in [
        (
            json!({"op": "publish", "id": 1, "topic": "a/+", "data": "x"}),
            "bad-topic",
        ),
        (
            json!({"op": "subscribe", "id": 2, "topic": "a/#/b"}),
            "bad-filter",
        ),
        (
            json!({"op": "subscribe", "id": 3, "topic": "a", "after": "nonsense"}),
            "bad-cursor",
        ),
        (
            json!({"op": "publish", "id": 4, "topic": "a", "base64": "***"}),
            "bad-json",
        ),
    ] {
        socket.ask(&request);
        let error = socket.json();
        assert_eq!(
            (&error["op"], &error["id"]),
            (&json!("error"), &request["id"]),
            "{error}"
        );
        if code != "bad-json" {
            assert_eq!(error["code"], code, "{error}");
        }
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{error}"
        );
    }
    socket.ask(&json!({"op": "ping", "id": 5}));
    assert_eq!(socket.json()["op"], "ok");
}

#[test]
fn a_gap_is_an_object_of_its_own() {
    let server = Server::start(Options::default());
    server.publish("demo", "kept");
    let mut socket = WebSocket::tidings(server.address());
    socket.ask(&json!({"op": "subscribe", "id": 1, "topic": "demo", "after": "AQAAAAAAAAABBQ"}));
    assert_eq!(socket.json()["op"], "ok");
    let gap = socket.json();
    assert_eq!(
        (&gap["op"], &gap["reason"]),
        (&json!("gap"), &json!("unknown-cursor"))
    );
    assert!(gap["cursor"].is_string());
    assert_eq!(socket.json()["data"], "kept");
}

#[test]
fn a_wrong_version_is_told_the_right_one() {
    let server = Server::start(Options::default());
    let response = tidings_e2e::http::Request::get("/v1/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "8")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send(server.address());
    response.assert_problem(426, "upgrade-required");
    assert_eq!(response.header("sec-websocket-version"), Some("13"));
}

#[test]
fn a_page_of_another_origin_is_refused() {
    let server = Server::start(Options::default());
    let response = upgrade("/v1/ws")
        .header("Origin", "https://evil.example")
        .send(server.address());
    response.assert_problem(403, "bad-origin");
    let own = format!("http://{}", server.address());
    let opened = upgrade("/v1/ws")
        .header("Origin", &own)
        .open(server.address())
        .unwrap();
    assert_eq!(opened.status, 101);
}

#[test]
fn a_ping_is_answered_and_a_close_is_echoed() {
    let server = Server::start(Options::default());
    let mut socket = WebSocket::raw(server.address(), "/v1/topics/demo");
    let mut sender = socket.sender();
    sender.frame(0x89, b"are you there").unwrap();
    assert_eq!(socket.frame(), Frame::Pong(b"are you there".to_vec()));
    sender.frame(0x88, &1000u16.to_be_bytes()).unwrap();
    assert_eq!(socket.close_frame().0, 1000);
    let end = socket.try_frame().unwrap_err();
    assert_eq!(
        end.kind(),
        std::io::ErrorKind::UnexpectedEof,
        "the server closes first"
    );
}

#[test]
fn a_silent_peer_is_pinged_and_then_let_go() {
    let options = Options::default()
        .set("limits.heartbeat_ms", 200)
        .set("limits.silence_ms_max", 1_000);
    let server = Server::start(options);
    let mut socket = WebSocket::raw(server.address(), "/v1/topics/demo");
    assert!(matches!(socket.frame(), Frame::Ping(_)));
    assert_eq!(socket.close_frame().0, 1001);
    // One that answers stays: `ws` does so by itself.
    let (mut peer, _) = open(&server, "/v1/topics/demo", &json!([]));
    let count = || server.metric("tidings_refusals_total", "\"silent\"");
    let mut silent = WebSocket::raw(server.address(), "/v1/topics/demo");
    assert_eq!(silent.close_frame().0, 1001);
    assert!(count() >= 2.0, "{}", count());
    assert_eq!(
        peer.ask(&json!({"send": "still here"})),
        json!({"message": "still here"})
    );
}
