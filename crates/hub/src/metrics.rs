//! Numbers for `/metrics`. A shard is the only writer of its own, so counting costs a plain add.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidings_ports::GapReason;
use tidings_types::{Protocol, RefusalCode};

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds, on the one thread that writes.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts, on the one thread that writes.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The number now, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is counted for each protocol.
#[derive(Debug, Default)]
pub struct ProtocolMetrics {
    /// Gauge: open connections (for HTTP: requests being answered).
    pub connections: Count,
    /// Connections ever.
    pub connections_total: Count,
    /// Messages submitted to the log.
    pub published: Count,
    /// Messages put into outboxes.
    pub delivered: Count,
    /// Bytes put into outboxes.
    pub delivered_bytes: Count,
}

/// What one shard counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By [`Protocol::index`].
    pub protocols: [ProtocolMetrics; Protocol::ALL.len()],
    /// Gauge: subscriptions.
    pub subscriptions: Count,
    /// Gauge: subscriptions that read the log.
    pub catching_up: Count,
    /// Times that a full outbox made a live subscription fall back to the log.
    pub lagged: Count,
    /// Times that the shard's inbox overflowed.
    pub inbox_overflows: Count,
    /// Gaps told, by reason.
    pub gaps: [Count; 4],
    /// Messages not delivered because their time to live had passed.
    pub expired: Count,
    /// Messages of live-only topics that a slow subscription could not be given.
    pub live_only_missed: Count,
    /// Messages that a conversation would not carry to its peer (larger than it takes).
    pub unframed: Count,
    /// Messages delivered from the log or the tail rather than live.
    pub caught_up: Count,
    /// Reads of the log that failed.
    pub read_errors: Count,
    /// Gauge: sessions with a connection.
    pub sessions_connected: Count,
    /// Gauge: sessions without one.
    pub sessions_offline: Count,
    /// Sessions that ended because nobody came back in time.
    pub sessions_expired: Count,
    /// Sessions that a connection took from another one.
    pub sessions_taken_over: Count,
    /// Sessions whose record could not be read.
    pub sessions_unread: Count,
    /// Gauge: work queues.
    pub queues: Count,
    /// Messages of work queues that were delivered before, or perhaps.
    pub redelivered: Count,
    /// Messages of work queues that were returned when they were in no log any more, and gaps in what work queues had
    /// not read yet.
    pub queue_missed: Count,
    /// Messages of work queues that a consumer had for too long.
    pub queue_late: Count,
    /// Verdicts on messages that were not, or not any more, their consumer's.
    pub queue_strays: Count,
    /// Messages that work queues gave up and that are in the dead-letter topic.
    pub dead_letters: Count,
    /// Messages that work queues gave up and that are gone: there is no dead-letter topic, or they came from it.
    pub dead_dropped: Count,
    /// Wills published.
    pub wills: Count,
    /// Wills that could not be published.
    pub wills_lost: Count,
}

impl Metrics {
    /// Counts a gap.
    pub fn gap(&self, reason: GapReason) {
        self.gaps[reason as usize].add(1);
    }
}

/// Every reason that a gap can have, in the order of [`Metrics::gaps`].
pub const GAP_REASONS: [GapReason; 4] = [
    GapReason::Retention,
    GapReason::UnknownCursor,
    GapReason::LiveOnly,
    GapReason::Restart,
];

/// What every part of the server counts together.
#[derive(Debug)]
pub struct SharedMetrics {
    refusals: Vec<AtomicU64>,
    /// Sessions of all shards, with and without a connection.
    pub(crate) sessions: Bounded,
    /// Work queues of all shards.
    pub(crate) queues: Bounded,
    revoked: AtomicU64,
}

/// How many there are of something that is bounded.
#[derive(Debug, Default)]
pub(crate) struct Bounded(AtomicU64);

impl Bounded {
    /// Counts one more, unless there are `max` of them.
    pub fn add_one(&self, max: usize) -> bool {
        let added = self.0.fetch_update(Relaxed, Relaxed, |count| {
            (count < max as u64).then_some(count + 1)
        });
        added.is_ok()
    }

    /// Counts one less.
    pub fn remove_one(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Default for SharedMetrics {
    fn default() -> Self {
        Self {
            refusals: RefusalCode::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            sessions: Bounded::default(),
            queues: Bounded::default(),
            revoked: AtomicU64::new(0),
        }
    }
}

impl SharedMetrics {
    /// Counts a refusal, from any thread.
    pub fn refused(&self, code: RefusalCode) {
        self.refusals[code.index()].fetch_add(1, Relaxed);
    }

    /// Counts a connection that ended because of what was revoked.
    pub(crate) fn revoked(&self) {
        self.revoked.fetch_add(1, Relaxed);
    }

    /// How many connections ended because their credential was revoked, or is not there any more.
    pub fn revocations(&self) -> u64 {
        self.revoked.load(Relaxed)
    }

    /// How often this was refused.
    pub fn refusals(&self, code: RefusalCode) -> u64 {
        self.refusals[code.index()].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_reasons_stand_at_their_index() {
        for (index, reason) in GAP_REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
