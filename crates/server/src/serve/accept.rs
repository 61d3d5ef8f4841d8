//! Accepting connections, within the limits on how many there may be.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tidings_types::{Limits, Refusal, RefusalCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Shared;
use super::shard::Arrival;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// Connections over the limit that are told so; further ones are closed without a word, so that a flood of
/// them does not take the descriptors that the log needs.
const REFUSED_MAX: usize = 64;
/// After accepting failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// What is spoken where a connection was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP, and what begins as HTTP.
    Http,
    /// MQTT.
    Mqtt,
    /// STOMP.
    Stomp,
}

/// One of the server's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What is spoken there.
    pub spoken: Spoken,
    /// Whether over TLS.
    pub tls: bool,
}

impl Endpoint {
    /// Without TLS.
    #[must_use]
    pub const fn plain(spoken: Spoken) -> Self {
        Self { spoken, tls: false }
    }

    /// With TLS.
    #[must_use]
    pub const fn tls(spoken: Spoken) -> Self {
        Self { spoken, tls: true }
    }

    /// The option that says where it listens.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match (self.spoken, self.tls) {
            (Spoken::Http, false) => "http.listen",
            (Spoken::Http, true) => "http.tls",
            (Spoken::Mqtt, false) => "mqtt.listen",
            (Spoken::Mqtt, true) => "mqtt.tls",
            (Spoken::Stomp, false) => "stomp.listen",
            (Spoken::Stomp, true) => "stomp.tls",
        }
    }

    /// The name in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.spoken, self.tls) {
            (Spoken::Http, false) => "http",
            (Spoken::Http, true) => "https",
            (Spoken::Mqtt, false) => "mqtt",
            (Spoken::Mqtt, true) => "mqtts",
            (Spoken::Stomp, false) => "stomp",
            (Spoken::Stomp, true) => "stomps",
        }
    }
}

/// A connection on its way to a shard.
pub struct Accepted {
    /// Where it came from: what the peer is expected to speak.
    pub endpoint: Endpoint,
    /// The socket, not yet registered with a shard's runtime.
    pub socket: std::net::TcpStream,
    /// Frees the connection's place when dropped.
    pub permit: Permit,
    /// Set when the connection is over a limit: it is told so and closed.
    pub refusal: Option<Refusal>,
}

/// Listens on an address.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted server gets its port back at once.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Counts sockets, in all and by address.
#[derive(Debug, Default)]
pub struct Sockets {
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Sockets {
    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Takes a place, and says whether there was one.
    fn admit(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> (Permit, Option<Refusal>) {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        let mut refusal = None;
        if open > limits.connections_max {
            let detail = format!(
                "{} connections are open, the most that are permitted (limits.connections_max): come back later",
                limits.connections_max
            );
            refusal = Some(Refusal::new(RefusalCode::AtCapacity, detail));
        }
        let per_address = limits.connections_per_address_max;
        let counted = (per_address > 0).then_some(address);
        if let Some(address) = counted {
            let mut by_address = self
                .by_address
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let count = by_address.entry(address).or_default();
            *count += 1;
            if *count > per_address {
                let detail = format!(
                    "{per_address} connections are open from this address, the most that are permitted (limits.connections_per_address_max): close one"
                );
                refusal = refusal.or(Some(Refusal::new(RefusalCode::AtCapacity, detail)));
            }
        }
        (
            Permit {
                sockets: Arc::clone(self),
                address,
                counted,
            },
            refusal,
        )
    }
}

/// One connection's place.
#[derive(Debug)]
pub struct Permit {
    sockets: Arc<Sockets>,
    address: IpAddr,
    counted: Option<IpAddr>,
}

impl Permit {
    /// The peer's address.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.sockets.open.fetch_sub(1, Relaxed);
        if let Some(address) = self.counted {
            let mut by_address = self
                .sockets
                .by_address
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = by_address.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&address);
                }
            }
        }
    }
}

/// Accepts until dropped, and hands the connections to the shards in turn.
pub async fn accept(
    listener: TcpListener,
    endpoint: Endpoint,
    shards: Vec<mpsc::Sender<Arrival>>,
    shared: Arc<Shared>,
) {
    let mut turn = 0;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_peer(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (permit, refusal) = shared.sockets.admit(peer.ip(), &shared.limits);
        if shared.sockets.open() > shared.limits.connections_max + REFUSED_MAX {
            shared.metrics.refused(RefusalCode::AtCapacity);
            continue;
        }
        let socket = match prepare(socket, &shared.limits) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "a new connection broke at once");
                continue;
            }
        };
        turn = (turn + 1) % shards.len();
        // A shard that is busy makes the listener wait, and the kernel holds what arrives meanwhile.
        if shards[turn]
            .send(Arrival::Accepted(Accepted {
                endpoint,
                socket,
                permit,
                refusal,
            }))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Errors of one connection that was gone before it was accepted (accept(2), "Error handling").
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn prepare(socket: TcpStream, limits: &Limits) -> io::Result<std::net::TcpStream> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    // Peers that vanish without a word: found by probes when idle, and by the stall limit when bytes wait.
    let idle = Duration::from_millis(limits.silence_ms_max);
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(Duration::from_secs(15))
        .with_retries(3);
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(Duration::from_millis(limits.stall_ms_max)))?;
    socket.into_std()
}
