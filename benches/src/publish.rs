//! Durable acknowledged publishes: each is answered once it is on the disk.
//!
//! Sixty-four publishers keep one or sixteen publishes each under way. The same generator loads every server; the
//! ratio is to redis with `appendfsync always` in the same round. Every publish waits for the disk, whose speed changes
//! from second to second: rounds are short and many, and all servers run through a round, so that what is compared is
//! measured as closely in time as it can be.

mod jetstream;
mod load;
mod wire;

use std::time::Duration;

use crate::Options;
use crate::peers::{self, Peer};
use crate::report::{Failure, Table, publish_section, target};
use crate::spread::{Spread, short, time};

use load::{Load, Outcome};
use wire::Wire;

const PAYLOAD_BYTES: usize = 256;

/// One row: a wire, and how many publishes each connection has under way.
type Row = (Wire, usize);

/// In the order in which they run. An HTTP/1.1 connection answers one request after the other.
const ROWS: [Row; 9] = [
    (Wire::Http, 1),
    (Wire::TidingsV1, 1),
    (Wire::Mqtt, 1),
    (Wire::Redis, 1),
    (Wire::JetStream, 1),
    (Wire::TidingsV1, 16),
    (Wire::Mqtt, 16),
    (Wire::Redis, 16),
    (Wire::JetStream, 16),
];

/// The wires of each server.
const SERVERS: [&[Wire]; 4] = [
    &[Wire::Http, Wire::TidingsV1],
    &[Wire::Mqtt],
    &[Wire::Redis],
    &[Wire::JetStream],
];

/// A disk's speed changes from one second to the next: many short rounds find the middle of it.
const ROUNDS_EACH: usize = 3;

/// The rounds' outcomes of one row.
#[derive(Default)]
struct Rounds(Vec<Option<Outcome>>);

/// Runs the measurement and writes its section.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut rounds = ROWS.map(|_| Rounds::default());
    let mut versions = Vec::new();
    for _ in 0..rounds_of(options) {
        round(options, &mut rounds, &mut versions)?;
    }
    let table = table(options, &rounds, &versions);
    publish_section(options, "publish", &[table])
}

fn rounds_of(options: &Options) -> usize {
    if options.quick {
        1
    } else {
        ROUNDS_EACH * options.rounds
    }
}

/// Starts every server, with a fresh log, and runs each row in turn: the others do nothing meanwhile, and what is
/// compared runs within seconds.
fn round(
    options: &Options,
    rounds: &mut [Rounds],
    versions: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut peers = Vec::new();
    for wires in SERVERS {
        let peer = start(options, wires[0])?;
        if let Some(peer) = &peer {
            wires[0].prepare(peer.address())?;
            if !versions.contains(&peer.version) {
                versions.push(peer.version.clone());
            }
        }
        peers.push((wires, peer));
    }
    for ((wire, in_flight), rounds) in ROWS.iter().zip(rounds) {
        let server = peers.iter().find(|(wires, _)| wires.contains(wire));
        let peer = server.and_then(|(_, peer)| peer.as_ref());
        let run = |peer| load::run(peer, load(options, *wire, *in_flight));
        let what = |failure| Failure::new(format!("{} x {in_flight}: {failure}", wire.name()));
        rounds.0.push(peer.map(run).transpose().map_err(what)?);
    }
    Ok(())
}

/// Starts the server that speaks this wire; `None` if it is not installed or not wanted.
fn start(options: &Options, wire: Wire) -> Result<Option<Peer>, Failure> {
    match wire {
        Wire::Http | Wire::TidingsV1 => peers::tidings(options, &[]).map(Some),
        Wire::Mqtt => peers::tidings_mqtt(options, &[]).map(Some),
        _ if options.quick => Ok(None),
        Wire::Redis => peers::redis(options),
        Wire::JetStream => jetstream::start(options),
    }
}

fn load(options: &Options, wire: Wire, in_flight: usize) -> Load {
    let (connections, warm_up_ms, measured_ms) = if options.quick {
        (8, 50, 100)
    } else {
        (64, 300, 1_000)
    };
    Load {
        wire,
        connections,
        in_flight,
        payload_bytes: PAYLOAD_BYTES,
        warm_up: Duration::from_millis(warm_up_ms),
        measured: Duration::from_millis(measured_ms),
    }
}

impl Rounds {
    fn spread(&self, figure: impl Fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.0.iter().flatten().map(figure))
    }

    /// Publishes per second as a multiple of another's in the same round.
    fn ratio(&self, other: &Self) -> Spread {
        let pairs = self.0.iter().zip(&other.0);
        let ratio = |(mine, theirs): (&Option<Outcome>, &Option<Outcome>)| {
            Some(mine.as_ref()?.per_second() / theirs.as_ref()?.per_second())
        };
        Spread::of(pairs.filter_map(ratio))
    }

    fn latency(&self, quantile: f64) -> String {
        let spread = self.spread(|outcome| outcome.latency_ns.value_at_quantile(quantile) as f64);
        time(spread.median)
    }
}

fn row_of(rounds: &[Rounds], wanted: Row) -> Option<&Rounds> {
    let mut rows = ROWS.iter().zip(rounds);
    rows.find(|(row, _)| **row == wanted)
        .map(|(_, rounds)| rounds)
}

fn table(options: &Options, rounds: &[Rounds], versions: &[String]) -> Table {
    let connections = load(options, Wire::Http, 1).connections;
    let mut table = Table {
        title: format!(
            "{connections} publishers, {PAYLOAD_BYTES}-byte messages, answered when they are on the disk"
        ),
        columns: vec![
            "server and wire",
            "in flight each",
            "x redis",
            "publishes/s",
            "CPU us each",
            "user",
            "system",
            "p50",
            "p99",
            "p99.9",
        ],
        ..Table::default()
    };
    for ((wire, in_flight), rounds_of) in ROWS.iter().zip(rounds) {
        if rounds_of.0.iter().all(Option::is_none) {
            continue;
        }
        let ratio = row_of(rounds, (Wire::Redis, *in_flight))
            .map(|redis| rounds_of.ratio(redis))
            .filter(|ratio| ratio.median.is_finite());
        let each = |seconds: fn(&Outcome) -> f64| {
            short(
                rounds_of
                    .spread(|it| seconds(it) * 1e6 / it.receipts as f64)
                    .median,
            )
        };
        table.rows.push(vec![
            format!("{}, {}", server(*wire), wire.name()),
            in_flight.to_string(),
            ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            rounds_of.spread(Outcome::per_second).to_string(),
            rounds_of.spread(Outcome::cpu_us_each).to_string(),
            each(|outcome| outcome.cpu.user_s),
            each(|outcome| outcome.cpu.system_s),
            rounds_of.latency(0.5),
            rounds_of.latency(0.99),
            rounds_of.latency(0.999),
        ]);
    }
    table.notes = notes(options, rounds, versions);
    table
}

fn server(wire: Wire) -> &'static str {
    match wire {
        Wire::TidingsV1 | Wire::Http | Wire::Mqtt => "tidings",
        Wire::Redis => "redis",
        Wire::JetStream => "nats",
    }
}

fn notes(options: &Options, rounds: &[Rounds], versions: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    for (wire, in_flight, least) in [
        (Wire::TidingsV1, 1, 1.0),
        (Wire::TidingsV1, 16, 1.0),
        (Wire::Http, 1, 0.7),
        (Wire::Mqtt, 1, 1.0),
        (Wire::Mqtt, 16, 1.0),
    ] {
        let mine = row_of(rounds, (wire, in_flight));
        let redis = row_of(rounds, (Wire::Redis, in_flight));
        if let (Some(mine), Some(redis)) = (mine, redis) {
            let ratio = mine.ratio(redis);
            if ratio.median.is_finite() {
                let text = format!(
                    "{} with {in_flight} in flight at least {least} x redis",
                    wire.name()
                );
                notes.push(target(&text, ratio.median >= least, &ratio.to_string()));
            }
        }
    }
    notes.push(
        "Every server syncs before it answers: tidings with `durability = sync`, redis with `appendfsync always`, \
         JetStream with `sync_interval: always` and file storage. Latency is from the write to the receipt."
            .to_owned(),
    );
    notes.push(format!(
        "What a disk can do changes from second to second: {} rounds of {} s each for every row, one row after the \
         other with all servers running; a ratio is to redis in the same round, and what is shown is the median \
         with the least and the most.",
        rounds_of(options),
        load(options, Wire::Http, 1).measured.as_secs_f64(),
    ));
    for (wire, name) in [(Wire::Redis, "redis"), (Wire::JetStream, "nats-server")] {
        let rounds = row_of(rounds, (wire, 1));
        if rounds.is_some_and(|rounds| rounds.0.iter().all(Option::is_none)) {
            notes.push(format!("{name} was left out."));
        }
    }
    notes.push(format!("Versions: {}.", versions.join("; ")));
    notes
}
