//! Many subscribers, and the two ways to receive: quietly, when only the sender's cost counts, and live, when the time
//! of each receipt does.
//!
//! Quiet means that nobody waits on the sockets while a burst is sent: waking a receiver is work of the sender's core
//! that blurs its cost by a quarter. Only a few probes, spread over the crowd with its first and last, are looked at, so
//! that the next message is published when this one is out. After the burst every socket is read empty, and each must
//! have every message exactly once. Subscribers that acknowledge do so then, too; live ones do with each read.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;

use crate::link::write_whole;
use crate::machine::has_two_cores;
use crate::report::Failure;
use crate::scan::{CARRY_MAX, Carry, Scanner};
use crate::wire::mqtt::Acknowledgements;

/// Sockets that are looked at during a burst.
const PROBES: usize = 16;
/// How long a message may take to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);
const READ_BYTES: usize = 64 * 1024;
/// Three digits of a latency are more than it repeats to.
const DIGITS: u8 = 3;
const EVENTS: usize = 1024;

/// One subscriber's connection.
#[derive(Debug)]
struct Subscriber {
    stream: TcpStream,
    carry: Carry,
    /// Messages in all.
    received: u64,
    /// What it owes, if it has to acknowledge what it receives.
    acknowledgements: Option<Acknowledgements>,
}

impl Subscriber {
    /// Sends what it owes.
    fn acknowledge(&mut self) -> Result<(), Failure> {
        let due = self.acknowledgements.as_mut().map(Acknowledgements::due);
        write_whole(&mut &self.stream, &due.unwrap_or_default())
    }
}

/// Subscribers of one server.
#[derive(Debug)]
pub struct Crowd {
    subscribers: Vec<Subscriber>,
    /// Indices, ascending.
    probes: Vec<usize>,
    /// What each subscriber must have received by now.
    expected: u64,
    scanner: Scanner,
    buffer: Vec<u8>,
}

impl Crowd {
    /// Opens so many connections, one after the other.
    pub fn open(
        connections: usize,
        mut open: impl FnMut(usize) -> Result<TcpStream, Failure>,
    ) -> Result<Self, Failure> {
        let mut subscribers = Vec::with_capacity(connections);
        for index in 0..connections {
            subscribers.push(Subscriber {
                stream: open(index)?,
                carry: Carry::default(),
                received: 0,
                acknowledgements: None,
            });
        }
        let last = connections.saturating_sub(1);
        let count = PROBES.min(connections);
        let mut probes: Vec<usize> = (0..count)
            .map(|probe| probe * last / (count - 1).max(1))
            .collect();
        probes.dedup();
        Ok(Self {
            subscribers,
            probes,
            expected: 0,
            scanner: Scanner::default(),
            buffer: vec![0; CARRY_MAX + READ_BYTES],
        })
    }

    /// The same crowd, whose subscribers acknowledge what they receive.
    pub fn acknowledging(mut self) -> Self {
        for subscriber in &mut self.subscribers {
            subscriber.acknowledgements = Some(Acknowledgements::default());
        }
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Says that so many messages were published: each subscriber has to receive them.
    pub fn expect(&mut self, messages: usize) {
        self.expected += messages as u64;
    }

    /// Waits until every probe has what is expected.
    pub fn wait_for_probes(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + ARRIVAL_MAX;
        // With a core of our own we look without sleeping, so that the server does not have to wake us.
        let timeout = if has_two_cores() { 0 } else { 1_000_000 };
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: timeout,
        };
        let mut waiting = self.probes.clone();
        loop {
            waiting.retain(|probe| self.subscribers[*probe].received < self.expected);
            if waiting.is_empty() {
                return Ok(());
            }
            let mut polled: Vec<PollFd<'_>> = waiting
                .iter()
                .map(|probe| PollFd::new(&self.subscribers[*probe].stream, PollFlags::IN))
                .collect();
            poll(&mut polled, Some(&timeout))?;
            let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
            for (probe, _) in waiting.iter().zip(ready).filter(|(_, ready)| *ready) {
                self.read(*probe, |_| {})?;
            }
            if Instant::now() > deadline {
                return Err(self.shortfall());
            }
        }
    }

    /// Reads every socket empty, until each subscriber has exactly what is expected, and has acknowledged it.
    pub fn drain(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + ARRIVAL_MAX;
        loop {
            for index in 0..self.subscribers.len() {
                self.read(index, |_| {})?;
                self.subscribers[index].acknowledge()?;
            }
            let late = |subscriber: &Subscriber| subscriber.received < self.expected;
            if !self.subscribers.iter().any(late) {
                break;
            }
            if Instant::now() > deadline {
                return Err(self.shortfall());
            }
            sleep(Duration::from_millis(1));
        }
        self.no_more_than_expected()
    }

    /// Says something on every connection.
    pub fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        for subscriber in &mut self.subscribers {
            let said = subscriber.stream.write_all(bytes);
            said.map_err(|error| Failure::new(format!("a subscriber cannot send: {error}")))?;
        }
        Ok(())
    }

    /// Waits on all of them at once until each has what is expected, and records the time from each message's
    /// publishing to its receipt in nanoseconds.
    pub fn receive_live(
        &mut self,
        live: &mut Live,
        latency: &mut Histogram<u64>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + ARRIVAL_MAX;
        let one = self.subscribers.len() as u64;
        let mut missing = one * self.expected - self.received_in_all();
        while missing > 0 {
            for index in live.wait()? {
                let mut receipts = 0;
                let clock = live.epoch;
                self.read(index, |sent_ns| {
                    receipts += 1;
                    let now_ns = clock.elapsed().as_nanos() as u64;
                    latency.saturating_record(now_ns.saturating_sub(sent_ns));
                })?;
                self.subscribers[index].acknowledge()?;
                missing = missing
                    .checked_sub(receipts)
                    .ok_or_else(|| self.shortfall())?;
            }
            if Instant::now() > deadline {
                return Err(self.shortfall());
            }
        }
        self.no_more_than_expected()
    }

    fn read(&mut self, index: usize, mut found: impl FnMut(u64)) -> Result<(), Failure> {
        let Subscriber {
            stream,
            carry,
            received,
            acknowledgements,
        } = &mut self.subscribers[index];
        loop {
            let read = match stream.read(&mut self.buffer[CARRY_MAX..]) {
                Ok(0) => {
                    return Err(Failure::new(format!(
                        "the server closed the connection of subscriber {index} after {received} messages"
                    )));
                }
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let text = format!("subscriber {index} cannot read: {error}");
                    return Err(Failure::new(text));
                }
            };
            self.scanner
                .scan(carry, &mut self.buffer, read, |sent_ns, _| {
                    *received += 1;
                    found(sent_ns);
                });
            if let Some(acknowledgements) = acknowledgements {
                acknowledgements.take(&self.buffer[CARRY_MAX..CARRY_MAX + read])?;
            }
            // A read that did not fill the buffer has emptied the socket.
            if read < READ_BYTES {
                return Ok(());
            }
        }
    }

    fn received_in_all(&self) -> u64 {
        self.subscribers.iter().map(|one| one.received).sum()
    }

    fn no_more_than_expected(&self) -> Result<(), Failure> {
        if self
            .subscribers
            .iter()
            .any(|one| one.received != self.expected)
        {
            return Err(self.shortfall());
        }
        Ok(())
    }

    fn shortfall(&self) -> Failure {
        let expected = self.expected;
        let all = self.subscribers.len();
        let wrong = self
            .subscribers
            .iter()
            .filter(|one| one.received != expected);
        let counts: Vec<u64> = wrong.map(|one| one.received).collect();
        let least = counts.iter().min().unwrap_or(&expected);
        let most = counts.iter().max().unwrap_or(&expected);
        Failure::new(format!(
            "{} of {all} subscribers do not have the {expected} messages that were published: \
             the least has {least}, the most {most}",
            counts.len()
        ))
    }
}

/// A wait on all subscribers of a crowd together.
pub struct Live {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    /// What the times in payloads count from.
    epoch: Instant,
}

impl Live {
    /// Over the crowd's sockets, until dropped.
    pub fn over(crowd: &Crowd, epoch: Instant) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, subscriber) in crowd.subscribers.iter().enumerate() {
            let token = epoll::EventData::new_u64(index as u64);
            let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
            epoll::add(&epoll, &subscriber.stream, token, flags)?;
        }
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            epoch,
        })
    }

    /// Who has something to read; nobody after a second of silence.
    fn wait(&mut self) -> Result<Vec<usize>, Failure> {
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let indices = self.events.iter().map(|event| event.data.u64() as usize);
        Ok(indices.collect())
    }
}

/// Latencies from 1 us to a minute.
pub fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, DIGITS)
        .map_err(|error| Failure::new(format!("no histogram: {error}")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::scan::payload;
    use crate::wire::mqtt;

    fn crowd(connections: usize) -> (Crowd, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let mut accepted = Vec::new();
        let crowd = Crowd::open(connections, |_| {
            let stream = TcpStream::connect(server)?;
            stream.set_nonblocking(true)?;
            accepted.push(listener.accept()?.0);
            Ok(stream)
        });
        (crowd.unwrap(), accepted)
    }

    #[test]
    fn probes_are_spread_from_the_first_to_the_last() {
        assert_eq!(crowd(31).0.probes.len(), PROBES);
        assert_eq!(crowd(31).0.probes.last(), Some(&30));
        assert_eq!(crowd(1).0.probes, [0]);
        assert_eq!(crowd(3).0.probes, [0, 1, 2]);
    }

    #[test]
    fn a_message_that_comes_twice_is_an_error() {
        let (mut crowd, mut server) = crowd(2);
        crowd.expect(1);
        let message = payload(64, 0, 0);
        server[0].write_all(message.as_bytes()).unwrap();
        server[1].write_all(message.repeat(2).as_bytes()).unwrap();
        let failure = crowd.drain().unwrap_err().to_string();
        assert!(failure.contains("the most 2"), "{failure}");
    }

    #[test]
    fn what_was_drained_is_acknowledged() {
        let (crowd, mut server) = crowd(1);
        let mut crowd = crowd.acknowledging();
        crowd.expect(1);
        let message = mqtt::publish("bench", &payload(64, 0, 0), Some(7));
        server[0].write_all(&message).unwrap();
        crowd.wait_for_probes().unwrap();
        server[0].set_nonblocking(true).unwrap();
        assert!(server[0].read(&mut [0]).is_err(), "a burst was disturbed");
        crowd.drain().unwrap();
        server[0].set_nonblocking(false).unwrap();
        let mut acknowledged = [0; 4];
        server[0].read_exact(&mut acknowledged).unwrap();
        assert_eq!(acknowledged, *b"\x40\x02\0\x07");
    }

    #[test]
    fn live_receipts_are_timed() {
        let (mut crowd, mut server) = crowd(2);
        let mut live = Live::over(&crowd, Instant::now()).unwrap();
        let mut latency = histogram().unwrap();
        crowd.expect(1);
        for stream in &mut server {
            stream.write_all(payload(64, 0, 0).as_bytes()).unwrap();
        }
        crowd.receive_live(&mut live, &mut latency).unwrap();
        assert_eq!(latency.len(), 2);
    }
}
