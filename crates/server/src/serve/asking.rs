//! How many credentials of one address other servers are asked about at a time: what waits for those servers is
//! bounded for all together, and one address must not take all of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A quarter of what may wait for one server, and several times what it is asked at once.
const PER_ADDRESS_MAX: usize = 256;

/// Where credentials come from, as far as that is known.
type From = Option<IpAddr>;

/// Who is asked about, by address.
#[derive(Default)]
pub struct Asking(Mutex<HashMap<From, usize>>);

/// One question, until this is dropped.
pub struct Question {
    of: Arc<Asking>,
    from: From,
}

impl Asking {
    /// Counts one more question; `None` if the address has too many.
    pub fn begin(self: &Arc<Self>, from: From) -> Option<Question> {
        let mut counts = self.lock();
        let count = counts.entry(from).or_default();
        if *count >= PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        let of = Arc::clone(self);
        Some(Question { of, from })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<From, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let asking = Arc::<Asking>::default();
        let from = |host| Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)));
        let begin = |host| asking.begin(from(host));
        let mut questions: Vec<Question> = (0..PER_ADDRESS_MAX).filter_map(|_| begin(1)).collect();
        assert_eq!(questions.len(), PER_ADDRESS_MAX);
        assert!(begin(1).is_none());
        assert!(begin(2).is_some());
        questions.pop();
        assert!(begin(1).is_some());
        questions.clear();
        assert!(asking.lock().is_empty());
    }
}
