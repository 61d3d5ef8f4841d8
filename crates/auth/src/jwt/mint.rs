//! Making tokens, and looking into them: `tidings token`.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, crypto};
use serde_json::{Map, Value};
use tidings_types::Timestamp;

use super::claims::strict_object;
use super::keys::{KeyError, check_secret};
use crate::credential::is_name;
use crate::grants::{GrantError, GrantsText};
use crate::random::{NoRandomness, random_text};
use crate::secret::Secret;

/// The longest token that is looked into.
const INSPECT_BYTES_MAX: usize = 64 << 10;

/// A key that signs tokens.
pub struct SigningKey {
    algorithm: Algorithm,
    kid: Option<String>,
    key: EncodingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?}, {:?}, ..)", self.algorithm, self.kid)
    }
}

impl SigningKey {
    /// A shared secret, for HS256, HS384 and HS512.
    pub fn from_secret(
        secret: &Secret,
        algorithm: Algorithm,
        kid: Option<String>,
    ) -> Result<Self, KeyError> {
        check_secret(secret.expose(), algorithm)?;
        Ok(Self {
            algorithm,
            kid,
            key: EncodingKey::from_secret(secret.expose()),
        })
    }

    /// The private key of a PEM file (PKCS #8 `PRIVATE KEY`, or `RSA PRIVATE KEY`).
    pub fn from_pem(
        pem: &Secret,
        algorithm: Algorithm,
        kid: Option<String>,
    ) -> Result<Self, KeyError> {
        let key = match algorithm.family() {
            AlgorithmFamily::Hmac => return Err(KeyError::NotForPem(algorithm)),
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem.expose()),
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem.expose()),
            AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem.expose()),
        };
        let key = key.map_err(|_| KeyError::Pem(algorithm))?;
        // Whether it is a key at all, and of the right curve, shows when it signs.
        crypto::sign(b"", &key, algorithm).map_err(|_| KeyError::Pem(algorithm))?;
        Ok(Self {
            algorithm,
            kid,
            key,
        })
    }
}

/// What a token is to say.
#[derive(Clone, Debug, Default)]
pub struct Minting {
    /// `sub`.
    pub subject: String,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`; one is written as a text, several as a list.
    pub audience: Vec<String>,
    /// `iat`.
    pub issued: Timestamp,
    /// `nbf`.
    pub not_before: Option<Timestamp>,
    /// `exp`.
    pub expires: Option<Timestamp>,
    /// What the token grants.
    pub grants: GrantsText,
    /// The claim with the grants.
    pub grants_claim: String,
    /// Other claims.
    pub claims: Map<String, Value>,
}

/// Why no token was made, or what was given is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MintError {
    /// The subject cannot be a name.
    Subject,
    /// A grant that is none.
    Grant(GrantError),
    /// A claim that is given twice.
    Claim(String),
    /// No random `jti`.
    Randomness(NoRandomness),
    /// The key does not sign.
    Signing,
    /// Not a token.
    NotAToken,
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject => f.write_str(
                "the subject has 1 to 256 bytes and no control character: choose another one",
            ),
            Self::Grant(error) => error.fmt(f),
            Self::Claim(name) => write!(
                f,
                "the claim `{name}` has an option of its own: leave it out of the other claims"
            ),
            Self::Randomness(error) => error.fmt(f),
            Self::Signing => f.write_str("the key does not sign: check that it is a private key"),
            Self::NotAToken => f.write_str(
                "this is no token: one has three parts with dots between them and begins with `eyJ`",
            ),
        }
    }
}

impl std::error::Error for MintError {}

/// Makes a token.
pub fn mint(key: &SigningKey, wanted: &Minting) -> Result<Secret, MintError> {
    let mut header = Map::new();
    header.insert("alg".to_owned(), format!("{:?}", key.algorithm).into());
    header.insert("typ".to_owned(), "JWT".into());
    if let Some(kid) = &key.kid {
        header.insert("kid".to_owned(), kid.as_str().into());
    }
    let claims = claims(wanted)?;
    let part =
        |map: Map<String, Value>| BASE64_URL_SAFE_NO_PAD.encode(Value::from(map).to_string());
    let mut token = format!("{}.{}", part(header), part(claims));
    let signature =
        crypto::sign(token.as_bytes(), &key.key, key.algorithm).map_err(|_| MintError::Signing)?;
    token.push('.');
    token.push_str(&signature);
    Ok(Secret::new(token))
}

fn claims(wanted: &Minting) -> Result<Map<String, Value>, MintError> {
    if !is_name(&wanted.subject) {
        return Err(MintError::Subject);
    }
    wanted.grants.parse().map_err(MintError::Grant)?;
    let seconds = |moment: Timestamp| Value::from(moment.0 / 1_000);
    let audience = match wanted.audience.as_slice() {
        [] => None,
        [one] => Some(one.as_str().into()),
        several => Some(several.into()),
    };
    let grants = (wanted.grants != GrantsText::default())
        .then(|| serde_json::to_value(&wanted.grants))
        .transpose()
        .map_err(|_| MintError::Claim(wanted.grants_claim.clone()))?;
    let jti = random_text(16).map_err(MintError::Randomness)?;
    let mut claims = wanted.claims.clone();
    for (name, value) in [
        ("sub", Some(wanted.subject.as_str().into())),
        ("iss", wanted.issuer.as_deref().map(Value::from)),
        ("aud", audience),
        ("iat", Some(seconds(wanted.issued))),
        ("nbf", wanted.not_before.map(seconds)),
        ("exp", wanted.expires.map(seconds)),
        ("jti", Some(jti.into())),
        (wanted.grants_claim.as_str(), grants),
    ] {
        if wanted.claims.contains_key(name) {
            return Err(MintError::Claim(name.to_owned()));
        }
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    }
    Ok(claims)
}

/// What a token says, which says nothing about whether it is genuine.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// The header: the algorithm and the key.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
}

/// Looks into a token without verifying it.
pub fn inspect(token: &Secret) -> Result<Inspection, MintError> {
    let text = token.expose_text().map(str::trim);
    let text = text.filter(|text| text.len() <= INSPECT_BYTES_MAX);
    let mut parts = text.ok_or(MintError::NotAToken)?.split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(MintError::NotAToken);
    };
    Ok(Inspection {
        header: strict_object(header).map_err(|_| MintError::NotAToken)?,
        claims: strict_object(claims).map_err(|_| MintError::NotAToken)?,
    })
}
