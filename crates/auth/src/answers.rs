//! What other servers answer when they are asked who a peer is.
//!
//! An answer that is not what its protocol says is no answer: [`Reason::Unavailable`]. Nothing is guessed from it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tidings_types::Timestamp;

use crate::credential::{Identity, Reason, is_name};
use crate::grants::GrantsText;
use crate::jwt::{JwtRules, Strict, check_audience, is_foreign, moment};

/// Who an authorization server says that the bearer of a token is (RFC 7662, 2.2). With audiences in the rules the
/// token must be for one of them; without, `aud` is not looked at, as the server answers for us. `scope` becomes a
/// list, so that a permission rule can ask for one of its words.
pub fn introspected(body: &[u8], rules: &JwtRules, now: Timestamp) -> Result<Identity, Reason> {
    let Ok(Strict(Value::Object(mut claims))) = serde_json::from_slice(body) else {
        return Err(Reason::Unavailable);
    };
    match claims.remove("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(Reason::Inactive),
        _ => return Err(Reason::Unavailable),
    }
    if claims.contains_key("iss") && is_foreign(&claims, rules) {
        return Err(Reason::Issuer);
    }
    if !rules.audiences.is_empty() {
        check_audience(claims.get("aud"), rules)?;
    }
    let expires = moment(claims.get("exp"))?.map(|end| end.plus(rules.leeway));
    if expires.is_some_and(|end| end <= now) {
        return Err(Reason::Expired);
    }
    if moment(claims.get("nbf"))?.is_some_and(|start| start > now.plus(rules.leeway)) {
        return Err(Reason::NotYet);
    }
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let name = text("sub").or_else(|| text("username"));
    let name = name.filter(|name| is_name(name)).ok_or(Reason::Claim)?;
    let (name, credential) = (name.to_owned(), text("jti").filter(|jti| is_name(jti)));
    let credential = credential.map(str::to_owned);
    let grants = match claims.get(&rules.grants_claim) {
        None => GrantsText::default(),
        Some(value) => GrantsText::deserialize(value).map_err(|_| Reason::Claim)?,
    };
    if let Some(Value::String(scope)) = claims.get("scope") {
        let words = scope.split_ascii_whitespace().map(Value::from).collect();
        claims.insert("scope".to_owned(), Value::Array(words));
    }
    Ok(Identity {
        name,
        grants: grants.parse().map_err(|_| Reason::Claim)?,
        expires,
        credential,
        entry: None,
        issued: moment(claims.get("iat")).unwrap_or_default(),
        claims,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdmissionText {
    sub: String,
    #[serde(default)]
    grants: GrantsText,
    expires_in: Option<u64>,
    #[serde(default)]
    claims: Map<String, Value>,
    #[serde(default)]
    cache_s: u64,
}

/// What the user's backend says of somebody whom it lets in.
#[derive(Debug)]
pub struct Admission {
    /// Who that is.
    pub identity: Identity,
    /// For how long the same credential need not be asked about again.
    pub cache: Duration,
}

/// Reads the backend's word that a peer may come in.
pub fn admitted(body: &[u8], now: Timestamp) -> Result<Admission, Reason> {
    let text: AdmissionText = serde_json::from_slice(body).map_err(|_| Reason::Unavailable)?;
    if !is_name(&text.sub) {
        return Err(Reason::Unavailable);
    }
    let expires = text.expires_in.map(Duration::from_secs);
    Ok(Admission {
        identity: Identity {
            name: text.sub,
            grants: text.grants.parse().map_err(|_| Reason::Unavailable)?,
            expires: expires.map(|span| now.plus(span)),
            credential: None,
            entry: None,
            issued: None,
            claims: text.claims,
        },
        cache: Duration::from_secs(text.cache_s),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PermissionText {
    allow: bool,
    #[serde(default)]
    cache_s: u64,
}

/// Reads the backend's word on a topic: whether it is permitted, and for how long that need not be asked again.
pub fn permitted(body: &[u8]) -> Result<(bool, Duration), Reason> {
    let text: PermissionText = serde_json::from_slice(body).map_err(|_| Reason::Unavailable)?;
    Ok((text.allow, Duration::from_secs(text.cache_s)))
}

#[derive(Deserialize)]
struct DiscoveryText {
    issuer: String,
    jwks_uri: String,
}

/// Where an `OpenID` issuer says that its keys are (`OpenID` Connect Discovery 1.0, 4.2); `None` if that is no such
/// document, or another issuer's: the name must be the same, character for character (4.3).
#[must_use]
pub fn discovered(body: &[u8], issuer: &str) -> Option<String> {
    let text: DiscoveryText = serde_json::from_slice(body).ok()?;
    (text.issuer == issuer).then_some(text.jwks_uri)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn rules(audience: Option<&str>) -> JwtRules {
        JwtRules {
            audiences: audience.iter().map(|&it| it.to_owned()).collect(),
            leeway: Duration::ZERO,
            ..JwtRules::default()
        }
    }

    #[test]
    fn an_active_token_has_a_name_an_end_and_claims() {
        let now_s = NOW.0 / 1_000;
        let body = json!({"active": true, "username": "ann", "exp": now_s + 60, "scope": "read write",
            "tidings": {"subscribe": ["a/#"]}, "jti": "x1"});
        let identity = introspected(body.to_string().as_bytes(), &rules(None), NOW).unwrap();
        assert_eq!(identity.name, "ann");
        assert_eq!(identity.expires, Some(Timestamp(NOW.0 + 60_000)));
        assert_eq!(identity.credential.as_deref(), Some("x1"));
        assert_eq!(identity.claims["scope"], json!(["read", "write"]));
        assert_eq!(identity.grants.subscribe.len(), 1);
    }

    #[test]
    fn what_is_not_a_good_answer_lets_nobody_in() {
        let now_s = NOW.0 / 1_000;
        for (body, audience, reason) in [
            (
                json!({"active": false, "sub": "ann"}),
                None,
                Reason::Inactive,
            ),
            (
                json!({"active": "true", "sub": "ann"}),
                None,
                Reason::Unavailable,
            ),
            (json!({"sub": "ann"}), None, Reason::Unavailable),
            (json!(["active"]), None, Reason::Unavailable),
            (json!({"active": true}), None, Reason::Claim),
            (json!({"active": true, "sub": "a\nb"}), None, Reason::Claim),
            (
                json!({"active": true, "sub": "ann", "exp": now_s}),
                None,
                Reason::Expired,
            ),
            (
                json!({"active": true, "sub": "ann", "nbf": now_s + 9}),
                None,
                Reason::NotYet,
            ),
            (
                json!({"active": true, "sub": "ann"}),
                Some("push"),
                Reason::Audience,
            ),
            (
                json!({"active": true, "sub": "ann", "aud": "mail"}),
                Some("push"),
                Reason::Audience,
            ),
            (
                json!({"active": true, "sub": "ann", "tidings": {"subscribe": ["a/#/b"]}}),
                None,
                Reason::Claim,
            ),
        ] {
            let said = introspected(body.to_string().as_bytes(), &rules(audience), NOW);
            assert_eq!(said.unwrap_err(), reason, "{body}");
        }
        let twice = br#"{"active":false,"active":true,"sub":"ann"}"#;
        assert_eq!(
            introspected(twice, &rules(None), NOW).unwrap_err(),
            Reason::Unavailable
        );
    }

    #[test]
    fn the_backend_admits_with_a_name_and_nothing_that_is_misread() {
        let body = br#"{"sub":"ann","grants":{"publish":["a/#"],"deny":["a/b"]},"expires_in":60,"claims":{"t":1},"cache_s":5}"#;
        let admission = admitted(body, NOW).unwrap();
        assert_eq!(admission.identity.expires, Some(Timestamp(NOW.0 + 60_000)));
        assert_eq!(admission.identity.grants.deny_publish.len(), 1);
        assert_eq!(admission.cache, Duration::from_secs(5));
        for body in [
            r#"{"sub":""}"#,
            r#"{"grants":{}}"#,
            r#"{"sub":"ann","denied":["a"]}"#,
            r#"{"sub":"ann","grants":{"publish":["a/#/b"]}}"#,
            "<html>",
        ] {
            assert!(admitted(body.as_bytes(), NOW).is_err(), "{body}");
        }
        assert_eq!(
            permitted(br#"{"allow":true,"cache_s":3}"#),
            Ok((true, Duration::from_secs(3)))
        );
        for body in [
            r#"{"allow":"true"}"#,
            "{}",
            "true",
            r#"{"allow":true,"deny":true}"#,
        ] {
            assert!(permitted(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_discovery_document_is_its_issuers_own() {
        let body = br#"{"issuer":"https://id.example","jwks_uri":"https://id.example/keys","x":1}"#;
        assert_eq!(
            discovered(body, "https://id.example").as_deref(),
            Some("https://id.example/keys")
        );
        for issuer in [
            "https://id.example/",
            "https://ID.example",
            "https://other.example",
        ] {
            assert_eq!(discovered(body, issuer), None, "{issuer}");
        }
        assert_eq!(discovered(b"{}", "https://id.example"), None);
    }
}
