//! `tidings.v1`: the handshake's credential, and the first message's.

use serde_json::{Value, json};
use tidings_e2e::websocket::{WebSocket, upgrade};

use super::{Guarded, KINDS, Kind};

#[track_caller]
fn ask(socket: &mut WebSocket, request: &Value) -> Value {
    socket.ask(request);
    socket.json()
}

#[track_caller]
fn assert_granted(socket: &mut WebSocket) {
    let answer = ask(socket, &json!({"op":"subscribe","id":1,"topic":"own/#"}));
    assert_eq!(answer["op"], "ok", "{answer}");
    for filter in ["#", "other", "+/a"] {
        let answer = ask(socket, &json!({"op":"subscribe","id":2,"topic":filter}));
        assert_eq!(answer["code"], "forbidden", "{filter}: {answer}");
    }
    for topic in ["other", "own/locked"] {
        let answer = ask(
            socket,
            &json!({"op":"publish","id":3,"topic":topic,"data":"x"}),
        );
        assert_eq!(answer["code"], "forbidden", "{topic}: {answer}");
    }
    socket.ask(&json!({"op":"publish","id":4,"topic":"own/a","data":"x"}));
    let mut said = [socket.json(), socket.json()];
    said.sort_by_key(|line| line["op"].as_str().map(str::to_owned));
    assert_eq!(
        (&said[0]["op"], &said[1]["op"]),
        (&json!("message"), &json!("ok"))
    );
}

fn credential(guarded: &Guarded, kind: Kind) -> Value {
    let (user, password) = guarded.login(kind);
    match kind {
        Kind::Password => json!({"op":"auth","id":0,"user":user,"password":password}),
        Kind::Key | Kind::Token => json!({"op":"auth","id":0,"token":password}),
    }
}

#[test]
fn every_kind_signs_in_with_its_first_message() {
    let guarded = Guarded::start();
    for kind in KINDS {
        let mut socket = WebSocket::tidings(guarded.server.address());
        let answer = ask(&mut socket, &credential(&guarded, kind));
        assert_eq!(answer["op"], "ok", "{kind:?}: {answer}");
        assert_eq!(answer["expires"].is_u64(), kind == Kind::Token, "{answer}");
        assert_granted(&mut socket);
    }
}

#[test]
fn what_follows_the_first_message_waits_for_its_answer() {
    let guarded = Guarded::start();
    let mut socket = WebSocket::tidings(guarded.server.address());
    // A password takes a while; the server has all of this before.
    for request in [
        credential(&guarded, Kind::Password),
        json!({"op":"subscribe","id":1,"topic":"own/a"}),
        json!({"op":"publish","id":2,"topic":"own/a","data":"x"}),
    ] {
        socket.ask(&request);
    }
    assert_eq!(socket.json(), json!({"op":"ok","id":0}));
    assert_eq!(socket.json()["id"], 1);
    let said = [socket.json(), socket.json()];
    assert!(said.iter().any(|line| line["op"] == "message"), "{said:?}");
}

#[test]
fn every_kind_signs_in_with_the_handshake() {
    let guarded = Guarded::start();
    for kind in KINDS {
        let opened = upgrade("/v1/ws")
            .header("Sec-WebSocket-Protocol", "tidings.v1")
            .header("Authorization", &guarded.authorization(kind))
            .open(guarded.server.address())
            .unwrap();
        assert_eq!(opened.status, 101, "{kind:?}");
    }
    for secret in [&guarded.key, &guarded.token] {
        let target = format!("/v1/ws?access_token={secret}");
        let socket = WebSocket::try_open(guarded.server.address(), &target, Some("tidings.v1"));
        assert_granted(&mut socket.unwrap());
    }
}

#[test]
fn a_peer_that_has_not_signed_in_may_do_nothing_and_not_for_long() {
    let guarded = Guarded::start_with(&[("limits.handshake_ms_max", "1500")]);
    let mut socket = WebSocket::tidings(guarded.server.address());
    for request in [
        json!({"op":"subscribe","id":1,"topic":"own/a"}),
        json!({"op":"publish","id":2,"topic":"own/a","data":"x"}),
        json!({"op":"auth","id":3,"token":"wrong"}),
        json!({"op":"auth","id":4}),
        json!({"op":"publish","id":5,"topic":"own/a","data":"x"}),
    ] {
        let answer = ask(&mut socket, &request);
        assert_eq!(answer["code"], "unauthorized", "{answer}");
    }
    assert_eq!(socket.json()["op"], "drain");
    assert_eq!(socket.close_frame().0, 1008);
    let published = guarded.server.metric("tidings_published_total", "tidings");
    assert!(published < 0.5, "{published}");
}
