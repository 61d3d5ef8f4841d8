//! Who was let in by one reading of the files, and what the next reading says of it.

use std::sync::Arc;

use tidings_auth::jwt::{
    Algorithm, Jwt, JwtRules, KeySet, Minting, SigningKey, VerifyingKey, mint,
};
use tidings_auth::keys::{self, KeyFile, NewKey};
use tidings_auth::passwords::{self, PasswordFile};
use tidings_auth::{
    Authenticator, Credential, GrantsText, Permissions, Reason, Secret, Source, Step,
};
use tidings_ports::{Attempt, Certificate};
use tidings_types::{Principal, Protocol, Timestamp, Topic};

use super::{NOW, bearer, login, shown, text};

const SECRET: &str = "a secret that is long enough for HS256";
const OTHER: &str = "another secret, also long enough for it";

fn reading(sources: Vec<Box<dyn Source>>, rules: &str) -> Authenticator {
    Authenticator {
        sources,
        permissions: Permissions::parse(rules).unwrap(),
        ..Authenticator::default()
    }
}

fn key_file(text: &str) -> Vec<Box<dyn Source>> {
    vec![Box::new(KeyFile::parse(text).unwrap())]
}

fn password_file(text: &str) -> Vec<Box<dyn Source>> {
    vec![Box::new(PasswordFile::parse(text).unwrap())]
}

fn tokens(secrets: &[&str]) -> Vec<Box<dyn Source>> {
    let key =
        |secret: &&str| VerifyingKey::from_secret(&Secret::from(*secret), Algorithm::HS256, None);
    let keys = secrets.iter().map(|secret| key(secret).unwrap());
    vec![Box::new(Jwt {
        keys: KeySet::new(keys.collect()).unwrap(),
        rules: JwtRules::default(),
    })]
}

/// What becomes of a principal: it stays as it is, is another one, or is out.
fn renewed(
    new: &Authenticator,
    old: &Principal,
    now: Timestamp,
) -> Result<Option<Principal>, Reason> {
    let renewed = new.renew(old, now).transpose();
    renewed.map_err(|rejection| rejection.reason)
}

fn let_in(by: &Authenticator, credential: &Credential) -> Principal {
    by.authenticate(credential, NOW).unwrap()
}

fn may_publish(principal: &Principal, topic: &str) -> bool {
    principal.grants.may_publish(&Topic::new(topic).unwrap())
}

#[test]
fn a_key_lives_as_long_as_its_entry_and_gets_what_that_grants_now() {
    let new = NewKey {
        name: "ann".to_owned(),
        expires: Some(Timestamp(NOW.0 + 10_000)),
        ..NewKey::default()
    };
    let made = keys::create("", &new, NOW).unwrap();
    let old = reading(key_file(&made.text), "");
    let ann = let_in(&old, &shown(&made.key));
    assert_eq!(renewed(&old, &ann, NOW), Ok(None), "the same reading");
    let rules = "[[rule]]\nsubject = \"ann\"\npublish = [\"a\"]\n";
    let more = renewed(&reading(key_file(&made.text), rules), &ann, NOW);
    let more = more.unwrap().unwrap();
    assert!(may_publish(&more, "a") && !may_publish(&ann, "a"));
    let with_grants = made.text.replace("name =", "publish = [\"b\"]\nname =");
    let own = renewed(&reading(key_file(&with_grants), ""), &ann, NOW);
    assert!(may_publish(&own.unwrap().unwrap(), "b"));
    let revoked = keys::revoke(&made.text, &made.id).unwrap();
    let renamed = made.text.replace("\"ann\"", "\"eve\"");
    let sha256 = made.text.split('"').find(|it| it.len() == 64).unwrap();
    let replaced = made.text.replace(sha256, &"0".repeat(64));
    for text in [&revoked, &renamed, &replaced, ""] {
        let out = renewed(&reading(key_file(text), ""), &ann, NOW);
        assert_eq!(out, Err(Reason::Revoked), "{text}");
    }
    let late = Timestamp(NOW.0 + 10_000);
    let out = renewed(&reading(key_file(&made.text), ""), &ann, late);
    assert_eq!(out, Err(Reason::Expired));
    assert_eq!(
        renewed(&reading(Vec::new(), rules), &ann, NOW),
        Err(Reason::Revoked)
    );
}

#[test]
fn a_password_lives_until_it_is_set_anew() {
    let set = |text: &str, user: &str, password: &str| {
        passwords::set(text, user, &Secret::from(password))
            .unwrap()
            .0
    };
    let users = set("", "ann", "one");
    let ann = let_in(&reading(password_file(&users), ""), &login("ann", "one"));
    let beside = set(&users, "eve", "two");
    let stays = renewed(&reading(password_file(&beside), ""), &ann, NOW);
    assert!(stays.unwrap().is_some_and(|it| it.name == "ann"));
    let again = set(&users, "ann", "one");
    let removed = passwords::remove(&beside, "ann").unwrap();
    for users in [&again, &removed] {
        let out = renewed(&reading(password_file(users), ""), &ann, NOW);
        assert_eq!(out, Err(Reason::Revoked), "{users}");
    }
}

#[test]
fn a_token_lives_as_long_as_the_key_that_verified_it_and_keeps_its_grants() {
    let signing = SigningKey::from_secret(&Secret::from(SECRET), Algorithm::HS256, None).unwrap();
    let wanted = Minting {
        subject: "ann".to_owned(),
        issued: NOW,
        expires: Some(Timestamp(NOW.0 + 10_000)),
        grants: GrantsText {
            publish: vec!["a".to_owned()],
            ..GrantsText::default()
        },
        grants_claim: "tidings".to_owned(),
        ..Minting::default()
    };
    let token = mint(&signing, &wanted).unwrap();
    let ann = let_in(&reading(tokens(&[SECRET]), ""), &bearer(text(&token)));
    assert_eq!(ann.voucher.issued, Some(NOW));
    for (secrets, expect) in [
        (&[SECRET][..], Ok(None)),
        (&[OTHER, SECRET], Ok(None)),
        (&[OTHER], Err(Reason::Signature)),
    ] {
        assert_eq!(renewed(&reading(tokens(secrets), ""), &ann, NOW), expect);
    }
}

#[test]
fn a_certificate_lives_as_long_as_certificates_count_and_gets_what_is_granted_now() {
    let with_certificates = |certificates, rules: &str| Authenticator {
        certificates,
        ..reading(Vec::new(), rules)
    };
    let rules = |topic| format!("[[rule]]\nsource = [\"certificate\"]\npublish = [\"{topic}\"]\n");
    let certificate = Certificate {
        name: Some("pump".to_owned()),
        expires: Timestamp(NOW.0 + 1_000),
        fingerprint: "c0ffee".to_owned(),
    };
    let attempt = Attempt {
        credential: Credential::Anonymous,
        protocol: Protocol::Mqtt,
        address: None,
        certificate: Some(Arc::new(certificate)),
    };
    let Step::Done(pump) = with_certificates(true, &rules("a")).begin(&attempt, NOW) else {
        panic!("a certificate is judged at once");
    };
    let pump = pump.unwrap();
    let stays = renewed(&with_certificates(true, &rules("b")), &pump, NOW);
    let stays = stays.unwrap().unwrap();
    assert!(may_publish(&stays, "b") && !may_publish(&stays, "a"));
    assert_eq!(
        (&stays.name, stays.expires, &stays.credential),
        (&pump.name, pump.expires, &pump.credential)
    );
    let out = renewed(&with_certificates(false, &rules("a")), &pump, NOW);
    assert_eq!(out, Err(Reason::Revoked));
}

#[test]
fn who_showed_nothing_is_what_such_peers_are_now() {
    let nobody_asked = Authenticator::open();
    let stranger = let_in(&nobody_asked, &Credential::Anonymous);
    assert_eq!(renewed(&Authenticator::open(), &stranger, NOW), Ok(None));
    let rules = "[[rule]]\nsource = [\"anonymous\"]\nsubscribe = [\"news\"]\n";
    let mut judged = reading(tokens(&[SECRET]), rules);
    assert_eq!(renewed(&judged, &stranger, NOW), Err(Reason::Missing));
    judged.anonymous = true;
    let less = renewed(&judged, &stranger, NOW).unwrap().unwrap();
    assert!(!may_publish(&less, "a"));
    assert_eq!(renewed(&judged, &Principal::nobody(None), NOW), Ok(None));
}
