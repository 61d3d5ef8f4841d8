//! Tokens whose keys the issuer has at an address (RFC 7517; `OpenID` Connect Discovery 1.0).
//!
//! The keys are fetched again when their age says so (`Cache-Control: max-age`, within bounds), and when a token comes
//! that none of them could have signed: at most once in a while, so that made-up tokens cost the issuer nothing.
//!
//! Invariant: a document that cannot be had or used never replaces keys that could. Only a good one does, and keys that
//! are not in it count no more.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Full;
use tidings_auth::jwt::{JWKS_BYTES_MAX, Jwt, JwtRules, KeySet};
use tidings_auth::{Credential, Reason, Remote, Renewed, Source, Told, Verdict, answers};
use tidings_ports::{Attempt, Clock, Tick};
use tidings_types::{Principal, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::endpoint::{Asked, Counts, jittered};
use super::fetch::{Answer, Bounds, Client, FetchError};
use crate::config::ServerUrl;
use crate::config::remote::{KeysPlace, KeysPlan};

/// Tokens that wait for newer keys.
const WAITING_MAX: usize = 4_096;
/// After a failure, keys are asked for again after so long, and each time twice as long.
const RETRY: Duration = Duration::from_secs(1);
/// At most.
const RETRY_MAX: Duration = Duration::from_mins(5);
/// However short the issuer says that its keys live.
const AGE_MIN: Duration = Duration::from_mins(1);

/// The metrics label of the source.
pub const LABEL: &str = "jwks";

/// Tokens of an issuer that publishes its keys.
#[derive(Clone)]
pub struct IssuerKeys(Arc<Owner>);

/// Ends the task when nobody has the keys any more.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop.store(true, Relaxed);
        self.0.wake.notify_one();
    }
}

struct Inner {
    plan: KeysPlan,
    rules: JwtRules,
    client: Arc<Client>,
    time_max: Duration,
    clock: Arc<dyn Clock>,
    counts: Arc<Counts>,
    state: Mutex<State>,
    wake: Notify,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    /// `None` until there was a good document.
    jwt: Option<Arc<Jwt>>,
    /// Whether they are asked for now, or in a moment.
    is_asking: bool,
    /// When that was so last.
    asked_at: Option<Tick>,
    /// Told when they have been asked for.
    waiting: Vec<Box<dyn FnOnce() + Send>>,
}

/// What one request for keys came to.
struct Fetched {
    keys: KeySet,
    age: Option<Duration>,
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKeys({:?})", self.0.0.plan.place)
    }
}

impl IssuerKeys {
    /// Begins to fetch them. Until then `known` count, the issuer's keys from before a reload.
    pub fn start(
        runtime: &Handle,
        known: Option<KeySet>,
        (plan, rules): (KeysPlan, JwtRules),
        (client, time_max): (Arc<Client>, Duration),
        clock: Arc<dyn Clock>,
        counts: Arc<Counts>,
    ) -> Self {
        let with_rules = |keys| {
            let rules = rules.clone();
            Arc::new(Jwt { keys, rules })
        };
        let state = State {
            jwt: known.map(with_rules),
            is_asking: true,
            ..State::default()
        };
        let inner = Arc::new(Inner {
            plan,
            rules,
            client,
            time_max,
            clock,
            counts,
            state: Mutex::new(state),
            wake: Notify::new(),
            stop: AtomicBool::new(false),
        });
        runtime.spawn(Arc::clone(&inner).keep());
        Self(Arc::new(Owner(inner)))
    }

    /// The keys, if there was a good document.
    pub fn known(&self) -> Option<KeySet> {
        self.0.0.jwt().map(|jwt| jwt.keys.clone())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.0.lock().jwt.as_ref().map_or(0, |jwt| jwt.keys.len())
    }
}

impl Source for IssuerKeys {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn is_slow(&self, _credential: &Credential) -> bool {
        false
    }

    fn verify(&self, credential: &Credential, now: Timestamp) -> Verdict {
        self.0.0.judge(credential, now)
    }

    /// The key has to be there still. While there is no document of the issuer nobody can say so.
    fn renew(&self, principal: &Principal, now: Timestamp) -> Renewed {
        match self.0.0.jwt() {
            Some(jwt) => jwt.renew(principal, now),
            None => Renewed::Gone(Reason::Unavailable),
        }
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }
}

impl Remote for IssuerKeys {
    fn recall(&self, attempt: &Attempt, now: Timestamp) -> Option<Verdict> {
        let inner = &self.0.0;
        let wants_newer = inner.wants_newer(&attempt.credential) && inner.may_ask();
        (!wants_newer).then(|| inner.judge(&attempt.credential, now))
    }

    fn ask(&self, attempt: &Attempt, now: Timestamp, told: Told) {
        let (inner, credential) = (Arc::clone(&self.0.0), attempt.credential.clone());
        let judging = Arc::clone(&inner);
        let judge = move || told(judging.judge(&credential, now));
        let judge: Box<dyn FnOnce() + Send> = Box::new(judge);
        let judge = {
            let mut state = inner.lock();
            if state.waiting.len() >= WAITING_MAX || !inner.can_ask(&state) {
                Some(judge)
            } else {
                state.waiting.push(judge);
                if !state.is_asking {
                    state.is_asking = true;
                    inner.wake.notify_one();
                }
                None
            }
        };
        if let Some(judge) = judge {
            judge();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jwt(&self) -> Option<Arc<Jwt>> {
        self.lock().jwt.clone()
    }

    /// Whether the keys may be asked for now, or are.
    fn may_ask(&self) -> bool {
        self.can_ask(&self.lock())
    }

    fn can_ask(&self, state: &State) -> bool {
        let pause = u64::try_from(self.plan.refetch.as_millis()).unwrap_or(u64::MAX);
        let rested = |at: Tick| at.plus_ms(pause) <= self.clock.tick();
        !self.stop.load(Relaxed) && (state.is_asking || state.asked_at.is_none_or(rested))
    }

    /// Whether it is a token that newer keys could verify.
    fn wants_newer(&self, credential: &Credential) -> bool {
        let token = credential
            .token()
            .filter(|text| Jwt::is_for_public_key(text, &self.rules));
        let jwt = self.jwt();
        token.is_some_and(|text| jwt.is_none_or(|jwt| jwt.lacks_key_of(text)))
    }

    /// What the keys that are there say.
    fn judge(&self, credential: &Credential, now: Timestamp) -> Verdict {
        let jwt = self.jwt();
        let is_theirs = |text: &str| Jwt::is_for_public_key(text, &self.rules);
        match jwt {
            Some(jwt) => jwt.verify(credential, now),
            None if credential.token().is_some_and(is_theirs) => {
                Verdict::Refused(Reason::Unavailable)
            }
            None => Verdict::NotMine,
        }
    }

    async fn keep(self: Arc<Self>) {
        let mut failures = 0_u32;
        while !self.stop.load(Relaxed) {
            self.lock().is_asking = true;
            let fetched = self.fetch().await;
            let pause = self.take(fetched, &mut failures);
            let sleep = tokio::time::sleep(pause);
            tokio::select! {
                () = sleep => {}
                () = self.wake.notified() => {}
            }
        }
        self.release();
    }

    /// Takes what came; gives for how long that counts.
    fn take(&self, fetched: Result<Fetched, FetchError>, failures: &mut u32) -> Duration {
        let max = self.plan.age_max;
        let pause = match fetched {
            Ok(Fetched { keys, age }) => {
                self.counts.add(Asked::Accepted);
                if *failures > 0 {
                    tracing::info!(place = ?self.plan.place, "the issuer's keys can be had again");
                }
                *failures = 0;
                tracing::debug!(keys = keys.len(), "the issuer's keys were fetched");
                let rules = self.rules.clone();
                self.lock().jwt = Some(Arc::new(Jwt { keys, rules }));
                jittered(age.unwrap_or(max).clamp(AGE_MIN.min(max), max))
            }
            Err(error) => {
                self.counts.add(Asked::of(&error));
                let pause = RETRY
                    .saturating_mul(1 << (*failures).min(16))
                    .min(RETRY_MAX);
                *failures = failures.saturating_add(1);
                let has_keys = self.lock().jwt.is_some();
                tracing::warn!(
                    place = ?self.plan.place, %error, failures, has_keys,
                    "the issuer's keys could not be fetched; what is there stays"
                );
                jittered(pause.min(max))
            }
        };
        self.release();
        pause
    }

    /// Lets everybody go on who waited.
    fn release(&self) {
        let waiting = {
            let mut state = self.lock();
            state.is_asking = false;
            state.asked_at = Some(self.clock.tick());
            std::mem::take(&mut state.waiting)
        };
        for judge in waiting {
            judge();
        }
    }

    async fn fetch(&self) -> Result<Fetched, FetchError> {
        let sent = Instant::now();
        let fetched = self.fetch_keys().await;
        self.counts.took(sent);
        fetched
    }

    async fn fetch_keys(&self) -> Result<Fetched, FetchError> {
        let jwks = match &self.plan.place {
            KeysPlace::Jwks(url) => url.clone(),
            KeysPlace::Issuer { issuer, document } => {
                let answer = self.get(document).await?;
                let wrong = FetchError::Unreadable(
                    "a discovery document of exactly this issuer, with a `jwks_uri`",
                );
                let found = answers::discovered(&answer.body, issuer).ok_or(wrong)?;
                ServerUrl::parse(&found, self.plan.insecure).map_err(|_| {
                    FetchError::Unreadable("with a `jwks_uri` that begins with https://")
                })?
            }
        };
        let answer = self.get(&jwks).await?;
        let unreadable = "a JWKS document with a public key that verifies tokens";
        let jwks = KeySet::from_jwks(&answer.body);
        Ok(Fetched {
            keys: jwks.map_err(|_| FetchError::Unreadable(unreadable))?.keys,
            age: max_age(&answer.head.headers),
        })
    }

    async fn get(&self, url: &ServerUrl) -> Result<Answer, FetchError> {
        let mut request = Request::new(Full::default());
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::ACCEPT, json);
        let bounds = Bounds {
            time: self.time_max,
            bytes: JWKS_BYTES_MAX,
        };
        let answer = self.client.send(url, request, bounds).await?;
        match answer.head.status {
            StatusCode::OK => Ok(answer),
            status => Err(FetchError::Status(status)),
        }
    }
}

/// For how long a response may be used (RFC 9111, 5.2.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let directives = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut age = None;
    for directive in directives.map(|it| it.trim().to_ascii_lowercase()) {
        match directive.split_once('=') {
            Some(("max-age", seconds)) => {
                age = age.or(seconds
                    .trim_matches('"')
                    .parse()
                    .ok()
                    .map(Duration::from_secs));
            }
            None if ["no-store", "no-cache"].contains(&&*directive) => return Some(Duration::ZERO),
            _ => {}
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_what_cache_control_says() {
        for (values, expect) in [
            (&["max-age=60"][..], Some(60)),
            (&["public, Max-Age=\"60\", must-revalidate"], Some(60)),
            (&["no-cache, max-age=60"], Some(0)),
            (&["private", "max-age=5"], Some(5)),
            (&["max-age=x"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(
                max_age(&headers),
                expect.map(Duration::from_secs),
                "{values:?}"
            );
        }
    }
}
