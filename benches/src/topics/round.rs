//! One server with one load: everybody subscribes, then the messages go out in bursts.
//!
//! Nobody waits on the sockets while a burst is sent, so that the server wakes no receiver. The next burst goes out when
//! the last message of this one has arrived and all of them were read.

use std::net::TcpStream;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use super::wire::{Filters, Wire};
use crate::link::{ANSWER_MAX, read_ready, write_whole};
use crate::peers::Peer;
use crate::process::Cpu;
use crate::report::Failure;
use crate::scan::{CARRY_MAX, Carry, Scanner, payload};

/// Messages in one write: as many publishes as Tidings takes from a connection before it answers the first.
pub const BURST: usize = 64;
const PAYLOAD_BYTES: usize = 128;
const READ_BYTES: usize = 64 << 10;
/// A step between topics with no common factor with their number: every topic gets its turn.
const STEP: usize = 7_919;

/// What is subscribed to, and how many messages go out.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub filters: Filters,
    pub messages: usize,
}

impl Load {
    pub fn topics(count: usize, messages: usize) -> Self {
        Self {
            filters: Filters::Topics { count },
            messages,
        }
    }

    pub fn filters(count: usize, connections: usize, messages: usize) -> Self {
        Self {
            filters: Filters::Wildcards { count, connections },
            messages,
        }
    }
}

/// What it cost.
#[derive(Debug)]
pub struct Outcome {
    publishes: usize,
    deliveries: usize,
    /// From each write to the arrival of its last message, added up.
    sending: Duration,
    cpu: Cpu,
    /// What the server's memory grew by, for each filter.
    pub filter_bytes: f64,
}

impl Outcome {
    /// Microseconds for each delivery.
    pub fn cpu_us(&self, part: impl Fn(&Cpu) -> f64) -> f64 {
        part(&self.cpu) * 1e6 / self.deliveries as f64
    }

    pub fn publishes_per_second(&self) -> f64 {
        self.publishes as f64 / self.sending.as_secs_f64()
    }
}

struct Receiver {
    stream: TcpStream,
    carry: Carry,
    received: u64,
    expected: u64,
}

struct Round {
    wire: Wire,
    filters: Filters,
    publisher: TcpStream,
    receivers: Vec<Receiver>,
    scanner: Scanner,
    buffer: Vec<u8>,
    published: usize,
    sending: Duration,
}

/// Runs the load.
pub fn run(peer: &Peer, wire: Wire, load: &Load) -> Result<Outcome, Failure> {
    let empty_bytes = peer.process.pss_bytes();
    let mut round = Round::open(peer, wire, load.filters)?;
    let full_bytes = peer.process.pss_bytes();
    // Twice through the caches of both sides.
    round.publish(load.messages / 10)?;
    let (warmed_up, cpu_before) = (round.published, peer.process.cpu());
    round.sending = Duration::ZERO;
    round.publish(load.messages)?;
    let cpu = peer.process.cpu().since(cpu_before);
    round.check_all()?;
    let publishes = round.published - warmed_up;
    Ok(Outcome {
        publishes,
        deliveries: publishes * load.filters.matches(),
        sending: round.sending,
        cpu,
        filter_bytes: full_bytes.saturating_sub(empty_bytes) as f64 / load.filters.count() as f64,
    })
}

impl Round {
    fn open(peer: &Peer, wire: Wire, filters: Filters) -> Result<Self, Failure> {
        let receivers = (0..filters.connections()).map(|connection| {
            Ok::<_, Failure>(Receiver {
                stream: wire.subscriber(peer.address(), filters, connection)?,
                carry: Carry::default(),
                received: 0,
                expected: 0,
            })
        });
        Ok(Self {
            wire,
            filters,
            receivers: receivers.collect::<Result<_, _>>()?,
            publisher: wire.publisher(peer.address())?,
            scanner: Scanner::default(),
            buffer: vec![0; CARRY_MAX + READ_BYTES],
            published: 0,
            sending: Duration::ZERO,
        })
    }

    fn publish(&mut self, messages: usize) -> Result<(), Failure> {
        for _ in 0..messages.div_ceil(BURST) {
            self.burst()?;
        }
        Ok(())
    }

    fn burst(&mut self) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let mut involved = Vec::with_capacity(BURST * self.filters.matches());
        for number in self.published..self.published + BURST {
            let topic = number * STEP % self.filters.topics();
            let payload = payload(PAYLOAD_BYTES, 0, number as u32);
            bytes.extend(self.wire.publish(&self.filters.topic(topic), &payload));
            for receiver in self.filters.receivers(topic) {
                self.receivers[receiver].expected += 1;
                involved.push(receiver);
            }
        }
        let begun = Instant::now();
        write_whole(&mut &self.publisher, &bytes)?;
        let last = involved.len() - self.filters.matches();
        for receiver in &involved[last..] {
            self.read_expected(*receiver)?;
        }
        self.sending += begun.elapsed();
        self.published += BURST;
        for receiver in involved {
            self.read_expected(receiver)?;
        }
        // Receipts are of no interest here, but must not fill the socket.
        read_ready(&mut &self.publisher, &mut self.buffer)?;
        Ok(())
    }

    /// Looks again and again until the receiver has what is expected.
    fn read_expected(&mut self, number: usize) -> Result<(), Failure> {
        let begun = Instant::now();
        while self.receivers[number].received < self.receivers[number].expected {
            if !self.read(number)? {
                // Sleeping for it would have the server wake us.
                yield_now();
                if begun.elapsed() > ANSWER_MAX {
                    return Err(self.wrong(number));
                }
            }
        }
        if self.receivers[number].received > self.receivers[number].expected {
            return Err(self.wrong(number));
        }
        Ok(())
    }

    /// Whether there was something.
    fn read(&mut self, number: usize) -> Result<bool, Failure> {
        let receiver = &mut self.receivers[number];
        let into = &mut self.buffer[CARRY_MAX..];
        let Some(read) = read_ready(&mut &receiver.stream, into)? else {
            return Ok(false);
        };
        let Receiver {
            carry, received, ..
        } = receiver;
        self.scanner
            .scan(carry, &mut self.buffer, read, |_, _| *received += 1);
        Ok(true)
    }

    /// Whoever was not to get anything has nothing.
    fn check_all(&mut self) -> Result<(), Failure> {
        for number in 0..self.receivers.len() {
            while self.read(number)? {}
            if self.receivers[number].received != self.receivers[number].expected {
                return Err(self.wrong(number));
            }
        }
        Ok(())
    }

    fn wrong(&self, number: usize) -> Failure {
        let Receiver {
            received, expected, ..
        } = self.receivers[number];
        Failure::new(format!(
            "subscriber {number} has {received} messages, should have {expected}"
        ))
    }
}
