use std::collections::HashSet;

use super::*;
use crate::mqtt::codec::testing::{
    LIMITS, Outcome, Violating, connect_bytes, decode_pieces, decoder, samples, violating,
};
use crate::mqtt::codec::{Answer, PublishTopic, ReasonCode};

const VERSIONS: [Version; 3] = [Version::V3, Version::V4, Version::V5];

/// What the server does, as the bytes that it sends show.
fn outcome(violation: Violation) -> Outcome {
    let farewell = violation.farewell();
    match (violation.answer, farewell.as_deref()) {
        (Answer::Close, None) => Outcome::Close,
        (Answer::Connack(Version::V5), Some(&[0x20, 3, 0, reason, 0])) => Outcome::Connack(reason),
        (Answer::Connack(_), Some(&[0x20, 2, 0, code])) => Outcome::ReturnCode(code),
        (Answer::Disconnect, Some(&[0xe0, 1, reason])) => Outcome::Disconnect(reason),
        other => panic!("{other:x?}"),
    }
}

fn check_violating(row: &Violating, pieces: &[&[u8]]) {
    let (found, violation, _) = decode_pieces(decoder(row.state), pieces.iter().copied());
    assert!(found.is_empty(), "{}: {found:?}", row.name);
    let violation = violation.unwrap_or_else(|| panic!("{}: nothing wrong is found", row.name));
    assert_eq!(
        (violation.statement(), outcome(violation)),
        (row.statement, row.outcome),
        "{}: {violation}",
        row.name
    );
}

#[test]
fn each_violating_packet_has_its_statement_and_outcome() {
    assert!(violating().count() >= 120);
    for row in violating() {
        check_violating(row, &[row.bytes]);
    }
}

#[test]
fn a_violation_is_the_same_however_the_packet_arrives() {
    for row in violating() {
        let single: Vec<&[u8]> = row.bytes.chunks(1).collect();
        check_violating(row, &single);
        for at in 0..row.bytes.len() {
            check_violating(row, &[&row.bytes[..at], &row.bytes[at..]]);
        }
    }
}

#[test]
fn each_rule_is_broken_by_a_packet_of_the_table() {
    let broken: HashSet<Rule> = violating()
        .filter_map(|row| decode_pieces(decoder(row.state), [row.bytes]).1)
        .map(|violation| violation.rule)
        .collect();
    for rule in Rule::ALL {
        assert!(broken.contains(rule), "{rule:?}");
    }
}

#[test]
fn names_in_the_tables_are_unique() {
    let samples = samples();
    let mut names = HashSet::new();
    for name in violating()
        .map(|row| row.name)
        .chain(samples.iter().map(|sample| sample.name))
    {
        assert!(names.insert(name), "{name}");
    }
}

#[test]
fn each_valid_packet_says_what_it_says() {
    for sample in samples() {
        let (found, violation, left) = decode_pieces(decoder(sample.state), [sample.bytes]);
        assert_eq!(violation, None, "{}", sample.name);
        assert_eq!(found, [sample.packet], "{}", sample.name);
        assert_eq!(left, 0, "{}", sample.name);
    }
}

#[test]
fn valid_packets_are_the_same_however_they_arrive() {
    for sample in samples() {
        let bytes = sample.bytes;
        let mut cuts: Vec<Vec<&[u8]>> = (0..=bytes.len())
            .map(|at| vec![&bytes[..at], &bytes[at..]])
            .collect();
        cuts.push(bytes.chunks(1).collect());
        cuts.push(bytes.chunks(3).collect());
        for pieces in cuts {
            let found = decode_pieces(decoder(sample.state), pieces);
            assert_eq!(
                found,
                (vec![sample.packet.clone()], None, 0),
                "{}",
                sample.name
            );
        }
    }
}

#[test]
fn packets_in_a_row_come_out_in_their_order() {
    for version in VERSIONS {
        let of_version =
            |sample: &crate::mqtt::codec::testing::Sample| sample.state == Some(version);
        let samples: Vec<_> = samples().into_iter().filter(of_version).collect();
        let mut wire = connect_bytes(version).to_vec();
        for sample in &samples {
            wire.extend_from_slice(sample.bytes);
        }
        for step in [1, 2, 7, 64, wire.len()] {
            let (found, violation, left) = decode_pieces(Decoder::new(LIMITS), wire.chunks(step));
            assert_eq!((violation, left), (None, 0));
            assert_eq!(found.len(), samples.len() + 1);
            for (packet, sample) in found[1..].iter().zip(&samples) {
                assert_eq!(packet, &sample.packet, "{}", sample.name);
            }
        }
    }
}

#[test]
fn an_incomplete_packet_takes_nothing_from_the_input() {
    for sample in samples() {
        let mut decoder = decoder(sample.state);
        for end in 0..sample.bytes.len() {
            let mut input = BytesMut::from(&sample.bytes[..end]);
            assert_eq!(decoder.decode(&mut input), Ok(None), "{}", sample.name);
            assert_eq!(input, &sample.bytes[..end]);
        }
    }
}

#[test]
fn what_follows_a_packet_stays_in_the_input() {
    for sample in samples() {
        let mut input = BytesMut::from(sample.bytes);
        input.extend_from_slice(b"\xff\xff\xff");
        let found = decoder(sample.state).decode(&mut input);
        assert_eq!(found, Ok(Some(sample.packet)), "{}", sample.name);
        assert_eq!(input, &b"\xff\xff\xff"[..]);
    }
}

#[test]
fn the_version_is_known_after_the_connect() {
    for version in VERSIONS {
        assert_eq!(decoder(None).version(), None);
        assert_eq!(decoder(Some(version)).version(), Some(version));
    }
}

#[test]
fn a_packet_over_the_limit_is_refused_at_its_fixed_header() {
    // 1 + 3 + 65,532 is the limit, one more is over it.
    for (header, verdict) in [
        (&b"\x30\xfc\xff\x03"[..], Ok(None)),
        (b"\x30\xfd\xff\x03", Err(Rule::PacketTooLarge)),
    ] {
        let mut decoder = decoder(Some(Version::V5));
        for end in 0..header.len() {
            let mut input = BytesMut::from(&header[..end]);
            assert_eq!(decoder.decode(&mut input), Ok(None));
        }
        let mut input = BytesMut::from(header);
        let found = decoder.decode(&mut input);
        assert_eq!(found.map_err(|violation| violation.rule), verdict);
    }
}

#[test]
fn a_packet_of_exactly_the_limit_is_taken() {
    let mut wire = b"\x30\xfc\xff\x03\x00\x01a".to_vec();
    wire.resize(LIMITS.packet_bytes_max, b'x');
    let (found, violation, left) = decode_pieces(decoder(Some(Version::V4)), wire.chunks(1_400));
    assert_eq!((violation, left), (None, 0));
    let [Packet::Publish(publish)] = &found[..] else {
        panic!("one message");
    };
    assert_eq!(publish.payload, vec![b'x'; LIMITS.packet_bytes_max - 7]);
}

#[test]
fn an_announced_length_costs_nothing() {
    let mut decoder = decoder(Some(Version::V4));
    let mut input = BytesMut::from(&b"\x30\xfc\xff\x03\x00\x01abc"[..]);
    let capacity = input.capacity();
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(input.capacity(), capacity);
}

#[test]
fn a_small_message_does_not_hold_the_read_buffer_and_a_large_one_shares_it() {
    for (payload_len, shares) in [(100, false), (20_000, false), (40_000, true)] {
        let mut input = BytesMut::with_capacity(64 << 10);
        input.extend_from_slice(b"\x30");
        super::super::writer::put_varint(&mut input, 3 + payload_len);
        input.extend_from_slice(b"\x00\x01a");
        input.resize(input.len() + payload_len, b'x');
        let start = input.as_ptr() as usize;
        let end = start + input.len();
        let Ok(Some(Packet::Publish(publish))) = decoder(Some(Version::V4)).decode(&mut input)
        else {
            panic!("a message");
        };
        let at = publish.payload.as_ptr() as usize;
        assert_eq!((start..end).contains(&at), shares);
        let PublishTopic::Name(Ok(topic)) = &publish.topic else {
            panic!("a topic");
        };
        let topic_at = topic.as_str().as_ptr() as usize;
        // One allocation for all fields of a packet, whichever it is.
        assert_eq!(at - topic_at, 1);
    }
}

#[test]
fn every_reason_code_is_judged_by_packet() {
    let packets = [
        (0x40, PacketKind::Puback),
        (0x50, PacketKind::Pubrec),
        (0x62, PacketKind::Pubrel),
        (0x70, PacketKind::Pubcomp),
    ];
    for (first, kind) in packets {
        for number in 0..=u8::MAX {
            let permitted = ReasonCode::of(number).is_some_and(|code| code.client_may_send(kind));
            let wire = [first, 3, 0, 1, number];
            let (found, violation, _) = decode_pieces(decoder(Some(Version::V5)), [&wire[..]]);
            assert_eq!(found.len() == 1, permitted, "{kind:?} {number:#x}");
            assert_eq!(violation.is_none(), permitted, "{kind:?} {number:#x}");
        }
    }
}

#[test]
fn each_first_byte_is_taken_or_refused_as_the_specification_lists_it() {
    let permitted = |version, first: u8| match first {
        0x30..=0x35 | 0x3a..=0x3d | 0x40 | 0x50 | 0x62 | 0x70 | 0x82 | 0xa2 | 0xc0 | 0xe0 => true,
        0x38 | 0x39 | 0x6a | 0x8a | 0xaa => version == Version::V3,
        0xf0 => version == Version::V5,
        _ => false,
    };
    for version in VERSIONS {
        for first in 0..=u8::MAX {
            let mut input = BytesMut::from(&[first][..]);
            let found = decoder(Some(version)).decode(&mut input);
            let expect = permitted(version, first);
            assert_eq!(found == Ok(None), expect, "{version} {first:#x}");
        }
    }
    for first in 0..=u8::MAX {
        let mut input = BytesMut::from(&[first][..]);
        let found = decoder(None).decode(&mut input);
        assert_eq!(found == Ok(None), first == 0x10, "{first:#x}");
    }
}

#[test]
fn texts_of_any_character_but_nul_arrive_as_they_are() {
    let texts = (1..=0x10_ffff)
        .step_by(97)
        .chain([1, 0x1f, 0x7f, 0xd7ff, 0xe000, 0xfeff, 0xfffd, 0xffff])
        .filter_map(char::from_u32);
    for character in texts {
        let text = character.to_string();
        let mut wire = vec![0x10, 12 + text.len() as u8];
        wire.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x3c\x00");
        wire.push(text.len() as u8);
        wire.extend_from_slice(text.as_bytes());
        let (found, violation, _) = decode_pieces(decoder(None), [&wire[..]]);
        assert_eq!(violation, None, "{character:?}");
        let [Packet::Connect(connect)] = &found[..] else {
            panic!("a CONNECT");
        };
        assert_eq!(connect.client_id, text);
    }
}
