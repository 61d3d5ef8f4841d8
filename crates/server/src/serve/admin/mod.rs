//! The admin listener: metrics, health, and what an operator can do to a running server.
//!
//! It has its own port, its own credential and its own bound on connections, so that an operator gets in when the
//! server is full. Its connections are served by the shards, like all others.

mod api;
mod counts;
mod guard;
pub mod metrics;
mod revocations;

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioTimer;
use tidings_auth::Secret;
use tidings_types::{Limits, Refusal, RefusalCode};
use tokio::time::timeout;

use super::accept::Sockets;
use super::body::Rewound;
use super::core::Core;
use super::front::until_it_ends;
use super::link::Link;
use super::shard::Place;
use crate::config::{AdminOptions, Config, DataPlace, trim_line_end};

pub use revocations::{Revocations, UnreadableError};

/// Connections of the admin listener.
const CONNECTIONS_MAX: usize = 64;
/// Those of one address: whoever has no token and holds connections open leaves places for others.
const PER_ADDRESS_MAX: usize = 16;

/// The state behind the admin listener.
pub struct Admin {
    /// Whether it listens anywhere.
    is_on: bool,
    /// Whether other machines can reach it. Where it listens does not change while it does.
    is_remote: bool,
    /// Whom it lets in; `None` is everybody who is on this machine.
    token: RwLock<Option<Secret>>,
    /// Its sockets, which do not count among the others.
    pub sockets: Arc<Sockets>,
    /// The limits on those.
    pub limits: Arc<Limits>,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
    counts: counts::Counts,
}

impl Admin {
    /// As the configuration says. Its file was good when that was read, a moment ago.
    pub fn new(config: &Config, revocations: Arc<Revocations>) -> Self {
        let limits = Limits {
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: PER_ADDRESS_MAX,
            ..config.limits.clone()
        };
        let listeners = [config.admin.listen, config.admin.tls];
        let mut listeners = listeners.iter().flatten().peekable();
        let admin = Self {
            is_on: listeners.peek().is_some(),
            is_remote: listeners.any(|it| !it.ip().to_canonical().is_loopback()),
            token: RwLock::new(None),
            sockets: Arc::new(Sockets::new(&limits)),
            limits: Arc::new(limits),
            revocations,
            counts: counts::Counts::default(),
        };
        admin.reload(&config.admin);
        admin
    }

    /// Reads the token again. Without the file the old one stays.
    pub fn reload(&self, options: &AdminOptions) {
        match options.token() {
            Ok(None) if self.is_remote => {
                tracing::error!("the admin listener can be reached by others: the old token stays");
            }
            Ok(token) => *self.token.write().unwrap_or_else(PoisonError::into_inner) = token,
            Err(error) => {
                tracing::error!(%error, "the admin token was not read, the old one stays");
            }
        }
    }

    fn token(&self) -> Option<Secret> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        token.clone()
    }

    /// Whether the listeners for everybody tell the metrics: not where there is a better place for them, or where
    /// everything else asks for a credential.
    pub fn admit_to_public_metrics(&self, judged: bool) -> Result<(), Refusal> {
        let detail = if self.is_on {
            "the metrics are on the admin listener (admin.listen)"
        } else if judged {
            "where there are credentials, the metrics are on a listener of their own: start it with --admin 127.0.0.1:8081 (admin.listen)"
        } else {
            return Ok(());
        };
        Err(Refusal::new(RefusalCode::NotFound, detail))
    }
}

/// What was revoked by earlier runs.
pub fn revocations(config: &Config) -> Result<Revocations, UnreadableError> {
    let folder = match &config.data {
        DataPlace::Dir(path) => Some(PathBuf::from(path)),
        DataPlace::Memory => None,
    };
    Revocations::open(folder, config.admin.revocations_max)
}

impl AdminOptions {
    /// The shortest token: as long as the random ones that nobody guesses.
    pub const TOKEN_BYTES_MIN: usize = 32;

    /// The token in the file, if one is set.
    pub fn token(&self) -> std::io::Result<Option<Secret>> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let token = trim_line_end(&Secret::new(fs::read(path)?));
        if token.expose().len() < Self::TOKEN_BYTES_MIN {
            return Err(std::io::Error::other(format!(
                "the token is shorter than {} bytes and can be guessed: make one with `tidings token secret {path}`",
                Self::TOKEN_BYTES_MIN
            )));
        }
        Ok(Some(token))
    }
}

/// Serves a connection until it ends.
pub async fn serve(core: Rc<Core>, link: Link, place: Place) {
    let limits = &core.shared.limits;
    let limit = Duration::from_millis(limits.handshake_ms_max);
    let spoke = tokio::select! {
        readable = timeout(limit, link.readable()) => matches!(readable, Ok(Ok(()))),
        // Nobody waits for who has said nothing yet, which hyper would.
        () = core.draining() => false,
    };
    if !spoke {
        return;
    }
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limit)
        .max_buf_size(limits.request_head_bytes_max.max(8 << 10))
        .half_close(false);
    let service = api::Requests::new(Rc::clone(&core), place, link.is_secured());
    let connection = builder.serve_connection(Rewound::new(Bytes::new(), link), service);
    let connection = std::pin::pin!(connection);
    until_it_ends(&core, connection, |connection| {
        connection.graceful_shutdown();
    })
    .await;
}
