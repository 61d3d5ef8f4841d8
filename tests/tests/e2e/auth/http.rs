//! HTTP, event streams and raw `WebSocket`s.

use serde_json::json;
use tidings_e2e::http::{Request, Response};
use tidings_e2e::sse::EventStream;
use tidings_e2e::tools::{curl, stdout};
use tidings_e2e::websocket::{WebSocket, upgrade};

use super::{Guarded, KINDS, Kind, PASSWORD};

#[track_caller]
fn send(guarded: &Guarded, request: Request, kind: Option<Kind>) -> Response {
    let request = match kind {
        Some(kind) => request.header("Authorization", &guarded.authorization(kind)),
        None => request,
    };
    request.send(guarded.server.address())
}

fn batch(topics: &[&str]) -> Request {
    let messages: Vec<_> = topics
        .iter()
        .map(|topic| json!({"topic": topic, "data": "x"}))
        .collect();
    Request::post("/v1/publish")
        .header("Content-Type", "application/json")
        .body(json!(messages).to_string())
}

#[test]
fn every_kind_publishes_and_reads_what_it_is_granted_and_nothing_more() {
    let guarded = Guarded::start();
    for kind in KINDS.map(Some) {
        let ask = |request| send(&guarded, request, kind);
        assert_eq!(
            ask(Request::post("/v1/topics/own/a").body("1")).status,
            201,
            "{kind:?}"
        );
        assert_eq!(ask(batch(&["own/a", "own/b/c"])).status, 201);
        for forbidden in ["other", "own/locked", "ownmore"] {
            let target = format!("/v1/topics/{forbidden}");
            ask(Request::post(&target).body("1")).assert_problem(403, "forbidden");
        }
        ask(batch(&["own/a", "other"])).assert_problem(403, "forbidden");
        let page = ask(Request::get("/v1/topics/own/%23?after=earliest&as=json"));
        assert_eq!(page.status, 200, "{}", page.text());
        for forbidden in ["other", "%23", "+", "+/a"] {
            for form in ["json", "json&wait=1s", "sse"] {
                let target = format!("/v1/topics/{forbidden}?as={form}");
                ask(Request::get(&target)).assert_problem(403, "forbidden");
            }
            let target = format!("/v1/topics/{forbidden}");
            let mut handshake = upgrade(&target);
            handshake = handshake.header("Authorization", &guarded.authorization(Kind::Token));
            handshake
                .send(guarded.server.address())
                .assert_problem(403, "forbidden");
        }
        ask(Request::get("/v1/topics")).assert_problem(403, "forbidden");
    }
    let page = send(
        &guarded,
        Request::get("/v1/topics/own/a?after=earliest&as=json"),
        Some(Kind::Key),
    );
    assert_eq!(page.json()["messages"].as_array().unwrap().len(), 6);
}

#[test]
fn without_a_good_credential_nothing_is_done() {
    let guarded = Guarded::start();
    let address = guarded.server.address();
    let requests = || {
        [
            Request::post("/v1/topics/own/a").body("1"),
            batch(&["own/a"]),
            Request::get("/v1/topics/own/a?as=json"),
            Request::get("/v1/topics/own/a?as=json&wait=1s"),
            Request::get("/v1/topics/own/a?as=sse"),
            Request::get("/v1/topics"),
            upgrade("/v1/topics/own/a"),
        ]
    };
    for authorization in [
        None,
        Some("Bearer wrong".to_owned()),
        Some("Basic YW5uOndyb25n".to_owned()),
        Some("Basic YW5uOg==".to_owned()),
        Some(format!("Bearer {}x", guarded.token)),
        Some(format!("Bearer {}", guarded.key.replace("tdg_", "tdg_0"))),
    ] {
        for request in requests() {
            let request = match &authorization {
                Some(value) => request.header("Authorization", value),
                None => request,
            };
            let answer = request.send(address);
            answer.assert_problem(401, "unauthorized");
            assert!(
                answer.header("www-authenticate").is_some(),
                "{authorization:?}"
            );
        }
        if let Some(authorization) = &authorization {
            let handshake = upgrade("/v1/ws").header("Sec-WebSocket-Protocol", "tidings.v1");
            let handshake = handshake.header("Authorization", authorization);
            handshake.send(address).assert_problem(401, "unauthorized");
        }
    }
    let twice = Request::get(&format!(
        "/v1/topics/own/a?as=json&access_token={}",
        guarded.token
    ));
    send(&guarded, twice, Some(Kind::Token)).assert_problem(400, "bad-request");
    // What says nothing of messages is for everybody.
    assert_eq!(Request::get("/healthz").send(address).status, 200);
    let page = send(
        &guarded,
        Request::get("/v1/topics/own/%23?after=earliest&as=json"),
        Some(Kind::Key),
    );
    assert_eq!(page.json()["messages"], json!([]), "nothing was published");
}

#[test]
fn clients_that_set_no_headers_show_a_token_in_the_address() {
    let guarded = Guarded::start();
    let address = guarded.server.address();
    for secret in [&guarded.token, &guarded.key] {
        let target = format!("/v1/topics/own/s?as=sse&access_token={secret}");
        let mut stream = EventStream::open(address, &target);
        let mut socket =
            WebSocket::raw(address, &format!("/v1/topics/own/s?access_token={secret}"));
        socket.send("hello");
        assert_eq!(socket.text(), "hello");
        assert_eq!(stream.texts(1), ["hello"]);
    }
}

#[test]
fn curl_signs_in() {
    let guarded = Guarded::start();
    let url = guarded.server.url("/v1/topics/own/curl");
    let status = |arguments: &[&str]| {
        let written = [
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--data",
            "x",
            &url,
        ];
        stdout(curl(&written).args(arguments))
    };
    let (user, wrong) = (format!("ann:{PASSWORD}"), "ann:nothing");
    let key = format!("Authorization: Bearer {}", guarded.key);
    let token = format!("Authorization: Bearer {}", guarded.token);
    assert_eq!(status(&["--user", &user]), "201");
    assert_eq!(status(&["--header", &key]), "201");
    assert_eq!(status(&["--header", &token]), "201");
    assert_eq!(
        status(&["--http2-prior-knowledge", "--header", &token]),
        "201"
    );
    assert_eq!(status(&["--user", wrong]), "401");
    assert_eq!(status(&[]), "401");
}
