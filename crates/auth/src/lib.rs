//! Who a peer is, what it may do, and for how long.
//!
//! A [`Credential`] goes through the [`Source`]s of an [`Authenticator`] in their configured order. The first
//! that knows it accepts or refuses it; the [`Permissions`] of the permission file add grants; the outcome
//! is a `Principal` with its end, or a [`Rejection`].
//!
//! Nothing here opens a socket or reads a clock: time comes in with each call, keys and files as bytes. What
//! asks another server (a JWKS address, introspection, a call-out) is a [`Source`] elsewhere that has a
//! [`Remote`] side; what the other server answers is read here ([`answers`]). No error, no `Debug` output and no refusal contains a secret.

pub mod answers;
mod authenticator;
mod credential;
pub mod files;
mod grants;
pub mod jwt;
pub mod keys;
pub mod passwords;
mod permissions;
mod random;
mod secret;

pub use authenticator::{Authenticator, Step};
pub use credential::{
    Credential, Identity, NAME_BYTES_MAX, Reason, Rejection, Remote, Renewed, Source, Told,
    VOUCHERS, Verdict,
};
pub use files::AtLine;
pub use grants::{DenyEach, DenyText, GRANT_FILTERS_MAX, GrantError, GrantsText};
pub use permissions::{PermissionError, Permissions};
pub use random::{NoRandomness, random_secret};
pub use secret::{Secret, mark};
