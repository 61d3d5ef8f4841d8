//! When to ask the authority, as values: for how long a certificate is good, and how long to wait after a failure.

use std::time::Duration;

use tidings_types::Timestamp;

use super::Outcome;

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: Timestamp,
    /// The last second.
    pub until: Timestamp,
}

/// An authority that could not be reached may be there again in a moment.
const UNREACHABLE_MS: u64 = 1_000;
/// What an authority refused is seldom right a moment later, and authorities count: Let's Encrypt permits five
/// failed validations of a name in an hour, which four pauses of 1, 3, 9 and 27 minutes just keep.
const REFUSED_MS: u64 = 60_000;
/// The longest pause of our own.
const PAUSE_MS_MAX: u64 = 6 * 3_600_000;
/// The longest pause that an authority is believed: the longest window of its limits.
const TOLD_MAX: Duration = Duration::from_hours(7 * 24);

impl Validity {
    /// When to renew: when two thirds of the life are over, or a little earlier, so that servers that were started together
    /// do not come together.
    pub fn due(self, random: u64) -> Timestamp {
        let life = self.until.0.saturating_sub(self.from.0);
        let early = random % (life / 30 + 1);
        Timestamp(
            self.from
                .0
                .saturating_add(life / 3 * 2)
                .saturating_sub(early),
        )
    }
}

/// How long to wait after so many failures in a row, the last one of which was this; at least as long as the authority says.
pub fn pause(failures: u32, last: Outcome, told: Option<Duration>, random: u64) -> Duration {
    let first = match last {
        Outcome::Unreachable => UNREACHABLE_MS,
        // Of no use, where one that was issued counts as a failure.
        Outcome::Issued | Outcome::Refused | Outcome::Failed => REFUSED_MS,
    };
    let steps = failures.saturating_sub(1).min(20);
    let ms = first.saturating_mul(3_u64.pow(steps)).min(PAUSE_MS_MAX);
    let jitter = random % (ms / 10 + 1);
    let told = told.unwrap_or_default().min(TOLD_MAX);
    Duration::from_millis(ms + jitter).max(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over_and_not_much_earlier() {
        let validity = Validity {
            from: Timestamp(10 * DAY),
            until: Timestamp(100 * DAY),
        };
        assert_eq!(validity.due(0), Timestamp(70 * DAY));
        for random in [1, 12_345_678_901, u64::MAX] {
            let due = validity.due(random).0;
            assert!((67 * DAY..70 * DAY).contains(&due), "{due}");
        }
        let never = Validity {
            from: Timestamp(5),
            until: Timestamp(4),
        };
        assert_eq!(never.due(9), Timestamp(5));
    }

    #[test]
    fn pauses_grow_and_are_never_shorter_than_what_the_authority_says() {
        let seconds = |failures, last| pause(failures, last, None, 0).as_secs();
        assert_eq!(
            [1, 2, 3, 4].map(|n| seconds(n, Outcome::Unreachable)),
            [1, 3, 9, 27]
        );
        assert_eq!(
            [1, 2, 3, 4].map(|n| seconds(n, Outcome::Refused)),
            [60, 180, 540, 1_620]
        );
        for failures in [9, 50, u32::MAX] {
            assert_eq!(seconds(failures, Outcome::Refused), 6 * 3_600);
        }
        assert!(pause(1, Outcome::Refused, None, u64::MAX) <= Duration::from_secs(66));
        let told = |seconds| pause(1, Outcome::Refused, Some(Duration::from_secs(seconds)), 0);
        assert_eq!(told(5).as_secs(), 60);
        assert_eq!(told(7_200).as_secs(), 7_200);
        assert_eq!(told(u64::MAX), TOLD_MAX);
    }
}
