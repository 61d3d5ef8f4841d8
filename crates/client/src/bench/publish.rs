//! `bench publish`: many publishers, each with so many publishes under way, each acknowledged once durable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tidings_types::Topic;

use super::figures::{Figures, histogram};
use super::load::{client_of, open_all, topic};
use super::marker::payload;
use super::server::Server;
use super::{BenchError, STALL_MAX};
use crate::cli::{Load, Wire};
use crate::client::Client;
use crate::error::{Refused, TryError};
use crate::message::{Keys, Outgoing};
use crate::pipeline::{Encoding, Link, Word};
use crate::publisher::Publisher;
use crate::random::Random;

/// One publisher's connection.
enum Publishing {
    Link(Box<Link>),
    Http(Box<Publisher>),
}

/// What one publisher has to do.
struct Share {
    topic: Topic,
    encoding: Encoding,
    keys: Keys,
    messages: u64,
    in_flight: usize,
    payload_bytes: usize,
}

/// Measures acknowledged publishes.
pub(super) async fn measure(
    client: &Client,
    load: &Load,
    server: Option<&Server>,
) -> Result<Figures, BenchError> {
    match load.protocol {
        Wire::Tidings | Wire::Mqtt => {}
        Wire::Http if load.in_flight == 1 => {}
        Wire::Http => {
            let what = "an HTTP connection has one publish under way: use more connections";
            return Err(BenchError::Misused(what));
        }
        Wire::Sse | Wire::Ws => {
            return Err(BenchError::Misused(
                "publishers speak tidings, http or mqtt",
            ));
        }
    }
    let run = Random::from_system().next_u64();
    let encoding = Link::encoding(client);
    let mut publishers = open(client, load).await?;
    // One for each connection, so that nothing is done for the first time while it is measured.
    let warmup = load.warmup.min(1) * load.connections as u64;
    publishers = if warmup > 0 {
        publish(publishers, encoding, load, run, warmup).await?.0
    } else {
        publishers
    };
    let cpu_before = server.and_then(Server::cpu);
    let begun = Instant::now();
    let (_publishers, latency_ns) = publish(publishers, encoding, load, run, load.messages).await?;
    let elapsed = begun.elapsed();
    let cpu = cpu_before.zip(server.and_then(Server::cpu));
    Ok(Figures {
        what: "publish",
        count: latency_ns.len(),
        elapsed,
        latency_ns: Some(latency_ns),
        cpu: cpu.map(|(before, after)| after.since(before)),
        memory_bytes: None,
    })
}

async fn open(client: &Client, load: &Load) -> Result<Vec<Publishing>, BenchError> {
    let (client, wire, in_flight) = (client.clone(), load.protocol, load.in_flight);
    open_all(load, move |index| {
        let client = client_of(&client, index);
        async move {
            if wire == Wire::Http {
                return Ok(Publishing::Http(Box::new(client.publisher())));
            }
            let link = Link::open(&client).await?;
            let max = link.unanswered_max();
            if max < in_flight {
                let detail = format!("the server takes {max} publishes in flight at most");
                return Err(Refused::from_code("bad-parameter", &detail, None).into());
            }
            Ok(Publishing::Link(Box::new(link)))
        }
    })
    .await
}

/// Publishes so many messages over all connections; gives the connections back, and the times to acknowledge.
async fn publish(
    publishers: Vec<Publishing>,
    encoding: Encoding,
    load: &Load,
    run: u64,
    messages: u64,
) -> Result<(Vec<Publishing>, Histogram<u64>), BenchError> {
    let total = publishers.len() as u64;
    let mut random = Random::from_system();
    let mut tasks = tokio::task::JoinSet::new();
    for (index, publisher) in publishers.into_iter().enumerate() {
        let more = u64::from((index as u64) < messages % total);
        let share = Share {
            topic: topic(run, index % load.topics),
            encoding,
            keys: Keys::new(&mut random),
            messages: messages / total + more,
            in_flight: load.in_flight,
            payload_bytes: load.payload_bytes,
        };
        tasks.spawn_local(share.publish(publisher));
    }
    let mut latency_ns = histogram();
    let mut publishers = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok(outcome) => {
                let (publisher, one) = outcome?;
                publishers.push(publisher);
                latency_ns
                    .add(one)
                    .expect("all histograms have the same bounds");
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok((publishers, latency_ns))
}

impl Share {
    async fn publish(
        mut self,
        mut publishing: Publishing,
    ) -> Result<(Publishing, Histogram<u64>), BenchError> {
        let latency_ns = match &mut publishing {
            Publishing::Link(link) => self.over_link(link).await?,
            Publishing::Http(publisher) => self.over_http(publisher).await?,
        };
        Ok((publishing, latency_ns))
    }

    fn next(&self, number: u64) -> Outgoing {
        Outgoing::new(
            self.topic.clone(),
            payload(self.payload_bytes, 0, number as u32),
        )
    }

    fn request(&mut self, number: u64) -> Result<Vec<u8>, BenchError> {
        // MQTT publishers have no keys as a rule, and are measured without.
        let key = match self.encoding {
            Encoding::Tidings => self.keys.next_key(),
            Encoding::Mqtt(_) => String::new(),
        };
        let request = self.encoding.request(number, &self.next(number), &key);
        Ok(request.map_err(|error| TryError::Refused(error.into()))?)
    }

    async fn over_http(&mut self, publisher: &mut Publisher) -> Result<Histogram<u64>, BenchError> {
        let mut latency_ns = histogram();
        for number in 0..self.messages {
            let outgoing = self.next(number);
            let begun = Instant::now();
            publisher
                .publish_once(&outgoing, &self.keys.next_key())
                .await?;
            latency_ns.saturating_record(begun.elapsed().as_nanos() as u64);
        }
        Ok(latency_ns)
    }

    async fn over_link(&mut self, link: &mut Link) -> Result<Histogram<u64>, BenchError> {
        let mut latency_ns = histogram();
        // When each request went out; answers come in the order of the requests.
        let mut waiting: VecDeque<(u64, Instant)> = VecDeque::with_capacity(self.in_flight);
        let mut sent = 0;
        loop {
            while sent < self.messages && waiting.len() < self.in_flight {
                sent += 1;
                let request = self.request(sent)?;
                let id = self.encoding.wire_id(sent);
                link.queue(id, &request);
                waiting.push_back((id, Instant::now()));
            }
            if waiting.is_empty() {
                return Ok(latency_ns);
            }
            let received = tokio::time::timeout(STALL_MAX, link.receive()).await;
            let Ok(received) = received else {
                let arrived = sent - waiting.len() as u64;
                let due = self.messages;
                return Err(BenchError::Stalled { arrived, due });
            };
            let mut next = Some(received?);
            while let Some(word) = next {
                if let Some(latency) = answered(word, &mut waiting)? {
                    latency_ns.saturating_record(latency.as_nanos() as u64);
                }
                next = link.receive_ready()?;
            }
        }
    }
}

fn answered(
    word: Word,
    waiting: &mut VecDeque<(u64, Instant)>,
) -> Result<Option<Duration>, BenchError> {
    match word {
        Word::Acknowledged { id, .. } => {
            let at = waiting.iter().position(|(sent, _)| *sent == id);
            let since = at.and_then(|at| waiting.remove(at));
            Ok(since.map(|(_, begun)| begun.elapsed()))
        }
        Word::Refused { refused, .. } => Err(TryError::Refused(refused).into()),
        Word::Drain { .. } | Word::Nothing => Ok(None),
    }
}
