//! The PROXY protocol on every listener.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::process::Command;

use tidings_e2e::http::{Opened, connect};
use tidings_e2e::tls::{Authority, Pipe};
use tidings_e2e::tools::{Background, curl, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually, metrics, spawn};

use super::{await_client, knows};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x\xe0\x00";
const STOMP: &[u8] = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0SEND\n\n\0";
const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A connection of this client, in version 1.
fn line(client: &str) -> Vec<u8> {
    let family = if client.contains(':') {
        "TCP6 "
    } else {
        "TCP4 "
    };
    let server = if client.contains(':') {
        "::1"
    } else {
        "192.0.2.9"
    };
    format!("PROXY {family}{client} {server} 40000 443\r\n").into_bytes()
}

/// In version 2, with an extension that nobody needs.
fn binary(client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[192, 0, 2, 9, 0x9c, 0x40, 1, 0xbb]].concat();
    let extension = [&[0x02, 0, 9][..], b"push.test"].concat();
    [V2, b"\x21\x11\0\x18", &addresses, &extension].concat()
}

fn binary6(client: &str) -> Vec<u8> {
    let client: Ipv6Addr = client.parse().unwrap();
    [V2, b"\x21\x21\0\x24", &client.octets(), &[0; 20]].concat()
}

fn options() -> Options {
    Options::default()
        .set("proxy.trusted", "127.0.0.1")
        .set("proxy.protocol", "http,https,mqtt,mqtts,stomp,stomps")
        .set("log_output.level", "debug")
}

/// A number of a server whose port is behind a balancer.
#[track_caller]
fn metric(server: &Server, name: &str, label: &str) -> f64 {
    let page = stdout(&mut curl(&["--haproxy-protocol", &server.url("/metrics")]));
    metrics::sum(&page, name, label)
}

/// Passes connections on with this header in front, in pieces, as a balancer may.
fn balancer(to: SocketAddr, header: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut server = connect(to).unwrap();
            for piece in header.chunks(7) {
                server.write_all(piece).unwrap_or_default();
            }
            let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            spawn(move || {
                std::io::copy(&mut back, &mut forth).unwrap_or_default();
                forth.shutdown(Shutdown::Both).unwrap_or_default();
            });
            spawn(move || {
                std::io::copy(&mut client, &mut server).unwrap_or_default();
                server.shutdown(Shutdown::Write).unwrap_or_default();
            });
        }
    });
    address
}

/// Sends bytes and reads to the end, which may be a reset.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    answer
}

#[test]
fn the_header_says_whose_a_connection_is_on_every_listener() {
    let authority = Authority::new();
    let server = Server::start(options().tls(&authority));
    let stream = ["-N", "-H", "Accept: text/event-stream"];
    let mut streams = Vec::new();
    for (at, client, header) in [
        (server.address(), "203.0.113.1", line("203.0.113.1")),
        (server.address(), "203.0.113.2", binary([203, 0, 113, 2])),
        (server.https(), "2001:db8::3", line("2001:db8::3")),
        (server.https(), "2001:db8::4", binary6("2001:db8::4")),
    ] {
        let scheme = if at == server.https() {
            "https"
        } else {
            "http"
        };
        let to = format!("localhost:443:{}", balancer(at, header));
        let url = format!("{scheme}://localhost:443/v1/topics/a?after=earliest");
        let mut command = curl(&["--connect-to", &to, "--cacert", &authority.ca_argument()]);
        streams.push(Background::start(command.args(stream).arg(&url)));
        await_client(&server, client);
    }
    for (at, client, bytes, expect) in [
        (server.mqtt(), [203, 0, 113, 5], CONNECT, &b"\x20\x02"[..]),
        (server.stomp(), [203, 0, 113, 6], STOMP, b"CONNECTED"),
    ] {
        // All in one piece: what comes behind the header is left for the protocol.
        let answer = exchange(at, &[&binary(client), bytes].concat());
        assert!(answer.starts_with(expect), "{answer:?}");
        await_client(&server, &client.map(|byte| byte.to_string()).join("."));
    }
    for (at, client, bytes, expect) in [
        (server.mqtts(), [203, 0, 113, 7], CONNECT, &b"\x20\x02"[..]),
        (server.stomps(), [203, 0, 113, 8], STOMP, b"CONNECTED"),
    ] {
        let at = balancer(at, binary(client));
        let (answer, told) = Pipe::open(at, &authority, &[]).exchange(bytes);
        assert!(answer.starts_with(expect), "{answer:?} {told}");
        await_client(&server, &client.map(|byte| byte.to_string()).join("."));
    }
    let at = balancer(server.mqtts(), line("203.0.113.9"));
    let mut command = Command::new("mosquitto_pub");
    command
        .args(["-h", "127.0.0.1", "-p", &at.port().to_string()])
        .args(["--cafile", &authority.ca_argument(), "--insecure"])
        .args(["-t", "a", "-m", "from mosquitto", "-q", "1"]);
    stdout(&mut command);
    await_client(&server, "203.0.113.9");
}

#[test]
fn curl_sends_the_header_before_plain_http_and_before_tls() {
    let authority = Authority::new();
    let server = Server::start(options().tls(&authority));
    for url in [server.url("/healthz"), server.https_url("/healthz")] {
        let trust = ["--fail", "--cacert", &authority.ca_argument()];
        stdout(curl(&trust).args(["--haproxy-protocol", &url]));
        // A connection of a trusted address without one is closed without a word.
        let result = output(curl(&trust).arg(&url));
        assert!(!result.status.success());
    }
    let of_clients = metric(&server, "tidings_proxy_headers_total", "client");
    assert!(of_clients >= 3.0, "{of_clients}");
    let missing = metric(&server, "tidings_proxy_header_failures_total", "missing");
    assert!((missing - 2.0).abs() < 0.5, "{missing}");
}

#[test]
fn connections_of_the_balancer_itself_keep_its_address() {
    let server = Server::start(options());
    for header in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN 203.0.113.7 203.0.113.8 1 2\r\n",
        &[V2, b"\x20\0\0\0"].concat(),
        &[
            V2,
            b"\x20\x11\0\x0c",
            &[203, 0, 113, 7, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat(),
        &[V2, b"\x21\0\0\0"].concat(),
    ] {
        let answer = exchange(server.stomp(), &[header, STOMP].concat());
        assert!(answer.starts_with(b"CONNECTED"), "{header:?}");
    }
    await_client(&server, "127.0.0.1");
    assert!(!knows(&server, "203.0.113.7"));
    let own = metric(&server, "tidings_proxy_headers_total", "\"proxy\"");
    assert!((own - 5.0).abs() < 0.5, "{own}");
}

#[test]
fn headers_that_are_late_or_wrong_close_the_connection_and_are_counted() {
    let authority = Authority::new();
    let options = options().tls(&authority);
    let server = Server::start(options.set("limits.handshake_ms_max", 1_000));
    let listeners = [
        server.address(),
        server.https(),
        server.mqtt(),
        server.mqtts(),
        server.stomp(),
        server.stomps(),
    ];
    let mut sum = binary([203, 0, 113, 7]);
    sum[15] += 7;
    sum.extend_from_slice(b"\x03\0\x04\0\0\0\0");
    for (reason, bytes) in [
        ("missing", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("missing", b"\x16\x03\x01\x02\x00\x01".to_vec()),
        ("malformed", b"PROXY TCP4 203.0.113.7\r\n".to_vec()),
        ("malformed", [V2, b"\x31\x11\0\x0c"].concat()),
        ("unsupported", [V2, b"\x21\x12\0\x0c", &[0; 12]].concat()),
        ("too-long", [V2, b"\x21\x11\xff\xff"].concat()),
        ("checksum", sum),
        ("timeout", Vec::new()),
        ("timeout", b"PROXY TCP4 203.0".to_vec()),
        ("timeout", [V2, b"\x21\x11\0\x0c"].concat()),
    ] {
        let name = "tidings_proxy_header_failures_total";
        let before = metric(&server, name, reason);
        // All at once: those that are late take a second.
        let peers = listeners.map(|address| {
            let bytes = bytes.clone();
            spawn(move || exchange(address, &bytes))
        });
        for peer in peers {
            assert_eq!(peer.join().unwrap(), b"", "{reason}");
        }
        let more = metric(&server, name, reason) - before;
        assert!((more - 6.0).abs() < 0.5, "{reason}: {more}");
    }
    // Whoever leaves halfway.
    let mut stream = connect(server.mqtt()).unwrap();
    stream.write_all(b"PROXY ").unwrap();
    drop(stream);
    eventually("it is counted", PATIENCE, || {
        metric(&server, "tidings_proxy_header_failures_total", "closed") >= 1.0
    });
    eventually("no place is left taken", PATIENCE, || {
        metric(&server, "tidings_sockets", "") <= 1.0
    });
}

#[test]
fn a_header_of_somebody_who_is_not_trusted_is_not_read() {
    let server = Server::start(options());
    let stranger = ["--interface", "127.0.0.2", "--max-time", "20"];
    let url = server.url("/healthz");
    stdout(curl(&stranger).args(["--fail", &url]));
    // For HTTP it is a request of a version that nobody speaks.
    let answer = stdout(curl(&stranger).args(["--haproxy-protocol", "-w", "%{http_code}", &url]));
    assert!(answer.ends_with("505"), "{answer}");
    let read = metric(&server, "tidings_proxy_headers_total", "client");
    assert!((read - 1.0).abs() < 0.5, "the one that asks: {read}");
}

#[test]
fn connections_are_counted_for_the_client_and_not_for_the_balancer() {
    let server = Server::start(options().set("limits.connections_per_address_max", 2));
    let mut open = Vec::new();
    let mut try_open = |client: [u8; 4]| {
        let request = b"GET /v1/topics/a HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
        let mut stream = connect(server.address()).unwrap();
        stream
            .write_all(&[&binary(client), &request[..]].concat())
            .unwrap();
        let answer = Opened::read(stream).unwrap();
        let refused = answer.header("tidings-refused").map(str::to_owned);
        open.push(answer);
        refused
    };
    for last in 1..5 {
        assert_eq!(try_open([203, 0, 113, last]), None);
        assert_eq!(try_open([203, 0, 113, last]), None);
    }
    let refused = try_open([203, 0, 113, 4]);
    assert_eq!(refused.as_deref(), Some("at-capacity"));
    drop(open);
    eventually("the places are free again", PATIENCE, || {
        let answer = exchange(
            server.address(),
            &[
                &binary([203, 0, 113, 4]),
                &b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..],
            ]
            .concat(),
        );
        answer.starts_with(b"HTTP/1.1 200")
    });
}

#[test]
fn clients_of_a_balancer_that_come_too_fast_cost_no_handshake() {
    let authority = Authority::new();
    let options = options().tls(&authority);
    let server = Server::start(
        options
            .set("limits.connections_per_address_rate", 1)
            .set("limits.connections_per_address_burst", 1),
    );
    let to = format!(
        "localhost:443:{}",
        balancer(server.https(), line("203.0.113.1"))
    );
    let ca = authority.ca_argument();
    let ask = || {
        let url = "https://localhost:443/healthz";
        output(&mut curl(&["--connect-to", &to, "--cacert", &ca, url]))
    };
    let limit = "connections_per_address_rate";
    // Itself it asks as the balancer, which is not counted.
    let page = || {
        let own = [b"PROXY UNKNOWN\r\n", METRICS].concat();
        String::from_utf8(exchange(server.address(), &own)).unwrap()
    };
    eventually("one is closed", PATIENCE, || {
        ask();
        metrics::sum(&page(), "tidings_limits_reached_total", limit) >= 1.0
    });
    let page = page();
    let refused = metrics::sum(&page, "tidings_limits_reached_total", limit);
    let taken = metrics::sum(&page, "tidings_proxy_headers_total", "\"client\"");
    let made = metrics::sum(&page, "tidings_tls_handshakes_total", "");
    assert!((taken - refused - made).abs() < 0.5, "{page}");
}

#[test]
fn the_options_are_checked() {
    use tidings_e2e::server::tidings;
    for (settings, expect) in [
        (&["proxy.protocol=http"][..], "proxy.trusted"),
        (
            &["proxy.trusted=10.0.0.1/8"],
            "no bit set behind their prefix",
        ),
        (
            &["proxy.trusted=127.0.0.1", "proxy.protocol=ftp"],
            "https, mqtt",
        ),
        (&["auth.client_certificates=subject-cn"], "tls.client_ca"),
        (&["tls.client_crl=list.crl"], "tls.client_ca"),
    ] {
        let mut command = tidings(&["check"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let result = output(&mut command);
        let told = String::from_utf8_lossy(&result.stderr).into_owned();
        assert!(!result.status.success() && told.contains(expect), "{told}");
    }
}
