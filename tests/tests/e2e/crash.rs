//! kill -9 under load, again and again: what was acknowledged is there, once, in order.
//!
//! Three publishers send to one topic. Two use HTTP, repeat what was not acknowledged under the same
//! idempotency key, and so publish every text exactly once in the end. One pipelines over a WebSocket without
//! keys and never repeats, so each of its texts is there at most once, and once if it was acknowledged.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value, json};
use tidings_e2e::http::Request;
use tidings_e2e::sse::EventStream;
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, PATIENCE, Server, spawn};
use tidings_types::Cursor;

const ROUNDS: u64 = 52;
const WINDOW: u64 = 16;

/// An acknowledgement: the text and its cursor.
type Ack = (String, String);

/// A publisher between two rounds: the number of its next text.
type Publisher = fn(SocketAddr, &str, u64, &Sender<Ack>) -> u64;

fn publish_by_http(address: SocketAddr, name: &str, mut next: u64, acks: &Sender<Ack>) -> u64 {
    loop {
        let text = format!("{name}-{next}");
        let sent = Request::post("/v1/topics/crash")
            .header("Idempotency-Key", &text)
            .body(text.clone())
            .try_send(address);
        match sent {
            Ok(response) if response.status == 201 || response.status == 200 => {
                acks.send((text, cursor_in(&response.json(), "id")))
                    .unwrap();
                next += 1;
            }
            // Not acknowledged: the next round repeats this one.
            _ => return next,
        }
    }
}

fn publish_by_websocket(address: SocketAddr, name: &str, first: u64, acks: &Sender<Ack>) -> u64 {
    let Ok(mut socket) = WebSocket::try_open(address, "/v1/ws", Some("tidings.v1")) else {
        return first;
    };
    let mut sender = socket.sender();
    let mut publish = |number: u64| {
        let data = format!("{name}-{number}");
        sender.text(
            &json!({"op": "publish", "id": number, "topic": "crash", "data": data}).to_string(),
        )
    };
    for ahead in 0..WINDOW {
        if publish(first + ahead).is_err() {
            return first + ahead + 1;
        }
    }
    let mut next = first + WINDOW;
    while let Ok(frame) = socket.try_frame() {
        let tidings_e2e::websocket::Frame::Text(text) = frame else {
            break;
        };
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["op"], "ok", "{answer}");
        acks.send((
            format!("{name}-{}", answer["id"]),
            cursor_in(&answer, "cursor"),
        ))
        .unwrap();
        next += 1;
        if publish(next - 1).is_err() {
            break;
        }
    }
    next
}

fn cursor_in(value: &Value, field: &str) -> String {
    value[field].as_str().expect("a cursor").to_owned()
}

/// Publishes until the server is killed, after at least so many acknowledgements.
fn round(
    server: &mut Server,
    publishers: &mut [(Publisher, &'static str, u64)],
    kill_after: u64,
) -> Vec<Ack> {
    let (sender, acknowledged): (_, Receiver<Ack>) = channel();
    let address = server.address();
    let running: Vec<JoinHandle<u64>> = publishers
        .iter()
        .map(|(publish, name, next)| {
            let (publish, name, next, sender) = (*publish, *name, *next, sender.clone());
            spawn(move || publish(address, name, next, &sender))
        })
        .collect();
    drop(sender);
    let mut acks: Vec<Ack> = (0..kill_after)
        .map(|_| {
            acknowledged
                .recv_timeout(PATIENCE)
                .expect("publishes are acknowledged")
        })
        .collect();
    server.kill();
    for (publisher, running) in publishers.iter_mut().zip(running) {
        publisher.2 = running.join().unwrap();
    }
    acks.extend(acknowledged);
    acks
}

#[test]
fn every_acknowledged_message_survives_kill_9_once_and_in_order() {
    let mut server = Server::start(Options::default().argument("--durability").argument("sync"));
    let start: Cursor = server.publish("before", "x").parse().unwrap();
    let mut publishers: [(Publisher, &'static str, u64); 3] = [
        (publish_by_http, "a", 0),
        (publish_by_http, "b", 0),
        (publish_by_websocket, "w", 0),
    ];
    let mut acks: Vec<Ack> = Vec::new();
    for number in 0..ROUNDS {
        // Sometimes at once, sometimes after some hundred.
        let kill_after = 1 + number * 37 % 150;
        let acked = round(&mut server, &mut publishers, kill_after);
        server = server.restart();
        let (_, last) = acked.last().expect("at least one");
        let epoch = last.parse::<Cursor>().unwrap().epoch;
        assert_eq!(epoch, start.epoch, "the log is still the same one");
        let page = server.page("crash", &format!("after={last}"));
        assert!(
            page.json().get("gap").is_none_or(Value::is_null),
            "an acknowledged cursor resumes"
        );
        acks.extend(acked);
    }
    let stored = server.history("crash");
    check_once_and_in_order(&stored, &acks);
    check_resume(&server, &stored);
}

fn check_once_and_in_order(stored: &[Value], acks: &[Ack]) {
    let mut places: HashMap<String, String> = HashMap::new();
    let mut last = None;
    for message in stored {
        let cursor: Cursor = message["id"].as_str().unwrap().parse().unwrap();
        assert!(Some(cursor.offset) > last, "offsets grow");
        last = Some(cursor.offset);
        let text = message["data"].as_str().unwrap().to_owned();
        let before = places.insert(text.clone(), cursor.to_string());
        assert_eq!(before, None, "{text} is there twice");
    }
    for (text, cursor) in acks {
        assert_eq!(places.get(text), Some(cursor), "{text} was acknowledged");
    }
    let acknowledged: HashSet<&str> = acks.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(
        acknowledged.len(),
        acks.len(),
        "nothing is acknowledged twice"
    );
    for name in ["a-", "b-", "w-"] {
        let numbers: Vec<u64> = stored
            .iter()
            .filter_map(|message| message["data"].as_str()?.strip_prefix(name)?.parse().ok())
            .collect();
        assert!(numbers.is_sorted(), "the order of {name}");
        assert!(numbers.len() > 50, "{name} published {}", numbers.len());
    }
}

/// The cursor of any message resumes behind it: a stream from the middle ends as the history does.
fn check_resume(server: &Server, stored: &[Value]) {
    for part in [0, 3, 7] {
        let from = stored.len() * part / 10;
        let after = stored[from]["id"].as_str().unwrap();
        let target = format!("/v1/topics/crash?after={after}");
        let mut stream = EventStream::open(server.address(), &target);
        for message in &stored[from + 1..] {
            let event = stream.event();
            assert_eq!(event.id.as_deref(), message["id"].as_str());
            assert_eq!(event.data.as_deref(), message["data"].as_str());
        }
    }
}

#[test]
fn a_server_that_is_published_to_from_its_first_moment_serves_on_every_shard() {
    const PUBLISHERS: usize = 4;
    const STARTS: usize = 100;
    let mut server = Server::start(Options::default());
    let address = server.address();
    for start in 1..=STARTS {
        server.kill();
        let publishing: Vec<JoinHandle<()>> = (0..PUBLISHERS)
            .map(|_| {
                spawn(move || {
                    let publish = || {
                        Request::post("/v1/topics/early")
                            .body("x")
                            .try_send(address)
                    };
                    // They knock while nobody is there yet, without a pause: the moment is short.
                    let deadline = Instant::now() + PATIENCE;
                    while !publish().is_ok_and(|response| response.status == 201) {
                        assert!(Instant::now() < deadline, "no publish is taken");
                    }
                })
            })
            .collect();
        server = server.restart();
        for publisher in publishing {
            publisher.join().unwrap();
        }
        // Connections are handed to the shards in turn, so these are on all of them.
        let streams = (0..PUBLISHERS)
            .map(|_| EventStream::open(address, "/v1/topics/early?after=earliest"))
            .collect::<Vec<_>>();
        for mut stream in streams {
            stream.texts(start * PUBLISHERS);
        }
    }
}
