//! Chromium on the built-in page.

use std::io::Write;

use serde_json::{Value, json};
use tidings_e2e::http::{Request, get};
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::{Background, curl, stdout};
use tidings_e2e::{Options, Server};

#[track_caller]
fn open(server: &Server, fragment: &str) -> Peer {
    opened(&[&server.url(&format!("/#{fragment}"))])
}

#[track_caller]
fn opened(arguments: &[&str]) -> Peer {
    let mut browser = Peer::node("browser.mjs", arguments);
    assert_eq!(browser.line(), json!({"done": "Tidings"}));
    assert_eq!(browser.ask(&json!({"live": true})), json!({"done": true}));
    browser
}

/// Waits for so many messages in both panes, and compares both with the log: the same, once, in order.
#[track_caller]
fn check_panes(browser: &mut Peer, stored: &[Value]) {
    let received = browser.ask(&json!({"await": stored.len()}));
    let expect: Vec<Value> = stored
        .iter()
        .map(|message| json!([message["id"], message["data"]]))
        .collect();
    for pane in ["sse", "ws"] {
        let got: Vec<Value> = received[pane]
            .as_array()
            .expect("a list")
            .iter()
            .map(|message| json!([message["id"], message["data"]]))
            .collect();
        assert_eq!(got.len(), expect.len(), "how many came over {pane}");
        assert_eq!(got, expect, "what came over {pane}");
    }
    assert_eq!(received["problems"], json!([]));
    assert_eq!(received["loads"], 1, "the page was never reloaded");
}

#[test]
fn the_page_shows_what_curl_publishes_over_both_wires() {
    let server = Server::start(Options::default());
    server.publish("demo", "before the page");
    let mut browser = open(&server, "topic=demo&after=earliest");
    for text in ["one", "two", "three"] {
        stdout(&mut curl(&["-d", text, &server.url("/v1/topics/demo")]));
    }
    check_panes(&mut browser, &server.history("demo"));
}

#[test]
fn the_page_works_over_tls() {
    let server = Server::start(Options::default().tls(&Authority::new()));
    server.publish("demo", "before the page");
    let url = server.https_url("/#topic=demo&after=earliest");
    let mut browser = opened(&[&url, "any-certificate"]);
    server.publish("demo", "while it is open");
    check_panes(&mut browser, &server.history("demo"));
    let outcome = browser.ask(&json!({"publish": "from the page", "event": "note"}));
    assert!(
        outcome["done"].as_str().unwrap().starts_with("Stored as "),
        "{outcome}"
    );
    check_panes(&mut browser, &server.history("demo"));
}

#[test]
fn the_page_publishes_with_an_event_type_and_follows_a_wildcard() {
    let server = Server::start(Options::default());
    let mut browser = open(&server, "topic=demo&after=earliest");
    let outcome = browser.ask(&json!({"publish": "<b>bold</b> & \"quoted\"", "event": "note"}));
    assert!(
        outcome["done"].as_str().unwrap().starts_with("Stored as "),
        "{outcome}"
    );
    check_panes(&mut browser, &server.history("demo"));
    assert_eq!(server.history("demo")[0]["event"], "note");

    browser.ask(&json!({"evaluate": "void (location.hash = '#topic=a/%23&after=earliest')"}));
    browser.ask(&json!({"live": true}));
    server.publish("a/b", "deep");
    server.publish("a/c/d", "deeper");
    check_panes(&mut browser, &server.history("a/%23"));
}

#[test]
fn events_of_types_that_the_page_did_not_know_are_in_both_panes_too() {
    let server = Server::start(Options::default());
    let publish = |event: Option<&str>, text: &str| {
        let request = Request::post("/v1/topics/demo").body(text);
        let request = match event {
            Some(event) => request.header("Tidings-Event", event),
            None => request,
        };
        assert_eq!(request.send(server.address()).status, 201);
    };
    publish(Some("first"), "typed, at the very start");
    publish(None, "plain");
    publish(Some("second"), "typed, in the middle");
    publish(None, "plain again");
    let mut browser = open(&server, "topic=demo&after=earliest");
    publish(Some("third"), "typed, live");
    publish(None, "plain, live");
    check_panes(&mut browser, &server.history("demo"));
}

#[test]
fn the_page_is_served_under_a_strict_policy() {
    let server = Server::start(Options::default());
    for path in ["/", "/console.js", "/console.css", "/favicon.svg"] {
        let response = get(server.address(), path);
        assert_eq!(response.status, 200, "{path}");
        let policy = response.header("content-security-policy").expect(path);
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(
            response.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
    let tag = get(server.address(), "/console.js")
        .header("etag")
        .map(str::to_owned);
    if let Some(tag) = tag {
        let again = Request::get("/console.js")
            .header("If-None-Match", &tag)
            .send(server.address());
        assert_eq!(again.status, 304);
    }
}

#[test]
fn both_panes_have_every_message_once_and_in_order_through_restarts() {
    let mut server = Server::start(Options::default().set("server.shutdown_ms", 500));
    let mut browser = open(&server, "topic=demo&after=earliest");
    let url = server.url("");
    let mut publisher = Background::start(&mut tidings(&[
        "pub", "demo", "--lines", "--quiet", "--url", &url,
    ]));
    let mut input = publisher.stdin();
    for part in 0..5 {
        for n in 0..60 {
            writeln!(input, "{}", part * 60 + n).unwrap();
        }
        match part {
            0 | 2 => server.kill(),
            1 | 3 => {
                server.terminate();
                server.wait();
            }
            _ => break,
        }
        server = server.restart();
        browser.ask(&json!({"live": true}));
    }
    drop(input);
    assert!(publisher.child().wait().unwrap().success());
    let stored = server.history("demo");
    let texts: Vec<_> = stored
        .iter()
        .map(|message| message["data"].as_str().unwrap())
        .collect();
    let expect: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(
        texts, expect,
        "the publisher lost nothing and repeated nothing"
    );
    check_panes(&mut browser, &stored);
}
