//! Who was let in on another server's word, when the configuration is read again.

use serde_json::json;
use tidings_e2e::backend::{Backend, Reply};
use tidings_e2e::issuer::SigningKey;
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{grants, now_s};

fn config(backend: &Backend, option: &str, path: &str, more: &str) -> String {
    format!("[auth]\n{option} = \"{}\"\n{more}", backend.url(path))
}

/// Opens a connection with a token, as soon as it is taken.
#[track_caller]
fn open(server: &Server, token: &str) -> WebSocket {
    let mut opened = None;
    eventually("it is let in", PATIENCE, || {
        let mut socket = WebSocket::tidings(server.address());
        socket.ask(&json!({"op":"auth","id":1,"token":token}));
        let is_in = socket.json()["op"] == "ok";
        opened = Some(socket);
        is_in
    });
    opened.unwrap()
}

/// Has another configuration read, and waits until every connection was looked at.
#[track_caller]
fn reload(server: &Server, config: &str) {
    let looked = || {
        let log = server.log();
        let lines = log.iter().filter(|line| line.contains("looked at again"));
        lines.count()
    };
    let before = looked();
    server.write_config(config);
    server.reload();
    eventually("all were looked at", PATIENCE, || looked() > before);
}

#[track_caller]
fn stays_in(socket: &mut WebSocket) {
    socket.ask(&json!({"op":"publish","id":2,"topic":"own/a","data":"x"}));
    let answer = socket.json();
    assert_eq!(answer["op"], "ok", "{answer}");
}

/// A token that is let in on the word of what an option names is good as long as it names that.
#[track_caller]
fn ends_with_the_address(backend: &Backend, option: &str, token: &str) {
    let first = config(backend, option, "/first", "");
    let server = Server::start(Options::default().config(&first));
    let mut socket = open(&server, token);
    reload(&server, &first);
    stays_in(&mut socket);
    let other_rules = config(backend, option, "/first", "jwt_leeway_ms = \"1s\"\n");
    reload(&server, &other_rules);
    stays_in(&mut socket);
    reload(&server, &config(backend, option, "/second", ""));
    let answer = socket.json();
    assert_eq!(answer["op"], "drain", "{option}: {answer}");
    open(&server, token);
}

#[test]
fn tokens_end_with_the_server_that_knew_them() {
    let backend = Backend::start();
    let active = Reply::json(&json!({"active": true, "sub": "ann", "tidings": grants()}));
    backend.always("/first", active.clone());
    backend.always("/second", active);
    ends_with_the_address(&backend, "introspection_url", "good");
}

#[test]
fn peers_end_with_the_backend_that_let_them_in() {
    let backend = Backend::start();
    let admitted = Reply::json(&json!({"sub": "ann", "grants": grants()}));
    backend.always("/first", admitted.clone());
    backend.always("/second", admitted);
    ends_with_the_address(&backend, "callout_connect_url", "good");
}

#[test]
fn tokens_end_with_the_address_of_the_keys_and_with_the_key() {
    let (key, other) = (SigningKey::new("one"), SigningKey::new("two"));
    let keys = |key: &SigningKey| Reply::json(&json!({"keys": [key.jwk()]}));
    let backend = Backend::start();
    backend.always("/first", keys(&key));
    backend.always("/second", keys(&key));
    let claims = json!({"sub": "ann", "exp": now_s() + 3_600, "tidings": grants()});
    let token = key.sign(&claims);
    ends_with_the_address(&backend, "jwt_jwks_url", &token);

    let age = "jwt_jwks_age_ms_max = \"100ms\"\n";
    let config = config(&backend, "jwt_jwks_url", "/first", age);
    let server = Server::start(Options::default().config(&config));
    let mut socket = open(&server, &token);
    backend.always("/first", keys(&other));
    open(&server, &other.sign(&claims));
    reload(&server, &config);
    let answer = socket.json();
    assert_eq!(answer["op"], "drain", "{answer}");
}
