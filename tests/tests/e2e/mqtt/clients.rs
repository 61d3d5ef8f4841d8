//! Client libraries: npm's `mqtt` over TCP and WebSocket, `paho-mqtt` and `aiomqtt`, in 3.1.1 and 5.0.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidings_e2e::peer::Peer;
use tidings_e2e::tls::Authority;
use tidings_e2e::{Options, Server};

use super::{numbered, post};

/// A library with its script.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Library {
    MqttJs,
    Paho,
    Aiomqtt,
}

/// A client of some library, with what came while something else was waited for.
struct Client {
    peer: Peer,
    messages: VecDeque<Value>,
}

impl Client {
    /// Connects, and says whether the session was there, where the library tells.
    #[track_caller]
    fn open(library: Library, options: &Value) -> (Self, Option<bool>) {
        let peer = match library {
            Library::MqttJs => Peer::node("mqtt.mjs", &[]),
            Library::Paho => Peer::python("paho_client.py", &[]),
            Library::Aiomqtt => Peer::python("aiomqtt_client.py", &[]),
        };
        let mut client = Self {
            peer,
            messages: VecDeque::new(),
        };
        let connected = client.ask(&json!({"connect": options}), "connected");
        (client, connected["present"].as_bool())
    }

    /// Gives a command and waits for its answer.
    #[track_caller]
    fn ask(&mut self, command: &Value, answer: &str) -> Value {
        self.peer.tell(command);
        loop {
            let mut line = self.peer.line();
            if !line["message"].is_null() {
                self.messages.push_back(line["message"].take());
            } else if line[answer].is_null() {
                panic!("{command}: {line}");
            } else {
                return line[answer].take();
            }
        }
    }

    #[track_caller]
    fn subscribe(&mut self, filter: &str, qos: u8) {
        let granted = self.ask(&json!({"subscribe": filter, "qos": qos}), "subscribed");
        assert_eq!(granted, json!([qos]), "{filter}");
    }

    #[track_caller]
    fn publish(&mut self, topic: &str, payload: &[u8], more: &Value) {
        let mut command = json!({"publish": topic, "base64": STANDARD.encode(payload)});
        for (name, value) in more.as_object().unwrap() {
            command[name] = value.clone();
        }
        self.ask(&command, "published");
    }

    /// The next message.
    #[track_caller]
    fn message(&mut self) -> Value {
        if let Some(message) = self.messages.pop_front() {
            return message;
        }
        let mut line = self.peer.line();
        assert!(!line["message"].is_null(), "{line}");
        line["message"].take()
    }

    /// The payload of the next message as text.
    #[track_caller]
    fn text(&mut self) -> String {
        let message = self.message();
        String::from_utf8(payload(&message)).unwrap()
    }

    #[track_caller]
    fn leave(mut self) {
        self.ask(&json!({"disconnect": true}), "closed");
    }
}

fn payload(message: &Value) -> Vec<u8> {
    STANDARD
        .decode(message["base64"].as_str().unwrap())
        .unwrap()
}

fn url(server: &Server, transport: &str) -> String {
    match transport {
        "ws" => server.ws_url("/mqtt"),
        "wss" => server.wss_url("/mqtt"),
        "tls" => format!("mqtts://{}", server.mqtts()),
        _ => format!("mqtt://{}", server.mqtt()),
    }
}

/// Publishes and receives at every QoS, and over HTTP.
#[track_caller]
fn check_exchange(server: &Server, library: Library, options: &Value) {
    let (mut client, _) = Client::open(library, options);
    client.subscribe("x/#", 2);
    for qos in 0..3 {
        client.publish(
            "x/own",
            format!("own {qos}").as_bytes(),
            &json!({"qos": qos}),
        );
        let message = client.message();
        assert_eq!(payload(&message), format!("own {qos}").as_bytes());
        assert_eq!(message["qos"], qos, "{message}");
    }
    client.publish("x/bytes", &[0xff, 0, 0xfe], &json!({"qos": 1}));
    assert_eq!(payload(&client.message()), [0xff, 0, 0xfe]);
    let stored = server.history("x/bytes").pop().unwrap();
    assert_eq!(stored["base64"], STANDARD.encode([0xff, 0, 0xfe]));
    server.publish("x/http", "from http");
    assert_eq!(client.text(), "from http");
    client.ask(&json!({"unsubscribe": "x/#"}), "unsubscribed");
    server.publish("x/http", "to nobody");

    post(server, "kept/a", "kept a", &[("Tidings-Retain", "true")]);
    client.publish("kept/b", b"kept b", &json!({"qos": 1, "retain": true}));
    client.subscribe("kept/+", 1);
    let mut kept: Vec<String> = Vec::new();
    for _ in 0..2 {
        let message = client.message();
        assert_eq!(message["retain"], true, "{message}");
        kept.push(String::from_utf8(payload(&message)).unwrap());
    }
    kept.sort();
    assert_eq!(kept, ["kept a", "kept b"]);
    client.leave();
}

/// Properties of 5.0, both ways.
#[track_caller]
fn check_properties(server: &Server, library: Library, options: &Value) {
    let (mut client, _) = Client::open(library, options);
    client.subscribe("p/#", 1);
    let properties = json!({
        "qos": 1, "content_type": "text/markdown", "user": {"room": "4"}, "expiry": 600,
    });
    client.publish("p/a", b"# hello", &properties);
    let message = client.message();
    assert_eq!(message["content_type"], "text/markdown", "{message}");
    assert_eq!(message["user"]["room"], "4", "{message}");
    let stored = server.history("p/a").pop().unwrap();
    assert_eq!(stored["content_type"], "text/markdown", "{stored}");
    assert_eq!(stored["headers"]["room"], "4", "{stored}");
    assert_eq!(message["user"]["tidings-cursor"], stored["id"], "{message}");
    client.leave();
}

/// A session that is away while messages come and the server is killed.
#[track_caller]
fn check_session(mut server: Server, library: Library, options: &Value) -> Server {
    let mut kept = options.clone();
    kept["clean"] = false.into();
    kept["expiry"] = 3_600.into();
    let (mut client, present) = Client::open(library, &kept);
    assert_ne!(present, Some(true));
    client.subscribe("away", 2);
    client.leave();
    let expect = numbered("away", 20);
    server.publish_batch("away", &expect);
    server.kill();
    server = server.restart();
    let (mut client, present) = Client::open(library, &kept);
    assert_ne!(present, Some(false));
    let got: Vec<String> = (0..20).map(|_| client.text()).collect();
    assert_eq!(got, expect);
    client.leave();
    server
}

#[track_caller]
fn check(library: Library, transports: &[&str]) {
    let authority = Authority::new();
    let options = Options::default().argument("--shards").argument("2");
    let mut server = Server::start(options.tls(&authority));
    for transport in transports {
        for version in [4, 5] {
            let id = format!("{library:?}-{transport}-{version}");
            let mut options = json!({"url": url(&server, transport), "version": version, "id": id});
            if matches!(*transport, "wss" | "tls") {
                options["ca"] = authority.ca_argument().into();
            }
            check_exchange(&server, library, &options);
            if version == 5 {
                check_properties(&server, library, &options);
            }
            server = check_session(server, library, &options);
        }
    }
}

#[test]
fn mqtt_js_exchanges_messages_and_resumes_over_tcp() {
    check(Library::MqttJs, &["tcp"]);
}

#[test]
fn mqtt_js_exchanges_messages_and_resumes_over_websocket() {
    check(Library::MqttJs, &["ws"]);
}

#[test]
fn mqtt_js_exchanges_messages_and_resumes_over_tls() {
    check(Library::MqttJs, &["tls", "wss"]);
}

#[test]
fn paho_exchanges_messages_and_resumes_over_tls() {
    check(Library::Paho, &["tls", "wss"]);
}

#[test]
fn paho_exchanges_messages_and_resumes() {
    check(Library::Paho, &["tcp", "ws"]);
}

#[test]
fn aiomqtt_exchanges_messages_and_resumes() {
    check(Library::Aiomqtt, &["tcp", "ws"]);
}

#[test]
fn mqtt_js_is_told_when_another_connection_takes_its_session() {
    let server = Server::start(Options::default());
    let options = json!({"url": url(&server, "tcp"), "version": 5, "id": "same"});
    let (mut first, _) = Client::open(Library::MqttJs, &options);
    let (second, _) = Client::open(Library::MqttJs, &options);
    assert_eq!(first.peer.line(), json!({"told": 0x8e}));
    assert_eq!(first.peer.line(), json!({"closed": true}));
    second.leave();
}

#[test]
fn wills_of_mqtt_js_come_when_its_socket_breaks() {
    let server = Server::start(Options::default());
    let watcher = json!({"url": url(&server, "tcp"), "version": 5, "id": "watcher"});
    let (mut watcher, _) = Client::open(Library::MqttJs, &watcher);
    watcher.subscribe("wills/#", 1);
    for (transport, delay) in [("tcp", 0), ("ws", 1)] {
        let will = json!({"topic": format!("wills/{transport}"), "text": "gone", "qos": 1, "delay": delay});
        let options = json!({
            "url": url(&server, transport), "version": 5, "id": transport, "expiry": 60, "will": will,
        });
        let (mut client, _) = Client::open(Library::MqttJs, &options);
        client.ask(&json!({"break": true}), "closed");
        let message = watcher.message();
        assert_eq!(message["topic"], format!("wills/{transport}"));
        assert_eq!(payload(&message), b"gone");
    }
    watcher.leave();
}

#[test]
fn a_page_in_a_browser_publishes_and_receives_over_mqtt() {
    let server = Server::start(Options::default());
    let mut page = Peer::node("browser_mqtt.mjs", &[&server.url("/")]);
    assert_eq!(page.line(), json!({"done": server.url("/healthz")}));
    assert_eq!(
        page.ask(&json!({"subscribe": "page/#"})),
        json!({"done": 1})
    );
    server.publish("page/a", "from http");
    page.ask(&json!({"publish": "page/b", "text": "from the page"}));
    let received = page.ask(&json!({"await": 2}));
    let expect = json!([["page/a", "from http"], ["page/b", "from the page"]]);
    assert_eq!(received["done"], expect);
    assert_eq!(super::texts(&server, "page/b"), ["from the page"]);
}
