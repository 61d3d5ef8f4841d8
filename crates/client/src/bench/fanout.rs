//! `bench fanout`: one publisher, many subscribers.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::sync::Notify;

use super::figures::{Figures, histogram};
use super::load::{Speech, client_of, keep_alive, open_all, subscriber, topic};
use super::marker::{CARRY_MAX, Carry, Scanner, payload};
use super::mqtt::Acknowledger;
use super::server::Server;
use super::socket::Socket;
use super::{BenchError, STALL_MAX};
use crate::cli::Load;
use crate::client::Client;
use crate::error::TryError;
use crate::message::{Keys, Outgoing};
use crate::pipeline::{Encoding, Link, Word};
use crate::random::Random;

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
    let speech = Speech::of_subscribers(load)?;
    let mut random = Random::from_system();
    let run = random.next_u64();
    let memory_before = server.and_then(Server::memory_bytes);
    let streams = subscribers(client, load, speech, run).await?;
    let memory = memory_before.zip(server.and_then(Server::memory_bytes));
    let deliveries = Rc::new(Deliveries::new(load));
    for stream in &streams {
        let acknowledger = speech.acknowledges().then(Acknowledger::default);
        let receive = receive(Rc::clone(stream), Rc::clone(&deliveries), acknowledger);
        tokio::task::spawn_local(receive);
    }
    let keeper = tokio::task::spawn_local(keep_alive(streams, speech));
    let mut publisher = Publisher {
        link: Link::open(client).await?,
        encoding: Link::encoding(client),
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
    speech: Speech,
    run: u64,
) -> Result<Vec<Rc<Socket>>, BenchError> {
    let (client, topics) = (client.clone(), load.topics);
    open_all(load, move |index| {
        let client = client_of(&client, index);
        async move {
            let stream = subscriber(&client, speech, &topic(run, index % topics)).await?;
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

/// Reads one connection until it ends, and acknowledges what is to be.
async fn receive(
    stream: Rc<Socket>,
    deliveries: Rc<Deliveries>,
    mut acknowledger: Option<Acknowledger>,
) {
    let mut carry = Carry::default();
    while stream.readable().await.is_ok() {
        if read_once(&stream, &deliveries, &mut carry, acknowledger.as_mut()).is_err() {
            break;
        }
        if let Some(acknowledger) = &mut acknowledger
            && write_all(&stream, &mut acknowledger.output).await.is_err()
        {
            break;
        }
    }
    deliveries.ended.set(deliveries.ended.get() + 1);
    deliveries.changed.notify_one();
}

fn read_once(
    stream: &Socket,
    deliveries: &Deliveries,
    carry: &mut Carry,
    acknowledger: Option<&mut Acknowledger>,
) -> io::Result<()> {
    let mut buffer = deliveries.buffer.borrow_mut();
    let read = match stream.try_read(&mut buffer[CARRY_MAX..]) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    };
    let now_ns = deliveries.now_ns();
    deliveries
        .scanner
        .scan(carry, &mut buffer, read, |published_ns, number| {
            deliveries.delivered(now_ns, published_ns, number);
        });
    match acknowledger {
        Some(acknowledger) => acknowledger
            .read(&buffer[CARRY_MAX..CARRY_MAX + read])
            .map_err(io::Error::other),
        None => Ok(()),
    }
}

async fn write_all(stream: &Socket, output: &mut Vec<u8>) -> io::Result<()> {
    while !output.is_empty() {
        match stream.try_write(output) {
            Ok(written) => drop(output.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    stream.flush().await
}

struct Publisher<'a> {
    link: Link,
    encoding: Encoding,
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
            let unanswered_max = self.link.unanswered_max() as u64;
            while self.sent < total
                && self.sent - complete < self.load.in_flight as u64
                && self.sent - self.acknowledged < unanswered_max
            {
                self.queue_next()?;
            }
            let stalled = BenchError::Stalled {
                arrived: deliveries.delivered.get(),
                due: total.saturating_mul(self.load.connections as u64) / self.load.topics as u64,
            };
            tokio::select! {
                () = deliveries.changed.notified() => {}
                word = self.link.receive() => self.answered(word?)?,
                () = tokio::time::sleep(STALL_MAX) => return Err(stalled),
            }
        }
    }

    fn queue_next(&mut self) -> Result<(), BenchError> {
        let number = self.sent as u32;
        let topic = topic(self.run, number as usize % self.load.topics);
        let text = payload(self.load.payload_bytes, self.deliveries.now_ns(), number);
        self.sent += 1;
        let outgoing = Outgoing::new(topic, text);
        let key = self.keys.next_key();
        let request = self.encoding.request(self.sent, &outgoing, &key);
        let request = request.map_err(|error| TryError::Refused(error.into()))?;
        self.link.queue(self.encoding.wire_id(self.sent), &request);
        Ok(())
    }

    fn answered(&mut self, word: Word) -> Result<(), BenchError> {
        match word {
            Word::Acknowledged { .. } => self.acknowledged += 1,
            Word::Refused { refused, .. } => return Err(TryError::Refused(refused).into()),
            Word::Drain { .. } | Word::Nothing => {}
        }
        Ok(())
    }
}
