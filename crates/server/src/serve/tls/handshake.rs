//! The handshake of one connection.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{Error, ServerConfig, ServerConnection};
use tidings_types::{Refusal, RefusalCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use crate::serve::accept::Spoken;
use crate::serve::core::Core;
use crate::serve::link::{Link, Session, read_socket};
use crate::serve::{first_line, front, socket};

/// Bytes of one read: most of what clients say first is shorter.
const READ_BYTES: usize = 4 << 10;
/// The first byte of a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// Why there is no session.
enum Ended {
    /// The server goes down.
    Draining,
    /// It took too long.
    Timeout,
    /// The peer left, or the connection broke.
    Closed,
    /// Something came that is not TLS: its beginning.
    NotTls(Vec<u8>),
    /// TLS ended it. The session has an alert for the peer.
    Refused(Error, Box<Session>),
}

impl Ended {
    /// What it counts as.
    fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::Draining => return None,
            Self::Timeout => Failure::Timeout,
            Self::Closed => Failure::Closed,
            Self::NotTls(_) => Failure::NotTls,
            Self::Refused(error, _) => match error {
                Error::InvalidMessage(_)
                | Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::PeerMisbehaved(_)
                | Error::PeerSentOversizedRecord
                | Error::DecryptError => Failure::Malformed,
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
                Error::NoCertificatesPresented => Failure::NoCertificate,
                Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => {
                    Failure::BadCertificate
                }
                Error::AlertReceived(_) => Failure::Alert,
                _ => Failure::Other,
            },
        })
    }
}

/// Makes the handshake within `limits.handshake_ms_max`. `None` if the connection is over: that is counted, and the peer
/// was told as far as it can be.
pub async fn secure(core: &Rc<Core>, socket: TcpStream, spoken: Spoken) -> Option<Link> {
    let shared = &core.shared;
    let config = shared.tls.config(spoken)?;
    let limit = Duration::from_millis(shared.limits.handshake_ms_max);
    let made = tokio::select! {
        made = timeout(limit, shake_hands(core, &socket, config)) => made,
        // Nobody has said anything yet that would call for a goodbye.
        () = core.draining() => Ok(Err(Ended::Draining)),
    };
    let ended = match made {
        Ok(Ok(session)) => {
            shared.tls.counts.made();
            return Some(Link::secured(socket, session));
        }
        Ok(Err(ended)) => ended,
        Err(_) => Ended::Timeout,
    };
    // Whoever scans ports comes here: it is counted, and no error.
    if let Some(failure) = ended.failure() {
        shared.tls.counts.failed(failure);
        tracing::debug!(reason = failure.name(), "a tls handshake failed");
    }
    match ended {
        Ended::Draining | Ended::Timeout | Ended::Closed => {}
        Ended::NotTls(first) => answer_plainly(core, socket, &first).await,
        Ended::Refused(error, session) => {
            tracing::debug!(%error, "the peer is told by an alert");
            let link = Link::secured(socket, session);
            socket::linger(link, shared.limits.close_ms_max).await;
        }
    }
    None
}

async fn shake_hands(
    core: &Core,
    socket: &TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Box<Session>, Ended> {
    let mut begun: Option<Box<Session>> = None;
    loop {
        // Nothing is held for a peer that says nothing.
        socket.readable().await.map_err(|_| Ended::Closed)?;
        let raw = read(socket)?;
        if raw.is_empty() {
            continue;
        }
        let mut session = match begun {
            Some(session) => session,
            None if raw[0] != HANDSHAKE => return Err(Ended::NotTls(raw)),
            None => begin(&config)?,
        };
        // Signatures and key exchanges are the dearest that a peer can ask for without saying who it is.
        let taken = core.step_of_opening(|| session.take_in(&raw)).await;
        if let Err(error) = taken {
            return Err(Ended::Refused(error, session));
        }
        while session.wants_write() {
            match session.send(socket) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable().await.map_err(|_| Ended::Closed)?;
                }
                Err(_) => return Err(Ended::Closed),
            }
        }
        if !session.is_handshaking() {
            return Ok(session);
        }
        begun = Some(session);
    }
}

fn begin(config: &Arc<ServerConfig>) -> Result<Box<Session>, Ended> {
    match ServerConnection::new(Arc::clone(config)) {
        Ok(connection) => Ok(Session::new(connection)),
        Err(error) => {
            tracing::error!(%error, "a tls session cannot begin");
            Err(Ended::Closed)
        }
    }
}

/// Reads what is there, which may be nothing after all.
fn read(socket: &TcpStream) -> Result<Vec<u8>, Ended> {
    let mut raw = vec![0; READ_BYTES];
    match read_socket(socket, &mut raw) {
        Ok(0) => Err(Ended::Closed),
        Ok(read) => {
            raw.truncate(read);
            Ok(raw)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
        Err(_) => Err(Ended::Closed),
    }
}

/// Tells a peer that speaks HTTP without TLS what is wrong. Of the other protocols none has words for it that its
/// clients would understand before they have said who they are.
async fn answer_plainly(core: &Core, socket: TcpStream, first: &[u8]) {
    if first_line::is_http(first) {
        let detail =
            "TLS is spoken here: write https:// in place of http://, or wss:// in place of ws://";
        let refusal = Refusal::new(RefusalCode::BadRequest, detail);
        front::refuse(core, socket.into(), refusal).await;
    }
}
