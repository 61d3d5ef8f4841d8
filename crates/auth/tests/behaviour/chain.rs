//! The sources in their order.

use std::sync::Arc;

use tidings_auth::jwt::{
    Algorithm, Jwt, JwtRules, KeySet, Minting, SigningKey, VerifyingKey, mint,
};
use tidings_auth::keys::{self, KeyFile, NewKey};
use tidings_auth::passwords::{self, PasswordFile};
use tidings_auth::{
    Authenticator, Credential, GRANT_FILTERS_MAX, GrantsText, Permissions, Reason, Rejection,
    Secret, Step,
};
use tidings_ports::Attempt;
use tidings_types::{Grants, Principal, Protocol, RefusalCode, Timestamp};

use super::{NOW, bearer, login, shown, text};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct World {
    authenticator: Authenticator,
    key: Secret,
}

fn world() -> World {
    let (users, _) = passwords::set("", "ada", &Secret::from("right")).unwrap();
    let new = NewKey {
        name: "billing".to_owned(),
        ..NewKey::default()
    };
    let created = keys::create("", &new, NOW).unwrap();
    let secret = Secret::from(SECRET);
    let jwt = Jwt {
        keys: KeySet::new(vec![
            VerifyingKey::from_secret(&secret, Algorithm::HS256, None).unwrap(),
        ])
        .unwrap(),
        rules: JwtRules::default(),
    };
    World {
        authenticator: Authenticator {
            sources: vec![
                Box::new(KeyFile::parse(&created.text).unwrap()),
                Box::new(jwt),
                Box::new(PasswordFile::parse(&users).unwrap()),
            ],
            permissions: Permissions::default(),
            anonymous: true,
            ..Authenticator::default()
        },
        key: created.key,
    }
}

fn token(expires: u64, grants: GrantsText) -> Secret {
    let signing = SigningKey::from_secret(&Secret::from(SECRET), Algorithm::HS256, None).unwrap();
    let wanted = Minting {
        subject: "sensor".to_owned(),
        issued: NOW,
        expires: Some(Timestamp(expires)),
        grants,
        grants_claim: "tidings".to_owned(),
        ..Minting::default()
    };
    mint(&signing, &wanted).unwrap()
}

fn fresh() -> Secret {
    token(NOW.0 + 60_000, GrantsText::default())
}

#[test]
fn the_first_source_that_knows_a_credential_decides() {
    let World { authenticator, key } = world();
    for (credential, name, source) in [
        (login("ada", "right"), "ada", "password"),
        (shown(&key), "billing", "key"),
        (login("", text(&key)), "billing", "key"),
        (shown(&fresh()), "sensor", "jwt"),
        (login("ada", text(&fresh())), "sensor", "jwt"),
        (Credential::Anonymous, "anonymous", "anonymous"),
    ] {
        let who = authenticator.authenticate(&credential, NOW).unwrap();
        assert_eq!((who.name.as_str(), who.source), (name, source));
        assert_eq!(
            who.grants,
            Grants::default(),
            "nothing is granted by default"
        );
    }
}

#[test]
fn a_token_shown_as_a_password_passes_a_password_file_that_comes_first() {
    let World {
        mut authenticator, ..
    } = world();
    authenticator.sources.reverse();
    let grants = GrantsText {
        publish: vec!["a/long/topic/filter".to_owned(); 100],
        ..GrantsText::default()
    };
    let long = token(NOW.0 + 60_000, grants);
    assert!(text(&long).len() > passwords::PASSWORD_BYTES_MAX);
    for credential in [login("", text(&fresh())), login("token", text(&long))] {
        let who = authenticator.authenticate(&credential, NOW).unwrap();
        assert_eq!(who.source, "jwt");
    }
}

#[test]
fn only_passwords_wait_for_a_slow_source() {
    let World { authenticator, key } = world();
    for (credential, slow) in [
        (shown(&key), false),
        (login("ada", text(&fresh())), false),
        (shown(&fresh()), false),
        (bearer("nonsense"), false),
        (login("ada", ""), false),
        (Credential::Anonymous, false),
        (login("ada", "right"), true),
        (login("nobody", "right"), true),
    ] {
        let attempt = Attempt {
            credential,
            protocol: Protocol::Http,
            address: None,
            certificate: None,
        };
        match authenticator.begin(&attempt, NOW) {
            Step::Done(quick) => {
                assert!(!slow, "{attempt:?}");
                let judged = authenticator.authenticate(&attempt.credential, NOW);
                assert_eq!(quick, judged.map(Arc::new));
            }
            Step::Slow(at) => assert!(slow && at == 2, "{attempt:?}"),
            Step::Ask(at) => panic!("nobody is to be asked, not {at}"),
        }
    }
}

#[test]
fn whoever_has_nothing_genuine_learns_nothing() {
    let World { authenticator, key } = world();
    let good = fresh();
    let (body, _) = text(&good).rsplit_once('.').unwrap();
    let stranger = keys::create(
        "",
        &NewKey {
            name: "x".to_owned(),
            ..NewKey::default()
        },
        NOW,
    );
    let stranger = stranger.unwrap();
    let wrong = [
        (login("ada", "wrong"), Reason::Password),
        (login("nobody", "wrong"), Reason::Unknown),
        (login("nobody", "right"), Reason::Unknown),
        (login("ada", ""), Reason::Unknown),
        (login("a\0da", "right"), Reason::Unknown),
        (login("ada", &"x".repeat(2_000)), Reason::Unknown),
        (bearer("right"), Reason::Unknown),
        (shown(&stranger.key), Reason::Key),
        (bearer(&text(&key)[..40]), Reason::Unknown),
        (bearer(&format!("{body}.AAAA")), Reason::Signature),
        (bearer("eyJhbGciOiJub25lIn0.e30."), Reason::Algorithm),
        (bearer("eyJhbGciOiJSUzI1NiJ9.e30.AAAA"), Reason::Unknown),
        (
            bearer(&format!("eyJ{}.e.e", "x".repeat(9_000))),
            Reason::TooLong,
        ),
    ];
    let refusals: Vec<_> = wrong
        .iter()
        .map(|(credential, reason)| {
            let rejection = authenticator.authenticate(credential, NOW).unwrap_err();
            assert_eq!(rejection.reason, *reason, "{credential:?}");
            rejection.refusal()
        })
        .collect();
    assert!(
        refusals.iter().all(|refusal| *refusal == refusals[0]),
        "{refusals:?}"
    );
    assert_eq!(refusals[0].code, RefusalCode::Unauthorized);
}

#[test]
fn an_expired_credential_is_an_error_and_nobody_becomes_anonymous_by_it() {
    let World { authenticator, .. } = world();
    let expired = token(NOW.0 - 60_000, GrantsText::default());
    let rejection = authenticator
        .authenticate(&shown(&expired), NOW)
        .unwrap_err();
    assert_eq!(
        rejection,
        Rejection {
            source: Some("jwt"),
            reason: Reason::Expired
        }
    );
    let ends = authenticator
        .authenticate(&shown(&fresh()), NOW)
        .unwrap()
        .expires;
    assert_eq!(ends, Some(Timestamp(NOW.0 + 120_000)));
}

#[test]
fn an_open_server_lets_everybody_do_everything() {
    let open = Authenticator::open();
    for credential in [Credential::Anonymous, login("ada", "x"), bearer("y")] {
        assert_eq!(
            open.authenticate(&credential, NOW),
            Ok(Principal::anonymous())
        );
    }
    let closed = Authenticator::default();
    for credential in [Credential::Anonymous, login("ada", "x")] {
        let rejection = closed.authenticate(&credential, NOW).unwrap_err();
        assert_eq!(rejection.reason, Reason::Missing);
    }
    let mut ruled = Authenticator::open();
    ruled.permissions =
        Permissions::parse("[[rule]]\nsource = [\"anonymous\"]\nsubscribe = [\"news\"]").unwrap();
    let who = ruled.authenticate(&Credential::Anonymous, NOW).unwrap();
    assert_eq!(who.grants.filters(), 1);
}

#[test]
fn a_principal_has_a_bounded_number_of_filters() {
    let World {
        mut authenticator, ..
    } = world();
    authenticator.permissions = Permissions::parse("[[rule]]\npublish = [\"a\"]").unwrap();
    let grants = |count| GrantsText {
        publish: vec!["b".to_owned(); count],
        ..GrantsText::default()
    };
    let full = token(NOW.0 + 60_000, grants(GRANT_FILTERS_MAX - 1));
    assert!(authenticator.authenticate(&shown(&full), NOW).is_ok());
    let over = token(NOW.0 + 60_000, grants(GRANT_FILTERS_MAX));
    let rejection = authenticator.authenticate(&shown(&over), NOW).unwrap_err();
    assert_eq!(rejection.reason, Reason::TooManyGrants);
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let World { authenticator, key } = world();
    let credential = login("ada", "hunter2");
    let printed = format!("{credential:?} {:?} {authenticator:?}", shown(&key));
    for secret in ["hunter2", SECRET, &text(&key)[20..]] {
        assert!(!printed.contains(secret), "{printed}");
    }
    for reason in Reason::ALL {
        let rejection = Rejection {
            source: None,
            reason: *reason,
        };
        assert!(
            rejection.to_string().contains(':'),
            "says what to do: {rejection}"
        );
    }
}
