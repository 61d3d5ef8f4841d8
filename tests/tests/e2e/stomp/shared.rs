//! A work queue whose consumers speak STOMP, MQTT and `tidings.v1`.

use serde_json::{Value, json};
use tidings_e2e::mqtt::{self, Connect, kind};
use tidings_e2e::stomp::{Client, Frame};
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, Server};

use super::open;

/// A consumer of a queue, with one message at a time.
enum Worker {
    Stomp(Client, Option<Frame>),
    Mqtt(mqtt::Client, u16),
    Tidings(WebSocket, Value),
}

impl Worker {
    /// One of each protocol.
    fn all(server: &Server, topic: &str) -> Vec<Self> {
        let mut stomp = open(server);
        let headers = [("ack", "client-individual"), ("prefetch-count", "1")];
        stomp.subscribe("1", &format!("/queue/{topic}"), &headers);
        let with = Connect::v5(topic).with(|properties| properties.short(0x21, 1));
        let (mut mqtt, _) = mqtt::Client::open(server.mqtt(), &with);
        let filter = format!("$share/queue/{topic}");
        assert_eq!(mqtt.subscribe(&[(&filter, 1)]), [1]);
        let mut tidings = WebSocket::tidings(server.address());
        tidings.ask(&json!({
            "op": "subscribe", "id": 1, "topic": topic, "group": "queue", "prefetch": 1,
        }));
        let answer = tidings.json();
        assert_eq!(answer["op"], "ok", "{answer}");
        vec![
            Self::Stomp(stomp, None),
            Self::Mqtt(mqtt, 0),
            Self::Tidings(tidings, Value::Null),
        ]
    }

    /// The next message, and whether it was delivered before, of which MQTT says nothing.
    fn take(&mut self) -> (String, Option<bool>) {
        match self {
            Self::Stomp(client, held) => {
                let message = client.message();
                let is_again = message.get("redelivered") == Some("true");
                let taken = (message.text(), Some(is_again));
                *held = Some(message);
                taken
            }
            Self::Mqtt(client, held) => {
                let message = client.message();
                *held = message.id;
                (message.text(), None)
            }
            Self::Tidings(socket, held) => {
                let message = socket.json();
                *held = json!({"sub": message["sub"], "message": message["id"]});
                let text = message["data"].as_str().expect("text").to_owned();
                (text, Some(message["deliveries"].as_u64() > Some(1)))
            }
        }
    }

    /// Acknowledges what it took last, and waits until that is known to the server.
    fn ack(&mut self) {
        match self {
            Self::Stomp(client, held) => client.ack(held.as_ref().unwrap()),
            Self::Mqtt(client, held) => client.acknowledge(kind::PUBACK, *held),
            Self::Tidings(socket, held) => {
                let mut request = json!({"op": "ack", "id": 2});
                request["sub"] = held["sub"].clone();
                request["message"] = held["message"].clone();
                socket.ask(&request);
                let answer = socket.json();
                assert_eq!(answer["op"], "ok", "{answer}");
            }
        }
    }

    /// Goes without a word.
    fn cut(self) {
        let socket = match &self {
            Self::Stomp(client, _) => client.socket(),
            Self::Mqtt(client, _) => client.socket(),
            Self::Tidings(socket, _) => socket.socket(),
        };
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

fn jobs() -> Vec<String> {
    (0..3).map(|n| format!("job {n}")).collect()
}

#[test]
fn consumers_of_three_protocols_share_a_queue() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut workers = Worker::all(&server, "work/shared");
    for _ in 0..3 {
        server.publish_batch("work/shared", &jobs());
        // Each takes one at a time, so three messages need all of them.
        let mut got = Vec::new();
        for worker in &mut workers {
            let (text, is_again) = worker.take();
            assert_ne!(is_again, Some(true), "{text}");
            got.push(text);
        }
        got.sort();
        assert_eq!(got, jobs());
        for worker in &mut workers {
            worker.ack();
        }
    }
}

#[test]
fn what_a_consumer_of_any_protocol_leaves_behind_goes_to_those_of_the_others() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    for leaver in 0..3 {
        for heir in (0..3).filter(|heir| *heir != leaver) {
            let topic = format!("work/{leaver}/{heir}");
            let mut workers = Worker::all(&server, &topic);
            server.publish_batch(&topic, &jobs());
            let held: Vec<String> = workers.iter_mut().map(|worker| worker.take().0).collect();
            workers[heir].ack();
            let last = workers.swap_remove(leaver);
            last.cut();
            // The last one has taken the place of the one that went.
            let heir = if heir == 2 { leaver } else { heir };
            let (text, is_again) = workers[heir].take();
            assert_eq!(text, held[leaver], "{topic}");
            assert_ne!(is_again, Some(false), "{topic}");
        }
    }
}
