//! Heart-beats (Heart-beating): ours on time, theirs with patience.
//!
//! Any byte counts as a sign of life. A peer that was silent for three times what was agreed is cut off: the timers
//! of a browser's hidden tab are late, and the specification leaves the margin to us.

use tidings_ports::Tick;
use tidings_types::{Refusal, RefusalCode};

/// After so many missed heart-beats a peer is dead.
const MISSED_MAX: u64 = 3;

/// What was agreed, and when the next is due. Zero is none at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeartBeat {
    /// Between two signs of life of ours at most.
    pub(super) out_ms: u64,
    /// Between two of the peer's.
    pub(super) in_ms: u64,
    heard: Tick,
    due: Tick,
}

impl HeartBeat {
    /// Agrees on what the header `heart-beat` of a CONNECT asks for, if ours is so often in both directions.
    pub(super) fn agree(header: Option<&str>, ours_ms: u64) -> Result<Self, Refusal> {
        let Some(header) = header else {
            return Ok(Self::default());
        };
        let number = |text: &str| {
            let text = text.trim();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let pair = header.split_once(',');
        let Some((sends, wants)) = pair.and_then(|(a, b)| Some((number(a)?, number(b)?))) else {
            let detail = "`heart-beat` is two numbers of milliseconds, what you send and what you want, as in `10000,10000`";
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        };
        let agreed = |theirs: u64| match theirs.min(ours_ms) {
            0 => 0,
            _ => theirs.max(ours_ms),
        };
        Ok(Self {
            out_ms: agreed(wants),
            in_ms: agreed(sends),
            ..Self::default()
        })
    }

    pub(super) fn heard(&mut self, now: Tick) {
        self.heard = now;
    }

    /// Sets when the next of ours is due: an eighth before it must be there, or up to as much again, so that peers
    /// that came together do not stay together.
    pub(super) fn schedule(&mut self, now: Tick, random: u64) {
        let eighth = self.out_ms / 8;
        let early = eighth + random % (eighth + 1);
        self.due = now.plus_ms((self.out_ms - early).max(1));
    }

    pub(super) fn is_due(&self, now: Tick) -> bool {
        self.out_ms > 0 && now >= self.due
    }

    pub(super) fn is_dead(&self, now: Tick) -> bool {
        self.dead_at().is_some_and(|at| now >= at)
    }

    fn dead_at(&self) -> Option<Tick> {
        let ms = self.in_ms.saturating_mul(MISSED_MAX);
        (self.in_ms > 0).then(|| self.heard.plus_ms(ms))
    }

    pub(super) fn wake(&self) -> Option<Tick> {
        let due = (self.out_ms > 0).then_some(self.due);
        [due, self.dead_at()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_takes_the_longer_of_both_and_none_if_either_has_none() {
        for (header, expect) in [
            (None, Some((0, 0))),
            (Some("0,0"), Some((0, 0))),
            (Some("5000,0"), Some((0, 10_000))),
            (Some("0,5000"), Some((10_000, 0))),
            (Some("20000,30000"), Some((30_000, 20_000))),
            (Some(" 1 , 1 "), Some((10_000, 10_000))),
            (Some("1"), None),
            (Some("a,1"), None),
            (Some("-1,1"), None),
            (Some("1,2,3"), None),
            (Some(","), None),
            (Some("99999999999999999999,1"), None),
        ] {
            let agreed = HeartBeat::agree(header, 10_000).ok();
            let got = agreed.map(|it| (it.out_ms, it.in_ms));
            assert_eq!(got, expect, "{header:?}");
        }
        let none = HeartBeat::agree(Some("1,1"), 0).unwrap();
        assert_eq!((none.out_ms, none.in_ms), (0, 0));
    }

    #[test]
    fn ours_is_early_and_theirs_may_be_late() {
        let mut beat = HeartBeat::agree(Some("800,800"), 800).unwrap();
        beat.heard(Tick(0));
        for random in 0..500 {
            beat.schedule(Tick(0), random);
            assert!(
                beat.is_due(Tick(700)) && !beat.is_due(Tick(599)),
                "{random}"
            );
        }
        assert!(!beat.is_dead(Tick(2_399)));
        assert!(beat.is_dead(Tick(2_400)));
        beat.heard(Tick(2_399));
        assert!(!beat.is_dead(Tick(4_000)));
    }
}
