//! Which web pages of other origins may read and write (the Fetch standard, 3.2).
//!
//! The list has exact origins, `scheme://*.host` for every host below one, and `*`. Credentials (cookies) are
//! permitted for exact entries alone: a wildcard would hand a user's session to whoever takes over one forgotten
//! host. A bearer token in a header is no credential in this sense and works for every permitted origin.

use std::fmt;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HOST, ORIGIN,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use tidings_types::{Refusal, RefusalCode};

use super::compress::add_vary;
use super::route::allowed;

/// What a page may read of a response besides its body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "ETag, Location, Retry-After, Tidings-Gap, Tidings-Next, Tidings-Refused",
);

/// The allow-list. The default permits the server's own pages alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    any: bool,
    /// Lower case.
    exact: Vec<String>,
    /// Scheme, and what comes after the `*`, with the dot.
    below: Vec<(String, String)>,
}

/// An entry of the list is no origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsError {
    /// The entry.
    pub entry: String,
}

impl fmt::Display for CorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not an origin: write `https://example.com`, `https://*.example.com` or `*`, without a path",
            self.entry
        )
    }
}

impl std::error::Error for CorsError {}

/// How a permitted origin is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permit {
    Exact,
    Below,
    Any,
}

impl Cors {
    /// The list from its entries.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, CorsError> {
        let mut cors = Self::default();
        for entry in entries {
            cors.add(entry).ok_or_else(|| CorsError {
                entry: entry.to_owned(),
            })?;
        }
        Ok(cors)
    }

    fn add(&mut self, entry: &str) -> Option<()> {
        if entry == "*" {
            self.any = true;
            return Some(());
        }
        let text = entry.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://")?;
        if let Some(rest) = authority.strip_prefix('*') {
            // `*.example.com`, and not `*example.com`, which others could register.
            let host = rest.strip_prefix('.')?;
            check_origin(scheme, host)?;
            self.below.push((scheme.to_owned(), rest.to_owned()));
        } else {
            check_origin(scheme, authority)?;
            self.exact.push(without_default_port(scheme, &text));
        }
        Some(())
    }

    fn permit(&self, origin: &str) -> Option<Permit> {
        let origin = origin.to_ascii_lowercase();
        if self.exact.contains(&origin) {
            return Some(Permit::Exact);
        }
        let below = origin.split_once("://").is_some_and(|(scheme, host)| {
            self.below.iter().any(|(known, rest)| {
                known == scheme && host.len() > rest.len() && host.ends_with(rest.as_str())
            })
        });
        if below {
            return Some(Permit::Below);
        }
        self.any.then_some(Permit::Any)
    }

    /// Whether this very origin is listed: only such a page may speak for a user by a cookie.
    #[must_use]
    pub fn lists(&self, origin: &str) -> bool {
        self.permit(origin) == Some(Permit::Exact)
    }

    /// The answer to `OPTIONS`: what the page's browser may send here, or for anything else the methods.
    ///
    /// An origin that is not permitted gets no permission and no error: the browser tells its page.
    #[must_use]
    pub fn preflight(&self, parts: &Parts) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        let methods = HeaderValue::from_static(allowed(parts.uri.path()));
        headers.insert(ALLOW, methods.clone());
        add_vary(headers, "Access-Control-Request-Headers");
        self.apply(parts, headers);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        let asked = parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asked || !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return response;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        // User properties are headers with any name, and `*` does not cover `Authorization`.
        if let Some(names) = requested_headers(&parts.headers) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        // Two hours is the most that browsers keep.
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        response
    }

    /// Says on a response who may read it.
    pub fn apply(&self, parts: &Parts, headers: &mut HeaderMap) {
        // Also without an origin, or a cache would hand the answer for one page to another.
        if *self != Self::default() {
            add_vary(headers, "Origin");
        }
        let Some(origin) = parts.headers.get(ORIGIN) else {
            return;
        };
        let Some(permit) = origin.to_str().ok().and_then(|origin| self.permit(origin)) else {
            return;
        };
        let shown = match permit {
            Permit::Any => HeaderValue::from_static("*"),
            Permit::Exact | Permit::Below => origin.clone(),
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if permit == Permit::Exact {
            let yes = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
    }

    /// Whether a page may send this request. A `POST` of text needs no preflight, so that a page of any origin
    /// could publish to a server on its reader's own machine: a request that writes, and names an origin that is
    /// neither permitted nor the server's own, is refused with `bad-origin`. Reading is for the browser to deny.
    pub fn admit(&self, parts: &Parts) -> Result<(), Refusal> {
        if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method) {
            return Ok(());
        }
        let Some(origin) = parts.headers.get(ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        let host = parts
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
        if host.is_some_and(|host| is_own(origin, host)) || self.permit(origin).is_some() {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::BadOrigin,
            "pages of this origin may not publish here: add it to the allowed origins in the configuration",
        ))
    }
}

/// Whether a page that was loaded from this host is the server's own.
pub(super) fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let port = match scheme {
        "https" => ":443",
        _ => ":80",
    };
    let bare = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        authority
            .strip_suffix(port)
            .map_or(authority.clone(), str::to_owned)
    };
    bare(authority) == bare(host)
}

fn check_origin(scheme: &str, authority: &str) -> Option<()> {
    let uri: Uri = format!("{scheme}://{authority}/").parse().ok()?;
    let parsed = uri.authority()?;
    let plain = parsed.as_str() == authority && !authority.contains(['@', '*']);
    (uri.path() == "/" && uri.query().is_none() && plain && !parsed.host().is_empty()).then_some(())
}

/// Browsers leave the default port out of an origin.
fn without_default_port(scheme: &str, origin: &str) -> String {
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return origin.to_owned(),
    };
    origin.strip_suffix(port).unwrap_or(origin).to_owned()
}

/// The requested header names that are names at all.
fn requested_headers(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let names: Vec<&str> = asked
        .split(',')
        .map(str::trim)
        .filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok())
        .collect();
    if names.is_empty() {
        return None;
    }
    HeaderValue::from_str(&names.join(", ")).ok()
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
