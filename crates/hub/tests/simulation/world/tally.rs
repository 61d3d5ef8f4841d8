//! What happened in a run, so that a run in which nothing happens is not taken for a good one.

use std::collections::BTreeMap;

use tidings_hub::Metrics;

/// How often things happened.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(super) fn count(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    pub(super) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Self) {
        for (what, n) in &other.0 {
            self.count(what, *n);
        }
    }

    /// Everything that the simulation is about must have happened.
    pub fn check(&self) {
        for what in [
            "delivered",
            "caught up",
            "lagged",
            "inbox overflow",
            "crash",
            "kill",
            "sync failure",
            "full",
            "busy",
            "gap: retention",
            "gap: live-only",
            "gap: restart",
            "gap: unknown",
            "replayed",
            "two subscriptions",
            "session resumed",
            "session expired",
            "taken over",
            "sent again",
            "altered",
            "caught up and gone",
            "will",
            "will expected",
            "work",
            "work again",
            "work new",
            "nacked",
            "redelivered",
            "settled",
            "verdict refused",
            "transaction",
            "transaction refused",
            "transaction too late",
            "left a queue",
            "too long",
            "stray verdict",
            "dead letter",
        ] {
            assert!(self.of(what) > 0, "never happened: {what} ({self:?})");
        }
    }
}

pub(super) fn count_metrics(tally: &mut Tally, metrics: &Metrics) {
    tally.count("lagged", metrics.lagged.get());
    tally.count("inbox overflow", metrics.inbox_overflows.get());
    tally.count("caught up", metrics.caught_up.get());
    tally.count("taken over", metrics.sessions_taken_over.get());
    tally.count("will", metrics.wills.get());
    tally.count("too long", metrics.queue_late.get());
    tally.count("stray verdict", metrics.queue_strays.get());
    tally.count("dead letter", metrics.dead_letters.get());
    tally.count("redelivered", metrics.redelivered.get());
}
