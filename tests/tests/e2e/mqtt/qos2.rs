//! Exactly once, whatever step of the handshake the server is killed at, in both directions.

use tidings_e2e::mqtt::{Client, Connect, Inbox, Packet, Publish, kind};
use tidings_e2e::{Options, Server};

use super::texts;

/// A client with a session that is durable: its subscription was acknowledged.
#[track_caller]
fn open(server: &Server, with: &Connect, filter: &str) -> Client {
    let (mut client, present) = Client::open(server.mqtt(), with);
    assert!(!present, "a new session");
    assert_eq!(client.subscribe(&[(filter, 2)]), [2]);
    client
}

#[track_caller]
fn reopen(server: &Server, with: &Connect) -> Client {
    let (client, present) = Client::open(server.mqtt(), with);
    assert!(present, "the session survives");
    client
}

#[track_caller]
fn kill_and_restart(server: Server) -> Server {
    let mut server = server;
    server.kill();
    server.restart()
}

/// How far a publisher got before the server was killed.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// PUBLISH written, nothing read.
    Publish,
    /// PUBREC read.
    PubrecRead,
    /// PUBREC was sent, and the network lost it.
    PubrecLost,
    /// PUBREL written, nothing read.
    Pubrel,
    /// PUBCOMP read.
    PubcompRead,
    /// PUBCOMP was sent, and the network lost it.
    PubcompLost,
}

const SENT: [Sent; 6] = [
    Sent::Publish,
    Sent::PubrecRead,
    Sent::PubrecLost,
    Sent::Pubrel,
    Sent::PubcompRead,
    Sent::PubcompLost,
];

/// Publishes up to a step.
fn publish_up_to(client: &mut Client, publish: &Publish, step: Sent) {
    client.send(publish);
    if matches!(step, Sent::Publish) {
        return;
    }
    assert_eq!(client.answer(kind::PUBREC).id, publish.id);
    if matches!(step, Sent::PubrecRead | Sent::PubrecLost) {
        return;
    }
    client.acknowledge(kind::PUBREL, publish.id);
    if !matches!(step, Sent::Pubrel) {
        assert_eq!(client.answer(kind::PUBCOMP).id, publish.id);
    }
}

/// Goes on on a new connection as MQTT-4.4.0-1 demands.
fn publish_from(client: &mut Client, publish: &Publish, step: Sent) {
    match step {
        Sent::PubcompRead => return,
        Sent::Publish | Sent::PubrecLost => {
            client.send(&publish.clone().again());
            assert_eq!(client.answer(kind::PUBREC).id, publish.id);
        }
        Sent::PubrecRead | Sent::Pubrel | Sent::PubcompLost => {}
    }
    client.acknowledge(kind::PUBREL, publish.id);
    assert_eq!(client.answer(kind::PUBCOMP).id, publish.id);
}

#[track_caller]
fn check_publisher(with: &Connect) {
    let mut server = Server::start(Options::default());
    let mut client = open(&server, with, "other");
    let mut expect = Vec::new();
    for step in SENT {
        let text = format!("{step:?}");
        let publish = Publish::new("exactly", text.as_str()).qos(2, 11);
        publish_up_to(&mut client, &publish, step);
        server = kill_and_restart(server);
        client = reopen(&server, with);
        publish_from(&mut client, &publish, step);
        expect.push(text);
        // The id is free again: what is published under it now is another message.
        let next = format!("after {step:?}");
        client.publish(&Publish::new("exactly", next.as_str()).qos(2, 11));
        expect.push(next);
    }
    assert_eq!(texts(&server, "exactly"), expect);
}

#[test]
fn what_is_published_at_qos_2_is_there_once_wherever_the_server_is_killed() {
    check_publisher(&Connect::v3("publisher").kept());
    check_publisher(&Connect::v5("publisher").kept());
}

/// How far a subscriber got before the server was killed.
#[derive(Clone, Copy, Debug)]
enum Got {
    /// Nothing was read.
    Nothing,
    /// PUBLISH read.
    Publish,
    /// PUBREC written, nothing read.
    Pubrec,
    /// PUBREL read.
    Pubrel,
    /// PUBCOMP written.
    Pubcomp,
}

const GOT: [Got; 5] = [
    Got::Nothing,
    Got::Publish,
    Got::Pubrec,
    Got::Pubrel,
    Got::Pubcomp,
];

/// Receives up to a step, keeping what a client has to keep. Gives the packet id, once it is known.
fn receive_up_to(client: &mut Client, inbox: &mut Inbox, step: Got) -> Option<u16> {
    if matches!(step, Got::Nothing) {
        return None;
    }
    let message = client.message();
    let id = message.id;
    if matches!(step, Got::Publish) {
        // Kept as received, and the server is killed before the PUBREC.
        inbox.receive(message);
        return Some(id);
    }
    let taken = inbox.take(client, Packet::Publish(message));
    taken.expect("the server lives");
    if matches!(step, Got::Pubrec) {
        return Some(id);
    }
    let pubrel = client.answer(kind::PUBREL);
    assert_eq!(pubrel.id, id);
    if matches!(step, Got::Pubcomp) {
        let taken = inbox.take(client, Packet::Answer(pubrel));
        taken.expect("the server lives");
    }
    Some(id)
}

/// The next message. Earlier ones whose PUBCOMP was not kept when the server was killed are released again before
/// it (MQTT-4.4.0-1), but never the one that was not recorded as received.
#[track_caller]
fn past_releases(client: &mut Client, inbox: &mut Inbox, id: u16) -> Publish {
    loop {
        match client.try_packet().expect("the server lives") {
            Packet::Publish(message) => return message,
            Packet::Answer(pubrel) => {
                assert_eq!(pubrel.kind, kind::PUBREL);
                assert_ne!(pubrel.id, id, "released before it was received");
                let taken = inbox.take(client, Packet::Answer(pubrel));
                taken.expect("the server lives");
            }
        }
    }
}

/// Takes a PUBREL, and says whether it was for this message.
#[track_caller]
fn release(client: &mut Client, inbox: &mut Inbox, id: u16) -> bool {
    let pubrel = client.answer(kind::PUBREL);
    let is_it = pubrel.id == id;
    let taken = inbox.take(client, Packet::Answer(pubrel));
    taken.expect("the server lives");
    is_it
}

#[track_caller]
fn check_subscriber(with: &Connect) {
    let mut server = Server::start(Options::default());
    let mut client = open(&server, with, "exactly");
    let mut inbox = Inbox::default();
    let mut expect = Vec::new();
    for step in GOT {
        let text = format!("{step:?}");
        server.publish("exactly", &text);
        expect.push(text);
        let id = receive_up_to(&mut client, &mut inbox, step);
        server = kill_and_restart(server);
        client = reopen(&server, with);
        match (step, id) {
            (Got::Publish, Some(id)) => {
                // MQTT-4.4.0-1, MQTT-3.3.1-1: the same id, marked as a repetition.
                let message = past_releases(&mut client, &mut inbox, id);
                assert_eq!((message.id, message.dup), (id, true), "{step:?}");
                let taken = inbox.take(&mut client, Packet::Publish(message));
                taken.expect("the server lives");
            }
            (Got::Pubrel, Some(id)) => while !release(&mut client, &mut inbox, id) {},
            // What was on its way when the server was killed may have arrived or not.
            _ => {}
        }
        let next = format!("after {step:?}");
        server.publish("exactly", &next);
        inbox.until(&mut client, &next);
        expect.push(next);
    }
    assert_eq!(inbox.texts(), expect);
}

#[test]
fn what_is_delivered_at_qos_2_arrives_once_wherever_the_server_is_killed() {
    check_subscriber(&Connect::v3("subscriber").kept());
    check_subscriber(&Connect::v5("subscriber").kept());
}

#[test]
fn what_is_delivered_at_qos_1_arrives_in_order_and_again_until_it_is_acknowledged() {
    for with in [Connect::v3("s").kept(), Connect::v5("s").kept()] {
        let mut server = Server::start(Options::default());
        let (mut client, _) = Client::open(server.mqtt(), &with);
        assert_eq!(client.subscribe(&[("least/#", 1)]), [1]);
        for n in 0..5 {
            server.publish("least/a", &n.to_string());
        }
        let first: Vec<Publish> = (0..5).map(|_| client.message()).collect();
        let ids: Vec<u16> = first.iter().map(|message| message.id).collect();
        assert!(first.iter().all(|message| !message.dup && message.qos == 1));
        server = kill_and_restart(server);
        client = reopen(&server, &with);
        // MQTT-4.6.0-1: in the order in which they were first sent.
        for (n, id) in ids.iter().enumerate() {
            let again = client.receive();
            assert_eq!((again.text(), again.id), (n.to_string(), *id));
            assert!(again.dup);
        }
        server.publish("least/a", "end");
        let end = client.receive();
        assert_eq!((end.text().as_str(), end.dup), ("end", false));
    }
}

#[test]
fn what_is_published_at_qos_1_and_acknowledged_is_there_after_kill_9() {
    let mut server = Server::start(Options::default());
    let with = Connect::v5("p").kept();
    let (mut client, _) = Client::open(server.mqtt(), &with);
    for n in 0..20u16 {
        client.publish(&Publish::new("q1", n.to_string()).qos(1, n + 1));
    }
    server = kill_and_restart(server);
    let expect: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(texts(&server, "q1"), expect);
}
