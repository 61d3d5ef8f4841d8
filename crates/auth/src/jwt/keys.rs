//! The keys that verify tokens.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::claims::Header;
use crate::secret::{Secret, mark};

/// The shortest secret for the HS algorithms: as long as the hash of HS256 (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// The largest JWKS document.
pub const JWKS_BYTES_MAX: usize = 256 << 10;
/// The most keys of one set: a token without `kid` is tried with each.
pub const KEYS_MAX: usize = 64;

const RSA_BYTES_MIN: usize = 2048 / 8;
const RSA_BYTES_MAX: usize = 8192 / 8;
const RSA_EXPONENT_BYTES_MAX: usize = 8;

/// Why something is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The algorithm does not take a secret.
    NotForSecret(Algorithm),
    /// The algorithm takes a secret, not a PEM file.
    NotForPem(Algorithm),
    /// The secret is shorter than the algorithm's hash.
    ShortSecret {
        /// How long it must be.
        bytes_min: usize,
    },
    /// The secret is the text of a PEM file.
    PemAsSecret,
    /// The PEM file holds no key for this algorithm.
    Pem(Algorithm),
    /// Over [`JWKS_BYTES_MAX`] or [`KEYS_MAX`].
    TooLarge,
    /// Not a JWKS document.
    Jwks,
    /// A JWKS document without a key that verifies tokens.
    NoKey,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotForSecret(algorithm) => write!(
                f,
                "{algorithm:?} does not work with a secret: use HS256, HS384 or HS512, or give a PEM file"
            ),
            Self::NotForPem(algorithm) => write!(
                f,
                "{algorithm:?} works with a secret, not with a PEM file: name the algorithm of the key"
            ),
            Self::ShortSecret { bytes_min } => write!(
                f,
                "the secret is shorter than {bytes_min} bytes and can be guessed: make a random one"
            ),
            Self::PemAsSecret => f.write_str(
                "the secret is a PEM file, which others may have: give it as a PEM file, with its algorithm",
            ),
            Self::Pem(algorithm) => write!(
                f,
                "there is no key for {algorithm:?} in the PEM file: RS and PS need RSA of 2048 to 8192 bits, ES256 P-256, ES384 P-384, EdDSA Ed25519; a public key is `PUBLIC KEY`, a private one PKCS #8 `PRIVATE KEY`"
            ),
            Self::TooLarge => write!(
                f,
                "a JWKS document has at most {JWKS_BYTES_MAX} bytes, and a set at most {KEYS_MAX} keys: remove old ones"
            ),
            Self::Jwks => f.write_str(
                "this is no JWKS document, `{\"keys\":[..]}` (RFC 7517, 5): check the address or the file",
            ),
            Self::NoKey => f.write_str(
                "no key of the JWKS document can verify tokens: it needs RSA of 2048 bits or more, P-256, P-384 or Ed25519 keys for signatures",
            ),
        }
    }
}

impl std::error::Error for KeyError {}

/// A key with the one algorithm that it is used with.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) key: DecodingKey,
}

impl VerifyingKey {
    /// A key that is shared with the issuer, for HS256, HS384 and HS512.
    pub fn from_secret(
        secret: &Secret,
        algorithm: Algorithm,
        kid: Option<String>,
    ) -> Result<Self, KeyError> {
        check_secret(secret.expose(), algorithm)?;
        Ok(Self {
            algorithm,
            kid,
            key: DecodingKey::from_secret(secret.expose()),
        })
    }

    /// The public key of a PEM file (`PUBLIC KEY`, or `RSA PUBLIC KEY`).
    pub fn from_pem(
        pem: &[u8],
        algorithm: Algorithm,
        kid: Option<String>,
    ) -> Result<Self, KeyError> {
        let key = match algorithm.family() {
            AlgorithmFamily::Hmac => return Err(KeyError::NotForPem(algorithm)),
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
        };
        let key = key.map_err(|_| KeyError::Pem(algorithm))?;
        if !is_public_key(&key, algorithm) {
            return Err(KeyError::Pem(algorithm));
        }
        Ok(Self {
            algorithm,
            kid,
            key,
        })
    }

    /// A key of a JWKS document, if tokens can be verified with it.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
            && common
                .key_operations
                .as_ref()
                .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let fitting: &[Algorithm] = match &jwk.algorithm {
            // Without `alg` an RSA key gets the one that nearly all issuers use: one key, one algorithm.
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // Secrets do not travel in documents that are made to be public.
            _ => return None,
        };
        let algorithm = match common.key_algorithm {
            None => *fitting.first()?,
            Some(named) => Algorithm::try_from(named)
                .ok()
                .filter(|named| fitting.contains(named))?,
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (for_signatures && is_public_key(&key, algorithm)).then(|| Self {
            algorithm,
            kid: common.key_id.clone(),
            key,
        })
    }
}

impl VerifyingKey {
    /// Stands for the key, whatever it is called.
    pub(super) fn mark(&self) -> u64 {
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => mark(&[bytes]),
            DecodingKeyKind::RsaModulusExponent { n, e } => mark(&[n, e]),
        }
    }
}

/// Checks a secret for the HS algorithms.
pub(super) fn check_secret(secret: &[u8], algorithm: Algorithm) -> Result<(), KeyError> {
    let bytes_min = match algorithm {
        Algorithm::HS256 => SECRET_BYTES_MIN,
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => return Err(KeyError::NotForSecret(algorithm)),
    };
    // The attack that this closes is as old as the standard: a token that is signed with the public key
    // as if it were a secret.
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(KeyError::PemAsSecret);
    }
    if secret.len() < bytes_min {
        return Err(KeyError::ShortSecret { bytes_min });
    }
    Ok(())
}

fn is_public_key(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let scheme: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &ED25519,
        _ => &RSA_PKCS1_2048_8192_SHA256,
    };
    match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => ParsedPublicKey::new(scheme, bytes).is_ok(),
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            (RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&(n.len() - zeros))
                && (1..=RSA_EXPONENT_BYTES_MAX).contains(&e.len())
        }
    }
}

/// The keys of an issuer.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<VerifyingKey>);

/// What a JWKS document held.
#[derive(Clone, Debug)]
pub struct Jwks {
    /// The keys that verify tokens.
    pub keys: KeySet,
    /// How many others there were, which is no error: documents hold keys for encryption too.
    pub skipped: usize,
}

#[derive(Deserialize)]
struct JwksText {
    keys: Vec<Value>,
}

impl KeySet {
    /// These keys.
    pub fn new(keys: Vec<VerifyingKey>) -> Result<Self, KeyError> {
        match keys.len() {
            0 => Err(KeyError::NoKey),
            1..=KEYS_MAX => Ok(Self(keys)),
            _ => Err(KeyError::TooLarge),
        }
    }

    /// The keys of a JWKS document (RFC 7517). Only public keys are taken.
    pub fn from_jwks(document: &[u8]) -> Result<Jwks, KeyError> {
        if document.len() > JWKS_BYTES_MAX {
            return Err(KeyError::TooLarge);
        }
        let text: JwksText = serde_json::from_slice(document).map_err(|_| KeyError::Jwks)?;
        let all = text.keys.len();
        let keys: Vec<VerifyingKey> = text
            .keys
            .into_iter()
            .filter_map(|value| serde_json::from_value::<Jwk>(value).ok())
            .filter_map(|jwk| VerifyingKey::from_jwk(&jwk))
            .collect();
        let skipped = all - keys.len();
        Ok(Jwks {
            keys: Self::new(keys)?,
            skipped,
        })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key has this `kid`: if not, the issuer may have a newer document.
    #[must_use]
    pub fn has_kid(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Whether a key has this mark.
    pub(super) fn has_mark(&self, mark: u64) -> bool {
        self.0.iter().any(|key| key.mark() == mark)
    }

    /// The keys that a token with this header may be verified with: of its algorithm, and not of another
    /// `kid`.
    pub(super) fn candidates<'a>(
        &'a self,
        header: &'a Header,
    ) -> impl Iterator<Item = &'a VerifyingKey> {
        self.0.iter().filter(|key| {
            key.algorithm == header.algorithm
                && (key.kid.is_none() || header.kid.is_none() || key.kid == header.kid)
        })
    }
}
