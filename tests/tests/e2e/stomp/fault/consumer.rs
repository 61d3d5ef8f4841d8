//! A consumer of the work queue, over one of three protocols.

use std::io;
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};
use tidings_e2e::Server;
use tidings_e2e::mqtt::{self, Connect, Packet, kind};
use tidings_e2e::stomp::{self, Frame};
use tidings_e2e::websocket::{self, WebSocket};

use super::{PREFETCH, TOPIC};

/// Where the server is, through restarts.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    http: std::net::SocketAddr,
    mqtt: std::net::SocketAddr,
    stomp: std::net::SocketAddr,
}

impl Addresses {
    pub fn of(server: &Server) -> Self {
        Self {
            http: server.address(),
            mqtt: server.mqtt(),
            stomp: server.stomp(),
        }
    }

    pub fn http(self) -> std::net::SocketAddr {
        self.http
    }
}

/// What a message is acknowledged by.
#[derive(Clone, Debug)]
pub enum Handle {
    Text(String),
    Packet(u16),
}

/// What a consumer reads.
pub enum Heard {
    Message {
        number: usize,
        /// Whether it says that it was delivered before. MQTT has no word for that.
        again: Option<bool>,
        handle: Handle,
    },
    /// Everything that was sent before the probe has been taken.
    Probed,
    Other,
}

/// A connection that has joined the queue.
pub enum Consumer {
    Stomp(stomp::Client),
    Mqtt(mqtt::Client),
    /// With the number of its subscription.
    Tidings(WebSocket, u64),
}

fn unexpected(what: &impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("not expected: {what:?}"))
}

impl Consumer {
    /// The nth consumer: three of STOMP, two of MQTT, three of `tidings.v1`.
    pub fn open(n: usize, at: Addresses) -> io::Result<Self> {
        match n {
            0..3 => Self::open_stomp(at, ["1.1", "1.2", "1.2"][n]),
            3..5 => Self::open_mqtt(at, n),
            _ => Self::open_tidings(at),
        }
    }

    fn open_stomp(at: Addresses, version: &str) -> io::Result<Self> {
        let (mut client, answer) = stomp::Client::try_open(at.stomp, version, &[])?;
        if answer.command != "CONNECTED" {
            return Err(unexpected(&answer));
        }
        let (destination, prefetch) = (format!("/queue/{TOPIC}"), PREFETCH.to_string());
        let headers = [
            ("id", "1"),
            ("destination", &destination),
            ("ack", "client-individual"),
            ("prefetch-count", &prefetch),
        ];
        client.send(&Frame::new("SUBSCRIBE", &headers, ""))?;
        Ok(Self::Stomp(client))
    }

    fn open_mqtt(at: Addresses, n: usize) -> io::Result<Self> {
        let with = Connect::v5(&format!("consumer-{n}"));
        let with = with.with(|properties| properties.short(0x21, PREFETCH as u16));
        let (mut client, answer) = mqtt::Client::try_open(at.mqtt, &with)?;
        if answer.reason() != 0 {
            return Err(unexpected(&answer));
        }
        let filter = format!("$share/queue/{TOPIC}");
        let mut body = vec![0, 7, 0, 0, filter.len() as u8];
        body.extend_from_slice(filter.as_bytes());
        body.push(1);
        client.write(&mqtt::packet(kind::SUBSCRIBE << 4 | 2, &body))?;
        Ok(Self::Mqtt(client))
    }

    fn open_tidings(at: Addresses) -> io::Result<Self> {
        let mut socket = WebSocket::try_open(at.http, "/v1/ws", Some("tidings.v1"))?;
        let request = json!({
            "op": "subscribe", "id": 1, "topic": TOPIC, "group": "queue", "prefetch": PREFETCH,
        });
        socket.sender().text(&request.to_string())?;
        let websocket::Frame::Text(text) = socket.try_frame()? else {
            return Err(unexpected(&"no answer to a subscribe"));
        };
        let answer: Value = serde_json::from_str(&text)?;
        let sub = answer["sub"].as_u64().ok_or_else(|| unexpected(&answer))?;
        Ok(Self::Tidings(socket, sub))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Stomp(client) => client.socket(),
            Self::Mqtt(client) => client.socket(),
            Self::Tidings(socket, _) => socket.socket(),
        }
    }

    /// Breaks the connection.
    pub fn cut(&self) {
        // It may be broken already.
        self.socket().shutdown(Shutdown::Both).unwrap_or_default();
    }

    /// Whether more has arrived.
    pub fn has_more(&self) -> bool {
        match self {
            Self::Stomp(client) => client.has_more(),
            Self::Mqtt(client) => client.has_more(),
            Self::Tidings(socket, _) => socket.has_more(),
        }
    }

    pub fn read(&mut self) -> io::Result<Heard> {
        match self {
            Self::Stomp(client) => of_stomp(&client.try_frame()?),
            Self::Mqtt(client) => Ok(of_mqtt(client.try_packet()?)),
            Self::Tidings(socket, _) => match socket.try_frame()? {
                websocket::Frame::Text(text) => of_tidings(&serde_json::from_str(&text)?),
                websocket::Frame::Ping(payload) => {
                    socket.sender().frame(0x8a, &payload)?;
                    Ok(Heard::Other)
                }
                other => Err(unexpected(&other)),
            },
        }
    }

    /// Whether it can give a message back while it stays.
    pub fn can_nack(&self) -> bool {
        !matches!(self, Self::Mqtt(_))
    }

    /// Sends a verdict on a message, and does not wait.
    pub fn settle(&mut self, handle: &Handle, is_ack: bool) -> io::Result<()> {
        match (self, handle) {
            (Self::Mqtt(client), Handle::Packet(id)) => client.try_acknowledge(kind::PUBACK, *id),
            (Self::Stomp(client), Handle::Text(id)) => {
                let command = if is_ack { "ACK" } else { "NACK" };
                // Each version takes its own headers.
                let headers = [("id", &**id), ("message-id", id), ("subscription", "1")];
                client.send(&Frame::new(command, &headers, ""))
            }
            (Self::Tidings(socket, sub), Handle::Text(id)) => {
                let op = if is_ack { "ack" } else { "nack" };
                let request = json!({"op": op, "id": 2, "sub": sub, "message": id});
                socket.sender().text(&request.to_string())
            }
            _ => unreachable!("a handle of another protocol"),
        }
    }

    /// Asks for [`Heard::Probed`].
    pub fn probe(&mut self) -> io::Result<()> {
        match self {
            Self::Stomp(client) => {
                let headers = [("transaction", "probe"), ("receipt", "probe")];
                client.send(&Frame::new("BEGIN", &headers, ""))
            }
            Self::Mqtt(client) => client.write(&[kind::PINGREQ << 4, 0]),
            Self::Tidings(socket, _) => socket.sender().text(r#"{"op":"ping","id":"probe"}"#),
        }
    }
}

fn of_stomp(frame: &Frame) -> io::Result<Heard> {
    match &*frame.command {
        "MESSAGE" => Ok(Heard::Message {
            number: frame.text().parse().map_err(io::Error::other)?,
            again: Some(frame.get("redelivered") == Some("true")),
            handle: Handle::Text(
                frame
                    .get("ack")
                    .unwrap_or(frame.expect("message-id"))
                    .into(),
            ),
        }),
        "RECEIPT" => Ok(Heard::Probed),
        _ => Err(unexpected(frame)),
    }
}

fn of_mqtt(packet: Packet) -> Heard {
    match packet {
        Packet::Publish(publish) => Heard::Message {
            number: publish.text().parse().expect("a number"),
            again: None,
            handle: Handle::Packet(publish.id),
        },
        Packet::Answer(answer) if answer.kind == kind::PINGRESP => Heard::Probed,
        Packet::Answer(_) => Heard::Other,
    }
}

fn of_tidings(line: &Value) -> io::Result<Heard> {
    let text = |name: &str| line[name].as_str().ok_or_else(|| unexpected(line));
    match text("op")? {
        "message" => Ok(Heard::Message {
            number: text("data")?.parse().map_err(io::Error::other)?,
            again: Some(line["deliveries"].as_u64() > Some(1)),
            handle: Handle::Text(text("id")?.to_owned()),
        }),
        "ok" | "pong" if line["id"] == "probe" => Ok(Heard::Probed),
        "ok" => Ok(Heard::Other),
        _ => Err(unexpected(line)),
    }
}
