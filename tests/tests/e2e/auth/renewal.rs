//! Renewing a credential in place, and being told in time.

use std::io::{BufRead, BufReader};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidings_e2e::http::{Request, Response};
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::Client as Stomp;
use tidings_e2e::tools::Background;
use tidings_e2e::websocket::WebSocket;

use super::{Guarded, mint};

/// Peers are told.
fn start() -> Guarded {
    Guarded::start_with(&[
        ("auth.expiry_notice_ms", "60000"),
        ("auth.cookie", "session"),
    ])
}

/// Waits until a credential has ended that was made before this is called.
#[track_caller]
fn pass(guarded: &Guarded, span: &str) {
    let login = [("passcode", &*guarded.short(span))];
    let (mut waiting, _) = Stomp::try_open(guarded.server.stomp(), "1.2", &login).unwrap();
    assert_eq!(waiting.error().expect("tidings-code"), "unauthorized");
}

fn publish(guarded: &Guarded, text: &str) {
    let request = Request::post("/v1/topics/own/a").body(text);
    let request = request.header("Authorization", &guarded.authorization(super::Kind::Key));
    assert_eq!(request.send(guarded.server.address()).status, 201);
}

#[test]
fn mqtt_js_renews_by_auth() {
    let guarded = start();
    let other = mint(&guarded.path("secret"), "eve", "1h");
    for method in ["BEARER", "OAUTH2-JWT", "OAUTHBEARER", "PLAIN"] {
        let shown = |token: &str| match method {
            "OAUTHBEARER" => format!("n,,\x01auth=Bearer {token}\x01\x01"),
            "PLAIN" => format!("\0whoever\0{token}"),
            _ => token.to_owned(),
        };
        let mut peer = Peer::node("mqtt.mjs", &[]);
        let url = format!("mqtt://{}", guarded.server.mqtt());
        let token = shown(&guarded.short("3s"));
        let connect =
            json!({"url": url, "version": 5, "id": method, "method": method, "token": token});
        let line = peer.ask(&json!({"connect": connect}));
        let left: u64 = line["connected"]["user"]["tidings-expires"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(left <= 3, "{line}");
        assert_eq!(
            peer.ask(&json!({"subscribe": "own/a"})),
            json!({"subscribed": [0]})
        );
        let line = peer.ask(&json!({"auth": shown(&guarded.token)}));
        assert_eq!(line["auth"], 0, "{method} {line}");
        let left: u64 = line["user"]["tidings-expires"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(left > 3_000, "{line}");
        pass(&guarded, "3s");
        publish(&guarded, method);
        let line = peer.line();
        assert_eq!(line["message"]["base64"], STANDARD.encode(method), "{line}");
        // Somebody else's, or a wrong one, is the end.
        peer.tell(&json!({"auth": shown(if method == "BEARER" { &other } else { "wrong" })}));
        assert_eq!(peer.line(), json!({"told": 0x87}));
    }
    guarded.assert_log_is_clean(&[&other]);
}

#[test]
fn mqtt_js_is_refused_with_the_right_reason() {
    let guarded = start();
    let url = format!("mqtt://{}", guarded.server.mqtt());
    for (method, token, text) in [
        ("BEARER", "wrong", "Not authorized"),
        ("SCRAM-SHA-256", "n,,n=a,r=b", "Bad authentication method"),
    ] {
        let mut peer = Peer::node("mqtt.mjs", &[]);
        let connect =
            json!({"url": url, "version": 5, "id": "a", "method": method, "token": token});
        let line = peer.ask(&json!({"connect": connect}));
        assert!(
            line["error"]
                .as_str()
                .is_some_and(|error| error.contains(text)),
            "{line}"
        );
    }
}

#[test]
fn stompjs_renews_by_a_send() {
    let guarded = start();
    let connect = |token: &str| {
        let mut peer = Peer::node("stomp.mjs", &[]);
        let url = guarded.server.ws_url("/stomp");
        let connect = json!({"url": url, "versions": ["1.2"], "user": "", "password": token});
        let line = peer.ask(&json!({"connect": connect}));
        assert_eq!(line["connected"]["version"], "1.2", "{line}");
        assert!(
            line["connected"]["headers"]["tidings-expires"].is_string(),
            "{line}"
        );
        peer
    };
    for by_header in [true, false] {
        let mut peer = connect(&guarded.short("3s"));
        let subscribe = json!({"subscribe": "/topic/own/a", "id": "0"});
        assert_eq!(peer.ask(&subscribe), json!({"done": "subscribe"}));
        let renewal = if by_header {
            json!({"publish": "/auth", "base64": "", "headers": {"passcode": guarded.token}})
        } else {
            json!({"publish": "/auth", "base64": STANDARD.encode(&guarded.token)})
        };
        assert_eq!(peer.ask(&renewal), json!({"done": "publish"}));
        pass(&guarded, "3s");
        publish(&guarded, "later");
        assert_eq!(peer.line()["message"]["base64"], STANDARD.encode("later"));
    }
    let mut peer = connect(&guarded.token);
    let wrong = json!({"publish": "/auth", "base64": STANDARD.encode("wrong")});
    let line = peer.ask(&wrong);
    assert_eq!(
        line["error"]["headers"]["tidings-code"], "unauthorized",
        "{line}"
    );
    let topics = Request::get("/v1/topics/own/%23?as=json&after=earliest");
    let topics = topics.header("Authorization", &guarded.authorization(super::Kind::Key));
    let stored = topics.send(guarded.server.address()).json()["messages"].clone();
    assert_eq!(
        stored.as_array().unwrap().len(),
        2,
        "a credential is no message: {stored}"
    );
    guarded.assert_log_is_clean(&[]);
}

fn renew(guarded: &Guarded, path: &str, token: &str) -> Response {
    let request = Request::post(path).header("Authorization", &format!("Bearer {token}"));
    request.send(guarded.server.address())
}

/// The stream's first lines say where it is renewed.
#[track_caller]
fn renewal_path(stream: &mut EventStream) -> String {
    let comment = stream.block().unwrap().comment.unwrap();
    comment
        .strip_prefix("renew ")
        .expect("the last comment line")
        .to_owned()
}

#[test]
fn an_event_stream_is_renewed_by_a_request_beside_it() {
    let guarded = start();
    let open = |token: &str| {
        let request = Request::get("/v1/topics/own/a?as=sse");
        let request = request.header("Authorization", &format!("Bearer {token}"));
        EventStream::send(guarded.server.address(), request)
    };
    let mut stream = open(&guarded.short("4s"));
    let path = renewal_path(&mut stream);
    let told = stream.event();
    assert_eq!((told.name.as_str(), &told.id), ("expiring", &None));
    let left = told.json()["expires_in_ms"].as_u64().unwrap();
    assert!((1_500..=2_000).contains(&left), "{left}");
    assert_eq!(told.json()["renew"], *path);
    let eve = mint(&guarded.path("secret"), "eve", "1h");
    assert_eq!(renew(&guarded, &path, &eve).status, 401);
    assert_eq!(renew(&guarded, &path, "wrong").status, 401);
    assert_eq!(
        Request::post(&path).send(guarded.server.address()).status,
        401
    );
    let bad = "/v1/streams/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/auth";
    assert_eq!(renew(&guarded, bad, &guarded.token).status, 404);
    assert_eq!(
        renew(&guarded, "/v1/streams/x/auth", &guarded.token).status,
        404
    );
    // Connections take turns on the shards: some of these are the stream's, some are not.
    for _ in 0..4 {
        let renewed = renew(&guarded, &path, &guarded.token);
        assert_eq!(renewed.status, 200, "{}", renewed.text());
        assert!(renewed.json()["expires"].as_u64().unwrap() > 1_700_000_000_000);
    }
    pass(&guarded, "4s");
    publish(&guarded, "later");
    assert_eq!(stream.event().data.as_deref(), Some("later"));
    // One that is renewed with a short one ends with that, and is gone then.
    let mut stream = open(&guarded.short("30s"));
    let path = renewal_path(&mut stream);
    assert_eq!(renew(&guarded, &path, &guarded.short("2s")).status, 200);
    assert_eq!(stream.event().name, "expiring");
    assert_eq!(stream.event().name, "drain");
    while stream.block().is_ok() {}
    assert_eq!(renew(&guarded, &path, &guarded.token).status, 404);
    guarded.assert_log_is_clean(&[&eve]);
}

#[test]
fn an_event_stream_without_an_end_is_told_nothing() {
    let guarded = start();
    let request = Request::get("/v1/topics/own/a?as=sse");
    let request = request.header("Authorization", &guarded.authorization(super::Kind::Key));
    let mut stream = EventStream::send(guarded.server.address(), request);
    assert_eq!(stream.block().unwrap().comment.as_deref(), Some("tidings"));
}

#[test]
fn chromium_renews_its_event_source() {
    let guarded = start();
    let own = format!("http://{}", guarded.server.address());
    let mut browser = Peer::node("browser_page.mjs", &[]);
    browser.ask(&json!({"goto": format!("{own}/healthz")}));
    browser.ask(&json!({"cookie": format!("session={}; path=/", guarded.short("6s"))}));
    let renewed = browser.ask(&json!({"renew": own, "token": guarded.token}))["done"].clone();
    assert_eq!(renewed["status"], 200, "{renewed}");
    assert!(renewed["answer"]["expires"].is_u64(), "{renewed}");
    pass(&guarded, "4s");
    publish(&guarded, "still here");
    assert_eq!(
        browser.ask(&json!({"texts": 1})),
        json!({"done": ["still here"]})
    );
}

#[test]
fn a_tidings_peer_is_told_before_its_end_and_again_after_a_renewal() {
    let guarded = start();
    let mut socket = WebSocket::tidings(guarded.server.address());
    for span in ["2s", "2s"] {
        socket.ask(&json!({"op":"auth","id":1,"token":guarded.short(span)}));
        let answer = socket.json();
        assert!(answer["expires"].is_u64(), "{answer}");
        let told: Value = socket.json();
        assert_eq!(told["op"], "expiring", "{told}");
        assert!(told["expires_in_ms"].as_u64().unwrap() <= 1_000, "{told}");
    }
    assert_eq!(socket.json()["op"], "drain");
}

#[test]
fn tidings_sub_takes_the_next_token_from_its_file() {
    let guarded = start();
    let file = guarded.path("token");
    let put = |span: &str| std::fs::write(&file, guarded.short(span) + "\n").unwrap();
    put("4s");
    publish(&guarded, "first");
    let url = guarded.server.url("");
    let arguments = [
        "sub", "own/a", "--after", "earliest", "--count", "2", "--url", &url,
    ];
    let mut command = tidings(&arguments);
    let mut subscriber = Background::start(command.arg("--token-file").arg(&file));
    let output = subscriber.child().stdout.take().unwrap();
    let mut lines = BufReader::new(output).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    put("1h");
    pass(&guarded, "4s");
    publish(&guarded, "later");
    assert_eq!(lines.next().unwrap().unwrap(), "later");
    let opened = guarded
        .server
        .metric("tidings_connections_total", "tidings.v1");
    assert!(opened < 1.5, "it is the same connection: {opened}");
    std::fs::write(&file, "two\nlines\n").unwrap();
    let refused = tidings(&arguments)
        .arg("--token-file")
        .arg(&file)
        .output()
        .unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        told.contains("cannot read the token in") && !told.contains("lines"),
        "{told}"
    );
}
