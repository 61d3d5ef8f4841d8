//! Clients that keep to no rule but the form of packets: nothing panics, nothing grows, and the end is an orderly one.

use std::time::Duration;

use proptest::prelude::*;
use tidings_ports::Event;
use tidings_types::{Qos, Refusal, RefusalCode};

use super::testing::*;

#[derive(Clone, Debug)]
enum Act {
    /// One of the packets below, with a packet identifier.
    Send(usize, u16),
    /// Somebody else publishes.
    Publish(usize, bool),
    Tick(u64),
    Hold(bool, bool),
    Answer,
    /// The connection ends, by whomever, and the client comes back.
    Again(u8),
    Crash,
    Forbid(bool),
    Refuse(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (0usize..24, 1u16..5).prop_map(|(which, id)| Act::Send(which, id)),
        4 => (0usize..4, any::<bool>()).prop_map(|(topic, retain)| Act::Publish(topic, retain)),
        1 => (0u64..40_000).prop_map(Act::Tick),
        1 => any::<(bool, bool)>().prop_map(|(saves, publishes)| Act::Hold(saves, publishes)),
        2 => Just(Act::Answer),
        1 => (0u8..6).prop_map(Act::Again),
        1 => Just(Act::Crash),
        1 => any::<bool>().prop_map(Act::Forbid),
        1 => any::<bool>().prop_map(Act::Refuse),
    ]
}

const TOPICS: [&str; 4] = ["a", "a/b", "no", "topic/long"];

fn bytes(which: usize, id: u16) -> Vec<u8> {
    let at = id.to_be_bytes();
    match which {
        0 => publish5(0, "a", 0, &[], b"0"),
        1 => publish5(2, "a/b", id, &[], b"1"),
        2 => publish5(4, "a", id, &[], b"2"),
        3 => publish5(0x0d, "a", id, &[], b"2"),
        4 => publish5(4, "no", id, &[], b"2"),
        5 => publish5(3, "topic/long", id, &[&[0x23, 0, 1]], b""),
        6 => publish5(2, "", id, &[&[0x23, 0, 1]], b"alias"),
        7 => ack(0x40, id),
        8 => ack(0x50, id),
        9 => packet(0x50, &[&at, &[0x80]]),
        10 => ack(0x62, id),
        11 => ack(0x70, id),
        12 => subscribe5(id, &[], &[("a/#", 2), ("no", 1), ("a", 0x10)]),
        13 => subscribe5(id, &[&[0x0b, 3]], &[("+", 0x0d), ("topic/+", 1)]),
        14 => subscribe5(
            id,
            &[&user("tidings-after", "earliest")],
            &[("a", 1), ("#", 0)],
        ),
        15 => subscribe5(id, &[&user("tidings-after", "last:2")], &[("a/b", 2)]),
        16 => subscribe5(
            id,
            &[],
            &[("$share/g/a", 1), ("$share/g/a", 2), ("$share/h/no", 0)],
        ),
        17 => subscribe5(id, &[], &[("a", 0), ("a", 1), ("a", 2)]),
        18 => packet(
            0xa2,
            &[&at, &[0], &text("a/#"), &text("$share/g/a"), &text("a")],
        ),
        19 => packet(0xa2, &[&at, &[0], &text("#"), &text("+"), &text("topic/+")]),
        20 => vec![0xc0, 0],
        21 => vec![0xe0, 0],
        22 => packet(0xe0, &[&[4], &properties(&[&session_expiry(50)])]),
        _ => vec![0xc1, 0],
    }
}

struct Chaos {
    world: World,
    peer: Option<Peer>,
    serial: u8,
}

impl Chaos {
    fn connect(&mut self, how: u8) {
        let expiry = session_expiry(if how & 1 == 0 { 100 } else { 0 });
        let few = [&[0x21, 0, 2][..], &[0x22, 0, 9]].concat();
        let small = [0x27, 0, 0, 0, 60];
        let props: &[&[u8]] = match how % 3 {
            0 => &[&expiry],
            1 => &[&expiry, &few],
            _ => &[&expiry, &small],
        };
        self.serial = self.serial.wrapping_add(1);
        let mut peer = self.world.open();
        self.world
            .receive(&mut peer, &connect5("chaos", how > 4, props));
        self.peer = Some(peer);
    }

    fn act(&mut self, act: &Act) {
        let Some(peer) = &mut self.peer else {
            return;
        };
        let world = &mut self.world;
        match act {
            Act::Send(which, id) => {
                world.receive(peer, &bytes(*which, *id));
            }
            Act::Publish(topic, retain) => {
                world.append(draft_of(TOPICS[*topic], "m", Qos::default(), *retain));
                world.deliver(peer);
            }
            Act::Tick(ms) => {
                if peer.ending.is_none() {
                    world.tick(peer, *ms);
                }
            }
            Act::Hold(saves, publishes) => {
                (world.holds_saves, world.holds_publishes) = (*saves, *publishes);
            }
            Act::Answer => {
                world.answer_held(peer);
            }
            Act::Again(how) => self.again(*how),
            Act::Crash => {
                self.peer = None;
                self.world.crash();
                (self.world.holds_saves, self.world.holds_publishes) = (false, false);
                self.connect(0);
            }
            Act::Forbid(yes) => world.forbidden = if *yes { vec!["no", "a"] } else { vec![] },
            Act::Refuse(yes) => world.refuses = yes.then_some(RefusalCode::Busy),
        }
    }

    fn again(&mut self, how: u8) {
        if let Some(mut peer) = self.peer.take() {
            let event = match how {
                0 => Event::TakenOver,
                1 => Event::PeerFinished,
                2 => Event::Drain {
                    reconnect_after: Duration::from_secs(1),
                    refusal: Refusal::new(RefusalCode::ShuttingDown, "bye"),
                },
                _ => Event::Held,
            };
            self.world.event(&mut peer, event);
            self.world.close(peer);
        }
        (self.world.holds_saves, self.world.holds_publishes) = (false, false);
        self.connect(how);
    }

    fn check(&self) {
        let session = self
            .peer
            .as_ref()
            .and_then(|it| it.conversation.session.as_deref());
        let Some(session) = session else {
            return;
        };
        assert!(session.window.in_flight() <= session.window.len());
        assert!(session.window.len() <= 2 * self.world.limits.mqtt_window_max);
        assert!(session.unfinished.acks.len() <= 3 * self.world.limits.publishes_in_flight_max);
        assert!(session.filters.len() <= self.world.limits.filters_per_subscription_max);
        assert!(session.unfinished.inbound.len() <= 8 && session.unfinished.catch_ups.len() <= 64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_client_sends_nothing_breaks_and_nothing_grows(
        acts in proptest::collection::vec(act(), 0..80),
    ) {
        let mut chaos = Chaos { world: World::new(), peer: None, serial: 0 };
        chaos.connect(0);
        for act in &acts {
            chaos.act(act);
            chaos.check();
            let has_ended = chaos.peer.as_ref().is_some_and(|it| it.ending.is_some());
            if has_ended {
                chaos.again(3);
            }
        }
        // A good client with the same session is served as if nothing had been.
        chaos.again(1);
        chaos.world.forbidden.clear();
        chaos.world.refuses = None;
        chaos.again(5);
        let peer = chaos.peer.as_mut().unwrap();
        let out = chaos.world.receive(peer, &subscribe5(1, &[], &[("last", 0x21)]));
        prop_assert_eq!(out.first(), Some(&0x90));
        chaos.world.publish("last", b"word");
        chaos.world.deliver(peer);
        let out = shown(&peer.take(), true);
        prop_assert!(out.iter().any(|it| it.ends_with(" word")), "{:?}", out);
    }
}
