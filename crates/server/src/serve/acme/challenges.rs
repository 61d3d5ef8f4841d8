//! What the authority is shown when it looks whether a name is this server's: a text over HTTP (`http-01`, RFC 8555,
//! 8.3), or a certificate over TLS (`tls-alpn-01`, RFC 8737). Nothing is shown unless an order waits for it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, header};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The application protocol of a handshake that proves a name (RFC 8737, 4).
pub const PROTOCOL: &[u8] = b"acme-tls/1";
/// The longest beginning of a handshake that is waited for: what an authority says first is a tenth of it.
const HELLO_BYTES_MAX: usize = 16 << 10;
/// Where the authority asks for a text.
const PATH: &str = "/.well-known/acme-challenge/";

/// A way to prove a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By TLS.
    TlsAlpn01,
    /// By HTTP.
    Http01,
}

impl Proof {
    /// Both of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::TlsAlpn01, Self::Http01];

    /// The name in the protocol, in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// One name's.
pub enum Shown {
    /// For a request with this token, this text.
    Text {
        /// The token.
        token: String,
        /// The text.
        authorization: String,
    },
    /// For a handshake with this name, this certificate.
    Certificate {
        /// The name.
        domain: String,
        /// The certificate.
        key: Arc<CertifiedKey>,
    },
}

/// What a peer asks for that begins a handshake.
#[derive(Clone, Debug)]
pub enum Asked {
    /// For a proof and nothing else: how to shake hands with it.
    Proof(Arc<ServerConfig>),
    /// For anything else.
    Service,
    /// That is not known before more of it has come.
    NotYetKnown,
}

/// What is shown now.
#[derive(Default)]
pub struct Challenges {
    shown: Arc<RwLock<Vec<Shown>>>,
    /// How to shake hands with an authority that looks; made with the first certificate.
    config: RwLock<Option<Arc<ServerConfig>>>,
    /// Whether a certificate is among what is shown.
    by_tls: AtomicBool,
    answered: [AtomicU64; Proof::ALL.len()],
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

/// Ends the showing when it is dropped.
pub struct Showing<'a>(&'a Challenges);

impl Showing<'_> {
    /// Shows this too.
    pub fn add(&self, shown: Shown) -> Result<(), rustls::Error> {
        let challenges = self.0;
        if matches!(shown, Shown::Certificate { .. }) {
            challenges.prepare_tls()?;
            challenges.by_tls.store(true, Relaxed);
        }
        let mut all = challenges
            .shown
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(shown);
        Ok(())
    }
}

impl Drop for Showing<'_> {
    fn drop(&mut self) {
        self.0.by_tls.store(false, Relaxed);
        let mut all = self.0.shown.write().unwrap_or_else(PoisonError::into_inner);
        all.clear();
    }
}

impl Challenges {
    /// Begins to show something.
    pub fn show(&self) -> Showing<'_> {
        Showing(self)
    }

    /// Whether a handshake may be asked for a proof, so that its `ClientHello` has to be looked at first.
    fn are_shown_by_tls(&self) -> bool {
        self.by_tls.load(Relaxed)
    }

    /// What a peer asks for whose first records these are. Its `ClientHello` is taken apart as TLS does it: bytes that
    /// only look like the question may stand anywhere in it.
    pub fn asked(&self, records: &[u8]) -> Asked {
        if !self.are_shown_by_tls() {
            return Asked::Service;
        }
        match asks_for_proof(records) {
            Some(true) => {
                let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
                config.clone().map_or(Asked::Service, Asked::Proof)
            }
            None if records.len() < HELLO_BYTES_MAX => Asked::NotYetKnown,
            _ => Asked::Service,
        }
    }

    /// The answer to a request, if it asks for a proof that is shown.
    pub fn answer(&self, request: &Parts) -> Option<Response<Bytes>> {
        let wanted = request.uri.path().strip_prefix(PATH)?;
        if request.method != Method::GET {
            return None;
        }
        let all = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        let text = all.iter().find_map(|shown| match shown {
            Shown::Text {
                token,
                authorization,
            } if token == wanted => Some(authorization),
            _ => None,
        })?;
        self.answered(Proof::Http01);
        let mut response = Response::new(Bytes::copy_from_slice(text.as_bytes()));
        let binary = header::HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, binary);
        Some(response)
    }

    /// Counts a proof that was given.
    pub fn answered(&self, proof: Proof) {
        self.answered[proof as usize].fetch_add(1, Relaxed);
    }

    /// How many proofs of a kind were given.
    pub fn answers(&self, proof: Proof) -> u64 {
        self.answered[proof as usize].load(Relaxed)
    }

    fn prepare_tls(&self) -> Result<(), rustls::Error> {
        let mut place = self.config.write().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() {
            // Authorities show no certificate, so none is asked for, whatever other clients are.
            let mut config =
                ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_safe_default_protocol_versions()?
                    .with_no_client_auth()
                    .with_cert_resolver(Arc::new(ByName(Arc::clone(&self.shown))));
            config.alpn_protocols = vec![PROTOCOL.to_vec()];
            config.session_storage = Arc::new(NoServerSessionStorage {});
            *place = Some(Arc::new(config));
        }
        Ok(())
    }
}

/// Whether a `ClientHello` asks for [`PROTOCOL`] and no other (RFC 8737, 3); `None` if it is not whole. One that is
/// broken asks for nothing.
fn asks_for_proof(mut records: &[u8]) -> Option<bool> {
    let mut acceptor = Acceptor::default();
    while !records.is_empty() {
        if !matches!(acceptor.read_tls(&mut records), Ok(1..)) {
            break;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let protocols = accepted.client_hello().alpn();
                return Some(protocols.is_some_and(|names| names.eq([PROTOCOL])));
            }
            Err(_) => return Some(false),
        }
    }
    None
}

/// Finds the certificate that is shown for a name.
struct ByName(Arc<RwLock<Vec<Shown>>>);

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name()?;
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find_map(|shown| match shown {
            Shown::Certificate { domain, key } if domain == wanted => Some(Arc::clone(key)),
            _ => None,
        })
    }
}

/// A certificate that proves a name to the one who knows the digest (RFC 8737, 3).
pub fn proof(domain: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, rcgen::Error> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der());
    let key = key.map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    let key = aws_lc_rs::sign::any_supported_type(&key);
    let key = key.map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(Arc::new(CertifiedKey::new(
        vec![certificate.der().clone()],
        key,
    )))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn get(challenges: &Challenges, method: Method, path: &str) -> Option<Bytes> {
        let request = http::Request::builder().method(method).uri(path);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        challenges.answer(&parts).map(Response::into_body)
    }

    #[test]
    fn a_text_is_shown_for_its_token_alone_and_while_it_is_asked_for() {
        let challenges = Challenges::default();
        let path = format!("{PATH}token");
        assert_eq!(get(&challenges, Method::GET, &path), None);
        let showing = challenges.show();
        let text = Shown::Text {
            token: "token".to_owned(),
            authorization: "token.thumb".to_owned(),
        };
        showing.add(text).unwrap();
        assert_eq!(get(&challenges, Method::GET, &path).unwrap(), "token.thumb");
        assert_eq!(get(&challenges, Method::POST, &path), None);
        assert_eq!(get(&challenges, Method::GET, &format!("{path}x")), None);
        assert_eq!(get(&challenges, Method::GET, PATH), None);
        drop(showing);
        assert_eq!(get(&challenges, Method::GET, &path), None);
        assert_eq!(challenges.answers(Proof::Http01), 1);
    }

    /// What stands for a question in a `ClientHello` of another one (RFC 7301, 3.1).
    const LOOKS_LIKE_IT: &[u8] = b"\0\x10\0\x0d\0\x0b\x0aacme-tls/1";

    /// Random numbers that an attacker has chosen.
    #[derive(Debug)]
    struct Chosen;

    impl SecureRandom for Chosen {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
            for (byte, chosen) in bytes.iter_mut().zip(LOOKS_LIKE_IT.iter().cycle()) {
                *byte = *chosen;
            }
            Ok(())
        }
    }

    /// A `ClientHello` that asks for these protocols.
    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let provider = CryptoProvider {
            secure_random: &Chosen,
            ..aws_lc_rs::default_provider()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let roots = RootCertStore::empty();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = "example.org".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    fn shown() -> Shown {
        Shown::Certificate {
            domain: "example.org".to_owned(),
            key: proof("example.org", &[7; 32]).unwrap(),
        }
    }

    #[test]
    fn only_a_hello_that_asks_for_nothing_else_is_taken_for_the_authority() {
        let challenges = Challenges::default();
        let asks = hello(&[PROTOCOL]);
        assert!(matches!(challenges.asked(&asks), Asked::Service));
        let showing = challenges.show();
        showing.add(shown()).unwrap();
        assert!(matches!(challenges.asked(&asks), Asked::Proof(_)));
        let others: [&[&[u8]]; 4] = [&[], &[b"h2"], &[b"h2", PROTOCOL], &[PROTOCOL, b"h2"]];
        for other in others {
            let other = hello(other);
            let mut windows = other.windows(LOOKS_LIKE_IT.len());
            assert!(windows.any(|window| window == LOOKS_LIKE_IT));
            assert!(matches!(challenges.asked(&other), Asked::Service));
        }
        assert!(matches!(
            challenges.asked(b"\x16\x03\x01\0\x04\x01\0\0\0"),
            Asked::Service
        ));
        drop(showing);
        assert!(matches!(challenges.asked(&asks), Asked::Service));
    }

    #[test]
    fn a_hello_in_several_records_is_waited_for_up_to_a_bound() {
        let challenges = Challenges::default();
        let showing = challenges.show();
        showing.add(shown()).unwrap();
        let asks = hello(&[PROTOCOL]);
        let record = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [b"\x16\x03\x01", &length[..], bytes].concat()
        };
        let mut records = Vec::new();
        for piece in asks[5..].chunks(100) {
            assert!(matches!(challenges.asked(&records), Asked::NotYetKnown));
            records.extend(record(piece));
        }
        assert!(matches!(challenges.asked(&records), Asked::Proof(_)));
        let endless = record(&[&b"\x01\0\xff\xff"[..], &[0; 12 << 10]].concat());
        assert!(matches!(challenges.asked(&endless), Asked::NotYetKnown));
        let more = [&endless[..], &record(&[0; 5 << 10])].concat();
        assert!(matches!(challenges.asked(&more), Asked::Service));
    }
}
