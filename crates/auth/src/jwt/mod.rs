//! JSON Web Tokens (RFC 7519) as a source.
//!
//! The algorithm comes from the key, never from the token: a token is verified by the keys that have the
//! algorithm that it names, and there is no key with `none` (RFC 8725, 3.1). Nothing that the token claims is
//! looked at before its signature is right.

mod claims;
mod keys;
mod mint;

use jsonwebtoken::crypto;
use tidings_types::Timestamp;

pub use claims::JwtRules;
pub use jsonwebtoken::Algorithm;
pub use keys::{JWKS_BYTES_MAX, Jwks, KEYS_MAX, KeyError, KeySet, SECRET_BYTES_MIN, VerifyingKey};
pub use mint::{Inspection, MintError, Minting, SigningKey, inspect, mint};

use crate::credential::{Credential, Reason, Source, Verdict};
use claims::{Compact, identity, issuer_is_foreign, strict_object};

/// Tokens of one issuer, or of one set of keys.
#[derive(Debug, Default)]
pub struct Jwt {
    /// What verifies signatures.
    pub keys: KeySet,
    /// What is asked of the claims.
    pub rules: JwtRules,
}

impl Jwt {
    /// The metrics label of the source.
    pub const LABEL: &'static str = "jwt";

    fn judge(&self, text: &str, now: Timestamp) -> Verdict {
        if text.len() > self.rules.token_bytes_max {
            return Verdict::Refused(Reason::TooLong);
        }
        let token = match Compact::parse(text) {
            Ok(token) => token,
            Err(reason) => return Verdict::Refused(reason),
        };
        let mut candidates = self.keys.candidates(&token.header).peekable();
        if candidates.peek().is_none() {
            return Verdict::NotMine;
        }
        let genuine = candidates.any(|key| {
            // An error is a signature, or a key, that is none.
            crypto::verify(
                token.signature,
                token.signed.as_bytes(),
                &key.key,
                key.algorithm,
            )
            .unwrap_or(false)
        });
        let claims = strict_object(token.payload);
        if !genuine {
            // Another source may have the keys of that issuer.
            let foreign = claims.is_ok_and(|claims| issuer_is_foreign(&claims, &self.rules));
            return if foreign {
                Verdict::NotMine
            } else {
                Verdict::Refused(Reason::Signature)
            };
        }
        match claims.and_then(|claims| identity(claims, &self.rules, now)) {
            Ok(identity) => Verdict::Accepted(Box::new(identity)),
            Err(reason) => Verdict::Refused(reason),
        }
    }
}

/// Whether the text has the shape of a token: three parts, of which the first is an encoded JSON object.
fn is_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Source for Jwt {
    fn label(&self) -> &'static str {
        Self::LABEL
    }

    fn is_slow(&self, _credential: &Credential) -> bool {
        false
    }

    fn verify(&self, credential: &Credential, now: Timestamp) -> Verdict {
        match credential.token() {
            Some(text) if is_token(text) => self.judge(text, now),
            _ => Verdict::NotMine,
        }
    }
}
