//! What a credential becomes, seen from outside.

#![expect(clippy::unwrap_used, reason = "a test says with it what must hold")]

mod certificates;
mod chain;
mod keys;
mod passwords;
mod permissions;
mod renewal;
mod signing;
mod token_keys;
mod tokens;

use tidings_auth::{Credential, Identity, Reason, Secret, Source, Verdict};
use tidings_types::Timestamp;

/// Some moment in 2026.
const NOW: Timestamp = Timestamp(1_790_000_000_000);
const NOW_S: u64 = NOW.0 / 1_000;

fn login(user: &str, password: &str) -> Credential {
    Credential::Password {
        user: user.to_owned(),
        password: Secret::from(password),
    }
}

fn bearer(text: &str) -> Credential {
    Credential::Bearer(Secret::from(text))
}

fn shown(secret: &Secret) -> Credential {
    Credential::Bearer(secret.clone())
}

fn text(secret: &Secret) -> &str {
    secret.expose_text().unwrap()
}

#[track_caller]
fn accepted(verdict: Verdict) -> Identity {
    match verdict {
        Verdict::Accepted(identity) => *identity,
        other => panic!("accepted was expected, not {other:?}"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Yes,
    No(Reason),
    NotMine,
}

fn said(source: &dyn Source, credential: &Credential) -> Said {
    match source.verify(credential, NOW) {
        Verdict::Accepted(_) => Said::Yes,
        Verdict::Refused(reason) => Said::No(reason),
        Verdict::NotMine => Said::NotMine,
    }
}
