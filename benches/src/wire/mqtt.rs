//! MQTT 3.1.1, as much of it as clients of a measurement need.

use crate::report::Failure;

/// The answer to a CONNECT with a clean session.
pub const CONNACK: &[u8] = &[0x20, 2, 0, 0];
/// What an idle client says.
pub const PINGREQ: &[u8] = &[0xc0, 0];
/// The keep alive of subscribers, in seconds: far more than the time between two signs of life of theirs, and than it takes
/// to open thousands of connections with TLS one after the other.
pub const KEEP_ALIVE_S: u16 = 120;

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// How many bytes a packet's length takes at most (2.2.3).
const LENGTH_BYTES_MAX: usize = 4;

/// The quality of service of a subscription, or of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// 0: nothing is acknowledged.
    AtMostOnce,
    /// 1: the receiver acknowledges each message.
    AtLeastOnce,
}

/// A packet with its length in seven bits a byte, the least first (2.2.3).
pub fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    while length >= 128 {
        packet.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A CONNECT with a clean session. A keep alive of 0 is none, an empty client identifier one of the server's choice.
pub fn connect(client: &str, keep_alive_s: u16) -> Vec<u8> {
    let keep_alive = keep_alive_s.to_be_bytes();
    let body = [b"\0\x04MQTT\x04\x02", &keep_alive[..], &text(client)].concat();
    packet(CONNECT, &body)
}

/// A SUBSCRIBE to these filters.
pub fn subscribe<'a>(id: u16, filters: impl IntoIterator<Item = &'a str>, qos: Qos) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        body.extend_from_slice(&text(filter));
        body.push(qos as u8);
    }
    packet(SUBSCRIBE, &body)
}

/// The SUBACK that grants so many filters what they asked for.
pub fn granted(id: u16, filters: usize, qos: Qos) -> Vec<u8> {
    let granted = vec![qos as u8; filters];
    packet(SUBACK, &[&id.to_be_bytes()[..], &granted].concat())
}

/// A PUBLISH, with `QoS` 1 if it has a packet identifier.
pub fn publish(topic: &str, payload: &str, id: Option<u16>) -> Vec<u8> {
    let mut body = text(topic);
    if let Some(id) = id {
        body.extend_from_slice(&id.to_be_bytes());
    }
    body.extend_from_slice(payload.as_bytes());
    let qos = id.map_or(Qos::AtMostOnce, |_| Qos::AtLeastOnce);
    packet(PUBLISH | (qos as u8) << 1, &body)
}

/// What a subscriber with `QoS` 1 owes for what it has read.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    /// The beginning of a packet whose end was not read yet.
    rest: Vec<u8>,
    /// PUBACKs that were not sent yet.
    due: Vec<u8>,
}

impl Acknowledgements {
    /// Takes note of what was read: each message in it is to be acknowledged. One that comes with another quality
    /// of service is an error.
    pub fn take(&mut self, read: &[u8]) -> Result<(), Failure> {
        self.rest.extend_from_slice(read);
        let mut at = 0;
        while let Some((packet, body)) = split(&self.rest[at..])? {
            if packet[0] & 0xf0 == PUBLISH {
                let id = id_of(packet[0], &packet[body..]).ok_or_else(|| {
                    Failure::new(format!("a message came without QoS 1: {packet:?}"))
                })?;
                self.due.extend_from_slice(&[PUBACK, 2, id[0], id[1]]);
            }
            at += packet.len();
        }
        self.rest.drain(..at);
        Ok(())
    }

    /// The PUBACKs that are to be sent now.
    pub fn due(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.due)
    }
}

/// The first packet of these bytes and where its body begins; `None` if it is not there as a whole.
fn split(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Failure> {
    let mut length = 0;
    for index in 0..LENGTH_BYTES_MAX {
        let Some(byte) = bytes.get(1 + index) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let body = 2 + index;
            return Ok(bytes.get(..body + length).map(|packet| (packet, body)));
        }
    }
    Err(Failure::new("a packet's length does not end"))
}

/// The packet identifier of a PUBLISH with `QoS` 1.
fn id_of(kind: u8, body: &[u8]) -> Option<[u8; 2]> {
    const QOS: u8 = 0x06;
    if kind & QOS != (Qos::AtLeastOnce as u8) << 1 {
        return None;
    }
    let topic = usize::from(u16::from_be_bytes(body.first_chunk().copied()?));
    body.get(2 + topic..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_their_length_and_identifier() {
        let payload = "x".repeat(128);
        assert_eq!(
            publish("bench", &payload, None)[..10],
            *b"\x30\x87\x01\0\x05bench"
        );
        let acknowledged = publish("bench", &payload, Some(0x102));
        assert_eq!(acknowledged[..12], *b"\x32\x89\x01\0\x05bench\x01\x02");
        assert_eq!(acknowledged.len(), 3 + 9 + 128);
    }

    #[test]
    fn every_message_is_acknowledged_wherever_reads_are_cut() {
        let mut input = b"\xd0\0".to_vec();
        let mut expect = Vec::new();
        for id in [1, 2, 0x4002, u16::MAX] {
            input.extend_from_slice(&publish("bench", &"x".repeat(128), Some(id)));
            expect.extend_from_slice(&packet(PUBACK, &id.to_be_bytes()));
        }
        for step in 1..=input.len() {
            let mut acknowledgements = Acknowledgements::default();
            for part in input.chunks(step) {
                acknowledgements.take(part).unwrap();
            }
            assert_eq!(acknowledgements.due(), expect, "{step}");
            assert!(acknowledgements.due().is_empty() && acknowledgements.rest.is_empty());
        }
    }

    #[test]
    fn a_message_with_a_lower_quality_of_service_is_an_error() {
        let message = publish("bench", "x", None);
        let failure = Acknowledgements::default().take(&message).unwrap_err();
        assert!(failure.to_string().contains("without QoS 1"), "{failure}");
    }
}
