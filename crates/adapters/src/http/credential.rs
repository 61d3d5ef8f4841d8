//! What a request shows to say who sends it: `Authorization` (RFC 7617, RFC 6750) or `?access_token=`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::request::Parts;
use tidings_ports::{Credential, Secret};
use tidings_types::{Refusal, RefusalCode};

use crate::query::{form_decode, pairs};

/// The parameter for clients that cannot set a header: `EventSource`, WebSocket in a browser.
const PARAMETER: &str = "access_token";

/// What the request shows. Two credentials at once are refused: which one would count is anybody's guess.
pub fn credential(parts: &Parts) -> Result<Credential, Refusal> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let query = parts.uri.query().unwrap_or_default();
    let named = |(name, _): &(&str, &str)| form_decode(name, "").is_ok_and(|it| it == PARAMETER);
    let mut tokens = pairs(query).filter(named);
    let (header, token) = (headers.next(), tokens.next());
    if headers.next().is_some() || tokens.next().is_some() || (header.is_some() && token.is_some())
    {
        return Err(Refusal::new(
            RefusalCode::BadRequest,
            "there are two credentials: send one `Authorization` header, or one `access_token`",
        ));
    }
    match (header, token) {
        (Some(value), _) => authorization(value.as_bytes()),
        (None, Some((_, token))) => {
            let token = form_decode(token, "`access_token`")?;
            Ok(Credential::Bearer(Secret::new(token.as_bytes())))
        }
        (None, None) => Ok(Credential::Anonymous),
    }
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
}
