//! Timers of one shard: a hashed wheel, so that setting and firing cost the same for any number of them.

use tidings_ports::Tick;

const SLOTS: usize = 512;
/// The width of a slot, in milliseconds: how late a timer may fire.
const SLOT_MS: u64 = 64;

/// Deadlines of keys. A key's deadline may be set anew; what fires is checked against the owner's own record,
/// so entries are never searched for and removed.
#[derive(Debug)]
pub(crate) struct Wheel<K> {
    slots: Vec<Vec<(Tick, K)>>,
    /// Every slot before this one, counted from the clock's zero, has fired.
    turned: u64,
    len: usize,
}

impl<K: Copy> Wheel<K> {
    pub fn new(now: Tick) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            turned: now.0 / SLOT_MS,
            len: 0,
        }
    }

    /// Adds an entry; a deadline that has passed fires at the next turn.
    pub fn set(&mut self, deadline: Tick, key: K) {
        let slot = (deadline.0.div_ceil(SLOT_MS)).max(self.turned + 1);
        self.slots[(slot % SLOTS as u64) as usize].push((deadline, key));
        self.len += 1;
    }

    /// Moves what is due into `due`.
    pub fn turn(&mut self, now: Tick, due: &mut Vec<(Tick, K)>) {
        let target = now.0 / SLOT_MS;
        if target <= self.turned {
            return;
        }
        // After a long pause one round visits every slot.
        let steps = (target - self.turned).min(SLOTS as u64);
        for step in 1..=steps {
            let at = ((target - steps + step) % SLOTS as u64) as usize;
            let slot = std::mem::take(&mut self.slots[at]);
            let mut later = Vec::new();
            for (deadline, key) in slot {
                if deadline <= now {
                    due.push((deadline, key));
                    self.len -= 1;
                } else {
                    later.push((deadline, key));
                }
            }
            self.slots[at] = later;
        }
        self.turned = target;
    }

    /// When to turn next, if anything is set: no later than one slot after the first deadline.
    pub fn next(&self) -> Option<Tick> {
        if self.len == 0 {
            return None;
        }
        let ahead = (1..=SLOTS as u64)
            .find(|step| !self.slots[((self.turned + step) % SLOTS as u64) as usize].is_empty())?;
        Some(Tick((self.turned + ahead) * SLOT_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timer_fires_once_and_never_early() {
        let mut wheel = Wheel::new(Tick(1_000));
        let deadlines = [
            0, 1_000, 1_063, 1_064, 1_065, 5_000, 40_000, 100_000, 1_000_000,
        ];
        for deadline in deadlines {
            wheel.set(Tick(deadline), deadline);
        }
        let mut fired = Vec::new();
        while let Some(next) = wheel.next() {
            let mut due = Vec::new();
            wheel.turn(next, &mut due);
            for (Tick(deadline), _) in due {
                assert!(deadline <= next.0, "early");
                assert!(next.0 - deadline < 2 * SLOT_MS || deadline < 1_064, "late");
                fired.push(deadline);
            }
        }
        fired.sort_unstable();
        assert_eq!(fired, deadlines);
    }

    #[test]
    fn a_long_pause_fires_everything_that_passed() {
        let mut wheel = Wheel::new(Tick(0));
        for deadline in 0..2_000 {
            wheel.set(Tick(deadline * 50), deadline);
        }
        let mut due = Vec::new();
        wheel.turn(Tick(10_000_000), &mut due);
        assert_eq!(due.len(), 2_000);
        assert_eq!(wheel.next(), None);
    }
}
