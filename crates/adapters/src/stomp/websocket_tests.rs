//! STOMP over WebSocket.

use bytes::Bytes;
use tidings_ports::{Ending, Event, Framed};
use tidings_types::PayloadFormat;

use super::testing::*;
use super::{SUBPROTOCOLS, Transport};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CONNECT: &str = "CONNECT\naccept-version:1.0,1.1,1.2\nhost:x\n\n\0";

/// A client's message: masked with zeros.
fn wrapped(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ ..=125 => out.push(0x80 + len as u8),
        len => {
            out.push(0xfe);
            out.extend((len as u16).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

/// The server's messages, as first byte and payload.
fn unwrapped(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        let (len, rest) = match len {
            126 => (usize::from(rest[0]) << 8 | usize::from(rest[1]), &rest[2..]),
            len => (usize::from(*len), rest),
        };
        found.push((*first, rest[..len].to_vec()));
        bytes = &rest[len..];
    }
    found
}

fn opened(subprotocol: Option<&str>) -> Client {
    Client::new(Transport::websocket(subprotocol), limits())
}

fn connected() -> Client {
    let mut client = opened(None);
    client.send(wrapped(TEXT, CONNECT.as_bytes()));
    client.bytes();
    client
}

#[test]
fn the_chosen_subprotocol_decides_the_version() {
    for (subprotocol, accept, version) in [
        (None, "1.0,1.1,1.2", "1.2"),
        (Some(SUBPROTOCOLS[0]), "1.0,1.1,1.2", "1.2"),
        (Some(SUBPROTOCOLS[1]), "1.0,1.1,1.2", "1.1"),
        (Some(SUBPROTOCOLS[2]), "1.0,1.1,1.2", "1.0"),
        // What the frame says counts if they contradict each other.
        (Some(SUBPROTOCOLS[0]), "1.1", "1.1"),
    ] {
        let mut client = opened(subprotocol);
        client.send(wrapped(
            TEXT,
            format!("CONNECT\naccept-version:{accept}\n\n\0").as_bytes(),
        ));
        let [(TEXT, payload)] = &unwrapped(&client.bytes())[..] else {
            panic!("not one text message");
        };
        let expect = format!("CONNECTED\nversion:{version}\n");
        assert!(payload.starts_with(expect.as_bytes()), "{subprotocol:?}");
    }
}

#[test]
fn messages_may_hold_several_frames_or_parts_of_one() {
    let frames = "SEND\ndestination:/topic/a\n\nx\0\n\nSEND\ndestination:/topic/a\n\ny\0";
    let mut client = connected();
    client.send(wrapped(TEXT, frames.as_bytes()));
    assert_eq!(client.asked(), ["publish #1 a=x", "publish #2 a=y"]);
    for first in [TEXT, BINARY] {
        let mut client = connected();
        let bytes: Vec<u8> = frames
            .bytes()
            .flat_map(|byte| wrapped(first, &[byte]))
            .collect();
        client.send(&bytes);
        assert_eq!(client.asked(), ["publish #1 a=x", "publish #2 a=y"]);
    }
}

#[test]
fn what_is_text_travels_as_text_and_other_bytes_as_binary() {
    let mut client = connected();
    client.send(wrapped(
        TEXT,
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\nreceipt:r\n\n\0",
    ));
    client.subscribed(1, 1);
    assert_eq!(
        unwrapped(&client.bytes()),
        [(TEXT, b"RECEIPT\nreceipt-id:r\n\n\0".to_vec())]
    );
    let tail = |offset, length| {
        format!(
            "destination:/topic/a\nmessage-id:{}\ntimestamp:1234\ncontent-length:{length}\n\n",
            at(offset)
        )
    };
    let head = "MESSAGE\nsubscription:1\n";
    for (offset, payload, format, first) in [
        (1, b"hello".to_vec(), PayloadFormat::Text, TEXT),
        (2, b"hello".to_vec(), PayloadFormat::Binary, TEXT),
        (3, b"\xff".to_vec(), PayloadFormat::Binary, BINARY),
        (4, vec![b'x'; 900], PayloadFormat::Text, TEXT),
    ] {
        let mut draft = draft("a", "");
        draft.payload = Bytes::from(payload.clone());
        draft.format = format;
        assert_eq!(client.offer(1, &commit(draft, offset), 0), Framed::Put);
        let mut expect = (head.to_owned() + &tail(offset, payload.len())).into_bytes();
        expect.extend(payload);
        expect.push(0);
        assert_eq!(unwrapped(&client.bytes()), [(first, expect)]);
    }
}

#[test]
fn an_error_is_followed_by_a_close_frame_and_nothing_else() {
    let mut client = connected();
    client.send(wrapped(
        TEXT,
        b"SUBSCRIBE\nid:1\ndestination:/queue/a\n\n\0",
    ));
    client.subscribed(1, 1);
    assert_eq!(client.offer(1, &message(1, "a", "x"), 0), Framed::Held);
    client.asked();
    client.send(wrapped(
        TEXT,
        b"SEND\n\n\0SEND\ndestination:/topic/a\n\nx\0",
    ));
    let out = unwrapped(&client.bytes());
    assert_eq!(out.len(), 2);
    assert!(out[0].1.starts_with(b"ERROR\n"));
    assert_eq!(
        (out[1].0, &out[1].1[..2]),
        (0x88, &1002u16.to_be_bytes()[..])
    );
    assert_eq!(
        client.asked(),
        ["refused bad-frame", "Unseen 1-1", "unsubscribe #2 1"]
    );
    assert_eq!(client.ending, None, "the peer's close frame is awaited");
    client.tell(Event::Held);
    assert!(client.bytes().is_empty());
    client.send(wrapped(0x88, &[]));
    assert_eq!(client.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_goodbye_is_answered_and_closed() {
    let mut client = connected();
    client.send(wrapped(TEXT, b"DISCONNECT\nreceipt:r\n\n\0"));
    assert_eq!(
        unwrapped(&client.bytes()),
        [
            (TEXT, b"RECEIPT\nreceipt-id:r\n\n\0".to_vec()),
            (0x88, 1000u16.to_be_bytes().to_vec()),
        ]
    );
}

#[test]
fn heart_beats_are_messages_of_one_line_end() {
    let mut client = opened(None);
    client.send(wrapped(
        TEXT,
        b"CONNECT\naccept-version:1.2\nheart-beat:0,1000\n\n\0",
    ));
    client.bytes();
    client.tick(10_000);
    let out = unwrapped(&client.bytes());
    assert!(out.contains(&(TEXT, b"\n".to_vec())), "{out:?}");
}

#[test]
fn what_waits_is_taken_in_order_and_a_close_frame_after_it() {
    let mut client = connected();
    let bytes: Vec<u8> = [
        wrapped(
            TEXT,
            b"SUBSCRIBE\nid:1\ndestination:/queue/a\n\n\0SEND\ndest",
        ),
        wrapped(BINARY, b"ination:/topic/a\n\nx\0"),
        wrapped(0x88, &[]),
    ]
    .concat();
    client.send(&bytes);
    assert_eq!(client.asked().len(), 1);
    assert_eq!(client.ending, None);
    client.subscribed(1, 1);
    assert_eq!(client.asked(), ["publish #2 a=x", "unsubscribe #3 1"]);
    assert_eq!(client.ending, Some(Ending::AfterFlush));
}
