//! What waits in [`super::logins`]: credentials for a thread that judges them, and refusals for their time.
//!
//! No address stands in another's way: those that have something to be judged take turns, and where there is no room
//! left, the one that takes most of it gives way. Everything is bounded.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;

use tidings_ports::Tick;

/// Attempts that wait for a thread.
const READY_MAX: usize = 256;
/// Attempts that wait for their time, and as many refusals.
const LATER_MAX: usize = 4_096;
/// Attempts of one address that wait for their time: with the longest delay, the number of guesses that it has in that.
const LATER_PER_ADDRESS_MAX: usize = 32;

/// Where an attempt comes from, as far as that is known.
type From = Option<IpAddr>;

/// Attempts to judge, and refusals to tell.
pub struct Waiting<A, R> {
    ready: HashMap<From, VecDeque<A>>,
    /// Whose turn it is: each address in `ready`, once.
    turns: VecDeque<From>,
    ready_count: usize,
    later: BinaryHeap<Reverse<Later<(From, A)>>>,
    /// How many of `later` are of an address.
    later_of: HashMap<From, usize>,
    refusals: BinaryHeap<Reverse<Later<R>>>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<A, R> {
    /// Judge this.
    Judge(A),
    /// Tell this.
    Tell(R),
    /// Nothing before that time, if there is one.
    Wait(Option<Tick>),
}

struct Later<T> {
    at: Tick,
    what: T,
}

impl<T> PartialEq for Later<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<T> Eq for Later<T> {}

impl<T> PartialOrd for Later<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Later<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl<A, R> Default for Waiting<A, R> {
    fn default() -> Self {
        Self {
            ready: HashMap::new(),
            turns: VecDeque::new(),
            ready_count: 0,
            later: BinaryHeap::new(),
            later_of: HashMap::new(),
            refusals: BinaryHeap::new(),
        }
    }
}

impl<A, R> Waiting<A, R> {
    /// Lets an attempt wait for its turn. Gives one back if there is no room: this, or the last one of whoever has
    /// more of them.
    pub fn push(&mut self, from: From, attempt: A) -> Option<A> {
        let mut given_way = None;
        if self.ready_count >= READY_MAX {
            let most = self.ready.iter().max_by_key(|(_, attempts)| attempts.len());
            let (most, count) = most.map_or((from, 0), |(from, them)| (*from, them.len()));
            let own = self.ready.get(&from).map_or(0, VecDeque::len);
            // It would only change places with them.
            if own + 1 >= count {
                return Some(attempt);
            }
            given_way = self.ready.get_mut(&most).and_then(VecDeque::pop_back);
            self.ready_count -= 1;
        }
        self.make_ready(from, attempt);
        given_way
    }

    fn make_ready(&mut self, from: From, attempt: A) {
        let attempts = self.ready.entry(from).or_default();
        if attempts.is_empty() {
            self.turns.push_back(from);
        }
        attempts.push_back(attempt);
        self.ready_count += 1;
    }

    /// Lets an attempt wait until `at`, and for its turn from then on. Gives it back if there is no room.
    pub fn push_later(&mut self, from: From, at: Tick, attempt: A) -> Option<A> {
        let own = self.later_of.get(&from).copied().unwrap_or_default();
        if own >= LATER_PER_ADDRESS_MAX || self.later.len() >= LATER_MAX {
            return Some(attempt);
        }
        self.later_of.insert(from, own + 1);
        let what = (from, attempt);
        self.later.push(Reverse(Later { at, what }));
        None
    }

    /// Lets a refusal wait until `at`. Gives it back if there is no room.
    pub fn tell_later(&mut self, at: Tick, refusal: R) -> Option<R> {
        if self.refusals.len() >= LATER_MAX {
            return Some(refusal);
        }
        self.refusals.push(Reverse(Later { at, what: refusal }));
        None
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Tick) -> Next<A, R> {
        // Refusals cost nothing.
        if let Some(refusal) = pop_due(&mut self.refusals, now) {
            return Next::Tell(refusal);
        }
        while let Some((from, attempt)) = pop_due(&mut self.later, now) {
            if let Some(count) = self.later_of.get_mut(&from) {
                *count -= 1;
                if *count == 0 {
                    self.later_of.remove(&from);
                }
            }
            self.make_ready(from, attempt);
        }
        if let Some(attempt) = self.take_turn() {
            return Next::Judge(attempt);
        }
        let first = self.later.peek().map(|it| it.0.at);
        let refusal = self.refusals.peek().map(|it| it.0.at);
        Next::Wait(first.into_iter().chain(refusal).min())
    }

    fn take_turn(&mut self) -> Option<A> {
        let from = self.turns.pop_front()?;
        let attempts = self.ready.get_mut(&from)?;
        let attempt = attempts.pop_front();
        if attempts.is_empty() {
            self.ready.remove(&from);
        } else {
            self.turns.push_back(from);
        }
        self.ready_count -= usize::from(attempt.is_some());
        attempt
    }
}

fn pop_due<T>(heap: &mut BinaryHeap<Reverse<Later<T>>>, now: Tick) -> Option<T> {
    heap.peek().filter(|first| first.0.at <= now)?;
    heap.pop().map(|first| first.0.what)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    type Attempts = Waiting<(u8, usize), &'static str>;

    fn from(host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, host))
    }

    /// Lets an attempt of a host wait, and gives whose there was no room for.
    fn push(waiting: &mut Attempts, host: u8, number: usize) -> Option<u8> {
        waiting
            .push(Some(from(host)), (host, number))
            .map(|(host, _)| host)
    }

    fn judged(waiting: &mut Attempts, now: u64) -> Option<(u8, usize)> {
        match waiting.next(Tick(now)) {
            Next::Judge(attempt) => Some(attempt),
            Next::Tell(refusal) => panic!("{refusal}"),
            Next::Wait(_) => None,
        }
    }

    #[test]
    fn addresses_take_turns_and_each_keeps_its_order() {
        let mut waiting = Attempts::default();
        for (host, number) in [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1)] {
            assert_eq!(push(&mut waiting, host, number), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| judged(&mut waiting, 0)).collect();
        assert_eq!(order, [(1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (1, 2)]);
    }

    #[test]
    fn who_takes_all_the_room_gives_way_to_others() {
        let mut waiting = Attempts::default();
        for number in 0..READY_MAX {
            assert_eq!(push(&mut waiting, 1, number), None);
        }
        assert_eq!(push(&mut waiting, 1, READY_MAX), Some(1));
        assert_eq!(push(&mut waiting, 2, 0), Some(1));
        // Each has its share in the end, and no more.
        for number in 1..READY_MAX {
            push(&mut waiting, 2, number);
        }
        let shares: Vec<_> = std::iter::from_fn(|| judged(&mut waiting, 0)).collect();
        assert_eq!(shares.len(), READY_MAX);
        let of_two = shares.iter().filter(|(host, _)| *host == 2).count();
        assert!((READY_MAX / 2 - 1..=READY_MAX / 2).contains(&of_two));
        assert!(waiting.ready.is_empty() && waiting.turns.is_empty());
        assert_eq!(waiting.ready_count, 0);
    }

    #[test]
    fn attempts_that_had_to_wait_do_not_go_before_everybody_else() {
        let mut waiting = Attempts::default();
        for number in 0..LATER_PER_ADDRESS_MAX {
            let at = Tick(100);
            assert_eq!(waiting.push_later(Some(from(1)), at, (1, number)), None);
        }
        let one_more = waiting.push_later(Some(from(1)), Tick(100), (1, 99));
        assert_eq!(one_more, Some((1, 99)));
        assert_eq!(waiting.next(Tick(99)), Next::Wait(Some(Tick(100))));
        assert_eq!(push(&mut waiting, 2, 0), None);
        // All of the first address' are due by now.
        let first_two = [judged(&mut waiting, 100), judged(&mut waiting, 100)];
        assert!(first_two.contains(&Some((2, 0))), "{first_two:?}");
        let rest = std::iter::from_fn(|| judged(&mut waiting, 100)).count();
        assert_eq!(rest, LATER_PER_ADDRESS_MAX - 1);
        // There is room for it again.
        assert_eq!(waiting.push_later(Some(from(1)), Tick(200), (1, 0)), None);
    }

    #[test]
    fn refusals_are_told_in_their_time() {
        let mut waiting = Attempts::default();
        assert_eq!(waiting.next(Tick(0)), Next::Wait(None));
        assert_eq!(waiting.tell_later(Tick(20), "second"), None);
        assert_eq!(waiting.tell_later(Tick(10), "first"), None);
        assert_eq!(waiting.next(Tick(0)), Next::Wait(Some(Tick(10))));
        assert_eq!(waiting.next(Tick(30)), Next::Tell("first"));
        assert_eq!(waiting.next(Tick(30)), Next::Tell("second"));
        for _ in 0..LATER_MAX {
            assert_eq!(waiting.tell_later(Tick(1), "flood"), None);
        }
        assert_eq!(waiting.tell_later(Tick(1), "over"), Some("over"));
    }
}
