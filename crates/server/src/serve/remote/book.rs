//! Answers that are remembered for a while, and questions that several have at the same time.
//!
//! Both are bounded: over the bound, what was not used for the longest time is forgotten, and questions are refused.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidings_ports::Tick;

/// Answers that are remembered.
const ANSWERS_MAX: usize = 65_536;
/// Questions on their way, and who waits for their answers.
const WAITING_MAX: usize = 16_384;

/// Takes an answer.
pub type Waiter<V> = Box<dyn FnOnce(V) + Send>;

/// Answers by question.
pub struct Book<K, V>(Mutex<Pages<K, V>>);

struct Pages<K, V> {
    /// What was written or read since the pages were last turned.
    young: HashMap<K, (V, Tick)>,
    /// What was before.
    old: HashMap<K, (V, Tick)>,
    asked: HashMap<K, Vec<Waiter<V>>>,
    waiting: usize,
}

/// What becomes of a question.
pub enum Joined<V> {
    /// Nobody else asks it: whoever has it asks, and says the answer.
    First,
    /// It is asked already.
    Waits,
    /// Too much is asked already.
    Full(Waiter<V>),
}

impl<K, V> Default for Book<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Pages {
            young: HashMap::new(),
            old: HashMap::new(),
            asked: HashMap::new(),
            waiting: 0,
        }))
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Book<K, V> {
    fn lock(&self) -> MutexGuard<'_, Pages<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if it is remembered.
    pub fn recall(&self, question: &K, now: Tick) -> Option<V> {
        let mut pages = self.lock();
        if let Some((answer, until)) = pages.young.get(question) {
            return (*until > now).then(|| answer.clone());
        }
        let (answer, until) = pages.old.remove(question)?;
        if until <= now {
            return None;
        }
        pages.write(question.clone(), (answer.clone(), until));
        Some(answer)
    }

    /// Has somebody wait for the answer.
    pub fn join(&self, question: &K, waiter: Waiter<V>) -> Joined<V> {
        let mut pages = self.lock();
        if pages.waiting >= WAITING_MAX {
            return Joined::Full(waiter);
        }
        pages.waiting += 1;
        if let Some(waiters) = pages.asked.get_mut(question) {
            waiters.push(waiter);
            return Joined::Waits;
        }
        pages.asked.insert(question.clone(), vec![waiter]);
        Joined::First
    }

    /// Tells everybody who waits the answer, and remembers it for as long as it counts.
    pub fn answer(&self, question: &K, answer: &V, until: Option<Tick>) {
        let waiters = {
            let mut pages = self.lock();
            if let Some(until) = until {
                pages.write(question.clone(), (answer.clone(), until));
            }
            let waiters = pages.asked.remove(question).unwrap_or_default();
            pages.waiting -= waiters.len();
            waiters
        };
        for waiter in waiters {
            waiter(answer.clone());
        }
    }
}

impl<K: Eq + Hash, V> Pages<K, V> {
    fn write(&mut self, question: K, answer: (V, Tick)) {
        if self.young.len() >= ANSWERS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, answer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn an_answer_counts_until_its_end() {
        let book: Book<u32, u32> = Book::default();
        book.answer(&1, &10, Some(Tick(5)));
        book.answer(&2, &20, None);
        assert_eq!(book.recall(&1, Tick(4)), Some(10));
        assert_eq!(book.recall(&1, Tick(5)), None);
        assert_eq!(book.recall(&2, Tick(0)), None);
    }

    #[test]
    fn equal_questions_are_asked_once() {
        let book: Book<u32, u32> = Book::default();
        let sum = Arc::new(AtomicU32::new(0));
        let waiter = || {
            let sum = Arc::clone(&sum);
            Box::new(move |answer| {
                sum.fetch_add(answer, Relaxed);
            })
        };
        assert!(matches!(book.join(&1, waiter()), Joined::First));
        assert!(matches!(book.join(&1, waiter()), Joined::Waits));
        assert!(matches!(book.join(&2, waiter()), Joined::First));
        book.answer(&1, &10, None);
        assert_eq!(sum.load(Relaxed), 20);
        assert!(matches!(book.join(&1, waiter()), Joined::First));
    }

    #[test]
    fn what_is_remembered_and_waits_is_bounded() {
        let book: Book<usize, usize> = Book::default();
        for question in 0..3 * ANSWERS_MAX {
            book.answer(&question, &question, Some(Tick(9)));
            // What is used stays.
            assert_eq!(book.recall(&0, Tick(0)), Some(0));
        }
        let pages = book.lock();
        assert!(pages.young.len() + pages.old.len() <= ANSWERS_MAX);
        drop(pages);
        for question in 0..WAITING_MAX {
            assert!(matches!(
                book.join(&question, Box::new(|_| ())),
                Joined::First
            ));
        }
        assert!(matches!(book.join(&0, Box::new(|_| ())), Joined::Full(_)));
    }
}
