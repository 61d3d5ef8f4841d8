//! The connection below HTTP, WebSocket and MQTT. The one place that knows what it is made of, so that TLS becomes
//! one more variant here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::url::ServerUrl;

/// An open connection to a server.
#[derive(Debug)]
pub enum Stream {
    /// TCP without TLS.
    Plain(TcpStream),
}

/// Opens connections.
#[derive(Clone, Debug)]
pub struct Connector {
    /// From the start of a connection attempt to its end, over all addresses of the host.
    pub timeout: Duration,
    /// The local address to connect from, if not the system's choice.
    pub source: Option<IpAddr>,
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            source: None,
        }
    }
}

impl Connector {
    /// Resolves the host and connects to its first address that answers.
    pub async fn connect(&self, url: &ServerUrl) -> io::Result<Stream> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let connected = tokio::time::timeout(self.timeout, self.connect_any(url))
            .await
            .unwrap_or_else(|_| Err(late()));
        // The error alone does not say where nobody listens.
        connected.map_err(|error| {
            let text = format!("{}:{}: {error}", url.host(), url.port());
            io::Error::new(error.kind(), text)
        })
    }

    async fn connect_any(&self, url: &ServerUrl) -> io::Result<Stream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in tokio::net::lookup_host((url.host(), url.port())).await? {
            match self.connect_one(address).await {
                Ok(stream) => {
                    // Small frames that wait for an acknowledgement would cost 40 ms each.
                    stream.set_nodelay(true)?;
                    return Ok(Stream::Plain(stream));
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
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
