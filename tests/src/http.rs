//! A blocking HTTP/1.1 client that sends exactly what it is told and shows exactly what comes back.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::PATIENCE;

/// A request to be sent on a connection of its own.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// Any method.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// `GET`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `POST` with an empty body, until there is another.
    pub fn post(target: &str) -> Self {
        Self::new("POST", target).body("")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a parameter to the address.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let sign = if self.target.contains('?') { '&' } else { '?' };
        write!(self.target, "{sign}{name}={value}").expect("a string takes everything");
        self
    }

    /// Sets the body; its length is sent along.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {address}\r\n",
            self.method, self.target
        );
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes everything");
        }
        if let Some(body) = &self.body {
            write!(head, "Content-Length: {}\r\n", body.len()).expect("a string takes everything");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it on a new connection, which then stays open: the answer's body has not been read yet.
    pub fn open(&self, address: SocketAddr) -> std::io::Result<Opened> {
        let mut stream = connect(address)?;
        stream.write_all(&self.bytes(address))?;
        Opened::read(stream)
    }

    /// Sends it on a new connection and reads the whole answer.
    pub fn try_send(mut self, address: SocketAddr) -> std::io::Result<Response> {
        self.headers
            .push(("Connection".to_owned(), "close".to_owned()));
        self.open(address)?.finish()
    }

    /// Sends it on a new connection and reads the whole answer.
    #[track_caller]
    pub fn send(self, address: SocketAddr) -> Response {
        let shown = format!("{} {}", self.method, self.target);
        self.try_send(address)
            .unwrap_or_else(|error| panic!("{shown}: {error}"))
    }
}

/// `GET`, without any header.
#[track_caller]
pub fn get(address: SocketAddr, target: &str) -> Response {
    Request::get(target).send(address)
}

/// `POST` of plain text.
#[track_caller]
pub fn post(address: SocketAddr, target: &str, body: &[u8]) -> Response {
    Request::post(target)
        .header("Content-Type", "text/plain")
        .body(body)
        .send(address)
}

/// A connection with deadlines, so that a test fails instead of hanging.
pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An answer whose head was read.
pub struct Opened {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The rest of the connection.
    pub reader: BufReader<TcpStream>,
}

impl Opened {
    /// Reads the head of an answer, leaving out interim ones (1xx), except for 101.
    pub fn read(stream: TcpStream) -> std::io::Result<Self> {
        Self::read_more(BufReader::new(stream))
    }

    /// Reads the head of the next answer on a connection.
    pub fn read_more(mut reader: BufReader<TcpStream>) -> std::io::Result<Self> {
        loop {
            let (status, headers) = read_head(&mut reader)?;
            if status == 101 || status >= 200 {
                return Ok(Self {
                    status,
                    headers,
                    reader,
                });
            }
        }
    }

    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as a stream, without the chunks around it.
    pub fn body(self) -> Body {
        let chunked = self
            .header("transfer-encoding")
            .is_some_and(|coding| coding == "chunked");
        let length = self
            .header("content-length")
            .and_then(|length| length.parse().ok());
        let framing = match (chunked, length) {
            (true, _) => Framing::Chunked { left: 0 },
            (false, Some(left)) => Framing::Length { left },
            (false, None) => Framing::UntilClose,
        };
        Body {
            reader: self.reader,
            framing,
        }
    }

    /// Reads the body to its end.
    pub fn finish(self) -> std::io::Result<Response> {
        let (status, headers) = (self.status, self.headers.clone());
        let mut body = Vec::new();
        if !matches!(status, 204 | 304) {
            self.body().read_to_end(&mut body)?;
        }
        Ok(Response {
            status,
            headers,
            body,
        })
    }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let wrong = |line: &str| std::io::Error::other(format!("not a line of HTTP: {line:?}"));
    let first = read_line(reader)?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| wrong(&first))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| wrong(&line))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.as_str())
}

enum Framing {
    Chunked { left: usize },
    Length { left: usize },
    UntilClose,
}

/// A body that is read as it comes.
pub struct Body {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

impl Body {
    /// The socket below, for its deadlines.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = match &mut self.framing {
            Framing::UntilClose => return self.reader.read(buffer),
            Framing::Length { left } => left,
            Framing::Chunked { left } => {
                if *left == 0 {
                    let size = read_line(&mut self.reader)?;
                    *left = usize::from_str_radix(&size, 16).map_err(std::io::Error::other)?;
                    if *left == 0 {
                        read_line(&mut self.reader)?;
                        self.framing = Framing::Length { left: 0 };
                        return Ok(0);
                    }
                }
                left
            }
        };
        let wanted = buffer.len().min(*left);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        *left -= read;
        if *left == 0 && matches!(self.framing, Framing::Chunked { .. }) {
            read_line(&mut self.reader)?;
        }
        Ok(read)
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, as it was sent.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "not JSON ({error}), status {}: {}",
                self.status,
                self.text()
            )
        })
    }

    /// Fails the test unless this is a problem document (RFC 9457) of this status and code, with a text that
    /// says what to do.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{problem}"
        );
    }
}
