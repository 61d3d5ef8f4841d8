//! Bearer tokens that an authorization server knows (RFC 7662).

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use tidings_auth::jwt::JwtRules;
use tidings_auth::{
    Credential, Identity, Reason, Remote, Renewed, Secret, Source, Told, Verdict, answers,
};
use tidings_ports::{Attempt, Clock};
use tidings_types::{Principal, Timestamp};
use tokio::runtime::Handle;

use super::book::{Book, Joined};
use super::endpoint::{Asked, Endpoint};
use super::fetch::FetchError;
use super::seal::{Digest, Seal};
use crate::config::remote::IntrospectionPlan;

/// How long a token that is not active is taken for that, without asking again.
const INACTIVE_TIME_MAX: Duration = Duration::from_secs(10);
/// What API keys begin with: they are nobody else's to see.
const KEY_PREFIX: &str = "tdg_";

/// The metrics label of the source.
pub const LABEL: &str = "introspection";

/// What was said of a token.
type Word = Result<Arc<Identity>, Reason>;

/// Asks an authorization server what tokens are good for.
#[derive(Clone)]
pub struct Introspection(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
    rules: JwtRules,
    cache_max: Duration,
    /// Tells who is asked here from whoever is asked after a reload.
    mark: u64,
    book: Book<Digest, Word>,
    seal: Seal,
    runtime: Handle,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Introspection(..)")
    }
}

impl Introspection {
    /// Asks this endpoint.
    pub fn new(
        plan: IntrospectionPlan,
        rules: JwtRules,
        endpoint: Endpoint,
        (seal, runtime, clock): (Seal, Handle, Arc<dyn Clock>),
    ) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            authorization: plan.client.and_then(|(id, secret)| basic(&id, &secret)),
            rules,
            mark: plan.url.mark(),
            cache_max: plan.cache_max,
            book: Book::default(),
            seal,
            runtime,
            clock,
        }))
    }

    /// The token, if it is one that the server could know (RFC 6750, 2.1).
    fn token<'a>(&self, credential: &'a Credential) -> Option<&'a str> {
        let is_token = |text: &&str| {
            let max = self.0.rules.token_bytes_max;
            let fits = !text.is_empty() && text.len() <= max && !text.starts_with(KEY_PREFIX);
            fits && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        credential.token().filter(is_token)
    }
}

impl Source for Introspection {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn is_slow(&self, _credential: &Credential) -> bool {
        false
    }

    fn verify(&self, credential: &Credential, now: Timestamp) -> Verdict {
        let Some(token) = self.token(credential) else {
            return Verdict::NotMine;
        };
        let word = self
            .0
            .book
            .recall(&self.0.digest(token), self.0.clock.tick());
        verdict(word.unwrap_or(Err(Reason::Unavailable)), now)
    }

    /// The token is not kept, so it cannot be asked about again; but it has to be the same server that knew it.
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

impl Remote for Introspection {
    fn recall(&self, attempt: &Attempt, now: Timestamp) -> Option<Verdict> {
        let Some(token) = self.token(&attempt.credential) else {
            return Some(Verdict::NotMine);
        };
        let word = self
            .0
            .book
            .recall(&self.0.digest(token), self.0.clock.tick())?;
        self.0.endpoint.counts().recalled.fetch_add(1, Relaxed);
        Some(verdict(word, now))
    }

    fn ask(&self, attempt: &Attempt, now: Timestamp, told: Told) {
        let Some(token) = self.token(&attempt.credential) else {
            return told(Verdict::NotMine);
        };
        let digest = self.0.digest(token);
        let waiter = Box::new(move |word| told(verdict(word, now)));
        match self.0.book.join(&digest, waiter) {
            Joined::Waits => {}
            Joined::Full(waiter) => {
                self.0.endpoint.counts().add(Asked::Busy);
                waiter(Err(Reason::Unavailable));
            }
            Joined::First => {
                let (inner, token) = (Arc::clone(&self.0), Secret::from(token));
                self.0
                    .runtime
                    .spawn(async move { inner.find_out(digest, &token).await });
            }
        }
    }
}

impl Inner {
    fn digest(&self, token: &str) -> Digest {
        self.seal.digest(&[token.as_bytes()])
    }

    async fn find_out(&self, digest: Digest, token: &Secret) {
        let now = self.clock.now();
        let request = self.request(token.expose_text().unwrap_or_default());
        let read = |answer: &super::fetch::Answer| match answer.head.status {
            StatusCode::OK => match answers::introspected(&answer.body, &self.rules, now) {
                Err(Reason::Unavailable) => Err(FetchError::Unreadable(
                    "an introspection response (RFC 7662, 2.2)",
                )),
                word => Ok(word.map(|identity| {
                    let entry = Some(self.mark);
                    Arc::new(Identity { entry, ..identity })
                })),
            },
            status => Err(FetchError::Status(status)),
        };
        let Ok(word) = self.endpoint.ask(request, read).await else {
            let unknown = Err(Reason::Unavailable);
            return self.book.answer(&digest, &unknown, None);
        };
        self.endpoint.counts().add(if word.is_ok() {
            Asked::Accepted
        } else {
            Asked::Refused
        });
        // A token that has ended is found to have when it comes again.
        let cache = match &word {
            Ok(_) => self.cache_max,
            Err(_) => self.cache_max.min(INACTIVE_TIME_MAX),
        };
        let ms = u64::try_from(cache.as_millis()).unwrap_or(u64::MAX);
        let until = self.clock.tick().plus_ms(ms);
        self.book.answer(&digest, &word, Some(until));
    }

    fn request(&self, token: &str) -> Request<Full<Bytes>> {
        let body = format!("token={}&token_type_hint=access_token", form_encoded(token));
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = http::Method::POST;
        let headers = request.headers_mut();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json);
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }
}

fn verdict(word: Word, now: Timestamp) -> Verdict {
    match word {
        Ok(identity) if identity.expires.is_some_and(|end| end <= now) => {
            Verdict::Refused(Reason::Expired)
        }
        Ok(identity) => Verdict::Accepted(Box::new(Identity::clone(&identity))),
        Err(reason) => Verdict::Refused(reason),
    }
}

/// How a client of an authorization server says who it is (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &Secret) -> Option<HeaderValue> {
    let secret = form_encoded(secret.expose_text()?);
    let encoded = BASE64_STANDARD.encode(format!("{}:{secret}", form_encoded(id)));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes every write");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_secrets_are_encoded_before_they_are_joined() {
        let value = basic("a:b", &Secret::from("p%q w")).unwrap();
        assert!(value.is_sensitive());
        let encoded = value
            .to_str()
            .unwrap()
            .strip_prefix("Basic ")
            .unwrap()
            .to_owned();
        let decoded = BASE64_STANDARD.decode(encoded).unwrap();
        assert_eq!(decoded, b"a%3Ab:p%25q%20w");
    }
}
