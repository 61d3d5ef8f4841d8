//! PUBLISH from the client, and its acknowledgements.

use std::time::Duration;

use tidings_ports::Ending;
use tidings_types::{PayloadFormat, Qos, RefusalCode};

use super::codec::{PacketKind, ReasonCode};
use super::testing::*;

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

#[test]
fn each_level_is_acknowledged_in_its_way() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    let mut say = |bytes: &[u8]| hex(&world.receive(&mut peer, bytes));
    assert_eq!(say(&publish4(0, "x", 0, b"0")), "");
    assert_eq!(say(&publish4(2, "x", 7, b"1")), "40 02 00 07");
    assert_eq!(say(&publish4(4, "x", 8, b"2")), "50 02 00 08");
    assert_eq!(say(&ack(PUBREL, 8)), "70 02 00 08");
    let levels: Vec<Qos> = world.log.iter().map(|message| message.qos).collect();
    assert_eq!(
        levels,
        [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
    );
}

#[test]
fn an_acknowledgement_comes_with_the_commit() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    world.holds_publishes = true;
    let both = [
        publish5(2, "x", 1, &[], b"1"),
        publish5(4, "x", 2, &[], b"2"),
    ]
    .concat();
    assert!(world.receive(&mut peer, &both).is_empty());
    assert_eq!(
        hex(&world.answer_held(&mut peer)),
        "40 02 00 01 50 02 00 02"
    );
}

#[test]
fn acknowledgements_keep_the_order_of_the_messages() {
    let mut world = World::new();
    world.forbidden = vec!["no"];
    let mut peer = world.connect(&connect5("a", true, &[&[0x17, 0]]));
    world.holds_publishes = true;
    let all = [
        publish5(2, "x", 1, &[], b"1"),
        publish5(2, "no", 2, &[], b"2"),
        publish5(4, "x", 3, &[], b"3"),
    ]
    .concat();
    assert!(
        world.receive(&mut peer, &all).is_empty(),
        "the refusal waits for its turn"
    );
    let out = hex(&world.answer_held(&mut peer));
    assert_eq!(out, "40 02 00 01 40 03 00 02 87 50 02 00 03");
}

#[test]
fn a_refused_message_is_answered_with_its_reason() {
    for (publish, reason) in [
        (publish5(2, "no", 1, &[], b""), 0x87),
        (publish5(4, "no", 1, &[], b""), 0x87),
        (publish5(2, "a\u{1}", 1, &[], b""), 0x90),
        (publish5(4, &"l/".repeat(200), 1, &[], b""), 0x90),
        (publish5(2, "x", 1, &[&[1, 1]], b"\xff"), 0x99),
        (
            publish5(2, "x", 1, &[&user("tidings-event", "gap")], b""),
            0x83,
        ),
        (publish5(2, "x", 1, &[&user("tidings-key", "")], b""), 0x83),
    ] {
        let mut world = World::new();
        world.forbidden = vec!["no"];
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(&mut peer, &publish);
        assert_eq!(out[4], reason, "{}", hex(&out));
        assert_eq!(out[6], 0x1f, "with a reason string");
        assert_eq!(peer.ending, None);
        // The identifier is free, and the quota is given back.
        for _ in 0..10 {
            let out = world.receive(&mut peer, &publish5(2, "x", 1, &[], b"good"));
            assert_eq!(hex(&out), "40 02 00 01");
        }
    }
}

#[test]
fn a_message_over_a_limit_has_one_reason_in_a_publish_and_in_a_will() {
    let refused = RefusalCode::MessageTooLarge;
    for flags in [2, 4] {
        let mut world = World::new();
        world.refuses = Some(refused);
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(&mut peer, &publish5(flags, "x", 1, &[], b""));
        assert_eq!(out[4], 0x83, "{}", hex(&out));
    }
    let connack = ReasonCode::of_refusal(refused, PacketKind::Connack);
    assert_eq!(connack.number(), 0x83);
}

#[test]
fn before_5_0_what_is_never_taken_is_acknowledged_and_what_may_be_ends_the_connection() {
    for (refuses, expect, ending) in [
        (RefusalCode::Forbidden, "40 02 00 01 50 02 00 02", None),
        (
            RefusalCode::MessageTooLarge,
            "40 02 00 01 50 02 00 02",
            None,
        ),
        (RefusalCode::StorageFull, "", Some(Ending::AfterFlush)),
        (RefusalCode::Busy, "", Some(Ending::AfterFlush)),
        (RefusalCode::SessionTooLarge, "", Some(Ending::AfterFlush)),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect4("a", true));
        world.refuses = Some(refuses);
        let both = [publish4(2, "x", 1, b""), publish4(4, "x", 2, b"")].concat();
        assert_eq!(hex(&world.receive(&mut peer, &both)), expect, "{refuses:?}");
        assert_eq!(peer.ending, ending);
        let dropped = peer.trace.iter().filter(|it| it.starts_with("dropped "));
        assert_eq!(dropped.count(), if ending.is_none() { 2 } else { 0 });
        if ending.is_none() {
            assert_eq!(
                hex(&world.receive(&mut peer, &ack(PUBREL, 2))),
                "70 02 00 02"
            );
        }
    }
}

#[test]
fn a_message_of_qos_0_that_is_refused_is_dropped() {
    let mut world = World::new();
    world.forbidden = vec!["no"];
    let mut peer = world.connect(&connect5("a", true, &[]));
    for _ in 0..20 {
        assert!(
            world
                .receive(&mut peer, &publish5(0, "no", 0, &[], b""))
                .is_empty()
        );
    }
    assert_eq!(hex(&world.receive(&mut peer, &[0xc0, 0])), "d0 00");
}

#[test]
fn everything_that_a_publish_says_is_in_the_message() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    let props = [
        &[1, 1][..],
        &[2, 0, 0, 0, 9],
        &[3],
        &text("text/x"),
        &[8],
        &text("answer/here"),
        &[9, 0, 2, 0xff, 0],
        &user("b", "1"),
        &user("tidings-key", "k"),
        &user("a", "2"),
        &user("tidings-event", "made"),
        &user("b", "3"),
        &user("tidings-cursor", "forged"),
    ]
    .concat();
    world.receive(&mut peer, &publish5(3, "x", 1, &[&props], b"hi"));
    let message = &world.log[0];
    assert_eq!(message.payload, "hi");
    assert!(message.retain);
    assert_eq!(message.format, PayloadFormat::Text);
    assert_eq!(
        message.expires,
        Some(world.wall.plus(Duration::from_secs(9)))
    );
    let properties = &message.properties;
    assert_eq!(properties.content_type.as_deref(), Some("text/x"));
    assert_eq!(properties.response_topic.as_deref(), Some("answer/here"));
    assert_eq!(properties.correlation.as_deref(), Some(&[0xff, 0][..]));
    assert_eq!(properties.event.as_deref(), Some("made"));
    let headers: Vec<(&str, &str)> = properties
        .headers
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(headers, [("b", "1"), ("a", "2"), ("b", "3")]);
    // The same key again: the log has it once.
    let again = publish5(2, "x", 2, &[&user("tidings-key", "k")], b"hi");
    assert_eq!(hex(&world.receive(&mut peer, &again)), "40 02 00 02");
    assert_eq!(world.log.len(), 1);
}

#[test]
fn a_payload_is_text_if_its_publisher_says_so_or_its_bytes_do() {
    use PayloadFormat::{Binary, Text};
    for (props, payload, expect) in [
        (&[][..], &b"hi"[..], Text),
        (&[], b"\xff", Binary),
        (&[1, 0], b"hi", Binary),
        (&[1, 1], b"hi", Text),
        (
            &[
                3, 0, 9, b'i', b'm', b'a', b'g', b'e', b'/', b'p', b'n', b'g',
            ],
            b"hi",
            Binary,
        ),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect5("a", true, &[]));
        world.receive(&mut peer, &publish5(0, "x", 0, &[props], payload));
        assert_eq!(world.log[0].format, expect);
    }
}

#[test]
fn a_topic_alias_stands_for_the_topic_that_it_was_given_last() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    for (topic, alias) in [
        ("one", 1),
        ("", 1),
        ("two", 2),
        ("", 1),
        ("three", 1),
        ("", 1),
        ("", 2),
    ] {
        let out = world.receive(&mut peer, &publish5(0, topic, 0, &[&[0x23, 0, alias]], b""));
        assert!(out.is_empty());
    }
    let topics: Vec<&str> = world
        .log
        .iter()
        .map(|message| message.topic.as_str())
        .collect();
    assert_eq!(
        topics,
        ["one", "one", "two", "one", "three", "three", "two"]
    );
}

#[test]
fn more_than_the_receive_maximum_ends_the_connection() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    // Four of QoS 2 are not released; messages of QoS 0 do not count.
    for id in 1..=4 {
        world.receive(&mut peer, &publish5(4, "x", id, &[], b""));
        world.receive(&mut peer, &publish5(0, "x", 0, &[], b""));
    }
    assert_eq!(
        hex(&world.receive(&mut peer, &publish5(0x0c, "x", 4, &[], b""))),
        "50 02 00 04"
    );
    assert_eq!(
        hex(&world.receive(&mut peer, &ack(PUBREL, 1))),
        "70 02 00 01"
    );
    assert_eq!(
        hex(&world.receive(&mut peer, &publish5(2, "x", 9, &[], b""))),
        "40 02 00 09"
    );
    assert_eq!(
        hex(&world.receive(&mut peer, &publish5(4, "x", 5, &[], b""))),
        "50 02 00 05"
    );
    let out = world.receive(&mut peer, &publish5(2, "x", 6, &[], b""));
    assert_eq!((out[0], out[2]), (0xe0, 0x93));
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn messages_that_are_not_acknowledged_yet_count_too() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    world.holds_publishes = true;
    let all: Vec<u8> = (1..=5)
        .flat_map(|id| publish5(2, "x", id, &[], b""))
        .collect();
    let out = world.receive(&mut peer, &all);
    assert_eq!((out[0], out[2]), (0xe0, 0x93));
    assert_eq!(world.log.len(), 4);
}

#[test]
fn before_5_0_a_client_that_never_releases_is_disconnected() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    for id in 1..=1_024 {
        world.receive(&mut peer, &publish4(4, "x", id, b""));
        assert_eq!(peer.ending, None);
    }
    world.receive(&mut peer, &publish4(4, "x", 1_025, b""));
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn before_5_0_messages_over_the_maximum_wait() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    world.holds_publishes = true;
    let mut all: Vec<u8> = (1..=9).flat_map(|id| publish4(2, "x", id, b"")).collect();
    all.extend([0xc0, 0]);
    assert!(world.receive(&mut peer, &all).is_empty());
    assert_eq!(world.log.len(), 4, "the rest is not taken yet");
    let out = world.answer_held(&mut peer);
    assert_eq!(world.log.len(), 9);
    let ids: Vec<u8> = packets(&out)
        .iter()
        .filter(|it| it.0 == PUBACK)
        .map(|it| it.1[1])
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_message_of_qos_2_that_comes_again_is_there_once() {
    for connect in [connect4("a", true), connect4("a", false)] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        assert_eq!(
            hex(&world.receive(&mut peer, &publish4(4, "x", 1, b"m"))),
            "50 02 00 01"
        );
        assert_eq!(
            hex(&world.receive(&mut peer, &publish4(0x0c, "x", 1, b"m"))),
            "50 02 00 01"
        );
        assert_eq!(
            hex(&world.receive(&mut peer, &ack(PUBREL, 1))),
            "70 02 00 01"
        );
        assert_eq!(world.log.len(), 1);
        // Released, so this is another one.
        world.receive(&mut peer, &publish4(4, "x", 1, b"n"));
        assert_eq!(world.log.len(), 2);
    }
}

#[test]
fn a_release_that_is_not_awaited_is_answered_as_not_found() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    assert_eq!(
        hex(&world.receive(&mut peer, &ack(PUBREL, 5))),
        "70 03 00 05 92"
    );
    let mut peer = world.connect(&connect4("b", true));
    assert_eq!(
        hex(&world.receive(&mut peer, &ack(PUBREL, 5))),
        "70 02 00 05"
    );
}

#[test]
fn a_release_is_confirmed_once_that_is_saved() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &publish4(4, "x", 1, b"m"));
    world.holds_saves = true;
    assert!(world.receive(&mut peer, &ack(PUBREL, 1)).is_empty());
    assert_eq!(hex(&world.answer_held(&mut peer)), "70 02 00 01");
}

/// A client sends a message of `QoS` 2 and repeats what was not answered; the server stops after each step.
#[test]
fn a_message_of_qos_2_is_there_once_wherever_the_server_stops() {
    for stop in 0..4 {
        let mut world = World::new();
        let mut peer = world.connect(&connect4("a", false));
        (world.holds_publishes, world.holds_saves) = (stop == 0, stop == 2);
        world.receive(&mut peer, &publish4(4, "x", 1, b"m"));
        if stop >= 2 {
            world.receive(&mut peer, &ack(PUBREL, 1));
        }
        drop(peer);
        (world.holds_publishes, world.holds_saves) = (false, false);
        world.crash();
        let mut peer = world.connect(&connect4("a", false));
        // PUBREC was lost, or was not: the client sends the step that it has no answer for.
        if stop < 2 {
            let out = world.receive(&mut peer, &publish4(0x0c, "x", 1, b"m"));
            assert_eq!(hex(&out), "50 02 00 01", "stop {stop}");
        }
        let out = world.receive(&mut peer, &ack(PUBREL, 1));
        assert_eq!(hex(&out), "70 02 00 01", "stop {stop}");
        assert_eq!(world.log.len(), 1, "stop {stop}");
        // The identifier is free for another message.
        let out = world.receive(&mut peer, &publish4(4, "x", 1, b"n"));
        assert_eq!(out[0], PUBREC);
        assert_eq!(world.log.len(), 2, "stop {stop}");
        let out = world.receive(&mut peer, &ack(PUBREL, 1));
        assert_eq!(out[0], PUBCOMP);
    }
}
