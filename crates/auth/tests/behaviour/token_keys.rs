//! The keys that verify tokens: `kid`, PEM files, JWKS documents.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};
use tidings_auth::jwt::{
    Algorithm, Jwt, JwtRules, KeyError, KeySet, SigningKey, VerifyingKey, mint,
};
use tidings_auth::{Reason, Secret};

use super::signing::{SECRET, ec, ed, keys, rsa, source, wanted};
use super::{Said, said, shown};

#[test]
fn a_key_is_chosen_by_its_kid() {
    let (one, one_verifies) = keys(Algorithm::ES256, Some("one"));
    let (two, two_verifies) = keys(Algorithm::ES256, Some("two"));
    let (nameless, nameless_verifies) = keys(Algorithm::ES256, None);
    let old = source(vec![one_verifies.clone()]);
    let rotated = source(vec![one_verifies, two_verifies]);
    let token = |key: &SigningKey| shown(&mint(key, &wanted()).unwrap());
    assert_eq!(said(&old, &token(&one)), Said::Yes);
    assert_eq!(said(&old, &token(&two)), Said::NotMine);
    assert!(!old.keys.has_kid("two") && rotated.keys.has_kid("two"));
    assert_eq!(said(&rotated, &token(&one)), Said::Yes);
    assert_eq!(said(&rotated, &token(&two)), Said::Yes);
    assert_eq!(
        said(&rotated, &token(&nameless)),
        Said::No(Reason::Signature)
    );
    // A key without a name is tried with every token; a token without one is tried with every key.
    let both = source(vec![keys(Algorithm::ES256, Some("x")).1, nameless_verifies]);
    assert_eq!(said(&both, &token(&nameless)), Said::Yes);
    assert_eq!(said(&both, &token(&one)), Said::No(Reason::Signature));
}

fn jwk(algorithm: Algorithm, public: &str, more: &Value) -> Value {
    let key = match algorithm {
        Algorithm::RS256 | Algorithm::PS256 => DecodingKey::from_rsa_pem(public.as_bytes()),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(public.as_bytes()),
        _ => DecodingKey::from_ec_pem(public.as_bytes()),
    };
    let mut jwk =
        serde_json::to_value(Jwk::from_decoding_key(&key.unwrap(), Some(algorithm)).unwrap());
    let jwk = jwk.as_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk.take()
}

#[test]
fn the_public_keys_of_a_jwks_document_verify_tokens() {
    let (p256, p384, ed) = (
        ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
        ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
        ed(),
    );
    let named = [
        (
            Algorithm::RS256,
            rsa(),
            "r",
            json!({"kid": "r", "alg": null}),
        ),
        (Algorithm::PS256, rsa(), "p", json!({"kid": "p"})),
        (
            Algorithm::ES256,
            &p256,
            "e",
            json!({"kid": "e", "use": "sig"}),
        ),
        (
            Algorithm::ES384,
            &p384,
            "f",
            json!({"kid": "f", "key_ops": ["verify"]}),
        ),
        (Algorithm::EdDSA, &ed, "d", json!({"kid": "d", "alg": null})),
    ];
    let mut jwks: Vec<Value> = named
        .iter()
        .map(|(algorithm, pair, _, more)| jwk(*algorithm, &pair.public, more))
        .collect();
    let short = json!({"kty": "RSA", "n": BASE64_URL_SAFE_NO_PAD.encode([0xc1; 128]), "e": "AQAB"});
    jwks.extend([
        json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256"}),
        jwk(Algorithm::RS256, &rsa().public, &json!({"use": "enc"})),
        jwk(Algorithm::RS256, &rsa().public, &json!({"alg": "RSA-OAEP"})),
        jwk(Algorithm::RS256, &rsa().public, &json!({"alg": "HS256"})),
        jwk(Algorithm::ES256, &p256.public, &json!({"alg": "ES384"})),
        jwk(Algorithm::ES256, &p256.public, &json!({"x": "AAAA"})),
        jwk(
            Algorithm::ES384,
            &p384.public,
            &json!({"key_ops": ["sign"]}),
        ),
        json!({"kty": "new"}),
        json!(7),
        short,
    ]);
    let read = KeySet::from_jwks(json!({ "keys": jwks }).to_string().as_bytes()).unwrap();
    assert_eq!((read.keys.len(), read.skipped), (5, 10));
    let source = Jwt {
        keys: read.keys,
        rules: JwtRules::default(),
    };
    for (algorithm, pair, kid, _) in named {
        let private = Secret::from(pair.private.as_str());
        let signing = SigningKey::from_pem(&private, algorithm, Some(kid.to_owned())).unwrap();
        let token = mint(&signing, &wanted()).unwrap();
        assert_eq!(said(&source, &shown(&token)), Said::Yes, "{algorithm:?}");
    }
    // A secret in a public document verifies nothing.
    let by_secret = keys(Algorithm::HS256, None).0;
    assert_eq!(
        said(&source, &shown(&mint(&by_secret, &wanted()).unwrap())),
        Said::NotMine
    );
}

#[test]
fn what_is_no_jwks_document_is_not_taken() {
    let jwks = |document: &str| KeySet::from_jwks(document.as_bytes()).unwrap_err();
    assert_eq!(jwks(""), KeyError::Jwks);
    assert_eq!(jwks("<html>"), KeyError::Jwks);
    assert_eq!(jwks("{}"), KeyError::Jwks);
    assert_eq!(jwks(r#"{"keys":[]}"#), KeyError::NoKey);
    assert_eq!(jwks(&" ".repeat(300_000)), KeyError::TooLarge);
    let key = jwk(Algorithm::RS256, &rsa().public, &json!({}));
    assert_eq!(
        jwks(&json!({"keys": vec![key; 65]}).to_string()),
        KeyError::TooLarge
    );
}

#[test]
fn what_is_no_key_for_its_algorithm_is_not_taken() {
    let p256 = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let public =
        |pem: &str, algorithm| VerifyingKey::from_pem(pem.as_bytes(), algorithm, None).unwrap_err();
    for (pem, algorithm, error) in [
        (
            p256.public.as_str(),
            Algorithm::ES384,
            KeyError::Pem(Algorithm::ES384),
        ),
        (
            p256.public.as_str(),
            Algorithm::RS256,
            KeyError::Pem(Algorithm::RS256),
        ),
        (
            p256.public.as_str(),
            Algorithm::HS256,
            KeyError::NotForPem(Algorithm::HS256),
        ),
        (
            p256.private.as_str(),
            Algorithm::ES256,
            KeyError::Pem(Algorithm::ES256),
        ),
        (
            rsa().private.as_str(),
            Algorithm::RS256,
            KeyError::Pem(Algorithm::RS256),
        ),
        (
            "nonsense",
            Algorithm::EdDSA,
            KeyError::Pem(Algorithm::EdDSA),
        ),
    ] {
        assert_eq!(public(pem, algorithm), error);
    }
    let secret = |text: &str, algorithm| {
        VerifyingKey::from_secret(&Secret::from(text), algorithm, None).unwrap_err()
    };
    assert_eq!(
        secret("short", Algorithm::HS256),
        KeyError::ShortSecret { bytes_min: 32 }
    );
    assert_eq!(
        secret(&SECRET[..63], Algorithm::HS512),
        KeyError::ShortSecret { bytes_min: 64 }
    );
    assert_eq!(
        secret(SECRET, Algorithm::RS256),
        KeyError::NotForSecret(Algorithm::RS256)
    );
    let signing = |pem: &str, algorithm| {
        SigningKey::from_pem(&Secret::from(pem), algorithm, None).unwrap_err()
    };
    assert_eq!(
        signing(&p256.public, Algorithm::ES256),
        KeyError::Pem(Algorithm::ES256)
    );
    assert_eq!(
        signing(&p256.private, Algorithm::ES384),
        KeyError::Pem(Algorithm::ES384)
    );
}

#[test]
fn no_key_is_shown() {
    let (signing, verifying) = keys(Algorithm::HS256, Some("k"));
    let shown = format!(
        "{signing:?} {verifying:?} {:?}",
        source(vec![verifying.clone()])
    );
    assert!(
        !shown.contains(&SECRET[..8]) && !shown.contains("48, 49, 50"),
        "{shown}"
    );
    let (signing, _) = keys(Algorithm::EdDSA, None);
    assert_eq!(format!("{signing:?}"), "SigningKey(EdDSA, None, ..)");
}
