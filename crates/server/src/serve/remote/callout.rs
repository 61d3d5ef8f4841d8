//! The user's backend: who a peer is, and what it may do where no grant decides.
//!
//! Whatever goes wrong, nobody is let in and nothing is permitted: the answer is then `busy`, not `forbidden`, so that
//! clients come back.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tidings_auth::{
    Credential, Identity, Reason, Remote, Renewed, Secret, Source, Told, Verdict, answers,
};
use tidings_ports::{Action, Attempt, Clock, Granted, Permission, Petition, Tick};
use tidings_types::{Grants, Principal, Refusal, RefusalCode, Timestamp, TopicFilter};
use tokio::runtime::Handle;

use super::book::{Book, Joined};
use super::endpoint::{Asked, Endpoint};
use super::fetch::{Answer, FetchError};
use super::seal::{Digest, Seal};

/// The longest that an answer is taken for, whatever it says.
const CACHE_MAX: Duration = Duration::from_hours(24);

/// The metrics label of the source.
pub const LABEL: &str = "callout";

/// An address of the backend, and what it knows this server by.
pub struct Backend {
    /// Where it is asked.
    pub endpoint: Endpoint,
    /// What it knows this server by.
    pub token: Option<Secret>,
    /// Where its answers are waited for.
    pub runtime: Handle,
    /// For how long they count.
    pub clock: Arc<dyn Clock>,
}

impl Backend {
    fn request(&self, question: &Value) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::from(question.to_string()));
        *request.method_mut() = http::Method::POST;
        let json = HeaderValue::from_static("application/json");
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, json.clone());
        request.headers_mut().insert(header::ACCEPT, json);
        let token = self.token.as_ref().and_then(Secret::expose_text);
        let bearer = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        if let Some(mut bearer) = bearer {
            bearer.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        request
    }

    fn until(&self, cache: Duration) -> Option<Tick> {
        let ms = u64::try_from(cache.min(CACHE_MAX).as_millis()).unwrap_or(u64::MAX);
        (ms > 0).then(|| self.clock.tick().plus_ms(ms))
    }

    fn count(&self, yes: bool) {
        let counts = self.endpoint.counts();
        counts.add(if yes { Asked::Accepted } else { Asked::Refused });
    }

    fn recalled(&self) {
        self.endpoint.counts().recalled.fetch_add(1, Relaxed);
    }
}

/// What the backend said of a credential; `None` is that it is none of its own.
type Word = Result<Option<Arc<Identity>>, Reason>;

/// Asks the backend who peers are.
#[derive(Clone)]
pub struct ConnectCalls(Arc<Connecting>);

struct Connecting {
    backend: Backend,
    /// Tells who is asked here from whoever is asked after a reload.
    mark: u64,
    book: Book<Digest, Word>,
    seal: Seal,
}

impl fmt::Debug for ConnectCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectCalls(..)")
    }
}

impl ConnectCalls {
    /// Asks this backend.
    pub fn new(backend: Backend, seal: Seal) -> Self {
        Self(Arc::new(Connecting {
            mark: backend.endpoint.url().mark(),
            backend,
            book: Book::default(),
            seal,
        }))
    }
}

/// What is asked of a peer; `None` if it cannot be said in JSON, and is nobody's.
fn question(attempt: &Attempt) -> Option<Value> {
    let mut question = json!({
        "protocol": attempt.protocol.name(),
        "address": attempt.address.map(|address| address.to_canonical()),
    });
    match &attempt.credential {
        Credential::Bearer(token) => question["token"] = token.expose_text()?.into(),
        Credential::Password { user, password } => {
            question["user"] = user.as_str().into();
            question["password"] = password.expose_text()?.into();
        }
        _ => return None,
    }
    Some(question)
}

impl Connecting {
    fn digest(&self, attempt: &Attempt) -> Digest {
        let (kind, user, secret): (&[u8], &[u8], &[u8]) = match &attempt.credential {
            Credential::Password { user, password } => (b"p", user.as_bytes(), password.expose()),
            Credential::Bearer(token) => (b"t", b"", token.expose()),
            _ => (b"", b"", b""),
        };
        // Everything that the backend is told, as it may look at all of it.
        let address = attempt
            .address
            .map_or(String::new(), |it| it.to_canonical().to_string());
        let protocol = attempt.protocol.name().as_bytes();
        self.seal
            .digest(&[kind, user, secret, protocol, address.as_bytes()])
    }

    async fn find_out(&self, digest: Digest, request: Request<Full<Bytes>>) {
        let now = self.backend.clock.now();
        let unreadable =
            "a JSON object with `sub`, and perhaps `grants`, `expires_in`, `claims` and `cache_s`";
        let read = |answer: &Answer| match answer.head.status {
            StatusCode::OK => {
                let admission = answers::admitted(&answer.body, now);
                let admission = admission.map_err(|_| FetchError::Unreadable(unreadable))?;
                let entry = Some(self.mark);
                let identity = Identity {
                    entry,
                    ..admission.identity
                };
                Ok((Ok(Some(Arc::new(identity))), admission.cache))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Ok((Err(Reason::Backend), Duration::ZERO))
            }
            StatusCode::NOT_FOUND => Ok((Ok(None), Duration::ZERO)),
            status => Err(FetchError::Status(status)),
        };
        let (word, cache): (Word, Duration) = match self.backend.endpoint.ask(request, read).await {
            Ok(said) => said,
            Err(_) => return self.book.answer(&digest, &Err(Reason::Unavailable), None),
        };
        self.backend.count(matches!(word, Ok(Some(_))));
        self.book.answer(&digest, &word, self.backend.until(cache));
    }
}

fn verdict(word: Word, now: Timestamp) -> Verdict {
    match word {
        Ok(None) => Verdict::NotMine,
        Ok(Some(identity)) if identity.expires.is_some_and(|end| end <= now) => {
            Verdict::Refused(Reason::Expired)
        }
        Ok(Some(identity)) => Verdict::Accepted(Box::new(Identity::clone(&identity))),
        Err(reason) => Verdict::Refused(reason),
    }
}

impl Source for ConnectCalls {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn is_slow(&self, _credential: &Credential) -> bool {
        false
    }

    fn verify(&self, _credential: &Credential, _now: Timestamp) -> Verdict {
        Verdict::Refused(Reason::Unavailable)
    }

    /// The credential is not kept, so it cannot be asked about again; but it has to be the same backend that knew it.
    fn renew(&self, principal: &Principal, _now: Timestamp) -> Renewed {
        if principal.voucher.entry == Some(self.0.mark) {
            Renewed::Stands
        } else {
            Renewed::Gone(Reason::Revoked)
        }
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }
}

impl Remote for ConnectCalls {
    fn recall(&self, attempt: &Attempt, now: Timestamp) -> Option<Verdict> {
        let inner = &self.0;
        if question(attempt).is_none() {
            return Some(Verdict::NotMine);
        }
        let word = inner
            .book
            .recall(&inner.digest(attempt), inner.backend.clock.tick())?;
        inner.backend.recalled();
        // An end that was some time from then on has come by now.
        match verdict(word, now) {
            Verdict::Refused(Reason::Expired) => None,
            verdict => Some(verdict),
        }
    }

    fn ask(&self, attempt: &Attempt, now: Timestamp, told: Told) {
        let Some(question) = question(attempt) else {
            return told(Verdict::NotMine);
        };
        let inner = &self.0;
        let digest = inner.digest(attempt);
        match inner
            .book
            .join(&digest, Box::new(move |word| told(verdict(word, now))))
        {
            Joined::Waits => {}
            Joined::Full(waiter) => {
                inner.backend.endpoint.counts().add(Asked::Busy);
                waiter(Err(Reason::Unavailable));
            }
            Joined::First => {
                let (asking, request) = (Arc::clone(inner), inner.backend.request(&question));
                inner
                    .backend
                    .runtime
                    .spawn(async move { asking.find_out(digest, request).await });
            }
        }
    }
}

/// Who wants what.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Want {
    source: &'static str,
    name: String,
    action: Action,
    filter: TopicFilter,
}

/// Asks the backend what peers may do.
pub struct PermissionCalls {
    backend: Backend,
    /// `None` is that the backend could not be asked.
    book: Book<Want, Option<bool>>,
}

/// A petition of which not everything is known yet.
struct Gathering {
    left: usize,
    grants: Grants,
    is_failed: bool,
    granted: Option<Granted>,
}

impl PermissionCalls {
    /// Asks this backend.
    pub fn new(backend: Backend) -> Self {
        let book = Book::default();
        Self { backend, book }
    }

    /// What is known of a petition; `None` if not all of it is.
    pub fn recall(&self, petition: &Petition) -> Option<Permission> {
        let mut grants = Grants::default();
        let now = self.backend.clock.tick();
        for (action, filter) in &petition.wants {
            let allowed = self.book.recall(&want(petition, *action, filter), now)?;
            if allowed? {
                add(&mut grants, *action, filter.clone());
            }
        }
        self.backend.recalled();
        Some(Ok(grants))
    }

    /// Asks for everything that a petition wants and that is not known.
    pub fn ask(self: &Arc<Self>, petition: &Petition, granted: Granted) {
        let gathering = Arc::new(Mutex::new(Gathering {
            left: petition.wants.len(),
            grants: Grants::default(),
            is_failed: false,
            granted: Some(granted),
        }));
        for (action, filter) in &petition.wants {
            let want = want(petition, *action, filter);
            let gathering = Arc::clone(&gathering);
            let (action, filter) = (*action, filter.clone());
            let told = move |allowed| gather(&gathering, action, filter, allowed);
            if let Some(known) = self.book.recall(&want, self.backend.clock.tick()) {
                told(known);
                continue;
            }
            match self.book.join(&want, Box::new(told)) {
                Joined::Waits => {}
                Joined::Full(waiter) => {
                    self.backend.endpoint.counts().add(Asked::Busy);
                    waiter(None);
                }
                Joined::First => {
                    let asking = Arc::clone(self);
                    let request = self.request(&want, petition.protocol.name(), petition.address);
                    let find_out = async move { asking.find_out(want, request).await };
                    self.backend.runtime.spawn(find_out);
                }
            }
        }
    }

    fn request(
        &self,
        want: &Want,
        protocol: &str,
        address: Option<IpAddr>,
    ) -> Request<Full<Bytes>> {
        self.backend.request(&json!({
            "sub": want.name,
            "source": want.source,
            "action": want.action.name(),
            "topic": want.filter.as_str(),
            "protocol": protocol,
            "address": address.map(|address| address.to_canonical()),
        }))
    }

    async fn find_out(&self, want: Want, request: Request<Full<Bytes>>) {
        let read = |answer: &Answer| match answer.head.status {
            StatusCode::OK => answers::permitted(&answer.body).map_err(|_| {
                FetchError::Unreadable("a JSON object with `allow`, and perhaps `cache_s`")
            }),
            StatusCode::FORBIDDEN => Ok((false, Duration::ZERO)),
            status => Err(FetchError::Status(status)),
        };
        match self.backend.endpoint.ask(request, read).await {
            Ok((allowed, cache)) => {
                self.backend.count(allowed);
                self.book
                    .answer(&want, &Some(allowed), self.backend.until(cache));
            }
            Err(_) => self.book.answer(&want, &None, None),
        }
    }
}

fn want(petition: &Petition, action: Action, filter: &TopicFilter) -> Want {
    Want {
        source: petition.principal.source,
        name: petition.principal.name.clone(),
        action,
        filter: filter.clone(),
    }
}

fn add(grants: &mut Grants, action: Action, filter: TopicFilter) {
    match action {
        Action::Publish => grants.publish.push(filter),
        Action::Subscribe => grants.subscribe.push(filter),
    }
}

fn gather(
    gathering: &Mutex<Gathering>,
    action: Action,
    filter: TopicFilter,
    allowed: Option<bool>,
) {
    let mut it = gathering.lock().unwrap_or_else(PoisonError::into_inner);
    it.left -= 1;
    it.is_failed |= allowed.is_none();
    if allowed == Some(true) {
        add(&mut it.grants, action, filter);
    }
    if it.left > 0 {
        return;
    }
    let permission = if it.is_failed {
        Err(unknown())
    } else {
        Ok(std::mem::take(&mut it.grants))
    };
    if let Some(granted) = it.granted.take() {
        drop(it);
        granted(permission);
    }
}

fn unknown() -> Refusal {
    let detail = "whether that is permitted cannot be found out now: try again in a moment";
    Refusal::new(RefusalCode::Busy, detail)
}
