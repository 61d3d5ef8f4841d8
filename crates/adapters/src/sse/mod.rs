//! Server-Sent Events (the WHATWG HTML standard, 9.2): messages as an event stream.
//!
//! [`event`] encodes, [`gzip`] packs so that one compressed event serves every subscriber, and
//! [`SseConversation`] is one open stream. A stream only ever goes out: what its peer sends is discarded. The
//! rules with their sources and tests are in `WIRE.md` beside this file.

mod conversation;
pub mod event;
pub mod gzip;

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response, response};
use tidings_ports::Start;
use tidings_types::{FrameFormat, TopicFilter};

pub use conversation::{SseConversation, come_back};
pub use event::is_reserved_event;

use crate::http::secure;

/// What `data` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The payload as it is.
    Raw,
    /// The message as a JSON object, with its topic.
    Envelope,
}

impl Format {
    /// The frame format of a stream, by the names `sse/raw`, `sse/envelope` and both with `+gzip`.
    #[must_use]
    pub fn frames(self, gzip: bool) -> &'static dyn FrameFormat {
        match (self, gzip) {
            (Self::Raw, false) => &event::SseRaw,
            (Self::Envelope, false) => &event::SseEnvelope,
            (Self::Raw, true) => &gzip::SseRawGzip,
            (Self::Envelope, true) => &gzip::SseEnvelopeGzip,
        }
    }
}

/// A request for an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseRequest {
    /// What to deliver; at least one.
    pub filters: Vec<TopicFilter>,
    /// Where to start.
    pub start: Start,
    /// What `data` carries.
    pub format: Format,
    /// Whether the stream begins with 2 KiB of comment, for proxies and old clients that hold back the start of
    /// a body.
    pub padding: bool,
    /// Whether the client takes the stream compressed, by `?gzip=` or else by `Accept-Encoding`. The server may
    /// still not compress it.
    pub gzip: bool,
}

impl SseRequest {
    /// The head of the stream's response, for a stream that is compressed or not. It has no length: over HTTP/1.1
    /// the front ends it by closing, or sends chunks. Who may read it is added by [`Cors`](crate::http::Cors).
    #[must_use]
    pub fn response_head(&self, gzip: bool) -> response::Parts {
        event_stream_head(gzip)
    }
}

fn event_stream_head(gzip: bool) -> response::Parts {
    let mut head = Response::new(()).into_parts().0;
    let headers = &mut head.headers;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // `no-transform` keeps proxies from compressing, and thereby buffering, the stream.
    let caching = HeaderValue::from_static("no-cache, no-transform");
    headers.insert(CACHE_CONTROL, caching);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    let vary =
        HeaderValue::from_static("Accept, Accept-Encoding, Authorization, Cookie, Last-Event-ID");
    headers.insert(VARY, vary);
    secure(headers);
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    head
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
