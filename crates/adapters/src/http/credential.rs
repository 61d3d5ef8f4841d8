//! What a request shows to say who sends it: `Authorization` (RFC 7617, RFC 6750), `?access_token=`, or a value of
//! `Sec-WebSocket-Protocol`. What a browser adds by itself is in `cookie`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use tidings_ports::{Credential, Secret};
use tidings_types::{Refusal, RefusalCode};

use crate::query::{form_decode, pairs};

/// The parameter for clients that cannot set a header: `EventSource`, WebSocket in a browser.
const PARAMETER: &str = "access_token";

/// What a page offers as a subprotocol, besides the one that it speaks: its `WebSocket` can set no header, and a
/// subprotocol, unlike an address, is in nobody's logs.
const BEARER: &str = "bearer.";
/// The same for a token that has other characters than a subprotocol may have: it is in base64url.
const ENCODED_BEARER: &str = "base64url.bearer.";

/// What the request shows. Two credentials at once are refused: which one would count is anybody's guess.
pub fn credential(parts: &Parts) -> Result<Credential, Refusal> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let query = parts.uri.query().unwrap_or_default();
    let named = |(name, _): &(&str, &str)| form_decode(name, "").is_ok_and(|it| it == PARAMETER);
    let mut tokens = pairs(query).filter(named);
    let mut values = subprotocols(parts);
    let shown = (headers.next(), tokens.next(), values.next());
    let more = headers.next().is_some() || tokens.next().is_some() || values.next().is_some();
    match shown {
        _ if more => Err(two()),
        (None, None, None) => Ok(Credential::Anonymous),
        (Some(value), None, None) => authorization(value.as_bytes()),
        (None, Some((_, token)), None) => {
            let token = form_decode(token, "`access_token`")?;
            Ok(Credential::Bearer(Secret::new(token.as_bytes())))
        }
        (None, None, Some(value)) => subprotocol(value),
        _ => Err(two()),
    }
}

/// Whether the request shows it as a subprotocol.
#[must_use]
pub fn is_shown_in_subprotocol(parts: &Parts) -> bool {
    subprotocols(parts).next().is_some()
}

fn two() -> Refusal {
    Refusal::new(
        RefusalCode::BadRequest,
        "there are two credentials: send one `Authorization` header, one `access_token`, or one subprotocol `bearer.`",
    )
}

/// The values of `Sec-WebSocket-Protocol` that carry a credential.
fn subprotocols(parts: &Parts) -> impl Iterator<Item = &str> {
    let lines = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|name| name.starts_with(BEARER) || name.starts_with(ENCODED_BEARER))
}

fn subprotocol(value: &str) -> Result<Credential, Refusal> {
    let token = match value.strip_prefix(ENCODED_BEARER) {
        Some(encoded) => URL_SAFE_NO_PAD.decode(encoded).map_err(|_| {
            let detail = "`base64url.bearer.` is followed by a token in base64url without padding";
            Refusal::new(RefusalCode::Unauthorized, detail)
        })?,
        None => value.strip_prefix(BEARER).unwrap_or_default().into(),
    };
    Ok(Credential::Bearer(Secret::new(token)))
}

fn authorization(value: &[u8]) -> Result<Credential, Refusal> {
    let wrong = || {
        let detail = "`Authorization` is `Bearer <token or key>`, or `Basic` with a user and a password in base64";
        Refusal::new(RefusalCode::Unauthorized, detail)
    };
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let (scheme, rest) = text.trim().split_once(' ').ok_or_else(wrong)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credential::Bearer(Secret::from(rest)));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(wrong());
    }
    let pair = Secret::new(STANDARD.decode(rest).map_err(|_| wrong())?);
    // RFC 7617, 2: the first colon; a password may have more of them.
    let (user, password) = pair
        .expose_text()
        .and_then(|pair| pair.split_once(':'))
        .ok_or_else(wrong)?;
    Ok(Credential::Password {
        user: user.to_owned(),
        password: Secret::from(password),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn shown(uri: &str, headers: &[&str]) -> String {
        let mut builder = Request::builder().uri(uri);
        for value in headers {
            builder = builder.header("authorization", *value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let text = |secret: &Secret| secret.expose_text().unwrap().to_owned();
        match credential(&parts) {
            Ok(Credential::Anonymous) => "nothing".to_owned(),
            Ok(Credential::Password { user, password }) => format!("{user} {}", text(&password)),
            Ok(Credential::Bearer(token)) => text(&token),
            Ok(other) => format!("{other:?}"),
            Err(refusal) => refusal.code.slug().to_owned(),
        }
    }

    #[test]
    fn one_credential_is_read_and_two_are_refused() {
        for (uri, headers, expect) in [
            ("/", &[][..], "nothing"),
            ("/", &["Bearer abc"], "abc"),
            ("/", &["bearer  abc "], "abc"),
            ("/", &["Basic YW5uOnA6cQ=="], "ann p:q"),
            ("/", &["Basic YW5u"], "unauthorized"),
            ("/", &["Basic !"], "unauthorized"),
            ("/", &["Digest x=y"], "unauthorized"),
            ("/", &["abc"], "unauthorized"),
            ("/?access_token=a%2Bb&x=1", &[], "a+b"),
            ("/?access%5Ftoken=t", &[], "t"),
            ("/?access_token=a&access_token=a", &[], "bad-request"),
            ("/?access_token=a", &["Bearer a"], "bad-request"),
            ("/", &["Bearer a", "Bearer a"], "bad-request"),
        ] {
            assert_eq!(shown(uri, headers), expect, "{uri} {headers:?}");
        }
    }

    #[test]
    fn a_page_shows_a_token_as_a_subprotocol() {
        let shown = |uri: &str, lines: &[&str], authorization: Option<&str>| {
            let lines = lines
                .iter()
                .map(|line| format!("sec-websocket-protocol: {line}"));
            let lines = lines.chain(authorization.map(|it| format!("authorization: {it}")));
            let lines: Vec<String> = lines.collect();
            let headers: Vec<&str> = lines.iter().map(String::as_str).collect();
            let parts = crate::http::testing::request("GET", uri, &headers);
            match credential(&parts) {
                Ok(Credential::Bearer(token)) => token.expose_text().unwrap().to_owned(),
                Ok(other) => format!("{other:?}"),
                Err(refusal) => refusal.code.slug().to_owned(),
            }
        };
        for (lines, expect) in [
            (&["tidings.v1"][..], "Anonymous"),
            (&["tidings.v1, bearer.a.b.c"], "a.b.c"),
            (&["bearer.abc,tidings.v1"], "abc"),
            (&["tidings.v1", "bearer.abc"], "abc"),
            (&["mqtt, base64url.bearer.YS9iPQ"], "a/b="),
            (&["mqtt, base64url.bearer.YS9iPQ=="], "unauthorized"),
            (&["bearer."], ""),
            (&["bearer.a, bearer.a"], "bad-request"),
            (&["bearer.a", "base64url.bearer.YQ"], "bad-request"),
        ] {
            assert_eq!(shown("/", lines, None), expect, "{lines:?}");
        }
        assert_eq!(
            shown("/?access_token=a", &["bearer.a"], None),
            "bad-request"
        );
        assert_eq!(shown("/", &["bearer.a"], Some("Bearer a")), "bad-request");
    }
}
