//! Clients that keep to the rules, connections that break and servers that stop anywhere: a message of `QoS` 2 arrives
//! once, one of `QoS` 1 at least once, both in order.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::testing::*;

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A client publishes, at this level.
    Publish(u8),
    /// Somebody else publishes, for this level.
    Append(u8),
    /// A client reads so many of the packets that were sent to it, and answers.
    Read(usize, u8),
    /// A connection breaks; what was sent and not read is lost.
    Break(usize),
    /// The server stops; of what was saved without a tag some is there.
    Crash(u8),
    /// The server stops when the state of a publish is saved and the message is not.
    CrashWithin,
    /// A client comes back.
    Connect(usize),
    /// Time passes.
    Tick(usize),
    /// Answers come late from now on.
    Hold(bool, bool),
    /// What was held is answered.
    Answer(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..=2).prop_map(Step::Publish),
        3 => (1u8..=2).prop_map(Step::Append),
        8 => (0usize..2, 1u8..5).prop_map(|(who, count)| Step::Read(who, count)),
        2 => (0usize..2).prop_map(Step::Break),
        1 => (0u8..4).prop_map(Step::Crash),
        1 => Just(Step::CrashWithin),
        5 => (0usize..2).prop_map(Step::Connect),
        1 => (0usize..2).prop_map(Step::Tick),
        1 => any::<(bool, bool)>().prop_map(|(saves, publishes)| Step::Hold(saves, publishes)),
        2 => (0usize..2).prop_map(Step::Answer),
    ]
}

struct Sending {
    id: u16,
    level: u8,
    text: String,
    is_released: bool,
}

/// A client that keeps to the rules, with what it keeps itself.
struct Client {
    name: &'static str,
    peer: Option<Peer>,
    /// Sent by the server, not read yet.
    unread: VecDeque<(u8, Vec<u8>)>,
    sending: VecDeque<Sending>,
    last_id: u16,
    known: HashSet<u16>,
    got: Vec<String>,
}

impl Client {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            peer: None,
            unread: VecDeque::new(),
            sending: VecDeque::new(),
            last_id: 0,
            known: HashSet::new(),
            got: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.unread.extend(packets(bytes));
    }

    fn send(&mut self, world: &mut World, bytes: &[u8]) {
        if let Some(peer) = &mut self.peer {
            let out = world.receive(peer, bytes);
            assert_eq!(
                peer.ending, None,
                "{}: a good client is not thrown out",
                self.name
            );
            self.take(&out);
        }
    }

    fn connect(&mut self, world: &mut World) {
        if self.peer.is_some() {
            return;
        }
        let mut peer = world.open();
        let out = world.receive(&mut peer, &connect4(self.name, false));
        self.peer = Some(peer);
        self.take(&out);
        // MQTT-4.4.0-1, for clients.
        let again: Vec<u8> = self.sending.iter().flat_map(Sending::again).collect();
        self.send(world, &again);
    }

    fn publish(&mut self, world: &mut World, level: u8, text: String) {
        if self.peer.is_none() || self.sending.len() >= 3 {
            return;
        }
        self.last_id = self.last_id % 5 + 1;
        while self.sending.iter().any(|it| it.id == self.last_id) {
            self.last_id = self.last_id % 5 + 1;
        }
        let sending = Sending {
            id: self.last_id,
            level,
            text,
            is_released: false,
        };
        let first = publish4(
            level << 1,
            topic(level),
            sending.id,
            sending.text.as_bytes(),
        );
        self.sending.push_back(sending);
        self.send(world, &first);
    }

    /// Reads a packet and answers it.
    fn read(&mut self, world: &mut World) {
        let Some((first, body)) = self.unread.pop_front() else {
            return;
        };
        let id = body
            .get(..2)
            .map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
        match first & 0xf0 {
            0x30 => {
                let whole = packet(first, &[&body]);
                let message = publishes(&whole, false).remove(0);
                let text = String::from_utf8(message.payload).unwrap();
                if first & 6 == 2 {
                    self.got.push(text);
                    return self.send(world, &ack(PUBACK, message.id));
                }
                if self.known.insert(message.id) {
                    self.got.push(text);
                }
                self.send(world, &ack(PUBREC, message.id));
            }
            0x40 | 0x70 => self.sending.retain(|it| it.id != id),
            0x50 => {
                for it in self.sending.iter_mut().filter(|it| it.id == id) {
                    it.is_released = true;
                }
                self.send(world, &ack(PUBREL, id));
            }
            0x60 => {
                self.known.remove(&id);
                self.send(world, &ack(PUBCOMP, id));
            }
            _ => {}
        }
    }
}

impl Sending {
    fn again(&self) -> Vec<u8> {
        if self.is_released {
            return ack(PUBREL, self.id);
        }
        publish4(
            8 | self.level << 1,
            topic(self.level),
            self.id,
            self.text.as_bytes(),
        )
    }
}

fn topic(level: u8) -> &'static str {
    if level == 1 { "q/1" } else { "q/2" }
}

struct Run {
    world: World,
    clients: [Client; 2],
    count: u32,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        world.limits.mqtt_window_max = 3;
        let mut clients = [Client::new("publisher"), Client::new("subscriber")];
        clients[0].connect(&mut world);
        clients[1].connect(&mut world);
        clients[1].send(&mut world, &subscribe4(1, &[("q/1", 1), ("q/2", 2)]));
        clients[1].unread.clear();
        Self {
            world,
            clients,
            count: 0,
        }
    }

    fn text(&mut self, level: u8) -> String {
        self.count += 1;
        format!("{level}:{}", self.count)
    }

    fn crash(&mut self) {
        for client in &mut self.clients {
            client.peer = None;
            client.unread.clear();
        }
        (self.world.holds_saves, self.world.holds_publishes) = (false, false);
        self.world.crash();
    }

    fn deliver(&mut self) {
        for client in &mut self.clients {
            if let Some(peer) = &mut client.peer {
                self.world.deliver(peer);
                let out = peer.take();
                client.take(&out);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(level) => {
                let text = self.text(level);
                self.clients[0].publish(&mut self.world, level, text);
            }
            Step::Append(level) => {
                let text = self.text(level);
                self.world.publish(topic(level), text.as_bytes());
            }
            Step::Read(who, count) => {
                for _ in 0..count {
                    self.clients[who].read(&mut self.world);
                }
            }
            Step::Break(who) => {
                let client = &mut self.clients[who];
                client.unread.clear();
                if let Some(peer) = client.peer.take() {
                    self.world.close(peer);
                }
            }
            Step::Crash(mask) => {
                self.world.save_some(mask);
                self.crash();
            }
            Step::CrashWithin => {
                self.world.stops_before_commit = true;
                let text = self.text(2);
                self.clients[0].publish(&mut self.world, 2, text);
                self.world.stops_before_commit = false;
                self.crash();
            }
            Step::Connect(who) => self.clients[who].connect(&mut self.world),
            Step::Tick(who) => {
                let client = &mut self.clients[who];
                if let Some(peer) = &mut client.peer {
                    let out = self.world.tick(peer, 250);
                    client.take(&out);
                }
            }
            Step::Hold(saves, publishes) => {
                (self.world.holds_saves, self.world.holds_publishes) = (saves, publishes);
            }
            Step::Answer(who) => {
                let client = &mut self.clients[who];
                if let Some(peer) = &mut client.peer {
                    let out = self.world.answer_held(peer);
                    client.take(&out);
                }
            }
        }
        self.deliver();
    }

    /// Lets everything come to rest.
    fn finish(&mut self) {
        for _ in 0..400 {
            for who in 0..2 {
                for step in [
                    Step::Answer(who),
                    Step::Connect(who),
                    Step::Read(who, 9),
                    Step::Tick(who),
                ] {
                    self.step(step);
                }
            }
        }
        assert!(
            self.clients[0].sending.is_empty(),
            "everything is acknowledged"
        );
    }

    fn check(&self) {
        let texts = self.world.log.iter();
        let log: Vec<String> = texts
            .map(|it| String::from_utf8(it.payload.to_vec()).unwrap())
            .collect();
        let of = |list: &[String], level: &str| -> Vec<String> {
            list.iter()
                .filter(|it| it.starts_with(level))
                .cloned()
                .collect()
        };
        let once = |list: Vec<String>| {
            let mut seen = HashSet::new();
            let first = list.into_iter().filter(|it| seen.insert(it.clone()));
            first.collect::<Vec<String>>()
        };
        let got = &self.clients[1].got;
        let log2 = of(&log, "2:");
        assert_eq!(log2, once(log2.clone()), "published once");
        assert_eq!(of(got, "2:"), log2, "delivered once, in order");
        assert_eq!(
            once(of(got, "1:")),
            once(of(&log, "1:")),
            "delivered, in order"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_breaks_each_message_arrives_as_its_level_promises(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.finish();
        run.check();
    }
}
