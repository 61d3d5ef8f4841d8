use std::sync::Arc;

use tidings_auth::{Authenticator, Permissions, Reason};
use tidings_ports::{Attempt, Certificate, Credential};
use tidings_types::{Principal, Protocol, Timestamp, Topic};

use super::{NOW, bearer, login};

const RULES: &str = r#"
[[rule]]
source = ["certificate"]
publish = ["devices/{sub}/#"]
"#;

fn authenticator() -> Authenticator {
    Authenticator {
        permissions: Permissions::parse(RULES).unwrap(),
        certificates: true,
        ..Authenticator::default()
    }
}

fn attempt(credential: Credential, protocol: Protocol, name: Option<&str>) -> Attempt {
    let certificate = Certificate {
        name: name.map(str::to_owned),
        expires: Timestamp(NOW.0 + 1_000),
        fingerprint: "c0ffee".to_owned(),
    };
    Attempt {
        credential,
        protocol,
        address: None,
        certificate: Some(Arc::new(certificate)),
    }
}

#[test]
fn a_certificate_stands_for_its_holder_until_its_end() {
    let shown = attempt(Credential::Anonymous, Protocol::Http, Some("pump-7"));
    let authenticator = authenticator();
    let judged = authenticator.authenticate_by_certificate(&shown, NOW);
    let principal = judged.unwrap().unwrap();
    assert_eq!(principal.name, "pump-7");
    assert_eq!(principal.source, Principal::CERTIFICATE);
    assert_eq!(principal.expires, Some(Timestamp(NOW.0 + 1_000)));
    assert_eq!(principal.credential.as_deref(), Some("c0ffee"));
    let may = |topic| principal.grants.may_publish(&Topic::new(topic).unwrap());
    assert!(may("devices/pump-7/state") && !may("devices/pump-8/state"));

    let at_its_end = Timestamp(NOW.0 + 1_000);
    let judged = authenticator.authenticate_by_certificate(&shown, at_its_end);
    assert_eq!(judged.unwrap().unwrap_err().reason, Reason::Expired);
}

#[test]
fn a_certificate_without_a_name_is_refused_and_not_anonymous() {
    let anonymous = Authenticator {
        anonymous: true,
        ..authenticator()
    };
    for name in [None, Some(""), Some("a\0b")] {
        let shown = attempt(Credential::Anonymous, Protocol::Http, name);
        let judged = anonymous.authenticate_by_certificate(&shown, NOW);
        assert_eq!(judged.unwrap().unwrap_err().reason, Reason::Certificate);
    }
    // It cannot stand in the filter of a rule that is for it.
    let shown = attempt(Credential::Anonymous, Protocol::Http, Some("a/b"));
    let judged = anonymous.authenticate_by_certificate(&shown, NOW);
    assert_eq!(judged.unwrap().unwrap_err().reason, Reason::Template);
}

#[test]
fn what_is_shown_counts_before_the_certificate() {
    let authenticator = authenticator();
    let counts = |credential, protocol| {
        let shown = attempt(credential, protocol, Some("pump-7"));
        authenticator
            .authenticate_by_certificate(&shown, NOW)
            .is_some()
    };
    for protocol in Protocol::ALL {
        assert!(!counts(bearer("token"), protocol));
        assert!(!counts(login("ann", "password"), protocol));
        // Some clients of these have to send a user name.
        let named = matches!(protocol, Protocol::Mqtt | Protocol::Stomp);
        assert_eq!(counts(login("ann", ""), protocol), named, "{protocol:?}");
    }
    let off = Authenticator::default();
    let shown = attempt(Credential::Anonymous, Protocol::Http, Some("pump-7"));
    assert!(off.authenticate_by_certificate(&shown, NOW).is_none());
}

#[test]
fn with_certificates_alone_nobody_comes_in_without_one() {
    let authenticator = Authenticator {
        certificates: true,
        ..Authenticator::default()
    };
    assert!(!authenticator.is_open());
    let judged = authenticator.authenticate(&Credential::Anonymous, NOW);
    assert_eq!(judged.unwrap_err().reason, Reason::Missing);
    let anonymous = Authenticator {
        anonymous: true,
        ..authenticator
    };
    // A wrong password makes nobody anonymous, and who is has no grants without a rule.
    let judged = anonymous.authenticate(&login("ann", "guess"), NOW);
    assert_eq!(judged.unwrap_err().reason, Reason::Unknown);
    let stranger = anonymous.authenticate(&Credential::Anonymous, NOW).unwrap();
    assert!(!stranger.grants.may_publish(&Topic::new("a").unwrap()));
}
