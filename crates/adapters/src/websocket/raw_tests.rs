use std::time::Duration;

use super::*;
use crate::websocket::testing::{Driver, Outcome, client, close_parts};
use tidings_ports::{Ending, Gap, GapReason, Tick};
use tidings_types::{Cursor, Epoch, Offset};

fn limits() -> Arc<Limits> {
    Arc::new(Limits {
        message_bytes_max: 1_000,
        heartbeat_ms: 8_000,
        silence_ms_max: 20_000,
        close_ms_max: 3_000,
        ..Limits::default()
    })
}

fn driver(filter: &str) -> Driver<RawConversation> {
    let options = RawOptions {
        filter: TopicFilter::new(filter.to_owned()).unwrap(),
        start: Start::Last(3),
        echo: false,
        deflate: None,
    };
    Driver::new(RawConversation::new(options, limits()))
}

fn open(filter: &str) -> Driver<RawConversation> {
    let mut driver = driver(filter);
    driver.opened();
    driver
}

/// The drafts of all publishes, as topic, payload and format.
fn published(out: &Outcome) -> Vec<(String, Vec<u8>, PayloadFormat)> {
    out.commands
        .iter()
        .filter_map(|command| match command {
            Command::Publish { drafts, .. } => Some(drafts),
            _ => None,
        })
        .flatten()
        .map(|draft| {
            (
                draft.topic.to_string(),
                draft.payload.to_vec(),
                draft.format,
            )
        })
        .collect()
}

/// That a close frame is the last frame, with the subscription ended, and gives its code and reason.
#[track_caller]
fn closed(out: &Outcome) -> (u16, String) {
    assert!(
        out.commands
            .iter()
            .any(|command| matches!(command, Command::Unsubscribe { key: KEY, .. })),
        "no message follows the close frame"
    );
    close_parts(out.frames.last().unwrap())
}

#[test]
fn opening_subscribes_as_the_request_said() {
    let out = driver("a/+").opened();
    let [
        Command::Subscribe {
            key,
            filters,
            start,
            framing,
            echo,
            ..
        },
    ] = &out.commands[..]
    else {
        panic!("one subscribe");
    };
    assert_eq!(
        (*key, filters[0].as_str(), start, *echo),
        (KEY, "a/+", &Start::Last(3), false)
    );
    let Framing::Shared(format) = framing else {
        panic!("shared frames");
    };
    assert_eq!(format.id(), "ws/raw");
    assert!(out.frames.is_empty() && out.ending.is_none());
}

#[test]
fn compression_selects_the_format_of_its_window() {
    let options = RawOptions {
        filter: TopicFilter::all(),
        start: Start::Latest,
        echo: true,
        deflate: Deflate::with_window_bits(12),
    };
    let out = Driver::new(RawConversation::new(options, limits())).opened();
    let [
        Command::Subscribe {
            framing: Framing::Shared(format),
            ..
        },
    ] = &out.commands[..]
    else {
        panic!("one subscribe");
    };
    assert_eq!(format.id(), "ws/raw+deflate12");
}

#[test]
fn each_message_in_is_published_with_its_format() {
    let mut driver = open("chat/lobby");
    let wire = [
        client(0x81, "hi ü".as_bytes()),
        client(0x82, b"\xff"),
        client(0x81, b""),
    ]
    .concat();
    let out = driver.receive(&wire);
    let topic = || "chat/lobby".to_owned();
    let expect = [
        (topic(), "hi ü".as_bytes().to_vec(), PayloadFormat::Text),
        (topic(), b"\xff".to_vec(), PayloadFormat::Binary),
        (topic(), Vec::new(), PayloadFormat::Text),
    ];
    assert_eq!(published(&out), expect);
    assert!(out.frames.is_empty() && out.ending.is_none());
    let tags: Vec<u64> = out
        .commands
        .iter()
        .map(|command| match command {
            Command::Publish { tag, .. } => tag.0,
            _ => 0,
        })
        .collect();
    assert_eq!(tags, [1, 2, 3]);
}

#[test]
fn publishing_to_a_wildcard_closes_with_what_to_do() {
    let mut driver = open("chat/#");
    let out = driver.receive(&client(0x81, b"hi"));
    let (code, reason) = closed(&out);
    assert_eq!(code, 1008);
    assert!(reason.contains("one topic"), "{reason}");
    assert!(reason.len() < 123, "not cut: {reason}");
    assert!(
        out.commands
            .iter()
            .any(|it| matches!(it, Command::Refused(it) if it.code == RefusalCode::BadTopic))
    );
    assert_eq!(out.ending, None, "the peer's close is awaited");
}

#[test]
fn a_refused_publish_or_subscription_closes_with_its_code() {
    for (code, close) in [
        (RefusalCode::Busy, 1013),
        (RefusalCode::Forbidden, 1008),
        (RefusalCode::StorageFailed, 1011),
    ] {
        for tag in [SUBSCRIBE, Tag(7)] {
            let mut driver = open("t");
            let refusal = Refusal::new(code, "ä".repeat(100));
            let out = driver.event(Event::Refused { tag, refusal });
            let (found, reason) = closed(&out);
            assert_eq!(found, close);
            assert_eq!(reason, "ä".repeat(61));
        }
    }
    let refusal = Refusal::new(RefusalCode::StorageFailed, "damaged");
    let out = open("t").event(Event::Lost { key: KEY, refusal });
    assert_eq!(closed(&out), (1011, "damaged".to_owned()));
}

#[test]
fn every_ping_is_answered_with_its_payload_in_order() {
    let mut driver = open("t");
    let wire = [
        client(0x89, b"old"),
        client(0x89, b"new"),
        client(0x8a, b""),
    ]
    .concat();
    let out = driver.receive(&wire);
    assert_eq!(out.frames, [&b"\x8a\x03old"[..], b"\x8a\x03new"]);
    let out = driver.receive(&[client(0x89, b"p"), client(0x88, b"\x03\xe8")].concat());
    assert_eq!(out.frames, [&b"\x8a\x01p"[..], b"\x88\x02\x03\xe8"]);
}

#[test]
fn the_peers_close_is_echoed_and_ends_the_connection() {
    for (wire, echo) in [
        (client(0x88, b"\x03\xe9bye"), &b"\x88\x02\x03\xe9"[..]),
        (client(0x88, b""), b"\x88\x00"),
    ] {
        let mut driver = open("t");
        let out = driver.receive(&[wire, client(0x81, b"too late")].concat());
        assert_eq!(out.frames, [echo]);
        assert_eq!(out.ending, Some(Ending::AfterFlush));
        assert!(published(&out).is_empty());
        let out = driver.receive(&client(0x81, b"later still"));
        assert!(out.commands.is_empty() && out.frames.is_empty());
    }
}

#[test]
fn a_protocol_violation_closes_and_ends_at_once() {
    for (wire, code) in [
        (b"\x81\x02hi".to_vec(), 1002),
        (client(0x81, b"\xff"), 1007),
        (client(0x81, &[b'x'; 1_001]), 1009),
        (client(0xc1, b"\x00"), 1002),
    ] {
        let mut driver = open("t");
        let out = driver.receive(&[client(0x81, b"before"), wire].concat());
        assert_eq!(published(&out).len(), 1, "what came before it counts");
        assert_eq!(close_parts(&out.frames[0]).0, code);
        assert_eq!(out.frames.len(), 1);
        assert_eq!(out.ending, Some(Ending::AfterFlush));
        assert!(matches!(out.commands.last(), Some(Command::Refused(_))));
    }
}

#[test]
fn pings_go_out_at_every_heartbeat_with_jitter() {
    let mut driver = driver("t");
    let mut wake = driver.opened().wake.unwrap();
    for _ in 0..5 {
        let waited = wake.0 - driver.now.0;
        assert!((7_000..=9_000).contains(&waited), "{waited}");
        let out = driver.tick_at(wake);
        assert_eq!(out.frames, [&b"\x89\x00"[..]]);
        wake = out.wake.unwrap();
        driver.receive(&client(0x8a, b""));
    }
    let early = driver.tick_at(driver.now.plus_ms(1));
    assert!(early.frames.is_empty(), "not before it is time");
}

#[test]
fn a_silent_peer_is_closed_and_any_byte_counts_as_life() {
    let mut driver = open("t");
    driver.now = Tick(20_999);
    driver.receive(&client(0x81, b"half of a frame")[..3]);
    assert!(driver.tick_at(Tick(40_998)).ending.is_none());
    let out = driver.tick_at(Tick(40_999));
    assert_eq!(close_parts(&out.frames[0]).0, 1001);
    assert_eq!(out.ending, Some(Ending::AfterFlush));
    let silent = |it: &Refusal| it.code == RefusalCode::Silent;
    assert!(matches!(&out.commands[..], [Command::Refused(it)] if silent(it)));
}

#[test]
fn a_slow_peer_whose_bytes_are_left_unread_is_not_silent() {
    let mut driver = open("t");
    driver.now = Tick(40_999);
    let out = driver.call(|conversation, turn| {
        turn.is_slow = true;
        conversation.tick(turn);
    });
    assert_eq!(out.ending, None);
    assert!(driver.tick_at(Tick(60_998)).ending.is_none());
    let out = driver.tick_at(Tick(60_999));
    assert_eq!(out.ending, Some(Ending::AfterFlush));
}

#[test]
fn draining_says_when_to_come_back_and_waits_for_the_peers_close() {
    let drain = || Event::Drain {
        reconnect_after: Duration::from_millis(3_200),
        refusal: Refusal::new(RefusalCode::ShuttingDown, "the server is restarting"),
    };
    let mut driver = open("t");
    let out = driver.event(drain());
    assert_eq!(
        closed(&out),
        (1012, "restarting, reconnect in 3200 ms".to_owned())
    );
    assert_eq!((out.ending, out.wake), (None, Some(Tick(4_000))));
    assert!(
        driver.event(drain()).frames.is_empty(),
        "one close frame only"
    );
    assert!(
        driver
            .receive(&client(0x81, b"ignored"))
            .commands
            .is_empty()
    );
    assert!(driver.receive(&client(0x89, b"ignored")).frames.is_empty());
    assert_eq!(driver.tick_at(Tick(3_999)).ending, None);
    assert_eq!(driver.tick_at(Tick(4_000)).ending, Some(Ending::AtOnce));

    let mut driver = open("t");
    driver.event(drain());
    let out = driver.receive(&client(0x88, b"\x03\xf4"));
    assert!(out.frames.is_empty());
    assert_eq!(out.ending, Some(Ending::AfterFlush));
}

#[test]
fn a_gap_is_not_told_and_the_connection_goes_on() {
    let mut driver = open("t");
    let resume = Cursor {
        epoch: Epoch(1),
        offset: Offset(9),
    };
    let gap = Gap {
        reason: GapReason::Retention,
        after: None,
        resume,
    };
    let out = driver.event(Event::Gap { key: KEY, gap });
    assert!(out.frames.is_empty() && out.ending.is_none());
    assert_eq!(published(&driver.receive(&client(0x81, b"hi"))).len(), 1);
}

#[test]
fn a_half_closed_connection_ends_after_the_flush() {
    let out = open("t").event(Event::PeerFinished);
    assert_eq!(out.ending, Some(Ending::AfterFlush));
}

#[test]
fn an_idle_conversation_is_small() {
    assert!(
        size_of::<RawConversation>() <= 200,
        "{}",
        size_of::<RawConversation>()
    );
}

#[test]
fn an_incomplete_message_keeps_no_more_than_the_limit() {
    let mut driver = open("t");
    for piece in client(0x81, &[b'x'; 1_000])[..1_000].chunks(10) {
        driver.receive(piece);
        assert!(driver.conversation.link.buffered() <= 1_000);
    }
    assert!(driver.conversation.link.buffered() > 900);
}
