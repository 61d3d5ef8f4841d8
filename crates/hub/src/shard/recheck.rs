//! Asking again who the peers are: something was revoked, or read again.
//!
//! Invariant: once what a credential stands for has ended, and all shards were told ([`Inboxes::recheck`]), no
//! connection of it is left. Who was let in before it ended, and is not a connection yet, is asked for when it becomes
//! one: either it sees by then that it has ended, or the note comes after it.
//!
//! [`Inboxes::recheck`]: crate::Inboxes::recheck

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tidings_ports::Standing;

use super::Shard;
use super::connection::{ConnectionId, Ended};

/// Connections that are asked for before the shard's other work gets its turn.
const CONNECTIONS_A_TURN: usize = 4_096;

type Done = Box<dyn FnOnce(u64) + Send>;

/// One question to all shards. When the last of them is through with it, it is told how many connections ended.
pub(crate) struct Recheck {
    ended: AtomicU64,
    done: Mutex<Option<Done>>,
}

impl Recheck {
    pub fn new(done: Done) -> Self {
        Self {
            ended: AtomicU64::new(0),
            done: Mutex::new(Some(done)),
        }
    }
}

impl Drop for Recheck {
    fn drop(&mut self) {
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = done.take() {
            done(self.ended.load(Relaxed));
        }
    }
}

impl fmt::Debug for Recheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recheck")
    }
}

/// How far a shard is.
#[derive(Debug, Default)]
pub(super) struct Rechecking {
    /// The slot that is next.
    next: usize,
    /// Whoever waits for it.
    of: Vec<Arc<Recheck>>,
}

impl Shard {
    /// Asks for every connection again, a part of them in each turn.
    pub(super) fn recheck_all(&mut self, recheck: Arc<Recheck>) {
        // What was asked before it was revoked is asked again.
        let rechecking = self.rechecking.get_or_insert_default();
        rechecking.next = 0;
        rechecking.of.push(recheck);
    }

    pub(super) fn go_on_rechecking(&mut self) {
        let Some(mut rechecking) = self.rechecking.take() else {
            return;
        };
        let slots = self.connections.capacity();
        let end = slots.min(rechecking.next + CONNECTIONS_A_TURN);
        let mut ended = 0;
        for slot in rechecking.next..end {
            let id = self.connections.get(slot).map(|it| it.id);
            ended += u64::from(id.is_some_and(|id| self.recheck(id)));
        }
        for recheck in &rechecking.of {
            recheck.ended.fetch_add(ended, Relaxed);
        }
        if end < slots {
            rechecking.next = end;
            self.rechecking = Some(rechecking);
            self.inbox.call();
        }
    }

    /// Asks again who the peer of a connection is, and whether it ended by that.
    pub(super) fn recheck(&mut self, id: ConnectionId) -> bool {
        let open = self.connections.get(id.slot());
        let open = open.filter(|it| it.id == id && it.ended == Ended::No);
        // Who is still to be let in is asked for then.
        let Some(connection) = open.filter(|it| !it.principal.is_nobody()) else {
            return false;
        };
        match self.authenticator.standing(&connection.principal) {
            Standing::Good => false,
            Standing::Changed(principal) => {
                let may_other = connection.principal.grants != principal.grants;
                self.take_on(id, principal);
                // Where they are the same nobody has to be asked again for what they do not decide.
                if may_other {
                    self.recheck_subscriptions(id);
                }
                false
            }
            Standing::Ended(refusal) => {
                self.shared.revoked();
                self.expel(id, refusal);
                true
            }
        }
    }
}
