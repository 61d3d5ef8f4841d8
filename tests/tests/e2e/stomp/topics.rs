//! `/topic`: publish and subscribe, resume, heart-beats.

use std::time::{Duration, Instant};

use tidings_e2e::stomp::{Client, Frame};
use tidings_e2e::{Options, Server};

use super::{VERSIONS, open, sending};

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[test]
fn messages_go_to_every_subscriber_in_order_until_it_unsubscribes() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut clients: Vec<Client> = VERSIONS
        .map(|version| Client::open(server.stomp(), version))
        .into();
    for client in &mut clients {
        client.subscribe("here", "/topic/a/b", &[]);
    }
    let mut publisher = open(&server);
    for n in numbered(50) {
        publisher.send(&sending("/topic/a/b", &n)).unwrap();
    }
    publisher.leave();
    for client in &mut clients {
        let first = client.message();
        assert_eq!(first.expect("destination"), "/topic/a/b");
        assert_eq!(first.expect("subscription"), "here");
        assert_eq!(first.expect("content-length"), "1");
        assert!(first.expect("timestamp").len() >= 13);
        assert_eq!(first.get("ack"), None);
        assert_eq!(client.texts(49), numbered(50)[1..]);
        client.ask(Frame::new("UNSUBSCRIBE", &[("id", "here")], ""));
    }
    server.publish("a/b", "to nobody");
    for mut client in clients {
        client.ask(Frame::new("BEGIN", &[("transaction", "t")], ""));
        client.leave();
    }
}

#[test]
fn each_subscription_of_a_connection_gets_its_own_copy() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.subscribe("narrow", "/topic/a/b", &[]);
    client.subscribe("wide", "/topic/a/#", &[]);
    client.subscribe("one", "/topic/a/*", &[]);
    client.subscribe("other", "/topic/b/#", &[]);
    server.publish("a/b", "x");
    let mut got: Vec<String> = (0..3)
        .map(|_| client.message().expect("subscription").to_owned())
        .collect();
    got.sort();
    assert_eq!(got, ["narrow", "one", "wide"]);
    server.publish("b/c", "y");
    assert_eq!(client.message().expect("subscription"), "other");
}

#[test]
fn dots_separate_levels_where_there_is_no_slash() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.subscribe("dots", "/topic/a.*.c", &[]);
    client.subscribe("slashes", "/topic/a/+/c", &[]);
    for destination in ["/topic/a.b.c", "/topic/a/b/c"] {
        client.publish(destination, "x");
        let mut got: Vec<[String; 2]> = (0..2)
            .map(|_| client.message())
            .map(|it| ["subscription", "destination"].map(|name| it.expect(name).to_owned()))
            .collect();
        got.sort();
        let expect = [["dots", "/topic/a.b.c"], ["slashes", "/topic/a/b/c"]];
        assert_eq!(got, expect, "{destination}");
    }
    client.subscribe("literal", "/topic/file%2Etxt", &[]);
    client.publish("/topic/file%2Etxt", "x");
    assert_eq!(client.message().expect("subscription"), "literal");
    assert_eq!(server.history("file.txt").len(), 1);
    assert_eq!(server.history("a/b/c").len(), 2);
}

#[test]
fn a_receipt_says_that_the_message_is_stored() {
    let mut server = Server::start(Options::default());
    let mut client = open(&server);
    for n in numbered(20) {
        client.publish("/topic/kept", n);
    }
    server.kill();
    let server = server.restart();
    assert_eq!(server.history("kept").len(), 20);
}

#[test]
fn a_subscription_goes_on_after_its_last_message_through_kill_9() {
    let mut server = Server::start(Options::default());
    for version in VERSIONS {
        let topic = format!("resume/{}", version.replace('.', "-"));
        let destination = format!("/topic/{topic}");
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", &destination, &[]);
        server.publish_batch(&topic, &numbered(10));
        let last = (0..10).map(|_| client.message()).last().unwrap();
        assert_eq!(last.text(), "9");
        server.kill();
        server = server.restart();
        server.publish_batch(&topic, &["while it was away".to_owned()]);
        let mut client = Client::open(server.stomp(), version);
        let after = last.expect("message-id").to_owned();
        client.subscribe("1", &destination, &[("x-after", &after)]);
        server.publish(&topic, "live");
        assert_eq!(client.texts(2), ["while it was away", "live"]);
    }
}

#[test]
fn a_subscription_starts_where_it_says() {
    let server = Server::start(Options::default());
    server.publish_batch("start", &numbered(10));
    for (header, value, first) in [
        ("x-after", "earliest", Some("0")),
        ("x-stream-offset", "first", Some("0")),
        ("x-after", "last:3", Some("7")),
        ("x-stream-offset", "last", Some("9")),
        ("x-stream-offset", "next", None),
        ("x-after", "latest", None),
    ] {
        let mut client = open(&server);
        client.subscribe("1", "/topic/start", &[(header, value)]);
        if let Some(first) = first {
            assert_eq!(client.message().text(), first, "{header}: {value}");
        } else {
            client.subscribe("2", "/topic/mark", &[]);
            server.publish("mark", "mark");
            assert_eq!(client.message().text(), "mark", "{header}: {value}");
        }
    }
}

#[test]
fn a_gap_is_told_with_the_first_message_behind_it() {
    let server = Server::start(Options::default());
    let cursor = server.publish("gap", "old");
    let other = Server::start(Options::default());
    other.publish("gap", "kept");
    let mut client = open(&other);
    client.subscribe("1", "/topic/gap", &[("x-after", &cursor)]);
    let message = client.message();
    assert_eq!(message.text(), "kept");
    assert_eq!(message.expect("tidings-gap"), "unknown-cursor");
    other.publish("gap", "next");
    assert_eq!(client.message().get("tidings-gap"), None);
}

#[test]
fn a_publisher_may_be_spared_its_own_messages() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.subscribe("1", "/topic/own", &[("no-local", "true")]);
    client.subscribe("2", "/topic/also", &[("echo", "false")]);
    client.publish("/topic/own", "mine");
    client.publish("/topic/also", "mine");
    server.publish("own", "another's");
    server.publish("also", "another's");
    assert_eq!(client.texts(2), ["another's", "another's"]);
}

#[test]
fn big_and_binary_messages_come_as_they_are() {
    let server = Server::start(Options::default().set("limits.message_bytes_max", "2MiB"));
    for version in VERSIONS {
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", "/topic/big", &[]);
        let bytes: Vec<u8> = (0..2 << 20).map(|n: u32| (n % 251) as u8).collect();
        for body in [&bytes[..], b"\0", b"", b"\0\n\0", b"CONNECT\n\n\0"] {
            client.publish("/topic/big", body);
            let message = client.message();
            assert!(message.body == body, "{version}: {} bytes", body.len());
        }
        client.leave();
    }
}

#[test]
fn a_repeated_key_stores_a_message_once() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    for _ in 0..3 {
        client.ask(sending("/topic/once", "x").header("idempotency-key", "k"));
    }
    client.publish("/topic/once", "y");
    assert_eq!(server.history("once").len(), 2);
}

#[test]
fn heart_beats_come_and_a_client_without_them_is_cut_after_three() {
    let server = Server::start(Options::default().set("limits.heartbeat_ms", 100));
    let open = |version, beat| {
        let opened = Client::try_open(server.stomp(), version, &[("heart-beat", beat)]);
        let (client, answer) = opened.unwrap();
        assert_eq!(answer.expect("heart-beat"), "100,100");
        client
    };
    // None in either direction, then only ours, then none of those that were promised.
    let mut quiet = open("1.2", "0,0");
    let mut listener = open("1.1", "0,50");
    let begun = Instant::now();
    let mut silent = open("1.2", "50,50");
    let error = silent.error();
    assert_eq!(error.expect("tidings-code"), "silent");
    assert!(begun.elapsed().as_millis() >= 300, "{:?}", begun.elapsed());
    assert!(silent.beats >= 2, "{} beats", silent.beats);
    let mut beating = open("1.2", "50,0");
    while begun.elapsed().as_millis() < 1_000 {
        beating.write(b"\n").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    for client in [&mut quiet, &mut listener, &mut beating] {
        client.publish("/topic/a", "alive");
    }
    assert_eq!((quiet.beats, beating.beats), (0, 0));
    assert!(listener.beats >= 5, "{} beats", listener.beats);
    assert!((server.metric("tidings_refusals_total", "silent") - 1.0).abs() < 0.5);
}
