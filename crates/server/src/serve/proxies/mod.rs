//! Proxies in front of the server: whose the connections and requests are that they pass on.
//!
//! Nothing that a connection says of itself is believed unless it comes from an address that is trusted
//! (`proxy.trusted`). The socket's address is what the kernel says; the client's is found in two steps, first for the
//! connection by the PROXY protocol ([`read_header`]), then for each request by [`forwarded::client`].

mod forwarded;
mod header;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::core::Core;
use super::link::read_socket;
use crate::config::ProxySettings;
pub use forwarded::Ignored;
use header::HEADER_BYTES_MAX;
pub use header::{Fault, Sender};

/// Bytes of one look at what has come: the header of most connections.
const LOOK_BYTES: usize = 256;

/// Whether a proxy that is trusted says that a request came to it over TLS: by the last word of `X-Forwarded-Proto`,
/// which is its own.
pub fn came_by_tls(headers: &HeaderMap) -> bool {
    let last = headers.get_all("x-forwarded-proto").iter().next_back();
    let word = last.and_then(|line| line.to_str().ok()?.rsplit(',').next());
    word.is_some_and(|word| word.trim().eq_ignore_ascii_case("https"))
}

/// Reads the header that a connection begins with, and not a byte more. `None` if there is none that can be taken: that
/// is counted, and the connection is to be closed without a word (`proxy-protocol.txt`, 2).
pub async fn read_header(core: &Core, socket: &TcpStream) -> Option<Sender> {
    let limit = Duration::from_millis(core.shared.limits.handshake_ms_max);
    let read = tokio::select! {
        read = timeout(limit, take_header(socket)) => read.unwrap_or(Err(Fault::Timeout)),
        // Nobody has said anything yet that would call for a goodbye.
        () = core.draining() => return None,
    };
    let counts = &core.shared.proxy_counts;
    match read {
        Ok(sender) => {
            counts.headers[usize::from(sender == Sender::Proxy)].fetch_add(1, Relaxed);
            Some(sender)
        }
        Err(fault) => {
            counts.faults[fault as usize].fetch_add(1, Relaxed);
            tracing::debug!(reason = fault.name(), "no header of the proxy protocol");
            None
        }
    }
}

async fn take_header(socket: &TcpStream) -> Result<Sender, Fault> {
    let mut bytes = Vec::new();
    loop {
        // Nothing is held for a peer that says nothing.
        socket.readable().await.map_err(|_| Fault::Closed)?;
        let before = bytes.len();
        // What has no end after so many bytes was refused.
        bytes.resize((before + LOOK_BYTES).min(HEADER_BYTES_MAX), 0);
        let seen = socket.peek(&mut bytes[before..]).await;
        let seen = seen.ok().filter(|seen| *seen > 0).ok_or(Fault::Closed)?;
        let found = header::parse(&bytes[..before + seen])?;
        let end = found.map_or(before + seen, |(_, length)| length);
        // What was seen is there, so it is taken at once; what is not of the header stays.
        let taken = read_socket(socket, &mut bytes[before..end]).map_err(|_| Fault::Closed)?;
        if before + taken != end {
            return Err(Fault::Closed);
        }
        if let Some((sender, _)) = found {
            return Ok(sender);
        }
        bytes.truncate(end);
    }
}

/// What is counted of proxies.
#[derive(Debug, Default)]
pub struct Counts {
    /// Of clients, and of proxies themselves.
    headers: [AtomicU64; 2],
    faults: [AtomicU64; Fault::ALL.len()],
    ignored: [AtomicU64; Ignored::ALL.len()],
}

impl Counts {
    /// Where the client is whose request came from this address; `None` if nobody passes it on.
    pub fn client_of(
        &self,
        settings: &ProxySettings,
        from: IpAddr,
        headers: &HeaderMap,
    ) -> Option<IpAddr> {
        let (client, ignored) = forwarded::client(settings, from, headers);
        if let Some(ignored) = ignored {
            self.ignored[ignored as usize].fetch_add(1, Relaxed);
        }
        (client != from || ignored.is_some()).then_some(client)
    }

    /// Headers of the PROXY protocol that were taken, by whose connection they were for.
    pub fn headers(&self) -> [(&'static str, u64); 2] {
        let [client, proxy] = &self.headers;
        [
            ("client", client.load(Relaxed)),
            ("proxy", proxy.load(Relaxed)),
        ]
    }

    /// Connections that were closed for want of a good header.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].load(Relaxed)
    }

    /// Chains of addresses that were not followed to their end.
    pub fn ignored(&self, ignored: Ignored) -> u64 {
        self.ignored[ignored as usize].load(Relaxed)
    }
}
