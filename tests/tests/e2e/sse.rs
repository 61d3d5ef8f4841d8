//! Server-Sent Events over HTTP/1.1 and HTTP/2.

use std::io::{BufRead, BufReader};

use serde_json::json;
use tidings_e2e::http::Request;
use tidings_e2e::sse::EventStream;
use tidings_e2e::tools::{Background, curl};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

#[test]
fn a_stream_has_the_headers_that_proxies_need() {
    let server = Server::start(Options::default());
    let mut stream = EventStream::open(server.address(), "/v1/topics/demo");
    let control = stream.header("cache-control").unwrap();
    assert!(
        control.contains("no-cache") && control.contains("no-transform"),
        "{control}"
    );
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    assert_eq!(stream.header("content-length"), None);
    let retry = (0..3).find_map(|_| stream.block().unwrap().retry);
    assert!(
        retry.is_some_and(|ms| ms > 0),
        "a time to reconnect comes first"
    );
}

#[test]
fn one_exact_topic_carries_payloads_and_a_wildcard_an_envelope() {
    let server = Server::start(Options::default());
    let id = server.publish("home/kitchen", "21.5");
    let mut exact = EventStream::open(server.address(), "/v1/topics/home/kitchen?after=earliest");
    let event = exact.event();
    assert_eq!(
        (event.data.as_deref(), event.id.as_deref()),
        (Some("21.5"), Some(&*id))
    );
    for target in [
        "/v1/topics/home/+?after=earliest",
        "/v1/topics/home/kitchen?after=earliest&format=json",
    ] {
        let message = EventStream::open(server.address(), target).event().json();
        assert_eq!(message["topic"], "home/kitchen");
        assert_eq!(message["id"], *id);
        assert_eq!(message["data"], "21.5");
        assert!(message["time"].is_u64());
    }
    let raw = "/v1/topics/home/%2B?after=earliest&format=raw";
    assert_eq!(
        EventStream::open(server.address(), raw)
            .event()
            .data
            .as_deref(),
        Some("21.5")
    );
}

#[test]
fn every_line_end_starts_a_data_line_so_that_nothing_is_injected() {
    let server = Server::start(Options::default());
    server.publish("lines", "one\ntwo\r\nthree\rid: 7\r\n\r\nevent: x");
    server.publish("lines", "");
    server.publish("lines", " leading space");
    let mut stream = EventStream::open(server.address(), "/v1/topics/lines?after=earliest");
    let event = stream.event();
    assert_eq!(
        event.data.as_deref(),
        Some("one\ntwo\nthree\nid: 7\n\nevent: x")
    );
    assert_eq!(event.name, "message");
    assert_eq!(stream.texts(2), ["", " leading space"]);
}

#[test]
fn event_types_are_kept() {
    let server = Server::start(Options::default());
    let published = Request::post("/v1/topics/typed")
        .header("Tidings-Event", "score")
        .body("3:2")
        .send(server.address());
    assert_eq!(published.status, 201, "{}", published.text());
    let event = EventStream::open(server.address(), "/v1/topics/typed?after=earliest").event();
    assert_eq!(
        (event.name.as_str(), event.data.as_deref()),
        ("score", Some("3:2"))
    );
}

#[test]
fn several_topics_come_on_one_stream_in_order() {
    let server = Server::start(Options::default());
    for (topic, text) in [("a", "1"), ("b", "2"), ("c", "no"), ("a", "3")] {
        server.publish(topic, text);
    }
    let target = "/v1/subscribe?topic=a&topic=b&after=earliest";
    let mut stream = EventStream::open(server.address(), target);
    let got: Vec<_> = (0..3)
        .map(|_| stream.event().json())
        .map(|message| (message["topic"].clone(), message["data"].clone()))
        .collect();
    assert_eq!(json!(got), json!([["a", "1"], ["b", "2"], ["a", "3"]]));
}

#[test]
fn a_stream_resumes_after_the_last_id_however_it_is_spelled() {
    let server = Server::start(Options::default());
    let seen = server.publish("demo", "seen");
    server.publish("demo", "missed");
    for spelling in ["lastEventID", "last_event_id", "after"] {
        let target = format!("/v1/topics/demo?{spelling}={seen}");
        assert_eq!(
            EventStream::open(server.address(), &target).texts(1),
            ["missed"],
            "{spelling}"
        );
    }
    // The header is what the browser knows best.
    let request = Request::get("/v1/topics/demo?after=earliest").header("Last-Event-ID", &seen);
    assert_eq!(
        EventStream::send(server.address(), request).texts(1),
        ["missed"]
    );
}

#[test]
fn a_place_is_given_before_the_first_message() {
    let server = Server::start(Options::default());
    let mut stream = EventStream::open(server.address(), "/v1/topics/quiet");
    let place = (0..3)
        .find_map(|_| stream.block().unwrap().id)
        .expect("a position at once");
    drop(stream);
    server.publish("quiet", "while away");
    let target = format!("/v1/topics/quiet?after={place}");
    assert_eq!(
        EventStream::open(server.address(), &target).texts(1),
        ["while away"]
    );
}

#[test]
fn an_unknown_cursor_is_answered_with_a_gap_and_what_there_is() {
    let server = Server::start(Options::default());
    server.publish("demo", "first");
    // Well formed, and of a log that never was.
    let target = "/v1/topics/demo?after=AQAAAAAAAAABBQ";
    let mut stream = EventStream::open(server.address(), target);
    let gap = stream.event();
    assert_eq!(gap.name, "gap");
    assert_eq!(gap.json()["reason"], "unknown-cursor");
    assert_eq!(stream.texts(1), ["first"]);
}

#[test]
fn what_retention_removed_is_a_gap() {
    // Without the newest messages in memory, which may outlive what the log keeps.
    let options = Options::default()
        .set("retention_default.per_topic_max", 3)
        .set("limits.tail_bytes_max", 0);
    let server = Server::start(options);
    let seen = server.publish("short", "0");
    for n in 1..10 {
        server.publish("short", &n.to_string());
    }
    eventually("retention has removed the rest", PATIENCE, || {
        server.history("short").len() == 3
    });
    let mut stream = EventStream::open(server.address(), &format!("/v1/topics/short?after={seen}"));
    let gap = stream.event();
    assert_eq!(gap.name, "gap");
    assert_eq!(gap.json()["reason"], "retention");
    assert_eq!(stream.texts(3), ["7", "8", "9"]);
}

#[test]
fn a_quiet_stream_has_heartbeats() {
    let server = Server::start(Options::default().set("limits.heartbeat_ms", 200));
    let mut stream = EventStream::open(server.address(), "/v1/topics/quiet");
    let beats = (0..6)
        .filter(|_| stream.block().unwrap().comment.is_some())
        .count();
    assert!(beats >= 3, "{beats} comments");
}

#[test]
fn the_query_stands_in_for_the_header() {
    let server = Server::start(Options::default());
    server.publish("demo", "x");
    let opened = Request::get("/v1/topics/demo?after=earliest&as=sse")
        .open(server.address())
        .unwrap();
    assert_eq!(opened.header("content-type"), Some("text/event-stream"));
}

#[test]
fn a_stream_over_http2_delivers_live() {
    let server = Server::start(Options::default());
    server.publish("two", "kept");
    let url = server.url("/v1/topics/two?after=earliest");
    let mut subscriber = Background::start(&mut curl(&[
        "--http2-prior-knowledge",
        "-N",
        "-H",
        "Accept: text/event-stream",
        &url,
    ]));
    let stdout = subscriber.child().stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "data: kept"));
    server.publish("two", "live");
    assert!(lines.any(|line| line == "data: live"));
}
