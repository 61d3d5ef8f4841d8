//! The sources in their order, and what becomes of their answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidings_ports::{Attempt, Certificate};
use tidings_types::{Grants, Principal, Protocol, Timestamp, Voucher};

use crate::credential::{
    Credential, Identity, Reason, Rejection, Renewed, Source, Verdict, is_name,
};
use crate::grants::GRANT_FILTERS_MAX;
use crate::permissions::Permissions;

/// How far it is found out who a peer is.
#[derive(Debug)]
pub enum Step {
    /// As far as it goes.
    Done(Result<Arc<Principal>, Rejection>),
    /// The source with this index has to judge, which takes a while ([`Source::is_slow`]).
    Slow(usize),
    /// The source with this index has to ask another server ([`Source::remote`]).
    Ask(usize),
}

/// Turns credentials into principals. Immutable: a reload makes a new one.
///
/// A credential that is refused is refused: it is never taken for none, so that nobody becomes anonymous
/// by an expired token.
#[derive(Debug)]
pub struct Authenticator {
    /// Asked in this order.
    pub sources: Vec<Box<dyn Source>>,
    /// What the permission file grants on top of what credentials grant themselves.
    pub permissions: Permissions,
    /// Whether a client certificate stands for its holder where nothing else is shown.
    pub certificates: bool,
    /// Whether a peer without a credential is let in. What it may do is everything if there is neither a
    /// source nor a permission file, else what the permission file says of `source = ["anonymous"]`.
    pub anonymous: bool,
    /// Which reading of the files it is: each [`Authenticator::default`] is the next.
    pub reading: u64,
}

impl Default for Authenticator {
    fn default() -> Self {
        static READINGS: AtomicU64 = AtomicU64::new(0);
        Self {
            sources: Vec::new(),
            permissions: Permissions::default(),
            certificates: false,
            anonymous: false,
            reading: READINGS.fetch_add(1, Relaxed) + 1,
        }
    }
}

impl Authenticator {
    /// Lets everybody do everything: a server on the loopback with nothing configured.
    #[must_use]
    pub fn open() -> Self {
        Self {
            anonymous: true,
            ..Self::default()
        }
    }

    /// Who the peer is. Blocks for as long as a password takes to hash; nobody else is asked.
    pub fn authenticate(
        &self,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<Principal, Rejection> {
        if self.asks_nobody(credential) {
            return self.without_credential();
        }
        let verdicts = self
            .sources
            .iter()
            .map(|it| (it.label(), it.verify(credential, now)));
        let mut concluded = verdicts.filter_map(|(label, verdict)| self.conclude(label, verdict));
        concluded.next().unwrap_or_else(|| Err(unknown()))
    }

    /// Begins to find out who the peer is, as far as that is quick.
    pub fn begin(&self, attempt: &Attempt, now: Timestamp) -> Step {
        if let Some(judged) = self.authenticate_by_certificate(attempt, now) {
            return done(judged);
        }
        if self.asks_nobody(&attempt.credential) {
            return done(self.without_credential());
        }
        self.judge_from(0, attempt, now)
    }

    /// Who a peer is by its client certificate; `None` if that is not what counts: none is there, or something else
    /// is shown. A user name without a password shows nothing: MQTT and STOMP clients have to send one at times.
    pub fn authenticate_by_certificate(
        &self,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Option<Result<Principal, Rejection>> {
        let shows_nothing = match &attempt.credential {
            Credential::Anonymous => true,
            Credential::Password { password, .. } => {
                matches!(attempt.protocol, Protocol::Mqtt | Protocol::Stomp)
                    && password.expose().is_empty()
            }
            _ => false,
        };
        let certificate = attempt.certificate.as_ref();
        let certificate = certificate.filter(|_| self.certificates && shows_nothing)?;
        let judged = self.holder(certificate, now);
        Some(judged.map_err(|reason| Rejection {
            source: Some(Principal::CERTIFICATE),
            reason,
        }))
    }

    fn holder(&self, certificate: &Certificate, now: Timestamp) -> Result<Principal, Reason> {
        if certificate.expires <= now {
            return Err(Reason::Expired);
        }
        let name = certificate.name.clone().filter(|name| is_name(name));
        let identity = Identity {
            name: name.ok_or(Reason::Certificate)?,
            expires: Some(certificate.expires),
            credential: Some(certificate.fingerprint.clone()),
            ..Identity::default()
        };
        self.admit(identity, Principal::CERTIFICATE)
    }

    /// Whether there is nothing that a peer could show.
    fn has_no_source(&self) -> bool {
        self.sources.is_empty() && !self.certificates
    }

    /// Whether nobody is asked who they are.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.has_no_source() && self.permissions.is_empty()
    }

    /// Goes on with what the source said at which [`Authenticator::begin`] or this stopped.
    pub fn resume(&self, at: usize, verdict: Verdict, attempt: &Attempt, now: Timestamp) -> Step {
        let label = self.sources.get(at).map_or("", |source| source.label());
        match self.conclude(label, verdict) {
            Some(judged) => done(judged),
            None => self.judge_from(at + 1, attempt, now),
        }
    }

    fn judge_from(&self, from: usize, attempt: &Attempt, now: Timestamp) -> Step {
        for (at, source) in self.sources.iter().enumerate().skip(from) {
            let verdict = match source.remote() {
                Some(remote) => match remote.recall(attempt, now) {
                    Some(verdict) => verdict,
                    None => return Step::Ask(at),
                },
                None if source.is_slow(&attempt.credential) => return Step::Slow(at),
                None => source.verify(&attempt.credential, now),
            };
            if let Some(judged) = self.conclude(source.label(), verdict) {
                return done(judged);
            }
        }
        done(Err(unknown()))
    }

    /// Without a source nobody can be told from anybody: a client that is set up with a password works on an
    /// open server too.
    fn asks_nobody(&self, credential: &Credential) -> bool {
        matches!(credential, Credential::Anonymous) || self.has_no_source()
    }

    /// What a source's word comes to; `None` if the next one is to be asked.
    fn conclude(
        &self,
        source: &'static str,
        verdict: Verdict,
    ) -> Option<Result<Principal, Rejection>> {
        let rejected = |reason| Rejection {
            source: Some(source),
            reason,
        };
        match verdict {
            Verdict::NotMine => None,
            Verdict::Refused(reason) => Some(Err(rejected(reason))),
            Verdict::Accepted(identity) => Some(self.admit(*identity, source).map_err(rejected)),
        }
    }

    fn without_credential(&self) -> Result<Principal, Rejection> {
        let rejected = |reason| Rejection {
            source: None,
            reason,
        };
        if !self.anonymous {
            return Err(rejected(Reason::Missing));
        }
        if self.is_open() {
            return Ok(Principal::anonymous());
        }
        let identity = Identity {
            name: Principal::ANONYMOUS.to_owned(),
            ..Identity::default()
        };
        self.admit(identity, Principal::ANONYMOUS).map_err(rejected)
    }

    /// The principal of an identity, with what the permission file adds.
    fn admit(&self, identity: Identity, source: &'static str) -> Result<Principal, Reason> {
        let mut grants: Grants = identity.grants;
        grants.extend(
            self.permissions
                .grants(&identity.name, source, &identity.claims)?,
        );
        if grants.filters() > GRANT_FILTERS_MAX {
            return Err(Reason::TooManyGrants);
        }
        Ok(Principal {
            name: identity.name,
            grants,
            expires: identity.expires,
            source,
            credential: identity.credential,
            voucher: Voucher {
                judged_by: self.reading,
                entry: identity.entry,
                issued: identity.issued,
            },
        })
    }

    /// Whom somebody is now who was let in, perhaps by an earlier reading of the files; `None` is the same as then.
    pub fn renew(
        &self,
        principal: &Principal,
        now: Timestamp,
    ) -> Option<Result<Principal, Rejection>> {
        if principal.is_nobody() || principal.voucher.judged_by == self.reading {
            return None;
        }
        if principal.source == Principal::ANONYMOUS {
            let renewed = self.without_credential();
            let same = renewed
                .as_ref()
                .is_ok_and(|new| new.grants == principal.grants);
            return (!same).then_some(renewed);
        }
        let rejected = |reason| Rejection {
            source: Some(principal.source),
            reason,
        };
        if principal.source == Principal::CERTIFICATE && self.certificates {
            let identity = Identity {
                name: principal.name.clone(),
                expires: principal.expires,
                credential: principal.credential.clone(),
                ..Identity::default()
            };
            return Some(self.admit(identity, principal.source).map_err(rejected));
        }
        let mut reason = Reason::Revoked;
        let of_its_kind = self
            .sources
            .iter()
            .filter(|source| source.label() == principal.source);
        for source in of_its_kind {
            match source.renew(principal, now) {
                Renewed::Stands => return None,
                Renewed::Identity(identity) => {
                    return Some(self.admit(*identity, principal.source).map_err(rejected));
                }
                Renewed::Gone(why) => reason = why,
            }
        }
        Some(Err(rejected(reason)))
    }
}

fn done(judged: Result<Principal, Rejection>) -> Step {
    Step::Done(judged.map(Arc::new))
}

fn unknown() -> Rejection {
    Rejection {
        source: None,
        reason: Reason::Unknown,
    }
}
