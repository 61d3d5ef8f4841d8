//! Frames become bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::command::Command;
use super::escape::Escapes;
use super::version::Version;

/// A heart-beat.
pub const HEART_BEAT: &[u8] = b"\n";

/// Names that [`Encoder::shared_message`] and the heads before it write themselves.
const NAMES_OF_MESSAGE: [&str; 6] = [
    "subscription",
    "ack",
    "destination",
    "message-id",
    "content-type",
    "content-length",
];

/// Writes frames for peers of one version.
///
/// Headers that the version cannot carry are left out: an empty name, NUL, and in 1.0, CONNECT and CONNECTED,
/// which have no escapes, LF and a colon in the name. Before 1.2 CR is written as it is, and is lost at the end
/// of a value where the peer takes CR LF for the end of a line. In 1.0 the peer may trim spaces off a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    version: Version,
}

/// What a message has in common for all subscribers. The user's headers lose those whose names MESSAGE has for
/// itself.
#[derive(Clone, Copy, Debug)]
pub struct OutboundMessage<'a> {
    /// Where it was sent.
    pub destination: &'a str,
    /// Its unique name.
    pub message_id: &'a str,
    /// The media type of the body.
    pub content_type: Option<&'a str>,
    /// The user's headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// The bytes.
    pub body: &'a [u8],
}

impl Encoder {
    /// For peers of this version. For a peer whose version is not known, 1.0 is what it understands.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self { version }
    }

    /// Appends a frame. `content-length` is written if the command has a body, and only then, whatever the
    /// headers say of it; the body of another command is left out.
    pub fn frame<'a>(
        self,
        command: Command,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
        body: &[u8],
        out: &mut BytesMut,
    ) {
        let escapes = Escapes::of(command, Some(self.version));
        put_command(command, out);
        for (name, value) in headers {
            if name != "content-length" {
                put_header(escapes, name, value, out);
            }
        }
        if command.has_body() {
            put_body(body, out);
        } else {
            out.put_slice(b"\n\0");
        }
    }

    /// The first part of a MESSAGE for one subscriber: appends the command and its own headers (`subscription`,
    /// `ack`). They win over those of the shared part, because they stand first.
    pub fn own_message<'a>(
        self,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
        out: &mut BytesMut,
    ) {
        put_command(Command::Message, out);
        for (name, value) in headers {
            put_header(self.message_escapes(), name, value, out);
        }
    }

    /// The second part of a MESSAGE, which is the same for every subscriber of this version.
    #[must_use]
    pub fn shared_message(self, message: &OutboundMessage<'_>) -> Bytes {
        let escapes = self.message_escapes();
        let headers_len: usize = message
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum();
        let fixed_len = message.destination.len() + message.message_id.len();
        let mut out = BytesMut::with_capacity(fixed_len + headers_len + message.body.len() + 128);
        put_header(escapes, "destination", message.destination, &mut out);
        put_header(escapes, "message-id", message.message_id, &mut out);
        if let Some(content_type) = message.content_type {
            put_header(escapes, "content-type", content_type, &mut out);
        }
        for (name, value) in message.headers {
            if !NAMES_OF_MESSAGE.contains(name) {
                put_header(escapes, name, value, &mut out);
            }
        }
        put_body(message.body, &mut out);
        out.freeze()
    }

    const fn message_escapes(self) -> Escapes {
        Escapes::of(Command::Message, Some(self.version))
    }
}

fn put_command(command: Command, out: &mut BytesMut) {
    out.put_slice(command.as_str().as_bytes());
    out.put_u8(b'\n');
}

fn put_header(escapes: Escapes, name: &str, value: &str, out: &mut BytesMut) {
    if escapes.carries(name, value) {
        escapes.put(name, out);
        out.put_u8(b':');
        escapes.put(value, out);
        out.put_u8(b'\n');
    }
}

/// The length, the end of the headers, the body and its NUL.
fn put_body(body: &[u8], out: &mut BytesMut) {
    out.put_slice(b"content-length:");
    out.put_slice(itoa::Buffer::new().format(body.len()).as_bytes());
    out.put_slice(b"\n\n");
    out.put_slice(body);
    out.put_u8(0);
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
