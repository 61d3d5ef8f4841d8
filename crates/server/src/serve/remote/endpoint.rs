//! One address that is asked: how many at a time, how often it fails, and what becomes of that.
//!
//! After [`FAILURES_MAX`] failures in a row it is left alone, for a time that doubles with each further failure;
//! what would be asked meanwhile fails at once, so that nobody waits for a server that is down. Then one question
//! finds out whether it is back.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::Semaphore;

use super::fetch::{Answer, Bounds, Client, FetchError};
use crate::config::ServerUrl;

/// Questions on their way at a time.
const AT_ONCE_MAX: usize = 32;
/// Questions that wait for their turn.
const WAITING_MAX: usize = 1_024;
/// Failures in a row after which it is left alone.
const FAILURES_MAX: u32 = 3;
/// For how long at first.
const PAUSE: Duration = Duration::from_secs(1);
/// At most.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The largest answer about a peer or a topic.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a question came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Yes: a peer, a permission, a set of keys.
    Accepted,
    /// No.
    Refused,
    /// No answer, or none that makes sense.
    Failed,
    /// Not asked: too much is asked already.
    Busy,
    /// Not asked: it failed too often.
    BackingOff,
}

impl Asked {
    /// Each with its metrics label.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Accepted, "accepted"),
        (Self::Refused, "refused"),
        (Self::Failed, "failed"),
        (Self::Busy, "busy"),
        (Self::BackingOff, "backing-off"),
    ];

    /// What a failure counts as.
    pub fn of(error: &FetchError) -> Self {
        match error {
            FetchError::Busy => Self::Busy,
            FetchError::BackingOff => Self::BackingOff,
            _ => Self::Failed,
        }
    }
}

/// What one kind of question came to so far.
#[derive(Debug, Default)]
pub struct Counts {
    asked: [AtomicU64; Asked::ALL.len()],
    /// Questions that an earlier answer answered.
    pub recalled: AtomicU64,
    /// Questions that were sent.
    pub sent: AtomicU64,
    /// How long they took together.
    pub micros: AtomicU64,
}

impl Counts {
    /// Counts what a question came to.
    pub fn add(&self, asked: Asked) {
        self.asked[asked as usize].fetch_add(1, Relaxed);
    }

    /// How often it came to this.
    pub fn get(&self, asked: Asked) -> u64 {
        self.asked[asked as usize].load(Relaxed)
    }

    /// Counts how long a question took that was sent at this time.
    pub fn took(&self, sent: Instant) {
        self.sent.fetch_add(1, Relaxed);
        let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Health {
    /// In a row.
    failures: u32,
    /// Nothing is asked before.
    again_at: Option<Instant>,
    /// Whether one question finds out if it is back.
    is_probing: bool,
}

/// An address that is asked.
pub struct Endpoint {
    client: Arc<Client>,
    url: ServerUrl,
    time_max: Duration,
    turns: Semaphore,
    waiting: AtomicUsize,
    health: Mutex<Health>,
    counts: Arc<Counts>,
}

impl Endpoint {
    /// Asks this address, and waits at most so long for its turn and the answer together.
    pub fn new(
        client: Arc<Client>,
        url: ServerUrl,
        time_max: Duration,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            client,
            url,
            time_max,
            turns: Semaphore::new(AT_ONCE_MAX),
            waiting: AtomicUsize::new(0),
            health: Mutex::default(),
            counts,
        }
    }

    /// The address.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// What its questions came to.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Asks. `read` makes sense of the answer; that it cannot is a failure of the server's, like no answer. Failures
    /// are counted and logged here.
    pub async fn ask<T>(
        &self,
        request: Request<Full<Bytes>>,
        read: impl FnOnce(&Answer) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let asked = match self.admit() {
            Ok(()) => self.ask_in_turn(request, read).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &asked {
            self.counts.add(Asked::of(error));
        }
        asked
    }

    async fn ask_in_turn<T>(
        &self,
        request: Request<Full<Bytes>>,
        read: impl FnOnce(&Answer) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        if self.waiting.fetch_add(1, Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(FetchError::Busy);
        }
        let begun = Instant::now();
        let turn = tokio::time::timeout(self.time_max, self.turns.acquire()).await;
        self.waiting.fetch_sub(1, Relaxed);
        let Ok(Ok(turn)) = turn else {
            return Err(FetchError::Busy);
        };
        let sent = Instant::now();
        let bounds = Bounds {
            time: self.time_max.saturating_sub(begun.elapsed()),
            bytes: ANSWER_BYTES_MAX,
        };
        let answer = self.client.send(&self.url, request, bounds).await;
        drop(turn);
        self.counts.took(sent);
        let said = answer.and_then(|answer| read(&answer));
        self.note(said.as_ref().err());
        said
    }

    /// Whether it may be asked now.
    fn admit(&self) -> Result<(), FetchError> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match health.again_at {
            Some(at) if at > Instant::now() => Err(FetchError::BackingOff),
            Some(_) => {
                // This one finds out; the others wait for what it finds.
                health.again_at = Some(Instant::now() + self.time_max);
                health.is_probing = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn note(&self, failure: Option<&FetchError>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failure) = failure else {
            if health.again_at.is_some() {
                tracing::info!(url = %self.url, "a server answers again");
            }
            *health = Health::default();
            return;
        };
        // Many that were on their way together fail together, which is one failure of the server's.
        let is_left_alone = health.again_at.is_some_and(|at| at > Instant::now());
        if is_left_alone && !health.is_probing {
            return;
        }
        health.is_probing = false;
        health.failures = health.failures.saturating_add(1);
        if health.failures < FAILURES_MAX {
            tracing::warn!(url = %self.url, error = %failure, "a server could not be asked");
            return;
        }
        let doublings = (health.failures - FAILURES_MAX).min(16);
        let pause = jittered(PAUSE.saturating_mul(1 << doublings).min(PAUSE_MAX));
        health.again_at = Some(Instant::now() + pause);
        drop(health);
        tracing::warn!(
            url = %self.url, error = %failure, pause_ms = pause.as_millis() as u64,
            "a server could not be asked several times in a row, and is left alone for a while"
        );
    }
}

/// Three quarters to all of a span, so that servers that failed together do not come back together.
pub fn jittered(span: Duration) -> Duration {
    // Without randomness the span is as good.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    span.mul_f64(0.75 + 0.25 * f64::from(random) / f64::from(u32::MAX))
}
