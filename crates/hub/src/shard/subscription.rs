//! One subscription: filters, and a position.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{Framing, Start, SubscriptionKey, Tag};
use tidings_types::{FrameFormat, Message, Offset, TopicFilter};

use super::connection::ConnectionId;
use crate::queue::QueueId;
use crate::trie::Place;

/// Names a subscription within its shard; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionId {
    pub index: u32,
    pub serial: u32,
}

/// Where a subscription gets its messages from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// From the feed; it has seen everything.
    Live,
    /// From the log: it waits for a free read.
    Queued,
    /// From the log: a read is under way.
    Reading,
    /// From where it stopped, once its outbox has room.
    Blocked,
    /// From where it stopped, once its conversation takes more.
    Paused,
    /// From a work queue, which hands it what it takes.
    Member,
}

/// What the first read has to find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Nothing: the position is known.
    Known,
    /// Whether the peer's own position still has everything after it.
    Resume,
    /// Where the newest N begin; the peer is then told that it is subscribed.
    Last(u64, Tag),
    /// The retained messages.
    Retained,
}

/// What a member knows of its work queue.
#[derive(Debug)]
pub(super) struct Membership {
    /// The queue's.
    pub key: ByteString,
    pub home: usize,
    /// Of the command that joined, until it is answered.
    pub joining: Option<Tag>,
    /// Of the command that ended it meanwhile, with whether it forgets the queue: it is carried out when the first is
    /// answered. The connection does not know it any more.
    pub leaving: Option<(Tag, bool)>,
    /// What it takes part for.
    pub filters: Box<[TopicFilter]>,
}

pub(super) struct Subscription {
    pub id: SubscriptionId,
    /// Nobody's, if it is a work queue's cursor.
    pub connection: ConnectionId,
    /// Set if it is the cursor of a work queue.
    pub queue: Option<QueueId>,
    /// Set if its messages come from a work queue.
    pub membership: Option<Box<Membership>>,
    pub key: SubscriptionKey,
    pub filters: Arc<[TopicFilter]>,
    /// Where each filter stands in the trie.
    pub places: Box<[Place]>,
    pub framing: SlotFraming,
    pub echo: bool,
    pub source: Source,
    pub first: First,
    /// Everything that matches in `(start, cursor]` was offered. Not kept up while live.
    pub start: Offset,
    /// `start <= cursor`, but for retained messages.
    pub cursor: Offset,
    /// What matches after this need not be delivered by another subscription of the connection.
    /// `start <= covers_after`
    pub covers_after: Offset,
    /// Live-only messages that passed while this was not live, if any.
    pub live_only: Option<Box<LiveOnly>>,
    /// Set if it ends as soon as everything up to here, and up to the tail's head, was offered.
    pub ends_at: Option<Offset>,
    /// Set while a page is being read that was asked for with other filters: it counts up to here.
    pub altered_at: Option<Offset>,
    /// Messages of the next page; less than the limit for a conversation that takes few at a time.
    pub page_messages: usize,
}

/// The first and the last message, of topics that are in no log, that a subscription was not offered live.
/// They are gone once the tail has let go of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LiveOnly {
    pub first: Offset,
    /// `first <= last`
    pub last: Offset,
}

impl LiveOnly {
    /// Extends what was missed to `[first, last]`, which is after all that was missed before.
    pub fn note(missed: &mut Option<Box<Self>>, first: Offset, last: Offset) {
        match missed {
            Some(range) => range.last = last,
            None => *missed = Some(Box::new(Self { first, last })),
        }
    }
}

impl Subscription {
    /// What its peer asked to read; a member's messages come by its queue's filters.
    pub fn wanted_filters(&self) -> &[TopicFilter] {
        match &self.membership {
            Some(membership) => &membership.filters,
            None => &self.filters,
        }
    }

    pub fn wants(&self, message: &Message) -> bool {
        self.filters
            .iter()
            .any(|filter| filter.matches(&message.topic))
    }
}

/// [`Framing`] with the format as a small number, so that a batch keeps its frames in an array.
#[derive(Clone, Copy)]
pub(super) enum SlotFraming {
    Shared(u32),
    Own,
}

/// The formats that are in use on this shard, and the current message's frames in them.
#[derive(Default)]
pub(super) struct Formats {
    pub known: Vec<&'static dyn FrameFormat>,
    frames: Vec<SharedFrame>,
    /// The current run's frames.
    pub runs: Vec<super::runs::Joined>,
}

/// What is known of the current message's frame in one format.
#[derive(Clone)]
enum SharedFrame {
    Unknown,
    /// There is none for everybody.
    Each,
    All(Bytes),
}

impl Formats {
    pub fn slot(&mut self, framing: Framing) -> SlotFraming {
        let Framing::Shared(format) = framing else {
            return SlotFraming::Own;
        };
        let known = self
            .known
            .iter()
            .position(|known| known.id() == format.id());
        SlotFraming::Shared(known.unwrap_or_else(|| {
            self.known.push(format);
            self.frames.push(SharedFrame::Unknown);
            self.known.len() - 1
        }) as u32)
    }

    /// Forgets the frames of the last message.
    pub fn next_message(&mut self) {
        self.frames.fill(SharedFrame::Unknown);
    }

    /// The message's frame, looked up in the message once and from then on here; `None` if the format shares
    /// none for this message.
    pub fn frame(&mut self, slot: u32, message: &Message) -> Option<&Bytes> {
        let slot = slot as usize;
        let frame = &mut self.frames[slot];
        if let SharedFrame::Unknown = frame {
            let format = self.known[slot];
            *frame = if format.is_shared(message) {
                SharedFrame::All(message.frame(format))
            } else {
                SharedFrame::Each
            };
        }
        match frame {
            SharedFrame::All(frame) => Some(frame),
            _ => None,
        }
    }
}

/// How a start becomes the first read.
pub(super) fn first_of(start: &Start, tag: Tag) -> First {
    match start {
        Start::Last(n) => First::Last(*n, tag),
        Start::Retained => First::Retained,
        Start::After(_) => First::Resume,
        Start::Latest | Start::Earliest | Start::Unknown => First::Known,
    }
}
