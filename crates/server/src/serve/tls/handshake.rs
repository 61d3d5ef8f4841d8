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
use crate::serve::acme::{Asked, PROTOCOL, Proof};
use crate::serve::core::Core;
use crate::serve::link::{Link, Session, read_socket};
use crate::serve::{first_line, front, socket};

/// Bytes of one read: most of what clients say first is shorter.
const READ_BYTES: usize = 4 << 10;
/// The first byte of a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// The longest record (RFC 5246, 6.2.3).
const RECORD_BYTES_MAX: usize = (16 << 10) + 2_048;

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
    /// It was a certificate authority that looked whether a name is ours.
    Proved(Box<Session>),
    /// TLS ended it. The session has an alert for the peer.
    Refused(Error, Box<Session>),
}

impl Ended {
    /// What it counts as.
    fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::Draining | Self::Proved(_) => return None,
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
        let failure = match failure {
            Failure::Other if shared.tls.acme.is_waiting() => Failure::NoCertificateYet,
            failure => failure,
        };
        shared.tls.counts.failed(failure);
        tracing::debug!(reason = failure.name(), "a tls handshake failed");
    }
    match ended {
        Ended::Draining | Ended::Timeout | Ended::Closed => {}
        Ended::NotTls(first) => answer_plainly(core, socket, &first).await,
        Ended::Proved(session) => {
            shared.tls.acme.challenges.answered(Proof::TlsAlpn01);
            socket::linger(Link::secured(socket, session), shared.limits.close_ms_max).await;
        }
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
    let mut is_for_proof = false;
    let mut raw = Vec::new();
    loop {
        // Nothing is held for a peer that says nothing.
        socket.readable().await.map_err(|_| Ended::Closed)?;
        read(socket, &mut raw)?;
        if begun.is_none() && raw.first().is_some_and(|first| *first != HANDSHAKE) {
            return Err(Ended::NotTls(raw));
        }
        // What is not whole yet waits without a turn, or whoever sends a byte at a time would take all of them.
        let whole = whole_records(&raw);
        if whole == 0 {
            continue;
        }
        let mut session = match begun.take() {
            Some(session) => session,
            None => match core.shared.tls.acme.challenges.asked(&raw[..whole]) {
                Asked::NotYetKnown => continue,
                Asked::Service => begin(&config)?,
                Asked::Proof(proof) => {
                    is_for_proof = true;
                    begin(&proof)?
                }
            },
        };
        // Signatures and key exchanges are the dearest that a peer can ask for without saying who it is.
        let step = core.step_of_opening(|| {
            session.take_in(&raw[..whole])?;
            raw.drain(..whole);
            if session.is_handshaking() {
                return Ok(());
            }
            // From here on the session has all that came.
            session.take_in(&raw)
        });
        let taken = step.await;
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
            // Nothing else may be said on such a connection (RFC 8737, 3): nobody was asked for a certificate. A second
            // hello (RFC 8446, 4.1.4) may have left out what the first one asked for.
            return match (is_for_proof, session.speaks(PROTOCOL)) {
                (true, true) => Err(Ended::Proved(session)),
                (true, false) => Err(Ended::Refused(Error::NoApplicationProtocol, session)),
                (false, _) => Ok(session),
            };
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

/// Adds what is there, which may be nothing after all.
fn read(socket: &TcpStream, raw: &mut Vec<u8>) -> Result<(), Ended> {
    let filled = raw.len();
    raw.resize(filled + READ_BYTES, 0);
    let read = read_socket(socket, &mut raw[filled..]);
    raw.truncate(filled + read.as_ref().map_or(0, |read| *read));
    // What one peer holds is what it sent, not what there was room for.
    raw.shrink_to_fit();
    match read {
        Ok(0) => Err(Ended::Closed),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(_) => Err(Ended::Closed),
    }
}

/// How many bytes are whole records (RFC 8446, 5.1). What cannot become one counts as whole: TLS says what is wrong.
fn whole_records(raw: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(&[_, _, _, high, low]) = raw.get(whole..).and_then(<[u8]>::first_chunk::<5>) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > RECORD_BYTES_MAX {
            return raw.len();
        }
        let end = whole + 5 + length;
        if end > raw.len() {
            break;
        }
        whole = end;
    }
    whole
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_when_they_are_whole() {
        let record = b"\x16\x03\x01\0\x03abc";
        let two = [&record[..], record].concat();
        for (count, expect) in [
            (0, 0),
            (1, 0),
            (5, 0),
            (7, 0),
            (8, 8),
            (9, 8),
            (13, 8),
            (16, 16),
        ] {
            assert_eq!(whole_records(&two[..count]), expect, "{count}");
        }
        assert_eq!(whole_records(b"\x16\x03\x01\xff\xff1"), 6, "it is too long");
        assert_eq!(whole_records(b"\x16\x03\x01\0\0"), 5, "TLS refuses it");
    }
}
