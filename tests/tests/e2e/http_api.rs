//! The HTTP interface: publish, batches, history, long-poll, topics, caching, compression, CORS, HTTP/2.

use std::time::Duration;

use serde_json::{Value, json};
use tidings_e2e::http::{Request, Response, get, post};
use tidings_e2e::tools::{curl, stdout};
use tidings_e2e::{Options, Server, eventually, spawn};

fn texts(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().expect("a page has messages");
    messages
        .iter()
        .map(|message| message["data"].as_str().expect("text"))
        .collect()
}

#[test]
fn a_publish_is_answered_with_its_place() {
    let server = Server::start(Options::default());
    let response = post(server.address(), "/v1/topics/chat/lobby%20one", b"hi");
    assert_eq!(response.status, 201);
    let receipt = response.json();
    assert_eq!(receipt["topic"], "chat/lobby one");
    assert!(receipt["time"].as_u64().unwrap() > 1_600_000_000_000);
    let page = server.page("chat/lobby%20one", "after=earliest").json();
    assert_eq!(page["messages"][0]["id"], receipt["id"]);
    assert_eq!(page["messages"][0]["time"], receipt["time"]);
    assert_eq!(page["messages"][0]["data"], "hi");
}

#[test]
fn properties_of_a_publish_travel_with_the_message() {
    let server = Server::start(Options::default());
    let response = Request::post("/v1/topics/orders")
        .header("Content-Type", "application/json")
        .header("Tidings-Event", "created")
        .header("Tidings-Header-Tenant", "acme")
        .body(r#"{"order":7}"#)
        .send(server.address());
    assert_eq!(response.status, 201, "{}", response.text());
    let page = server.page("orders", "after=earliest").json();
    let message = &page["messages"][0];
    assert_eq!(message["data"], json!({"order": 7}));
    assert_eq!(message["event"], "created");
    assert_eq!(message["content_type"], "application/json");
    let headers = message["headers"].as_object().unwrap();
    let tenant = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("tenant"));
    assert_eq!(tenant.unwrap().1, "acme");
}

#[test]
fn bytes_that_are_no_text_come_back_as_they_were() {
    let server = Server::start(Options::default());
    Request::post("/v1/topics/bytes")
        .header("Content-Type", "application/octet-stream")
        .body([0xff, 0x00, 0xfe])
        .send(server.address());
    let page = server.page("bytes", "after=earliest").json();
    assert_eq!(page["messages"][0]["base64"], "/wD+");
    assert_eq!(page["messages"][0].get("data"), None);
}

#[test]
fn a_batch_is_stored_whole_and_in_order() {
    let server = Server::start(Options::default());
    let array = json!([
        {"topic": "a", "data": "1"}, {"topic": "b", "data": "2"}, {"topic": "a", "base64": "Mw=="},
    ]);
    let response = Request::post("/v1/publish")
        .header("Content-Type", "application/json")
        .body(array.to_string())
        .send(server.address());
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
    let lines = "{\"topic\":\"a\",\"data\":\"4\"}\n{\"topic\":\"b\",\"data\":\"5\"}\n";
    let response = Request::post("/v1/publish")
        .header("Content-Type", "application/x-ndjson")
        .body(lines)
        .send(server.address());
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
    let all = server.history("%23");
    let topics: Vec<_> = all
        .iter()
        .map(|message| message["topic"].as_str().unwrap())
        .collect();
    assert_eq!(topics, ["a", "b", "a", "a", "b"]);
}

#[test]
fn a_batch_with_one_wrong_message_stores_nothing() {
    let server = Server::start(Options::default());
    let array = json!([{"topic": "a", "data": "1"}, {"topic": "a/#", "data": "2"}]);
    let response = Request::post("/v1/publish")
        .header("Content-Type", "application/json")
        .body(array.to_string())
        .send(server.address());
    response.assert_problem(400, "bad-topic");
    assert_eq!(server.history("%23"), Vec::<Value>::new());
}

#[test]
fn history_pages_lead_from_one_to_the_next() {
    let server = Server::start(Options::default());
    let expect: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    server.publish_batch("pages", &expect);
    let mut found = Vec::new();
    let mut after = "earliest".to_owned();
    for size in [10, 10, 5, 0] {
        let page = server
            .page("pages", &format!("limit=10&after={after}"))
            .json();
        assert_eq!(texts(&page).len(), size);
        found.extend(texts(&page).into_iter().map(str::to_owned));
        page["next"].as_str().unwrap().clone_into(&mut after);
    }
    assert_eq!(found, expect);
    let newest = server.page("pages", "last=3").json();
    assert_eq!(texts(&newest), ["22", "23", "24"]);
}

#[test]
fn one_key_is_one_message_also_after_a_crash() {
    let mut server = Server::start(Options::default());
    let publish = |server: &Server| -> Response {
        Request::post("/v1/topics/keys")
            .header("Idempotency-Key", "order-7")
            .body("once")
            .send(server.address())
    };
    let first = publish(&server);
    assert_eq!(first.status, 201);
    let again = publish(&server);
    assert!(matches!(again.status, 200 | 201));
    assert_eq!(first.json()["id"], again.json()["id"]);
    server.kill();
    let server = server.restart();
    assert_eq!(publish(&server).json()["id"], first.json()["id"]);
    assert_eq!(server.history("keys").len(), 1);
}

#[test]
fn a_long_poll_waits_for_the_next_message() {
    let server = Server::start(Options::default());
    let cursor = server.publish("poll", "before");
    let address = server.address();
    let poll = spawn(move || {
        Request::get(&format!("/v1/topics/poll?after={cursor}&wait=20s"))
            .header("Accept", "application/json")
            .send(address)
    });
    eventually("the poll waits", Duration::from_secs(10), || {
        server.metric("tidings_subscriptions", "") >= 1.0
    });
    server.publish("poll", "at last");
    let response = poll.join().unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(texts(&response.json()), ["at last"]);
}

#[test]
fn a_long_poll_that_saw_nothing_gives_the_same_place() {
    let server = Server::start(Options::default());
    let cursor = server.publish("poll", "before");
    let response = Request::get(&format!("/v1/topics/poll?after={cursor}&wait=300ms"))
        .header("Accept", "application/json")
        .send(server.address());
    match response.status {
        204 => {}
        200 => {
            let page = response.json();
            assert!(texts(&page).is_empty());
            let next = page["next"].as_str().unwrap().to_owned();
            server.publish("poll", "after");
            assert_eq!(
                texts(&server.page("poll", &format!("after={next}")).json()),
                ["after"]
            );
        }
        other => panic!("{other}: {}", response.text()),
    }
}

#[test]
fn topics_are_listed() {
    let server = Server::start(Options::default());
    for topic in ["b", "a/1", "a/2"] {
        server.publish(topic, "x");
    }
    let response = get(server.address(), "/v1/topics");
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    for topic in ["\"b\"", "\"a/1\"", "\"a/2\""] {
        assert!(text.contains(topic), "{topic} is not in {text}");
    }
}

#[test]
fn a_page_that_cannot_change_is_immutable_and_any_page_revalidates() {
    let server = Server::start(Options::default());
    let expect: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    server.publish_batch("cached", &expect);
    let first = server.history("cached")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let full = server.page("cached", &format!("after={first}&limit=2"));
    let control = full.header("cache-control").unwrap();
    assert!(control.contains("immutable"), "{control}");
    for query in [
        format!("after={first}&limit=2"),
        format!("after={first}&limit=100"),
    ] {
        let page = server.page("cached", &query);
        let tag = page
            .header("etag")
            .expect("every page has a tag")
            .to_owned();
        let again = Request::get(&format!("/v1/topics/cached?{query}"))
            .header("Accept", "application/json")
            .header("If-None-Match", &tag)
            .send(server.address());
        assert_eq!(again.status, 304, "{query}");
        assert!(again.body.is_empty());
    }
    let open = server.page("cached", &format!("after={first}&limit=100"));
    assert!(
        !open
            .header("cache-control")
            .unwrap_or("")
            .contains("immutable")
    );
}

#[test]
fn answers_are_compressed_for_those_who_ask() {
    let server = Server::start(Options::default());
    let text = "the same words again and again ".repeat(200);
    server.publish("long", &text);
    let url = server.url("/v1/topics/long?after=earliest");
    for coding in ["gzip", "br", "zstd"] {
        let headers = stdout(&mut curl(&[
            "-o",
            "/dev/null",
            "-D",
            "-",
            "-H",
            &format!("Accept-Encoding: {coding}"),
            "-H",
            "Accept: application/json",
            &url,
        ]));
        let expect = format!("content-encoding: {coding}");
        assert!(headers.to_lowercase().contains(&expect), "{headers}");
        // curl takes off the coding by itself, or fails.
        let body = stdout(&mut curl(&[
            "--compressed",
            "-H",
            "Accept: application/json",
            &url,
        ]));
        assert!(body.contains(&text));
    }
}

#[test]
fn pages_of_listed_origins_may_call_and_others_may_not() {
    let server = Server::start(
        Options::default()
            .argument("--cors-origin")
            .argument("https://app.example"),
    );
    let preflight = |origin: &str| {
        Request::new("OPTIONS", "/v1/topics/demo")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header(
                "Access-Control-Request-Headers",
                "content-type, idempotency-key",
            )
            .send(server.address())
    };
    let allowed = preflight("https://app.example");
    assert!(matches!(allowed.status, 200 | 204), "{}", allowed.text());
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let headers = allowed
        .header("access-control-allow-headers")
        .unwrap()
        .to_lowercase();
    assert!(headers.contains("idempotency-key"), "{headers}");
    assert_eq!(
        preflight("https://evil.example").header("access-control-allow-origin"),
        None
    );
    let simple = Request::get("/v1/topics/demo?after=earliest")
        .header("Accept", "application/json")
        .header("Origin", "https://app.example")
        .send(server.address());
    assert_eq!(
        simple.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let varies = |(name, value): &(String, String)| {
        name == "vary" && value.to_lowercase().contains("origin")
    };
    assert!(simple.headers.iter().any(varies), "{:?}", simple.headers);
}

#[test]
fn http2_without_tls_serves_the_same() {
    let server = Server::start(Options::default());
    let url = server.url("/v1/topics/two");
    let answer = stdout(&mut curl(&[
        "--http2-prior-knowledge",
        "-d",
        "over h2",
        "-w",
        "\n%{http_version} %{http_code}",
        &url,
    ]));
    assert!(answer.ends_with("\n2 201"), "{answer}");
    let page = stdout(&mut curl(&[
        "--http2-prior-knowledge",
        "-H",
        "Accept: application/json",
        &format!("{url}?after=earliest"),
    ]));
    assert_eq!(texts(&serde_json::from_str(&page).unwrap()), ["over h2"]);
}

#[test]
fn the_server_says_how_it_is() {
    let server = Server::start(Options::default());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(server.address(), path).status, 200, "{path}");
    }
    let metrics = get(server.address(), "/metrics");
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    server.publish("demo", "x");
    assert!((server.metric("tidings_log_messages_total", "") - 1.0).abs() < 0.1);
    let openapi = get(server.address(), "/openapi.json").json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3."));
    assert!(openapi["paths"]["/v1/publish"].is_object());
}

#[test]
fn a_connection_carries_one_request_after_another() {
    let server = Server::start(Options::default());
    let url = server.url("/v1/topics/keep");
    let page = format!("{url}?after=earliest");
    let count = stdout(&mut curl(&[
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} ",
        "-H",
        "Accept: application/json",
        &page,
        &page,
        &page,
    ]));
    assert_eq!(count, "1 0 0 ");
}
