//! Taking part in a work queue over `tidings.v1`.

use serde_json::{Value, json};

use super::*;
use crate::testing::{FakeServer, Peer};

fn work(client: &Client, prefetch: Option<u32>) -> Subscription {
    client.work(WorkQueue {
        group: "workers".into(),
        filter: TopicFilter::new("jobs/#").unwrap(),
        start: Start::Earliest,
        prefetch,
    })
}

/// Accepts a member, as sub 7.
async fn accept_member(server: &FakeServer, expect: Value) -> Peer {
    let mut peer = server.accept_tidings().await;
    assert_eq!(peer.hear().await, expect);
    peer.say(r#"{"op":"ok","id":1,"sub":7,"topic":"jobs/#","group":"workers","cursor":"c0"}"#)
        .await;
    peer
}

fn join() -> Value {
    json!({"op":"subscribe","id":1,"topic":"jobs/#","after":"earliest","group":"workers"})
}

async fn say_job(peer: &mut Peer, id: &str, deliveries: u32) {
    peer.say(&format!(
        r#"{{"op":"message","sub":7,"deliveries":{deliveries},"topic":"jobs/a","id":"{id}","time":1,"data":"x"}}"#
    ))
    .await;
}

async fn expect_connected(subscription: &mut Subscription) {
    let item = subscription.next().await.unwrap();
    assert!(matches!(item, Item::Connected), "{item:?}");
}

async fn expect_job(subscription: &mut Subscription, id: &str, deliveries: u32) {
    match subscription.next().await.unwrap() {
        Item::Message(message) => {
            assert_eq!((&*message.id, message.deliveries), (id, Some(deliveries)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_message_is_settled_by_its_id_and_once() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = work(&client, Some(3));
    let serve = async {
        let mut expect = join();
        expect["prefetch"] = json!(3);
        let mut peer = accept_member(&server, expect).await;
        for id in ["c1", "c2", "c3"] {
            say_job(&mut peer, id, 1).await;
        }
        let heard = [peer.hear().await, peer.hear().await, peer.hear().await];
        assert_eq!(
            heard,
            [
                json!({"op":"nack","sub":7,"message":"c2"}),
                json!({"op":"ack","sub":7,"message":"c1"}),
                json!({"op":"nack","sub":7,"message":"c3","requeue":false}),
            ]
        );
        say_job(&mut peer, "c2", 2).await;
        assert_eq!(peer.hear().await["op"], "ack");
        peer
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        for id in ["c1", "c2", "c3"] {
            expect_job(&mut subscription, id, 1).await;
        }
        assert!(subscription.settle("c2", Verdict::Nack));
        assert!(subscription.settle("c1", Verdict::Ack));
        assert!(subscription.settle("c3", Verdict::Reject));
        for id in ["c1", "c2", "c9"] {
            assert!(!subscription.settle(id, Verdict::Ack), "{id}");
        }
        expect_job(&mut subscription, "c2", 2).await;
        assert!(subscription.settle("c2", Verdict::Ack));
        assert_eq!(subscription.cursor(), None);
        tokio::select! {
            item = subscription.next() => panic!("{item:?}"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    };
    let (_peer, ()) = tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_reconnects_leaves_the_place_to_the_queue() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = work(&client, None);
    let serve = async {
        let mut peer = accept_member(&server, join()).await;
        say_job(&mut peer, "c1", 1).await;
        peer.say(
            r#"{"op":"gap","sub":7,"topic":"jobs/#","group":"workers","reason":"retention","after":"c1","cursor":"c5"}"#,
        )
        .await;
        drop(peer);
        let mut peer = accept_member(&server, join()).await;
        say_job(&mut peer, "c1", 2).await;
        assert_eq!(
            peer.hear().await,
            json!({"op":"ack","sub":7,"message":"c1"})
        );
        peer
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_job(&mut subscription, "c1", 1).await;
        let gap = subscription.next().await.unwrap();
        assert!(matches!(gap, Item::Gap(_)), "{gap:?}");
        let lost = subscription.next().await.unwrap();
        assert!(matches!(lost, Item::Disconnected { .. }), "{lost:?}");
        assert!(!subscription.settle("c1", Verdict::Ack), "it is not ours");
        expect_connected(&mut subscription).await;
        assert!(!subscription.settle("c1", Verdict::Ack), "it is not ours");
        expect_job(&mut subscription, "c1", 2).await;
        assert!(subscription.settle("c1", Verdict::Ack));
        tokio::select! {
            item = subscription.next() => panic!("{item:?}"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    };
    let (_peer, ()) = tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn a_member_leaves_behind_its_verdicts_and_waits_for_the_answer() {
    let (server, client) = FakeServer::start().await;
    let mut subscription = work(&client, None);
    let serve = async {
        let mut peer = accept_member(&server, join()).await;
        say_job(&mut peer, "c1", 1).await;
        assert_eq!(peer.hear().await["op"], "ack");
        let leave = json!({"op":"unsubscribe","id":2,"sub":7});
        assert_eq!(peer.hear().await, leave);
        // What the server sent before it heard of that is read and given back.
        say_job(&mut peer, "c2", 1).await;
        let early = tokio::time::timeout(Duration::from_millis(500), peer.frame()).await;
        assert!(early.is_err(), "{early:?}");
        peer.say(r#"{"op":"ok","id":2}"#).await;
        assert_eq!(peer.frame().await, (8, vec![0x03, 0xe8]));
    };
    let follow = async {
        expect_connected(&mut subscription).await;
        expect_job(&mut subscription, "c1", 1).await;
        subscription.settle("c1", Verdict::Ack);
        subscription.close().await;
    };
    tokio::join!(serve, follow);
}

#[tokio::test(start_paused = true)]
async fn over_mqtt_a_work_queue_is_refused_with_the_filter_to_use() {
    let client = Client::mqtt(
        "mqtt://127.0.0.1:9",
        tidings_types::Qos::AtLeastOnce,
        &crate::TlsFiles::default(),
    )
    .unwrap();
    let refused = work(&client, None).next().await.unwrap_err();
    assert!(refused.detail.contains("$share/"), "{refused}");
}
