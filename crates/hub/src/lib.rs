//! The hub: what happens between an adapter and the log.
//!
//! - A [`Shard`] owns its connections, their outboxes and their subscriptions. It is single-threaded and has
//!   no sockets and no clock: whoever drives it passes bytes and times in and writes outboxes out.
//! - [`Inboxes`] is the engine's feed: it hands every committed batch to every shard as one `Arc`, and
//!   answers to the shard that asked.
//! - [`gate`] is the only permission check. Nothing behind it takes what it did not admit.
//! - [`meter`] counts what an identity takes, on all shards, where that is limited.
//! - A session lives on the shard that [`home_shard`] names, where its connections are opened too; a work queue
//!   lives on the home shard of its name, and its members anywhere. What of them outlives the process is kept by
//!   the engine as states, which [`states_by_home`] hands back at the start.
//!
//! Invariants:
//! - A subscription delivers every matching message after its start, in order, once, or a gap event that says
//!   that some may be missing. A full outbox or inbox is never an error.
//! - A message that matches several subscriptions of one connection is delivered once on that connection,
//!   but for subscriptions that end by themselves, and work queues.
//! - A will is published once. A message of a work queue is with one member at a time, and goes to another one
//!   until one is done with it.
//! - Memory is bounded by the limits: outboxes, inboxes, the tail, reads and publishes in flight.

#[doc(hidden)]
pub mod bench;
pub mod gate;
pub mod inbox;
mod lifetime;
pub mod meter;
pub mod metrics;
pub mod outbox;
mod queue;
pub mod rate;
mod session;
pub mod shard;
mod states;
mod tail;
mod trie;
mod wheel;

pub use inbox::{Inbox, Inboxes};
pub use metrics::{Metrics, SharedMetrics};
pub use outbox::Outbox;
pub use session::{home_shard, states_by_home};
pub use shard::{ConnectionId, Peer, Renewal, Shard, ShardConfig};
