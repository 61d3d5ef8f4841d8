//! RFC 7662: tokens that an authorization server knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tidings_e2e::backend::{Asked, Backend, Reply};
use tidings_e2e::mqtt::{Client, Connect};
use tidings_e2e::{PATIENCE, eventually};

use super::{World, grants, lies, now_s};

const URL: (&str, &str) = ("auth.introspection_url", "{url}/introspect");

/// One token, `good`, is active; it says so of what the body names.
fn answer(asked: &Asked, more: &Value) -> Reply {
    if !asked.body.starts_with("token=good&") {
        return Reply::json(&json!({"active": false}));
    }
    let mut said = json!({"active": true, "username": "ann", "scope": "push", "tidings": grants()});
    for (name, value) in more.as_object().unwrap() {
        said[name] = value.clone();
    }
    Reply::json(&said)
}

fn issuer(more: Value) -> Backend {
    let backend = Backend::start();
    backend.on("/introspect", move |asked| answer(asked, &more));
    backend
}

#[test]
fn active_tokens_are_let_in_with_their_grants_and_asked_about_once() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "p%w d\n").unwrap();
    let world = World::start(
        issuer(json!({})),
        &[
            URL,
            ("auth.introspection_client_id", "tidings"),
            (
                "auth.introspection_client_secret_file",
                secret.to_str().unwrap(),
            ),
        ],
    );
    for _ in 0..5 {
        assert_eq!(world.status("good"), 201);
        assert_eq!(world.status("bad"), 401);
    }
    world
        .publish("other", "good")
        .assert_problem(403, "forbidden");
    let asked = world.backend.asked("/introspect");
    assert_eq!(asked.len(), 2, "one question for each token: {asked:?}");
    // `tidings:p%25w%20d` in Base64 (RFC 6749, 2.3.1).
    assert_eq!(
        asked[0].authorization.as_deref(),
        Some("Basic dGlkaW5nczpwJTI1dyUyMGQ=")
    );
    assert_eq!(asked[0].body, "token=good&token_type_hint=access_token");
    assert_eq!(
        (
            world.asks("introspection", "accepted"),
            world.asks("introspection", "refused")
        ),
        (1, 1)
    );
    let recalled = world
        .server
        .metric("tidings_auth_asks_recalled_total", "introspection");
    assert!((recalled - 9.0).abs() < 0.5, "{recalled}");
    let connect = Connect::v5("a").login("whoever", "good");
    Client::open(world.server.mqtt(), &connect).0.leave();
}

#[test]
fn a_token_that_is_revoked_there_opens_nothing_after_the_cache() {
    let active = Arc::new(AtomicBool::new(true));
    let is_active = Arc::clone(&active);
    let backend = Backend::start();
    backend.on("/introspect", move |asked| {
        if is_active.load(Relaxed) {
            answer(asked, &json!({}))
        } else {
            Reply::json(&json!({"active": false}))
        }
    });
    let world = World::start(
        backend,
        &[URL, ("auth.introspection_cache_ms_max", "300ms")],
    );
    assert_eq!(world.status("good"), 201);
    active.store(false, Relaxed);
    eventually("it is revoked here", PATIENCE, || {
        world.status("good") == 401
    });
}

#[test]
fn keys_and_texts_that_are_no_token_are_shown_to_nobody() {
    let world = World::start(issuer(json!({})), &[URL]);
    for token in ["tdg_0123456789ab_secret", "with space", "\u{e9}"] {
        assert_eq!(world.status(token), 401, "{token:?}");
    }
    assert_eq!(world.backend.asked("/introspect").len(), 0);
}

#[test]
fn what_is_said_of_a_token_is_checked_here_too() {
    for (more, settings, status) in [
        (json!({"exp": now_s() - 1}), &[][..], 401),
        (json!({"nbf": now_s() + 100}), &[], 401),
        (
            json!({"aud": "mail"}),
            &[("auth.jwt_audience", "push")],
            401,
        ),
        (json!({}), &[("auth.jwt_audience", "push")], 401),
        (
            json!({"aud": ["mail", "push"]}),
            &[("auth.jwt_audience", "push")],
            201,
        ),
        (json!({"aud": "mail"}), &[], 201),
        (json!({"iss": "other"}), &[("auth.jwt_issuer", "id")], 401),
        (json!({"sub": "a\nb"}), &[], 401),
    ] {
        let settings: Vec<_> = [URL].into_iter().chain(settings.iter().copied()).collect();
        let world = World::start(issuer(more.clone()), &settings);
        assert_eq!(world.status("good"), status, "{more}");
    }
}

#[test]
fn rules_see_the_scopes_and_a_connection_ends_with_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules");
    std::fs::write(&rules, "[[rule]]\nsource = [\"introspection\"]\nclaims = { scope = \"push\" }\npublish = [\"by-scope/{sub}\"]\n").unwrap();
    let world = World::start(
        issuer(json!({"exp": now_s() + 3})),
        &[URL, ("auth.permissions_file", rules.to_str().unwrap())],
    );
    assert_eq!(world.publish("by-scope/ann", "good").status, 201);
    let (mut client, _) = Client::open(world.server.mqtt(), &Connect::v5("a").login("", "good"));
    assert_eq!(client.until_closed(), Some(0x87));
    assert_eq!(world.status("good"), 401);
}

#[test]
fn a_server_that_is_down_slow_or_lies_lets_nobody_in_and_is_left_alone() {
    let backend = Backend::start();
    let world = World::start(backend, &[URL, ("auth.remote_ms_max", "300ms")]);
    let late = Reply::Late(
        Duration::from_secs(1),
        Box::new(Reply::json(&json!({"active": true, "sub": "ann"}))),
    );
    for lie in lies().into_iter().chain([late]) {
        world.backend.always("/introspect", lie.clone());
        let refused = world.publish("own/a", "good");
        refused.assert_problem(503, "busy");
    }
    world.backend.set_down(true);
    world.publish("own/a", "good").assert_problem(503, "busy");
    let left_alone = world.asks("introspection", "backing-off");
    assert!(
        left_alone > 0,
        "after three failures it is not asked for a while"
    );
    world.backend.set_down(false);
    world
        .backend
        .on("/introspect", |asked| answer(asked, &json!({})));
    eventually("it is asked again", PATIENCE, || {
        world.status("good") == 201
    });
}
