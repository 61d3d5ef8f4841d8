//! TLS: what the listeners show and demand, how that changes while they run, and what is counted.
//!
//! [`Tls`] has the configuration in force. A connection takes it when its handshake begins and keeps it, so a reload
//! drops nobody. Files that cannot be used leave the old configuration in place.

mod certificate;
mod files;
mod handshake;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;
use tidings_types::Timestamp;

use super::accept::Spoken;
use super::acme::Acme;
use crate::config::{Config, TlsSettings};
use files::Fingerprint;
pub use files::{certificates_in, read};

pub use certificate::certificate;
pub use files::TlsError;
pub use handshake::secure;

/// TLS for all listeners.
pub struct Tls {
    /// `None` if no listener has TLS.
    in_force: Option<RwLock<Arc<InForce>>>,
    /// What it was made from; held while a new one is made.
    made_from: Mutex<MadeFrom>,
    /// Automatic certificates.
    pub acme: Arc<Acme>,
    /// What is counted.
    pub counts: Counts,
}

struct MadeFrom {
    settings: TlsSettings,
    /// As the files were before they were read.
    files: Fingerprint,
}

/// The configuration in force, by what is spoken over it.
struct InForce {
    http: Arc<ServerConfig>,
    mqtt: Arc<ServerConfig>,
    stomp: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
    /// Encrypts session tickets, under keys that nobody else has.
    tickets: Arc<dyn ProducesTickets>,
}

impl InForce {
    fn new(
        settings: &TlsSettings,
        acme: &Arc<Acme>,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<Self, TlsError> {
        let mut config = files::load(settings, acme)?;
        config.ticketer = Arc::clone(&tickets);
        // A name of its own for each protocol: bytes for one are never taken for another's (RFC 7301, ALPACA).
        let with = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            http: with(&[b"h2", b"http/1.1"]),
            mqtt: with(&[b"mqtt"]),
            stomp: with(&[b"stomp"]),
            admin: with(&[b"http/1.1"]),
            tickets,
        })
    }
}

impl Tls {
    /// Reads the files, if a listener has TLS. `now` says whether a certificate of an earlier run is still good.
    pub fn open(config: &Config, now: Timestamp) -> Result<Self, TlsError> {
        let settings = config.tls.clone();
        let listeners = [config.https, config.mqtts, config.stomps, config.admin.tls];
        let wanted = listeners.iter().any(Option::is_some);
        let files = Fingerprint::of(&settings);
        let acme = Arc::new(Acme::open(config, now));
        let in_force = if wanted {
            let in_force = InForce::new(&settings, &acme, files::tickets()?)?;
            Some(RwLock::new(Arc::new(in_force)))
        } else {
            None
        };
        Ok(Self {
            in_force,
            made_from: Mutex::new(MadeFrom { settings, files }),
            acme,
            counts: Counts::default(),
        })
    }

    /// The configuration for a new connection; `None` if there is no TLS.
    fn config(&self, spoken: Spoken) -> Option<Arc<ServerConfig>> {
        let in_force = self.in_force()?;
        Some(Arc::clone(match spoken {
            Spoken::Http => &in_force.http,
            Spoken::Mqtt => &in_force.mqtt,
            Spoken::Stomp => &in_force.stomp,
            Spoken::Admin => &in_force.admin,
        }))
    }

    fn in_force(&self) -> Option<Arc<InForce>> {
        let in_force = self.in_force.as_ref()?.read();
        Some(Arc::clone(
            &in_force.unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Takes new settings and reads the files again, changed or not.
    pub fn reload(&self, settings: &TlsSettings) {
        self.acme.reload(&settings.acme);
        let mut made_from = self.made_from();
        self.remake(&mut made_from, settings.clone());
    }

    /// Reads the files again if they have changed.
    pub fn look(&self) {
        let mut made_from = self.made_from();
        if Fingerprint::of(&made_from.settings) != made_from.files {
            let settings = made_from.settings.clone();
            self.remake(&mut made_from, settings);
        }
    }

    /// How often to look; `None` if there is no TLS.
    pub fn look_every(&self) -> Option<Duration> {
        self.in_force.as_ref()?;
        Some(self.made_from().settings.watch)
    }

    fn made_from(&self) -> std::sync::MutexGuard<'_, MadeFrom> {
        let made_from = self.made_from.lock();
        made_from.unwrap_or_else(PoisonError::into_inner)
    }

    fn remake(&self, made_from: &mut MadeFrom, settings: TlsSettings) {
        let (Some(in_force), Some(old)) = (&self.in_force, self.in_force()) else {
            return;
        };
        // Before they are read: what changes meanwhile is found at the next look. And though they be bad: they are
        // told of once, not at every look.
        let files = Fingerprint::of(&settings);
        // A ticket stands for the certificate that its client once showed, so it must not outlive whom that was
        // asked of.
        let asks = settings.client_ca.is_some() || made_from.settings.client_ca.is_some();
        let tickets = if asks {
            files::tickets()
        } else {
            Ok(Arc::clone(&old.tickets))
        };
        match tickets.and_then(|tickets| InForce::new(&settings, &self.acme, tickets)) {
            Ok(new) => {
                *in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                self.counts.reloaded.fetch_add(1, Relaxed);
                tracing::info!(
                    certificates = settings.certificates.len(),
                    "certificates read: new connections get them"
                );
            }
            Err(error) => {
                self.counts.not_reloaded.fetch_add(1, Relaxed);
                tracing::error!(%error, "certificates not read, the old ones stay");
            }
        }
        *made_from = MadeFrom { settings, files };
    }
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The first bytes were not TLS.
    NotTls,
    /// It took longer than `limits.handshake_ms_max`.
    Timeout,
    /// The peer left, or the connection broke.
    Closed,
    /// The peer sent something that TLS does not permit.
    Malformed,
    /// No version, cipher suite, signature or application protocol that both know.
    Incompatible,
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate is not good.
    BadCertificate,
    /// There is no certificate to show: an automatic one that has not been issued yet.
    NoCertificateYet,
    /// The peer said that it gives up, for example because it does not trust the certificate.
    Alert,
    /// Anything else.
    Other,
}

impl Failure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NotTls,
        Self::Timeout,
        Self::Closed,
        Self::Malformed,
        Self::Incompatible,
        Self::NoCertificate,
        Self::BadCertificate,
        Self::NoCertificateYet,
        Self::Alert,
        Self::Other,
    ];

    /// The name in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotTls => "not-tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::Incompatible => "incompatible",
            Self::NoCertificate => "no-certificate",
            Self::BadCertificate => "bad-certificate",
            Self::NoCertificateYet => "no-certificate-yet",
            Self::Alert => "alert",
            Self::Other => "other",
        }
    }
}

/// What is counted of TLS.
#[derive(Debug, Default)]
pub struct Counts {
    handshakes: AtomicU64,
    failures: [AtomicU64; Failure::ALL.len()],
    reloaded: AtomicU64,
    not_reloaded: AtomicU64,
}

impl Counts {
    fn made(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    fn failed(&self, failure: Failure) {
        self.failures[failure as usize].fetch_add(1, Relaxed);
    }

    /// Handshakes that were made.
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Relaxed)
    }

    /// Handshakes that failed in this way.
    pub fn failures(&self, failure: Failure) -> u64 {
        self.failures[failure as usize].load(Relaxed)
    }

    /// Times that files were read while the server ran, and taken, or not.
    pub fn reloads(&self) -> [(&'static str, u64); 2] {
        [
            ("taken", self.reloaded.load(Relaxed)),
            ("refused", self.not_reloaded.load(Relaxed)),
        ]
    }
}
