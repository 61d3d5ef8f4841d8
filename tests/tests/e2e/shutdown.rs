//! A graceful shutdown: everyone is told, each to come back at another time, and nothing is cut off.

use std::collections::HashSet;

use serde_json::json;
use tidings_e2e::sse::EventStream;
use tidings_e2e::websocket::{Frame, WebSocket};
use tidings_e2e::{Options, Server};

#[test]
fn each_client_is_told_to_come_back_at_a_time_of_its_own() {
    let mut server = Server::start(Options::default().set("server.shutdown_ms", 1_000));
    let mut sockets: Vec<WebSocket> = (0..8)
        .map(|_| WebSocket::tidings(server.address()))
        .collect();
    for socket in &mut sockets {
        socket.ask(&json!({"op": "subscribe", "id": 1, "topic": "demo"}));
        assert_eq!(socket.json()["op"], "ok");
    }
    let mut raw = WebSocket::raw(server.address(), "/v1/topics/demo");
    let mut streams: Vec<EventStream> = (0..8)
        .map(|_| EventStream::open(server.address(), "/v1/topics/demo?after=earliest"))
        .collect();
    server.publish("demo", "the last one");
    for socket in &mut sockets {
        assert_eq!(socket.json()["data"], "the last one");
    }
    assert_eq!(raw.text(), "the last one");
    for stream in &mut streams {
        assert_eq!(stream.texts(1), ["the last one"]);
    }
    server.terminate();

    let mut times = HashSet::new();
    for socket in &mut sockets {
        let drain = socket.json();
        assert_eq!(drain["op"], "drain", "{drain}");
        times.insert(drain["reconnect_ms"].as_u64().expect("a time"));
        assert!(matches!(socket.frame(), Frame::Close(Some((1012, _)))));
    }
    assert!(times.len() > 4, "different times: {times:?}");
    assert_eq!(raw.close_frame().0, 1012);

    let mut retries = HashSet::new();
    for stream in &mut streams {
        let mut retry = None;
        let mut events = Vec::new();
        // A stream ends with the end of its body, not in the middle of one.
        let end = loop {
            match stream.block() {
                Ok(block) => {
                    retry = block.retry.or(retry);
                    events.extend(block.data.map(|_| block.name));
                }
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof, "{end}");
        assert_eq!(events, ["drain"]);
        retries.insert(retry.expect("a time"));
    }
    assert!(retries.len() > 4, "different times: {retries:?}");
    assert!(
        server.wait().success(),
        "a shutdown that was asked for is a success"
    );
}

#[test]
fn what_was_stored_before_a_shutdown_is_there_after_it() {
    let mut server = Server::start(Options::default().argument("--durability").argument("os"));
    let expect: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    server.publish_batch("demo", &expect);
    server.terminate();
    assert!(server.wait().success());
    let server = server.restart();
    let texts: Vec<_> = server
        .history("demo")
        .iter()
        .map(|message| message["data"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, expect);
}

#[test]
fn a_server_in_memory_keeps_messages_until_it_stops_and_then_says_so() {
    let server = Server::start(Options::default().argument("--memory"));
    let seen = server.publish("demo", "seen");
    assert_eq!(server.history("demo").len(), 1);
    let server = server.restart();
    server.publish("demo", "new");
    let mut stream = EventStream::open(server.address(), &format!("/v1/topics/demo?after={seen}"));
    assert_eq!(stream.event().name, "gap");
    assert_eq!(stream.texts(1), ["new"]);
}
