//! A shard's thread: one single-threaded runtime, one [`Core`], and the tasks that feed it.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_hub::{Inbox, Shard, ShardConfig};
use tidings_types::{Refusal, RefusalCode};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc, oneshot};

use super::accept::{Accepted, Permit, Spoken};
use super::core::{Core, Open};
use super::link::Link;
use super::{Shared, front, mqtt, stomp, tls};

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

/// What a connection holds of the counts of open ones.
pub struct Seat {
    _open: Open,
    /// The peer's.
    pub address: IpAddr,
    permit: Cell<Option<Permit>>,
}

impl Seat {
    fn new(core: &Rc<Core>, permit: Permit) -> Place {
        Rc::new(Self {
            _open: core.open(),
            address: permit.address(),
            permit: Cell::new(Some(permit)),
        })
    }

    /// The permit, for the shard that the connection moves to; once.
    pub fn take_permit(&self) -> Option<Permit> {
        self.permit.take()
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
    let core = Rc::clone(core);
    let place = Seat::new(&core, permit);
    // Of those that are refused, only HTTP has words for it that are worth a handshake.
    if endpoint.tls && (refusal.is_none() || endpoint.spoken == Spoken::Http) {
        tokio::task::spawn_local(async move {
            if let Some(link) = tls::secure(&core, socket, endpoint.spoken).await {
                begin(core, (endpoint.spoken, link), place, refusal);
            }
        });
    } else {
        begin(core, (endpoint.spoken, socket.into()), place, refusal);
    }
}

/// Serves a connection, or refuses it, in a task of its own.
fn begin(core: Rc<Core>, (spoken, link): (Spoken, Link), place: Place, refusal: Option<Refusal>) {
    match (spoken, refusal) {
        (Spoken::Http, None) => drop(tokio::task::spawn_local(front::serve(core, link, place))),
        (Spoken::Http, Some(refusal)) => drop(tokio::task::spawn_local(async move {
            front::refuse(&core, link, refusal).await;
            drop(place);
        })),
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
        Ok((landed, permit)) => {
            let place = Seat::new(core, permit);
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
