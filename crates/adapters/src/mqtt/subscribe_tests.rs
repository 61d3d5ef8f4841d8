//! SUBSCRIBE and UNSUBSCRIBE.

use tidings_ports::Framing;
use tidings_types::Qos;

use super::testing::*;

const PUBACK: u8 = 0x40;

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
fn each_filter_is_answered_with_its_own_reason() {
    let filters = [
        ("a", 0),
        ("b/+", 1),
        ("no", 1),
        ("c", 2),
        ("d\u{1}", 0),
        ("no", 2),
    ];
    for (forbidden, expect5, expect4) in [
        (vec![], "00 01 01 02 8f 02", "00 01 01 02 80 02"),
        (vec!["no"], "00 01 87 02 8f 87", "00 01 80 02 80 80"),
        (
            vec!["a", "b/+", "no", "c"],
            "87 87 87 87 8f 87",
            "80 80 80 80 80 80",
        ),
    ] {
        let mut world = World::new();
        world.forbidden = forbidden;
        let mut peer = world.connect(&connect5("a", true, &[&[0x17, 0]]));
        let out = world.receive(&mut peer, &subscribe5(9, &[], &filters));
        assert_eq!(hex(&out), format!("90 09 00 09 00 {expect5}"));
        let mut peer = world.connect(&connect4("b", true));
        let out = world.receive(&mut peer, &subscribe4(9, &filters));
        assert_eq!(hex(&out), format!("90 08 00 09 {expect4}"));
    }
}

#[test]
fn the_reason_string_tells_of_the_first_three_refused_filters() {
    let mut world = World::new();
    world.forbidden = vec!["no", "never", "nowhere"];
    let mut peer = world.connect(&connect5("a", true, &[]));
    let filters = ["x", "c\u{1}", "no", "no", "never", "nowhere"].map(|text| (text, 0));
    let out = world.receive(&mut peer, &subscribe5(1, &[], &filters));
    let said = String::from_utf8_lossy(&out);
    for told in ["`c\\u{1}`: the topic holds", "; not `no`", "; not `never`"] {
        assert!(said.contains(told), "{told}: {said}");
    }
    assert_eq!(said.matches("; ").count(), 2, "{said}");
}

#[test]
fn a_start_that_is_none_is_explained() {
    for (after, sentence) in [
        (
            "last:x",
            "no number behind `last:`: pass a whole one from 0 to 10000",
        ),
        ("last:", "no number behind `last:`"),
        ("last:10001", "no number behind `last:`"),
        ("nonsense", "`retained` or `last:N`"),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect5("a", true, &[]));
        let asked = subscribe5(1, &[&user("tidings-after", after)], &[("x", 0)]);
        let out = world.receive(&mut peer, &asked);
        assert_eq!((out[0], out.last()), (0x90, Some(&0x83)), "{after}");
        let said = String::from_utf8_lossy(&out);
        assert!(said.contains("`tidings-after` "), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn more_filters_than_permitted_are_refused_one_by_one() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[&[0x17, 0]]));
    let filters: Vec<(&str, u8)> = ["a", "b", "c", "d", "e"].map(|text| (text, 0)).into();
    world.receive(&mut peer, &subscribe5(1, &[], &filters));
    let out = world.receive(
        &mut peer,
        &subscribe5(2, &[], &[("f", 0), ("g", 0), ("a", 1)]),
    );
    assert_eq!(hex(&out), "90 06 00 02 00 00 97 01");
    let out = world.receive(&mut peer, &packet(0xa2, &[&[0, 3, 0], &text("a")]));
    assert_eq!(hex(&out), "b0 04 00 03 00 00");
    let out = world.receive(&mut peer, &subscribe5(4, &[], &[("g", 0)]));
    assert_eq!(hex(&out), "90 04 00 04 00 00");
}

#[test]
fn subscribing_again_changes_the_options_and_misses_nothing() {
    let mut world = World::new();
    let mut peer = subscribed4(&mut world, &[("x", 0)]);
    world.publish("x", b"1");
    let out = world.receive(&mut peer, &subscribe4(2, &[("x", 1)]));
    assert_eq!(hex(&out[..5]), "90 03 00 02 01");
    world.publish("x", b"2");
    let mut all = shown(&out, false);
    all.extend(shown(&after(&mut world, &mut peer), false));
    assert_eq!(all, ["2:1 x 1", "2:2 x 2"]);
}

#[test]
fn unsubscribing_ends_what_was_there_and_says_what_was_not() {
    let mut world = World::new();
    let mut peer = subscribed5(&mut world, &[], &[("x", 0), ("y", 0), ("$share/g/z", 1)]);
    let names = [
        text("x"),
        text("nothing"),
        text("$share/g/z"),
        text("$share/h/z"),
        text("q\u{1}"),
    ]
    .concat();
    let out = world.receive(&mut peer, &packet(0xa2, &[&[0, 7, 0], &names]));
    assert_eq!(hex(&out), "b0 08 00 07 00 00 11 00 11 8f");
    for topic in ["x", "y", "z"] {
        world.publish(topic, b"m");
    }
    assert_eq!(shown(&after(&mut world, &mut peer), true), ["0:0 y m"]);
    let out = world.receive(&mut peer, &packet(0xa2, &[&[0, 8, 0], &text("y")]));
    assert_eq!(hex(&out), "b0 04 00 08 00 00");
    world.publish("y", b"m");
    assert!(after(&mut world, &mut peer).is_empty());
    let mut old = world.connect(&connect4("b", true));
    let out = world.receive(&mut old, &packet(0xa2, &[&[0, 9], &text("x")]));
    assert_eq!(hex(&out), "b0 02 00 09");
}

#[test]
fn simple_subscriptions_of_qos_0_share_their_frames() {
    for (connect, filters, is_shared) in [
        (connect4("a", true), vec![("x", 0)], true),
        (connect4("a", true), vec![("x", 0), ("y", 0)], true),
        (connect4("a", true), vec![("x", 0), ("y", 1)], false),
        (connect4("a", false), vec![("x", 0)], false),
        (connect5("a", true, &[]), vec![("x", 0)], true),
        (connect5("a", true, &[]), vec![("x", 4)], false),
        (connect5("a", true, &[]), vec![("x", 8)], false),
        (
            connect5("a", true, &[&[0x27, 0, 1, 0, 0]]),
            vec![("x", 0)],
            false,
        ),
        (connect5("a", true, &[&[0x22, 0, 1]]), vec![("x", 0)], false),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        let subscribe = if connect[8] == 5 {
            subscribe5(1, &[], &filters)
        } else {
            subscribe4(1, &filters)
        };
        world.receive(&mut peer, &subscribe);
        let found = matches!(peer.framing(), Some(Framing::Shared(_)));
        assert_eq!(found, is_shared, "{} {filters:?}", hex(&connect));
        world.publish("x", b"m");
        assert_eq!(
            publishes(&after(&mut world, &mut peer), connect[8] == 5).len(),
            1
        );
        // Another kind of subscription, and its end.
        let is_five = connect[8] == 5;
        let more = if is_five {
            subscribe5(2, &[], &[("z", 1)])
        } else {
            subscribe4(2, &[("z", 1)])
        };
        world.receive(&mut peer, &more);
        assert!(matches!(peer.framing(), Some(Framing::Own)));
        let name = text("z");
        let end = if is_five {
            packet(0xa2, &[&[0, 3, 0], &name])
        } else {
            packet(0xa2, &[&[0, 3], &name])
        };
        world.receive(&mut peer, &end);
        let found = matches!(peer.framing(), Some(Framing::Shared(_)));
        assert_eq!(found, is_shared);
    }
}

#[test]
fn a_subscribe_may_say_where_to_start() {
    let mut world = World::new();
    for payload in ["1", "2", "3", "4"] {
        world.append(draft_of("x", payload, Qos::default(), payload == "2"));
    }
    let cursor = world.log[1].cursor().to_string();
    for (value, expect) in [
        ("earliest", vec!["1", "2", "3", "4"]),
        ("latest", vec![]),
        ("retained", vec!["2"]),
        (&cursor, vec!["3", "4"]),
        ("last:1", vec!["4"]),
        ("last:0", vec![]),
    ] {
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(
            &mut peer,
            &subscribe5(1, &[&user("tidings-after", value)], &[("x", 1)]),
        );
        let payloads = |out: &[u8]| -> Vec<String> {
            let found = publishes(out, true).into_iter();
            found
                .map(|it| String::from_utf8(it.payload).unwrap())
                .collect()
        };
        assert_eq!(payloads(&out), expect, "{value}");
        world.publish("x", b"live");
        assert_eq!(payloads(&after(&mut world, &mut peer)), ["live"]);
        world.log.pop();
        world.close(peer);
    }
    for value in ["", "sometimes", "last:x", "last:10001"] {
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(
            &mut peer,
            &subscribe5(1, &[&user("tidings-after", value)], &[("x", 1)]),
        );
        assert_eq!((out[0], *out.last().unwrap()), (0x90, 0x83), "{value}");
    }
}

#[test]
fn a_suback_says_from_where_on_nothing_is_missed() {
    let mut world = World::new();
    for payload in ["1", "2", "3"] {
        world.publish("x", payload.as_bytes());
    }
    for (start, expect) in [(None, 2), (Some("latest"), 2), (Some("last:1"), 1)] {
        let start: Vec<_> = start
            .map(|it| user("tidings-after", it))
            .into_iter()
            .collect();
        let start: Vec<&[u8]> = start.iter().map(Vec::as_slice).collect();
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(&mut peer, &subscribe5(1, &start, &[("x", 0)]));
        let property = user("tidings-cursor", &world.log[expect].cursor().to_string());
        let found = out.windows(property.len()).any(|part| part == property);
        assert!(out[0] == 0x90 && found, "{start:?}: {out:?}");
        world.close(peer);
    }
    let mut peer = world.connect(&connect4("a", true));
    let out = world.receive(&mut peer, &subscribe4(1, &[("x", 0)]));
    assert_eq!(out, packet(0x90, &[&[0, 1, 0]]));
}

#[test]
fn older_messages_come_before_live_ones_however_slowly_they_are_acknowledged() {
    let mut world = World::new();
    for at in 0..20 {
        world.publish("x", format!("{at}").as_bytes());
    }
    let mut peer = world.connect(&connect5("a", true, &[&[0x21, 0, 1]]));
    let mut out = world.receive(
        &mut peer,
        &subscribe5(1, &[&user("tidings-after", "earliest")], &[("x", 1)]),
    );
    let mut got = Vec::new();
    for at in 20..=60 {
        if at < 30 {
            world.publish("x", format!("{at}").as_bytes());
        }
        for it in publishes(&out, true) {
            got.push(String::from_utf8(it.payload).unwrap());
            out = world.receive(&mut peer, &ack(PUBACK, it.id));
        }
    }
    let expect: Vec<String> = (0..30).map(|at| at.to_string()).collect();
    assert_eq!(got, expect);
}

#[test]
fn a_shared_subscription_joins_a_queue_and_acknowledges_what_is_done() {
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[]));
    let out = world.receive(
        &mut peer,
        &subscribe5(
            1,
            &[&[0x0b, 3]],
            &[("$share/g/x", 1), ("$share/h/x", 2), ("$share/i/x", 0)],
        ),
    );
    assert_eq!(hex(&out), "90 06 00 01 00 01 02 00");
    let groups = peer.groups();
    assert_eq!(groups, ["share/g/x 8", "share/h/x 8", "share/i/x 8"]);
    world.publish("x", b"m");
    let out = after(&mut world, &mut peer);
    let mut seen = shown(&out, true);
    seen.sort();
    assert_eq!(seen, ["0:0 x m", "2:1 x m", "4:2 x m"]);
    assert!(
        publishes(&out, true)
            .iter()
            .all(|it| it.properties.starts_with(&[0x0b, 3]))
    );
    // QoS 0 is done when it is sent, and QoS 2 is this session's to complete.
    assert_eq!(peer.acked.len(), 2);
    world.receive(&mut peer, &ack(PUBACK, 1));
    assert_eq!(peer.acked.len(), 3);
}

#[test]
fn a_retained_message_is_not_sent_to_a_shared_subscription() {
    let mut world = World::new();
    world.append(draft_of("x", "old", Qos::default(), true));
    let mut peer = world.connect(&connect5("a", true, &[]));
    let out = world.receive(&mut peer, &subscribe5(1, &[], &[("$share/g/x", 1)]));
    assert_eq!(hex(&out), "90 04 00 01 00 01");
}

#[test]
fn a_refused_share_is_answered_with_its_reason() {
    let mut world = World::new();
    world.forbidden = vec!["no"];
    let mut peer = world.connect(&connect5("a", true, &[&[0x17, 0]]));
    let out = world.receive(
        &mut peer,
        &subscribe5(1, &[], &[("$share/g/no", 1), ("x", 1), ("$share/g/x", 2)]),
    );
    assert_eq!(hex(&out), "90 06 00 01 00 87 01 02");
}

#[test]
fn a_subscription_is_acknowledged_once_it_is_saved() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.holds_saves = true;
    assert!(
        world
            .receive(&mut peer, &subscribe4(1, &[("x", 1)]))
            .is_empty()
    );
    assert_eq!(hex(&world.answer_held(&mut peer)), "90 03 00 01 01");
    world.holds_saves = true;
    assert!(
        world
            .receive(&mut peer, &packet(0xa2, &[&[0, 2], &text("x")]))
            .is_empty()
    );
    assert_eq!(hex(&world.answer_held(&mut peer)), "b0 02 00 02");
}
