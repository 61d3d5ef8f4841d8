//! A small HTTP/1.1 client: how this server asks others.
//!
//! It follows no redirect, keeps a few connections for the next request, and bounds what an answer may take in time
//! and bytes. Errors say what failed and hold nothing of what was sent or answered.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::ServerUrl;

/// Connections to one server that are kept for the next request.
const IDLE_MAX: usize = 8;
/// How long.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug)]
pub enum FetchError {
    /// Nobody is there, or TLS could not be agreed on.
    Connect(std::io::Error),
    /// It took too long.
    Timeout,
    /// What came is no HTTP, or broke off.
    Http(hyper::Error),
    /// The answer has another status than it should.
    Status(StatusCode),
    /// The answer is larger than it may be.
    TooLarge,
    /// The answer is not what was asked for.
    Unreadable(&'static str),
    /// Too much is asked already.
    Busy,
    /// It failed several times in a row, and is left alone for a while.
    BackingOff,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Http(error) => write!(f, "the answer broke off or is no HTTP: {error}"),
            Self::Status(status) if status.is_redirection() => {
                write!(
                    f,
                    "status {status}: redirects are not followed, name the right address"
                )
            }
            Self::Status(status) => write!(f, "status {status}"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::Unreadable(what) => write!(f, "the answer is not {what}"),
            Self::Busy => f.write_str("too much is asked at once"),
            Self::BackingOff => f.write_str("left alone for a while after several failures"),
        }
    }
}

impl std::error::Error for FetchError {}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: http::response::Parts,
    /// The whole body.
    pub body: Bytes,
}

/// What an answer may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the first byte of the connection to the last of the answer.
    pub time: Duration,
    /// Of the body.
    pub bytes: usize,
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// Asks servers. Its futures run on one runtime, as connections do that it keeps.
pub struct Client {
    tls: TlsConnector,
    idle: Mutex<HashMap<(bool, String, u16), Vec<Idle>>>,
}

impl Client {
    /// Trusts what the system trusts, and the authorities of `ca`, a PEM file.
    pub fn new(ca: Option<&[u8]>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        let (known, _) = roots.add_parsable_certificates(system.certs);
        for own in CertificateDer::pem_slice_iter(ca.unwrap_or_default()).flatten() {
            roots.add(own)?;
        }
        if known == 0 && ca.is_none() {
            tracing::warn!(
                "the system has no certificates to trust: https is refused until auth.remote_ca_file names some"
            );
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            idle: Mutex::default(),
        })
    }

    /// Asks, and waits for the whole answer.
    pub async fn send(
        &self,
        url: &ServerUrl,
        request: Request<Full<Bytes>>,
        bounds: Bounds,
    ) -> Result<Answer, FetchError> {
        let exchange = Box::pin(self.exchange(url, request, bounds.bytes));
        timeout(bounds.time, exchange)
            .await
            .unwrap_or(Err(FetchError::Timeout))
    }

    async fn exchange(
        &self,
        url: &ServerUrl,
        mut request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Answer, FetchError> {
        *request.uri_mut() = url
            .target
            .parse()
            .map_err(|_| FetchError::Unreadable("asked for at a good address"))?;
        let host = HeaderValue::from_str(&url.authority);
        let host = host.map_err(|_| FetchError::Unreadable("asked for at a good address"))?;
        request.headers_mut().insert(header::HOST, host);
        // A connection that was kept may have been closed meanwhile; what is asked here can be asked twice.
        while let Some(mut sender) = self.take_idle(url) {
            if let Ok(response) = sender.send_request(request.clone()).await {
                return self.read(url, sender, response, bytes_max).await;
            }
        }
        let mut sender = self.connect(url).await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(FetchError::Http)?;
        self.read(url, sender, response, bytes_max).await
    }

    async fn read(
        &self,
        url: &ServerUrl,
        sender: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
        bytes_max: usize,
    ) -> Result<Answer, FetchError> {
        let (head, mut body) = response.into_parts();
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(FetchError::Http)?.into_data() {
                if whole.len() + piece.len() > bytes_max {
                    return Err(FetchError::TooLarge);
                }
                whole.extend_from_slice(&piece);
            }
        }
        self.keep(url, sender);
        let body = whole.freeze();
        Ok(Answer { head, body })
    }

    async fn connect(&self, url: &ServerUrl) -> Result<SendRequest<Full<Bytes>>, FetchError> {
        let socket = TcpStream::connect((url.host.as_str(), url.port));
        let socket = socket.await.map_err(FetchError::Connect)?;
        socket.set_nodelay(true).map_err(FetchError::Connect)?;
        if !url.is_secure {
            return begin(socket).await;
        }
        let name = ServerName::try_from(url.host.clone());
        let name = name.map_err(|error| FetchError::Connect(std::io::Error::other(error)))?;
        let secured = self.tls.connect(name, socket).await;
        begin(secured.map_err(FetchError::Connect)?).await
    }

    fn take_idle(&self, url: &ServerUrl) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(&origin(url))?;
        while let Some(Idle { sender, since }) = kept.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_TIME_MAX {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, url: &ServerUrl, sender: SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(origin(url)).or_default();
        kept.retain(|it| !it.sender.is_closed() && it.since.elapsed() < IDLE_TIME_MAX);
        if kept.len() < IDLE_MAX {
            let since = Instant::now();
            kept.push(Idle { sender, since });
        }
    }
}

fn origin(url: &ServerUrl) -> (bool, String, u16) {
    (url.is_secure, url.host.clone(), url.port)
}

async fn begin<S>(socket: S) -> Result<SendRequest<Full<Bytes>>, FetchError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(FetchError::Http)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection to another server ended");
        }
    });
    Ok(sender)
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
