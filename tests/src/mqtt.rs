//! A blocking MQTT client, 3.1.1 and 5.0, that does nothing by itself: it acknowledges when it is told to, may
//! stop at any step of a handshake, and shows every packet.

mod inbox;
mod packet;
mod property;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub use inbox::Inbox;
pub use packet::{Answer, Connect, Packet, Publish, Will, packet};
pub use property::{Properties, Received};
use property::{put_text, put_variable};

use crate::http::connect;

/// Packet types (MQTT 5, 2.1.2).
pub mod kind {
    #![expect(missing_docs, reason = "they are the specification's own names")]
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// An open connection.
pub struct Client {
    reader: BufReader<TcpStream>,
    version: u8,
}

impl Client {
    /// Opens a connection and gives the CONNACK, whatever it says.
    pub fn try_open(address: SocketAddr, with: &Connect) -> std::io::Result<(Self, Answer)> {
        let stream = connect(address)?;
        let mut client = Self {
            reader: BufReader::new(stream),
            version: with.version,
        };
        client.write(&with.packet())?;
        match client.try_packet()? {
            Packet::Answer(answer) if answer.kind == kind::CONNACK => Ok((client, answer)),
            other => Err(std::io::Error::other(format!("no CONNACK: {other:?}"))),
        }
    }

    /// Opens a connection that is accepted, and says whether its session was there.
    #[track_caller]
    pub fn open(address: SocketAddr, with: &Connect) -> (Self, bool) {
        let (client, answer) =
            Self::try_open(address, with).unwrap_or_else(|error| panic!("{}: {error}", with.id));
        assert_eq!(answer.reason(), 0, "{answer:?}");
        (client, answer.present)
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Whether more has arrived than was asked for.
    pub fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Reads a packet, or says why there is none.
    pub fn try_packet(&mut self) -> std::io::Result<Packet> {
        let mut first = [0];
        self.reader.read_exact(&mut first)?;
        let mut len = 0;
        for shift in [0, 7, 14, 21] {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            len |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.reader.read_exact(&mut body)?;
        let (kind, flags) = (first[0] >> 4, first[0] & 0x0f);
        Ok(if kind == kind::PUBLISH {
            Packet::Publish(Publish::read(flags, &body, self.version))
        } else {
            Packet::Answer(Answer::read(kind, &body, self.version))
        })
    }

    /// The next packet, which is a message.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        match self.try_packet() {
            Ok(Packet::Publish(publish)) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    /// The next packet, which is of this type.
    #[track_caller]
    pub fn answer(&mut self, kind: u8) -> Answer {
        match self.try_packet() {
            Ok(Packet::Answer(answer)) if answer.kind == kind => answer,
            other => panic!("not a packet of type {kind}: {other:?}"),
        }
    }

    /// Sends a PUBLISH and does not wait.
    #[track_caller]
    pub fn send(&mut self, publish: &Publish) {
        let packet = publish.packet(self.version);
        self.write(&packet).expect("the packet can be sent");
    }

    /// Sends a PUBACK, PUBREC, PUBREL or PUBCOMP.
    #[track_caller]
    pub fn acknowledge(&mut self, kind: u8, id: u16) {
        self.try_acknowledge(kind, id)
            .expect("the packet can be sent");
    }

    /// Sends a PUBACK, PUBREC, PUBREL or PUBCOMP, or says why not.
    pub fn try_acknowledge(&mut self, kind: u8, id: u16) -> std::io::Result<()> {
        let flags = if kind == kind::PUBREL { 2 } else { 0 };
        self.write(&packet(kind << 4 | flags, &id.to_be_bytes()))
    }

    /// Publishes at the QoS of the message, up to the end of its handshake.
    #[track_caller]
    pub fn publish(&mut self, publish: &Publish) {
        self.send(publish);
        match publish.qos {
            0 => {}
            1 => {
                let answer = self.answer(kind::PUBACK);
                assert_eq!(answer.id, publish.id);
                assert!(answer.reason() < 0x80, "{answer:?}");
            }
            _ => {
                let answer = self.answer(kind::PUBREC);
                assert_eq!(answer.id, publish.id);
                assert!(answer.reason() < 0x80, "{answer:?}");
                self.acknowledge(kind::PUBREL, publish.id);
                assert_eq!(self.answer(kind::PUBCOMP).id, publish.id);
            }
        }
    }

    /// Receives a message and acknowledges it to the end.
    #[track_caller]
    pub fn receive(&mut self) -> Publish {
        let message = self.message();
        match message.qos {
            0 => {}
            1 => self.acknowledge(kind::PUBACK, message.id),
            _ => {
                self.acknowledge(kind::PUBREC, message.id);
                assert_eq!(self.answer(kind::PUBREL).id, message.id);
                self.acknowledge(kind::PUBCOMP, message.id);
            }
        }
        message
    }

    /// Sends a SUBSCRIBE: filters with their options (3.1.1: the QoS).
    #[track_caller]
    pub fn send_subscribe(&mut self, filters: &[(&str, u8)], properties: &Properties) {
        let mut body = 7u16.to_be_bytes().to_vec();
        if self.version == 5 {
            put_variable(&mut body, properties.0.len() as u32);
            body.extend_from_slice(&properties.0);
        }
        for (filter, options) in filters {
            put_text(&mut body, filter.as_bytes());
            body.push(*options);
        }
        self.write(&packet(kind::SUBSCRIBE << 4 | 2, &body))
            .expect("the packet can be sent");
    }

    /// Subscribes, and gives the reason codes. Messages may not come before the answer.
    #[track_caller]
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(filters, &Properties::default())
    }

    /// Subscribes with properties, and gives the reason codes.
    #[track_caller]
    pub fn subscribe_with(&mut self, filters: &[(&str, u8)], properties: &Properties) -> Vec<u8> {
        self.send_subscribe(filters, properties);
        self.answer(kind::SUBACK).reasons
    }

    /// Unsubscribes, and gives the reason codes, of which 3.1.1 has none.
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let mut body = 8u16.to_be_bytes().to_vec();
        if self.version == 5 {
            body.push(0);
        }
        for filter in filters {
            put_text(&mut body, filter.as_bytes());
        }
        self.write(&packet(kind::UNSUBSCRIBE << 4 | 2, &body))
            .expect("the packet can be sent");
        self.answer(kind::UNSUBACK).reasons
    }

    /// Asks for a sign of life: everything that was sent before it has been taken.
    #[track_caller]
    pub fn ping(&mut self) {
        self.write(&[kind::PINGREQ << 4, 0])
            .expect("the packet can be sent");
        self.answer(kind::PINGRESP);
    }

    /// Leaves in an orderly way, and waits for the server to close.
    #[track_caller]
    pub fn leave(mut self) {
        self.write(&[kind::DISCONNECT << 4, 0])
            .expect("the packet can be sent");
        self.until_closed();
    }

    /// Reads until the server closes the connection; the reason of its DISCONNECT, if it sent one.
    #[track_caller]
    pub fn until_closed(&mut self) -> Option<u8> {
        let mut reason = None;
        loop {
            match self.try_packet() {
                Ok(Packet::Answer(answer)) if answer.kind == kind::DISCONNECT => {
                    reason = Some(answer.reason());
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the connection stays open")
                }
                Err(_) => return reason,
            }
        }
    }
}
