//! JSON Web Tokens.

use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, crypto};
use serde_json::{Value, json};
use tidings_auth::jwt::{
    Algorithm, Jwt, KeyError, MintError, SigningKey, VerifyingKey, inspect, mint,
};
use tidings_auth::{Credential, DenyText, GrantsText, Reason, Secret, Source};
use tidings_types::{Timestamp, Topic};

use super::signing::{SECRET, keys, rsa, source, wanted};
use super::{NOW, NOW_S, Said, accepted, bearer, login, said, shown, text};

fn hs256() -> Jwt {
    source(vec![keys(Algorithm::HS256, None).1])
}

/// A token of these texts, signed by the HS256 secret.
fn signed(header: &str, claims: &str) -> Credential {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    bearer(&format!("{signed}.{signature}"))
}

fn claims(more: &Value) -> String {
    let mut claims = json!({"sub": "ada", "exp": NOW_S + 60});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.to_string()
}

const HS256: &str = r#"{"alg":"HS256"}"#;

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    for algorithm in [
        Algorithm::HS256,
        Algorithm::HS384,
        Algorithm::HS512,
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ] {
        let (signing, verifying) = keys(algorithm, Some("k"));
        let token = mint(&signing, &wanted()).unwrap();
        let source = source(vec![verifying]);
        assert_eq!(said(&source, &shown(&token)), Said::Yes, "{algorithm:?}");
        // Another token's signature is none for this one.
        let other = mint(&signing, &wanted()).unwrap();
        let (body, _) = text(&token).rsplit_once('.').unwrap();
        let (_, signature) = text(&other).rsplit_once('.').unwrap();
        assert_eq!(
            said(&source, &bearer(&format!("{body}.{signature}"))),
            Said::No(Reason::Signature),
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_token_says_who_it_is_what_it_may_do_and_for_how_long() {
    let (signing, verifying) = keys(Algorithm::HS256, None);
    let mut wanted = wanted();
    wanted.grants = GrantsText {
        publish: vec!["a/#".to_owned()],
        subscribe: vec!["b".to_owned()],
        deny: DenyText::Both(vec!["a/x".to_owned()]),
    };
    let token = mint(&signing, &wanted).unwrap();
    let source = source(vec![verifying]);
    let who = accepted(source.verify(&shown(&token), NOW));
    assert_eq!(who.name, "ada");
    assert_eq!(
        who.expires,
        Some(Timestamp(NOW.0 + 120_000)),
        "with the leeway"
    );
    assert_eq!(who.credential.map(|jti| jti.len()), Some(16));
    for (topic, expect) in [("a/b", true), ("a/x", false), ("b", false)] {
        assert_eq!(
            who.grants.may_publish(&Topic::new(topic).unwrap()),
            expect,
            "{topic}"
        );
    }
    // A client that can show a password only shows the token as one.
    assert_eq!(said(&source, &login("whoever", text(&token))), Said::Yes);
    assert_eq!(said(&source, &login("ada", "secret")), Said::NotMine);
    assert_eq!(said(&source, &Credential::Anonymous), Said::NotMine);
}

#[test]
fn the_algorithm_is_the_keys_and_never_the_tokens() {
    let rs256 = source(vec![keys(Algorithm::RS256, None).1]);
    // The classic: HS256 with the text, or the bytes, of the public key as the secret.
    let der = BASE64_STANDARD
        .decode(rsa().public.lines().nth(1).unwrap())
        .unwrap();
    for secret in [
        rsa().public.as_bytes(),
        rsa().public.trim().as_bytes(),
        &der,
    ] {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let body = format!("{}.{}", part(HS256), part(&claims(&json!({}))));
        let key = EncodingKey::from_secret(secret);
        let signature = crypto::sign(body.as_bytes(), &key, Algorithm::HS256).unwrap();
        assert_eq!(
            said(&rs256, &bearer(&format!("{body}.{signature}"))),
            Said::NotMine
        );
    }
    // A right signature by the right key, with an algorithm that is not the key's.
    let private = Secret::from(rsa().private.as_str());
    for algorithm in [Algorithm::RS384, Algorithm::PS256] {
        let signing = SigningKey::from_pem(&private, algorithm, None).unwrap();
        let token = mint(&signing, &wanted()).unwrap();
        assert_eq!(said(&rs256, &shown(&token)), Said::NotMine, "{algorithm:?}");
    }
    // And no secret is a public key in the first place.
    let public = Secret::from(rsa().public.as_str());
    assert_eq!(
        VerifyingKey::from_secret(&public, Algorithm::HS256, None).unwrap_err(),
        KeyError::PemAsSecret
    );
}

#[test]
fn an_unsigned_token_is_refused_however_it_is_written() {
    let source = hs256();
    let good = claims(&json!({}));
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256"] {
        let header = json!({ "alg": alg }).to_string();
        assert_eq!(
            said(&source, &signed(&header, &good)),
            Said::No(Reason::Algorithm),
            "{alg}"
        );
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let unsigned = format!("{}.{}.", part(&header), part(&good));
        assert_eq!(
            said(&source, &bearer(&unsigned)),
            Said::No(Reason::Algorithm),
            "{alg}"
        );
    }
    assert_eq!(
        said(&source, &signed(r#"{"typ":"JWT"}"#, &good)),
        Said::No(Reason::Algorithm)
    );
    let Credential::Bearer(token) = signed(HS256, &good) else {
        unreachable!()
    };
    let (body, _) = text(&token).rsplit_once('.').unwrap();
    assert_eq!(
        said(&source, &bearer(&format!("{body}."))),
        Said::No(Reason::Signature)
    );
}

#[test]
fn claims_are_checked_with_leeway() {
    let mut source = hs256();
    source.rules.issuers = vec!["us".to_owned(), "them".to_owned()];
    source.rules.audiences = vec!["tidings".to_owned()];
    let base = |more: Value| {
        let mut all = json!({"iss": "us", "aud": "tidings"});
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        claims(&all)
    };
    let no = Said::No;
    for (more, expect) in [
        (json!({}), Said::Yes),
        (json!({"exp": NOW_S - 59}), Said::Yes),
        (json!({"exp": NOW_S as f64 - 59.5}), Said::Yes),
        (json!({"exp": NOW_S - 60}), no(Reason::Expired)),
        (json!({"exp": 0}), no(Reason::Expired)),
        (json!({"exp": -5}), no(Reason::Expired)),
        (json!({"exp": 1e300}), Said::Yes),
        (json!({"exp": u64::MAX}), Said::Yes),
        (json!({"exp": (NOW_S + 9).to_string()}), no(Reason::Claim)),
        (json!({"exp": null}), no(Reason::Claim)),
        (json!({"nbf": NOW_S + 60}), Said::Yes),
        (json!({"nbf": NOW_S + 61}), no(Reason::NotYet)),
        (json!({"nbf": "soon"}), no(Reason::Claim)),
        (json!({"iss": "them"}), Said::Yes),
        (json!({"iss": "us "}), no(Reason::Issuer)),
        (json!({"iss": ["us"]}), no(Reason::Issuer)),
        (json!({"iss": null}), no(Reason::Issuer)),
        (json!({"aud": ["x", "tidings"]}), Said::Yes),
        (json!({"aud": []}), no(Reason::Audience)),
        (json!({"aud": "tidings2"}), no(Reason::Audience)),
        (json!({"aud": {"tidings": 1}}), no(Reason::Audience)),
        (json!({"sub": ""}), no(Reason::Claim)),
        (json!({"sub": "a\u{0}b"}), no(Reason::Claim)),
        (json!({"sub": "x".repeat(257)}), no(Reason::Claim)),
        (json!({"sub": 7}), no(Reason::Claim)),
        (json!({"tidings": {"publish": ["a/#"]}}), Said::Yes),
        (
            json!({"tidings": {"publish": ["a/#/b"]}}),
            no(Reason::Claim),
        ),
        (json!({"tidings": {"publish": "a"}}), no(Reason::Claim)),
        (json!({"tidings": {"denny": ["a"]}}), no(Reason::Claim)),
        (
            json!({"tidings": {"deny": {"read": ["a"]}}}),
            no(Reason::Claim),
        ),
        (json!({"tidings": null}), no(Reason::Claim)),
        (
            json!({"tidings": {"publish": vec!["a"; 1_001]}}),
            no(Reason::Claim),
        ),
    ] {
        assert_eq!(
            said(&source, &signed(HS256, &base(more.clone()))),
            expect,
            "{more}"
        );
    }
    // What is missing is not right either.
    for (more, reason) in [
        (json!({"aud": "tidings"}), Reason::Issuer),
        (json!({"iss": "us"}), Reason::Audience),
    ] {
        assert_eq!(said(&source, &signed(HS256, &claims(&more))), no(reason));
    }
}

#[test]
fn a_token_without_an_end_or_for_others_is_refused_unless_configured() {
    let mut source = hs256();
    let endless = signed(HS256, r#"{"sub":"ada"}"#);
    assert_eq!(said(&source, &endless), Said::No(Reason::Claim));
    let others = signed(HS256, &claims(&json!({"aud": "others"})));
    assert_eq!(said(&source, &others), Said::No(Reason::Audience));
    source.rules.endless = true;
    assert_eq!(accepted(source.verify(&endless, NOW)).expires, None);
    source.rules.leeway = Duration::ZERO;
    let exact = signed(HS256, &claims(&json!({"exp": NOW_S})));
    assert_eq!(said(&source, &exact), Said::No(Reason::Expired));
}

#[test]
fn a_token_that_two_readers_could_read_differently_is_refused() {
    let source = hs256();
    let end = NOW_S + 60;
    for (header, claims) in [
        (HS256, format!(r#"{{"sub":"ada","sub":"eve","exp":{end}}}"#)),
        (HS256, format!(r#"{{"sub":"ada","exp":1,"exp":{end}}}"#)),
        (
            HS256,
            format!(r#"{{"sub":"ada","exp":{end},"tidings":{{"publish":[],"publish":["a"]}}}}"#),
        ),
        (r#"{"alg":"none","alg":"HS256"}"#, claims(&json!({}))),
        (r#"{"alg":"HS256","crit":["exp"]}"#, claims(&json!({}))),
        (r#"{"alg":"HS256","b64":false}"#, claims(&json!({}))),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, claims(&json!({}))),
        (r#"{"alg":"HS256","kid":1}"#, claims(&json!({}))),
        (HS256, "[]".to_owned()),
        (HS256, "{".to_owned()),
        (HS256, format!("{} {{}}", claims(&json!({})))),
        (HS256, "[".repeat(2_000)),
    ] {
        assert_eq!(
            said(&source, &signed(header, &claims)),
            Said::No(Reason::Malformed),
            "{claims}"
        );
    }
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = json!({"alg": "HS256", "typ": typ}).to_string();
        assert_eq!(
            said(&source, &signed(&header, &claims(&json!({})))),
            Said::Yes,
            "{typ}"
        );
    }
}

#[test]
fn what_only_looks_like_a_token_is_refused() {
    let source = hs256();
    let Credential::Bearer(good) = signed(HS256, &claims(&json!({}))) else {
        unreachable!()
    };
    let good = text(&good);
    for (token, expect) in [
        (format!("{good}="), Said::No(Reason::Signature)),
        (format!("{good}\n"), Said::No(Reason::Signature)),
        (format!("{good}.x"), Said::NotMine),
        (format!(" {good}"), Said::NotMine),
        (good.replacen('.', "", 1), Said::NotMine),
        ("eyJ..".to_owned(), Said::No(Reason::Malformed)),
        ("eyJ%.e.e".to_owned(), Said::No(Reason::Malformed)),
        ("...".to_owned(), Said::NotMine),
        (String::new(), Said::NotMine),
        (
            format!("eyJ{}.e.e", "x".repeat(9_000)),
            Said::No(Reason::TooLong),
        ),
        (
            format!("eyJ{}.e.e", "x".repeat(10 << 20)),
            Said::No(Reason::TooLong),
        ),
    ] {
        let shown = &token[..token.len().min(200)];
        assert_eq!(said(&source, &bearer(&token)), expect, "{shown}");
    }
    let big = claims(&json!({"x": "y".repeat(9_000)}));
    assert_eq!(
        said(&source, &signed(HS256, &big)),
        Said::No(Reason::TooLong)
    );
    assert_eq!(
        said(&source, &Credential::Bearer(Secret::new(vec![0xff, 0xfe]))),
        Said::NotMine
    );
}

#[test]
fn another_issuers_token_is_left_to_another_source() {
    let mut ours = source(vec![keys(Algorithm::ES256, None).1]);
    ours.rules.issuers = vec!["us".to_owned()];
    let (theirs, _) = keys(Algorithm::ES256, None);
    let token = |issuer: &str| {
        let mut wanted = wanted();
        wanted.issuer = Some(issuer.to_owned());
        shown(&mint(&theirs, &wanted).unwrap())
    };
    assert_eq!(said(&ours, &token("them")), Said::NotMine);
    assert_eq!(said(&ours, &token("us")), Said::No(Reason::Signature));
}

#[test]
fn a_token_is_made_and_looked_into() {
    let (signing, _) = keys(Algorithm::HS256, Some("k"));
    let mut wanted = wanted();
    wanted.issuer = Some("us".to_owned());
    wanted.audience = vec!["a".to_owned(), "b".to_owned()];
    wanted.not_before = Some(NOW);
    wanted.claims.insert("role".to_owned(), json!("admin"));
    let token = mint(&signing, &wanted).unwrap();
    let mut seen = inspect(&Secret::from(format!(" {}\n", text(&token)).as_str())).unwrap();
    assert_eq!(
        Value::from(seen.header),
        json!({"alg": "HS256", "typ": "JWT", "kid": "k"})
    );
    assert!(seen.claims.remove("jti").is_some());
    assert_eq!(
        Value::from(seen.claims),
        json!({"sub": "ada", "iss": "us", "aud": ["a", "b"], "iat": NOW_S, "nbf": NOW_S,
            "exp": NOW_S + 60, "role": "admin"})
    );
    wanted.claims.insert("exp".to_owned(), json!(1));
    assert_eq!(
        mint(&signing, &wanted).unwrap_err(),
        MintError::Claim("exp".to_owned())
    );
    wanted.claims.clear();
    wanted.grants.publish = vec!["a/#/b".to_owned()];
    assert!(matches!(mint(&signing, &wanted), Err(MintError::Grant(_))));
    wanted.subject.clear();
    assert_eq!(mint(&signing, &wanted).unwrap_err(), MintError::Subject);
    for text in ["", "a.b", "a.b.c", "eyJ.eyJ.x"] {
        assert_eq!(
            inspect(&Secret::from(text)).unwrap_err(),
            MintError::NotAToken
        );
    }
}
