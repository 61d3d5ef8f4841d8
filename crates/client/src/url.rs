//! Where a server is: the part of URLs that this client needs, and percent-encoding.

use std::fmt;
use std::str::FromStr;

use crate::login::Login;

/// A server's address, from `http://host[:port][/prefix]`. `ws://` means the same as `http://`, and a bare
/// `host:port` is taken as `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Without the brackets of an IPv6 literal.
    host: String,
    port: u16,
    /// Before `/v1`: empty, or beginning with `/` and not ending with one.
    prefix: String,
    /// Shown with each connection.
    login: Option<Login>,
}

const HTTP_PORT: u16 = 80;
const MQTT_PORT: u16 = 1883;

/// Why a text is no server URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// TLS is not there yet.
    Secure,
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
            Self::Secure => f.write_str(
                "this client does not speak TLS yet: use http:// (or mqtt://), or a TLS proxy on this machine",
            ),
            Self::Scheme(scheme) => {
                write!(f, "`{scheme}://` is not a scheme of a server: use http://")
            }
            Self::NotMqtt(scheme) => {
                write!(
                    f,
                    "`{scheme}://` is not a scheme of an MQTT server: use mqtt:// (or tcp://, which is the same)"
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
    /// Reads `mqtt://host[:port]`; `tcp://` means the same, and so does a bare `host:port`. The port is 1883
    /// unless it says otherwise.
    pub fn mqtt(text: &str) -> Result<Self, UrlError> {
        check_characters(text)?;
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "mqtt" | "tcp" => rest,
                "mqtts" | "ssl" | "tls" => return Err(UrlError::Secure),
                _ => return Err(UrlError::NotMqtt(scheme.to_owned())),
            },
        };
        let url = Self::after_scheme(rest, MQTT_PORT)?;
        match url.prefix.as_str() {
            "" => Ok(url),
            _ => Err(UrlError::Path),
        }
    }

    /// The host, as a resolver takes it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `Host` header's value (RFC 9110, 7.2).
    pub fn authority(&self) -> String {
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        match self.port {
            80 => format!("{open}{}{close}", self.host),
            port => format!("{open}{}{close}:{port}", self.host),
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
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" | "ws" => rest,
                "https" | "wss" => return Err(UrlError::Secure),
                _ => return Err(UrlError::Scheme(scheme.to_owned())),
            },
        };
        Self::after_scheme(rest, HTTP_PORT)
    }
}

impl ServerUrl {
    fn after_scheme(rest: &str, port_default: u16) -> Result<Self, UrlError> {
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
        let (host, port) = split_authority(authority, port_default)?;
        Ok(Self {
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
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.host(), host, "{text}");
            assert_eq!(url.port(), port, "{text}");
            assert_eq!(url.authority(), authority, "{text}");
            assert_eq!(url.target("/v1"), target, "{text}");
        }
    }

    #[test]
    fn mqtt_urls_are_taken_apart() {
        for (text, host, port) in [
            ("mqtt://h", "h", 1883),
            ("MQTT://h:9/", "h", 9),
            ("tcp://[::1]:9", "::1", 9),
            ("h:9", "h", 9),
        ] {
            let url = ServerUrl::mqtt(text).unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
        }
        for (text, expect) in [
            ("mqtts://h", UrlError::Secure),
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
            ("https://h", UrlError::Secure),
            ("wss://h", UrlError::Secure),
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
