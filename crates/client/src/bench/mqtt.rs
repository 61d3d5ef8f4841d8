//! Subscribers of a measurement that speak MQTT 3.1.1: a hand-made CONNECT and SUBSCRIBE, and, with `QoS` 1,
//! acknowledgements without a look at what is acknowledged.

use bytes::{Bytes, BytesMut};
use tidings_types::Topic;

use crate::client::Client;
use crate::duplex::Duplex;
use crate::error::{Lost, TryError};
use crate::mqtt::{
    AckKind, PacketError, Properties, ack_packet, put_text, put_varint, refused, split_packet,
    varint,
};
use crate::random::Random;
use crate::stream::Stream;

/// The keep alive of subscribers with `QoS` 0, which are shown to live by [`PINGREQ`]s.
const KEEP_ALIVE_S: u16 = 60;
/// A sign of life.
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
/// CONNACK and SUBACK are much shorter.
const ANSWER_BYTES_MAX: usize = 256;

/// Opens a connection with a clean session that is subscribed to the topic.
pub(super) async fn subscribe(client: &Client, topic: &Topic, qos: u8) -> Result<Stream, TryError> {
    let mut duplex = Duplex::new(client.connect().await?, BytesMut::new());
    duplex.output.extend_from_slice(&connect_packet(qos));
    let connack = answer(&mut duplex, 0x20).await?;
    accepted(connack.get(1).copied())?;
    duplex
        .output
        .extend_from_slice(&subscribe_packet(topic, qos));
    let suback = answer(&mut duplex, 0x90).await?;
    let granted = suback.get(2).copied();
    accepted(granted.filter(|code| *code != qos))?;
    Ok(duplex.stream)
}

async fn answer(duplex: &mut Duplex, expect: u8) -> Result<Bytes, Lost> {
    loop {
        let packet = split_packet(&mut duplex.input, ANSWER_BYTES_MAX).map_err(Lost::Packet)?;
        match packet {
            Some((first, body)) if first == expect => return Ok(body),
            Some((first, _)) => return Err(Lost::Packet(PacketError::Unexpected(first))),
            None => duplex.exchange().await?,
        }
    }
}

fn accepted(code: Option<u8>) -> Result<(), TryError> {
    match code {
        None | Some(0) => Ok(()),
        Some(code) => Err(refused(code, &Properties::default()).into()),
    }
}

fn connect_packet(qos: u8) -> Vec<u8> {
    // Acknowledgements are signs of life too, and whoever writes them should not have to ping in between.
    let keep_alive_s = if qos == 0 { KEEP_ALIVE_S } else { 0 };
    let mut body = Vec::new();
    put_text("MQTT", &mut body);
    // Level 4, clean session.
    body.extend_from_slice(&[4, 0x02]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    let client_id = format!("bench-{:016x}", Random::from_system().next_u64());
    put_text(&client_id, &mut body);
    packet(0x10, &body)
}

fn subscribe_packet(topic: &Topic, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(topic.as_str(), &mut body);
    body.push(qos);
    packet(0x82, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_varint(body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

/// Walks over what one connection reads, and acknowledges each PUBLISH that asks for it.
#[derive(Default)]
pub(super) struct Acknowledger {
    /// The beginning of a packet that is not known far enough; its topic bounds it.
    head: Vec<u8>,
    /// What is left of the packet that is passed over.
    left: usize,
    /// PUBACKs to write.
    pub(super) output: Vec<u8>,
}

impl Acknowledger {
    /// Takes what was read next.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), PacketError> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
            } else if self.head.is_empty() {
                let Some(head) = Head::parse(bytes)? else {
                    self.head.extend_from_slice(bytes);
                    return Ok(());
                };
                self.acknowledge(&head, 0);
            } else {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                if let Some(head) = Head::parse(&self.head)? {
                    self.acknowledge(&head, self.head.len());
                    self.head.clear();
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, head: &Head, passed: usize) {
        self.left = head.packet_bytes - passed;
        if let Some(packet_id) = head.packet_id {
            let puback = ack_packet(AckKind::Puback, packet_id);
            self.output.extend_from_slice(&puback);
        }
    }
}

/// What the beginning of a packet tells.
struct Head {
    /// All of it.
    packet_bytes: usize,
    /// Of a PUBLISH with `QoS` 1.
    packet_id: Option<u16>,
}

impl Head {
    /// None if it is not complete. What it looks at is within the packet.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, PacketError> {
        let Some((first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let Some((len, len_bytes)) = varint(rest)? else {
            return Ok(None);
        };
        let mut head = Self {
            packet_bytes: 1 + len_bytes + len,
            packet_id: None,
        };
        if first & 0xf6 != 0x32 {
            return Ok(Some(head));
        }
        let rest = &rest[len_bytes..];
        let number = |at: usize| {
            let bytes = rest.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let Some(topic_bytes) = number(0) else {
            return if len < 2 {
                Err(PacketError::Short)
            } else {
                Ok(None)
            };
        };
        let at = 2 + usize::from(topic_bytes);
        if at + 2 > len {
            return Err(PacketError::Short);
        }
        head.packet_id = number(at);
        Ok(head.packet_id.is_some().then_some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_publish_with_qos_1_is_acknowledged_wherever_reads_are_cut() {
        let mut input = Vec::new();
        let mut expect = Vec::new();
        for number in 1..=20_u8 {
            let payload = vec![b'x'; usize::from(number) * 20];
            let mut body = vec![0, 3, b'a', b'/', b'b', 0, number];
            body.extend_from_slice(&payload);
            input.extend_from_slice(&packet(if number == 7 { 0x3b } else { 0x32 }, &body));
            expect.extend_from_slice(&[0x40, 2, 0, number]);
            // QoS 0, and an answer to a ping.
            input.extend_from_slice(&packet(0x30, &body));
            input.extend_from_slice(&[0xd0, 0]);
        }
        for step in 1..200 {
            let mut acknowledger = Acknowledger::default();
            for part in input.chunks(step) {
                acknowledger.read(part).unwrap();
            }
            assert_eq!(acknowledger.output, expect, "{step}");
        }
    }

    #[test]
    fn what_is_no_packet_is_an_error_and_not_waited_for() {
        for bad in [
            &b"\x32\xff\xff\xff\xff\x01"[..],
            b"\x32\x01\x00",
            b"\x32\x03\x00\x05a",
            b"\x32\x05\x00\x05abcdefgh",
        ] {
            assert!(Acknowledger::default().read(bad).is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn the_packets_are_those_of_mqtt_3_1_1() {
        let connect = connect_packet(1);
        assert_eq!(
            connect[..14],
            *b"\x10\x22\x00\x04MQTT\x04\x02\x00\x00\x00\x16"
        );
        let topic = Topic::new("a/b").unwrap();
        assert_eq!(
            subscribe_packet(&topic, 1),
            b"\x82\x08\x00\x01\x00\x03a/b\x01"
        );
    }
}
