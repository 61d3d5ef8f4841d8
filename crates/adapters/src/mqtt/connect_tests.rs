//! CONNECT, CONNACK, the end of a connection, and what is said of sessions.

use std::time::Duration;

use bytestring::ByteString;
use tidings_ports::{Ending, Event, Expiry};
use tidings_types::{Refusal, RefusalCode};

use super::testing::*;
use super::*;

/// What a CONNACK of 5.0 always says with the limits of the tests.
const ANNOUNCED: &str = "27 00 02 47 10 21 00 04 22 00 02";

/// One answer to one CONNECT.
fn answer(connect: &[u8]) -> (String, Option<Ending>) {
    let mut world = World::new();
    let mut peer = world.open();
    let out = world.receive(&mut peer, connect);
    (hex(&out), peer.ending)
}

fn connect3(id: &str) -> Vec<u8> {
    packet(0x10, &[&text("MQIsdp"), &[3, 2, 0, 0], &text(id)])
}

/// A CONNECT of 5.0 with flags, a keep alive, properties, and what follows the client identifier.
fn connect_with(flags: u8, keep_alive: u16, props: &[&[u8]], id: &str, rest: &[u8]) -> Vec<u8> {
    let head = [&text("MQTT")[..], &[5, flags], &keep_alive.to_be_bytes()].concat();
    packet(0x10, &[&head, &properties(props), &text(id), rest])
}

#[test]
fn a_connect_of_each_version_is_answered_in_its_form() {
    for (connect, expect) in [
        (connect3("a"), "20 02 00 00".to_owned()),
        (connect4("a", true), "20 02 00 00".to_owned()),
        (connect4("", true), "20 02 00 00".to_owned()),
        (
            connect5("a", true, &[]),
            format!("20 0e 00 00 0b {ANNOUNCED}"),
        ),
    ] {
        assert_eq!(answer(&connect), (expect, None));
    }
}

#[test]
fn a_connect_that_cannot_be_accepted_is_answered_and_closed() {
    let wish = |property: &[u8]| connect5("a", true, &[property]);
    let will = |topic: &str, props: &[&[u8]], payload: &str| {
        let rest = [properties(props), text(topic), text(payload)].concat();
        connect_with(0x06, 0, &[], "a", &rest)
    };
    let long = "i".repeat(1_001);
    for (name, connect, expect) in [
        (
            "level 6",
            packet(0x10, &[&text("MQTT"), &[6, 2, 0, 0], &text("a")]),
            "20 03 00 84 00",
        ),
        (
            "3.1 with a long id",
            connect3(&"i".repeat(24)),
            "20 02 00 02",
        ),
        ("3.1.1 with a huge id", connect4(&long, true), "20 02 00 02"),
        (
            "3.1.1 without an id, to be kept",
            connect4("", false),
            "20 02 00 02",
        ),
        ("not mqtt", b"GET / HTTP/1.1\r\n\r\n".to_vec(), ""),
        ("a publish first", publish4(0, "a", 0, b"x"), ""),
    ] {
        assert_eq!(
            answer(&connect),
            (expect.to_owned(), Some(Ending::AfterFlush)),
            "{name}"
        );
    }
    for (name, connect, reason) in [
        ("5.0 with a huge id", connect5(&long, true, &[]), 0x85),
        (
            "an unknown authentication method",
            wish(&[&[0x15][..], &text("m")].concat()),
            0x8c,
        ),
        (
            "a will on a topic with a control character",
            will("a\u{1}", &[], "x"),
            0x90,
        ),
        (
            "a will that is not utf-8 as it says",
            {
                let rest = [properties(&[&[1, 1]]), text("w"), vec![0, 1, 0xff]].concat();
                connect_with(0x06, 0, &[], "a", &rest)
            },
            0x99,
        ),
    ] {
        let mut world = World::new();
        let mut peer = world.open();
        let out = world.receive(&mut peer, &connect);
        assert_eq!(
            (out[0], out[2], out[3]),
            (0x20, 0, reason),
            "{name}: {}",
            hex(&out)
        );
        assert_eq!(peer.ending, Some(Ending::AfterFlush), "{name}");
    }
}

#[test]
fn nothing_behind_a_refused_connect_counts() {
    let mut world = World::new();
    for connect in [
        connect4("", false),
        connect5("a", true, &[&[&[0x15][..], &text("m")].concat()]),
    ] {
        let mut peer = world.open();
        let all = [connect, publish4(0, "x", 0, b"m"), vec![0xc0, 0]].concat();
        let out = world.receive(&mut peer, &all);
        assert_eq!(packets(&out).len(), 1, "{}", hex(&out));
        assert!(world.log.is_empty());
    }
}

#[test]
fn a_connack_says_what_differs_from_what_was_asked() {
    let mut world = World::new();
    world.limits.mqtt_keep_alive_s_max = 60;
    let options = MqttOptions {
        assigned_id: Some(ByteString::from_static("given")),
        ..world.options(Transport::Tcp)
    };
    let mut peer = world.open_with(options);
    let asks = connect_with(2, 0, &[&session_expiry(u32::MAX), &[0x19, 1]], "", &[]);
    let out = world.receive(&mut peer, &asks);
    let expect = [
        &[0x11, 0, 0, 3, 0xe8][..], // Session Expiry Interval: 1000
        &[0x27, 0, 2, 0x47, 0x10],  // Maximum Packet Size
        &[0x21, 0, 4, 0x22, 0, 2],  // Receive Maximum, Topic Alias Maximum
        &[0x13, 0, 60],             // Server Keep Alive
        &[0x12],
        &text("given"), // Assigned Client Identifier
        &[0x1a],
        &text("response/given"), // Response Information
    ]
    .concat();
    let expect = packet(0x20, &[&[0, 0, expect.len() as u8], &expect]);
    assert_eq!(hex(&out), hex(&expect));
    assert!(world.latest.contains_key("mqtt/given"));
}

#[test]
fn a_client_without_an_id_gets_one() {
    let mut world = World::new();
    let mut peer = world.open();
    let out = world.receive(&mut peer, &connect5("", true, &[]));
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("tidings-"), "{text}");
}

#[test]
fn a_session_lives_as_long_as_was_asked_and_permitted() {
    let after = |seconds| Some(Expiry::After(Duration::from_secs(seconds)));
    for (connect, expect) in [
        (connect4("a", true), None),
        (connect4("a", false), after(1_000)),
        (connect5("a", true, &[]), None),
        (connect5("a", false, &[]), None),
        (connect5("a", true, &[&session_expiry(7)]), after(7)),
        (connect5("a", true, &[&session_expiry(1_001)]), after(1_000)),
        (
            connect5("a", true, &[&session_expiry(u32::MAX)]),
            after(1_000),
        ),
    ] {
        let mut world = World::new();
        world.connect(&connect);
        let kept = world.durable.get("mqtt/a").map(|kept| kept.expiry);
        assert_eq!(kept, expect, "{}", hex(&connect));
    }
}

#[test]
fn a_session_is_present_when_it_was_kept() {
    let mut world = World::new();
    for (connect, expect) in [
        (connect4("a", false), "20 02 00 00"),
        (connect4("a", false), "20 02 01 00"),
        (connect4("b", false), "20 02 00 00"),
        (connect4("a", true), "20 02 00 00"),
        (connect4("a", false), "20 02 00 00"),
        (connect4("a", false), "20 02 01 00"),
    ] {
        let mut peer = world.open();
        assert_eq!(hex(&world.receive(&mut peer, &connect)), expect);
        world.close(peer);
    }
    let mut peer = world.open();
    let old = packet(0x10, &[&text("MQIsdp"), &[3, 0, 0, 0], &text("a")]);
    assert_eq!(
        hex(&world.receive(&mut peer, &old)),
        "20 02 00 00",
        "3.1 has no such flag"
    );
}

#[test]
fn a_session_that_is_resumed_to_end_with_its_connection_ends_with_it() {
    for crashes in [false, true] {
        let mut world = World::new();
        let peer = world.connect(&connect5("a", true, &[&session_expiry(60)]));
        world.close(peer);
        let mut peer = world.open();
        let out = world.receive(&mut peer, &connect5("a", false, &[]));
        assert_eq!(out[2], 1, "the session is present");
        if crashes {
            world.crash();
        } else {
            world.close(peer);
        }
        let mut peer = world.open();
        let out = world.receive(&mut peer, &connect5("a", false, &[]));
        assert_eq!(out[2], 0, "it had no expiry any more");
    }
}

#[test]
fn what_came_before_the_last_byte_counts() {
    let mut world = World::new();
    world.holds_saves = true;
    let rest = [text("w"), text("gone")].concat();
    let connect = packet(0x10, &[&text("MQTT"), &[4, 4, 0, 0], &text("a"), &rest]);
    let all = [connect, publish4(0, "x", 0, b"1"), vec![0xe0, 0]].concat();
    let mut peer = world.open();
    assert!(world.receive(&mut peer, &all).is_empty());
    world.event(&mut peer, Event::PeerFinished);
    assert_eq!(peer.ending, None, "it waits for the session");
    world.answer_held(&mut peer);
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
    assert_eq!(world.log.len(), 1);
    world.close(peer);
    assert!(world.latest["mqtt/a"].will.is_none(), "it said goodbye");
    // Half a packet is not waited for.
    let mut peer = world.connect(&connect4("b", true));
    world.receive(&mut peer, &[0x30, 9, 0]);
    world.event(&mut peer, Event::PeerFinished);
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_session_of_another_version_or_another_log_is_a_new_one() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, &[("x", 1)]));
    world.close(peer);
    let good = world.latest["mqtt/a"].state.clone();
    let mut odd = good.to_vec();
    odd[0] = 9;
    let mut elsewhere = good.to_vec();
    elsewhere[2] ^= 1;
    for (state, counted) in [(odd, true), (elsewhere, false)] {
        world.latest.get_mut("mqtt/a").unwrap().state = state.into();
        let mut peer = world.open();
        let out = world.receive(&mut peer, &connect4("a", false));
        assert_eq!(hex(&out), "20 02 00 00");
        let is_counted = peer.trace.iter().any(|line| line == "refused bad-version");
        assert_eq!(is_counted, counted);
        world.publish("x", b"1");
        world.deliver(&mut peer);
        assert!(peer.take().is_empty());
        world.close(peer);
    }
}

#[test]
fn subscriptions_that_are_not_permitted_any_more_end_the_session() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", false));
    world.receive(&mut peer, &subscribe4(1, &[("x", 1), ("y", 1)]));
    world.close(peer);
    world.forbidden = vec!["y"];
    let mut peer = world.open();
    let out = world.receive(&mut peer, &connect4("a", false));
    assert_eq!(hex(&out), "20 02 00 00");
}

#[test]
fn what_comes_with_the_connect_waits_for_the_session() {
    let mut world = World::new();
    world.holds_saves = true;
    let mut peer = world.open();
    let all = [
        connect4("a", false),
        subscribe4(1, &[("x", 0)]),
        publish4(0, "x", 0, b"1"),
        vec![0xc0, 0],
    ]
    .concat();
    assert!(world.receive(&mut peer, &all).is_empty());
    let out = hex(&world.answer_held(&mut peer));
    assert_eq!(out, "20 02 00 00 90 03 00 01 00 d0 00 30 04 00 01 78 31");
}

#[test]
fn every_split_of_the_input_gives_the_same_answers() {
    let all = [
        connect5("a", true, &[]),
        subscribe5(1, &[], &[("x", 1)]),
        publish5(2, "x", 9, &[], b"hello"),
        vec![0xc0, 0],
    ]
    .concat();
    let whole = {
        let mut world = World::new();
        let mut peer = world.open();
        world.receive(&mut peer, &all)
    };
    for at in 1..all.len() {
        let mut world = World::new();
        let mut peer = world.open();
        let mut out = world.receive(&mut peer, &all[..at]);
        out.extend(world.receive(&mut peer, &all[at..]));
        let mut sorted = (packets(&out), packets(&whole));
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1, "split at {at}");
    }
}

#[test]
fn a_connection_without_a_connect_ends_in_time() {
    let mut world = World::new();
    let mut peer = world.open();
    assert_eq!(
        peer.wake,
        Some(world.now.plus_ms(world.limits.handshake_ms_max))
    );
    world.receive(&mut peer, &[0x10]);
    world.tick(&mut peer, 10_000);
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_silent_client_is_disconnected_after_one_and_a_half_keep_alives() {
    for (connect, goodbye) in [
        (connect_with(2, 10, &[], "a", &[]), 0x8d),
        (
            packet(0x10, &[&text("MQTT"), &[4, 2, 0, 10], &text("a")]),
            0,
        ),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        world.tick(&mut peer, 14_999);
        assert_eq!(peer.ending, None);
        assert_eq!(hex(&world.receive(&mut peer, &[0xc0, 0])), "d0 00");
        world.tick(&mut peer, 14_999);
        assert_eq!(peer.ending, None);
        let out = world.tick(&mut peer, 1);
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
        let reason = out.get(2).copied().unwrap_or(0);
        assert_eq!(reason, goodbye);
    }
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    assert_eq!(
        peer.wake.filter(|wake| *wake > world.now.plus_ms(10_000)),
        None
    );
    world.tick(&mut peer, 100_000_000);
    assert_eq!(peer.ending, None, "a keep alive of 0 is off");
}

#[test]
fn a_will_is_kept_until_a_goodbye() {
    let rest = |delay: u32| {
        let delay = [&[0x18][..], &delay.to_be_bytes()].concat();
        [properties(&[&delay]), text("w"), text("gone")].concat()
    };
    let connect = connect_with(0x2e, 0, &[&session_expiry(60)], "a", &rest(5));
    for (last, expect) in [
        (vec![0xe0, 0], false),
        (vec![0xe0, 1, 0], false),
        (vec![0xe0, 1, 4], true),
        (vec![0xe0, 1, 0x81], true),
        (vec![], true),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        let will = world.durable["mqtt/a"]
            .will
            .clone()
            .expect("it is durable before the CONNACK");
        assert_eq!(will.delay, Duration::from_secs(5));
        assert_eq!(will.draft.topic.as_str(), "w");
        assert_eq!(will.draft.payload, "gone");
        assert_eq!(will.draft.qos, tidings_types::Qos::AtLeastOnce);
        assert!(will.draft.retain);
        world.receive(&mut peer, &last);
        world.close(peer);
        assert_eq!(
            world.latest["mqtt/a"].will.is_some(),
            expect,
            "{}",
            hex(&last)
        );
    }
}

#[test]
fn a_will_of_a_session_that_is_not_kept_is_saved_too() {
    let mut world = World::new();
    let rest = [text("w"), text("gone")].concat();
    let connect = packet(0x10, &[&text("MQTT"), &[4, 6, 0, 0], &text("a"), &rest]);
    let peer = world.connect(&connect);
    let kept = world.latest["mqtt/a"].clone();
    assert_eq!(kept.expiry, Expiry::WithConnection);
    assert!(kept.will.is_some() && kept.state.is_empty());
    drop(peer);
}

#[test]
fn a_goodbye_may_change_the_expiry_but_not_from_nothing() {
    let goodbye = |seconds| packet(0xe0, &[&[0], &properties(&[&session_expiry(seconds)])]);
    let mut world = World::new();
    let mut peer = world.connect(&connect5("a", true, &[&session_expiry(10)]));
    world.receive(&mut peer, &goodbye(20));
    world.close(peer);
    let expect = Expiry::After(Duration::from_secs(20));
    assert_eq!(world.latest["mqtt/a"].expiry, expect);
    let mut peer = world.connect(&connect5("a", false, &[&session_expiry(10)]));
    world.receive(&mut peer, &goodbye(0));
    world.close(peer);
    assert!(!world.latest.contains_key("mqtt/a"));
    let mut peer = world.connect(&connect5("a", false, &[]));
    let out = world.receive(&mut peer, &goodbye(1));
    assert_eq!((out[0], out[2]), (0xe0, 0x82));
}

#[test]
fn a_session_that_is_taken_over_is_saved_and_told() {
    for (connect, reason) in [
        (connect5("a", true, &[&session_expiry(9)]), Some(0x8e)),
        (connect4("a", false), None),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect);
        let out = world.event(&mut peer, Event::TakenOver);
        assert_eq!(out.get(2).copied(), reason);
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
        let saved = world.latest["mqtt/a"].state.clone();
        world.latest.clear();
        world.close(peer);
        assert!(
            world.latest.is_empty(),
            "the new connection's state is not overwritten"
        );
        assert_eq!(saved[1] & 1, 1, "nothing was sent after it");
    }
}

#[test]
fn a_drain_says_where_to_go() {
    let refusal = || Refusal::new(RefusalCode::ShuttingDown, "bye");
    let drain = |refusal| Event::Drain {
        reconnect_after: Duration::from_millis(1_500),
        refusal,
    };
    for (reference, refusal, reason) in [
        (None, refusal(), 0x8b),
        (Some("other:1883"), refusal(), 0x9c),
        (
            Some("other:1883"),
            Refusal::new(RefusalCode::Silent, "stalled"),
            0x8d,
        ),
    ] {
        let mut world = World::new();
        let options = MqttOptions {
            server_reference: reference.map(|it| Arc::new(ByteString::from_static(it))),
            ..world.options(Transport::Tcp)
        };
        let mut peer = world.open_with(options);
        world.receive(&mut peer, &connect5("a", true, &[]));
        let out = world.event(&mut peer, drain(refusal));
        assert_eq!((out[0], out[2]), (0xe0, reason));
        let said = String::from_utf8_lossy(&out);
        assert!(said.contains("reconnect in 1500 ms"));
        assert_eq!(said.contains("other:1883"), reason == 0x9c);
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
    }
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    assert!(world.event(&mut peer, drain(refusal())).is_empty());
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_broken_rule_ends_the_connection_with_its_reason() {
    for (bytes, reason) in [
        (vec![0xc1, 0], 0x81),
        (connect5("a", true, &[]), 0x82),
        (vec![0xf0, 6, 0x18, 4, 0x15, 0, 1, b'm'], 0x82),
        (publish5(0, "", 0, &[&[0x23, 0, 3]], b""), 0x94),
        (publish5(0, "", 0, &[&[0x23, 0, 1]], b""), 0x82),
        (publish5(0, "a", 0, &[&[0x23, 0, 3]], b""), 0x94),
        (vec![0x30, 0xff, 0xff, 0x7f], 0x95),
    ] {
        let mut world = World::new();
        let mut peer = world.connect(&connect5("a", true, &[]));
        let out = world.receive(&mut peer, &bytes);
        assert_eq!((out[0], out[2]), (0xe0, reason), "{}", hex(&bytes));
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
        assert!(peer.trace.iter().any(|line| line.starts_with("refused")));
    }
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    assert!(world.receive(&mut peer, &[0xc1, 0]).is_empty());
    assert_eq!(peer.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_broken_rule_is_explained_to_a_client_that_takes_the_sentence() {
    let terse: &[u8] = &[0x17, 0];
    let small: &[u8] = &[0x27, 0, 0, 0, 20];
    for (bytes, sentence) in [
        (subscribe5(1, &[], &[("a#", 0)]), "as in `a/#`"),
        (subscribe5(1, &[], &[("a+", 0)]), "as in `a/+/b`"),
        (
            subscribe5(1, &[], &[("$share/g", 0)]),
            "`$share/name/filter`",
        ),
        (publish5(0, "a#", 0, &[], b""), "by its full name"),
        (publish5(0, "", 0, &[], b""), "name the topic to publish to"),
        (vec![0x30, 0xff, 0xff, 0x7f], "maximum packet size"),
    ] {
        // MQTT-3.1.2-29 leaves the sentence to the server here.
        for properties in [&[][..], &[terse]] {
            let mut world = World::new();
            let mut peer = world.connect(&connect5("a", true, properties));
            let out = world.receive(&mut peer, &bytes);
            assert_eq!((out[0], out[4]), (0xe0, 0x1f), "{}", hex(&out));
            let said = String::from_utf8_lossy(&out);
            assert!(said.contains(sentence), "{said}");
        }
        let mut world = World::new();
        let mut peer = world.connect(&connect5("a", true, &[small]));
        let out = world.receive(&mut peer, &bytes);
        assert_eq!((out[0], out[1], out.len()), (0xe0, 1, 3), "{}", hex(&out));
    }
}

#[test]
fn the_first_packet_says_where_a_connection_belongs() {
    let session = |name: &str| FirstPacket::Session(session_name(name));
    let connect = connect4("device", true);
    for (input, expect) in [
        (&connect[..], session("device")),
        (&[&connect[..], b"more"].concat(), session("device")),
        (&connect5("x", false, &[]), session("x")),
        (&connect5("", false, &[]), FirstPacket::Anonymous),
        (&connect4("", true), FirstPacket::Anonymous),
        (&connect4("", false), FirstPacket::Refused),
        (b"", FirstPacket::Incomplete),
        (&connect[..1], FirstPacket::Incomplete),
        (&connect[..2], FirstPacket::Incomplete),
        (&connect[..connect.len() - 1], FirstPacket::Incomplete),
        (b"GET / HTTP/1.1", FirstPacket::Refused),
        (b"\x10\xff\xff\x7f", FirstPacket::Refused),
        (b"\x10\xff\xff\xff\xff\x01", FirstPacket::Refused),
    ] {
        assert_eq!(
            first_packet(input, Transport::Tcp),
            expect,
            "{}",
            hex(input)
        );
    }
}

#[test]
fn an_idle_client_costs_little() {
    let session = size_of::<session::Session>();
    let conversation = size_of::<MqttConversation>();
    assert!(session <= 224, "{session}");
    assert!(conversation <= 128, "{conversation}");
}

#[test]
fn what_is_finished_takes_no_memory() {
    let mut world = World::new();
    let mut peer = world.connect(&connect4("a", true));
    let allocated = |peer: &Peer| {
        let session = peer.conversation.session.as_ref();
        let session = session.expect("the session is open");
        (
            session.unfinished.is_allocated(),
            session.window.is_allocated(),
        )
    };
    assert_eq!(allocated(&peer), (false, false), "after the CONNECT");
    world.receive(&mut peer, &subscribe4(1, &[("x", 1)]));
    assert_eq!(allocated(&peer), (false, false), "after the SUBSCRIBE");
    world.receive(&mut peer, &publish4(2, "x", 1, b"m"));
    world.deliver(&mut peer);
    assert_eq!(allocated(&peer), (true, true), "with traffic");
    world.receive(&mut peer, &ack(0x40, 1));
    world.receive(&mut peer, &[0xc0, 0]);
    assert_eq!(allocated(&peer), (false, false), "after the next PINGREQ");
}
