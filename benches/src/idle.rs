//! Idle connections: what each takes of the server's memory, what accepting it costs, and what keeping it costs while
//! heartbeats go on.
//!
//! One server after the other. Memory is the growth of the process from none to all connections, after heartbeats have
//! passed over every one of them: buffers that heartbeats leave behind count. The kernel's own memory of a connection
//! is the same for all and not in it.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::Options;
use crate::machine::{SERVER_CPU, busy_s};
use crate::peers::{self, Peer};
use crate::process::Cpu;
use crate::report::{Failure, Table, complain, publish_section, target};
use crate::wire::mqtt::KEEP_ALIVE_S;
use crate::wire::tls::{Line, trusting};
use crate::wire::{Qos, Subscribe};

/// One heartbeat of every connection (15 s and jitter), and some more.
const INTERVAL: Duration = Duration::from_secs(20);
const QUICK_INTERVAL: Duration = Duration::from_millis(300);
/// The time between two heartbeats that clients send.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What was said while connections were opened is out of the way after this long.
const CALM: Duration = Duration::from_millis(300);
const EVENTS: usize = 1024;

/// A server with one way to be connected.
#[derive(Debug)]
struct Contestant {
    name: &'static str,
    start: fn(&Options) -> Result<Option<Peer>, Failure>,
    subscribe: Subscribe,
    /// The target in KiB of memory, for Tidings.
    kib_max: Option<f64>,
    is_ours: bool,
}

const fn ours(name: &'static str, subscribe: Subscribe, kib_max: Option<f64>) -> Contestant {
    Contestant {
        name,
        start: tidings,
        subscribe,
        kib_max,
        is_ours: true,
    }
}

const fn theirs(
    name: &'static str,
    start: fn(&Options) -> Result<Option<Peer>, Failure>,
    subscribe: Subscribe,
) -> Contestant {
    Contestant {
        name,
        start,
        subscribe,
        kib_max: None,
        is_ours: false,
    }
}

fn tidings(options: &Options) -> Result<Option<Peer>, Failure> {
    peers::tidings(options, &[]).map(Some)
}

fn tidings_mqtt(options: &Options) -> Result<Option<Peer>, Failure> {
    peers::tidings_mqtt(options, &[]).map(Some)
}

fn tidings_https(options: &Options) -> Result<Option<Peer>, Failure> {
    peers::tidings_tls(options, "--https").map(Some)
}

fn tidings_mqtts(options: &Options) -> Result<Option<Peer>, Failure> {
    peers::tidings_tls(options, "--mqtts").map(Some)
}

const MQTT: Subscribe = Subscribe::Mqtt(Qos::AtMostOnce);

const CONTESTANTS: &[Contestant] = &[
    ours(
        "tidings WebSocket",
        Subscribe::WebSocket("/v1/topics/bench"),
        Some(3.0),
    ),
    ours("tidings SSE", Subscribe::Sse("/v1/topics/bench"), Some(5.0)),
    ours(
        "tidings long-poll",
        Subscribe::LongPoll("/v1/topics/bench?wait=15s"),
        None,
    ),
    Contestant {
        start: tidings_mqtt,
        ..ours("tidings MQTT", MQTT, Some(3.0))
    },
    Contestant {
        start: tidings_https,
        ..ours(
            "tidings WebSocket, TLS",
            Subscribe::WebSocket("/v1/topics/bench"),
            Some(12.0),
        )
    },
    Contestant {
        start: tidings_https,
        ..ours(
            "tidings SSE, TLS",
            Subscribe::Sse("/v1/topics/bench"),
            Some(12.0),
        )
    },
    Contestant {
        start: tidings_mqtts,
        ..ours("tidings MQTT, TLS", MQTT, Some(12.0))
    },
    theirs("uWebSockets", peers::uws, Subscribe::WebSocket("/sub")),
    theirs(
        "nchan WebSocket",
        peers::nchan,
        Subscribe::WebSocket("/sub"),
    ),
    theirs("nchan SSE", peers::nchan, Subscribe::Sse("/sub")),
    theirs("nchan long-poll", peers::nchan, Subscribe::LongPoll("/sub")),
    theirs("mosquitto MQTT", peers::mosquitto, MQTT),
    theirs("nats", peers::nats, Subscribe::Nats),
];

/// What one server's connections took.
#[derive(Clone, Copy, Debug)]
struct Measured {
    connections: usize,
    /// With no connection.
    base_bytes: u64,
    opened_bytes: u64,
    /// When heartbeats have passed.
    kept_bytes: u64,
    accepted: Cpu,
    kept: Cpu,
    kept_busy_s: f64,
    kept_s: f64,
    heartbeats: usize,
}

/// Runs the measurement and writes its section.
pub fn run(options: &Options) -> Result<(), Failure> {
    let (connections, interval) = if options.quick {
        (50, QUICK_INTERVAL)
    } else {
        (10_000, INTERVAL)
    };
    let mut table = Table {
        title: format!("{connections} idle connections"),
        columns: vec![
            "server",
            "KiB each",
            "KiB each, before heartbeats",
            "MiB without any",
            "CPU us/connection accepted",
            "% of a core, idle",
            "% busy, idle",
            "heartbeats",
            "CPU us/heartbeat",
        ],
        ..Table::default()
    };
    let mut versions = Vec::new();
    for contestant in CONTESTANTS
        .iter()
        .filter(|one| one.is_ours || !options.quick)
    {
        let name = contestant.name;
        complain(&format!("idle: {name}"));
        match measure(options, contestant, connections, interval) {
            Ok(Some((version, measured))) => {
                versions.push(version);
                table.rows.push(row(name, measured));
                // Tiny numbers reach no target: what a server has once is spread over too few.
                if let Some(limit) = contestant.kib_max.filter(|_| !options.quick) {
                    let found = measured.kib_each();
                    let text = format!("{name}: at most {limit} KiB each");
                    let found_text = format!("{found:.2}");
                    table.notes.push(target(&text, found <= limit, &found_text));
                }
            }
            Ok(None) => table
                .notes
                .push(format!("{name} is left out: not installed")),
            Err(failure) if contestant.is_ours => return Err(failure),
            Err(failure) => table.notes.push(format!("{name} is left out: {failure}")),
        }
    }
    versions.dedup();
    let interval = interval.as_secs_f64();
    table.notes.push(format!(
        "KiB: growth of the process's proportional set size. Idle: over {interval} s in which every connection has \
         a heartbeat; MQTT clients send theirs (with a keep alive of {KEEP_ALIVE_S} s), a long-poll of Tidings is answered and asked again, those of nchan \
         wait without end. One round"
    ));
    table.notes.push(versions.join(", "));
    publish_section(options, "idle", &[table])
}

impl Measured {
    fn kib_each(&self) -> f64 {
        self.kib_of(self.kept_bytes)
    }

    fn kib_of(&self, bytes: u64) -> f64 {
        (bytes as f64 - self.base_bytes as f64) / 1024.0 / self.connections as f64
    }
}

fn row(name: &str, measured: Measured) -> Vec<String> {
    let connections = measured.connections as f64;
    let percent = |seconds: f64| format!("{:.2}", 100.0 * seconds / measured.kept_s);
    let heartbeats = measured.heartbeats;
    let us_each = match heartbeats {
        0 => "-".to_owned(),
        _ => format!("{:.1}", measured.kept.total_s * 1e6 / heartbeats as f64),
    };
    vec![
        name.to_owned(),
        format!("{:.2}", measured.kib_each()),
        format!("{:.2}", measured.kib_of(measured.opened_bytes)),
        format!("{:.1}", measured.base_bytes as f64 / 1024.0 / 1024.0),
        format!("{:.1}", measured.accepted.total_s * 1e6 / connections),
        percent(measured.kept.total_s),
        percent(measured.kept_busy_s),
        heartbeats.to_string(),
        us_each,
    ]
}

fn measure(
    options: &Options,
    contestant: &Contestant,
    connections: usize,
    interval: Duration,
) -> Result<Option<(String, Measured)>, Failure> {
    let Some(peer) = (contestant.start)(options)? else {
        return Ok(None);
    };
    let process = &peer.process;
    process.settle();
    let base_bytes = process.pss_bytes();
    let before = process.cpu();
    let mut crowd = IdleCrowd::open(contestant.subscribe, &peer, connections)?;
    process.settle();
    let accepted = process.cpu().since(before);
    crowd.keep(CALM)?;
    let opened_bytes = process.pss_bytes();
    let (before, busy) = (process.cpu(), busy_s(SERVER_CPU));
    let start = Instant::now();
    let heartbeats = crowd.keep(interval)?;
    let measured = Measured {
        connections,
        base_bytes,
        opened_bytes,
        kept_bytes: process.pss_bytes(),
        accepted,
        kept: process.cpu().since(before),
        kept_busy_s: busy_s(SERVER_CPU) - busy,
        kept_s: start.elapsed().as_secs_f64(),
        heartbeats,
    };
    Ok(Some((peer.version.clone(), measured)))
}

/// Connections that answer heartbeats and do nothing else.
struct IdleCrowd {
    subscribe: Subscribe,
    streams: Vec<Line>,
    epoll: OwnedFd,
}

impl IdleCrowd {
    fn open(subscribe: Subscribe, peer: &Peer, connections: usize) -> Result<Self, Failure> {
        let tls = peer.certificate.as_deref().map(trusting).transpose()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut streams = Vec::with_capacity(connections);
        for index in 0..connections {
            let stream = subscribe.open_line(peer.address(), tls.as_ref())?;
            let token = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &stream, token, epoll::EventFlags::IN)?;
            streams.push(stream);
        }
        Ok(Self {
            subscribe,
            streams,
            epoll,
        })
    }

    /// Answers what the server says and sends what is due, for so long; returns how many heartbeats there were.
    fn keep(&mut self, interval: Duration) -> Result<usize, Failure> {
        let step = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let start = Instant::now();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let mut heartbeats = 0;
        let mut sent = 0;
        while start.elapsed() < interval {
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&step)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                heartbeats += self.answer(event.data.u64() as usize)?;
            }
            self.send_due(start.elapsed(), &mut sent)?;
        }
        Ok(heartbeats)
    }

    fn answer(&mut self, index: usize) -> Result<usize, Failure> {
        let mut said = [0; 4096];
        let stream = &mut self.streams[index];
        let read = match stream.read(&mut said) {
            Ok(0) => {
                let text = format!("the server closed idle connection {index}");
                return Err(Failure::new(text));
            }
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(Failure::new(format!("idle connection {index}: {error}"))),
        };
        let mut out = Vec::new();
        let heartbeats = self.subscribe.answer(&said[..read], &mut out);
        stream.write_all(&out)?;
        Ok(heartbeats)
    }

    /// Heartbeats of the clients, spread evenly over the time between two.
    fn send_due(&mut self, elapsed: Duration, sent: &mut usize) -> Result<(), Failure> {
        let heartbeat = self.subscribe.heartbeat();
        if heartbeat.is_empty() {
            return Ok(());
        }
        let all = self.streams.len();
        let due = (elapsed.as_secs_f64() / HEARTBEAT.as_secs_f64() * all as f64) as usize;
        while *sent < due {
            self.streams[*sent % all].write_all(heartbeat)?;
            *sent += 1;
        }
        Ok(())
    }
}
