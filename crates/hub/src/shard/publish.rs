//! Publishing: through the gate, into the log, and the receipt back.

use std::sync::Arc;

use tidings_ports::{
    Event, PublishError, ReplyTo, SessionSave, Settle, StateChange, Submission, SubmitError, Tag,
};
use tidings_types::{Draft, Protocol, Receipt, Refusal};

use super::Shard;
use super::connection::{ConnectionId, Peer};
use super::pending::{PublishReply, Publisher, Waiter};
use crate::gate::{self, Admitted};
use crate::session::{Saved, SessionId};

impl Shard {
    /// Publishes for a peer without a conversation (an HTTP request). The reply is called once, later or now.
    pub fn publish(&mut self, peer: &Peer, drafts: Vec<Draft>, reply: PublishReply) {
        let admitted = gate::publish(&peer.principal, drafts, &self.limits).and_then(|drafts| {
            self.meters
                .publish_once(peer, drafts.get(), self.clock.tick())?;
            Ok(drafts)
        });
        let drafts = match admitted {
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

    /// Publishes for a connection. With `save`, the session's new state is written together with the drafts; with
    /// `settle`, messages of work queues are settled together with them.
    pub(super) fn publish_for(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        mut drafts: Vec<Draft>,
        save: Option<SessionSave>,
        settle: &[Settle],
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connection(id) else {
            return Ok(());
        };
        let (principal, origin) = (Arc::clone(&connection.principal), connection.origin);
        let protocol = connection.protocol;
        for draft in &mut drafts {
            draft.origin = origin;
        }
        let drafts = if drafts.is_empty() && !settle.is_empty() {
            None
        } else {
            Some(gate::publish(&principal, drafts, &self.limits)?)
        };
        if let Some(drafts) = &drafts {
            self.charge_publish(id, drafts)?;
        }
        let save = save.map(|save| self.admit_save(id, save)).transpose()?;
        if let Some(drafts) = &drafts {
            self.count_published(protocol, drafts);
        }
        if !settle.is_empty() {
            return self.begin_transaction((id, tag), drafts, save, settle);
        }
        self.submit_saving(drafts, save, None, Publisher::Connection(id, tag))?;
        if let Some(connection) = self.connection(id) {
            connection.in_flight += 1;
        }
        Ok(())
    }

    /// Hands drafts to the log, together with a session's new state and one more state.
    pub(super) fn submit_saving(
        &mut self,
        drafts: Option<Admitted<Vec<Draft>>>,
        save: Option<(SessionId, Saved)>,
        state: Option<StateChange>,
        whose: Publisher,
    ) -> Result<(), SubmitError> {
        let before = save.and_then(|(session, saved)| self.replace_saved(session, saved));
        let change = before
            .as_ref()
            .and_then(|(session, _)| self.change_of(*session));
        let saved = change.as_ref().map(|change| change.name.clone());
        let states = change.into_iter().chain(state).collect();
        let waiter = Waiter::Publish {
            whose,
            state: saved,
        };
        let Err((error, waiter)) = self.submit(drafts, states, waiter) else {
            return Ok(());
        };
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
        Err(error)
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
        whose: Publisher,
        result: Result<Vec<Receipt>, PublishError>,
    ) {
        let (id, tag) = match whose {
            Publisher::Connection(id, tag) => (id, tag),
            Publisher::Transaction(at) => return self.transaction_done(at, result),
        };
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
