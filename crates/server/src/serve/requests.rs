//! Answering HTTP requests: the glue between hyper, the HTTP adapter and the shard.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use tidings_adapters::http as adapter;
use tidings_adapters::http::{Caching, Found, History, Route};
use tidings_adapters::poll::{self, PollConversation};
use tidings_hub::Peer;
use tidings_hub::gate::{self, Wanted};
use tidings_hub::metrics::ProtocolMetrics;
use tidings_ports::{Gap, Page, SignOn, Start, TopicsQuery};
use tidings_types::{Cursor, Draft, Principal, Protocol, Receipt, Refusal, RefusalCode, Topic};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::body::{Reply, Rewound, Stream};
use super::core::{BodyBudget, Core};
use super::shard::{Place, Seat};
use super::streams::{self, OpenStream, Serves};
use super::{headers, metrics, mqtt, page, renewal, socket};

/// What is read away of a body that nobody wants, and for how long.
const DISCARDED_BYTES_MAX: usize = 1 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(1);

/// What a connection may become, and its place, which it then keeps.
struct Upgrade {
    upgrade: hyper::upgrade::OnUpgrade,
    place: Place,
}

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
            let mut response = answer(Rc::clone(&core), request, place).await;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                headers::secure(&core.shared, secured, response.headers_mut());
            }
            Ok(response)
        })
    }
}

/// Counts a connection that broke HTTP's rules; what the peer was told is hyper's.
pub fn note_http_error(core: &Core, error: &hyper::Error) {
    if error.is_parse() || error.is_parse_too_large() {
        core.shared.metrics.refused(RefusalCode::BadRequest);
    }
    tracing::trace!(%error, "an http connection ended");
}

async fn answer(core: Rc<Core>, mut request: Request<Incoming>, place: Place) -> Response<Reply> {
    let counted = Counted::new(&core);
    let place = Seat::of_request(&place, &core.shared, request.headers());
    let upgrade = Upgrade {
        upgrade: hyper::upgrade::on(&mut request),
        place,
    };
    let (parts, body) = request.into_parts();
    // A certificate authority that looks whether this is the host shows no credential.
    if let Some(proof) = core.shared.tls.acme.challenges.answer(&parts) {
        return proof.map(Reply::from);
    }
    let routed = match adapter::route(&parts, &core.shared.limits) {
        Ok(route) => sender(&core, &parts, &upgrade.place, &route)
            .await
            .map(|sender| (route, sender)),
        Err(refusal) => Err(refusal),
    };
    let answered = match routed {
        Ok((Route::Stream(request), _)) if parts.method == Method::HEAD => {
            Ok(streams::event_stream_head(&core, &parts, &request).map(|()| Reply::Full(None)))
        }
        Ok((route, opener)) if streams::is_stream(&route) => {
            open_streaming(&core, (&parts, opener), route, upgrade)
        }
        Ok((Route::StreamFromBody, opener)) => {
            stream_from_body(&core, (&parts, opener), body, upgrade).await
        }
        Ok((route, sender)) => {
            let sender = upgrade.place.peer(sender);
            dispatch(&core, (&parts, &sender), body, route)
                .await
                .map(|response| {
                    let response = if core.shared.http_compression {
                        adapter::compress(&parts, response)
                    } else {
                        response
                    };
                    without_body_for_head(&parts, response).map(Reply::from)
                })
        }
        Err(refusal) => {
            discard(&parts, body).await;
            Err(refusal)
        }
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        core.shared.metrics.refused(refusal.code);
        without_body_for_head(&parts, streams::refused(&core, &parts, &refusal)).map(Reply::from)
    });
    core.shared
        .reloadable()
        .cors
        .apply(&parts, response.headers_mut());
    drop(counted);
    response
}

/// Who sends a request. Pages that say nothing of messages are for everybody.
async fn sender(
    core: &Core,
    parts: &Parts,
    place: &Place,
    route: &Route,
) -> Result<Arc<Principal>, Refusal> {
    if streams::is_stream(route) {
        return streams::opener(core, parts, place, route).await;
    }
    match route {
        Route::Publish(_)
        | Route::PublishBatch
        | Route::History(_)
        | Route::Topics(_)
        | Route::RenewStream(_)
        | Route::StreamFromBody => core.shared.requester(parts, place).await,
        _ => Ok(core.shared.newcomer()),
    }
}

/// Who may read the topics may know their names.
fn admit_listing(core: &Core, reader: &Peer, query: &TopicsQuery) -> Result<(), Refusal> {
    let wanted = Wanted {
        filters: vec![query.filter.clone()],
        start: Start::Latest,
    };
    let shared = &core.shared;
    shared.meters.request_once(reader, shared.clock.tick())?;
    gate::subscribe(&reader.principal, wanted, &shared.limits).map(drop)
}

async fn dispatch(
    core: &Rc<Core>,
    (parts, sender): (&Parts, &Peer),
    body: Incoming,
    route: Route,
) -> Result<Response<Bytes>, Refusal> {
    let shared = &core.shared;
    let body_max = adapter::body_bytes_max(&route, &shared.limits);
    Ok(match route {
        Route::Publish(topic) => {
            shared.reloadable().cors.admit(parts)?;
            let body = read_body(core, body, body_max, RefusalCode::MessageTooLarge).await?;
            let draft = adapter::draft(parts, topic.clone(), body, &shared.limits)?;
            let sender = shared.permit_publish(sender, [&topic].into_iter()).await?;
            let receipts = publish(core, &sender, vec![draft]).await?;
            adapter::published(&receipts, &[topic])
        }
        Route::PublishBatch => {
            shared.reloadable().cors.admit(parts)?;
            let body = read_body(core, body, body_max, RefusalCode::BatchTooLarge).await?;
            let drafts = adapter::batch(parts, &body, &shared.limits)?;
            let topics: Vec<Topic> = drafts.iter().map(|draft| draft.topic.clone()).collect();
            let sender = shared.permit_publish(sender, topics.iter()).await?;
            let receipts = publish(core, &sender, drafts).await?;
            adapter::published_batch(&receipts, &topics)
        }
        Route::History(request) => {
            let reader = shared.permit_read(sender, &request.filters).await?;
            // A certificate is nowhere in the head; and who decides a permission may look at the address.
            let is_public = reader.principal.source == Principal::ANONYMOUS
                && Arc::ptr_eq(&reader.principal, &sender.principal);
            history(core, (parts, &reader), request, is_public).await?
        }
        Route::Topics(query) => {
            let filter = std::slice::from_ref(&query.filter);
            let sender = &shared.permit_read(sender, filter).await?;
            admit_listing(core, sender, &query)?;
            adapter::topics(shared.engine.epoch(), &shared.engine.topics(&query))
        }
        Route::RenewStream(name) => {
            shared.reloadable().cors.admit(parts)?;
            renewal::renew(core, &name, &sender.principal).await?
        }
        Route::Preflight => shared.reloadable().cors.preflight(parts),
        Route::Health => adapter::health(),
        Route::Ready => adapter::ready(&shared.engine.health(), shared.is_draining()),
        Route::Metrics => {
            let judged = shared.logins.sign_on() == SignOn::Judged;
            shared.admin.admit_to_public_metrics(judged)?;
            adapter::page(metrics::MEDIA_TYPE, metrics::render(shared).into())
        }
        Route::OpenApi => adapter::page("application/json", Bytes::from_static(adapter::OPENAPI)),
        Route::Page(path) => {
            let asset = page::asset(&path).filter(|_| shared.page);
            let mut response = asset.ok_or_else(|| not_found(&path))?;
            adapter::page_headers(response.headers_mut());
            response
        }
        Route::Stream(_)
        | Route::RawSocket(_)
        | Route::TidingsSocket
        | Route::MqttSocket
        | Route::StompSocket
        | Route::StreamFromBody => unreachable!("streams are opened before this"),
    })
}

async fn stream_from_body(
    core: &Rc<Core>,
    (parts, opener): (&Parts, Arc<Principal>),
    body: Incoming,
    upgrade: Upgrade,
) -> Result<Response<Reply>, Refusal> {
    let limits = &core.shared.limits;
    let max = adapter::body_bytes_max(&Route::StreamFromBody, limits);
    let body = read_body(core, body, max, RefusalCode::TooManySubscriptions).await?;
    let request = adapter::stream_from_body(parts, &body, limits)?;
    let shared = &core.shared;
    let opener = upgrade.place.peer(opener);
    let opener = shared.permit_read(&opener, &request.filters).await?;
    open_streaming(
        core,
        (parts, opener.principal),
        Route::Stream(request),
        upgrade,
    )
}

/// An answer as a `HEAD` gets it, to a `HEAD`.
pub fn without_body_for_head(parts: &Parts, mut response: Response<Bytes>) -> Response<Bytes> {
    if parts.method == Method::HEAD {
        let length = response.body().len();
        if length > 0 {
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Bytes::new();
    }
    response
}

fn not_found(path: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NotFound,
        format!(
            "nothing is at `{path}`: topics are under /v1/topics/, and /openapi.json lists every path"
        ),
    )
}

/// Reads away a body that nobody wants, if it is soon over: an answer that comes before the end of it over HTTP/2 is
/// followed by a reset (RFC 9113, 8.1), which curl before version 8 takes for the end of the answer too.
async fn discard(parts: &Parts, mut body: Incoming) {
    if parts.version != Version::HTTP_2 {
        return;
    }
    let reading = async {
        let mut left = DISCARDED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Over or not, the answer goes out.
    drop(timeout(DISCARD_TIME_MAX, reading).await);
}

/// Reads a body of at most so many bytes; a longer one is refused with this code.
async fn read_body(
    core: &Core,
    body: Incoming,
    max: usize,
    code: RefusalCode,
) -> Result<Bytes, Refusal> {
    read_within(core, core.body_budget(), body, (max, code)).await
}

/// The same, within what this budget has.
pub async fn read_within(
    core: &Core,
    mut budget: BodyBudget<'_>,
    mut body: Incoming,
    (max, code): (usize, RefusalCode),
) -> Result<Bytes, Refusal> {
    let limit = Duration::from_millis(core.shared.limits.request_body_ms_max);
    let too_large = || {
        Refusal::new(
            code,
            format!(
                "the body has more than {max} bytes: send less at once, or raise the limit in `limits`"
            ),
        )
    };
    // What the head announces is refused before it is sent.
    if hyper::body::Body::size_hint(&body).lower() > max as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal::new(
                    RefusalCode::BadRequest,
                    format!("the body broke off: {error}"),
                )
            })?;
            if let Ok(piece) = frame.into_data() {
                if whole.len() + piece.len() > max {
                    return Err(too_large());
                }
                if !budget.take(piece.len()) {
                    let detail = "too many large requests at once: send it again in a moment";
                    return Err(Refusal::new(RefusalCode::Busy, detail));
                }
                whole.extend_from_slice(&piece);
            }
        }
        Ok(whole.freeze())
    };
    timeout(limit, read).await.unwrap_or_else(|_| {
        let detail = format!(
            "the body did not come within {} ms (limits.request_body_ms_max)",
            limit.as_millis()
        );
        Err(Refusal::new(RefusalCode::RequestTimeout, detail))
    })
}

async fn publish(core: &Core, sender: &Peer, drafts: Vec<Draft>) -> Result<Vec<Receipt>, Refusal> {
    if core.is_draining() {
        let detail =
            "the server is going down: publish again in a moment, with the same idempotency key";
        return Err(Refusal::new(RefusalCode::ShuttingDown, detail));
    }
    core.shared.still_in(sender)?;
    let (reply, receiver) = oneshot::channel();
    core.with(|shard| {
        // The requester may be gone by then; the message is committed all the same.
        shard.publish(
            sender,
            drafts,
            Box::new(move |result| drop(reply.send(result))),
        );
    });
    receiver.await.unwrap_or_else(|_| Err(lost()))
}

async fn read_page(
    core: &Core,
    reader: &Peer,
    wanted: Wanted,
    messages_max: usize,
) -> Result<(Page, Option<Gap>), Refusal> {
    core.shared.still_in(reader)?;
    let (sender, receiver) = oneshot::channel();
    core.with(|shard| {
        let reply = Box::new(move |result| drop(sender.send(result)));
        shard.read(reader, wanted, messages_max, reply);
    });
    receiver.await.unwrap_or_else(|_| Err(lost()))
}

/// The shard ended before it answered.
pub fn lost() -> Refusal {
    Refusal::new(
        RefusalCode::ShuttingDown,
        "the server went down before it could answer: try again",
    )
}

async fn history(
    core: &Rc<Core>,
    (parts, reader): (&Parts, &Peer),
    request: History,
    is_public: bool,
) -> Result<Response<Bytes>, Refusal> {
    let shared = &core.shared;
    let wanted = Wanted {
        filters: request.filters.clone(),
        start: request.start.clone(),
    };
    let (page, gap) = read_page(core, reader, wanted, request.limit).await?;
    let epoch = shared.engine.epoch();
    let nothing = page.messages.is_empty() && page.at_head && gap.is_none();
    if let Some(wait) = request.wait.filter(|_| nothing && !core.is_draining()) {
        let after = Cursor {
            epoch,
            offset: page.scanned_to,
        };
        return Ok(long_poll(core, reader, (request, after), wait).await);
    }
    let rules = &shared.retention;
    let ages = rules.rules.iter().map(|(_, retention)| retention.age_max);
    let age_max = ages.chain([rules.default.age_max]).flatten().min();
    let caching = Caching {
        now: shared.clock.now(),
        age_max,
        is_public,
    };
    let found = Found {
        page: &page,
        gap: gap.as_ref(),
        epoch,
    };
    Ok(adapter::history(parts, &request, &found, caching))
}

/// Waits for the first message after a position, as a subscription like any other.
async fn long_poll(
    core: &Rc<Core>,
    reader: &Peer,
    (request, after): (History, Cursor),
    wait: Duration,
) -> Response<Bytes> {
    let conversation = Box::new(PollConversation::new(request.filters, after, wait));
    let id = core.connect_pulled(conversation, reader.clone());
    let stream = Stream::new(Rc::clone(core), id);
    let first = poll_fn(|cx| core.poll_frame(stream.id(), cx)).await;
    let mut frames: Vec<Bytes> = first.into_iter().collect();
    core.with(|shard| {
        if let Some(outbox) = shard.outbox(id) {
            while frames.len() < request.limit {
                let Some(frame) = outbox.pop() else { break };
                frames.push(frame);
            }
        }
    });
    poll::polled(&frames, after)
}

/// Opens a stream on a connection that hyper reads and writes: any HTTP/2 stream, and one that is not the
/// first request of its HTTP/1.1 connection.
fn open_streaming(
    core: &Rc<Core>,
    (parts, opener): (&Parts, Arc<Principal>),
    route: Route,
    upgrade: Upgrade,
) -> Result<Response<Reply>, Refusal> {
    upgrade.place.count(&core.shared)?;
    let OpenStream { mut head, serves } =
        streams::open(core, (parts, &upgrade.place), &opener, route)?;
    head.version = parts.version;
    let core = Rc::clone(core);
    let conversation = match serves {
        Serves::Conversation(conversation) if head.status == StatusCode::OK => conversation,
        serves => {
            tokio::task::spawn_local(async move {
                let Upgrade { upgrade, place } = upgrade;
                match upgrade.await {
                    Ok(upgraded) => serve_upgraded(core, (serves, opener), upgraded, place).await,
                    Err(error) => tracing::trace!(%error, "an upgrade broke off"),
                }
            });
            return Ok(Response::from_parts(head, Reply::Full(None)));
        }
    };
    // Hyper frames the body, and may keep the connection.
    head.headers.remove(header::CONNECTION);
    let (place, protocol) = (upgrade.place, conversation.protocol().name());
    let id = core.connect_pulled(conversation, place.peer(opener));
    place.tell(core.index, id, protocol);
    let stream = Stream::new(core, id).at(place);
    Ok(Response::from_parts(head, Reply::Stream(stream)))
}

async fn serve_upgraded(
    core: Rc<Core>,
    (serves, principal): (Serves, Arc<Principal>),
    upgraded: hyper::upgrade::Upgraded,
    place: Place,
) {
    let Ok(parts) = upgraded.downcast::<Rewound>() else {
        return tracing::error!("an upgraded connection was not one of ours");
    };
    // What hyper read ahead comes before what it had not yet read of the first bytes.
    let (unread, socket) = parts.io.into_parts();
    let mut rest = BytesMut::from(&parts.read_buf[..]);
    rest.extend_from_slice(&unread);
    match serves {
        Serves::Conversation(conversation) => {
            let begin = socket::Begin {
                principal,
                conversation,
                socket,
                head: Bytes::new(),
                rest,
            };
            socket::start(core, begin, place).await;
        }
        Serves::Mqtt(shown) => {
            let upgraded = mqtt::Upgraded {
                socket,
                head: Bytes::new(),
                rest,
                shown,
            };
            mqtt::serve_upgraded(core, upgraded, place).await;
        }
    }
}

/// Counts a request while it is answered.
struct Counted<'a>(&'a ProtocolMetrics);

impl<'a> Counted<'a> {
    fn new(core: &'a Core) -> Self {
        let counts = &core.metrics.protocols[Protocol::Http.index()];
        counts.connections.add(1);
        counts.connections_total.add(1);
        Self(counts)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.sub(1);
    }
}
