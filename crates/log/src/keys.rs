//! Idempotency keys: what was published with which key, within the window.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::segment::KeyMark;

/// The keys that are remembered, oldest first. Only hashes: keyed by a secret, so that nobody can choose two
/// keys that collide.
#[derive(Debug)]
pub(crate) struct Keys {
    secret: [u8; 16],
    window_ms: u64,
    max: usize,
    known: HashMap<u128, (u64, u64)>,
    order: VecDeque<(u128, u64, u64)>,
}

impl Keys {
    pub(crate) fn new(secret: [u8; 16], window_ms: u64, max: usize) -> Self {
        Self {
            secret,
            window_ms,
            max,
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The hash of a key on a topic.
    pub(crate) fn hash(&self, topic: &str, key: &str) -> u128 {
        hash(&self.secret, topic, key)
    }

    /// The offset and time of the message that was published with it.
    pub(crate) fn get(&self, hash: u128, now: u64) -> Option<(u64, u64)> {
        let (offset, time) = *self.known.get(&hash)?;
        (now.saturating_sub(time) <= self.window_ms).then_some((offset, time))
    }

    pub(crate) fn insert(&mut self, mark: KeyMark) {
        self.known.insert(mark.hash, (mark.offset, mark.time));
        self.order.push_back((mark.hash, mark.offset, mark.time));
    }

    /// Takes back the newest, which were not committed.
    pub(crate) fn undo_after(&mut self, offset: u64) {
        while let Some((hash, at, _)) = self.order.back().copied() {
            if at <= offset {
                break;
            }
            self.order.pop_back();
            if self.known.get(&hash).is_some_and(|known| known.0 == at) {
                self.known.remove(&hash);
            }
        }
    }

    /// Forgets what is past the window or over the bound; says how many went early.
    pub(crate) fn trim(&mut self, now: u64) -> u64 {
        let mut early = 0;
        while let Some((hash, offset, time)) = self.order.front().copied() {
            let passed = now.saturating_sub(time) > self.window_ms;
            if !passed && self.order.len() <= self.max {
                break;
            }
            self.order.pop_front();
            // A key whose window passed may have been used again since.
            if self.known.get(&hash).is_some_and(|known| known.0 == offset) {
                self.known.remove(&hash);
                early += u64::from(!passed);
            }
        }
        early
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// The newest of these, up to the bound, each once, in offset order.
pub(crate) fn newest_keys(mut keys: Vec<KeyMark>, max: usize) -> Vec<KeyMark> {
    keys.sort_unstable_by_key(|key| key.offset);
    keys.dedup_by_key(|key| key.offset);
    keys.drain(..keys.len().saturating_sub(max));
    keys
}

/// The hash of a key on a topic.
pub(crate) fn hash(secret: &[u8; 16], topic: &str, key: &str) -> u128 {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write_u64(topic.len() as u64);
    hasher.write(topic.as_bytes());
    hasher.write(key.as_bytes());
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(hash: u128, offset: u64, time: u64) -> KeyMark {
        KeyMark { hash, offset, time }
    }

    #[test]
    fn keys_are_forgotten_after_the_window_and_over_the_bound() {
        let mut keys = Keys::new([0; 16], 100, 2);
        keys.insert(mark(1, 1, 0));
        keys.insert(mark(2, 2, 50));
        assert_eq!(keys.get(1, 100), Some((1, 0)));
        assert_eq!(
            keys.get(1, 101),
            None,
            "past the window, though not trimmed"
        );
        assert_eq!((keys.trim(101), keys.len()), (0, 1));
        keys.insert(mark(3, 3, 101));
        keys.insert(mark(4, 4, 101));
        assert_eq!((keys.trim(101), keys.len()), (1, 2), "one went early");
        assert_eq!(keys.get(2, 101), None);
    }

    #[test]
    fn keys_of_a_failed_batch_are_taken_back() {
        let mut keys = Keys::new([0; 16], 100, 9);
        keys.insert(mark(1, 1, 0));
        keys.insert(mark(2, 2, 0));
        keys.undo_after(1);
        assert_eq!((keys.get(1, 0), keys.get(2, 0)), (Some((1, 0)), None));
    }

    #[test]
    fn topic_and_key_do_not_run_together() {
        assert_ne!(hash(&[0; 16], "ab", "c"), hash(&[0; 16], "a", "bc"));
    }
}
