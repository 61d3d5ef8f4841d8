//! Content codings of whole responses (RFC 9110, 8.4 and 12.5.3). Streams have their own, see `sse`.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::accept::{Quality, coding_quality};

/// The codings that are spoken, the one that we want most first.
pub(super) const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// Below this a coding costs more than it saves.
const BYTES_MIN: usize = 256;

/// Encodes the body in the coding that the request wants most, if the body is large and regular enough.
///
/// A strong `ETag` becomes that of the encoded body by a suffix (`"x"` to `"x-gzip"`), as two different bodies
/// may not share one (RFC 9110, 8.8.3.3); [`history`](super::history) knows these suffixes in `If-None-Match`.
#[must_use]
pub fn compress(parts: &Parts, mut response: Response<Bytes>) -> Response<Bytes> {
    if !is_candidate(&response) {
        return response;
    }
    add_vary(response.headers_mut(), "Accept-Encoding");
    if response.body().len() < BYTES_MIN {
        return response;
    }
    let Some(coding) = preferred(&parts.headers) else {
        return response;
    };
    let encoded = match coding {
        "zstd" => zstd::bulk::compress(response.body(), 3).ok(),
        "br" => brotli(response.body()),
        _ => gzip(response.body()),
    };
    // Compressing in memory does not fail; if it did, the plain body is right as well.
    let Some(encoded) = encoded.filter(|encoded| encoded.len() < response.body().len()) else {
        return response;
    };
    *response.body_mut() = Bytes::from(encoded);
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    if let Some(tag) = headers.get(ETAG).and_then(|tag| suffixed(tag, coding)) {
        headers.insert(ETAG, tag);
    }
    response
}

fn is_candidate(response: &Response<Bytes>) -> bool {
    let headers = response.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let status = response.status();
    let whole = status != StatusCode::PARTIAL_CONTENT && status != StatusCode::NOT_MODIFIED;
    whole
        && !headers.contains_key(CONTENT_ENCODING)
        && !text(CACHE_CONTROL).is_some_and(|caching| caching.contains("no-transform"))
        && text(CONTENT_TYPE).is_some_and(is_compressible)
}

fn is_compressible(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    (essence.starts_with("text/") && essence != "text/event-stream")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence,
            "application/json" | "application/javascript" | "application/xml" | "application/wasm"
        )
}

/// The most wanted coding, ours to choose among equals; none if the client wants the plain body more.
fn preferred(headers: &HeaderMap) -> Option<&'static str> {
    let plain: Quality = coding_quality(headers, "identity").unwrap_or(1);
    let mut best: Option<(&'static str, Quality)> = None;
    for coding in CODINGS {
        let quality = coding_quality(headers, coding).unwrap_or(0);
        if quality > best.map_or(0, |(_, quality)| quality) {
            best = Some((coding, quality));
        }
    }
    // Named with the same quality, a coding is still meant to be used.
    best.filter(|(_, quality)| *quality >= plain)
        .map(|(coding, _)| coding)
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let out = Vec::with_capacity(body.len() / 3 + 64);
    let mut encoder = GzEncoder::new(out, Compression::new(6));
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

fn brotli(body: &[u8]) -> Option<Vec<u8>> {
    // Quality 4 costs about what gzip does; a window of 1 MiB is a whole page.
    let out = Vec::with_capacity(body.len() / 3 + 64);
    let mut encoder = brotli::CompressorWriter::new(out, 4_096, 4, 20);
    encoder.write_all(body).ok()?;
    Some(encoder.into_inner())
}

fn suffixed(tag: &HeaderValue, coding: &str) -> Option<HeaderValue> {
    let inner = tag.to_str().ok()?.strip_suffix('"')?;
    // A weak tag stands for any coding already.
    if inner.starts_with("W/") {
        return None;
    }
    HeaderValue::from_str(&format!("{inner}-{coding}\"")).ok()
}

/// Adds a name to `Vary`, if it is not there.
pub(super) fn add_vary(headers: &mut HeaderMap, name: &'static str) {
    let known = headers
        .get_all(VARY)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|known| known.trim() == "*" || known.trim().eq_ignore_ascii_case(name));
    if !known {
        headers.append(VARY, HeaderValue::from_static(name));
    }
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
