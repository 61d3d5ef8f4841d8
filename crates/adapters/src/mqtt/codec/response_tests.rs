use super::*;
use crate::mqtt::codec::{Ack, AckKind, Auth, Farewell, UserProperties};

const V3: Wire = Wire::new(Version::V3);
const V4: Wire = Wire::new(Version::V4);
const V5: Wire = Wire::new(Version::V5);

fn limited(packet_bytes_max: u32) -> Wire {
    Wire {
        packet_bytes_max,
        ..V5
    }
}

fn text(text: &'static str) -> ByteString {
    ByteString::from_static(text)
}

fn users(pairs: &[(&'static str, &'static str)]) -> UserProperties {
    pairs
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn diagnostics() -> Diagnostics {
    Diagnostics {
        reason_string: Some(text("why")),
        user_properties: users(&[("k", "v"), ("k", "w")]),
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// What an encoder appends; `None` if it fails, and then it appends nothing.
fn encoded(encode: impl FnOnce(&mut BytesMut) -> Result<(), PacketTooLarge>) -> Option<Vec<u8>> {
    let mut out = BytesMut::from(&b"before"[..]);
    let written = encode(&mut out);
    let appended = out.strip_prefix(b"before").unwrap();
    if written.is_err() {
        assert!(appended.is_empty());
    }
    written.is_ok().then(|| appended.to_vec())
}

#[track_caller]
fn check(encode: impl FnOnce(&mut BytesMut) -> Result<(), PacketTooLarge>, expect: &[u8]) {
    let found = encoded(encode);
    assert_eq!(found.as_deref(), Some(expect), "{found:x?} {expect:x?}");
}

#[test]
fn connacks_before_5_are_two_bytes() {
    let refused = |reason| Connack::refused(reason);
    let present = Connack::accepted(true);
    for (wire, connack, expect) in [
        (V4, Connack::accepted(false), &b"\x20\x02\x00\x00"[..]),
        (V4, present.clone(), b"\x20\x02\x01\x00"),
        // 3.1 has no such flag.
        (V3, present, b"\x20\x02\x00\x00"),
        (
            V4,
            refused(ReasonCode::UnsupportedProtocolVersion),
            b"\x20\x02\x00\x01",
        ),
        (
            V3,
            refused(ReasonCode::ClientIdentifierNotValid),
            b"\x20\x02\x00\x02",
        ),
        (
            V4,
            refused(ReasonCode::ServerUnavailable),
            b"\x20\x02\x00\x03",
        ),
        (
            V4,
            refused(ReasonCode::BadUserNameOrPassword),
            b"\x20\x02\x00\x04",
        ),
        (V4, refused(ReasonCode::NotAuthorized), b"\x20\x02\x00\x05"),
        // No return code fits: nothing is said (MQTT-3.2.2-6).
        (V4, refused(ReasonCode::ProtocolError), b""),
    ] {
        check(|out| connack.encode(wire, out), expect);
    }
}

#[test]
fn a_refusing_connack_never_says_that_a_session_is_present() {
    let connack = Connack {
        session_present: true,
        ..Connack::refused(ReasonCode::NotAuthorized)
    };
    check(|out| connack.encode(V4, out), b"\x20\x02\x00\x05");
    check(|out| connack.encode(V5, out), b"\x20\x03\x00\x87\x00");
}

#[test]
fn a_connack_of_5_says_only_what_differs_from_the_default() {
    check(
        |out| Connack::accepted(false).encode(V5, out),
        b"\x20\x03\x00\x00\x00",
    );
    check(
        |out| Connack::accepted(true).encode(V5, out),
        b"\x20\x03\x01\x00\x00",
    );
}

#[test]
fn a_connack_of_5_carries_every_property() {
    let connack = Connack {
        session_present: true,
        reason: ReasonCode::Success,
        session_expiry_s: Some(60),
        receive_maximum: NonZeroU16::new(10),
        maximum_qos: Qos::AtLeastOnce,
        retain_available: false,
        wildcard_subscription_available: false,
        subscription_id_available: false,
        shared_subscription_available: false,
        packet_bytes_max: NonZeroU32::new(65_536),
        assigned_client_id: Some(text("c")),
        topic_alias_maximum: 20,
        server_keep_alive_s: Some(30),
        response_information: Some(text("r")),
        server_reference: Some(text("s")),
        authentication: Some(Authentication {
            method: text("m"),
            data: Some(Bytes::from_static(b"\x00d")),
        }),
        diagnostics: diagnostics(),
    };
    let expect = b"\x20\x49\x01\x00\x46\
        \x11\x00\x00\x00\x3c\
        \x27\x00\x01\x00\x00\
        \x21\x00\x0a\
        \x22\x00\x14\
        \x13\x00\x1e\
        \x24\x01\
        \x25\x00\
        \x28\x00\
        \x29\x00\
        \x2a\x00\
        \x12\x00\x01c\
        \x1a\x00\x01r\
        \x1c\x00\x01s\
        \x15\x00\x01m\
        \x16\x00\x02\x00d\
        \x1f\x00\x03why\
        \x26\x00\x01k\x00\x01v\
        \x26\x00\x01k\x00\x01w";
    check(|out| connack.encode(V5, out), expect);
}

#[test]
fn acks_are_as_short_as_they_may_be() {
    let first = [
        (AckKind::Puback, 0x40),
        (AckKind::Pubrec, 0x50),
        (AckKind::Pubrel, 0x62),
        (AckKind::Pubcomp, 0x70),
    ];
    for (kind, first) in first {
        let success = Ack::new(id(0x1234), ReasonCode::Success);
        for wire in [V3, V4, V5] {
            check(
                |out| success.encode(kind, wire, out),
                &[first, 2, 0x12, 0x34],
            );
        }
        let reason = match kind {
            AckKind::Puback | AckKind::Pubrec => ReasonCode::QuotaExceeded,
            AckKind::Pubrel | AckKind::Pubcomp => ReasonCode::PacketIdNotFound,
        };
        let failed = Ack::new(id(0x1234), reason);
        check(
            |out| failed.encode(kind, V5, out),
            &[first, 3, 0x12, 0x34, reason.number()],
        );
        check(|out| failed.encode(kind, V4, out), &[first, 2, 0x12, 0x34]);
        let telling = Ack {
            diagnostics: Diagnostics::text("no"),
            ..success
        };
        check(
            |out| telling.encode(kind, V5, out),
            &[first, 9, 0x12, 0x34, 0, 5, 0x1f, 0, 2, b'n', b'o'],
        );
    }
}

#[test]
fn subacks_name_a_reason_for_each_filter() {
    let suback = Suback {
        packet_id: id(5),
        reasons: vec![
            ReasonCode::Success,
            ReasonCode::GrantedQos1,
            ReasonCode::GrantedQos2,
            ReasonCode::NotAuthorized,
        ],
        diagnostics: Diagnostics::text("no"),
    };
    for wire in [V3, V4] {
        check(
            |out| suback.encode(wire, out),
            b"\x90\x06\x00\x05\x00\x01\x02\x80",
        );
    }
    check(
        |out| suback.encode(V5, out),
        b"\x90\x0c\x00\x05\x05\x1f\x00\x02no\x00\x01\x02\x87",
    );
}

#[test]
fn unsubacks_name_reasons_from_5_on() {
    let unsuback = Unsuback {
        packet_id: id(5),
        reasons: vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
        diagnostics: Diagnostics::default(),
    };
    check(|out| unsuback.encode(V4, out), b"\xb0\x02\x00\x05");
    check(
        |out| unsuback.encode(V5, out),
        b"\xb0\x05\x00\x05\x00\x00\x11",
    );
}

#[test]
fn a_ping_is_answered_in_two_bytes() {
    assert_eq!(PINGRESP, &b"\xd0\x00"[..]);
}

#[test]
fn a_servers_disconnect_exists_from_5_on() {
    let bare = Farewell::new(ReasonCode::SessionTakenOver);
    check(|out| bare.encode(V4, out), b"");
    check(|out| bare.encode(V3, out), b"");
    check(|out| bare.encode(V5, out), b"\xe0\x01\x8e");
    let moved = Farewell {
        server_reference: Some(text("there")),
        diagnostics: diagnostics(),
        ..Farewell::new(ReasonCode::UseAnotherServer)
    };
    check(
        |out| moved.encode(V5, out),
        b"\xe0\x1e\x9c\x1c\x1c\x00\x05there\x1f\x00\x03why\
          \x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w",
    );
}

#[test]
fn auth_names_its_method() {
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        authentication: Authentication {
            method: text("m"),
            data: Some(Bytes::from_static(b"d")),
        },
        diagnostics: Diagnostics::text("no"),
    };
    check(
        |out| auth.encode(V5, out),
        b"\xf0\x0f\x18\x0d\x15\x00\x01m\x16\x00\x01d\x1f\x00\x02no",
    );
    check(|out| auth.encode(V4, out), b"");
}

#[test]
fn what_does_not_fit_is_left_out_user_properties_first() {
    let ack = Ack {
        diagnostics: diagnostics(),
        ..Ack::new(id(1), ReasonCode::QuotaExceeded)
    };
    let full =
        b"\x40\x18\x00\x01\x97\x14\x1f\x00\x03why\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w";
    for (limit, expect) in [
        (26, Some(&full[..])),
        (25, Some(b"\x40\x0a\x00\x01\x97\x06\x1f\x00\x03why")),
        (12, Some(b"\x40\x0a\x00\x01\x97\x06\x1f\x00\x03why")),
        (11, Some(b"\x40\x03\x00\x01\x97")),
        (5, Some(b"\x40\x03\x00\x01\x97")),
        (4, None),
        (1, None),
    ] {
        let found = encoded(|out| ack.encode(AckKind::Puback, limited(limit), out));
        assert_eq!(found.as_deref(), expect, "{limit}");
    }
}

#[test]
fn no_packet_is_larger_than_the_client_takes() {
    let connack = Connack {
        diagnostics: diagnostics(),
        assigned_client_id: Some(text("chosen")),
        ..Connack::accepted(false)
    };
    let suback = Suback {
        packet_id: id(1),
        reasons: vec![ReasonCode::NotAuthorized; 3],
        diagnostics: diagnostics(),
    };
    let unsuback = Unsuback {
        packet_id: id(1),
        reasons: vec![ReasonCode::NotAuthorized; 3],
        diagnostics: diagnostics(),
    };
    let farewell = Farewell {
        diagnostics: diagnostics(),
        ..Farewell::new(ReasonCode::ServerBusy)
    };
    let success = Ack::new(id(1), ReasonCode::Success);
    for limit in 1..200 {
        let wire = limited(limit);
        let packets = [
            encoded(|out| connack.encode(wire, out)),
            encoded(|out| suback.encode(wire, out)),
            encoded(|out| unsuback.encode(wire, out)),
            encoded(|out| farewell.encode(wire, out)),
            encoded(|out| success.encode(AckKind::Puback, wire, out)),
        ];
        for packet in packets.into_iter().flatten() {
            assert!(packet.len() <= limit as usize);
        }
    }
    // The client identifier is not for diagnosis: without it the packet is no answer.
    assert_eq!(encoded(|out| connack.encode(limited(13), out)), None);
    check(
        |out| connack.encode(limited(14), out),
        b"\x20\x0c\x00\x00\x09\x12\x00\x06chosen",
    );
    check(
        |out| success.encode(AckKind::Puback, limited(4), out),
        b"\x40\x02\x00\x01",
    );
}

#[test]
fn without_problem_information_only_connack_and_disconnect_say_why() {
    let wire = Wire {
        problem_information: false,
        ..V5
    };
    let ack = Ack {
        diagnostics: diagnostics(),
        ..Ack::new(id(1), ReasonCode::QuotaExceeded)
    };
    check(
        |out| ack.encode(AckKind::Puback, wire, out),
        b"\x40\x03\x00\x01\x97",
    );
    let suback = Suback {
        packet_id: id(1),
        reasons: vec![ReasonCode::Success],
        diagnostics: diagnostics(),
    };
    check(|out| suback.encode(wire, out), b"\x90\x04\x00\x01\x00\x00");
    let connack = Connack {
        diagnostics: Diagnostics::text("no"),
        ..Connack::refused(ReasonCode::Banned)
    };
    check(
        |out| connack.encode(wire, out),
        b"\x20\x08\x00\x8a\x05\x1f\x00\x02no",
    );
    let farewell = Farewell {
        diagnostics: Diagnostics::text("no"),
        ..Farewell::new(ReasonCode::ServerBusy)
    };
    check(
        |out| farewell.encode(wire, out),
        b"\xe0\x07\x89\x05\x1f\x00\x02no",
    );
}

#[test]
fn text_that_mqtt_cannot_carry_is_left_out() {
    let farewell = Farewell {
        server_reference: Some(ByteString::from("x".repeat(65_536))),
        diagnostics: Diagnostics {
            reason_string: Some(text("a\0b")),
            user_properties: users(&[("k", "\0"), ("k", "v")]),
        },
        ..Farewell::new(ReasonCode::ServerBusy)
    };
    check(
        |out| farewell.encode(V5, out),
        b"\xe0\x09\x89\x07\x26\x00\x01k\x00\x01v",
    );
}

#[test]
fn a_clients_connect_says_what_it_can_be_sent() {
    let samples = crate::mqtt::codec::testing::samples();
    let connect = |name| {
        let sample = samples.iter().find(|sample| sample.name == name).unwrap();
        let crate::mqtt::codec::Packet::Connect(connect) = &sample.packet else {
            panic!("a CONNECT");
        };
        Wire::from(&**connect)
    };
    assert_eq!(connect("3.1.1 connect with all"), V4);
    assert_eq!(
        connect("5.0 connect with all properties"),
        Wire {
            version: Version::V5,
            packet_bytes_max: 65_536,
            problem_information: false
        }
    );
}
