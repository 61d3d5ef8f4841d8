//! Many sessions that are away while messages come: each gets all of them, in order, and the log keeps them once.
//!
//! `SESSIONS` and `SESSION_MESSAGES` in the environment change the size; 10000 and 1000 is the full one.

use tidings_e2e::mqtt::{Client, Connect, Inbox};
use tidings_e2e::{Options, Server, spawn};

use super::numbered;

const TOPIC: &str = "scale/news";
const THREADS: usize = 8;

fn size(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Half of them at QoS 2, some in the older version.
fn session(n: usize) -> (Connect, u8) {
    let id = format!("scale-{n}");
    let with = if n.is_multiple_of(3) {
        Connect::v3(&id).kept()
    } else {
        Connect::v5(&id).kept()
    };
    (with, 1 + (n % 2) as u8)
}

/// Does something for each session, on a few threads.
fn for_each(sessions: usize, work: impl Fn(usize) + Copy + Send + 'static) {
    let threads: Vec<_> = (0..THREADS)
        .map(|first| {
            spawn(move || {
                for n in (first..sessions).step_by(THREADS) {
                    work(n);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn many_sessions_that_were_away_get_everything_in_order_after_kill_9() {
    let sessions = size("SESSIONS", 1_000);
    let count = size("SESSION_MESSAGES", 100);
    let mut server = Server::start(Options::default().set("limits.sessions_max", sessions + 10));
    let address = server.mqtt();
    for_each(sessions, move |n| {
        let (with, qos) = session(n);
        let (mut client, present) = Client::open(address, &with);
        assert!(!present);
        assert_eq!(client.subscribe(&[("scale/+", qos)]), [qos]);
        client.leave();
    });
    let (before, bytes) = (
        server.metric("tidings_log_messages_total", ""),
        server.metric("tidings_log_bytes", ""),
    );
    let texts = numbered("m", count);
    for part in texts.chunks(100) {
        server.publish_batch(TOPIC, part);
    }
    // The messages once, not once for each session.
    let messages = server.metric("tidings_log_messages_total", "") - before;
    assert!((messages - count as f64).abs() < 0.5, "{messages}");
    let grown = server.metric("tidings_log_bytes", "") - bytes;
    assert!(grown < 1_000.0 * count as f64, "{grown} bytes");
    server.kill();
    let server = server.restart();
    for_each(sessions, move |n| {
        let (with, qos) = session(n);
        let (mut client, present) = Client::open(address, &with);
        assert!(present, "{}", with.id);
        let mut inbox = Inbox::default();
        inbox.until(&mut client, &format!("m-{}", count - 1));
        assert_eq!(inbox.texts(), numbered("m", count), "{} {qos}", with.id);
        client.leave();
    });
    assert_eq!(server.history("scale/%23").len(), count);
    let kept = server.metric("tidings_log_states", "");
    assert!(kept >= sessions as f64, "{kept} states");
}
