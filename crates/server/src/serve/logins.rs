//! Who peers are: the one place where every protocol's credentials are judged, counted and slowed down.
//!
//! What is quick is judged on the shard that asks. A password, which takes tens of milliseconds, goes to a few
//! threads with a bounded queue. Who failed several times in a row waits: a password is judged, and a refusal told,
//! only after a while that grows with each failure from the address. What waits holds no thread.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use tidings_auth::{Authenticator, Reason, Rejection, Step, Verdict};
use tidings_hub::meter::network;
use tidings_ports::{Attempt, Clock, Credential, Outcome, SignOn, Standing, Tick};
use tidings_types::{Principal, Protocol, Refusal, RefusalCode};
use tokio::sync::oneshot;

use super::admin::Revocations;
use super::asking::Asking;
use super::waiting::{Next, Waiting};

/// Threads that hash passwords.
const THREADS_MAX: usize = 4;
/// What the first failure over the limit costs; each further one twice as much.
const DELAY_MS: u64 = 250;
/// The most that one costs.
const DELAY_MS_MAX: u64 = 5_000;
/// Failures are forgotten after so long without one.
const FAILURES_MS_MAX: u64 = 60_000;
/// Addresses whose failures are known.
const ADDRESSES_MAX: usize = 65_536;
/// How long a password that was right is taken without hashing it again: clients that send it with each request
/// would otherwise cost a core.
const KNOWN_MS_MAX: u64 = 60_000;
/// How many such passwords are known.
const KNOWN_MAX: usize = 1_024;

/// Outcomes of one protocol: each reason, and success behind them.
const OUTCOMES: usize = Reason::ALL.len() + 1;

/// Judges credentials.
pub struct Logins(Arc<Inner>);

struct Inner {
    current: RwLock<Arc<Authenticator>>,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    called: Condvar,
    asking: Arc<Asking>,
    started: Once,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    /// Failures from one address that cost it nothing.
    failures_max: u32,
    known: Mutex<HashMap<Digest, Known>>,
    /// What the digests of known passwords are made with: they mean nothing outside this process.
    seal: hmac::Key,
    revocations: Arc<Revocations>,
    counts: [[AtomicU64; OUTCOMES]; Protocol::ALL.len()],
}

type Digest = [u8; 32];

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Tick,
}

struct Known {
    principal: Arc<Principal>,
    until: Tick,
}

/// A credential to go on with, or a refusal to tell, and who waits for it.
type Queue = Waiting<Box<Judging>, (Refusal, Outcome)>;

/// A credential that is being judged.
struct Judging {
    attempt: Attempt,
    outcome: Outcome,
    /// Whose sources judge it.
    by: Arc<Authenticator>,
    /// How far they are.
    step: Step,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy() -> Refusal {
    let detail = "too many credentials wait to be judged: try again in a moment";
    Refusal::new(RefusalCode::Busy, detail)
}

impl Logins {
    /// Judges with these sources. `seal` is random and secret.
    pub fn new(
        authenticator: Authenticator,
        clock: Arc<dyn Clock>,
        failures_max: u32,
        seal: [u8; 32],
        revocations: Arc<Revocations>,
    ) -> Self {
        Self(Arc::new(Inner {
            current: RwLock::new(Arc::new(authenticator)),
            clock,
            queue: Mutex::default(),
            called: Condvar::new(),
            asking: Arc::default(),
            started: Once::new(),
            failures: Mutex::default(),
            failures_max: if failures_max == 0 {
                u32::MAX
            } else {
                failures_max
            },
            known: Mutex::default(),
            seal: hmac::Key::new(hmac::HMAC_SHA256, &seal),
            revocations,
            counts: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        }))
    }

    /// Judges with other sources from now on. Who is in stays in until it is asked for [`Logins::standing`].
    pub fn replace(&self, authenticator: Authenticator) {
        let new = Arc::new(authenticator);
        *self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        lock(&self.0.known).clear();
    }

    /// Whether peers must say who they are.
    pub fn sign_on(&self) -> SignOn {
        if self.0.current().is_open() {
            SignOn::Open
        } else {
            SignOn::Judged
        }
    }

    /// Judges a credential, for a task.
    pub async fn judge(&self, attempt: Attempt) -> Result<Arc<Principal>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        // The peer may be gone by then.
        let outcome = move |outcome| drop(sender.send(outcome));
        tidings_ports::Authenticator::authenticate(self, attempt, Box::new(outcome));
        receiver.await.unwrap_or_else(|_| Err(busy()))
    }

    /// Counts a wrong credential that was judged elsewhere. For how many milliseconds its refusal is to wait.
    pub fn penalty(&self, address: IpAddr) -> u64 {
        let delay_ms = self.0.delay(Some(address));
        self.0.failed(Some(address));
        delay_ms
    }

    /// How often credentials of a protocol came to this; `None` is accepted.
    pub fn count(&self, protocol: Protocol, outcome: Option<Reason>) -> u64 {
        let at = outcome.map_or(OUTCOMES - 1, |reason| reason as usize);
        self.0.counts[protocol.index()][at].load(Relaxed)
    }
}

impl tidings_ports::Authenticator for Logins {
    fn authenticate(&self, attempt: Attempt, outcome: Outcome) {
        let inner = &self.0;
        let by = inner.current();
        let step = by.begin(&attempt, inner.clock.now());
        let delay = match step {
            Step::Done(_) => 0,
            Step::Slow(_) | Step::Ask(_) => inner.delay(attempt.address),
        };
        let judging = Box::new(Judging {
            attempt,
            outcome,
            by,
            step,
        });
        if delay == 0 {
            inner.go_on(judging);
        } else {
            inner.enqueue(judging, delay);
        }
    }

    fn standing(&self, principal: &Arc<Principal>) -> Standing {
        match self.0.renew(Arc::clone(principal)) {
            Ok(same) if Arc::ptr_eq(&same, principal) => Standing::Good,
            Ok(renewed) => Standing::Changed(renewed),
            Err(rejection) => Standing::Ended(rejection.refusal()),
        }
    }
}

impl Inner {
    fn current(&self) -> Arc<Authenticator> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whom somebody is now who was let in: files may have been read again since, and something may have been revoked.
    fn renew(&self, principal: Arc<Principal>) -> Result<Arc<Principal>, Rejection> {
        let now = self.clock.now();
        let renewed = match self.current().renew(&principal, now) {
            None => principal,
            Some(renewed) => Arc::new(renewed?),
        };
        if self.revocations.is_revoked(&renewed, now) {
            return Err(Rejection {
                source: Some(renewed.source),
                reason: Reason::Revoked,
            });
        }
        Ok(renewed)
    }

    /// Goes on with a credential as far as it goes on this thread: a password waits for one that may take its time.
    fn go_on(self: &Arc<Self>, mut judging: Box<Judging>) {
        let current = self.current();
        if matches!(judging.step, Step::Done(Ok(_))) && !Arc::ptr_eq(&judging.by, &current) {
            // The sources were replaced meanwhile: what they say now counts.
            judging.step = current.begin(&judging.attempt, self.clock.now());
            judging.by = current;
        }
        let at = match judging.step {
            Step::Done(judged) => {
                return self.tell(&judging.attempt, judged, judging.outcome);
            }
            Step::Slow(_) => {
                return match self.known(&judging.attempt.credential) {
                    Some(principal) => self.tell(&judging.attempt, Ok(principal), judging.outcome),
                    None => self.enqueue(judging, 0),
                };
            }
            Step::Ask(at) => at,
        };
        let by = Arc::clone(&judging.by);
        let Some(remote) = by.sources.get(at).and_then(|source| source.remote()) else {
            return (judging.outcome)(Err(busy()));
        };
        let from = judging.attempt.address.map(network);
        let Some(question) = self.asking.begin(from) else {
            return (judging.outcome)(Err(busy()));
        };
        let (inner, now) = (Arc::clone(self), self.clock.now());
        let shown = judging.attempt.clone();
        remote.ask(
            &shown,
            now,
            Box::new(move |verdict| {
                drop(question);
                judging.step = judging.by.resume(at, verdict, &judging.attempt, now);
                inner.go_on(judging);
            }),
        );
    }

    /// Counts an outcome, and tells it: a refusal after a while, if there were many.
    fn tell(
        self: &Arc<Self>,
        attempt: &Attempt,
        judged: Result<Arc<Principal>, Rejection>,
        outcome: Outcome,
    ) {
        let judged = judged.and_then(|principal| self.renew(principal));
        let reason = judged.as_ref().err().map(|rejection| rejection.reason);
        let at = reason.map_or(OUTCOMES - 1, |reason| reason as usize);
        self.counts[attempt.protocol.index()][at].fetch_add(1, Relaxed);
        let rejection = match judged {
            Ok(principal) => return outcome(Ok(principal)),
            Err(rejection) => rejection,
        };
        tracing::debug!(
            protocol = attempt.protocol.name(),
            source = rejection.source,
            reason = rejection.reason.slug(),
            "a credential was refused"
        );
        let refusal = rejection.refusal();
        // Who shows nothing has guessed nothing.
        if matches!(
            rejection.reason,
            Reason::Missing | Reason::Unavailable | Reason::Certificate
        ) {
            return outcome(Err(refusal));
        }
        let delay = self.delay(attempt.address);
        self.failed(attempt.address);
        if delay == 0 {
            return outcome(Err(refusal));
        }
        self.started.call_once(|| self.start());
        let at = self.clock.tick().plus_ms(delay);
        let told_now = lock(&self.queue).tell_later(at, (refusal, outcome));
        self.called.notify_one();
        if let Some((refusal, outcome)) = told_now {
            outcome(Err(refusal));
        }
    }

    /// For how many milliseconds the next attempt from an address waits.
    fn delay(&self, address: Option<IpAddr>) -> u64 {
        let now = self.clock.tick();
        let Some(address) = address.map(network) else {
            return 0;
        };
        match lock(&self.failures).get(&address) {
            Some(it) if it.count >= self.failures_max && it.last.plus_ms(FAILURES_MS_MAX) > now => {
                let doublings = (it.count - self.failures_max).min(16);
                (DELAY_MS << doublings).min(DELAY_MS_MAX)
            }
            _ => 0,
        }
    }

    fn failed(&self, address: Option<IpAddr>) {
        let now = self.clock.tick();
        let Some(address) = address.map(network) else {
            return;
        };
        let is_recent = |it: &Failures| it.last.plus_ms(FAILURES_MS_MAX) > now;
        let mut failures = lock(&self.failures);
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&address) {
            failures.retain(|_, it| is_recent(it));
            if failures.len() >= ADDRESSES_MAX {
                return;
            }
        }
        let before = failures.get(&address).filter(|it| is_recent(it));
        let count = before.map_or(0, |it| it.count).saturating_add(1);
        failures.insert(address, Failures { count, last: now });
    }

    fn enqueue(self: &Arc<Self>, judging: Box<Judging>, delay_ms: u64) {
        self.started.call_once(|| self.start());
        let from = judging.attempt.address.map(network);
        let given_way = {
            let mut queue = lock(&self.queue);
            if delay_ms == 0 {
                queue.push(from, judging)
            } else {
                queue.push_later(from, self.clock.tick().plus_ms(delay_ms), judging)
            }
        };
        self.called.notify_one();
        if let Some(judging) = given_way {
            (judging.outcome)(Err(busy()));
        }
    }

    fn start(self: &Arc<Self>) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for index in 0..cores.min(THREADS_MAX) {
            let inner = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name(format!("logins-{index}"))
                .spawn(move || inner.work());
            if let Err(error) = started {
                tracing::error!(%error, "a thread for passwords could not be started");
            }
        }
    }

    fn work(self: Arc<Self>) {
        loop {
            match self.next() {
                Next::Tell((refusal, outcome)) => outcome(Err(refusal)),
                Next::Judge(judging) => match judging.step {
                    Step::Slow(at) => self.judge_slowly(judging, at),
                    _ => self.go_on(judging),
                },
                Next::Wait(_) => {}
            }
        }
    }

    fn judge_slowly(self: &Arc<Self>, mut judging: Box<Judging>, at: usize) {
        let now = self.clock.now();
        let Judging { attempt, by, .. } = &*judging;
        let Some(source) = by.sources.get(at) else {
            return (judging.outcome)(Err(busy()));
        };
        let verdict = source.verify(&attempt.credential, now);
        let is_accepted = matches!(verdict, Verdict::Accepted(_));
        let step = by.resume(at, verdict, attempt, now);
        if let Step::Done(Ok(principal)) = &step
            && is_accepted
        {
            self.remember(&attempt.credential, principal, by);
        }
        judging.step = step;
        self.go_on(judging);
    }

    /// The next thing to do, once there is one.
    fn next(&self) -> Next<Box<Judging>, (Refusal, Outcome)> {
        let mut queue = lock(&self.queue);
        loop {
            let now = self.clock.tick();
            queue = match queue.next(now) {
                Next::Wait(None) => self
                    .called
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                Next::Wait(Some(first)) => {
                    let left = Duration::from_millis(first.0.saturating_sub(now.0).max(1));
                    let waited = self.called.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                next => return next,
            };
        }
    }

    fn digest(&self, credential: &Credential) -> Option<Digest> {
        let Credential::Password { user, password } = credential else {
            return None;
        };
        let mut context = hmac::Context::with_key(&self.seal);
        // The length keeps `ab` `c` and `a` `bc` apart.
        context.update(&(user.len() as u64).to_le_bytes());
        context.update(user.as_bytes());
        context.update(password.expose());
        context.sign().as_ref().try_into().ok()
    }

    fn known(&self, credential: &Credential) -> Option<Arc<Principal>> {
        let digest = self.digest(credential)?;
        let now = self.clock.tick();
        let known = lock(&self.known);
        let it = known.get(&digest).filter(|it| it.until > now)?;
        Some(Arc::clone(&it.principal))
    }

    /// Remembers who showed a password, unless others judge by now.
    fn remember(
        &self,
        credential: &Credential,
        principal: &Arc<Principal>,
        judge: &Arc<Authenticator>,
    ) {
        let Some(digest) = self
            .digest(credential)
            .filter(|_| principal.expires.is_none())
        else {
            return;
        };
        let now = self.clock.tick();
        let mut known = lock(&self.known);
        // Behind the lock: whoever replaces the judge forgets what is known afterwards.
        if !Arc::ptr_eq(judge, &self.current()) {
            return;
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, it| it.until > now);
        }
        if known.len() < KNOWN_MAX {
            let until = now.plus_ms(KNOWN_MS_MAX);
            let principal = Arc::clone(principal);
            known.insert(digest, Known { principal, until });
        }
    }
}
