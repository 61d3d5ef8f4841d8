//! What a peer shows, what a source says to it, and why not.

use std::fmt;

use serde_json::{Map, Value};
use tidings_types::{Grants, Principal, Refusal, RefusalCode, Timestamp};

use tidings_ports::Attempt;
pub use tidings_ports::Credential;

/// Who a source says that the peer is. The permission file may add to its grants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// The subject.
    pub name: String,
    /// What the credential itself grants.
    pub grants: Grants,
    /// From when on the identity is none.
    pub expires: Option<Timestamp>,
    /// The public name of the credential: a key's id, a token's `jti`.
    pub credential: Option<String>,
    /// Tells the entry of a file that vouches for it from what it was before: see [`mark`](crate::mark).
    pub entry: Option<u64>,
    /// When the credential was issued, if it says so.
    pub issued: Option<Timestamp>,
    /// The token's claims, for the permission file. Empty where there is no token.
    pub claims: Map<String, Value>,
}

/// What may vouch for a principal: the values of [`Principal::source`], but for nobody's.
pub const VOUCHERS: &[&str] = &[
    "key",
    "jwt",
    "jwks",
    "password",
    "introspection",
    "callout",
    Principal::CERTIFICATE,
    Principal::ANONYMOUS,
];

/// What a source says to a credential.
#[derive(Debug)]
pub enum Verdict {
    /// It vouches for the peer.
    Accepted(Box<Identity>),
    /// The credential is one of its own, and wrong. No other source is asked.
    Refused(Reason),
    /// The credential is none of its own: the next source is asked.
    NotMine,
}

/// What a source says of somebody whom a source with its label vouched for, perhaps before files were read again.
#[derive(Debug)]
pub enum Renewed {
    /// It still does, and cannot say more: the grants stay as they are.
    Stands,
    /// It still does: for this identity.
    Identity(Box<Identity>),
    /// It does not any more.
    Gone(Reason),
}

/// One kind of credential with what it is checked against.
pub trait Source: Send + Sync + fmt::Debug {
    /// The name in configuration and metrics.
    fn label(&self) -> &'static str;

    /// Whether [`Source::verify`] takes milliseconds or more for this credential: it hashes a password.
    fn is_slow(&self, credential: &Credential) -> bool;

    /// Judges the credential. Blocks where [`Source::is_slow`] says so. A source that asks another server says
    /// here what it says without asking.
    fn verify(&self, credential: &Credential, now: Timestamp) -> Verdict;

    /// Whether it still vouches for a principal of its label, whose credential is not there any more. Never blocks.
    fn renew(&self, _principal: &Principal, _now: Timestamp) -> Renewed {
        Renewed::Stands
    }

    /// The side of it that asks another server, if it does.
    fn remote(&self) -> Option<&dyn Remote> {
        None
    }
}

/// Takes what another server said of a credential.
pub type Told = Box<dyn FnOnce(Verdict) + Send>;

/// A source that asks another server.
pub trait Remote {
    /// What is known without asking; `None` if the server must be asked.
    fn recall(&self, attempt: &Attempt, now: Timestamp) -> Option<Verdict>;

    /// Asks, and returns at once. The answer is told once, also if there is none: then it is `Unavailable`.
    fn ask(&self, attempt: &Attempt, now: Timestamp, told: Told);
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $slug:literal $detail:expr,)*) => {
        /// Why a credential was refused. For metrics and the server's own log; the peer is told
        /// [`Reason::detail`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// The metrics label.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$reason => $slug,)* }
            }

            /// What the peer is told. Whoever does not hold a genuine credential is told the same whatever
            /// was wrong, so that nobody learns which users, keys and algorithms there are.
            #[must_use]
            pub const fn detail(self) -> &'static str {
                match self { $(Self::$reason => $detail,)* }
            }
        }
    };
}

const WRONG: &str =
    "the credential is not accepted: check it, and that it is meant for this server";

reasons! {
    /// None was shown, and that is not permitted.
    Missing "missing" "no credential was shown: send a password, a key or a token",
    /// No source knows it.
    Unknown "unknown" WRONG,
    /// A text that no user name, password or token can be.
    Malformed "malformed" WRONG,
    /// Over the limit.
    TooLong "too-long" WRONG,
    /// A wrong password.
    Password "password" WRONG,
    /// A wrong or unknown key.
    Key "key" WRONG,
    /// What the server that issued it says is not valid, or not any more.
    Inactive "inactive" WRONG,
    /// What the user's backend refused.
    Backend "backend" WRONG,
    /// A signature that none of the keys made.
    Signature "signature" WRONG,
    /// `none`, or an algorithm that is not the key's.
    Algorithm "algorithm" WRONG,
    /// Genuine, and revoked.
    Revoked "revoked" "the credential was revoked: ask for a new one",
    /// Genuine, and past its end.
    Expired "expired" "the credential has expired: get a new one",
    /// Genuine, and not to be used yet.
    NotYet "not-yet" "the credential is not valid yet: wait, or set the clocks right",
    /// Genuine, of another issuer.
    Issuer "issuer" "the token's issuer (`iss`) is not accepted here: get one from the right issuer",
    /// Genuine, for others.
    Audience "audience" "the token is meant for another audience (`aud`): get one for this server",
    /// Genuine, with a claim that is missing, or is not what it must be.
    Claim "claim" "a claim of the token is missing or malformed: `sub` is a name, `exp` and `nbf` are numbers, grants are lists of topic filters",
    /// The name, or a claim, cannot be put into the permission file's filters.
    Template "template" "the name or a claim cannot stand in a permission's topic filter: it is empty, begins with `$`, or holds `/`, `+` or `#`",
    /// A client certificate that does not name its holder as it is configured.
    Certificate "certificate" "the client certificate does not say who you are: it needs exactly one name of the kind that is configured (auth.client_certificates), without `/`, `+`, `#` and control characters",
    /// More filters than a principal may have.
    TooManyGrants "too-many-grants" "the credential grants more topic filters than permitted: use wildcards",
    /// The server could not judge it, or whom it asks could not.
    Unavailable "unavailable" "the credential cannot be judged now: try again later",
}

/// A refused credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The source that refused it; none if no source knew it.
    pub source: Option<&'static str>,
    /// Why.
    pub reason: Reason,
}

impl Rejection {
    /// What the peer gets.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let code = match self.reason {
            Reason::Unavailable => RefusalCode::Busy,
            _ => RefusalCode::Unauthorized,
        };
        Refusal::new(code, self.reason.detail())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.detail())
    }
}

impl std::error::Error for Rejection {}

/// The longest name of a principal.
pub const NAME_BYTES_MAX: usize = 256;

/// Whether a text can be a principal's name: it is shown in logs, one a line.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}
