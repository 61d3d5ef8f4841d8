//! A conversation that works on a queue: it passes on what it gets, and what its peer says of it.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Event, Expiry, Framed, Framing, Group, Start,
    SubscriptionKey, Tag, Turn, Until,
};
use tidings_types::{Offset, Protocol, TopicFilter};

use super::peer::RECORD_BYTES;
use super::session::Line;

const KEY: SubscriptionKey = SubscriptionKey(0);

pub struct WorkerConversation {
    name: ByteString,
    filter: TopicFilter,
    start: Start,
    prefetch: u32,
    /// Whether it takes nothing for now.
    is_full: bool,
    held: Vec<Line>,
}

impl WorkerConversation {
    pub fn new(name: ByteString, filter: TopicFilter, start: Start, prefetch: u32) -> Self {
        Self {
            name,
            filter,
            start,
            prefetch,
            is_full: false,
            held: Vec::new(),
        }
    }
}

impl Conversation for WorkerConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Tidings
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        turn.commands.push(Command::Subscribe {
            tag: Tag(0),
            key: KEY,
            filters: vec![self.filter.clone()],
            start: self.start.clone(),
            framing: Framing::Own,
            echo: true,
            until: Until::Ended,
            group: Some(Group {
                name: self.name.clone(),
                prefetch: self.prefetch,
                expiry: Expiry::Never,
            }),
        });
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        while input.len() >= RECORD_BYTES {
            let Line(kind, offset, ..) = Line::parse(&input.split_to(RECORD_BYTES));
            let offset = Offset(offset);
            match kind {
                b'A' => turn.commands.push(Command::Ack { key: KEY, offset }),
                b'N' => turn.commands.push(Command::Nack { key: KEY, offset }),
                b'F' => self.is_full = true,
                b'U' => {
                    self.is_full = false;
                    turn.commands.push(Command::Unblock(KEY));
                }
                other => panic!("the stream is out of step: {other}"),
            }
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Subscribed { cursor, .. } => {
                turn.frames.push(Line(b'S', cursor.offset.0, 0, 0).bytes());
            }
            Event::Held => turn.frames.extend(self.held.drain(..).map(Line::bytes)),
            Event::Refused { .. } | Event::Lost { .. } => turn.ending = Some(Ending::AtOnce),
            _ => {}
        }
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        if self.is_full {
            return Framed::Full;
        }
        let message = delivery.message;
        let id = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
        let line = Line(b'Q', message.offset.0, id, u64::from(delivery.redelivered));
        if id.is_multiple_of(4) || !self.held.is_empty() {
            self.held.push(line);
            return Framed::Held;
        }
        frames.push(line.bytes());
        Framed::Put
    }
}
