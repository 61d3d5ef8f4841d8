//! The seams of Tidings as traits.
//!
//! - [`Engine`] is the log behind the hub, and [`Feed`] is how it reports back. An engine knows topics,
//!   drafts and offsets; it knows no connections, protocols or permissions.
//! - [`Conversation`] is one peer's protocol state: bytes in, commands out, frames back. It never sees a
//!   socket, a clock, permissions, the engine or another peer.
//! - [`Authenticator`] finds out who a peer is by what it shows.
//! - [`Permitter`] says what a principal may do where its grants do not.
//! - [`Clock`] is where time comes from.

pub mod clock;
pub mod conversation;
pub mod credential;
pub mod engine;
pub mod permission;

pub use clock::{Clock, ManualClock, SystemClock, Tick};
pub use conversation::{
    Command, Conversation, Delivery, Ending, Event, Expiry, Framed, Framing, Gap, GapReason, Group,
    SessionSave, Settle, Start, SubscriptionKey, Tag, Turn, Until, Verdict, Will,
};
pub use credential::{
    Attempt, Authenticator, Certificate, Credential, Everybody, Outcome, Secret, SignOn, Standing,
};
pub use engine::{
    Answer, Commit, Engine, EngineHealth, EngineStats, Feed, Page, PublishError, ReadError,
    ReadFrom, ReadRequest, ReplyTo, StateChange, Submission, SubmitError, TopicInfo, TopicsPage,
    TopicsQuery,
};
pub use permission::{Action, Granted, GrantsAlone, Permission, Permitter, Petition};
