//! Starting, running and ending the server.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_hub::meter::Meters;
use tidings_hub::{Inboxes, ShardConfig, SharedMetrics};
use tidings_log::{EmbeddedEngine, LogConfig, Place};
use tidings_ports::{Authenticator, Clock, Engine, Feed, Permitter, SystemClock};
use tidings_types::{ByteSize, Durability, Limits, Offset, Principal};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::accept::{self, Endpoint, Sockets, Spoken};
use super::acme;
use super::admin;
use super::front::HTTP2_UNSENT_MAX;
use super::launch::tell_supervisor;
use super::link::TLS_BYTES_MAX;
use super::logins::Logins;
use super::remote::Remote;
use super::shard::{self, ARRIVALS_MAX, ShardThread};
use super::tls::Tls;
use super::{Reloadable, ServeError, Shared};
use crate::config::{Config, DataPlace};
use crate::process::sd::State;

/// Runs the server until it is told to end (SIGTERM, SIGINT) and has said its goodbyes.
///
/// `reload` is called at SIGHUP.
pub fn run(config: &Config, reload: &mut dyn FnMut(&Shared)) -> Result<(), ServeError> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|source| ServeError::System {
            what: "a runtime",
            source,
        })?;
    // The addresses first: a port in use is found before anything is written to the disk.
    let listening = Listening::open(config)?;
    let tls = Tls::open(config, SystemClock::default().now()).map_err(ServeError::Tls)?;
    let (shared, shards) = start_shards(config, tls)?;
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for (endpoint, listener) in listening.listeners {
            let listener = TcpListener::from_std(listener)
                .map_err(|source| ServeError::System { what: "the listener", source })?;
            let arrivals = shared.arrivals.clone();
            accepting.spawn(accept::accept(listener, endpoint, arrivals, Arc::clone(&shared)));
        }
        accepting.spawn(watch_certificates(Arc::clone(&shared)));
        accepting.spawn(acme::keep(Arc::clone(&shared)));
        // Before anybody is told that it is ready: until then a hangup is the end of a process.
        let mut signals = Signals::new()?;
        announce(config, &listening.addresses, shards.len());
        tell_supervisor(State::Ready);
        signals.end(&mut || reload(&shared)).await;
        accepting.abort_all();
        tell_supervisor(State::Stopping);
        shared.draining.store(true, Relaxed);
        let drain = shared.reloadable().drain;
        tracing::info!(
            connections = shared.sockets.open(),
            drain_ms = drain.as_millis() as u64,
            "shutting down: saying goodbye to every connection"
        );
        let joined = tokio::task::spawn_blocking(move || join(shards, drain));
        let mut ignore = || {};
        tokio::select! {
            result = joined => if let Err(error) = result {
                tracing::error!(%error, "waiting for the shards failed");
            },
            () = signals.end(&mut ignore) => tracing::warn!("told to end again: cutting every connection"),
        }
        Ok(())
    })?;
    shared.engine.close();
    tracing::info!("the log is flushed and closed");
    // Nobody waits for a thread that would not end when it was told twice.
    runtime.shutdown_background();
    Ok(())
}

/// The open listeners.
struct Listening {
    listeners: Vec<(Endpoint, std::net::TcpListener)>,
    /// Where they are: a port that was left to the system has its number.
    addresses: Vec<(Endpoint, SocketAddr)>,
}

impl Listening {
    fn open(config: &Config) -> Result<Self, ServeError> {
        let mut listening = Self {
            listeners: Vec::new(),
            addresses: Vec::new(),
        };
        for (endpoint, address) in [
            (Endpoint::plain(Spoken::Http), config.http),
            (Endpoint::tls(Spoken::Http), config.https),
            (Endpoint::plain(Spoken::Mqtt), config.mqtt),
            (Endpoint::tls(Spoken::Mqtt), config.mqtts),
            (Endpoint::plain(Spoken::Stomp), config.stomp),
            (Endpoint::tls(Spoken::Stomp), config.stomps),
            (Endpoint::plain(Spoken::Admin), config.admin.listen),
            (Endpoint::tls(Spoken::Admin), config.admin.tls),
        ] {
            let Some(address) = address else { continue };
            let listener = accept::listen(address).map_err(|source| ServeError::Listen {
                option: endpoint.option(),
                address,
                source,
            })?;
            let bound = listener.local_addr().map_err(|source| ServeError::System {
                what: "the listener's address",
                source,
            })?;
            listening.listeners.push((endpoint, listener));
            listening.addresses.push((endpoint, bound));
        }
        if listening.listeners.is_empty() {
            return Err(ServeError::NothingToServe);
        }
        Ok(listening)
    }
}

/// What the operating system tells the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let on = |kind| -> Result<Signal, ServeError> {
            signal(kind).map_err(|source| ServeError::System {
                what: "signals",
                source,
            })
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT. SIGHUP reloads and waits on.
    async fn end(&mut self, reload: &mut dyn FnMut()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

fn start_shards(config: &Config, tls: Tls) -> Result<(Arc<Shared>, Vec<ShardThread>), ServeError> {
    let shard_count = config.shards_or_cores();
    let limits = Arc::new(config.limits.clone());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let inboxes = Arc::new(Inboxes::new(shard_count, &limits));
    let feed: Arc<dyn Feed> = Arc::clone(&inboxes) as Arc<dyn Feed>;
    let engine = EmbeddedEngine::open(log_config(config), Arc::clone(&clock), feed)
        .map_err(ServeError::Log)?;
    let engine: Arc<dyn Engine> = engine;
    // Before the first shard runs and takes a publish: see `ShardConfig::head`.
    let head = engine.head();
    let metrics = Arc::new(SharedMetrics::default());
    let (arrivals, comings): (Vec<_>, Vec<_>) = (0..shard_count)
        .map(|_| mpsc::channel(ARRIVALS_MAX))
        .unzip();
    let revocations = Arc::new(admin::revocations(config).map_err(ServeError::Revocations)?);
    let remote = Arc::new(Remote::new(Arc::clone(&clock)));
    let logins = Arc::new(logins(config, &clock, (&revocations, &remote))?);
    let shared = Arc::new(Shared {
        limits: Arc::clone(&limits),
        engine: Arc::clone(&engine),
        clock: Arc::clone(&clock),
        shards: (0..shard_count).map(|_| Arc::default()).collect(),
        metrics: Arc::clone(&metrics),
        arrivals,
        meters: Arc::new(Meters::new(&limits)),
        sockets: Arc::new(Sockets::new(&limits)),
        tls,
        proxy_counts: super::proxies::Counts::default(),
        reloadable: RwLock::new(Arc::new(Reloadable::new(config)?)),
        http_compression: config.http_compression,
        websocket_compression: config.websocket_compression,
        sse_gzip: config.sse_gzip,
        mqtt_websocket: config.mqtt_websocket,
        mqtt_server_reference: server_reference(config),
        stomp_websocket: config.stomp_websocket,
        retention: config.retention.clone(),
        page: config.page,
        draining: AtomicBool::new(false),
        logins: Arc::clone(&logins),
        admin: admin::Admin::new(config, revocations),
        inboxes: Arc::clone(&inboxes),
        streams: super::renewal::StreamNames::new(&seal()?),
        remote: Arc::clone(&remote),
        anonymous: Arc::new(Principal::anonymous()),
    });
    let mut shards = Vec::with_capacity(shard_count);
    let states = tidings_hub::states_by_home(&*engine, shard_count);
    for (index, (arrivals, states)) in comings.into_iter().zip(states).enumerate() {
        let shard = shard_config(config, &shared, (index, states, head))?;
        let started = shard::start(shard, &inboxes.of(index), Arc::clone(&shared), arrivals)
            .map_err(|source| ServeError::System {
                what: "a thread",
                source,
            })?;
        shards.push(started);
    }
    Ok((shared, shards))
}

fn shard_config(
    config: &Config,
    shared: &Shared,
    (index, states, head): (usize, Vec<(ByteString, Bytes)>, Offset),
) -> Result<ShardConfig, ServeError> {
    Ok(ShardConfig {
        index,
        engine: Arc::clone(&shared.engine),
        inboxes: Arc::clone(&shared.inboxes),
        states,
        head,
        clock: Arc::clone(&shared.clock),
        limits: Arc::clone(&shared.limits),
        authenticator: Arc::clone(&shared.logins) as Arc<dyn Authenticator>,
        meters: Arc::clone(&shared.meters),
        expiry_notice_ms: config.auth.expiry_notice_ms,
        permitter: Arc::clone(&shared.remote) as Arc<dyn Permitter>,
        dead_letter: config.dead_letter.clone(),
        metrics: Arc::clone(&shared.shards[index]),
        shared: Arc::clone(&shared.metrics),
        seed: seed().map_err(|source| ServeError::System {
            what: "random numbers",
            source,
        })?,
    })
}

fn server_reference(config: &Config) -> Option<Arc<ByteString>> {
    let address = config.mqtt_server_reference.as_deref()?;
    Some(Arc::new(address.into()))
}

fn logins(
    config: &Config,
    clock: &Arc<dyn Clock>,
    (revocations, remote): (&Arc<admin::Revocations>, &Remote),
) -> Result<Logins, ServeError> {
    let authenticator = super::authenticator(config, remote)?;
    Ok(Logins::new(
        authenticator,
        Arc::clone(clock),
        config.auth.failures_max,
        seal()?,
        Arc::clone(revocations),
    ))
}

/// A random secret of this process.
fn seal() -> Result<[u8; 32], ServeError> {
    let mut seal = [0; 32];
    getrandom::fill(&mut seal).map_err(|error| ServeError::System {
        what: "random numbers",
        source: io::Error::other(error),
    })?;
    Ok(seal)
}

fn log_config(config: &Config) -> LogConfig {
    LogConfig {
        place: match &config.data {
            DataPlace::Dir(path) => Place::Directory(path.clone()),
            DataPlace::Memory => Place::Memory,
        },
        durability: config.durability,
        rules: config.retention.clone(),
        limits: config.limits.clone(),
        segment_bytes: u32::try_from(config.segment_bytes).unwrap_or(u32::MAX),
        ..LogConfig::in_memory()
    }
}

/// The most that messages on their way take, whatever peers do: what waits for the log and what is being
/// committed, and each shard's request bodies, inbox, tail and pages.
fn queues_bytes_max(limits: &Limits, shards: usize) -> u64 {
    let shard = limits.inbox_bytes_max + limits.tail_bytes_max + 64 * limits.page_bytes_max;
    ((2 + shards) * limits.submit_bytes_max + shards * shard) as u64
}

/// The most that one peer takes that does not read.
fn slow_peer_bytes_max(limits: &Limits, addresses: &[(Endpoint, SocketAddr)]) -> u64 {
    let tls = addresses.iter().any(|(endpoint, _)| endpoint.tls);
    let tls = if tls { TLS_BYTES_MAX } else { 0 };
    (limits.outbox_bytes_max + limits.message_bytes_max + tls) as u64
}

/// The same for a peer of HTTP/2, of which each stream is as slow.
fn slow_http2_peer_bytes_max(limits: &Limits, addresses: &[(Endpoint, SocketAddr)]) -> u64 {
    let stream = slow_peer_bytes_max(limits, addresses) + HTTP2_UNSENT_MAX as u64;
    u64::from(limits.http2_streams_max) * stream
}

/// Says what listens where, and what to try first.
fn announce(config: &Config, addresses: &[(Endpoint, SocketAddr)], shards: usize) {
    let (data, durability) = match (&config.data, config.durability) {
        (DataPlace::Memory, _) => ("in memory: gone with the process".to_owned(), "none"),
        (DataPlace::Dir(path), Durability::Sync) => (path.display().to_string(), "sync"),
        (DataPlace::Dir(path), Durability::Os) => (path.display().to_string(), "os"),
    };
    tracing::info!(
        data,
        durability,
        shards,
        connections_max = config.limits.connections_max,
        memory_queues_max = %ByteSize(queues_bytes_max(&config.limits, shards)),
        memory_per_slow_peer_max = %ByteSize(slow_peer_bytes_max(&config.limits, addresses)),
        memory_per_slow_http2_peer_max = %ByteSize(slow_http2_peer_bytes_max(&config.limits, addresses)),
        version = env!("CARGO_PKG_VERSION"),
        "tidings is ready"
    );
    for (endpoint, address) in addresses {
        tracing::info!(listener = endpoint.name(), address = %address, "listening");
    }
    if !std::io::stderr().is_terminal() {
        return;
    }
    let banner = banner(addresses);
    if let Err(error) = std::io::stderr().write_all(banner.as_bytes()) {
        tracing::debug!(%error, "the banner could not be written");
    }
}

/// What to try first.
fn banner(addresses: &[(Endpoint, SocketAddr)]) -> String {
    let mut banner = "\n".to_owned();
    for (endpoint, address) in addresses {
        let lines = match endpoint.spoken {
            _ if endpoint.tls => format!("  with tls   {} at {address}\n", endpoint.name()),
            Spoken::Http => format!(
                "  open       http://{address}/
  subscribe  curl -N 'http://{address}/v1/topics/demo?after=earliest' -H 'Accept: text/event-stream'
  publish    curl -d hello http://{address}/v1/topics/demo
"
            ),
            Spoken::Admin => format!("  look in    curl http://{address}/metrics\n"),
            Spoken::Mqtt => format!(
                "  with mqtt  mosquitto_sub -h {} -p {} -t demo
",
                address.ip(),
                address.port()
            ),
            Spoken::Stomp => format!(
                "  with stomp printf 'CONNECT\\naccept-version:1.2\\n\\n\\0SUBSCRIBE\\nid:0\\ndestination:/topic/demo\\n\\n\\0' | nc {} {}
",
                address.ip(),
                address.port()
            ),
        };
        banner.push_str(&lines);
    }
    banner.push_str("  stop       Ctrl-C\n\n");
    banner
}

/// Looks at the files for TLS from time to time, and takes them when they have changed.
async fn watch_certificates(shared: Arc<Shared>) {
    while let Some(pause) = shared.tls.look_every() {
        tokio::time::sleep(pause).await;
        let shared = Arc::clone(&shared);
        // They may be on a disk that takes its time.
        if let Err(error) = tokio::task::spawn_blocking(move || shared.tls.look()).await {
            return tracing::error!(%error, "the certificates are not looked at any more");
        }
    }
}

fn seed() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

/// Lets every shard say its goodbyes, at the same time, and waits for them.
fn join(shards: Vec<ShardThread>, drain: Duration) {
    let mut threads = Vec::with_capacity(shards.len());
    for shard in shards {
        if shard.drain.send(drain).is_err() {
            tracing::error!("a shard ended before it was told to");
        }
        threads.push(shard.thread);
    }
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a shard panicked");
        }
    }
}
