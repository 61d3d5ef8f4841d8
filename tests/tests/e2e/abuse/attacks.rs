//! Attacks on connections, of every protocol.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use tidings_e2e::http::connect;
use tidings_e2e::mqtt::{Connect, kind, packet};
use tidings_e2e::stomp::Frame;
use tidings_e2e::websocket::upgrade;

use super::{SLOW_PEERS, Target};

/// Connections that are held without a word, in plain and with TLS each.
const HALF_OPEN: usize = 1_500;
/// Connections of a slow attack.
const SLOW: usize = 100;
/// The attackers have the same processors as the server, and leave some of it to the server.
pub const PAUSE: Duration = Duration::from_millis(5);
/// The beginning of a `ClientHello` that announces 512 bytes.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

fn begin(address: SocketAddr, first: &[u8]) -> Option<TcpStream> {
    let mut stream = connect(address).ok()?;
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    stream.write_all(first).ok()?;
    Some(stream)
}

/// Holds so many connections that say this and no more, and opens new ones for those that are closed.
fn hold(target: &Target, ports: &[SocketAddr], first: &[u8]) -> usize {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut opened = 0;
    while target.goes_on() {
        if held.len() >= HALF_OPEN {
            held.retain(|stream| {
                stream.set_nonblocking(true).unwrap_or_default();
                // Closed or told something: it is over. `WouldBlock` is that it is still held.
                matches!((&*stream).read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            });
            std::thread::sleep(PAUSE);
            continue;
        }
        held.extend(begin(ports[opened % ports.len()], first));
        opened += 1;
    }
    opened
}

pub fn half_open(target: &Target) -> usize {
    hold(target, &target.ports(), b"")
}

pub fn half_open_tls(target: &Target) -> usize {
    hold(target, &target.tls_ports(), HELLO)
}

/// Connections that say one piece at a time, in turns, each until it is closed.
fn drip(target: &Target, address: SocketAddr, first: &[u8], piece: &[u8]) -> usize {
    let mut slow: Vec<TcpStream> = Vec::new();
    let mut sent = 0;
    while target.goes_on() {
        if slow.len() < SLOW {
            slow.extend(begin(address, first));
        }
        slow.retain_mut(|stream| stream.write_all(piece).is_ok());
        sent += slow.len();
        std::thread::sleep(PAUSE);
    }
    sent
}

pub fn slow_heads(target: &Target) -> usize {
    drip(
        target,
        target.http,
        b"GET /v1/topics/news HTTP/1.1\r\nHost: x\r\nX: ",
        b"y",
    )
}

pub fn slow_bodies(target: &Target) -> usize {
    let head = format!(
        "POST /v1/topics/news HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nAuthorization: Bearer {}\r\n\r\n",
        target.secrets.token
    );
    drip(target, target.http, head.as_bytes(), b"y")
}

/// Writes the same again and again, without reading, until the server closes.
fn until_refused(target: &Target, stream: &mut TcpStream, piece: &[u8]) -> usize {
    let mut times = 0;
    while target.goes_on() && stream.write_all(piece).is_ok() {
        times += 1;
    }
    times
}

pub fn endless_heads(target: &Target) -> usize {
    let field = format!("X: {}\r\n", "y".repeat(1_000));
    let mut times = 0;
    while target.goes_on() {
        std::thread::sleep(PAUSE);
        let Some(mut stream) = begin(target.http, b"GET / HTTP/1.1\r\n") else {
            continue;
        };
        times += until_refused(target, &mut stream, field.as_bytes());
    }
    times
}

fn open_websocket(target: &Target, extension: &str) -> Option<TcpStream> {
    let request = upgrade("/v1/ws")
        .header("Sec-WebSocket-Protocol", "tidings.v1")
        .header("Sec-WebSocket-Extensions", extension);
    let opened = request.open(target.http).ok()?;
    assert_eq!(opened.status, 101);
    let stream = opened.reader.into_inner();
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    Some(stream)
}

/// A frame with a mask of zeroes.
fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..126) => bytes.push(0x80 | len as u8),
        Ok(len) => {
            bytes.push(0xfe);
            bytes.extend(len.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0xff);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Spaces that deflate 158 times (RFC 1951, 3.2.6): one, and then the one before, 258 times a piece.
fn bomb(pieces: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    // Most codes have their first bit first; the type of the block has its last bit first.
    let mut put = |code: u32, count: u32| {
        bits.extend((0..count).rev().map(|at| code >> at & 1 == 1));
    };
    put(0b010, 3);
    put(0x30 + u32::from(b' '), 8);
    for _ in 0..pieces {
        put(0b1100_0101, 8);
        put(0, 5);
    }
    put(0, 7);
    // The empty block behind a message, without its last four bytes (RFC 7692, 7.2.1).
    put(0, 3);
    let byte = |bits: &[bool]| {
        let set = bits.iter().enumerate().filter(|(_, bit)| **bit);
        set.map(|(at, _)| 1 << at).sum()
    };
    bits.chunks(8).map(byte).collect()
}

pub fn deflate_bombs(target: &Target) -> usize {
    // 64 MiB each.
    let message = client_frame(0xc1, &bomb(260_000));
    let mut times = 0;
    while target.goes_on() {
        let Some(mut stream) = open_websocket(target, "permessage-deflate") else {
            continue;
        };
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // It is refused before it is all there.
        stream.write_all(&message).unwrap_or_default();
        times += 1;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        while matches!(stream.read(&mut [0; 512]), Ok(1..)) {}
    }
    times
}

/// Keeps some connections whose peers ask without end and read no answer.
fn keep_asking(
    target: &Target,
    open: impl Fn(&Target) -> Option<TcpStream>,
    mut ask: impl FnMut() -> Vec<u8>,
) -> usize {
    let mut asking: Vec<TcpStream> = Vec::new();
    let mut times = 0;
    while target.goes_on() {
        if (asking.len() as u64) < SLOW_PEERS {
            asking.extend(open(target));
        }
        let questions = ask();
        std::thread::sleep(PAUSE);
        asking.retain_mut(|stream| match stream.write(&questions) {
            Ok(written) => {
                // What is left of a question is not asked any more: the next one is none either.
                times += 1;
                written == questions.len()
            }
            Err(error) => {
                // The server reads no more, and holds no more.
                error.kind() == std::io::ErrorKind::WouldBlock
            }
        });
    }
    times
}

pub fn websocket_pings(target: &Target) -> usize {
    let pings = client_frame(0x89, &[7; 100]).repeat(500);
    keep_asking(
        target,
        |target| open_websocket(target, "none"),
        || pings.clone(),
    )
}

fn open_mqtt(target: &Target) -> Option<TcpStream> {
    begin(
        target.mqtt,
        &Connect::v5("").login("", &target.secrets.token).packet(),
    )
}

pub fn mqtt_pings(target: &Target) -> usize {
    let pings = packet(kind::PINGREQ << 4, &[]).repeat(2_000);
    keep_asking(target, open_mqtt, || pings.clone())
}

pub fn mqtt_subscribes(target: &Target) -> usize {
    let mut number = 0;
    let mut ask = || {
        let mut packets = Vec::new();
        for _ in 0..200 {
            number += 1;
            let filter = format!("x/{number}/+");
            let mut body = vec![0, 1, 0];
            body.extend((filter.len() as u16).to_be_bytes());
            body.extend(filter.as_bytes());
            body.push(1);
            packets.extend(packet(kind::SUBSCRIBE << 4 | 2, &body));
        }
        packets
    };
    keep_asking(target, open_mqtt, &mut ask)
}

pub fn tidings_subscribes(target: &Target) -> usize {
    let open = |target: &Target| {
        let mut stream = open_websocket(target, "none")?;
        let auth = json!({"op":"auth","token":target.secrets.token}).to_string();
        stream
            .write_all(&client_frame(0x81, auth.as_bytes()))
            .ok()?;
        Some(stream)
    };
    let mut number = 0;
    let mut ask = || {
        let mut messages = Vec::new();
        for _ in 0..200 {
            number += 1;
            let request = json!({"op":"subscribe","topic":format!("x/{number}/+")}).to_string();
            messages.extend(client_frame(0x81, request.as_bytes()));
        }
        messages
    };
    keep_asking(target, open, &mut ask)
}

pub fn stomp_subscribes(target: &Target) -> usize {
    let open = |target: &Target| {
        let headers = [
            ("passcode", &*target.secrets.token),
            ("accept-version", "1.2"),
        ];
        begin(
            target.stomp,
            &Frame::new("CONNECT", &headers, "").bytes("1.0"),
        )
    };
    let mut number = 0;
    let mut ask = || {
        let mut frames = Vec::new();
        for _ in 0..200 {
            number += 1;
            let (id, to) = (number.to_string(), format!("/topic/x/{number}"));
            let headers = [("id", &*id), ("destination", &*to), ("receipt", &*id)];
            frames.extend(Frame::new("SUBSCRIBE", &headers, "").bytes("1.2"));
        }
        frames
    };
    keep_asking(target, open, &mut ask)
}

pub fn garbage(target: &Target) -> usize {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut times = 0;
    while target.goes_on() {
        for address in target.ports() {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .take(2_000)
            .collect();
            // Now and then what begins as TLS does.
            let first: &[u8] = match times % 8 {
                0..4 => b"",
                4..6 => b"\x16\x03\x01\x40\x00",
                _ => b"\x16\x03\x01\x01\x00",
            };
            if let Some(mut stream) = begin(address, &[first, &bytes].concat()) {
                stream
                    .set_read_timeout(Some(Duration::from_millis(20)))
                    .unwrap();
                while matches!(stream.read(&mut [0; 512]), Ok(1..)) {}
            }
            times += 1;
        }
    }
    times
}

/// The beginnings of CONNECTs that are as long as they may be, by peers of whom nobody knows who they are.
pub fn long_connects(target: &Target) -> usize {
    let begun = [
        &[0x10, 0xf0, 0xff, 0x0f, 0, 4][..],
        b"MQTT\x04",
        &vec![0; 250_000],
    ]
    .concat();
    let mut held = Vec::new();
    let mut times = 0;
    while target.goes_on() {
        if held.len() > 200 {
            held.clear();
        }
        held.extend(begin(target.mqtt, &begun));
        times += 1;
        std::thread::sleep(PAUSE);
    }
    times
}
