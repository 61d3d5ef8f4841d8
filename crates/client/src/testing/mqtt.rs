//! The MQTT side of the fake server: packets as literal bytes, made and read without the client's own codec.

use std::time::Duration;

use bytes::Buf as _;
use tidings_types::{Cursor, Epoch, Offset, Qos};
use tokio::net::TcpListener;

use super::{FakeServer, Peer, retry};
use crate::client::Client;

/// Success, and no limits.
const CONNACK: &[u8] = b"\x20\x03\x00\x00\x00";

impl FakeServer {
    pub(crate) async fn start_mqtt(qos: Qos) -> (Self, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let client = Client::mqtt(&url, qos, &crate::TlsFiles::default())
            .unwrap()
            .with_retry(retry());
        (Self { listener }, client)
    }

    pub(crate) async fn accept_mqtt(&self) -> Peer {
        self.accept_mqtt_with(CONNACK).await
    }

    /// Accepts a connection, and answers CONNECT with this.
    pub(crate) async fn accept_mqtt_with(&self, connack: &[u8]) -> Peer {
        let mut peer = self.accept().await;
        let (first, body) = peer.packet().await;
        assert_eq!(first, 0x10);
        // Version 5, clean start, keep alive 30 s, receive maximum 1,024, packets of 64 MiB.
        let expect =
            b"\x00\x04MQTT\x05\x02\x00\x1e\x08\x21\x04\x00\x27\x04\x00\x00\x00\x00\x17tidings-";
        assert_eq!(body[..expect.len()], expect[..]);
        peer.write_bytes(connack).await;
        peer
    }
}

/// A PUBLISH of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) flags: u8,
    pub(crate) topic: String,
    pub(crate) packet_id: u16,
    /// Properties but for user properties, as they stand.
    pub(crate) properties: Vec<u8>,
    pub(crate) user: Vec<(String, String)>,
    pub(crate) payload: String,
}

impl Heard {
    pub(crate) fn key(&self) -> &str {
        let found = self.user.iter().find(|(name, _)| name == "tidings-key");
        &found.unwrap().1
    }

    fn parse(first: u8, mut body: &[u8]) -> Self {
        let flags = first & 0x0f;
        let topic = text(&mut body);
        let packet_id = if flags & 6 == 0 { 0 } else { body.get_u16() };
        let len = varint(&mut body);
        let (mut part, payload) = body.split_at(len);
        let (mut properties, mut user) = (Vec::new(), Vec::new());
        while !part.is_empty() {
            let before = part;
            match part.get_u8() {
                0x01 => drop(part.get_u8()),
                0x02 => drop(part.get_u32()),
                0x03 => drop(text(&mut part)),
                0x26 => {
                    user.push((text(&mut part), text(&mut part)));
                    continue;
                }
                other => panic!("property {other}"),
            }
            properties.extend_from_slice(&before[..before.len() - part.len()]);
        }
        Self {
            flags,
            topic,
            packet_id,
            properties,
            user,
            payload: String::from_utf8(payload.to_vec()).unwrap(),
        }
    }
}

fn text(bytes: &mut &[u8]) -> String {
    let len = usize::from(bytes.get_u16());
    let (text, rest) = bytes.split_at(len);
    *bytes = rest;
    String::from_utf8(text.to_vec()).unwrap()
}

fn varint(bytes: &mut &[u8]) -> usize {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes.get_u8();
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

impl Peer {
    /// The next packet but for pings, which are answered: its first byte, and what follows the fixed header.
    pub(crate) async fn packet(&mut self) -> (u8, Vec<u8>) {
        loop {
            match self.take_packet() {
                Some((0xc0, _)) => self.write_bytes(b"\xd0\x00").await,
                Some(packet) => return packet,
                None => self.fill().await,
            }
        }
    }

    /// The next packet, pings among them.
    pub(crate) async fn packet_or_ping(&mut self) -> (u8, Vec<u8>) {
        loop {
            match self.take_packet() {
                Some(packet) => return packet,
                None => self.fill().await,
            }
        }
    }

    fn take_packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let end = 1 + self
            .input
            .get(1..)?
            .iter()
            .position(|byte| byte & 0x80 == 0)?;
        let mut rest = &self.input[1..];
        let len = varint(&mut rest);
        if rest.len() < len {
            return None;
        }
        let packet = self.input.split_to(end + 1 + len);
        Some((packet[0], packet[end + 1..].to_vec()))
    }

    pub(crate) async fn hear_publish(&mut self) -> Heard {
        let (first, body) = self.packet().await;
        assert_eq!(first & 0xf0, 0x30, "{first:#x} {body:?}");
        Heard::parse(first, &body)
    }

    pub(crate) async fn hear_publish_soon(&mut self) -> Option<Heard> {
        tokio::time::timeout(Duration::from_secs(1), self.hear_publish())
            .await
            .ok()
    }

    /// PUBACK with success.
    pub(crate) async fn puback(&mut self, packet_id: u16) {
        self.acknowledge(0x40, packet_id).await;
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP with success.
    pub(crate) async fn acknowledge(&mut self, first: u8, packet_id: u16) {
        let [high, low] = packet_id.to_be_bytes();
        self.write_bytes(&[first, 2, high, low]).await;
    }

    /// PUBACK or PUBREC with a reason code and a reason string.
    pub(crate) async fn refuse(&mut self, first: u8, packet_id: u16, reason: u8, why: &str) {
        let mut body = packet_id.to_be_bytes().to_vec();
        body.extend_from_slice(&reason_and_string(reason, why));
        self.write_bytes(&packet(first, &body)).await;
    }

    /// DISCONNECT.
    pub(crate) async fn disconnect(&mut self, reason: u8, why: &str) {
        self.write_bytes(&packet(0xe0, &reason_and_string(reason, why)))
            .await;
    }
}

pub(crate) fn reason_and_string(reason: u8, why: &str) -> Vec<u8> {
    let mut properties = vec![0x1f];
    put_text(why, &mut properties);
    let mut out = vec![reason, u8::try_from(properties.len()).unwrap()];
    out.extend_from_slice(&properties);
    out
}

pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A packet of at most 16,383 bytes.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match body.len() {
        len @ 0..128 => out.push(len as u8),
        len => out.extend_from_slice(&[(len & 0x7f) as u8 | 0x80, (len >> 7) as u8]),
    }
    out.extend_from_slice(body);
    out
}

/// A user property.
pub(crate) fn user(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x26];
    put_text(name, &mut out);
    put_text(value, &mut out);
    out
}

/// The id of the message at an offset.
pub(crate) fn cursor(offset: u64) -> String {
    let cursor = Cursor {
        epoch: Epoch(7),
        offset: Offset(offset),
    };
    cursor.to_string()
}

/// A PUBLISH of the message at an offset to `a/b`.
pub(crate) fn message(first: u8, packet_id: u16, offset: u64) -> Vec<u8> {
    let mut body = Vec::new();
    put_text("a/b", &mut body);
    if first & 6 != 0 {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    let properties = user("tidings-cursor", &cursor(offset));
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend_from_slice(&properties);
    body.extend_from_slice(format!("of {offset}").as_bytes());
    packet(first, &body)
}
