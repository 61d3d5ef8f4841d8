//! Work queues: taking part, what comes, verdicts, and the end.

use std::time::Duration;

use serde_json::json;
use tidings_ports::{
    Command, Conversation as _, Delivery, Event, Expiry, Framed, Framing, Settle, Start,
    SubscriptionKey, Tag, Verdict,
};
use tidings_types::{Cursor, Epoch, Limits, Offset, Refusal, RefusalCode, Timestamp};

use super::tests::{answers, cursor, open, send, tag};
use super::{Deflate, TidingsConversation};
use crate::websocket::deflate::inflate;
use crate::websocket::testing::{Driver, client, message, parts};

const KEY: SubscriptionKey = SubscriptionKey(1);

/// A conversation with a member of `workers`, as sub 1.
fn working() -> Driver<TidingsConversation> {
    let mut driver = open();
    let out = send(
        &mut driver,
        r#"{"op":"subscribe","topic":"jobs/#","group":"workers"}"#,
    );
    driver.event(Event::Subscribed {
        tag: tag(&out),
        key: KEY,
        cursor: cursor(3),
    });
    driver
}

/// The frames of a message that came so often before.
fn offered(
    driver: &mut Driver<TidingsConversation>,
    payload: &[u8],
    redelivered: u32,
) -> (Framed, Vec<bytes::Bytes>) {
    let message = message("jobs/a", payload);
    let delivery = Delivery {
        key: KEY,
        message: &message,
        retained: false,
        own: false,
        redelivered,
        now: Timestamp(2_000),
    };
    let mut frames = Vec::new();
    let framed = driver.conversation.frame(delivery, &mut frames);
    (framed, frames)
}

#[test]
fn a_member_joins_the_queue_of_its_group_and_filter() {
    let expect_name = "share/workers/jobs/#";
    for (fields, start, prefetch, ack_timeout_ms) in [
        ("", Start::Earliest, 64, None),
        (r#","after":"latest""#, Start::Latest, 64, None),
        (r#","last":7"#, Start::Last(7), 64, None),
        (
            r#","after":"earliest","prefetch":1"#,
            Start::Earliest,
            1,
            None,
        ),
        (
            r#","ack_timeout":2.5,"prefetch":10000,"echo":true"#,
            Start::Earliest,
            10_000,
            Some(2_500),
        ),
    ] {
        let request = format!(r#"{{"op":"subscribe","topic":"jobs/#","group":"workers"{fields}}}"#);
        let mut out = send(&mut open(), &request);
        let Some(Command::Subscribe {
            filters,
            start: found,
            framing: Framing::Own,
            echo: true,
            group: Some(group),
            ..
        }) = out.commands.pop()
        else {
            panic!("{fields}: a subscribe, not {:?}", answers(&out));
        };
        assert_eq!((filters[0].as_str(), found), ("jobs/#", start), "{fields}");
        assert_eq!(group.name, expect_name);
        assert_eq!(group.prefetch, prefetch, "{fields}");
        assert_eq!(group.expiry, Expiry::Never);
        let expect = ack_timeout_ms.map(Duration::from_millis);
        assert_eq!(group.ack_timeout, expect, "{fields}");
    }
}

#[test]
fn the_answer_names_the_group() {
    let mut driver = open();
    let out = send(
        &mut driver,
        r#"{"op":"subscribe","id":1,"topics":["jobs/#"],"group":"w \"1\""}"#,
    );
    let out = driver.event(Event::Subscribed {
        tag: tag(&out),
        key: KEY,
        cursor: cursor(3),
    });
    let (_, text) = parts(&out.frames[0]);
    let at = cursor(3);
    let expect = format!(
        r#"{{"op":"ok","id":1,"sub":1,"topic":"jobs/#","group":"w \"1\"","cursor":"{at}"}}"#
    );
    assert_eq!(text, expect.as_bytes());
}

#[test]
fn a_message_says_by_which_sub_it_came_and_how_often() {
    let mut driver = working();
    for (redelivered, deliveries) in [(0, 1), (2, 3)] {
        let (framed, frames) = offered(&mut driver, b"work", redelivered);
        assert_eq!(framed, Framed::Put);
        let (first, text) = parts(&frames[0]);
        assert_eq!((frames.len(), first), (1, 0x81));
        let expect = format!(
            r#"{{"op":"message","sub":1,"deliveries":{deliveries},"topic":"jobs/a","id":"{}","time":1234,"data":"work"}}"#,
            cursor(5)
        );
        assert_eq!(text, expect.as_bytes());
    }
}

#[test]
fn a_long_message_of_a_queue_is_deflated_if_the_peer_inflates() {
    let deflate = Deflate::with_window_bits(12);
    let limits = std::sync::Arc::new(Limits::default());
    let mut driver = Driver::new(TidingsConversation::new(deflate, limits));
    driver.opened();
    let (_, frames) = offered(&mut driver, &[b'x'; 300], 0);
    let (first, bytes) = parts(&frames[0]);
    assert_eq!(first, 0xc1);
    let text = inflate(bytes, 1_000).unwrap();
    assert!(text.starts_with(br#"{"op":"message","sub":1,"deliveries":1,"topic":"jobs/a","#));
}

#[test]
fn nothing_is_framed_behind_a_close_frame_and_the_queue_gets_it_back() {
    let mut driver = working();
    let out = driver.receive(&client(0x82, b"binary"));
    assert!(matches!(
        out.commands[..],
        [
            Command::Unsubscribe {
                key: KEY,
                forget: false,
                ..
            },
            Command::Refused(_)
        ]
    ));
    let (framed, frames) = offered(&mut driver, b"work", 0);
    assert_eq!((framed, frames.len()), (Framed::Full, 0));
}

#[test]
fn each_verdict_settles_one_message() {
    let at = cursor(5);
    for (request, verdict) in [
        (r#""op":"ack""#, Verdict::Ack),
        (r#""op":"nack""#, Verdict::Nack),
        (r#""op":"nack","requeue":null"#, Verdict::Nack),
        (r#""op":"nack","requeue":true"#, Verdict::Nack),
        (r#""op":"nack","requeue":false"#, Verdict::Reject),
    ] {
        for id in ["", r#","id":null"#] {
            let request = format!(r#"{{{request}{id},"sub":1,"message":"{at}"}}"#);
            let out = send(&mut working(), &request);
            let [Command::Settle { tag: None, settle }] = out.commands[..] else {
                panic!("{request}: one verdict, not {:?}", answers(&out));
            };
            let expect = Settle {
                key: KEY,
                offset: Offset(5),
                verdict,
            };
            assert_eq!(settle, expect, "{request}");
            assert!(out.frames.is_empty());
        }
    }
}

#[test]
fn a_verdict_with_an_id_is_answered_when_it_is_durable() {
    let mut driver = working();
    let request = |id: &str| {
        format!(
            r#"{{"op":"ack","id":{id},"sub":1,"message":"{}"}}"#,
            cursor(5)
        )
    };
    let first = send(&mut driver, &request("7"));
    assert!(first.frames.is_empty(), "the answer comes with the commit");
    let second = tag(&send(&mut driver, &request(r#""b""#)));
    let refusal = Refusal::new(RefusalCode::NotYours, "too late");
    let out = driver.event(Event::Refused {
        tag: second,
        refusal,
    });
    let expect = json!({"op":"error","id":"b","code":"not-yours","message":"too late"});
    assert_eq!(answers(&out), [expect]);
    let out = driver.event(Event::Settled { tag: tag(&first) });
    assert_eq!(parts(&out.frames[0]).1, br#"{"op":"ok","id":7}"#);
    assert!(driver.conversation.pending.is_empty());
}

/// Has the verdict refused, in a conversation with a member as sub 1, and an ordinary subscription as sub 2.
#[track_caller]
fn check_unsettled(sub: u32, message: Cursor, code: &str, text: &str) {
    let mut driver = working();
    send(&mut driver, r#"{"op":"subscribe","topic":"jobs/#"}"#);
    let request = format!(r#"{{"op":"nack","id":1,"sub":{sub},"message":"{message}"}}"#);
    let out = send(&mut driver, &request);
    let found = answers(&out);
    assert_eq!(
        (&found[0]["op"], &found[0]["code"]),
        (&json!("error"), &json!(code))
    );
    let detail = found[0]["message"].as_str().unwrap();
    assert!(detail.contains(text), "{detail}");
    assert!(matches!(out.commands[..], [Command::Refused(_)]));
}

#[test]
fn a_verdict_that_can_not_count_is_an_error() {
    let foreign = Cursor {
        epoch: Epoch(2),
        offset: Offset(5),
    };
    check_unsettled(3, cursor(5), "not-found", "no such subscription");
    check_unsettled(
        2,
        cursor(5),
        "bad-parameter",
        "sub 2 takes part in no work queue",
    );
    check_unsettled(1, foreign, "not-yours", "another log");
    // Before it is known of which log the messages are, none has come.
    let mut driver = open();
    send(&mut driver, r#"{"op":"subscribe","topic":"a","group":"w"}"#);
    let request = format!(r#"{{"op":"ack","sub":1,"message":"{}"}}"#, cursor(5));
    assert_eq!(
        answers(&send(&mut driver, &request))[0]["code"],
        "not-yours"
    );
}

#[test]
fn a_queue_stands_beside_other_groups_and_ordinary_subscriptions_of_its_topic() {
    let mut driver = working();
    for (fields, is_taken) in [
        (r#""topic":"jobs/#","group":"workers""#, false),
        (r#""topic":"jobs/#","group":"others""#, true),
        (r#""topic":"jobs/#""#, true),
    ] {
        let out = send(&mut driver, &format!(r#"{{"op":"subscribe",{fields}}}"#));
        let is_subscribe = matches!(out.commands[..], [Command::Subscribe { .. }]);
        assert_eq!(is_subscribe, is_taken, "{fields}");
    }
    // By its topic the ordinary subscription alone is named.
    for expect in [Some(SubscriptionKey(3)), None] {
        let out = send(&mut driver, r#"{"op":"unsubscribe","topic":"jobs/#"}"#);
        let found = match out.commands[..] {
            [Command::Unsubscribe { key, .. }] => Some(key),
            _ => None,
        };
        assert_eq!(found, expect);
    }
}

#[test]
fn a_queue_is_forgotten_on_request_alone() {
    for (field, expect) in [
        ("", false),
        (r#","forget":false"#, false),
        (r#","forget":true"#, true),
    ] {
        let mut driver = working();
        let request = format!(r#"{{"op":"unsubscribe","id":2,"sub":1{field}}}"#);
        let out = send(&mut driver, &request);
        let [Command::Unsubscribe { tag, key, forget }] = out.commands[..] else {
            panic!("{field}: an end, not {:?}", answers(&out));
        };
        assert_eq!((key, forget), (KEY, expect), "{field}");
        let out = driver.event(Event::Unsubscribed { tag, key });
        assert_eq!(answers(&out), [json!({"op":"ok","id":2})]);
    }
    let mut driver = open();
    send(&mut driver, r#"{"op":"subscribe","topic":"a"}"#);
    let out = send(
        &mut driver,
        r#"{"op":"unsubscribe","topic":"a","forget":true}"#,
    );
    let found = answers(&out);
    assert_eq!(found[0]["code"], "bad-parameter");
    let detail = found[0]["message"].as_str().unwrap();
    assert!(
        detail.contains("`forget` must be left out here"),
        "{detail}"
    );
    assert_eq!(driver.conversation.subscriptions.len(), 1);
}

#[test]
fn a_queue_that_is_lost_or_refused_is_named() {
    let mut driver = working();
    let refusal = Refusal::new(RefusalCode::StorageFailed, "damaged");
    let out = driver.event(Event::Lost { key: KEY, refusal });
    let expect = json!({
        "op":"error","code":"storage-failed","message":"damaged","sub":1,"topic":"jobs/#","group":"workers"
    });
    assert_eq!(answers(&out), [expect]);
    let request = format!(r#"{{"op":"ack","sub":1,"message":"{}"}}"#, cursor(5));
    assert_eq!(
        answers(&send(&mut driver, &request))[0]["code"],
        "not-found"
    );
    let out = send(
        &mut driver,
        r#"{"op":"subscribe","id":4,"topic":"jobs/#","group":"workers"}"#,
    );
    let refusal = Refusal::new(RefusalCode::TooManySessions, "full");
    assert_eq!(tag(&out), Tag(2));
    let out = driver.event(Event::Refused {
        tag: tag(&out),
        refusal,
    });
    assert_eq!(answers(&out)[0]["code"], "too-many-sessions");
    assert!(driver.conversation.subscriptions.is_empty());
}
