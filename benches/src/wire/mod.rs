//! How a subscriber and a publisher of each protocol speak, in as few bytes as the protocol allows.
//!
//! Connections are opened with blocking calls, one after the other. From then on a subscriber only reads, and what it
//! reads is searched for the payloads' markers, so that no protocol has to be parsed while a measurement runs.

mod http2;
pub mod mqtt;
mod publisher;
pub mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::floor;
use crate::report::Failure;

pub use mqtt::Qos;
pub use publisher::{Publish, Publisher};
use tls::Line;

/// How long a server may take to answer while connections are opened.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What a server may say before a subscription is confirmed.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The topic of everything.
pub const TOPIC: &str = "bench";

/// An unmasked pong would be a violation: the mask is zero, so that the bytes stay as they are.
const WEBSOCKET_PONG: &[u8] = b"\x8a\x80\0\0\0\0";

/// What a subscriber speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribe {
    /// The floor's own byte.
    Floor,
    /// A WebSocket at this path that is subscribed by being open.
    WebSocket(&'static str),
    /// `tidings.v1` over a WebSocket.
    TidingsV1,
    /// Server-Sent Events over HTTP/1.1 at this path.
    Sse(&'static str),
    /// Server-Sent Events over HTTP/2 with prior knowledge at this path, one stream on a connection.
    SseHttp2(&'static str),
    /// A request at this path that waits for a message.
    LongPoll(&'static str),
    /// MQTT 3.1.1 with this quality of service.
    Mqtt(Qos),
    /// NATS.
    Nats,
}

impl Subscribe {
    /// Connects, subscribes, and returns when the server has confirmed it (a long-poll has nothing that confirms it).
    pub fn open(self, server: SocketAddr) -> Result<TcpStream, Failure> {
        let mut stream = connect(server)?;
        self.opened(server, &mut stream)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// The same, over TLS if there is a configuration for it.
    pub fn open_line(
        self,
        server: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Line, Failure> {
        let mut line = Line::new(connect(server)?, tls)?;
        self.opened(server, &mut line)?;
        line.socket().set_nonblocking(true)?;
        Ok(line)
    }

    fn opened(self, server: SocketAddr, stream: &mut (impl Read + Write)) -> Result<(), Failure> {
        let opened = self.subscribe(stream);
        opened.map_err(|failure| Failure::new(format!("{self:?} at {server}: {failure}")))
    }

    fn subscribe(self, stream: &mut (impl Read + Write)) -> Result<(), Failure> {
        match self {
            Self::Floor => {
                stream.write_all(&[floor::SUBSCRIBER])?;
                read_until(stream, |answer| !answer.is_empty())
            }
            Self::WebSocket(path) => open_websocket(stream, path),
            Self::TidingsV1 => {
                open_websocket(stream, "/v1/ws")?;
                let request = format!(r#"{{"op":"subscribe","id":1,"topic":"{TOPIC}"}}"#);
                stream.write_all(&websocket_text(request.as_bytes()))?;
                read_until(stream, |answer| holds(answer, br#""op":"ok""#))
            }
            Self::Sse(path) => {
                let request = get(path, "Accept: text/event-stream\r\n");
                stream.write_all(request.as_bytes())?;
                read_until(stream, |answer| {
                    answer.starts_with(b"HTTP/1.1 200") && holds(answer, b"\r\n\r\n")
                })
            }
            Self::SseHttp2(path) => http2::open(stream, path),
            Self::LongPoll(path) => Ok(stream.write_all(get(path, "").as_bytes())?),
            Self::Mqtt(qos) => open_mqtt(stream, qos),
            Self::Nats => {
                open_nats(stream)?;
                let request = format!("SUB {TOPIC} 1\r\nPING\r\n");
                stream.write_all(request.as_bytes())?;
                read_until(stream, |answer| holds(answer, b"PONG\r\n"))
            }
        }
    }

    /// What a subscriber says now and then, so that the server does not take it for dead; empty where it need not.
    pub fn sign_of_life(self) -> &'static [u8] {
        match self {
            Self::WebSocket(_) | Self::TidingsV1 => WEBSOCKET_PONG,
            Self::Mqtt(_) => mqtt::PINGREQ,
            Self::Nats => b"PONG\r\n",
            _ => b"",
        }
    }

    /// Whether messages have to be acknowledged ([`mqtt::Acknowledgements`]).
    pub fn is_acknowledged(self) -> bool {
        self == Self::Mqtt(Qos::AtLeastOnce)
    }
}

impl Subscribe {
    /// The answers to what an idle server said: a pong to a ping, the next request after the answer to a long-poll.
    /// Says how many times the server spoke up, and puts the answers into `out`.
    pub fn answer(self, said: &[u8], out: &mut Vec<u8>) -> usize {
        match self {
            Self::WebSocket(_) | Self::TidingsV1 => answer_pings(said, out),
            Self::Nats => {
                let pings = memchr::memmem::find_iter(said, b"PING\r\n").count();
                out.extend_from_slice(&b"PONG\r\n".repeat(pings));
                pings
            }
            Self::LongPoll(path) => {
                let answers = memchr::memmem::find_iter(said, b"HTTP/1.1 ").count();
                if answers > 0 {
                    out.extend_from_slice(get(path, "").as_bytes());
                }
                answers
            }
            Self::Mqtt(_) | Self::Sse(_) | Self::SseHttp2(_) | Self::Floor => 1,
        }
    }

    /// What an idle client of this protocol says by itself every 15 s or so; empty if the server does that.
    pub fn heartbeat(self) -> &'static [u8] {
        match self {
            Self::Mqtt(_) => mqtt::PINGREQ,
            _ => b"",
        }
    }
}

/// Pongs with the pings' payloads; frames of an idle server are short and come whole.
fn answer_pings(mut said: &[u8], out: &mut Vec<u8>) -> usize {
    const PING: u8 = 0x89;
    const PONG: u8 = 0x8a;
    const MASKED: u8 = 0x80;
    let mut pings = 0;
    while let [PING, length, rest @ ..] = said {
        let Some((payload, rest)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        out.extend_from_slice(&[PONG, MASKED | *length, 0, 0, 0, 0]);
        out.extend_from_slice(payload);
        pings += 1;
        said = rest;
    }
    pings
}

fn connect(server: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(server)
        .map_err(|error| Failure::new(format!("cannot connect to {server}: {error}")))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Reads the server's answer until it is all there.
fn read_until(stream: &mut impl Read, is_all: impl Fn(&[u8]) -> bool) -> Result<(), Failure> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !is_all(&answer) {
        let read = stream.read(&mut buffer);
        let read = read.map_err(|error| unexpected(&error.to_string(), &answer))?;
        if read == 0 {
            return Err(unexpected("the connection was closed", &answer));
        }
        answer.extend_from_slice(&buffer[..read]);
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(unexpected("no end", &answer));
        }
    }
    Ok(())
}

fn unexpected(what: &str, answer: &[u8]) -> Failure {
    let shown = &answer[..answer.len().min(500)];
    let shown = String::from_utf8_lossy(shown);
    Failure::new(format!("{what}, after the answer {shown:?}"))
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

/// A request without a body; `headers` with their line ends.
pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

fn open_websocket(stream: &mut (impl Read + Write), path: &str) -> Result<(), Failure> {
    // The key of RFC 6455 1.3: the answer to it is not looked at.
    let request = get(
        path,
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    stream.write_all(request.as_bytes())?;
    read_until(stream, |answer| {
        answer.starts_with(b"HTTP/1.1 101") && holds(answer, b"\r\n\r\n")
    })
}

/// A text frame of a client, with a mask of zero that leaves the bytes as they are.
pub fn websocket_text(payload: &[u8]) -> Vec<u8> {
    const TEXT: u8 = 0x81;
    const MASKED: u8 = 0x80;
    /// The length follows in two bytes, or in eight.
    const LENGTH_16: u8 = 0x7e;
    const LENGTH_64: u8 = 0x7f;
    let mut frame = vec![TEXT];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..=125) => frame.push(MASKED | len as u8),
        Ok(len) => {
            frame.push(MASKED | LENGTH_16);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            frame.push(MASKED | LENGTH_64);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// CONNECT with a keep alive, then SUBSCRIBE.
fn open_mqtt(stream: &mut (impl Read + Write), qos: Qos) -> Result<(), Failure> {
    const ID: u16 = 1;
    mqtt_connect(stream, mqtt::KEEP_ALIVE_S)?;
    stream.write_all(&mqtt::subscribe(ID, [TOPIC], qos))?;
    let granted = mqtt::granted(ID, 1, qos);
    read_until(stream, |answer| answer == granted)
}

fn mqtt_connect(stream: &mut (impl Read + Write), keep_alive_s: u16) -> Result<(), Failure> {
    stream.write_all(&mqtt::connect("", keep_alive_s))?;
    read_until(stream, |answer| answer == mqtt::CONNACK)
}

/// CONNECT, with the answer to a PING as its confirmation.
fn open_nats(stream: &mut (impl Read + Write)) -> Result<(), Failure> {
    read_until(stream, |answer| answer.ends_with(b"\r\n"))?;
    stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n")?;
    read_until(stream, |answer| holds(answer, b"PONG\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ping_is_answered_with_its_payload() {
        let mut out = Vec::new();
        let websocket = Subscribe::WebSocket("/");
        assert_eq!(websocket.answer(b"\x89\0\x89\x02hi\x89", &mut out), 2);
        assert_eq!(out, b"\x8a\x80\0\0\0\0\x8a\x82\0\0\0\0hi");
        out.clear();
        assert_eq!(Subscribe::Nats.answer(b"PING\r\n", &mut out), 1);
        assert_eq!(out, b"PONG\r\n");
    }

    #[test]
    fn frames_have_the_shortest_length_that_fits() {
        assert_eq!(websocket_text(b"hi"), b"\x81\x82\0\0\0\0hi");
        let long = websocket_text(&[b'x'; 126]);
        assert_eq!(long[..8], [0x81, 0xfe, 0, 126, 0, 0, 0, 0]);
        assert_eq!(long.len(), 8 + 126);
        assert_eq!(
            websocket_text(&b"x".repeat(70_000))[..4],
            [0x81, 0xff, 0, 0]
        );
    }
}
