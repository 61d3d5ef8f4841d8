//! Client libraries: `@stomp/stompjs` over WebSocket, in Node and in Chromium, and `stomp.py` over TCP.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidings_e2e::peer::Peer;
use tidings_e2e::tls::Authority;
use tidings_e2e::{Options, Server};

use super::VERSIONS;

/// A library with its script.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Library {
    StompJs,
    StompPy,
}

/// A client of some library, with what came while something else was waited for.
struct Client {
    peer: Peer,
    messages: VecDeque<Value>,
    /// How many came on this connection.
    count: usize,
}

impl Client {
    #[track_caller]
    fn open(library: Library, server: &Server, options: &Value) -> Self {
        let peer = match library {
            Library::StompJs => Peer::node("stomp.mjs", &[]),
            Library::StompPy => Peer::python("stomp_client.py", &[]),
        };
        let mut client = Self {
            peer,
            messages: VecDeque::new(),
            count: 0,
        };
        let mut options = options.clone();
        options["url"] = match (library, options["ca"].is_string()) {
            (Library::StompJs, false) => server.ws_url("/stomp"),
            (Library::StompJs, true) => server.wss_url("/stomp"),
            (Library::StompPy, false) => format!("stomp://{}", server.stomp()),
            (Library::StompPy, true) => format!("stomps://{}", server.stomps()),
        }
        .into();
        client.peer.tell(&json!({"connect": options}));
        let connected = client.until("connected");
        assert_eq!(connected["version"], options["versions"][0], "{connected}");
        client
    }

    /// Waits for this line; messages that come before it are kept.
    #[track_caller]
    fn until(&mut self, what: &str) -> Value {
        loop {
            let mut line = self.peer.line();
            if !line["message"].is_null() {
                self.messages.push_back(line["message"].take());
            } else if line[what].is_null() {
                panic!("waiting for `{what}`: {line}");
            } else {
                return line[what].take();
            }
        }
    }

    /// Gives a command and waits until it is done.
    #[track_caller]
    fn ask(&mut self, command: &Value) {
        self.peer.tell(command);
        let done = self.until("done");
        let name = done.as_str().unwrap_or("?");
        assert!(command.get(name).is_some(), "{command}: {done}");
    }

    #[track_caller]
    fn subscribe(&mut self, destination: &str, id: &str, headers: &Value) {
        self.ask(&json!({"subscribe": destination, "id": id, "headers": headers}));
    }

    #[track_caller]
    fn publish(&mut self, destination: &str, payload: &[u8], headers: &Value) {
        let base64 = STANDARD.encode(payload);
        self.ask(&json!({"publish": destination, "base64": base64, "headers": headers}));
    }

    /// The next message, and its number on the connection.
    #[track_caller]
    fn message(&mut self) -> (Value, usize) {
        let message = self.messages.pop_front().unwrap_or_else(|| {
            let mut line = self.peer.line();
            assert!(!line["message"].is_null(), "{line}");
            line["message"].take()
        });
        self.count += 1;
        (message, self.count - 1)
    }

    #[track_caller]
    fn payload(&mut self) -> Vec<u8> {
        let (message, _) = self.message();
        STANDARD
            .decode(message["base64"].as_str().unwrap())
            .unwrap()
    }

    #[track_caller]
    fn text(&mut self) -> String {
        String::from_utf8(self.payload()).unwrap()
    }

    #[track_caller]
    fn leave(mut self) {
        self.peer.tell(&json!({"disconnect": true}));
        self.until("closed");
    }
}

/// Publishes and receives: text, bytes, much, properties, and from HTTP.
#[track_caller]
fn check_exchange(server: &Server, library: Library, options: &Value) {
    let version = options["versions"][0].as_str().unwrap();
    let mut client = Client::open(library, server, options);
    client.subscribe("/topic/x/#", "all", &json!({}));
    client.publish(
        "/topic/x/own",
        "own \u{e9}".as_bytes(),
        &json!({"content-type": "text/plain"}),
    );
    let (message, _) = client.message();
    assert_eq!(
        message["headers"]["destination"], "/topic/x/own",
        "{message}"
    );
    assert_eq!(
        message["headers"]["content-type"], "text/plain",
        "{message}"
    );
    let stored = server.history("x/own").pop().unwrap();
    assert_eq!(message["headers"]["message-id"], stored["id"], "{message}");
    let large: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
    for payload in [&[0xff, 0, 0xfe][..], b"a\0b\0", &large] {
        client.publish("/topic/x/bytes", payload, &json!({}));
        assert!(client.payload() == payload, "{} bytes", payload.len());
    }
    // stompjs escapes in 1.2 alone, where it takes an escaped backslash before a `c` for a colon; 1.0 has no escapes.
    let value = if version == "1.2" {
        "a:b\\d e"
    } else {
        "plain"
    };
    client.publish("/topic/x/h", b"h", &json!({"room": value}));
    assert_eq!(client.message().0["headers"]["room"], value);
    assert_eq!(
        server.history("x/h").pop().unwrap()["headers"]["room"],
        value
    );
    server.publish("x/http", "from http");
    assert_eq!(client.text(), "from http");
    client.ask(&json!({"unsubscribe": "all"}));
    server.publish("x/http", "to nobody");
    client.subscribe("/topic/y", "y", &json!({}));
    client.publish("/topic/y", b"next", &json!({}));
    assert_eq!(client.text(), "next");
    client.leave();
}

/// Acknowledges one by one and all before, gives back, and leaves with what it has.
#[track_caller]
fn check_acknowledgements(server: &Server, library: Library, version: &str) {
    let options = json!({"versions": [version]});
    let queue = format!("/queue/{library:?}/{}", version.replace('.', "-"));
    let mut client = Client::open(library, server, &options);
    client.subscribe(&queue, "q", &json!({"ack": "client"}));
    for n in 0..5 {
        client.publish(&queue, n.to_string().as_bytes(), &json!({}));
    }
    let numbers: Vec<usize> = (0..5).map(|_| client.message().1).collect();
    client.ask(&json!({"ack": numbers[2]}));
    client.leave();
    let mode = if version == "1.0" {
        "client"
    } else {
        "client-individual"
    };
    let mut client = Client::open(library, server, &options);
    client.subscribe(&queue, "q", &json!({"ack": mode}));
    let (three, number) = client.message();
    assert_eq!(three["headers"]["redelivered"], "true", "{three}");
    assert_eq!(three["base64"], STANDARD.encode("3"));
    let (four, last) = client.message();
    assert_eq!(four["base64"], STANDARD.encode("4"));
    if version == "1.0" {
        client.ask(&json!({"ack": last}));
    } else {
        client.ask(&json!({"ack": last}));
        client.ask(&json!({"nack": number}));
        let (three, number) = client.message();
        assert_eq!(three["headers"]["tidings-deliveries"], "3", "{three}");
        client.ask(&json!({"ack": number}));
    }
    client.publish(&queue, b"next", &json!({}));
    assert_eq!(client.text(), "next");
    client.leave();
}

#[track_caller]
fn check_transactions(server: &Server, library: Library, version: &str) {
    let mut client = Client::open(library, server, &json!({"versions": [version]}));
    client.subscribe("/topic/t", "t", &json!({}));
    for (name, end) in [("no", "abort"), ("yes", "commit")] {
        client.ask(&json!({"begin": name}));
        for n in 0..3 {
            let base64 = STANDARD.encode(format!("{name} {n}"));
            client.ask(&json!({"publish": "/topic/t", "base64": base64, "transaction": name}));
        }
        client.ask(&json!({end: name}));
    }
    let got: Vec<String> = (0..3).map(|_| client.text()).collect();
    assert_eq!(got, ["yes 0", "yes 1", "yes 2"]);
    client.leave();
}

#[track_caller]
fn check_error(server: &Server, library: Library, version: &str) {
    let mut client = Client::open(library, server, &json!({"versions": [version]}));
    let wrong = json!({"publish": "nowhere", "base64": "", "headers": {}});
    client.peer.tell(&wrong);
    let error = client.until("error");
    assert_eq!(error["headers"]["tidings-code"], "bad-topic", "{error}");
    assert!(error["headers"]["receipt-id"].is_string(), "{error}");
    assert!(
        error["text"].as_str().unwrap().contains("/topic/"),
        "{error}"
    );
    client.until("closed");
}

#[track_caller]
fn check(library: Library) {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    for version in VERSIONS {
        check_exchange(&server, library, &json!({"versions": [version]}));
        check_acknowledgements(&server, library, version);
        check_transactions(&server, library, version);
        check_error(&server, library, version);
    }
}

#[test]
fn stompjs_exchanges_messages_over_websocket() {
    check(Library::StompJs);
}

#[test]
fn stomp_py_exchanges_messages_over_tcp() {
    check(Library::StompPy);
}

#[test]
fn stompjs_and_stomp_py_exchange_messages_over_tls() {
    let authority = Authority::new();
    let server = Server::start(Options::default().tls(&authority));
    for library in [Library::StompJs, Library::StompPy] {
        for version in VERSIONS {
            let options = json!({"versions": [version], "ca": authority.ca_argument()});
            check_exchange(&server, library, &options);
        }
    }
}

#[test]
fn stompjs_finds_the_highest_version_and_splits_its_frames() {
    let server = Server::start(Options::default());
    let versions = json!(["1.2", "1.1", "1.0"]);
    for more in [json!({"split": 1000}), json!({"binary": true})] {
        let mut options = json!({"versions": versions});
        for (name, value) in more.as_object().unwrap() {
            options[name] = value.clone();
        }
        let mut client = Client::open(Library::StompJs, &server, &options);
        client.subscribe("/topic/split", "s", &json!({}));
        let payload = "0123456789".repeat(1_000);
        client.publish("/topic/split", payload.as_bytes(), &json!({}));
        assert_eq!(client.text(), payload);
        client.leave();
    }
}

#[test]
fn stompjs_reconnects_and_resumes_through_kill_9() {
    let mut server = Server::start(Options::default());
    let options = json!({"versions": ["1.2"], "reconnect": 100});
    let mut client = Client::open(Library::StompJs, &server, &options);
    client.ask(&json!({"subscribe": "/topic/r", "id": "r", "resume": true}));
    let mut expect = Vec::new();
    for round in 0..3 {
        let texts: Vec<String> = (0..5).map(|n| format!("{round} {n}")).collect();
        server.publish_batch("r", &texts);
        expect.extend(texts);
        let got: Vec<String> = (0..5).map(|_| client.text()).collect();
        assert_eq!(got, expect[expect.len() - 5..]);
        server.kill();
        server = server.restart();
        // Published before it is back, unless it is quick.
        server.publish("r", "meanwhile");
        expect.push("meanwhile".to_owned());
        loop {
            let mut line = client.peer.line();
            if !line["message"].is_null() {
                assert_eq!(
                    line["message"].take()["base64"],
                    STANDARD.encode("meanwhile")
                );
                break;
            }
        }
        if round == 0 {
            continue;
        }
        client.peer.tell(&json!({"break": true}));
        let mut line = client.peer.line();
        while line["done"] != "subscribe" {
            line = client.peer.line();
        }
    }
    client.leave();
}

#[test]
fn libraries_keep_up_heart_beats_and_are_cut_without_them() {
    let server = Server::start(Options::default().set("limits.heartbeat_ms", 200));
    let options = json!({"versions": ["1.2"], "heartbeat": [200, 200]});
    let mut clients: Vec<Client> = [Library::StompJs, Library::StompPy]
        .map(|library| Client::open(library, &server, &options))
        .into();
    let mut mute = Client::open(Library::StompPy, &server, &options);
    mute.peer.tell(&json!({"mute": true}));
    let error = mute.until("error");
    assert_eq!(error["headers"]["tidings-code"], "silent", "{error}");
    mute.until("closed");
    for client in &mut clients {
        client.publish("/topic/a", b"alive", &json!({}));
    }
}

#[test]
fn a_page_in_a_browser_publishes_and_receives_over_stomp() {
    let server = Server::start(Options::default());
    for version in ["1.2", "1.1"] {
        let mut page = Peer::node("browser_stomp.mjs", &[&server.url("/"), version]);
        assert_eq!(page.line(), json!({"done": version}));
        let topic = format!("page/{}", version.replace('.', "-"));
        let destination = format!("/topic/{topic}");
        page.ask(&json!({"subscribe": destination}));
        server.publish(&topic, "from http");
        page.ask(&json!({"publish": destination, "text": "from the page"}));
        let received = page.ask(&json!({"await": 2}));
        let expect = json!([[destination, "from http"], [destination, "from the page"]]);
        assert_eq!(received["done"], expect);
        assert_eq!(server.history(&topic).len(), 2);
    }
}
