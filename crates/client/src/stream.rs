//! The connection below HTTP, WebSocket and MQTT: TCP, or TLS over it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::tls::{Tls, is_final};
use crate::url::ServerUrl;

/// An open connection to a server.
#[derive(Debug)]
pub enum Stream {
    /// TCP without TLS.
    Plain(TcpStream),
    /// TLS, after its handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens connections.
#[derive(Clone, Debug)]
pub struct Connector {
    /// From the start of a connection attempt to its end, over all addresses of the host, with the handshake of TLS.
    pub timeout: Duration,
    /// The local address to connect from, if not the system's choice.
    pub source: Option<IpAddr>,
    /// For servers that are spoken to over TLS.
    pub tls: Option<Tls>,
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            source: None,
            tls: None,
        }
    }
}

impl Connector {
    /// Resolves the host, connects to its first address that answers, and shakes hands.
    pub async fn connect(&self, url: &ServerUrl) -> io::Result<Stream> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let connect = async {
            let stream = self.connect_any(url).await?;
            match &self.tls {
                Some(tls) => Ok(Stream::Tls(Box::new(tls.shake_hands(stream).await?))),
                None => Ok(Stream::Plain(stream)),
            }
        };
        let connected = tokio::time::timeout(self.timeout, connect)
            .await
            .unwrap_or_else(|_| Err(late()));
        // The error alone does not say where nobody listens.
        connected.map_err(|error| {
            if is_final(&error) {
                return error;
            }
            let text = format!("{}:{}: {error}", url.host(), url.port());
            io::Error::new(error.kind(), text)
        })
    }

    async fn connect_any(&self, url: &ServerUrl) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in tokio::net::lookup_host((url.host(), url.port())).await? {
            match self.connect_one(address).await {
                Ok(stream) => {
                    // Small frames that wait for an acknowledgement would cost 40 ms each.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_one(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await
    }
}

impl Stream {
    /// Says that nothing more will be written; reading goes on.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.shutdown().await
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer).map_err(cut_off),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// An end without TLS's own word for it (RFC 8446, 6.1) is an error, as anybody on the way can make it; the text that
/// rustls has for it is for programmers.
fn cut_off(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let text = "the connection was cut off, and not by the server's own word in TLS";
        return io::Error::new(error.kind(), text);
    }
    error
}
