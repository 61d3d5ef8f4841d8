//! A shard's thread: one single-threaded runtime, one [`Core`], and the tasks that feed it.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderMap;
use tidings_hub::{ConnectionId, Inbox, Peer, Shard, ShardConfig};
use tidings_ports::Certificate;
use tidings_types::{Principal, Refusal, RefusalCode};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc, oneshot};

use super::accept::{Accepted, Counted, Endpoint, Permit, Spoken};
use super::core::{Core, Open};
use super::link::Link;
use super::proxies::{self, Sender};
use super::{Shared, admin, front, mqtt, refused, stomp, tls};

/// Between two looks at the timers: the width of a slot of the wheel.
const TICK: Duration = Duration::from_millis(64);
/// Tasks that run between two looks at the sockets while there is no pause.
const TASKS_A_LOOK: u32 = 16;
/// Sockets that one look finds ready.
const EVENTS_A_LOOK: usize = 64;
/// Connections that are taken over before everybody else has a turn.
const ACCEPTED_A_TURN: usize = 8;
/// Between two groups of farewells.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Connections that wait for a shard.
pub const ARRIVALS_MAX: usize = 1024;

/// A connection that comes to a shard.
pub enum Arrival {
    /// From the listener.
    Accepted(Accepted),
    /// From the shard that read its first packet: its session lives here.
    Moved(mqtt::Moved),
}

/// The control thread's end of a shard.
pub struct ShardThread {
    /// Send the time over which the farewells are spread, and the shard ends.
    pub drain: oneshot::Sender<Duration>,
    /// The thread; it returns when the shard's last connection is closed, or its time is over.
    pub thread: JoinHandle<()>,
}

/// A connection's place among the open ones, for as long as something of it is there: an upgraded connection
/// outlives the HTTP that it came by.
pub type Place = Rc<Seat>;

/// Where the client of a connection, or of one request on it, is; and what is held of the counts of open ones.
pub struct Seat {
    /// The client's, as far as those tell who are trusted.
    pub address: IpAddr,
    /// What it proved in the TLS handshake.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether it came over TLS.
    pub is_tls: bool,
    held: Held,
}

enum Held {
    /// A connection.
    Connection {
        permit: Cell<Option<Permit>>,
        _open: Open,
    },
    /// A request that a proxy passes on, over this connection.
    Request {
        connection: Place,
        counted: Cell<Option<Counted>>,
    },
}

/// What goes with a connection from shard to shard.
pub struct Belongings {
    permit: Permit,
    certificate: Option<Arc<Certificate>>,
}

impl Seat {
    fn new(open: Open, belongings: Belongings, is_tls: bool) -> Place {
        let Belongings {
            permit,
            certificate,
        } = belongings;
        Rc::new(Self {
            address: permit.address(),
            certificate,
            is_tls,
            held: Held::Connection {
                permit: Cell::new(Some(permit)),
                _open: open,
            },
        })
    }

    /// The place of a request: that of its connection, unless a proxy passes it on that says whose it is.
    pub fn of_request(place: &Place, shared: &Shared, headers: &HeaderMap) -> Place {
        let proxy = &shared.reloadable().proxy;
        let client = shared.proxy_counts.client_of(proxy, place.address, headers);
        let Some(address) = client else {
            return Rc::clone(place);
        };
        Rc::new(Self {
            address,
            // The proxy's, if there is one: it says nothing of the client.
            certificate: None,
            is_tls: place.is_tls || proxies::came_by_tls(headers),
            held: Held::Request {
                connection: Rc::clone(place),
                counted: Cell::new(None),
            },
        })
    }

    /// Counts a request that becomes a stream as a connection of its client; one that is not passed on is counted
    /// already.
    pub fn count(&self, shared: &Shared) -> Result<(), Refusal> {
        let Held::Request { counted, .. } = &self.held else {
            return Ok(());
        };
        let (is_exempt, now) = (shared.stands_for_many(self.address), shared.clock.tick());
        let one_more = shared.sockets.count(self.address, is_exempt, now)?;
        counted.set(Some(one_more));
        Ok(())
    }

    /// Who is at the other end.
    pub fn peer(&self, principal: Arc<Principal>) -> Peer {
        Peer {
            principal,
            address: Some(self.address),
            certificate: self.certificate.clone(),
        }
    }

    /// Says in the log where the peer of a connection is.
    pub fn tell(&self, shard: usize, id: ConnectionId, protocol: &str) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            // As the hub calls it where it logs a refusal.
            let connection = format!("{shard}-{}", id.slot());
            tracing::debug!(address = %self.address, protocol, connection, "connected");
        }
    }

    /// What goes with the connection to another shard; once.
    pub fn take_belongings(&self) -> Option<Belongings> {
        let certificate = self.certificate.clone();
        match &self.held {
            Held::Connection { permit, .. } => Some(Belongings {
                permit: permit.take()?,
                certificate,
            }),
            Held::Request {
                connection,
                counted,
            } => {
                let mut permit = connection.take_belongings()?.permit;
                permit.take_over(self.address, counted.take());
                Some(Belongings {
                    permit,
                    certificate,
                })
            }
        }
    }
}

/// Starts a shard's thread, which takes its connections from `arrivals`.
pub fn start(
    config: ShardConfig,
    inbox: &Arc<Inbox>,
    shared: Arc<Shared>,
    arrivals: mpsc::Receiver<Arrival>,
) -> io::Result<ShardThread> {
    let (drain, drained) = oneshot::channel();
    let arrival = Arc::new(Notify::new());
    let wake = Arc::clone(&arrival);
    inbox.on_arrival(move || wake.notify_one());
    let name = format!("shard-{}", config.index);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let runtime = match local_runtime() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a shard has no runtime"),
        };
        let index = config.index;
        let core = Core::new(Shard::new(config), index, shared);
        runtime.block_on(serve(Rc::new(core), arrival, arrivals, drained));
    })?;
    Ok(ShardThread { drain, thread })
}

fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .event_interval(TASKS_A_LOOK)
        .max_io_events_per_tick(EVENTS_A_LOOK)
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())
}

async fn serve(
    core: Rc<Core>,
    arrival: Arc<Notify>,
    mut arrivals: mpsc::Receiver<Arrival>,
    drained: oneshot::Receiver<Duration>,
) {
    let delivery = tokio::task::spawn_local({
        let core = Rc::clone(&core);
        async move {
            loop {
                arrival.notified().await;
                core.with(Shard::take_inbox);
            }
        }
    });
    let timers = tokio::task::spawn_local({
        let core = Rc::clone(&core);
        async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                interval.tick().await;
                core.with(Shard::tick);
            }
        }
    });
    let accepting = tokio::task::spawn_local({
        let core = Rc::clone(&core);
        async move {
            let mut taken = 0;
            while let Some(arrival) = arrivals.recv().await {
                match arrival {
                    Arrival::Accepted(accepted) => open(&core, accepted),
                    Arrival::Moved(moved) => take_in(&core, moved),
                }
                taken += 1;
                if taken % ACCEPTED_A_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    // A control thread that is gone without a word leaves nothing to serve for.
    let spread = drained.await.unwrap_or_default();
    accepting.abort();
    say_goodbye(&core, spread).await;
    // What is still to be kept of sessions reaches the log before it closes.
    core.with(Shard::close);
    delivery.abort();
    timers.abort();
}

fn open(core: &Rc<Core>, accepted: Accepted) {
    let Accepted {
        endpoint,
        socket,
        permit,
        refusal,
    } = accepted;
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a new connection broke at once"),
    };
    let arrived = Arrived {
        endpoint,
        socket,
        open: core.open(),
        permit,
        refusal,
    };
    let core = Rc::clone(core);
    let settings = &core.shared.reloadable().proxy;
    let has_header =
        settings.protocol.contains(&endpoint.name()) && settings.trusts(arrived.permit.address());
    if has_header {
        tokio::task::spawn_local(async move {
            if let Some(arrived) = readdress(&core, arrived).await {
                secure(core, arrived).await;
            }
        });
    } else if arrived.wants_tls() {
        tokio::task::spawn_local(secure(core, arrived));
    } else {
        let (spoken, refusal) = (endpoint.spoken, arrived.refusal);
        let link = arrived.socket.into();
        let belongings = Belongings {
            permit: arrived.permit,
            certificate: None,
        };
        let place = Seat::new(arrived.open, belongings, false);
        begin(core, (spoken, link), place, refusal);
    }
}

/// A connection of which nothing has been read.
struct Arrived {
    endpoint: Endpoint,
    socket: TcpStream,
    open: Open,
    permit: Permit,
    refusal: Option<Refusal>,
}

impl Arrived {
    /// Of those that are refused, only HTTP has words for it that are worth a handshake.
    fn wants_tls(&self) -> bool {
        let has_words = matches!(self.endpoint.spoken, Spoken::Http | Spoken::Admin);
        self.endpoint.tls && (self.refusal.is_none() || has_words)
    }
}

/// Reads whose connection it is that a proxy passes on. `None` if the connection is over.
async fn readdress(core: &Core, mut arrived: Arrived) -> Option<Arrived> {
    let shared = &core.shared;
    if let Sender::Client(address) = proxies::read_header(core, &arrived.socket).await? {
        let (is_exempt, now) = (shared.stands_for_many(address), shared.clock.tick());
        let permit = &mut arrived.permit;
        match permit.readdress(address, is_exempt, arrived.endpoint, now) {
            Ok(refusal) => arrived.refusal = arrived.refusal.or(refusal),
            Err(code) => {
                shared.metrics.refused(code);
                return None;
            }
        }
    }
    Some(arrived)
}

/// Makes the TLS handshake, if there is to be one, and serves the connection.
async fn secure(core: Rc<Core>, arrived: Arrived) {
    let wants_tls = arrived.wants_tls();
    let Arrived {
        endpoint,
        socket,
        open,
        permit,
        refusal,
    } = arrived;
    let (link, certificate) = if wants_tls {
        let Some(link) = tls::secure(&core, socket, endpoint.spoken).await else {
            return;
        };
        let names = core.shared.reloadable().client_certificates;
        let shown = link.client_certificate();
        let certificate = shown.and_then(|shown| tls::certificate(shown, names));
        (link, certificate.map(Arc::new))
    } else {
        (socket.into(), None)
    };
    let belongings = Belongings {
        permit,
        certificate,
    };
    let place = Seat::new(open, belongings, wants_tls);
    begin(core, (endpoint.spoken, link), place, refusal);
}

/// Serves a connection, or refuses it, in a task of its own.
fn begin(core: Rc<Core>, (spoken, link): (Spoken, Link), place: Place, refusal: Option<Refusal>) {
    match (spoken, refusal) {
        (Spoken::Http, None) => drop(tokio::task::spawn_local(front::serve(core, link, place))),
        (Spoken::Admin, None) => drop(tokio::task::spawn_local(admin::serve(core, link, place))),
        (Spoken::Http | Spoken::Admin, Some(refusal)) => {
            drop(tokio::task::spawn_local(async move {
                refused::tell(core, link, refusal).await;
                drop(place);
            }));
        }
        (Spoken::Mqtt, None) => drop(tokio::task::spawn_local(mqtt::serve(core, link, place))),
        (Spoken::Stomp, None) => drop(tokio::task::spawn_local(stomp::serve(core, link, place))),
        // The first word is the client's: an answer before it would be one that it does not expect, and which version
        // it would understand is not known yet.
        (Spoken::Mqtt | Spoken::Stomp, Some(refusal)) => core.shared.metrics.refused(refusal.code),
    }
}

/// Takes in a connection that another shard has read the first packet of.
fn take_in(core: &Rc<Core>, moved: mqtt::Moved) {
    match moved.land() {
        Ok((landed, belongings)) => {
            // Its handshake, if it had one, is over.
            let place = Seat::new(core.open(), belongings, false);
            tokio::task::spawn_local(mqtt::serve_landed(Rc::clone(core), landed, place));
        }
        Err(error) => tracing::debug!(%error, "a connection broke on its way to its shard"),
    }
}

/// Between two farewells, at the most: a few connections need no long time to be spread over.
const FAREWELL_STEP: Duration = Duration::from_millis(10);

/// Tells each connection, one after the other over `spread`, to come back at a time of its own.
async fn say_goodbye(core: &Rc<Core>, spread: Duration) {
    core.begin_drain();
    let mut waiting = core.with(|shard| {
        let mut waiting: Vec<_> = shard.connections().collect();
        // Neighbours in the table connected one after the other; they need not leave so.
        for at in (1..waiting.len()).rev() {
            let other = (shard.next_random() % (at as u64 + 1)) as usize;
            waiting.swap(at, other);
        }
        waiting
    });
    let spread = spread.min(FAREWELL_STEP * u32::try_from(waiting.len()).unwrap_or(u32::MAX));
    let steps = (spread.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
    let group = waiting.len().div_ceil(steps).max(1);
    let mut left = spread;
    while !waiting.is_empty() {
        for id in waiting.split_off(waiting.len().saturating_sub(group)) {
            core.with(|shard| {
                let reconnect_after = reconnect_after(left, spread, shard.next_random());
                let detail = format!(
                    "the server restarts: reconnect in {} ms",
                    reconnect_after.as_millis()
                );
                let refusal = Refusal::new(RefusalCode::ShuttingDown, detail);
                shard.drain(id, reconnect_after, refusal);
            });
        }
        if !waiting.is_empty() {
            tokio::time::sleep(DRAIN_STEP).await;
            left = left.saturating_sub(DRAIN_STEP);
        }
    }
    let limit = Duration::from_millis(core.shared.limits.close_ms_max);
    if tokio::time::timeout(limit, core.all_closed())
        .await
        .is_err()
    {
        tracing::info!("some connections did not close in time and are cut off");
    }
}

/// Past the end of the farewells, and spread as wide as they are again, so that nobody meets a server that is
/// not back yet and not everybody comes at once.
fn reconnect_after(left: Duration, spread: Duration, random: u64) -> Duration {
    let width = spread.as_millis() as u64 + 2_000;
    left + Duration::from_millis(500 + random % width)
}
