//! A credential in a cookie (RFC 6265), which a browser sends by itself, also when another site's page makes it ask.
//!
//! So a cookie counts only for pages of the server itself, and of origins that are listed by themselves: against forged
//! requests (CSRF), and against `WebSocket`s that another site's page opens in its reader's name. Browsers say where a
//! request comes from in `Sec-Fetch-Site` (Fetch Metadata), older ones in `Origin` (the Fetch standard, 3.1), and always
//! there for a WebSocket. Where neither stands it is a reading request of a browser that leaves them away, or no browser:
//! reading is permitted, as no page of another origin sees the answer (`Cors::apply`), and nothing else is.

use http::Method;
use http::header::{COOKIE, HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use tidings_ports::{Credential, Secret};
use tidings_types::{Refusal, RefusalCode};

use super::cors::is_own;

/// The credential in the cookie of this name. Two of them are refused: one may be of a neighbour's host, which can set
/// cookies for this one.
pub fn cookie(parts: &Parts, name: &str) -> Result<Credential, Refusal> {
    let lines = parts.headers.get_all(COOKIE).iter();
    let mut values = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..at].trim_ascii() == name.as_bytes()).then_some(pair[at + 1..].trim_ascii())
        });
    match (values.next(), values.next()) {
        (None, _) => Ok(Credential::Anonymous),
        (Some(value), None) => {
            let quoted = value
                .strip_prefix(b"\"")
                .and_then(|it| it.strip_suffix(b"\""));
            Ok(Credential::Bearer(Secret::new(quoted.unwrap_or(value))))
        }
        _ => Err(Refusal::new(
            RefusalCode::BadRequest,
            format!("there are several cookies `{name}`: remove those of other paths and domains"),
        )),
    }
}

/// Whether a cookie may have this name (RFC 6265, 4.1.1).
#[must_use]
pub fn is_cookie_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

/// Whether a cookie counts for this request. `is_tls` is whether it came over TLS here: then a page of the same host
/// without TLS, which anybody on the way could have written, is of another origin.
pub fn admit_cookie(
    parts: &Parts,
    is_tls: bool,
    is_listed: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let text = |name: &str| parts.headers.get(name).and_then(|it| it.to_str().ok());
    let mut origins = parts.headers.get_all(ORIGIN).iter();
    let origin = origins.next().map(|it| it.to_str().unwrap_or_default());
    let is_listed = origin.is_some_and(is_listed);
    let host = text(HOST.as_str()).or_else(|| Some(parts.uri.authority()?.as_str()));
    let is_own = |origin: &str| {
        let is_secure = !is_tls || origin.starts_with("https://");
        is_secure && host.is_some_and(|host| is_own(origin, host))
    };
    let is_good = match (text("sec-fetch-site"), origin) {
        _ if origins.next().is_some() => false,
        (Some("same-origin" | "none"), _) => true,
        (Some(_), _) => is_listed,
        (None, Some(origin)) => is_listed || is_own(origin),
        (None, None) => {
            let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
            is_read && !parts.headers.contains_key(UPGRADE)
        }
    };
    if is_good {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::BadOrigin,
        "a cookie counts for pages of this server, and of origins that are listed by themselves (http.cors_origins, websocket.origins): list the page's origin, or show the credential another way",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::request;

    #[test]
    fn one_cookie_is_read_and_two_are_refused() {
        for (lines, expect) in [
            (&[][..], "nothing"),
            (&["cookie: other=1; xsession=2; Session=3"], "nothing"),
            (&["cookie: a=1; session=tok.en; b=2"], "tok.en"),
            (&["cookie: session=\"quoted\""], "quoted"),
            (&["cookie: session=a=b="], "a=b="),
            (&["cookie: a=1", "cookie: session=split"], "split"),
            (&["cookie: session="], ""),
            (&["cookie: session=a; session=a"], "bad-request"),
            (&["cookie: session=a", "cookie: session=b"], "bad-request"),
        ] {
            let shown = match cookie(&request("GET", "/", lines), "session") {
                Ok(Credential::Bearer(token)) => token.expose_text().unwrap().to_owned(),
                Ok(_) => "nothing".to_owned(),
                Err(refusal) => refusal.code.slug().to_owned(),
            };
            assert_eq!(shown, expect, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_counts_where_no_other_site_asks() {
        let own = "origin: http://push.example";
        let listed = "origin: https://app.example";
        let other = "origin: https://evil.example";
        let upgrade = "upgrade: websocket";
        let site = |word: &str| format!("sec-fetch-site: {word}");
        let (same, none) = (site("same-origin"), site("none"));
        let (neighbour, cross) = (site("same-site"), site("cross-site"));
        for (method, lines, expect) in [
            ("GET", &[][..], true),
            ("HEAD", &[], true),
            ("POST", &[], false),
            ("PUT", &[], false),
            ("GET", &[upgrade], false),
            ("GET", &[upgrade, own], true),
            ("GET", &[upgrade, listed], true),
            ("GET", &[upgrade, other], false),
            ("GET", &[upgrade, "origin: null"], false),
            ("GET", &[other], false),
            ("POST", &[own], true),
            ("POST", &["origin: https://push.example"], true),
            ("POST", &["origin: http://push.example:8080"], false),
            ("POST", &["origin: http://push.example.evil"], false),
            ("POST", &[listed], true),
            ("POST", &[other], false),
            ("POST", &[own, other], false),
            ("POST", &[same.as_str()], true),
            ("POST", &[none.as_str()], true),
            ("GET", &[cross.as_str()], false),
            ("GET", &[neighbour.as_str()], false),
            ("GET", &[cross.as_str(), listed], true),
            ("POST", &[cross.as_str(), own], false),
            ("POST", &[neighbour.as_str(), other], false),
        ] {
            let lines = [&["host: push.example"], lines].concat();
            let parts = request(method, "/", &lines);
            let admitted = admit_cookie(&parts, false, |it| it == "https://app.example");
            assert_eq!(admitted.is_ok(), expect, "{method} {lines:?}");
        }
        let parts = request("POST", "/", &["host: push.example", own]);
        let refused = admit_cookie(&parts, true, |_| false).unwrap_err();
        assert_eq!(refused.code, RefusalCode::BadOrigin, "a page without TLS");
    }

    #[test]
    fn names_are_tokens() {
        for (name, expect) in [
            ("__Host-session", true),
            ("", false),
            ("a b", false),
            ("a;b", false),
        ] {
            assert_eq!(is_cookie_name(name), expect, "{name}");
        }
    }
}
