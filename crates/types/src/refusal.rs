//! What a peer may be refused, in one table: the slug, and what each protocol says for it.

use std::fmt;
use std::time::Duration;

macro_rules! refusals {
    ($($(#[$doc:meta])* $code:ident $slug:literal $http:literal $ws:literal $mqtt:literal $title:literal,)*) => {
        /// Why a peer was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalCode {
            $($(#[$doc])* $code,)*
        }

        impl RefusalCode {
            /// Every code, in the order of their indexes.
            pub const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// The stable name: the problem document's `code`, the metrics label.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$code => $slug,)* }
            }

            /// The HTTP status (RFC 9110, 15).
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$code => $http,)* }
            }

            /// The WebSocket close code (RFC 6455, 7.4), where the refusal ends the connection.
            #[must_use]
            pub const fn close_code(self) -> u16 {
                match self { $(Self::$code => $ws,)* }
            }

            /// The MQTT 5 reason code (MQTT 5, 2.4).
            #[must_use]
            pub const fn mqtt_reason(self) -> u8 {
                match self { $(Self::$code => $mqtt,)* }
            }

            /// A short text for people: the problem document's `title`, STOMP's `message` header.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

refusals! {
    // code slug http close mqtt title
    /// The request is not what its protocol allows.
    BadRequest "bad-request" 400 1002 0x82 "The request is malformed",
    /// The text is no topic.
    BadTopic "bad-topic" 400 1008 0x90 "The topic name is not valid",
    /// The text is no filter.
    BadFilter "bad-filter" 400 1008 0x8f "The topic filter is not valid",
    /// The text is no cursor.
    BadCursor "bad-cursor" 400 1008 0x83 "The cursor is not valid",
    /// The body or frame is no JSON, or not the JSON that is expected here.
    BadJson "bad-json" 400 1007 0x83 "The JSON is not valid",
    /// A header or parameter has a value that it cannot have.
    BadParameter "bad-parameter" 400 1008 0x83 "A parameter is not valid",
    /// Text that must be UTF-8 is not.
    BadText "bad-text" 400 1007 0x99 "The text is not valid UTF-8",
    /// A frame breaks its protocol.
    BadFrame "bad-frame" 400 1002 0x81 "The frame breaks the protocol",
    /// A credential is missing or wrong.
    Unauthorized "unauthorized" 401 1008 0x87 "A valid credential is required",
    /// The principal may not do this.
    Forbidden "forbidden" 403 1008 0x87 "This is not permitted",
    /// The page's origin may not.
    BadOrigin "bad-origin" 403 1008 0x87 "This origin is not permitted",
    /// There is nothing at this path.
    NotFound "not-found" 404 1008 0x83 "There is nothing here",
    /// The path is right, the method is not.
    MethodNotAllowed "method-not-allowed" 405 1002 0x83 "The method is not allowed here",
    /// None of the offered representations is accepted.
    NotAcceptable "not-acceptable" 406 1003 0x83 "No acceptable representation",
    /// A message of a work queue is not, or not any more, this consumer's to settle.
    NotYours "not-yours" 409 1008 0x83 "The message is not this consumer's",
    /// The head, or the body, did not arrive in time.
    RequestTimeout "request-timeout" 408 1008 0x8d "The request took too long",
    /// A request whose body must say its length does not.
    LengthRequired "length-required" 411 1002 0x82 "A length is required",
    /// The message is over the limit. MQTT says 0x95 of packets alone, and may not say it in a PUBACK.
    MessageTooLarge "message-too-large" 413 1009 0x83 "The message is too large",
    /// The batch is over the limit.
    BatchTooLarge "batch-too-large" 413 1009 0x95 "The batch is too large",
    /// The body's media type is not one that this path takes.
    UnsupportedMediaType "unsupported-media-type" 415 1003 0x83 "The media type is not supported here",
    /// An expectation other than `100-continue`.
    ExpectationFailed "expectation-failed" 417 1002 0x83 "The expectation cannot be met",
    /// Not a WebSocket of a version that is spoken here.
    UpgradeRequired "upgrade-required" 426 1002 0x84 "A WebSocket upgrade is required",
    /// More subscriptions, filters or topics than permitted.
    TooManySubscriptions "too-many-subscriptions" 429 1008 0x97 "Too many subscriptions",
    /// The log knows as many topics as it may.
    TooManyTopics "too-many-topics" 429 1008 0x97 "Too many topics",
    /// The server keeps as many sessions as it may.
    TooManySessions "too-many-sessions" 429 1008 0x97 "Too many sessions",
    /// What is to be kept of a session is over the limit.
    SessionTooLarge "session-too-large" 413 1009 0x97 "The session is too large",
    /// The identity has as many connections as it may.
    TooManyConnections "too-many-connections" 429 1013 0x97 "Too many connections",
    /// Too many requests in a time, or at once.
    RateLimited "rate-limited" 429 1008 0x96 "Too many requests",
    /// The request's line and headers are over the limit.
    HeadTooLarge "head-too-large" 431 1009 0x95 "The request head is too large",
    /// A bug of ours.
    Internal "internal" 500 1011 0x83 "The server failed",
    /// A queue is full; the same request may succeed in a moment.
    Busy "busy" 503 1013 0x89 "The server is busy",
    /// The server has as many connections as it may.
    AtCapacity "at-capacity" 503 1013 0x9f "The server is at its connection limit",
    /// The server is going down.
    ShuttingDown "shutting-down" 503 1012 0x8b "The server is restarting",
    /// The log failed and takes no writes until the server is restarted.
    StorageFailed "storage-failed" 503 1011 0x83 "The log cannot be written",
    /// The disk is full; reading goes on.
    StorageFull "storage-full" 507 1013 0x97 "The log has no space left",
    /// The peer was silent for too long.
    Silent "silent" 408 1001 0x8d "The peer was silent for too long",
    /// The HTTP version is not spoken here.
    BadVersion "bad-version" 505 1002 0x84 "The protocol version is not supported",
}

impl RefusalCode {
    /// The position in [`RefusalCode::ALL`], for tables of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// After how many seconds the same request may succeed (`Retry-After`), if waiting helps.
    #[must_use]
    pub const fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::Busy | Self::RateLimited => Some(1),
            Self::AtCapacity | Self::ShuttingDown | Self::TooManyConnections => Some(5),
            Self::StorageFull => Some(30),
            _ => None,
        }
    }
}

/// A refusal with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// What was wrong with this request and what to do, in a sentence; names the limit where there is one.
    /// Never holds a secret.
    pub detail: String,
    /// After how many milliseconds the same request may succeed, where that is known better than by the code.
    pub after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            after_ms: None,
        }
    }

    /// The same, with the time after which the request may succeed.
    #[must_use]
    pub fn after_ms(mut self, ms: u64) -> Self {
        self.after_ms = Some(ms);
        self
    }

    /// After which time the same request may succeed, if waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let known = self.after_ms.map(Duration::from_millis);
        let usual = || {
            self.code
                .retry_after_s()
                .map(|s| Duration::from_secs(s.into()))
        };
        known.or_else(usual)
    }

    /// The same in whole seconds, at least one (`Retry-After`).
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u64> {
        let ms = self.retry_after()?.as_millis();
        u64::try_from(ms.div_ceil(1_000).max(1)).ok()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.title(), self.detail)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_codes_that_its_protocols_allow() {
        for (index, code) in RefusalCode::ALL.iter().enumerate() {
            assert_eq!(code.index(), index);
            assert!((400..=511).contains(&code.http_status()), "{code:?}");
            // RFC 6455 7.4.1: these codes never travel.
            assert!(![1005, 1006, 1015].contains(&code.close_code()), "{code:?}");
            assert!(code.mqtt_reason() >= 0x80, "{code:?}");
            assert!(!code.slug().contains(char::is_uppercase));
        }
    }

    #[test]
    fn the_time_to_come_back_is_never_told_shorter_than_it_is() {
        let refusal = Refusal::new(RefusalCode::RateLimited, "slow down");
        assert_eq!(refusal.retry_after_s(), Some(1));
        for (ms, s) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (61_000, 61)] {
            let refusal = refusal.clone().after_ms(ms);
            assert_eq!(refusal.retry_after(), Some(Duration::from_millis(ms)));
            assert_eq!(refusal.retry_after_s(), Some(s), "{ms} ms");
        }
        let forbidden = Refusal::new(RefusalCode::Forbidden, "no");
        assert_eq!(forbidden.retry_after_s(), None);
    }
}
