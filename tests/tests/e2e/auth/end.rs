//! Until when: the credential's end is the connection's, unless it is renewed.

use std::time::{Duration, Instant};

use serde_json::json;
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{Client as Mqtt, Connect};
use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::Client as Stomp;
use tidings_e2e::websocket::WebSocket;

use super::{Guarded, Kind};

#[test]
fn a_connection_ends_with_its_credential_on_every_protocol() {
    let guarded = Guarded::start();
    let (address, token) = (guarded.server.address(), guarded.short("3s"));
    let query = format!("access_token={token}");
    let mut stream = EventStream::open(address, &format!("/v1/topics/own/a?as=sse&{query}"));
    let mut raw = WebSocket::raw(address, &format!("/v1/topics/own/a?{query}"));
    let socket = WebSocket::try_open(address, &format!("/v1/ws?{query}"), Some("tidings.v1"));
    let mut socket = socket.unwrap();
    let (mut mqtt, _) = Mqtt::open(guarded.server.mqtt(), &Connect::v5("a").login("", &token));
    let login = [("passcode", token.as_str())];
    let (mut stomp, _) = Stomp::try_open(guarded.server.stomp(), "1.2", &login).unwrap();
    assert_eq!(stomp.error().expect("tidings-code"), "unauthorized");
    assert_eq!(mqtt.until_closed(), Some(0x87));
    assert_eq!(socket.json()["op"], "drain");
    assert_eq!(socket.close_frame().0, 1008);
    assert_eq!(raw.close_frame().0, 1008);
    while stream.block().is_ok() {}
    // Nobody goes on as somebody less.
    let late = WebSocket::try_open(address, &format!("/v1/ws?{query}"), Some("tidings.v1"));
    assert!(late.is_err_and(|error| error.to_string().contains("401")));
}

#[test]
fn a_credential_is_renewed_in_place() {
    let guarded = Guarded::start();
    let mut socket = WebSocket::tidings(guarded.server.address());
    socket.ask(&json!({"op":"auth","id":1,"token":guarded.short("2s")}));
    assert_eq!(socket.json()["op"], "ok");
    socket.ask(&json!({"op":"subscribe","id":2,"topic":"own/a"}));
    assert_eq!(socket.json()["op"], "ok");
    // Somebody else's is not taken, and changes nothing.
    let other = super::mint(&guarded.path("secret"), "eve", "1h");
    socket.ask(&json!({"op":"auth","id":3,"token":other}));
    assert_eq!(socket.json()["code"], "unauthorized");
    socket.ask(&json!({"op":"auth","id":4,"token":guarded.short("5s")}));
    let renewed = socket.json();
    assert_eq!(renewed["op"], "ok");
    // It is there at the old end, which a connection without renewal shows, and gone at the new one.
    let mut first = WebSocket::tidings(guarded.server.address());
    first.ask(&json!({"op":"auth","id":1,"token":guarded.short("2s")}));
    assert_eq!(first.json()["op"], "ok");
    assert_eq!(first.json()["op"], "drain");
    socket.ask(&json!({"op":"publish","id":5,"topic":"own/a","data":"x"}));
    let said = [socket.json(), socket.json()];
    assert!(said.iter().any(|line| line["op"] == "message"), "{said:?}");
    assert_eq!(socket.json()["op"], "drain");
}

#[test]
fn a_renewal_that_grants_less_ends_what_is_not_granted_any_more() {
    let guarded = Guarded::start();
    let secret = guarded.path("secret");
    let bob = |filters: &[&str]| {
        let secret = secret.to_str().unwrap();
        let mut arguments = vec!["token", "mint", "bob", "--secret-file", secret];
        for filter in filters {
            arguments.extend(["--subscribe", filter]);
        }
        let command = &mut tidings_e2e::server::tidings(&arguments);
        tidings_e2e::tools::stdout(command).trim().to_owned()
    };
    let mut socket = WebSocket::tidings(guarded.server.address());
    socket.ask(&json!({"op":"auth","id":1,"token":bob(&["a", "b"])}));
    assert_eq!(socket.json()["op"], "ok");
    for topic in ["a", "b"] {
        socket.ask(&json!({"op":"subscribe","id":topic,"topic":topic}));
        assert_eq!(socket.json()["op"], "ok");
    }
    socket.ask(&json!({"op":"subscribe","id":"queue","topic":"b","group":"w"}));
    assert_eq!(socket.json()["op"], "ok");
    socket.ask(&json!({"op":"auth","id":2,"token":bob(&["a"])}));
    assert_eq!(socket.json()["op"], "ok");
    for _ in 0..2 {
        let lost = socket.json();
        assert_eq!(
            (&lost["op"], &lost["code"]),
            (&json!("error"), &json!("forbidden")),
            "{lost}"
        );
    }
    socket.ask(&json!({"op":"unsubscribe","id":3,"topic":"a"}));
    assert_eq!(socket.json(), json!({"op":"ok","id":3}));
}

#[test]
fn failed_logins_from_one_address_are_slowed_and_good_tokens_are_not() {
    let guarded = Guarded::start_with(&[("auth.failures_max", "2")]);
    let address = guarded.server.address();
    let ask = |authorization: &str| {
        let request = Request::get("/v1/topics/own/a?as=json");
        let begun = Instant::now();
        let status = request
            .header("Authorization", authorization)
            .send(address)
            .status;
        (status, begun.elapsed())
    };
    for _ in 0..3 {
        assert_eq!(ask("Bearer wrong").0, 401);
    }
    let (status, took) = ask("Bearer wrong");
    assert_eq!(status, 401);
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert_eq!(ask(&guarded.authorization(Kind::Token)).0, 200);
    // Passwords are what is guessed, so they are not even judged before.
    let (status, took) = ask(&guarded.authorization(Kind::Password));
    assert_eq!(status, 200);
    assert!(took >= Duration::from_millis(500), "{took:?}");
}
