//! As much of an HTTP/1.1 client as is needed (RFC 9112): requests out, response heads and bodies in.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Lost, Refused, TryError};
use crate::stream::Stream;
use crate::url::ServerUrl;

const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// Of an answer that is held as a whole: a receipt, or a problem document.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A response's status line and headers.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// Whether the server keeps the connection open after the body.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// The first header with this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `Retry-After` in seconds (RFC 9110, 10.2.3). A date is taken as not said: this machine's clock may differ.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.header("retry-after")?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// How the body ends (RFC 9112, 6.3).
    pub fn body(&self) -> Result<Body, Lost> {
        if let Some(coding) = self.header("transfer-encoding") {
            return if coding.trim().eq_ignore_ascii_case("chunked") {
                Ok(Body::Chunked(Chunk::Size))
            } else {
                Err(Lost::Answer("a transfer coding other than chunked"))
            };
        }
        if self.status == 204 || self.status == 304 {
            return Ok(Body::Length(0));
        }
        match self.header("content-length") {
            Some(length) => match length.trim().parse() {
                Ok(length) => Ok(Body::Length(length)),
                Err(_) => Err(Lost::Answer("a content length that is no number")),
            },
            None => Ok(Body::UntilClose),
        }
    }
}

/// What of a body is still to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunked(Chunk),
    /// Everything until the connection ends.
    UntilClose,
}

/// Where in the chunked coding the body is.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Before a chunk's size line.
    Size,
    /// Inside a chunk: so many bytes are left.
    Bytes(u64),
    /// Before the line end after a chunk.
    End,
    /// Before a trailer line, or the empty line that ends the body.
    Trailer,
    /// Done.
    Done,
}

impl Body {
    /// Moves what there is of the body from `input` to `out`; true once the body is complete.
    pub fn decode(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool, Lost> {
        match self {
            Self::UntilClose => {
                out.extend_from_slice(input);
                input.clear();
                Ok(false)
            }
            Self::Length(left) => {
                move_bytes(left, input, out);
                Ok(*left == 0)
            }
            Self::Chunked(chunk) => {
                while chunk.step(input, out)? {}
                Ok(*chunk == Chunk::Done)
            }
        }
    }
}

impl Chunk {
    /// False if it needs more input, or is done.
    fn step(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool, Lost> {
        *self = match self {
            Self::Done => return Ok(false),
            Self::Bytes(left) => {
                move_bytes(left, input, out);
                if *left > 0 {
                    return Ok(false);
                }
                Self::End
            }
            Self::Size => match take_line(input)? {
                None => return Ok(false),
                Some(line) => match chunk_size(&line)? {
                    0 => Self::Trailer,
                    size => Self::Bytes(size),
                },
            },
            Self::End => match take_line(input)? {
                None => return Ok(false),
                Some(line) if line.is_empty() => Self::Size,
                Some(_) => return Err(Lost::Answer("a chunk longer than its size")),
            },
            Self::Trailer => match take_line(input)? {
                None => return Ok(false),
                Some(line) if line.is_empty() => Self::Done,
                Some(_) => Self::Trailer,
            },
        };
        Ok(true)
    }
}

fn move_bytes(left: &mut u64, input: &mut BytesMut, out: &mut Vec<u8>) {
    let len = input
        .len()
        .min(usize::try_from(*left).unwrap_or(usize::MAX));
    out.extend_from_slice(&input[..len]);
    input.advance(len);
    *left -= len as u64;
}

fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, Lost> {
    match memchr::memchr(b'\n', input) {
        Some(end) => {
            let mut line = input.split_to(end + 1);
            let len = line.strip_suffix(b"\r\n").map_or(end, <[u8]>::len);
            line.truncate(len);
            Ok(Some(line))
        }
        None if input.len() > HEAD_BYTES_MAX => Err(Lost::Answer("a line that does not end")),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Lost> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    str::from_utf8(digits.trim_ascii())
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(Lost::Answer("a chunk size that is no number"))
}

/// Starts a request: the request line and `Host`. Header lines, each with its CR LF, and an empty line follow.
pub fn request_line(method: &str, url: &ServerUrl, path: &str) -> String {
    let authorization = url.login().map_or_else(String::new, |login| {
        format!("authorization: {}\r\n", login.authorization())
    });
    format!(
        "{method} {} HTTP/1.1\r\nhost: {}\r\nuser-agent: tidings/{}\r\n{authorization}",
        url.target(path),
        url.authority(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Whether a text can stand as a header's value: no control characters but tabs, so that it cannot begin
/// another header.
pub fn is_header_value(text: &str) -> bool {
    !text
        .bytes()
        .any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
}

/// Whether a text can stand in a header's name (RFC 9110, 5.6.2).
pub fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// A connection with what was read of it and not used yet.
#[derive(Debug)]
pub struct HttpConnection {
    /// The connection.
    pub stream: Stream,
    /// Read, not used.
    pub input: BytesMut,
}

impl HttpConnection {
    /// Over a connection on which nothing was said yet.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
        }
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        self.stream.write_all(bytes).await.map_err(Lost::Io)?;
        self.stream.flush().await.map_err(Lost::Io)
    }

    /// Reads a response head, past interim ones (RFC 9110, 15.2) other than 101.
    pub async fn read_head(&mut self) -> Result<ResponseHead, Lost> {
        loop {
            while let Some(head) = parse_head(&mut self.input)? {
                if head.status == 101 || head.status >= 200 {
                    return Ok(head);
                }
            }
            self.fill().await?;
        }
    }

    /// Reads a whole body, of bounded size.
    pub async fn read_body(&mut self, head: &ResponseHead) -> Result<Vec<u8>, Lost> {
        let mut body = head.body()?;
        let mut out = Vec::new();
        loop {
            if body.decode(&mut self.input, &mut out)? {
                return Ok(out);
            }
            if out.len() > ANSWER_BYTES_MAX {
                return Err(Lost::Answer("a body that is too large"));
            }
            match self.fill().await {
                Err(Lost::Closed) if body == Body::UntilClose => return Ok(out),
                filled => filled?,
            }
        }
    }

    /// The refusal that a response with an error status is.
    pub async fn read_refusal(&mut self, head: &ResponseHead) -> TryError {
        // The status is enough, if the body does not come.
        let body = self.read_body(head).await.unwrap_or_default();
        Refused::from_answer(head.status, head.retry_after(), &body).into()
    }

    /// Reads some bytes, at least one.
    pub async fn fill(&mut self) -> Result<(), Lost> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(Lost::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(Lost::Io(error)),
        }
    }
}

/// Takes a response head from the front of the input, once it is there as a whole.
pub fn parse_head(input: &mut BytesMut) -> Result<Option<ResponseHead>, Lost> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(input) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if input.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Lost::Answer("a head that does not end")),
        Err(_) => return Err(Lost::Answer("not HTTP")),
    };
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        })
        .collect();
    let mut head = ResponseHead {
        status: response.code.unwrap_or_default(),
        keep_alive: response.version == Some(1),
        headers,
    };
    input.advance(len);
    if let Some(connection) = head.header("connection") {
        let says = |word: &str| {
            let mut words = connection.split(',');
            words.any(|option| option.trim().eq_ignore_ascii_case(word))
        };
        head.keep_alive = (head.keep_alive || says("keep-alive")) && !says("close");
    }
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_where_their_framing_says() {
        for (framing, input, expect, done) in [
            ("content-length: 3", "abcX", "abc", true),
            ("content-length: 3", "ab", "ab", false),
            ("content-length: 0", "", "", true),
            (
                "transfer-encoding: chunked",
                "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
                "abcde",
                true,
            ),
            (
                "transfer-encoding: Chunked",
                "A\r\n0123456789\r\n0\r\nt: v\r\n\r\n",
                "0123456789",
                true,
            ),
            ("transfer-encoding: chunked", "3\r\nab", "ab", false),
            ("x: y", "anything", "anything", false),
        ] {
            // Whole, and byte by byte.
            for step in [input.len().max(1), 1] {
                let text = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
                let mut buffer = BytesMut::from(text.as_bytes());
                let mut body = parse_head(&mut buffer).unwrap().unwrap().body().unwrap();
                let mut out = Vec::new();
                let mut complete = body.decode(&mut buffer, &mut out).unwrap();
                for part in input.as_bytes().chunks(step) {
                    buffer.extend_from_slice(part);
                    complete = body.decode(&mut buffer, &mut out).unwrap();
                }
                assert_eq!(String::from_utf8_lossy(&out), expect, "{framing} {input:?}");
                assert_eq!(complete, done, "{framing} {input:?}");
            }
        }
    }

    #[test]
    fn broken_chunks_are_found_out() {
        for input in [
            "x\r\n",
            "3\r\nabcd\r\n",
            "-1\r\n",
            "+3\r\nabc",
            "11111111111111111\r\n",
        ] {
            let mut buffer = BytesMut::from(input.as_bytes());
            let mut body = Body::Chunked(Chunk::Size);
            assert!(
                body.decode(&mut buffer, &mut Vec::new()).is_err(),
                "{input:?}"
            );
        }
    }

    #[test]
    fn a_head_says_whether_the_connection_lives_on() {
        for (text, keep_alive) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            let mut buffer = BytesMut::from(text.as_bytes());
            let head = parse_head(&mut buffer).unwrap().unwrap();
            assert_eq!(head.keep_alive, keep_alive, "{text:?}");
        }
        let mut endless = BytesMut::from("HTTP/1.1 200 OK\r\nx: ");
        endless.resize(HEAD_BYTES_MAX + 100, b'x');
        assert!(parse_head(&mut endless).is_err());
    }
}
