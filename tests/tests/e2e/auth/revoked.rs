//! What is revoked ends, at run time and by a reload, and stays out.

use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::{Value, json};
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{Client as Mqtt, Connect};
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::Client as Stomp;
use tidings_e2e::tools::{curl, stdout};
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{PATIENCE, Server, eventually, spawn};

use super::{Guarded, KINDS, Kind, PASSWORD, mint, set_password};

const REVOCATIONS: &str = "/v1/admin/revocations";

fn admin_url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.admin())
}

/// As an operator does it.
#[track_caller]
fn revoke(server: &Server, what: &Value) -> Value {
    let url = admin_url(server, REVOCATIONS);
    let answer = stdout(&mut curl(&[
        "--fail-with-body",
        "-d",
        &what.to_string(),
        &url,
    ]));
    serde_json::from_str(&answer).unwrap()
}

#[track_caller]
fn lift(server: &Server, revocation: &Value) {
    let url = admin_url(server, &format!("{REVOCATIONS}/{}", revocation["id"]));
    stdout(&mut curl(&["--fail-with-body", "-X", "DELETE", &url]));
}

fn status(server: &Server, authorization: &str) -> u16 {
    let request = Request::post("/v1/topics/own/a").body("x");
    let request = request.header("Authorization", authorization);
    request.send(server.address()).status
}

/// The id in a key.
fn key_id(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Connections of one credential on every protocol.
struct Open {
    stream: EventStream,
    raw: WebSocket,
    tidings: WebSocket,
    mqtt: [Mqtt; 2],
    stomp: Stomp,
}

impl Open {
    /// With something that is shown as a token.
    fn with(server: &Server, token: &str) -> Self {
        let address = server.address();
        let query = format!("access_token={token}");
        let target = format!("/v1/ws?{query}");
        // The session of a name is its user's.
        let number = SERIAL.fetch_add(1, Relaxed);
        let (new, old) = (format!("new-{number}"), format!("old-{number}"));
        let [new, old] = [Connect::v5(&new), Connect::v3(&old)]
            .map(|connect| Mqtt::open(server.mqtt(), &connect.login("", token)).0);
        let login = [("passcode", token)];
        Self {
            stream: EventStream::open(address, &format!("/v1/topics/own/a?as=sse&{query}")),
            raw: WebSocket::raw(address, &format!("/v1/topics/own/a?{query}")),
            tidings: WebSocket::try_open(address, &target, Some("tidings.v1")).unwrap(),
            mqtt: [new, old],
            stomp: Stomp::try_open(server.stomp(), "1.2", &login).unwrap().0,
        }
    }

    const COUNT: u64 = 6;

    /// Each is told why it ends, in its protocol's words.
    #[track_caller]
    fn all_end(mut self) {
        assert_eq!(self.stomp.error().expect("tidings-code"), "unauthorized");
        let [new, old] = &mut self.mqtt;
        assert_eq!(new.until_closed(), Some(0x87));
        assert_eq!(old.until_closed(), None);
        assert_eq!(self.tidings.json()["op"], "drain");
        let (code, reason) = self.tidings.close_frame();
        assert_eq!(code, 1008);
        assert!(reason.starts_with("the credential was revoked"), "{reason}");
        let (code, reason) = self.raw.close_frame();
        assert_eq!(code, 1008);
        assert!(reason.starts_with("the credential was revoked"), "{reason}");
        while self.stream.block().is_ok() {}
    }

    /// None has ended.
    #[track_caller]
    fn all_go_on(&mut self, server: &Server, authorization: &str) {
        self.mqtt.iter_mut().for_each(Mqtt::ping);
        self.tidings
            .ask(&json!({"op":"publish","id":1,"topic":"own/b","data":"x"}));
        assert_eq!(self.tidings.json()["op"], "ok");
        assert_eq!(status(server, authorization), 201);
        assert_eq!(self.stream.texts(1), ["x"]);
        assert_eq!(self.raw.text(), "x");
    }
}

/// A server with two shards, and another user beside `ann`.
fn two_users() -> (Guarded, String) {
    let guarded = Guarded::start_with(&[("server.shards", "2")]);
    let secret = guarded.path("secret");
    let arguments = [
        "token",
        "mint",
        "eve",
        "--secret-file",
        secret.to_str().unwrap(),
        "--publish",
        "#",
        "--subscribe",
        "#",
    ];
    let eve = stdout(&mut tidings(&arguments)).trim().to_owned();
    (guarded, eve)
}

#[test]
fn a_revoked_subject_is_out_at_once_on_every_protocol_also_after_a_crash() {
    let (guarded, eve) = two_users();
    let server = &guarded.server;
    let eves = format!("Bearer {eve}");
    let mut other = Open::with(server, &eve);
    let (of_key, of_token) = (
        Open::with(server, &guarded.key),
        Open::with(server, &guarded.token),
    );
    let revocation = revoke(server, &json!({"subject": "ann", "reason": "left"}));
    let ended = revocation["connections_ended"].as_u64().unwrap();
    assert_eq!(ended, 2 * Open::COUNT, "{revocation}");
    of_key.all_end();
    of_token.all_end();
    other.all_go_on(server, &eves);
    for kind in KINDS {
        assert_eq!(
            status(server, &guarded.authorization(kind)),
            401,
            "{kind:?}"
        );
    }
    let out = server.metric("tidings_logins_total", "outcome=\"revoked\"");
    assert!((out - 3.0).abs() < 0.5, "{out}");
    let counted = server.metric("tidings_revoked_connections_total", "");
    assert!((counted - ended as f64).abs() < 0.5, "{counted}");
    let mut guarded = guarded;
    guarded.server.kill();
    guarded.server = guarded.server.restart();
    let server = &guarded.server;
    for kind in KINDS {
        assert_eq!(
            status(server, &guarded.authorization(kind)),
            401,
            "{kind:?}"
        );
    }
    assert_eq!(status(server, &eves), 201);
    lift(server, &revocation);
    for kind in KINDS {
        assert_eq!(
            status(server, &guarded.authorization(kind)),
            201,
            "{kind:?}"
        );
    }
    let listed = Request::get(REVOCATIONS).send(server.admin()).json();
    assert_eq!(listed, json!({"revocations": []}));
}

#[test]
fn a_request_that_waits_ends_when_its_credential_is_revoked() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let address = server.address();
    let target = format!(
        "/v1/topics/own/a?as=json&wait=50s&access_token={}",
        guarded.token
    );
    let (sender, answered) = std::sync::mpsc::channel();
    spawn(move || {
        sender
            .send(Request::get(&target).send(address))
            .unwrap_or_default();
    });
    let waits = || server.metric("tidings_subscriptions", "") > 0.5;
    eventually("it waits", PATIENCE, waits);
    revoke(server, &json!({"subject": "ann"}));
    let answer = answered.recv_timeout(PATIENCE).unwrap();
    assert!(!answer.text().contains("\"data\""), "{}", answer.text());
}

#[test]
fn what_is_still_being_sent_when_its_credential_is_revoked_is_not_published() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let mut socket = tidings_e2e::http::connect(server.address()).unwrap();
    let head = format!(
        "POST /v1/topics/own/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\n\r\n",
        guarded.token
    );
    socket.write_all(head.as_bytes()).unwrap();
    let accepted = r#"protocol="http",outcome="accepted""#;
    let is_in = || server.metric("tidings_logins_total", accepted) > 0.5;
    eventually("its head was judged", PATIENCE, is_in);
    revoke(server, &json!({"subject": "ann"}));
    socket.write_all(b"xy").unwrap();
    let answer = tidings_e2e::http::Opened::read(socket).unwrap();
    let answer = answer.finish().unwrap();
    answer.assert_problem(401, "unauthorized");
}

#[test]
fn one_credential_is_revoked_and_the_others_of_its_user_are_not() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let inspected = stdout(&mut tidings(&["token", "inspect", &guarded.token]));
    let claims: Value = serde_json::from_str(inspected.lines().nth(1).unwrap()).unwrap();
    let jti = claims["jti"].as_str().unwrap();
    for (credential, kind, other) in [
        (key_id(&guarded.key), Kind::Key, Kind::Token),
        (jti, Kind::Token, Kind::Key),
    ] {
        let text = |kind| match kind {
            Kind::Key => guarded.key.as_str(),
            _ => guarded.token.as_str(),
        };
        let (out, mut stays) = (
            Open::with(server, text(kind)),
            Mqtt::open(server.mqtt(), &Connect::v5("stays").login("", text(other))),
        );
        let revocation = revoke(
            server,
            &json!({"credential": credential, "expires_in": "1h"}),
        );
        out.all_end();
        stays.0.ping();
        assert_eq!(
            status(server, &guarded.authorization(kind)),
            401,
            "{kind:?}"
        );
        assert_eq!(
            status(server, &guarded.authorization(other)),
            201,
            "{kind:?}"
        );
        lift(server, &revocation);
    }
    // What has the name of another source's is not meant.
    revoke(server, &json!({"subject": "ann", "source": "password"}));
    for (kind, expect) in [(Kind::Password, 401), (Kind::Key, 201), (Kind::Token, 201)] {
        assert_eq!(
            status(server, &guarded.authorization(kind)),
            expect,
            "{kind:?}"
        );
    }
}

#[test]
fn a_user_who_is_logged_out_everywhere_comes_back_with_a_new_token() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let open = Open::with(server, &guarded.token);
    // Tokens say in whole seconds when they were issued, and those of the very second stay good.
    eventually("it is of an earlier second", PATIENCE, || {
        let body = json!({"subject": "ann", "source": "jwt", "issued_before": "now"});
        revoke(server, &body);
        status(server, &guarded.authorization(Kind::Token)) == 401
    });
    open.all_end();
    let new = mint(&guarded.path("secret"), "ann", "1h");
    assert_eq!(status(server, &format!("Bearer {new}")), 201, "at once");
}

#[test]
fn client_libraries_are_told() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let login = json!({"user": "ann", "password": PASSWORD});
    let with = |more: Value| {
        let mut connect = login.clone();
        let all = connect.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        json!({"connect": connect})
    };
    let tcp = format!("mqtt://{}", server.mqtt());
    let stomp_tcp = format!("stomp://{}", server.stomp());
    let mqtt = |id: &str| with(json!({"url": tcp, "version": 5, "id": id}));
    let stomp = |url: &str| with(json!({"url": url, "versions": ["1.2"]}));
    let mut peers = [
        (Peer::node("mqtt.mjs", &[]), mqtt("js")),
        (Peer::python("paho_client.py", &[]), mqtt("paho")),
        (
            Peer::node("stomp.mjs", &[]),
            stomp(&server.ws_url("/stomp")),
        ),
        (Peer::python("stomp_client.py", &[]), stomp(&stomp_tcp)),
    ];
    for (peer, connect) in &mut peers {
        let line = peer.ask(connect);
        assert!(!line["connected"].is_null(), "{line}");
    }
    let revocation = revoke(server, &json!({"subject": "ann"}));
    assert_eq!(revocation["connections_ended"], 4);
    let [(js, _), (paho, _), (stompjs, _), (stomp_py, _)] = &mut peers;
    assert_eq!(js.line(), json!({"told": 0x87}));
    assert_eq!(js.line(), json!({"closed": true}));
    assert_eq!(paho.line(), json!({"closed": true}));
    for peer in [stompjs, stomp_py] {
        let line = peer.line();
        assert_eq!(
            line["error"]["headers"]["tidings-code"], "unauthorized",
            "{line}"
        );
    }
}

#[test]
fn what_a_reload_takes_away_ends_and_what_it_changes_changes() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let basic = guarded.authorization(Kind::Password);
    let opened = |authorization: &str| {
        let request = Request::get("/v1/topics/own/a?as=sse");
        EventStream::send(
            server.address(),
            request.header("Authorization", authorization),
        )
    };
    // A password that is changed.
    let mut of_password = opened(&basic);
    let (of_key, mut of_token) = (
        Open::with(server, &guarded.key),
        opened(&guarded.authorization(Kind::Token)),
    );
    set_password(&guarded.path("users"), "ann", "another-one");
    server.reload();
    while of_password.block().is_ok() {}
    // A key that is revoked.
    let keys = guarded.path("keys");
    let arguments = [
        "key",
        "revoke",
        keys.to_str().unwrap(),
        key_id(&guarded.key),
    ];
    stdout(&mut tidings(&arguments));
    server.reload();
    of_key.all_end();
    // A secret that is replaced: nobody else was disturbed before.
    let eves = mint(&guarded.path("secret"), "eve", "1h");
    assert_eq!(status(server, &guarded.authorization(Kind::Token)), 201);
    assert_eq!(of_token.texts(1), ["x"]);
    fs::remove_file(guarded.path("secret")).unwrap();
    let secret = guarded.path("secret");
    stdout(&mut tidings(&["token", "secret", secret.to_str().unwrap()]));
    server.reload();
    while of_token.block().is_ok() {}
    assert_eq!(status(server, &format!("Bearer {eves}")), 401);
}

#[test]
fn grants_that_a_reload_takes_away_end_their_subscriptions_alone() {
    let guarded = Guarded::start();
    let server = &guarded.server;
    let mut socket = WebSocket::tidings(server.address());
    socket.ask(&json!({"op":"auth","id":1,"token":guarded.key}));
    assert_eq!(socket.json()["op"], "ok");
    for topic in ["own/a", "own/b"] {
        socket.ask(&json!({"op":"subscribe","id":topic,"topic":topic}));
        assert_eq!(socket.json()["op"], "ok");
    }
    let rules = "[[rule]]\nsubject = \"ann\"\nsubscribe = [\"own/a\", \"new\"]\n";
    fs::write(guarded.path("permissions"), rules).unwrap();
    server.reload();
    let lost = socket.json();
    assert_eq!(lost["code"], "forbidden", "{lost}");
    socket.ask(&json!({"op":"publish","id":2,"topic":"own/a","data":"x"}));
    assert_eq!(socket.json()["code"], "forbidden");
    socket.ask(&json!({"op":"subscribe","id":3,"topic":"new"}));
    assert_eq!(socket.json()["op"], "ok");
    // One that stands in the file no more is out.
    fs::write(guarded.path("keys"), "").unwrap();
    server.reload();
    assert_eq!(socket.json()["op"], "drain");
    assert_eq!(socket.close_frame().0, 1008);
}

#[test]
fn anonymous_peers_are_out_when_they_are_not_permitted_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    stdout(&mut tidings(&["key", "new", keys.to_str().unwrap(), "ann"]));
    let server = Server::start(
        tidings_e2e::Options::default()
            .config("")
            .argument("--admin")
            .argument("127.0.0.1:0"),
    );
    let mut socket = WebSocket::tidings(server.address());
    socket.ask(&json!({"op":"subscribe","id":1,"topic":"a"}));
    assert_eq!(socket.json()["op"], "ok");
    server.write_config(&format!("[auth]\nkeys_file = \"{}\"\n", keys.display()));
    server.reload();
    assert_eq!(socket.json()["op"], "drain");
    assert_eq!(socket.close_frame().0, 1008);
}
