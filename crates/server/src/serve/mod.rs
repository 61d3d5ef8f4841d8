//! The running server: listeners, shards on their threads, signals, and the end.
//!
//! The control thread accepts connections and hands them to the shards in turn, so that their loads stay
//! even. Everything else about a connection happens on its shard's thread.

mod accept;
mod acme;
mod admin;
mod asking;
mod body;
mod control;
mod core;
mod first_line;
mod front;
mod headers;
mod launch;
mod link;
mod logins;
mod metrics;
mod mqtt;
mod newcomers;
mod page;
mod permit;
mod proxies;
mod refused;
mod remote;
mod renewal;
mod requests;
mod shard;
mod socket;
mod stomp;
mod streams;
mod tls;
mod waiting;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytestring::ByteString;
use http::HeaderValue;
use http::request::Parts;
use tidings_adapters::http::{self as adapter, Cors};
use tidings_adapters::websocket::Origins;
use tidings_hub::meter::Meters;
use tidings_hub::{Inboxes, Metrics, Peer, SharedMetrics};
use tidings_ports::{
    Attempt, Authenticator as _, Clock, Credential, Engine, SignOn, Standing, SystemClock,
};
use tidings_types::{Limits, Principal, Protocol, Refusal, RefusalCode, RetentionRules};
use tokio::sync::mpsc;

pub use launch::launch;
pub use tls::TlsError;

use crate::config::{ClientCertificates, Config, ProxySettings, Reason};

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
    /// What identities may take.
    pub meters: Arc<Meters>,
    /// Sockets: how many, and how many may be.
    pub sockets: Arc<accept::Sockets>,
    /// TLS, for the listeners that have it.
    pub tls: tls::Tls,
    /// What is counted of proxies in front of the server.
    pub proxy_counts: proxies::Counts,
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
    /// The admin listener, and what was revoked there.
    pub admin: admin::Admin,
    /// What reaches the shards.
    pub inboxes: Arc<Inboxes>,
    /// The names of event streams.
    pub streams: renewal::StreamNames,
    /// Who else is asked who they are, and what they may do.
    pub remote: Arc<remote::Remote>,
    anonymous: Arc<Principal>,
}

/// What can change while the server runs.
pub struct Reloadable {
    /// Which pages may read responses.
    pub cors: Cors,
    /// Which pages may open a WebSocket.
    pub origins: Origins,
    /// Who is believed when it says whose connections and requests it passes on.
    pub proxy: ProxySettings,
    /// Which name in a client certificate says whose it is.
    pub client_certificates: ClientCertificates,
    /// The cookie that may have a credential.
    pub cookie: Option<String>,
    /// The time over which a shutdown spreads its goodbyes.
    pub drain: Duration,
    /// What browsers are told over TLS of for how long they are to come back by it.
    pub hsts: Option<HeaderValue>,
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
            proxy: config.proxy.clone(),
            client_certificates: config.auth.client_certificates,
            cookie: config.auth.cookie.clone(),
            drain: config.drain,
            hsts: headers::hsts(config.tls.hsts_s),
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
        self.logins.replace(authenticator(config, &self.remote)?);
        self.admin.reload(&config.admin);
        *self
            .reloadable
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        self.recheck(|ended| {
            tracing::info!(ended, "every connection's credential was looked at again");
        });
        Ok(())
    }

    /// Has it asked of every connection again who its peer is. `done` is told how many ended.
    pub fn recheck(&self, done: impl FnOnce(u64) + Send + 'static) {
        self.inboxes.recheck(done);
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

    /// Whether an address is that of a proxy, which stands for many clients.
    #[must_use]
    pub fn stands_for_many(&self, address: IpAddr) -> bool {
        self.reloadable().proxy.trusts(address)
    }

    /// What a request shows to say who sends it. A browser sends its cookies with everything, so whatever else is shown
    /// counts in their place.
    pub fn shown(&self, parts: &Parts, place: &shard::Seat) -> Result<Credential, Refusal> {
        let shown = adapter::credential(parts)?;
        let reloadable = self.reloadable();
        let (Credential::Anonymous, Some(name)) = (&shown, &reloadable.cookie) else {
            return Ok(shown);
        };
        let shown = adapter::cookie(parts, name)?;
        if !matches!(shown, Credential::Anonymous) {
            let is_socket = parts.headers.contains_key(http::header::UPGRADE);
            adapter::admit_cookie(parts, place.is_tls, |origin| {
                if is_socket {
                    reloadable.origins.lists(origin)
                } else {
                    reloadable.cors.lists(origin)
                }
            })?;
        }
        Ok(shown)
    }

    /// Who sends a request.
    pub async fn requester(
        &self,
        parts: &Parts,
        place: &shard::Seat,
    ) -> Result<Arc<Principal>, Refusal> {
        if self.logins.sign_on() == SignOn::Open {
            return Ok(Arc::clone(&self.anonymous));
        }
        let attempt = Attempt {
            credential: self.shown(parts, place)?,
            protocol: Protocol::Http,
            address: Some(place.address),
            certificate: place.certificate.clone(),
        };
        self.logins.judge(attempt).await
    }

    /// Refuses whose credential ended, or was revoked, while a request was read or a permission was asked for.
    pub fn still_in(&self, requester: &Peer) -> Result<(), Refusal> {
        if self.logins.sign_on() == SignOn::Open {
            return Ok(());
        }
        let principal = &requester.principal;
        match self.logins.standing(principal) {
            Standing::Ended(refusal) => Err(refusal),
            _ if principal.has_ended(self.clock.now()) => {
                let detail = "the credential has expired: get a new one";
                Err(Refusal::new(RefusalCode::Unauthorized, detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether the server is going down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

/// Whether the files that TLS needs can be used; they are read only if a listener has TLS.
pub fn check_tls(config: &Config) -> Result<(), TlsError> {
    let opened = tls::Tls::open(config, SystemClock::default().now());
    opened.and_then(|_| acme::check(&config.tls.acme))
}

/// Who may come in. The files were good when the configuration was read, a moment ago.
fn authenticator(
    config: &Config,
    remote: &remote::Remote,
) -> Result<tidings_auth::Authenticator, ServeError> {
    let refused = |wrong: Vec<(&'static str, Reason)>| {
        let first = wrong.into_iter().next();
        let (option, reason) = first.expect("whoever refuses says what is wrong");
        ServeError::Auth { option, reason }
    };
    let mut authenticator = config.auth.authenticator().map_err(refused)?;
    let plan = config.auth.remote().map_err(refused)?;
    let asked = remote.apply(&plan, &config.auth.remote_rules(), &mut authenticator);
    asked.map_err(|source| ServeError::System {
        what: "a thread that asks other servers",
        source,
    })?;
    let order = &config.auth.remote;
    let sources = &mut authenticator.sources;
    sources.sort_by_key(|source| order.place_of(source.label()));
    Ok(authenticator)
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
    /// What earlier runs revoked cannot be read.
    Revocations(admin::UnreadableError),
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
            Self::Revocations(error) => write!(f, "{error}"),
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
            Self::Auth { .. }
            | Self::Origins { .. }
            | Self::Revocations(_)
            | Self::NothingToServe => None,
        }
    }
}
