//! One WebSocket: the opening handshake (RFC 6455, 4.1), then messages. Both directions move together, so that
//! a server that stops reading until it is read from does not stall it. All waiting can be cancelled.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::codec::{Decoder, FrameError, Opcode, Received, encode_frame};
use crate::error::{Lost, TryError};
use crate::http::{HttpConnection, request_line};
use crate::random::Random;
use crate::stream::Stream;
use crate::url::ServerUrl;

/// The most bytes of one read.
const READ_BYTES: usize = 16 << 10;
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

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    stream: Stream,
    input: BytesMut,
    /// Encoded, not written yet.
    output: Vec<u8>,
    /// How much of `output` is written: `written <= output.len()`.
    written: usize,
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
            stream: connection.stream,
            input: connection.input,
            output: Vec::new(),
            written: 0,
            decoder: Decoder::new(MESSAGE_BYTES_MAX),
            random,
        })
    }

    /// Puts a frame behind those that wait. They are written while [`WebSocket::receive`] or
    /// [`WebSocket::flush`] is awaited.
    pub fn queue(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = (self.random.next_u64() as u32).to_ne_bytes();
        encode_frame(opcode, payload, mask, &mut self.output);
    }

    /// The bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes everything that waits.
    pub async fn flush(&mut self) -> Result<(), WebSocketError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// The next message, ping or close that is already here. Pings are answered, and also given out.
    pub fn receive_ready(&mut self) -> Result<Option<Received>, WebSocketError> {
        let received = self.decoder.decode(&mut self.input);
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
            poll_fn(|cx| self.poll_exchange(cx)).await?;
        }
    }

    /// The connection below, for a reader that does not look at frames. What was read and not taken is lost.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Says goodbye as far as that is possible at once, and closes.
    pub async fn close(mut self, code: u16) {
        self.queue(Opcode::Close, &code.to_be_bytes());
        // The peer may be gone already: that is a close too.
        self.flush().await.ok();
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        while self.written < self.output.len() {
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(WebSocketError::Closed)),
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(WebSocketError::Io(error))),
                Poll::Pending => {
                    // What is written is given back now and then, for a peer that never takes all of it.
                    if self.written >= READ_BYTES {
                        self.output.drain(..self.written);
                        self.written = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Ready once something was read.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            // The server may have said why before it closed: that is read first.
            return match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err(error)),
            };
        }
        self.poll_fill(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let mut bytes = [0u8; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(WebSocketError::Io(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Poll::Ready(Err(WebSocketError::Closed))
            }
            Poll::Ready(Ok(())) => {
                if self.input.is_empty() && self.input.capacity() > MESSAGE_BYTES_MAX {
                    self.input = BytesMut::new();
                }
                self.input.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(()))
            }
        }
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
