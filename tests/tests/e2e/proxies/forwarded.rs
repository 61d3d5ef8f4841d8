//! Whose a request is, by the header of a proxy.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use serde_json::json;
use tidings_e2e::http::Request;
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::sse::EventStream;
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::{Background, curl, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{await_client, knows};

fn options() -> Options {
    trusting("127.0.0.1,10.0.0.0/8,fd00::/8")
}

fn trusting(trusted: &str) -> Options {
    Options::default()
        .set("proxy.trusted", trusted)
        .set("log_output.level", "debug")
}

/// Opens a stream with these header lines, and closes it.
#[track_caller]
fn stream(server: &Server, name: &str, lines: &[&str]) {
    let mut request = Request::get("/v1/topics/a");
    for line in lines {
        request = request.header(name, line);
    }
    drop(EventStream::send(server.address(), request));
}

#[test]
fn what_a_client_writes_itself_does_not_count() {
    let server = Server::start(options());
    for (lines, expect) in [
        (&["203.0.113.1"][..], "203.0.113.1"),
        // A list that the client began, and one in several lines.
        (&["198.51.100.1, 203.0.113.2"], "203.0.113.2"),
        (&["198.51.100.2", "203.0.113.3"], "203.0.113.3"),
        (
            &["198.51.100.3", "203.0.113.4, 10.0.0.1", "10.0.0.2"],
            "203.0.113.4",
        ),
        (
            &["  198.51.100.4 ,\t203.0.113.5\t, 10.0.0.1  "],
            "203.0.113.5",
        ),
        (&["203.0.113.6:40000"], "203.0.113.6"),
        (&["[2001:db8::7]:40000, fd00::1"], "2001:db8::7"),
        (&["2001:db8::8"], "2001:db8::8"),
        // Up to where it can be read, and no further.
        (&["198.51.100.5, unknown, 10.0.0.11"], "10.0.0.11"),
        (&["198.51.100.6, _hidden", "10.0.0.12"], "10.0.0.12"),
        (&["198.51.100.7, 203.0.113.256, 10.0.0.13"], "10.0.0.13"),
        (&["198.51.100.8, a b, 10.0.0.14"], "10.0.0.14"),
        (&["10.0.0.15, 10.0.0.16"], "10.0.0.15"),
        (&["_x"], "127.0.0.1"),
    ] {
        stream(&server, "X-Forwarded-For", lines);
        await_client(&server, expect);
    }
    let log = server.log().join("\n");
    assert!(!log.contains("198.51.100."));
    for (reason, expect) in [("hidden", 3.0), ("malformed", 2.0)] {
        let count = server.metric("tidings_forwarded_ignored_total", reason);
        assert!((count - expect).abs() < 0.5, "{reason}: {count}");
    }
    // The other header is whatever the client wrote.
    stream(&server, "Forwarded", &["for=198.51.100.9"]);
    let server = server.restart_with(options().set("proxy.header", "forwarded"));
    stream(&server, "X-Forwarded-For", &["198.51.100.10"]);
    stream(
        &server,
        "Forwarded",
        &["for=\"[2001:db8::20]:1\";proto=https, for=10.0.0.1"],
    );
    await_client(&server, "2001:db8::20");
    assert!(!server.log().join("\n").contains("198.51.100."));
}

#[test]
fn a_peer_that_is_not_trusted_is_not_believed() {
    let server = Server::start(trusting("10.0.0.0/8"));
    stream(&server, "X-Forwarded-For", &["203.0.113.1"]);
    await_client(&server, "127.0.0.1");
    assert!(!knows(&server, "203.0.113.1"));
    // Until it is; no restart is needed for it.
    let config = |trusted: &str| {
        format!("[proxy]\ntrusted = [{trusted:?}]\n[log_output]\nlevel = \"debug\"\n")
    };
    let server = Server::start(Options::default().config(&config("10.0.0.0/8")));
    server.write_config(&config("127.0.0.0/8"));
    server.reload();
    eventually("it is trusted", PATIENCE, || {
        stream(&server, "X-Forwarded-For", &["203.0.113.2"]);
        knows(&server, "203.0.113.2")
    });
}

#[test]
fn websockets_are_their_clients() {
    let server = Server::start(options().set("limits.connections_per_address_max", 1));
    let open = |path: &str, protocol: &str, client: &str| {
        let mut peer = Peer::node("websocket.mjs", &[]);
        let headers = json!({"headers": {"X-Forwarded-For": client}});
        let url = server.ws_url(path);
        let line = peer.ask(&json!({"open": url, "protocols": [protocol], "options": headers}));
        (peer, line)
    };
    let (_first, line) = open("/v1/ws", "tidings.v1", "203.0.113.1");
    assert_eq!(line["open"]["protocol"], "tidings.v1", "{line}");
    await_client(&server, "203.0.113.1");
    let (_second, line) = open("/stomp", "v12.stomp", "203.0.113.2");
    assert_eq!(line["open"]["protocol"], "v12.stomp", "{line}");
    await_client(&server, "203.0.113.2");
    // Each as a connection of its own.
    let (_third, line) = open("/v1/ws", "tidings.v1", "203.0.113.1");
    assert_eq!(line["refused"]["status"], 503, "{line}");
    // Also where the connection moves to its session's shard.
    for number in 10..18 {
        let client = format!("203.0.113.{number}");
        let (mut peer, line) = open("/mqtt", "mqtt", &client);
        assert_eq!(line["open"]["protocol"], "mqtt", "{line}");
        let connect = format!("\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02{number}");
        peer.ask(&json!({"sendBinary": base64(&connect)}));
        await_client(&server, &client);
        let (_other, line) = open("/mqtt", "mqtt", &client);
        assert_eq!(line["refused"]["status"], 503, "{line}");
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn streams_over_http_2_are_counted_for_their_clients() {
    let server = Server::start(options().set("limits.connections_per_address_max", 1));
    let url = server.url("/v1/topics/a?after=earliest");
    server.publish("a", "x");
    let arguments = |client: &str| {
        let header = format!("X-Forwarded-For: {client}");
        let mut command = curl(&["--http2-prior-knowledge", "-N", "-H", &header]);
        command.args(["-H", "Accept: text/event-stream", &url]);
        command
    };
    let open = |client: &str| {
        let mut program = Background::start(&mut arguments(client));
        let lines = BufReader::new(program.child().stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let found = lines.find(|line| line.starts_with("data: "));
        assert_eq!(found.as_deref(), Some("data: x"));
        program
    };
    let told = |client: &str| {
        let mut command = arguments(client);
        command.args(["--max-time", "1", "-o", "/dev/null"]);
        command.args(["-w", "%{http_code} %header{tidings-refused}"]);
        let output = tidings_e2e::tools::output(&mut command);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = open("203.0.113.1");
    let _second = open("203.0.113.2");
    assert_eq!(told("203.0.113.1"), "200 at-capacity");
    drop(first);
    eventually("the place is free again", PATIENCE, || {
        told("203.0.113.1") == "200 "
    });
}

#[test]
fn failed_logins_slow_down_the_client_and_not_the_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret").display().to_string();
    stdout(&mut tidings(&["token", "secret", &secret]));
    let options = options()
        .set("auth.jwt_secret_file", &secret)
        .set("auth.failures_max", 1);
    let server = Server::start(options);
    let guess = |client: &str| {
        let begun = Instant::now();
        let answer = Request::get("/v1/topics/a")
            .header("Authorization", "Bearer wrong")
            .header("X-Forwarded-For", client)
            .send(server.address());
        answer.assert_problem(401, "unauthorized");
        begun.elapsed()
    };
    for (number, delay_ms) in [0, 250, 500, 1_000, 2_000].into_iter().enumerate() {
        // What the guesser writes in front changes nothing.
        let took = guess(&format!("198.51.100.{number}, 203.0.113.1"));
        assert!(took >= Duration::from_millis(delay_ms), "{took:?}");
    }
    // Now it would wait for four seconds; its neighbour does not.
    assert!(guess("203.0.113.2") < Duration::from_secs(3));
}

#[test]
fn a_page_behind_a_proxy_with_tls_is_of_the_same_origin() {
    let server = Server::start(options());
    for (origin, host, expect) in [
        ("https://push.example", "push.example", 201),
        ("https://push.example:8443", "push.example:8443", 201),
        ("https://evil.example", "push.example", 403),
    ] {
        let text = format!(
            "POST /v1/topics/a HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nX-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: https\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
        );
        let mut socket = tidings_e2e::http::connect(server.address()).unwrap();
        std::io::Write::write_all(&mut socket, text.as_bytes()).unwrap();
        let answer = tidings_e2e::http::Opened::read(socket).unwrap();
        assert_eq!(answer.status, expect, "{origin}");
    }
}

#[test]
fn the_certificate_of_a_proxy_is_not_its_clients() {
    let authority = Authority::new();
    let pair = authority.issue("gateway", "DNS:gateway");
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules");
    std::fs::write(&rules, "[[rule]]\npublish = [\"a\"]\n").unwrap();
    let options = options()
        .tls(&authority)
        .set("tls.client_ca", authority.ca_argument())
        .set("auth.client_certificates", "subject-cn")
        .set("auth.permissions_file", rules.display());
    let server = Server::start(options);
    let publish = |headers: &[&str]| {
        let mut command = curl(&[
            "--http1.1",
            "--cacert",
            &authority.ca_argument(),
            "-w",
            "\n%{http_code}",
        ]);
        command
            .arg("--cert")
            .arg(&pair.cert)
            .arg("--key")
            .arg(&pair.key);
        command
            .args(headers)
            .args(["-d", "x", &server.https_url("/v1/topics/a")]);
        let text = stdout(&mut command);
        text.rsplit('\n').next().unwrap().to_owned()
    };
    assert_eq!(publish(&[]), "201");
    for header in ["203.0.113.1", "unknown", "?"] {
        assert_eq!(
            publish(&["-H", &format!("X-Forwarded-For: {header}")]),
            "401"
        );
    }
}
