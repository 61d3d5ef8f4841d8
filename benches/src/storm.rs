//! Thousands of clients come back at once.
//!
//! Each resumes an event stream a hundred messages back, while a publisher goes on and others receive live. What
//! counts is how long it takes until everybody is live again, and what the others notice of it.

mod live;
mod phase;
mod returning;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::link::{ask, connect};
use crate::peers::{self, Peer};
use crate::report::{Failure, Table, publish_section, target};
use crate::spread::{Spread, short};
use crate::{Options, scan};

use live::Latencies;
use phase::Shared;
use returning::Return;

/// What the returning clients subscribe to.
const STORM_TOPIC: &str = "bench/storm";
/// What those subscribe to that are live all the time.
const LIVE_TOPIC: &str = "bench/live";
const PAYLOAD_BYTES: usize = 128;
/// How far back the clients resume.
const BEHIND: u32 = 100;
/// What is there before, so that the cursor is in the middle of a topic.
const BEFORE: u32 = 50;

/// Longest time until all are live, in seconds.
const LIVE_S_MAX: f64 = 2.0;
/// The live subscribers' p99 during the storm, as a multiple of its quiet value.
const P99_RATIO_MAX: f64 = 3.0;

/// How much of everything.
#[derive(Clone, Copy)]
struct Sizes {
    clients: usize,
    live: usize,
    quiet: Duration,
    after: Duration,
}

/// One round.
struct Outcome {
    returned: Return,
    latencies: Latencies,
}

/// Runs the measurement and writes its section.
pub fn run(options: &Options) -> Result<(), Failure> {
    let sizes = if options.quick {
        Sizes {
            clients: 50,
            live: 10,
            quiet: Duration::from_millis(200),
            after: Duration::from_millis(100),
        }
    } else {
        Sizes {
            clients: 5_000,
            live: 100,
            quiet: Duration::from_secs(4),
            after: Duration::from_secs(1),
        }
    };
    let mut version = String::new();
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let peer = peers::tidings(options, &[])?;
        version.clone_from(&peer.version);
        rounds.push(round(&peer, sizes)?);
    }
    publish_section(options, "storm", &[table(sizes, &rounds, &version)])
}

fn round(peer: &Peer, sizes: Sizes) -> Result<Outcome, Failure> {
    let cursor = backlog(peer.address())?;
    let mut live = live::Live::open(peer.address(), sizes.live)?;
    let shared = Shared::default();
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let returned = returning::run(peer, &cursor, sizes, &shared);
            shared.end();
            returned
        });
        let latencies = live.run(&shared);
        shared.end();
        let returned = storm
            .join()
            .map_err(|_| Failure::new("the thread of the storm panicked"))?;
        Ok(Outcome {
            returned: returned?,
            latencies: latencies?,
        })
    })
}

/// Publishes what the clients have missed, and gives the id to resume from.
fn backlog(address: SocketAddr) -> Result<String, Failure> {
    let mut stream = connect(address)?;
    let mut cursor = None;
    for number in 0..BEFORE + BEHIND {
        let payload = scan::payload(PAYLOAD_BYTES, 0, number);
        let length = payload.len();
        let request = format!(
            "POST /v1/topics/{STORM_TOPIC} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{payload}"
        );
        let answer = ask(&mut stream, request.as_bytes(), b"}")?;
        let answer = String::from_utf8_lossy(&answer);
        let id = answer
            .split_once("\"id\":\"")
            .and_then(|(_, rest)| rest.split_once('"'));
        let Some((id, _)) = id.filter(|_| answer.starts_with("HTTP/1.1 201")) else {
            return Err(Failure::new(format!("a publish was refused: {answer}")));
        };
        if number + 1 == BEFORE {
            cursor = Some(id.to_owned());
        }
    }
    cursor.ok_or_else(|| Failure::new("nothing was published"))
}

/// A figure over the rounds.
fn over(rounds: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> Spread {
    Spread::of(rounds.iter().map(figure))
}

/// Which latencies of a round.
type Which = fn(&Latencies) -> &Histogram<u64>;

const QUIET: Which = |latencies| &latencies.quiet;
const STORM: Which = |latencies| &latencies.storm;
const PUBLISHER_LATE: Which = |latencies| &latencies.publisher_late;

fn quantile_ms(round: &Outcome, which: Which, quantile: f64) -> f64 {
    which(&round.latencies).value_at_quantile(quantile) as f64 / 1e6
}

fn p99_ratio(rounds: &[Outcome]) -> Spread {
    over(rounds, |round| {
        quantile_ms(round, STORM, 0.99) / quantile_ms(round, QUIET, 0.99)
    })
}

fn table(sizes: Sizes, rounds: &[Outcome], version: &str) -> Table {
    let row = |name: &str, figure: Spread, unit: &str| {
        vec![
            name.to_owned(),
            format!("{figure} {unit}").trim().to_owned(),
        ]
    };
    let latency = |name: &str, which: Which, quantile: f64| {
        let figure = over(rounds, |round| quantile_ms(round, which, quantile));
        row(name, figure, "ms")
    };
    let caught_up = sizes.clients as f64 * f64::from(BEHIND);
    let cpu_us_each = over(rounds, |round| round.returned.cpu.total_s * 1e6 / caught_up);
    let rows = vec![
        row(
            "until all are live",
            over(rounds, |round| round.returned.all_live_s),
            "s",
        ),
        row(
            "until half of them are live",
            over(rounds, |round| round.returned.half_live_s),
            "s",
        ),
        row("live p99, storm / quiet", p99_ratio(rounds), ""),
        latency("live p99, quiet", QUIET, 0.99),
        latency("live p99, storm", STORM, 0.99),
        latency("live p50, quiet", QUIET, 0.5),
        latency("live p50, storm", STORM, 0.5),
        latency("live worst, quiet", QUIET, 1.0),
        latency("live worst, storm", STORM, 1.0),
        latency("publisher itself late, p99, storm", PUBLISHER_LATE, 0.99),
        row(
            "server CPU until all are live",
            over(rounds, |round| round.returned.cpu.total_s),
            "s",
        ),
        row("server CPU a message caught up on", cpu_us_each, "us"),
    ];
    Table {
        title: format!(
            "{} event streams resume {BEHIND} messages back at once, {} live subscribers",
            sizes.clients, sizes.live
        ),
        columns: vec!["tidings", "median (least..most)"],
        rows,
        notes: notes(rounds, version),
    }
}

fn notes(rounds: &[Outcome], version: &str) -> Vec<String> {
    let all_live_s = over(rounds, |round| round.returned.all_live_s);
    let ratio = p99_ratio(rounds);
    vec![
        target(
            &format!("all live in under {LIVE_S_MAX} s"),
            all_live_s.median < LIVE_S_MAX,
            &format!("{} s", short(all_live_s.median)),
        ),
        target(
            &format!("live p99 at most {P99_RATIO_MAX} x its quiet value"),
            ratio.median <= P99_RATIO_MAX,
            &short(ratio.median),
        ),
        format!(
            "Every client got the {BEHIND} messages that it had missed and each one that was published meanwhile ({} a \
             second), in order and once: it is checked. A client is live when it has the newest message.",
            live::STORM_PER_SECOND
        ),
        format!(
            "The live subscribers are on a topic of their own with {} messages a second. Their thread has priority over \
             the one that reads for the returning clients, so that the load does not wait for itself; how late it was \
             all the same is in the table.",
            live::LIVE_PER_SECOND
        ),
        format!("Version: {version}."),
    ]
}
