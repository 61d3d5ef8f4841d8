//! What automatic certificates (ACME, RFC 8555) are set to: the rows of the option table, and what must hold between
//! them.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::DnsName;

use super::given::Given;
use super::slot::Slot;
use super::spec::{Flag, OptionSpec, option};
use super::{Config, Reason};

/// How the authority finds out that a name is this server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// `tls-alpn-01` if HTTP over TLS is served, else `http-01`.
    #[default]
    Auto,
    /// By a handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// By a request on port 80 (RFC 8555, 8.3).
    Http01,
}

/// The options `tls.acme_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The names of the certificate, lower case. None: no certificate is asked for.
    pub domains: Vec<String>,
    /// The URL of the authority's directory (RFC 8555, 7.1.1); `None` asks nobody.
    pub directory: Option<String>,
    /// Whom the authority may write to.
    pub contact: Option<String>,
    /// Authorities, in a PEM file, that may vouch for the directory's server besides the system's.
    pub ca: Option<String>,
    /// How names are proved.
    pub challenge: AcmeChallenge,
    /// The name of the key that binds the account to one that the authority has already (RFC 8555, 7.3.4).
    pub eab_kid: Option<String>,
    /// The file with that key.
    pub eab_key_file: Option<String>,
}

impl Default for AcmeSettings {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            directory: Some("https://acme-v02.api.letsencrypt.org/directory".to_owned()),
            contact: None,
            ca: None,
            challenge: AcmeChallenge::default(),
            eab_kid: None,
            eab_key_file: None,
        }
    }
}

impl AcmeSettings {
    /// Whether a certificate is wanted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.domains.is_empty() && self.directory.is_some()
    }
}

const TEXT_MAX: u64 = 4 << 10;

pub(super) const DOMAINS: OptionSpec = option(
    "tls.acme_domains",
    "Get a certificate for these names from an authority that speaks ACME, and renew it; this agrees to the \
     authority's terms of service. It is kept in `acme` in the directory of the log, and shown beside `tls.certificates`.",
    |c| Slot::Domains(&mut c.tls.acme.domains),
)
.flags(&[Flag::Value {
    long: "acme",
    name: "DOMAIN",
}])
.reloadable();

pub(super) const DIRECTORY: OptionSpec = option(
    "tls.acme_directory",
    "The authority: the URL of its directory.",
    |c| Slot::TextOrOff(&mut c.tls.acme.directory),
)
.range(1, TEXT_MAX)
.reloadable();

pub(super) const CONTACT: OptionSpec = option(
    "tls.acme_contact",
    "A mail address that the authority may write to about the certificate; it is told when the account is made.",
    |c| Slot::TextOrOff(&mut c.tls.acme.contact),
)
.range(1, TEXT_MAX)
.reloadable();

pub(super) const CHALLENGE: OptionSpec = option(
    "tls.acme_challenge",
    "How the authority finds out that the names are this server's: by port 443, which has to lead to a listener with \
     TLS (`tls-alpn-01`), or by port 80, which has to lead to `http.listen` (`http-01`); `auto` is the first if \
     there is `http.tls`.",
    |c| Slot::Choice(&mut c.tls.acme.challenge),
)
.reloadable();

pub(super) const CA: OptionSpec = option(
    "tls.acme_ca",
    "A PEM file with the certificates of those who vouch for a private authority's own server, besides the system's.",
    |c| Slot::TextOrOff(&mut c.tls.acme.ca),
)
.range(1, TEXT_MAX)
.reloadable();

pub(super) const EAB_KID: OptionSpec = option(
    "tls.acme_eab_kid",
    "External account binding, which some authorities ask for: the name of the key.",
    |c| Slot::TextOrOff(&mut c.tls.acme.eab_kid),
)
.range(1, TEXT_MAX)
.reloadable();

pub(super) const EAB_KEY_FILE: OptionSpec = option(
    "tls.acme_eab_key_file",
    "External account binding: a file with the key (HMAC, base64url) as the authority gave it.",
    |c| Slot::TextOrOff(&mut c.tls.acme.eab_key_file),
)
.range(1, TEXT_MAX)
.reloadable();

/// The names that were given, if the authority could be asked to look for them: no addresses, and no `*`, which
/// neither challenge can prove.
pub fn domains(given: &Given) -> Option<Vec<String>> {
    let domain = |text: &String| {
        let text = text.to_ascii_lowercase();
        let is_name = DnsName::try_from(text.as_str()).is_ok() && text.parse::<IpAddr>().is_err();
        (is_name && !text.ends_with('.')).then_some(text)
    };
    given.list()?.iter().map(domain).collect()
}

/// What does not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeReason {
    /// The directory is asked without TLS.
    NotHttps,
    /// No listener would show the certificate.
    NoListener,
    /// The challenge asks for a listener that is off.
    NoHttp,
    /// One of two options that belong together is missing.
    Alone {
        /// The other one.
        other: &'static str,
    },
}

impl fmt::Display for AcmeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttps => f.write_str("not the URL of a directory"),
            Self::NoListener => {
                f.write_str("no listener has TLS, so nobody would see the certificate")
            }
            Self::NoHttp => f.write_str("this challenge comes to http.listen, which is off"),
            Self::Alone { other } => write!(f, "of no use without {other}"),
        }
    }
}

impl AcmeReason {
    /// What to do about it.
    pub fn hint(self) -> String {
        match self {
            Self::NotHttps => {
                "write https:// and the rest as the authority tells it, or off for no automatic certificate"
                    .to_owned()
            }
            Self::NoListener => {
                "give http.tls (--https), mqtt.tls, stomp.tls or admin.tls an address".to_owned()
            }
            Self::NoHttp => "give http.listen an address to which port 80 leads, or choose tls-alpn-01".to_owned(),
            Self::Alone { other } => format!("set {other} too, or neither"),
        }
    }
}

/// What is wrong between the options.
pub fn check(config: &Config) -> Vec<(&'static str, Reason)> {
    let acme = &config.tls.acme;
    if !acme.is_on() {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let directory = acme.directory.as_deref().unwrap_or_default();
    let host = directory.strip_prefix("https://");
    if !host.is_some_and(|host| !host.is_empty() && directory.parse::<http::Uri>().is_ok()) {
        wrong.push((DIRECTORY.key, AcmeReason::NotHttps));
    }
    let listeners = [config.https, config.mqtts, config.stomps, config.admin.tls];
    if listeners.iter().all(Option::is_none) {
        wrong.push((DOMAINS.key, AcmeReason::NoListener));
    }
    let http = match acme.challenge {
        AcmeChallenge::TlsAlpn01 => false,
        AcmeChallenge::Http01 => true,
        AcmeChallenge::Auto => config.https.is_none(),
    };
    if http && config.http.is_none() {
        wrong.push((CHALLENGE.key, AcmeReason::NoHttp));
    }
    let pair = (acme.eab_kid.is_some(), acme.eab_key_file.is_some());
    let (kid, file) = (EAB_KID.key, EAB_KEY_FILE.key);
    match pair {
        (true, false) => wrong.push((kid, AcmeReason::Alone { other: file })),
        (false, true) => wrong.push((file, AcmeReason::Alone { other: kid })),
        _ => {}
    }
    let wrong = wrong.into_iter();
    wrong
        .map(|(key, reason)| (key, Reason::Acme(reason)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Option<Vec<String>> {
        domains(&Given::Word(text.to_owned()))
    }

    #[test]
    fn names_are_taken_in_lower_case_and_nothing_else_is() {
        let names = ["push.example.org".to_owned(), "b.example.org".to_owned()];
        assert_eq!(given("push.Example.org, b.example.org").unwrap(), names);
        for wrong in [
            "*.example.org",
            "127.0.0.1",
            "::1",
            "a b",
            "example.org.",
            "https://example.org",
            "-a.example.org",
            "bücher.example",
        ] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_told_with_its_option() {
        let address = "127.0.0.1:443".parse().ok();
        let mut config = Config::default();
        assert!(check(&config).is_empty());
        let keys = |config: &Config| -> Vec<&str> {
            check(config).into_iter().map(|(key, _)| key).collect()
        };
        config.tls.acme.domains = vec!["example.org".to_owned()];
        assert_eq!(keys(&config), ["tls.acme_domains"]);
        config.admin.tls = address;
        assert_eq!(keys(&config), [""; 0]);
        config.admin.tls = None;
        config.mqtts = address;
        assert_eq!(keys(&config), [""; 0]);
        config.http = None;
        assert_eq!(keys(&config), ["tls.acme_challenge"]);
        config.https = address;
        assert_eq!(keys(&config), [""; 0]);
        config.tls.acme.challenge = AcmeChallenge::Http01;
        config.tls.acme.eab_kid = Some("kid".to_owned());
        for wrong in [
            "http://example.org/dir",
            "https://",
            "example.org",
            "https://a b/",
        ] {
            config.tls.acme.directory = Some(wrong.to_owned());
            let expect = [
                "tls.acme_directory",
                "tls.acme_challenge",
                "tls.acme_eab_kid",
            ];
            assert_eq!(keys(&config), expect, "{wrong}");
        }
        config.tls.acme.directory = None;
        assert_eq!(keys(&config), [""; 0]);
    }
}
