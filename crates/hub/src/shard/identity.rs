//! Who the peers of connections are, and until when.
//!
//! Invariant: a connection whose principal has ended is told goodbye, and its principal from then on is nobody: it
//! never becomes anonymous.

use std::sync::Arc;
use std::time::Duration;

use tidings_ports::{Attempt, Command, Credential, Event, Tag};
use tidings_types::{Principal, Refusal, RefusalCode};

use super::Shard;
use super::connection::{ConnectionId, Ended};
use crate::gate;
use crate::inbox::Note;

/// When a peer whose credential has ended may come back with a new one.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

impl Shard {
    /// Keeps a command of a connection back while it is not known who the peer is.
    pub(super) fn hold_unidentified(
        &mut self,
        id: ConnectionId,
        command: Command,
    ) -> Option<Command> {
        let Some(connection) = self.connection(id).filter(|it| !it.knows_closed) else {
            return Some(command);
        };
        match &mut connection.unidentified {
            // How many there may be is for the conversation to bound: its peer is not read meanwhile.
            Some(it) if !matches!(command, Command::Refused(_)) => {
                it.waiting.push_back(command);
                None
            }
            _ => Some(command),
        }
    }

    /// Asks who the peer of a connection is.
    pub(super) fn authenticate_for(&mut self, id: ConnectionId, tag: Tag, credential: Credential) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.unidentified = Some(Box::default());
        let attempt = Attempt {
            credential,
            protocol: connection.protocol,
            address: connection.address,
        };
        let (inboxes, index) = (Arc::clone(&self.inboxes), self.index);
        let outcome = move |outcome| inboxes.send(index, Note::Identified(id, tag, outcome));
        self.authenticator.authenticate(attempt, Box::new(outcome));
    }

    /// It is known who the peer is, or that it is not who it says.
    pub(super) fn identified(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        outcome: Result<Arc<Principal>, Refusal>,
    ) {
        let now = self.clock.now();
        let Some(connection) = self.connection(id) else {
            return;
        };
        let unidentified = connection.unidentified.take().unwrap_or_default();
        let outcome = outcome.and_then(|new| check_renewal(&connection.principal, new));
        match outcome {
            Ok(principal) if principal.has_ended(now) => {
                let detail = "the credential has expired: get a new one";
                self.refuse(id, tag, Refusal::new(RefusalCode::Unauthorized, detail));
            }
            Ok(principal) => {
                let expires = principal.expires;
                connection.principal = principal;
                self.schedule_end(id);
                self.tell(id, Event::Authenticated { tag, expires });
                self.recheck_subscriptions(id);
            }
            Err(refusal) => self.refuse(id, tag, refusal),
        }
        // Before whatever its conversation asked for in answer.
        let later = std::mem::take(&mut self.commands);
        let waiting = unidentified
            .waiting
            .into_iter()
            .map(|command| (id, command));
        self.commands = waiting.chain(later).collect();
        // It is read again.
        self.mark_dirty(id);
    }

    /// Ends the subscriptions that a connection's principal may not have.
    fn recheck_subscriptions(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let principal = Arc::clone(&connection.principal);
        for subscription in connection.subscriptions.clone() {
            let Some(it) = self.subscription(subscription) else {
                continue;
            };
            let key = it.key;
            let filters = match &it.membership {
                Some(membership) => &membership.filters[..],
                None => &it.filters[..],
            };
            if let Err(refusal) = gate::check_grants(&principal, filters) {
                self.end_subscription(id, subscription);
                self.refused(refusal.code);
                self.tell(id, Event::Lost { key, refusal });
            }
        }
    }

    /// Sets when a connection's principal is looked at, if it has an end.
    pub(super) fn schedule_end(&mut self, id: ConnectionId) {
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Some(expires) = connection.principal.expires else {
            return;
        };
        let left = u64::try_from(expires.since(now).as_millis()).unwrap_or(u64::MAX);
        let end = tick.plus_ms(left);
        if connection.scheduled.is_none_or(|scheduled| end < scheduled) {
            connection.scheduled = Some(end);
            self.wheel.set(end, id);
        }
    }

    /// Says goodbye to a connection whose principal has ended.
    pub(super) fn end_if_over(&mut self, id: ConnectionId) {
        let now = self.clock.now();
        let Some(connection) = self.connection(id).filter(|it| it.ended == Ended::No) else {
            return;
        };
        if !connection.principal.has_ended(now) {
            return self.schedule_end(id);
        }
        let detail = if connection.principal.is_nobody() {
            "no credential was shown in time: send a password, a key or a token"
        } else {
            "the credential has expired: come back with a new one"
        };
        connection.principal = Arc::new(Principal::nobody(None));
        connection.unidentified = None;
        let refusal = Refusal::new(RefusalCode::Unauthorized, detail);
        self.refused(refusal.code);
        self.tell(
            id,
            Event::Drain {
                reconnect_after: RECONNECT_AFTER,
                refusal,
            },
        );
    }
}

/// A connection stays with who it is: what it subscribed to, and its session, are that principal's.
fn check_renewal(old: &Principal, new: Arc<Principal>) -> Result<Arc<Principal>, Refusal> {
    let is_first = old.is_nobody() || old.source == Principal::ANONYMOUS;
    if is_first || (old.name == new.name && old.source == new.source) {
        return Ok(new);
    }
    Err(Refusal::new(
        RefusalCode::Unauthorized,
        "the credential is somebody else's than the one before: open a connection of its own for it",
    ))
}
