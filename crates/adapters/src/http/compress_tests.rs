use std::io::Read as _;

use super::*;
use crate::http::testing::{get, header};

fn plain(body: &str, content_type: &str) -> Response<Bytes> {
    Response::builder()
        .header("content-type", content_type)
        .header("etag", "\"tag\"")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap()
}

fn decoded(response: &Response<Bytes>) -> Vec<u8> {
    let body = &response.body()[..];
    let mut out = Vec::new();
    match header(response, "content-encoding") {
        Some("gzip") => {
            flate2::read::GzDecoder::new(body)
                .read_to_end(&mut out)
                .unwrap();
        }
        Some("br") => {
            brotli::Decompressor::new(body, 4_096)
                .read_to_end(&mut out)
                .unwrap();
        }
        Some("zstd") => out = zstd::decode_all(body).unwrap(),
        Some(other) => panic!("{other}"),
        None => out = body.to_vec(),
    }
    out
}

fn long() -> String {
    let items: Vec<String> = (0..200).map(|n| format!("{{\"n\":{n}}}")).collect();
    items.join(",")
}

#[test]
fn bodies_come_back_from_every_coding() {
    let body = long();
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("br", Some("br")),
        ("zstd", Some("zstd")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, br;q=0.9, zstd;q=0.8", Some("gzip")),
        ("gzip, deflate, br", Some("br")),
        ("*", Some("zstd")),
        ("*, zstd;q=0", Some("br")),
        ("gzip;q=0", None),
        ("deflate", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", Some("gzip")),
        ("", None),
    ] {
        let parts = get("/", &[&format!("accept-encoding: {accept}")]);
        let response = compress(&parts, plain(&body, "application/json"));
        assert_eq!(header(&response, "content-encoding"), coding, "{accept}");
        assert_eq!(decoded(&response), body.as_bytes(), "{accept}");
        assert_eq!(
            header(&response, "vary"),
            Some("Accept-Encoding"),
            "{accept}"
        );
        let tag = coding.map_or("\"tag\"".to_owned(), |coding| format!("\"tag-{coding}\""));
        assert_eq!(header(&response, "etag"), Some(tag.as_str()));
        assert_eq!(response.body().len() < body.len(), coding.is_some());
    }
    let response = compress(&get("/", &[]), plain(&body, "application/json"));
    assert_eq!(header(&response, "content-encoding"), None);
}

#[test]
fn what_does_not_gain_is_left_alone() {
    let parts = get("/", &["accept-encoding: gzip"]);
    let is_plain = |response: Response<Bytes>| {
        let response = compress(&parts, response);
        header(&response, "content-encoding").is_none()
    };
    assert!(is_plain(plain("short", "application/json")));
    assert!(is_plain(plain(&long(), "image/png")));
    assert!(is_plain(plain(&long(), "text/event-stream")));
    // 256 different bytes have nothing to gain.
    let noise: Vec<u8> = (0..=255).collect();
    let mut random = plain("", "text/plain");
    *random.body_mut() = Bytes::from(noise);
    assert!(is_plain(random));
    let mut transformed = plain(&long(), "text/plain");
    let caching = HeaderValue::from_static("no-cache, no-transform");
    transformed.headers_mut().insert(CACHE_CONTROL, caching);
    assert!(is_plain(transformed));
    assert!(!is_plain(plain(&long(), "application/problem+json")));
    assert!(!is_plain(plain(&long(), "text/html; charset=utf-8")));
}

#[test]
fn a_body_is_not_encoded_twice_and_a_weak_tag_stays() {
    let parts = get("/", &["accept-encoding: gzip"]);
    let mut encoded = plain(&long(), "application/json");
    encoded
        .headers_mut()
        .insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
    let response = compress(&parts, encoded);
    assert_eq!(response.body(), long().as_bytes());
    let mut weak = plain(&long(), "application/json");
    weak.headers_mut()
        .insert(ETAG, HeaderValue::from_static("W/\"x\""));
    let response = compress(&parts, weak);
    assert_eq!(header(&response, "content-encoding"), Some("gzip"));
    assert_eq!(header(&response, "etag"), Some("W/\"x\""));
}

#[test]
fn vary_is_named_once() {
    let parts = get("/", &["accept-encoding: gzip"]);
    let mut response = plain(&long(), "application/json");
    let vary = HeaderValue::from_static("Accept, accept-encoding");
    response.headers_mut().insert(VARY, vary);
    let response = compress(&parts, response);
    assert_eq!(response.headers().get_all(VARY).iter().count(), 1);
}
