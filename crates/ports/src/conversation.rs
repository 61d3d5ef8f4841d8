//! One peer's protocol state, and the closed vocabulary between it and the hub.

use std::any::Any;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidings_types::{Cursor, Draft, FrameFormat, Message, Protocol, Receipt, Refusal, TopicFilter};

use crate::Tick;

/// Names a subscription within its connection. The conversation chooses it; it must not be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey(pub u32);

/// Ties an answer to its command. The conversation chooses it; the hub hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// Where a subscription starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is committed from now on.
    Latest,
    /// With the oldest message that is kept.
    Earliest,
    /// After this one: complete, or with a gap event first.
    After(Cursor),
    /// After a position that this server cannot know, such as a foreign `Last-Event-ID`: with a gap event and
    /// from the oldest message that is kept.
    Unknown,
    /// With the newest N messages that match.
    Last(u64),
    /// With the retained message of each topic that matches, then as `Latest`.
    Retained,
}

/// How a subscription's messages become frames.
#[derive(Clone, Copy)]
pub enum Framing {
    /// The frame depends on the message alone and is shared by all subscribers.
    Shared(&'static dyn FrameFormat),
    /// The conversation makes each frame (see [`Conversation::frame`]), sharing the body where it can.
    Own,
}

/// What a conversation asks the hub to do.
pub enum Command {
    /// Publish, all or none; answered by `Published` or `Refused`. The hub fills in the drafts' origin.
    Publish {
        /// For the answer.
        tag: Tag,
        /// At least one.
        drafts: Vec<Draft>,
    },
    /// Subscribe to whatever matches any of the filters, each message once; answered by `Subscribed` or
    /// `Refused`. The first message comes after the answer.
    Subscribe {
        /// For the answer.
        tag: Tag,
        /// Names it from now on.
        key: SubscriptionKey,
        /// At least one.
        filters: Vec<TopicFilter>,
        /// Where to start.
        start: Start,
        /// How to encode.
        framing: Framing,
        /// Whether this connection's own messages come back.
        echo: bool,
    },
    /// End a subscription; answered by `Unsubscribed`. No frame of it comes after the answer.
    Unsubscribe {
        /// For the answer.
        tag: Tag,
        /// Which.
        key: SubscriptionKey,
    },
    /// Counts a refusal that the conversation itself spoke (a bad frame, a limit of its protocol).
    Refused(tidings_types::RefusalCode),
}

/// Why there is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention removed messages after the cursor.
    Retention,
    /// The cursor is of another log, or of no log.
    UnknownCursor,
    /// The messages were of topics that are not kept (`storage = "none"`).
    LiveOnly,
    /// The messages were kept in memory only and the server restarted.
    Restart,
}

impl GapReason {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::UnknownCursor => "unknown-cursor",
            Self::LiveOnly => "live-only",
            Self::Restart => "restart",
        }
    }
}

/// Messages that matched may be gone between two positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// The last position before it; `None` if the peer's own was unknown.
    pub after: Option<Cursor>,
    /// Where delivery goes on: whatever matches after it and is still there follows. With several topics,
    /// more may be missing among that; everything missing up to now is covered by this gap.
    pub resume: Cursor,
}

/// What the hub tells a conversation.
#[derive(Debug)]
pub enum Event {
    /// The drafts are committed; receipts in their order.
    Published {
        /// Of the command.
        tag: Tag,
        /// One for each draft.
        receipts: Vec<Receipt>,
    },
    /// The command was not carried out, and nothing of it.
    Refused {
        /// Of the command.
        tag: Tag,
        /// Why.
        refusal: Refusal,
    },
    /// The subscription is there.
    Subscribed {
        /// Of the command.
        tag: Tag,
        /// Which.
        key: SubscriptionKey,
        /// The position that it starts after: resuming from it misses nothing.
        cursor: Cursor,
    },
    /// The subscription is gone.
    Unsubscribed {
        /// Of the command.
        tag: Tag,
        /// Which.
        key: SubscriptionKey,
    },
    /// Something is missing; the messages after it follow.
    Gap {
        /// In which subscription.
        key: SubscriptionKey,
        /// What.
        gap: Gap,
    },
    /// The subscription ended because its messages could not be read from the log.
    Lost {
        /// Which.
        key: SubscriptionKey,
        /// Why.
        refusal: Refusal,
    },
    /// The server goes down, or sheds the connection: say goodbye and end.
    Drain {
        /// When the peer should come back; different for each peer.
        reconnect_after: Duration,
        /// What it should be told.
        refusal: Refusal,
    },
    /// The peer sent its last byte (a half-closed TCP connection).
    PeerFinished,
}

/// How the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Write what is pending, then close in an orderly way.
    AfterFlush,
    /// Close now; what is pending is not written.
    AtOnce,
}

/// One call into a conversation: what it knows, and what it wants done.
pub struct Turn<'a> {
    /// The clock for deadlines.
    pub now: Tick,
    /// A number that differs from call to call, for jitter and masks; from the seed in a simulation.
    pub random: u64,
    /// What the hub is asked, in order.
    pub commands: &'a mut Vec<Command>,
    /// Bytes for the peer, in order, ahead of any later message.
    pub frames: &'a mut Vec<Bytes>,
    /// Set to end the connection.
    pub ending: Option<Ending>,
    /// When to call [`Conversation::tick`] next; `None` keeps what was set before.
    pub wake: Option<Tick>,
}

/// One peer's protocol state.
///
/// Between calls the hub may put message frames into the outbox; a conversation's own frames keep their order
/// among them. `Framing::Own` messages come through [`Conversation::frame`].
/// `Any`, so that whoever drives a conversation that it made itself can ask it for what it has learned.
pub trait Conversation: Any {
    /// The protocol, for labels.
    fn protocol(&self) -> Protocol;

    /// The connection is open. Conversations that subscribe by themselves (a raw WebSocket, SSE) do it here.
    fn opened(&mut self, turn: &mut Turn<'_>);

    /// Takes what it can from the front of the input, and leaves an incomplete rest for the next call, which
    /// sees it again with more behind it. Must bound what it leaves.
    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>);

    /// The hub answers or reports.
    fn event(&mut self, event: Event, turn: &mut Turn<'_>);

    /// The time that was set by `Turn::wake` has come.
    fn tick(&mut self, turn: &mut Turn<'_>);

    /// Encodes a message for a subscription with [`Framing::Own`]. Appends frames; none means that this peer
    /// is not to have it (say, larger than it takes), which the hub counts.
    fn frame(&mut self, key: SubscriptionKey, message: &Message, frames: &mut Vec<Bytes>);
}
