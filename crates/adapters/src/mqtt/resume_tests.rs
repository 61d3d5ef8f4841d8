//! Sessions that go on after their connection, or the server, ended.

use tidings_types::{Offset, Qos};

use super::testing::*;

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

/// A client with a session that is kept, subscribed and gone again.
fn absent(world: &mut World, filters: &[(&str, u8)]) {
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, filters));
    world.close(peer);
}

/// The client comes back: what it is sent after the CONNACK.
fn back(world: &mut World) -> (Peer, Vec<u8>) {
    let mut peer = world.open();
    let out = world.receive(&mut peer, &connect4("a", false));
    assert_eq!(hex(&out[..4]), "20 02 01 00", "the session is present");
    (peer, out[4..].to_vec())
}

fn say(world: &mut World, topic: &str, payloads: &[&str]) {
    for payload in payloads {
        world.publish(topic, payload.as_bytes());
    }
}

#[test]
fn what_was_missed_comes_in_order_at_every_level() {
    let mut world = World::new();
    absent(&mut world, &[("x", 1), ("y", 2), ("z", 0)]);
    say(&mut world, "x", &["1"]);
    say(&mut world, "y", &["2"]);
    say(&mut world, "other", &["-"]);
    say(&mut world, "z", &["3"]);
    let (mut peer, out) = back(&mut world);
    assert_eq!(shown(&out, false), ["2:1 x 1", "4:2 y 2", "0:0 z 3"]);
    world.close(peer);
    (peer, _) = back(&mut world);
    drop(peer);
}

#[test]
fn unacknowledged_messages_come_again_in_order_with_their_ids() {
    let mut world = World::new();
    absent(&mut world, &[("x", 2), ("y", 1)]);
    say(&mut world, "x", &["1", "2"]);
    say(&mut world, "y", &["3", "4"]);
    say(&mut world, "x", &["5"]);
    let (mut peer, out) = back(&mut world);
    assert_eq!(
        shown(&out, false),
        ["4:1 x 1", "4:2 x 2", "2:3 y 3", "2:4 y 4", "4:5 x 5"]
    );
    world.receive(&mut peer, &ack(PUBREC, 1));
    world.receive(&mut peer, &ack(PUBACK, 4));
    world.receive(&mut peer, &ack(PUBREC, 5));
    world.receive(&mut peer, &ack(PUBCOMP, 5));
    world.close(peer);
    say(&mut world, "y", &["6"]);
    for _ in 0..2 {
        let (peer, out) = back(&mut world);
        assert_eq!(hex(&out[..4]), "62 02 00 01", "the release comes again");
        let again: Vec<String> = shown(&out, false).into_iter().take(2).collect();
        assert_eq!(again, ["c:2 x 2", "a:3 y 3"]);
        assert!(shown(&out, false)[2].ends_with("y 6"));
        assert_eq!(publishes(&out, false).len(), 3);
        world.close(peer);
    }
}

#[test]
fn after_a_crash_qos_2_comes_once_qos_1_at_least_once_and_qos_0_at_most_once() {
    let mut world = World::new();
    absent(&mut world, &[("two", 2), ("one", 1), ("zero", 0)]);
    let (mut peer, _) = back(&mut world);
    for topic in ["two", "one", "zero"] {
        say(&mut world, topic, &["1"]);
    }
    world.deliver(&mut peer);
    assert_eq!(shown(&peer.take(), false).len(), 3);
    world.receive(&mut peer, &ack(PUBREC, 1));
    world.receive(&mut peer, &ack(PUBCOMP, 1));
    world.receive(&mut peer, &ack(PUBACK, 2));
    // None of the last acknowledgements was saved.
    say(&mut world, "one", &["2"]);
    say(&mut world, "zero", &["2"]);
    world.deliver(&mut peer);
    assert_eq!(shown(&peer.take(), false).len(), 2);
    drop(peer);
    world.crash();
    let (mut peer, out) = back(&mut world);
    // PUBREL and the message of QoS 1 may come again; QoS 0 must not, and QoS 2 is not published again.
    assert_eq!(hex(&out[..4]), "62 02 00 01");
    assert_eq!(shown(&out, false), ["a:2 one 1", "a:3 one 2"]);
    say(&mut world, "zero", &["3"]);
    say(&mut world, "one", &["3"]);
    world.deliver(&mut peer);
    let out = shown(&peer.take(), false);
    assert_eq!(
        out,
        ["0:0 zero 3", "2:4 one 3"],
        "and then everything goes on"
    );
}

#[test]
fn a_message_of_qos_2_arrives_once_wherever_the_server_stops() {
    for stop in 0..5 {
        let mut world = World::new();
        absent(&mut world, &[("x", 2)]);
        let (mut peer, _) = back(&mut world);
        world.holds_saves = stop == 0;
        say(&mut world, "x", &["m"]);
        world.deliver(&mut peer);
        let mut published = shown(&peer.take(), false);
        let mut is_known = false;
        if stop >= 1 {
            assert_eq!(published.len(), 1);
            is_known = true;
        }
        if stop >= 2 {
            world.holds_saves = stop == 2;
            world.receive(&mut peer, &ack(PUBREC, 1));
        }
        if stop == 4 {
            // The client has forgotten the identifier by now.
            world.receive(&mut peer, &ack(PUBCOMP, 1));
            is_known = false;
        }
        drop(peer);
        world.holds_saves = false;
        world.crash();
        let (mut peer, out) = back(&mut world);
        let again = shown(&out, false);
        for message in &again {
            assert!(stop <= 2, "stop {stop}: {again:?}");
            assert_eq!(message, if stop == 0 { "4:1 x m" } else { "c:1 x m" });
        }
        // A client that knows the identifier takes the second for a repetition.
        if !is_known {
            published.extend(again.clone());
        }
        assert_eq!(published.len(), 1, "stop {stop}");
        if !again.is_empty() {
            assert_eq!(
                hex(&world.receive(&mut peer, &ack(PUBREC, 1))),
                "62 02 00 01"
            );
        }
        world.receive(&mut peer, &ack(PUBCOMP, 1));
        let peer = world.close(peer);
        drop(peer);
        let (_, out) = back(&mut world);
        assert!(out.is_empty(), "stop {stop}: it is over");
    }
}

#[test]
fn what_the_log_has_lost_is_given_up_and_released() {
    let mut world = World::new();
    absent(&mut world, &[("x", 2), ("y", 1)]);
    say(&mut world, "x", &["1", "2"]);
    say(&mut world, "y", &["3"]);
    let (peer, out) = back(&mut world);
    assert_eq!(publishes(&out, false).len(), 3);
    world.close(peer);
    // Retention removed the first and the third.
    let keep = world.log[1].offset;
    world.log.retain(|message| message.offset == keep);
    world.skip(2);
    say(&mut world, "x", &["4"]);
    let (mut peer, out) = back(&mut world);
    assert_eq!(shown(&out, false), ["c:2 x 2", "4:4 x 4"]);
    let all = [out, world.tick(&mut peer, 250)].concat();
    assert!(hex(&all).contains("62 02 00 01"), "{}", hex(&all));
    drop(peer);
}

#[test]
fn a_window_larger_than_the_client_takes_now_comes_bit_by_bit() {
    let mut world = World::new();
    let expiry = session_expiry(100);
    let mut peer = world.connect(&connect5("a", true, &[&expiry]));
    world.receive(&mut peer, &subscribe5(1, &[], &[("x", 1)]));
    say(&mut world, "x", &["1", "2", "3", "4"]);
    world.deliver(&mut peer);
    world.close(peer);
    let mut peer = world.open();
    let mut out = world.receive(&mut peer, &connect5("a", false, &[&expiry, &[0x21, 0, 1]]));
    for id in 1..=4 {
        assert_eq!(shown(&out, true), [format!("a:{id} x {id}")]);
        out = world.receive(&mut peer, &ack(PUBACK, id));
    }
    say(&mut world, "x", &["5"]);
    world.deliver(&mut peer);
    assert_eq!(shown(&peer.take(), true), ["2:5 x 5"]);
}

#[test]
fn retained_messages_that_were_not_acknowledged_come_again() {
    let mut world = World::new();
    world.append(draft_of("x", "old", Qos::default(), true));
    for _ in 0..50 {
        say(&mut world, "x", &["between"]);
    }
    let mut peer = world.connect(&connect4("a", false));
    let out = world.receive(&mut peer, &subscribe4(1, &[("x", 1)]));
    assert_eq!(shown(&out, false), ["3:1 x old"]);
    world.close(peer);
    let (mut peer, out) = back(&mut world);
    assert_eq!(shown(&out, false), ["b:1 x old"]);
    world.receive(&mut peer, &ack(PUBACK, 1));
    world.close(peer);
    let (_, out) = back(&mut world);
    assert!(out.is_empty());
}

#[test]
fn what_was_begun_is_completed_after_unsubscribing() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, &[("x", 2), ("y", 1)]));
    say(&mut world, "x", &["1"]);
    world.deliver(&mut peer);
    peer.take();
    world.receive(&mut peer, &packet(0xa2, &[&[0, 2], &text("x")]));
    say(&mut world, "x", &["2"]);
    say(&mut world, "y", &["3"]);
    world.close(peer);
    let (mut peer, out) = back(&mut world);
    assert_eq!(shown(&out, false), ["c:1 x 1", "2:2 y 3"]);
    world.receive(&mut peer, &ack(PUBREC, 1));
    world.receive(&mut peer, &ack(PUBCOMP, 1));
    world.receive(&mut peer, &ack(PUBACK, 2));
    world.close(peer);
    let (_, out) = back(&mut world);
    assert!(out.is_empty());
}

#[test]
fn a_shared_message_of_qos_2_is_completed_and_one_of_qos_1_is_left_to_others() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(
        &mut peer,
        &subscribe4(1, &[("$share/g/two", 2), ("$share/g/one", 1)]),
    );
    say(&mut world, "two", &["1"]);
    say(&mut world, "one", &["2"]);
    world.deliver(&mut peer);
    assert_eq!(publishes(&peer.take(), false).len(), 2);
    assert_eq!(peer.acked, [Offset(1)]);
    world.close(peer);
    let (mut peer, out) = back(&mut world);
    assert_eq!(peer.groups().len(), 2, "the subscriptions are there again");
    assert_eq!(shown(&out, false), ["c:1 two 1"]);
    assert_eq!(
        hex(&world.receive(&mut peer, &ack(PUBREC, 1))),
        "62 02 00 01"
    );
}

#[test]
fn a_shared_message_that_was_not_sent_yet_is_left_to_others() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, &[("$share/g/x", 2)]));
    world.holds_saves = true;
    say(&mut world, "x", &["1"]);
    world.deliver(&mut peer);
    assert!(peer.take().is_empty() && peer.acked.is_empty());
    world.close(peer);
    world.holds_saves = false;
    let (_, out) = back(&mut world);
    assert!(out.is_empty());
}

#[test]
fn older_messages_go_on_where_they_stopped() {
    let mut world = World::new();
    for at in 0..20 {
        say(&mut world, "x", &[&at.to_string()]);
    }
    let expiry = session_expiry(100);
    let mut peer = world.connect(&connect5("a", true, &[&expiry]));
    let mut out = world.receive(
        &mut peer,
        &subscribe5(1, &[&user("tidings-after", "earliest")], &[("x", 1)]),
    );
    say(&mut world, "x", &["20"]);
    let mut got = Vec::new();
    for round in 0..5 {
        for it in publishes(&out, true) {
            got.push(String::from_utf8(it.payload).unwrap());
            world.receive(&mut peer, &ack(PUBACK, it.id));
        }
        out = peer.take();
        if round % 2 == 0 {
            world.close(peer);
            peer = world.open();
            out = world.receive(&mut peer, &connect5("a", false, &[&expiry]));
        }
    }
    for _ in 0..5 {
        for it in publishes(&out, true) {
            got.push(String::from_utf8(it.payload).unwrap());
            let more = world.receive(&mut peer, &ack(PUBACK, it.id));
            out.extend(more);
        }
        out = world.tick(&mut peer, 250);
    }
    let mut seen = got.clone();
    seen.sort_by_key(|text| text.parse::<u32>().unwrap());
    seen.dedup();
    let expect: Vec<String> = (0..=20).map(|at| at.to_string()).collect();
    assert_eq!(seen, expect, "{got:?}");
}

#[test]
fn lazily_saved_changes_are_saved_a_moment_later() {
    let mut world = World::new();
    absent(&mut world, &[("x", 1)]);
    let (mut peer, _) = back(&mut world);
    say(&mut world, "x", &["1"]);
    world.deliver(&mut peer);
    peer.take();
    world.receive(&mut peer, &ack(PUBACK, 1));
    let before = world.latest["mqtt/a"].state.clone();
    assert!(peer.wake.is_some_and(|wake| wake <= world.now.plus_ms(250)));
    world.tick(&mut peer, 250);
    assert_ne!(world.latest["mqtt/a"].state, before);
    let saved = world.latest["mqtt/a"].state.clone();
    world.tick(&mut peer, 250);
    assert_eq!(
        world.latest["mqtt/a"].state, saved,
        "and then there is nothing to save"
    );
}

#[test]
fn ten_thousand_offline_messages_cost_the_session_nothing() {
    let mut world = World::new();
    absent(&mut world, &[("x", 1)]);
    let before = world.latest["mqtt/a"].state.len();
    for _ in 0..10_000 {
        say(&mut world, "x", &["m"]);
    }
    assert_eq!(world.latest["mqtt/a"].state.len(), before);
    assert!(before < 64, "{before} bytes");
}
