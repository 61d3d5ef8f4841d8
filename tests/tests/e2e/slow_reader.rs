//! A subscriber that stops reading costs the server nothing but its cursor.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tidings_e2e::sse::EventStream;
use tidings_e2e::{Options, PATIENCE, Server, eventually, spawn};

const BATCHES: usize = 1_000;
const BATCH: usize = 1_000;
const MIB: u64 = 1 << 20;
/// What the server may grow by while a million messages, some 150 MiB as frames, pass a reader that
/// stands still: the tail and inboxes, a page or two, the index of the log, and the allocator's slack.
const GROWTH_MAX: u64 = 64 * MIB;

fn options() -> Options {
    Options::default()
        .set("limits.tail_bytes_max", 4 * MIB)
        .set("limits.inbox_bytes_max", 4 * MIB)
        .set("limits.submit_bytes_max", 16 * MIB)
}

fn text(number: usize) -> String {
    format!("{number:0>100}")
}

/// A subscriber that tells when each of its messages came.
fn watch_probes(server: &Server) -> Receiver<Instant> {
    let mut stream = EventStream::open(server.address(), "/v1/topics/probe");
    stream.block().expect("the subscription begins");
    let (sender, came): (Sender<Instant>, _) = channel();
    spawn(
        move || {
            while stream.try_event().is_ok() && sender.send(Instant::now()).is_ok() {}
        },
    );
    came
}

/// Publishes batches and, between them, single messages for the other subscriber; gives how long those took.
fn publish(
    server: &Server,
    batches: std::ops::Range<usize>,
    came: &Receiver<Instant>,
) -> Vec<Duration> {
    let mut took = Vec::new();
    for batch in batches {
        let texts: Vec<String> = (batch * BATCH..(batch + 1) * BATCH).map(text).collect();
        server.publish_batch("flood", &texts);
        if batch % 5 == 0 {
            let before = Instant::now();
            server.publish("probe", "x");
            let arrived = came.recv_timeout(PATIENCE).expect("the probe arrives");
            took.push(arrived.saturating_duration_since(before));
        }
    }
    took.sort_unstable();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

#[test]
fn a_reader_that_stops_gets_everything_later_and_harms_nobody() {
    let server = Server::start(options());
    let came = watch_probes(&server);
    // What the same load costs others without a slow reader; it also warms the server up.
    let quiet = publish(&server, 0..BATCHES / 10, &came);
    let first = server.publish("flood", "the reader starts behind this");
    let resident = server.resident_bytes();

    let target = format!("/v1/topics/flood?after={first}");
    let mut slow = EventStream::open(server.address(), &target);
    let loaded = publish(&server, 0..BATCHES, &came);
    let grown = server.resident_bytes().saturating_sub(resident);
    assert!(grown < GROWTH_MAX, "the server grew by {} MiB", grown / MIB);
    let bound = p99(&quiet) * 5 + Duration::from_millis(250);
    assert!(
        p99(&loaded) < bound,
        "p99 for others: {:?}, before {:?}",
        p99(&loaded),
        p99(&quiet)
    );
    assert!(
        server.metric("tidings_subscriptions_lagged_total", "") >= 1.0,
        "it did fall behind"
    );

    slow.patience(PATIENCE);
    for number in 0..BATCHES * BATCH {
        let event = slow.event();
        assert_eq!(event.name, "message", "{event:?}");
        assert_eq!(event.data.as_deref(), Some(&*text(number)));
    }
    let grown = server.resident_bytes().saturating_sub(resident);
    assert!(
        grown < GROWTH_MAX,
        "catching up, the server grew by {} MiB",
        grown / MIB
    );
}

#[test]
fn past_retention_a_slow_reader_is_told_of_one_gap_and_gets_the_rest() {
    let options = options()
        .set("log.segment_bytes", MIB)
        .set("retention_default.bytes_max", 4 * MIB);
    let server = Server::start(options);
    let mut slow = EventStream::open(server.address(), "/v1/topics/flood?after=earliest");
    slow.block().expect("the subscription begins");
    let batches = 300;
    for batch in 0..batches {
        let texts: Vec<String> = (batch * BATCH..(batch + 1) * BATCH).map(text).collect();
        server.publish_batch("flood", &texts);
    }
    // What the sockets hold, and what the log keeps, is together far less than what was published.
    eventually("retention has removed the oldest", PATIENCE, || {
        server.metric("tidings_log_bytes", "") < 8.0 * MIB as f64
    });
    let mut expect = 0;
    let mut gaps = 0;
    while expect < batches * BATCH {
        let event = slow.event();
        if event.name == "gap" {
            assert_eq!(event.json()["reason"], "retention");
            gaps += 1;
            continue;
        }
        let number: usize = event
            .data
            .expect("data")
            .trim_start_matches('0')
            .parse()
            .unwrap_or(0);
        assert!(
            number == expect || (gaps > 0 && number > expect),
            "{number} after {expect}, {gaps} gaps"
        );
        expect = number + 1;
    }
    // Retention may overtake a reader again while it reads, but never without saying so.
    assert!(gaps >= 1, "there was a gap");
}
