//! `tidings pub`, `sub` and `bench` over TLS: what travels, and whom they do not believe.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::Value;
use tidings_e2e::server::{binary, tidings};
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::{Background, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::failures;

/// The command with these words, which trusts the authority. It ends, if not by itself.
fn trusting(authority: &Authority, words: &str) -> Command {
    let mut command = bounded(words);
    command.args(["--ca", &authority.ca_argument()]);
    command
}

/// The command with these words, ended after a while.
fn bounded(words: &str) -> Command {
    let tidings = tidings(&[]);
    let mut command = Command::new("timeout");
    command.arg("60").arg(tidings.get_program());
    // What the tests' environment sets is not for it.
    for (name, _) in tidings.get_envs() {
        command.env_remove(name);
    }
    command.args(words.split(' '));
    command
}

/// The options that lead to the server by each transport, and which protocol a subscriber names.
fn transports(server: &Server) -> [String; 4] {
    let (https, mqtts) = (server.https(), server.mqtts());
    [
        format!("--url https://{https}"),
        format!("--url wss://{https} --protocol sse"),
        format!("--mqtt-url mqtts://{mqtts}"),
        format!("--mqtt-url mqtts://{mqtts} --qos 2"),
    ]
}

#[track_caller]
fn refused(command: &mut Command, code: i32) -> String {
    let Output { status, stderr, .. } = output(command);
    let told = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

#[test]
fn what_is_published_over_tls_comes_over_tls_on_each_transport() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    for (index, to) in transports(&server).iter().enumerate() {
        let topic = format!("news/{index}");
        let publishing = to.replace(" --protocol sse", "");
        stdout(&mut trusting(
            &authority,
            &format!("pub {topic} one {publishing}"),
        ));
        // Several records of TLS.
        let large = "x".repeat(300_000);
        for (lines, text) in [("", large.clone()), (" --lines", "two\nthree\n".to_owned())] {
            let words = format!("pub {topic}{lines} {publishing}");
            let mut publisher = Background::start(&mut trusting(&authority, &words));
            publisher.stdin().write_all(text.as_bytes()).unwrap();
            assert!(publisher.child().wait().unwrap().success());
        }
        let wanted = ["one", &large, "two", "three"];
        let kept: Vec<Value> = server.history(&topic);
        let kept: Vec<_> = kept.iter().map(|message| &message["data"]).collect();
        assert_eq!(kept, wanted, "{to}");
        if to.contains("mqtts") {
            continue;
        }
        let words = format!("sub {topic} --after earliest --count 4 {to}");
        let got = stdout(&mut trusting(&authority, &words));
        assert!(got.lines().eq(wanted), "{to}");
    }
}

#[test]
fn a_subscriber_gets_what_is_published_meanwhile_and_outlives_a_restart() {
    let authority = Authority::new();
    let mut server = Server::start(Options::default().tls(&authority));
    for to in transports(&server) {
        let words = format!("sub live --count 2 {to}");
        let is_open = |server: &Server| server.metric("tidings_subscriptions", "") > 0.5;
        eventually("the one before is gone", PATIENCE, || !is_open(&server));
        let mut subscriber = Background::start(&mut trusting(&authority, &words));
        eventually("it is subscribed", PATIENCE, || is_open(&server));
        server.publish("live", "one");
        if !to.contains("mqtts") {
            // An MQTT subscription of a clean session has nothing to resume from.
            server = server.restart();
        }
        server.publish("live", "two");
        let child = subscriber.child();
        let told = child.stdout.take().map(std::io::read_to_string);
        assert_eq!(told.unwrap().unwrap(), "one\ntwo\n", "{to}");
    }
}

#[test]
fn measurements_go_over_tls() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let (https, mqtts) = (server.https(), server.mqtts());
    let before = failures(&server, "");
    for (words, count) in [
        ("fanout --protocol tidings", 400),
        ("fanout --protocol sse -k 4 --payload-bytes 40000", 400),
        ("fanout --protocol ws", 400),
        ("fanout --protocol mqtt --qos 0", 400),
        ("fanout --protocol mqtt --qos 1 -k 4", 400),
        ("publish --protocol tidings -k 4", 100),
        ("publish --protocol http", 100),
        ("publish --protocol mqtt", 100),
        ("idle --seconds 1", 4),
    ] {
        let url = if words.contains("mqtt") {
            format!("--mqtt-url mqtts://{mqtts}")
        } else {
            format!("--url https://{https}")
        };
        let words = format!("bench {words} -c 4 -m 100 --warmup 1 --json {url}");
        let told = stdout(&mut trusting(&authority, &words));
        let figures: Value = serde_json::from_str(&told).unwrap();
        let counted = ["deliveries", "publishes", "connections"]
            .iter()
            .find_map(|name| figures[name].as_u64());
        assert_eq!(counted, Some(count), "{words}: {told}");
    }
    assert_eq!(failures(&server, ""), before);
}

#[test]
fn a_server_of_another_authority_is_not_believed() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let stranger = Authority::new();
    for to in transports(&server) {
        for command in ["pub a b", "sub a"] {
            let to = if command.starts_with("pub") {
                to.replace(" --protocol sse", "")
            } else {
                to.clone()
            };
            let words = format!("{command} {to}");
            let told = refused(&mut trusting(&stranger, &words), 1);
            assert!(told.contains("--ca FILE"), "{words}: {told}");
        }
    }
    let words = format!("bench publish -c 2 -m 2 --url https://{}", server.https());
    let told = refused(&mut trusting(&stranger, &words), 1);
    assert!(told.contains("--ca FILE"), "{told}");
    // The lines of a pipeline are not dropped in silence.
    let words = format!("pub a --lines --url https://{}", server.https());
    let mut pipeline = Background::start(&mut trusting(&stranger, &words));
    pipeline.stdin().write_all(b"one\ntwo\n").unwrap();
    assert_eq!(pipeline.child().wait().unwrap().code(), Some(1));
    assert!(failures(&server, "alert") >= 10);
    assert!(server.history("%23").is_empty());
}

#[test]
fn a_certificate_for_another_host_is_not_believed() {
    let authority = Authority::new();
    let pair = authority.issue("elsewhere", "DNS:elsewhere.example,IP:127.0.0.99");
    let options = Options::default()
        .tls(&authority)
        .argument("--tls-cert")
        .argument(&pair.as_option());
    let server = Server::start(options);
    for to in transports(&server) {
        let told = refused(&mut trusting(&authority, &format!("sub a {to}")), 1);
        for word in ["elsewhere.example", &server.https().ip().to_string()] {
            assert!(told.contains(word), "{to}: {told}");
        }
    }
}

#[test]
fn the_systems_authorities_count_unless_others_are_named() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let words = format!("pub a b --url https://{}", server.https());
    stdout(bounded(&words).env("SSL_CERT_FILE", authority.ca()));
    let stranger = Authority::new();
    let told = refused(
        trusting(&stranger, &words).env("SSL_CERT_FILE", authority.ca()),
        1,
    );
    assert!(told.contains("untrusted-server"), "{told}");
    let nowhere = "/nowhere/roots.pem";
    let told = refused(
        bounded(&words)
            .env("SSL_CERT_FILE", nowhere)
            .env("SSL_CERT_DIR", "/nowhere"),
        2,
    );
    assert!(told.contains(nowhere) && told.contains("--ca"), "{told}");
}

#[test]
fn a_client_shows_its_certificate_to_a_server_that_asks() {
    let authority = Authority::new();
    let clients = Authority::new();
    let good = clients.issue("client", "DNS:client.example").as_option();
    let strangers = Authority::new();
    let stranger = strangers.issue("stranger", "DNS:client.example");
    let stranger = stranger.as_option();
    let options = Options::default()
        .tls(&authority)
        .set("tls.client_ca", clients.ca_argument());
    let server = Server::start(options);
    for to in transports(&server) {
        let words = format!("pub a b {}", to.replace(" --protocol sse", ""));
        stdout(trusting(&authority, &words).args(["--cert", &good]));
        let told = refused(trusting(&authority, &words).arg("--quiet"), 1);
        assert!(told.contains("--cert FILE"), "{told}");
        let mut command = trusting(&authority, &words);
        let told = refused(command.args(["--quiet", "--cert", &stranger]), 1);
        assert!(told.contains("bad-certificate"), "{told}");
    }
}

#[test]
fn files_and_addresses_that_do_not_fit_are_told_with_a_way_out() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let (ca, plain) = (authority.ca_argument(), server.address());
    let https = server.https();
    let port = |address: SocketAddr| address.port();
    assert_ne!(port(plain), port(https));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = empty.path().display();
    let own = binary();
    let own = own.display();
    for (words, code, expect) in [
        (format!("--url http://{plain} --ca {ca}"), 2, "https://"),
        (format!("--url https://{plain} --ca {ca}"), 1, "not-tls"),
        (format!("--url http://{https}"), 1, "https"),
        (
            format!("--url https://{https} --ca /nowhere"),
            2,
            "/nowhere",
        ),
        (
            format!("--url https://{https} --ca {empty}"),
            2,
            "CERTIFICATE",
        ),
        (format!("--url https://{https} --ca {own}"), 2, "tidings"),
        (
            format!("--url https://{https} --ca {ca} --cert {ca}"),
            2,
            "PRIVATE KEY",
        ),
        (
            format!("--url https://{https} --cert :"),
            2,
            "cert.pem:key.pem",
        ),
        ("--url https://a_b..c".to_owned(), 2, "a_b..c"),
    ] {
        let Output { status, stderr, .. } = output(&mut bounded(&format!("pub a b {words}")));
        let told = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{words}: {told}");
        assert!(told.contains(expect), "{words}: {told}");
    }
}
