//! A credential in a cookie, which browsers send by themselves, also when another site's page makes them.

use serde_json::json;
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::Connect;
use tidings_e2e::peer::Peer;
use tidings_e2e::sse::EventStream;
use tidings_e2e::websocket::{Frame, WebSocket, upgrade};

use super::{Guarded, Kind};

fn start(settings: &[(&str, &str)]) -> Guarded {
    let mut all = vec![("auth.cookie", "session")];
    all.extend(settings);
    Guarded::start_with(&all)
}

fn origin(guarded: &Guarded) -> String {
    format!("http://{}", guarded.server.address())
}

fn status(guarded: &Guarded, request: Request) -> (u16, String) {
    let response = request.send(guarded.server.address());
    let code = match response.status {
        200..300 => String::new(),
        _ => response.json()["code"].as_str().unwrap().to_owned(),
    };
    (response.status, code)
}

fn handshake(target: &str, protocol: &str, cookie: &str) -> Request {
    upgrade(target)
        .header("Sec-WebSocket-Protocol", protocol)
        .header("Cookie", cookie)
}

#[test]
fn a_cookie_signs_in_wherever_a_request_can_bring_one() {
    let guarded = start(&[]);
    let (address, own) = (guarded.server.address(), origin(&guarded));
    for secret in [&guarded.key, &guarded.token] {
        let cookie = format!("theme=dark; session={secret}");
        let write = || {
            Request::post("/v1/topics/own/a")
                .body("x")
                .header("Cookie", &cookie)
        };
        assert_eq!(status(&guarded, write().header("Origin", &own)).0, 201);
        assert_eq!(
            status(&guarded, write().header("Sec-Fetch-Site", "same-origin")).0,
            201
        );
        let read = Request::get("/v1/topics/own/a?as=json").header("Cookie", &cookie);
        let page = read.send(address);
        assert_eq!(page.status, 200);
        assert!(page.header("cache-control").unwrap().starts_with("private"));
        assert!(page.header("vary").unwrap().contains("Cookie"));
        let read = Request::get("/v1/topics/own/a?after=earliest").header("Cookie", &cookie);
        assert_eq!(EventStream::send(address, read).texts(1), ["x"]);
        // No topic more than granted.
        let other = Request::get("/v1/topics/other?as=json").header("Cookie", &cookie);
        assert_eq!(status(&guarded, other), (403, "forbidden".to_owned()));

        let open = |target: &str, protocol: &str| {
            let request = handshake(target, protocol, &cookie).header("Origin", &own);
            WebSocket::send_handshake(address, &request).unwrap()
        };
        let mut raw = open("/v1/topics/own/a?last=1", "tidings.raw");
        assert_eq!(raw.text(), "x");
        let mut socket = open("/v1/ws", "tidings.v1");
        socket.ask(&json!({"op":"subscribe","id":1,"topic":"own/a"}));
        assert_eq!(socket.json()["op"], "ok");
        let mut mqtt = open("/mqtt", "mqtt");
        mqtt.sender()
            .frame(0x82, &Connect::v5("a").packet())
            .unwrap();
        let Frame::Binary(connack) = mqtt.frame() else {
            panic!("no CONNACK");
        };
        assert_eq!((connack[0], connack[3]), (0x20, 0));
        let mut stomp = open("/stomp", "v12.stomp");
        stomp.send("CONNECT\naccept-version:1.2\nhost:x\n\n\0");
        assert!(stomp.text().starts_with("CONNECTED\n"));
    }
    guarded.assert_log_is_clean(&[]);
}

#[test]
fn other_sites_cannot_use_a_cookie() {
    // Everybody may open a WebSocket and read, but not in the name of a user.
    let guarded = start(&[("http.cors_origins", "*"), ("websocket.origins", "*")]);
    let cookie = format!("session={}", guarded.token);
    let refused = (403, "bad-origin".to_owned());
    let request =
        |method: &str| Request::new(method, "/v1/topics/own/a?as=json").header("Cookie", &cookie);
    for (method, headers) in [
        ("POST", &[][..]),
        ("PUT", &[]),
        ("POST", &[("Origin", "https://evil.example")]),
        ("POST", &[("Origin", "null")]),
        ("POST", &[("Sec-Fetch-Site", "same-site")]),
        ("GET", &[("Origin", "https://evil.example")]),
        ("GET", &[("Sec-Fetch-Site", "cross-site")]),
        ("GET", &[("Sec-Fetch-Site", "same-site")]),
    ] {
        let mut request = request(method);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        assert_eq!(status(&guarded, request), refused, "{method} {headers:?}");
    }
    for target in ["/v1/topics/own/a", "/v1/ws", "/mqtt", "/stomp"] {
        for origin in [None, Some("https://evil.example"), Some("null")] {
            let mut request = handshake(target, "tidings.v1, mqtt", &cookie);
            if let Some(origin) = origin {
                request = request.header("Origin", origin);
            }
            assert_eq!(status(&guarded, request), refused, "{target} {origin:?}");
        }
    }
    let read = request("GET").send(guarded.server.address());
    assert_eq!(read.json()["messages"], json!([]), "nothing was written");
    let counted = guarded
        .server
        .metric("tidings_refusals_total", "bad-origin");
    assert!(counted >= 20.0, "{counted}");
}

#[test]
fn behind_a_proxy_with_tls_only_pages_over_tls_are_its_own() {
    let guarded = start(&[("proxy.trusted", "127.0.0.1")]);
    let host = guarded.server.address();
    let write = |scheme: &str, forwarded: &str| {
        let request = Request::post("/v1/topics/own/a")
            .body("x")
            .header("Cookie", &format!("session={}", guarded.token))
            .header("X-Forwarded-For", "203.0.113.1")
            .header("X-Forwarded-Proto", forwarded)
            .header("Origin", &format!("{scheme}://{host}"));
        status(&guarded, request).0
    };
    assert_eq!(write("https", "https"), 201);
    assert_eq!(write("http", "https"), 403);
    // What stands further left the client wrote.
    assert_eq!(write("http", "https, http"), 201);
}

#[test]
fn origins_that_are_listed_by_themselves_may_use_it() {
    let guarded = start(&[
        ("http.cors_origins", "https://app.example,https://*.example"),
        ("websocket.origins", "https://app.example,https://*.example"),
    ]);
    let cookie = format!("session={}", guarded.token);
    for (page, expect) in [("https://app.example", true), ("https://x.example", false)] {
        let write = Request::post("/v1/topics/own/a")
            .body("x")
            .header("Cookie", &cookie)
            .header("Origin", page)
            .header("Sec-Fetch-Site", "cross-site")
            .send(guarded.server.address());
        let shown = write.header("access-control-allow-credentials");
        assert_eq!(
            (write.status == 201, shown.is_some()),
            (expect, expect),
            "{page}"
        );
        let request = handshake("/v1/ws", "tidings.v1", &cookie).header("Origin", page);
        let opened = WebSocket::send_handshake(guarded.server.address(), &request);
        assert_eq!(opened.is_ok(), expect, "{page}");
    }
}

#[test]
fn what_is_shown_otherwise_counts_in_place_of_a_cookie() {
    let guarded = start(&[]);
    let read = |cookies: &[&str], authorization: Option<&str>| {
        let mut request = Request::get("/v1/topics/own/a?as=json");
        for cookie in cookies {
            request = request.header("Cookie", cookie);
        }
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        status(&guarded, request).0
    };
    let good = format!("session={}", guarded.token);
    let bearer = guarded.authorization(Kind::Key);
    assert_eq!(read(&["session=wrong"], None), 401);
    assert_eq!(read(&["session="], None), 401);
    assert_eq!(read(&["Session=x"], None), 401, "another name");
    assert_eq!(read(&[&good, &good], None), 400);
    assert_eq!(read(&[&format!("{good}; {good}")], None), 400);
    assert_eq!(read(&[&good], None), 200);
    assert_eq!(read(&["session=wrong"], Some(&bearer)), 200);
    assert_eq!(read(&[&good], Some("Bearer wrong")), 401);
    let plain = Guarded::start();
    let request = Request::get("/v1/topics/own/a?as=json");
    let cookie = format!("session={}", plain.token);
    assert_eq!(
        status(&plain, request.header("Cookie", &cookie)).0,
        401,
        "it is off"
    );
    let unnamed = tidings_e2e::server::tidings(&["check", "--set", "auth.cookie=a b"]).output();
    let unnamed = String::from_utf8(unnamed.unwrap().stderr).unwrap();
    assert!(unnamed.contains("auth.cookie"), "{unnamed}");
}

#[test]
fn chromium_lets_its_own_pages_use_the_cookie_and_no_others() {
    let guarded = start(&[("http.cors_origins", "*"), ("websocket.origins", "*")]);
    let own = origin(&guarded);
    let mut browser = Peer::node("browser_page.mjs", &[]);
    browser.ask(&json!({"goto": format!("{own}/healthz")}));
    browser.ask(&json!({"cookie": format!("session={}; path=/", guarded.token)}));
    let found = browser.ask(&json!({"probe": own}))["done"].clone();
    let expect = json!({
        "read": 200, "write": 201, "blind": 201, "stream": "open",
        "raw": "open", "tidings": "open", "mqtt": "open", "stomp": "open",
    });
    assert_eq!(found, expect);
    // Cookies know no ports: this page's requests have it too.
    let host = guarded.server.address().ip().to_string();
    browser.ask(&json!({"other": host}));
    let found = browser.ask(&json!({"probe": own}))["done"].clone();
    let expect = json!({
        "read": "error", "write": "error", "blind": "error", "stream": "error",
        "raw": "error", "tidings": "error", "mqtt": "error", "stomp": "error",
    });
    assert_eq!(found, expect);
    let read = Request::get("/v1/topics/own/a?as=json");
    let read = read.header("Authorization", &guarded.authorization(Kind::Token));
    let messages = read.send(guarded.server.address()).json()["messages"].clone();
    assert_eq!(
        messages.as_array().unwrap().len(),
        2,
        "none of the other page's"
    );
    guarded.assert_log_is_clean(&[]);
}
