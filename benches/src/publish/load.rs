//! The load: publishers that each keep so many publishes under way, in one thread with one epoll.
//!
//! The publishes of a publisher are made in advance and used over and over. A receipt is a few bytes that are searched
//! for, and lets the next publish go out; what one read brings is answered with one write.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memchr::memmem::{self, Finder};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::wire::Wire;
use crate::crowd::histogram;
use crate::link::{ANSWER_MAX, read_ready, write_whole};
use crate::peers::Peer;
use crate::process::Cpu;
use crate::report::Failure;
use crate::scan;

const READ_BYTES: usize = 64 << 10;
/// The end of a read that a receipt may begin in; longer than any receipt.
const TAIL_MAX: usize = 32;
const MOMENT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// What is published.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub wire: Wire,
    pub connections: usize,
    pub in_flight: usize,
    pub payload_bytes: usize,
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Receipts while it was measured.
    pub receipts: u64,
    pub elapsed_s: f64,
    pub cpu: Cpu,
    /// From the write of a publish to its receipt.
    pub latency_ns: Histogram<u64>,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.receipts as f64 / self.elapsed_s
    }

    pub fn cpu_us_each(&self) -> f64 {
        self.cpu.total_s * 1e6 / self.receipts as f64
    }
}

struct Publisher {
    stream: TcpStream,
    /// As many publishes as may be under way, each in a place of its own.
    requests: Vec<u8>,
    request_bytes: usize,
    /// The place of the next: with MQTT, publishes are answered in their order (MQTT-4.6.0-2), so that the packet
    /// identifier of the oldest is free again.
    place: usize,
    /// When those under way were written. Receipts are taken to come in this order; where two overtake each
    /// other, their latencies are exchanged.
    sent: VecDeque<Instant>,
    tail: [u8; TAIL_MAX],
    tail_len: usize,
}

struct Run {
    load: Load,
    publishers: Vec<Publisher>,
    epoll: rustix::fd::OwnedFd,
    receipt: Finder<'static>,
    buffer: Vec<u8>,
    receipts: u64,
    latency_ns: Histogram<u64>,
    measuring: bool,
    /// Whether a receipt is answered with the next publish.
    publishing: bool,
}

/// Runs the load against the server.
pub fn run(peer: &Peer, load: Load) -> Result<Outcome, Failure> {
    let mut run = Run::open(peer, load)?;
    run.begin()?;
    run.until(load.warm_up)?;
    run.measuring = true;
    let receipts_before = run.receipts;
    let cpu_before = peer.process.cpu();
    let begun = Instant::now();
    run.until(load.measured)?;
    let elapsed_s = begun.elapsed().as_secs_f64();
    let cpu = peer.process.cpu().since(cpu_before);
    let receipts = run.receipts - receipts_before;
    run.measuring = false;
    run.finish()?;
    Ok(Outcome {
        receipts,
        elapsed_s,
        cpu,
        latency_ns: run.latency_ns,
    })
}

impl Run {
    fn open(peer: &Peer, load: Load) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let payload = scan::payload(load.payload_bytes, 0, 0);
        let mut publishers = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let stream = load.wire.open(peer.address(), number)?;
            stream.set_nonblocking(true)?;
            let event = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &stream, event, epoll::EventFlags::IN)?;
            let places = 0..load.in_flight;
            let requests: Vec<Vec<u8>> = places
                .map(|place| load.wire.request(number, place, &payload))
                .collect();
            publishers.push(Publisher {
                stream,
                request_bytes: requests[0].len(),
                requests: requests.concat(),
                place: 0,
                sent: VecDeque::with_capacity(load.in_flight),
                tail: [0; TAIL_MAX],
                tail_len: 0,
            });
        }
        Ok(Self {
            load,
            publishers,
            epoll,
            receipt: Finder::new(load.wire.receipt()),
            buffer: vec![0; TAIL_MAX + READ_BYTES],
            receipts: 0,
            latency_ns: histogram()?,
            measuring: false,
            publishing: true,
        })
    }

    fn begin(&mut self) -> Result<(), Failure> {
        for publisher in &mut self.publishers {
            publisher.publish(self.load.in_flight)?;
        }
        Ok(())
    }

    fn until(&mut self, span: Duration) -> Result<(), Failure> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.turn()?;
        }
        Ok(())
    }

    /// Takes the receipts of what is under way.
    fn finish(&mut self) -> Result<(), Failure> {
        self.publishing = false;
        let end = Instant::now() + ANSWER_MAX;
        while self
            .publishers
            .iter()
            .any(|publisher| !publisher.sent.is_empty())
        {
            if Instant::now() > end {
                let missing: usize = self.publishers.iter().map(|it| it.sent.len()).sum();
                return Err(Failure::new(format!(
                    "{missing} publishes were never answered"
                )));
            }
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(self.load.connections);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&MOMENT)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            self.read(event.data.u64() as usize)?;
        }
        Ok(())
    }

    fn read(&mut self, number: usize) -> Result<(), Failure> {
        let publisher = &mut self.publishers[number];
        let start = TAIL_MAX - publisher.tail_len;
        self.buffer[start..TAIL_MAX].copy_from_slice(&publisher.tail[..publisher.tail_len]);
        let Some(read) = read_ready(&mut &publisher.stream, &mut self.buffer[TAIL_MAX..])? else {
            return Ok(());
        };
        let answers = &self.buffer[start..TAIL_MAX + read];
        if memmem::find(answers, self.load.wire.refusal()).is_some() {
            let text = String::from_utf8_lossy(answers);
            return Err(Failure::new(format!("a publish was refused: {text}")));
        }
        let found = self.receipt.find_iter(answers).count();
        // A part of a receipt may be left, and no whole one.
        let keep = answers.len().min(self.load.wire.receipt().len() - 1);
        publisher.tail_len = keep;
        publisher.tail[..keep].copy_from_slice(&answers[answers.len() - keep..]);
        let now = Instant::now();
        for _ in 0..found {
            let Some(sent) = publisher.sent.pop_front() else {
                return Err(Failure::new("a receipt came without a publish"));
            };
            if self.measuring {
                self.latency_ns
                    .saturating_record((now - sent).as_nanos() as u64);
            }
        }
        self.receipts += found as u64;
        if self.publishing && found > 0 {
            publisher.publish(found)?;
        }
        Ok(())
    }
}

impl Publisher {
    fn publish(&mut self, count: usize) -> Result<(), Failure> {
        let now = Instant::now();
        self.sent.extend(std::iter::repeat_n(now, count));
        let places = self.requests.len() / self.request_bytes;
        let start = self.place * self.request_bytes;
        let end = start + count * self.request_bytes;
        self.place = (self.place + count) % places;
        match end.checked_sub(self.requests.len()) {
            None | Some(0) => write_whole(&mut &self.stream, &self.requests[start..end]),
            Some(over) => {
                let bytes = [&self.requests[start..], &self.requests[..over]].concat();
                write_whole(&mut &self.stream, &bytes)
            }
        }
    }
}
