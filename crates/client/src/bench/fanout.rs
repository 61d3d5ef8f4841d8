//! `bench fanout`: one publisher, many subscribers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::figures::{Figures, histogram};
use super::load::{client_of, keep_alive, open_all, subscriber, topic};
use super::marker::{CARRY_MAX, Carry, Scanner, payload};
use super::server::Server;
use super::{BenchError, STALL_MAX};
use crate::cli::{Load, Wire};
use crate::client::Client;
use crate::envelope::{ServerWord, publish_request};
use crate::error::{Lost, TryError};
use crate::message::{Keys, Outgoing};
use crate::random::Random;
use crate::websocket::{Opcode, Received, WebSocket};

const READ_BYTES: usize = 64 << 10;

/// What all receivers share; one thread, so no locks.
struct Deliveries {
    started: Instant,
    scanner: Scanner,
    /// What is read goes behind the room for a carry.
    buffer: RefCell<Vec<u8>>,
    /// For each message, to how many subscribers it is still to be delivered.
    missing: RefCell<Vec<u32>>,
    /// Messages that all subscribers have.
    complete: Cell<u64>,
    delivered: Cell<u64>,
    latency_ns: RefCell<Histogram<u64>>,
    /// Connections that ended.
    ended: Cell<u64>,
    changed: Notify,
}

/// Measures deliveries.
pub(super) async fn measure(
    client: &Client,
    load: &Load,
    server: Option<&Server>,
) -> Result<Figures, BenchError> {
    if load.protocol == Wire::Http {
        return Err(BenchError::Misused("subscribers speak sse, ws or tidings"));
    }
    let mut random = Random::from_system();
    let run = random.next_u64();
    let memory_before = server.and_then(Server::memory_bytes);
    let streams = subscribers(client, load, run).await?;
    let memory = memory_before.zip(server.and_then(Server::memory_bytes));
    let deliveries = Rc::new(Deliveries::new(load));
    for stream in &streams {
        tokio::task::spawn_local(receive(Rc::clone(stream), Rc::clone(&deliveries)));
    }
    let keeper = tokio::task::spawn_local(keep_alive(match load.protocol {
        Wire::Sse => Vec::new(),
        _ => streams,
    }));
    let mut publisher = Publisher {
        websocket: client.tidings().await?,
        keys: Keys::new(&mut random),
        deliveries: Rc::clone(&deliveries),
        load,
        run,
        sent: 0,
        acknowledged: 0,
    };
    publisher.publish_to(load.warmup).await?;
    deliveries.latency_ns.borrow_mut().reset();
    let cpu_before = server.and_then(Server::cpu);
    let (delivered_before, begun) = (deliveries.delivered.get(), Instant::now());
    publisher.publish_to(load.warmup + load.messages).await?;
    let elapsed = begun.elapsed();
    let cpu = cpu_before.zip(server.and_then(Server::cpu));
    keeper.abort();
    let latency_ns = deliveries.latency_ns.borrow().clone();
    Ok(Figures {
        what: "fanout",
        count: deliveries.delivered.get() - delivered_before,
        elapsed,
        latency_ns: Some(latency_ns),
        cpu: cpu.map(|(before, after)| after.since(before)),
        memory_bytes: memory,
    })
}

async fn subscribers(
    client: &Client,
    load: &Load,
    run: u64,
) -> Result<Vec<Rc<TcpStream>>, BenchError> {
    let (client, wire, topics) = (client.clone(), load.protocol, load.topics);
    open_all(load, move |index| {
        let client = client_of(&client, index);
        async move {
            let stream = subscriber(&client, wire, &topic(run, index % topics)).await?;
            Ok(Rc::new(stream))
        }
    })
    .await
}

impl Deliveries {
    fn new(load: &Load) -> Self {
        let messages = usize::try_from(load.warmup + load.messages).unwrap_or(usize::MAX);
        let subscribers = |topic: usize| {
            let more = usize::from(topic < load.connections % load.topics);
            (load.connections / load.topics + more) as u32
        };
        let missing = (0..messages).map(|number| subscribers(number % load.topics));
        Self {
            started: Instant::now(),
            scanner: Scanner::new(),
            buffer: RefCell::new(vec![0; CARRY_MAX + READ_BYTES]),
            missing: RefCell::new(missing.collect()),
            complete: Cell::new(0),
            delivered: Cell::new(0),
            latency_ns: RefCell::new(histogram()),
            ended: Cell::new(0),
            changed: Notify::new(),
        }
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn delivered(&self, now_ns: u64, published_ns: u64, number: u32) {
        let mut missing = self.missing.borrow_mut();
        let Some(missing) = missing.get_mut(number as usize) else {
            return;
        };
        self.delivered.set(self.delivered.get() + 1);
        self.latency_ns
            .borrow_mut()
            .saturating_record(now_ns.saturating_sub(published_ns));
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            self.complete.set(self.complete.get() + 1);
            self.changed.notify_one();
        }
    }
}

/// Reads one connection until it ends.
async fn receive(stream: Rc<TcpStream>, deliveries: Rc<Deliveries>) {
    let mut carry = Carry::default();
    while stream.readable().await.is_ok() {
        let mut buffer = deliveries.buffer.borrow_mut();
        match stream.try_read(&mut buffer[CARRY_MAX..]) {
            Ok(0) => break,
            Ok(read) => {
                let now_ns = deliveries.now_ns();
                deliveries
                    .scanner
                    .scan(&mut carry, &mut buffer, read, |published_ns, number| {
                        deliveries.delivered(now_ns, published_ns, number);
                    });
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    deliveries.ended.set(deliveries.ended.get() + 1);
    deliveries.changed.notify_one();
}

struct Publisher<'a> {
    websocket: WebSocket,
    keys: Keys,
    deliveries: Rc<Deliveries>,
    load: &'a Load,
    run: u64,
    sent: u64,
    acknowledged: u64,
}

impl Publisher<'_> {
    /// Publishes until so many messages in all are with all their subscribers.
    async fn publish_to(&mut self, total: u64) -> Result<(), BenchError> {
        let deliveries = Rc::clone(&self.deliveries);
        loop {
            let complete = deliveries.complete.get();
            if deliveries.ended.get() > 0 {
                return Err(BenchError::Ended(deliveries.ended.get()));
            }
            if complete >= total && self.acknowledged >= total {
                return Ok(());
            }
            while self.sent < total && self.sent - complete < self.load.in_flight as u64 {
                self.queue_next();
            }
            let stalled = BenchError::Stalled {
                arrived: deliveries.delivered.get(),
                due: total.saturating_mul(self.load.connections as u64) / self.load.topics as u64,
            };
            tokio::select! {
                () = deliveries.changed.notified() => {}
                received = self.websocket.receive() => self.answered(received.map_err(Lost::from)?)?,
                () = tokio::time::sleep(STALL_MAX) => return Err(stalled),
            }
        }
    }

    fn queue_next(&mut self) {
        let number = self.sent as u32;
        let topic = topic(self.run, number as usize % self.load.topics);
        let text = payload(self.load.payload_bytes, self.deliveries.now_ns(), number);
        let request = publish_request(
            self.sent,
            &Outgoing::new(topic, text),
            &self.keys.next_key(),
        );
        self.websocket.queue(Opcode::Text, &request);
        self.sent += 1;
    }

    fn answered(&mut self, received: Received) -> Result<(), BenchError> {
        match received {
            Received::Text(text) => match ServerWord::parse(&text)? {
                ServerWord::Ok { .. } => self.acknowledged += 1,
                ServerWord::Error { refused, .. } => return Err(TryError::Refused(refused).into()),
                _ => {}
            },
            Received::Close(close) => return Err(Lost::ClosedWith(close).into()),
            _ => {}
        }
        Ok(())
    }
}
