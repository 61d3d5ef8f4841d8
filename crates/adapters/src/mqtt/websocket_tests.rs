//! MQTT in WebSocket messages (6).

use tidings_ports::Ending;
use tidings_types::Qos;

use super::testing::*;
use super::{FirstPacket, FirstReader, Transport, first_packet, session_name};
use crate::websocket::testing::{client, close_parts};

fn open(world: &mut World) -> Peer {
    let options = world.options(Transport::WebSocket);
    world.open_with(options)
}

/// The payloads of the binary messages among these bytes, joined.
fn unwrap(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x82, "{}", hex(bytes));
        let (len, at) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            len => (usize::from(len), 2),
        };
        out.extend_from_slice(&bytes[at..at + len]);
        bytes = &bytes[at + len..];
    }
    out
}

#[test]
fn packets_may_span_messages_and_share_them() {
    let mut world = World::new();
    let all = [
        connect4("a", true),
        subscribe4(1, &[("x", 0)]),
        publish4(0, "x", 0, b"hi"),
        vec![0xc0, 0],
    ]
    .concat();
    let expect = {
        let mut peer = world.open();
        packets(&world.receive(&mut peer, &all))
    };
    for size in [1, 2, 7, all.len()] {
        let mut peer = open(&mut world);
        let mut out = Vec::new();
        for piece in all.chunks(size) {
            out.extend(world.receive(&mut peer, &client(0x82, piece)));
        }
        let mut got = packets(&unwrap(&out));
        let mut expect = expect.clone();
        got.sort();
        expect.sort();
        assert_eq!(got, expect, "pieces of {size}");
    }
}

#[test]
fn each_packet_is_one_message_however_it_was_made() {
    let long = "l".repeat(600);
    for (level, payload) in [(0, "short"), (1, "short"), (0, &*long), (1, &*long)] {
        let mut world = World::new();
        let mut peer = open(&mut world);
        world.receive(&mut peer, &client(0x82, &connect4("a", true)));
        world.receive(&mut peer, &client(0x82, &subscribe4(1, &[("x", level)])));
        world.append(draft_of("x", payload, Qos::default(), false));
        world.deliver(&mut peer);
        let out = shown(&unwrap(&peer.take()), false);
        let id = u16::from(level > 0);
        assert_eq!(out, [format!("{}:{id} x {payload}", level * 2)]);
    }
}

#[test]
fn a_text_message_ends_the_connection() {
    for connected in [false, true] {
        let mut world = World::new();
        let mut peer = open(&mut world);
        if connected {
            world.receive(&mut peer, &client(0x82, &connect4("a", true)));
        }
        let out = world.receive(&mut peer, &client(0x81, b"hello"));
        assert_eq!(close_parts(&out).0, 1003);
        assert_eq!(peer.ending, None, "the peer's close is awaited");
        world.receive(&mut peer, &client(0x88, &[0x03, 0xeb]));
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
    }
}

#[test]
fn pings_are_answered_and_sent() {
    let mut world = World::new();
    let mut peer = open(&mut world);
    world.receive(&mut peer, &client(0x82, &connect4("a", true)));
    assert_eq!(
        hex(&world.receive(&mut peer, &client(0x89, b"hi"))),
        "8a 02 68 69"
    );
    let at = peer.wake.expect("a heartbeat");
    let wait = at.0 - world.now.0;
    assert_eq!(hex(&world.tick(&mut peer, wait)), "89 00");
    world.tick(&mut peer, world.limits.silence_ms_max);
    assert!(peer.ending.is_some());
}

#[test]
fn a_goodbye_closes_the_websocket_and_nothing_follows() {
    let mut world = World::new();
    let mut peer = open(&mut world);
    world.receive(&mut peer, &client(0x82, &connect4("a", true)));
    world.receive(&mut peer, &client(0x82, &subscribe4(1, &[("x", 0)])));
    let out = world.receive(&mut peer, &client(0x82, &[0xe0, 0]));
    assert_eq!(close_parts(&out).0, 1000);
    world.publish("x", b"m");
    world.deliver(&mut peer);
    assert!(peer.take().is_empty());
    world.receive(&mut peer, &client(0x88, &[0x03, 0xe8]));
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn what_came_before_a_close_frame_counts() {
    let rest = [text("w"), text("gone")].concat();
    let connect = packet(0x10, &[&text("MQTT"), &[4, 4, 0, 0], &text("a"), &rest]);
    let last = [
        client(0x82, &publish4(0, "x", 0, b"1")),
        client(0x82, &[0xe0, 0]),
        client(0x88, &[0x03, 0xe8]),
    ]
    .concat();
    for waits in [false, true] {
        let mut world = World::new();
        let mut peer = open(&mut world);
        world.holds_saves = waits;
        world.receive(&mut peer, &client(0x82, &connect));
        let mut out = world.receive(&mut peer, &last);
        if waits {
            assert!(out.is_empty());
            assert_eq!(peer.ending, None, "it waits for the session");
            out = world.answer_held(&mut peer)[6..].to_vec();
        }
        assert_eq!(close_parts(&out).0, 1000);
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
        assert_eq!(world.log.len(), 1);
        world.close(peer);
        assert!(world.latest["mqtt/a"].will.is_none(), "it said goodbye");
    }
}

#[test]
fn a_broken_rule_is_told_in_both_protocols() {
    let mut world = World::new();
    let mut peer = open(&mut world);
    world.receive(&mut peer, &client(0x82, &connect5("a", true, &[])));
    let out = world.receive(&mut peer, &client(0x82, &[0xc1, 0]));
    let end = 2 + usize::from(out[1]);
    assert_eq!((out[0], out[2], out[4]), (0x82, 0xe0, 0x81));
    assert_eq!(close_parts(&out[end..]).0, 1002);
    let mut peer = open(&mut world);
    let out = world.receive(&mut peer, &client(0x82, b"GET / HTTP/1.1"));
    assert_eq!(close_parts(&out).0, 1002);
}

#[test]
fn the_first_packet_is_found_in_messages() {
    let connect = connect4("device", true);
    let session = FirstPacket::Session(session_name("device"));
    let halves = [
        client(0x82, &connect[..5]),
        client(0x89, b""),
        client(0x82, &connect[5..]),
    ]
    .concat();
    let fragments = [client(0x02, &connect[..5]), client(0x80, &connect[5..])].concat();
    for (input, expect) in [
        (client(0x82, &connect), session.clone()),
        (halves.clone(), session.clone()),
        (fragments, session),
        (halves[..12].to_vec(), FirstPacket::Incomplete),
        (vec![], FirstPacket::Incomplete),
        (client(0x81, &connect), FirstPacket::Refused),
        (client(0x88, &[]), FirstPacket::Refused),
        (connect.clone(), FirstPacket::Refused),
        (client(0x82, b"GET / HTTP"), FirstPacket::Refused),
    ] {
        assert_eq!(
            first_packet(&input, Transport::WebSocket),
            expect,
            "{}",
            hex(&input)
        );
    }
}

#[test]
fn a_first_packet_in_many_small_messages_is_looked_at_once() {
    let mut reader = FirstReader::new(Transport::WebSocket);
    let connect = [&[0x10, 0x80, 0xd3, 0x0e, 0, 4][..], b"MQTT\x04\x02"].concat();
    let mut pieces = connect.chunks(2).chain(std::iter::repeat(&[0, 0][..]));
    let mut input = Vec::new();
    let begun = std::time::Instant::now();
    let first = loop {
        input.extend(client(0x82, pieces.next().unwrap()));
        match reader.look(&input) {
            FirstPacket::Incomplete => {}
            first => break first,
        }
    };
    assert_eq!(first, FirstPacket::Refused, "it is too long");
    assert!(input.len() > 512 << 10);
    // From the start each time, it would be 17 GB.
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
}
