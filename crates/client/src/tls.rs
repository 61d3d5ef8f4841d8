//! TLS towards a server: whom this client believes, what it shows, and what is said when that is not enough.
//!
//! There is no way to believe everybody: a server with a certificate of its own making is named by [`TlsFiles::ca`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::Refused;

/// The files that TLS is to be done with, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that are trusted, and no others; if not given, those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What to show to a server that asks for it.
    pub certificate: Option<ClientCertificate>,
}

/// A certificate of this client, with the chain behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, the client's own certificate first.
    pub cert: PathBuf,
    /// Its key; the same file may hold both.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why TLS cannot be done with the files.
#[derive(Debug)]
pub enum TlsError {
    /// One cannot be read, or is not PEM.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// One has no certificate, or no private key, in it.
    Nothing {
        /// Which.
        path: PathBuf,
        /// What it should have, as PEM calls it.
        label: &'static str,
    },
    /// One is refused.
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// The system trusts nobody; with the first reason, if there is one.
    NoSystemRoots(Option<String>),
    /// The cryptography itself is not fit for use.
    Provider(Error),
    /// The host is neither an address nor a name that a certificate can be for.
    Host(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "cannot read {}: {source}", path.display())
            }
            Self::Nothing { path, label } => {
                write!(f, "{} has no -----BEGIN {label}----- in it", path.display())
            }
            Self::Unfit { path, source } => {
                write!(f, "cannot use {}: {source}", path.display())
            }
            Self::NoSystemRoots(reason) => {
                f.write_str(
                    "this system trusts no authority (is there a package ca-certificates?)",
                )?;
                if let Some(reason) = reason {
                    write!(f, ": {reason}")?;
                }
                f.write_str(": give one with --ca FILE")
            }
            Self::Provider(error) => write!(f, "no cryptography for TLS: {error}"),
            Self::Host(host) => write!(f, "no certificate can be for the host `{host}`"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Unfit { source, .. } | Self::Provider(source) => Some(source),
            Self::Nothing { .. } | Self::NoSystemRoots(_) | Self::Host(_) => None,
        }
    }
}

/// All that a handshake with one server needs. Cheap to clone; clones share the sessions that can be resumed.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// For the server of this host. `protocol` is its application protocol's registered name (RFC 7301): servers that
    /// know such names answer in no other protocol then.
    pub fn load(files: &TlsFiles, host: &str, protocol: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| TlsError::Host(host.to_owned()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_root_certificates(roots(files.ca.as_deref())?);
        let mut config = match &files.certificate {
            None => builder.with_no_client_auth(),
            Some(ClientCertificate { cert, key }) => {
                let chain = certificates_in(cert)?;
                let unfit = |source| TlsError::Unfit {
                    path: cert.clone(),
                    source,
                };
                builder
                    .with_client_auth_cert(chain, key_in(key)?)
                    .map_err(unfit)?
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// Over a connection on which nothing was said yet.
    pub async fn shake_hands(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config))
            .connect(self.name.clone(), stream)
            .await
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let reason = found.errors.first().map(ToString::to_string);
            return Err(TlsError::NoSystemRoots(reason));
        }
        return Ok(roots);
    };
    for certificate in certificates_in(path)? {
        roots.add(certificate).map_err(|source| TlsError::Unfit {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        let path = path.to_owned();
        let label = "CERTIFICATE";
        return Err(TlsError::Nothing { path, label });
    }
    Ok(found)
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| {
        let path = path.to_owned();
        match source {
            pem::Error::NoItemsFound => TlsError::Nothing {
                path,
                label: "PRIVATE KEY",
            },
            source => TlsError::Unreadable { path, source },
        }
    })
}

/// Whether a connection failed in a way that it would again.
pub(crate) fn is_final(error: &io::Error) -> bool {
    refused(error).is_some()
}

/// A connection that failed because one side does not believe the other, or does not speak TLS: another try would end
/// the same way.
pub(crate) fn refused(error: &io::Error) -> Option<Refused> {
    let (code, detail) = match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(reason) => ("untrusted-server", untrusted(reason)),
        Error::AlertReceived(AlertDescription::CertificateRequired) => (
            "no-certificate",
            "the server asks for a certificate: give one with --cert FILE:KEY".to_owned(),
        ),
        Error::AlertReceived(alert) if is_about_certificate(*alert) => (
            "bad-certificate",
            format!("the server does not take this client's certificate ({alert:?})"),
        ),
        Error::InvalidMessage(_) => (
            "not-tls",
            "TLS is not spoken at this address: take the port for it, or a URL without TLS"
                .to_owned(),
        ),
        _ => return None,
    };
    Some(Refused::from_code(code, &detail, None))
}

/// RFC 8446, 6.2.
fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // Of an authority that has the name of a trusted one.
            | AlertDescription::DecryptError
    )
}

fn untrusted(reason: &CertificateError) -> String {
    match reason {
        // The latter is of an authority that has the name of a trusted one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is not of a trusted authority: give its authority with --ca FILE"
                .to_owned()
        }
        CertificateError::NotValidForName => {
            "the server's certificate is not for the host of the URL".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "the server's certificate is not for the URL's host {}, but for {}",
            expected.to_str(),
            presented.join(", ")
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet, or this machine's clock is wrong".to_owned()
        }
        // rustls passes webpki's reason on without a name.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the server's certificate is made for an authority (CA:TRUE), and not for a server: make it with \
             `-addext basicConstraints=critical,CA:FALSE`"
                .to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the server's certificate is signed in a way that is not trusted: give its authority with --ca FILE"
                .to_owned()
        }
        other => format!(
            "the server's certificate is not trusted: {other}: give its authority with --ca FILE"
        ),
    }
}
