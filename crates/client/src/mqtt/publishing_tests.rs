use std::time::Duration;

use tidings_types::Qos;
use tokio::time::Instant;

use crate::client::Client;
use crate::message::Outgoing;
use crate::pipeline::{Pipeline, Ticket};
use crate::testing::mqtt::{Heard, packet, reason_and_string};
use crate::testing::{FakeServer, Peer, outgoing};

const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

async fn send(pipeline: &mut Pipeline, payloads: std::ops::Range<u32>) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for number in payloads {
        tickets.push(pipeline.send(outgoing(&number.to_string())).await.unwrap());
    }
    tickets
}

async fn hear(peer: &mut Peer, count: usize) -> Vec<Heard> {
    let mut heard = Vec::new();
    for _ in 0..count {
        heard.push(peer.hear_publish().await);
    }
    heard
}

fn payloads(heard: &[Heard]) -> Vec<&str> {
    heard.iter().map(|heard| heard.payload.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn every_retry_carries_the_same_key_and_everything_about_the_message() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut publisher = client.publisher();
    let message = Outgoing {
        content_type: Some("text/x".into()),
        event: Some("made".into()),
        headers: vec![("k".into(), "v w".into())],
        ttl: Some(Duration::from_mins(1)),
        retain: true,
        ..outgoing("x")
    };
    let serve = async {
        let mut peer = server.accept_mqtt().await;
        let first = peer.hear_publish().await;
        // Committed, perhaps, but the answer does not arrive.
        drop(peer);
        let mut peer = server.accept_mqtt().await;
        let second = peer.hear_publish().await;
        peer.puback(second.packet_id).await;
        (first, second, peer)
    };
    let ((first, second, _peer), receipt) = tokio::join!(serve, publisher.publish(&message));
    assert!(receipt.is_ok());
    assert_eq!(first, second);
    assert_eq!((first.flags, first.topic.as_str()), (0b0011, "t"));
    assert_eq!(first.properties, b"\x01\x01\x02\0\0\0\x3c\x03\0\x06text/x");
    let key = first.key().to_owned();
    assert!(!key.is_empty());
    let expect = [
        ("tidings-event", "made"),
        ("tidings-key", &key),
        ("k", "v w"),
    ];
    assert_eq!(
        first.user,
        expect.map(|(name, value)| (name.into(), value.into()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_with_qos_2_is_published_once_the_server_completes_it() {
    let (server, client) = FakeServer::start_mqtt(Qos::ExactlyOnce).await;
    let mut publisher = client.publisher();
    let message = outgoing("x");
    let serve = async {
        let mut peer = server.accept_mqtt().await;
        let heard = peer.hear_publish().await;
        peer.acknowledge(PUBREC, heard.packet_id).await;
        assert_eq!(peer.packet().await, (PUBREL, vec![0, 1]));
        drop(peer);
        // It was not completed, and is published again under its key.
        let mut peer = server.accept_mqtt().await;
        let again = peer.hear_publish().await;
        assert_eq!((again.flags, again.key()), (0b0100, heard.key()));
        peer.acknowledge(PUBREC, again.packet_id).await;
        assert_eq!(peer.packet().await, (PUBREL, vec![0, 1]));
        peer.acknowledge(PUBCOMP, again.packet_id).await;
        peer
    };
    let (_peer, receipt) = tokio::join!(serve, publisher.publish(&message));
    assert!(receipt.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgements_what_is_published_is_written_before_the_connection_ends() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtMostOnce).await;
    let mut publisher = client.publisher();
    let publish = async {
        let message = outgoing(&"x".repeat(1_000_000));
        publisher.publish(&message).await.unwrap();
        publisher.publish(&outgoing("last")).await.unwrap();
        publisher.close().await;
    };
    let serve = async {
        let mut peer = server.accept_mqtt().await;
        let first = peer.hear_publish().await;
        assert_eq!((first.packet_id, first.payload.len()), (0, 1_000_000));
        assert_eq!(peer.hear_publish().await.payload, "last");
        assert_eq!(peer.packet().await, (0xe0, vec![]));
    };
    tokio::join!(serve, publish);
}

async fn refusal(client: &Client, serve: impl Future<Output = Peer>) -> String {
    let mut publisher = client.publisher();
    let message = outgoing("x");
    let (_peer, refused) = tokio::join!(serve, publisher.publish(&message));
    refused.unwrap_err().to_string()
}

#[tokio::test(start_paused = true)]
async fn what_the_server_will_not_have_is_not_tried_again() {
    for (qos, first) in [(Qos::AtLeastOnce, 0x40), (Qos::ExactlyOnce, PUBREC)] {
        let (server, client) = FakeServer::start_mqtt(qos).await;
        let refused = refusal(&client, async {
            let mut peer = server.accept_mqtt().await;
            let heard = peer.hear_publish().await;
            peer.refuse(first, heard.packet_id, 0x87, "not you").await;
            peer
        });
        assert_eq!(refused.await, "refused (forbidden): not you");
        assert!(!server.is_called_within(Duration::from_mins(1)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_says_why() {
    for (connack, expect) in [
        (
            packet(0x20, &[&[0][..], &reason_and_string(0x86, "who?")].concat()),
            "refused (unauthorized): who?",
        ),
        (
            // A server of MQTT 3.1.1 has no properties.
            b"\x20\x02\0\x01".to_vec(),
            "refused (bad-version): the server answered with reason code 0x01",
        ),
        (
            // Maximum QoS 0.
            b"\x20\x05\0\0\x02\x24\0".to_vec(),
            "refused (qos-not-supported): the server takes QoS 0 at most",
        ),
        (
            // Maximum packet size 20.
            b"\x20\x08\0\0\x05\x27\0\0\0\x14".to_vec(),
            "refused (message-too-large): the packet has 64 bytes, and the server takes 20: send a smaller message",
        ),
    ] {
        let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
        let mut publisher = client.publisher();
        let message = Outgoing {
            key: Some("k".repeat(37)),
            ..outgoing("x")
        };
        let serve = server.accept_mqtt_with(&connack);
        let (_peer, refused) = tokio::join!(serve, publisher.publish(&message));
        assert_eq!(refused.unwrap_err().to_string(), expect);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_of_http_is_not_asked_again() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let refused = refusal(&client, server.accept_mqtt_with(b"HTTP/1.1 400 Bad"));
    let expect = "refused (bad-request): HTTP is spoken here: MQTT has a port of its own (mqtt.listen), mostly 1883";
    assert_eq!(refused.await, expect);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_busy_is_asked_again_after_a_while() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut publisher = client.publisher();
    let message = outgoing("x");
    let serve = async {
        let at_capacity = packet(0x20, &[&[0][..], &reason_and_string(0x9f, "full")].concat());
        server.accept_mqtt_with(&at_capacity).await;
        let refused = Instant::now();
        let mut peer = server.accept_mqtt().await;
        assert!(refused.elapsed() >= Duration::from_secs(5));
        let heard = peer.hear_publish().await;
        peer.refuse(0x40, heard.packet_id, 0x89, "later").await;
        let again = peer.hear_publish().await;
        assert_eq!(again, heard);
        peer.puback(again.packet_id).await;
        peer
    };
    let (_peer, receipt) = tokio::join!(serve, publisher.publish(&message));
    assert!(receipt.is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_connection_the_rest_is_resent_in_order_under_the_same_keys() {
    for (qos, done) in [(Qos::AtLeastOnce, 0x40), (Qos::ExactlyOnce, PUBCOMP)] {
        let (server, client) = FakeServer::start_mqtt(qos).await;
        let mut pipeline = client.pipeline(10);
        let tickets = send(&mut pipeline, 0..8).await;
        let mut peer = server.accept_mqtt().await;
        let first = hear(&mut peer, 8).await;
        // Out of order, which a server should not.
        for at in [0, 2] {
            peer.acknowledge(done, first[at].packet_id).await;
        }
        drop(peer);
        let mut peer = server.accept_mqtt().await;
        let again = hear(&mut peer, 6).await;
        assert_eq!(payloads(&again), ["1", "3", "4", "5", "6", "7"]);
        for heard in &again {
            let before = first.iter().find(|it| it.payload == heard.payload);
            assert_eq!(before, Some(heard), "the same key, and no flag DUP");
            peer.acknowledge(done, heard.packet_id).await;
        }
        let (status, ()) = tokio::join!(pipeline.finish(), async {
            assert_eq!(peer.packet().await, (0xe0, vec![]));
            drop(peer);
        });
        assert_eq!((status.acknowledged, status.reconnects()), (8, 1));
        for ticket in tickets {
            assert!(ticket.await.unwrap().is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_servers_receive_maximum_is_in_flight() {
    let (server, client) = FakeServer::start_mqtt(Qos::ExactlyOnce).await;
    let mut pipeline = client.pipeline(10);
    let _tickets = send(&mut pipeline, 0..5).await;
    let mut peer = server.accept_mqtt_with(b"\x20\x06\0\0\x03\x21\0\x02").await;
    let heard = hear(&mut peer, 2).await;
    assert_eq!(peer.hear_publish_soon().await, None);
    peer.acknowledge(PUBREC, heard[0].packet_id).await;
    assert_eq!(peer.packet().await.0, PUBREL);
    assert_eq!(peer.hear_publish_soon().await, None, "it is not complete");
    peer.acknowledge(PUBCOMP, heard[0].packet_id).await;
    assert_eq!(peer.hear_publish().await.payload, "2");
    assert_eq!(peer.hear_publish_soon().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_told_and_the_others_go_on() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut pipeline = client.pipeline(3);
    let mut tickets = send(&mut pipeline, 0..2).await;
    let mut peer = server.accept_mqtt().await;
    let heard = hear(&mut peer, 2).await;
    peer.refuse(0x40, heard[0].packet_id, 0x95, "over 5").await;
    peer.puback(heard[1].packet_id).await;
    assert!(tickets.pop().unwrap().await.unwrap().is_ok());
    let refused = tickets.pop().unwrap().await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "refused (message-too-large): over 5");
    assert_eq!(pipeline.status().borrow().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_is_left_alone_for_the_told_time() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut pipeline = client.pipeline(3);
    let tickets = send(&mut pipeline, 0..2).await;
    let mut peer = server.accept_mqtt().await;
    let heard = hear(&mut peer, 2).await;
    // What is acknowledged together with the goodbye counts.
    let mut bytes = vec![0x40, 2, 0, heard[0].packet_id as u8];
    let why = "restarting, reconnect in 7000 ms";
    bytes.extend_from_slice(&packet(0xe0, &reason_and_string(0x8b, why)));
    peer.write_bytes(&bytes).await;
    let gone = Instant::now();
    let mut peer = server.accept_mqtt().await;
    let away = gone.elapsed();
    assert!(
        away >= Duration::from_secs(7) && away <= Duration::from_secs(8),
        "{away:?}"
    );
    assert_eq!(pipeline.status().borrow().acknowledged, 1);
    let again = peer.hear_publish().await;
    assert_eq!(again, heard[1]);
    peer.puback(again.packet_id).await;
    for ticket in tickets {
        assert!(ticket.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_server_ends_for_good_ends_the_pipeline() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut pipeline = client.pipeline(3);
    let tickets = send(&mut pipeline, 0..5).await;
    let mut peer = server.accept_mqtt().await;
    hear(&mut peer, 3).await;
    peer.disconnect(0x82, "that is not MQTT").await;
    for ticket in tickets {
        let refused = ticket.await.unwrap().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "refused (protocol-error): that is not MQTT"
        );
    }
    assert!(pipeline.send(outgoing("x")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_pipeline_shows_that_it_lives_and_gives_up_a_server_that_does_not() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let _pipeline = client.pipeline(3);
    let mut peer = server.accept_mqtt().await;
    for _ in 0..20 {
        let waited = Instant::now();
        assert_eq!(peer.packet_or_ping().await, (0xc0, vec![]));
        assert!(waited.elapsed() <= Duration::from_secs(15));
        peer.write_bytes(b"\xd0\0").await;
    }
    let silent = Instant::now();
    server.accept_mqtt().await;
    let waited = silent.elapsed().as_secs();
    assert!((50..=51).contains(&waited), "{waited}");
}
