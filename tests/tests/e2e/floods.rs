//! Floods: what a peer can do in numbers costs the server what its limits say, and nobody else anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tidings_e2e::http::{Opened, Request, connect};
use tidings_e2e::http2;
use tidings_e2e::mqtt::{Client, Connect};
use tidings_e2e::{Options, Server, eventually};

/// Reads one answer from a keep-alive connection.
fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    stream.read_exact(&mut body).expect("a body");
    head
}

#[test]
fn over_the_limit_on_connections_the_newcomer_is_told_and_nobody_is_thrown_out() {
    let server = Server::start(Options::default().set("limits.connections_max", 2));
    let mut first = connect(server.address()).expect("the first");
    let mut second = connect(server.address()).expect("the second");
    for stream in [&mut first, &mut second] {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("written");
        assert!(answer(stream).starts_with("http/1.1 200"));
    }
    let third = connect(server.address()).expect("the third is accepted, to be told");
    let refused = Opened::read(third)
        .expect("an answer")
        .finish()
        .expect("its end");
    refused.assert_problem(503, "at-capacity");
    assert!(refused.header("retry-after").is_some());
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("written");
    assert!(answer(&mut first).starts_with("http/1.1 200"));
    drop(second);
    eventually("there is room again", Duration::from_secs(10), || {
        tidings_e2e::http::Request::get("/healthz")
            .try_send(server.address())
            .is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn a_connection_that_upgrades_after_other_requests_keeps_its_place() {
    let server = Server::start(Options::default());
    let mut stream = connect(server.address()).expect("a connection");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("written");
    assert!(answer(&mut stream).starts_with("http/1.1 200"));
    stream
        .write_all(
            b"GET /v1/topics/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .expect("written");
    let head = answer(&mut stream);
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    server.publish("a", "after the upgrade");
    let mut frame = [0; 19];
    stream.read_exact(&mut frame).expect("the message");
    assert_eq!(&frame[2..], b"after the upgrade");
    // The socket, and the one that asks.
    assert!(server.metric("tidings_sockets", "") >= 2.0);
}

#[test]
fn pings_without_end_from_a_peer_that_reads_nothing_cost_a_bounded_outbox() {
    let server = Server::start(Options::default());
    let before = server.resident_bytes();
    let mut peers: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(server.address()).expect("a connection");
            stream
                .write_all(
                    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                )
                .expect("written");
            assert!(answer(&mut stream).starts_with("http/1.1 101"));
            stream.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
            stream
        })
        .collect();
    let pings: Vec<u8> = [0x89, 0x80, 1, 2, 3, 4].repeat(10_000);
    for peer in &mut peers {
        // Until the server reads no more, and the kernel takes no more.
        for _ in 0..400 {
            if peer.write_all(&pings).is_err() {
                break;
            }
        }
    }
    let grown = server.resident_bytes().saturating_sub(before);
    // An outbox of 1 MiB each, and the allocator's share; without a bound it would be a gigabyte.
    assert!(grown < 40 << 20, "{grown} bytes for eight peers");
    server.publish("a", "others are served");
}

#[test]
fn an_http2_peer_that_reads_nothing_costs_what_was_announced() {
    let server = Server::start(Options::default().set("limits.http2_streams_max", 64));
    let text = "x".repeat(100_000);
    for _ in 0..20 {
        server.publish_batch("big", &vec![text.clone(); 50]);
    }
    // What the log's own caches take is there before.
    let wanted = "/v1/topics/big?after=earliest";
    let stream = [("accept", "text/event-stream")];
    drop(
        Request::get(wanted)
            .header("Accept", "text/event-stream")
            .open(server.address()),
    );
    let before = server.resident_bytes();
    let mut peers = Vec::new();
    for _ in 0..2 {
        // SETTINGS_INITIAL_WINDOW_SIZE: the server may send nothing of a body.
        let mut peer = http2::open(server.address(), &[(4, 0)]).expect("a connection");
        for id in 0..64 {
            peer.write_all(&http2::get(2 * id + 1, wanted, &stream))
                .expect("sent");
        }
        peers.push(peer);
    }
    eventually("all streams are open", Duration::from_secs(10), || {
        server.metric("tidings_connections", "\"sse\"") >= 128.0
    });
    eventually("their outboxes are full", Duration::from_secs(20), || {
        server.metric("tidings_delivered_bytes_total", "\"sse\"") >= 128.0 * 250_000.0
    });
    let grown = server.resident_bytes().saturating_sub(before);
    let each = server.announced_bytes("memory_per_slow_http2_peer_max");
    assert_eq!(
        each,
        64 * (server.announced_bytes("memory_per_slow_peer_max") + (16 << 10))
    );
    assert!(
        grown < 2 * each,
        "{grown} bytes, {each} announced for each of two"
    );
    server.publish("a", "others are served");
}

#[test]
fn who_has_not_signed_in_takes_no_room_from_those_who_publish() {
    let server = Server::start(Options::default());
    // The beginnings of long CONNECTs, far more than there is room for.
    let mut slow = Vec::new();
    let begun = [
        &[0x10, 0xf0, 0xff, 0x0f, 0, 4][..],
        b"MQTT\x04",
        &vec![0; 250_000],
    ]
    .concat();
    for _ in 0..600 {
        let mut stream = connect(server.mqtt()).expect("a connection");
        // It may be refused before it is all written.
        stream.write_all(&begun).unwrap_or_default();
        slow.push(stream);
    }
    eventually("some are refused", Duration::from_secs(10), || {
        server.metric("tidings_refusals_total", "busy") > 0.0
    });
    for shard in 0..8 {
        let big = "x".repeat(900_000);
        let answer = Request::post("/v1/topics/a")
            .body(big)
            .send(server.address());
        assert_eq!(answer.status, 201, "{shard}: {}", answer.text());
        // And short CONNECTs are still taken.
        Client::open(server.mqtt(), &Connect::v5(&format!("c{shard}")));
    }
}
