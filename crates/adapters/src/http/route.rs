//! What a request asks for, from its head alone.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use http::{Method, Uri};
use serde::Deserialize;
use tidings_ports::{Start, TopicsQuery};
use tidings_types::topic::TOPIC_BYTES_MAX;
use tidings_types::{Limits, Refusal, RefusalCode, Topic, TopicFilter};

use super::accept::{accepts_coding, media_quality};
use super::history::History;
use super::params::{Params, filter};
use crate::query::{bad_parameter, form_decode, percent_decode};
use crate::sse::SseRequest;

/// What a request asks for. `HEAD` asks for what `GET` does, and the server leaves the body away.
#[derive(Clone, Debug)]
pub enum Route {
    /// Publish the body to a topic: see [`draft`](super::draft).
    Publish(Topic),
    /// Publish a batch: see [`batch`](super::batch).
    PublishBatch,
    /// Open an event stream.
    Stream(SseRequest),
    /// Open an event stream whose topics are in the body: see [`stream_from_body`].
    StreamFromBody,
    /// A page of messages, perhaps after waiting for one (`wait` is not zero).
    History(History),
    /// A page of the list of topics.
    Topics(TopicsQuery),
    /// A raw WebSocket on one filter. Whether the upgrade is in order is for the WebSocket adapter to say.
    RawSocket(RawSocket),
    /// A WebSocket that speaks `tidings.v1`.
    TidingsSocket,
    /// A WebSocket that carries MQTT.
    MqttSocket,
    /// A WebSocket that carries STOMP.
    StompSocket,
    /// Move the end of an event stream: show a new credential for it. The name is not decoded.
    RenewStream(String),
    /// Whether the process lives.
    Health,
    /// Whether it can serve.
    Ready,
    /// Prometheus text.
    Metrics,
    /// The description of this interface.
    OpenApi,
    /// The built-in page or one of its files. What there is is for the page's owner to say. The path begins with
    /// `/` and is as it was sent, not decoded.
    Page(String),
    /// `OPTIONS`: see [`Cors::preflight`](super::Cors::preflight).
    Preflight,
}

/// A request for a raw WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSocket {
    /// What to deliver; what the peer sends is published to it, if it is one topic.
    pub filter: TopicFilter,
    /// Where to start.
    pub start: Start,
    /// Whether the peer gets its own messages.
    pub echo: bool,
}

/// A place that requests name, whatever their method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    /// With the encoded topic or filter.
    Topic(&'a str),
    Topics,
    Publish,
    Subscribe,
    Socket,
    Mqtt,
    Stomp,
    /// With the stream's name.
    StreamAuth(&'a str),
    Health,
    Ready,
    Metrics,
    OpenApi,
    Page,
    Nothing,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Self {
        if let Some(rest) = path.strip_prefix("/v1/topics/") {
            return Self::Topic(rest);
        }
        if let Some(rest) = path.strip_prefix("/v1/streams/") {
            let name = rest.strip_suffix("/auth").unwrap_or_default();
            if !name.is_empty() && !name.contains('/') {
                return Self::StreamAuth(name);
            }
        }
        match path {
            "/v1/topics" => Self::Topics,
            "/v1/publish" => Self::Publish,
            "/v1/subscribe" => Self::Subscribe,
            "/v1/ws" => Self::Socket,
            "/mqtt" => Self::Mqtt,
            "/stomp" => Self::Stomp,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/openapi.json" => Self::OpenApi,
            _ if path == "/v1" || path.starts_with("/v1/") || !path.starts_with('/') => {
                Self::Nothing
            }
            _ => Self::Page,
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Topic(_) => "GET, HEAD, POST, PUT, OPTIONS",
            Self::Publish | Self::StreamAuth(_) => "POST, OPTIONS",
            Self::Subscribe => "GET, HEAD, POST, QUERY, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    fn allows(self, method: &Method) -> bool {
        // Extended CONNECT is how a WebSocket is opened over HTTP/2 (RFC 8441); it is not for `Allow`, where it
        // would stand for tunnels.
        let extended = *method == Method::CONNECT
            && matches!(
                self,
                Self::Topic(_) | Self::Socket | Self::Mqtt | Self::Stomp
            );
        extended || self.methods().split(", ").any(|allowed| allowed == method)
    }
}

/// The methods of a path, for `Allow`.
pub(super) fn allowed(path: &str) -> &'static str {
    Place::of(path).methods()
}

/// Reads what the head of a request asks for.
///
/// Refuses with `not-found`, `method-not-allowed`, `not-acceptable`, `bad-topic`, `bad-filter`, `bad-cursor`,
/// `bad-text`, `bad-request`, `bad-parameter` (which names the parameter) and `too-many-subscriptions`.
pub fn route(parts: &Parts, limits: &Limits) -> Result<Route, Refusal> {
    let place = Place::of(parts.uri.path());
    if parts.method == Method::OPTIONS {
        return Ok(Route::Preflight);
    }
    if place == Place::Nothing || (place == Place::Page && !place.allows(&parts.method)) {
        return Err(Refusal::new(
            RefusalCode::NotFound,
            "there is nothing at this path: messages are at `/v1/topics/{topic}`, and `/openapi.json` lists every path",
        ));
    }
    if !place.allows(&parts.method) {
        return Err(Refusal::new(
            RefusalCode::MethodNotAllowed,
            format!("use one of these methods here: {}", place.methods()),
        ));
    }
    match place {
        Place::Topic(encoded) => topic_route(parts, encoded, limits),
        Place::Topics => topics_route(parts, limits),
        Place::Publish => Ok(Route::PublishBatch),
        Place::Subscribe => subscribe_route(parts, limits),
        Place::Socket => Ok(Route::TidingsSocket),
        Place::Mqtt => Ok(Route::MqttSocket),
        Place::Stomp => Ok(Route::StompSocket),
        Place::StreamAuth(name) => Ok(Route::RenewStream(name.to_owned())),
        Place::Health => Ok(Route::Health),
        Place::Ready => Ok(Route::Ready),
        Place::Metrics => Ok(Route::Metrics),
        Place::OpenApi => Ok(Route::OpenApi),
        Place::Page | Place::Nothing => Ok(Route::Page(parts.uri.path().to_owned())),
    }
}

/// The bytes of body that a route takes; over it the request is refused with `message-too-large` or
/// `batch-too-large` before it is read. Zero is a route without a body.
#[must_use]
pub fn body_bytes_max(route: &Route, limits: &Limits) -> usize {
    match route {
        Route::Publish(_) => limits.message_bytes_max,
        Route::PublishBatch => limits.batch_bytes_max,
        // Each byte of a topic is three when it is percent-encoded, and `topic=` and `&` come on top.
        Route::StreamFromBody => {
            4_096 + limits.filters_per_subscription_max * (3 * TOPIC_BYTES_MAX + 8)
        }
        _ => 0,
    }
}

fn params(parts: &Parts) -> Result<Params, Refusal> {
    let mut params = Params::default();
    params.read(parts.uri.query().unwrap_or_default())?;
    Ok(params)
}

fn topic_route(parts: &Parts, encoded: &str, limits: &Limits) -> Result<Route, Refusal> {
    let text = percent_decode(encoded, "the topic in the path")?;
    if parts.method == Method::POST || parts.method == Method::PUT {
        return match Topic::new(&*text) {
            Ok(topic) => Ok(Route::Publish(topic)),
            Err(error) => Err(Refusal::new(RefusalCode::BadTopic, error.to_string())),
        };
    }
    let filter = filter(&text)?;
    let params = params(parts)?;
    match Representation::of(parts, &params, Representation::History)? {
        Representation::Socket => Ok(Route::RawSocket(RawSocket {
            start: params.start(&parts.headers, limits, Start::Latest)?,
            echo: Params::flag("echo", params.echo.as_ref(), true)?,
            filter,
        })),
        Representation::Stream => stream(parts, &params, vec![filter], limits).map(Route::Stream),
        Representation::History => page(parts, &params, vec![filter], limits).map(Route::History),
    }
}

fn topics_route(parts: &Parts, limits: &Limits) -> Result<Route, Refusal> {
    let params = params(parts)?;
    let after = params.after.as_deref().map(Topic::new).transpose();
    Ok(Route::Topics(TopicsQuery {
        filter: match &params.filter {
            Some(text) => filter(text)?,
            None => TopicFilter::all(),
        },
        after: after.map_err(|_| bad_parameter("after", "pass `next` of the page before"))?,
        limit: params
            .limit(limits)?
            .unwrap_or(limits.page_messages_max.min(100)),
    }))
}

fn subscribe_route(parts: &Parts, limits: &Limits) -> Result<Route, Refusal> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Ok(Route::StreamFromBody);
    }
    let params = params(parts)?;
    let filters = params.filters(limits)?;
    match Representation::of(parts, &params, Representation::Stream)? {
        Representation::Stream => stream(parts, &params, filters, limits).map(Route::Stream),
        Representation::History => page(parts, &params, filters, limits).map(Route::History),
        Representation::Socket => Err(bad_parameter(
            "as",
            "a WebSocket on several topics is at `/v1/ws`; here it is `sse` or `json`",
        )),
    }
}

/// The stream of a [`Route::StreamFromBody`] whose body has arrived. The parameters of the body and those of the
/// URL count together; topics of both are added up.
///
/// The body is a form (`topic=..&topic=..&after=..`) or, as `application/json`, `{"topics":[..],"after":..}`
/// with `last` and `format`. Refuses as [`route`] does, and `bad-json`, `bad-text`, `unsupported-media-type`.
pub fn stream_from_body(
    parts: &Parts,
    body: &Bytes,
    limits: &Limits,
) -> Result<SseRequest, Refusal> {
    let mut params = params(parts)?;
    match &*essence(parts) {
        "application/json" => read_json(body, &mut params)?,
        "" | "application/x-www-form-urlencoded" => {
            let form = str::from_utf8(body)
                .map_err(|_| Refusal::new(RefusalCode::BadText, "the form is not UTF-8"))?;
            params.read(form.trim_end())?;
        }
        _ => {
            return Err(Refusal::new(
                RefusalCode::UnsupportedMediaType,
                "send the topics as `application/x-www-form-urlencoded` or `application/json`",
            ));
        }
    }
    let filters = params.filters(limits)?;
    match Representation::of(parts, &params, Representation::Stream)? {
        Representation::Stream => stream(parts, &params, filters, limits),
        Representation::History | Representation::Socket => Err(Refusal::new(
            RefusalCode::NotAcceptable,
            "a list of topics in a body opens an event stream: accept `text/event-stream`, or name the topics in the URL of a GET",
        )),
    }
}

/// The media type of the body without parameters, in lower case; empty if there is none.
pub(super) fn essence(parts: &Parts) -> Cow<'_, str> {
    let text = parts
        .headers
        .get(CONTENT_TYPE)
        .map(http::HeaderValue::to_str);
    let essence = match text {
        Some(Ok(text)) => text.split(';').next().unwrap_or_default().trim(),
        Some(Err(_)) => "?",
        None => "",
    };
    if essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(essence.to_ascii_lowercase())
    } else {
        Cow::Borrowed(essence)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSubscription {
    topics: Vec<String>,
    after: Option<String>,
    last: Option<u64>,
    format: Option<String>,
}

fn read_json(body: &Bytes, params: &mut Params) -> Result<(), Refusal> {
    let read: JsonSubscription = serde_json::from_slice(body).map_err(|error| {
        Refusal::new(
            RefusalCode::BadJson,
            format!("the body is not `{{\"topics\":[..],\"after\":..}}`: {error}"),
        )
    })?;
    params.topics.extend(read.topics);
    params.after = params.after.take().or(read.after);
    params.last = params
        .last
        .take()
        .or(read.last.map(|last| last.to_string()));
    params.format = params.format.take().or(read.format);
    Ok(())
}

fn stream(
    parts: &Parts,
    params: &Params,
    filters: Vec<TopicFilter>,
    limits: &Limits,
) -> Result<SseRequest, Refusal> {
    let asked = params.gzip.as_ref();
    let gzip = Params::flag("gzip", asked, true)?
        // Who asks for it by name has no need to say so twice; who does not must accept it.
        && accepts_coding(&parts.headers, "gzip", asked.is_some());
    Ok(SseRequest {
        start: params.start(&parts.headers, limits, Start::Latest)?,
        format: params.format(&filters)?,
        padding: Params::flag("padding", params.padding.as_ref(), false)?,
        gzip,
        filters,
    })
}

fn page(
    parts: &Parts,
    params: &Params,
    filters: Vec<TopicFilter>,
    limits: &Limits,
) -> Result<History, Refusal> {
    let wait = params.wait(limits)?;
    // A request that waits asks what comes; one that does not asks what there is.
    let otherwise = match wait {
        Some(_) => Start::Latest,
        None => Start::Earliest,
    };
    let start = params.start(&parts.headers, limits, otherwise)?;
    let limit = match (params.limit(limits)?, &start) {
        (Some(limit), _) => limit,
        // Who asks for the last N wants N of them, as far as a page goes.
        (None, Start::Last(count)) => usize::try_from(*count)
            .unwrap_or(usize::MAX)
            .min(limits.page_messages_max),
        (None, _) => limits.page_messages_max.min(100),
    };
    Ok(History {
        filters,
        start,
        limit,
        wait,
    })
}

/// What a `GET` on messages answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Representation {
    Stream,
    History,
    Socket,
}

impl Representation {
    /// `as` decides, then `Upgrade`, then `Accept`; `otherwise` where these leave a choice.
    fn of(parts: &Parts, params: &Params, otherwise: Self) -> Result<Self, Refusal> {
        match params.representation.as_deref() {
            Some("sse") => return Ok(Self::Stream),
            Some("json") => return Ok(Self::History),
            Some("ws") => return Ok(Self::Socket),
            Some(_) => return Err(bad_parameter("as", "pass `sse`, `json` or `ws`")),
            None => {}
        }
        if asks_for_websocket(parts) {
            return Ok(Self::Socket);
        }
        let (stream, stream_named) = media_quality(&parts.headers, "text/event-stream");
        let (json, json_named) = media_quality(&parts.headers, "application/json");
        match (stream > 0, json > 0) {
            (false, false) => Err(Refusal::new(
                RefusalCode::NotAcceptable,
                "accept `text/event-stream` or `application/json`, or pass `?as=sse` or `?as=json`",
            )),
            (true, false) => Ok(Self::Stream),
            (false, true) => Ok(Self::History),
            (true, true) => Ok(match (stream_named, json_named) {
                (false, false) => otherwise,
                (false, true) => Self::History,
                (true, true) if json > stream => Self::History,
                (true, _) => Self::Stream,
            }),
        }
    }
}

fn asks_for_websocket(parts: &Parts) -> bool {
    parts.method == Method::CONNECT
        || parts.method == Method::GET
            && parts
                .headers
                .get_all(UPGRADE)
                .iter()
                .filter_map(|line| line.to_str().ok())
                .flat_map(|line| line.split(','))
                .any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// Parameters whose values are credentials.
const SECRET_PARAMETERS: [&str; 4] = ["access_token", "token", "authorization", "password"];

/// The path and query for logs, with the values of `access_token` and its like replaced.
#[must_use]
pub fn redact(uri: &Uri) -> String {
    let Some(query) = uri.query() else {
        return uri.path().to_owned();
    };
    let mut text = String::with_capacity(uri.path().len() + 1 + query.len());
    text.push_str(uri.path());
    let mut separator = '?';
    for part in query.split('&') {
        text.push(separator);
        separator = '&';
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let secret = is_secret_parameter(name);
        if secret && !value.is_empty() {
            text.push_str(name);
            text.push_str("=REDACTED");
        } else {
            text.push_str(part);
        }
    }
    text
}

/// Whether the parameter of this encoded name carries a credential.
pub(super) fn is_secret_parameter(name: &str) -> bool {
    // `access%5Ftoken` is the same name; one that cannot be decoded counts too, to be sure.
    form_decode(name, "").map_or(true, |name| {
        SECRET_PARAMETERS
            .iter()
            .any(|secret| name.trim().eq_ignore_ascii_case(secret))
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
