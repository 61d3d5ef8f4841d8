use std::time::Duration;

use super::*;
use crate::websocket::testing::{Driver, Outcome, client, close_parts, parts};
use serde_json::{Value, json};
use tidings_ports::{Ending, GapReason, Start};
use tidings_types::{Cursor, Epoch, Offset, PayloadFormat, Timestamp};

pub(super) fn open() -> Driver<TidingsConversation> {
    let limits = Limits {
        message_bytes_max: 100,
        subscriptions_per_connection_max: 3,
        filters_per_subscription_max: 2,
        publishes_in_flight_max: 1,
        message_headers_max: 2,
        message_header_bytes_max: 50,
        key_bytes_max: 10,
        ..Limits::default()
    };
    let mut driver = Driver::new(TidingsConversation::new(None, Arc::new(limits)));
    driver.opened();
    driver
}

pub(super) fn send(driver: &mut Driver<TidingsConversation>, request: &str) -> Outcome {
    driver.receive(&client(0x81, request.as_bytes()))
}

/// The JSON of every frame.
pub(super) fn answers(out: &Outcome) -> Vec<Value> {
    out.frames
        .iter()
        .map(|frame| {
            let (first, json) = parts(frame);
            assert_eq!(first, 0x81);
            serde_json::from_slice(json).unwrap()
        })
        .collect()
}

/// The only command's tag.
#[track_caller]
pub(super) fn tag(out: &Outcome) -> Tag {
    match &out.commands[..] {
        [
            Command::Publish { tag, .. }
            | Command::Subscribe { tag, .. }
            | Command::Unsubscribe { tag, .. }
            | Command::Settle { tag: Some(tag), .. },
        ] => *tag,
        _ => panic!("one command, not {:?}", answers(out)),
    }
}

/// The only draft.
#[track_caller]
fn draft(out: Outcome) -> tidings_types::Draft {
    let found = answers(&out);
    match out.commands.into_iter().next() {
        Some(Command::Publish { mut drafts, .. }) => drafts.remove(0),
        _ => panic!("one publish, not {found:?}"),
    }
}

pub(super) fn cursor(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        offset: Offset(offset),
    }
}

#[test]
fn the_id_comes_back_as_it_was_written() {
    let mut driver = open();
    for id in [
        "1",
        "-7",
        "18446744073709551615",
        r#""a b""#,
        r#""\u00fc""#,
        r#""""#,
    ] {
        let out = send(&mut driver, &format!(r#"{{"id":{id},"op":"ping"}}"#));
        let expect = format!(r#"{{"op":"ok","id":{id}}}"#);
        assert_eq!(parts(&out.frames[0]).1, expect.as_bytes());
    }
    let out = send(&mut driver, r#"{"op":"ping","id":null}"#);
    assert_eq!(parts(&out.frames[0]).1, br#"{"op":"ok"}"#);
    let long = "ä".repeat(64);
    let out = send(&mut driver, &format!(r#"{{"op":"ping","id":"{long}"}}"#));
    assert_eq!(answers(&out)[0]["id"], long);
}

#[test]
fn an_error_carries_the_id_wherever_it_stands() {
    let out = send(&mut open(), r#"{"op":"publish","bad":1,"id":"x"}"#);
    assert_eq!(answers(&out)[0]["id"], "x");
    let out = send(
        &mut open(),
        r#"{"op":"publish","ttl":0,"topic":"a","data":1,"id":5}"#,
    );
    assert_eq!(answers(&out)[0]["id"], 5);
}

#[test]
fn a_publish_becomes_a_draft_with_everything_in_it() {
    let request = r#"{"op":"publish","id":1,"topic":"a/b","data":"say \"hi\" \u00fc","event":"chat","key":"k1","ttl":1.5,"retain":true,"content_type":"text/plain","headers":{"x":["1","2"]}}"#;
    let out = send(&mut open(), request);
    assert!(out.frames.is_empty(), "the answer comes with the commit");
    let draft = draft(out);
    assert_eq!(draft.topic.as_str(), "a/b");
    assert_eq!(draft.payload, "say \"hi\" ü");
    assert_eq!(draft.format, PayloadFormat::Text);
    assert_eq!(draft.ttl, Some(Duration::from_millis(1_500)));
    assert!(draft.retain);
    assert_eq!(draft.key.as_deref(), Some("k1"));
    assert_eq!(draft.properties.event.as_deref(), Some("chat"));
    assert_eq!(draft.properties.content_type.as_deref(), Some("text/plain"));
    let headers: Vec<(&str, &str)> = draft
        .properties
        .headers
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(headers, [("x", "1"), ("x", "2")]);
}

#[test]
fn data_is_text_or_any_json_and_base64_is_bytes() {
    let json_type = Some("application/json");
    for (field, payload, format, content_type) in [
        (
            r#""data":"plain ü""#,
            "plain ü".as_bytes(),
            PayloadFormat::Text,
            None,
        ),
        (r#""data":"""#, b"", PayloadFormat::Text, None),
        (
            r#""data":{"a": [1, null]}"#,
            br#"{"a": [1, null]}"#,
            PayloadFormat::Text,
            json_type,
        ),
        (r#""data":null"#, b"null", PayloadFormat::Text, json_type),
        (r#""data":1e400"#, b"1e400", PayloadFormat::Text, json_type),
        (
            r#""data":{},"content_type":"x/y+json""#,
            b"{}",
            PayloadFormat::Text,
            Some("x/y+json"),
        ),
        (
            r#""base64":"/wA=""#,
            b"\xff\x00",
            PayloadFormat::Binary,
            None,
        ),
        (
            r#""base64":"/wA""#,
            b"\xff\x00",
            PayloadFormat::Binary,
            None,
        ),
        (r#""base64":"""#, b"", PayloadFormat::Binary, None),
    ] {
        let out = send(
            &mut open(),
            &format!(r#"{{"op":"publish","topic":"t",{field}}}"#),
        );
        let draft = draft(out);
        assert_eq!(draft.payload, payload, "{field}");
        assert_eq!(draft.format, format, "{field}");
        assert_eq!(
            draft.properties.content_type.as_deref(),
            content_type,
            "{field}"
        );
    }
}

#[test]
fn a_publish_is_answered_when_it_is_committed() {
    let mut driver = open();
    let first = tag(&send(
        &mut driver,
        r#"{"op":"publish","id":1,"topic":"t","data":"a"}"#,
    ));
    let second = tag(&send(
        &mut driver,
        r#"{"op":"publish","id":2,"topic":"t","data":"b"}"#,
    ));
    let receipt = Receipt {
        cursor: cursor(9),
        time: Timestamp(77),
        replayed: true,
    };
    let out = driver.event(Event::Published {
        tag: second,
        receipts: vec![receipt],
    });
    let expect = json!({"op":"ok","id":2,"cursor":cursor(9).to_string(),"time":77,"replayed":true});
    assert_eq!(answers(&out), [expect]);
    let refusal = Refusal::new(RefusalCode::Busy, "wait");
    let out = driver.event(Event::Refused {
        tag: first,
        refusal,
    });
    let expect = json!({"op":"error","id":1,"code":"busy","message":"wait","retry_after":1});
    assert_eq!(answers(&out), [expect]);
    assert!(out.commands.is_empty(), "the hub has counted it");
    assert!(driver.conversation.pending.is_empty());
}

#[test]
fn a_subscription_lives_from_its_answer_to_its_end() {
    let mut driver = open();
    let out = send(
        &mut driver,
        r#"{"op":"subscribe","id":1,"topic":"a/+","last":5,"echo":false}"#,
    );
    let Command::Subscribe {
        tag,
        key,
        filters,
        start,
        framing,
        echo,
        ..
    } = &out.commands[0]
    else {
        panic!("a subscribe");
    };
    assert_eq!(
        (filters[0].as_str(), start, *echo),
        ("a/+", &Start::Last(5), false)
    );
    let Framing::Shared(format) = framing else {
        panic!("shared frames");
    };
    assert_eq!(format.id(), "tidings/json");
    let out = driver.event(Event::Subscribed {
        tag: *tag,
        key: *key,
        cursor: cursor(3),
    });
    let at = cursor(3).to_string();
    assert_eq!(
        answers(&out),
        [json!({"op":"ok","id":1,"sub":1,"topic":"a/+","cursor":at})]
    );

    let out = send(&mut driver, r#"{"op":"subscribe","id":2,"topic":"a/+"}"#);
    assert!(
        answers(&out)[0]["message"]
            .as_str()
            .unwrap()
            .contains("already subscribed, as sub 1")
    );

    let out = send(&mut driver, r#"{"op":"unsubscribe","id":3,"topic":"a/+"}"#);
    let out = driver.event(Event::Unsubscribed {
        tag: self::tag(&out),
        key: *key,
    });
    assert_eq!(answers(&out), [json!({"op":"ok","id":3})]);
    assert!(driver.conversation.subscriptions.is_empty());
}

#[test]
fn several_topics_are_one_subscription_that_ends_by_its_number() {
    let mut driver = open();
    let out = send(
        &mut driver,
        r#"{"op":"subscribe","id":1,"topics":["a","b/#"],"after":"earliest"}"#,
    );
    let Command::Subscribe { filters, start, .. } = &out.commands[0] else {
        panic!("a subscribe");
    };
    assert_eq!((filters.len(), start), (2, &Start::Earliest));
    let out = driver.event(Event::Subscribed {
        tag: tag(&out),
        key: SubscriptionKey(1),
        cursor: cursor(0),
    });
    assert_eq!(answers(&out)[0]["topics"], json!(["a", "b/#"]));
    let out = send(&mut driver, r#"{"op":"unsubscribe","id":2,"topic":"a"}"#);
    assert_eq!(answers(&out)[0]["code"], "not-found");
    let out = send(&mut driver, r#"{"op":"unsubscribe","id":2,"sub":1}"#);
    assert!(matches!(
        out.commands[..],
        [Command::Unsubscribe {
            key: SubscriptionKey(1),
            ..
        }]
    ));
}

#[test]
fn a_subscribe_is_answered_also_if_it_was_ended_meanwhile() {
    let mut driver = open();
    let out = send(
        &mut driver,
        r#"{"op":"subscribe","id":1,"topic":"a","last":3}"#,
    );
    let subscribe = tag(&out);
    send(&mut driver, r#"{"op":"unsubscribe","id":2,"sub":1}"#);
    let out = driver.event(Event::Subscribed {
        tag: subscribe,
        key: SubscriptionKey(1),
        cursor: cursor(0),
    });
    assert_eq!(answers(&out)[0]["id"], 1);
    assert_eq!(answers(&out)[0]["sub"], 1);
}

#[test]
fn a_start_is_read_from_after_and_last() {
    let resume = cursor(12).to_string();
    for (fields, expect) in [
        (String::new(), Start::Latest),
        (r#","after":null"#.into(), Start::Latest),
        (r#","after":"latest""#.into(), Start::Latest),
        (r#","after":"retained""#.into(), Start::Retained),
        (r#","last":0"#.into(), Start::Latest),
        (r#","last":10000"#.into(), Start::Last(10_000)),
        (format!(r#","after":"{resume}""#), Start::After(cursor(12))),
    ] {
        let out = send(
            &mut open(),
            &format!(r#"{{"op":"subscribe","topic":"t"{fields}}}"#),
        );
        let Some(Command::Subscribe { start, .. }) = out.commands.first() else {
            panic!("{fields}: a subscribe");
        };
        assert_eq!(*start, expect, "{fields}");
    }
}

#[test]
fn a_refused_subscription_makes_room_for_another() {
    let mut driver = open();
    for n in 1..=3 {
        send(
            &mut driver,
            &format!(r#"{{"op":"subscribe","topic":"t{n}"}}"#),
        );
    }
    let out = send(&mut driver, r#"{"op":"subscribe","id":4,"topic":"t4"}"#);
    assert_eq!(answers(&out)[0]["code"], "too-many-subscriptions");
    let refusal = Refusal::new(RefusalCode::Forbidden, "not yours");
    let out = driver.event(Event::Refused {
        tag: Tag(2),
        refusal,
    });
    assert_eq!(answers(&out)[0]["code"], "forbidden");
    let out = send(&mut driver, r#"{"op":"subscribe","id":4,"topic":"t4"}"#);
    assert_eq!(out.commands.len(), 1);
    assert!(out.frames.is_empty());
}

#[test]
fn unanswered_requests_are_bounded() {
    let mut driver = open();
    for _ in 0..PIPELINE_FACTOR {
        tag(&send(
            &mut driver,
            r#"{"op":"publish","topic":"t","data":1}"#,
        ));
    }
    let out = send(
        &mut driver,
        r#"{"op":"publish","id":"x","topic":"t","data":1}"#,
    );
    assert_eq!(answers(&out)[0]["code"], "rate-limited");
    assert_eq!(answers(&out)[0]["id"], "x");
}

#[test]
fn gaps_and_lost_subscriptions_are_told() {
    let mut driver = open();
    let key = SubscriptionKey(1);
    send(&mut driver, r#"{"op":"subscribe","topic":"a"}"#);
    let gap = Gap {
        reason: GapReason::Retention,
        after: Some(cursor(2)),
        resume: cursor(8),
    };
    let out = driver.event(Event::Gap { key, gap });
    let (after, resume) = (cursor(2).to_string(), cursor(8).to_string());
    let expect =
        json!({"op":"gap","sub":1,"topic":"a","reason":"retention","after":after,"cursor":resume});
    assert_eq!(answers(&out), [expect]);
    let gap = Gap { after: None, ..gap };
    assert_eq!(
        answers(&driver.event(Event::Gap { key, gap }))[0]["after"],
        Value::Null
    );
    let refusal = Refusal::new(RefusalCode::StorageFailed, "damaged");
    let out = driver.event(Event::Lost { key, refusal });
    let expect =
        json!({"op":"error","code":"storage-failed","message":"damaged","sub":1,"topic":"a"});
    assert_eq!(answers(&out), [expect]);
    assert!(driver.conversation.subscriptions.is_empty());
}

#[test]
fn a_peer_is_told_that_its_credential_ends() {
    let mut driver = open();
    let out = driver.event(Event::Expiring {
        left: Duration::from_millis(59_950),
    });
    let expect = br#"{"op":"expiring","expires_in_ms":59950}"#;
    assert_eq!(parts(&out.frames[0]).1, expect);
}

#[test]
fn draining_tells_when_to_come_back_and_closes() {
    let mut driver = open();
    send(&mut driver, r#"{"op":"subscribe","topic":"a"}"#);
    let out = driver.event(Event::Drain {
        reconnect_after: Duration::from_millis(3_200),
        refusal: Refusal::new(RefusalCode::ShuttingDown, "the server is restarting"),
    });
    assert_eq!(
        parts(&out.frames[0]).1,
        br#"{"op":"drain","reconnect_ms":3200,"code":"shutting-down","message":"the server is restarting"}"#
    );
    let expect = (1012, "restarting, reconnect in 3200 ms".to_owned());
    assert_eq!(close_parts(&out.frames[1]), expect);
    assert!(matches!(
        out.commands[..],
        [Command::Unsubscribe {
            key: SubscriptionKey(1),
            ..
        }]
    ));
    let out = driver.event(Event::Unsubscribed {
        tag: tag(&out),
        key: SubscriptionKey(1),
    });
    assert!(out.frames.is_empty(), "nothing follows the close frame");
    let out = driver.receive(&client(0x88, b"\x03\xf4"));
    assert_eq!(out.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_binary_message_closes() {
    let mut driver = open();
    send(&mut driver, r#"{"op":"subscribe","topic":"a"}"#);
    let out = driver.receive(&client(0x82, br#"{"op":"ping"}"#));
    assert_eq!(close_parts(&out.frames[0]).0, 1003);
    assert!(matches!(out.commands[0], Command::Unsubscribe { .. }));
}

#[test]
fn any_token_is_accepted_while_there_are_no_credentials() {
    let out = send(&mut open(), r#"{"op":"auth","id":1,"token":"abc"}"#);
    assert_eq!(answers(&out), [json!({"op":"ok","id":1})]);
}

#[test]
fn an_idle_conversation_is_small() {
    let size = size_of::<TidingsConversation>();
    assert!(size <= 200, "{size}");
}

#[test]
fn mutated_requests_never_panic_and_always_answer_or_ask() {
    let seeds = [
        r#"{"op":"publish","id":1,"topic":"a/b","data":"x\n","ttl":1.5,"headers":{"x":["1"]}}"#,
        r#"{"op":"subscribe","id":"q","topics":["a","b/#"],"after":"earliest","echo":false}"#,
        r#"{"op":"subscribe","topic":"a/#","group":"w","prefetch":5,"ack_timeout":1.5,"last":3}"#,
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] = 0x20 + next(0x5f) as u8,
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[]\",:\\0u"[next(10)]),
                _ => bytes.truncate(at + 1),
            }
        }
        let Ok(text) = str::from_utf8(&bytes) else {
            continue;
        };
        let out = send(&mut open(), text);
        assert_eq!(out.ending, None);
        assert_eq!(out.commands.len(), 1, "{text}");
        assert_eq!(
            out.frames.len(),
            usize::from(matches!(out.commands[0], Command::Refused(_)))
        );
    }
}
