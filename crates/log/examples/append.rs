//! Prints how many messages a second one thread appends: `cargo run --release -p tidings-log --example append [DIR]`.
#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidings_log::{LogConfig, LogCore};
use tidings_ports::{ReplyTo, Submission, SystemClock};
use tidings_types::{Draft, Durability, Topic};

const TOPICS: usize = 10_000;
const PAYLOAD: &[u8] = &[b'x'; 256];
const SPAN: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let topics: Result<Vec<Topic>, _> = (0..TOPICS)
        .map(|number| Topic::new(format!("bench/{number}/state")))
        .collect();
    let topics = topics?;
    for durability in [Durability::Sync, Durability::Os] {
        for batch in [1, 64, 1_024] {
            let directory = root.join(format!("tidings-append-{}", std::process::id()));
            let mut config = LogConfig::in_directory(&directory);
            config.durability = durability;
            let mut log = LogCore::open(config, Arc::new(SystemClock::default()))?;
            let (mut appended, mut random) = (0usize, 1u64);
            let started = Instant::now();
            while started.elapsed() < SPAN {
                let submissions = (0..batch).map(|_| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let topic = topics[(random >> 33) as usize % TOPICS].clone();
                    Submission {
                        drafts: vec![Draft::new(topic, Bytes::from_static(PAYLOAD))],
                        states: Vec::new(),
                        reply: Some(ReplyTo { shard: 0, token: 0 }),
                    }
                });
                log.append(submissions.collect());
                appended += batch;
            }
            let rate = appended as f64 / started.elapsed().as_secs_f64();
            println!("{durability:?} batch {batch}: {rate:.0} messages/s");
            log.close();
            std::fs::remove_dir_all(&directory)?;
        }
    }
    Ok(())
}
