//! Fan-out: one message to many subscribers, and what each delivery costs the server.
//!
//! Every server in turn gets the same load, and all of them again in each round, so that what changes on the machine
//! changes for all. A ratio is of two figures of one round. The cost is measured with quiet receivers (see
//! [`crate::crowd`]), over the bursts alone; latency in a second pass with live ones.

mod contestants;
mod results;

use std::time::{Duration, Instant};

use crate::Options;
use crate::crowd::{Crowd, Live, histogram};
use crate::machine::{SERVER_CPU, busy_s};
use crate::peers::Peer;
use crate::process::Cpu;
use crate::report::{Failure, complain, publish_section};
use crate::scan::payload;
use crate::wire::{Publisher, Subscribe};
use contestants::{CONTESTANTS, Contestant};
use hdrhistogram::Histogram;

const PAYLOAD_BYTES: usize = 128;
/// Messages between two drains: what a subscriber's socket holds without asking the sender to wait, in every
/// protocol's framing.
const BURST_MESSAGES: usize = 96;
/// Deliveries between two drains: less where there are many subscribers, as slow servers take seconds for them.
const BURST_DELIVERIES: usize = 100_000;
/// A round may end here with fewer deliveries: with so much CPU time they are measured well enough.
const QUIET_CPU_S: f64 = 0.8;
/// How many messages are published in one write, each a measurement.
const IN_FLIGHT: [usize; 2] = [1, 16];

/// How long a server may take to read what was acknowledged after a burst.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

const WARM_MESSAGES: usize = 4;

/// How much is sent.
#[derive(Clone, Copy, Debug)]
struct Load {
    subscribers: usize,
    /// What one round of one measurement delivers with quiet receivers, unless that takes long.
    quiet_deliveries: u64,
    /// The same with live ones.
    live_deliveries: usize,
}

/// What one measurement found in one round.
#[derive(Clone, Debug)]
struct Measured {
    deliveries: u64,
    cpu: Cpu,
    /// Of the server's core, with the interrupts that its sending causes.
    busy_s: f64,
    /// What it took to be told of the receipts after the bursts, where they are acknowledged.
    acknowledged: Cpu,
    live_deliveries: u64,
    live_s: f64,
    /// Nanoseconds.
    latency: Histogram<u64>,
}

impl Measured {
    /// Before anything is measured.
    fn nothing() -> Result<Self, Failure> {
        Ok(Self {
            deliveries: 0,
            cpu: Cpu::default(),
            busy_s: 0.0,
            acknowledged: Cpu::default(),
            live_deliveries: 0,
            live_s: 0.0,
            latency: histogram()?,
        })
    }
}

/// A server over all rounds.
#[derive(Debug)]
struct Record {
    contestant: &'static Contestant,
    version: String,
    /// Of each entry of [`IN_FLIGHT`], each round's.
    rounds: [Vec<Measured>; IN_FLIGHT.len()],
    /// Why it is not measured (further).
    failed: Option<String>,
}

/// Runs the measurement and writes its section.
pub fn run(options: &Options) -> Result<(), Failure> {
    let loads: &[Load] = if options.quick {
        &[Load {
            subscribers: 50,
            quiet_deliveries: 800,
            live_deliveries: 800,
        }]
    } else {
        &[
            Load {
                subscribers: 1_000,
                quiet_deliveries: 1_500_000,
                live_deliveries: 64_000,
            },
            Load {
                subscribers: 10_000,
                quiet_deliveries: 1_500_000,
                live_deliveries: 80_000,
            },
        ]
    };
    let mut tables = Vec::new();
    for load in loads {
        let mut records: Vec<Record> = CONTESTANTS
            .iter()
            .filter(|one| one.is_ours || !options.quick)
            .map(|contestant| Record {
                contestant,
                version: String::new(),
                rounds: Default::default(),
                failed: None,
            })
            .collect();
        for round in 1..=options.rounds {
            for record in records.iter_mut().filter(|one| one.failed.is_none()) {
                let name = record.contestant.name;
                let subscribers = load.subscribers;
                complain(&format!(
                    "fanout: {subscribers} subscribers, round {round}: {name}"
                ));
                measure(options, *load, record)?;
            }
        }
        tables.extend(results::tables(*load, &records));
    }
    publish_section(options, "fanout", &tables)
}

/// One server's round: all of [`IN_FLIGHT`], with one start and one crowd.
fn measure(options: &Options, load: Load, record: &mut Record) -> Result<(), Failure> {
    let contestant = record.contestant;
    let peer = match (contestant.start)(options) {
        Ok(Some(peer)) => peer,
        Ok(None) => {
            record.failed = Some("not installed".to_owned());
            return Ok(());
        }
        Err(failure) => return settle_failure(record, &failure),
    };
    record.version.clone_from(&peer.version);
    match rounds(contestant, &peer, load) {
        Ok(measured) => {
            for (rounds, one) in record.rounds.iter_mut().zip(measured) {
                rounds.push(one);
            }
            Ok(())
        }
        Err(failure) => settle_failure(record, &failure),
    }
}

/// A failure of Tidings is ours; another server is left out with its reason.
fn settle_failure(record: &mut Record, failure: &Failure) -> Result<(), Failure> {
    if record.contestant.is_ours {
        let name = record.contestant.name;
        return Err(Failure::new(format!("{name}: {failure}")));
    }
    record.failed = Some(failure.to_string());
    Ok(())
}

fn rounds(contestant: &Contestant, peer: &Peer, load: Load) -> Result<Vec<Measured>, Failure> {
    let server = peer.address();
    let mut crowd = Crowd::open(load.subscribers, |_| contestant.subscribe.open(server))?;
    if contestant.subscribe.is_acknowledged() {
        crowd = crowd.acknowledging();
    }
    let publisher = Publisher::open(contestant.publish, server)?;
    let mut stage = Stage {
        peer,
        subscribe: contestant.subscribe,
        crowd,
        publisher,
        epoch: Instant::now(),
        number: 0,
    };
    peer.process.settle();
    // Warm: sockets' buffers, the server's pools, and every subscription proven.
    stage.burst(WARM_MESSAGES, WARM_MESSAGES, &mut Measured::nothing()?)?;
    let mut measured = Vec::new();
    for in_flight in IN_FLIGHT {
        let mut one = Measured::nothing()?;
        let messages = (BURST_DELIVERIES / load.subscribers).min(BURST_MESSAGES);
        let messages = messages.next_multiple_of(in_flight);
        while one.deliveries < load.quiet_deliveries && one.cpu.total_s < QUIET_CPU_S {
            stage.burst(messages, in_flight, &mut one)?;
        }
        let messages = load.live_deliveries.div_ceil(load.subscribers);
        stage.live(messages.next_multiple_of(in_flight), in_flight, &mut one)?;
        measured.push(one);
    }
    Ok(measured)
}

/// A server with its subscribers and its publisher.
#[derive(Debug)]
struct Stage<'a> {
    peer: &'a Peer,
    subscribe: Subscribe,
    crowd: Crowd,
    publisher: Publisher,
    /// What the times in payloads count from.
    epoch: Instant,
    /// The next message's.
    number: u32,
}

impl Stage<'_> {
    /// Publishes to quiet receivers, then drains and checks them; what it cost is without the draining.
    fn burst(
        &mut self,
        messages: usize,
        in_flight: usize,
        measured: &mut Measured,
    ) -> Result<(), Failure> {
        let process = &self.peer.process;
        self.crowd.say(self.subscribe.sign_of_life())?;
        process.settle();
        let (cpu, busy) = (process.cpu(), busy_s(SERVER_CPU));
        for _ in 0..messages / in_flight {
            self.publish(in_flight)?;
            self.crowd.wait_for_probes()?;
        }
        process.settle();
        let sent = process.cpu();
        measured.cpu = measured.cpu.and(sent.since(cpu));
        measured.busy_s += busy_s(SERVER_CPU) - busy;
        measured.deliveries += (messages * self.crowd.len()) as u64;
        self.crowd.drain()?;
        if self.subscribe.is_acknowledged() {
            process.settle_within(ACKNOWLEDGED_MAX);
            measured.acknowledged = measured.acknowledged.and(process.cpu().since(sent));
        }
        Ok(())
    }

    /// The same load with receivers that are all waiting: the next messages when everybody has these.
    fn live(
        &mut self,
        messages: usize,
        in_flight: usize,
        measured: &mut Measured,
    ) -> Result<(), Failure> {
        self.peer.process.settle();
        let mut live = Live::over(&self.crowd, self.epoch)?;
        let start = Instant::now();
        for _ in 0..messages / in_flight {
            self.publish(in_flight)?;
            self.crowd.receive_live(&mut live, &mut measured.latency)?;
        }
        measured.live_s += start.elapsed().as_secs_f64();
        measured.live_deliveries += (messages * self.crowd.len()) as u64;
        Ok(())
    }

    fn publish(&mut self, messages: usize) -> Result<(), Failure> {
        let now_ns = self.epoch.elapsed().as_nanos() as u64;
        let payloads: Vec<String> = (0..messages)
            .map(|_| {
                self.number += 1;
                payload(PAYLOAD_BYTES, now_ns, self.number)
            })
            .collect();
        self.crowd.expect(messages);
        self.publisher.publish(payloads.iter().map(String::as_str))
    }
}
