//! The configuration: one option table, four layers, one checked value.
//!
//! [`options::OPTIONS`] is the only list of options. Parsing, flags, environment names, `--print-config`, the
//! defaults and `docs/configuration.md` all derive from it. [`Inputs::load`] lays the file over the defaults,
//! the environment over the file and the flags over the environment, and remembers for every value where it
//! came from. It reports everything that is wrong at once.

mod acme;
mod admin;
mod auth;
mod check;
mod docs;
mod error;
mod given;
mod layers;
mod nearest;
pub mod options;
mod print;
mod proxies;
mod rates;
mod reload;
pub mod remote;
mod retention;
mod slot;
mod spec;
#[cfg(test)]
mod tests;
mod tls;
mod toml_file;
mod url;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tidings_types::{Durability, Limits, RetentionRules, Topic};

pub use acme::{AcmeChallenge, AcmeSettings};
pub use admin::AdminOptions;
pub use auth::{AuthOptions, ClientCertificates, trim_line_end};
pub use docs::docs;
pub use error::{ConfigError, ConfigErrors, Reason};
pub use layers::{Inputs, Loaded, Provenance, Setting, Source};
pub use print::print;
pub use proxies::{ForwardedBy, ProxySettings};
pub use reload::Reloaded;
pub use tls::{CertificateFiles, ClientAuth, TlsSettings, TlsVersion};
pub use url::{ServerUrl, UrlError};

/// Where the log lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlace {
    /// In this directory.
    Dir(PathBuf),
    /// In memory: a restart loses it.
    Memory,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text for each event.
    Human,
    /// One JSON object for each event.
    Json,
}

/// Which log lines are written: this level and the more severe ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is wrong and the server goes on.
    Warn,
    /// What an operator wants to see.
    #[default]
    Info,
    /// One line for each connection.
    Debug,
    /// One line for each step.
    Trace,
}

/// Everything that an operator can set, checked.
///
/// Made by [`Inputs::load`]; `Config::default()` is what `tidings serve` runs with when nothing is set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an operator's switch of its own, not a state"
)]
pub struct Config {
    /// Where HTTP listens; `None` is nowhere.
    pub http: Option<SocketAddr>,
    /// Where HTTP over TLS listens; `None` is nowhere.
    pub https: Option<SocketAddr>,
    /// Origins of pages that may use the HTTP API from a browser; `*` is any. Lower case.
    pub cors_origins: Vec<String>,
    /// Whether HTTP answers are compressed for clients that ask for it. Event streams: `sse_gzip`.
    pub http_compression: bool,
    /// Whether event streams are compressed for clients that ask for it.
    pub sse_gzip: bool,
    /// Whether permessage-deflate (RFC 7692) is agreed to.
    pub websocket_compression: bool,
    /// Origins of pages that may open a WebSocket, besides the server's own; `*` is any. Lower case.
    pub websocket_origins: Vec<String>,
    /// Where MQTT listens; `None` is nowhere.
    pub mqtt: Option<SocketAddr>,
    /// Where MQTT over TLS listens; `None` is nowhere.
    pub mqtts: Option<SocketAddr>,
    /// Whether `GET /mqtt` opens MQTT over WebSocket.
    pub mqtt_websocket: bool,
    /// Where MQTT 5 clients are sent when the server goes down (MQTT 5, 4.11).
    pub mqtt_server_reference: Option<String>,
    /// Where STOMP listens; `None` is nowhere.
    pub stomp: Option<SocketAddr>,
    /// Where STOMP over TLS listens; `None` is nowhere.
    pub stomps: Option<SocketAddr>,
    /// Whether `GET /stomp` opens STOMP over WebSocket.
    pub stomp_websocket: bool,
    /// Certificates, and what else TLS needs.
    pub tls: TlsSettings,
    /// What stands in front of the server.
    pub proxy: ProxySettings,
    /// Below which topic the messages go that a work queue gives up; `None` is nowhere.
    pub dead_letter: Option<Topic>,
    /// Whether `GET /` serves the built-in page.
    pub page: bool,
    /// Where the log lives.
    pub data: DataPlace,
    /// When a message counts as committed.
    pub durability: Durability,
    /// The size at which a segment of the log is closed and the next one begun.
    pub segment_bytes: u64,
    /// What is kept.
    pub retention: RetentionRules,
    /// What one peer, one message or the server may cost.
    pub limits: Limits,
    /// Event loops; 0 is one for each core. See [`Config::shards_or_cores`].
    pub shards: usize,
    /// The time over which a shutdown spreads its goodbyes.
    pub drain: Duration,
    /// The admin listener.
    pub admin: AdminOptions,
    /// Who may come in.
    pub auth: AuthOptions,
    /// Whether a listener may be open to other machines without credentials.
    pub allow_anonymous: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: LogLevel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            https: None,
            cors_origins: Vec::new(),
            http_compression: true,
            sse_gzip: true,
            websocket_compression: true,
            websocket_origins: Vec::new(),
            mqtt: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883))),
            mqtts: None,
            mqtt_websocket: true,
            mqtt_server_reference: None,
            stomp: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 61613))),
            stomps: None,
            stomp_websocket: true,
            tls: TlsSettings::default(),
            proxy: ProxySettings::default(),
            dead_letter: Topic::new("dead-letter").ok(),
            page: true,
            data: DataPlace::Dir(PathBuf::from("tidings-data")),
            durability: Durability::default(),
            segment_bytes: 64 << 20,
            retention: RetentionRules::default(),
            limits: Limits::default(),
            shards: 0,
            drain: Duration::from_secs(5),
            admin: AdminOptions::default(),
            auth: AuthOptions::default(),
            allow_anonymous: false,
            log_format: LogFormat::default(),
            log_level: LogLevel::default(),
        }
    }
}

impl Config {
    /// The number of shards: as set, or one for each core that this process may use.
    #[must_use]
    pub fn shards_or_cores(&self) -> usize {
        if self.shards > 0 {
            return self.shards;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}

/// The milliseconds of a time with a unit, as in `15m`.
#[must_use]
pub fn millis(text: &str) -> Option<u64> {
    given::Given::Word(text.to_owned()).millis()
}

impl fmt::Display for DataPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "{}", path.display()),
            Self::Memory => f.write_str("memory"),
        }
    }
}
