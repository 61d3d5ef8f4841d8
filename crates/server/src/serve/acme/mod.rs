//! Automatic certificates: ACME (RFC 8555).
//!
//! [`Acme`] has the certificate that an authority issued, and what it needs to answer while the authority looks whether
//! the names are this server's. The task [`keep`], on the control thread, orders a certificate when there is none, when
//! two thirds of its life are over, and when other names are wanted. A handshake takes what is there when it
//! begins; connections stay as they are. With a log on the disk, the account and the certificate are kept in `acme`
//! in its directory, so a restart asks nobody.

mod challenges;
mod held;
mod keep;
mod order;
mod schedule;
mod store;
mod web;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::sign::CertifiedKey;
use tidings_types::Timestamp;
use tokio::sync::Notify;

use crate::config::{AcmeChallenge, AcmeSettings, Config, DataPlace};
use challenges::Challenges;
use held::Held;
use store::Store;

pub use challenges::{Asked, PROTOCOL, Proof};
pub use keep::keep;
pub use order::check;

/// Automatic certificates for all listeners.
#[derive(Debug)]
pub struct Acme {
    settings: Mutex<AcmeSettings>,
    /// How names are proved if the settings leave it open.
    usual_proof: Proof,
    store: Store,
    /// The newest that was issued, or found at the start.
    held: RwLock<Option<Arc<Held>>>,
    /// What the authority is shown when it looks.
    pub challenges: Challenges,
    /// The settings were read again.
    reloaded: Notify,
    results: [AtomicU64; Outcome::ALL.len()],
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a certificate.
    Issued,
    /// The authority could not be reached, or broke off.
    Unreachable,
    /// The authority said no, or did not find the names at this server.
    Refused,
    /// Something here: a file, or a certificate that is of no use.
    Failed,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Issued, Self::Unreachable, Self::Refused, Self::Failed];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Acme {
    /// Takes up the certificate of an earlier run, if it is still good.
    pub fn open(config: &Config, now: Timestamp) -> Self {
        let settings = config.tls.acme.clone();
        let place = match &config.data {
            DataPlace::Dir(path) => Some(path.join("acme")),
            DataPlace::Memory => None,
        };
        let usual_proof = match config.https {
            Some(_) => Proof::TlsAlpn01,
            None => Proof::Http01,
        };
        let acme = Self {
            settings: Mutex::new(settings),
            usual_proof,
            store: Store::new(place),
            held: RwLock::default(),
            challenges: Challenges::default(),
            reloaded: Notify::new(),
            results: Default::default(),
        };
        acme.take_up(now);
        acme
    }

    fn take_up(&self, now: Timestamp) {
        let settings = self.settings();
        if !settings.is_on() {
            return;
        }
        match self.store.certificate(&settings) {
            Ok(Some(found)) if found.until() <= now => {
                tracing::warn!("the stored certificate has expired");
            }
            Ok(Some(found)) => self.hold(Some(found)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the stored certificate is not used"),
        }
    }

    /// Takes new settings. An order that failed is tried again.
    pub fn reload(&self, settings: &AcmeSettings) {
        if !settings.is_on() {
            self.hold(None);
        }
        *self.lock() = settings.clone();
        self.reloaded.notify_one();
    }

    /// The certificate with its key, for a handshake.
    pub fn certificate(&self) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.held()?.key))
    }

    /// Whether a certificate is wanted, and there is none yet.
    pub fn is_waiting(&self) -> bool {
        self.held().is_none() && self.lock().is_on()
    }

    /// How often orders ended in this way.
    pub fn results(&self, outcome: Outcome) -> u64 {
        self.results[outcome as usize].load(Relaxed)
    }

    /// When the certificate expires, in seconds of Unix time; 0 if there is none.
    pub fn expires(&self) -> u64 {
        self.held().map_or(0, |held| held.until().0 / 1_000)
    }

    /// Whether a certificate is wanted.
    pub fn is_on(&self) -> bool {
        self.lock().is_on()
    }

    /// When the authority is to be asked; `None` for never.
    fn due(&self, settings: &AcmeSettings) -> Option<Timestamp> {
        let due = || self.held().map_or(Timestamp(0), |held| held.due(settings));
        settings.is_on().then(due)
    }

    fn proof(&self, settings: &AcmeSettings) -> Proof {
        match settings.challenge {
            AcmeChallenge::Auto => self.usual_proof,
            AcmeChallenge::TlsAlpn01 => Proof::TlsAlpn01,
            AcmeChallenge::Http01 => Proof::Http01,
        }
    }

    fn count(&self, outcome: Outcome) {
        self.results[outcome as usize].fetch_add(1, Relaxed);
    }

    fn held(&self) -> Option<Arc<Held>> {
        self.held
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn hold(&self, held: Option<Held>) {
        let mut place = self.held.write().unwrap_or_else(PoisonError::into_inner);
        *place = held.map(Arc::new);
    }

    fn settings(&self) -> AcmeSettings {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AcmeSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
