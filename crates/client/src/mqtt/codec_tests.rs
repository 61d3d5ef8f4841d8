use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidings_types::{Qos, Topic, TopicFilter};

use super::fields::put_varint;
use super::*;
use crate::message::Outgoing;
use crate::random::Random;
use crate::testing::outgoing;

const MAX: usize = 1 << 20;

/// Everything in a buffer, until it ends or is wrong.
fn parse(bytes: &[u8]) -> Result<Vec<Incoming>, PacketError> {
    let mut input = BytesMut::from(bytes);
    let mut parsed = Vec::new();
    while let Some((first, body)) = split_packet(&mut input, MAX)? {
        parsed.push(Incoming::parse(first, body)?);
    }
    Ok(parsed)
}

fn ack(kind: AckKind, reason: u8, reason_string: Option<&str>) -> Incoming {
    Incoming::Ack(Ack {
        kind,
        packet_id: 7,
        reason,
        properties: Properties {
            reason_string: reason_string.map(str::to_owned),
            ..Properties::default()
        },
    })
}

#[test]
fn the_packets_of_a_server_are_read() {
    for (bytes, expect) in [
        (&b"\x40\x02\0\x07"[..], ack(AckKind::Puback, 0, None)),
        (b"\x50\x03\0\x07\x10", ack(AckKind::Pubrec, 0x10, None)),
        (b"\x62\x04\0\x07\0\0", ack(AckKind::Pubrel, 0, None)),
        (
            b"\x70\x09\0\x07\x92\x05\x1f\0\x02no",
            ack(AckKind::Pubcomp, 0x92, Some("no")),
        ),
        (b"\xd0\0", Incoming::Pingresp),
        (
            b"\xe0\0",
            Incoming::Disconnect(Disconnect {
                reason: 0,
                properties: Properties::default(),
            }),
        ),
        (
            b"\x90\x05\0\x07\0\x01\x8f",
            Incoming::Suback(Suback {
                packet_id: 7,
                reasons: Bytes::from_static(b"\x01\x8f"),
                properties: Properties::default(),
            }),
        ),
        (
            // All that can stand in a CONNACK; what this client has no use for is passed over.
            b"\x20\x3f\0\0\x3c\x11\0\0\0\x01\x21\0\x05\x24\x01\x25\x01\x27\0\x01\0\0\x12\0\x01c\x22\0\x09\
              \x1f\0\x01r\x26\0\x01n\0\x01v\x28\x01\x29\x01\x2a\x01\x13\0\x3c\x1a\0\x01i\x1c\0\x01s\
              \x15\0\x01m\x16\0\x01d",
            Incoming::Connack(Connack {
                reason: 0,
                properties: Properties {
                    receive_maximum: Some(5),
                    maximum_qos: Some(1),
                    packet_bytes_max: Some(65_536),
                    reason_string: Some("r".into()),
                    server_keep_alive_s: Some(60),
                    server_reference: Some("s".into()),
                    user: vec![("n".into(), "v".into())],
                    ..Properties::default()
                },
            }),
        ),
        (
            b"\x3d\x19\0\x01a\0\x07\x12\x01\x01\x02\0\0\0\x05\x0b\x81\x01\x08\0\x01r\x03\0\x01tx",
            Incoming::Publish(Publish {
                topic: "a".into(),
                qos: Qos::ExactlyOnce,
                retain: true,
                packet_id: 7,
                payload: Bytes::from_static(b"x"),
                properties: Properties {
                    is_text: true,
                    content_type: Some("t".into()),
                    ..Properties::default()
                },
            }),
        ),
    ] {
        assert_eq!(parse(bytes), Ok(vec![expect]), "{bytes:x?}");
    }
}

#[test]
fn what_a_server_may_not_send_is_an_error() {
    for (bytes, expect) in [
        (&b"\x40\x80\x80\x80\x80\x01"[..], PacketError::Length),
        (b"\x30\xff\xff\x7f", PacketError::TooLarge),
        (b"\x40\x01\0", PacketError::Short),
        (b"\x40\x02\0\0", PacketError::PacketId),
        (b"\x20\x01\0", PacketError::Short),
        (b"\x36\x06\0\x01a\0\x01\0", PacketError::Flags(0x36)),
        (b"\x32\x06\0\x01a\0\0\0", PacketError::PacketId),
        (b"\x30\x05\0\x01\xff\0x", PacketError::Text),
        (b"\x30\x04\0\x05ab", PacketError::Short),
        (b"\x30\x05\0\x01a\x01\x04", PacketError::Property(4)),
        (b"\x30\x05\0\x01a\x05\x01", PacketError::Short),
        (b"\x60\x02\0\x01", PacketError::Flags(0x60)),
        (b"\x41\x02\0\x01", PacketError::Flags(0x41)),
        (b"\x10\0", PacketError::Unexpected(0x10)),
        (b"\x82\0", PacketError::Unexpected(0x82)),
        (b"\xc0\0", PacketError::Unexpected(0xc0)),
        (b"\xf0\0", PacketError::Unexpected(0xf0)),
    ] {
        assert_eq!(parse(bytes), Err(expect), "{bytes:x?}");
    }
}

#[test]
fn a_packet_is_taken_once_it_is_whole() {
    let whole = b"\x30\x05\0\x01a\0x\x40\x02\0\x07";
    for cut in 0..whole.len() {
        let expect = usize::from(cut >= 7);
        assert_eq!(parse(&whole[..cut]).unwrap().len(), expect, "{cut}");
    }
    assert_eq!(parse(whole).unwrap().len(), 2);
}

#[test]
fn damaged_packets_are_errors_and_nothing_worse() {
    let sound: &[&[u8]] = &[
        b"\x3d\x19\0\x01a\0\x07\x12\x01\x01\x02\0\0\0\x05\x0b\x81\x01\x08\0\x01r\x03\0\x01tx",
        b"\x20\x0d\0\0\x0a\x1f\0\x01r\x26\0\x01n\0\x01v",
        b"\x90\x05\0\x07\0\x01\x8f\x70\x09\0\x07\x92\x05\x1f\0\x02no\xe0\0",
    ];
    let mut random = Random::from_seed(5);
    for _ in 0..200_000 {
        let mut bytes = sound[random.below(3) as usize].to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next_u64() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.next_u64() as u8),
            }
        }
        // The outcome does not matter, only that there is one.
        drop(parse(&bytes));
    }
}

#[test]
fn lengths_are_written_in_the_fewest_bytes() {
    for (value, expect) in [
        (0, &b"\0"[..]),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ] {
        let mut out = Vec::new();
        put_varint(value, &mut out);
        assert_eq!(out, expect, "{value}");
        assert_eq!(varint(&out), Ok(Some((value, expect.len()))));
    }
}

#[test]
fn a_publish_carries_what_is_set_and_nothing_else() {
    let plain = |payload: &'static [u8]| Outgoing::new(Topic::new("t").unwrap(), payload);
    let sent = publish_packet(&plain(b"\xff"), Qos::AtMostOnce, 0, None).unwrap();
    assert_eq!(sent, b"\x30\x05\0\x01t\0\xff");
    let sent = publish_packet(&plain(b"x"), Qos::AtLeastOnce, 258, Some("k")).unwrap();
    let expect = b"\x32\x1a\0\x01t\x01\x02\x13\x01\x01\x26\0\x0btidings-key\0\x01kx";
    assert_eq!(sent, expect);
    let full = Outgoing {
        content_type: Some("c".into()),
        event: Some("e".into()),
        headers: vec![("h".into(), "v".into()), ("h".into(), "w".into())],
        ttl: Some(Duration::from_secs(1 << 40)),
        retain: true,
        ..plain(b"\xff")
    };
    let sent = publish_packet(&full, Qos::ExactlyOnce, 1, None).unwrap();
    let expect =
        b"\x35\x31\0\x01t\0\x01\x2a\x02\xff\xff\xff\xff\x03\0\x01c\x26\0\x0dtidings-event\0\x01e\
        \x26\0\x01h\0\x01v\x26\0\x01h\0\x01w\xff";
    assert_eq!(sent, expect);
}

#[test]
fn a_text_that_mqtt_cannot_carry_is_not_sent() {
    let event = |event: &str| Outgoing {
        event: Some(event.to_owned()),
        ..outgoing("x")
    };
    let what = "value of a user property";
    for (message, expect) in [
        (event(&"e".repeat(65_536)), Unsendable::Long(what)),
        (event("a\0"), Unsendable::Nul(what)),
    ] {
        let sent = publish_packet(&message, Qos::AtLeastOnce, 1, None);
        assert_eq!(sent, Err(expect));
    }
    assert!(publish_packet(&event(&"e".repeat(65_535)), Qos::AtLeastOnce, 1, None).is_ok());
}

#[test]
fn a_subscribe_asks_for_no_retained_messages_unless_they_are_wanted() {
    let filters = ["a/#", "b"].map(|text| TopicFilter::new(text).unwrap());
    for (after, retained, qos, expect) in [
        (
            Some("last:5"),
            false,
            Qos::AtLeastOnce,
            &b"\x82\x25\0\x09\x18\x26\0\x0dtidings-after\0\x06last:5\0\x03a/#\x29\0\x01b\x29"[..],
        ),
        (
            None,
            true,
            Qos::ExactlyOnce,
            b"\x82\x0d\0\x09\0\0\x03a/#\x0a\0\x01b\x0a",
        ),
    ] {
        let asked = Asked {
            filters: &filters,
            qos,
            after,
            retained,
        };
        assert_eq!(subscribe_packet(9, asked).unwrap(), expect, "{after:?}");
    }
}
