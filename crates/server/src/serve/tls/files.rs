//! Certificates, keys and client CAs: from PEM files to a configuration of rustls.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;

use crate::config::{CertificateFiles, ClientAuth, TlsSettings, TlsVersion};
use crate::serve::acme::Acme;

/// Why files cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// One cannot be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// One is not PEM.
    NotPem {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// One has no certificate in it.
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// One has no private key in it.
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// One is not a key for HMAC in base64url.
    NotAKey {
        /// Which.
        path: PathBuf,
    },
    /// A certificate and its key are not fit for use, or not for each other.
    Unfit {
        /// The files.
        files: CertificateFiles,
        /// Why not.
        source: rustls::Error,
    },
    /// A certificate of the client CA is not one.
    BadClientCa {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// One has no revocation list in it.
    NoRevocationList {
        /// Which.
        path: PathBuf,
    },
    /// A revocation list is not one that can be used.
    BadRevocationList {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
    /// The client CA cannot be used as a whole.
    UnfitClientCa {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
    /// The cryptography itself is not fit for use.
    Provider(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "cannot read {}: {source}", path.display())
            }
            Self::NotPem { path, source } => {
                write!(f, "{} is not a PEM file: {source}", path.display())
            }
            Self::NoCertificate { path } => {
                write!(
                    f,
                    "{} has no certificate in it (-----BEGIN CERTIFICATE-----)",
                    path.display()
                )
            }
            Self::NoKey { path } => write!(
                f,
                "{} has no private key in it that is not encrypted (-----BEGIN PRIVATE KEY-----)",
                path.display()
            ),
            Self::NotAKey { path } => write!(
                f,
                "{} has no key in base64url in it, as authorities give it out",
                path.display()
            ),
            Self::Unfit { files, source } => write!(
                f,
                "cannot use {} with {}: {source}",
                files.cert.display(),
                files.key.display()
            ),
            Self::NoRevocationList { path } => write!(
                f,
                "{} has no revocation list in it (-----BEGIN X509 CRL-----)",
                path.display()
            ),
            Self::BadClientCa { path, source } => {
                write!(f, "cannot use {}: {source}", path.display())
            }
            Self::BadRevocationList { path, source } => write!(
                f,
                "cannot use {}: {source}; a list has to be of version 2, with a number and the issuer's key identifier (RFC 5280, 5.1.2.1)",
                path.display()
            ),
            Self::UnfitClientCa { path, source } => {
                write!(f, "cannot use {}: {source}", path.display())
            }
            Self::Provider(error) => write!(f, "no cryptography for TLS: {error}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::NotPem { source, .. } => Some(source),
            Self::UnfitClientCa { source, .. } | Self::BadRevocationList { source, .. } => {
                Some(source)
            }
            Self::Unfit { source, .. }
            | Self::BadClientCa { source, .. }
            | Self::Provider(source) => Some(source),
            Self::NoCertificate { .. }
            | Self::NoKey { .. }
            | Self::NotAKey { .. }
            | Self::NoRevocationList { .. } => None,
        }
    }
}

/// What tells whether files have changed, without reading them; nothing for one that is not there. Links are followed,
/// so one that is turned to another file counts.
#[derive(Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<Mark>>);

#[derive(Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    number: u64,
    bytes: u64,
    /// Of the last change: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of all files that the settings name.
    pub fn of(settings: &TlsSettings) -> Self {
        let pairs = settings.certificates.iter();
        let pairs = pairs.flat_map(|files| [files.cert.as_path(), files.key.as_path()]);
        let client_ca = [&settings.client_ca, &settings.client_crl];
        let client_ca = client_ca.into_iter().flatten().map(Path::new);
        let of = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some(Mark {
                device: found.dev(),
                number: found.ino(),
                bytes: found.size(),
                changed: (found.ctime(), found.ctime_nsec()),
            })
        };
        Self(pairs.chain(client_ca).map(of).collect())
    }
}

/// Something to encrypt session tickets with.
pub fn tickets() -> Result<Arc<dyn ProducesTickets>, TlsError> {
    aws_lc_rs::Ticketer::new().map_err(TlsError::Provider)
}

/// Reads the files; application protocols and tickets are for the caller to set.
pub fn load(settings: &TlsSettings, acme: &Arc<Acme>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let keys = settings.certificates.iter();
    let keys = keys.map(|files| certified_key(files, &provider));
    let certificates = Certificates {
        files: keys.collect::<Result<_, _>>()?,
        acme: Arc::clone(acme),
    };
    let versions: &[_] = match settings.version_min {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let verifier = client_verifier(settings, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    // Tickets alone: the client keeps what resuming needs.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn certified_key(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates_in(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|source| {
        let path = files.key.clone();
        match source {
            pem::Error::NoItemsFound => TlsError::NoKey { path },
            source => TlsError::NotPem { path, source },
        }
    })?;
    let unfit = |source| TlsError::Unfit {
        files: files.clone(),
        source,
    };
    ParsedCertificate::try_from(&chain[0]).map_err(unfit)?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(unfit)?;
    Ok(Arc::new(key))
}

/// At least one.
pub fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(found) if found.is_empty() => Err(TlsError::NoCertificate {
            path: path.to_owned(),
        }),
        Ok(found) => Ok(found),
        Err(source) => Err(TlsError::NotPem {
            path: path.to_owned(),
            source,
        }),
    }
}

/// At least one.
fn revocation_lists_in(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let text = read(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    match lists {
        Ok(found) if found.is_empty() => Err(TlsError::NoRevocationList {
            path: path.to_owned(),
        }),
        Ok(found) => Ok(found),
        Err(source) => Err(TlsError::NotPem {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn client_verifier(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(path) = settings.client_ca.as_deref().map(PathBuf::from) else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(&path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::BadClientCa {
                path: path.clone(),
                source,
            })?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match settings.client_crl.as_deref().map(Path::new) {
        // Of the whole chain: whoever is not on any list is not known to be good. One that is out of date would let
        // in whoever keeps the newer one away.
        Some(crl) => builder
            .with_crls(revocation_lists_in(crl)?)
            .enforce_revocation_expiration(),
        None => builder,
    };
    let builder = match settings.client_auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder
        .build()
        .map_err(|source| match (source, &settings.client_crl) {
            (source @ VerifierBuilderError::InvalidCrl(_), Some(crl)) => {
                let path = crl.into();
                TlsError::BadRevocationList { path, source }
            }
            (source, _) => TlsError::UnfitClientCa { path, source },
        })
}

/// Finds the certificate for a client: one whose names have the host that it asks for, else the first; and of several
/// such, one with a key that it can verify. The automatic one comes behind those in files.
#[derive(Debug)]
struct Certificates {
    files: Vec<Arc<CertifiedKey>>,
    acme: Arc<Acme>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name();
        let host = host.and_then(|host| ServerName::try_from(host).ok());
        let is_named = |key: &Arc<CertifiedKey>| {
            let host = host.as_ref()?;
            let certificate = ParsedCertificate::try_from(key.cert.first()?).ok()?;
            verify_server_name(&certificate, host).ok()
        };
        let is_known = |key: &&Arc<CertifiedKey>| {
            let scheme = key.key.choose_scheme(hello.signature_schemes());
            scheme.is_some()
        };
        let automatic = self.acme.certificate();
        let all = || self.files.iter().chain(&automatic);
        let named = all().filter(|key| is_named(key).is_some());
        let mut in_order = named.chain(all()).filter(is_known);
        in_order.next().map(Arc::clone)
    }
}
