//! Requests to the authority: HTTP/1.1 over TLS, one connection for each request.

use std::error::Error as _;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::AcmeSettings;
use crate::serve::tls::{TlsError, certificates_in};

/// From looking up the name to the last byte.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// The largest answer; a chain of certificates is a few KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Who sends the requests of one order.
#[derive(Clone)]
pub struct Web(Arc<Inner>);

struct Inner {
    tls: TlsConnector,
    /// When the authority wants to be asked again, as its last refusal says.
    come_back: Mutex<Option<SystemTime>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct WebError {
    /// Who did not answer.
    host: String,
    what: What,
}

#[derive(Debug)]
enum What {
    NotHttps,
    TooSlow,
    Connect(std::io::Error),
    Http(hyper::Error),
    Body(Box<dyn std::error::Error + Send + Sync>),
    Status(StatusCode),
}

impl fmt::Display for WebError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match &self.what {
            What::NotHttps => write!(f, "{host} is not the URL of a server with TLS"),
            What::TooSlow => {
                let seconds = REQUEST_MAX.as_secs();
                write!(f, "{host} did not answer within {seconds} s")
            }
            What::Connect(error) => write!(f, "cannot connect to {host}: {error}"),
            What::Http(error) => {
                write!(f, "{host} broke off: {error}")?;
                error
                    .source()
                    .map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            What::Body(error) => write!(f, "the answer of {host} cannot be read: {error}"),
            What::Status(status) => write!(f, "{host} answered {status}"),
        }
    }
}

impl std::error::Error for WebError {}

impl Web {
    /// Trusts whom the system trusts, and whom `tls.acme_ca` names. Reads files.
    pub fn open(settings: &AcmeSettings) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = settings.ca.as_deref().map(std::path::PathBuf::from) {
            for certificate in certificates_in(&path)? {
                let added = roots.add(certificate);
                added.map_err(|source| TlsError::BadClientCa {
                    path: path.clone(),
                    source,
                })?;
            }
        }
        if roots.is_empty() {
            tracing::warn!(
                "this system has no list of certificate authorities (on Debian, the package ca-certificates), \
                 so the server of tls.acme_directory is not trusted; tls.acme_ca can name its authority"
            );
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(Inner {
            tls: TlsConnector::from(Arc::new(config)),
            come_back: Mutex::default(),
        })))
    }

    /// How long the authority wants to be left alone.
    pub fn told_to_wait(&self) -> Option<Duration> {
        let come_back = *self
            .0
            .come_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Nothing, if it is over.
        come_back?.duration_since(SystemTime::now()).ok()
    }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let web = Arc::clone(&self.0);
        Box::pin(async move {
            let host = request.uri().to_string();
            let answered = timeout(REQUEST_MAX, web.exchange(request)).await;
            let response = answered
                .unwrap_or(Err(What::TooSlow))
                .map_err(|what| instant_acme::Error::Other(Box::new(WebError { host, what })))?;
            Ok(BytesResponse::from(response))
        })
    }
}

impl Inner {
    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, What> {
        let asks = matches!(*request.method(), Method::GET | Method::HEAD);
        let (request, host, port) = in_origin_form(request).ok_or(What::NotHttps)?;
        let name = ServerName::try_from(host.clone()).map_err(|_| What::NotHttps)?;
        let socket = TcpStream::connect((host, port))
            .await
            .map_err(What::Connect)?;
        let secured = self
            .tls
            .connect(name, socket)
            .await
            .map_err(What::Connect)?;
        let made = http1::handshake(TokioIo::new(secured)).await;
        let (mut sender, connection) = made.map_err(What::Http)?;
        // It ends with the request.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the certificate authority ended");
            }
        });
        let response = sender.send_request(request).await.map_err(What::Http)?;
        let (parts, body) = response.into_parts();
        if parts.status.as_u16() >= 400 {
            let mut come_back = self
                .come_back
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *come_back = retry_after(&parts.headers);
            // What is wrong is told in a document; anything else is from somebody in between, or a server that is down.
            if asks || !is_problem(&parts.headers) {
                return Err(What::Status(parts.status));
            }
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(What::Body)?.to_bytes();
        Ok(Response::from_parts(parts, Full::new(body)))
    }
}

/// The request as it is sent to the server itself (RFC 9112, 3.2.1), and that server.
fn in_origin_form<B>(mut request: Request<B>) -> Option<(Request<B>, String, u16)> {
    let uri = request.uri().clone();
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return None;
    }
    let authority = uri.authority()?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let (host, port) = (host.to_owned(), authority.port_u16().unwrap_or(443));
    let named = HeaderValue::from_str(authority.as_str()).ok()?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    *request.uri_mut() = path.parse::<Uri>().ok()?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, named);
    // RFC 8555, 6.1.
    let version = concat!("tidings/", env!("CARGO_PKG_VERSION"), " instant-acme");
    headers.insert(header::USER_AGENT, HeaderValue::from_static(version));
    Some((request, host, port))
}

fn is_problem(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"))
}

/// The moment in `Retry-After`, which is one or a number of seconds (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_to_the_server_that_the_url_names() {
        let sent = |uri: &str| {
            let request = Request::get(uri).body(()).unwrap();
            let (request, host, port) = in_origin_form(request)?;
            let named = request.headers()[header::HOST].to_str().unwrap().to_owned();
            Some((request.uri().to_string(), named, host, port))
        };
        let expect = |path: &str, named: &str, host: &str, port| {
            Some((path.to_owned(), named.to_owned(), host.to_owned(), port))
        };
        assert_eq!(
            sent("https://a.example/dir?x=1"),
            expect("/dir?x=1", "a.example", "a.example", 443)
        );
        assert_eq!(
            sent("https://[::1]:14000"),
            expect("/", "[::1]:14000", "::1", 14_000)
        );
        for wrong in ["http://a.example/dir", "/dir", "ftp://a.example/"] {
            assert_eq!(sent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_time_to_come_back_is_read_in_both_forms() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(text));
            let at = retry_after(&headers)?;
            Some(
                at.duration_since(SystemTime::now())
                    .unwrap_or_default()
                    .as_secs(),
            )
        };
        assert!(matches!(wait("120"), Some(118..=120)));
        assert!(wait("Thu, 01 Jan 2099 00:00:00 GMT").unwrap() > 1_000_000);
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        for wrong in ["", "soon", "-1", "18446744073709551615"] {
            assert_eq!(wait(wrong), None, "{wrong}");
        }
    }
}
