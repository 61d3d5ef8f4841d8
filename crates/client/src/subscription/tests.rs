use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::testing::{FakeServer, Peer};

const FILTER: &str = "a/#";

fn subscribe(client: &Client, wire: Wire, start: Start) -> Subscription {
    client.subscribe_over(wire, vec![TopicFilter::new(FILTER).unwrap()], start)
}

/// Accepts a subscription over `tidings.v1` that starts as expected.
async fn accept_tidings(server: &FakeServer, after: &str, cursor: &str) -> Peer {
    let mut peer = server.accept_tidings().await;
    let request = peer.hear().await;
    assert_eq!(request["op"], "subscribe");
    assert_eq!(request["topic"], FILTER);
    assert_eq!(request["after"], after);
    let id = &request["id"];
    peer.say(&format!(
        r#"{{"op":"ok","id":{id},"sub":1,"topic":"a/#","cursor":"{cursor}"}}"#
    ))
    .await;
    peer
}

async fn accept_sse(server: &FakeServer, start: &str) -> Peer {
    let mut peer = server.accept().await;
    let request = peer.request().await;
    let expect = format!("GET /v1/subscribe?format=json&topic=a/%23&{start} HTTP/1.1\r\n");
    assert!(request.starts_with(&expect), "{request}");
    peer.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 3000\n: hi\n\n")
        .await;
    peer
}

fn envelope(id: &str) -> String {
    format!(r#""topic":"a/b","id":"{id}","time":1,"data":"of {id}"}}"#)
}

async fn say_message(peer: &mut Peer, id: &str) {
    peer.say(&format!(r#"{{"op":"message",{}"#, envelope(id)))
        .await;
}

async fn send_event(peer: &mut Peer, id: &str) {
    peer.write(&format!("id: {id}\ndata: {{{}\n\n", envelope(id)))
        .await;
}

async fn expect_connected(subscription: &mut Subscription) {
    let item = subscription.next().await.unwrap();
    assert!(matches!(item, Item::Connected), "{item:?}");
}

async fn expect_message(subscription: &mut Subscription, id: &str) {
    match subscription.next().await.unwrap() {
        Item::Message(message) => {
            assert_eq!(message.id, id);
            assert_eq!(message.payload, format!("of {id}"));
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
async fn a_reconnect_resumes_after_the_last_message_that_was_given_out() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = subscribe(&client, Wire::Tidings, Start::Latest);
    let serve = async {
        drop(accept_tidings(&server, "latest", "c0").await);
        // Nothing came yet, but the place to start from is known.
        let mut peer = accept_tidings(&server, "c0", "c0").await;
        say_message(&mut peer, "c1").await;
        say_message(&mut peer, "c2").await;
        drop(peer);
        accept_tidings(&server, "c2", "c2").await
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        assert_eq!(subscription.cursor(), Some("c0"));
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, "c1").await;
        expect_message(&mut subscription, "c2").await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_resumes_after_the_last_id_also_of_a_block_without_data() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = subscribe(&client, Wire::Sse, Start::Last(5));
    let serve = async {
        let mut peer = accept_sse(&server, "last=5").await;
        send_event(&mut peer, "c1").await;
        drop(peer);
        let mut peer = accept_sse(&server, "after=c1").await;
        peer.write("id: c7\n\n: hb\n\nid: c8\ndata: {\"never\":")
            .await;
        drop(peer);
        accept_sse(&server, "after=c7").await
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, "c1").await;
        // A lost connection is tried again by the client's own backoff, not by the stream's `retry`.
        assert!(expect_disconnected(&mut subscription).await <= Duration::from_millis(100));
        expect_connected(&mut subscription).await;
        expect_disconnected(&mut subscription).await;
        expect_connected(&mut subscription).await;
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_is_left_alone_for_the_told_time() {
    for wire in [Wire::Tidings, Wire::Sse] {
        let (server, client) = FakeServer::start().await;
        let mut subscription = subscribe(&client, wire, Start::Earliest);
        let serve = async {
            if wire == Wire::Sse {
                let mut peer = accept_sse(&server, "after=earliest").await;
                peer.write("retry: 9000\nevent: drain\ndata: {\"code\":\"shutting-down\"}\n\n")
                    .await;
            } else {
                let mut peer = accept_tidings(&server, "earliest", "c0").await;
                peer.say(r#"{"op":"drain","reconnect_ms":9000}"#).await;
                peer.close(1012, "restarting").await;
            }
            let closed = Instant::now();
            server.accept().await;
            closed.elapsed()
        };
        let follow = async {
            expect_connected(&mut subscription).await;
            let wait = expect_disconnected(&mut subscription).await;
            assert!(wait >= Duration::from_secs(9), "{wire:?} {wait:?}");
            tokio::time::timeout(Duration::from_secs(30), subscription.next())
                .await
                .ok();
        };
        let (away, ()) = tokio::join!(serve, follow);
        assert!(
            away >= Duration::from_secs(9) && away < Duration::from_secs(10),
            "{wire:?} {away:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_in_a_close_reason_is_honoured() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = subscribe(&client, Wire::Tidings, Start::Latest);
    let serve = async {
        let mut peer = accept_tidings(&server, "latest", "c0").await;
        peer.close(1012, "restarting, reconnect in 4000 ms").await;
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_disconnected(&mut subscription).await
    };
    let ((), wait) = tokio::join!(serve, follow);
    assert!(wait >= Duration::from_secs(4), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_and_resumed_behind() {
    for wire in [Wire::Tidings, Wire::Sse] {
        let (server, client) = FakeServer::start().await;
        let mut subscription = subscribe(&client, wire, Start::After("c1".into()));
        let serve = async {
            if wire == Wire::Sse {
                let mut peer = accept_sse(&server, "after=c1").await;
                peer.write("event: gap\nid: c5\ndata: {\"reason\":\"retention\",\"after\":\"c1\",\"resume\":\"c5\"}\n\n").await;
                drop(peer);
                drop(accept_sse(&server, "after=c5").await);
            } else {
                let mut peer = accept_tidings(&server, "c1", "c1").await;
                peer.say(r#"{"op":"gap","sub":1,"topic":"a/#","reason":"retention","after":"c1","cursor":"c5"}"#).await;
                drop(peer);
                drop(accept_tidings(&server, "c5", "c5").await);
            }
        };
        let follow = async {
            expect_connected(&mut subscription).await;
            match subscription.next().await.unwrap() {
                Item::Gap(gap) => {
                    assert_eq!(gap.reason, "retention");
                    assert_eq!(gap.after.as_deref(), Some("c1"));
                }
                other => panic!("{wire:?} {other:?}"),
            }
            expect_disconnected(&mut subscription).await;
            expect_connected(&mut subscription).await;
        };
        tokio::join!(serve, follow);
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrived_before_the_end_is_given_out_before_it() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = subscribe(&client, Wire::Tidings, Start::Latest);
    let serve = async {
        let mut peer = accept_tidings(&server, "latest", "c0").await;
        for id in ["c1", "c2", "c3"] {
            say_message(&mut peer, id).await;
        }
        peer.write_bytes(b"\xff\xff").await;
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_message(&mut subscription, "c1").await;
        let mut ready = Vec::new();
        while let Some(Item::Message(message)) = subscription.next_ready() {
            ready.push(message.id);
        }
        assert_eq!(ready, ["c2", "c3"]);
        assert!(subscription.next_ready().is_none());
        match subscription.next().await.unwrap() {
            Item::Disconnected {
                reason: Lost::Frame(_),
                ..
            } => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(subscription.cursor(), Some("c3"));
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_item_can_be_cancelled_at_any_point() {
    for wire in [Wire::Tidings, Wire::Sse] {
        let (server, client) = FakeServer::start().await;
        let mut subscription = subscribe(&client, wire, Start::Latest);
        let serve = async {
            let mut peer = match wire {
                Wire::Sse => accept_sse(&server, "after=latest").await,
                Wire::Tidings => accept_tidings(&server, "latest", "c0").await,
            };
            let text = match wire {
                Wire::Sse => format!("id: c1\ndata: {{{}\n\n", envelope("c1")).into_bytes(),
                Wire::Tidings => {
                    let json = format!(r#"{{"op":"message",{}"#, envelope("c1"));
                    [&[0x81, u8::try_from(json.len()).unwrap()], json.as_bytes()].concat()
                }
            };
            for byte in text {
                tokio::time::sleep(Duration::from_millis(2)).await;
                peer.write_bytes(&[byte]).await;
            }
            peer
        };
        let follow = async {
            let mut items = Vec::new();
            while items.len() < 2 {
                // Cancelled about once a byte.
                if let Ok(item) =
                    tokio::time::timeout(Duration::from_millis(1), subscription.next()).await
                {
                    items.push(item.unwrap());
                }
            }
            assert!(matches!(items[0], Item::Connected), "{:?}", items[0]);
            assert!(
                matches!(&items[1], Item::Message(message) if message.id == "c1"),
                "{:?}",
                items[1]
            );
        };
        tokio::join!(serve, follow);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    for wire in [Wire::Tidings, Wire::Sse] {
        let (server, client) = FakeServer::start().await;
        let client = client.with_silence(Duration::from_secs(20));
        let mut subscription = subscribe(&client, wire, Start::Latest);
        let serve = async {
            match wire {
                Wire::Sse => accept_sse(&server, "after=latest").await,
                Wire::Tidings => accept_tidings(&server, "latest", "c0").await,
            }
        };
        let begun = Instant::now();
        let follow = async {
            expect_connected(&mut subscription).await;
            expect_disconnected(&mut subscription).await;
        };
        let (_peer, ()) = tokio::join!(serve, follow);
        assert_eq!(begun.elapsed().as_secs(), 20, "{wire:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_subscription_and_a_busy_server_does_not() {
    for wire in [Wire::Tidings, Wire::Sse] {
        let (server, client) = FakeServer::start().await;
        let mut subscription = subscribe(&client, wire, Start::Latest);
        let serve = async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.answer("503 Service Unavailable", "Retry-After: 5\r\n", "")
                .await;
            if wire == Wire::Sse {
                let mut peer = server.accept().await;
                peer.request().await;
                peer.answer(
                    "400 Bad Request",
                    "",
                    r#"{"code":"bad-cursor","detail":"no"}"#,
                )
                .await;
            } else {
                let mut peer = server.accept_tidings().await;
                let id = peer.hear().await["id"].clone();
                peer.say(&format!(
                    r#"{{"op":"error","id":{id},"code":"bad-cursor","message":"no"}}"#
                ))
                .await;
            }
        };
        let follow = async {
            let wait = expect_disconnected(&mut subscription).await;
            assert!(wait >= Duration::from_secs(5), "{wire:?} {wait:?}");
            let refused = subscription.next().await.unwrap_err();
            assert_eq!(refused.to_string(), "refused (bad-cursor): no");
        };
        tokio::join!(serve, follow);
        assert!(!server.is_called_within(Duration::from_mins(1)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_the_server_ends_says_why() {
    for (wire, code, is_permanent) in [
        (Wire::Tidings, "forbidden", true),
        (Wire::Sse, "forbidden", true),
        (Wire::Tidings, "storage-failed", false),
        (Wire::Sse, "storage-failed", false),
    ] {
        let (server, client) = FakeServer::start().await;
        let mut subscription = subscribe(&client, wire, Start::Latest);
        let serve = async {
            if wire == Wire::Sse {
                let mut peer = accept_sse(&server, "after=latest").await;
                let data = format!(r#"{{"code":"{code}","message":"m","reconnect_after_ms":100}}"#);
                peer.write(&format!("retry: 100\nevent: lost\ndata: {data}\n\n"))
                    .await;
            } else {
                let mut peer = accept_tidings(&server, "latest", "c0").await;
                let error = format!(r#"{{"op":"error","sub":1,"code":"{code}","message":"m"}}"#);
                peer.say(&error).await;
            }
        };
        let follow = async {
            expect_connected(&mut subscription).await;
            subscription.next().await
        };
        let ((), ended) = tokio::join!(serve, follow);
        match ended {
            Err(refused) => assert!(is_permanent && refused.code == code, "{wire:?} {refused}"),
            Ok(Item::Disconnected {
                reason: Lost::Refused(refused),
                ..
            }) => {
                assert!(!is_permanent && refused.code == code, "{wire:?} {refused}");
            }
            other => panic!("{wire:?} {code} {other:?}"),
        }
    }
}
