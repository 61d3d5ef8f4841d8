//! Messages to the client.

use std::time::Duration;

use tidings_ports::{Event, Framing, Gap, GapReason, SubscriptionKey};
use tidings_types::{Cursor, Draft, Offset, Qos, RefusalCode};

use super::testing::*;

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

fn subscribed4(world: &mut World, filters: &[(&str, u8)]) -> Peer {
    let mut peer = world.connect(&connect4("a", true));
    world.receive(&mut peer, &subscribe4(1, filters));
    peer
}

fn subscribed5(world: &mut World, props: &[&[u8]], filters: &[(&str, u8)]) -> Peer {
    let mut peer = world.connect(&connect5("a", true, props));
    world.receive(&mut peer, &subscribe5(1, &[], filters));
    peer
}

fn after(world: &mut World, peer: &mut Peer) -> Vec<u8> {
    world.deliver(peer);
    peer.take()
}

#[test]
fn the_level_is_the_lower_of_publisher_and_subscriber() {
    for (subscribed, published, flags) in [
        (0, Qos::ExactlyOnce, 0),
        (1, Qos::ExactlyOnce, 2),
        (2, Qos::ExactlyOnce, 4),
        (2, Qos::AtLeastOnce, 2),
        (2, Qos::AtMostOnce, 0),
        (0, Qos::AtMostOnce, 0),
    ] {
        let mut world = World::new();
        let mut peer = subscribed4(&mut world, &[("x", subscribed)]);
        world.append(draft_of("x", "m", published, false));
        let out = after(&mut world, &mut peer);
        let id = u16::from(flags != 0);
        assert_eq!(shown(&out, false), [format!("{flags:x}:{id} x m")]);
    }
}

#[test]
fn overlapping_subscriptions_deliver_once_at_the_highest_level_with_all_ids() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    world.receive(&mut peer, &subscribe5(1, &[&[0x0b, 5]], &[("x/#", 0)]));
    world.receive(
        &mut peer,
        &subscribe5(2, &[&[0x0b, 0x80, 1]], &[("x/+", 2), ("y", 1)]),
    );
    world.receive(&mut peer, &subscribe5(3, &[], &[("+/1", 1)]));
    world.publish("x/1", b"m");
    let out = publishes(&after(&mut world, &mut peer), true);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].flags, 4);
    assert!(
        out[0].properties.starts_with(&[0x0b, 5, 0x0b, 0x80, 1]),
        "{:?}",
        out[0]
    );
}

#[test]
fn a_message_of_5_0_says_everything() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[], &[("x", 0)]);
    let mut draft = draft_of("x", "hi", Qos::default(), false);
    draft.ttl = Some(Duration::from_secs(10));
    draft.properties.content_type = Some("a/b".into());
    draft.properties.event = Some("made".into());
    draft.properties.response_topic = Some("r".into());
    draft.properties.correlation = Some(vec![1, 2].into());
    draft.properties.headers = vec![("n".into(), "1".into()), ("n".into(), "2".into())];
    let receipt = world.append(draft);
    world.wall = world.wall.plus(Duration::from_millis(3_500));
    let out = publishes(&after(&mut world, &mut peer), true);
    let expect = [
        &[2, 0, 0, 0, 7][..],
        &[1, 1],
        &[3],
        &text("a/b"),
        &[8],
        &text("r"),
        &[9, 0, 2, 1, 2],
        &user("n", "1"),
        &user("n", "2"),
        &user("tidings-event", "made"),
        &user("tidings-cursor", &receipt.cursor.to_string()),
    ]
    .concat();
    assert_eq!(hex(&out[0].properties), hex(&expect));
    assert_eq!(out[0].payload, b"hi");
}

#[test]
fn the_retain_flag_is_for_retained_messages_and_those_who_want_it_as_published() {
    for (options, live, retained) in [(0x00, 0, 1), (0x08, 1, 1)] {
        let mut world = World::new();
        world.append(draft_of("x", "old", Qos::default(), true));
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(&mut peer, &subscribe5(1, &[], &[("x", options)]));
        assert_eq!(shown(&out, true), [format!("{retained}:0 x old")]);
        world.append(draft_of("x", "new", Qos::default(), true));
        let out = after(&mut world, &mut peer);
        assert_eq!(shown(&out, true), [format!("{live}:0 x new")]);
    }
}

#[test]
fn retained_messages_come_as_the_retain_handling_says() {
    for (handling, first, again) in [(0x00, 1, 1), (0x10, 1, 0), (0x20, 0, 0)] {
        let mut world = World::new();
        world.append(draft_of("x/1", "old", Qos::default(), true));
        world.append(draft_of("x/2", "", Qos::default(), true));
        let mut peer = world.connect(&connect5("a", true, &[]));
        for expect in [first, again] {
            let out = world.receive(&mut peer, &subscribe5(1, &[], &[("x/+", handling)]));
            assert_eq!(out[0], 0x90, "the SUBACK comes first");
            assert_eq!(publishes(&out, true).len(), expect, "{handling:x}");
        }
    }
}

#[test]
fn retained_messages_have_the_level_of_the_subscription_and_are_acknowledged() {
    let mut world = World::new();
    world.append(draft_of("x", "old", Qos::default(), true));
    let mut peer = world.connect(&connect4("a", true));
    let out = world.receive(&mut peer, &subscribe4(1, &[("x", 1)]));
    assert_eq!(shown(&out, false), ["3:1 x old"]);
    assert!(world.receive(&mut peer, &ack(PUBACK, 1)).is_empty());
}

#[test]
fn a_client_that_wants_none_of_its_own_gets_none_of_its_own() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[], &[("x/#", 4), ("x/1", 0)]);
    let both = [
        publish5(0, "x/1", 0, &[], b"1"),
        publish5(0, "x/2", 0, &[], b"2"),
    ]
    .concat();
    let out = world.receive(&mut peer, &both);
    assert_eq!(
        shown(&out, true),
        ["0:0 x/1 1"],
        "the other filter wants it"
    );
    world.publish("x/2", b"3");
    assert_eq!(shown(&after(&mut world, &mut peer), true), ["0:0 x/2 3"]);
}

#[test]
fn a_shared_frame_is_left_for_the_messages_that_expire() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[], &[("x", 0)]);
    assert!(matches!(peer.framing(), Some(Framing::Shared(_))));
    let draft = Draft {
        ttl: Some(Duration::from_secs(5)),
        ..draft_of("x", "m", Qos::default(), false)
    };
    world.append(draft);
    world.wall = world.wall.plus(Duration::from_secs(2));
    let out = publishes(&after(&mut world, &mut peer), true);
    assert!(out[0].properties.starts_with(&[2, 0, 0, 0, 3]));
}

#[test]
fn the_first_message_behind_a_gap_tells_of_it() {
    let cursor = Cursor {
        epoch: EPOCH,
        offset: Offset(3),
    };
    let gap = |after| Event::Gap {
        key: SubscriptionKey(0),
        gap: Gap {
            reason: GapReason::Retention,
            after,
            resume: cursor,
        },
    };
    let reason = user("tidings-gap", "retention");
    let both = [&reason[..], &user("tidings-gap-after", &cursor.to_string())].concat();
    for (qos, after_gap, expect) in [
        (0, None, &reason),
        (0, Some(cursor), &both),
        (1, None, &reason),
    ] {
        let mut world = World::new();
        let mut peer = subscribed5(&mut world, &[], &[("x", qos)]);
        world.event(&mut peer, gap(after_gap));
        assert!(matches!(peer.framing(), Some(Framing::Own)));
        // A publisher cannot say it.
        let mut draft = draft_of("x", "1", Qos::AtLeastOnce, false);
        draft.properties.headers = vec![("tidings-gap".into(), "made up".into())];
        world.append(draft);
        world.publish("x", b"2");
        let out = publishes(&after(&mut world, &mut peer), true);
        assert!(out[0].properties.starts_with(expect), "{:?}", out[0]);
        let gaps = |it: &Received| {
            String::from_utf8_lossy(&it.properties)
                .matches("tidings-gap")
                .count()
        };
        assert_eq!(gaps(&out[0]), if after_gap.is_some() { 2 } else { 1 });
        assert_eq!(gaps(&out[1]), 0);
        world.tick(&mut peer, 1);
        let is_shared = matches!(peer.framing(), Some(Framing::Shared(_)));
        assert_eq!(is_shared, qos == 0, "frames are shared again");
    }
    let mut world = World::new();
    let mut peer = subscribed4(&mut world, &[("x", 0)]);
    world.event(&mut peer, gap(None));
    assert!(matches!(peer.framing(), Some(Framing::Shared(_))));
}

#[test]
fn no_message_is_left_out_for_the_sake_of_a_gap() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[&[0x27, 0, 0, 0, 80]], &[("x", 1)]);
    let cursor = Cursor {
        epoch: EPOCH,
        offset: Offset(3),
    };
    let gap = Gap {
        reason: GapReason::Retention,
        after: None,
        resume: cursor,
    };
    let key = SubscriptionKey(0);
    world.event(&mut peer, Event::Gap { key, gap });
    world.publish("x", &[b'm'; 20]);
    world.publish("x", b"");
    let out = after(&mut world, &mut peer);
    assert_eq!(publishes(&out, true).len(), 2);
    let said = String::from_utf8_lossy(&out);
    assert_eq!(said.matches("tidings-gap").count(), 1, "{said}");
    assert_eq!(peer.unfit, 0);
}

#[test]
fn a_packet_larger_than_the_client_takes_is_not_sent_and_counts_as_delivered() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[&[0x27, 0, 0, 0, 100]], &[("x", 1)]);
    world.publish("x", &[b'm'; 200]);
    world.publish("x", b"short");
    let out = after(&mut world, &mut peer);
    assert_eq!(shown(&out, true), ["2:1 x short"]);
    assert_eq!(peer.unfit, 1);
}

#[test]
fn the_topic_is_sent_once_to_a_client_that_takes_aliases() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[&[0x22, 0, 9]], &[("#", 1)]);
    for topic in [
        "topic/one",
        "topic/one",
        "topic/two",
        "topic/three",
        "topic/two",
        "topic/three",
    ] {
        world.publish(topic, b"m");
    }
    let out = publishes(&after(&mut world, &mut peer), true);
    let said: Vec<(&str, &[u8])> = out
        .iter()
        .map(|it| (&*it.topic, &it.properties[..3]))
        .collect();
    let (one, two) = (&[0x23, 0, 1][..], &[0x23, 0, 2][..]);
    // Two aliases is all that the server's own limit permits.
    assert_eq!(
        said[..4],
        [
            ("topic/one", one),
            ("", one),
            ("topic/two", two),
            ("topic/three", &[1, 1, 0x26][..])
        ]
    );
    assert_eq!(said[4], ("", two));
    assert_eq!(said[5].0, "topic/three");
}

#[test]
fn no_more_is_sent_than_the_client_takes() {
    let mut world = World::new();
    let mut peer = subscribed5(
        &mut world,
        &[&[0x21, 0, 2]],
        &[("x", 1), ("y", 2), ("z", 0)],
    );
    for (topic, payload) in [
        ("x", "1"),
        ("y", "2"),
        ("z", "-"),
        ("x", "3"),
        ("y", "4"),
        ("x", "5"),
    ] {
        world.publish(topic, payload.as_bytes());
    }
    let out = after(&mut world, &mut peer);
    assert_eq!(shown(&out, true), ["2:1 x 1", "4:2 y 2", "0:0 z -"]);
    let out = world.receive(&mut peer, &ack(PUBACK, 1));
    assert_eq!(shown(&out, true), ["2:3 x 3"]);
    // PUBREC does not give room, PUBCOMP does.
    let out = world.receive(&mut peer, &ack(PUBREC, 2));
    assert_eq!(hex(&out), "62 02 00 02");
    let out = world.receive(&mut peer, &ack(PUBCOMP, 2));
    assert_eq!(shown(&out, true), ["4:4 y 4"]);
    // A refused one is over.
    let out = world.receive(&mut peer, &packet(PUBREC, &[&[0, 4, 0x97]]));
    assert_eq!(shown(&out, true), ["2:5 x 5"]);
}

#[test]
fn a_large_window_goes_on_before_it_is_empty_and_in_any_case_soon() {
    let mut world = World::new();
    let mut peer = subscribed4(&mut world, &[("x", 1)]);
    for _ in 0..20 {
        world.publish("x", b"m");
    }
    assert_eq!(publishes(&after(&mut world, &mut peer), false).len(), 8);
    for id in 1..=3 {
        assert!(world.receive(&mut peer, &ack(PUBACK, id)).is_empty());
    }
    let wake = peer.wake.expect("a wake-up");
    let wait = wake.0 - world.now.0;
    let out = world.tick(&mut peer, wait);
    assert_eq!(publishes(&out, false).len(), 3);
    let acks: Vec<u8> = (4..=7).flat_map(|id| ack(PUBACK, id)).collect();
    assert_eq!(publishes(&world.receive(&mut peer, &acks), false).len(), 4);
}

#[test]
fn acknowledgements_of_nothing_are_borne_and_wrong_ones_are_not() {
    let connect = connect5("a", true, &[]);
    for (bytes, expect) in [
        (ack(PUBACK, 9), ""),
        (ack(PUBCOMP, 9), ""),
        (ack(PUBREC, 9), "62 03 00 09 92"),
        (packet(PUBACK, &[&[0, 1, 0x80]]), ""),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        world.receive(&mut peer, &subscribe5(1, &[], &[("x", 1)]));
        world.publish("x", b"m");
        world.deliver(&mut peer);
        peer.take();
        assert_eq!(hex(&world.receive(&mut peer, &bytes)), expect);
        assert_eq!(peer.ending, None);
    }
    for (level, bytes) in [
        (1, ack(PUBREC, 1)),
        (1, ack(PUBCOMP, 1)),
        (2, ack(PUBACK, 1)),
        (2, ack(PUBCOMP, 1)),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        world.receive(&mut peer, &subscribe5(1, &[], &[("x", level)]));
        world.publish("x", b"m");
        world.deliver(&mut peer);
        peer.take();
        let out = world.receive(&mut peer, &bytes);
        assert_eq!((out[0], out[2]), (0xe0, 0x82));
    }
}

#[test]
fn a_message_of_qos_2_to_a_session_that_is_kept_is_sent_once_it_is_saved() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, &[("x", 2), ("y", 0)]));
    world.holds_saves = true;
    world.publish("y", b"1");
    world.publish("x", b"2");
    world.publish("y", b"3");
    assert_eq!(shown(&after(&mut world, &mut peer), false), ["0:0 y 1"]);
    assert_eq!(
        shown(&world.answer_held(&mut peer), false),
        ["4:1 x 2", "0:0 y 3"]
    );
    // PUBREL waits for its save too.
    world.holds_saves = true;
    assert!(world.receive(&mut peer, &ack(PUBREC, 1)).is_empty());
    assert_eq!(hex(&world.answer_held(&mut peer)), "62 02 00 01");
}

#[test]
fn a_lost_subscription_ends_the_connection() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[], &[("x", 1)]);
    let out = world.event(
        &mut peer,
        tidings_ports::Event::Lost {
            key: tidings_ports::SubscriptionKey(0),
            refusal: tidings_types::Refusal::new(RefusalCode::StorageFailed, "damaged"),
        },
    );
    assert_eq!((out[0], out[2]), (0xe0, 0x83));
}

#[test]
fn a_release_is_saved_before_it_is_sent_however_often_it_is_asked_for() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, &[("x", 2)]));
    world.append(draft_of("x", "m", Qos::ExactlyOnce, false));
    world.deliver(&mut peer);
    assert_eq!(shown(&peer.take(), false), ["4:1 x m"]);
    world.holds_saves = true;
    for _ in 0..2 {
        assert!(world.receive(&mut peer, &ack(0x50, 1)).is_empty());
    }
    let out = hex(&world.answer_held(&mut peer));
    assert_eq!(out, "62 02 00 01 62 02 00 01");
}
