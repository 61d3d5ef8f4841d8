//! What a peer shows to say who it is, and who finds out.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tidings_types::{Principal, Protocol, Refusal, Timestamp};
use zeroize::Zeroizing;

/// A password, a token or a key. It is not shown by `Debug`, is compared in a time that depends on nothing
/// but the lengths, and is overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes. What the caller copied them from is the caller's to overwrite.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes, for the one place that needs them. They go to no log and no error.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The text, if it is UTF-8. It goes to no log and no error.
    #[must_use]
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.expose(), other.expose()).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a peer shows to say who it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing. A peer whose credential was refused never becomes this.
    Anonymous,
    /// A user name with a password: HTTP Basic, MQTT user name and password, STOMP login and passcode. The
    /// password may be a token or a key, for clients that can show nothing else; the user name is then not
    /// looked at, because the token has one of its own.
    Password {
        /// The user name, not yet checked.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token or a key: `Authorization: Bearer`, `access_token`, the first message.
    Bearer(Secret),
}

impl Credential {
    /// What could be a token or a key.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Bearer(secret)
            | Self::Password {
                password: secret, ..
            } => secret.expose_text(),
        }
    }
}

/// What the client certificate says that a peer proved to have in its TLS handshake (RFC 5280). Shared by all that
/// one connection does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is; `None` if it does not say so in the way that is configured.
    pub name: Option<String>,
    /// From when on it counts for nothing.
    pub expires: Timestamp,
    /// The SHA-256 of the whole certificate, in hexadecimal digits.
    pub fingerprint: String,
}

/// Takes the outcome of an [`Attempt`]: who the peer is, or why that is not believed.
pub type Outcome = Box<dyn FnOnce(Result<Arc<Principal>, Refusal>) + Send>;

/// A credential with where it comes from, for those who count and slow down what is refused.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What the peer shows.
    pub credential: Credential,
    /// How it came.
    pub protocol: Protocol,
    /// The client's address, where there is one.
    pub address: Option<IpAddr>,
    /// What counts where the credential is none.
    pub certificate: Option<Arc<Certificate>>,
}

/// What somebody who was let in is now.
#[derive(Clone, Debug)]
pub enum Standing {
    /// As good as then.
    Good,
    /// Good, and may do other things than then.
    Changed(Arc<Principal>),
    /// Nobody any more, for this reason.
    Ended(Refusal),
}

/// Turns credentials into principals, without blocking whoever asks.
pub trait Authenticator: Send + Sync {
    /// Judges a credential. The outcome is told once: before this returns, or later by another thread. With too
    /// much to judge it is `Busy`, at once.
    fn authenticate(&self, attempt: Attempt, outcome: Outcome);

    /// What somebody who was let in is now: asked when a connection begins, and of all that are open when something
    /// was revoked or read again. Never blocks.
    fn standing(&self, _principal: &Arc<Principal>) -> Standing {
        Standing::Good
    }
}

/// Lets everybody in as anonymous: for a hub without credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

impl Authenticator for Everybody {
    fn authenticate(&self, _attempt: Attempt, outcome: Outcome) {
        outcome(Ok(Arc::new(Principal::anonymous())));
    }
}

/// Whether the peers of a protocol that begins with a sign-on must say there who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignOn {
    /// What they show is not looked at: everybody is anonymous.
    #[default]
    Open,
    /// What they show, also if that is nothing, is judged before anything else.
    Judged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_but_not_shown() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(..) Secret(..)");
        assert!(secret == Secret::new(b"hunter2".to_vec()));
        assert!(secret != Secret::from("hunter3") && secret != Secret::from("hunter"));
    }
}
