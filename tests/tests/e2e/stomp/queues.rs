//! `/queue`, durable subscriptions, acknowledgements: nothing is lost, and what comes again says so.

use std::collections::BTreeSet;

use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::{Client, Frame};
use tidings_e2e::{Options, Server};

use super::{VERSIONS, open};

const INDIVIDUAL: (&str, &str) = ("ack", "client-individual");

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn is_again(message: &Frame) -> bool {
    message.get("redelivered") == Some("true")
}

/// Subscribes to the queue `/queue/jobs` with acknowledgements of each message.
#[track_caller]
fn worker(server: &Server, prefetch: &str) -> Client {
    let mut client = open(server);
    client.subscribe(
        "w",
        "/queue/jobs",
        &[INDIVIDUAL, ("prefetch-count", prefetch)],
    );
    client
}

#[test]
fn a_queue_keeps_what_came_before_its_first_consumer_and_gives_each_message_to_one() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    server.publish_batch("jobs", &numbered(6));
    let mut first = worker(&server, "3");
    let mut second = worker(&server, "3");
    let mut seen = BTreeSet::new();
    for worker in [&mut first, &mut second] {
        for _ in 0..3 {
            let message = worker.message();
            assert_eq!(message.expect("destination"), "/queue/jobs");
            assert!(!is_again(&message));
            worker.ack(&message);
            assert!(seen.insert(message.text()), "{message:?}");
        }
    }
    assert_eq!(seen.len(), 6);
}

#[test]
fn no_more_than_the_prefetch_is_unacknowledged() {
    let server = Server::start(Options::default());
    server.publish_batch("jobs", &numbered(5));
    let mut client = worker(&server, "2");
    let (one, two) = (client.message(), client.message());
    client.subscribe("m", "/topic/mark", &[]);
    server.publish("mark", "mark");
    assert_eq!(client.message().text(), "mark");
    client.ack(&two);
    assert_eq!(client.message().text(), "2");
    client.ack(&one);
    assert_eq!(client.message().text(), "3");
}

#[test]
fn client_mode_acknowledges_with_everything_before() {
    let server = Server::start(Options::default());
    for version in VERSIONS {
        let topic = format!("c/{}", version.replace('.', "-"));
        server.publish_batch(&topic, &numbered(10));
        let destination = format!("/queue/{topic}");
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", &destination, &[("ack", "client")]);
        let messages: Vec<Frame> = (0..10).map(|_| client.message()).collect();
        client.ack(&messages[6]);
        client.leave();
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", &destination, &[("ack", "client")]);
        let rest: Vec<Frame> = (0..3).map(|_| client.message()).collect();
        assert!(rest.iter().all(is_again), "{rest:?}");
        let texts: Vec<String> = rest.iter().map(Frame::text).collect();
        assert_eq!(texts, ["7", "8", "9"], "{version}");
        client.ack(&rest[2]);
        client.leave();
    }
}

#[test]
fn what_is_given_back_goes_to_another_consumer_first() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut first = worker(&server, "1");
    server.publish("jobs", "job");
    let message = first.message();
    assert!(!is_again(&message));
    let mut second = worker(&server, "1");
    first.nack(&message);
    let message = second.message();
    assert!(is_again(&message), "{message:?}");
    assert_eq!(message.expect("tidings-deliveries"), "2");
    second.nack(&message);
    let message = first.message();
    assert_eq!(message.expect("tidings-deliveries"), "3");
    // One that leaves gives back what it has.
    first.cut();
    let message = second.message();
    assert_eq!(message.text(), "job");
    second.ack(&message);
    second.leave();
    let mut last = worker(&server, "1");
    server.publish("jobs", "next");
    assert_eq!(last.message().text(), "next");
}

#[test]
fn a_single_consumer_gets_back_what_it_gave_back() {
    let server = Server::start(Options::default());
    for version in ["1.1", "1.2"] {
        let mut client = Client::open(server.stomp(), version);
        let destination = format!("/queue/single/{}", version.replace('.', "-"));
        client.subscribe("1", &destination, &[INDIVIDUAL]);
        client.publish(&destination, "job");
        let message = client.message();
        client.nack(&message);
        let again = client.message();
        assert!(is_again(&again));
        client.ack(&again);
        client.publish(&destination, "next");
        assert_eq!(client.message().text(), "next");
    }
}

#[test]
fn in_auto_mode_a_queue_goes_on_by_itself() {
    let server = Server::start(Options::default());
    server.publish_batch("jobs", &numbered(300));
    let mut client = open(&server);
    client.subscribe("1", "/queue/jobs", &[]);
    assert_eq!(client.texts(300), numbered(300));
    client.leave();
    let mut client = open(&server);
    client.subscribe("1", "/queue/jobs", &[]);
    server.publish("jobs", "next");
    assert_eq!(client.message().text(), "next");
}

#[test]
fn a_queue_remembers_its_place_through_kill_9_and_what_is_unacknowledged_comes_again() {
    let mut server = Server::start(Options::default().argument("--shards").argument("2"));
    server.publish_batch("jobs", &numbered(20));
    let mut client = worker(&server, "20");
    let messages: Vec<Frame> = (0..20).map(|_| client.message()).collect();
    for message in messages
        .iter()
        .filter(|it| it.text() != "3" && it.text() != "17")
    {
        client.ack(message);
    }
    server.kill();
    server = server.restart();
    server.publish("jobs", "new");
    let mut client = worker(&server, "20");
    let mut got: Vec<(String, bool)> = (0..3)
        .map(|_| client.message())
        .map(|it| (it.text(), is_again(&it)))
        .collect();
    got.sort();
    let expect = [("17", true), ("3", true), ("new", false)];
    assert_eq!(got, expect.map(|(text, again)| (text.to_owned(), again)));
}

#[test]
fn a_durable_subscription_gets_what_came_while_it_was_away() {
    let mut server = Server::start(Options::default());
    server.publish("news", "before it subscribed");
    for (version, ack) in [
        ("1.1", "auto"),
        ("1.2", "client"),
        ("1.2", "client-individual"),
    ] {
        let name = format!("{version}-{ack}");
        let headers = [("durable", "true"), ("durable-name", &name), ("ack", ack)];
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", "/topic/news", &headers);
        server.publish("news", "live");
        let message = client.message();
        assert_eq!(message.text(), "live", "{name}");
        if ack != "auto" {
            client.ack(&message);
        }
        client.leave();
        server.publish_batch("news", &numbered(3));
        server.kill();
        server = server.restart();
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("another id", "/topic/news", &headers);
        assert_eq!(client.texts(3), numbered(3), "{name}");
        let forget = [("id", "another id"), ("durable", "true")];
        client.ask(Frame::new("UNSUBSCRIBE", &forget, ""));
        client.leave();
        // It is forgotten.
        let mut client = Client::open(server.stomp(), version);
        client.subscribe("1", "/topic/news", &headers);
        server.publish("news", "anew");
        assert_eq!(client.message().text(), "anew", "{name}");
    }
}

#[test]
fn a_message_that_is_held_too_long_goes_to_another_consumer() {
    let server = Server::start(Options::default());
    let mut slow = open(&server);
    let headers = [
        INDIVIDUAL,
        ("x-ack-timeout", "200"),
        ("prefetch-count", "1"),
    ];
    slow.subscribe("1", "/queue/jobs", &headers);
    server.publish("jobs", "job");
    let late = slow.message();
    let mut quick = worker(&server, "1");
    let message = quick.message();
    assert!(is_again(&message));
    quick.ack(&message);
    // No error: it was this client's once.
    slow.ack(&late);
    server.publish("jobs", "next");
    let text = slow.message().text();
    assert_eq!(text, "next");
    assert!(server.metric("tidings_queue_late_total", "") > 0.5);
}

#[test]
fn a_message_that_nobody_takes_becomes_a_dead_letter() {
    let server = Server::start(Options::default().set("limits.deliveries_max", 3));
    let target = "/v1/topics/dead-letter/%23?after=earliest";
    let mut letters = EventStream::open(server.address(), target);
    let mut client = worker(&server, "10");
    client.publish("/queue/jobs", "poison");
    for n in 0..3 {
        let message = client.message();
        assert_eq!(is_again(&message), n > 0, "{n}: {message:?}");
        client.nack(&message);
    }
    let letter = letters.event().json();
    assert_eq!(letter["topic"], "dead-letter/jobs", "{letter}");
    assert_eq!(letter["data"], "poison", "{letter}");
    // At once, if its consumer says so.
    client.publish("/queue/jobs", "hopeless");
    let message = client.message();
    client.ask(client.verdict("NACK", &message).header("requeue", "false"));
    let letter = letters.event().json();
    assert_eq!(letter["data"], "hopeless", "{letter}");
    client.publish("/queue/jobs", "next");
    assert_eq!(client.message().text(), "next");
    let counted = server.metric("tidings_dead_letters_total", "");
    assert!((counted - 2.0).abs() < 0.5, "{counted}");
}

#[test]
fn an_acknowledgement_that_is_nobodys_ends_the_connection() {
    let server = Server::start(Options::default());
    let mut client = worker(&server, "10");
    client.publish("/queue/jobs", "job");
    let message = client.message();
    client.ack(&message);
    client.send(&client.verdict("ACK", &message)).unwrap();
    assert_eq!(client.error().expect("tidings-code"), "not-yours");
}
