use std::collections::HashSet;

use super::*;
use crate::stomp::codec::testing::{
    LIMITS, Outcome, ROOMY, State, Violating, decode_pieces, frames, samples, value, violating,
};

/// What the receiver does, as the bytes that it sends show.
fn outcome(violation: &Violation, state: State) -> (bool, Option<String>) {
    let Some(farewell) = violation.farewell() else {
        assert_eq!(violation.answer, Answer::Close);
        return (false, None);
    };
    // The client reads it in the state that it is in itself.
    let state = match state {
        State::Client(version) => State::Server(version),
        _ => State::ServerBefore,
    };
    let (found, wrong, left) = decode_pieces(state.decoder_within(ROOMY), [&*farewell]);
    assert_eq!((wrong, left), (None, 0));
    let [frame] = &frames(found)[..] else {
        panic!("one frame");
    };
    assert_eq!(frame.command, Command::Error);
    assert_eq!(value(frame, "message"), violation.rule.text());
    let receipt = frame.headers.get("receipt-id").map(ToString::to_string);
    (true, receipt)
}

fn check_violating(row: &Violating, pieces: &[&[u8]]) {
    let (found, violation, _) = decode_pieces(row.state.decoder(), pieces.iter().copied());
    assert!(frames(found).is_empty(), "{}", row.name);
    let violation = violation.unwrap_or_else(|| panic!("{}: nothing wrong is found", row.name));
    assert_eq!(violation.rule, row.rule, "{}: {violation}", row.name);
    let expected = match row.outcome {
        Outcome::Close => (false, None),
        Outcome::Error(receipt) => (true, receipt.map(str::to_owned)),
    };
    assert_eq!(outcome(&violation, row.state), expected, "{}", row.name);
}

#[test]
fn each_violating_frame_has_its_rule_and_outcome() {
    assert!(violating().count() >= 150);
    for row in violating() {
        check_violating(row, &[row.bytes]);
    }
}

#[test]
fn a_violation_is_the_same_however_the_frame_arrives() {
    for row in violating() {
        let single: Vec<&[u8]> = row.bytes.chunks(1).collect();
        check_violating(row, &single);
        for at in 0..row.bytes.len() {
            check_violating(row, &[&row.bytes[..at], &row.bytes[at..]]);
        }
    }
}

#[test]
fn a_decoder_that_is_asked_again_after_a_violation_finds_the_same() {
    for row in violating() {
        let mut decoder = row.state.decoder();
        let mut input = BytesMut::from(row.bytes);
        let mut next = || loop {
            match decoder.decode(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{}: nothing wrong is found", row.name),
                Err(violation) => return violation,
            }
        };
        assert_eq!(next(), next(), "{}", row.name);
    }
}

#[test]
fn each_rule_is_broken_by_a_frame_of_the_table() {
    let broken: HashSet<Rule> = violating().map(|row| row.rule).collect();
    for rule in Rule::ALL {
        assert!(broken.contains(rule), "{rule:?}");
        assert!(!rule.section().is_empty() && rule.text().len() < 100);
    }
}

#[test]
fn names_in_the_tables_are_unique() {
    let mut names = HashSet::new();
    let samples = samples().iter().map(|sample| sample.name);
    for name in violating().map(|row| row.name).chain(samples) {
        assert!(names.insert(name), "{name}");
    }
}

#[test]
fn each_valid_frame_says_what_it_says_however_it_arrives() {
    for sample in samples() {
        let bytes = sample.bytes;
        let mut cuts: Vec<Vec<&[u8]>> = (0..=bytes.len())
            .map(|at| vec![&bytes[..at], &bytes[at..]])
            .collect();
        cuts.push(vec![bytes]);
        cuts.push(bytes.chunks(1).collect());
        cuts.push(bytes.chunks(3).collect());
        for pieces in cuts {
            let (found, violation, left) = decode_pieces(sample.state.decoder(), pieces);
            assert_eq!((violation, left), (None, 0), "{}", sample.name);
            assert_eq!(frames(found), [sample.frame()], "{}", sample.name);
        }
    }
}

#[test]
fn frames_in_a_row_come_out_in_their_order() {
    for state in State::ALL {
        // The frames that open a connection do not come twice.
        let samples: Vec<_> = samples().iter().filter(|it| it.state == state).collect();
        let mut wire = Vec::new();
        for sample in &samples {
            wire.extend_from_slice(sample.bytes);
        }
        let expected: Vec<Frame> = samples.iter().map(|sample| sample.frame()).collect();
        for step in [1, 2, 7, 64, wire.len()] {
            let (found, violation, left) = decode_pieces(state.decoder(), wire.chunks(step));
            assert_eq!((violation, left), (None, 0));
            assert_eq!(frames(found), expected, "{state:?}");
        }
    }
}

#[test]
fn nothing_comes_out_before_the_last_byte() {
    for sample in samples() {
        let nul = sample.bytes.iter().rposition(|byte| *byte == 0).unwrap();
        let (found, violation, _) = decode_pieces(sample.state.decoder(), [&sample.bytes[..nul]]);
        assert_eq!(violation, None, "{}", sample.name);
        assert!(frames(found).is_empty(), "{}", sample.name);
    }
}

#[test]
fn heart_beats_are_told_once_for_all_that_have_arrived() {
    let decoder = || State::Client(Version::V12).decoder();
    let beats = |pieces: &[&[u8]]| {
        let (found, violation, left) = decode_pieces(decoder(), pieces.iter().copied());
        assert_eq!(violation, None);
        assert!(found.iter().all(|item| *item == Item::HeartBeat));
        (found.len(), left)
    };
    assert_eq!(beats(&[b"\n"]), (1, 0));
    assert_eq!(beats(&[b"\n\r\n\n"]), (1, 0));
    assert_eq!(beats(&[b"\n", b"\n"]), (2, 0));
    assert_eq!(beats(&[b"\r"]), (0, 1));
    assert_eq!(beats(&[b"\r", b"\n\r"]), (1, 1));
    let wire = b"SEND\n\n\0\n\nSEND\n\n\0";
    let (found, _, _) = decode_pieces(decoder(), [&wire[..]]);
    assert!(matches!(
        found[..],
        [Item::Frame(_), Item::HeartBeat, Item::Frame(_)]
    ));
}

#[test]
fn a_connection_takes_its_version_after_its_first_frame() {
    let mut decoder = State::Before.decoder();
    assert_eq!(decoder.version(), None);
    let mut input =
        BytesMut::from(&b"STOMP\naccept-version:1.1\n\n\0SEND\na:\\c\n\n\0SEND\na:\\r\n\n\0"[..]);
    assert!(matches!(decoder.decode(&mut input), Ok(Some(_))));
    decoder.set_version(Version::V11);
    assert_eq!(decoder.version(), Some(Version::V11));
    let Ok(Some(Item::Frame(frame))) = decoder.decode(&mut input) else {
        panic!("a frame");
    };
    assert_eq!(value(&frame, "a"), ":");
    let violation = decoder.decode(&mut input).unwrap_err();
    assert_eq!(violation.rule, Rule::UndefinedEscape);
    assert_eq!(violation.version, Some(Version::V11));
}

#[test]
fn the_first_of_repeated_headers_counts_and_all_are_kept() {
    let wire = b"SEND\nfoo:World\nbar:x\nfoo:Hello\n\n\0";
    let (found, _, _) = decode_pieces(State::Client(Version::V12).decoder(), [&wire[..]]);
    let [frame] = &frames(found)[..] else {
        panic!("one frame");
    };
    assert_eq!(value(frame, "foo"), "World");
    assert_eq!((frame.headers.len(), frame.headers.is_empty()), (3, false));
    let all: Vec<&str> = frame.headers.iter().map(|header| &*header.value).collect();
    assert_eq!(all, ["World", "x", "Hello"]);
    assert_eq!(frame.headers.get("baz"), None);
}

/// What becomes of bytes that arrive after a prefix, in pieces of one size.
fn rule_of(state: State, wire: &[u8], step: usize) -> Option<Rule> {
    let (_, violation, _) = decode_pieces(state.decoder(), wire.chunks(step));
    violation.map(|violation| violation.rule)
}

#[test]
fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let limit = LIMITS.body_bytes_max;
    for (head, size, rule) in [
        (&b"SEND\n\n"[..], limit, None),
        (b"SEND\n\n", limit + 1, Some(Rule::BodyTooLarge)),
        (b"SEND\ncontent-length:32768\n\n", limit, None),
        (b"SUBSCRIBE\n\n", limit, None),
        (b"SUBSCRIBE\n\n", limit + 1, Some(Rule::BodyTooLarge)),
    ] {
        for step in [1, 1_000, 100_000] {
            let mut wire = head.to_vec();
            wire.resize(head.len() + size, b'x');
            wire.push(0);
            let found = rule_of(State::Client(Version::V10), &wire, step);
            assert_eq!(found, rule, "{size} {step}");
        }
    }
}

#[test]
fn limits_are_judged_at_the_first_byte_over_them() {
    let state = State::Client(Version::V12);
    let table: [(&[u8], usize, usize, Rule); 4] = [
        (b"", 1, 0, Rule::UnknownCommand),
        (
            b"SEND\n",
            LIMITS.header_line_bytes_max + 1,
            LIMITS.header_line_bytes_max,
            Rule::HeaderTooLong,
        ),
        (
            b"SEND\n\n",
            LIMITS.body_bytes_max + 1,
            LIMITS.body_bytes_max,
            Rule::BodyTooLarge,
        ),
        (b"ACK\nid:1\n\n", 1, 0, Rule::BodyNotAllowed),
    ];
    for (head, over, within, rule) in table {
        let wire = |size| [head, &vec![b'x'; size]].concat();
        assert_eq!(rule_of(state, &wire(over), 1), Some(rule));
        assert_eq!(rule_of(state, &wire(within), 1), None);
    }
}

#[test]
fn an_announced_length_costs_nothing() {
    let mut decoder = State::Client(Version::V12).decoder();
    let mut input = BytesMut::from(&b"SEND\ncontent-length:32768\n\nabc"[..]);
    let capacity = input.capacity();
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(input.capacity() <= capacity);
    assert_eq!(input, &b"abc"[..]);
}

#[test]
fn a_body_behind_a_large_one_does_not_hold_what_was_read_with_that() {
    let limits = Limits {
        body_bytes_max: 1 << 20,
        ..ROOMY
    };
    let mut decoder = Decoder::new(Sender::Client, limits);
    decoder.set_version(Version::V12);
    let mut input = BytesMut::with_capacity(200_100);
    for size in [150_000, 40_000] {
        input.extend_from_slice(b"SEND\n\n");
        input.resize(input.len() + size, b'x');
        input.extend_from_slice(b"\0");
    }
    let start = input.as_ptr() as usize;
    let within = start..start + input.len();
    for (size, shares) in [(150_000, true), (40_000, false)] {
        let Ok(Some(Item::Frame(frame))) = decoder.decode(&mut input) else {
            panic!("a frame");
        };
        assert_eq!(frame.body.len(), size);
        assert_eq!(within.contains(&(frame.body.as_ptr() as usize)), shares);
    }
}

#[test]
fn a_body_that_is_ignored_is_not_collected() {
    for (head, end) in [
        ("SUBSCRIBE\ndestination:a\n\n", Some(Rule::BodyTooLarge)),
        ("SUBSCRIBE\ndestination:a\ncontent-length:300\n\n", None),
    ] {
        let limits = Limits {
            body_bytes_max: 300,
            ..ROOMY
        };
        let mut decoder = Decoder::new(Sender::Client, limits);
        decoder.set_version(Version::V10);
        let mut input = BytesMut::from(head);
        for _ in 0..3 {
            input.extend_from_slice(&[b'x'; 100]);
            assert_eq!(decoder.decode(&mut input), Ok(None));
            assert!(input.is_empty(), "{head}");
        }
        let mut rest = input.clone();
        rest.extend_from_slice(b"\0");
        let Ok(Some(Item::Frame(frame))) = decoder.clone().decode(&mut rest) else {
            panic!("a frame: {head}");
        };
        assert!(frame.body.is_empty() && rest.is_empty());
        input.extend_from_slice(b"x");
        let rule = decoder.decode(&mut input).unwrap_err().rule;
        assert_eq!(rule, end.unwrap_or(Rule::BodyNotTerminated), "{head}");
    }
}

#[test]
fn no_byte_is_looked_at_again() {
    // 32 KiB in single bytes, of a body, of a header, and of many headers, with limits that let them pass.
    let limits = Limits {
        header_count_max: 1 << 15,
        header_line_bytes_max: 1 << 15,
        header_bytes_max: 1 << 16,
        body_bytes_max: 1 << 15,
    };
    for head in [&b"SEND\n\n"[..], b"SEND\na:"] {
        let mut decoder = Decoder::new(Sender::Client, limits);
        decoder.set_version(Version::V12);
        let mut input = BytesMut::from(head);
        let mut looked = Vec::new();
        for _ in 0..1_000 {
            assert_eq!(decoder.decode(&mut input), Ok(None));
            input.extend_from_slice(b"x");
            looked.push(match &decoder.progress {
                Progress::Between => panic!("a frame has begun"),
                Progress::Command(_, lines) => lines.looked,
                Progress::Head(body) => body.looked,
            });
        }
        // All but the byte that came after it.
        assert!(looked.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }
    let mut decoder = Decoder::new(Sender::Client, limits);
    decoder.set_version(Version::V12);
    let mut input = BytesMut::from(&b"SEND\n"[..]);
    for count in 0..100 {
        input.extend_from_slice(b"a:b\n");
        assert_eq!(decoder.decode(&mut input), Ok(None));
        let Progress::Command(_, lines) = &decoder.progress else {
            panic!("headers are awaited");
        };
        assert_eq!(
            (lines.line_at, lines.looked),
            (4 * (count + 1), 4 * (count + 1))
        );
    }
}

#[test]
fn a_small_body_does_not_hold_the_read_buffer_and_a_large_one_shares_it() {
    // Half of the buffer at least.
    for (size, shares) in [
        (100, false),
        (20_000, false),
        (32_740, false),
        (32_768, true),
    ] {
        let mut input = BytesMut::with_capacity(64 << 10);
        input.extend_from_slice(b"SEND\ndestination:/topic/a\nx:\\n\n\n");
        input.resize(input.len() + size, b'x');
        input.extend_from_slice(b"\0");
        let start = input.as_ptr() as usize;
        let within = start..start + input.len();
        let Ok(Some(Item::Frame(frame))) = State::Client(Version::V12).decoder().decode(&mut input)
        else {
            panic!("a frame");
        };
        assert_eq!(frame.body, vec![b'x'; size]);
        assert_eq!(within.contains(&(frame.body.as_ptr() as usize)), shares);
        let address = |text: &ByteString| text.as_ptr() as usize;
        let header = frame.headers.iter().next().unwrap();
        assert!(!within.contains(&address(&header.name)));
        // One allocation for all headers without escapes.
        let distance = address(&header.value) - address(&header.name);
        assert_eq!(distance, "destination:".len());
    }
}
