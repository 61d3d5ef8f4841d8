//! The parts of a token, and what is asked of its claims.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};
use tidings_types::Timestamp;

use crate::credential::{Identity, Reason, is_name};
use crate::grants::GrantsText;

/// What is asked of a genuine token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRules {
    /// The accepted values of `iss`; none: it is not looked at.
    pub issuers: Vec<String>,
    /// The accepted values of `aud`; none: a token that has an audience is refused (RFC 7519, 4.1.3).
    pub audiences: Vec<String>,
    /// How wrong the clocks may be, both ways. A token is good, and its connections live, this long after
    /// its `exp`.
    pub leeway: Duration,
    /// Whether a token without `exp`, which is good for ever, is accepted.
    pub endless: bool,
    /// The claim with the grants.
    pub grants_claim: String,
    /// The longest token.
    pub token_bytes_max: usize,
}

impl Default for JwtRules {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_mins(1),
            endless: false,
            grants_claim: "tidings".to_owned(),
            token_bytes_max: 8 << 10,
        }
    }
}

/// What of a token's header matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
}

/// A token in its compact form (RFC 7515, 7.1), not yet verified.
pub(crate) struct Compact<'a> {
    pub header: Header,
    /// What the signature is of.
    pub signed: &'a str,
    pub payload: &'a str,
    pub signature: &'a str,
}

impl<'a> Compact<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Reason> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Reason::Malformed)?;
        Ok(Self {
            header: parse_header(&strict_object(header)?)?,
            signed,
            payload,
            signature,
        })
    }
}

fn parse_header(header: &Map<String, Value>) -> Result<Header, Reason> {
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Reason::Malformed),
    };
    // What must be understood is not (RFC 7515, 4.1.11), `b64` among it (RFC 7797, 6).
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Reason::Malformed);
    }
    // A logout token or a proof of possession is no access token, whoever signed it (RFC 8725, 3.11).
    let typ = text("typ")?.map(str::to_ascii_lowercase);
    let typ = typ
        .as_deref()
        .map(|typ| typ.trim_start_matches("application/"));
    if !matches!(typ, None | Some("jwt" | "at+jwt")) {
        return Err(Reason::Malformed);
    }
    let algorithm = text("alg")?.ok_or(Reason::Algorithm)?;
    Ok(Header {
        algorithm: algorithm.parse().map_err(|_| Reason::Algorithm)?,
        kid: text("kid")?.map(str::to_owned),
    })
}

/// A part of a token as JSON. A name that is there twice fails it: two readers could take different ones
/// (RFC 7519, 4).
pub(crate) fn strict_object(part: &str) -> Result<Map<String, Value>, Reason> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Reason::Malformed)?;
    match serde_json::from_slice(&bytes) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        _ => Err(Reason::Malformed),
    }
}

/// JSON in which no object has a name twice.
pub(crate) struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::from(flag))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

/// Whether the token says that it is of an issuer that is not accepted.
pub(crate) fn issuer_is_foreign(claims: &Map<String, Value>, rules: &JwtRules) -> bool {
    let known = |issuer: &str| rules.issuers.iter().any(|known| known == issuer);
    !rules.issuers.is_empty() && !claims.get("iss").and_then(Value::as_str).is_some_and(known)
}

/// Who a genuine token says that the peer is.
pub(crate) fn identity(
    claims: Map<String, Value>,
    rules: &JwtRules,
    now: Timestamp,
) -> Result<Identity, Reason> {
    if issuer_is_foreign(&claims, rules) {
        return Err(Reason::Issuer);
    }
    check_audience(claims.get("aud"), rules)?;
    let leeway = rules.leeway;
    let expires = moment(claims.get("exp"))?.map(|end| end.plus(leeway));
    match expires {
        Some(end) if end <= now => return Err(Reason::Expired),
        None if !rules.endless => return Err(Reason::Claim),
        _ => {}
    }
    if moment(claims.get("nbf"))?.is_some_and(|start| start > now.plus(leeway)) {
        return Err(Reason::NotYet);
    }
    let name = claims.get("sub").and_then(Value::as_str);
    let name = name.filter(|name| is_name(name)).ok_or(Reason::Claim)?;
    let grants = match claims.get(&rules.grants_claim) {
        None => GrantsText::default(),
        Some(value) => GrantsText::deserialize(value).map_err(|_| Reason::Claim)?,
    };
    let credential = claims.get("jti").and_then(Value::as_str);
    // It is shown where a name is.
    let credential = credential.filter(|jti| is_name(jti));
    Ok(Identity {
        name: name.to_owned(),
        grants: grants.parse().map_err(|_| Reason::Claim)?,
        expires,
        credential: credential.map(str::to_owned),
        issued: moment(claims.get("iat")).unwrap_or_default(),
        claims,
        entry: None,
    })
}

pub(crate) fn check_audience(audience: Option<&Value>, rules: &JwtRules) -> Result<(), Reason> {
    let known = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| rules.audiences.iter().any(|known| known == text))
    };
    let accepted = match audience {
        None => rules.audiences.is_empty(),
        Some(Value::Array(values)) => values.iter().any(known),
        Some(value) => known(value),
    };
    if accepted {
        Ok(())
    } else {
        Err(Reason::Audience)
    }
}

/// A `NumericDate` (RFC 7519, 2): seconds, perhaps with a fraction. Before 1970 is 1970, and what is too far
/// away is the last moment that there is.
pub(crate) fn moment(claim: Option<&Value>) -> Result<Option<Timestamp>, Reason> {
    let Some(claim) = claim else {
        return Ok(None);
    };
    if let Some(s) = claim.as_u64() {
        return Ok(Some(Timestamp(s.saturating_mul(1_000))));
    }
    let s = claim.as_f64().ok_or(Reason::Claim)?;
    // The conversion saturates.
    Ok(Some(Timestamp((s * 1_000.0) as u64)))
}
