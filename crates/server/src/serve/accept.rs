//! Accepting connections. How many there may be is in [`newcomers`](super::newcomers).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tidings_types::{Limits, Refusal};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Shared;
pub use super::newcomers::{Counted, Permit, Sockets};
use super::shard::Arrival;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
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
    /// HTTP, for operators.
    Admin,
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
            (Spoken::Admin, false) => "admin.listen",
            (Spoken::Admin, true) => "admin.tls",
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
            (Spoken::Admin, false) => "admin",
            (Spoken::Admin, true) => "admin-tls",
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
        // An operator gets in when the server is full.
        let sockets = match endpoint.spoken {
            Spoken::Admin => &shared.admin.sockets,
            _ => &shared.sockets,
        };
        let now = shared.clock.tick();
        let is_exempt = shared.stands_for_many(peer.ip());
        let (permit, refusal) = match sockets.admit(peer.ip(), is_exempt, endpoint, now) {
            Ok(admitted) => admitted,
            Err(code) => {
                shared.metrics.refused(code);
                continue;
            }
        };
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
