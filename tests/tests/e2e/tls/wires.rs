//! What goes over TLS, by programs that speak it their own way.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;

use tidings_e2e::http::connect;
use tidings_e2e::server::tidings;
use tidings_e2e::tls::{Authority, Pipe, s_client};
use tidings_e2e::tools::{Background, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually, spawn};

use super::{curl, failures};

const VERSIONS: [(&str, &str); 2] = [("--http1.1", "1.1"), ("--http2", "2")];

/// A stream that curl reads in the background.
struct Stream {
    /// Killed when this is dropped.
    _program: Background,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Stream {
    #[track_caller]
    fn open(authority: &Authority, arguments: &[&str]) -> Self {
        let mut command = curl(authority, &["-N", "-H", "Accept: text/event-stream"]);
        let mut program = Background::start(command.args(arguments));
        let stdout = program.child().stdout.take().unwrap();
        Self {
            _program: program,
            lines: Box::new(BufReader::new(stdout).lines().map_while(Result::ok)),
        }
    }

    /// The data of the next event.
    #[track_caller]
    fn data(&mut self) -> String {
        let data = self.lines.by_ref();
        let line = data.find(|line| line.starts_with("data: "));
        line.expect("the stream goes on")["data: ".len()..].to_owned()
    }
}

#[test]
fn a_refusal_ahead_of_the_body_reaches_curl() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret").display().to_string();
    stdout(&mut tidings(&["token", "secret", &secret]));
    let options = Options::default().tls(&authority);
    let server = Server::start(options.set("auth.jwt_secret_file", &secret));
    let url = server.https_url("/v1/topics/news");
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'x'; 200_000]).unwrap();
    let large = format!("@{}", large.display());
    for body in ["x", &large] {
        for _ in 0..10 {
            let bearer = "Authorization: Bearer not.a.token";
            let arguments = ["--http2", "-H", bearer, "--data-binary", body, &url];
            let answer = stdout(curl(&authority, &arguments).args(["-w", "%{http_code}"]));
            assert!(
                answer.contains("unauthorized") && answer.ends_with("401"),
                "{answer}"
            );
        }
    }
}

#[test]
fn curl_publishes_and_follows_by_the_version_that_it_asks_for() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let url = server.https_url("/v1/topics/news");
    let folder = tempfile::tempdir().unwrap();
    for (flag, version) in VERSIONS {
        server.publish("news", version);
        let mut stream = Stream::open(&authority, &[flag, &format!("{url}?last=1")]);
        // Now it is there.
        assert_eq!(stream.data(), version);
        for text in ["one", "two"] {
            let arguments = [flag, "-w", "\n%{http_version}", "-d", text, &url];
            let answer = stdout(&mut curl(&authority, &arguments));
            assert!(answer.ends_with(&format!("\n{version}")), "{answer}");
            assert_eq!(stream.data(), text);
        }
        // Of any size up to the limit, in both directions.
        let large = "0123456789".repeat(90_000);
        let file = folder.path().join("large");
        std::fs::write(&file, &large).unwrap();
        let from = format!("@{}", file.display());
        let arguments = [flag, "--data-binary", &from, &url];
        stdout(&mut curl(&authority, &arguments));
        assert!(stream.data() == large, "{} bytes", large.len());
    }
    assert_eq!(server.history("news").len(), 8);
}

#[test]
fn a_reader_that_stops_gets_everything_later_over_tls() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let url = server.https_url("/v1/topics/flood?after=earliest");
    let mut streams = VERSIONS.map(|(flag, _)| Stream::open(&authority, &[flag, &url]));
    // Far more than the pipe, the sockets and the outbox hold.
    let text = |number: usize| format!("{number:08} {}", "x".repeat(1_000));
    for batch in 0..20 {
        let texts: Vec<String> = (batch * 1_000..(batch + 1) * 1_000).map(text).collect();
        server.publish_batch("flood", &texts);
    }
    let lagged = server.metric("tidings_subscriptions_lagged_total", "");
    assert!(lagged >= 1.0, "one fell behind");
    for stream in &mut streams {
        for number in 0..20_000 {
            assert_eq!(stream.data(), text(number));
        }
    }
}

/// Passes bytes on, to the server in pieces of all sizes, so that records come in halves and many at once.
fn chop(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut server = connect(to).unwrap();
            let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            spawn(move || {
                std::io::copy(&mut back, &mut forth).unwrap_or_default();
                forth.shutdown(Shutdown::Both).unwrap_or_default();
            });
            spawn(move || {
                let mut bytes = vec![0; 200_000];
                for size in [1, 4, 5, 6, 100, 4_096, 16_384, 3, 70_000, 200_000, 16_389]
                    .iter()
                    .cycle()
                {
                    match client.read(&mut bytes[..*size]) {
                        Ok(read @ 1..) if server.write_all(&bytes[..read]).is_ok() => {}
                        _ => return server.shutdown(Shutdown::Write).unwrap_or_default(),
                    }
                }
            });
        }
    });
    address
}

#[test]
fn records_in_pieces_and_many_at_once_arrive_whole() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let to = format!("localhost:443:{}", chop(server.https()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let mut expect = Vec::new();
    for (flag, _) in VERSIONS {
        for bytes in [0, 1, 16_383, 16_384, 16_385, 70_000, 1 << 20] {
            let text: String = (0..bytes)
                .map(|n| char::from(b'a' + (n % 23) as u8))
                .collect();
            std::fs::write(&file, &text).unwrap();
            let from = format!("@{}", file.display());
            let url = "https://localhost/v1/topics/pieces";
            let arguments = [
                flag,
                "--fail",
                "--connect-to",
                &to,
                "--data-binary",
                &from,
                url,
            ];
            stdout(&mut curl(&authority, &arguments));
            expect.push(text);
        }
    }
    let stored = server.history("pieces");
    let stored: Vec<&str> = stored
        .iter()
        .map(|message| message["data"].as_str().unwrap())
        .collect();
    assert!(stored == expect, "all of them, as they were sent");

    // STOMP is read by another path: the one of connections that stay.
    let address = chop(server.stomps());
    let mut frames = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0".to_vec();
    for text in &expect {
        frames.extend_from_slice(b"SEND\ndestination:/topic/frames\n\n");
        frames.extend_from_slice(text.as_bytes());
        frames.push(0);
    }
    frames.extend_from_slice(b"DISCONNECT\nreceipt:end\n\n\0");
    let pipe = Pipe::open(address, &authority, &["-servername", "localhost"]);
    let (answer, told) = pipe.exchange(&frames);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("receipt-id:end"), "{answer} {told}");
    let stored = server.history("frames");
    let stored: Vec<&str> = stored
        .iter()
        .map(|message| message["data"].as_str().unwrap())
        .collect();
    assert!(stored == expect, "all of them, as they were sent");
}

#[test]
fn connections_end_with_the_word_that_they_end() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let mqtt_connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x";
    for (address, bytes, expect) in [
        (
            server.https(),
            &b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..],
            &b"HTTP/1.1 200 OK"[..],
        ),
        // Refused before hyper sees it.
        (server.https(), b"GET / HTTP/7\r\n\r\n", b"HTTP/1.1 505"),
        (
            server.mqtts(),
            &[&mqtt_connect[..], b"\xe0\x00"].concat(),
            b"\x20\x02\x00\x00",
        ),
        (
            server.stomps(),
            b"CONNECT\naccept-version:1.2\nhost:x\n\n\0SEND\n\n\0",
            b"CONNECTED\nversion:1.2",
        ),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let pipe = Pipe::open(address, &authority, &[version]);
            let (answer, told) = pipe.exchange(bytes);
            assert!(
                answer.starts_with(expect),
                "{:?} {told}",
                String::from_utf8_lossy(&answer)
            );
            // What OpenSSL says of a connection that may have been cut by somebody else.
            assert!(!told.contains("unexpected eof"), "{told}");
        }
    }
}

#[test]
fn versions_below_the_minimum_are_refused() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    for (flag, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let told = output(&mut s_client(server.mqtts(), &authority, &[flag]));
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(
            told.contains(&format!("Protocol version: {name}")),
            "{told}"
        );
    }
    let server = server.restart_with(
        Options::default()
            .tls(&authority)
            .set("tls.version_min", "1.3"),
    );
    for (flag, good) in [("-tls1_2", false), ("-tls1_3", true)] {
        let result = output(&mut s_client(server.mqtts(), &authority, &[flag]));
        assert_eq!(result.status.success(), good, "{flag}");
    }
    assert!(failures(&server, "incompatible") >= 1);
}

#[test]
fn sessions_are_resumed_by_tickets() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let folder = tempfile::tempdir().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let file = folder.path().join(version).display().to_string();
        let pipe = Pipe::open(server.https(), &authority, &[version, "-sess_out", &file]);
        pipe.exchange(request);
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &server.https().to_string()])
            .args([version, "-sess_in", &file]);
        let told = stdout(&mut command);
        assert!(told.contains("Reused, TLSv1."), "{told}");
    }
}

#[test]
fn mosquitto_publishes_and_receives_over_tls() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let address = server.mqtts();
    let mosquitto = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(["-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()])
            .args(["--cafile", &authority.ca_argument()])
            .args(arguments);
        command
    };
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let arguments = ["-V", version, "-t", "m", "-q", "1", "-r", "-m", version];
        stdout(&mut mosquitto("mosquitto_pub", &arguments));
        let arguments = ["-V", version, "-t", "m", "-C", "1", "-W", "60"];
        let got = stdout(&mut mosquitto("mosquitto_sub", &arguments));
        assert_eq!(got.trim(), version);
    }
    // Whoever does not trust the certificate sends nothing, and the server says why it counts a failure.
    let others = Authority::new();
    let mut command = Command::new("mosquitto_pub");
    command
        .args(["-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .args(["--cafile", &others.ca_argument(), "-t", "m", "-m", "no"]);
    assert!(!output(&mut command).status.success());
    eventually("the failure is counted", PATIENCE, || {
        failures(&server, "alert") + failures(&server, "closed") >= 1
    });
}
