//! Addresses of other servers that are asked who peers are, and what they may do.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

/// Where another server is asked: `https://host[:port]/path`, or `http://` where nobody listens in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    /// Whether it is asked over TLS.
    pub is_secure: bool,
    /// The host, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as in the address.
    pub authority: String,
    /// Path and query.
    pub target: String,
}

/// Why an address is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Not `https://host/path`.
    Malformed,
    /// A user name or a password in it, which logs would show.
    UserInfo,
    /// Without TLS, and to another machine.
    Insecure,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "this is no address such as https://id.example/keys",
            Self::UserInfo => {
                "an address has no user name and password here: logs would show them; there are options for secrets"
            }
            Self::Insecure => {
                "without TLS, whoever is between the two servers decides who comes in: write https://, or permit it with auth.http_insecure = true"
            }
        })
    }
}

impl std::error::Error for UrlError {}

impl ServerUrl {
    /// Reads an address. Without TLS only this machine is asked, unless `insecure` says otherwise.
    pub fn parse(text: &str, insecure: bool) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let is_secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Malformed),
        };
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() || text.contains('#') {
            return Err(UrlError::Malformed);
        }
        let is_here = host == "localhost"
            || host
                .parse()
                .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback());
        if !is_secure && !is_here && !insecure {
            return Err(UrlError::Insecure);
        }
        let port = authority
            .port_u16()
            .unwrap_or(if is_secure { 443 } else { 80 });
        let target = uri.path_and_query().map_or("/", |it| it.as_str());
        Ok(Self {
            is_secure,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            target: target.to_owned(),
        })
    }
}

impl ServerUrl {
    /// Tells it from every other address, within this process.
    pub fn mark(&self) -> u64 {
        tidings_auth::mark(&[self.authority.as_bytes(), self.target.as_bytes()])
    }
}

impl fmt::Display for ServerUrl {
    /// As logs show it: a query may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.authority)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_asked_over_tls_alone() {
        for (text, expect) in [
            ("https://id.example/keys?x=1", Ok("https://id.example/keys")),
            ("https://id.example:8443", Ok("https://id.example:8443/")),
            ("http://127.0.0.1:81/a", Ok("http://127.0.0.1:81/a")),
            ("http://[::1]:81/a", Ok("http://[::1]:81/a")),
            ("http://localhost/a", Ok("http://localhost/a")),
            ("http://localhost.evil.example/a", Err(UrlError::Insecure)),
            ("http://id.example/a", Err(UrlError::Insecure)),
            ("https://user:pw@id.example/a", Err(UrlError::UserInfo)),
            ("ftp://id.example/a", Err(UrlError::Malformed)),
            ("id.example/a", Err(UrlError::Malformed)),
            ("https:///a", Err(UrlError::Malformed)),
            ("", Err(UrlError::Malformed)),
        ] {
            let url = ServerUrl::parse(text, false);
            assert_eq!(
                url.map(|url| url.to_string()),
                expect.map(str::to_owned),
                "{text}"
            );
        }
        let permitted = ServerUrl::parse("http://id.example/a", true).unwrap();
        assert_eq!((permitted.port, permitted.is_secure), (80, false));
        assert_eq!(
            ServerUrl::parse("http://[::1]:81/a", false).unwrap().host,
            "::1"
        );
    }
}
