//! Pages of messages, and how long a cache may keep them.
//!
//! **What `immutable` means here.** A message never changes and the order of the log never changes, so that a
//! full page after a cursor can only change by losing messages: when their time to live or their retention
//! passes. Such a page is `immutable` for as long as it loses none by age: `max-age` ends when the first of its
//! messages expires or passes its retention age, and is a year where neither is set. Within that time a copy in
//! a cache is never wrong, but it may outlive the log's own copy where retention by bytes or by count removes
//! messages early: a reader then gets more than the log has, never less. A server whose messages must be gone
//! everywhere at once sets [`Caching::age_max`] to zero, and every page is revalidated.
//!
//! A page at the head grows, one that starts at `earliest`, `last` or `retained` moves, and one with a gap says
//! something about now: they are `no-cache` and revalidate by `ETag`. A page for which a credential was shown is
//! `private`: what one principal may read another may not.

use std::hash::Hasher as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, ETAG, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tidings_ports::{Gap, Page, Start};
use tidings_types::{Cursor, Epoch, Timestamp, TopicFilter};

use super::compress::CODINGS;
use super::credential::is_shown_in_subprotocol;
use super::response::{header_value, json_response, page_body, page_signals};
use super::route::is_secret_parameter;
use crate::envelope::JsonEnvelope;
use crate::query::pairs;

/// A request for messages that are there, or that come within a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// What to read; at least one.
    pub filters: Vec<TopicFilter>,
    /// Where to start.
    pub start: Start,
    /// At most this many messages; from 1 to `limits.page_messages_max`.
    pub limit: usize,
    /// How long to wait for a first message if there is none: see [`poll`](crate::poll). Never zero.
    pub wait: Option<Duration>,
}

/// What a history request found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The page.
    pub page: &'a Page,
    /// What is missing before it, if something is.
    pub gap: Option<&'a Gap>,
    /// The log's identity, for cursors.
    pub epoch: Epoch,
}

/// What the server knows about how long messages are kept, for [`history`].
#[derive(Clone, Copy, Debug)]
pub struct Caching {
    /// The wall clock.
    pub now: Timestamp,
    /// The shortest `age_max` of the retention rules that could match; `None` if nothing is removed by age.
    pub age_max: Option<Duration>,
    /// Whether everybody may read what this reader may. If not, it is for this reader's own cache alone.
    pub is_public: bool,
}

/// A year: "for ever" in `max-age`.
const FOR_EVER_S: u64 = 31_536_000;

/// The page as `{"messages":[..],"next":"<cursor>","more":bool}`, with `"gap":{..}` if something is missing;
/// 304 if the request has it already.
///
/// `next` is where to read on, and is there on an empty page too. `Tidings-Next` repeats it, and `Tidings-Gap`
/// the reason of a gap, for scripts that do not read JSON.
#[must_use]
pub fn history(
    parts: &Parts,
    request: &History,
    found: &Found<'_>,
    caching: Caching,
) -> Response<Bytes> {
    let Found { page, gap, epoch } = *found;
    let next = Cursor {
        epoch,
        offset: page.scanned_to,
    };
    let frames: Vec<Bytes> = page
        .messages
        .iter()
        .map(|message| message.frame(&JsonEnvelope))
        .collect();
    let body = page_body(&frames, next, gap, Some(!page.at_head));
    let mut response = Response::new(Bytes::new());
    if parts.method == Method::GET || parts.method == Method::HEAD {
        let tag = entity_tag(&body);
        let matched = matching_tag(&parts.headers, &tag);
        let fresh_s = match (&request.start, gap) {
            (Start::After(_), None) if !page.at_head => fresh_s(page, caching),
            _ => 0,
        };
        if matched.is_some() {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            response = json_response(StatusCode::OK, body);
        }
        let headers = response.headers_mut();
        headers.insert(ETAG, header_value(&matched.unwrap_or(tag)));
        headers.insert(
            CACHE_CONTROL,
            cache_control(parts, caching.is_public, fresh_s),
        );
        headers.insert(
            VARY,
            HeaderValue::from_static(
                "Accept, Accept-Encoding, Authorization, Cookie, Last-Event-ID",
            ),
        );
    } else {
        // What was asked for is in the body, which is no part of a cache's key.
        response = json_response(StatusCode::OK, body);
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    page_signals(response.headers_mut(), next, gap);
    response
}

/// For how many seconds none of the messages of a full page is removed by its age.
fn fresh_s(page: &Page, caching: Caching) -> u64 {
    let ends = page.messages.iter().flat_map(|message| {
        let retained_to = caching.age_max.map(|age| message.time.plus(age));
        [message.expires, retained_to].into_iter().flatten()
    });
    match (ends.min(), page.messages.is_empty(), caching.age_max) {
        (Some(end), ..) => end.since(caching.now).as_secs().min(FOR_EVER_S),
        // Nothing matched in a stretch of the log, and nothing ever will.
        (None, true, Some(Duration::ZERO)) => 0,
        (None, ..) => FOR_EVER_S,
    }
}

fn cache_control(parts: &Parts, is_public: bool, fresh_s: u64) -> HeaderValue {
    let scope = if is_public && !shows_credential(parts) {
        "public"
    } else {
        "private"
    };
    if fresh_s == 0 {
        return header_value(&format!("{scope}, no-cache"));
    }
    header_value(&format!("{scope}, max-age={fresh_s}, immutable"))
}

fn shows_credential(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    parts.headers.contains_key(AUTHORIZATION)
        || parts.headers.contains_key(COOKIE)
        || is_shown_in_subprotocol(parts)
        || pairs(query).any(|(name, _)| is_secret_parameter(name))
}

/// A strong entity tag (RFC 9110, 8.8.3): of the bytes, so that equal tags are equal bodies, and bodies of
/// another version of the server have other tags.
fn entity_tag(body: &[u8]) -> String {
    let mut hasher = SipHasher13::new();
    hasher.write(body);
    format!("\"{:032x}\"", hasher.finish128().as_u128())
}

/// The tag of `If-None-Match` that names this body, in whatever content coding the client has it.
fn matching_tag(headers: &HeaderMap, tag: &str) -> Option<String> {
    let bare = tag.trim_matches('"');
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .find_map(|known| {
            if known == "*" {
                return Some(tag.to_owned());
            }
            // The comparison is weak (RFC 9110, 13.1.2).
            let opaque = known.strip_prefix("W/").unwrap_or(known);
            let inner = opaque.strip_prefix('"')?.strip_suffix('"')?;
            let coding = inner.strip_prefix(bare)?;
            let same = coding.is_empty()
                || coding
                    .strip_prefix('-')
                    .is_some_and(|coding| CODINGS.contains(&coding));
            same.then(|| opaque.to_owned())
        })
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
