use tokio::time::Instant;

use super::*;
use crate::testing::{FakeServer, header, outgoing};

const CREATED: &str = r#"{"id":"c1","topic":"t","time":7}"#;

fn key(request: &str) -> String {
    header(request, "idempotency-key").unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_retry_carries_the_same_key_and_waits_as_told() {
    let (server, client) = FakeServer::start().await;
    let mut publisher = client.publisher();
    let serve = async {
        let mut peer = server.accept().await;
        let first = peer.request().await;
        // Committed, perhaps, but the answer does not arrive.
        drop(peer);
        let mut peer = server.accept().await;
        let second = peer.request().await;
        let busy = Instant::now();
        peer.answer(
            "503 Service Unavailable",
            "Retry-After: 3\r\nConnection: close\r\n",
            "",
        )
        .await;
        drop(peer);
        let mut peer = server.accept().await;
        assert!(
            busy.elapsed() >= Duration::from_secs(3),
            "{:?}",
            busy.elapsed()
        );
        let third = peer.request().await;
        peer.answer("201 Created", "", CREATED).await;
        [first, second, third].map(|request| key(&request))
    };
    let mut retries = 0;
    let message = outgoing("x");
    let publish = publisher.publish_observed(&message, |_| retries += 1);
    let (keys, receipt) = tokio::join!(serve, publish);
    let expect = Receipt {
        id: "c1".into(),
        time_ms: 7,
        replayed: false,
    };
    assert_eq!(receipt, Ok(expect));
    assert_eq!((&keys[0], &keys[0]), (&keys[1], &keys[2]));
    assert_eq!(retries, 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_and_one_that_the_server_closed_is_replaced_at_once() {
    let (server, client) = FakeServer::start().await;
    let mut publisher = client.publisher();
    let serve = async {
        let mut peer = server.accept().await;
        let first = peer.request().await;
        peer.answer("201 Created", "", CREATED).await;
        let second = peer.request().await;
        peer.answer("201 Created", "", CREATED).await;
        drop(peer);
        let mut peer = server.accept().await;
        let third = peer.request().await;
        peer.answer("201 Created", "", CREATED).await;
        [first, second, third].map(|request| key(&request))
    };
    let publish = async {
        let begun = Instant::now();
        for _ in 0..3 {
            publisher.publish(&outgoing("x")).await.unwrap();
        }
        begun.elapsed()
    };
    let (mut keys, elapsed) = tokio::join!(serve, publish);
    assert!(
        elapsed < Duration::from_millis(50),
        "no backoff: {elapsed:?}"
    );
    keys.sort();
    assert!(
        keys[0] != keys[1] && keys[1] != keys[2],
        "a message has a key of its own"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_server_will_not_have_is_not_tried_again() {
    let (server, client) = FakeServer::start().await;
    let mut publisher = client.publisher();
    let serve = async {
        let mut peer = server.accept().await;
        peer.request().await;
        let problem =
            r#"{"type":"about:blank","status":413,"code":"message-too-large","detail":"over 5"}"#;
        peer.answer("413 Content Too Large", "", problem).await;
        peer
    };
    let message = outgoing("x");
    let (_peer, refused) = tokio::join!(serve, publisher.publish(&message));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "refused (message-too-large): over 5"
    );
    assert!(!server.is_called_within(Duration::from_mins(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_and_called_again() {
    let (server, client) = FakeServer::start().await;
    let mut publisher = client.with_silence(Duration::from_secs(5)).publisher();
    let serve = async {
        let mut silent = server.accept().await;
        let first = silent.request().await;
        let mut peer = server.accept().await;
        let second = peer.request().await;
        peer.answer("201 Created", "", CREATED).await;
        (key(&first), key(&second))
    };
    let message = outgoing("x");
    let ((first, second), receipt) = tokio::join!(serve, publisher.publish(&message));
    assert!(receipt.is_ok());
    assert_eq!(first, second);
}

#[tokio::test(start_paused = true)]
async fn everything_about_a_message_is_in_its_request() {
    let (server, client) = FakeServer::start().await;
    let mut publisher = client.publisher();
    let message = Outgoing {
        topic: tidings_types::Topic::new("a b/\u{e4}?#".replace('#', "")).unwrap(),
        content_type: Some("text/x".into()),
        event: Some("made".into()),
        headers: vec![("k".into(), "v w".into())],
        ttl: Some(Duration::from_mins(1)),
        retain: true,
        key: Some("own".into()),
        ..outgoing("pay\r\nload")
    };
    let serve = async {
        let mut peer = server.accept().await;
        let request = peer.request().await;
        peer.answer("200 OK", "", CREATED).await;
        request
    };
    let (request, receipt) = tokio::join!(serve, publisher.publish(&message));
    assert!(receipt.is_ok());
    assert!(
        request.starts_with("POST /v1/topics/a%20b/%C3%A4%3F HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\npay\r\nload"), "{request}");
    for (name, value) in [
        ("idempotency-key", "own"),
        ("content-type", "text/x"),
        ("tidings-event", "made"),
        ("tidings-ttl", "60"),
        ("tidings-retain", "true"),
        ("tidings-header-k", "v w"),
    ] {
        assert_eq!(header(&request, name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_would_forge_a_header_is_refused_here() {
    let (server, client) = FakeServer::start().await;
    let mut publisher = client.publisher();
    for message in [
        Outgoing {
            event: Some("a\r\nx: y".into()),
            ..outgoing("x")
        },
        Outgoing {
            headers: vec![("a b".into(), "v".into())],
            ..outgoing("x")
        },
        Outgoing {
            headers: vec![("a".into(), "v\n".into())],
            ..outgoing("x")
        },
    ] {
        assert_eq!(
            publisher.publish(&message).await.unwrap_err().code,
            "bad-parameter"
        );
    }
    assert!(!server.is_called_within(Duration::from_secs(1)).await);
}
