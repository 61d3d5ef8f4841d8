//! One connection that publishes, several messages in one write.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::yield_now;

use super::mqtt::{self, Qos};
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
    /// MQTT 3.1.1 with this quality of service.
    Mqtt(Qos),
    /// NATS.
    Nats,
}

/// A publisher. What the server answers is read and thrown away.
#[derive(Debug)]
pub struct Publisher {
    stream: TcpStream,
    how: Publish,
    out: Vec<u8>,
    /// The last packet identifier of a publish that is acknowledged; never 0.
    last_id: u16,
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
            Publish::Mqtt(_) => mqtt_connect(&mut stream, 0)?,
            Publish::Nats => open_nats(&mut stream)?,
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            how,
            out: Vec::new(),
            last_id: 0,
        })
    }

    /// Publishes all of them with one write.
    pub fn publish<'a>(
        &mut self,
        payloads: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        self.out.clear();
        for payload in payloads {
            // Far fewer are under way than there are identifiers.
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            push(self.how, &mut self.out, payload, self.last_id);
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

/// One message, as the protocol writes it; `id` is for those that are acknowledged by it.
fn push(how: Publish, out: &mut Vec<u8>, payload: &str, id: u16) {
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
        Publish::Mqtt(qos) => {
            let id = (qos == Qos::AtLeastOnce).then_some(id);
            out.extend_from_slice(&mqtt::publish(TOPIC, payload, id));
        }
        Publish::Nats => {
            let length = payload.len();
            let request = format!("PUB {TOPIC} {length}\r\n{payload}\r\n");
            out.extend_from_slice(request.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_sends_what_a_websocket_server_would() {
        let mut out = Vec::new();
        push(Publish::Floor, &mut out, &"x".repeat(128), 1);
        assert_eq!(out[..5], [0x81, 126, 0, 128, b'x']);
        assert_eq!(out.len(), 4 + 128);
    }
}
