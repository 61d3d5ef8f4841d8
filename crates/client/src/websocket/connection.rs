//! One WebSocket: the opening handshake (RFC 6455, 4.1), then messages. All waiting can be cancelled.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::codec::{Decoder, FrameError, Opcode, Received, encode_frame};
use crate::duplex::{Duplex, Severed};
use crate::error::{Lost, TryError};
use crate::http::{HttpConnection, request_line};
use crate::random::Random;
use crate::stream::Stream;
use crate::url::ServerUrl;

/// The largest message taken: what a server with a limit far above the default may send.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How a WebSocket ends without a close frame.
#[derive(Debug)]
pub enum WebSocketError {
    /// Reading or writing failed.
    Io(io::Error),
    /// The connection ended.
    Closed,
    /// The server breaks the protocol.
    Frame(FrameError),
}

impl fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Frame(error) => write!(f, "the server breaks the WebSocket protocol: {error}"),
        }
    }
}

impl std::error::Error for WebSocketError {}

impl From<WebSocketError> for Lost {
    fn from(error: WebSocketError) -> Self {
        match error {
            WebSocketError::Io(error) => Self::Io(error),
            WebSocketError::Closed => Self::Closed,
            WebSocketError::Frame(error) => Self::Frame(error),
        }
    }
}

impl From<Severed> for WebSocketError {
    fn from(severed: Severed) -> Self {
        match severed {
            Severed::Io(error) => Self::Io(error),
            Severed::Closed => Self::Closed,
        }
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    duplex: Duplex,
    decoder: Decoder,
    random: Random,
}

impl WebSocket {
    /// Opens a WebSocket at a path over a fresh connection, with a subprotocol if one is named.
    pub async fn open(
        stream: Stream,
        url: &ServerUrl,
        path: &str,
        subprotocol: Option<&str>,
    ) -> Result<Self, TryError> {
        let mut random = Random::from_system();
        let mut nonce = [0u8; 16];
        nonce[..8].copy_from_slice(&random.next_u64().to_ne_bytes());
        nonce[8..].copy_from_slice(&random.next_u64().to_ne_bytes());
        let key = STANDARD.encode(nonce);
        let mut request = request_line("GET", url, path);
        request += "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
        push_header(&mut request, "sec-websocket-key", &key);
        if let Some(subprotocol) = subprotocol {
            push_header(&mut request, "sec-websocket-protocol", subprotocol);
        }
        request += "\r\n";
        let mut connection = HttpConnection::new(stream);
        connection.write(request.as_bytes()).await?;
        let head = connection.read_head().await?;
        if head.status != 101 {
            return Err(connection.read_refusal(&head).await);
        }
        if head.header("sec-websocket-accept").map(str::trim) != Some(&accept(&key)) {
            return Err(Lost::Answer("the upgrade's accept key is wrong").into());
        }
        if head.header("sec-websocket-protocol").map(str::trim) != subprotocol {
            return Err(Lost::Answer("the server does not speak the subprotocol").into());
        }
        Ok(Self {
            duplex: Duplex::new(connection.stream, connection.input),
            decoder: Decoder::new(MESSAGE_BYTES_MAX),
            random,
        })
    }

    /// Puts a frame behind those that wait. They are written while [`WebSocket::receive`] or
    /// [`WebSocket::flush`] is awaited.
    pub fn queue(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = (self.random.next_u64() as u32).to_ne_bytes();
        encode_frame(opcode, payload, mask, &mut self.duplex.output);
    }

    /// The bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.duplex.queued_bytes()
    }

    /// Writes everything that waits.
    pub async fn flush(&mut self) -> Result<(), WebSocketError> {
        Ok(self.duplex.flush().await?)
    }

    /// The next message, ping or close that is already here. Pings are answered, and also given out.
    pub fn receive_ready(&mut self) -> Result<Option<Received>, WebSocketError> {
        let received = self.decoder.decode(&mut self.duplex.input);
        let received = received.map_err(WebSocketError::Frame)?;
        match &received {
            Some(Received::Ping(payload)) => {
                let payload = payload.clone();
                self.queue(Opcode::Pong, &payload);
            }
            Some(Received::Close(close)) => {
                // 5.5.1: the answer repeats the code; 1005 says that there was none.
                let code = close.code.to_be_bytes();
                self.queue(Opcode::Close, if close.code == 1005 { &[] } else { &code });
            }
            _ => {}
        }
        Ok(received)
    }

    /// The next message, ping or close. What is queued is written meanwhile.
    pub async fn receive(&mut self) -> Result<Received, WebSocketError> {
        loop {
            if let Some(received) = self.receive_ready()? {
                return Ok(received);
            }
            self.duplex.exchange().await?;
        }
    }

    /// The connection below, for a reader that does not look at frames. What was read and not taken is lost.
    pub fn into_stream(self) -> Stream {
        self.duplex.stream
    }

    /// Says goodbye as far as that is possible at once, and closes.
    pub async fn close(mut self, code: u16) {
        self.queue(Opcode::Close, &code.to_be_bytes());
        // The peer may be gone already: that is a close too.
        self.flush().await.ok();
    }
}

fn push_header(request: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        request.push_str(part);
    }
}

/// The `Sec-WebSocket-Accept` of a key (RFC 6455, 4.2.2).
pub(crate) fn accept(key: &str) -> String {
    let mut digest = Sha1::new();
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest.finalize())
}
