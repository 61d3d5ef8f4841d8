//! Answering HTTP requests: the glue between hyper, the HTTP adapter and the shard.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use tidings_adapters::http as adapter;
use tidings_adapters::http::{History, Route};
use tidings_adapters::poll::PollConversation;
use tidings_adapters::sse::SseConversation;
use tidings_adapters::websocket::{
    self, HandshakeOptions, RawConversation, RawOptions, TidingsConversation,
};
use tidings_hub::gate::{self, Wanted};
use tidings_ports::{Conversation, EngineHealth, Gap, Page};
use tidings_types::{Draft, Protocol, Receipt, Refusal, RefusalCode, Topic};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::body::{Reply, Rewound, Stream};
use super::core::Core;
use super::{metrics, page, socket};

/// Answers the requests of one connection.
pub struct Requests {
    core: Rc<Core>,
}

impl Requests {
    /// On this shard.
    pub fn new(core: Rc<Core>) -> Self {
        Self { core }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>>>>;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let core = Rc::clone(&self.core);
        Box::pin(async move { Ok(answer(core, request).await) })
    }
}

/// Counts a connection that broke HTTP's rules; what the peer was told is hyper's.
pub fn note_http_error(core: &Core, error: &hyper::Error) {
    if error.is_parse() || error.is_parse_too_large() {
        core.shared.metrics.refused(RefusalCode::BadRequest);
    } else if error.is_timeout() {
        core.shared.metrics.refused(RefusalCode::RequestTimeout);
    }
    tracing::trace!(%error, "an http connection ended");
}

async fn answer(core: Rc<Core>, mut request: Request<Incoming>) -> Response<Reply> {
    let _counted = Counted::new(&core);
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut response = match adapter::route(&parts, &core.shared.limits) {
        Ok(route) => match dispatch(&core, &parts, body, route, upgrade).await {
            Ok(response) => response,
            Err(refusal) => refused(&core, &refusal),
        },
        Err(refusal) => refused(&core, &refusal),
    };
    core.shared.cors.apply(&parts, response.headers_mut());
    adapter::secure(response.headers_mut());
    response
}

fn refused(core: &Core, refusal: &Refusal) -> Response<Reply> {
    core.shared.metrics.refused(refusal.code);
    adapter::problem(refusal).map(Reply::from)
}

async fn dispatch(
    core: &Rc<Core>,
    parts: &Parts,
    body: Incoming,
    route: Route,
    upgrade: hyper::upgrade::OnUpgrade,
) -> Result<Response<Reply>, Refusal> {
    let limits = &core.shared.limits;
    let response = match route {
        Route::Publish(topic) => {
            let body = read_body(core, body, limits.message_bytes_max, RefusalCode::MessageTooLarge).await?;
            let draft = adapter::draft(parts, topic.clone(), body, limits)?;
            let receipts = publish(core, vec![draft]).await?;
            adapter::published(&receipts, &[topic])
        }
        Route::PublishBatch => {
            let body = read_body(core, body, limits.batch_bytes_max, RefusalCode::BatchTooLarge).await?;
            let drafts = adapter::batch(parts, &body, limits)?;
            let topics: Vec<Topic> = drafts.iter().map(|draft| draft.topic.clone()).collect();
            let receipts = publish(core, drafts).await?;
            adapter::published_batch(&receipts, &topics)
        }
        Route::History(history) => history_page(core, parts, history).await?,
        Route::Topics(query) => adapter::topics(&core.shared.engine.topics(&query)),
        Route::Stream(_) | Route::RawSocket(_) | Route::TidingsSocket => {
            return open_streaming(core, parts, route, upgrade);
        }
        Route::StreamFromBody => {
            let body = read_body(core, body, limits.batch_bytes_max, RefusalCode::BatchTooLarge).await?;
            let stream = adapter::stream_from_body(parts, &body, limits)?;
            return open_streaming(core, parts, Route::Stream(stream), upgrade);
        }
        Route::Preflight => core.shared.cors.preflight(parts),
        Route::Health => adapter::text(StatusCode::OK, "ok\n"),
        Route::Ready => ready(core),
        Route::Metrics => adapter::page(metrics::MEDIA_TYPE, metrics::render(&core.shared).into()),
        Route::OpenApi => adapter::page("application/json", Bytes::from_static(adapter::OPENAPI)),
        Route::Page(path) => match page::asset(&path).filter(|_| core.shared.page) {
            Some(response) => response,
            None => return Err(not_found(&path)),
        },
    };
    let response = if core.shared.http_compression { adapter::compress(parts, response) } else { response };
    Ok(without_body_for_head(parts, response).map(Reply::from))
}

fn without_body_for_head(parts: &Parts, mut response: Response<Bytes>) -> Response<Bytes> {
    if parts.method == Method::HEAD {
        let length = response.body().len();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        *response.body_mut() = Bytes::new();
    }
    response
}

fn not_found(path: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NotFound,
        format!("nothing is at `{path}`: topics are under /v1/topics/, and /openapi.json lists every path"),
    )
}

fn ready(core: &Core) -> Response<Bytes> {
    match core.shared.engine.health() {
        _ if core.shared.is_draining() => {
            adapter::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
        }
        EngineHealth::Writable => adapter::text(StatusCode::OK, "ready\n"),
        // Subscribers are served all the same: taking the server out would cut them off too.
        EngineHealth::Full => adapter::text(StatusCode::OK, "ready, but the storage is full: publishing is refused\n"),
        EngineHealth::Failed(reason) => adapter::text(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("the log takes no writes: {reason}\n"),
        ),
    }
}

async fn read_body(
    core: &Core,
    mut body: Incoming,
    max: usize,
    code: RefusalCode,
) -> Result<Bytes, Refusal> {
    let limit = Duration::from_millis(core.shared.limits.request_body_ms_max);
    let too_large = || {
        Refusal::new(code, format!("the body has more than {max} bytes: send less at once, or raise the limit in `limits`"))
    };
    // What the head announces is refused before it is sent.
    if hyper::body::Body::size_hint(&body).lower() > max as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal::new(RefusalCode::BadRequest, format!("the body broke off: {error}"))
            })?;
            if let Ok(piece) = frame.into_data() {
                if whole.len() + piece.len() > max {
                    return Err(too_large());
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

async fn publish(core: &Core, drafts: Vec<Draft>) -> Result<Vec<Receipt>, Refusal> {
    if core.is_draining() {
        let detail = "the server is going down: publish again in a moment, with the same idempotency key";
        return Err(Refusal::new(RefusalCode::ShuttingDown, detail));
    }
    let (sender, receiver) = oneshot::channel();
    let principal = core.shared.anonymous();
    core.with(|shard| {
        // The requester may be gone by then; the message is committed all the same.
        shard.publish(&principal, drafts, Box::new(move |result| drop(sender.send(result))));
    });
    receiver.await.unwrap_or_else(|_| Err(lost()))
}

async fn read_page(
    core: &Core,
    wanted: Wanted,
    messages_max: usize,
) -> Result<(Page, Option<Gap>), Refusal> {
    let (sender, receiver) = oneshot::channel();
    let principal = core.shared.anonymous();
    core.with(|shard| {
        let reply = Box::new(move |result| drop(sender.send(result)));
        shard.read(&principal, wanted, messages_max, reply);
    });
    receiver.await.unwrap_or_else(|_| Err(lost()))
}

/// The shard ended before it answered.
fn lost() -> Refusal {
    Refusal::new(RefusalCode::ShuttingDown, "the server went down before it could answer: try again")
}

async fn history_page(
    core: &Rc<Core>,
    parts: &Parts,
    history: History,
) -> Result<Response<Bytes>, Refusal> {
    let wanted = Wanted { filters: history.filters.clone(), start: history.start.clone() };
    let (page, gap) = read_page(core, wanted, history.limit).await?;
    let epoch = core.shared.engine.epoch();
    let empty = page.messages.is_empty() && gap.is_none();
    match history.wait.filter(|_| empty) {
        Some(wait) => {
            let after = tidings_types::Cursor { epoch, offset: page.scanned_to };
            long_poll(core, history, after, wait).await
        }
        None => Ok(adapter::history(parts, &history, &page, gap.as_ref(), epoch)),
    }
}

/// Waits for the first message after a position, as a subscription like any other.
async fn long_poll(
    core: &Rc<Core>,
    history: History,
    after: tidings_types::Cursor,
    wait: Duration,
) -> Result<Response<Bytes>, Refusal> {
    let conversation = PollConversation::new(history.filters, after, wait);
    let principal = core.shared.anonymous();
    let id = core.connect_pulled(Box::new(conversation), principal);
    let stream = Stream::new(Rc::clone(core), id);
    let first = poll_fn(|cx| core.poll_frame(stream.id(), cx)).await;
    let mut frames: Vec<Bytes> = first.into_iter().collect();
    core.with(|shard| {
        if let Some(outbox) = shard.outbox(id) {
            while frames.len() < history.limit {
                let Some(frame) = outbox.pop() else { break };
                frames.push(frame);
            }
        }
    });
    Ok(adapter::polled(&frames, after))
}

/// A stream that is about to be opened: its response head, and its conversation.
pub struct OpenStream {
    /// Status and headers.
    pub head: http::response::Parts,
    /// Who takes over.
    pub conversation: Box<dyn Conversation>,
}

/// Prepares a stream or WebSocket for a request, or says why not.
pub fn open_stream(core: &Core, parts: &Parts, route: Route) -> Result<OpenStream, Response<Bytes>> {
    let prepared = if core.is_draining() {
        Err(Refusal::new(RefusalCode::ShuttingDown, "the server is going down: come back in a moment"))
    } else {
        prepare(core, parts, route)
    };
    match prepared {
        Ok(mut stream) => {
            core.shared.cors.apply(parts, &mut stream.head.headers);
            Ok(stream)
        }
        Err(refusal) => {
            core.shared.metrics.refused(refusal.code);
            let mut response = adapter::problem(&refusal);
            core.shared.cors.apply(parts, response.headers_mut());
            adapter::secure(response.headers_mut());
            Err(response)
        }
    }
}

fn prepare(core: &Core, parts: &Parts, route: Route) -> Result<OpenStream, Refusal> {
    let shared = &core.shared;
    let limits = Arc::clone(&shared.limits);
    let principal = shared.anonymous();
    // The hub admits the subscription itself; asked before, a refusal can still be a status.
    let admit = |filters, start| gate::subscribe(&principal, Wanted { filters, start }, &limits);
    let handshake = |subprotocols: &[&'static str]| {
        let options = HandshakeOptions {
            subprotocols,
            origins: &shared.origins,
            deflate: shared.websocket_compression,
        };
        websocket::accept(&Request::from_parts(parts.clone(), ()), options)
    };
    match route {
        Route::Stream(request) => {
            admit(request.filters.clone(), request.start.clone())?;
            let gzip = shared.sse_compression && request.gzip;
            let head = request.response_head(gzip);
            let conversation = SseConversation::new(request, gzip, limits.clone());
            Ok(OpenStream { head, conversation: Box::new(conversation) })
        }
        Route::RawSocket(raw) => {
            admit(vec![raw.filter.clone()], raw.start.clone())?;
            let accepted = handshake(&[])?;
            let options = RawOptions {
                filter: raw.filter,
                start: raw.start,
                echo: raw.echo,
                deflate: accepted.deflate,
            };
            let conversation = RawConversation::new(options, limits.clone());
            Ok(OpenStream { head: switching(&accepted)?, conversation: Box::new(conversation) })
        }
        _ => {
            let accepted = handshake(&[websocket::SUBPROTOCOL])?;
            let conversation = TidingsConversation::new(accepted.deflate, limits.clone());
            Ok(OpenStream { head: switching(&accepted)?, conversation: Box::new(conversation) })
        }
    }
}

fn switching(accepted: &websocket::Accepted) -> Result<http::response::Parts, Refusal> {
    let mut builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in &accepted.headers {
        builder = builder.header(name, value);
    }
    let response = builder.body(()).map_err(|error| {
        Refusal::new(RefusalCode::Internal, format!("the handshake's answer is no response: {error}"))
    })?;
    Ok(response.into_parts().0)
}

/// Opens a stream on a connection that hyper reads and writes: any HTTP/2 stream, and one that is not the
/// first request of its HTTP/1.1 connection.
fn open_streaming(
    core: &Rc<Core>,
    parts: &Parts,
    route: Route,
    upgrade: hyper::upgrade::OnUpgrade,
) -> Result<Response<Reply>, Refusal> {
    let stream = match open_stream(core, parts, route) {
        Ok(stream) => stream,
        Err(response) => return Ok(response.map(Reply::from)),
    };
    let OpenStream { mut head, conversation } = stream;
    head.version = parts.version;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let core = Rc::clone(core);
        let open = core.open();
        tokio::task::spawn_local(async move {
            match upgrade.await {
                Ok(upgraded) => serve_upgraded(core, conversation, upgraded).await,
                Err(error) => tracing::trace!(%error, "an upgrade broke off"),
            }
            drop(open);
        });
        return Ok(Response::from_parts(head, Reply::Full(None)));
    }
    // Hyper frames the body, and may keep the connection.
    head.headers.remove(header::CONNECTION);
    let id = core.connect_pulled(conversation, core.shared.anonymous());
    Ok(Response::from_parts(head, Reply::Stream(Stream::new(Rc::clone(core), id))))
}

async fn serve_upgraded(
    core: Rc<Core>,
    conversation: Box<dyn Conversation>,
    upgraded: hyper::upgrade::Upgraded,
) {
    let parts = match upgraded.downcast::<Rewound>() {
        Ok(parts) => parts,
        Err(_) => return tracing::error!("an upgraded connection was not one of ours"),
    };
    // What hyper read ahead comes before what it had not yet read of the first bytes.
    let (unread, socket) = parts.io.into_parts();
    let mut rest = BytesMut::from(&parts.read_buf[..]);
    rest.extend_from_slice(&unread);
    socket::run(core, conversation, socket, Bytes::new(), rest).await;
}

/// Counts a request while it is answered.
struct Counted<'a> {
    core: &'a Core,
}

impl<'a> Counted<'a> {
    fn new(core: &'a Core) -> Self {
        core.with(|shard| {
            let counts = &shard.metrics().protocols[Protocol::Http.index()];
            counts.connections.add(1);
            counts.connections_total.add(1);
        });
        Self { core }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.core.with(|shard| {
            shard.metrics().protocols[Protocol::Http.index()].connections.sub(1);
        });
    }
}
