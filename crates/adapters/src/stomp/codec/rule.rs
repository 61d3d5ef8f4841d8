//! The rules that one frame can break, in one table, and what a server answers to it.

use std::fmt;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::command::Command;
use super::encoder::Encoder;
use super::version::Version;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident $section:literal $text:literal,)*) => {
        /// A rule of the specification, or a limit of the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The section of the specification of 1.2, which the older ones have too where they have the rule.
            #[must_use]
            pub const fn section(self) -> &'static str {
                match self { $(Self::$name => $section,)* }
            }

            /// What is wrong and what to do, for people: the header `message`, the log.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

rules! {
    /// Not a command of this version.
    UnknownCommand "Augmented BNF" "the command is unknown: write one of the STOMP version in capitals, alone on its line",
    /// A server's command from a client.
    ServerCommand "Client Frames" "only a server sends this command",
    /// A client's command from a server.
    ClientCommand "Server Frames" "only a client sends this command",
    /// Something before CONNECT.
    FirstNotConnect "Connecting" "the first frame must be CONNECT or STOMP",
    /// Something but CONNECTED or ERROR at first.
    FirstNotConnected "Connecting" "the first frame of a server must be CONNECTED or ERROR",
    /// CONNECT, STOMP or CONNECTED again.
    SecondConnect "Connecting" "the connection is open already: connect only once",
    /// A CR that does not end a line.
    StrayCarriageReturn "Augmented BNF" "a carriage return is not followed by a line feed: escape it as \\r",
    /// NUL before the empty line.
    NulInHeaders "Augmented BNF" "the frame ends within its headers: end them with an empty line",
    /// A line without a colon.
    HeaderWithoutColon "Augmented BNF" "a header has no colon: write it as name:value",
    /// A header without a name.
    EmptyHeaderName "Augmented BNF" "a header has no name: write it as name:value",
    /// Not one of the version's escapes.
    UndefinedEscape "Value Encoding" "a header has an undefined escape: write a backslash as two",
    /// Headers that are not UTF-8.
    IllFormedText "Value Encoding" "the headers are not UTF-8: encode them so",
    /// More headers than permitted.
    TooManyHeaders "Size Limits" "the frame has too many headers: send fewer",
    /// A header longer than permitted.
    HeaderTooLong "Size Limits" "a header is too long: shorten it",
    /// More bytes of headers than permitted.
    HeadersTooLarge "Size Limits" "the headers are too large together: shorten them",
    /// Not a number.
    ContentLength "Header content-length" "content-length is not a number: give the body's length in bytes",
    /// Two different lengths.
    ContentLengthConflict "Repeated Header Entries" "content-length is given twice and differs: give it once",
    /// A body longer than permitted.
    BodyTooLarge "Size Limits" "the body is too large: send less at once",
    /// A body where there is none.
    BodyNotAllowed "Body" "only SEND, MESSAGE and ERROR have a body: leave it out",
    /// No NUL after the announced length.
    BodyNotTerminated "Header content-length" "there is no NUL after content-length bytes: count the body's bytes and end it with NUL",
}

/// What the receiver does before it closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: the peer said nothing of STOMP, or is a server.
    Close,
    /// An ERROR frame.
    Error,
}

/// A peer broke a rule. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The version, if the connection had one.
    pub version: Option<Version>,
    /// What to send before closing.
    pub answer: Answer,
    /// The header `receipt` of the frame, if it was read and is for a receipt.
    pub receipt: Option<ByteString>,
}

impl Violation {
    /// The ERROR frame to send before closing, if there is one.
    #[must_use]
    pub fn farewell(&self) -> Option<Bytes> {
        if self.answer == Answer::Close {
            return None;
        }
        let mut out = BytesMut::new();
        // Before the connection has a version its client does not undo escapes.
        let encoder = Encoder::new(self.version.unwrap_or(Version::V10));
        let receipt = self.receipt.as_deref().map(|id| ("receipt-id", id));
        let headers = [("message", self.rule.text())].into_iter().chain(receipt);
        encoder.frame(Command::Error, headers, b"", &mut out);
        Some(out.freeze())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.rule.text(), self.rule.section())
    }
}

impl std::error::Error for Violation {}
