//! MQTT over its own port and over WebSocket: with real clients, and with one that stops wherever a test wants.

mod clients;
mod front;
mod mosquitto;
mod properties;
mod qos2;
mod scale;
mod sessions;
mod shared;
mod wills;

use tidings_e2e::Server;
use tidings_e2e::http::Request;

/// Publishes over HTTP with headers.
#[track_caller]
fn post(server: &Server, topic: &str, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) {
    let mut request = Request::post(&format!("/v1/topics/{topic}")).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.send(server.address());
    assert_eq!(response.status, 201, "{}", response.text());
}

/// The texts of a topic, over HTTP.
#[track_caller]
fn texts(server: &Server, filter: &str) -> Vec<String> {
    let text = |message: &serde_json::Value| message["data"].as_str().unwrap_or("?").to_owned();
    server.history(filter).iter().map(text).collect()
}

/// `first-0`, `first-1`, ..
fn numbered(first: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{first}-{n}")).collect()
}
