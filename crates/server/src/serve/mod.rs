//! The running server: listeners, shards on their threads, signals, and the end.
//!
//! The control thread accepts connections and hands them to the shards in turn, so that their loads stay
//! even. Everything else about a connection happens on its shard's thread.

mod accept;
mod body;
mod control;
mod core;
mod first_line;
mod front;
mod launch;
mod link;
mod logins;
mod metrics;
mod mqtt;
mod page;
mod requests;
mod shard;
mod socket;
mod stomp;
mod streams;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytestring::ByteString;
use http::request::Parts;
use tidings_adapters::http::Cors;
use tidings_adapters::websocket::Origins;
use tidings_hub::{Metrics, SharedMetrics};
use tidings_ports::{Attempt, Clock, Engine, SignOn};
use tidings_types::{Limits, Principal, Protocol, Refusal, RetentionRules};
use tokio::sync::mpsc;

pub use launch::launch;
pub use tls::TlsError;

use crate::config::{Config, Reason};

/// What the threads of a running server share.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct Shared {
    /// The limits.
    pub limits: Arc<Limits>,
    /// The log.
    pub engine: Arc<dyn Engine>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Each shard's numbers.
    pub shards: Vec<Arc<Metrics>>,
    /// The numbers of all.
    pub metrics: Arc<SharedMetrics>,
    /// The ways to the shards: connections that are accepted, or that move to their session's home.
    pub arrivals: Vec<mpsc::Sender<shard::Arrival>>,
    /// Sockets: how many, and how many may be.
    pub sockets: Arc<accept::Sockets>,
    /// TLS, for the listeners that have it.
    pub tls: tls::Tls,
    /// What SIGHUP can change.
    pub reloadable: RwLock<Arc<Reloadable>>,
    /// Whether history pages and the like are compressed for clients that accept it.
    pub http_compression: bool,
    /// Whether permessage-deflate is offered.
    pub websocket_compression: bool,
    /// Whether SSE is compressed for clients that accept it.
    pub sse_gzip: bool,
    /// Whether MQTT is served over WebSocket.
    pub mqtt_websocket: bool,
    /// Where MQTT clients are sent when the server goes down.
    pub mqtt_server_reference: Option<Arc<ByteString>>,
    /// Whether STOMP is served over WebSocket.
    pub stomp_websocket: bool,
    /// What is kept, for how long a page may be cached.
    pub retention: RetentionRules,
    /// Whether the built-in page is served.
    pub page: bool,
    /// Set once the server is going down.
    pub draining: AtomicBool,
    /// Who finds out who peers are.
    pub logins: Arc<logins::Logins>,
    anonymous: Arc<Principal>,
}

/// What can change while the server runs.
pub struct Reloadable {
    /// Which pages may read responses.
    pub cors: Cors,
    /// Which pages may open a WebSocket.
    pub origins: Origins,
    /// The time over which a shutdown spreads its goodbyes.
    pub drain: Duration,
}

impl Reloadable {
    fn new(config: &Config) -> Result<Self, ServeError> {
        let cors = Cors::new(config.cors_origins.iter().map(String::as_str))
            .map_err(|error| ServeError::origins("http.cors_origins", &error))?;
        let origins = Origins::new(config.websocket_origins.iter().map(String::as_str))
            .map_err(|error| ServeError::origins("websocket.origins", &error))?;
        Ok(Self {
            cors,
            origins,
            drain: config.drain,
        })
    }
}

impl Shared {
    /// What can change, as it is now.
    #[must_use]
    pub fn reloadable(&self) -> Arc<Reloadable> {
        Arc::clone(
            &self
                .reloadable
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Takes what can change from a new configuration.
    pub fn reload(&self, config: &Config) -> Result<(), ServeError> {
        let new = Arc::new(Reloadable::new(config)?);
        self.logins.replace(authenticator(config)?);
        *self
            .reloadable
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// A peer that has shown nothing, and may still do so: anonymous where nobody is asked, else nobody, for as
    /// long as a handshake may take.
    #[must_use]
    pub fn newcomer(&self) -> Arc<Principal> {
        if self.logins.sign_on() == SignOn::Open {
            return Arc::clone(&self.anonymous);
        }
        let limit = Duration::from_millis(self.limits.handshake_ms_max);
        Arc::new(Principal::nobody(Some(self.clock.now().plus(limit))))
    }

    /// Who sends a request.
    pub async fn requester(
        &self,
        parts: &Parts,
        address: IpAddr,
    ) -> Result<Arc<Principal>, Refusal> {
        if self.logins.sign_on() == SignOn::Open {
            return Ok(Arc::clone(&self.anonymous));
        }
        let attempt = Attempt {
            credential: tidings_adapters::http::credential(parts)?,
            protocol: Protocol::Http,
            address: Some(address),
        };
        self.logins.judge(attempt).await
    }

    /// Whether the server is going down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

/// Whether the files that TLS needs can be used; they are read only if a listener has TLS.
pub fn check_tls(config: &Config) -> Result<(), TlsError> {
    tls::Tls::open(config).map(drop)
}

/// Who may come in. The files were good when the configuration was read, a moment ago.
fn authenticator(config: &Config) -> Result<tidings_auth::Authenticator, ServeError> {
    config.auth.authenticator().map_err(|wrong| {
        let first = wrong.into_iter().next();
        let (option, reason) = first.expect("whoever refuses says what is wrong");
        ServeError::Auth { option, reason }
    })
}

/// Why the server could not start, or had to end.
#[derive(Debug)]
pub enum ServeError {
    /// The log could not be opened.
    Log(tidings_log::OpenError),
    /// An address could not be listened on.
    Listen {
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Threads, timers or signals could not be had from the operating system.
    System {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A list of origins is not one.
    Origins {
        /// The option that has it.
        option: &'static str,
        /// What is wrong with it.
        text: String,
    },
    /// The files for TLS cannot be used.
    Tls(TlsError),
    /// A file with credentials cannot be taken any more.
    Auth {
        /// The option that names it.
        option: &'static str,
        /// Why not.
        reason: Reason,
    },
    /// Nothing would listen.
    NothingToServe,
}

impl ServeError {
    fn origins(option: &'static str, error: &dyn std::error::Error) -> Self {
        Self::Origins {
            option,
            text: error.to_string(),
        }
    }
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => write!(f, "cannot open the log: {error}"),
            Self::Listen {
                option,
                address,
                source,
            } => {
                let hint = match source.kind() {
                    io::ErrorKind::AddrInUse if *option == "mqtt.listen" => {
                        ": another process listens there, perhaps another MQTT broker; stop it, or choose another \
                         port (--mqtt 127.0.0.1:1884), or go without MQTT (--mqtt off)"
                    }
                    io::ErrorKind::AddrInUse if *option == "stomp.listen" => {
                        ": another process listens there, perhaps another STOMP broker; stop it, or choose another \
                         port (--stomp 127.0.0.1:61614), or go without STOMP (--stomp off)"
                    }
                    io::ErrorKind::AddrInUse => {
                        ": another process listens there; stop it, or choose another port"
                    }
                    io::ErrorKind::PermissionDenied => {
                        ": ports below 1024 need a privilege; choose a higher one"
                    }
                    io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
                    _ => "",
                };
                write!(f, "cannot listen on {address} ({option}): {source}{hint}")
            }
            Self::System { what, source } => write!(f, "cannot get {what}: {source}"),
            Self::Tls(error) => write!(f, "{error}"),
            Self::NothingToServe => f.write_str(
                "every listener is off: turn one on, for example with --http 127.0.0.1:8080",
            ),
            Self::Auth { option, reason } => write!(f, "cannot use {option}: {reason}"),
            Self::Origins { option, text } => write!(f, "cannot use {option}: {text}"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Log(error) => Some(error),
            Self::Listen { source, .. } | Self::System { source, .. } => Some(source),
            Self::Tls(error) => Some(error),
            Self::Auth { .. } | Self::Origins { .. } | Self::NothingToServe => None,
        }
    }
}
