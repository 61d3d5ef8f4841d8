//! Many topics: ten thousand with one subscriber each, and a hundred thousand filters with wildcards.
//!
//! A fan-out spreads the cost of a publish over its subscribers; here there are one or three, so that what counts is the
//! publish itself, and how the server finds who wants it.

mod round;
mod wire;

use crate::process::Cpu;
use crate::report::{Failure, Table, publish_section};
use crate::spread::{Spread, short};
use crate::{Options, peers};

use round::{Load, Outcome};
use wire::{Filters, Wire};

/// Subscribers hear nothing while they wait for their turn, and are not to be taken for dead.
const PATIENT: [&str; 4] = [
    "--set",
    "limits.heartbeat_ms=5m",
    "--set",
    "limits.silence_ms_max=30m",
];
/// Publishes are not written anywhere.
const NOT_STORED: [&str; 2] = ["--set", "retention_default.storage=none"];

/// A server, as one row has it.
struct Contender {
    name: &'static str,
    wire: Wire,
    rounds: Vec<Option<Outcome>>,
    version: String,
}

/// Runs the measurement and writes its section.
pub fn run(options: &Options) -> Result<(), Failure> {
    let loads = if options.quick {
        [Load::topics(100, 256), Load::filters(1_200, 10, 256)]
    } else {
        [
            Load::topics(10_000, 40_000),
            Load::filters(100_000, 100, 40_000),
        ]
    };
    let mut tables = Vec::new();
    for load in loads {
        let mut contenders = contenders();
        for _ in 0..options.rounds {
            for contender in &mut contenders {
                contender.run(options, &load)?;
            }
        }
        tables.push(table(&load, &contenders));
    }
    publish_section(options, "topics", &tables)
}

fn contenders() -> [Contender; 4] {
    let contender = |name, wire| Contender {
        name,
        wire,
        rounds: Vec::new(),
        version: String::new(),
    };
    [
        contender("tidings, each message synced", Wire::Tidings),
        contender("tidings, `storage = none`", Wire::Tidings),
        contender("nats", Wire::Nats),
        contender("mosquitto", Wire::Mqtt),
    ]
}

impl Contender {
    fn run(&mut self, options: &Options, load: &Load) -> Result<(), Failure> {
        let peer = match (self.wire, self.name.contains("none")) {
            (Wire::Tidings, false) => Some(peers::tidings(options, &PATIENT)?),
            (Wire::Tidings, true) => Some(peers::tidings(
                options,
                &[&PATIENT[..], &NOT_STORED].concat(),
            )?),
            _ if options.quick => None,
            (Wire::Nats, _) => peers::nats(options)?,
            (Wire::Mqtt, _) => peers::mosquitto(options)?,
        };
        if let Some(peer) = &peer {
            self.version.clone_from(&peer.version);
        }
        let outcome = peer.as_ref().map(|peer| round::run(peer, self.wire, load));
        let what = |failure| Failure::new(format!("{}: {failure}", self.name));
        self.rounds.push(outcome.transpose().map_err(what)?);
        Ok(())
    }

    fn spread(&self, figure: impl Fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.rounds.iter().flatten().map(figure))
    }
}

fn table(load: &Load, contenders: &[Contender]) -> Table {
    let subscribed = match load.filters {
        Filters::Topics { count } => format!("{count} topics with a subscriber each"),
        Filters::Wildcards { count, connections } => {
            format!("{count} filters with wildcards on {connections} connections")
        }
    };
    let took_part = |contender: &&Contender| contender.rounds.iter().any(Option::is_some);
    let rows = contenders.iter().filter(took_part);
    Table {
        title: format!(
            "{subscribed}; {} messages to different topics",
            load.messages
        ),
        columns: vec![
            "server",
            "CPU, x tidings",
            "CPU us a delivery",
            "user",
            "system",
            "publishes/s",
            "memory a filter",
        ],
        rows: rows.map(|it| row(it, &contenders[0])).collect(),
        notes: notes(load, contenders),
    }
}

fn row(contender: &Contender, tidings: &Contender) -> Vec<String> {
    let pairs = contender.rounds.iter().zip(&tidings.rounds);
    let ratio = Spread::of(pairs.filter_map(|(mine, tidings)| {
        Some(mine.as_ref()?.cpu_us(total) / tidings.as_ref()?.cpu_us(total))
    }));
    let median_us = |part: fn(&Cpu) -> f64| short(contender.spread(|it| it.cpu_us(part)).median);
    let filter_bytes = contender.spread(|outcome| outcome.filter_bytes);
    vec![
        contender.name.to_owned(),
        ratio.to_string(),
        contender
            .spread(|outcome| outcome.cpu_us(total))
            .to_string(),
        median_us(|cpu| cpu.user_s),
        median_us(|cpu| cpu.system_s),
        contender.spread(Outcome::publishes_per_second).to_string(),
        format!("{} KiB", short(filter_bytes.median / 1024.0)),
    ]
}

fn notes(load: &Load, contenders: &[Contender]) -> Vec<String> {
    let is_topics = matches!(load.filters, Filters::Topics { .. });
    let mut notes = vec![format!(
        "A message matches {} of the filters, and every delivery is counted. Publishes go out {} in a write, the \
         next when the last has arrived. Over {}, NATS and MQTT (`QoS` 0), of which only tidings keeps what is published.",
        load.filters.matches(),
        round::BURST,
        if is_topics {
            "raw WebSocket"
        } else {
            "`tidings.v1`"
        },
    )];
    if is_topics {
        notes.push("The memory includes that of the subscriber's connection.".to_owned());
    }
    for contender in contenders {
        if contender.rounds.iter().all(Option::is_none) {
            notes.push(format!("{} was left out.", contender.name));
        }
    }
    // The first two are the same program.
    let versions = contenders.iter().skip(1).map(|it| it.version.as_str());
    let versions: Vec<&str> = versions.filter(|version| !version.is_empty()).collect();
    notes.push(format!("Versions: {}.", versions.join("; ")));
    notes
}

fn total(cpu: &Cpu) -> f64 {
    cpu.total_s
}
