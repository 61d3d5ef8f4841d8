//! Keys for tokens, made when they are needed: none is kept in the sources.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tidings_auth::Secret;
use tidings_auth::jwt::{Algorithm, Jwt, JwtRules, KeySet, Minting, SigningKey, VerifyingKey};
use tidings_types::Timestamp;

use super::NOW;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The two halves of a key as PEM files.
pub struct Pair {
    pub private: String,
    pub public: String,
}

pub fn pem(kind: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
}

pub fn pair(private: &[u8], public: &[u8]) -> Pair {
    Pair {
        private: pem("PRIVATE KEY", private),
        public: pem("PUBLIC KEY", public),
    }
}

pub fn rsa() -> &'static Pair {
    static KEY: OnceLock<Pair> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = key.public_key().as_der().unwrap();
        pair(key.as_der().unwrap().as_ref(), public.as_ref())
    })
}

pub fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> Pair {
    let key = EcdsaKeyPair::generate(algorithm).unwrap();
    let public = key.public_key().as_der().unwrap();
    pair(key.to_pkcs8v1().unwrap().as_ref(), public.as_ref())
}

pub fn ed() -> Pair {
    let key = Ed25519KeyPair::generate().unwrap();
    let public = key.public_key().as_der().unwrap();
    pair(key.to_pkcs8v1().unwrap().as_ref(), public.as_ref())
}

/// What holds the keys of a pair for an algorithm: who signs, and who verifies.
pub fn keys(algorithm: Algorithm, kid: Option<&str>) -> (SigningKey, VerifyingKey) {
    let kid = kid.map(str::to_owned);
    let made;
    let pair = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            let secret = Secret::from(SECRET);
            return (
                SigningKey::from_secret(&secret, algorithm, kid.clone()).unwrap(),
                VerifyingKey::from_secret(&secret, algorithm, kid).unwrap(),
            );
        }
        Algorithm::ES256 => {
            made = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
            &made
        }
        Algorithm::ES384 => {
            made = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
            &made
        }
        Algorithm::EdDSA => {
            made = ed();
            &made
        }
        _ => rsa(),
    };
    let private = Secret::from(pair.private.as_str());
    (
        SigningKey::from_pem(&private, algorithm, kid.clone()).unwrap(),
        VerifyingKey::from_pem(pair.public.as_bytes(), algorithm, kid).unwrap(),
    )
}

pub fn source(keys: Vec<VerifyingKey>) -> Jwt {
    Jwt {
        keys: KeySet::new(keys).unwrap(),
        rules: JwtRules::default(),
    }
}

pub fn wanted() -> Minting {
    Minting {
        subject: "ada".to_owned(),
        issued: NOW,
        expires: Some(Timestamp(NOW.0 + 60_000)),
        grants_claim: "tidings".to_owned(),
        ..Minting::default()
    }
}
