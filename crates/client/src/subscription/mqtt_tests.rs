use std::time::Duration;

use tidings_types::Qos;
use tokio::time::Instant;

use super::*;
use crate::testing::mqtt::{cursor, message, packet, put_text, reason_and_string, user};
use crate::testing::{FakeServer, Peer};

const PUBLISH_0: u8 = 0x30;
const PUBLISH_1: u8 = 0x32;
const PUBLISH_2: u8 = 0x34;

fn subscribe(client: &Client, start: Start) -> Subscription {
    client.subscribe(vec![TopicFilter::new("a/#").unwrap()], start)
}

/// What a SUBSCRIBE to `a/#` with `QoS` 1 looks like.
fn subscribe_body(after: Option<&str>, options: u8) -> Vec<u8> {
    let property = after.map_or(Vec::new(), |after| user("tidings-after", after));
    let mut body = vec![0, 1, u8::try_from(property.len()).unwrap()];
    body.extend_from_slice(&property);
    put_text("a/#", &mut body);
    body.push(options);
    body
}

/// SUBACK for one filter.
fn suback(property: &[u8], reason: u8) -> Vec<u8> {
    let mut body = vec![0, 1, u8::try_from(property.len()).unwrap()];
    body.extend_from_slice(property);
    body.push(reason);
    packet(0x90, &body)
}

/// Accepts a subscription that starts as expected, at a position.
async fn accept(server: &FakeServer, after: Option<&str>, start: Option<u64>) -> Peer {
    let mut peer = server.accept_mqtt().await;
    assert_eq!(peer.packet().await, (0x82, subscribe_body(after, 0x29)));
    let property = start.map_or(Vec::new(), |start| user("tidings-cursor", &cursor(start)));
    peer.write_bytes(&suback(&property, 1)).await;
    peer
}

async fn expect_connected(subscription: &mut Subscription) {
    let item = subscription.next().await.unwrap();
    assert!(matches!(item, Item::Connected), "{item:?}");
}

async fn expect_message(subscription: &mut Subscription, offset: u64) {
    match subscription.next().await.unwrap() {
        Item::Message(message) => {
            assert_eq!(message.id, cursor(offset));
            assert_eq!(message.payload, format!("of {offset}"));
        }
        other => panic!("{other:?}"),
    }
}

async fn expect_disconnected(subscription: &mut Subscription) -> Duration {
    match subscription.next().await.unwrap() {
        Item::Disconnected { retry_in, .. } => retry_in,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_resumes_after_the_newest_message_and_repeats_none() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        drop(accept(&server, None, Some(10)).await);
        // Nothing came yet, but the place to start from is known.
        let mut peer = accept(&server, Some(&cursor(10)), None).await;
        for (packet_id, offset) in [(1, 11), (2, 13)] {
            peer.write_bytes(&message(PUBLISH_1, packet_id, offset))
                .await;
        }
        for packet_id in [1, 2] {
            assert_eq!(peer.packet().await, (0x40, vec![0, packet_id]));
        }
        drop(peer);
        // The server repeats the last one, and the start that it tells now is not where this client stands.
        let mut peer = accept(&server, Some(&cursor(13)), Some(99)).await;
        for (packet_id, offset) in [(1, 13), (2, 14)] {
            peer.write_bytes(&message(PUBLISH_1, packet_id, offset))
                .await;
        }
        drop(peer);
        accept(&server, Some(&cursor(14)), None).await
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, 11).await;
        expect_message(&mut subscription, 13).await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, 14).await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
        assert_eq!(subscription.cursor(), Some(cursor(14).as_str()));
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_ahead_of_the_message_behind_it() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        let mut peer = accept(&server, None, Some(10)).await;
        let mut properties = user("tidings-gap", "retention");
        properties.extend_from_slice(&user("tidings-gap-after", &cursor(11)));
        properties.extend_from_slice(&user("tidings-cursor", &cursor(12)));
        let mut body = vec![];
        put_text("a/b", &mut body);
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(&properties);
        body.extend_from_slice(b"of 12");
        peer.write_bytes(&packet(PUBLISH_0, &body)).await;
        peer.write_bytes(&message(PUBLISH_0, 0, 13)).await;
        peer
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        match subscription.next().await.unwrap() {
            Item::Gap(gap) => {
                assert_eq!(gap.reason, "retention");
                assert_eq!(gap.after, Some(cursor(11)));
            }
            other => panic!("{other:?}"),
        }
        expect_message(&mut subscription, 12).await;
        expect_message(&mut subscription, 13).await;
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn every_start_has_its_words() {
    let after = |text: &str| Start::After(text.into());
    for (start, expect, options) in [
        (Start::Latest, None, 0x29),
        (Start::Earliest, Some("earliest"), 0x29),
        (Start::Last(5), Some("last:5"), 0x29),
        (after("c1"), Some("c1"), 0x29),
        // Retained messages come by a subscription option.
        (after("retained"), None, 0x09),
    ] {
        let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
        let mut subscription = subscribe(&client, start);
        let serve = async {
            let mut peer = server.accept_mqtt().await;
            let heard = peer.packet().await;
            peer.write_bytes(&suback(b"", 1)).await;
            (peer, heard)
        };
        let ((_peer, heard), ()) = tokio::join!(serve, expect_connected(&mut subscription));
        assert_eq!(heard, (0x82, subscribe_body(expect, options)));
    }
}

#[tokio::test(start_paused = true)]
async fn retained_messages_do_not_move_the_place_to_resume_from() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::After("retained".into()));
    let serve = async {
        let mut peer = server.accept_mqtt().await;
        peer.packet().await;
        let start = user("tidings-cursor", &cursor(20));
        peer.write_bytes(&suback(&start, 1)).await;
        for (first, offset) in [(0x31, 20), (0x31, 3), (0x30, 20)] {
            peer.write_bytes(&message(first, 0, offset)).await;
        }
        drop(peer);
        accept(&server, Some(&cursor(20)), None).await
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, 20).await;
        expect_message(&mut subscription, 3).await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn a_message_with_qos_2_is_given_out_once() {
    let (server, client) = FakeServer::start_mqtt(Qos::ExactlyOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        let mut peer = server.accept_mqtt().await;
        assert_eq!(peer.packet().await, (0x82, subscribe_body(None, 0x2a)));
        peer.write_bytes(&suback(b"", 2)).await;
        // Without an id, as of a foreign server.
        let foreign = packet(PUBLISH_2, b"\0\x01a\0\x05\0x");
        for _ in 0..2 {
            peer.write_bytes(&foreign).await;
            assert_eq!(peer.packet().await, (0x50, vec![0, 5]));
        }
        peer.write_bytes(b"\x62\x02\0\x05").await;
        assert_eq!(peer.packet().await, (0x70, vec![0, 5]));
        // The identifier is released: this is another message.
        peer.write_bytes(&foreign).await;
        assert_eq!(peer.packet().await, (0x50, vec![0, 5]));
        peer.disconnect(0x8b, "").await;
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        let mut messages = 0;
        while let Item::Message(message) = subscription.next().await.unwrap() {
            assert_eq!(message.id, "");
            messages += 1;
        }
        messages
    };
    let ((), messages) = tokio::join!(serve, follow);
    assert_eq!(messages, 2);
}

#[tokio::test(start_paused = true)]
async fn everything_about_a_message_is_given_out() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        let mut peer = accept(&server, None, None).await;
        let properties = [
            b"\x01\x01".to_vec(),
            user("h", "1"),
            user("tidings-cursor", "c1"),
            b"\x03\0\x10application/json".to_vec(),
            user("tidings-event", "made"),
            user("h", "2"),
        ]
        .concat();
        let mut body = b"\0\x03a/b".to_vec();
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(&properties);
        body.extend_from_slice(b"{\"x\": 1}");
        peer.write_bytes(&packet(0x31, &body)).await;
        peer
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        subscription.next().await
    };
    let (_peer, item) = tokio::join!(serve, follow);
    let Ok(Item::Message(message)) = item else {
        panic!("{item:?}");
    };
    let mut line = Vec::new();
    crate::envelope::write_message(&message, &mut line);
    assert_eq!(
        String::from_utf8(line).unwrap(),
        r#"{"topic":"a/b","id":"c1","data":{"x":1},"event":"made","content_type":"application/json","headers":{"h":["1","2"]},"retain":true}"#
    );
}

#[tokio::test(start_paused = true)]
async fn messages_before_the_acknowledgement_are_not_lost() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Earliest);
    let serve = async {
        let mut peer = server.accept_mqtt().await;
        peer.packet().await;
        for offset in 1..=1_500 {
            peer.write_bytes(&message(PUBLISH_0, 0, offset)).await;
        }
        peer.write_bytes(&suback(b"", 1)).await;
        peer
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        for offset in 1..=1_500 {
            expect_message(&mut subscription, offset).await;
        }
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_item_can_be_cancelled_at_any_point() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        let mut peer = accept(&server, None, None).await;
        for byte in message(PUBLISH_1, 1, 5) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            peer.write_bytes(&[byte]).await;
        }
        assert_eq!(peer.packet().await, (0x40, vec![0, 1]));
        peer
    };
    let follow = async {
        let mut messages = 0;
        loop {
            // Cancelled about once a byte.
            let next = tokio::time::timeout(Duration::from_millis(1), subscription.next());
            match next.await {
                Ok(Ok(Item::Message(message))) => {
                    assert_eq!(message.id, cursor(5));
                    messages += 1;
                }
                Ok(Ok(Item::Connected)) | Err(_) => {}
                other => panic!("{other:?} after {messages}"),
            }
        }
    };
    tokio::select! {
        _peer = serve => {}
        () = follow => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_filter_ends_the_subscription_and_a_busy_server_does_not() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        for (reason, why) in [(0x97, "later"), (0x87, "not you")] {
            let mut peer = server.accept_mqtt().await;
            peer.packet().await;
            let property = &reason_and_string(0, why)[2..];
            peer.write_bytes(&suback(property, reason)).await;
        }
    };
    let follow = async {
        match subscription.next().await.unwrap() {
            Item::Disconnected { reason, .. } => {
                assert_eq!(reason.to_string(), "refused (quota-exceeded): `a/#`: later");
            }
            other => panic!("{other:?}"),
        }
        let refused = subscription.next().await.unwrap_err();
        assert_eq!(refused.to_string(), "refused (forbidden): `a/#`: not you");
    };
    tokio::join!(serve, follow);
    assert!(!server.is_called_within(Duration::from_mins(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_is_left_alone_for_the_told_time() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        let mut peer = accept(&server, None, Some(1)).await;
        peer.disconnect(0x8b, "restarting, reconnect in 9000 ms")
            .await;
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_disconnected(&mut subscription).await
    };
    let ((), wait) = tokio::join!(serve, follow);
    assert!(wait >= Duration::from_secs(9), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shared_subscription_has_no_position_of_its_own_and_stands_alone() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let shared = TopicFilter::new("$share/g/a").unwrap();
    let mut subscription = client.subscribe(vec![shared.clone()], Start::Latest);
    let serve = async {
        for _ in 0..2 {
            let mut peer = server.accept_mqtt().await;
            assert_eq!(
                peer.packet().await,
                (0x82, b"\0\x01\0\0\x0a$share/g/a\x29".to_vec())
            );
            peer.write_bytes(&suback(b"", 1)).await;
            peer.write_bytes(&message(PUBLISH_0, 0, 5)).await;
        }
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, 5).await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
    };
    tokio::join!(serve, follow);
    let other = TopicFilter::new("b").unwrap();
    let mut mixed = client.subscribe(vec![shared, other], Start::Latest);
    let serve = server.accept_mqtt();
    let (_peer, refused) = tokio::join!(serve, mixed.next());
    assert_eq!(refused.unwrap_err().code, "bad-filter");
}

#[tokio::test(start_paused = true)]
async fn the_end_acknowledges_what_was_given_out_and_says_goodbye() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let mut subscription = subscribe(&client, Start::Latest);
    let serve = async {
        let mut peer = accept(&server, None, None).await;
        peer.write_bytes(&[message(PUBLISH_1, 1, 5), message(PUBLISH_1, 2, 6)].concat())
            .await;
        assert_eq!(peer.packet().await, (0x40, vec![0, 1]));
        assert_eq!(
            peer.packet().await,
            (0xe0, vec![]),
            "the second was not taken"
        );
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, 5).await;
        subscription.close().await;
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_no_pings_is_given_up() {
    let (server, client) = FakeServer::start_mqtt(Qos::AtLeastOnce).await;
    let client = client.with_silence(Duration::from_secs(20));
    let mut subscription = subscribe(&client, Start::Latest);
    let begun = Instant::now();
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_disconnected(&mut subscription).await;
    };
    let (_peer, ()) = tokio::join!(accept(&server, None, None), follow);
    assert_eq!(begun.elapsed().as_secs(), 20);
}
