//! Publishing wills.
//!
//! Each is published under a key of its own, and taken out of its session's record only when it has a receipt: a
//! crash in between publishes it again after the restart, and the log knows the key.

use bytestring::ByteString;
use tidings_ports::{PublishError, SubmitError};
use tidings_types::{Receipt, Refusal};

use super::Shard;
use super::keeping::{BUSY_RETRY_MS, FULL_RETRY_MS};
use super::pending::{DueWill, Waiter};
use crate::session::{KeptWill, origin_of};

impl Shard {
    pub(super) fn will_is_due(&mut self, key: ByteString, will: &KeptWill) {
        self.due_wills.push_back(DueWill::of(key, will));
    }

    /// Hands wills that are due to the log.
    pub(super) fn publish_wills(&mut self) {
        if self.wills_retry_at.is_some() {
            return;
        }
        while let Some(will) = self.due_wills.pop_front() {
            let origin = origin_of(&will.key, self.engine.epoch());
            let key = ByteString::from(format!("will:{:016x}:{:016x}", origin.0, will.id));
            let drafts = will.draft.publication(origin, key);
            let waiter = Waiter::Will(Box::new(will));
            let Err((error, waiter)) = self.submit(Some(drafts), Vec::new(), waiter) else {
                continue;
            };
            if let Waiter::Will(will) = waiter {
                match error {
                    SubmitError::Busy => self.will_again(*will, BUSY_RETRY_MS),
                    SubmitError::Failed => self.metrics.wills_lost.add(1),
                }
            }
            return;
        }
    }

    fn will_again(&mut self, will: DueWill, after_ms: u64) {
        self.due_wills.push_front(will);
        self.wills_retry_at = Some(self.clock.tick().plus_ms(after_ms));
    }

    /// A will is committed, or could not be.
    pub(super) fn will_published(
        &mut self,
        will: Box<DueWill>,
        result: &Result<Vec<Receipt>, PublishError>,
    ) {
        match result {
            Ok(_) => self.metrics.wills.add(1),
            Err(PublishError::StorageFull) => return self.will_again(*will, FULL_RETRY_MS),
            Err(error) => {
                self.metrics.wills_lost.add(1);
                self.refused(Refusal::from(*error).code);
            }
        }
        if let Some(session) = self.sessions.find(&will.key)
            && let Some(saved) = &mut session.saved
            && saved.will.as_ref().is_some_and(|kept| kept.id == will.id)
        {
            saved.will = None;
        }
        self.states.changed(will.key);
    }
}

impl DueWill {
    pub(super) fn of(key: ByteString, will: &KeptWill) -> Self {
        Self {
            key,
            id: will.id,
            draft: will.draft.clone(),
        }
    }
}
