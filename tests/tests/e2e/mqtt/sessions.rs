//! Sessions: kept over connections and kills, taken over, expired, thrown away.

use tidings_e2e::mqtt::{Client, Connect, Inbox, Publish, kind};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::numbered;

/// Leaves behind a session with one subscription.
#[track_caller]
fn leave_session(server: &Server, with: &Connect, filter: &str, qos: u8) {
    let (mut client, _) = Client::open(server.mqtt(), with);
    assert_eq!(client.subscribe(&[(filter, qos)]), [qos]);
    client.leave();
}

#[test]
fn a_session_gets_what_it_missed_in_order_also_after_kill_9() {
    let mut server = Server::start(Options::default().argument("--shards").argument("4"));
    let clients: Vec<Connect> = (0..8)
        .map(|n| match n % 2 {
            0 => Connect::v3(&format!("sensor-{n}")).kept(),
            _ => Connect::v5(&format!("sensor-{n}")).kept(),
        })
        .collect();
    for with in &clients {
        leave_session(&server, with, "missed/+", 1);
    }
    let expect = numbered("m", 50);
    server.publish_batch("missed/a", &expect[..25]);
    server.kill();
    let mut server = server.restart();
    server.publish_batch("missed/b", &expect[25..]);
    server.kill();
    let server = server.restart();
    for with in &clients {
        let (mut client, present) = Client::open(server.mqtt(), with);
        assert!(present, "{}", with.id);
        let mut inbox = Inbox::default();
        inbox.until(&mut client, "m-49");
        assert_eq!(inbox.texts(), expect, "{}", with.id);
        // What was acknowledged does not come again.
        client.leave();
        let (mut client, present) = Client::open(server.mqtt(), with);
        assert!(present, "{}", with.id);
        client.ping();
        client.leave();
    }
}

#[test]
fn a_session_that_was_connected_when_the_server_was_killed_goes_on_without_a_gap() {
    for with in [Connect::v3("s").kept(), Connect::v5("s").kept()] {
        let mut server = Server::start(Options::default());
        let (mut client, present) = Client::open(server.mqtt(), &with);
        assert!(!present);
        assert_eq!(client.subscribe(&[("a", 1), ("b", 2)]), [1, 2]);
        let mut inbox = Inbox::default();
        server.publish("a", "live");
        inbox.until(&mut client, "live");
        client.ping();
        server.publish("b", "perhaps seen");
        server.kill();
        let server = server.restart();
        server.publish("a", "while away");
        let (mut client, present) = Client::open(server.mqtt(), &with);
        assert!(present);
        inbox.until(&mut client, "while away");
        let texts = inbox.texts();
        // QoS 1 may come twice; nothing may be missing.
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert!(
            texts == ["live", "perhaps seen", "while away"]
                || texts == ["live", "live", "perhaps seen", "while away"],
            "{texts:?}"
        );
    }
}

#[test]
fn a_clean_start_throws_the_session_away() {
    let server = Server::start(Options::default());
    for (kept, clean) in [
        (Connect::v3("c3").kept(), Connect::v3("c3")),
        (Connect::v5("c5").kept(), Connect::v5("c5")),
    ] {
        leave_session(&server, &kept, "clean", 1);
        server.publish("clean", "not for the new one");
        let (mut client, present) = Client::open(server.mqtt(), &clean);
        assert!(!present);
        server.publish("clean", "not subscribed");
        client.ping();
        client.leave();
        // Nor is a session left behind by a connection that wants none.
        let (client, present) = Client::open(server.mqtt(), &kept);
        assert!(!present);
        client.leave();
    }
}

#[test]
fn a_session_without_an_expiry_ends_with_its_connection() {
    let server = Server::start(Options::default());
    let mut with = Connect::v5("short");
    with.clean = false;
    leave_session(&server, &with, "short", 1);
    let (client, present) = Client::open(server.mqtt(), &with);
    assert!(!present);
    client.leave();
}

#[test]
fn a_session_expires_when_its_time_is_over() {
    let server = Server::start(Options::default());
    let mut with = Connect::v5("brief");
    with.clean = false;
    let with = with.with(|properties| properties.long(0x11, 1));
    leave_session(&server, &with, "brief", 1);
    eventually("the session expires", PATIENCE, || {
        server.metric("tidings_sessions_expired_total", "") > 0.0
    });
    let (client, present) = Client::open(server.mqtt(), &with);
    assert!(!present);
    client.leave();
}

#[test]
fn a_second_connection_takes_the_session_over() {
    let server = Server::start(Options::default().argument("--shards").argument("3"));
    for (with, told) in [
        (Connect::v3("same-3").kept(), None),
        (Connect::v5("same-5").kept(), Some(0x8e)),
    ] {
        let (mut first, _) = Client::open(server.mqtt(), &with);
        assert_eq!(first.subscribe(&[("over", 2)]), [2]);
        server.publish("over", "before");
        let before = first.message();
        let (mut second, present) = Client::open(server.mqtt(), &with);
        assert!(present);
        assert_eq!(first.until_closed(), told, "{}", with.id);
        // MQTT-4.4.0-1: what the first had not acknowledged.
        let again = second.receive();
        assert_eq!((again.id, again.dup), (before.id, true));
        assert_eq!(again.text(), "before");
        server.publish("over", "after");
        assert_eq!(second.receive().text(), "after");
        second.leave();
    }
}

#[test]
fn a_session_keeps_its_options_and_its_unsubscribes() {
    let server = Server::start(Options::default());
    let with = Connect::v5("options").kept();
    let (mut client, _) = Client::open(server.mqtt(), &with);
    // No local; retain as published, with the identifier 9; at most once.
    assert_eq!(client.subscribe(&[("o/local", 0x05)]), [1]);
    let identified = tidings_e2e::mqtt::Properties::default().variable(0x0b, 9);
    assert_eq!(
        client.subscribe_with(&[("o/as-published", 0x09)], &identified),
        [1]
    );
    assert_eq!(client.subscribe(&[("o/gone", 1)]), [1]);
    client.unsubscribe(&["o/gone"]);
    client.leave();

    let (mut client, present) = Client::open(server.mqtt(), &with);
    assert!(present);
    client.publish(&Publish::new("o/local", "own").qos(1, 1));
    server.publish("o/gone", "nobody's");
    super::post(
        &server,
        "o/as-published",
        "kept",
        &[("Tidings-Retain", "true")],
    );
    let message = client.receive();
    assert_eq!(message.text(), "kept");
    assert!(message.retain, "as it was published");
    assert_eq!(message.received.number(0x0b), Some(9));
    client.leave();
}

#[test]
fn an_expired_message_is_not_delivered_to_a_session_that_comes_back() {
    let server = Server::start(Options::default());
    let with = Connect::v5("late").kept();
    leave_session(&server, &with, "ttl", 1);
    super::post(&server, "ttl", "brief", &[("Tidings-Ttl", "1")]);
    super::post(&server, "ttl", "long", &[("Tidings-Ttl", "1000")]);
    server.publish("ttl", "forever");
    eventually("the message expires", PATIENCE, || {
        server.history("ttl").len() == 2
    });
    let (mut client, _) = Client::open(server.mqtt(), &with);
    let long = client.receive();
    assert_eq!(long.text(), "long");
    let left = long.received.number(0x02).expect("what is left");
    assert!((900..=1_000).contains(&left), "{left}");
    let forever = client.receive();
    assert_eq!(forever.text(), "forever");
    assert_eq!(forever.received.number(0x02), None);
}

#[test]
fn a_window_that_is_full_holds_deliveries_until_it_is_acknowledged() {
    let server = Server::start(Options::default());
    let with = Connect::v5("narrow")
        .kept()
        .with(|properties| properties.short(0x21, 3));
    let (mut client, _) = Client::open(server.mqtt(), &with);
    assert_eq!(client.subscribe(&[("many", 1)]), [1]);
    server.publish_batch("many", &numbered("n", 20));
    let first: Vec<Publish> = (0..3).map(|_| client.message()).collect();
    // MQTT-3.3.4-9: no more than the receive maximum, so the next packet is this answer.
    client.ping();
    for message in &first {
        client.acknowledge(kind::PUBACK, message.id);
    }
    let mut inbox = Inbox::default();
    inbox.until(&mut client, "n-19");
    assert_eq!(inbox.texts(), numbered("n", 20)[3..]);
}
