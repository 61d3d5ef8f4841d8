//! Frames that break a rule: an ERROR that says what was wrong, then the end, and the server lives.

use tidings_e2e::stomp::{Client, Frame};
use tidings_e2e::{Options, Server};

use super::{VERSIONS, open};

/// Bytes behind a CONNECTED of this version, the code of the ERROR and a word of its text.
const WRONG: &[(&str, &[u8], &str, &str)] = &[
    ("1.2", b"SENT\n\n\0", "bad-frame", ""),
    ("1.2", b"send\ndestination:/topic/a\n\n\0", "bad-frame", ""),
    ("1.0", b"NACK\nmessage-id:1\n\n\0", "bad-frame", ""),
    (
        "1.2",
        b"MESSAGE\ndestination:/topic/a\n\n\0",
        "bad-frame",
        "",
    ),
    (
        "1.1",
        b"CONNECT\naccept-version:1.1\nhost:a\n\n\0",
        "bad-frame",
        "",
    ),
    (
        "1.2",
        b"STOMP\naccept-version:1.2\nhost:a\n\n\0",
        "bad-frame",
        "",
    ),
    ("1.2", b"SEND\ndestination\n\n\0", "bad-frame", ""),
    ("1.2", b"SEND\n:/topic/a\n\n\0", "bad-frame", ""),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\nx:\\t\n\n\0",
        "bad-frame",
        "",
    ),
    (
        "1.1",
        b"SEND\ndestination:/topic/a\nx:\\r\n\n\0",
        "bad-frame",
        "",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\nx:a\\\n\n\0",
        "bad-frame",
        "",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\ncontent-length:2\n\nabc\0",
        "bad-frame",
        "",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\ncontent-length:-1\n\n\0",
        "bad-frame",
        "",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\ncontent-length:99999999\n\n",
        "message-too-large",
        "",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\nx:\xff\n\n\0",
        "bad-text",
        "",
    ),
    ("1.2", b"SEND\ndestination:/topic/a\0", "bad-frame", ""),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\n\nbody\0",
        "bad-frame",
        "",
    ),
    ("1.2", b"SEND\n\n\0", "bad-frame", "destination"),
    (
        "1.2",
        b"SEND\ndestination:a/b\n\nx\0",
        "bad-topic",
        "/topic/",
    ),
    (
        "1.2",
        b"SEND\ndestination:/exchange/a\n\nx\0",
        "bad-topic",
        "/queue/",
    ),
    (
        "1.2",
        b"SEND\ndestination:/temp-queue/a\n\nx\0",
        "bad-topic",
        "/topic/",
    ),
    ("1.2", b"SEND\ndestination:/topic/\n\nx\0", "bad-topic", ""),
    (
        "1.2",
        b"SEND\ndestination:/topic/a.*\n\nx\0",
        "bad-topic",
        "publish",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a/#\n\nx\0",
        "bad-topic",
        "publish",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\nexpiration:soon\n\nx\0",
        "bad-parameter",
        "expiration",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\nretain:perhaps\n\nx\0",
        "bad-parameter",
        "retain",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\ntransaction:t\n\nx\0",
        "bad-parameter",
        "BEGIN",
    ),
    ("1.2", b"SUBSCRIBE\nid:1\n\n\0", "bad-frame", "destination"),
    (
        "1.2",
        b"SUBSCRIBE\ndestination:/topic/a\n\n\0",
        "bad-frame",
        "id",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\nselector:x=1\n\n\0",
        "bad-parameter",
        "selector",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\nack:never\n\n\0",
        "bad-parameter",
        "ack",
    ),
    (
        "1.0",
        b"SUBSCRIBE\ndestination:/topic/a\nack:client-individual\n\n\0",
        "bad-parameter",
        "ack",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/#/a\n\n\0",
        "bad-filter",
        "",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\nx-after:here\n\n\0",
        "bad-cursor",
        "x-after",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\nx-stream-offset:offset=7\n\n\0",
        "bad-parameter",
        "x-after",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\nx-stream-offset:timestamp=7\n\n\0",
        "bad-parameter",
        "",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/queue/a\nprefetch-count:x\n\n\0",
        "bad-parameter",
        "prefetch-count",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/topic/a\ndurable:true\n\n\0",
        "bad-parameter",
        "durable-name",
    ),
    (
        "1.2",
        b"SUBSCRIBE\nid:1\ndestination:/queue/a\nno-local:true\n\n\0",
        "bad-parameter",
        "no-local",
    ),
    (
        "1.2",
        b"SEND\ndestination:/topic/a\nx:a\\nb\n\n\0",
        "bad-parameter",
        "control characters",
    ),
    ("1.2", b"UNSUBSCRIBE\n\n\0", "bad-frame", "id"),
    ("1.2", b"UNSUBSCRIBE\nid:1\n\n\0", "not-found", ""),
    ("1.2", b"ACK\n\n\0", "bad-frame", "id"),
    ("1.2", b"ACK\nid:1-1\n\n\0", "not-yours", ""),
    (
        "1.1",
        b"ACK\nmessage-id:AQ\nsubscription:1\n\n\0",
        "not-yours",
        "",
    ),
    (
        "1.1",
        b"ACK\nsubscription:1\n\n\0",
        "bad-frame",
        "message-id",
    ),
    ("1.2", b"BEGIN\n\n\0", "bad-frame", "transaction"),
    (
        "1.2",
        b"COMMIT\ntransaction:t\n\n\0",
        "bad-parameter",
        "BEGIN",
    ),
    (
        "1.2",
        b"ABORT\ntransaction:t\n\n\0",
        "bad-parameter",
        "BEGIN",
    ),
    (
        "1.2",
        b"BEGIN\ntransaction:t\n\n\0BEGIN\ntransaction:t\n\n\0",
        "bad-parameter",
        "",
    ),
];

#[test]
fn what_is_wrong_is_said_and_ends_the_connection_alone() {
    let server = Server::start(Options::default());
    let mut other = open(&server);
    other.subscribe("1", "/topic/other", &[]);
    for (version, bytes, code, word) in WRONG {
        let shown = String::from_utf8_lossy(bytes);
        let before = server.metric("tidings_refusals_total", &format!("\"{code}\""));
        let mut client = Client::open(server.stomp(), version);
        client.write(bytes).unwrap();
        let error = client.error();
        assert_eq!(error.expect("tidings-code"), *code, "{shown}: {error:?}");
        assert_eq!(error.expect("content-type"), "text/plain", "{shown}");
        assert!(error.body.len() > 10, "{shown}: {error:?}");
        assert!(error.text().contains(word), "{shown}: {error:?}");
        let counted = server.metric("tidings_refusals_total", &format!("\"{code}\"")) - before;
        assert!(
            (counted - 1.0).abs() < 0.5,
            "{shown}: counted {counted} times"
        );
    }
    server.publish("other", "still");
    assert_eq!(other.message().text(), "still");
}

#[test]
fn an_error_names_the_receipt_of_the_frame_that_caused_it() {
    let server = Server::start(Options::default());
    for version in VERSIONS {
        for wrong in [
            Frame::new("SEND", &[("destination", "nowhere")], "x"),
            Frame::new(
                "SUBSCRIBE",
                &[("destination", "/topic/a"), ("id", "1"), ("ack", "?")],
                "",
            ),
            Frame::new("COMMIT", &[("transaction", "none")], ""),
        ] {
            let mut client = Client::open(server.stomp(), version);
            client.send(&wrong.header("receipt", "r-1")).unwrap();
            let error = client.error();
            assert_eq!(error.get("receipt-id"), Some("r-1"), "{version}: {error:?}");
        }
    }
}

#[test]
fn what_stands_before_connect_is_refused() {
    let server = Server::start(Options::default());
    for command in ["SEND", "SUBSCRIBE", "DISCONNECT", "MESSAGE"] {
        let mut stream = tidings_e2e::http::connect(server.stomp()).unwrap();
        let first = Frame::new(command, &[("destination", "/topic/a"), ("id", "1")], "");
        std::io::Write::write_all(&mut stream, &first.bytes("1.2")).unwrap();
        let (answer, _) = Frame::read(&mut std::io::BufReader::new(stream), "1.0").unwrap();
        assert_eq!(answer.command, "ERROR", "{command}: {answer:?}");
    }
}

#[test]
fn limits_of_a_frame_are_kept() {
    let options = Options::default()
        .set("limits.message_bytes_max", 1_000)
        .set("limits.stomp_headers_max", 10)
        .set("limits.request_head_bytes_max", 2_000);
    let server = Server::start(options);
    let send = || Frame::new("SEND", &[("destination", "/topic/a")], "");
    let mut many = send();
    for n in 0..10 {
        many = many.header(&format!("h{n}"), "v");
    }
    let long = send().header("h", &"v".repeat(3_000));
    let mut large = send();
    large.body = vec![b'x'; 1_001];
    let endless = [&send().bytes("1.2")[..], b"SEND\ndestination:/topic/a\n\n"].concat();
    let endless = [endless, vec![b'x'; 1_002]].concat();
    for (bytes, code) in [
        (many.bytes("1.2"), "head-too-large"),
        (long.bytes("1.2"), "head-too-large"),
        (large.bytes("1.2"), "message-too-large"),
        (endless, "message-too-large"),
    ] {
        let mut client = open(&server);
        client.write(&bytes).unwrap();
        assert_eq!(client.error().expect("tidings-code"), code);
    }
    let mut client = open(&server);
    let mut whole = send();
    whole.body = vec![b'x'; 1_000];
    client.ask(whole);
}

#[test]
fn headers_come_back_as_they_were_sent() {
    let server = Server::start(Options::default());
    let value = "a:b\\c\\nd \u{e9}\u{6c34}";
    for version in ["1.1", "1.2"] {
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", "/topic/escapes", &[]);
        let mut send = super::sending("/topic/escapes", "x");
        send = send
            .header("na:me\\", value)
            .header("twice", "1")
            .header("twice", "2");
        client.ask(send);
        let message = client.message();
        assert_eq!(message.get("na:me\\"), Some(value), "{message:?}");
        let twice = message.headers.iter().filter(|(name, _)| name == "twice");
        let twice: Vec<&str> = twice.map(|(_, value)| value.as_str()).collect();
        assert_eq!(twice, ["1", "2"]);
        // None of STOMP's own headers becomes the user's.
        let stored = server.history("escapes").pop().unwrap();
        assert_eq!(stored["headers"]["na:me\\"], value, "{stored}");
        assert_eq!(stored["headers"].get("receipt"), None, "{stored}");
        assert_eq!(stored["headers"].get("destination"), None, "{stored}");
        client.leave();
    }
    // 1.0 has no escapes: what it cannot carry is left out, and a backslash is one.
    let mut old = Client::open(server.stomp(), "1.0");
    old.subscribe("1", "/topic/escapes", &[("x-after", "earliest")]);
    let message = old.message();
    assert_eq!(message.get("twice"), Some("1"));
    assert!(
        message
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("na")),
        "{message:?}"
    );
    old.ask(super::sending("/topic/escapes", "old").header("path", "c:\\new"));
    old.message();
    assert_eq!(old.message().get("path"), Some("c:\\new"));
}
