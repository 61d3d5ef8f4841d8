//! Bytes as clients write and read them, by hand.

use bytes::Bytes;
use tidings_types::{Draft, Topic};

/// A packet: first byte, length, the rest.
pub(super) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        out.push(byte | if rest > 0 { 0x80 } else { 0 });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&body);
    out
}

/// A text behind its length.
pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A property section.
pub(super) fn properties(parts: &[&[u8]]) -> Vec<u8> {
    packet(0, parts).split_off(1)
}

/// A user property.
pub(super) fn user(name: &str, value: &str) -> Vec<u8> {
    [&[0x26][..], &text(name), &text(value)].concat()
}

/// A CONNECT of 3.1.1 without keep alive.
pub(super) fn connect4(id: &str, clean: bool) -> Vec<u8> {
    let head = [&text("MQTT")[..], &[4, u8::from(clean) << 1, 0, 0]].concat();
    packet(0x10, &[&head, &text(id)])
}

/// A CONNECT of 5.0 without keep alive.
pub(super) fn connect5(id: &str, clean: bool, props: &[&[u8]]) -> Vec<u8> {
    let head = [&text("MQTT")[..], &[5, u8::from(clean) << 1, 0, 0]].concat();
    packet(0x10, &[&head, &properties(props), &text(id)])
}

/// The property Session Expiry Interval.
pub(super) fn session_expiry(seconds: u32) -> Vec<u8> {
    [&[0x11][..], &seconds.to_be_bytes()].concat()
}

/// A SUBSCRIBE of 3.1.1.
pub(super) fn subscribe4(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let list: Vec<u8> = filters
        .iter()
        .flat_map(|(filter, options)| [&text(filter)[..], &[*options]].concat())
        .collect();
    packet(0x82, &[&id.to_be_bytes(), &list])
}

/// A SUBSCRIBE of 5.0.
pub(super) fn subscribe5(id: u16, props: &[&[u8]], filters: &[(&str, u8)]) -> Vec<u8> {
    let list: Vec<u8> = filters
        .iter()
        .flat_map(|(filter, options)| [&text(filter)[..], &[*options]].concat())
        .collect();
    packet(0x82, &[&id.to_be_bytes(), &properties(props), &list])
}

/// A PUBLISH of 3.1.1; the packet identifier stands in all but `QoS` 0.
pub(super) fn publish4(flags: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let id = if flags & 6 == 0 {
        vec![]
    } else {
        id.to_be_bytes().to_vec()
    };
    packet(0x30 | flags, &[&text(topic), &id, payload])
}

/// A PUBLISH of 5.0.
pub(super) fn publish5(
    flags: u8,
    topic: &str,
    id: u16,
    props: &[&[u8]],
    payload: &[u8],
) -> Vec<u8> {
    let id = if flags & 6 == 0 {
        vec![]
    } else {
        id.to_be_bytes().to_vec()
    };
    packet(
        0x30 | flags,
        &[&text(topic), &id, &properties(props), payload],
    )
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62), PUBCOMP (0x70).
pub(super) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()])
}

/// Bytes as text, to compare.
pub(super) fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// What a client reads of a PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// DUP, `QoS` and RETAIN.
    pub(super) flags: u8,
    pub(super) topic: String,
    pub(super) id: u16,
    /// 5.0: everything between the property length and the payload.
    pub(super) properties: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// Takes packets apart: first byte and body.
pub(super) fn packets(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (len, size) = varint(&bytes[1..]);
        let end = 1 + size + len;
        found.push((bytes[0], bytes[1 + size..end].to_vec()));
        bytes = &bytes[end..];
    }
    found
}

fn varint(bytes: &[u8]) -> (usize, usize) {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (number, at + 1);
        }
    }
    panic!("an unfinished length");
}

/// The PUBLISH packets among these.
pub(super) fn publishes(bytes: &[u8], is_five: bool) -> Vec<Received> {
    let packets = packets(bytes)
        .into_iter()
        .filter(|(first, _)| first >> 4 == 3);
    packets
        .map(|(first, body)| {
            let flags = first & 0x0f;
            let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let topic = String::from_utf8(body[2..2 + len].to_vec()).unwrap();
            let mut rest = &body[2 + len..];
            let mut id = 0;
            if flags & 6 != 0 {
                id = u16::from_be_bytes([rest[0], rest[1]]);
                rest = &rest[2..];
            }
            let mut properties = Vec::new();
            if is_five {
                let (len, size) = varint(rest);
                properties = rest[size..size + len].to_vec();
                rest = &rest[size + len..];
            }
            Received {
                flags,
                topic,
                id,
                properties,
                payload: rest.to_vec(),
            }
        })
        .collect()
}

/// The PUBLISH packets as text: flags, packet identifier, topic, payload.
pub(super) fn shown(bytes: &[u8], is_five: bool) -> Vec<String> {
    publishes(bytes, is_five)
        .iter()
        .map(|it| {
            let payload = String::from_utf8_lossy(&it.payload);
            format!("{:x}:{} {} {payload}", it.flags, it.id, it.topic)
        })
        .collect()
}

/// Another one's publish, retained or not, with a level.
pub(super) fn draft_of(topic: &str, payload: &str, qos: tidings_types::Qos, retain: bool) -> Draft {
    let topic = Topic::new(topic.to_owned()).unwrap();
    Draft {
        qos,
        retain,
        ..Draft::new(topic, Bytes::copy_from_slice(payload.as_bytes()))
    }
}
