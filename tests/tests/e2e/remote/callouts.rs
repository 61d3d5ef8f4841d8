//! The backend says who a peer is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_e2e::backend::{Asked, Backend, Reply};
use tidings_e2e::mqtt::{Client, Connect};
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::tools::stdout;
use tidings_e2e::{PATIENCE, eventually, spawn};

use super::{World, grants, lies};

const URL: (&str, &str) = ("auth.callout_connect_url", "{url}/connect");

/// Lets in who shows `good`, as token or as password.
fn answer(asked: &Asked, cache_s: u64) -> Reply {
    let asked = asked.json();
    if [&asked["token"], &asked["password"]].contains(&&json!("good")) {
        return Reply::json(
            &json!({"sub": "ann", "grants": grants(), "cache_s": cache_s, "claims": {"team": "x"}}),
        );
    }
    Reply::status(401)
}

fn backend(cache_s: u64) -> Backend {
    let backend = Backend::start();
    backend.on("/connect", move |asked| answer(asked, cache_s));
    backend
}

#[test]
fn the_backend_is_told_what_is_shown_and_how_and_its_word_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (token, rules) = (folder.path().join("token"), folder.path().join("rules"));
    std::fs::write(&token, "who-asks\n").unwrap();
    std::fs::write(
        &rules,
        "[[rule]]\nsource = [\"callout\"]\npublish = [\"teams/{claim.team}/{sub}\"]\n",
    )
    .unwrap();
    let world = World::start(
        backend(0),
        &[
            URL,
            ("auth.callout_token_file", token.to_str().unwrap()),
            ("auth.permissions_file", rules.to_str().unwrap()),
        ],
    );
    assert_eq!(world.status("good"), 201);
    assert_eq!(world.status("bad"), 401);
    assert_eq!(world.publish("teams/x/ann", "good").status, 201);
    world
        .publish("own/locked", "good")
        .assert_problem(403, "forbidden");
    let connect = Connect::v5("a").login("anna", "good");
    Client::open(world.server.mqtt(), &connect).0.leave();
    let asked = world.backend.asked("/connect");
    assert_eq!(asked.len(), 5);
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer who-asks"));
    let here = world.server.address().ip().to_string();
    let first = asked[0].json();
    assert_eq!(
        (&first["protocol"], &first["token"]),
        (&json!("http"), &json!("good"))
    );
    assert!(
        first["address"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("127.")),
        "{first} {here}"
    );
    let last = asked[4].json();
    let told =
        json!({"address": last["address"], "protocol": "mqtt", "user": "anna", "password": "good"});
    assert_eq!(last, told);
    assert_eq!(
        (
            world.asks("callout", "accepted"),
            world.asks("callout", "refused")
        ),
        (4, 1)
    );
}

#[test]
fn an_answer_counts_as_long_as_it_says_for_the_same_credential() {
    let world = World::start(backend(60), &[URL]);
    for _ in 0..5 {
        assert_eq!(world.status("good"), 201);
    }
    assert_eq!(world.backend.asked("/connect").len(), 1);
    for _ in 0..2 {
        assert_eq!(world.status("bad"), 401);
    }
    assert_eq!(
        world.backend.asked("/connect").len(),
        3,
        "no is said anew each time"
    );
}

#[test]
fn sources_are_asked_in_the_configured_order() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let key = [
        "key",
        "new",
        keys.to_str().unwrap(),
        "billing",
        "--publish",
        "own/#",
    ];
    let key = stdout(&mut tidings(&key)).trim().to_owned();
    let keys = ("auth.keys_file", keys.to_str().unwrap());
    for (order, asked) in [("key,callout", 0), ("callout,key", 1)] {
        let backend = Backend::start();
        backend.on("/connect", |asked| match answer(asked, 0) {
            // It does not know it: others may.
            Reply::Http(401, ..) => Reply::status(404),
            reply => reply,
        });
        let world = World::start(backend, &[URL, keys, ("auth.order", order)]);
        assert_eq!(world.status(&key), 201, "{order}");
        assert_eq!(world.backend.asked("/connect").len(), asked, "{order}");
        assert_eq!(world.status("good"), 201, "{order}");
        assert_eq!(world.status("bad"), 401, "{order}");
    }
}

#[test]
fn a_backend_that_is_down_slow_or_lies_lets_nobody_in() {
    let world = World::start(Backend::start(), &[URL, ("auth.callout_ms_max", "300ms")]);
    let yes = Reply::json(&json!({"sub": "ann", "grants": grants()}));
    let late = Reply::Late(Duration::from_secs(1), Box::new(yes));
    let odd = [
        json!({"sub": ""}),
        json!({"sub": "ann", "grant": {}}),
        json!({"sub": "ann", "grants": {"publish": ["#/a"]}}),
    ];
    let odd = odd.iter().map(Reply::json);
    let lies = lies()
        .into_iter()
        .filter(|lie| !matches!(lie, Reply::Http(401 | 404, ..)));
    for lie in lies.chain(odd).chain([late]) {
        world.backend.always("/connect", lie.clone());
        world.publish("own/a", "good").assert_problem(503, "busy");
    }
    world.backend.set_down(true);
    world.publish("own/a", "good").assert_problem(503, "busy");
    world.backend.set_down(false);
    world.backend.on("/connect", |asked| answer(asked, 0));
    eventually("it is back", PATIENCE, || world.status("good") == 201);
}

#[test]
fn a_slow_backend_keeps_nobody_waiting_but_whom_it_is_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    super::super::auth::set_password(&users, "bob", "pw-Sesame-77");
    let backend = Backend::start();
    backend.on("/connect", |asked| {
        Reply::Late(Duration::from_secs(3), Box::new(answer(asked, 0)))
    });
    let users = ("auth.passwords_file", users.to_str().unwrap());
    let world = World::start(backend, &[URL, users, ("auth.callout_ms_max", "20s")]);
    let address = world.server.mqtt();
    let begun = Instant::now();
    let slow: Vec<_> = (0..8)
        .map(|at| {
            let connect = Connect::v5(&format!("c{at}")).login("ann", "good");
            spawn(move || Client::open(address, &connect).0.leave())
        })
        .collect();
    // Eight more than there are threads for passwords, and yet one is judged at once.
    eventually("they are asked about", PATIENCE, || {
        !world.backend.asked("/connect").is_empty()
    });
    Client::open(address, &Connect::v5("b").login("bob", "pw-Sesame-77"))
        .0
        .leave();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    for client in slow {
        client.join().unwrap();
    }
    assert_eq!(
        world.backend.asked("/connect").len(),
        1,
        "the same is asked once"
    );
}

#[test]
fn client_libraries_sign_in_by_the_backend() {
    let world = World::start(backend(5), &[URL]);
    let headers = |token: &str| json!({"headers": {"Authorization": format!("Bearer {token}")}});
    let url = world.server.ws_url("/v1/ws");
    for (token, is_in) in [("good", true), ("bad", false)] {
        let mut peer = Peer::node("websocket.mjs", &[]);
        let line =
            peer.ask(&json!({"open": url, "protocols": ["tidings.v1"], "options": headers(token)}));
        assert_eq!(line["open"]["protocol"] == "tidings.v1", is_in, "{line}");
        let refused = line["refused"]["status"] == 401;
        assert_eq!(refused, !is_in, "{line}");
        let mut peer = Peer::node("mqtt.mjs", &[]);
        let mqtt = format!("mqtt://{}", world.server.mqtt());
        let line = peer.ask(&json!({"connect": {"url": mqtt, "version": 5, "id": "js", "user": "u", "password": token}}));
        assert_eq!(!line["connected"].is_null(), is_in, "{line}");
        let mut peer = Peer::python("stomp_client.py", &[]);
        let stomp = format!("stomp://{}", world.server.stomp());
        let connect = json!({"url": stomp, "versions": ["1.2"], "user": "u", "password": token});
        let line: Value = peer.ask(&json!({"connect": connect}));
        assert_eq!(line["connected"]["version"] == "1.2", is_in, "{line}");
    }
    let line = |line: &String| line.contains("good") || line.contains("who-asks");
    assert!(
        !world.server.log().iter().any(line),
        "no secret is in the log"
    );
}
