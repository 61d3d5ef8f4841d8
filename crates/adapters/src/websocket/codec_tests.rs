use super::*;
use crate::websocket::testing::client;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

const PLAIN: Rules = Rules {
    message_bytes_max: 1 << 20,
    deflate: false,
};
const DEFLATE: Rules = Rules {
    message_bytes_max: 1 << 20,
    deflate: true,
};

type Decoded = (Vec<Incoming>, Option<Violation>);

/// Everything that the input holds, given in pieces of at most `step` bytes.
fn decode(input: &[u8], rules: Rules, step: usize) -> Decoded {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in input.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer, rules) {
                Ok(Some(incoming)) => found.push(incoming),
                Ok(None) => break,
                Err(violation) => return (found, Some(violation)),
            }
        }
        assert!(buffer.len() < 14 + CONTROL_BYTES_MAX, "input is taken");
        assert!(decoder.buffered() <= rules.wire_bytes_max(rules.deflate));
    }
    (found, None)
}

/// The same result whole and in pieces of every small size.
#[track_caller]
fn check(input: &[u8], rules: Rules, incoming: &[Incoming], violation: Option<Violation>) {
    for step in [usize::MAX, 1, 2, 3, 5, 7, 13, 64] {
        let (found, error) = decode(input, rules, step);
        assert_eq!(
            (&found[..], error),
            (incoming, violation),
            "step {step}: {input:x?}"
        );
    }
}

fn text(text: &str) -> Incoming {
    Incoming::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn binary(bytes: &[u8]) -> Incoming {
    Incoming::Binary(Bytes::copy_from_slice(bytes))
}

fn ping(bytes: &[u8]) -> Incoming {
    Incoming::Ping(Bytes::copy_from_slice(bytes))
}

fn frames(frames: &[(u8, &[u8])]) -> Vec<u8> {
    frames
        .iter()
        .flat_map(|(first, payload)| client(*first, payload))
        .collect()
}

fn deflate_with(payload: &[u8], bits: u8) -> Vec<u8> {
    let mut deflater = Compress::new_with_window_bits(Compression::best(), false, bits);
    let mut out = Vec::with_capacity(payload.len() * 2 + 64);
    deflater
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    out.truncate(out.len() - 4);
    out
}

#[test]
fn the_specifications_masked_hello_is_a_text_message() {
    // RFC 6455 5.7.
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    check(hello, PLAIN, &[text("Hello")], None);
}

#[test]
fn whole_messages_of_every_length_form_arrive() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload = "x".repeat(len);
        check(
            &client(0x81, payload.as_bytes()),
            PLAIN,
            &[text(&payload)],
            None,
        );
        check(
            &client(0x82, payload.as_bytes()),
            PLAIN,
            &[binary(payload.as_bytes())],
            None,
        );
    }
}

#[test]
fn fragments_join_and_control_frames_may_stand_between_them() {
    let long = "y".repeat(20_000);
    let cases: [(Vec<u8>, Vec<Incoming>); 6] = [
        (frames(&[(0x01, b"a"), (0x80, b"b")]), vec![text("ab")]),
        (
            frames(&[(0x01, b""), (0x00, b""), (0x80, b"")]),
            vec![text("")],
        ),
        (
            frames(&[
                (0x02, b"a"),
                (0x89, b"p"),
                (0x00, b"b"),
                (0x8a, b""),
                (0x80, b"c"),
            ]),
            vec![ping(b"p"), Incoming::Pong, binary(b"abc")],
        ),
        (
            frames(&[
                (0x01, long.as_bytes()),
                (0x80, long.as_bytes()),
                (0x81, b"z"),
            ]),
            vec![text(&long.repeat(2)), text("z")],
        ),
        (frames(&[(0x89, &[7; 125])]), vec![ping(&[7; 125])]),
        (
            frames(&[(0x01, b"a"), (0x88, b"\x03\xe8bye")]),
            vec![Incoming::Close(Some(1000))],
        ),
    ];
    for (input, expect) in cases {
        check(&input, PLAIN, &expect, None);
    }
}

#[test]
fn every_framing_rule_has_its_violation() {
    let cases: &[(&[u8], Violation)] = &[
        (b"\x81\x05Hello", Violation::Unmasked),
        (b"\x89\x00", Violation::Unmasked),
        (&client(0xc1, b"a"), Violation::ReservedBit),
        (&client(0xa1, b"a"), Violation::ReservedBit),
        (&client(0x91, b"a"), Violation::ReservedBit),
        (&client(0xc9, b"a"), Violation::ReservedBit),
        (&client(0x83, b"a"), Violation::ReservedOpcode),
        (&client(0x87, b"a"), Violation::ReservedOpcode),
        (&client(0x8b, b"a"), Violation::ReservedOpcode),
        (&client(0x8f, b"a"), Violation::ReservedOpcode),
        (&client(0x09, b"a"), Violation::FragmentedControl),
        (&client(0x08, b""), Violation::FragmentedControl),
        (&client(0x89, &[0; 126]), Violation::LongControl),
        (b"\x88\xff", Violation::LongControl),
        (b"\x81\xfe\x00\x7d", Violation::LongLength),
        (
            b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff",
            Violation::LongLength,
        ),
        (
            b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00",
            Violation::LengthTopBit,
        ),
        (&client(0x80, b"a"), Violation::NothingToContinue),
        (&client(0x00, b"a"), Violation::NothingToContinue),
        (
            &frames(&[(0x01, b"a"), (0x81, b"b")]),
            Violation::MessageUnfinished,
        ),
        (
            &frames(&[(0x02, b""), (0x01, b"b")]),
            Violation::MessageUnfinished,
        ),
        (&client(0x88, b"\x03"), Violation::ShortClose),
        (&client(0x88, b"\x03\xe8\xff"), Violation::BadCloseText),
    ];
    for (input, violation) in cases {
        check(input, PLAIN, &[], Some(*violation));
    }
}

#[test]
fn rsv1_is_only_permitted_on_the_first_frame_of_a_data_message() {
    for input in [
        client(0xc9, b""),
        client(0xc8, b""),
        frames(&[(0x01, b"a"), (0xc0, b"b")]),
        frames(&[(0x41, b"a"), (0xc0, b"b")]),
        client(0xe1, b""),
    ] {
        check(&input, DEFLATE, &[], Some(Violation::ReservedBit));
    }
}

#[test]
fn close_codes_are_judged_as_the_specification_lists_them() {
    let permitted = |code: u16| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    for code in (0..=5100).chain([u16::MAX]) {
        let payload = [&code.to_be_bytes()[..], "gr\u{fc}n".as_bytes()].concat();
        let (found, violation) = decode(&client(0x88, &payload), PLAIN, usize::MAX);
        if permitted(code) {
            assert_eq!(found, [Incoming::Close(Some(code))]);
        } else {
            assert_eq!(violation, Some(Violation::BadCloseCode), "{code}");
        }
    }
    check(&client(0x88, b""), PLAIN, &[Incoming::Close(None)], None);
}

#[test]
fn text_is_valid_across_fragments_wherever_they_are_cut() {
    let message = "κόσμε, 日本語, 🦀";
    let bytes = message.as_bytes();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let input = frames(&[
                (0x01, &bytes[..first]),
                (0x00, &bytes[first..second]),
                (0x80, &bytes[second..]),
            ]);
            assert_eq!(
                decode(&input, PLAIN, usize::MAX),
                (vec![text(message)], None)
            );
            assert_eq!(decode(&input, PLAIN, 1), (vec![text(message)], None));
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let cases: [Vec<u8>; 5] = [
        client(0x81, b"\xff"),
        client(0x81, b"ab\xed\xa0\x80"),
        client(0x81, b"ends in the middle \xe2\x82"),
        frames(&[(0x01, b"\xe2\x82"), (0x80, b"")]),
        frames(&[(0x01, b"\xe2\x82"), (0x80, b"x")]),
    ];
    for input in cases {
        check(&input, PLAIN, &[], Some(Violation::BadText));
    }
    check(&client(0x82, b"\xff"), PLAIN, &[binary(b"\xff")], None);
}

#[test]
fn invalid_text_is_refused_before_its_frame_or_message_ends() {
    // Autobahn 6.4: the code point is beyond U+10FFFF at its second byte.
    let start = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xcf\x8c\xce\xbc\xce\xb5\xf4\x90";
    let unfinished = client(0x01, start);
    check(&unfinished, PLAIN, &[], Some(Violation::BadText));
    let mut chopped = client(0x81, &[start, &b"and much more"[..]].concat());
    chopped.truncate(6 + start.len());
    check(&chopped, PLAIN, &[], Some(Violation::BadText));
}

#[test]
fn a_message_over_the_limit_is_refused_at_its_header() {
    let rules = Rules {
        message_bytes_max: 1_000,
        deflate: true,
    };
    let cases: &[(Vec<u8>, usize)] = &[
        (client(0x82, &[0; 1_001])[..4].to_vec(), 4),
        (b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00".to_vec(), 10),
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(), 10),
        (frames(&[(0x02, &[0; 600]), (0x00, &[0; 401])]), 608 + 4),
        (frames(&[(0x42, &[0; 600]), (0x00, &[0; 472])]), 608 + 4),
    ];
    for (input, judged_at) in cases {
        let (_, early) = decode(&input[..judged_at - 1], rules, usize::MAX);
        assert_eq!(early, None, "{input:x?}");
        for step in [usize::MAX, 1] {
            let (_, found) = decode(&input[..*judged_at], rules, step);
            assert_eq!(found, Some(Violation::TooLarge), "{input:x?}");
        }
    }
    check(
        &client(0x82, &[1; 1_000]),
        rules,
        &[binary(&[1; 1_000])],
        None,
    );
}

#[test]
fn what_a_peer_only_announces_costs_nothing() {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::from(&client(0x82, &vec![0; 1 << 20])[..14 + 100]);
    assert_eq!(decoder.next(&mut input, PLAIN), Ok(None));
    assert!(input.is_empty());
    assert!(
        (100..400).contains(&decoder.buffered()),
        "{}",
        decoder.buffered()
    );
}

#[test]
fn a_large_message_in_small_reads_keeps_no_more_than_itself() {
    let payload = vec![b'x'; 1 << 20];
    let wire = client(0x81, &payload);
    let mut decoder = Decoder::default();
    let mut input = BytesMut::new();
    let mut found = None;
    for piece in wire.chunks(1_400) {
        input.extend_from_slice(piece);
        found = decoder.next(&mut input, PLAIN).unwrap();
        assert!(input.is_empty());
        assert!(decoder.buffered() <= payload.len());
    }
    assert_eq!(found, Some(Incoming::Text(payload.into())));
    assert_eq!(decoder.buffered(), 0);
}

#[test]
fn a_short_payload_does_not_hold_the_read_buffer() {
    let mut input = BytesMut::with_capacity(64 << 10);
    input.extend_from_slice(&client(0x81, b"short"));
    let start = input.as_ptr() as usize;
    let Ok(Some(Incoming::Text(payload))) = Decoder::default().next(&mut input, PLAIN) else {
        panic!("a message");
    };
    let at = payload.as_ptr() as usize;
    assert!(!(start..start + (64 << 10)).contains(&at));
}

#[test]
fn deflated_messages_inflate_whole_and_in_fragments() {
    let message = "To be, or not to be, that is the question. ".repeat(100);
    for bits in 9..=15 {
        let deflated = deflate_with(message.as_bytes(), bits);
        check(&client(0xc1, &deflated), DEFLATE, &[text(&message)], None);
        check(
            &client(0xc2, &deflated),
            DEFLATE,
            &[binary(message.as_bytes())],
            None,
        );
        let (a, rest) = deflated.split_at(10);
        let input = frames(&[(0x41, a), (0x89, b"p"), (0x00, rest), (0x80, b"")]);
        check(&input, DEFLATE, &[ping(b"p"), text(&message)], None);
    }
    // A message may be left as it is (RFC 7692 6), and empty ones are one zero byte.
    check(&client(0x81, b"plain"), DEFLATE, &[text("plain")], None);
    check(&client(0xc1, b"\x00"), DEFLATE, &[text("")], None);
}

#[test]
fn deflated_messages_are_judged_after_inflating() {
    let rules = Rules {
        message_bytes_max: 1_000,
        deflate: true,
    };
    let cases: [(Vec<u8>, Violation); 5] = [
        (
            client(0xc1, &deflate_with(b"\xff\xfe", 15)),
            Violation::BadText,
        ),
        (
            client(0xc2, &deflate_with(&[0; 1_001], 15)),
            Violation::TooLarge,
        ),
        (
            client(0xc2, &deflate_with(&vec![0; 1 << 20], 15)),
            Violation::TooLarge,
        ),
        (client(0xc1, b"\xff\xff\xff"), Violation::BadDeflate),
        (
            frames(&[(0x41, b"\xf2\x48"), (0x80, b"\xcd")]),
            Violation::BadDeflate,
        ),
    ];
    for (input, violation) in cases {
        check(&input, rules, &[], Some(violation));
    }
}

#[test]
fn an_idle_decoder_is_one_pointer() {
    assert_eq!(size_of::<Decoder>(), size_of::<usize>());
}

/// A valid conversation to mutate: fragments, control frames, deflated messages, a close.
fn seed_wire() -> Vec<u8> {
    let deflated = deflate_with("mutate me ".repeat(30).as_bytes(), 15);
    let (head, tail) = deflated.split_at(5);
    frames(&[
        (0x81, "a täxt".as_bytes()),
        (0x01, "frag\u{1f980}".as_bytes()),
        (0x89, b"ping"),
        (0x80, b"ment"),
        (0x82, &[0x55; 300]),
        (0x41, head),
        (0x8a, b""),
        (0x80, tail),
        (0xc2, &deflated),
        (0x88, b"\x03\xe8bye"),
    ])
}

#[test]
fn mutated_input_never_panics_and_never_keeps_more_than_the_limit() {
    let rules = Rules {
        message_bytes_max: 512,
        deflate: true,
    };
    let seed = seed_wire();
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut ends = [0u32; 2];
    for _ in 0..60_000 {
        let mut wire = seed.clone();
        for _ in 0..=next(6) {
            let at = next(wire.len());
            match next(5) {
                0 => wire[at] ^= 1 << next(8),
                1 => wire[at] = next(256) as u8,
                2 => drop(wire.remove(at)),
                3 => wire.insert(at, next(256) as u8),
                _ => {
                    let from = next(wire.len());
                    let copied = wire[from..wire.len().min(from + 20)].to_vec();
                    wire.splice(at..at, copied);
                }
            }
        }
        let (found, violation) = decode(&wire, rules, 1 + next(200));
        for incoming in found {
            if let Incoming::Text(payload) | Incoming::Binary(payload) = incoming {
                assert!(payload.len() <= rules.message_bytes_max);
            }
        }
        ends[usize::from(violation.is_some())] += 1;
    }
    assert!(
        ends.iter().all(|count| *count > 1_000),
        "both ends are reached: {ends:?}"
    );
}

proptest! {
    #[test]
    fn any_cut_of_the_input_gives_the_same_messages(
        messages in proptest::collection::vec((any::<bool>(), "\\PC{0,60}"), 1..6),
        step in 1usize..40,
    ) {
        let mut wire = Vec::new();
        let mut expect = Vec::new();
        for (is_text, payload) in &messages {
            wire.extend(client(if *is_text { 0x81 } else { 0x82 }, payload.as_bytes()));
            expect.push(if *is_text { text(payload) } else { binary(payload.as_bytes()) });
        }
        prop_assert_eq!(decode(&wire, PLAIN, step), (expect.clone(), None));
        prop_assert_eq!(decode(&wire, PLAIN, usize::MAX), (expect, None));
    }
}
