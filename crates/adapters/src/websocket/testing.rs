//! What the tests of this folder share.

use bytes::{Bytes, BytesMut};
use tidings_ports::{Command, Conversation, Ending, Event, Tick, Turn};
use tidings_types::message::Place;
use tidings_types::{Draft, Epoch, Message, Offset, Storage, Timestamp, Topic};

/// A committed message: offset 5 of epoch 1, at 1234 ms.
pub(crate) fn message(topic: &str, payload: &[u8]) -> Message {
    let topic = Topic::new(topic).unwrap();
    let draft = Draft::new(topic, Bytes::copy_from_slice(payload));
    Message::commit(
        draft,
        Place {
            offset: Offset(5),
            epoch: Epoch(1),
            time: Timestamp(1234),
            storage: Storage::Durable,
        },
    )
}

/// A frame as a client sends it, masked, in the shortest length.
pub(crate) fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        len @ ..=125 => out.push(0x80 | len as u8),
        len @ ..=0xffff => {
            out.push(0xfe);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0xff);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ mask[at % 4]),
    );
    out
}

/// What one call into a conversation left behind.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) commands: Vec<Command>,
    pub(crate) frames: Vec<Bytes>,
    pub(crate) ending: Option<Ending>,
    pub(crate) wake: Option<Tick>,
}

/// Calls into a conversation at a time of the test's choice.
pub(crate) struct Driver<C> {
    pub(crate) conversation: C,
    pub(crate) now: Tick,
    input: BytesMut,
}

impl<C: Conversation> Driver<C> {
    pub(crate) fn new(conversation: C) -> Self {
        Self {
            conversation,
            now: Tick(1_000),
            input: BytesMut::new(),
        }
    }

    pub(crate) fn call(&mut self, act: impl FnOnce(&mut C, &mut Turn<'_>)) -> Outcome {
        let mut out = Outcome::default();
        let mut turn = Turn {
            now: self.now,
            is_slow: false,
            random: 12_345,
            commands: &mut out.commands,
            frames: &mut out.frames,
            ending: None,
            wake: None,
        };
        act(&mut self.conversation, &mut turn);
        (out.ending, out.wake) = (turn.ending, turn.wake);
        out
    }

    pub(crate) fn opened(&mut self) -> Outcome {
        self.call(Conversation::opened)
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Outcome {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let out = self.call(|conversation, turn| conversation.receive(&mut input, turn));
        self.input = input;
        out
    }

    pub(crate) fn event(&mut self, event: Event) -> Outcome {
        self.call(|conversation, turn| conversation.event(event, turn))
    }

    pub(crate) fn tick_at(&mut self, now: Tick) -> Outcome {
        self.now = now;
        self.call(Conversation::tick)
    }
}

/// A frame of the server taken apart: its first byte and its payload.
pub(crate) fn parts(frame: &[u8]) -> (u8, &[u8]) {
    let at = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    (frame[0], &frame[at..])
}

/// A close frame's code and reason.
pub(crate) fn close_parts(frame: &[u8]) -> (u16, String) {
    let (first, payload) = parts(frame);
    assert_eq!(first, 0x88);
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    (code, str::from_utf8(&payload[2..]).unwrap().to_owned())
}
