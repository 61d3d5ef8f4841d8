//! A server on loopback that says what the test tells it to.
//!
//! The tests run with a paused clock: it jumps to the next timer whenever both sides wait, so that waits of
//! seconds cost nothing and can be measured exactly. Both sides are on one thread, where what is written to
//! loopback is there to be read before either waits.

pub(crate) mod mqtt;

use std::time::Duration;

use bytes::BytesMut;
use serde_json::Value;
use tidings_types::Topic;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::backoff::RetryPolicy;
use crate::client::Client;
use crate::message::Outgoing;
use crate::tls::TlsFiles;
use crate::websocket::accept;

pub(crate) struct FakeServer {
    listener: TcpListener,
}

impl FakeServer {
    pub(crate) async fn start() -> (Self, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&url, &TlsFiles::default())
            .unwrap()
            .with_retry(retry());
        (Self { listener }, client)
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        // A paused clock would jump over a message that Nagle's algorithm holds back.
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            input: BytesMut::new(),
        }
    }

    /// Accepts a `tidings.v1` WebSocket.
    pub(crate) async fn accept_tidings(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.upgrade().await;
        peer
    }

    /// Whether a client connects within this time.
    pub(crate) async fn is_called_within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.listener.accept())
            .await
            .is_ok()
    }
}

fn retry() -> RetryPolicy {
    RetryPolicy {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(1),
    }
}

/// A connected client, seen from the server.
pub(crate) struct Peer {
    stream: TcpStream,
    input: BytesMut,
}

impl Peer {
    /// The head of the next request, with the body if it has a length.
    pub(crate) async fn request(&mut self) -> String {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.input, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await;
        };
        let head = String::from_utf8(self.input.split_to(end).to_vec()).unwrap();
        let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        while self.input.len() < length {
            self.fill().await;
        }
        head + str::from_utf8(&self.input.split_to(length)).unwrap()
    }

    pub(crate) async fn upgrade(&mut self) {
        let request = self.request().await;
        assert!(request.starts_with("GET /v1/ws HTTP/1.1\r\n"), "{request}");
        assert_eq!(
            header(&request, "sec-websocket-protocol").as_deref(),
            Some("tidings.v1")
        );
        let accept = accept(&header(&request, "sec-websocket-key").unwrap());
        self.write(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: tidings.v1\r\n\r\n"
        ))
        .await;
    }

    /// An HTTP answer with a length.
    pub(crate) async fn answer(&mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        self.write(&format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn write_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// A text message of up to 65,535 bytes.
    pub(crate) async fn say(&mut self, text: &str) {
        self.write_bytes(&frame(1, text.as_bytes())).await;
    }

    pub(crate) async fn close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.write_bytes(&frame(8, &payload)).await;
    }

    /// The JSON of the next text message.
    pub(crate) async fn hear(&mut self) -> Value {
        loop {
            let (opcode, payload) = self.frame().await;
            if opcode == 1 {
                return serde_json::from_slice(&payload).unwrap();
            }
        }
    }

    /// The JSON of the next text message, if one comes within a second.
    pub(crate) async fn hear_soon(&mut self) -> Option<Value> {
        tokio::time::timeout(Duration::from_secs(1), self.hear())
            .await
            .ok()
    }

    /// The next frame; it must be masked and whole.
    pub(crate) async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some(frame) = self.take_frame() {
                return frame;
            }
            self.fill().await;
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second, ..] = self.input[..] else {
            return None;
        };
        assert_eq!(first & 0xf0, 0x80, "one frame a message, no reserved bits");
        assert_eq!(second & 0x80, 0x80, "a client masks");
        let (length, at) = match second & 0x7f {
            126 => (
                usize::from(u16::from_be_bytes(
                    self.input.get(2..4)?.try_into().unwrap(),
                )),
                4,
            ),
            127 => panic!("too long for these tests"),
            short => (usize::from(short), 2),
        };
        if self.input.len() < at + 4 + length {
            return None;
        }
        let whole = self.input.split_to(at + 4 + length);
        let (mask, payload) = whole[at..].split_at(4);
        let bytes = payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask);
        Some((first & 0x0f, bytes.collect()))
    }

    async fn fill(&mut self) {
        let read = self.stream.read_buf(&mut self.input).await.unwrap();
        assert!(read > 0, "the client closed the connection");
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => out.push(length),
        _ => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// The value of a header in a head.
pub(crate) fn header(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

pub(crate) fn outgoing(payload: &str) -> Outgoing {
    Outgoing::new(Topic::new("t").unwrap(), payload.to_owned())
}
