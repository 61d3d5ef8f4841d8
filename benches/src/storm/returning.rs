//! The clients that come back.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use rustix::thread::gettid;

use super::phase::{Phase, Shared};
use super::{BEFORE, STORM_TOPIC, Sizes};
use crate::link::{read_ready, write_whole};
use crate::peers::Peer;
use crate::process::Cpu;
use crate::report::Failure;
use crate::scan::{CARRY_MAX, Carry, Scanner};
use crate::wire::get;

const READ_BYTES: usize = 64 << 10;
const EVENTS: usize = 256;
/// A storm that lasts longer is no storm any more.
const STORM_MAX: Duration = Duration::from_mins(1);
/// What became of it.
#[derive(Debug)]
pub struct Return {
    /// From the first connect until every client had the newest message.
    pub all_live_s: f64,
    /// Until half of them had.
    pub half_live_s: f64,
    /// Of the server meanwhile.
    pub cpu: Cpu,
}

struct Client {
    stream: TcpStream,
    carry: Carry,
    /// The number of the message that comes next.
    next: u32,
    has_asked: bool,
    is_live: bool,
}

struct Clients<'a> {
    all: Vec<Client>,
    epoll: OwnedFd,
    request: String,
    scanner: Scanner,
    buffer: Vec<u8>,
    live: usize,
    shared: &'a Shared,
}

/// Waits while it is quiet, comes back with all clients, and stays until each has every message.
pub fn run(peer: &Peer, cursor: &str, sizes: Sizes, shared: &Shared) -> Result<Return, Failure> {
    yield_to_everybody();
    sleep(sizes.quiet);
    let mut clients = Clients::new(cursor, shared)?;
    let cpu_before = peer.process.cpu();
    shared.go_on(Phase::Storm);
    let begun = Instant::now();
    clients.connect(peer.address(), sizes.clients)?;
    clients.until(STORM_MAX, |clients| clients.live * 2 >= sizes.clients)?;
    let half_live_s = begun.elapsed().as_secs_f64();
    clients.until(STORM_MAX, |clients| clients.live == sizes.clients)?;
    let all_live_s = begun.elapsed().as_secs_f64();
    shared.go_on(Phase::After);
    let cpu = peer.process.cpu().since(cpu_before);
    let later = Instant::now() + sizes.after;
    clients.until(STORM_MAX, |_| Instant::now() > later)?;
    shared.go_on(Phase::Stop);
    clients.until(STORM_MAX, |_| shared.phase() >= Phase::Stopped)?;
    let newest = shared.newest();
    clients.until(STORM_MAX, |clients| {
        clients.all.iter().all(|client| client.next > newest)
    })?;
    Ok(Return {
        all_live_s,
        half_live_s,
        cpu,
    })
}

/// Gives this thread what no other thread on its core wants (`SCHED_IDLE`).
fn yield_to_everybody() {
    let thread = gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("chrt");
    // Where it is not there the live latency is worse, not better, and the publisher's lateness shows it.
    command.args(["--idle", "--pid", "0", &thread]);
    drop(command.stderr(Stdio::null()).status());
}

impl<'a> Clients<'a> {
    fn new(cursor: &str, shared: &'a Shared) -> Result<Self, Failure> {
        let headers = format!("Accept: text/event-stream\r\nLast-Event-ID: {cursor}\r\n");
        Ok(Self {
            all: Vec::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            request: get(&format!("/v1/topics/{STORM_TOPIC}"), &headers),
            scanner: Scanner::default(),
            buffer: vec![0; CARRY_MAX + READ_BYTES],
            live: 0,
            shared,
        })
    }

    /// Begins to connect all of them.
    fn connect(&mut self, address: SocketAddr, count: usize) -> Result<(), Failure> {
        for number in 0..count {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                flags,
                Some(ipproto::TCP),
            )?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            match rustix::net::connect(&socket, &address) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => return Err(Failure::new(format!("client {number}: {error}"))),
            }
            let token = epoll::EventData::new_u64(number as u64);
            let flags = epoll::EventFlags::OUT;
            epoll::add(&self.epoll, &socket, token, flags)?;
            self.all.push(Client {
                stream: socket.into(),
                carry: Carry::default(),
                next: BEFORE,
                has_asked: false,
                is_live: false,
            });
        }
        Ok(())
    }

    fn until(
        &mut self,
        at_most: Duration,
        mut is_done: impl FnMut(&Self) -> bool,
    ) -> Result<(), Failure> {
        const MOMENT: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let deadline = Instant::now() + at_most;
        let mut events = Vec::with_capacity(EVENTS);
        while !is_done(self) {
            if self.shared.phase() == Phase::End {
                return Err(Failure::new("the live part of the storm ended early"));
            }
            if Instant::now() > deadline {
                return Err(self.unfinished());
            }
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&MOMENT)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                self.turn(event.data.u64() as usize)?;
            }
        }
        Ok(())
    }

    fn turn(&mut self, number: usize) -> Result<(), Failure> {
        let client = &mut self.all[number];
        if !client.has_asked {
            client.has_asked = true;
            write_whole(&mut &client.stream, self.request.as_bytes())?;
            let token = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, &client.stream, token, epoll::EventFlags::IN)?;
            return Ok(());
        }
        let into = &mut self.buffer[CARRY_MAX..];
        let Some(read) = read_ready(&mut &client.stream, into)? else {
            return Ok(());
        };
        let Client { carry, next, .. } = client;
        let mut wrong = None;
        self.scanner
            .scan(carry, &mut self.buffer, read, |_, found| {
                if found != *next {
                    wrong.get_or_insert((*next, found));
                }
                *next += 1;
            });
        if let Some((expected, found)) = wrong {
            return Err(Failure::new(format!(
                "client {number} got message {found} in place of {expected}"
            )));
        }
        if !client.is_live && client.next > self.shared.newest() {
            client.is_live = true;
            self.live += 1;
        }
        Ok(())
    }

    fn unfinished(&self) -> Failure {
        let newest = self.shared.newest();
        let behind = self.all.iter().filter(|client| client.next <= newest);
        let unasked = self.all.iter().filter(|client| !client.has_asked);
        Failure::new(format!(
            "{} of {} clients do not have message {newest}, {} of them are not connected",
            behind.count(),
            self.all.len(),
            unasked.count()
        ))
    }
}
