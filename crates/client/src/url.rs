//! Where a server is: the part of URLs that this client needs, and percent-encoding.

use std::fmt;
use std::str::FromStr;

use crate::login::Login;

/// A server's address, from `http://host[:port][/prefix]`, or `https://` where it is spoken to over TLS. `ws://` and
/// `wss://` mean the same, and a bare `host:port` is taken as `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    is_tls: bool,
    /// Without the brackets of an IPv6 literal.
    host: String,
    port: u16,
    /// Before `/v1`: empty, or beginning with `/` and not ending with one.
    prefix: String,
    /// Shown with each connection.
    login: Option<Login>,
}

/// What is below a protocol, and the port that it has there (RFC 9110, 4.2; the registry of ports for MQTT).
#[derive(Clone, Copy)]
struct Ground {
    is_tls: bool,
    port_default: u16,
}

const HTTP: Ground = Ground::plain(80);
const HTTPS: Ground = Ground::tls(443);
const MQTT: Ground = Ground::plain(1883);
const MQTTS: Ground = Ground::tls(8883);

impl Ground {
    const fn plain(port_default: u16) -> Self {
        Self {
            is_tls: false,
            port_default,
        }
    }

    const fn tls(port_default: u16) -> Self {
        Self {
            is_tls: true,
            port_default,
        }
    }
}

/// Why a text is no server URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// A scheme that is not HTTP's or WebSocket's.
    Scheme(String),
    /// A scheme that is not MQTT's.
    NotMqtt(String),
    /// A path where none can be.
    Path,
    /// No host.
    Host,
    /// Not a number from 1 to 65535.
    Port(String),
    /// User and password in the URL.
    Credentials,
    /// A query or a fragment.
    Query,
    /// A character that no URL holds: a space, a control, or one outside ASCII.
    Character(char),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme(scheme) => {
                write!(
                    f,
                    "`{scheme}://` is not a scheme of a server: use http:// or https://"
                )
            }
            Self::NotMqtt(scheme) => {
                write!(
                    f,
                    "`{scheme}://` is not a scheme of an MQTT server: use mqtt:// or mqtts://"
                )
            }
            Self::Path => f.write_str("an MQTT URL has no path: write it as mqtt://127.0.0.1:1883"),
            Self::Host => f.write_str("the URL has no host: write it as http://127.0.0.1:8080"),
            Self::Port(port) => write!(f, "`{port}` is not a port: use a number from 1 to 65535"),
            Self::Credentials => f.write_str("the URL holds a user name: remove it"),
            Self::Query => f.write_str("the URL holds a query or a fragment: remove it"),
            Self::Character(character) => {
                write!(
                    f,
                    "the URL holds {character:?}, which no URL does: percent-encode it"
                )
            }
        }
    }
}

impl std::error::Error for UrlError {}

impl ServerUrl {
    /// Reads `mqtt://host[:port]`, or `mqtts://` for TLS; `tcp://` and `ssl://` mean the same, and a bare `host:port`
    /// is without TLS. The port is 1883, or 8883, unless it says otherwise.
    pub fn mqtt(text: &str) -> Result<Self, UrlError> {
        check_characters(text)?;
        let (ground, rest) = match text.split_once("://") {
            None => (MQTT, text),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "mqtt" | "tcp" => (MQTT, rest),
                "mqtts" | "ssl" | "tls" => (MQTTS, rest),
                _ => return Err(UrlError::NotMqtt(scheme.to_owned())),
            },
        };
        let url = Self::after_scheme(rest, ground)?;
        match url.prefix.as_str() {
            "" => Ok(url),
            _ => Err(UrlError::Path),
        }
    }

    /// The host, as a resolver takes it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `Host` header's value (RFC 9110, 7.2).
    pub fn authority(&self) -> String {
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        let ground = if self.is_tls { HTTPS } else { HTTP };
        if self.port == ground.port_default {
            format!("{open}{}{close}", self.host)
        } else {
            format!("{open}{}{close}:{}", self.host, self.port)
        }
    }

    /// With this shown to it.
    #[must_use]
    pub fn with_login(self, login: Option<Login>) -> Self {
        Self { login, ..self }
    }

    /// What is shown to it.
    pub(crate) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// The request target of a path on this server; the path begins with `/`.
    pub fn target(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        check_characters(text)?;
        let (ground, rest) = match text.split_once("://") {
            None => (HTTP, text),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" | "ws" => (HTTP, rest),
                "https" | "wss" => (HTTPS, rest),
                _ => return Err(UrlError::Scheme(scheme.to_owned())),
            },
        };
        Self::after_scheme(rest, ground)
    }
}

impl ServerUrl {
    fn after_scheme(rest: &str, ground: Ground) -> Result<Self, UrlError> {
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = split_authority(authority, ground.port_default)?;
        Ok(Self {
            is_tls: ground.is_tls,
            host: host.to_owned(),
            port,
            prefix: path.trim_end_matches('/').to_owned(),
            login: None,
        })
    }
}

fn check_characters(text: &str) -> Result<(), UrlError> {
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => Err(UrlError::Character(bad)),
        None => Ok(()),
    }
}

fn split_authority(authority: &str, port_default: u16) -> Result<(&str, u16), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(UrlError::Host)?;
            (host, after)
        }
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    if port.is_empty() {
        return Ok((host, port_default));
    }
    let digits = port.strip_prefix(':').unwrap_or(port);
    let number = digits
        .parse()
        .ok()
        .filter(|number| *number > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()));
    match number {
        Some(number) => Ok((host, number)),
        None => Err(UrlError::Port(digits.to_owned())),
    }
}

/// Appends text with everything percent-encoded that is not unreserved (RFC 3986, 2.3) or in `kept`.
pub fn percent_encode(text: &str, kept: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, authority, target) in [
            (
                "http://127.0.0.1:8080",
                "127.0.0.1",
                8080,
                "127.0.0.1:8080",
                "/v1",
            ),
            (
                "HTTP://example.org",
                "example.org",
                80,
                "example.org",
                "/v1",
            ),
            ("ws://example.org/", "example.org", 80, "example.org", "/v1"),
            ("http://h:1/push/", "h", 1, "h:1", "/push/v1"),
            ("http://[::1]:9", "::1", 9, "[::1]:9", "/v1"),
            ("http://[::1]", "::1", 80, "[::1]", "/v1"),
            ("localhost:8080", "localhost", 8080, "localhost:8080", "/v1"),
            ("https://h/a", "h", 443, "h", "/a/v1"),
            ("HTTPS://h:80", "h", 80, "h:80", "/v1"),
            ("wss://[::1]:9", "::1", 9, "[::1]:9", "/v1"),
            ("http://h:443", "h", 443, "h:443", "/v1"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            let scheme = text.to_ascii_lowercase();
            let is_tls = scheme.starts_with("https") || scheme.starts_with("wss");
            assert_eq!(url.is_tls(), is_tls, "{text}");
            assert_eq!(url.host(), host, "{text}");
            assert_eq!(url.port(), port, "{text}");
            assert_eq!(url.authority(), authority, "{text}");
            assert_eq!(url.target("/v1"), target, "{text}");
        }
    }

    #[test]
    fn mqtt_urls_are_taken_apart() {
        for (text, host, port, is_tls) in [
            ("mqtt://h", "h", 1883, false),
            ("MQTT://h:9/", "h", 9, false),
            ("tcp://[::1]:9", "::1", 9, false),
            ("h:9", "h", 9, false),
            ("mqtts://h", "h", 8883, true),
            ("SSL://h", "h", 8883, true),
            ("tls://h:9", "h", 9, true),
        ] {
            let url = ServerUrl::mqtt(text).unwrap();
            let got = (url.host(), url.port(), url.is_tls());
            assert_eq!(got, (host, port, is_tls), "{text}");
        }
        for (text, expect) in [
            ("http://h", UrlError::NotMqtt("http".into())),
            ("mqtt://h/a", UrlError::Path),
            ("mqtt://u@h", UrlError::Credentials),
            ("mqtt://", UrlError::Host),
            ("mqtt://h\n", UrlError::Character('\n')),
        ] {
            assert_eq!(ServerUrl::mqtt(text), Err(expect), "{text}");
        }
    }

    #[test]
    fn what_is_no_server_url_is_refused() {
        for (text, expect) in [
            ("mqtt://h", UrlError::Scheme("mqtt".into())),
            ("http://", UrlError::Host),
            ("http://:80", UrlError::Host),
            ("http://[::1", UrlError::Host),
            ("http://h:", UrlError::Port(String::new())),
            ("http://h:0", UrlError::Port("0".into())),
            ("http://h:65536", UrlError::Port("65536".into())),
            ("http://h:+80", UrlError::Port("+80".into())),
            ("http://[::1]x", UrlError::Port("x".into())),
            ("http://u:p@h", UrlError::Credentials),
            ("http://h/?a", UrlError::Query),
            ("http://h/\r\nx", UrlError::Character('\r')),
            ("http://hä", UrlError::Character('ä')),
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(expect), "{text}");
        }
    }

    #[test]
    fn topics_keep_their_slashes_and_nothing_else_that_is_special() {
        let mut out = String::new();
        percent_encode("a/b c+#?%ä", b"/", &mut out);
        assert_eq!(out, "a/b%20c%2B%23%3F%25%C3%A4");
    }
}
