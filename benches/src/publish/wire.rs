//! What an acknowledged publish is on each wire: how a publisher connects, what it sends, and what comes back.

use std::net::{SocketAddr, TcpStream};

use crate::link::{ask, connect, websocket};
use crate::report::Failure;
use crate::wire::{mqtt, websocket_text};

/// The stream that the messages are kept in: `JetStream` keeps them.
const STREAM: &str = "BENCH";

/// A protocol with publishes that are answered once they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// `publish` of `tidings.v1`.
    TidingsV1,
    /// HTTP/1.1, keep-alive.
    Http,
    /// MQTT 3.1.1: PUBLISH with `QoS` 1, and PUBACK as the receipt.
    Mqtt,
    /// Redis: XADD.
    Redis,
    /// NATS: a publish to a stream's subject, with the receipt to the publisher's inbox.
    JetStream,
}

impl Wire {
    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TidingsV1 => "`tidings.v1`",
            Self::Http => "HTTP/1.1",
            Self::Mqtt => "MQTT QoS 1",
            Self::Redis => "XADD",
            Self::JetStream => "JetStream",
        }
    }

    /// Makes the server ready for publishers.
    pub fn prepare(self, address: SocketAddr) -> Result<(), Failure> {
        match self {
            Self::TidingsV1 | Self::Http | Self::Mqtt => Ok(()),
            Self::Redis => {
                // A rewrite of its file would fork a process in the middle of a round.
                let request = b"CONFIG SET auto-aof-rewrite-percentage 0\r\n";
                ask(&mut connect(address)?, request, b"+OK\r\n")?;
                Ok(())
            }
            Self::JetStream => create_stream(address),
        }
    }

    /// Connects publisher number `number`.
    pub fn open(self, address: SocketAddr, number: usize) -> Result<TcpStream, Failure> {
        match self {
            Self::TidingsV1 => Ok(websocket(address, "/v1/ws", "")?.0),
            Self::Http | Self::Redis => connect(address),
            Self::Mqtt => {
                let mut stream = connect(address)?;
                let hello = mqtt::connect(&format!("publisher{number}"), 0);
                ask(&mut stream, &hello, mqtt::CONNACK)?;
                Ok(stream)
            }
            Self::JetStream => {
                let mut stream = nats(address)?;
                let request = format!("SUB inbox.{number} 1\r\nPING\r\n");
                ask(&mut stream, request.as_bytes(), b"PONG\r\n")?;
                Ok(stream)
            }
        }
    }

    /// One publish of publisher number `number`, which has a topic of its own, in one of its places: those under way
    /// at the same time are in different ones. All have the same length.
    pub fn request(self, number: usize, place: usize, payload: &str) -> Vec<u8> {
        let length = payload.len();
        match self {
            Self::TidingsV1 => {
                let text = format!(
                    r#"{{"op":"publish","id":1,"topic":"bench/{number}","data":"{payload}"}}"#
                );
                websocket_text(text.as_bytes())
            }
            Self::Http => format!(
                "POST /v1/topics/bench/{number} HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Length: {length}\r\n\r\n{payload}"
            )
            .into_bytes(),
            Self::Mqtt => {
                let topic = format!("bench/{number}");
                mqtt::publish(&topic, payload, Some(place as u16 + 1))
            }
            Self::Redis => {
                let key = format!("bench:{number}");
                let key_length = key.len();
                format!(
                    "*5\r\n$4\r\nXADD\r\n${key_length}\r\n{key}\r\n$1\r\n*\r\n$1\r\nd\r\n\
                     ${length}\r\n{payload}\r\n"
                )
                .into_bytes()
            }
            Self::JetStream => {
                format!("PUB bench.{number} inbox.{number} {length}\r\n{payload}\r\n").into_bytes()
            }
        }
    }

    /// What each receipt holds once.
    pub fn receipt(self) -> &'static [u8] {
        match self {
            Self::TidingsV1 => br#""op":"ok""#,
            Self::Http => b"HTTP/1.1 201 ",
            // What follows is the place, counted from 1, in one byte.
            Self::Mqtt => b"\x40\x02\0",
            Self::Redis => b"$",
            Self::JetStream => br#""seq":"#,
        }
    }

    /// What a refusal holds, and nothing else does.
    pub fn refusal(self) -> &'static [u8] {
        match self {
            Self::TidingsV1 => br#""op":"error""#,
            Self::Http => br#""status":"#,
            // 3.1.1 cannot refuse a publish, only close the connection: this is a packet that it does not have.
            Self::Mqtt => b"\xf0",
            Self::Redis => b"-ERR",
            Self::JetStream => br#""error":"#,
        }
    }
}

fn create_stream(address: SocketAddr) -> Result<(), Failure> {
    let mut stream = nats(address)?;
    let create = format!(
        r#"{{"name":"{STREAM}","subjects":["bench.*"],"storage":"file","retention":"limits","num_replicas":1}}"#
    );
    let length = create.len();
    let request = format!(
        "SUB created 1\r\nPUB $JS.API.STREAM.CREATE.{STREAM} created {length}\r\n{create}\r\n"
    );
    let answer = ask(&mut stream, request.as_bytes(), b"}\r\n")?;
    let answer = String::from_utf8_lossy(&answer);
    if answer.contains("\"error\"") {
        return Err(Failure::new(format!("no stream: {answer}")));
    }
    Ok(())
}

fn nats(address: SocketAddr) -> Result<TcpStream, Failure> {
    let mut stream = connect(address)?;
    ask(&mut stream, b"", b"\r\n")?;
    let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n";
    ask(&mut stream, hello, b"PONG\r\n")?;
    Ok(stream)
}
