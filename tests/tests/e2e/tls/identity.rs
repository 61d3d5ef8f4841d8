//! Who peers are by their certificates: every protocol, with clients that show one.

use std::fs;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::tls::{Authority, Pair, Pipe};
use tidings_e2e::tools::{Background, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{curl, failures};

const RULES: &str = r#"
[[rule]]
source = ["certificate"]
publish = ["devices/{sub}/#"]
subscribe = ["devices/{sub}/#"]

[[rule]]
source = ["jwt"]
publish = ["tokens/{sub}"]
"#;
const PLAIN: &str = "basicConstraints=CA:FALSE";

/// A server that knows its peers by their certificates, and by tokens.
struct Mutual {
    server: Server,
    authority: Authority,
    folder: TempDir,
}

impl Mutual {
    #[track_caller]
    fn start(names: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let rules = folder.path().join("rules");
        fs::write(&rules, RULES).unwrap();
        let secret = folder.path().join("secret").display().to_string();
        stdout(&mut tidings(&["token", "secret", &secret]));
        let mut options = Options::default()
            .tls(&authority)
            .set("tls.client_ca", authority.ca_argument())
            .set("tls.client_auth", "optional")
            .set("auth.client_certificates", names)
            .set("auth.jwt_secret_file", secret)
            .set("auth.permissions_file", rules.display())
            .set("auth.failures_max", 0)
            .set("server.shards", 3)
            .set("log_output.level", "debug");
        for (key, value) in settings {
            options = options.set(key, value);
        }
        Self {
            server: Server::start(options),
            authority,
            folder,
        }
    }

    fn pump(&self) -> Pair {
        self.authority.issue_to("pump", "/CN=pump", PLAIN, 3_600)
    }

    fn token(&self) -> String {
        let secret = self.folder.path().join("secret").display().to_string();
        let arguments = [
            "token",
            "mint",
            "ann",
            "--secret-file",
            &secret,
            "--expires-in",
            "1h",
        ];
        stdout(&mut tidings(&arguments)).trim().to_owned()
    }

    /// The status of a publish to the topic.
    #[track_caller]
    fn publish(&self, pair: Option<&Pair>, topic: &str, more: &[&str]) -> String {
        let mut command = curl(
            &self.authority,
            &["-w", "\n%{http_code}", "-d", "x", "--http1.1"],
        );
        if let Some(Pair { cert, key }) = pair {
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let url = self.server.https_url(&format!("/v1/topics/{topic}"));
        let text = stdout(command.args(more).arg(url));
        text.rsplit('\n').next().unwrap().to_owned()
    }

    fn mosquitto(&self, program: &str, pair: &Pair, arguments: &[&str]) -> Command {
        let address = self.server.mqtts();
        let mut command = Command::new(program);
        command
            .args(["-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()])
            .args(["--cafile", &self.authority.ca_argument()])
            .arg("--cert")
            .arg(&pair.cert)
            .arg("--key")
            .arg(&pair.key)
            .args(arguments);
        command
    }

    /// Whoever shows this certificate is nobody by it, and may show something else.
    #[track_caller]
    fn refuses(&self, subject: &str, extension: &str) {
        let authority = &self.authority;
        let pair = authority.issue_to("bad", subject, extension, 3_600);
        for topic in ["devices/pump/1", "devices/a/b/1"] {
            let status = self.publish(Some(&pair), topic, &[]);
            assert_eq!(status, "401", "{subject} {extension}");
        }
        let bearer = format!("Authorization: Bearer {}", self.token());
        let status = self.publish(Some(&pair), "tokens/ann", &["-H", &bearer]);
        assert_eq!(status, "201", "{subject} {extension}");
    }

    fn refused(&self, reason: &str) -> f64 {
        let label = format!("outcome=\"{reason}\"");
        self.server.metric("tidings_logins_total", &label)
    }
}

#[test]
fn curl_is_who_its_certificate_says_unless_it_shows_something_else() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    let publish = |pair, topic, more: &[&str]| mutual.publish(pair, topic, more);
    for version in ["--http1.1", "--http2"] {
        assert_eq!(publish(Some(&pump), "devices/pump/1", &[version]), "201");
    }
    assert_eq!(publish(Some(&pump), "devices/other/1", &[]), "403");
    assert_eq!(publish(None, "devices/pump/1", &[]), "401");
    let bearer = format!("Authorization: Bearer {}", mutual.token());
    let token = ["-H", bearer.as_str()];
    assert_eq!(publish(Some(&pump), "tokens/ann", &token), "201");
    assert_eq!(publish(Some(&pump), "devices/pump/1", &token), "403");
    for wrong in [&["-H", "Authorization: Bearer wrong"][..], &["-u", "pump:"]] {
        assert_eq!(publish(Some(&pump), "devices/pump/1", wrong), "401");
    }
    // What comes without TLS has no certificate.
    let plain = tidings_e2e::http::post(mutual.server.address(), "/v1/topics/devices/pump/1", b"x");
    plain.assert_problem(401, "unauthorized");
    // A stream, and a WebSocket, which stay.
    let mut command = curl(
        &mutual.authority,
        &["-N", "-H", "Accept: text/event-stream"],
    );
    command
        .arg("--cert")
        .arg(&pump.cert)
        .arg("--key")
        .arg(&pump.key);
    let url = mutual.server.https_url("/v1/topics/devices/pump/1?last=1");
    let mut stream = Background::start(command.arg(url));
    let lines = std::io::BufReader::new(stream.child().stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines).map_while(Result::ok);
    assert!(lines.any(|line| line == "data: x"));
}

#[test]
fn a_websocket_is_its_holders_until_a_token_takes_its_place() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap();
    let mut peer = Peer::node("websocket.mjs", &[]);
    let options = json!({
        "ca": read(&mutual.authority.ca()), "cert": read(&pump.cert), "key": read(&pump.key),
    });
    let url = mutual.server.wss_url("/v1/ws");
    let line = peer.ask(&json!({"open": url, "protocols": ["tidings.v1"], "options": options}));
    assert_eq!(line["open"]["protocol"], "tidings.v1", "{line}");
    let mut ask = |op: serde_json::Value| {
        let line = peer.ask(&json!({"send": op.to_string()}));
        serde_json::from_str::<serde_json::Value>(line["message"].as_str().unwrap()).unwrap()
    };
    let publish = |topic: &str| json!({"op": "publish", "topic": topic, "data": "x", "id": "1"});
    assert!(ask(publish("devices/pump/1"))["code"].is_null());
    assert_eq!(ask(publish("tokens/ann"))["code"], "forbidden");
    let answer = ask(json!({"op": "auth", "token": mutual.token(), "id": "2"}));
    assert!(answer["code"].is_null(), "{answer}");
    assert_eq!(ask(publish("devices/pump/1"))["code"], "forbidden");
    assert!(ask(publish("tokens/ann"))["code"].is_null());
    // Not back again.
    assert_eq!(
        ask(json!({"op": "auth", "id": "3"}))["code"],
        "unauthorized"
    );
}

#[test]
fn a_reload_leaves_the_holders_of_certificates_in_and_grants_them_what_is_new() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    let mut peer = Peer::node("mqtt.mjs", &[]);
    let file = |path: &std::path::Path| path.display().to_string();
    let connect = json!({
        "url": format!("mqtts://{}", mutual.server.mqtts()), "version": 5, "id": "stays",
        "ca": file(&mutual.authority.ca()), "cert": file(&pump.cert), "key": file(&pump.key),
    });
    let line = peer.ask(&json!({"connect": connect}));
    assert!(!line["connected"].is_null(), "{line}");
    let subscribe = json!({"subscribe": "new/pump", "qos": 1});
    let line = peer.ask(&subscribe);
    assert_ne!(line["subscribed"], json!([1]), "{line}");
    let rules =
        format!("{RULES}\n[[rule]]\nsource = [\"certificate\"]\nsubscribe = [\"new/{{sub}}\"]\n");
    fs::write(mutual.folder.path().join("rules"), rules).unwrap();
    mutual.server.reload();
    let looked = |line: &String| line.contains("looked at again");
    eventually("all were looked at", PATIENCE, || {
        mutual.server.log().iter().any(looked)
    });
    let line = peer.ask(&subscribe);
    assert_eq!(line["subscribed"], json!([1]), "{line}");
}

#[test]
fn a_page_that_is_read_with_a_certificate_is_for_its_holder_alone() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    assert_eq!(mutual.publish(Some(&pump), "devices/pump/1", &[]), "201");
    let mut command = curl(&mutual.authority, &["-i"]);
    command.arg("--cert").arg(&pump.cert);
    command.arg("--key").arg(&pump.key);
    let url = mutual
        .server
        .https_url("/v1/topics/devices/pump/1?after=earliest");
    let answer = stdout(command.arg(url)).to_lowercase();
    assert!(answer.contains("cache-control: private"), "{answer}");
}

#[test]
fn mqtt_clients_are_who_their_certificate_says() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        // Sessions live on every shard, and the identity goes where they are.
        for number in 0..6 {
            let id = format!("id-{number}");
            let arguments = [
                "-V",
                version,
                "-q",
                "1",
                "-i",
                &id,
                "-t",
                "devices/pump/1",
                "-m",
                "x",
            ];
            stdout(&mut mutual.mosquitto("mosquitto_pub", &pump, &arguments));
            // A user name alone is no credential; with a password it is.
            let named = [&arguments[..], &["-u", "whoever"]].concat();
            stdout(&mut mutual.mosquitto("mosquitto_pub", &pump, &named));
            let wrong = [&named[..], &["-P", "wrong"]].concat();
            let refused = output(&mut mutual.mosquitto("mosquitto_pub", &pump, &wrong));
            assert!(!refused.status.success());
        }
    }
    let arguments = ["-V", "mqttv5", "-q", "1", "-t", "devices/other", "-m", "x"];
    output(&mut mutual.mosquitto("mosquitto_pub", &pump, &arguments));
    let history = mutual.server.metric("tidings_published_total", "mqtt");
    assert!((history - 36.0).abs() < 0.5, "{history}");

    let file = |path: &std::path::Path| path.display().to_string();
    for open in [
        || Peer::node("mqtt.mjs", &[]),
        || Peer::python("paho_client.py", &[]),
    ] {
        for url in [
            format!("mqtts://localhost:{}", 0),
            mutual.server.wss_url("/mqtt"),
        ] {
            let url = url.replace("localhost:0", &mutual.server.mqtts().to_string());
            let mut peer = open();
            let connect = json!({
                "url": url, "version": 5, "id": "library", "ca": file(&mutual.authority.ca()),
                "cert": file(&pump.cert), "key": file(&pump.key),
            });
            let line = peer.ask(&json!({"connect": connect}));
            assert!(!line["connected"].is_null(), "{url}: {line}");
            let line = peer.ask(&json!({"subscribe": "devices/pump/#", "qos": 1}));
            assert_eq!(line["subscribed"], json!([1]), "{url}: {line}");
            let line = peer.ask(&json!({"subscribe": "devices/#", "qos": 1}));
            assert_ne!(line["subscribed"], json!([1]), "{url}: {line}");
        }
    }
}

#[test]
fn stomp_clients_are_who_their_certificate_says() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    let file = |path: &std::path::Path| path.display().to_string();
    for (mut peer, url) in [
        (
            Peer::node("stomp.mjs", &[]),
            mutual.server.wss_url("/stomp"),
        ),
        (
            Peer::python("stomp_client.py", &[]),
            format!("stomps://{}", mutual.server.stomps()),
        ),
    ] {
        let connect = json!({
            "url": url, "versions": ["1.2"], "ca": file(&mutual.authority.ca()),
            "cert": file(&pump.cert), "key": file(&pump.key),
        });
        let line = peer.ask(&json!({"connect": connect}));
        assert_eq!(line["connected"]["version"], "1.2", "{url}: {line}");
        let subscribe = json!({"subscribe": "/topic/devices/pump/#", "id": "0"});
        let line = peer.ask(&subscribe);
        assert_eq!(line["done"], "subscribe", "{url}: {line}");
    }
    let arguments = ["-cert", &file(&pump.cert), "-key", &file(&pump.key)];
    let frames = "CONNECT\naccept-version:1.2\nhost:x\nlogin:whoever\n\n\0SEND\ndestination:/topic/devices/other\n\nx\0";
    let pipe = Pipe::open(mutual.server.stomps(), &mutual.authority, &arguments);
    let (answer, told) = pipe.exchange(frames.as_bytes());
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("CONNECTED"), "{answer} {told}");
    assert!(answer.contains("tidings-code:forbidden"), "{answer}");
}

#[test]
fn certificates_that_do_not_say_whose_they_are_are_refused() {
    let san = |names: &str| format!("{PLAIN}\nsubjectAltName={names}");
    for (names, good, bad) in [
        (
            "subject-cn",
            ("/CN=pump", PLAIN.to_owned(), "pump"),
            vec![
                ("/O=nobody", PLAIN.to_owned()),
                ("/CN=pump/CN=other", PLAIN.to_owned()),
                ("/CN=a\\/b", PLAIN.to_owned()),
                ("/CN=a\\+b", PLAIN.to_owned()),
                ("/CN=#", PLAIN.to_owned()),
                ("/CN=$SYS", PLAIN.to_owned()),
                ("/CN=a\u{1}b", PLAIN.to_owned()),
                ("/O=nobody", san("DNS:pump")),
            ],
        ),
        (
            "san-dns",
            (
                "/CN=x",
                san("DNS:Pump.example,email:a@example.org"),
                "pump.example",
            ),
            vec![
                ("/CN=pump", PLAIN.to_owned()),
                ("/CN=pump", san("email:pump@example.org")),
                ("/CN=pump", san("DNS:a.example,DNS:b.example")),
            ],
        ),
        (
            "san-email",
            (
                "/CN=x",
                san("email:pump@example.org,DNS:other"),
                "pump@example.org",
            ),
            vec![("/CN=pump", san("email:a@example.org,email:b@example.org"))],
        ),
        (
            "san-uri",
            ("/CN=x", san("URI:urn:pump,DNS:other"), "urn:pump"),
            vec![
                ("/CN=pump", san("DNS:other")),
                // It has a name, but no filter takes it.
                ("/CN=pump", san("URI:spiffe://example.org/pump")),
            ],
        ),
    ] {
        let mutual = Mutual::start(names, &[]);
        let (subject, extension, name) = good;
        let pair = mutual
            .authority
            .issue_to("good", subject, &extension, 3_600);
        let topic = format!("devices/{name}/1");
        assert_eq!(mutual.publish(Some(&pair), &topic, &[]), "201", "{names}");
        let count = bad.len() as f64;
        for (subject, extension) in bad {
            mutual.refuses(subject, &extension);
        }
        let refused = mutual.refused("certificate") + mutual.refused("template");
        assert!((refused - 2.0 * count).abs() < 0.5, "{names}: {refused}");
    }
}

#[test]
fn the_end_of_a_certificate_is_the_end_of_its_connections() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pair = mutual.authority.issue_to("short", "/CN=pump", PLAIN, 8);
    let arguments = ["-V", "mqttv5", "-t", "devices/pump/#", "-W", "60"];
    let mut listener = mutual.mosquitto("mosquitto_sub", &pair, &arguments);
    // Without an end it would listen on for a minute.
    let told = output(&mut listener);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let ended = mutual
        .server
        .metric("tidings_refusals_total", "unauthorized");
    assert!(ended >= 1.0, "{told}");
    // From then on there is no handshake with it.
    let mut command = curl(&mutual.authority, &[&mutual.server.https_url("/healthz")]);
    command
        .arg("--cert")
        .arg(&pair.cert)
        .arg("--key")
        .arg(&pair.key);
    eventually("it is refused", PATIENCE, || {
        !output(&mut command).status.success()
    });
    assert!(failures(&mutual.server, "bad-certificate") >= 1);
}

#[test]
fn a_session_that_is_resumed_has_the_certificate_of_the_first() {
    let mutual = Mutual::start("subject-cn", &[]);
    let pump = mutual.pump();
    let request = "POST /v1/topics/devices/pump/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
    for version in ["-tls1_2", "-tls1_3"] {
        let file = mutual.folder.path().join(version).display().to_string();
        let (cert, key) = (
            pump.cert.display().to_string(),
            pump.key.display().to_string(),
        );
        let arguments = [version, "-sess_out", &file, "-cert", &cert, "-key", &key];
        let pipe = Pipe::open(mutual.server.https(), &mutual.authority, &arguments);
        let (answer, told) = pipe.exchange(request.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 201"), "{told}");
        for (arguments, expect) in [
            (&[version, "-sess_in", &file][..], &b"HTTP/1.1 201"[..]),
            (&[version], b"HTTP/1.1 401"),
        ] {
            let pipe = Pipe::open(mutual.server.https(), &mutual.authority, arguments);
            let (answer, told) = pipe.exchange(request.as_bytes());
            let shown = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with(expect), "{arguments:?}: {shown} {told}");
        }
    }
}

#[test]
fn certificates_that_were_taken_back_are_refused() {
    let mutual = Mutual::start("subject-cn", &[]);
    let (good, bad) = (
        mutual.authority.issue_to("good", "/CN=pump", PLAIN, 3_600),
        mutual.authority.issue_to("bad", "/CN=pump", PLAIN, 3_600),
    );
    let list = mutual.authority.revocation_list(3_600);
    let rules = mutual.folder.path().join("rules");
    let options = Options::default()
        .tls(&mutual.authority)
        .set("tls.client_ca", mutual.authority.ca_argument())
        .set("tls.client_crl", list.display())
        .set("tls.watch_ms", 100)
        .set("auth.client_certificates", "subject-cn")
        .set("auth.permissions_file", rules.display());
    let mutual = Mutual {
        server: mutual.server.restart_with(options),
        ..mutual
    };
    let attempt = |pair: &Pair| {
        let url = mutual.server.https_url("/v1/topics/devices/pump/1");
        let mut command = curl(&mutual.authority, &["--fail", "-d", "x", &url]);
        command
            .arg("--cert")
            .arg(&pair.cert)
            .arg("--key")
            .arg(&pair.key);
        output(&mut command).status.success()
    };
    assert!(attempt(&good) && attempt(&bad));
    mutual.authority.revoke(&bad);
    mutual.authority.revocation_list(3_600);
    eventually("it is refused", PATIENCE, || !attempt(&bad));
    assert!(attempt(&good));
    assert!(failures(&mutual.server, "bad-certificate") >= 1);
    // A list that is out of date says nothing of who is good.
    mutual.authority.revocation_list(1);
    eventually("nobody is let in", PATIENCE, || !attempt(&good));
    mutual.authority.revocation_list(3_600);
    eventually("until there is a new one", PATIENCE, || attempt(&good));
}
