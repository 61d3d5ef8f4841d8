//! The first bytes of a connection: who speaks what.
//!
//! The head of the first request is read here. A GET that opens a stream or a WebSocket over HTTP/1.1 is
//! served from here on a bare socket, so that the HTTP machinery costs it nothing while it is idle. Everything
//! else goes to hyper, with the bytes that were read put back. The two never disagree about where a request
//! ends: what is served here has no body, and anything that could have one is hyper's.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Request, Response, header};
use hyper_util::rt::TokioTimer;
use tidings_adapters::http as adapter;
use tidings_adapters::http::Route;
use tidings_types::{Principal, Refusal, RefusalCode};
use tokio::time::timeout;

use super::body::{OnThisShard, Rewound};
use super::core::Core;
use super::link::Link;
use super::shard::{Place, Seat};
use super::streams::{self, Serves};
use super::{first_line, headers, mqtt, requests, socket};

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// Bytes of one stream of HTTP/2 that wait for its window: a frame of the usual size.
pub const HTTP2_UNSENT_MAX: usize = 16 << 10;
/// Bytes of one read of a head.
const READ_BYTES: usize = 4 << 10;

/// What the first bytes turned out to be.
pub enum First {
    /// The end.
    Closed,
    /// HTTP/2.
    Two,
    /// A request head of HTTP/1, and its length.
    One(Box<Parts>, usize),
}

/// What a connection turned out to be for.
enum Opened {
    /// A conversation on the bare socket.
    Stream(socket::Begin),
    /// MQTT over WebSocket.
    Mqtt(mqtt::Upgraded),
    /// HTTP/1.1, and what was read of it.
    Http1(Link, Bytes),
    /// HTTP/2, and what was read of it.
    Http2(Link, Bytes),
}

/// Finds out what a connection is for, and serves it in a task of its own until it ends.
pub async fn serve(core: Rc<Core>, socket: Link, mut place: Place) {
    match open(&core, socket, &mut place).await {
        None => {}
        Some(Opened::Stream(begin)) => socket::start(core, begin, place).await,
        Some(Opened::Mqtt(upgraded)) => Box::pin(mqtt::serve_upgraded(core, upgraded, place)).await,
        Some(Opened::Http1(socket, first)) => {
            tokio::task::spawn_local(serve_http1(core, socket, first, place));
        }
        Some(Opened::Http2(socket, first)) => {
            tokio::task::spawn_local(serve_http2(core, socket, first, place));
        }
    }
}

/// Reads the first request's head, and answers it if nothing more comes of it.
async fn open(core: &Rc<Core>, mut socket: Link, place: &mut Place) -> Option<Opened> {
    let mut bytes = BytesMut::new();
    let limit = Duration::from_millis(core.shared.limits.handshake_ms_max);
    let read = tokio::select! {
        read = timeout(limit, read_first(core, &mut socket, &mut bytes)) => read,
        // A browser opens connections ahead of need; nobody waits for those to speak.
        () = core.draining() => return None,
    };
    let first = match read {
        Ok(Ok(first)) => first,
        Ok(Err(refusal)) => {
            refuse(core, socket, refusal).await;
            return None;
        }
        Err(_) => {
            let detail = format!(
                "no whole request head came within {} ms (limits.handshake_ms_max)",
                core.shared.limits.handshake_ms_max
            );
            let refusal = Refusal::new(RefusalCode::RequestTimeout, detail);
            refuse(core, socket, refusal).await;
            return None;
        }
    };
    match first {
        // Before it said anything.
        First::Closed => None,
        First::Two => Some(Opened::Http2(socket, bytes.freeze())),
        First::One(parts, head) => match streaming(core, &parts) {
            Some(route) => {
                bytes.advance(head);
                *place = Seat::of_request(place, &core.shared, &parts.headers);
                let opener = match place.count(&core.shared) {
                    Ok(()) => Box::pin(streams::opener(core, &parts, place, &route)).await,
                    Err(refusal) => Err(refusal),
                };
                open_stream(core, socket, (&parts, place, opener), route, bytes).await
            }
            None => Some(Opened::Http1(socket, bytes.freeze())),
        },
    }
}

/// Reads until it is known what the peer speaks.
pub async fn read_first(
    core: &Core,
    socket: &mut Link,
    bytes: &mut BytesMut,
) -> Result<First, Refusal> {
    let max = core.shared.limits.request_head_bytes_max;
    loop {
        // No buffer is held for a peer that says nothing.
        if socket.readable().await.is_err() {
            return Ok(First::Closed);
        }
        // What is not whole yet is looked at without a turn, or whoever sends a byte at a time would take all of them.
        bytes.reserve(READ_BYTES);
        let before = bytes.len();
        let first = match socket.try_read_buf(bytes) {
            Ok(0) => return Ok(First::Closed),
            // Only the end of a line can be the end of a head.
            Ok(_) if before > 0 && !bytes[before..].contains(&b'\n') => None,
            Ok(_) => classify(bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => return Ok(First::Closed),
        };
        if let Some(first) = first {
            core.step_of_opening(|| ()).await;
            return Ok(first);
        }
        if bytes.len() > max {
            let detail = format!(
                "the request's line and headers have more than {max} bytes (limits.request_head_bytes_max)"
            );
            return Err(Refusal::new(RefusalCode::HeadTooLarge, detail));
        }
    }
}

fn classify(bytes: &[u8]) -> Result<Option<First>, Refusal> {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Ok(Some(First::Two));
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Ok(None);
    }
    if first_line::is_tls(bytes) {
        tracing::debug!("tls came to the http listener without tls");
        return Err(Refusal::new(
            RefusalCode::BadRequest,
            "this is TLS, and the port is without: write http://, or use the port with TLS (http.tls)",
        ));
    }
    if first_line::is_mqtt(bytes) {
        tracing::debug!("mqtt came to the http listener");
        return Err(Refusal::new(
            RefusalCode::BadRequest,
            "this is MQTT, which has a port of its own (mqtt.listen), and is at /mqtt over WebSocket",
        ));
    }
    if first_line::is_stomp(bytes) {
        tracing::debug!("stomp came to the http listener");
        return Err(Refusal::new(
            RefusalCode::BadRequest,
            "this is STOMP, which has a port of its own (stomp.listen), and is at /stomp over WebSocket",
        ));
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            Ok(Some(First::One(Box::new(parts_of(&request)?), length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Refusal::new(
            RefusalCode::HeadTooLarge,
            format!("the request has more than {HEADERS_MAX} headers"),
        )),
        Err(httparse::Error::Version) => Err(Refusal::new(
            RefusalCode::BadVersion,
            "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here",
        )),
        Err(error) => Err(Refusal::new(
            RefusalCode::BadRequest,
            format!("this is not HTTP: {error}"),
        )),
    }
}

fn parts_of(request: &httparse::Request<'_, '_>) -> Result<Parts, Refusal> {
    let bad = |what: &str| Refusal::new(RefusalCode::BadRequest, format!("{what} is not valid"));
    let mut builder = Request::builder()
        .method(request.method.unwrap_or_default())
        .uri(request.path.unwrap_or_default())
        .version(match request.version {
            Some(0) => http::Version::HTTP_10,
            _ => http::Version::HTTP_11,
        });
    for header in request.headers.iter() {
        builder = builder.header(header.name, header.value);
    }
    let (parts, ()) = builder
        .body(())
        .map_err(|_| bad("the request's target or a header"))?
        .into_parts();
    Ok(parts)
}

/// The route, if the request is one that is served on the bare socket.
fn streaming(core: &Core, parts: &Parts) -> Option<Route> {
    let could_have_body = parts.headers.contains_key(header::TRANSFER_ENCODING)
        || parts.headers.contains_key(header::EXPECT)
        || parts.headers.contains_key(header::CONTENT_LENGTH);
    if parts.method != Method::GET || could_have_body {
        return None;
    }
    // Refusals too are hyper's to answer, as the connection goes on after them.
    let routed = adapter::route(parts, &core.shared.limits).ok();
    routed.filter(streams::is_stream)
}

async fn open_stream(
    core: &Core,
    socket: Link,
    (parts, place, opener): (&Parts, &Place, Result<Arc<Principal>, Refusal>),
    route: Route,
    rest: BytesMut,
) -> Option<Opened> {
    let opened = opener.and_then(|principal| {
        let stream = streams::open(core, (parts, place), &principal, route)?;
        Ok((stream, principal))
    });
    match opened {
        Ok((mut stream, principal)) => {
            if stream.head.status == http::StatusCode::OK {
                // The end of an event stream is the end of the connection (RFC 9112, 6.3).
                let close = header::HeaderValue::from_static("close");
                stream.head.headers.insert(header::CONNECTION, close);
            }
            if stream.head.status == http::StatusCode::OK {
                headers::secure(&core.shared, socket.is_secured(), &mut stream.head.headers);
            }
            let head = head_bytes(&stream.head);
            Some(match stream.serves {
                Serves::Conversation(conversation) => Opened::Stream(socket::Begin {
                    principal,
                    conversation,
                    socket,
                    head,
                    rest,
                }),
                Serves::Mqtt(shown) => Opened::Mqtt(mqtt::Upgraded {
                    socket,
                    head,
                    rest,
                    shown,
                }),
            })
        }
        Err(refusal) => {
            core.shared.metrics.refused(refusal.code);
            let mut response = streams::refused(core, parts, &refusal);
            core.shared
                .reloadable()
                .cors
                .apply(parts, response.headers_mut());
            answer_and_close(core, socket, response).await;
            None
        }
    }
}

async fn serve_http1(core: Rc<Core>, socket: Link, first: Bytes, place: Place) {
    let limits = &core.shared.limits;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.idle_ms_max))
        .max_buf_size(limits.request_head_bytes_max.max(8 << 10))
        .half_close(false)
        .pipeline_flush(true);
    let service = requests::Requests::new(Rc::clone(&core), place, socket.is_secured());
    let connection = builder
        .serve_connection(Rewound::new(first, socket), service)
        .with_upgrades();
    let connection = pin!(connection);
    until_it_ends(&core, connection, |connection| {
        connection.graceful_shutdown();
    })
    .await;
}

/// Runs an HTTP connection; when the server goes down, it takes no further requests.
pub async fn until_it_ends<C: Future<Output = hyper::Result<()>>>(
    core: &Core,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) {
    let mut told = false;
    loop {
        tokio::select! {
            // The connection first: a request that is here already is answered before the goodbye.
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    requests::note_http_error(core, &error);
                }
                return;
            }
            () = core.draining(), if !told => {
                told = true;
                finish(connection.as_mut());
            }
        }
    }
}

async fn serve_http2(core: Rc<Core>, socket: Link, first: Bytes, place: Place) {
    let limits = &core.shared.limits;
    let mut builder = hyper::server::conn::http2::Builder::new(OnThisShard);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(limits.heartbeat_ms))
        .keep_alive_timeout(Duration::from_millis(limits.silence_ms_max))
        .max_concurrent_streams(limits.http2_streams_max)
        .max_header_list_size(u32::try_from(limits.request_head_bytes_max).unwrap_or(u32::MAX))
        // A stream's bytes wait in its outbox, not here as well.
        .max_send_buf_size(HTTP2_UNSENT_MAX);
    let service = requests::Requests::new(Rc::clone(&core), place, socket.is_secured());
    let connection = builder.serve_connection(Rewound::new(first, socket), service);
    let connection = pin!(connection);
    until_it_ends(&core, connection, |connection| {
        connection.graceful_shutdown();
    })
    .await;
}

/// Refuses a connection that did not get as far as a request.
pub async fn refuse(core: &Core, socket: Link, refusal: Refusal) {
    core.shared.metrics.refused(refusal.code);
    answer_and_close(core, socket, adapter::problem(&refusal)).await;
}

/// Tells somebody who opened the port of another protocol.
pub async fn refuse_http(core: &Core, socket: Link, spoken: &str) {
    tracing::debug!(spoken, "http came to the wrong listener");
    let detail = format!("{spoken} is spoken here: HTTP has a port of its own (http.listen)");
    refuse(core, socket, Refusal::new(RefusalCode::BadRequest, detail)).await;
}

/// Counts a peer that began TLS where it is not spoken; it would take any answer for broken TLS.
pub fn refuse_tls(core: &Core, spoken: &str) {
    tracing::debug!(spoken, "tls came to a listener without tls");
    core.shared.metrics.refused(RefusalCode::BadRequest);
}

/// Writes a last answer.
pub async fn answer_and_close(core: &Core, mut socket: Link, mut response: Response<Bytes>) {
    headers::secure(&core.shared, socket.is_secured(), response.headers_mut());
    let limit = Duration::from_millis(core.shared.limits.close_ms_max);
    if !matches!(timeout(limit, socket.writable()).await, Ok(Ok(()))) {
        return;
    }
    // It is small, and the socket is new: what its buffer does not take is not worth waiting for.
    match socket.try_write(&whole_response(response)) {
        Ok(_) => socket::linger(socket, core.shared.limits.close_ms_max).await,
        Err(error) => tracing::trace!(%error, "a refusal could not be written"),
    }
}

/// A response, and the connection's end.
fn whole_response(mut response: Response<Bytes>) -> Bytes {
    let body = std::mem::take(response.body_mut());
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, body.len().into());
    response.headers_mut().insert(
        header::CONNECTION,
        header::HeaderValue::from_static("close"),
    );
    let (parts, _) = response.into_parts();
    let mut bytes = BytesMut::from(&head_bytes(&parts)[..]);
    bytes.extend_from_slice(&body);
    bytes.freeze()
}

/// A response head in HTTP/1.1's syntax (RFC 9112, 4).
fn head_bytes(parts: &http::response::Parts) -> Bytes {
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(parts.status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(
        parts
            .status
            .canonical_reason()
            .unwrap_or("Unknown")
            .as_bytes(),
    );
    head.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_is_spoken() {
        assert!(matches!(classify(HTTP2_PREFACE), Ok(Some(First::Two))));
        assert!(matches!(classify(b"PRI * HT"), Ok(None)));
        assert!(matches!(classify(b"P"), Ok(None)));
        assert!(matches!(
            classify(b"POST /v1/topics/a HTTP/1.1\r\nHost: x\r\n"),
            Ok(None)
        ));
        let whole = b"GET /v1/topics/a HTTP/1.1\r\nHost: x\r\n\r\nrest";
        assert!(
            matches!(classify(whole), Ok(Some(First::One(_, length))) if length == whole.len() - 4)
        );
        let connect = classify(b"\x10\x0c\x00\x04MQTT").err().unwrap();
        assert!(connect.detail.contains("mqtt.listen"), "{connect}");
        let connect = classify(b"CONNECT\naccept-version:1.2\n").err().unwrap();
        assert!(connect.detail.contains("stomp.listen"), "{connect}");
        assert!(matches!(classify(b"CONNECT host:1 HTTP/1.1\r\n"), Ok(None)));
        for garbage in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"\x10\x0c\x00\x04MQTT",
            b"CONNECT\n\n\0",
            b"GET / HTTP/3\r\n\r\n",
        ] {
            assert!(classify(garbage).is_err(), "{garbage:?}");
        }
    }
}
