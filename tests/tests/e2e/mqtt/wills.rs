//! Wills: published when a connection breaks, later if they have a delay, and not if it comes back in time.

use tidings_e2e::mqtt::{Client, Connect, Properties, Publish, Will, kind, packet};
use tidings_e2e::{Options, Server};

fn will(text: &str) -> Will {
    Will {
        topic: "wills".to_owned(),
        payload: text.into(),
        qos: 1,
        ..Will::default()
    }
}

fn delayed(text: &str, seconds: u32) -> Will {
    Will {
        properties: Properties::default().long(0x18, seconds),
        ..will(text)
    }
}

#[track_caller]
fn watcher(server: &Server) -> Client {
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("watcher"));
    assert_eq!(client.subscribe(&[("wills", 1)]), [1]);
    client
}

#[test]
fn a_will_is_published_when_the_connection_breaks_and_not_when_it_ends() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut watcher = watcher(&server);
    for version in [Connect::v3, Connect::v5] {
        let (orderly, _) = Client::open(server.mqtt(), &version("a").will(will("orderly")));
        orderly.leave();
        let (broken, _) = Client::open(server.mqtt(), &version("b").will(will("broken")));
        drop(broken);
        assert_eq!(watcher.receive().text(), "broken");
        let (mut violator, _) = Client::open(server.mqtt(), &version("c").will(will("violation")));
        // A second CONNECT (MQTT-3.1.0-2).
        let second = version("c").packet();
        violator.write(&second).expect("the packet can be sent");
        assert_eq!(watcher.receive().text(), "violation");
    }
    // MQTT 5, 3.14.2.1: with the reason 0x04 the client asks for it.
    let (mut asking, _) = Client::open(server.mqtt(), &Connect::v5("d").will(will("asked for")));
    let bytes = packet(kind::DISCONNECT << 4, &[0x04]);
    asking.write(&bytes).expect("the packet can be sent");
    assert_eq!(watcher.receive().text(), "asked for");
}

#[test]
fn a_will_of_a_silent_client_is_published_after_its_keep_alive() {
    let server = Server::start(Options::default());
    let mut watcher = watcher(&server);
    let mut with = Connect::v5("silent").will(will("silent"));
    with.keep_alive = 1;
    let (mut silent, _) = Client::open(server.mqtt(), &with);
    assert_eq!(watcher.receive().text(), "silent");
    assert_eq!(silent.until_closed(), Some(0x8d));
}

#[test]
fn a_will_is_kept_for_its_topic_if_it_is_retained() {
    let server = Server::start(Options::default());
    let retained = Will {
        retain: true,
        ..will("last words")
    };
    let mut watcher = watcher(&server);
    let (broken, _) = Client::open(server.mqtt(), &Connect::v3("r").will(retained));
    drop(broken);
    assert_eq!(watcher.receive().text(), "last words");
    let (mut late, _) = Client::open(server.mqtt(), &Connect::v5("late"));
    assert_eq!(late.subscribe(&[("wills", 0)]), [0]);
    let message = late.message();
    assert_eq!(
        (message.text().as_str(), message.retain),
        ("last words", true)
    );
}

#[test]
fn a_delayed_will_waits_and_is_dropped_when_the_client_comes_back() {
    let server = Server::start(Options::default());
    let mut watcher = watcher(&server);
    let back = Connect::v5("back").kept();
    let (broken, _) = Client::open(server.mqtt(), &back.clone().will(delayed("never", 1)));
    drop(broken);
    let (_returned, present) = Client::open(server.mqtt(), &back);
    assert!(present);
    // Its delay ends after the one that must not come.
    let away = Connect::v5("away").kept().will(delayed("in time", 2));
    let (broken, _) = Client::open(server.mqtt(), &away);
    drop(broken);
    server.publish("wills", "before both");
    assert_eq!(watcher.receive().text(), "before both");
    assert_eq!(watcher.receive().text(), "in time");
}

#[test]
fn a_delayed_will_comes_with_the_end_of_its_session_if_that_is_sooner() {
    let server = Server::start(Options::default());
    let mut watcher = watcher(&server);
    let with = Connect::v5("gone").will(delayed("at the end", 1_000));
    let (broken, _) = Client::open(server.mqtt(), &with);
    drop(broken);
    assert_eq!(watcher.receive().text(), "at the end");
}

#[test]
fn a_clean_start_publishes_the_delayed_will_of_the_session_that_it_ends() {
    let server = Server::start(Options::default());
    let mut watcher = watcher(&server);
    let with = Connect::v5("anew").kept().will(delayed("ended", 1_000));
    let (broken, _) = Client::open(server.mqtt(), &with);
    drop(broken);
    let (_anew, present) = Client::open(server.mqtt(), &Connect::v5("anew"));
    assert!(!present);
    assert_eq!(watcher.receive().text(), "ended");
}

#[test]
fn wills_survive_kill_9_and_are_published_once() {
    let mut server = Server::start(Options::default());
    let connected = Connect::v5("connected").kept().will(will("connected"));
    let waiting = Connect::v5("waiting").kept().will(delayed("waiting", 2));
    let (_kept, _) = Client::open(server.mqtt(), &connected);
    let (broken, _) = Client::open(server.mqtt(), &waiting);
    drop(broken);
    // The will of a session that is durable by now: a later save was acknowledged.
    let (mut other, _) = Client::open(server.mqtt(), &Connect::v5("other").kept());
    other.subscribe(&[("x", 1)]);
    server.kill();
    let server = server.restart();
    let count = |text: &str| {
        let stored = super::texts(&server, "wills");
        stored.iter().filter(|found| *found == text).count()
    };
    tidings_e2e::eventually("the wills come", tidings_e2e::PATIENCE, || {
        count("connected") == 1 && count("waiting") == 1
    });
    let mut server = server;
    server.kill();
    let server = server.restart();
    // A session that comes back after its will has none any more.
    let (mut back, present) = Client::open(server.mqtt(), &Connect::v5("waiting").kept());
    assert!(present);
    back.publish(&Publish::new("wills", "end").qos(1, 1));
    let mut stored = super::texts(&server, "wills");
    stored.sort();
    assert_eq!(stored, ["connected", "end", "waiting"]);
}
