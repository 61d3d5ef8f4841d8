//! Publishing: through the gate, into the log, and the receipt back.

use std::sync::Arc;

use tidings_ports::{
    Event, PublishError, ReplyTo, SessionSave, StateChange, Submission, SubmitError, Tag,
};
use tidings_types::{Draft, Principal, Protocol, Receipt, Refusal};

use super::Shard;
use super::connection::ConnectionId;
use super::pending::{PublishReply, Waiter};
use crate::gate::{self, Admitted};

impl Shard {
    /// Publishes for a peer without a conversation (an HTTP request). The reply is called once, later or now.
    pub fn publish(&mut self, principal: &Principal, drafts: Vec<Draft>, reply: PublishReply) {
        let drafts = match gate::publish(principal, drafts, &self.limits) {
            Ok(drafts) => drafts,
            Err(refusal) => {
                self.refused(refusal.code);
                return reply(Err(refusal));
            }
        };
        self.count_published(Protocol::Http, &drafts);
        let waiter = Waiter::LocalPublish(reply);
        if let Err((error, Waiter::LocalPublish(reply))) =
            self.submit(Some(drafts), Vec::new(), waiter)
        {
            let refusal = Refusal::from(error);
            self.refused(refusal.code);
            reply(Err(refusal));
        }
    }

    /// Publishes for a connection. With `save`, the session's new state is written no later than the drafts.
    pub(super) fn publish_for(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        mut drafts: Vec<Draft>,
        save: Option<SessionSave>,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let (principal, origin) = (Arc::clone(&connection.principal), connection.origin);
        let protocol = connection.protocol;
        for draft in &mut drafts {
            draft.origin = origin;
        }
        let admitted = gate::publish(&principal, drafts, &self.limits).and_then(|drafts| {
            let save = save.map(|save| self.admit_save(id, save)).transpose()?;
            Ok((drafts, save))
        });
        let (drafts, save) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(id, tag, refusal),
        };
        self.count_published(protocol, &drafts);
        let before = save.and_then(|(session, saved)| self.replace_saved(session, saved));
        let change = before
            .as_ref()
            .and_then(|(session, _)| self.change_of(*session));
        let state = change.as_ref().map(|change| change.name.clone());
        let states = change.into_iter().collect();
        match self.submit(Some(drafts), states, Waiter::Publish { id, tag, state }) {
            Ok(()) => {
                if let Some(connection) = self.connection(id) {
                    connection.in_flight += 1;
                }
            }
            Err((error, waiter)) => {
                // What was to be written before still is.
                if let Waiter::Publish {
                    state: Some(name), ..
                } = waiter
                {
                    self.states.changed(name);
                }
                // Nothing of a refused command is carried out.
                if let Some((session, saved)) = before
                    && let Some(session) = self.sessions.get(session)
                {
                    session.saved = saved;
                }
                self.refuse(id, tag, error.into());
            }
        }
    }

    fn count_published(&self, protocol: Protocol, drafts: &gate::Admitted<Vec<Draft>>) {
        self.metrics.protocols[protocol.index()]
            .published
            .add(drafts.get().len() as u64);
    }

    /// Hands drafts and states to the log; gives the waiter back if it does not take them.
    pub(super) fn submit(
        &mut self,
        drafts: Option<Admitted<Vec<Draft>>>,
        states: Vec<StateChange>,
        waiter: Waiter,
    ) -> Result<(), (SubmitError, Waiter)> {
        let token = self.pending.add(waiter);
        let submission = Submission {
            drafts: drafts.map(Admitted::into_inner).unwrap_or_default(),
            states,
            reply: Some(ReplyTo {
                shard: self.index,
                token,
            }),
        };
        self.engine
            .submit(submission)
            .map_err(|error| (error, self.pending.take(token)))
    }

    pub(super) fn published(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        result: Result<Vec<Receipt>, PublishError>,
    ) {
        self.landed(id);
        match result {
            Ok(receipts) => self.tell(id, Event::Published { tag, receipts }),
            Err(error) => self.refuse(id, tag, error.into()),
        }
    }

    /// One thing less is under way for a connection, whose input may have been held back for it.
    pub(super) fn landed(&mut self, id: ConnectionId) {
        let max = self.limits.publishes_in_flight_max;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let was_held = connection.in_flight >= max;
        connection.in_flight -= 1;
        if was_held {
            self.mark_dirty(id);
        }
    }
}
