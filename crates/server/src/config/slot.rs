//! Where a value goes: a typed view of one field of the configuration.
//!
//! A slot knows how to take a [`Given`] value, how to write itself as TOML, and what to call its type. An
//! option's type is the variant of its slot, so that the table and the struct cannot disagree.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tidings_types::{ByteSize, Durability, Storage, Topic};

use super::acme::{self, AcmeChallenge};
use super::auth::ClientCertificates;
use super::error::Reason;
use super::given::{Given, millis_text, quoted, quoted_list};
use super::proxies::{self, ForwardedBy, LISTENERS, Network};
use super::tls::{self, CertificateFiles, ClientAuth, TlsVersion};
use super::{DataPlace, LogFormat, LogLevel};

/// A whole number of some width.
pub enum Number<'a> {
    /// As an index.
    Usize(&'a mut usize),
    /// 64 bits.
    U64(&'a mut u64),
    /// 32 bits.
    U32(&'a mut u32),
}

impl Number<'_> {
    fn get(&self) -> u64 {
        match self {
            Self::Usize(value) => **value as u64,
            Self::U64(value) => **value,
            Self::U32(value) => u64::from(**value),
        }
    }

    fn set(&mut self, number: u64) -> Option<()> {
        match self {
            Self::Usize(value) => **value = usize::try_from(number).ok()?,
            Self::U64(value) => **value = number,
            Self::U32(value) => **value = u32::try_from(number).ok()?,
        }
        Some(())
    }
}

impl<'a> From<&'a mut usize> for Number<'a> {
    fn from(value: &'a mut usize) -> Self {
        Self::Usize(value)
    }
}

impl<'a> From<&'a mut u64> for Number<'a> {
    fn from(value: &'a mut u64) -> Self {
        Self::U64(value)
    }
}

impl<'a> From<&'a mut u32> for Number<'a> {
    fn from(value: &'a mut u32) -> Self {
        Self::U32(value)
    }
}

/// A field of the configuration.
pub enum Slot<'a> {
    /// Yes or no.
    Flag(&'a mut bool),
    /// How many.
    Count(Number<'a>),
    /// How many bytes.
    Bytes(Number<'a>),
    /// How many milliseconds.
    Millis(Number<'a>),
    /// A time in whole milliseconds.
    Span(&'a mut Duration),
    /// A time, or no bound.
    SpanOrOff(&'a mut Option<Duration>),
    /// Bytes, or no bound.
    BytesOrOff(&'a mut Option<u64>),
    /// A number, or no bound.
    CountOrOff(&'a mut Option<u64>),
    /// A text, or none.
    TextOrOff(&'a mut Option<String>),
    /// Servers, one space between each, or none.
    ServersOrOff(&'a mut Option<String>),
    /// A topic, or none.
    TopicOrOff(&'a mut Option<Topic>),
    /// An address to listen on, or none.
    Listener(&'a mut Option<SocketAddr>),
    /// A directory, or memory.
    Place(&'a mut DataPlace),
    /// Origins of web pages.
    Origins(&'a mut Vec<String>),
    /// Names of hosts.
    Domains(&'a mut Vec<String>),
    /// Some of these words, in an order that matters.
    Words(&'a mut Vec<String>, &'static [&'static str]),
    /// Certificates with their keys.
    Certificates(&'a mut Vec<CertificateFiles>),
    /// Addresses and networks.
    Networks(&'a mut Vec<Network>),
    /// Listeners by their names.
    Listeners(&'a mut Vec<&'static str>),
    /// One of a few words.
    Choice(&'a mut dyn Choice),
}

/// A field that takes one of a few words.
pub trait Choice {
    /// The words, in the order of the documentation.
    fn words(&self) -> &'static [&'static str];
    /// The word that is set.
    fn word(&self) -> &'static str;
    /// Sets the word with this index.
    fn choose(&mut self, index: usize);
}

macro_rules! choice {
    ($kind:ty, $($word:literal => $value:path),+) => {
        impl Choice for $kind {
            fn words(&self) -> &'static [&'static str] {
                &[$($word),+]
            }

            fn word(&self) -> &'static str {
                match self {
                    $($value => $word),+
                }
            }

            fn choose(&mut self, index: usize) {
                const VALUES: &[$kind] = &[$($value),+];
                *self = VALUES[index];
            }
        }
    };
}

choice!(Durability, "sync" => Durability::Sync, "os" => Durability::Os);
choice!(Storage, "durable" => Storage::Durable, "memory" => Storage::Memory, "none" => Storage::None);
choice!(LogFormat, "auto" => LogFormat::Auto, "human" => LogFormat::Human, "json" => LogFormat::Json);
choice!(TlsVersion, "1.2" => TlsVersion::V12, "1.3" => TlsVersion::V13);
choice!(AcmeChallenge, "auto" => AcmeChallenge::Auto, "tls-alpn-01" => AcmeChallenge::TlsAlpn01,
    "http-01" => AcmeChallenge::Http01);
choice!(ClientAuth, "required" => ClientAuth::Required, "optional" => ClientAuth::Optional);
choice!(ClientCertificates, "off" => ClientCertificates::Off, "subject-cn" => ClientCertificates::SubjectCn,
    "san-dns" => ClientCertificates::SanDns, "san-email" => ClientCertificates::SanEmail,
    "san-uri" => ClientCertificates::SanUri);
choice!(ForwardedBy, "x-forwarded-for" => ForwardedBy::XForwardedFor, "forwarded" => ForwardedBy::Forwarded,
    "off" => ForwardedBy::Off);
choice!(LogLevel, "error" => LogLevel::Error, "warn" => LogLevel::Warn, "info" => LogLevel::Info,
    "debug" => LogLevel::Debug, "trace" => LogLevel::Trace);

/// The least and the most that a number may be, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Least.
    pub min: u64,
    /// Most.
    pub max: u64,
}

impl Slot<'_> {
    /// Takes the value, or says why not; then nothing changed.
    pub fn set(&mut self, given: &Given, range: Range) -> Result<(), Reason> {
        let expected = self.expected();
        let wrong = || Reason::WrongType {
            expected: expected.clone(),
        };
        match self {
            Self::Flag(flag) => **flag = given.bool().ok_or_else(wrong)?,
            Self::Count(number) => {
                let value = within(given.integer().ok_or_else(wrong)?, range, |n| n.to_string())?;
                number.set(value).ok_or_else(wrong)?;
            }
            Self::Bytes(number) => {
                let value = within(given.bytes().ok_or_else(wrong)?, range, bytes_text)?;
                number.set(value).ok_or_else(wrong)?;
            }
            Self::Millis(number) => {
                let value = within(given.millis().ok_or_else(wrong)?, range, millis_text)?;
                number.set(value).ok_or_else(wrong)?;
            }
            Self::Span(span) => {
                let ms = within(given.millis().ok_or_else(wrong)?, range, millis_text)?;
                **span = Duration::from_millis(ms);
            }
            Self::SpanOrOff(_) | Self::BytesOrOff(_) | Self::CountOrOff(_) => {
                self.set_bound(given, range)?;
            }
            Self::TextOrOff(text) => {
                // A line end or a NUL is in none of the protocols' texts.
                let is_line = |given: &str| !given.contains(char::is_control);
                **text = text_or_off(given, range, is_line, wrong)?;
            }
            Self::ServersOrOff(servers) => {
                let are_servers = |given: &str| given.split(' ').all(is_server);
                **servers = text_or_off(given, range, are_servers, wrong)?;
            }
            Self::TopicOrOff(topic) => {
                **topic = match given.text().ok_or_else(wrong)? {
                    "off" => None,
                    given => Some(Topic::new(given).map_err(Reason::NotATopic)?),
                }
            }
            Self::Listener(listener) => {
                **listener = if given.is_off() {
                    None
                } else {
                    Some(given.text().and_then(address).ok_or_else(wrong)?)
                }
            }
            Self::Place(place) => **place = data_place(given).ok_or_else(wrong)?,
            Self::Origins(list) => {
                let origins = given.list().ok_or_else(wrong)?;
                **list = origins
                    .iter()
                    .map(|text| origin(text))
                    .collect::<Result<_, _>>()?;
            }
            Self::Domains(list) => **list = acme::domains(given).ok_or_else(wrong)?,
            Self::Words(list, known) => **list = words(given, known).ok_or_else(wrong)?,
            Self::Certificates(list) => **list = tls::certificates(given).ok_or_else(wrong)?,
            Self::Networks(list) => **list = proxies::networks(given).ok_or_else(wrong)?,
            Self::Listeners(list) => **list = proxies::listeners(given).ok_or_else(wrong)?,
            Self::Choice(choice) => {
                let word = given.text().ok_or_else(wrong)?;
                let index = choice.words().iter().position(|known| *known == word);
                choice.choose(index.ok_or_else(wrong)?);
            }
        }
        Ok(())
    }

    /// Sets a bound that may be off.
    fn set_bound(&mut self, given: &Given, range: Range) -> Result<(), Reason> {
        let wrong = Reason::WrongType {
            expected: self.expected(),
        };
        let (value, text): (Option<u64>, fn(u64) -> String) = match self {
            Self::SpanOrOff(_) => (given.millis(), millis_text),
            Self::BytesOrOff(_) => (given.bytes(), bytes_text),
            _ => (given.integer(), |n| n.to_string()),
        };
        let value = match value {
            None if given.is_off() => None,
            None => return Err(wrong),
            Some(value) => Some(within(value, range, text)?),
        };
        match self {
            Self::SpanOrOff(span) => **span = value.map(Duration::from_millis),
            Self::BytesOrOff(bound) | Self::CountOrOff(bound) => **bound = value,
            _ => {}
        }
        Ok(())
    }

    /// The value as TOML, which [`Slot::set`] takes back.
    pub fn toml(&self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Count(number) => number.get().to_string(),
            Self::Bytes(number) => bytes_toml(number.get()),
            Self::Millis(number) => quoted(&millis_text(number.get())),
            Self::Span(span) => quoted(&millis_text(millis_of(**span))),
            Self::SpanOrOff(Some(span)) => quoted(&millis_text(millis_of(*span))),
            Self::BytesOrOff(Some(bytes)) => bytes_toml(*bytes),
            Self::CountOrOff(Some(count)) => count.to_string(),
            Self::TextOrOff(Some(text)) | Self::ServersOrOff(Some(text)) => quoted(text),
            Self::TopicOrOff(Some(topic)) => quoted(topic.as_str()),
            Self::Listener(Some(address)) => quoted(&address.to_string()),
            Self::SpanOrOff(None)
            | Self::BytesOrOff(None)
            | Self::CountOrOff(None)
            | Self::TextOrOff(None)
            | Self::ServersOrOff(None)
            | Self::TopicOrOff(None)
            | Self::Listener(None) => quoted("off"),
            Self::Place(place) => quoted(&place.to_string()),
            Self::Origins(list) | Self::Domains(list) | Self::Words(list, _) => quoted_list(list),
            Self::Certificates(list) => tls::certificates_toml(list),
            Self::Networks(list) => {
                let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
                quoted_list(&texts)
            }
            Self::Listeners(list) => {
                let names: Vec<String> = list.iter().map(ToString::to_string).collect();
                quoted_list(&names)
            }
            Self::Choice(choice) => quoted(choice.word()),
        }
    }

    /// The number, if the option is one: for checks between options.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Count(number) | Self::Bytes(number) | Self::Millis(number) => Some(number.get()),
            _ => None,
        }
    }

    /// Whether the value is a list.
    pub fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Origins(_)
                | Self::Domains(_)
                | Self::Words(..)
                | Self::Certificates(_)
                | Self::Networks(_)
                | Self::Listeners(_)
        )
    }

    /// What may be written here, for the documentation.
    pub fn kind(&self) -> String {
        match self {
            Self::Flag(_) => "`true` or `false`".to_owned(),
            Self::Count(_) => "whole number".to_owned(),
            Self::Bytes(_) => "size".to_owned(),
            Self::Millis(_) | Self::Span(_) => "time".to_owned(),
            Self::SpanOrOff(_) => "time or `off`".to_owned(),
            Self::BytesOrOff(_) => "size or `off`".to_owned(),
            Self::CountOrOff(_) => "whole number or `off`".to_owned(),
            Self::TextOrOff(_) | Self::ServersOrOff(_) => "text or `off`".to_owned(),
            Self::TopicOrOff(_) => "topic or `off`".to_owned(),
            Self::Listener(_) => "address or `off`".to_owned(),
            Self::Place(_) => "directory or `memory`".to_owned(),
            Self::Origins(_) => "list of origins".to_owned(),
            Self::Domains(_) => "list of host names".to_owned(),
            Self::Words(..) => "list of words".to_owned(),
            Self::Certificates(_) => "list of certificates".to_owned(),
            Self::Networks(_) => "list of addresses and networks".to_owned(),
            Self::Listeners(_) => format!("list of {}", words_text(&LISTENERS, "`")),
            Self::Choice(choice) => words_text(choice.words(), "`"),
        }
    }

    /// What to write instead of something that does not fit.
    fn expected(&self) -> String {
        match self {
            Self::Flag(_) => "true or false".to_owned(),
            Self::Count(_) => "a whole number".to_owned(),
            Self::Bytes(_) => "bytes as a whole number, or with a unit: 64KiB, 1MiB".to_owned(),
            Self::Millis(_) | Self::Span(_) => {
                "milliseconds as a whole number, or a time with a unit: 250ms, 15s, 10m, 24h, 7d"
                    .to_owned()
            }
            Self::SpanOrOff(_) => {
                "a time with a unit (15s, 10m, 24h, 7d), or off for no bound".to_owned()
            }
            Self::BytesOrOff(_) => "a size such as 64MiB or 10GiB, or off for no bound".to_owned(),
            Self::CountOrOff(_) => "a whole number, or off for no bound".to_owned(),
            Self::TextOrOff(_) => "a text on one line, or off for none".to_owned(),
            Self::ServersOrOff(_) => {
                "host or host:port, several with one space between each, or off for none".to_owned()
            }
            Self::TopicOrOff(_) => "a topic such as dead-letter, or off for none".to_owned(),
            Self::Listener(_) => {
                "an address and port such as 127.0.0.1:8080 or [::1]:8080, or off".to_owned()
            }
            Self::Place(_) => "a directory, or memory".to_owned(),
            Self::Words(_, known) => format!("a list of some of {}, each once", known.join(", ")),
            Self::Origins(_) => {
                r#"a list of origins: ["https://app.example"], or "*" for any"#.to_owned()
            }
            Self::Domains(_) => {
                r#"a list of host names without a wildcard: ["push.example.org"]"#.to_owned()
            }
            Self::Certificates(_) => {
                r#"a list of PEM files: [{ cert = "cert.pem", key = "key.pem" }], or cert.pem:key.pem"#
                    .to_owned()
            }
            Self::Networks(_) => {
                r#"a list of addresses, or of networks with no bit set behind their prefix: ["10.0.0.7", "10.1.0.0/16", "fd00::/8"]"#
                    .to_owned()
            }
            Self::Listeners(_) => format!("a list of {}", words_text(&LISTENERS, "")),
            Self::Choice(choice) => words_text(choice.words(), ""),
        }
    }
}

/// `a, b or c`, each between the marks.
fn words_text(words: &[&str], mark: &str) -> String {
    let marked: Vec<String> = words
        .iter()
        .map(|word| format!("{mark}{word}{mark}"))
        .collect();
    match marked.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => marked.join(""),
    }
}

fn within(value: u64, range: Range, text: fn(u64) -> String) -> Result<u64, Reason> {
    if value < range.min {
        return Err(Reason::TooSmall {
            min: text(range.min),
        });
    }
    if value > range.max {
        return Err(Reason::TooLarge {
            max: text(range.max),
        });
    }
    Ok(value)
}

/// Configured times are whole milliseconds that came from a `u64`.
fn millis_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn bytes_text(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A number without a unit stays a number.
fn bytes_toml(bytes: u64) -> String {
    let text = bytes_text(bytes);
    if text.ends_with('B') {
        quoted(&text)
    } else {
        text
    }
}

/// Words that are known, each once.
fn words(given: &Given, known: &[&str]) -> Option<Vec<String>> {
    let words = given.list()?;
    let is_new = |(at, word): (usize, &String)| {
        known.contains(&word.as_str()) && !words[..at].contains(word)
    };
    words.iter().enumerate().all(is_new).then_some(words)
}

/// An address with a port; `localhost:8080` and a port alone are loopback.
fn address(text: &str) -> Option<SocketAddr> {
    let port = text.strip_prefix("localhost:").unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().ok()
}

fn data_place(given: &Given) -> Option<DataPlace> {
    match given.text()? {
        "" => None,
        "memory" => Some(DataPlace::Memory),
        path => Some(DataPlace::Dir(PathBuf::from(path))),
    }
}

/// A text that fits, or none.
fn text_or_off(
    given: &Given,
    range: Range,
    fits: impl Fn(&str) -> bool,
    wrong: impl Fn() -> Reason,
) -> Result<Option<String>, Reason> {
    let text = given.text().ok_or_else(&wrong)?;
    if text == "off" {
        return Ok(None);
    }
    within(text.len() as u64, range, |n| format!("{n} bytes"))?;
    if fits(text) {
        Ok(Some(text.to_owned()))
    } else {
        Err(wrong())
    }
}

/// A reference to a server (MQTT 5, 4.11): a name, in brackets if it holds a colon, and perhaps a port.
fn is_server(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or_default(),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_odd = |c: char| !(c.is_alphanumeric() || "-._:%".contains(c));
    let is_port = |port: &str| {
        let number: Option<u16> = port.parse().ok();
        number.is_some_and(|number| number > 0) && !port.starts_with('+')
    };
    !name.is_empty()
        && !name.contains(is_odd)
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// An origin as a browser sends it (RFC 6454, 6.2): scheme, host, port if it is not the scheme's own. `*.` may
/// stand before the host for everything below it. `null` is refused: any page can make itself that.
fn origin(text: &str) -> Result<String, Reason> {
    let wrong = || Reason::NotAnOrigin {
        text: text.to_owned(),
    };
    if text == "*" {
        return Ok(text.to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
    let implied = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let authority = authority.strip_suffix(implied).unwrap_or(authority);
    let host = authority.strip_prefix("*.").unwrap_or(authority);
    let odd_scheme = |c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c));
    let odd_host = |c: char| !(c.is_ascii_alphanumeric() || "-._:[]".contains(c));
    if scheme.is_empty()
        || host.is_empty()
        || scheme.contains(odd_scheme)
        || host.contains(odd_host)
    {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{authority}"))
}
