//! The headers of a frame, once all of them are there.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;

use super::command::Command;
use super::escape::Escapes;
use super::frame::{Header, Headers, trimmed};
use super::rule::Rule;
use super::version::Version;

/// How the headers of one frame are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadReader {
    command: Command,
    version: Option<Version>,
    escapes: Escapes,
}

/// What stands before a body.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) headers: Headers,
    /// As the frame says; the largest number there is for one that is larger.
    pub(super) content_length: Option<u64>,
    /// The connection's, or the one that the frame asks for if it opens the connection.
    pub(super) version: Option<Version>,
}

impl HeadReader {
    pub(super) const fn new(command: Command, version: Option<Version>) -> Self {
        Self {
            command,
            version,
            escapes: Escapes::of(command, version),
        }
    }

    /// Reads the lines after the command, the empty one included.
    pub(super) fn read(self, lines: &[u8]) -> Result<Head, Rule> {
        // A copy, so that headers which are kept do not keep the read buffer.
        let text =
            ByteString::try_from(Bytes::copy_from_slice(lines)).map_err(|_| Rule::IllFormedText)?;
        let mut headers = Headers::default();
        for line in lines_before_the_empty(&text) {
            let (name, value) = self.header(line)?;
            headers.push(Header {
                name: owned(&text, name),
                value: owned(&text, value),
            });
        }
        let version = self.version.or_else(|| self.asked(&headers));
        if version == Some(Version::V10) {
            headers.trim_values();
        }
        Ok(Head {
            content_length: content_length(&headers)?,
            headers,
            version,
        })
    }

    /// The version of a frame that opens a connection.
    fn asked(self, headers: &Headers) -> Option<Version> {
        let name = match self.command {
            Command::Connect | Command::Stomp => "accept-version",
            Command::Connected => "version",
            _ => return None,
        };
        let value = headers.get(name).map(|value| &**value);
        Version::choose(value, &Version::ALL)
    }

    /// The receipt that is asked for in the lines, whatever else is wrong with them.
    pub(super) fn receipt(self, lines: &[u8]) -> Option<ByteString> {
        if !self.command.has_receipt() {
            return None;
        }
        let found = |line: &[u8]| {
            let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
            let (name, value) = self.header(line).ok()?;
            (name == "receipt").then(|| value.into_owned())
        };
        let value = lines.split(|byte| *byte == b'\n').find_map(found)?;
        Some(if self.version == Some(Version::V10) {
            trimmed(&value).into()
        } else {
            value.into()
        })
    }

    /// Reads a line without its end.
    fn header(self, line: &str) -> Result<(Cow<'_, str>, Cow<'_, str>), Rule> {
        let is_cr_text = matches!(self.version, Some(Version::V10 | Version::V11));
        if !is_cr_text && line.contains('\r') {
            return Err(Rule::StrayCarriageReturn);
        }
        let (name, value) = line.split_once(':').ok_or(Rule::HeaderWithoutColon)?;
        if name.is_empty() {
            return Err(Rule::EmptyHeaderName);
        }
        let unescape = |text| self.escapes.unescape(text).ok_or(Rule::UndefinedEscape);
        Ok((unescape(name)?, unescape(value)?))
    }
}

/// The lines of headers, without their ends.
fn lines_before_the_empty(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .take_while(|line| !line.is_empty())
}

/// A part of the text, or what was unescaped out of it.
fn owned(text: &ByteString, part: Cow<'_, str>) -> ByteString {
    match part {
        Cow::Borrowed(part) => text.slice_ref(part),
        Cow::Owned(part) => part.into(),
    }
}

/// The length of the body, if it is given.
fn content_length(headers: &Headers) -> Result<Option<u64>, Rule> {
    let mut found = None;
    for header in headers {
        if header.name != "content-length" {
            continue;
        }
        let digits = trimmed(&header.value);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Rule::ContentLength);
        }
        // Only digits: what does not fit is too large.
        let length = digits.parse().unwrap_or(u64::MAX);
        if found.is_some_and(|earlier| earlier != length) {
            return Err(Rule::ContentLengthConflict);
        }
        found = Some(length);
    }
    Ok(found)
}
