//! A blocking WebSocket client (RFC 6455) without extensions, which shows every frame.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::http::{Opened, Request};

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close, with code and reason if it has them.
    Close(Option<(u16, String)>),
}

/// An open WebSocket.
pub struct WebSocket {
    reader: BufReader<TcpStream>,
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
}

impl WebSocket {
    /// Opens a raw WebSocket, or one with a subprotocol.
    pub fn try_open(
        address: SocketAddr,
        target: &str,
        protocol: Option<&str>,
    ) -> std::io::Result<Self> {
        let mut request = upgrade(target);
        if let Some(protocol) = protocol {
            request = request.header("Sec-WebSocket-Protocol", protocol);
        }
        Self::send_handshake(address, &request)
    }

    /// Opens one by a handshake of one's own.
    pub fn send_handshake(address: SocketAddr, request: &Request) -> std::io::Result<Self> {
        let opened: Opened = request.open(address)?;
        if opened.status != 101 {
            let answer = opened.finish()?;
            let text = format!("refused: {} {}", answer.status, answer.text());
            return Err(std::io::Error::other(text));
        }
        Ok(Self::from_opened(opened))
    }

    /// Goes on with an upgrade that was answered with 101.
    pub fn from_opened(opened: Opened) -> Self {
        Self {
            protocol: opened.header("sec-websocket-protocol").map(str::to_owned),
            reader: opened.reader,
        }
    }

    /// Opens a raw WebSocket.
    #[track_caller]
    pub fn raw(address: SocketAddr, target: &str) -> Self {
        Self::try_open(address, target, None).unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    /// Opens one that speaks `tidings.v1`.
    #[track_caller]
    pub fn tidings(address: SocketAddr) -> Self {
        let socket = Self::try_open(address, "/v1/ws", Some("tidings.v1"))
            .unwrap_or_else(|error| panic!("tidings.v1: {error}"));
        assert_eq!(socket.protocol.as_deref(), Some("tidings.v1"));
        socket
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Whether more has arrived than was asked for.
    pub fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// A second owner of the sending half.
    pub fn sender(&self) -> Sender {
        Sender(self.socket().try_clone().expect("a socket can be cloned"))
    }

    /// Sends a text message.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.sender().text(text).expect("the text can be sent");
    }

    /// Sends a JSON request.
    #[track_caller]
    pub fn ask(&mut self, request: &Value) {
        self.send(&request.to_string());
    }

    /// Reads one frame. The server never fragments.
    pub fn try_frame(&mut self) -> std::io::Result<Frame> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head)?;
        assert_eq!(
            head[0] & 0xf0,
            0x80,
            "a whole message without extension bits"
        );
        assert_eq!(head[1] & 0x80, 0, "a server does not mask (RFC 6455, 5.1)");
        let len = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.read_array()?)),
            127 => u64::from_be_bytes(self.read_array()?),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
        self.reader.read_exact(&mut payload)?;
        let text = |bytes| String::from_utf8(bytes).map_err(std::io::Error::other);
        Ok(match head[0] & 0x0f {
            1 => Frame::Text(text(payload)?),
            2 => Frame::Binary(payload),
            8 if payload.is_empty() => Frame::Close(None),
            8 => {
                let reason = text(payload.split_off(2))?;
                Frame::Close(Some((u16::from_be_bytes([payload[0], payload[1]]), reason)))
            }
            9 => Frame::Ping(payload),
            10 => Frame::Pong(payload),
            opcode => panic!("opcode {opcode}"),
        })
    }

    fn read_array<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next frame.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        self.try_frame()
            .unwrap_or_else(|error| panic!("no frame: {error}"))
    }

    /// The next message, which is a text.
    #[track_caller]
    pub fn text(&mut self) -> String {
        loop {
            match self.frame() {
                Frame::Text(text) => return text,
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("not a text: {other:?}"),
            }
        }
    }

    /// The next message, which is JSON.
    #[track_caller]
    pub fn json(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// Reads until the close frame, and gives its code and reason.
    #[track_caller]
    pub fn close_frame(&mut self) -> (u16, String) {
        loop {
            if let Frame::Close(close) = self.frame() {
                return close.expect("the server gives a code");
            }
        }
    }
}

/// The head of an upgrade, to which a test may add.
pub fn upgrade(target: &str) -> Request {
    Request::get(target)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// The sending half of a WebSocket.
pub struct Sender(TcpStream);

impl Sender {
    /// Sends a text message.
    pub fn text(&mut self, text: &str) -> std::io::Result<()> {
        self.frame(0x81, text.as_bytes())
    }

    /// Sends a frame with this first byte, masked with zeroes: still a mask, and readable in a dump.
    pub fn frame(&mut self, first: u8, payload: &[u8]) -> std::io::Result<()> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 + len as u8),
            len @ 126..0x1_0000 => {
                bytes.push(0xfe);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0xff);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes)
    }
}
