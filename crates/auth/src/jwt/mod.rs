//! JSON Web Tokens (RFC 7519) as a source.
//!
//! The algorithm comes from the key, never from the token: a token is verified by the keys that have the
//! algorithm that it names, and there is no key with `none` (RFC 8725, 3.1). Nothing that the token claims is
//! looked at before its signature is right.

mod claims;
mod keys;
mod mint;

use jsonwebtoken::{AlgorithmFamily, crypto};
use tidings_types::{Principal, Timestamp};

pub use claims::JwtRules;
pub(crate) use claims::{Strict, check_audience, issuer_is_foreign as is_foreign, moment};
pub use jsonwebtoken::Algorithm;
pub use keys::{JWKS_BYTES_MAX, Jwks, KEYS_MAX, KeyError, KeySet, SECRET_BYTES_MIN, VerifyingKey};
pub use mint::{Inspection, MintError, Minting, SigningKey, inspect, mint};

use crate::credential::{Credential, Identity, Reason, Renewed, Source, Verdict};
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

    /// Whether the text is a token that a public key of the issuer's could verify: by an algorithm for public
    /// keys, and by its own word of an issuer that is accepted. Says nothing of whether it is genuine.
    #[must_use]
    pub fn is_for_public_key(text: &str, rules: &JwtRules) -> bool {
        if !is_token(text) || text.len() > rules.token_bytes_max {
            return false;
        }
        Compact::parse(text).is_ok_and(|token| {
            let foreign = || {
                strict_object(token.payload).is_ok_and(|claims| issuer_is_foreign(&claims, rules))
            };
            token.header.algorithm.family() != AlgorithmFamily::Hmac && !foreign()
        })
    }

    /// Whether none of the keys could have signed the token: the issuer may have a newer one.
    #[must_use]
    pub fn lacks_key_of(&self, text: &str) -> bool {
        Compact::parse(text).is_ok_and(|token| self.keys.candidates(&token.header).next().is_none())
    }

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
        let genuine = candidates.find(|key| {
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
        let Some(key) = genuine else {
            // Another source may have the keys of that issuer.
            let foreign = claims.is_ok_and(|claims| issuer_is_foreign(&claims, &self.rules));
            return if foreign {
                Verdict::NotMine
            } else {
                Verdict::Refused(Reason::Signature)
            };
        };
        match claims.and_then(|claims| identity(claims, &self.rules, now)) {
            Ok(identity) => Verdict::Accepted(Box::new(Identity {
                entry: Some(key.mark()),
                ..identity
            })),
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

    /// The claims are not kept, so that the grants stay as they are; but the key has to be there still.
    fn renew(&self, principal: &Principal, _now: Timestamp) -> Renewed {
        match principal.voucher.entry {
            Some(entry) if !self.keys.has_mark(entry) => Renewed::Gone(Reason::Signature),
            _ => Renewed::Stands,
        }
    }
}
