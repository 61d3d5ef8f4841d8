//! Who the peers of connections are, and until when.
//!
//! Invariant: a connection whose principal has ended is told goodbye, and its principal from then on is nobody: it
//! never becomes anonymous.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidings_ports::{Attempt, Command, Credential, Event, Standing, Tag};
use tidings_types::{Principal, Refusal, RefusalCode, Timestamp};

use super::Shard;
use super::connection::{ConnectionId, Ended};
use crate::gate;
use crate::inbox::Note;
use crate::lifetime::millis;

/// A credential that was shown for a connection by another way than the connection itself.
pub struct Renewal {
    /// Who showed it.
    pub principal: Arc<Principal>,
    /// Takes the connection's new end, or why it stays as it is. Called on the connection's shard.
    pub outcome: RenewalOutcome,
}

/// Takes what came of a [`Renewal`].
pub type RenewalOutcome = Box<dyn FnOnce(Result<Option<Timestamp>, Refusal>) + Send>;

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal")
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

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
            certificate: connection.certificate.clone(),
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
        let outcome = outcome.and_then(|new| self.still(new));
        // Who was expelled meanwhile stays so.
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Some(unidentified) = connection.unidentified.take() else {
            return;
        };
        let has_session = connection.session.is_some();
        let outcome =
            outcome.and_then(|new| check_renewal(&connection.principal, has_session, new));
        let outcome = outcome.and_then(|new| check_end(new, now));
        match outcome.and_then(|new| self.seat_for(id, new)) {
            Ok(principal) => {
                let expires = principal.expires;
                let left = expires.map(|end| end.since(now));
                self.take_on(id, principal);
                self.tell(id, Event::Authenticated { tag, expires, left });
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

    /// Who somebody is now who was let in a moment ago.
    fn still(&self, principal: Arc<Principal>) -> Result<Arc<Principal>, Refusal> {
        match self.authenticator.standing(&principal) {
            Standing::Good => Ok(principal),
            Standing::Changed(changed) => Ok(changed),
            Standing::Ended(refusal) => Err(refusal),
        }
    }

    /// Ends the subscriptions that a connection's principal may not have.
    pub(super) fn recheck_subscriptions(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let principal = Arc::clone(&connection.principal);
        for subscription in connection.subscriptions.clone() {
            let Some(it) = self.subscription(subscription) else {
                continue;
            };
            let key = it.key;
            let filters = it.wanted_filters();
            if let Err(refusal) = gate::check_grants(&principal, filters) {
                let filters = filters.to_vec();
                if self.petition_again(id, subscription, &filters) {
                    continue;
                }
                self.end_subscription(id, subscription);
                self.refused(refusal.code);
                self.tell(id, Event::Lost { key, refusal });
            }
        }
    }

    /// Asks the shard of a connection to move its end: a peer showed the credential elsewhere. If that shard is gone,
    /// the outcome is dropped.
    pub fn renew(&self, shard: usize, id: ConnectionId, renewal: Renewal) {
        self.inboxes.send(shard, Note::Renew(id, renewal));
    }

    /// Moves the end of one of this shard's connections.
    pub(super) fn renewed(&mut self, id: ConnectionId, renewal: Renewal) {
        let now = self.clock.now();
        let Renewal { principal, outcome } = renewal;
        // It may have been revoked on the way to this shard.
        let still = self.still(principal);
        let open = self.connection(id).filter(|it| it.ended == Ended::No);
        let judged = match open {
            Some(connection) => {
                let has_session = connection.session.is_some();
                still.and_then(|new| check_renewal(&connection.principal, has_session, new))
            }
            None => Err(Refusal::new(
                RefusalCode::NotFound,
                "there is no such stream, or it has ended: open it again",
            )),
        };
        let judged = judged.and_then(|new| check_end(new, now));
        outcome(judged.and_then(|new| self.seat_for(id, new)).map(|new| {
            let expires = new.expires;
            self.take_on(id, new);
            self.recheck_subscriptions(id);
            expires
        }));
    }

    /// Makes this the principal of a connection.
    pub(super) fn take_on(&mut self, id: ConnectionId, principal: Arc<Principal>) {
        if let Some(connection) = self.connection(id) {
            connection.principal = principal;
            self.begin_term(id);
        }
    }

    /// Sets when a connection's peer is told that its principal ends, and when that is.
    pub(super) fn begin_term(&mut self, id: ConnectionId) {
        let (now, notice_ms) = (self.clock.now(), self.expiry_notice_ms);
        let Some(connection) = self.connection(id) else {
            return;
        };
        let principal = &connection.principal;
        let term = principal.expires.filter(|_| !principal.is_nobody());
        // Never more than half of it, or a peer that renews at once would do nothing else.
        let notice_ms = term
            .map_or(0, |end| millis(end.since(now)) / 2)
            .min(notice_ms);
        connection.notice_ms = u32::try_from(notice_ms).unwrap_or(u32::MAX);
        self.schedule_end(id);
    }

    /// Sets when a connection's principal is looked at, if it has an end.
    fn schedule_end(&mut self, id: ConnectionId) {
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Some(expires) = connection.principal.expires else {
            return;
        };
        let left = millis(expires.since(now)).saturating_sub(connection.notice_ms.into());
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
            let left = connection.principal.expires.map(|end| end.since(now));
            let notice_ms = u64::from(connection.notice_ms);
            if let Some(left) = left.filter(|left| notice_ms > 0 && millis(*left) <= notice_ms) {
                connection.notice_ms = 0;
                self.tell(id, Event::Expiring { left });
            }
            return self.schedule_end(id);
        }
        let detail = if connection.principal.is_nobody() {
            "no credential was shown in time: send a password, a key or a token"
        } else {
            "the credential has expired: come back with a new one"
        };
        let refusal = Refusal::new(RefusalCode::Unauthorized, detail);
        self.expel(id, refusal);
    }

    /// Says goodbye to a connection whose peer is nobody any more.
    pub(super) fn expel(&mut self, id: ConnectionId, refusal: Refusal) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.principal = Arc::new(Principal::nobody(None));
        connection.unidentified = None;
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

fn check_end(principal: Arc<Principal>, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
    if !principal.has_ended(now) {
        return Ok(principal);
    }
    let detail = "the credential has expired: get a new one";
    Err(Refusal::new(RefusalCode::Unauthorized, detail))
}

/// A connection stays with who it is: what it subscribed to, and its session, are that principal's. A certificate is
/// what it had before it said anything: what it shows then takes its place.
fn check_renewal(
    old: &Principal,
    has_session: bool,
    new: Arc<Principal>,
) -> Result<Arc<Principal>, Refusal> {
    let is_first = old.is_nobody()
        || old.source == Principal::ANONYMOUS
        || (old.source == Principal::CERTIFICATE && !has_session);
    if is_first || (old.name == new.name && old.source == new.source) {
        return Ok(new);
    }
    Err(Refusal::new(
        RefusalCode::Unauthorized,
        "the credential is somebody else's than the one before: open a connection of its own for it",
    ))
}
