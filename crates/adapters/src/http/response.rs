//! Answers as whole responses. Each carries `X-Content-Type-Options: nosniff` and says how it may be cached.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tidings_ports::{EngineHealth, Gap, TopicsPage};
use tidings_types::{Cursor, Epoch, Offset, Receipt, Refusal, RefusalCode, Timestamp, Topic};

use super::route::allowed;
use crate::envelope::{write_display, write_json_string};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// `201` for one committed message: `{"id","topic","time"}`, with `"replayed":true` if an earlier request with
/// the same key had published it already. `Location` is the history page of one message that begins with it.
#[must_use]
pub fn published(receipts: &[Receipt], topics: &[Topic]) -> Response<Bytes> {
    let ([receipt], [topic]) = (receipts, topics) else {
        debug_assert!(false, "one draft has one receipt");
        return published_batch(receipts, topics);
    };
    let mut body = Vec::with_capacity(96 + topic.as_str().len());
    write_receipt(receipt, topic, &mut body);
    let mut response = json_response(StatusCode::CREATED, body);
    let location = header_value(&location(receipt, topic));
    response.headers_mut().insert(LOCATION, location);
    response
}

/// `201` for a committed batch: `{"messages":[..]}` with what [`published`] says of one, in the batch's order.
#[must_use]
pub fn published_batch(receipts: &[Receipt], topics: &[Topic]) -> Response<Bytes> {
    debug_assert_eq!(receipts.len(), topics.len());
    let mut body = Vec::with_capacity(receipts.len() * 96 + 16);
    body.extend_from_slice(b"{\"messages\":[");
    for (at, (receipt, topic)) in receipts.iter().zip(topics).enumerate() {
        if at > 0 {
            body.push(b',');
        }
        write_receipt(receipt, topic, &mut body);
    }
    body.extend_from_slice(b"]}");
    json_response(StatusCode::CREATED, body)
}

fn write_receipt(receipt: &Receipt, topic: &Topic, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    write_display(&receipt.cursor, out);
    out.extend_from_slice(b"\",\"topic\":");
    write_json_string(topic.as_str(), out);
    out.extend_from_slice(b",\"time\":");
    write_number(receipt.time.0, out);
    if receipt.replayed {
        out.extend_from_slice(b",\"replayed\":true");
    }
    out.push(b'}');
}

fn location(receipt: &Receipt, topic: &Topic) -> String {
    let before = Cursor {
        epoch: receipt.cursor.epoch,
        offset: Offset(receipt.cursor.offset.0.saturating_sub(1)),
    };
    let mut text = String::from("/v1/topics/");
    for byte in topic.as_str().bytes() {
        // What a path holds as it is (RFC 3986, 3.3): unreserved, sub-delims, `:`, `@`, and the slashes.
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            text.push(byte as char);
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            text.push('%');
            text.push(HEX[usize::from(byte >> 4)] as char);
            text.push(HEX[usize::from(byte & 15)] as char);
        }
    }
    text.push_str("?after=");
    text.push_str(&before.to_string());
    text.push_str("&limit=1");
    text
}

/// The path at which the credential of an event stream is renewed.
#[must_use]
pub fn renewal_path(stream: &str) -> String {
    format!("/v1/streams/{stream}/auth")
}

/// `200` for a stream whose credential was renewed: `{"expires":<milliseconds since 1970>}`, or `{}` if it has no end.
#[must_use]
pub fn renewed(expires: Option<Timestamp>) -> Response<Bytes> {
    let mut body = b"{".to_vec();
    if let Some(expires) = expires {
        body.extend_from_slice(b"\"expires\":");
        write_number(expires.0, &mut body);
    }
    body.push(b'}');
    json_response(StatusCode::OK, body)
}

/// A problem document (RFC 9457) with the status, and the headers that belong to it: `Retry-After`,
/// `WWW-Authenticate` (401), `Upgrade` and `Sec-WebSocket-Version` (426).
///
/// `Connection: upgrade`, which goes with `Upgrade`, is for HTTP/1.1; over HTTP/2 the server leaves both away.
#[must_use]
pub fn problem(refusal: &Refusal) -> Response<Bytes> {
    let code = refusal.code;
    let status = code.http_status();
    let mut body = Vec::with_capacity(160 + refusal.detail.len());
    body.extend_from_slice(b"{\"type\":\"urn:tidings:problem:");
    body.extend_from_slice(code.slug().as_bytes());
    body.extend_from_slice(b"\",\"title\":");
    write_json_string(code.title(), &mut body);
    body.extend_from_slice(b",\"status\":");
    write_number(u64::from(status), &mut body);
    body.extend_from_slice(b",\"detail\":");
    write_json_string(&refusal.detail, &mut body);
    body.extend_from_slice(b",\"code\":\"");
    body.extend_from_slice(code.slug().as_bytes());
    body.extend_from_slice(b"\"}");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, body);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if let Some(seconds) = refusal.retry_after_s() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match code {
        RefusalCode::Unauthorized => {
            // RFC 9110, 11.6.1: one header for each.
            for challenge in [
                "Bearer realm=\"tidings\"",
                "Basic realm=\"tidings\", charset=\"UTF-8\"",
            ] {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        RefusalCode::UpgradeRequired => {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        _ => {}
    }
    response
}

/// The [`problem`] as the answer to this request: with `Allow`, where the method is what was wrong.
#[must_use]
pub fn refused(parts: &Parts, refusal: &Refusal) -> Response<Bytes> {
    let mut response = problem(refusal);
    if refusal.code == RefusalCode::MethodNotAllowed {
        let methods = HeaderValue::from_static(allowed(parts.uri.path()));
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

/// A page of the topic list: `{"topics":[{"topic","messages","last":"<cursor>","time","retained"}],"next":..}`.
/// `next` is a topic name to pass as `after`, and is there only if there are more.
#[must_use]
pub fn topics(epoch: Epoch, page: &TopicsPage) -> Response<Bytes> {
    let mut body = Vec::with_capacity(page.topics.len() * 112 + 32);
    body.extend_from_slice(b"{\"topics\":[");
    for (at, entry) in page.topics.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"topic\":");
        write_json_string(entry.topic.as_str(), &mut body);
        body.extend_from_slice(b",\"messages\":");
        write_number(entry.messages, &mut body);
        let last = Cursor {
            epoch,
            offset: entry.last,
        };
        body.extend_from_slice(b",\"last\":\"");
        write_display(&last, &mut body);
        body.extend_from_slice(b"\",\"time\":");
        write_number(entry.last_time.0, &mut body);
        let retained: &[u8] = if entry.retained { b"true}" } else { b"false}" };
        body.extend_from_slice(b",\"retained\":");
        body.extend_from_slice(retained);
    }
    body.push(b']');
    if let (true, Some(last)) = (page.more, page.topics.last()) {
        body.extend_from_slice(b",\"next\":");
        write_json_string(last.topic.as_str(), &mut body);
    }
    body.push(b'}');
    json_response(StatusCode::OK, body)
}

/// `200`: the process answers.
#[must_use]
pub fn health() -> Response<Bytes> {
    json_response(StatusCode::OK, b"{\"status\":\"ok\"}".to_vec())
}

/// `200` if a balancer may send peers here, `503` if not: going down, or the log has failed. With a full disk
/// subscribers are still served, so that it is ready, and says what is wrong.
#[must_use]
pub fn ready(engine: &EngineHealth, draining: bool) -> Response<Bytes> {
    let (status, word) = match engine {
        _ if draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        EngineHealth::Writable => (StatusCode::OK, "ready"),
        EngineHealth::Full => (StatusCode::OK, "read-only"),
        EngineHealth::Failed(_) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(b"{\"status\":\"");
    body.extend_from_slice(word.as_bytes());
    body.extend_from_slice(b"\",\"log\":");
    write_json_string(&engine.to_string(), &mut body);
    body.push(b'}');
    json_response(status, body)
}

/// A body of this media type as it is, not to be stored: metrics, the description of this interface.
#[must_use]
pub fn page(media_type: &'static str, body: Bytes) -> Response<Bytes> {
    response(StatusCode::OK, HeaderValue::from_static(media_type), body)
}

/// Adds what every response of ours has: no browser guesses its type, runs something in it, frames it, tells others its
/// address, or has a page of another origin load it as something that it is not. A page that may read it by
/// [`Cors`](super::Cors) is not kept from that.
pub fn secure(headers: &mut HeaderMap) {
    let policy = "default-src 'none'; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-resource-policy", same_origin);
}

/// Adds what a page of ours needs to be safe in a browser: nothing is loaded but from this server, nobody frames
/// it, and it leaks no address.
pub fn page_headers(headers: &mut HeaderMap) {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    secure(headers);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        (
            "permissions-policy",
            "camera=(), geolocation=(), microphone=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The body of a history page or a long-poll.
pub(crate) fn page_body(
    frames: &[Bytes],
    next: Cursor,
    gap: Option<&Gap>,
    more: Option<bool>,
) -> Vec<u8> {
    let bytes: usize = frames.iter().map(|frame| frame.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 256);
    body.extend_from_slice(b"{\"messages\":[");
    for (at, frame) in frames.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(frame);
    }
    body.extend_from_slice(b"],\"next\":\"");
    write_display(&next, &mut body);
    body.push(b'"');
    match more {
        Some(true) => body.extend_from_slice(b",\"more\":true"),
        Some(false) => body.extend_from_slice(b",\"more\":false"),
        None => {}
    }
    if let Some(gap) = gap {
        body.extend_from_slice(b",\"gap\":");
        write_gap(gap, &mut body);
    }
    body.push(b'}');
    body
}

/// Appends `{"reason":..,"after":"<cursor>"|null,"resume":"<cursor>"}`.
pub(crate) fn write_gap(gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"reason\":\"");
    out.extend_from_slice(gap.reason.name().as_bytes());
    out.extend_from_slice(b"\",\"after\":");
    match &gap.after {
        Some(cursor) => {
            out.push(b'"');
            write_display(cursor, out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"resume\":\"");
    write_display(&gap.resume, out);
    out.extend_from_slice(b"\"}");
}

/// Sets `Tidings-Next`, and `Tidings-Gap` if there is one.
pub(crate) fn page_signals(headers: &mut HeaderMap, next: Cursor, gap: Option<&Gap>) {
    headers.insert("tidings-next", header_value(&next.to_string()));
    if let Some(gap) = gap {
        headers.insert("tidings-gap", HeaderValue::from_static(gap.reason.name()));
    }
}

/// A JSON response that is not to be stored.
pub(crate) fn json_response(status: StatusCode, mut body: Vec<u8>) -> Response<Bytes> {
    // For those who read it in a terminal.
    body.push(b'\n');
    response(status, JSON, Bytes::from(body))
}

fn response(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, NO_STORE);
    secure(headers);
    response
}

/// A header value from text that is made here.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text)
        .expect("the text is printable ASCII: it is made of tokens, numbers and escapes")
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
