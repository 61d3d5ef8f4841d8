//! How long to wait before the next try.

use std::time::Duration;

use crate::random::Random;

/// The bounds of the waits between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest first wait; it doubles with each failure in a row.
    pub first: Duration,
    /// No wait is longer, unless the server names one.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        }
    }
}

/// A server may name a wait; a longer one than this is cut to it.
const TOLD_WAIT_MAX: Duration = Duration::from_mins(5);

/// Jittered exponential backoff: each wait is drawn from the upper half of a span that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: RetryPolicy,
    /// Failures in a row.
    failures: u32,
    random: Random,
}

impl Backoff {
    /// Starts at the first wait.
    pub fn new(policy: RetryPolicy, random: Random) -> Self {
        Self {
            policy,
            failures: 0,
            random,
        }
    }

    /// A try succeeded: the next wait is a first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A try failed: the wait before the next. A wait that the server told is a minimum, and a little jitter
    /// comes on top, so that clients that were told the same do not come back together.
    pub fn failed(&mut self, told: Option<Duration>) -> Duration {
        let span = self
            .policy
            .first
            .saturating_mul(1 << self.failures.min(20))
            .min(self.policy.longest);
        self.failures += 1;
        match told {
            Some(told) => {
                let told = told.min(TOLD_WAIT_MAX);
                told + self.up_to((told / 10).min(span))
            }
            None => span / 2 + self.up_to(span / 2),
        }
    }

    fn up_to(&mut self, span: Duration) -> Duration {
        let nanos = span.as_nanos() as u64;
        Duration::from_nanos(self.random.below(nanos + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u64) -> Backoff {
        let policy = RetryPolicy {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(1),
        };
        Backoff::new(policy, Random::from_seed(seed))
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_jittered_in_the_upper_half() {
        for seed in 0..100 {
            let mut backoff = backoff(seed);
            for span_ms in [100, 200, 400, 800, 1_000, 1_000] {
                let wait = backoff.failed(None);
                let span = Duration::from_millis(span_ms);
                assert!(wait >= span / 2 && wait <= span, "{seed} {wait:?} {span:?}");
            }
            backoff.succeeded();
            assert!(backoff.failed(None) <= Duration::from_millis(100));
        }
        assert_ne!(backoff(1).failed(None), backoff(2).failed(None));
    }

    #[test]
    fn a_told_wait_is_never_cut_short_but_bounded() {
        for seed in 0..100 {
            let mut backoff = backoff(seed);
            let told = Duration::from_secs(5);
            let wait = backoff.failed(Some(told));
            assert!(
                wait >= told && wait <= told + Duration::from_millis(100),
                "{wait:?}"
            );
            let wait = backoff.failed(Some(Duration::from_secs(1 << 40)));
            assert!(wait <= TOLD_WAIT_MAX + Duration::from_secs(1), "{wait:?}");
        }
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = backoff(1);
        for _ in 0..10_000 {
            assert!(backoff.failed(None) <= Duration::from_secs(1));
        }
    }
}
