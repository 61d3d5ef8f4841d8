//! Content negotiation: lists with quality values (RFC 9110, 12.4.2).

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

/// A quality value in thousandths: 0 is "not acceptable", 1000 the most wanted.
pub type Quality = u16;

/// The members of a list header with their qualities, over all lines of that name, in order. Names are as
/// written; a quality that is no number counts as 0.
fn weighted(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = (&str, Quality)> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|member| {
            let mut parts = member.split(';').map(str::trim);
            let name = parts.next().filter(|name| !name.is_empty())?;
            let quality = parts
                .filter_map(|parameter| parameter.split_once('='))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
                .map_or(1_000, |(_, value)| quality(value.trim()));
            Some((name, quality))
        })
}

fn quality(text: &str) -> Quality {
    match text.parse::<f32>() {
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1_000.0) as Quality,
        _ => 0,
    }
}

/// How much `Accept` wants this media type, and whether it names it in full (and not by `*`). Without the
/// header everything is wanted. The most specific range that matches decides (RFC 9110, 12.5.1).
pub fn media_quality(headers: &HeaderMap, media_type: &str) -> (Quality, bool) {
    if !headers.contains_key(ACCEPT) {
        return (1_000, false);
    }
    let kind = media_type.split('/').next().unwrap_or_default();
    let mut best = (0, 0);
    for (range, quality) in weighted(headers, ACCEPT) {
        let specific = if range.eq_ignore_ascii_case(media_type) {
            3
        } else if range == "*/*" || range == "*" {
            1
        } else {
            match range.split_once('/') {
                Some((range, "*")) if range.eq_ignore_ascii_case(kind) => 2,
                _ => continue,
            }
        };
        if specific > best.0 {
            best = (specific, quality);
        }
    }
    (best.1, best.0 == 3)
}

/// How much `Accept-Encoding` wants this coding; `None` if it says nothing about it. `identity` is wanted a
/// little unless the header excludes it (RFC 9110, 12.5.3).
pub fn coding_quality(headers: &HeaderMap, coding: &str) -> Option<Quality> {
    let mut any = None;
    for (name, quality) in weighted(headers, ACCEPT_ENCODING) {
        // `x-gzip` is an old name of gzip (RFC 9110, 8.4.1.3).
        let name = if name.eq_ignore_ascii_case("x-gzip") {
            "gzip"
        } else {
            name
        };
        if name.eq_ignore_ascii_case(coding) {
            return Some(quality);
        }
        if name == "*" {
            any = Some(quality);
        }
    }
    any
}

/// Whether a body in this coding may be sent; `otherwise` if the request does not say.
pub fn accepts_coding(headers: &HeaderMap, coding: &str, otherwise: bool) -> bool {
    if !headers.contains_key(ACCEPT_ENCODING) {
        return otherwise;
    }
    coding_quality(headers, coding).is_some_and(|quality| quality > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_most_specific_media_range_decides() {
        for (accept, media_type, expect) in [
            ("*/*", "application/json", (1_000, false)),
            ("application/json", "application/json", (1_000, true)),
            ("Application/JSON;q=0.5", "application/json", (500, true)),
            ("text/*;q=0.3, */*;q=0.1", "text/event-stream", (300, false)),
            ("*/*, text/event-stream;q=0", "text/event-stream", (0, true)),
            ("image/png", "application/json", (0, false)),
            (
                "application/json; charset=utf-8; q=0.2",
                "application/json",
                (200, true),
            ),
            ("application/json;q=2", "application/json", (0, true)),
            ("", "application/json", (0, false)),
        ] {
            let read = media_quality(&headers(ACCEPT, accept), media_type);
            assert_eq!(read, expect, "{accept}");
        }
        assert_eq!(media_quality(&HeaderMap::new(), "a/b"), (1_000, false));
    }

    #[test]
    fn codings_have_qualities() {
        for (accept, coding, expect) in [
            ("gzip, br", "br", Some(1_000)),
            ("gzip;q=0", "gzip", Some(0)),
            ("*;q=0.2", "zstd", Some(200)),
            ("x-gzip", "gzip", Some(1_000)),
            ("br", "gzip", None),
            ("", "gzip", None),
        ] {
            let read = coding_quality(&headers(ACCEPT_ENCODING, accept), coding);
            assert_eq!(read, expect, "{accept}");
        }
        assert!(accepts_coding(&HeaderMap::new(), "gzip", true));
        assert!(!accepts_coding(
            &headers(ACCEPT_ENCODING, "br"),
            "gzip",
            true
        ));
    }
}
