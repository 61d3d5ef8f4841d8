//! One connection that publishes, several messages in one write.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::yield_now;

use super::{TOPIC, connect, mqtt_connect, open_nats, open_websocket, read_until, websocket_text};
use crate::floor;
use crate::report::Failure;

/// What a publisher speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// The very frames that subscribers get, in one chunk.
    Floor,
    /// `publish` of `tidings.v1`.
    TidingsV1,
    /// Text frames to a WebSocket at this path.
    WebSocket(&'static str),
    /// HTTP POST to this path, keep-alive, pipelined.
    Post(&'static str),
    /// MQTT 3.1.1, quality of service 0.
    Mqtt,
    /// NATS.
    Nats,
}

/// A publisher. What the server answers is read and thrown away.
#[derive(Debug)]
pub struct Publisher {
    stream: TcpStream,
    how: Publish,
    out: Vec<u8>,
}

impl Publisher {
    /// Connects.
    pub fn open(how: Publish, server: SocketAddr) -> Result<Self, Failure> {
        let mut stream = connect(server)?;
        match how {
            Publish::Floor => {
                stream.write_all(&[floor::PUBLISHER])?;
                read_until(&mut stream, |answer| !answer.is_empty())?;
            }
            Publish::TidingsV1 => open_websocket(&mut stream, "/v1/ws")?,
            Publish::WebSocket(path) => open_websocket(&mut stream, path)?,
            Publish::Post(_) => {}
            Publish::Mqtt => mqtt_connect(&mut stream)?,
            Publish::Nats => open_nats(&mut stream)?,
        }
        stream.set_nonblocking(true)?;
        let out = Vec::new();
        Ok(Self { stream, how, out })
    }

    /// Publishes all of them with one write.
    pub fn publish<'a>(
        &mut self,
        payloads: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        self.out.clear();
        for payload in payloads {
            push(self.how, &mut self.out, payload);
        }
        if self.how == Publish::Floor {
            let length = (self.out.len() as u32).to_be_bytes();
            self.out.splice(0..0, length);
        }
        self.throw_answers_away()?;
        let mut rest = &self.out[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now(),
                Err(error) => return Err(Failure::new(format!("cannot publish: {error}"))),
            }
        }
        Ok(())
    }

    fn throw_answers_away(&mut self) -> Result<(), Failure> {
        let mut answer = [0; 8192];
        loop {
            match self.stream.read(&mut answer) {
                Ok(0) => return Err(Failure::new("the publisher's connection was closed")),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Failure::new(format!("no answer: {error}"))),
            }
        }
    }
}

/// One message, as the protocol writes it.
fn push(how: Publish, out: &mut Vec<u8>, payload: &str) {
    match how {
        Publish::Floor => {
            let mut frame = websocket_text(payload.as_bytes());
            // As a server sends it: without a mask.
            let head = if payload.len() > 125 { 4 } else { 2 };
            frame[1] &= 0x7f;
            frame.drain(head..head + 4);
            out.extend_from_slice(&frame);
        }
        Publish::TidingsV1 => {
            let request =
                format!(r#"{{"op":"publish","id":1,"topic":"{TOPIC}","data":"{payload}"}}"#);
            out.extend_from_slice(&websocket_text(request.as_bytes()));
        }
        Publish::WebSocket(_) => out.extend_from_slice(&websocket_text(payload.as_bytes())),
        Publish::Post(path) => {
            let length = payload.len();
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                 Content-Length: {length}\r\n\r\n{payload}"
            );
            out.extend_from_slice(request.as_bytes());
        }
        Publish::Mqtt => {
            let length = 2 + TOPIC.len() + payload.len();
            out.push(0x30);
            push_mqtt_length(out, length);
            out.extend_from_slice(&(TOPIC.len() as u16).to_be_bytes());
            out.extend_from_slice(TOPIC.as_bytes());
            out.extend_from_slice(payload.as_bytes());
        }
        Publish::Nats => {
            let length = payload.len();
            let request = format!("PUB {TOPIC} {length}\r\n{payload}\r\n");
            out.extend_from_slice(request.as_bytes());
        }
    }
}

/// Seven bits a byte, the least first (MQTT-1.5.5).
fn push_mqtt_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 128 {
        out.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    out.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_sends_what_a_websocket_server_would() {
        let mut out = Vec::new();
        push(Publish::Floor, &mut out, &"x".repeat(128));
        assert_eq!(out[..5], [0x81, 126, 0, 128, b'x']);
        assert_eq!(out.len(), 4 + 128);
    }

    #[test]
    fn mqtt_packets_carry_their_length() {
        let mut out = Vec::new();
        push(Publish::Mqtt, &mut out, &"x".repeat(128));
        assert_eq!(out[..10], *b"\x30\x87\x01\0\x05bench");
        assert_eq!(out.len(), 3 + 7 + 128);
    }
}
