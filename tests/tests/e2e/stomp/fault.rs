//! A work queue whose consumers break off at random, and whose server is killed: nothing is lost, nothing is two
//! consumers' at a time, and what comes again says so.
//!
//! `QUEUE_MESSAGES` in the environment changes the size, of which 100000 is the full one, and `QUEUE_SEED` the
//! randomness.

mod consumer;

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tidings_e2e::http::Request;
use tidings_e2e::{Options, Server, eventually, spawn};

use self::consumer::{Addresses, Consumer, Handle, Heard};

const TOPIC: &str = "work/fault";
const PREFETCH: usize = 20;
const CONSUMERS: usize = 8;
const BATCH: usize = 100;
/// Without a message for so long, the test has failed.
const STALL: Duration = Duration::from_mins(1);

fn environment(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// How a consumer let go of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Acked,
    GivenBack,
    Broken,
}

/// One message at one consumer.
#[derive(Clone, Debug)]
struct Held {
    number: usize,
    consumer: usize,
    again: Option<bool>,
    from: Instant,
    until: Instant,
    end: End,
}

/// What the threads share.
struct Run {
    at: Addresses,
    messages: usize,
    done: Mutex<Vec<Held>>,
    /// By message: how often it was acknowledged.
    acked: Vec<AtomicUsize>,
    /// Messages that were acknowledged at least once.
    distinct: AtomicUsize,
    kills: Mutex<Vec<Instant>>,
    is_over: AtomicBool,
    /// The sockets of the consumers, so that they can be woken at the end.
    sockets: Mutex<Vec<Option<std::net::TcpStream>>>,
}

impl Run {
    /// When the server was killed for the first time after this moment.
    fn killed_after(&self, moment: Instant) -> Option<Instant> {
        let kills = self.kills.lock().unwrap();
        kills.iter().copied().find(|kill| *kill >= moment)
    }

    fn note(&self, held: Held) {
        if held.end == End::Acked && self.acked[held.number].fetch_add(1, SeqCst) == 0 {
            self.distinct.fetch_add(1, SeqCst);
        }
        self.done.lock().unwrap().push(held);
    }

    fn publish(&self) {
        for first in (0..self.messages).step_by(BATCH) {
            let batch = first..(first + BATCH).min(self.messages);
            let batch: Vec<_> = batch
                .map(|n| json!({"topic": TOPIC, "data": n.to_string(), "key": format!("n{n}")}))
                .collect();
            let request = Request::post("/v1/publish")
                .header("Content-Type", "application/json")
                .body(serde_json::Value::Array(batch).to_string());
            eventually("a batch is stored", STALL, || {
                let sent = request.clone().try_send(self.at.http());
                sent.is_ok_and(|response| matches!(response.status, 200 | 201))
            });
        }
    }
}

/// One connection of a consumer with the messages that it has.
struct Session<'a> {
    run: &'a Run,
    consumer: Consumer,
    number: usize,
    opened: Instant,
    held: Vec<(Held, Handle)>,
    probed: bool,
}

impl Session<'_> {
    fn take(&mut self) -> io::Result<()> {
        match self.consumer.read()? {
            Heard::Message {
                number,
                again,
                handle,
            } => {
                let now = Instant::now();
                let held = Held {
                    number,
                    consumer: self.number,
                    again,
                    from: now,
                    until: now,
                    end: End::Broken,
                };
                self.held.push((held, handle));
            }
            Heard::Probed => self.probed = true,
            Heard::Other => {}
        }
        Ok(())
    }

    /// Lets go of one of its messages, mostly by acknowledging it.
    fn settle_one(&mut self, random: &mut Random) -> io::Result<()> {
        let at = random.below(self.held.len() as u64) as usize;
        let is_ack = !self.consumer.can_nack() || random.below(20) > 0;
        let (mut held, handle) = self.held.swap_remove(at);
        held.until = Instant::now();
        held.end = if is_ack { End::Acked } else { End::GivenBack };
        let sent = self.consumer.settle(&handle, is_ack);
        self.run.note(held);
        sent
    }

    /// Works until it breaks off by itself, or until the connection is broken.
    fn work(&mut self, random: &mut Random) -> io::Result<()> {
        let life = 20 + random.below(400);
        for _ in 0..life {
            // Nothing is kept while nothing comes, or the end would never be reached.
            while !self.held.is_empty() && !self.consumer.has_more() {
                self.settle_one(random)?;
            }
            self.take()?;
            if self.held.len() >= PREFETCH / 2 || random.below(2) == 0 && !self.held.is_empty() {
                self.settle_one(random)?;
            }
        }
        // What was settled is known to the server; what is left is not.
        self.consumer.probe()?;
        while !self.probed {
            self.take()?;
        }
        Ok(())
    }

    /// The connection is no more, or will not be in a moment.
    fn end(&mut self) {
        let now = Instant::now();
        let end = self.run.killed_after(self.opened).unwrap_or(now).min(now);
        for (mut held, _) in self.held.drain(..) {
            held.until = end;
            self.run.note(held);
        }
    }
}

/// Connects again and again until the run is over. The last connection is kept open: what was sent on it still
/// counts.
fn consume(run: &Run, number: usize, mut random: Random) -> Option<Consumer> {
    while !run.is_over.load(SeqCst) {
        let opened = Instant::now();
        let Ok(consumer) = Consumer::open(number, run.at) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let socket = consumer
            .socket()
            .try_clone()
            .expect("a socket can be cloned");
        run.sockets.lock().unwrap()[number] = Some(socket);
        // Either this is seen here, or the socket is seen where the others are woken.
        if run.is_over.load(SeqCst) {
            return Some(consumer);
        }
        let mut session = Session {
            run,
            consumer,
            number,
            opened,
            held: Vec::new(),
            probed: false,
        };
        let worked = session.work(&mut random);
        session.end();
        match worked {
            Ok(()) => session.consumer.cut(),
            Err(_) if run.is_over.load(SeqCst) => return Some(session.consumer),
            Err(error) => {
                let killed = run.killed_after(opened).is_some();
                assert!(
                    killed,
                    "consumer {number} is cut off by the server: {error}"
                );
            }
        }
    }
    None
}

/// Starts everything, kills the server so many times, and gives what happened.
fn run(messages: usize, kills: usize, seed: u64) -> (Server, Arc<Run>) {
    let options = Options::default()
        .argument("--shards")
        .argument("2")
        .set("limits.deliveries_max", 0);
    let mut server = Server::start(options);
    let run = Arc::new(Run {
        at: Addresses::of(&server),
        messages,
        done: Mutex::default(),
        acked: (0..messages).map(|_| AtomicUsize::new(0)).collect(),
        distinct: AtomicUsize::new(0),
        kills: Mutex::default(),
        is_over: AtomicBool::new(false),
        sockets: Mutex::new((0..CONSUMERS).map(|_| None).collect()),
    });
    let consumers: Vec<JoinHandle<_>> = (0..CONSUMERS)
        .map(|n| {
            let (run, random) = (Arc::clone(&run), Random(seed ^ (n as u64 + 1) << 32));
            spawn(move || consume(&run, n, random))
        })
        .collect();
    let publisher = Arc::clone(&run);
    let publisher = spawn(move || publisher.publish());
    for kill in 1..=kills {
        wait_for(&run, messages * kill / (kills + 1), &consumers);
        run.kills.lock().unwrap().push(Instant::now());
        server.kill();
        server = server.restart();
    }
    wait_for(&run, messages, &consumers);
    publisher.join().expect("everything is published");
    run.is_over.store(true, SeqCst);
    // Whoever waits for a message wakes up; what it has sent is still on its way to the server.
    for socket in run.sockets.lock().unwrap().iter().flatten() {
        socket.shutdown(Shutdown::Read).unwrap_or_default();
    }
    let left: Vec<Option<Consumer>> = consumers
        .into_iter()
        .map(|consumer| consumer.join().expect("a consumer works to the end"))
        .collect();
    for consumer in left.iter().flatten() {
        consumer
            .socket()
            .shutdown(Shutdown::Write)
            .unwrap_or_default();
    }
    let connected = |server: &Server| {
        let of = |name| server.metric("tidings_connections", &format!("\"{name}\""));
        of("stomp") + of("mqtt") + of("tidings.v1")
    };
    eventually("all consumers are gone", STALL, || connected(&server) < 0.5);
    (server, run)
}

/// Waits until so many messages were acknowledged.
fn wait_for(run: &Run, count: usize, consumers: &[JoinHandle<Option<Consumer>>]) {
    let mut last = (0, Instant::now());
    loop {
        let distinct = run.distinct.load(SeqCst);
        if distinct >= count {
            return;
        }
        if distinct > last.0 {
            last = (distinct, Instant::now());
        }
        assert!(
            last.1.elapsed() < STALL,
            "{distinct} of {count}: it does not go on"
        );
        assert!(
            !consumers.iter().any(JoinHandle::is_finished),
            "a consumer has failed"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What is still in the queue when everybody has gone.
fn leftovers(server: &Server, run: &Run) -> Vec<usize> {
    let mut client = super::open(server);
    let mark = run.messages.to_string();
    server.publish(TOPIC, &mark);
    let headers = [("ack", "client-individual"), ("prefetch-count", "1000")];
    client.subscribe("1", &format!("/queue/{TOPIC}"), &headers);
    let mut left = Vec::new();
    loop {
        let message = client.message();
        client.ack(&message);
        if message.text() == mark {
            return left;
        }
        let number: usize = message.text().parse().expect("a number");
        let again = message.get("redelivered") == Some("true");
        assert!(again, "{number} was not delivered before: it was lost");
        left.push(number);
    }
}

/// Who had a message when, in milliseconds since it was delivered first.
fn shown(number: usize, intervals: &[Held]) -> String {
    let first = intervals[0].from;
    let line = |held: &Held| {
        let [from, until] =
            [held.from, held.until].map(|at| at.duration_since(first).as_secs_f64());
        let (consumer, again, end) = (held.consumer, held.again, held.end);
        let (from, until) = (from * 1e3, until * 1e3);
        format!("\n  consumer {consumer}, {from:.3} to {until:.3}, again: {again:?}, {end:?}")
    };
    let lines: Vec<String> = intervals.iter().map(line).collect();
    format!("message {number}:{}", lines.concat())
}

/// The intervals of each message, in their order.
fn check_intervals(run: &Run, seed: u64) {
    let mut by_message: BTreeMap<usize, Vec<Held>> = BTreeMap::new();
    for held in run.done.lock().unwrap().iter() {
        by_message
            .entry(held.number)
            .or_default()
            .push(held.clone());
    }
    for (number, intervals) in &mut by_message {
        // What is read from a socket whose server is dead was delivered before that.
        for held in intervals.iter_mut() {
            held.from = held.from.min(held.until);
        }
        intervals.sort_by_key(|held| held.from);
        for pair in intervals.windows(2) {
            let wrong = if pair[0].until > pair[1].from {
                "two have it at a time"
            } else if pair[1].again == Some(false) {
                "it comes again and does not say so"
            } else {
                continue;
            };
            panic!("seed {seed}, {wrong}: {}", shown(*number, intervals));
        }
    }
    // It was a test.
    let all = || by_message.values().flatten();
    for end in [End::Acked, End::GivenBack, End::Broken] {
        assert!(
            all().any(|held| held.end == end),
            "seed {seed}: none was {end:?}"
        );
    }
    assert!(all().any(|held| held.again == Some(true)), "seed {seed}");
    let acked = run.acked.iter().all(|count| count.load(SeqCst) > 0);
    assert!(acked && by_message.len() == run.messages, "seed {seed}");
}

#[test]
fn consumers_that_break_off_cost_no_message_and_repeat_none() {
    let seed = environment("QUEUE_SEED", 1) as u64;
    let (server, run) = run(environment("QUEUE_MESSAGES", 20_000), 0, seed);
    check_intervals(&run, seed);
    let left = leftovers(&server, &run);
    assert!(left.is_empty(), "seed {seed}: {left:?}");
    let counts = run.acked.iter().map(|count| count.load(SeqCst));
    let often: Vec<(usize, usize)> = counts.enumerate().filter(|(_, n)| *n != 1).collect();
    assert!(
        often.is_empty(),
        "seed {seed}: acknowledged so often: {often:?}"
    );
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_no_message_of_a_queue() {
    let seed = environment("QUEUE_SEED", 2) as u64;
    let messages = environment("QUEUE_MESSAGES", 20_000);
    let (server, run) = run(messages, 5, seed);
    check_intervals(&run, seed);
    let left = leftovers(&server, &run);
    assert!(
        left.len() <= CONSUMERS * PREFETCH,
        "seed {seed}: {} are left",
        left.len()
    );
    assert_eq!(server.history(TOPIC).len(), messages + 1, "seed {seed}");
}
