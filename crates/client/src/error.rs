//! What can go wrong with one try, and whose fault it is.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use tidings_types::RefusalCode;

use crate::mqtt::{PacketError, Unsendable};
use crate::tls;
use crate::websocket::{CloseFrame, FrameError};

/// The server said no, or is not believed to be the one that is meant. Whether asking again helps,
/// [`Refused::is_permanent`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status, or the one that stands for the code in the refusal table.
    pub status: u16,
    /// The refusal's slug, as in `bad-topic`; empty if the answer was no problem document.
    pub code: String,
    /// What was wrong and what to do about it.
    pub detail: String,
    /// When the server asks to be asked again.
    pub retry_after: Option<Duration>,
}

/// The members of a problem document (RFC 9457, 3.1) that are used here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    title: String,
    detail: String,
}

impl Refused {
    /// Reads an error answer. A body that is no problem document is quoted, at most its first line.
    pub fn from_answer(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        let detail = match (problem.detail.is_empty(), problem.title.is_empty()) {
            (false, _) => problem.detail,
            (true, false) => problem.title,
            (true, true) => {
                let text = String::from_utf8_lossy(body);
                let line = text.trim().lines().next().unwrap_or_default();
                format!("the server answered {status}: {line:.200}")
            }
        };
        Self {
            status,
            code: problem.code,
            detail,
            retry_after,
        }
    }

    /// From a `tidings.v1` error: the code's status is looked up in the refusal table. A code that is not in
    /// it is of a newer server, and permanent unless that server says when to come back.
    pub fn from_code(code: &str, detail: &str, retry_after: Option<Duration>) -> Self {
        let known = RefusalCode::ALL.iter().find(|known| known.slug() == code);
        let unknown = if retry_after.is_some() { 503 } else { 400 };
        Self {
            status: known.map_or(unknown, |known| known.http_status()),
            code: code.to_owned(),
            detail: detail.to_owned(),
            retry_after,
        }
    }

    /// Whether the same request would be refused again: a 4xx other than 408 and 429, or an answer that is no
    /// error at all, and so not of a Tidings server.
    pub fn is_permanent(&self) -> bool {
        self.status < 500 && self.status != 408 && self.status != 429
    }
}

impl From<Unsendable> for Refused {
    fn from(unsendable: Unsendable) -> Self {
        let code = match unsendable {
            Unsendable::Long(_) | Unsendable::Nul(_) => "bad-parameter",
            Unsendable::Packet => "message-too-large",
        };
        Self::from_code(code, &unsendable.to_string(), None)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "refused: {}", self.detail),
            code => write!(f, "refused ({code}): {}", self.detail),
        }
    }
}

impl std::error::Error for Refused {}

/// Why a connection could not be used, or no longer. Always worth another try.
#[derive(Debug)]
pub enum Lost {
    /// No connection.
    Connect(io::Error),
    /// Reading or writing failed.
    Io(io::Error),
    /// The server closed the connection without a word.
    Closed,
    /// The server closed the WebSocket and said why.
    ClosedWith(CloseFrame),
    /// The server is going away and says so.
    Draining,
    /// Nothing came for so long.
    Silent(Duration),
    /// The answer is not HTTP, or not the one that is expected.
    Answer(&'static str),
    /// The frames are not those of a WebSocket.
    Frame(FrameError),
    /// The packets are not those of MQTT.
    Packet(PacketError),
    /// The server sent JSON that `tidings.v1`, or the envelope, does not know.
    Json(String),
    /// Not now: a refusal that is not permanent.
    Refused(Refused),
}

impl Lost {
    /// The wait that the server asked for.
    pub fn told_wait(&self) -> Option<Duration> {
        match self {
            Self::Refused(refused) => refused.retry_after,
            Self::ClosedWith(close) => told_wait(&close.reason),
            _ => None,
        }
    }
}

/// A raw WebSocket has no place for the reconnect time but the close reason: `restarting, reconnect in 250 ms`.
/// Neither has MQTT, but the reason string.
pub(crate) fn told_wait(reason: &str) -> Option<Duration> {
    let (_, after) = reason.rsplit_once("reconnect in ")?;
    let ms = after.strip_suffix(" ms")?.parse().ok()?;
    Some(Duration::from_millis(ms))
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::ClosedWith(close) if close.reason.is_empty() => {
                write!(
                    f,
                    "the server closed the connection with code {}",
                    close.code
                )
            }
            Self::ClosedWith(close) => write!(
                f,
                "the server closed the connection with code {}: {}",
                close.code, close.reason
            ),
            Self::Draining => f.write_str("the server said goodbye"),
            Self::Silent(after) => write!(f, "nothing came for {} s", after.as_secs()),
            Self::Answer(what) => write!(f, "the server's answer is not understood: {what}"),
            Self::Frame(error) => write!(f, "the server breaks the WebSocket protocol: {error}"),
            Self::Packet(error) => write!(f, "the server breaks the MQTT protocol: {error}"),
            Self::Json(what) => write!(f, "the server's JSON is not understood: {what}"),
            Self::Refused(refused) => write!(f, "{refused}"),
        }
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Io(error) => Some(error),
            Self::Frame(error) => Some(error),
            Self::Packet(error) => Some(error),
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }
}

/// How one try failed.
#[derive(Debug)]
pub enum TryError {
    /// Another try may succeed.
    Lost(Lost),
    /// No other try will.
    Refused(Refused),
}

impl From<Refused> for TryError {
    fn from(refused: Refused) -> Self {
        if refused.is_permanent() {
            Self::Refused(refused)
        } else {
            Self::Lost(Lost::Refused(refused))
        }
    }
}

impl From<Lost> for TryError {
    fn from(lost: Lost) -> Self {
        let refused = match &lost {
            Lost::Connect(error) | Lost::Io(error) => tls::refused(error),
            _ => None,
        };
        refused.map_or(Self::Lost(lost), Self::Refused)
    }
}

impl fmt::Display for TryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(lost) => lost.fmt(f),
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

impl std::error::Error for TryError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_refused_again_is_permanent() {
        for (status, permanent) in [
            (400, true),
            (401, true),
            (404, true),
            (408, false),
            (413, true),
            (429, false),
            (500, false),
            (503, false),
            (507, false),
            (204, true),
            (301, true),
        ] {
            let refused = Refused::from_answer(status, None, b"");
            assert_eq!(refused.is_permanent(), permanent, "{status}");
        }
        for (code, retry_after, permanent) in [
            ("bad-topic", None, true),
            ("busy", Some(1), false),
            ("storage-failed", None, false),
            ("rate-limited", Some(1), false),
            ("of-a-newer-server", None, true),
            ("of-a-newer-server", Some(1), false),
        ] {
            let retry_after = retry_after.map(Duration::from_secs);
            let refused = Refused::from_code(code, "", retry_after);
            assert_eq!(refused.is_permanent(), permanent, "{code} {retry_after:?}");
        }
    }

    #[test]
    fn a_problem_document_gives_its_code_and_detail() {
        let body =
            br#"{"type":"about:blank","title":"T","status":400,"code":"bad-topic","detail":"D"}"#;
        let refused = Refused::from_answer(400, None, body);
        assert_eq!(refused.to_string(), "refused (bad-topic): D");
        let refused = Refused::from_answer(502, None, b"<html>\nbad gateway");
        assert_eq!(
            refused.to_string(),
            "refused: the server answered 502: <html>"
        );
    }

    #[test]
    fn the_wait_in_a_close_reason_is_found() {
        for (reason, expect_ms) in [
            ("restarting, reconnect in 250 ms", Some(250)),
            ("restarting", None),
            ("reconnect in x ms", None),
            ("", None),
        ] {
            let close = CloseFrame {
                code: 1012,
                reason: reason.into(),
            };
            let expect = expect_ms.map(Duration::from_millis);
            assert_eq!(Lost::ClosedWith(close).told_wait(), expect, "{reason}");
        }
    }
}
