//! The headers that keep browsers from doing more with an answer than it is for.

use http::HeaderMap;
use http::header::{HeaderValue, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};

use tidings_adapters::http as adapter;

use super::Shared;

/// Adds what every answer has; over TLS also that the host is to be asked over TLS alone, if that is wished for
/// (RFC 6797).
pub fn secure(shared: &Shared, secured: bool, headers: &mut HeaderMap) {
    // What has a policy of its own has it already.
    if !headers.contains_key(X_CONTENT_TYPE_OPTIONS) {
        adapter::secure(headers);
    }
    let reloadable = shared.reloadable();
    if let Some(hsts) = reloadable.hsts.as_ref().filter(|_| secured) {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
}

/// The header's value for a time in seconds; 0 is none.
pub fn hsts(seconds: u64) -> Option<HeaderValue> {
    let value = HeaderValue::try_from(format!("max-age={seconds}"));
    value.ok().filter(|_| seconds > 0)
}
