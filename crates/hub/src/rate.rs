//! How fast something may happen: a token bucket in one number.
//!
//! It is kept as the *theoretical arrival time* of the generic cell rate algorithm (ITU-T I.371, annex A): the time
//! at which all that was taken would have come back. It lies at most a full bucket ahead of now, and one that is
//! not ahead is a full bucket, of which nothing has to be remembered.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidings_ports::Tick;

const NANOSECONDS_IN_MS: u64 = 1_000_000;
const NANOSECONDS_IN_S: u64 = 1_000 * NANOSECONDS_IN_MS;
/// What rounding up may add to a burst that is taken piece by piece.
const SLACK: u64 = 999;

/// So many in a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

/// There are not enough tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// After so many milliseconds there are, if nobody else takes them.
    Until(u64),
    /// A full bucket has fewer.
    Ever,
}

impl Rate {
    /// A burst of 0 is what comes in a second. `None` if nothing is limited: no `per_second`.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Option<Self> {
        (per_second > 0).then_some(Self {
            per_second,
            burst: if burst == 0 { per_second } else { burst },
        })
    }

    /// The most at once.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// In a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// In how many nanoseconds `n` come, rounded up.
    fn span(&self, n: u64) -> u64 {
        let span = (u128::from(n) * u128::from(NANOSECONDS_IN_S)).div_ceil(self.per_second.into());
        // A century, so that sums of two stay far from the end of the numbers.
        u64::try_from(span).unwrap_or(u64::MAX).min(1 << 61)
    }

    /// Takes `n` of a bucket: its state afterwards.
    pub fn take(&self, state: u64, now: Tick, n: u64) -> Result<u64, Over> {
        if n > self.burst {
            return Err(Over::Ever);
        }
        let now = nanoseconds(now);
        let after = state.max(now) + self.span(n);
        let over = (after - now).saturating_sub(self.span(self.burst));
        if over > SLACK {
            return Err(Over::Until(over.div_ceil(NANOSECONDS_IN_MS)));
        }
        Ok(after)
    }
}

fn nanoseconds(tick: Tick) -> u64 {
    tick.0.saturating_mul(NANOSECONDS_IN_MS).min(1 << 61)
}

/// Whether a bucket in this state is full.
#[must_use]
pub fn is_full(state: u64, now: Tick) -> bool {
    state <= nanoseconds(now)
}

/// A bucket that all shards take from. It begins full.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `n`, or nothing.
    pub fn take(&self, rate: &Rate, now: Tick, n: u64) -> Result<(), Over> {
        let mut state = self.0.load(Relaxed);
        loop {
            let after = rate.take(state, now, n)?;
            match self.0.compare_exchange_weak(state, after, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(found) => state = found,
            }
        }
    }

    /// Gives back `n` that were taken a moment ago.
    pub fn give_back(&self, rate: &Rate, n: u64) {
        self.0.fetch_sub(rate.span(n), Relaxed);
    }

    /// Whether it is full.
    #[must_use]
    pub fn is_full(&self, now: Tick) -> bool {
        is_full(self.0.load(Relaxed), now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_counts() {
        let rate = Rate::new(10, 3).unwrap();
        let bucket = Bucket::default();
        let at = Tick(5_000);
        for _ in 0..3 {
            assert_eq!(bucket.take(&rate, at, 1), Ok(()));
        }
        assert_eq!(bucket.take(&rate, at, 1), Err(Over::Until(100)));
        assert_eq!(bucket.take(&rate, at, 2), Err(Over::Until(200)));
        assert_eq!(bucket.take(&rate, Tick(5_099), 1), Err(Over::Until(1)));
        assert_eq!(bucket.take(&rate, Tick(5_100), 1), Ok(()));
        assert!(!bucket.is_full(Tick(5_399)));
        assert!(bucket.is_full(Tick(5_400)));
        assert_eq!(bucket.take(&rate, Tick(5_400), 4), Err(Over::Ever));
        assert_eq!(bucket.take(&rate, Tick(5_400), 3), Ok(()));
        bucket.give_back(&rate, 3);
        assert_eq!(bucket.take(&rate, Tick(5_400), 3), Ok(()));
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_still_gives_its_whole_burst() {
        let rate = Rate::new(3, 300).unwrap();
        let bucket = Bucket::default();
        for _ in 0..300 {
            assert_eq!(bucket.take(&rate, Tick(1), 1), Ok(()));
        }
        assert_eq!(bucket.take(&rate, Tick(1), 1), Err(Over::Until(334)));
    }

    #[test]
    fn without_a_burst_a_second_is_one_and_without_a_rate_nothing_is_limited() {
        assert_eq!(Rate::new(0, 7), None);
        assert_eq!(Rate::new(7, 0).unwrap().burst(), 7);
    }

    #[test]
    fn shards_share_a_bucket_exactly() {
        let rate = Rate::new(1, 1_000).unwrap();
        let bucket = Bucket::default();
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if bucket.take(&rate, Tick(1), 1).is_ok() {
                            taken.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(taken.load(Relaxed), 1_000);
    }

    /// Tokens that drip into a bucket, counted in billionths, each a nanosecond's worth of one a second.
    struct Naive {
        rate: u64,
        burst: u64,
        tokens: u128,
        at: u64,
    }

    impl Naive {
        fn take(&mut self, now: u64, n: u64) -> bool {
            let came = u128::from(now - self.at) * 1_000_000 * u128::from(self.rate);
            let full = u128::from(self.burst) * 1_000_000_000;
            self.tokens = (self.tokens + came).min(full);
            self.at = now;
            let wanted = u128::from(n) * 1_000_000_000;
            if wanted > self.tokens {
                return false;
            }
            self.tokens -= wanted;
            true
        }
    }

    proptest! {
        // Rates that divide a second, so that nothing is rounded and both agree exactly.
        #[test]
        fn it_agrees_with_counting_tokens(
            rate in prop::sample::select(vec![1_u64, 2, 5, 10, 100, 1_000, 1_000_000]),
            burst in 1_u64..50,
            steps in vec((0_u64..2_000, 1_u64..60), 1..200),
        ) {
            let limit = Rate::new(rate, burst).unwrap();
            let bucket = Bucket::default();
            let mut now = 1_000_000;
            let full = u128::from(burst) * 1_000_000_000;
            let mut naive = Naive { rate, burst, tokens: full, at: now };
            for (pause, n) in steps {
                now += pause;
                let got = bucket.take(&limit, Tick(now), n);
                prop_assert_eq!(got.is_ok(), naive.take(now, n));
                prop_assert_eq!(bucket.is_full(Tick(now)), naive.tokens == full);
                prop_assert_eq!(got == Err(Over::Ever), n > burst);
                if let Err(Over::Until(wait)) = got {
                    let mut then = Naive { ..naive };
                    prop_assert!(!then.take(now + wait - 1, n), "{} ms is too long", wait);
                    prop_assert!(then.take(now + wait, n), "{} ms is too short", wait);
                }
            }
        }

        // Of any other rate, never more than it says.
        #[test]
        fn it_never_gives_more_than_the_rate(
            rate in 1_u64..2_000_000_000,
            burst in 1_u64..1_000_000_000,
            steps in vec((0_u64..100, 1_u64..1_000_000_000), 1..100),
        ) {
            let limit = Rate::new(rate, burst).unwrap();
            let bucket = Bucket::default();
            let (mut now, mut taken) = (0, 0_u128);
            for (pause, n) in steps {
                now += pause;
                if bucket.take(&limit, Tick(now), n).is_ok() {
                    taken += u128::from(n);
                }
                let came = u128::from(now * 1_000_000 + SLACK) * u128::from(rate);
                prop_assert!(taken * 1_000_000_000 <= u128::from(burst) * 1_000_000_000 + came);
            }
        }
    }
}
