//! JWKS by URL, and discovery of an issuer.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tidings_e2e::backend::{Backend, Reply};
use tidings_e2e::issuer::{SigningKey, without_signature};
use tidings_e2e::server::tidings;
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::{Background, output};
use tidings_e2e::{PATIENCE, eventually};

use super::{World, grants, lies, now_s};

fn claims() -> Value {
    json!({"sub": "ann", "exp": now_s() + 3600, "tidings": grants()})
}

fn with(claim: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[claim] = value.into();
    claims
}

fn publish_keys(backend: &Backend, keys: &[&SigningKey]) {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    backend.always("/keys", Reply::json(&json!({"keys": keys})));
}

const URL: (&str, &str) = ("auth.jwt_jwks_url", "{url}/keys");

#[test]
fn keys_are_rotated_without_a_word_to_the_server() {
    let (first, second) = (SigningKey::new("one"), SigningKey::new("two"));
    let backend = Backend::start();
    publish_keys(&backend, &[&first]);
    let world = World::start(backend, &[URL, ("auth.jwt_jwks_refetch_ms", "100ms")]);
    let (old, new) = (first.sign(&claims()), second.sign(&claims()));
    eventually("there are keys", PATIENCE, || world.status(&old) == 201);
    assert_eq!(world.status(&new), 401);
    // The new key comes beside the old one; the first token of it has it fetched.
    publish_keys(&world.backend, &[&first, &second]);
    eventually("the new key is there", PATIENCE, || {
        world.status(&new) == 201
    });
    assert_eq!(world.status(&old), 201);
    // The old one goes; any token of an unknown key has that seen.
    publish_keys(&world.backend, &[&second]);
    let unknown = SigningKey::new("three").sign(&claims());
    eventually("the old key is gone", PATIENCE, || {
        world.status(&unknown);
        world.status(&old) == 401
    });
    assert_eq!(world.status(&new), 201);
}

#[test]
fn keys_that_go_are_missed_when_the_issuer_says_so_at_the_latest() {
    let (first, second) = (SigningKey::new("one"), SigningKey::new("two"));
    let backend = Backend::start();
    publish_keys(&backend, &[&first]);
    let world = World::start(backend, &[URL, ("auth.jwt_jwks_age_ms_max", "300ms")]);
    let token = first.sign(&claims());
    eventually("there are keys", PATIENCE, || world.status(&token) == 201);
    publish_keys(&world.backend, &[&second]);
    eventually("it is gone", PATIENCE, || world.status(&token) == 401);
}

#[test]
fn made_up_keys_cost_the_issuer_one_request_in_a_while() {
    let key = SigningKey::new("one");
    let backend = Backend::start();
    publish_keys(&backend, &[&key]);
    let world = World::start(backend, &[URL, ("auth.jwt_jwks_refetch_ms", "10m")]);
    let token = key.sign(&claims());
    eventually("there are keys", PATIENCE, || world.status(&token) == 201);
    let other = SigningKey::new("two").sign(&claims());
    for _ in 0..20 {
        assert_eq!(world.status(&other), 401);
    }
    assert_eq!(world.backend.asked("/keys").len(), 1);
}

#[test]
fn what_is_wrong_with_a_token_is_found_whoever_signed_it() {
    let key = SigningKey::new("one");
    let backend = Backend::start();
    publish_keys(&backend, &[&key]);
    let world = World::start(
        backend,
        &[
            URL,
            ("auth.jwt_audience", "push"),
            ("auth.jwt_issuer", "id"),
        ],
    );
    let good = |claim: &str, value: Value| {
        let mut claims = claims();
        (claims["aud"], claims["iss"]) = (json!("push"), json!("id"));
        claims[claim] = value;
        claims
    };
    let usual = good("x", json!(1));
    eventually("there are keys", PATIENCE, || {
        world.status(&key.sign(&usual)) == 201
    });
    for (what, token) in [
        ("expired", key.sign(&good("exp", json!(now_s() - 1)))),
        ("not yet", key.sign(&good("nbf", json!(now_s() + 100)))),
        ("endless", key.sign(&good("exp", Value::Null))),
        ("audience", key.sign(&good("aud", json!("mail")))),
        ("issuer", key.sign(&good("iss", json!("other")))),
        ("nobody", key.sign(&good("sub", json!("")))),
        ("confused", key.confuse(&usual)),
        ("none", without_signature(&usual)),
        ("forged", SigningKey::new("one").sign(&usual)),
        (
            "cut",
            key.sign(&usual).rsplit_once('.').unwrap().0.to_owned() + ".",
        ),
    ] {
        assert_eq!(world.status(&token), 401, "{what}");
    }
    world
        .publish("own/locked", &key.sign(&usual))
        .assert_problem(403, "forbidden");
    world
        .publish("other", &key.sign(&usual))
        .assert_problem(403, "forbidden");
}

#[test]
fn an_issuer_that_lies_or_is_down_takes_no_key_away() {
    let key = SigningKey::new("one");
    let backend = Backend::start();
    publish_keys(&backend, &[&key]);
    let world = World::start(
        backend,
        &[
            URL,
            ("auth.jwt_jwks_age_ms_max", "100ms"),
            ("auth.remote_ms_max", "300ms"),
        ],
    );
    let token = key.sign(&claims());
    eventually("there are keys", PATIENCE, || world.status(&token) == 201);
    let late = Reply::Late(Duration::from_secs(1), Box::new(Reply::status(200)));
    for lie in lies().into_iter().chain([late]) {
        let before = (
            world.backend.asked("/keys").len(),
            world.asks("jwks", "failed"),
        );
        world.backend.always("/keys", lie.clone());
        eventually("it is asked, and not believed", PATIENCE, || {
            world.backend.asked("/keys").len() > before.0 && world.asks("jwks", "failed") > before.1
        });
        assert_eq!(world.status(&token), 201, "{lie:?}");
    }
    world.backend.set_down(true);
    let failed = world.asks("jwks", "failed");
    eventually("it is down", PATIENCE, || {
        world.asks("jwks", "failed") > failed + 2
    });
    assert_eq!(world.status(&token), 201);
    assert!((world.server.metric("tidings_jwks_keys", "") - 1.0).abs() < 0.5);
    let told = |line: &String| line.contains("the issuer's keys could not be fetched");
    assert!(world.server.log().iter().any(told));
}

#[test]
fn a_server_starts_without_its_issuer_and_is_busy_until_it_has_keys() {
    let key = SigningKey::new("one");
    let backend = Backend::start();
    backend.set_down(true);
    let world = World::start(backend, &[URL, ("auth.jwt_jwks_refetch_ms", "100ms")]);
    let token = key.sign(&claims());
    let refused = world.publish("own/a", &token);
    refused.assert_problem(503, "busy");
    // What is none of the issuer's is not put off.
    assert_eq!(world.status("nonsense"), 401);
    assert_eq!(world.status(&key.confuse(&claims())), 401);
    publish_keys(&world.backend, &[&key]);
    world.backend.set_down(false);
    eventually("there are keys", PATIENCE, || world.status(&token) == 201);
}

#[test]
fn tokens_wait_for_an_issuer_that_is_slow_and_nobody_else_does() {
    let key = SigningKey::new("one");
    let backend = Backend::start();
    let jwks = Reply::json(&json!({"keys": [key.jwk()]}));
    let slow = Arc::new(AtomicBool::new(true));
    let is_slow = Arc::clone(&slow);
    backend.on("/keys", move |_| {
        while is_slow.load(Relaxed) {
            std::thread::yield_now();
        }
        jwks.clone()
    });
    let world = World::start(backend, &[URL, ("auth.remote_ms_max", "20s")]);
    let token = key.sign(&claims());
    let (address, waiting) = (world.server.address(), token.clone());
    let first = tidings_e2e::spawn(move || {
        let request = tidings_e2e::http::Request::post("/v1/topics/own/a").body("x");
        request
            .header("Authorization", &format!("Bearer {waiting}"))
            .send(address)
            .status
    });
    assert_eq!(world.status("nonsense"), 401);
    slow.store(false, Relaxed);
    assert_eq!(first.join().unwrap(), 201);
}

#[test]
fn an_openid_issuer_is_found_by_its_name_which_must_be_the_same() {
    let key = SigningKey::new("one");
    let backend = Backend::start();
    publish_keys(&backend, &[&key]);
    let issuer = backend.url("/realm");
    let document = json!({"issuer": issuer, "jwks_uri": backend.url("/keys")});
    backend.always(
        "/realm/.well-known/openid-configuration",
        Reply::json(&document),
    );
    let settings = [
        ("auth.oidc_issuer", "{url}/realm"),
        ("auth.jwt_audience", "push"),
        ("auth.jwt_jwks_age_ms_max", "200ms"),
    ];
    let world = World::start(backend, &settings);
    let sign = |issuer: &str, audience: &str| {
        let mut claims = with("iss", issuer);
        claims["aud"] = json!(audience);
        key.sign(&claims)
    };
    let good = sign(&issuer, "push");
    eventually("there are keys", PATIENCE, || world.status(&good) == 201);
    assert_eq!(world.status(&sign(&format!("{issuer}/"), "push")), 401);
    assert_eq!(world.status(&sign(&issuer, "mail")), 401);
    // Somebody else's document is not taken, whatever keys it names.
    let foreign = SigningKey::new("two");
    world
        .backend
        .always("/foreign", Reply::json(&json!({"keys": [foreign.jwk()]})));
    let document =
        json!({"issuer": "https://other.example", "jwks_uri": world.backend.url("/foreign")});
    let path = "/realm/.well-known/openid-configuration";
    world.backend.always(path, Reply::json(&document));
    let failed = world.asks("jwks", "failed");
    eventually("it is refused", PATIENCE, || {
        world.asks("jwks", "failed") > failed
    });
    assert_eq!(world.backend.asked("/foreign").len(), 0);
    assert_eq!(world.status(&good), 201);
}

#[test]
fn keys_come_over_tls_from_whom_the_own_authority_vouches_for() {
    let (authority, key) = (Authority::new(), SigningKey::new("one"));
    let pair = authority.issue("issuer", "IP:127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("keys"),
        json!({"keys": [key.jwk()]}).to_string(),
    )
    .unwrap();
    let [port] = tidings_e2e::server::free_ports();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-WWW", "-accept", &format!("127.0.0.1:{port}")]);
    command
        .arg("-cert")
        .arg(&pair.cert)
        .arg("-key")
        .arg(&pair.key);
    let _issuer = Background::start(command.current_dir(folder.path()));
    let url = format!("https://127.0.0.1:{port}/keys");
    let ca = authority.ca_argument();
    let again = ("auth.jwt_jwks_refetch_ms", "100ms");
    let trusting = World::start(
        Backend::start(),
        &[
            ("auth.jwt_jwks_url", &url),
            ("auth.remote_ca_file", &ca),
            again,
        ],
    );
    let token = key.sign(&claims());
    eventually("there are keys", PATIENCE, || {
        trusting.status(&token) == 201
    });
    let wary = World::start(Backend::start(), &[("auth.jwt_jwks_url", &url), again]);
    eventually("it is not believed", PATIENCE, || {
        wary.asks("jwks", "failed") > 0
    });
    wary.publish("own/a", &token).assert_problem(503, "busy");
}

#[test]
fn options_that_do_not_go_together_are_explained() {
    for (settings, expect) in [
        (
            &["auth.oidc_issuer=https://id.example"][..],
            "auth.jwt_audience",
        ),
        (
            &["auth.jwt_jwks_url=http://id.example/keys"],
            "auth.http_insecure",
        ),
        (
            &["auth.jwt_jwks_url=https://u:p@id.example/keys"],
            "no user name",
        ),
        (&["auth.jwt_jwks_url=id.example"], "https://id.example/keys"),
        (
            &["auth.callout_permission_url=https://b.example/"],
            "auth.callout_connect_url",
        ),
        (
            &[
                "auth.introspection_url=https://b.example/",
                "auth.introspection_client_id=x",
            ],
            "client_secret_file",
        ),
        (&["auth.order=jwt,jwt"], "each once"),
        (&["auth.order=tokens"], "introspection"),
    ] {
        let mut arguments = vec!["check"];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        let checked = output(&mut tidings(&arguments));
        let text = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(2), "{settings:?}");
        assert!(text.contains(expect), "{settings:?}: {text}");
    }
}
