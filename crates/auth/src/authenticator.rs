//! The sources in their order, and what becomes of their answer.

use tidings_types::{Grants, Principal, Timestamp};

use crate::credential::{Credential, Identity, Reason, Rejection, Source, Verdict};
use crate::grants::GRANT_FILTERS_MAX;
use crate::permissions::Permissions;

/// Turns credentials into principals. Immutable: a reload makes a new one.
///
/// A credential that is refused is refused: it is never taken for none, so that nobody becomes anonymous
/// by an expired token.
#[derive(Debug, Default)]
pub struct Authenticator {
    /// Asked in this order.
    pub sources: Vec<Box<dyn Source>>,
    /// What the permission file grants on top of what credentials grant themselves.
    pub permissions: Permissions,
    /// Whether a peer without a credential is let in. What it may do is everything if there is neither a
    /// source nor a permission file, else what the permission file says of `source = ["anonymous"]`.
    pub anonymous: bool,
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

    /// Who the peer is. Blocks for as long as a password takes to hash, or a source to be asked: call it
    /// where that is permitted, and [`Authenticator::authenticate_quickly`] first.
    pub fn authenticate(
        &self,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<Principal, Rejection> {
        self.judge(credential, now, true)
            .unwrap_or_else(|| Err(unknown()))
    }

    /// Who the peer is, if no slow source must be asked for it; `None` says that one must.
    pub fn authenticate_quickly(
        &self,
        credential: &Credential,
        now: Timestamp,
    ) -> Option<Result<Principal, Rejection>> {
        self.judge(credential, now, false)
    }

    fn judge(
        &self,
        credential: &Credential,
        now: Timestamp,
        may_block: bool,
    ) -> Option<Result<Principal, Rejection>> {
        // Without a source nobody can be told from anybody: a client that is set up with a password works
        // on an open server too.
        if matches!(credential, Credential::Anonymous) || self.sources.is_empty() {
            return Some(self.without_credential());
        }
        for source in &self.sources {
            if !may_block && source.is_slow(credential) {
                return None;
            }
            let rejected = |reason| Rejection {
                source: Some(source.label()),
                reason,
            };
            match source.verify(credential, now) {
                Verdict::NotMine => {}
                Verdict::Refused(reason) => return Some(Err(rejected(reason))),
                Verdict::Accepted(identity) => {
                    return Some(self.admit(*identity, source.label()).map_err(rejected));
                }
            }
        }
        Some(Err(unknown()))
    }

    fn without_credential(&self) -> Result<Principal, Rejection> {
        let rejected = |reason| Rejection {
            source: None,
            reason,
        };
        if !self.anonymous {
            return Err(rejected(Reason::Missing));
        }
        if self.sources.is_empty() && self.permissions.is_empty() {
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
        })
    }
}

fn unknown() -> Rejection {
    Rejection {
        source: None,
        reason: Reason::Unknown,
    }
}
