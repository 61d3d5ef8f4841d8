//! What a subscriber keeps of its session: it receives as MQTT 5, 4.3 says, over any number of connections.

use std::collections::HashSet;
use std::io;

use super::{Client, Packet, Publish, kind};

/// The receiving side of a session.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Packet ids of QoS 2 that came and were not released yet: a second PUBLISH with such an id is the first.
    unreleased: HashSet<u16>,
    /// Every message once it is the application's: at QoS 2 exactly those that were not received before.
    pub delivered: Vec<Publish>,
}

impl Inbox {
    /// Takes one packet and answers it. Nothing else than deliveries may come.
    pub fn take(&mut self, client: &mut Client, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::Publish(publish) => {
                let (qos, id) = (publish.qos, publish.id);
                self.receive(publish);
                match qos {
                    0 => Ok(()),
                    1 => client.try_acknowledge(kind::PUBACK, id),
                    _ => client.try_acknowledge(kind::PUBREC, id),
                }
            }
            Packet::Answer(answer) if answer.kind == kind::PUBREL => {
                self.unreleased.remove(&answer.id);
                client.try_acknowledge(kind::PUBCOMP, answer.id)
            }
            Packet::Answer(answer) => Err(io::Error::other(format!("not asked for: {answer:?}"))),
        }
    }

    /// Receives a message without a word about it.
    pub fn receive(&mut self, publish: Publish) {
        if publish.qos < 2 || self.unreleased.insert(publish.id) {
            self.delivered.push(publish);
        }
    }

    /// Takes packets until this text was delivered and every message is released.
    #[track_caller]
    pub fn until(&mut self, client: &mut Client, text: &str) {
        let done = |inbox: &Self| {
            let last = inbox.delivered.last();
            last.is_some_and(|last| last.payload == text.as_bytes()) && inbox.unreleased.is_empty()
        };
        while !done(self) {
            let taken = client
                .try_packet()
                .and_then(|packet| self.take(client, packet));
            if let Err(error) = taken {
                panic!("`{text}` does not come ({error}): {:?}", self.texts());
            }
        }
    }

    /// Takes packets until there is a message, and removes it.
    #[track_caller]
    pub fn next(&mut self, client: &mut Client) -> Publish {
        while self.delivered.is_empty() {
            let taken = client
                .try_packet()
                .and_then(|packet| self.take(client, packet));
            if let Err(error) = taken {
                panic!("no message comes: {error}");
            }
        }
        self.delivered.remove(0)
    }

    /// The texts of what was delivered.
    pub fn texts(&self) -> Vec<String> {
        self.delivered.iter().map(Publish::text).collect()
    }
}
