//! A blocking STOMP client, 1.0, 1.1 and 1.2, that does nothing by itself: it acknowledges when it is told to, sends
//! what no library would, and shows every frame.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::http::connect;

/// The command, headers and body of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The first line.
    pub command: String,
    /// In their order, without escapes.
    pub headers: Vec<(String, String)>,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Frame {
    /// One to send. A header `content-length` is added when there is a body.
    pub fn new(command: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            command: command.to_owned(),
            headers: headers.iter().map(owned).collect(),
            body: body.into(),
        }
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The first header of this name (Repeated Header Entries).
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first header of this name, which is there.
    #[track_caller]
    pub fn expect(&self, name: &str) -> &str {
        self.get(name)
            .unwrap_or_else(|| panic!("no header `{name}`: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// As it is on the wire.
    pub fn bytes(&self, version: &str) -> Vec<u8> {
        let escapes = !matches!(&*self.command, "CONNECT" | "CONNECTED") && version != "1.0";
        let escape = |text: &str| match (escapes, version) {
            (false, _) => text.to_owned(),
            (true, "1.1") => escaped(text),
            (true, _) => escaped(text).replace('\r', "\\r"),
        };
        let mut bytes = format!("{}\n", self.command).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{}:{}\n", escape(name), escape(value)).as_bytes());
        }
        if !self.body.is_empty() && self.get("content-length").is_none() {
            bytes.extend_from_slice(format!("content-length:{}\n", self.body.len()).as_bytes());
        }
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.body);
        bytes.push(0);
        bytes
    }

    /// Reads a frame with the ends of lines before it; their number comes along.
    pub fn read(reader: &mut impl BufRead, version: &str) -> std::io::Result<(Self, usize)> {
        let wrong = |text: &str| std::io::Error::other(format!("not a line of STOMP: {text:?}"));
        let mut beats = 0;
        let command = loop {
            match read_line(reader)? {
                line if line.is_empty() => beats += 1,
                line => break line,
            }
        };
        let escapes = command != "CONNECTED" && version != "1.0";
        let mut frame = Self {
            command,
            ..Self::default()
        };
        loop {
            let line = read_line(reader)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| wrong(&line))?;
            let plain = |text: &str| {
                if escapes {
                    unescaped(text).ok_or_else(|| wrong(&line))
                } else {
                    Ok(text.to_owned())
                }
            };
            frame.headers.push((plain(name)?, plain(value)?));
        }
        if let Some(length) = frame.get("content-length") {
            frame.body = vec![0; length.parse().map_err(std::io::Error::other)?];
            reader.read_exact(&mut frame.body)?;
            let mut end = [0];
            reader.read_exact(&mut end)?;
            assert_eq!(end, [0], "a NUL is behind the body: {frame:?}");
        } else {
            reader.read_until(0, &mut frame.body)?;
            if frame.body.pop() != Some(0) {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((frame, beats))
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace(':', "\\c")
}

fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        plain.push(match (char, char == '\\') {
            (_, true) => match chars.next()? {
                'n' => '\n',
                'c' => ':',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            // Servers end lines with LF alone, and escape what else is there.
            (':', false) => return None,
            (char, false) => char,
        });
    }
    Some(plain)
}

fn read_line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(line).map_err(std::io::Error::other)
}

/// An open connection.
pub struct Client {
    reader: BufReader<TcpStream>,
    version: String,
    receipts: u32,
    /// Messages that came while something else was waited for.
    messages: VecDeque<Frame>,
    /// Ends of lines between frames, so far.
    pub beats: usize,
}

impl Client {
    /// Opens a connection and gives its answer, CONNECTED or not.
    pub fn try_open(
        address: SocketAddr,
        version: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<(Self, Frame)> {
        let mut client = Self {
            reader: BufReader::new(connect(address)?),
            version: version.to_owned(),
            receipts: 0,
            messages: VecDeque::new(),
            beats: 0,
        };
        let mut opening = Frame::new("CONNECT", headers, "");
        if version != "1.0" {
            opening = opening.header("accept-version", version);
            opening = opening.header("host", "tidings");
        }
        client.send(&opening)?;
        let answer = client.try_frame()?;
        Ok((client, answer))
    }

    /// Opens a connection of this version.
    #[track_caller]
    pub fn open(address: SocketAddr, version: &str) -> Self {
        let opened = Self::try_open(address, version, &[]);
        let (client, answer) = opened.unwrap_or_else(|error| panic!("{version}: {error}"));
        assert_eq!(answer.command, "CONNECTED", "{answer:?}");
        assert_eq!(answer.expect("version"), version, "{answer:?}");
        client
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Whether more has arrived than was asked for.
    pub fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty() || !self.messages.is_empty()
    }

    /// Breaks the connection.
    pub fn cut(self) {
        // It may be broken already.
        self.socket().shutdown(Shutdown::Both).unwrap_or_default();
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a frame and does not wait.
    pub fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        let bytes = frame.bytes(&self.version);
        self.write(&bytes)
    }

    /// Sends a frame and waits for its receipt.
    #[track_caller]
    pub fn ask(&mut self, frame: Frame) {
        let shown = format!("{frame:?}");
        if let Err(error) = self.try_ask(frame) {
            panic!("{shown}: {error}");
        }
    }

    /// Sends a frame and waits for its receipt, or says what came instead.
    pub fn try_ask(&mut self, frame: Frame) -> std::io::Result<()> {
        self.receipts += 1;
        let id = format!("receipt-{}", self.receipts);
        self.send(&frame.header("receipt", &id))?;
        self.await_receipt(&id)
    }

    /// Waits for a receipt; messages that come before it are kept.
    pub fn await_receipt(&mut self, id: &str) -> std::io::Result<()> {
        loop {
            let frame = self.try_frame()?;
            match &*frame.command {
                "MESSAGE" => self.messages.push_back(frame),
                "RECEIPT" if frame.get("receipt-id") == Some(id) => return Ok(()),
                _ => return Err(std::io::Error::other(format!("no receipt: {frame:?}"))),
            }
        }
    }

    /// Reads a frame, or says why there is none.
    pub fn try_frame(&mut self) -> std::io::Result<Frame> {
        let (frame, beats) = Frame::read(&mut self.reader, &self.version)?;
        self.beats += beats;
        Ok(frame)
    }

    /// The next message, or what came instead.
    pub fn try_message(&mut self) -> std::io::Result<Frame> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(message);
        }
        let frame = self.try_frame()?;
        match &*frame.command {
            "MESSAGE" => Ok(frame),
            _ => Err(std::io::Error::other(format!("no message: {frame:?}"))),
        }
    }

    /// The next message.
    #[track_caller]
    pub fn message(&mut self) -> Frame {
        self.try_message()
            .unwrap_or_else(|error| panic!("no message comes: {error}"))
    }

    /// The texts of the next messages.
    #[track_caller]
    pub fn texts(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.message().text()).collect()
    }

    /// The ERROR that comes next, behind which the server closes.
    #[track_caller]
    pub fn error(&mut self) -> Frame {
        let error = loop {
            match self.try_frame() {
                Ok(frame) if frame.command == "ERROR" => break frame,
                Ok(frame) if frame.command == "MESSAGE" => {}
                other => panic!("no ERROR: {other:?}"),
            }
        };
        assert!(!error.expect("message").is_empty());
        let after = self.try_frame();
        let closed = after.as_ref().is_err_and(|error| {
            error.kind() == std::io::ErrorKind::UnexpectedEof
                || error.kind() == std::io::ErrorKind::ConnectionReset
        });
        assert!(closed, "nothing comes behind an ERROR: {after:?}");
        error
    }

    /// Reads until the server closes.
    #[track_caller]
    pub fn until_closed(&mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.reader.read_to_end(&mut rest) {
            let open = error.kind() == std::io::ErrorKind::WouldBlock;
            assert!(!open, "the connection stays open");
        }
    }

    /// Subscribes and waits for the receipt.
    #[track_caller]
    pub fn subscribe(&mut self, id: &str, destination: &str, headers: &[(&str, &str)]) {
        let frame = Frame::new("SUBSCRIBE", headers, "");
        self.ask(frame.header("id", id).header("destination", destination));
    }

    /// Publishes and waits for the receipt.
    #[track_caller]
    pub fn publish(&mut self, destination: &str, body: impl Into<Vec<u8>>) {
        self.ask(Frame::new("SEND", &[("destination", destination)], body));
    }

    /// The ACK or NACK for a message, as its version has it.
    pub fn verdict(&self, command: &str, message: &Frame) -> Frame {
        let own = |name| message.get(name).unwrap_or("?").to_owned();
        let mut frame = Frame::new(command, &[], "");
        if self.version == "1.2" {
            frame = frame.header("id", &own("ack"));
        } else {
            frame = frame.header("message-id", &own("message-id"));
        }
        if self.version == "1.1" {
            frame = frame.header("subscription", &own("subscription"));
        }
        frame
    }

    /// Acknowledges a message and waits until that is durable.
    #[track_caller]
    pub fn ack(&mut self, message: &Frame) {
        self.ask(self.verdict("ACK", message));
    }

    /// Gives a message back, and waits until that is durable.
    #[track_caller]
    pub fn nack(&mut self, message: &Frame) {
        self.ask(self.verdict("NACK", message));
    }

    /// Leaves in an orderly way: the receipt, then the end.
    #[track_caller]
    pub fn leave(mut self) {
        self.ask(Frame::new("DISCONNECT", &[], ""));
        self.until_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_as_it_was_written() {
        let frame = Frame::new("MESSAGE", &[("a:b", "c\\d\ne")], *b"x\0y");
        for version in ["1.1", "1.2"] {
            let bytes = [b"\n\n", &frame.bytes(version)[..]].concat();
            let (read, beats) = Frame::read(&mut &bytes[..], version).expect("a frame");
            assert_eq!(beats, 2);
            assert_eq!(read.body, frame.body);
            assert_eq!(read.get("a:b"), Some("c\\d\ne"));
        }
    }
}
