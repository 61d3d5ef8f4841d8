//! A conversation that works on queues: it passes on what it gets, and what its peer says of it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Event, Expiry, Framed, Framing, Group, Settle, Start,
    SubscriptionKey, Tag, Turn, Until, Verdict,
};
use tidings_types::{Draft, Offset, Protocol, RefusalCode, Topic, TopicFilter};

use super::peer::RECORD_BYTES;
use super::session::Line;

/// Where a transaction publishes.
pub const OUTPUT_TOPIC: &str = "out/x";
/// Smaller tags are those of subscribing.
pub const FIRST_TAG: u64 = 100;
/// Why a command was refused, as a number.
pub const NOT_YOURS: u64 = 1;

/// A queue that a worker takes part in: its number is the subscription's key.
pub struct Part {
    pub queue: u32,
    pub name: ByteString,
    pub filter: TopicFilter,
    pub expiry: Expiry,
}

/// How a worker takes part.
pub struct Manner {
    pub parts: Vec<Part>,
    pub start: Start,
    pub prefetch: u32,
    pub ack_timeout: Option<Duration>,
    /// No message that comes now was given to it by its queue before this, in milliseconds.
    pub given_since: Rc<Cell<u64>>,
}

pub struct WorkerConversation {
    manner: Manner,
    /// Whether it takes nothing for now.
    is_full: bool,
    held: Vec<Line>,
    /// Of the transaction that is being put together.
    steps: Vec<Settle>,
}

impl WorkerConversation {
    pub fn new(manner: Manner) -> Self {
        Self {
            manner,
            is_full: false,
            held: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn take(&mut self, Line(kind, a, b, c): Line, turn: &mut Turn<'_>) {
        match kind {
            b'A' | b'N' | b'R' => turn.commands.push(Command::Settle {
                tag: (b > 0).then_some(Tag(b)),
                settle: settle(kind, a, c),
            }),
            b'a' | b'n' | b'r' => self.steps.push(settle(kind.to_ascii_uppercase(), a, c)),
            b'P' => {
                let topic = Topic::new(OUTPUT_TOPIC).unwrap();
                let payload = Bytes::copy_from_slice(&b.to_be_bytes());
                turn.commands.push(Command::Publish {
                    tag: Tag(a),
                    drafts: vec![Draft::new(topic, payload)],
                    save: None,
                    settle: std::mem::take(&mut self.steps),
                });
            }
            b'L' => turn.commands.push(Command::Unsubscribe {
                tag: Tag(0),
                key: key(a),
                forget: b > 0,
            }),
            b'F' => self.is_full = true,
            b'U' => {
                self.is_full = false;
                let keys = self.manner.parts.iter().map(|part| part.queue);
                let keys = keys.map(|queue| Command::Unblock(SubscriptionKey(queue)));
                turn.commands.extend(keys);
            }
            other => panic!("the stream is out of step: {other}"),
        }
    }
}

impl Conversation for WorkerConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Tidings
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        for part in &self.manner.parts {
            turn.commands.push(Command::Subscribe {
                tag: Tag(u64::from(part.queue)),
                key: SubscriptionKey(part.queue),
                filters: vec![part.filter.clone()],
                start: self.manner.start.clone(),
                framing: Framing::Own,
                echo: true,
                until: Until::Ended,
                group: Some(Group {
                    name: part.name.clone(),
                    prefetch: self.manner.prefetch,
                    expiry: part.expiry,
                    ack_timeout: self.manner.ack_timeout,
                }),
            });
        }
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        while input.len() >= RECORD_BYTES {
            let line = Line::parse(&input.split_to(RECORD_BYTES));
            self.take(line, turn);
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        let line = match event {
            Event::Subscribed { cursor, key, .. } => {
                Line(b'S', cursor.offset.0, u64::from(key.0), 0)
            }
            Event::Settled { tag } => Line(b'T', tag.0, 0, 0),
            Event::Published { tag, receipts } => Line(b'P', tag.0, receipts[0].cursor.offset.0, 0),
            Event::Refused { tag, refusal } if tag.0 >= FIRST_TAG => {
                let reason = u64::from(refusal.code == RefusalCode::NotYours);
                Line(b'E', tag.0, reason * NOT_YOURS, 0)
            }
            Event::Held => {
                turn.frames.extend(self.held.drain(..).map(Line::bytes));
                return;
            }
            Event::Refused { .. } | Event::Lost { .. } => {
                turn.ending = Some(Ending::AtOnce);
                return;
            }
            _ => return,
        };
        turn.frames.push(line.bytes());
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        if self.is_full {
            return Framed::Full;
        }
        let message = delivery.message;
        let id = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
        let given = Given {
            count: u64::from(delivery.redelivered),
            queue: u64::from(delivery.key.0),
            since: self.manner.given_since.get(),
        };
        let line = Line(b'Q', message.offset.0, id, given.pack());
        if id.is_multiple_of(4) || !self.held.is_empty() {
            self.held.push(line);
            return Framed::Held;
        }
        frames.push(line.bytes());
        Framed::Put
    }
}

/// What a worker is told of a message besides the message.
pub struct Given {
    /// How often it was delivered before.
    pub count: u64,
    pub queue: u64,
    pub since: u64,
}

impl Given {
    fn pack(&self) -> u64 {
        self.count << 40 | self.queue << 36 | self.since
    }

    pub fn unpack(number: u64) -> Self {
        Self {
            count: number >> 40,
            queue: number >> 36 & 0xf,
            since: number & ((1 << 36) - 1),
        }
    }
}

fn key(queue: u64) -> SubscriptionKey {
    SubscriptionKey(queue as u32)
}

fn settle(kind: u8, offset: u64, queue: u64) -> Settle {
    Settle {
        key: key(queue),
        offset: Offset(offset),
        verdict: match kind {
            b'A' => Verdict::Ack,
            b'N' => Verdict::Nack,
            _ => Verdict::Reject,
        },
    }
}
