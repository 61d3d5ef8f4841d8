use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::testing::{FakeServer, Peer, outgoing};

async fn send(pipeline: &mut Pipeline, payloads: std::ops::Range<u32>) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for number in payloads {
        tickets.push(pipeline.send(outgoing(&number.to_string())).await.unwrap());
    }
    tickets
}

async fn hear(peer: &mut Peer, count: usize) -> Vec<Value> {
    let mut heard = Vec::new();
    for _ in 0..count {
        heard.push(peer.hear().await);
    }
    heard
}

async fn acknowledge(peer: &mut Peer, request: &Value) {
    let (id, data) = (&request["id"], request["data"].as_str().unwrap());
    peer.say(&format!(
        r#"{{"op":"ok","id":{id},"cursor":"c{data}","time":1}}"#
    ))
    .await;
}

fn payloads(requests: &[Value]) -> Vec<&str> {
    requests
        .iter()
        .map(|request| request["data"].as_str().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_connection_the_rest_is_resent_in_order_under_the_same_keys() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.pipeline(10);
    let tickets = send(&mut pipeline, 0..8).await;
    let mut peer = server.accept_tidings().await;
    let first = hear(&mut peer, 8).await;
    for request in &first[..3] {
        acknowledge(&mut peer, request).await;
    }
    drop(peer);
    let mut peer = server.accept_tidings().await;
    let again = hear(&mut peer, 5).await;
    assert_eq!(again, first[3..]);
    assert_eq!(payloads(&again), ["3", "4", "5", "6", "7"]);
    let mut keys: Vec<_> = first
        .iter()
        .map(|request| request["key"].to_string())
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 8, "each message has a key of its own");
    for request in &again {
        acknowledge(&mut peer, request).await;
    }
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.unwrap().unwrap().id, format!("c{number}"));
    }
    let status = pipeline.finish().await;
    assert_eq!((status.acknowledged, status.reconnects()), (8, 1));
    assert_eq!(status.last_id.as_deref(), Some("c7"));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_window_is_in_flight() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.pipeline(3);
    let _tickets = send(&mut pipeline, 0..10).await;
    let mut peer = server.accept_tidings().await;
    let heard = hear(&mut peer, 3).await;
    assert_eq!(peer.hear_soon().await, None);
    acknowledge(&mut peer, &heard[0]).await;
    assert_eq!(peer.hear_soon().await.unwrap()["data"], "3");
    assert_eq!(peer.hear_soon().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_a_busy_server_puts_off_is_sent_again_once_the_told_time_has_passed() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.pipeline(3);
    let tickets = send(&mut pipeline, 0..4).await;
    let mut peer = server.accept_tidings().await;
    let heard = hear(&mut peer, 3).await;
    acknowledge(&mut peer, &heard[0]).await;
    assert_eq!(peer.hear().await["data"], "3");
    let id = &heard[1]["id"];
    let busy = r#""code":"busy","message":"full","retry_after":2"#;
    peer.say(&format!(r#"{{"op":"error","id":{id},{busy}}}"#))
        .await;
    assert_eq!(
        peer.hear_soon().await,
        None,
        "nothing until the rest is answered"
    );
    let put_off = Instant::now();
    for number in [2, 3] {
        let id = 1 + number;
        peer.say(&format!(
            r#"{{"op":"ok","id":{id},"cursor":"c{number}","time":1}}"#
        ))
        .await;
    }
    let again = peer.hear().await;
    assert!(
        put_off.elapsed() >= Duration::from_secs(2),
        "{:?}",
        put_off.elapsed()
    );
    assert_eq!(again, heard[1]);
    acknowledge(&mut peer, &again).await;
    for ticket in tickets {
        assert!(ticket.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_told_and_the_others_go_on() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.pipeline(3);
    let mut tickets = send(&mut pipeline, 0..2).await;
    let mut peer = server.accept_tidings().await;
    let heard = hear(&mut peer, 2).await;
    let id = &heard[0]["id"];
    let refusal = r#""code":"message-too-large","message":"over 5""#;
    peer.say(&format!(r#"{{"op":"error","id":{id},{refusal}}}"#))
        .await;
    acknowledge(&mut peer, &heard[1]).await;
    assert!(tickets.pop().unwrap().await.unwrap().is_ok());
    let refused = tickets.pop().unwrap().await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "refused (message-too-large): over 5");
    let status = pipeline.finish().await;
    assert_eq!((status.acknowledged, status.refused), (1, 1));
    assert_eq!(status.first_refusal, Some(refused));
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_is_left_alone_for_the_told_time() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.pipeline(3);
    let ticket = send(&mut pipeline, 0..1).await.pop().unwrap();
    let mut peer = server.accept_tidings().await;
    let heard = peer.hear().await;
    peer.say(r#"{"op":"drain","reconnect_ms":7000}"#).await;
    assert_eq!(peer.hear_soon().await, None);
    // What comes in now waits for the server that comes back.
    let later = send(&mut pipeline, 1..2).await.pop().unwrap();
    assert_eq!(peer.hear_soon().await, None);
    peer.close(1012, "restarting").await;
    let closed = Instant::now();
    let mut peer = server.accept_tidings().await;
    assert!(
        closed.elapsed() >= Duration::from_secs(7),
        "{:?}",
        closed.elapsed()
    );
    assert!(
        closed.elapsed() <= Duration::from_secs(8),
        "{:?}",
        closed.elapsed()
    );
    assert_eq!(peer.hear().await, heard);
    acknowledge(&mut peer, &heard).await;
    let next = peer.hear().await;
    acknowledge(&mut peer, &next).await;
    assert!(ticket.await.unwrap().is_ok() && later.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_answering_is_given_up_and_called_again() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.with_silence(Duration::from_secs(20)).pipeline(3);
    let _ticket = send(&mut pipeline, 0..1).await;
    let mut peer = server.accept_tidings().await;
    let heard = peer.hear().await;
    let mut second = server.accept_tidings().await;
    assert_eq!(second.hear().await, heard);
    assert_eq!(pipeline.status().borrow().reconnects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_connection_for_good_ends_the_pipeline() {
    let (server, client) = FakeServer::start().await;
    let mut pipeline = client.pipeline(3);
    let tickets = send(&mut pipeline, 0..5).await;
    let mut peer = server.accept().await;
    peer.request().await;
    peer.answer(
        "403 Forbidden",
        "",
        r#"{"code":"forbidden","detail":"not you"}"#,
    )
    .await;
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap().unwrap_err().code, "forbidden");
    }
    assert!(pipeline.send(outgoing("x")).await.is_err());
    let status = pipeline.finish().await;
    assert_eq!((status.refused, status.in_flight), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_without_messages_finishes_although_there_is_no_server() {
    let (server, client) = FakeServer::start().await;
    drop(server);
    let status = client.pipeline(3).finish().await;
    assert_eq!(status.acknowledged, 0);
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered() {
    let (server, client) = FakeServer::start().await;
    let _pipeline = client.pipeline(3);
    let mut peer = server.accept_tidings().await;
    peer.write_bytes(b"\x89\x02hi").await;
    assert_eq!(peer.frame().await, (10, b"hi".to_vec()));
}
