use bytestring::ByteString;
use proptest::prelude::*;

use super::*;
use crate::stomp::codec::testing::{ROOMY, State, decode_pieces, frames, samples, value};
use crate::stomp::codec::{Decoder, Frame, Headers};

fn encoded(version: Version, command: Command, headers: &[(&str, &str)], body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    Encoder::new(version).frame(command, headers.iter().copied(), body, &mut out);
    out.freeze()
}

fn decoded(decoder: Decoder, wire: &[u8]) -> Frame {
    let (found, violation, left) = decode_pieces(decoder, [wire]);
    assert_eq!((violation, left), (None, 0), "{}", wire.escape_ascii());
    let mut found = frames(found);
    assert_eq!(found.len(), 1, "{}", wire.escape_ascii());
    found.remove(0)
}

#[test]
fn frames_are_written_as_the_specification_has_them() {
    let receipt = encoded(
        Version::V12,
        Command::Receipt,
        &[("receipt-id", "a:1")],
        b"x",
    );
    assert_eq!(receipt, &b"RECEIPT\nreceipt-id:a\\c1\n\n\0"[..]);
    let connected = [
        ("version", "1.2"),
        ("server", "a:b\\c"),
        ("heart-beat", "0,0"),
    ];
    let connected = encoded(Version::V12, Command::Connected, &connected, b"");
    let expected = b"CONNECTED\nversion:1.2\nserver:a:b\\c\nheart-beat:0,0\n\n\0";
    assert_eq!(connected, &expected[..]);
    let error = encoded(
        Version::V10,
        Command::Error,
        &[("message", "a:\\b")],
        b"why",
    );
    assert_eq!(
        error,
        &b"ERROR\nmessage:a:\\b\ncontent-length:3\n\nwhy\0"[..]
    );
    let error = encoded(
        Version::V11,
        Command::Error,
        &[("message", "a:\\\n\r")],
        b"",
    );
    let expected = b"ERROR\nmessage:a\\c\\\\\\n\r\ncontent-length:0\n\n\0";
    assert_eq!(error, &expected[..]);
    assert_eq!(HEART_BEAT, b"\n");
}

#[test]
fn the_length_is_that_of_the_body_whatever_the_headers_say() {
    let headers = [
        ("content-length", "77"),
        ("a", "b"),
        ("content-length", "8"),
    ];
    let send = encoded(Version::V12, Command::Send, &headers, b"a\0b");
    assert_eq!(send, &b"SEND\na:b\ncontent-length:3\n\na\0b\0"[..]);
    let ack = encoded(Version::V12, Command::Ack, &headers, b"");
    assert_eq!(ack, &b"ACK\na:b\n\n\0"[..]);
}

#[test]
fn a_header_cannot_smuggle_in_another_header_or_frame() {
    let evil = [
        ("a", "b\nreceipt-id:evil"),
        ("c\nd", "e"),
        ("f:g", "h"),
        ("i", "j\n\n\0SEND"),
        ("", "k"),
        ("l", "m\r\nn"),
    ];
    for version in Version::ALL {
        for command in [Command::Message, Command::Connected, Command::Error] {
            let wire = encoded(version, command, &evil, b"");
            let escapes = Escapes::of(command, Some(version));
            let written = evil
                .iter()
                .filter(|(name, value)| escapes.carries(name, value));
            // The command, the headers, the length if there is a body, the empty line; the body and NUL.
            let lines = 2 + written.count() + usize::from(command.has_body());
            let ends = memchr::memchr_iter(b'\n', &wire).count();
            assert_eq!(ends, lines, "{}", wire.escape_ascii());
            assert_eq!(memchr::memchr_iter(0, &wire).count(), 1);
        }
    }
}

#[test]
fn every_valid_frame_is_the_same_after_it_was_written_again() {
    for sample in samples() {
        let decoder = sample.state.decoder_within(ROOMY);
        let version = match sample.state {
            State::Client(version) | State::Server(version) => version,
            // Before the connection has a version only a STOMP frame has escapes.
            _ if sample.command == Command::Stomp => Version::V12,
            State::Before | State::ServerBefore => Version::V10,
        };
        let wire = encoded(version, sample.command, sample.headers, sample.body);
        let frame = decoded(decoder, &wire);
        let without_length = |headers: &Headers| -> Vec<(ByteString, ByteString)> {
            headers
                .iter()
                .filter(|header| header.name != "content-length")
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect()
        };
        assert_eq!(frame.body, sample.body, "{}", sample.name);
        assert_eq!(
            without_length(&frame.headers),
            without_length(&sample.frame().headers),
            "{}",
            sample.name
        );
    }
}

#[test]
fn a_message_is_a_head_of_its_subscriber_and_a_part_that_all_share() {
    let message = OutboundMessage {
        destination: "/topic/a",
        message_id: "12:7",
        content_type: Some("text/plain"),
        headers: &[("colour", "red\n"), ("subscription", "evil"), ("x", "y")],
        body: b"a\0b",
    };
    let encoder = Encoder::new(Version::V12);
    let shared = encoder.shared_message(&message);
    let mut wire = BytesMut::new();
    for (subscription, ack) in [("s:1", Some("a1")), ("s2", None)] {
        let ack = ack.map(|ack| ("ack", ack));
        let own = [("subscription", subscription)].into_iter().chain(ack);
        encoder.own_message(own, &mut wire);
        wire.extend_from_slice(&shared);
    }
    let tail = "destination:/topic/a\nmessage-id:12\\c7\ncontent-type:text/plain\ncolour:red\\n\nx:y\n\
                content-length:3\n\na\0b\0";
    let expected =
        format!("MESSAGE\nsubscription:s\\c1\nack:a1\n{tail}MESSAGE\nsubscription:s2\n{tail}");
    assert_eq!(wire, expected.as_bytes());
}

#[test]
fn a_shared_part_is_read_as_it_was_meant_in_every_version() {
    let message = OutboundMessage {
        destination: "/topic/a",
        message_id: "1",
        content_type: None,
        headers: &[("a", "b"); 100],
        body: &[b'x'; 5_000],
    };
    for version in Version::ALL {
        let shared = Encoder::new(version).shared_message(&message);
        let frame = [b"MESSAGE\n", &shared[..]].concat();
        let frame = decoded(State::Server(version).decoder_within(ROOMY), &frame);
        assert_eq!(frame.headers.len(), 103);
        assert_eq!(frame.body, message.body);
        assert_eq!(value(&frame, "content-length"), "5000");
    }
}

/// What a frame of a version brings to the other side.
fn arrives(version: Version, name: &str, text: &str) -> Option<(String, String)> {
    if name.is_empty() || name == "content-length" {
        return None;
    }
    if version == Version::V10 && (name.contains([':', '\n']) || text.contains('\n')) {
        return None;
    }
    let text = match version {
        Version::V10 => text
            .strip_suffix('\r')
            .unwrap_or(text)
            .trim_matches([' ', '\t']),
        Version::V11 => text.strip_suffix('\r').unwrap_or(text),
        Version::V12 => text,
    };
    Some((name.to_owned(), text.to_owned()))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        headers in proptest::collection::vec(("[a-c:\\\\\n ]{0,6}", "[a-c:\\\\\r\n \t\u{e9}]{0,12}"), 0..7),
        body in proptest::collection::vec(any::<u8>(), 0..40),
        step in 1usize..20,
    ) {
        let pairs: Vec<(&str, &str)> = headers.iter().map(|(name, text)| (&**name, &**text)).collect();
        for version in Version::ALL {
            let wire = encoded(version, Command::Send, &pairs, &body);
            let decoder = State::Client(version).decoder_within(ROOMY);
            let (found, violation, left) = decode_pieces(decoder, wire.chunks(step));
            prop_assert_eq!((violation, left), (None, 0));
            let found = frames(found);
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].body, &body);
            let expected: Vec<_> = pairs.iter().filter_map(|(name, text)| arrives(version, name, text)).collect();
            let read: Vec<_> = found[0].headers.iter()
                .filter(|header| header.name != "content-length")
                .map(|header| (header.name.to_string(), header.value.to_string()))
                .collect();
            prop_assert_eq!(read, expected);
        }
    }
}
