//! Writing what has to be kept: the states of sessions and queues.

use tidings_ports::{Event, PublishError, StateChange, SubmitError};
use tidings_types::Receipt;

use super::Shard;
use super::pending::Waiter;
use crate::queue::{self, Settled};
use crate::session::{Session, SessionId};
use crate::states::Written;

/// How long a shard waits before it tries again to write what the log had no room for.
pub(super) const BUSY_RETRY_MS: u64 = 20;
/// The same when the storage is full.
pub(super) const FULL_RETRY_MS: u64 = 1_000;

impl Shard {
    /// What is to be written of a session, if anything.
    pub(super) fn change_of(&mut self, session: SessionId) -> Option<StateChange> {
        let session = self.sessions.get(session)?;
        if !session.is_stored && !session.is_kept() {
            return None;
        }
        let name = session.key.clone();
        let value = session.record();
        self.states.supersede(&name);
        Some(StateChange { name, value })
    }

    /// Hands changed states to the log.
    pub(super) fn write_states(&mut self) {
        while let Some(mut names) = self.states.take() {
            let states = names
                .iter_mut()
                .map(|written| self.change_to_write(written))
                .collect();
            let Err((error, waiter)) = self.submit(None, states, Waiter::States(names)) else {
                continue;
            };
            let Waiter::States(names) = waiter else {
                continue;
            };
            match error {
                SubmitError::Busy => {
                    let retry_at = self.clock.tick().plus_ms(BUSY_RETRY_MS);
                    self.states.put_back(names, retry_at);
                }
                SubmitError::Failed => self.states_written(names, &Err(PublishError::Failed)),
            }
        }
    }

    /// The newest value of a state. What is not there any more is forgotten.
    fn change_to_write(&mut self, written: &mut Written) -> StateChange {
        let name = written.name.clone();
        let value = if queue::is_queue(&name) {
            let record = self.queue_record(&name);
            written.sitting = record.as_ref().and_then(|(_, sitting)| *sitting);
            record.map(|(record, _)| record)
        } else {
            self.sessions.find(&name).and_then(Session::record)
        };
        StateChange { name, value }
    }

    /// States are written, or could not be.
    pub(super) fn states_written(
        &mut self,
        names: Vec<Written>,
        result: &Result<Vec<Receipt>, PublishError>,
    ) {
        let Err(error) = result else {
            self.states.done();
            for written in names {
                for (id, tag) in written.tags {
                    self.landed(id);
                    self.tell(id, Event::Saved { tag });
                }
                self.tell_settled(&written.awaiting, Settled::Durable);
                self.queue_written(&written.name, written.sitting);
            }
            return;
        };
        let mut names = names;
        for written in &mut names {
            for (id, tag) in std::mem::take(&mut written.tags) {
                self.landed(id);
                self.refuse(id, tag, (*error).into());
            }
            let awaiting = std::mem::take(&mut written.awaiting);
            self.tell_settled(&awaiting, Settled::Failed(*error));
            self.queue_not_written(&written.name, *error);
        }
        if *error == PublishError::Failed {
            // Nothing is written any more until the server is started again.
            return self.states.done();
        }
        let retry_at = self.clock.tick().plus_ms(FULL_RETRY_MS);
        self.states.put_back(names, retry_at);
    }
}
