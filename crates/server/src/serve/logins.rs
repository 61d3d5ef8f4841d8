//! Who peers are: the one place where every protocol's credentials are judged, counted and slowed down.
//!
//! What is quick is judged on the shard that asks. A password, which takes tens of milliseconds, goes to a few
//! threads with a bounded queue. Who failed several times in a row waits: a password is judged, and a refusal told,
//! only after a while that grows with each failure from the address. What waits holds no thread.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use tidings_auth::{Authenticator, Reason, Rejection};
use tidings_ports::{Attempt, Clock, Credential, Outcome, SignOn, Tick};
use tidings_types::{Principal, Protocol, Refusal, RefusalCode};
use tokio::sync::oneshot;

/// Passwords that wait for a thread.
const READY_MAX: usize = 256;
/// Attempts and refusals that wait for their time.
const LATER_MAX: usize = 4_096;
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
    started: Once,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    /// Failures from one address that cost it nothing.
    failures_max: u32,
    known: Mutex<HashMap<Digest, Known>>,
    /// What the digests of known passwords are made with: they mean nothing outside this process.
    seal: hmac::Key,
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

#[derive(Default)]
struct Queue {
    ready: VecDeque<Work>,
    later: BinaryHeap<Later>,
}

enum Work {
    /// A credential to judge.
    Judge(Attempt, Outcome),
    /// A refusal to tell.
    Tell(Refusal, Outcome),
}

struct Later {
    at: Tick,
    work: Work,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
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
    ) -> Self {
        Self(Arc::new(Inner {
            current: RwLock::new(Arc::new(authenticator)),
            clock,
            queue: Mutex::default(),
            called: Condvar::new(),
            started: Once::new(),
            failures: Mutex::default(),
            failures_max: if failures_max == 0 {
                u32::MAX
            } else {
                failures_max
            },
            known: Mutex::default(),
            seal: hmac::Key::new(hmac::HMAC_SHA256, &seal),
            counts: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        }))
    }

    /// Judges with other sources from now on. Who is in stays in.
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
        let current = self.0.current();
        if current.sources.is_empty() && current.permissions.is_empty() {
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

    /// How often credentials of a protocol came to this; `None` is accepted.
    pub fn count(&self, protocol: Protocol, outcome: Option<Reason>) -> u64 {
        let at = outcome.map_or(OUTCOMES - 1, |reason| reason as usize);
        self.0.counts[protocol.index()][at].load(Relaxed)
    }
}

impl tidings_ports::Authenticator for Logins {
    fn authenticate(&self, attempt: Attempt, outcome: Outcome) {
        let inner = &self.0;
        let now = inner.clock.now();
        if let Some(judged) = inner
            .current()
            .authenticate_quickly(&attempt.credential, now)
        {
            return inner.tell(&attempt, judged.map(Arc::new), outcome);
        }
        if let Some(principal) = inner.known(&attempt.credential) {
            return inner.tell(&attempt, Ok(principal), outcome);
        }
        let delay = inner.delay(attempt.address);
        inner.enqueue(Work::Judge(attempt, outcome), delay);
    }
}

impl Inner {
    fn current(&self) -> Arc<Authenticator> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts an outcome, and tells it: a refusal after a while, if there were many.
    fn tell(
        self: &Arc<Self>,
        attempt: &Attempt,
        judged: Result<Arc<Principal>, Rejection>,
        outcome: Outcome,
    ) {
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
        if matches!(rejection.reason, Reason::Missing | Reason::Unavailable) {
            return outcome(Err(refusal));
        }
        let delay = self.delay(attempt.address);
        self.failed(attempt.address);
        if delay == 0 {
            return outcome(Err(refusal));
        }
        self.enqueue(Work::Tell(refusal, outcome), delay);
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

    fn enqueue(self: &Arc<Self>, work: Work, delay_ms: u64) {
        self.started.call_once(|| self.start());
        let refused = {
            let mut queue = lock(&self.queue);
            if delay_ms > 0 && queue.later.len() < LATER_MAX {
                let at = self.clock.tick().plus_ms(delay_ms);
                queue.later.push(Later { at, work });
                None
            } else if delay_ms == 0 && queue.ready.len() < READY_MAX {
                queue.ready.push_back(work);
                None
            } else {
                Some(work)
            }
        };
        match refused {
            None => self.called.notify_one(),
            Some(Work::Judge(_, outcome)) => outcome(Err(busy())),
            Some(Work::Tell(refusal, outcome)) => outcome(Err(refusal)),
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
                Work::Tell(refusal, outcome) => outcome(Err(refusal)),
                Work::Judge(attempt, outcome) => {
                    let now = self.clock.now();
                    let current = self.current();
                    let judged = current.authenticate(&attempt.credential, now).map(Arc::new);
                    if let Ok(principal) = &judged
                        && Arc::ptr_eq(&current, &self.current())
                    {
                        self.remember(&attempt.credential, principal);
                    }
                    self.tell(&attempt, judged, outcome);
                }
            }
        }
    }

    /// The next thing to do, once there is one.
    fn next(&self) -> Work {
        let mut queue = lock(&self.queue);
        loop {
            let now = self.clock.tick();
            let is_due = queue.later.peek().is_some_and(|later| later.at <= now);
            // A refusal costs nothing, and an attempt that had to wait has waited.
            if is_due && let Some(later) = queue.later.pop() {
                return later.work;
            }
            if let Some(work) = queue.ready.pop_front() {
                return work;
            }
            queue = match queue.later.peek() {
                None => self
                    .called
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(first) => {
                    let left = Duration::from_millis(first.at.0.saturating_sub(now.0).max(1));
                    let waited = self.called.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
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

    fn remember(&self, credential: &Credential, principal: &Arc<Principal>) {
        let Some(digest) = self
            .digest(credential)
            .filter(|_| principal.expires.is_none())
        else {
            return;
        };
        let now = self.clock.tick();
        let mut known = lock(&self.known);
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

/// What one peer can change its address within: all of it counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}
