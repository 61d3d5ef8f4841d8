//! Peers that never finish a handshake, or speak something else.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tidings_e2e::http::{connect, get};
use tidings_e2e::tls::{Authority, s_client};
use tidings_e2e::tools::{Background, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{curl, failures};

/// The beginning of a `ClientHello` that announces 512 bytes.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Reads to the end, which may be a reset: what was sent is thrown away unread.
fn until_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    said
}

#[test]
fn handshakes_that_do_not_end_are_cut_by_the_limit() {
    let authority = Authority::new();
    let options = Options::default()
        .tls(&authority)
        .set("limits.handshake_ms_max", 1_000);
    let server = Server::start(options);
    let addresses = [server.https(), server.mqtts(), server.stomps()];
    let mut slow = Vec::new();
    for address in addresses {
        for _ in 0..50 {
            slow.push(send(address, b""));
            slow.push(send(address, HELLO));
        }
    }
    // Others are served meanwhile.
    let url = server.https_url("/healthz");
    stdout(&mut curl(&authority, &["--fail", &url]));
    let count = slow.len() as u64;
    for stream in slow {
        assert!(until_the_end(stream).is_empty());
    }
    assert_eq!(failures(&server, "timeout"), count);
    eventually("their places are free", PATIENCE, || {
        // The one that asks.
        server.metric("tidings_sockets", "") <= 1.0
    });
    let log = server.log().join("\n");
    assert!(
        !log.contains("\"ERROR\"") && !log.contains("\"WARN\""),
        "{log}"
    );
}

#[test]
fn garbage_is_counted_and_harms_nobody() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    let addresses = [server.https(), server.mqtts(), server.stomps()];
    let long: Vec<u8> = (0..100_000_u32)
        .map(|n| (n % 251 * (n % 7)) as u8)
        .collect();
    let hello = [b"\x16\x03\x01\x40\x00", &long[..]].concat();
    let mut not_tls = 0;
    let mut malformed = 0;
    for address in addresses {
        for garbage in [
            &b"\0"[..],
            b"\xff\xff\xff\xff",
            &long,
            b"\x15\x03\x01\0\x02\x02\x28",
        ] {
            // More than is read of it.
            let mut stream = connect(address).unwrap();
            stream.write_all(garbage).unwrap_or_default();
            until_the_end(stream);
            not_tls += 1;
        }
        for garbage in [&hello[..], b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff"] {
            let mut stream = connect(address).unwrap();
            stream.write_all(garbage).unwrap_or_default();
            let alert = until_the_end(stream);
            assert!(alert.is_empty() || alert[0] == 0x15, "{alert:?}");
            malformed += 1;
        }
    }
    eventually("all of it is counted", PATIENCE, || {
        failures(&server, "not-tls") == not_tls && failures(&server, "malformed") == malformed
    });
    let url = server.https_url("/healthz");
    stdout(&mut curl(&authority, &["--fail", &url]));
}

#[test]
fn http_without_tls_is_told_so_on_every_port_with_tls() {
    let server = Server::start(Options::default().tls(&Authority::new()));
    for address in [server.https(), server.mqtts(), server.stomps()] {
        let answer = get(address, "/healthz");
        answer.assert_problem(400, "bad-request");
        assert!(answer.text().contains("https://"), "{}", answer.text());
    }
    assert_eq!(failures(&server, "not-tls"), 3);
}

#[test]
fn tls_on_a_port_without_it_is_counted_and_ends_at_once() {
    let authority = Authority::new();
    let server = Server::start(Options::default());
    for (count, address) in [server.address(), server.mqtt(), server.stomp()]
        .into_iter()
        .enumerate()
    {
        let result = output(&mut s_client(address, &authority, &[]));
        assert!(!result.status.success());
        let refused = server.metric("tidings_refusals_total", "\"bad-request\"") as usize;
        assert_eq!(refused, count + 1);
    }
}

#[test]
fn over_the_limit_on_connections_there_is_an_answer_over_tls() {
    let authority = Authority::new();
    let options = Options::default()
        .tls(&authority)
        .set("limits.connections_max", 2);
    let server = Server::start(options);
    let held = [send(server.https(), HELLO), send(server.https(), HELLO)];
    let url = server.https_url("/healthz");
    let told = stdout(&mut curl(&authority, &["-i", "--http1.1", &url]));
    assert!(told.starts_with("HTTP/1.1 503"), "{told}");
    assert!(told.to_lowercase().contains("retry-after:"), "{told}");
    drop(held);
}

/// What the kernel holds of what the server has written to the one peer of this address (proc(5), `/proc/net/tcp`).
fn unsent_by_the_kernel(address: SocketAddr) -> u64 {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("tests are on 127.0.0.0/8");
    };
    let local = format!(
        "{:08X}:{:04X}",
        u32::from_le_bytes(ip.octets()),
        address.port()
    );
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let connections = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // 01 is an established connection.
    let found = connections.filter(|fields| fields[1] == local && fields[3] == "01");
    let queues = found.map(|fields| u64::from_str_radix(&fields[4][..8], 16).unwrap());
    queues.sum()
}

#[test]
fn what_is_encrypted_and_waits_goes_out_when_the_peer_reads_again() {
    let authority = Authority::new();
    let options = Options::default()
        .tls(&authority)
        .argument("--memory")
        .set("limits.heartbeat_ms", 600_000)
        .set("limits.silence_ms_max", 1_800_000);
    let server = Server::start(options);
    server.publish("a", "first");
    let url = server.https_url("/v1/topics/a?after=earliest");
    let headers = ["-N", "--http1.1", "-H", "Accept: text/event-stream", &url];
    let mut program = Background::start(&mut curl(&authority, &headers));
    let mut lines = BufReader::new(program.child().stdout.take().unwrap()).lines();
    let mut next = move || {
        let mut texts = lines.by_ref().map_while(Result::ok);
        texts
            .find(|line| line.starts_with("data: "))
            .expect("the stream goes on")
    };
    assert_eq!(next(), "data: first");
    // curl stops to read when nobody reads what it writes. One message after the other, until the kernel takes no more:
    // then the outbox is empty, and the last message is with TLS alone.
    let padding = "x".repeat(8_000);
    let mut count = 0;
    loop {
        let before = unsent_by_the_kernel(server.https());
        server.publish("a", &format!("{count} {padding}"));
        count += 1;
        let deadline = Instant::now() + Duration::from_millis(300);
        let mut is_stuck = before > 500_000;
        while is_stuck && Instant::now() < deadline {
            is_stuck = unsent_by_the_kernel(server.https()) < before + 8_000;
        }
        if is_stuck {
            break;
        }
        assert!(count < 5_000, "the kernel takes everything");
    }
    for number in 0..count {
        assert!(
            next().starts_with(&format!("data: {number} ")),
            "{number} of {count}"
        );
    }
}
