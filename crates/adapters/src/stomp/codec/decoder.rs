//! Bytes from a peer become frames.
//!
//! A frame is judged as early as it can be: its command at the first byte that fits none, its limits at the first
//! byte over them, its headers once their empty line is there, its body's length before a byte of the body is
//! waited for. No byte is looked at again when more arrive. The caller's input holds at most one frame's headers
//! or one body within the limits, and what was read with them.

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;

use super::command::{Command, Sender};
use super::frame::{Frame, Headers, Item};
use super::head::HeadReader;
use super::rule::{Answer, Rule, Violation};
use super::version::Version;

/// A body at least this long keeps the read buffer that it lies in, if it is most of it; any other is copied out, so
/// that it does not hold a whole buffer for as long as it stays in memory.
const SHARE_BYTES_MIN: usize = 16 << 10;

/// What a connection's frames are judged by (Size Limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Headers of one frame. Each costs more in memory than on the wire.
    pub header_count_max: usize,
    /// One header as it is on the wire, without the end of its line.
    pub header_line_bytes_max: usize,
    /// All lines after the command, with their ends and the empty line.
    pub header_bytes_max: usize,
    /// The body without its NUL.
    pub body_bytes_max: usize,
}

/// One peer's frames. See the head of the file.
///
/// The input must be the same at every call, with nothing taken off it elsewhere. After a violation the connection
/// ends; a decoder that is asked again nevertheless judges the same bytes again.
#[derive(Clone, Debug)]
pub struct Decoder {
    sender: Sender,
    limits: Limits,
    version: Option<Version>,
    progress: Progress,
    /// The largest that the input has been. What is in front of it was part of that, but cannot be seen any more.
    buffer_bytes: u32,
}

/// What has been taken off the input, and what has been looked at.
#[derive(Clone, Debug)]
enum Progress {
    /// Nothing since the last frame.
    Between,
    /// The line of the command.
    Command(Command, Lines),
    /// Everything before the body.
    Head(Body),
}

/// How far the lines of headers at the front of the input were looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    /// Where the first line that is not complete begins. Invariant: `line_at <= looked`.
    line_at: usize,
    looked: usize,
    count: usize,
}

/// A body that is waited for.
#[derive(Clone, Debug)]
struct Body {
    command: Command,
    headers: Headers,
    /// Of what has not been dropped.
    length: Option<usize>,
    purpose: Purpose,
    /// What was looked at of a body that is ignored is not in the input any more.
    looked: usize,
}

/// What becomes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Taken,
    /// In 1.0, which says so of SUBSCRIBE (its section SUBSCRIBE).
    Ignored,
    /// There must be none (Body).
    Refused,
}

impl Decoder {
    /// Awaits the frame that opens a connection.
    #[must_use]
    pub const fn new(sender: Sender, limits: Limits) -> Self {
        Self {
            sender,
            limits,
            version: None,
            progress: Progress::Between,
            buffer_bytes: 0,
        }
    }

    /// The version, once it was set.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Says what the frames from now on are to be judged by. To be called once the connection is open, before
    /// anything after its first frame is decoded.
    pub const fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Takes the next frame, or heart-beats, off the front of the input; `None` if more bytes are needed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Item>, Violation> {
        let capacity = u32::try_from(input.capacity()).unwrap_or(u32::MAX);
        self.buffer_bytes = self.buffer_bytes.max(capacity);
        if matches!(self.progress, Progress::Between) {
            match self.begin(input) {
                Ok(None) => {}
                Ok(done) => return Ok(done),
                Err(rule) => return Err(self.violation(rule, None)),
            }
        }
        if let Progress::Command(command, lines) = self.progress {
            self.head(command, lines, input)?;
        }
        let Progress::Head(body) = &mut self.progress else {
            return Ok(None);
        };
        let length = match body.find(input, self.limits.body_bytes_max) {
            Ok(Some(length)) => length,
            Ok(None) => {
                body.drop_ignored(input);
                return Ok(None);
            }
            Err(rule) => {
                let receipt = body.headers.get("receipt").cloned();
                let receipt = receipt.filter(|_| body.command.has_receipt());
                return Err(self.violation(rule, receipt));
            }
        };
        let frame = Frame {
            command: body.command,
            headers: std::mem::take(&mut body.headers),
            body: take(input, length, body.purpose, self.buffer_bytes as usize),
        };
        self.progress = Progress::Between;
        Ok(Some(Item::Frame(frame)))
    }

    /// Takes heart-beats or a command off the input.
    fn begin(&mut self, input: &mut BytesMut) -> Result<Option<Item>, Rule> {
        let beats = ends_of_lines(input);
        if beats > 0 {
            input.advance(beats);
            return Ok(Some(Item::HeartBeat));
        }
        match **input {
            [] | [b'\r'] => return Ok(None),
            [b'\r', ..] => return Err(Rule::StrayCarriageReturn),
            _ => {}
        }
        if let Some((command, size)) = Command::read(input, self.sender, self.version)? {
            input.advance(size);
            self.progress = Progress::Command(command, Lines::default());
        }
        Ok(None)
    }

    /// Takes the headers off the input, if they are all there.
    fn head(
        &mut self,
        command: Command,
        mut lines: Lines,
        input: &mut BytesMut,
    ) -> Result<(), Violation> {
        let reader = HeadReader::new(command, self.version);
        let size = match lines.find_end(input, self.limits) {
            Ok(Some(size)) => size,
            Ok(None) => {
                self.progress = Progress::Command(command, lines);
                return Ok(());
            }
            Err(rule) => return Err(self.violation(rule, reader.receipt(&input[..lines.line_at]))),
        };
        let fail = |rule| self.violation(rule, reader.receipt(&input[..size]));
        let head = reader.read(&input[..size]).map_err(fail)?;
        let length = match head.content_length.map(usize::try_from) {
            None => None,
            Some(Ok(length)) if length <= self.limits.body_bytes_max => Some(length),
            Some(_) => return Err(fail(Rule::BodyTooLarge)),
        };
        let purpose = match head.version {
            _ if command.has_body() => Purpose::Taken,
            Some(Version::V10) => Purpose::Ignored,
            _ => Purpose::Refused,
        };
        if purpose == Purpose::Refused && length.is_some_and(|length| length > 0) {
            return Err(fail(Rule::BodyNotAllowed));
        }
        input.advance(size);
        self.progress = Progress::Head(Body {
            command,
            headers: head.headers,
            length,
            purpose,
            looked: 0,
        });
        Ok(())
    }

    fn violation(&self, rule: Rule, receipt: Option<ByteString>) -> Violation {
        // A peer whose first line is not one of STOMP would not understand an ERROR.
        let speaks = self.version.is_some()
            || !matches!(self.progress, Progress::Between)
            || matches!(rule, Rule::FirstNotConnect | Rule::ServerCommand);
        Violation {
            rule,
            version: self.version,
            answer: if self.sender == Sender::Client && speaks {
                Answer::Error
            } else {
                Answer::Close
            },
            receipt,
        }
    }
}

impl Lines {
    /// Looks for the empty line; the size of all lines up to it.
    fn find_end(&mut self, input: &[u8], limits: Limits) -> Result<Option<usize>, Rule> {
        let last = limits.header_bytes_max.saturating_sub(1);
        loop {
            // Where the line must end at the latest. The nearer limit decides, so that it does not matter how
            // much has arrived.
            let line_last = self.line_at.saturating_add(limits.header_line_bytes_max);
            let (end_max, rule) = if line_last <= last {
                (line_last, Rule::HeaderTooLong)
            } else {
                (last, Rule::HeadersTooLarge)
            };
            let within = &input[..input.len().min(end_max.saturating_add(1))];
            let Some(found) = memchr::memchr2(b'\n', 0, &within[self.looked..]) else {
                if input.len() > end_max {
                    return Err(rule);
                }
                self.looked = input.len();
                return Ok(None);
            };
            let end = self.looked + found;
            if input[end] == 0 {
                return Err(Rule::NulInHeaders);
            }
            if matches!(input[self.line_at..end], [] | [b'\r']) {
                return Ok(Some(end + 1));
            }
            if self.count == limits.header_count_max {
                return Err(Rule::TooManyHeaders);
            }
            self.count += 1;
            self.line_at = end + 1;
            self.looked = end + 1;
        }
    }
}

impl Body {
    /// The length of the body, once it and its NUL are there.
    fn find(&mut self, input: &[u8], bytes_max: usize) -> Result<Option<usize>, Rule> {
        if let Some(length) = self.length {
            return match input.get(length) {
                None => Ok(None),
                Some(0) => Ok(Some(length)),
                Some(_) => Err(Rule::BodyNotTerminated),
            };
        }
        if self.purpose == Purpose::Refused && input.first().is_some_and(|byte| *byte != 0) {
            return Err(Rule::BodyNotAllowed);
        }
        let (start, bytes_max) = match self.purpose {
            Purpose::Ignored => (0, bytes_max.saturating_sub(self.looked)),
            _ => (self.looked, bytes_max),
        };
        let within = &input[..input.len().min(bytes_max.saturating_add(1))];
        if let Some(found) = memchr::memchr(0, &within[start..]) {
            return Ok(Some(start + found));
        }
        if input.len() > bytes_max {
            return Err(Rule::BodyTooLarge);
        }
        if self.purpose != Purpose::Ignored {
            self.looked = input.len();
        }
        Ok(None)
    }

    /// Takes off the input what has arrived of a body that is ignored. All of the input is of it.
    fn drop_ignored(&mut self, input: &mut BytesMut) {
        if self.purpose == Purpose::Ignored {
            self.length = self.length.map(|length| length - input.len());
            self.looked += input.len();
            input.clear();
        }
    }
}

/// How many bytes at the front are ends of lines.
fn ends_of_lines(input: &[u8]) -> usize {
    let mut size = 0;
    loop {
        size += match input[size..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return size,
        };
    }
}

/// Takes a body and its NUL off the input, whose buffer has so many bytes.
fn take(input: &mut BytesMut, length: usize, purpose: Purpose, buffer_bytes: usize) -> Bytes {
    let body = if purpose == Purpose::Ignored || length == 0 {
        input.advance(length);
        Bytes::new()
    } else if length < SHARE_BYTES_MIN || length.saturating_mul(2) < buffer_bytes {
        let body = Bytes::copy_from_slice(&input[..length]);
        input.advance(length);
        body
    } else {
        input.split_to(length).freeze()
    };
    input.advance(1);
    body
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod mutation_tests;
