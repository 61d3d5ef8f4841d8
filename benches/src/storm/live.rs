//! The publisher, and the subscribers that are live all the time.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use super::phase::{Phase, Shared};
use super::{BEFORE, BEHIND, LIVE_TOPIC, PAYLOAD_BYTES, STORM_TOPIC};
use crate::crowd::histogram;
use crate::link::{ANSWER_MAX, ask, connect, read_ready, websocket, write_whole};
use crate::report::Failure;
use crate::scan::{CARRY_MAX, Carry, Scanner, payload};
use crate::wire::{get, websocket_text};

pub const LIVE_PER_SECOND: u32 = 200;
pub const STORM_PER_SECOND: u32 = 10;
/// One message in so many goes to the returning clients, too.
const STORM_EVERY: u32 = LIVE_PER_SECOND / STORM_PER_SECOND;
const READ_BYTES: usize = 64 << 10;
/// The first messages are not counted: everything is done for the first time.
const UNCOUNTED: u32 = 20;

/// From publishing to each receipt, in nanoseconds.
#[derive(Debug)]
pub struct Latencies {
    pub quiet: Histogram<u64>,
    /// Of messages that were published while clients came back, whenever they arrived.
    pub storm: Histogram<u64>,
    /// By how much the publisher itself was late in the storm: what the load adds by itself.
    pub publisher_late: Histogram<u64>,
}

struct Subscriber {
    stream: TcpStream,
    carry: Carry,
    /// The number of the message that comes next.
    next: u32,
}

/// All of it, in one thread with one epoll.
pub struct Live {
    publisher: TcpStream,
    subscribers: Vec<Subscriber>,
    epoll: OwnedFd,
    begun: Instant,
    scanner: Scanner,
    buffer: Vec<u8>,
    latencies: Latencies,
    /// The phase in which each message of the live topic was published.
    published: Vec<Phase>,
}

impl Live {
    /// Subscribes so many, and connects the publisher.
    pub fn open(address: SocketAddr, subscribers: usize) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let request = get(
            &format!("/v1/topics/{LIVE_TOPIC}"),
            "Accept: text/event-stream\r\n",
        );
        let mut opened = Vec::with_capacity(subscribers);
        for number in 0..subscribers {
            let mut stream = connect(address)?;
            // The position is sent once the subscription is there.
            ask(&mut stream, request.as_bytes(), b"\nid: ")?;
            stream.set_nonblocking(true)?;
            add(&epoll, &stream, number)?;
            opened.push(Subscriber {
                stream,
                carry: Carry::default(),
                next: 0,
            });
        }
        let (publisher, _) = websocket(address, "/v1/ws", "")?;
        publisher.set_nonblocking(true)?;
        add(&epoll, &publisher, subscribers)?;
        Ok(Self {
            publisher,
            subscribers: opened,
            epoll,
            begun: Instant::now(),
            scanner: Scanner::default(),
            buffer: vec![0; CARRY_MAX + READ_BYTES],
            latencies: Latencies {
                quiet: histogram()?,
                storm: histogram()?,
                publisher_late: histogram()?,
            },
            published: Vec::new(),
        })
    }

    /// Publishes at a steady rate and receives, until the round is over.
    pub fn run(&mut self, shared: &Shared) -> Result<Latencies, Failure> {
        shared.set_newest(BEFORE + BEHIND - 1);
        let every = Duration::from_secs(1) / LIVE_PER_SECOND;
        let mut due = Instant::now();
        while shared.phase() < Phase::End {
            let now = Instant::now();
            if now >= due {
                if shared.phase() == Phase::Storm {
                    let late_ns = (now - due).as_nanos() as u64;
                    self.latencies.publisher_late.saturating_record(late_ns);
                }
                // Late ones are made up for, one after the other.
                due += every;
                self.publish(shared)?;
            }
            self.receive(due.saturating_duration_since(now))?;
        }
        self.receive_all()?;
        Ok(Latencies {
            quiet: self.latencies.quiet.clone(),
            storm: self.latencies.storm.clone(),
            publisher_late: self.latencies.publisher_late.clone(),
        })
    }

    fn publish(&mut self, shared: &Shared) -> Result<(), Failure> {
        let phase = shared.phase();
        if phase == Phase::Stop {
            shared.go_on(Phase::Stopped);
        }
        let count = self.published.len() as u32;
        let to_storm = matches!(phase, Phase::Storm | Phase::After);
        if to_storm && count.is_multiple_of(STORM_EVERY) {
            let number = shared.newest() + 1;
            self.send(STORM_TOPIC, number)?;
            shared.set_newest(number);
        }
        self.send(LIVE_TOPIC, count)?;
        self.published.push(phase);
        Ok(())
    }

    fn send(&mut self, topic: &str, number: u32) -> Result<(), Failure> {
        let now_ns = self.begun.elapsed().as_nanos() as u64;
        let payload = payload(PAYLOAD_BYTES, now_ns, number);
        let request = format!(r#"{{"op":"publish","id":1,"topic":"{topic}","data":"{payload}"}}"#);
        write_whole(&mut &self.publisher, &websocket_text(request.as_bytes()))
    }

    fn receive(&mut self, wait: Duration) -> Result<(), Failure> {
        let wait = Timespec::try_from(wait).map_err(|_| Failure::new("no such time"))?;
        let mut events = Vec::with_capacity(self.subscribers.len() + 1);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let number = event.data.u64() as usize;
            if number < self.subscribers.len() {
                self.read(number)?;
            } else {
                self.check_answers()?;
            }
        }
        Ok(())
    }

    fn read(&mut self, number: usize) -> Result<(), Failure> {
        let subscriber = &mut self.subscribers[number];
        let into = &mut self.buffer[CARRY_MAX..];
        let Some(read) = read_ready(&mut &subscriber.stream, into)? else {
            return Ok(());
        };
        let now_ns = self.begun.elapsed().as_nanos() as u64;
        let mut in_order = true;
        let Subscriber { carry, next, .. } = subscriber;
        let Latencies { quiet, storm, .. } = &mut self.latencies;
        self.scanner
            .scan(carry, &mut self.buffer, read, |sent_ns, found| {
                in_order &= found == *next;
                *next += 1;
                let latency_ns = now_ns.saturating_sub(sent_ns);
                match self.published.get(found as usize) {
                    Some(Phase::Quiet) if found >= UNCOUNTED => quiet.saturating_record(latency_ns),
                    Some(Phase::Storm) => storm.saturating_record(latency_ns),
                    _ => {}
                }
            });
        if in_order {
            return Ok(());
        }
        Err(Failure::new(
            "a live subscriber did not get every message once and in order",
        ))
    }

    /// Receipts are not waited for, but a refusal must not go unseen.
    fn check_answers(&mut self) -> Result<(), Failure> {
        let Some(read) = read_ready(&mut &self.publisher, &mut self.buffer)? else {
            return Ok(());
        };
        let answers = &self.buffer[..read];
        if memchr::memmem::find(answers, br#""op":"error""#).is_some() {
            let text = String::from_utf8_lossy(answers);
            return Err(Failure::new(format!("a publish was refused: {text}")));
        }
        Ok(())
    }

    /// Waits for what is still on its way.
    fn receive_all(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + ANSWER_MAX;
        while self
            .subscribers
            .iter()
            .any(|one| (one.next as usize) < self.published.len())
        {
            if Instant::now() > end {
                let error = std::io::Error::from(ErrorKind::TimedOut);
                return Err(Failure::new(format!(
                    "live messages did not arrive: {error}"
                )));
            }
            self.receive(Duration::from_millis(10))?;
        }
        Ok(())
    }
}

fn add(epoll: &OwnedFd, stream: &TcpStream, number: usize) -> Result<(), Failure> {
    let token = epoll::EventData::new_u64(number as u64);
    Ok(epoll::add(epoll, stream, token, epoll::EventFlags::IN)?)
}
