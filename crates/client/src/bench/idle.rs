//! `bench idle`: connections that are subscribed and get nothing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::BenchError;
use super::figures::Figures;
use super::load::{Speech, client_of, keep_alive, open_all, subscriber, topic};
use super::server::Server;
use super::socket::Socket;
use crate::cli::Load;
use crate::client::Client;
use crate::random::Random;

/// After the last handshake until memory is looked at: what handshakes needed is given back by then.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures the server's memory for each connection, and its CPU while nothing happens.
pub(super) async fn measure(
    client: &Client,
    load: &Load,
    server: Option<&Server>,
) -> Result<Figures, BenchError> {
    let speech = Speech::of_subscribers(load)?;
    let run = Random::from_system().next_u64();
    let memory_before = server.and_then(Server::memory_bytes);
    let (client, topics) = (client.clone(), load.topics);
    let streams = open_all(load, move |index| {
        let client = client_of(&client, index);
        async move {
            let stream = subscriber(&client, speech, &topic(run, index % topics)).await?;
            Ok(Rc::new(stream))
        }
    })
    .await?;
    let watched = streams.clone();
    let keeper = tokio::task::spawn_local(keep_alive(streams, speech));
    tokio::time::sleep(SETTLE).await;
    let cpu_before = server.and_then(Server::cpu);
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    let elapsed = begun.elapsed();
    let cpu = cpu_before.zip(server.and_then(Server::cpu));
    let memory = memory_before.zip(server.and_then(Server::memory_bytes));
    keeper.abort();
    let ended = watched.iter().filter(|stream| has_ended(stream)).count() as u64;
    if ended > 0 {
        return Err(BenchError::Ended(ended));
    }
    Ok(Figures {
        what: "idle",
        count: load.connections as u64,
        elapsed,
        latency_ns: None,
        cpu: cpu.map(|(before, after)| after.since(before)),
        memory_bytes: memory,
    })
}

/// Reads what there is; heartbeats are all that may come.
fn has_ended(stream: &Socket) -> bool {
    let mut bytes = [0u8; 4096];
    loop {
        match stream.try_read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
