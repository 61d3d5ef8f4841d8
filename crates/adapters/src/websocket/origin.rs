//! Which web pages may open a WebSocket (RFC 6455 4.2.2, 10.2).

use std::fmt;
use std::str::FromStr;

/// The origins that are permitted. A request without an `Origin` header is not of a browser and is always
/// permitted; a page of the server's own host is too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    patterns: Vec<OriginPattern>,
}

/// One entry of the allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OriginPattern {
    /// The origin as browsers write it, lower case.
    Exact(String),
    /// `scheme://*.rest`: any host below `rest`, but not `rest` itself.
    Below {
        /// With `://`.
        scheme: String,
        /// With the leading dot, and the port if there is one.
        rest: String,
    },
}

/// The text is no origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError {
    /// The entry.
    pub entry: String,
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not an origin: write `https://example.com`, `https://*.example.com`, `http://localhost:3000`, `null` or `*`, without a path",
            self.entry
        )
    }
}

impl std::error::Error for OriginError {}

impl Origins {
    /// Only pages of the host that the request names.
    #[must_use]
    pub fn same_origin() -> Self {
        Self::default()
    }

    /// Pages of every origin.
    #[must_use]
    pub fn any() -> Self {
        Self {
            any: true,
            patterns: Vec::new(),
        }
    }

    /// The server's own origin and these: exact ones, ones with `*.` before the host, or `*` for all.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, OriginError> {
        let mut origins = Self::default();
        for entry in entries {
            if entry == "*" {
                origins.any = true;
            } else {
                origins.patterns.push(entry.parse()?);
            }
        }
        Ok(origins)
    }

    /// Whether this very origin is listed: only such a page may speak for a user by a cookie, as a wildcard would hand
    /// the user's session to whoever takes over one forgotten host. `null` is of many pages.
    #[must_use]
    pub fn lists(&self, origin: &str) -> bool {
        let is_it = |pattern: &OriginPattern| matches!(pattern, OriginPattern::Exact(it) if it != "null" && origin.eq_ignore_ascii_case(it));
        self.patterns.iter().any(is_it)
    }

    /// Whether a page of this origin may connect to the server under this `Host`.
    #[must_use]
    pub fn permits(&self, origin: &str, host: &str) -> bool {
        self.any
            || is_same(origin, host)
            || self.patterns.iter().any(|pattern| pattern.matches(origin))
    }
}

impl FromStr for OriginPattern {
    type Err = OriginError;

    fn from_str(entry: &str) -> Result<Self, OriginError> {
        let error = || OriginError {
            entry: entry.to_owned(),
        };
        let text = entry.to_ascii_lowercase();
        if text == "null" {
            return Ok(Self::Exact(text));
        }
        let (scheme, authority) = text.split_once("://").ok_or_else(error)?;
        let authority = without_default_port(scheme, authority);
        let below = authority.strip_prefix("*.");
        let host = below.unwrap_or(authority);
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "-._:[]".contains(c));
        let scheme_odd = |c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c));
        if scheme.is_empty() || scheme.contains(scheme_odd) || host.is_empty() || host.contains(odd)
        {
            return Err(error());
        }
        Ok(match below {
            Some(rest) => Self::Below {
                scheme: format!("{scheme}://"),
                rest: format!(".{rest}"),
            },
            None => Self::Exact(format!("{scheme}://{authority}")),
        })
    }
}

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        match self {
            Self::Exact(expect) => origin == *expect,
            Self::Below { scheme, rest } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|authority| authority.strip_suffix(rest.as_str()))
                // A wildcard stands for whole labels; an origin holds no user name and no path.
                .is_some_and(|labels| !labels.is_empty() && !labels.contains(['/', '@', ':'])),
        }
    }
}

/// Whether the page was served under the host and port that it now connects to. The schemes may differ: TLS may
/// end at a proxy, which the server cannot see.
fn is_same(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(scheme, authority)| {
        without_default_port(scheme, authority)
            .eq_ignore_ascii_case(without_default_port(scheme, host))
    })
}

fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return authority,
    };
    authority.strip_suffix(port).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: &[&str], origin: &str, host: &str, expect: bool) {
        let origins = Origins::new(entries.iter().copied()).unwrap();
        assert_eq!(
            origins.permits(origin, host),
            expect,
            "{entries:?} {origin} {host}"
        );
    }

    #[test]
    fn a_wildcard_lists_nobody() {
        let entries = [
            "*",
            "null",
            "https://*.example.com",
            "https://App.example:443",
        ];
        let origins = Origins::new(entries).unwrap();
        for (origin, expect) in [
            ("https://app.example", true),
            ("https://x.example.com", false),
            ("https://other.example", false),
            ("null", false),
        ] {
            assert!(origins.permits(origin, "a"));
            assert_eq!(origins.lists(origin), expect, "{origin}");
        }
    }

    #[test]
    fn a_page_of_the_same_host_and_port_is_permitted() {
        check(&[], "http://localhost:8080", "localhost:8080", true);
        check(&[], "https://Example.com", "example.COM", true);
        check(&[], "https://example.com", "example.com:443", true);
        check(&[], "http://example.com", "example.com:80", true);
        check(&[], "http://example.com", "example.com:443", false);
        check(&[], "http://localhost:3000", "localhost:8080", false);
        check(&[], "http://evil.example", "localhost:8080", false);
        check(
            &[],
            "http://localhost:8080.evil.example",
            "localhost:8080",
            false,
        );
        check(&[], "null", "null", false);
        check(&[], "", "", false);
    }

    /// Allowed, the page's origin, whether it may connect to the host `a`.
    const ALLOWED: &[(&str, &str, bool)] = &[
        ("*", "https://anything.example", true),
        ("*", "null", true),
        ("null", "null", true),
        ("https://app.example", "https://app.example", true),
        ("https://app.example:443", "https://app.example", true),
        ("https://App.example", "https://app.EXAMPLE", true),
        ("https://app.example", "http://app.example", false),
        ("https://app.example", "https://app.example:8443", false),
        ("https://app.example", "http://a", true),
        ("https://*.example.com", "https://x.example.com", true),
        ("https://*.example.com", "https://x.y.example.com", true),
        ("https://*.example.com", "https://example.com", false),
        ("https://*.example.com", "https://badexample.com", false),
        (
            "https://*.example.com",
            "https://x.example.com.evil.net",
            false,
        ),
        (
            "https://*.example.com",
            "https://evil.net/.example.com",
            false,
        ),
        (
            "https://*.example.com",
            "https://evil.net:1@x.example.com",
            false,
        ),
        ("http://*.localhost:3000", "http://x.localhost:3000", true),
        ("http://*.localhost:3000", "http://x.localhost", false),
    ];

    #[test]
    fn the_allow_list_adds_to_it() {
        for (entry, origin, expect) in ALLOWED {
            check(&[entry], origin, "a", *expect);
        }
    }

    #[test]
    fn what_is_no_origin_is_an_error() {
        for entry in [
            "",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://*",
            "https://*.",
            "https://a.*.com",
            "https://user@example.com",
            "://example.com",
        ] {
            assert!(Origins::new([entry]).is_err(), "{entry}");
        }
    }
}
