//! The requests of the admin listener.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use serde::{Deserialize, Serialize};
use tidings_adapters::http as adapter;
use tidings_auth::VOUCHERS;
use tidings_types::{Refusal, RefusalCode, Timestamp};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::counts::Outcome;
use super::guard;
use super::revocations::{Added, Revocation};
use crate::config::millis;
use crate::serve::body::Reply;
use crate::serve::core::Core;
use crate::serve::requests::{read_within, without_body_for_head};
use crate::serve::shard::Place;
use crate::serve::{headers, metrics};

/// The longest body of a request.
const BODY_BYTES_MAX: usize = 8 << 10;
/// The longest name and the longest note.
const TEXT_BYTES_MAX: usize = 256;
/// How long an answer waits for the last connection to be asked for; it goes on without.
const RECHECK_MAX: Duration = Duration::from_secs(5);

const REVOCATIONS: &str = "/v1/admin/revocations";

/// Answers the requests of one connection.
pub struct Requests {
    core: Rc<Core>,
    place: Place,
    secured: bool,
}

impl Requests {
    /// On this shard; `secured` is with TLS.
    pub fn new(core: Rc<Core>, place: Place, secured: bool) -> Self {
        Self {
            core,
            place,
            secured,
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>>>>;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let (core, place) = (Rc::clone(&self.core), Rc::clone(&self.place));
        let secured = self.secured;
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let mut response = answer(&core, &parts, body, &place).await;
            headers::secure(&core.shared, secured, response.headers_mut());
            Ok(without_body_for_head(&parts, response).map(Reply::from))
        })
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Health,
    Ready,
    Metrics,
    Revocations,
    Revocation(u64),
}

impl At {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            REVOCATIONS => Self::Revocations,
            _ => {
                let id = path.strip_prefix(REVOCATIONS)?.strip_prefix('/')?;
                Self::Revocation(id.parse().ok()?)
            }
        })
    }

    const fn methods(self) -> &'static str {
        match self {
            Self::Health | Self::Ready | Self::Metrics => "GET, HEAD",
            Self::Revocations => "GET, HEAD, POST",
            Self::Revocation(_) => "DELETE",
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|it| it == method)
    }
}

async fn answer(core: &Rc<Core>, parts: &Parts, body: Incoming, place: &Place) -> Response<Bytes> {
    let shared = &core.shared;
    let at = At::of(parts.uri.path());
    // A balancer has no token, and learns nothing.
    if !matches!(at, Some(At::Health | At::Ready))
        && let Err((outcome, refusal)) = guard::admit(shared, parts, place.address).await
    {
        shared.admin.counts.count(outcome);
        return refused(&refusal, at);
    }
    let done = match at {
        None => Err(Refusal::new(
            RefusalCode::NotFound,
            "nothing is at this path: /metrics, /healthz, /readyz and /v1/admin/revocations are",
        )),
        Some(at) if !at.allows(&parts.method) => {
            let detail = format!("use one of these methods here: {}", at.methods());
            Err(Refusal::new(RefusalCode::MethodNotAllowed, detail))
        }
        Some(at) => carry_out(core, at, &parts.method, body).await,
    };
    let outcome = match &done {
        Ok(_) => Outcome::Done,
        Err(refusal) if refusal.code.http_status() < 500 => Outcome::Refused,
        Err(_) => Outcome::Failed,
    };
    shared.admin.counts.count(outcome);
    done.unwrap_or_else(|refusal| refused(&refusal, at))
}

fn refused(refusal: &Refusal, at: Option<At>) -> Response<Bytes> {
    let mut response = adapter::problem(refusal);
    let headers = response.headers_mut();
    if refusal.code == RefusalCode::Unauthorized {
        let challenge = HeaderValue::from_static("Bearer realm=\"tidings-admin\"");
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(at) = at.filter(|_| refusal.code == RefusalCode::MethodNotAllowed) {
        headers.insert("allow", HeaderValue::from_static(at.methods()));
    }
    response
}

async fn carry_out(
    core: &Rc<Core>,
    at: At,
    method: &Method,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    let shared = &core.shared;
    match at {
        At::Health => Ok(adapter::health()),
        At::Ready => Ok(adapter::ready(
            &shared.engine.health(),
            shared.is_draining(),
        )),
        At::Metrics => {
            let page = metrics::render(shared).into();
            Ok(adapter::page(metrics::MEDIA_TYPE, page))
        }
        At::Revocations if method == Method::POST => {
            let max = (BODY_BYTES_MAX, RefusalCode::MessageTooLarge);
            let body = read_within(core, core.admin_budget(), body, max).await?;
            revoke(core, &body).await
        }
        At::Revocations => {
            let revocations = shared.admin.revocations.all(shared.clock.now());
            json(StatusCode::OK, &Listed { revocations })
        }
        At::Revocation(id) => lift(core, id).await,
    }
}

/// The body of a `POST`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    subject: Option<String>,
    credential: Option<String>,
    source: Option<String>,
    issued_before: Option<Moment>,
    until: Option<u64>,
    expires_in: Option<String>,
    reason: Option<String>,
}

/// A time: `"now"`, or milliseconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Moment {
    At(u64),
    Word(Now),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Now {
    Now,
}

#[derive(Serialize)]
struct Listed {
    revocations: Vec<Revocation>,
}

#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    revocation: Revocation,
    /// How many connections ended by it; not there if some are still to be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_ended: Option<u64>,
}

fn wrong(name: &str, what: &str) -> Refusal {
    Refusal::new(RefusalCode::BadParameter, format!("`{name}` {what}"))
}

impl Wanted {
    /// The entry, without its number.
    fn revocation(self, now: Timestamp) -> Result<Revocation, Refusal> {
        if self.subject.is_some() == self.credential.is_some() {
            return Err(wrong(
                "subject",
                "or `credential`: say one of them, a principal's name, or a key's id or a token's `jti`",
            ));
        }
        for (name, text) in [
            ("subject", &self.subject),
            ("credential", &self.credential),
            ("source", &self.source),
            ("reason", &self.reason),
        ] {
            let text = text.as_deref().unwrap_or("-");
            if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control)
            {
                return Err(wrong(name, "has 1 to 256 bytes and no control character"));
            }
        }
        let source = self.source.as_deref();
        if source.is_some_and(|source| !VOUCHERS.contains(&source)) {
            return Err(wrong(
                "source",
                &format!("is one of {}", VOUCHERS.join(", ")),
            ));
        }
        if self.issued_before.is_some() && self.subject.is_none() {
            return Err(wrong("issued_before", "goes with `subject`"));
        }
        let until = match (self.until, self.expires_in) {
            (Some(_), Some(_)) => return Err(wrong("until", "or `expires_in`: say one of them")),
            (until, None) => until,
            (None, Some(text)) => {
                let span = millis(&text)
                    .ok_or_else(|| wrong("expires_in", "is a time, as in 15m, 12h or 90d"))?;
                Some(now.plus(Duration::from_millis(span)).0)
            }
        };
        if until.is_some_and(|until| until <= now.0) {
            return Err(wrong("until", "is over: it is milliseconds since 1970"));
        }
        Ok(Revocation {
            id: 0,
            subject: self.subject,
            credential: self.credential,
            source: self.source,
            issued_before: self.issued_before.map(|moment| match moment {
                Moment::At(at) => at,
                // Issuers count whole seconds: whoever signs in again at once is in.
                Moment::Word(Now::Now) => now.0 / 1_000 * 1_000,
            }),
            until,
            reason: self.reason,
            created: now.0,
        })
    }
}

/// Revokes: from now on nobody is let in by it, and who is in is out.
async fn revoke(core: &Rc<Core>, body: &[u8]) -> Result<Response<Bytes>, Refusal> {
    let shared = &core.shared;
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
        let detail =
            format!("the body is not `{{\"subject\":..}}` or `{{\"credential\":..}}`: {error}");
        Refusal::new(RefusalCode::BadJson, detail)
    })?;
    let new = wanted.revocation(shared.clock.now())?;
    let (revocation, added) = shared.admin.revocations.add(new)?;
    let (sender, ended) = oneshot::channel();
    // Whoever asked may be gone by then.
    shared.recheck(move |count| sender.send(count).unwrap_or_default());
    tracing::info!(
        id = revocation.id,
        subject = revocation.subject,
        credential = revocation.credential,
        source = revocation.source,
        "revoked"
    );
    let revocations = Arc::clone(&shared.admin.revocations);
    let kept = tokio::task::spawn_blocking(move || revocations.keep()).await;
    kept.map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| not_kept(&error, "it is in force until the server ends"))?;
    let connections_ended = timeout(RECHECK_MAX, ended).await.ok().and_then(Result::ok);
    let status = match added {
        Added::New => StatusCode::CREATED,
        Added::Replaced => StatusCode::OK,
    };
    let location = format!("{REVOCATIONS}/{}", revocation.id);
    let done = Done {
        revocation,
        connections_ended,
    };
    let mut response = json(status, &done)?;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

async fn lift(core: &Rc<Core>, id: u64) -> Result<Response<Bytes>, Refusal> {
    let revocations = Arc::clone(&core.shared.admin.revocations);
    let lifted = tokio::task::spawn_blocking(move || revocations.lift(id)).await;
    let was_there = lifted
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| not_kept(&error, "it stays in force"))?;
    if !was_there {
        let detail = format!("there is no revocation {id}: GET {REVOCATIONS} lists them");
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    tracing::info!(id, "a revocation was lifted");
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn not_kept(error: &std::io::Error, what: &str) -> Refusal {
    tracing::error!(%error, "what is revoked could not be written");
    let detail = format!("it could not be written to the disk ({error}): {what}; send it again");
    Refusal::new(RefusalCode::StorageFailed, detail)
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Bytes>, Refusal> {
    let text = serde_json::to_string(value).map_err(|error| {
        let detail = format!("the answer is no JSON: {error}");
        Refusal::new(RefusalCode::Internal, detail)
    })?;
    let mut response = adapter::page("application/json", (text + "\n").into());
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn read(text: &str) -> Result<Revocation, String> {
        let wanted: Wanted = serde_json::from_str(text).map_err(|error| error.to_string())?;
        wanted
            .revocation(NOW)
            .map_err(|refusal| refusal.detail.clone())
    }

    #[test]
    fn a_revocation_says_who_and_may_say_until_when() {
        let ann = read(r#"{"subject":"ann"}"#).unwrap();
        assert_eq!((ann.subject.as_deref(), ann.until), (Some("ann"), None));
        let key = read(r#"{"credential":"k1","source":"key","expires_in":"1h","reason":"lost"}"#)
            .unwrap();
        assert_eq!(key.until, Some(NOW.0 + 3_600_000));
        let out = read(r#"{"subject":"ann","issued_before":"now","until":2000000}"#).unwrap();
        assert_eq!(
            (out.issued_before, out.until),
            (Some(NOW.0), Some(2_000_000))
        );
        assert_eq!(
            read(r#"{"subject":"ann","issued_before":5}"#)
                .unwrap()
                .issued_before,
            Some(5)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expect) in [
            ("{}", "subject"),
            (r#"{"subject":"a","credential":"b"}"#, "say one of them"),
            (r#"{"subject":""}"#, "`subject` has 1 to 256 bytes"),
            ("{\"subject\":\"a\\n\"}", "no control character"),
            (
                r#"{"credential":"b","issued_before":"now"}"#,
                "goes with `subject`",
            ),
            (r#"{"subject":"a","issued_before":"then"}"#, "did not match"),
            (r#"{"subject":"a","until":1}"#, "is over"),
            (
                r#"{"subject":"a","until":2000000,"expires_in":"1h"}"#,
                "say one of them",
            ),
            (r#"{"subject":"a","expires_in":"soon"}"#, "as in 15m"),
            (r#"{"user":"a"}"#, "unknown field"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(expect), "{text}: {told}");
        }
    }
}
