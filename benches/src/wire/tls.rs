//! TLS under a subscriber, for measurements of what it costs the server.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::report::Failure;

/// A connection, bare or with TLS.
#[derive(Debug)]
pub enum Line {
    /// Bare.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// A bare one, or with TLS that trusts this configuration's authority. The handshake is made by what is sent first.
    pub fn new(socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Failure> {
        let Some(config) = tls else {
            return Ok(Self::Plain(socket));
        };
        let name = "localhost".try_into();
        let name = name.map_err(|_| Failure::new("localhost is not a name"))?;
        let session =
            ClientConnection::new(Arc::clone(config), name).map_err(|error| unfit(&error))?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// Trusts the certificate in a PEM file.
pub fn trusting(certificate: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let certificate = CertificateDer::from_pem_file(certificate);
    let certificate = certificate.map_err(|error| Failure::new(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| unfit(&error))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(&error))?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn unfit(error: &rustls::Error) -> Failure {
    Failure::new(format!("TLS: {error}"))
}
