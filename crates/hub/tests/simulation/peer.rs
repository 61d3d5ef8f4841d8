//! A peer with a protocol of its own: fixed-size records, so that a byte stream cut anywhere can be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use tidings_ports::{
    Command, Conversation, Delivery, Event, Framed, Framing, GapReason, Start, SubscriptionKey,
    Tag, Turn, Until,
};
use tidings_types::{Cursor, Draft, Epoch, FrameFormat, Message, Offset, Protocol, TopicFilter};

pub const RECORD_BYTES: usize = 25;

/// What the peer was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    Subscribed {
        cursor: Cursor,
    },
    Message {
        offset: Offset,
        id: u64,
    },
    /// `head` was the log's head when it was told.
    Gap {
        resume: Offset,
        reason: u64,
        head: Offset,
    },
    Published {
        tag: u64,
        offset: Offset,
    },
    Refused {
        tag: u64,
    },
    Lost,
}

impl Record {
    fn bytes(self) -> Bytes {
        let (kind, a, b) = match self {
            Self::Subscribed { cursor } => (b'S', cursor.offset.0, cursor.epoch.0),
            Self::Message { offset, id } => (b'M', offset.0, id),
            Self::Gap { resume, reason, .. } => (b'G', resume.0, reason),
            Self::Published { tag, offset } => (b'P', tag, offset.0),
            Self::Refused { tag } => (b'R', tag, 0),
            Self::Lost => (b'L', 0, 0),
        };
        let c = match self {
            Self::Gap { head, .. } => head.0,
            _ => 0,
        };
        let mut bytes = BytesMut::with_capacity(RECORD_BYTES);
        bytes.put_u8(kind);
        bytes.put_u64(a);
        bytes.put_u64(b);
        bytes.put_u64(c);
        bytes.freeze()
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let (a, b, c) = (number(1), number(9), number(17));
        match bytes[0] {
            b'S' => Self::Subscribed {
                cursor: Cursor {
                    epoch: Epoch(b),
                    offset: Offset(a),
                },
            },
            b'M' => Self::Message {
                offset: Offset(a),
                id: b,
            },
            b'G' => Self::Gap {
                resume: Offset(a),
                reason: b,
                head: Offset(c),
            },
            b'P' => Self::Published {
                tag: a,
                offset: Offset(b),
            },
            b'R' => Self::Refused { tag: a },
            b'L' => Self::Lost,
            other => panic!("the stream is out of step: {other}"),
        }
    }
}

/// The shared format.
pub struct Shared;

impl FrameFormat for Shared {
    fn id(&self) -> &'static str {
        "test/record"
    }

    fn encode(&self, message: &Message) -> Bytes {
        record_of(message).bytes()
    }
}

fn record_of(message: &Message) -> Record {
    let id = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
    Record::Message {
        offset: message.offset,
        id,
    }
}

static SHARED: Shared = Shared;

/// What a peer subscribes to when it connects.
#[derive(Clone, Debug)]
pub struct Wish {
    /// One subscription for each.
    pub subscriptions: Vec<(Vec<TopicFilter>, Start)>,
    /// Whether frames are made one by one.
    pub own_frames: bool,
}

pub struct TestConversation {
    wish: Wish,
    /// Published when the connection opens.
    drafts: Vec<(u64, Draft)>,
    /// The head of the log, which no real conversation knows.
    head: Arc<AtomicU64>,
}

impl TestConversation {
    pub fn new(wish: Wish, drafts: Vec<(u64, Draft)>, head: Arc<AtomicU64>) -> Self {
        Self { wish, drafts, head }
    }
}

impl Conversation for TestConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Tidings
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        for (key, (filters, start)) in (0u32..).zip(&self.wish.subscriptions) {
            turn.commands.push(Command::Subscribe {
                tag: Tag(u64::from(key)),
                key: SubscriptionKey(key),
                filters: filters.clone(),
                start: start.clone(),
                framing: if self.wish.own_frames {
                    Framing::Own
                } else {
                    Framing::Shared(&SHARED)
                },
                echo: true,
                until: Until::Ended,
                group: None,
            });
        }
        for (tag, draft) in self.drafts.drain(..) {
            turn.commands.push(Command::Publish {
                tag: Tag(tag),
                drafts: vec![draft],
                save: None,
                settle: Vec::new(),
            });
        }
    }

    fn receive(&mut self, input: &mut BytesMut, _turn: &mut Turn<'_>) {
        input.clear();
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        let record = match event {
            Event::Subscribed { cursor, .. } => Record::Subscribed { cursor },
            Event::Gap { gap, .. } => {
                let head = Offset(self.head.load(Ordering::Relaxed));
                let reason = reason_number(gap.reason);
                Record::Gap {
                    resume: gap.resume.offset,
                    reason,
                    head,
                }
            }
            Event::Published { tag, receipts } => Record::Published {
                tag: tag.0,
                offset: receipts[0].cursor.offset,
            },
            Event::Refused { tag, .. } => Record::Refused { tag: tag.0 },
            Event::Lost { .. } => Record::Lost,
            _ => return,
        };
        turn.frames.push(record.bytes());
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}

    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        // In two pieces, as protocols with a head for each subscriber do.
        let mut record = record_of(delivery.message).bytes();
        frames.push(record.split_to(3));
        frames.push(record);
        Framed::Put
    }
}

pub const RETENTION: u64 = 0;
pub const UNKNOWN: u64 = 1;
pub const LIVE_ONLY: u64 = 2;
pub const RESTART: u64 = 3;

fn reason_number(reason: GapReason) -> u64 {
    match reason {
        GapReason::Retention => RETENTION,
        GapReason::UnknownCursor => UNKNOWN,
        GapReason::LiveOnly => LIVE_ONLY,
        GapReason::Restart => RESTART,
    }
}
