//! The files, the commands that write them, and what must not be seen.

use std::fs;

use tidings_e2e::http::Request;
use tidings_e2e::server::tidings;
use tidings_e2e::tools::{output, stdout};
use tidings_e2e::{PATIENCE, eventually};

use super::{Guarded, KINDS, Kind, PASSWORD, set_password};

#[track_caller]
fn status(guarded: &Guarded, authorization: &str) -> u16 {
    let request = Request::post("/v1/topics/own/a").body("x");
    request
        .header("Authorization", authorization)
        .send(guarded.server.address())
        .status
}

#[test]
fn files_are_read_again_on_hangup_and_a_broken_one_changes_nothing() {
    let guarded = Guarded::start();
    let basic = guarded.authorization(Kind::Password);
    let key = guarded.authorization(Kind::Key);
    assert_eq!(
        (status(&guarded, &basic), status(&guarded, &key)),
        (201, 201)
    );
    set_password(&guarded.path("users"), "ann", "another-one");
    let keys = guarded.path("keys");
    let id = guarded.key.split('_').nth(1).unwrap();
    stdout(&mut tidings(&["key", "revoke", keys.to_str().unwrap(), id]));
    guarded.server.reload();
    eventually("the password is the new one", PATIENCE, || {
        status(&guarded, &basic) == 401
    });
    assert_eq!(status(&guarded, &key), 401);
    fs::write(guarded.path("permissions"), "[[rule]]\nsubject = 5\n").unwrap();
    guarded.server.reload();
    let told = |line: &String| line.contains("auth.permissions_file");
    eventually("the file is refused", PATIENCE, || {
        guarded.server.log().iter().any(told)
    });
    assert_eq!(status(&guarded, &guarded.authorization(Kind::Token)), 201);
}

#[test]
fn everything_that_is_wrong_with_the_files_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        format!("auth.{name}={}", folder.path().join(name).display())
    };
    let settings = [
        write("passwords_file", "ann:plain-text-secret\n"),
        write("keys_file", "[[key]]\nid = \"x\"\n"),
        write("permissions_file", "[[rule]]\npublish = [\"a/#/b\"]\n"),
        write("jwt_secret_file", "too-short-secret\n"),
    ];
    let mut arguments = vec!["check"];
    for setting in &settings {
        arguments.extend(["--set", setting]);
    }
    let checked = output(&mut tidings(&arguments));
    assert_eq!(checked.status.code(), Some(2));
    let text = String::from_utf8_lossy(&checked.stderr);
    for key in [
        "passwords_file",
        "keys_file",
        "permissions_file",
        "jwt_secret_file",
    ] {
        assert!(text.contains(&format!("auth.{key}")), "{key}: {text}");
    }
    assert!(
        !text.contains("plain-text-secret") && !text.contains("too-short-secret"),
        "{text}"
    );
}

#[test]
fn with_credentials_other_machines_may_be_let_in() {
    let guarded = Guarded::start();
    let keys = format!("auth.keys_file={}", guarded.path("keys").display());
    for (set, code) in [(vec![], 2), (vec!["--set", &keys], 0)] {
        let mut arguments = vec!["check", "--http", "0.0.0.0:8080"];
        arguments.extend(set);
        assert_eq!(output(&mut tidings(&arguments)).status.code(), Some(code));
    }
}

#[test]
fn anonymous_peers_are_let_in_where_the_operator_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules");
    fs::write(
        &rules,
        "[[rule]]\nsource = [\"anonymous\"]\nsubscribe = [\"news/#\"]\n",
    )
    .unwrap();
    let rules = rules.display().to_string();
    let guarded = Guarded::start_with(&[
        ("auth.anonymous", "true"),
        ("auth.permissions_file", &rules),
    ]);
    let address = guarded.server.address();
    assert_eq!(
        Request::get("/v1/topics/news/a?as=json")
            .send(address)
            .status,
        200
    );
    Request::get("/v1/topics/own/a?as=json")
        .send(address)
        .assert_problem(403, "forbidden");
    Request::post("/v1/topics/news/a")
        .body("x")
        .send(address)
        .assert_problem(403, "forbidden");
    // Who shows something wrong is not taken for nobody.
    let wrong = Request::get("/v1/topics/news/a?as=json").header("Authorization", "Bearer wrong");
    wrong.send(address).assert_problem(401, "unauthorized");
}

#[test]
fn no_secret_is_in_the_log_or_the_metrics() {
    let guarded = Guarded::start();
    let address = guarded.server.address();
    let wrong = "wrong-Guess-42";
    for kind in KINDS {
        assert_eq!(status(&guarded, &guarded.authorization(kind)), 201);
        let (user, password) = guarded.login(kind);
        for password in [password, wrong] {
            let connect = tidings_e2e::mqtt::Connect::v5("a").login(user, password);
            drop(tidings_e2e::mqtt::Client::try_open(
                guarded.server.mqtt(),
                &connect,
            ));
            let headers = [("login", user), ("passcode", password)];
            drop(tidings_e2e::stomp::Client::try_open(
                guarded.server.stomp(),
                "1.2",
                &headers,
            ));
        }
    }
    for secret in [&guarded.token, &guarded.key, wrong] {
        for target in [
            "/v1/topics/own/a?as=json",
            "/v1/nothing?",
            "/v1/topics/own/a?as=sse",
        ] {
            let target = format!("{target}&access_token={secret}");
            drop(Request::get(&target).open(address));
        }
    }
    let metrics = Request::get("/metrics").send(guarded.server.admin()).text();
    let accepted = guarded.server.metric(
        "tidings_logins_total",
        r#"protocol="mqtt",outcome="accepted""#,
    );
    assert!((accepted - 3.0).abs() < 0.5, "{metrics}");
    let mut guarded = guarded;
    guarded.server.terminate();
    guarded.server.wait();
    let log = guarded.server.log().join("\n");
    assert!(
        log.contains("a credential was refused"),
        "the log is as chatty as it can be"
    );
    let encoded = guarded.authorization(Kind::Password);
    let seal = fs::read_to_string(guarded.path("secret")).unwrap();
    for secret in [
        PASSWORD,
        wrong,
        &guarded.key,
        &guarded.token,
        &encoded[6..],
        seal.trim(),
    ] {
        assert!(
            !log.contains(secret) && !metrics.contains(secret),
            "{secret} is seen"
        );
    }
}

#[test]
fn the_command_line_signs_in() {
    let guarded = Guarded::start();
    let (http, mqtt) = (
        guarded.server.url(""),
        format!("mqtt://{}", guarded.server.mqtt()),
    );
    let user = format!("ann:{PASSWORD}");
    let login = |kind| match kind {
        Kind::Password => ["--user", &user],
        Kind::Key => ["--token", &guarded.key],
        Kind::Token => ["--token", &guarded.token],
    };
    let mut expected = String::new();
    for kind in KINDS {
        for server in [["--url", &http], ["--mqtt-url", &mqtt]] {
            let text = format!("{kind:?}{}", server[0]);
            stdout(
                tidings(&["pub", "own/cli", &text])
                    .args(server)
                    .args(login(kind)),
            );
            expected.push_str(&text);
            expected.push('\n');
            let read = ["sub", "own/cli", "--after", "earliest", "--count"];
            let count = expected.lines().count().to_string();
            if server[0] == "--url" {
                let read = stdout(tidings(&read).arg(&count).args(server).args(login(kind)));
                assert_eq!(read, expected);
            }
        }
    }
    let mut refused = tidings(&["pub", "own/cli", "x", "--url", &http, "--token", "wrong"]);
    assert!(!output(&mut refused).status.success());
    let mut by_environment = tidings(&["pub", "own/cli", "x", "--url", &http]);
    stdout(by_environment.env("TIDINGS_TOKEN", &guarded.key));
}
