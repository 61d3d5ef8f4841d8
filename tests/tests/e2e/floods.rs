//! Floods: what a peer can do in numbers costs the server what its limits say, and nobody else anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tidings_e2e::http::{Opened, connect};
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
