use super::*;
use crate::mqtt::codec::PacketId;

fn topic(text: &'static str) -> Topic {
    Topic::new(text).unwrap()
}

fn packet_id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn alias(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn subscription_id(number: u32) -> SubscriptionId {
    SubscriptionId::new(number).unwrap()
}

const QOS0: Addressing<'static> = Addressing::new(Delivery::AtMostOnce);

fn qos1(number: u16) -> Addressing<'static> {
    Addressing::new(Delivery::AtLeastOnce(packet_id(number)))
}

fn qos2(number: u16) -> Addressing<'static> {
    Addressing::new(Delivery::ExactlyOnce(packet_id(number)))
}

/// The whole packet for one subscriber.
fn addressed(template: &PublishTemplate, to: &Addressing<'_>) -> Vec<u8> {
    let mut head = BytesMut::new();
    let tail = template.address(to, u32::MAX, &mut head).unwrap();
    [&head[..], &tail[..]].concat()
}

/// Every property, in the order of the template.
fn full<'a>(topic: &'a Topic, users: &'a [(&'a str, &'a str)]) -> OutboundPublish<'a> {
    OutboundPublish {
        expiry_s: Some(60),
        format: PayloadFormat::Text,
        content_type: Some("t/p"),
        response_topic: Some("r"),
        correlation: Some(b"\x00c"),
        user_properties: users,
        ..OutboundPublish::new(topic, b"hello")
    }
}

const SHARED: &[u8] =
    b"\x01\x01\x03\x00\x03t/p\x08\x00\x01r\x09\x00\x02\x00c\x26\x00\x01k\x00\x01v";

#[test]
fn before_5_a_message_is_topic_and_payload() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    for version in [Version::V3, Version::V4] {
        let template = PublishTemplate::encode(version, &full(&topic, &users)).unwrap();
        for (to, expect) in [
            (QOS0, &b"\x30\x0a\x00\x03a/bhello"[..]),
            (qos1(0x1234), b"\x32\x0c\x00\x03a/b\x12\x34hello"),
            (qos2(1), b"\x34\x0c\x00\x03a/b\x00\x01hello"),
        ] {
            assert_eq!(addressed(&template, &to), expect);
        }
    }
}

#[test]
fn from_5_on_a_message_has_its_properties() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    let template = PublishTemplate::encode(Version::V5, &full(&topic, &users)).unwrap();
    let expiry = b"\x02\x00\x00\x00\x3c";
    let expect = [b"\x30\x28\x00\x03a/b\x1d", &expiry[..], SHARED, b"hello"].concat();
    assert_eq!(template.frame(), &expect);
    let expect = [
        b"\x32\x2a\x00\x03a/b\x12\x34\x1d",
        &expiry[..],
        SHARED,
        b"hello",
    ]
    .concat();
    assert_eq!(addressed(&template, &qos1(0x1234)), expect);
    let bare = PublishTemplate::encode(Version::V5, &OutboundPublish::new(&topic, b"")).unwrap();
    assert_eq!(bare.frame(), &b"\x30\x06\x00\x03a/b\x00"[..]);
    assert_eq!(
        addressed(&bare, &qos2(7)),
        b"\x34\x08\x00\x03a/b\x00\x07\x00"
    );
}

#[test]
fn the_retain_flag_is_the_templates() {
    let topic = topic("a");
    let message = OutboundPublish {
        retain: true,
        ..OutboundPublish::new(&topic, b"x")
    };
    let template = PublishTemplate::encode(Version::V4, &message).unwrap();
    assert_eq!(addressed(&template, &QOS0), b"\x31\x04\x00\x01ax");
    assert_eq!(
        addressed(&template, &qos1(1)),
        b"\x33\x06\x00\x01a\x00\x01x"
    );
    assert_eq!(
        addressed(&template, &qos2(1)),
        b"\x35\x06\x00\x01a\x00\x01x"
    );
}

#[test]
fn dup_is_set_on_what_is_sent_again_but_never_with_qos_0() {
    let topic = topic("a");
    let template =
        PublishTemplate::encode(Version::V4, &OutboundPublish::new(&topic, b"x")).unwrap();
    for (to, first) in [(QOS0, 0x30), (qos1(1), 0x3a), (qos2(1), 0x3c)] {
        let again = Addressing {
            duplicate: true,
            ..to
        };
        assert_eq!(addressed(&template, &again)[0], first);
    }
}

#[test]
fn a_plain_copy_of_qos_0_is_the_frame_itself_and_the_others_share_its_tail() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    let template = PublishTemplate::encode(Version::V5, &full(&topic, &users)).unwrap();
    let mut head = BytesMut::new();
    let tail = template.address(&QOS0, u32::MAX, &mut head).unwrap();
    assert!(head.is_empty());
    assert_eq!(tail.as_ptr(), template.frame().as_ptr());
    assert_eq!(tail.len(), template.frame().len());
    let tail = template.address(&qos1(1), u32::MAX, &mut head).unwrap();
    assert_eq!(head, &b"\x32\x2a\x00\x03a/b\x00\x01\x1d"[..]);
    let offset = template.frame().len() - tail.len();
    assert_eq!(tail.as_ptr(), template.frame()[offset..].as_ptr());
}

#[test]
fn aliases_and_subscription_ids_stand_before_the_shared_properties() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    let message = OutboundPublish {
        expiry_s: None,
        ..full(&topic, &users)
    };
    let template = PublishTemplate::encode(Version::V5, &message).unwrap();
    let ids = [subscription_id(1), subscription_id(268_435_455)];
    let to = Addressing {
        topic_alias: TopicAlias::Assign(alias(5)),
        subscription_ids: &ids,
        ..qos1(9)
    };
    let own = b"\x23\x00\x05\x0b\x01\x0b\xff\xff\xff\x7f";
    let expect = [
        b"\x32\x2f\x00\x03a/b\x00\x09\x22",
        &own[..],
        SHARED,
        b"hello",
    ]
    .concat();
    assert_eq!(addressed(&template, &to), expect);
    let to = Addressing {
        topic_alias: TopicAlias::Use(alias(5)),
        ..QOS0
    };
    let expect = [b"\x30\x23\x00\x00\x1b\x23\x00\x05", SHARED, b"hello"].concat();
    assert_eq!(addressed(&template, &to), expect);
}

#[test]
fn a_message_that_waited_says_how_long_it_still_lives() {
    let topic = topic("a");
    for delivery in [QOS0, qos1(1)] {
        let id: &[u8] = if delivery == QOS0 { b"" } else { b"\x00\x01" };
        let first = if delivery == QOS0 { 0x30 } else { 0x32 };
        let to = Addressing {
            expiry_s: Some(7),
            ..delivery
        };
        for expiry_s in [Some(60), None] {
            let message = OutboundPublish {
                expiry_s,
                ..OutboundPublish::new(&topic, b"x")
            };
            let template = PublishTemplate::encode(Version::V5, &message).unwrap();
            let expect = [
                &[first, 10 + id.len() as u8][..],
                b"\x00\x01a",
                id,
                b"\x05\x02\x00\x00\x00\x07x",
            ]
            .concat();
            assert_eq!(addressed(&template, &to), expect);
        }
    }
}

#[test]
fn what_only_5_knows_does_not_travel_before() {
    let topic = topic("a");
    let template =
        PublishTemplate::encode(Version::V4, &OutboundPublish::new(&topic, b"x")).unwrap();
    let ids = [subscription_id(1)];
    let to = Addressing {
        topic_alias: TopicAlias::Use(alias(1)),
        subscription_ids: &ids,
        expiry_s: Some(1),
        ..QOS0
    };
    assert_eq!(addressed(&template, &to), b"\x30\x04\x00\x01ax");
    let to = Addressing {
        delivery: Delivery::AtLeastOnce(packet_id(1)),
        ..to
    };
    assert_eq!(addressed(&template, &to), b"\x32\x06\x00\x01a\x00\x01x");
}

#[test]
fn a_copy_larger_than_the_client_takes_is_not_made() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    let ids = [subscription_id(1)];
    for version in [Version::V4, Version::V5] {
        let template = PublishTemplate::encode(version, &full(&topic, &users)).unwrap();
        let own = Addressing {
            subscription_ids: &ids,
            ..QOS0
        };
        for to in [QOS0, qos1(1), own] {
            let size = addressed(&template, &to).len() as u32;
            let mut head = BytesMut::new();
            assert!(template.address(&to, size, &mut head).is_ok());
            head.clear();
            assert_eq!(
                template.address(&to, size - 1, &mut head),
                Err(PacketTooLarge)
            );
            assert!(head.is_empty());
        }
    }
}

#[test]
fn a_template_can_be_taken_from_its_frame() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    let long = vec![b'x'; 20_000];
    for version in [Version::V3, Version::V4, Version::V5] {
        for retain in [false, true] {
            for message in [
                full(&topic, &users),
                OutboundPublish::new(&topic, b""),
                OutboundPublish::new(&topic, &long),
            ] {
                let message = OutboundPublish { retain, ..message };
                let template = PublishTemplate::encode(version, &message).unwrap();
                let taken = PublishTemplate::from_frame(version, template.frame().clone());
                assert_eq!(taken, Some(template));
            }
        }
    }
}

#[test]
fn other_bytes_are_no_template_and_never_a_panic() {
    let topic = topic("a/b");
    let users = [("k", "v")];
    for version in [Version::V4, Version::V5] {
        let template = PublishTemplate::encode(version, &full(&topic, &users)).unwrap();
        let frame = template.frame();
        for end in 0..frame.len() {
            assert_eq!(
                PublishTemplate::from_frame(version, frame.slice(..end)),
                None
            );
        }
        for at in 0..frame.len() {
            for byte in [0, 2, 0x32, 0x7f, 0x80, 0xff] {
                let mut other = frame.to_vec();
                other[at] = byte;
                let Some(taken) = PublishTemplate::from_frame(version, other.into()) else {
                    continue;
                };
                let to = Addressing {
                    expiry_s: Some(1),
                    ..qos1(1)
                };
                std::hint::black_box(addressed(&taken, &to));
            }
        }
    }
}

#[test]
fn lengths_grow_with_the_packet() {
    let topic = topic("a");
    let mut payload_len = 1;
    while payload_len < 3_000_000 {
        for len in [payload_len - 1, payload_len, payload_len + 1] {
            let payload = vec![b'x'; len];
            let message = OutboundPublish::new(&topic, &payload);
            for version in [Version::V4, Version::V5] {
                let template = PublishTemplate::encode(version, &message).unwrap();
                for to in [QOS0, qos1(1)] {
                    let packet = addressed(&template, &to);
                    let (remaining, size) = varint(&packet[1..]).unwrap().unwrap();
                    assert_eq!(packet.len(), 1 + size + remaining as usize);
                }
            }
        }
        payload_len *= 2;
    }
}

#[test]
fn a_message_over_the_protocols_limit_is_not_encoded() {
    let topic = topic("a");
    let payload = vec![0; VARINT_MAX as usize - 2];
    let message = OutboundPublish::new(&topic, &payload);
    let template = PublishTemplate::encode(Version::V4, &message);
    assert_eq!(template, Err(PacketTooLarge));
}

#[test]
fn property_text_that_mqtt_cannot_carry_is_left_out() {
    let topic = topic("a");
    let long = "x".repeat(65_536);
    let users = [("k", "\0"), (&*long, "v"), ("k", "v")];
    let message = OutboundPublish {
        content_type: Some(&long),
        response_topic: Some("a\0"),
        correlation: Some(long.as_bytes()),
        user_properties: &users,
        ..OutboundPublish::new(&topic, b"")
    };
    let template = PublishTemplate::encode(Version::V5, &message).unwrap();
    assert_eq!(
        template.frame(),
        &b"\x30\x0b\x00\x01a\x07\x26\x00\x01k\x00\x01v"[..]
    );
}
