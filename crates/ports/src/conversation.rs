//! One peer's protocol state, and the closed vocabulary between it and the hub.

use std::any::Any;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_types::{
    Cursor, Draft, FrameFormat, Message, Offset, Protocol, Receipt, Refusal, Timestamp, TopicFilter,
};

use crate::{Credential, Tick};

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
    /// The frame depends on the message alone and is shared by all subscribers. Messages for which the
    /// format says otherwise ([`FrameFormat::is_shared`]) come through [`Conversation::frame`].
    Shared(&'static dyn FrameFormat),
    /// The conversation makes each frame (see [`Conversation::frame`]), sharing the body where it can.
    Own,
}

/// How long a subscription lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// It is ended, or the connection is.
    #[default]
    Ended,
    /// It has delivered everything that was committed, or retained, when it caught up: then the conversation
    /// is told `CaughtUp` and the subscription is gone.
    CaughtUp,
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Not at all.
    WithConnection,
    /// For so long, then it ends.
    After(Duration),
    /// As long as the server keeps it.
    Never,
}

/// A message that is published on behalf of a connection that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// After the end of the connection; the end of the session comes before it if that is sooner.
    pub delay: Duration,
    /// The message.
    pub draft: Draft,
}

/// A work queue: the subscriptions of all connections that name it share its messages, each of which goes to
/// one of them, and to another one if that one goes away without an acknowledgement, or takes too long for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Made by [`Group::shared_name`] and its like. All members give the same filters.
    pub name: ByteString,
    /// How many messages a member has unacknowledged at most; at least 1.
    pub prefetch: u32,
    /// How long the queue keeps its position without a member. Of several members' the longest counts. A queue
    /// that does not outlive its members is not kept in the log.
    pub expiry: Expiry,
    /// How long this member has a message before it goes to another one; `None` is the server's limit, which is
    /// also the longest.
    pub ack_timeout: Option<Duration>,
}

impl Group {
    /// The name of the queue that is shared by whoever names this group and filter, over any protocol.
    #[must_use]
    pub fn shared_name(group: &str, filter: &TopicFilter) -> ByteString {
        format!("share/{group}/{filter}").into()
    }

    /// The name of a durable subscription, which is a queue with a name of its own.
    #[must_use]
    pub fn durable_name(name: &str) -> ByteString {
        format!("durable/{name}").into()
    }

    /// The name of a queue that one subscription alone has; `unique` is a random number.
    #[must_use]
    pub fn own_name(unique: u64) -> ByteString {
        format!("own/{unique:016x}").into()
    }
}

/// What a member of a work queue says of a message that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Ack,
    /// It goes out again: to another member, if there is one.
    Nack,
    /// It never went out, because the conversation that kept it ([`Framed::Held`]) drops it: it goes to somebody else,
    /// and does not count as delivered. Not for peers to say.
    Unseen,
    /// It is of no use to anybody: it goes to the dead-letter topic at once.
    Reject,
}

/// A verdict on a message of a work queue. One on a message that is not this member's any more has no effect,
/// and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The subscription that it came by.
    pub key: SubscriptionKey,
    /// The message.
    pub offset: Offset,
    /// What of it.
    pub verdict: Verdict,
}

/// What is kept of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSave {
    /// The conversation's own encoding of its state; opaque to the hub. With `Expiry::WithConnection` it is
    /// not kept.
    pub state: Bytes,
    /// From the end of the connection on.
    pub expiry: Expiry,
    /// Published unless it is replaced by `None`, or by a connection that resumes the session in time.
    pub will: Option<Will>,
}

/// What a conversation asks the hub to do.
pub enum Command {
    /// Publish and settle, all or none; answered by `Published` or `Refused`. The hub fills in the drafts'
    /// origin.
    Publish {
        /// For the answer.
        tag: Tag,
        /// At least one, or one verdict.
        drafts: Vec<Draft>,
        /// The session's state, which is durable together with the drafts.
        save: Option<SessionSave>,
        /// Verdicts that count together with the drafts. If one of the messages is not this connection's any
        /// more, all of it is refused.
        settle: Vec<Settle>,
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
        /// When it ends.
        until: Until,
        /// Set to take part in a work queue: `start` then counts for a new queue only, frames come through
        /// [`Conversation::frame`], and each message is to be acknowledged.
        group: Option<Group>,
    },
    /// Settle a message of a work queue. With a tag, answered by `Settled` once that is durable, or by `Refused`.
    Settle {
        /// For the answer.
        tag: Option<Tag>,
        /// What.
        settle: Settle,
    },
    /// Give a subscription other filters, without a break; answered by `Subscribed` with the position from
    /// which they count, or by `Refused`, and then nothing changed. A subscription that catches up may offer
    /// messages before that position which match a new filter: the conversation tells them apart.
    Alter {
        /// For the answer.
        tag: Tag,
        /// Which.
        key: SubscriptionKey,
        /// All that it is to have; at least one.
        filters: Vec<TopicFilter>,
        /// How to encode from now on.
        framing: Framing,
    },
    /// Let a subscription that [`Conversation::frame`] called `Full` go on.
    Unblock(SubscriptionKey),
    /// Open the session of this name for this connection, which may have one; answered by `Session` or
    /// `Refused`. Another connection that has it is told `TakenOver`, and has ended before the answer.
    OpenSession {
        /// For the answer.
        tag: Tag,
        /// With the protocol in front, as in `mqtt/sensor-7`.
        name: ByteString,
        /// Whether what was kept of it is thrown away first.
        fresh: bool,
    },
    /// Keep this of the connection's session from now on. With a tag, answered by `Saved` once it is durable
    /// or by `Refused`; without, it is written soon.
    SaveSession {
        /// For the answer.
        tag: Option<Tag>,
        /// What.
        save: SessionSave,
    },
    /// Find out who the peer is; answered by `Authenticated` or `Refused`. What is asked after it waits for that
    /// answer. A connection that has a principal keeps it if this is refused, and a later end if it is not.
    Authenticate {
        /// For the answer.
        tag: Tag,
        /// What the peer shows.
        credential: Credential,
    },
    /// End a subscription; answered by `Unsubscribed`, after the answer to its `Subscribe`. Its key is free at once, and
    /// no frame of it comes after the answer.
    Unsubscribe {
        /// For the answer.
        tag: Tag,
        /// Which.
        key: SubscriptionKey,
        /// Whether its work queue, if it was the last member, loses its position and is gone. Then the answer comes when
        /// that is durable; `Refused`, if it cannot be: the subscription has ended all the same.
        forget: bool,
    },
    /// Counts and logs a refusal that the conversation itself spoke (a bad frame, a limit of its protocol).
    Refused(Refusal),
    /// Warns of a message that was refused, and is acknowledged nevertheless and dropped, because its protocol has
    /// no word for a refusal. It was counted before.
    Dropped(Refusal),
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
    /// The drafts are committed, and the verdicts with them; receipts in the drafts' order.
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
    /// It is known who the peer is. Subscriptions that it may not have any more are `Lost` after this.
    Authenticated {
        /// Of the command.
        tag: Tag,
        /// When that ends, and the connection with it.
        expires: Option<Timestamp>,
        /// How long it is until then.
        left: Option<Duration>,
    },
    /// The peer's credential ends soon, and the connection with it: where the protocol has a word for it, the peer is
    /// told, so that it can show a new one in time.
    Expiring {
        /// How long it still is.
        left: Duration,
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
    /// A subscription with [`Until::CaughtUp`] has delivered everything, and is gone.
    CaughtUp {
        /// Which.
        key: SubscriptionKey,
    },
    /// The session is open.
    Session {
        /// Of the command.
        tag: Tag,
        /// What was kept of it; `None` if it is new.
        state: Option<Bytes>,
    },
    /// The verdict is durable.
    Settled {
        /// Of the command.
        tag: Tag,
    },
    /// The session's state is durable.
    Saved {
        /// Of the command.
        tag: Tag,
    },
    /// Another connection opened this one's session: save its state, say goodbye and end.
    TakenOver,
    /// The connection's socket is gone, for whatever reason: the last event. Frames go nowhere; commands that
    /// save or publish are carried out.
    Closed,
    /// [`Conversation::frame`] said `Held`, and what was offered together with it is through.
    Held,
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

/// A message on its way to one subscriber.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// Of which subscription.
    pub key: SubscriptionKey,
    /// The message.
    pub message: &'a Message,
    /// Whether it comes because it was the retained one, not because it was published.
    pub retained: bool,
    /// Whether this connection, or its session, published it.
    pub own: bool,
    /// How often a work queue has delivered it before.
    pub redelivered: u32,
    /// The time, for what is left of a time to live.
    pub now: Timestamp,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// Its frames are appended.
    Put,
    /// This subscriber needs no frame for it: it has it already, or is not meant.
    Unwanted,
    /// This peer cannot be given it (say, it is larger than it takes). The hub counts it.
    Unfit,
    /// The conversation keeps it and sends it by itself; it gets the event `Held` soon.
    Held,
    /// Too much is unacknowledged: the subscription stops before this message until `Command::Unblock`, and then
    /// offers it again.
    Full,
}

/// One call into a conversation: what it knows, and what it wants done.
pub struct Turn<'a> {
    /// The clock for deadlines.
    pub now: Tick,
    /// Whether the peer's bytes were left unread at any time since the last tick, because too much waits for it, or
    /// too many of its publishes are under way: its silence is not its fault. Whoever takes nothing at all is not the
    /// conversation's to judge (`limits.stall_ms_max`).
    pub is_slow: bool,
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

    /// Whether each subscription gets a message that several of them match. Otherwise the connection gets it
    /// once. It counts for subscriptions with one filter only.
    fn wants_each(&self) -> bool {
        false
    }

    /// The connection is open. Conversations that subscribe by themselves (a raw WebSocket, SSE) do it here.
    fn opened(&mut self, turn: &mut Turn<'_>);

    /// Takes what it can from the front of the input, and leaves an incomplete rest for the next call, which
    /// sees it again with more behind it. Must bound what it leaves.
    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>);

    /// The hub answers or reports.
    fn event(&mut self, event: Event, turn: &mut Turn<'_>);

    /// The time that was set by `Turn::wake` has come.
    fn tick(&mut self, turn: &mut Turn<'_>);

    /// Encodes a message for a subscription whose frames are not shared, or judges it. Offered in the order of
    /// offsets within a subscription, but again from the start after a resume.
    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed;
}
