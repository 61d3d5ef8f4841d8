//! A conversation with a session, as a broker's is: a window of unacknowledged messages, each kept before it is
//! sent, and filters that come and go.

use std::collections::{BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Event, Expiry, Framed, Framing, SessionSave, Start,
    SubscriptionKey, Tag, Turn, Until, Will,
};
use tidings_types::codec::{Input, put_bytes, put_varint};
use tidings_types::{Cursor, Draft, Message, Offset, Protocol, TopicFilter};

use super::peer::RECORD_BYTES;

/// What the window holds at most.
pub const WINDOW: usize = 3;
/// How long a change that nobody waits for is kept back.
const LAZY_MS: u64 = 120;

const MAIN: SubscriptionKey = SubscriptionKey(0);
const MAIN_TAG: Tag = Tag(1);
const OPEN_TAG: Tag = Tag(2);
const FIRST_SAVE_TAG: Tag = Tag(3);
const HELD_TAG: Tag = Tag(4);
const ALTER_TAG: Tag = Tag(5);
const ALTERED_TAG: Tag = Tag(6);
const EXTRA_TAG: Tag = Tag(7);

/// What goes over the wire, both ways: a letter and three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line(pub u8, pub u64, pub u64, pub u64);

impl Line {
    pub fn bytes(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(RECORD_BYTES);
        bytes.put_u8(self.0);
        bytes.put_u64(self.1);
        bytes.put_u64(self.2);
        bytes.put_u64(self.3);
        bytes.freeze()
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        Self(bytes[0], number(1), number(9), number(17))
    }
}

/// What the session keeps.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// With the position that each counts from.
    pub filters: Vec<(TopicFilter, u64)>,
    /// Everything up to here was offered.
    pub delivered: u64,
    /// Unacknowledged: number and offset.
    pub window: VecDeque<(u64, u64)>,
    next: u64,
    /// Which connection began it.
    birth: u64,
}

impl State {
    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_varint(&mut out, self.filters.len() as u64);
        for (filter, since) in &self.filters {
            put_bytes(&mut out, filter.as_str().as_bytes());
            put_varint(&mut out, *since);
        }
        put_varint(&mut out, self.delivered);
        put_varint(&mut out, self.next);
        put_varint(&mut out, self.birth);
        for (number, offset) in &self.window {
            put_varint(&mut out, *number);
            put_varint(&mut out, *offset);
        }
        out.into()
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut input = Input::new(bytes);
        let mut state = Self::default();
        for _ in 0..input.varint().unwrap() {
            let filter = TopicFilter::new(input.text().unwrap().to_owned()).unwrap();
            state.filters.push((filter, input.varint().unwrap()));
        }
        state.delivered = input.varint().unwrap();
        state.next = input.varint().unwrap();
        state.birth = input.varint().unwrap();
        while let Some(number) = input.varint() {
            state.window.push_back((number, input.varint().unwrap()));
        }
        state
    }

    fn wants(&self, message: &Message) -> bool {
        self.filters
            .iter()
            .any(|(filter, since)| message.offset.0 > *since && filter.matches(&message.topic))
    }

    /// Where to subscribe to see all of the window again.
    fn resume_after(&self) -> u64 {
        let first = self.window.iter().map(|(_, offset)| offset - 1).min();
        first.unwrap_or(self.delivered).min(self.delivered)
    }
}

/// How the session is to be.
#[derive(Clone, Debug)]
pub struct Manner {
    pub name: ByteString,
    pub filters: Vec<TopicFilter>,
    pub will: Option<Will>,
    pub expiry: Expiry,
    pub epoch: tidings_types::Epoch,
    /// Differs between connections.
    pub birth: u64,
}

pub struct SessionConversation {
    manner: Manner,
    state: State,
    is_resumed: bool,
    /// Of an earlier connection's window, and not yet sent again: offsets.
    missing: BTreeSet<u64>,
    /// Kept, and not yet sent.
    held: Vec<Line>,
    /// Being written; sent when that is done.
    saving: VecDeque<Vec<Line>>,
    /// Filters that are being altered to, and the line that says so.
    altering: Option<(Vec<TopicFilter>, Line)>,
    extras: u32,
}

impl SessionConversation {
    pub fn new(manner: Manner) -> Self {
        Self {
            manner,
            state: State::default(),
            is_resumed: false,
            missing: BTreeSet::new(),
            held: Vec::new(),
            saving: VecDeque::new(),
            altering: None,
            extras: 0,
        }
    }

    fn save(&self, tag: Option<Tag>) -> Command {
        Command::SaveSession {
            tag,
            save: SessionSave {
                state: self.state.encode(),
                expiry: self.manner.expiry,
                will: self.manner.will.clone(),
            },
        }
    }

    fn session(&mut self, state: Option<Bytes>, turn: &mut Turn<'_>) {
        let line = Line(b'O', u64::from(state.is_some()), 0, 0);
        turn.frames.push(line.bytes());
        let Some(state) = state else {
            let filters = self.manner.filters.iter().cloned();
            self.state.filters = filters.map(|filter| (filter, 0)).collect();
            self.state.birth = self.manner.birth;
            return self.subscribe(Start::Latest, turn);
        };
        self.state = State::decode(&state);
        self.is_resumed = true;
        self.missing = self.state.window.iter().map(|it| it.1).collect();
        // What an earlier connection could not keep durably any more must be, before it is acted on.
        turn.commands.push(self.save(Some(FIRST_SAVE_TAG)));
    }

    fn subscribe(&self, start: Start, turn: &mut Turn<'_>) {
        turn.commands.push(Command::Subscribe {
            tag: MAIN_TAG,
            key: MAIN,
            filters: self.state.filters.iter().map(|it| it.0.clone()).collect(),
            start,
            framing: Framing::Own,
            echo: true,
            until: Until::Ended,
            group: None,
        });
    }

    fn subscribed(&mut self, tag: Tag, cursor: Cursor, turn: &mut Turn<'_>) {
        let at = cursor.offset.0;
        match tag {
            MAIN_TAG if self.is_resumed => self.tell_kept(turn),
            MAIN_TAG => {
                self.state.delivered = at;
                for (_, since) in &mut self.state.filters {
                    *since = at;
                }
                turn.commands.push(self.save(Some(FIRST_SAVE_TAG)));
            }
            ALTER_TAG => {
                let (filters, line) = self.altering.take().expect("an answer to what was asked");
                let before = std::mem::take(&mut self.state.filters);
                for filter in filters {
                    let known = before.iter().find(|(known, _)| *known == filter);
                    let since = known.map_or(at, |(_, since)| *since);
                    self.state.filters.push((filter, since));
                }
                self.altering = Some((Vec::new(), Line(line.0, line.1, at, 0)));
                turn.commands.push(self.save(Some(ALTERED_TAG)));
            }
            _ => {}
        }
    }

    fn tell_kept(&self, turn: &mut Turn<'_>) {
        let since = self.state.filters.first().map_or(0, |(_, since)| *since);
        turn.frames
            .push(Line(b'K', since, self.state.birth, 0).bytes());
    }

    fn saved(&mut self, tag: Tag, turn: &mut Turn<'_>) {
        match tag {
            FIRST_SAVE_TAG if self.is_resumed => {
                let start = Start::After(Cursor {
                    epoch: self.manner.epoch,
                    offset: Offset(self.state.resume_after()),
                });
                self.subscribe(start, turn);
            }
            FIRST_SAVE_TAG => self.tell_kept(turn),
            ALTERED_TAG => {
                if let Some((_, line)) = self.altering.take() {
                    turn.frames.push(line.bytes());
                }
            }
            HELD_TAG => {
                let lines = self
                    .saving
                    .pop_front()
                    .expect("an answer to what was asked");
                turn.frames.extend(lines.into_iter().map(Line::bytes));
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, number: u64, turn: &mut Turn<'_>) {
        let before = self.state.window.len();
        self.state.window.retain(|(known, _)| *known != number);
        if self.state.window.len() < before {
            turn.wake = Some(turn.now.plus_ms(LAZY_MS));
            turn.commands.push(Command::Unblock(MAIN));
        }
    }

    fn alter(&mut self, line: Line, turn: &mut Turn<'_>) {
        if self.altering.is_some() || self.state.filters.is_empty() {
            return;
        }
        let mut filters: Vec<TopicFilter> =
            self.state.filters.iter().map(|it| it.0.clone()).collect();
        let text = super::world::FILTER_CHOICES[line.1 as usize];
        let filter = TopicFilter::new(text).unwrap();
        if line.0 == b'+' {
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        } else if filters.len() > 1 {
            filters.retain(|known| *known != filter);
        }
        let answer = Line(if line.0 == b'+' { b'B' } else { b'b' }, line.1, 0, 0);
        self.altering = Some((filters.clone(), answer));
        turn.commands.push(Command::Alter {
            tag: ALTER_TAG,
            key: MAIN,
            filters,
            framing: Framing::Own,
        });
    }

    fn extra(&mut self, line: Line, turn: &mut Turn<'_>) {
        self.extras += 1;
        let text = super::world::FILTER_CHOICES[line.1 as usize];
        turn.commands.push(Command::Subscribe {
            tag: EXTRA_TAG,
            key: SubscriptionKey(self.extras),
            filters: vec![TopicFilter::new(text).unwrap()],
            start: Start::Earliest,
            framing: Framing::Own,
            echo: true,
            until: Until::CaughtUp,
            group: None,
        });
    }
}

impl Conversation for SessionConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Tidings
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        turn.commands.push(Command::OpenSession {
            tag: OPEN_TAG,
            name: self.manner.name.clone(),
            fresh: false,
        });
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        while input.len() >= RECORD_BYTES {
            let line = Line::parse(&input.split_to(RECORD_BYTES));
            match line.0 {
                b'A' => self.acknowledge(line.1, turn),
                b'+' | b'-' => self.alter(line, turn),
                b'H' => self.extra(line, turn),
                b'D' => {
                    self.manner.will = None;
                    turn.commands.push(self.save(None));
                    turn.ending = Some(Ending::AfterFlush);
                }
                other => panic!("the stream is out of step: {other}"),
            }
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Session { state, .. } => self.session(state, turn),
            Event::Subscribed { tag, cursor, .. } => self.subscribed(tag, cursor, turn),
            Event::Saved { tag } => self.saved(tag, turn),
            Event::Held => {
                self.saving.push_back(std::mem::take(&mut self.held));
                turn.commands.push(self.save(Some(HELD_TAG)));
            }
            Event::CaughtUp { key } => {
                turn.frames.push(Line(b'E', u64::from(key.0), 0, 0).bytes());
            }
            // What is to be kept cannot be: the peer comes back when it can.
            Event::Refused { .. } | Event::Lost { .. } => turn.ending = Some(Ending::AtOnce),
            Event::TakenOver => {
                turn.commands.push(self.save(None));
                turn.ending = Some(Ending::AfterFlush);
            }
            Event::Closed if !self.state.filters.is_empty() => {
                turn.commands.push(self.save(None));
            }
            _ => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        turn.commands.push(self.save(None));
    }

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        let message = delivery.message;
        let offset = message.offset.0;
        let id = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
        if delivery.key != MAIN {
            frames.push(Line(b'H', u64::from(delivery.key.0), offset, id).bytes());
            return Framed::Put;
        }
        // What was unacknowledged and was not offered before this is in no log any more.
        let gone: Vec<u64> = self.missing.range(..offset).copied().collect();
        self.missing = self.missing.split_off(&offset);
        self.state.window.retain(|(_, known)| !gone.contains(known));
        self.missing.remove(&offset);
        if offset <= self.state.delivered {
            let known = self.state.window.iter().find(|it| it.1 == offset);
            let Some((number, _)) = known else {
                return Framed::Unwanted;
            };
            // Sent before, or not: the peer is told that it may have been.
            frames.push(Line(b'R', offset, id, *number).bytes());
            return Framed::Put;
        }
        if !self.state.wants(message) {
            return Framed::Unwanted;
        }
        if self.state.window.len() >= WINDOW {
            return Framed::Full;
        }
        self.state.next += 1;
        self.state.window.push_back((self.state.next, offset));
        self.state.delivered = offset;
        self.held.push(Line(b'M', offset, id, self.state.next));
        Framed::Held
    }
}

/// A will with this number.
pub fn will(draft: Draft, delay_ms: u64) -> Will {
    Will {
        delay: std::time::Duration::from_millis(delay_ms),
        draft,
    }
}
