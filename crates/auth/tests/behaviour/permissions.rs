//! The permission file.

use proptest::prelude::*;
use serde_json::json;
use tidings_auth::{
    Authenticator, Credential, Identity, PermissionError, Permissions, Reason, Rejection, Source,
    Verdict,
};
use tidings_types::{Principal, Timestamp, Topic, TopicFilter};

use super::{NOW, bearer};

/// Vouches for everybody.
#[derive(Debug)]
struct Voucher(Identity);

impl Source for Voucher {
    fn label(&self) -> &'static str {
        "jwt"
    }

    fn is_slow(&self, _credential: &Credential) -> bool {
        false
    }

    fn verify(&self, _credential: &Credential, _now: Timestamp) -> Verdict {
        Verdict::Accepted(Box::new(self.0.clone()))
    }
}

fn admit(rules: &str, subject: &str, claims: &serde_json::Value) -> Result<Principal, Rejection> {
    let identity = Identity {
        name: subject.to_owned(),
        claims: claims.as_object().unwrap().clone(),
        ..Identity::default()
    };
    let authenticator = Authenticator {
        sources: vec![Box::new(Voucher(identity))],
        permissions: Permissions::parse(rules).unwrap(),
        anonymous: true,
        ..Authenticator::default()
    };
    authenticator.authenticate(&bearer("x"), NOW)
}

fn may_read(principal: &Principal, filter: &str) -> bool {
    principal
        .grants
        .may_subscribe(&TopicFilter::new(filter).unwrap())
}

fn may_write(principal: &Principal, topic: &str) -> bool {
    principal.grants.may_publish(&Topic::new(topic).unwrap())
}

const RULES: &str = r##"
[[rule]]
subject = "device-*"
publish = ["devices/{sub}/#"]
subscribe = ["devices/{sub}/commands/+", "news"]
deny = { publish = ["devices/+/commands/#"] }

[[rule]]
claims = { role = ["admin", "auditor"] }
subscribe = ["#"]
deny = ["devices/+/secret"]

[[rule]]
subscribe = ["tenants/{claim.tenant}/{claim.site.id}"]

[[rule]]
source = ["anonymous"]
subscribe = ["public/#"]
"##;

#[test]
fn rules_that_fit_add_up_and_what_one_denies_no_other_grants() {
    let device = admit(RULES, "device-1", &json!({})).unwrap();
    assert!(may_write(&device, "devices/device-1/state"));
    assert!(!may_write(&device, "devices/device-2/state"));
    assert!(!may_write(&device, "devices/device-1/commands/x"));
    assert!(may_read(&device, "devices/device-1/commands/+"));
    assert!(may_read(&device, "news") && !may_read(&device, "public/x"));

    let admin = admit(RULES, "device-1", &json!({"role": ["guest", "auditor"]})).unwrap();
    assert!(may_read(&admin, "tenants/#") && may_read(&admin, "devices/device-1/state"));
    assert!(!may_read(&admin, "devices/device-1/secret"));
    assert!(!may_read(&admin, "#"), "a denied topic is in it");

    let guest = admit(
        RULES,
        "eve",
        &json!({"role": "guest", "tenant": "t", "site": {"id": 7}}),
    );
    let guest = guest.unwrap();
    assert!(may_read(&guest, "tenants/t/7"));
    assert!(!may_read(&guest, "tenants/t/+") && !may_write(&guest, "tenants/t/7"));
    assert_eq!(guest.grants.filters(), 1);
}

#[test]
fn what_no_rule_grants_is_denied() {
    let nobody = admit("", "ada", &json!({})).unwrap();
    assert!(!may_write(&nobody, "a") && !may_read(&nobody, "a"));
}

#[test]
fn strangers_get_what_is_granted_to_strangers() {
    let rules = format!("{RULES}\n[[rule]]\nsubscribe = [\"members\"]\n");
    let authenticator = Authenticator {
        sources: vec![Box::new(Voucher(Identity::default()))],
        permissions: Permissions::parse(&rules).unwrap(),
        anonymous: true,
        ..Authenticator::default()
    };
    let stranger = authenticator
        .authenticate(&Credential::Anonymous, NOW)
        .unwrap();
    assert_eq!(stranger.source, Principal::ANONYMOUS);
    assert!(may_read(&stranger, "public/#") && !may_read(&stranger, "news"));
    assert_eq!(stranger.grants.filters(), 1);
}

#[test]
fn a_value_that_would_widen_a_filter_refuses_the_credential() {
    for value in [
        "", "+", "#", "a/b", "/", "a/", "a+", "a#", "$sys", "$", "a\nb", "a\u{0}",
    ] {
        for list in ["publish", "subscribe", "deny"] {
            let rule = format!("[[rule]]\n{list} = [\"t/{{claim.x}}/y\"]");
            let refused = admit(&rule, "ada", &json!({ "x": value })).unwrap_err();
            assert_eq!(refused.reason, Reason::Template, "{value:?} {list}");
        }
    }
    for value in [json!(["a"]), json!({"a": "b"}), json!(1.5)] {
        let refused = admit(
            "[[rule]]\npublish = [\"{claim.x}\"]",
            "ada",
            &json!({ "x": value }),
        );
        assert_eq!(refused.unwrap_err().reason, Reason::Template);
    }
    // A bad value counts where another one is missing too.
    let rule = "[[rule]]\npublish = [\"{claim.none}/{claim.x}\"]";
    let refused = admit(rule, "ada", &json!({"x": "+"})).unwrap_err();
    assert_eq!(refused.reason, Reason::Template);
    // The subject comes from outside too.
    let refused = admit("[[rule]]\nsubscribe = [\"users/{sub}/#\"]", "+", &json!({}));
    assert_eq!(refused.unwrap_err().reason, Reason::Template);
    // What would be too long for a filter is no filter.
    let long = "x".repeat(1_020);
    let refused = admit(
        "[[rule]]\nsubscribe = [\"users/{claim.x}\"]",
        "a",
        &json!({"x": long}),
    );
    assert_eq!(refused.unwrap_err().reason, Reason::Template);
}

#[test]
fn a_missing_claim_grants_nothing_and_lifts_no_denial() {
    for claims in [json!({}), json!({"x": null})] {
        let who = admit(
            "[[rule]]\npublish = [\"t/{claim.x}\", \"a\"]",
            "ada",
            &claims,
        )
        .unwrap();
        assert!(may_write(&who, "a"));
        assert_eq!(who.grants.filters(), 1);
        let rule = "[[rule]]\npublish = [\"#\"]\ndeny = [\"t/{claim.x}\"]";
        assert_eq!(
            admit(rule, "ada", &claims).unwrap_err().reason,
            Reason::Template
        );
    }
}

#[test]
fn braces_in_a_value_are_only_text() {
    let who = admit(
        "[[rule]]\npublish = [\"t/{claim.x}\"]",
        "ada",
        &json!({"x": "{sub}"}),
    );
    let who = who.unwrap();
    assert!(may_write(&who, "t/{sub}") && !may_write(&who, "t/ada"));
}

#[test]
fn every_rule_that_is_not_taken_is_named() {
    let text = r#"
[[rule]]
publish = ["a/#/b"]

[[rule]]
publish = ["a/{user}"]

[[rule]]
publish = ["+{sub}"]

[[rule]]
subject = "a"

[[rule]]
claims = { a = 1.5 }
publish = ["a"]

[[rule]]
deny = { subscribe = ["{claim.}"] }

[[rule]]
publish = ["a/{sub"]

[[rule]]
publish = ["a/sub}"]

[[rule]]
source = ["jwt", "tokn"]
publish = ["a"]
"#;
    let wrong = Permissions::parse(text).unwrap_err();
    let lines: Vec<usize> = wrong.iter().map(|at| at.line).collect();
    assert_eq!(lines, [2, 5, 8, 11, 14, 18, 21, 24, 27]);
    for (at, kind) in wrong.iter().zip("fpfecppps".chars()) {
        let right = matches!(
            (&at.error, kind),
            (PermissionError::Filter { .. }, 'f')
                | (PermissionError::Placeholder(_), 'p')
                | (PermissionError::Empty, 'e')
                | (PermissionError::Source(_), 's')
                | (PermissionError::ClaimValue(_), 'c')
        );
        assert!(right, "{at}");
    }
    for text in [
        "[[rules]]",
        "[[rule]]\nallow = []",
        "[[rule]]\ndeny = { read = [] }",
    ] {
        let wrong = Permissions::parse(text).unwrap_err();
        assert!(matches!(wrong[0].error, PermissionError::Toml(_)), "{text}");
    }
}

proptest! {
    #[test]
    fn a_subject_never_reaches_beyond_its_level(
        subject in "[ab/+#$*{}]{0,4}",
        first in "[ab$]{1,2}",
        second in "[ab$]{1,2}",
    ) {
        let rules = "[[rule]]\npublish = [\"{sub}/#\", \"t/{sub}/+\"]\nsubscribe = [\"t/{sub}/+\"]";
        let Ok(who) = admit(rules, &subject, &json!({})) else {
            prop_assert!(subject.is_empty() || subject.starts_with('$') || subject.contains(['/', '+', '#']));
            return Ok(());
        };
        prop_assert_eq!(may_write(&who, &format!("{first}/{second}")), first == subject);
        prop_assert_eq!(may_write(&who, &format!("t/{first}/{second}")), first == subject || subject == "t");
        prop_assert_eq!(may_read(&who, &format!("t/{first}/+")), first == subject);
        prop_assert!(!may_read(&who, "t/+/+") && !may_read(&who, "#"));
    }
}
