//! Client libraries, and the mosquitto clients.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidings_e2e::peer::Peer;
use tidings_e2e::tools::output;

use super::{Guarded, KINDS};

#[test]
fn the_mosquitto_clients_sign_in() {
    let guarded = Guarded::start();
    let address = guarded.server.mqtt();
    let publish = |version: &str, login: &[&str], topic: &str| {
        let mut command = Command::new("mosquitto_pub");
        command
            .args([
                "-h",
                &address.ip().to_string(),
                "-p",
                &address.port().to_string(),
            ])
            .args(["-V", version, "-q", "1", "-t", topic, "-m", "x"])
            .args(login);
        output(&mut command)
    };
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for kind in KINDS {
            let (user, password) = guarded.login(kind);
            let login = ["-u", user, "-P", password];
            let published = publish(version, &login, "own/mosquitto");
            assert!(
                published.status.success(),
                "{version} {kind:?}: {published:?}"
            );
        }
        for login in [&["-u", "ann", "-P", "wrong"][..], &[]] {
            let refused = publish(version, login, "own/mosquitto");
            assert!(!refused.status.success(), "{version}: {refused:?}");
        }
    }
    let count = guarded.server.metric("tidings_published_total", "mqtt");
    assert!((count - 9.0).abs() < 0.5, "{count}");
}

/// Connects, publishes and gives every line up to the first `error`, `closed`, or message.
#[track_caller]
fn mqtt(mut peer: Peer, url: &str, (user, password): (&str, &str)) -> Value {
    let connect =
        json!({"url": url, "version": 5, "id": "lib", "user": user, "password": password});
    let first = peer.ask(&json!({"connect": connect}));
    if first["connected"].is_null() {
        return first;
    }
    peer.ask(&json!({"subscribe": "own/lib", "qos": 1}));
    let payload = STANDARD.encode("x");
    peer.tell(&json!({"publish": "own/lib", "base64": payload, "qos": 1}));
    loop {
        let line = peer.line();
        if line["published"].is_null() {
            return line;
        }
    }
}

#[test]
fn mqtt_js_and_paho_sign_in() {
    let guarded = Guarded::start();
    let tcp = format!("mqtt://{}", guarded.server.mqtt());
    let websocket = guarded.server.ws_url("/mqtt");
    for url in [&tcp, &websocket] {
        for open in [
            || Peer::node("mqtt.mjs", &[]),
            || Peer::python("paho_client.py", &[]),
        ] {
            for kind in KINDS {
                let line = mqtt(open(), url, guarded.login(kind));
                assert_eq!(
                    line["message"]["topic"], "own/lib",
                    "{kind:?} {url}: {line}"
                );
            }
            let line = mqtt(open(), url, ("ann", "wrong"));
            let text = line["error"].as_str().unwrap_or_default().to_lowercase();
            assert!(text.contains("bad user name or password"), "{url}: {line}");
        }
    }
}

#[test]
fn stompjs_and_stomp_py_sign_in() {
    let guarded = Guarded::start();
    let tcp = format!("stomp://{}", guarded.server.stomp());
    let websocket = guarded.server.ws_url("/stomp");
    for kind in KINDS {
        let (user, password) = guarded.login(kind);
        for (mut peer, url) in [
            (Peer::node("stomp.mjs", &[]), &websocket),
            (Peer::python("stomp_client.py", &[]), &tcp),
        ] {
            let connect =
                json!({"url": url, "versions": ["1.2"], "user": user, "password": password});
            let line = peer.ask(&json!({"connect": connect}));
            assert_eq!(line["connected"]["version"], "1.2", "{kind:?} {line}");
        }
    }
    let mut peer = Peer::node("stomp.mjs", &[]);
    let connect =
        json!({"url": websocket, "versions": ["1.2"], "user": "ann", "password": "wrong"});
    let line = peer.ask(&json!({"connect": connect}));
    assert_eq!(
        line["error"]["headers"]["tidings-code"], "unauthorized",
        "{line}"
    );
}

#[test]
fn ws_signs_in() {
    let guarded = Guarded::start();
    let url = guarded.server.ws_url("/v1/ws");
    for (authorization, status) in [
        (guarded.authorization(super::Kind::Key), None),
        (guarded.authorization(super::Kind::Password), None),
        ("Bearer wrong".to_owned(), Some(401)),
    ] {
        let mut peer = Peer::node("websocket.mjs", &[]);
        let options = json!({"headers": {"Authorization": authorization}});
        let line = peer.ask(&json!({"open": url, "protocols": ["tidings.v1"], "options": options}));
        match status {
            None => assert_eq!(line["open"]["protocol"], "tidings.v1", "{line}"),
            Some(status) => assert_eq!(line["refused"]["status"], status, "{line}"),
        }
    }
}
