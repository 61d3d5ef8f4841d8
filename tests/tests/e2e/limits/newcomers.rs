//! Connections that there is no room for, or that come too fast.

use std::io::Read as _;
use std::net::TcpStream;

use serde_json::{Value, json};
use tidings_e2e::http::{Request, Response, connect};
use tidings_e2e::mqtt::{Client as Mqtt, Connect};
use tidings_e2e::peer::Peer;
use tidings_e2e::tools::{curl, stdout};
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::reached;

/// A server with room for one, who is there.
#[track_caller]
fn full() -> (Server, WebSocket) {
    let options = Options::default()
        .set("limits.connections_max", 1)
        .set("http.cors_origins", "*");
    let server = Server::start(options);
    let held = WebSocket::raw(server.address(), "/v1/topics/a");
    (server, held)
}

fn stream() -> Request {
    Request::get("/v1/topics/a")
        .header("Accept", "text/event-stream")
        .header("Origin", "https://example.org")
}

#[track_caller]
fn assert_put_off(answer: &Response) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(answer.header("tidings-refused"), Some("at-capacity"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    let text = answer.text();
    let (retry, event) = text.split_once('\n').unwrap();
    let ms: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((3_000..20_000).contains(&ms), "{ms}");
    assert_eq!(seconds, ms.div_ceil(1_000));
    let data = event.strip_prefix("event: drain\ndata: ").unwrap();
    let told: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
    assert_eq!(told["code"], "at-capacity");
    assert_eq!(told["reconnect_after_ms"], ms);
}

#[test]
fn a_full_server_puts_event_streams_off_and_refuses_what_else_is_asked() {
    let (server, held) = full();
    assert_put_off(&stream().send(server.address()));
    let refused = Request::post("/v1/topics/a").send(server.address());
    refused.assert_problem(503, "at-capacity");
    assert_eq!(refused.header("x-content-type-options"), Some("nosniff"));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3..=10).contains(&seconds), "{seconds}");
    // With fetch a POST says the same by its status.
    let post = Request::post("/v1/subscribe").header("Accept", "text/event-stream");
    post.send(server.address())
        .assert_problem(503, "at-capacity");
    let two = |path: &str, accept: &str| {
        let accept = format!("Accept: {accept}");
        let arguments = [
            "-i",
            "--http2-prior-knowledge",
            "-H",
            &accept,
            &server.url(path),
        ];
        stdout(&mut curl(&arguments)).to_lowercase()
    };
    let refused = two("/healthz", "*/*");
    assert!(refused.starts_with("http/2 503"), "{refused}");
    assert!(refused.contains("x-content-type-options: nosniff"));
    let put_off = two("/v1/topics/a", "text/event-stream");
    assert!(put_off.starts_with("http/2 200"), "{put_off}");
    assert!(put_off.contains("event: drain"), "{put_off}");
    assert!(Mqtt::try_open(server.mqtt(), &Connect::v5("a")).is_err());
    drop(held);
    eventually("there is room again", PATIENCE, || {
        let page = Request::get("/healthz").try_send(server.address());
        page.is_ok_and(|page| page.status == 200)
    });
    // Whoever asks for the numbers has to find room, too.
    eventually("they are counted", PATIENCE, || {
        reached(&server, "connections_max") > 5.5
            && server.metric("tidings_refusals_total", "\"at-capacity\"") > 5.5
    });
}

#[test]
fn chromium_comes_back_to_a_server_that_was_full() {
    let (server, held) = full();
    // Another server's page, so that the browser has no connection to the full one.
    let other = Server::start(Options::default());
    let mut browser = Peer::node("browser.mjs", &[&other.url("/"), "any-policy"]);
    assert_eq!(browser.line(), json!({"done": "Tidings"}));
    let mut evaluate = |script: &str| browser.ask(&json!({"evaluate": script}))["done"].clone();
    let url = server.url("/v1/topics/a?after=earliest");
    let script = format!(
        "window.seen = [];
         window.source = new EventSource('{url}');
         source.addEventListener('drain', (event) => seen.push(JSON.parse(event.data).code));
         source.onmessage = (event) => seen.push(event.data);
         void 0"
    );
    evaluate(&script);
    eventually("it is told", PATIENCE, || {
        evaluate("seen[0] ?? null") == "at-capacity"
    });
    // 0 is CONNECTING, 2 would be CLOSED: it would never come back.
    eventually("it waits", PATIENCE, || evaluate("source.readyState") == 0);
    drop(held);
    eventually("it is in", PATIENCE * 2, || {
        evaluate("source.readyState") == 1
    });
}

#[test]
fn connections_that_come_too_fast_are_refused_until_it_is_time() {
    let server = Server::start(
        Options::default()
            .set("limits.connections_per_address_rate", 1)
            .set("limits.connections_per_address_burst", 5),
    );
    let mut held: Vec<TcpStream> = Vec::new();
    let told = (0..200).find_map(|_| {
        held.push(connect(server.address()).ok()?);
        let answer = Request::get("/healthz").try_send(server.address()).ok()?;
        (answer.status != 200).then_some(answer)
    });
    let told = told.expect("not all at once");
    told.assert_problem(429, "rate-limited");
    assert!(told.header("retry-after").is_some());
    assert!(told.text().contains("limits.connections_per_address_rate"));
    // An event stream is put off, in time for the next one.
    let mut put_off = None;
    eventually("a stream is put off", PATIENCE, || {
        put_off = stream().try_send(server.address()).ok();
        put_off
            .as_ref()
            .is_some_and(|answer| answer.header("tidings-refused") == Some("rate-limited"))
    });
    assert_eq!(put_off.map(|answer| answer.status), Some(200));
    // MQTT has no word for it.
    eventually("mqtt is closed", PATIENCE, || {
        let mut socket = connect(server.mqtt()).unwrap();
        socket.read(&mut [0]).is_ok_and(|count| count == 0)
    });
    eventually("the next one is in time", PATIENCE, || {
        let page = Request::get("/metrics").try_send(server.address());
        page.is_ok_and(|page| {
            let limit = "tidings_limits_reached_total{limit=\"connections_per_address_rate\"}";
            let text = page.text();
            let line = text.lines().find_map(|line| line.strip_prefix(limit));
            line.is_some_and(|count| count.trim().parse::<u64>().unwrap() >= 3)
        })
    });
}
