//! The opening handshake (RFC 6455 4.2).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Method, Request, Version};
use sha1::{Digest as _, Sha1};
use tidings_types::{Refusal, RefusalCode};

use super::extension::{Deflate, is_token_byte};
use super::origin::Origins;

/// RFC 6455 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Some clients leave bits behind the key's 16 bytes that are not zero.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What the server offers at one path.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeOptions<'a> {
    /// The names that are spoken there, the preferred first. None of them chosen is accepted too, and left
    /// to the caller.
    pub subprotocols: &'a [&'static str],
    /// The pages that may connect.
    pub origins: &'a Origins,
    /// Whether to agree to permessage-deflate.
    pub deflate: bool,
}

/// A handshake to be answered with 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The headers of the answer.
    pub headers: Vec<(HeaderName, String)>,
    /// The chosen one, of [`HandshakeOptions::subprotocols`].
    pub subprotocol: Option<&'static str>,
    /// The compression, if it was agreed on.
    pub deflate: Option<Deflate>,
}

impl Accepted {
    /// The answer as HTTP/1.1, up to and including the empty line.
    #[must_use]
    pub fn response_head(&self) -> Bytes {
        let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a String takes every write");
        }
        head.push_str("\r\n");
        head.into()
    }
}

/// Judges a client's opening handshake. A refusal with [`RefusalCode::UpgradeRequired`] is to be answered with
/// the headers `Upgrade: websocket` and `Sec-WebSocket-Version: 13` (RFC 6455 4.4, RFC 9110 15.5.22).
pub fn accept<B>(request: &Request<B>, options: HandshakeOptions<'_>) -> Result<Accepted, Refusal> {
    if request.method() != Method::GET {
        let detail = "a WebSocket is opened by GET";
        return Err(Refusal::new(RefusalCode::MethodNotAllowed, detail));
    }
    if request.version() != Version::HTTP_11 {
        let detail = "a WebSocket is opened over HTTP/1.1";
        return Err(Refusal::new(RefusalCode::BadVersion, detail));
    }
    let headers = request.headers();
    let host = check_upgrade(headers)?;
    let accept_key = accept_key(headers)?;
    check_origin(headers, host, options.origins)?;
    let subprotocol = choose_subprotocol(headers, options.subprotocols)?;
    let deflate = negotiate(headers, options.deflate)?;

    let mut answer = vec![
        (UPGRADE, "websocket".to_owned()),
        (CONNECTION, "Upgrade".to_owned()),
        (SEC_WEBSOCKET_ACCEPT, accept_key),
    ];
    if let Some(name) = subprotocol {
        answer.push((SEC_WEBSOCKET_PROTOCOL, name.to_owned()));
    }
    if let Some(deflate) = deflate {
        answer.push((SEC_WEBSOCKET_EXTENSIONS, deflate.answer()));
    }
    Ok(Accepted {
        headers: answer,
        subprotocol,
        deflate,
    })
}

/// Whether the client wants a WebSocket of our version; the host that it names.
fn check_upgrade(headers: &HeaderMap) -> Result<&str, Refusal> {
    if !lists(headers, &UPGRADE, "websocket") {
        return Err(Refusal::new(
            RefusalCode::UpgradeRequired,
            "send `Upgrade: websocket`; if the client did, a proxy in between removed it and must be told to pass it on",
        ));
    }
    if !lists(headers, &CONNECTION, "upgrade") {
        return Err(bad_request(
            "send `Connection: Upgrade`; if the client did, a proxy in between removed it and must be told to pass it on",
        ));
    }
    let version = only(headers, &SEC_WEBSOCKET_VERSION)?;
    if version != Some("13") {
        return Err(Refusal::new(
            RefusalCode::UpgradeRequired,
            "WebSocket version 13 is spoken here (RFC 6455): send `Sec-WebSocket-Version: 13`",
        ));
    }
    only(headers, &HOST)?.ok_or_else(|| bad_request("the Host header is missing"))
}

fn accept_key(headers: &HeaderMap) -> Result<String, Refusal> {
    let key = only(headers, &SEC_WEBSOCKET_KEY)?.unwrap_or_default();
    let mut nonce = [0u8; 18];
    if !matches!(KEY_BASE64.decode_slice(key, &mut nonce), Ok(16)) {
        return Err(bad_request("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let digest = Sha1::new()
        .chain_update(key.as_bytes())
        .chain_update(ACCEPT_GUID)
        .finalize();
    Ok(STANDARD.encode(digest))
}

fn check_origin(headers: &HeaderMap, host: &str, origins: &Origins) -> Result<(), Refusal> {
    let Some(origin) = only(headers, &ORIGIN)? else {
        return Ok(());
    };
    if origins.permits(origin, host) {
        return Ok(());
    }
    let shown: String = origin.chars().take(200).collect();
    let detail =
        format!("add `{shown}` to the permitted origins of the server to let its pages connect");
    Err(Refusal::new(RefusalCode::BadOrigin, detail))
}

/// The server's preferred one among those that the client offers.
fn choose_subprotocol(
    headers: &HeaderMap,
    preferred: &[&'static str],
) -> Result<Option<&'static str>, Refusal> {
    let offered = joined(headers, &SEC_WEBSOCKET_PROTOCOL)?;
    let names = offered
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    if !names.clone().all(|name| name.bytes().all(is_token_byte)) {
        return Err(bad_request(
            "Sec-WebSocket-Protocol must be a list of tokens",
        ));
    }
    Ok(preferred
        .iter()
        .find(|known| names.clone().any(|name| name == **known))
        .copied())
}

fn negotiate(headers: &HeaderMap, wanted: bool) -> Result<Option<Deflate>, Refusal> {
    let offered = joined(headers, &SEC_WEBSOCKET_EXTENSIONS)?;
    let agreed = Deflate::negotiate(&offered).map_err(|_| {
        bad_request("Sec-WebSocket-Extensions is not a list of extensions (RFC 6455 9.1)")
    })?;
    Ok(agreed.filter(|_| wanted))
}

/// Whether the list in this header, or in several of them, holds the word in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|element| element.trim().eq_ignore_ascii_case(word))
}

/// The value of a header that may not be repeated.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim())),
        _ => Err(bad_request(&format!(
            "the header `{name}` must stand once, in ASCII"
        ))),
    }
}

/// A list header whose lines are one list (RFC 9110 5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Result<String, Refusal> {
    let mut list = String::new();
    for value in headers.get_all(name) {
        let text = value
            .to_str()
            .map_err(|_| bad_request(&format!("the header `{name}` must be ASCII")))?;
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(text);
    }
    Ok(list)
}

fn bad_request(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::BadRequest, detail)
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
