use std::time::Duration;

use tidings_ports::{Gap, GapReason, Start, Tick};
use tidings_types::{RefusalCode, TopicFilter};

use super::super::tests::{Reader, gunzip};
use super::*;
use crate::http::testing::{cursor, message};

#[derive(Default)]
struct Turned {
    commands: Vec<Command>,
    bytes: Vec<u8>,
    ending: Option<Ending>,
    wake: Option<Tick>,
}

fn turn(random: u64, step: impl FnOnce(&mut Turn<'_>)) -> Turned {
    let (mut commands, mut frames) = (Vec::new(), Vec::new());
    let mut turn = Turn {
        now: Tick(1_000),
        is_slow: false,
        random,
        commands: &mut commands,
        frames: &mut frames,
        ending: None,
        wake: None,
    };
    step(&mut turn);
    let (ending, wake) = (turn.ending, turn.wake);
    Turned {
        commands,
        bytes: frames.concat(),
        ending,
        wake,
    }
}

fn request() -> SseRequest {
    SseRequest {
        filters: vec![TopicFilter::new("t").unwrap()],
        start: Start::Earliest,
        format: Format::Raw,
        padding: false,
        gzip: true,
    }
}

fn stream(request: SseRequest, gzip: bool) -> SseConversation {
    SseConversation::new(request, gzip, Arc::new(Limits::default()))
}

fn subscribed() -> Event {
    Event::Subscribed {
        tag: TAG,
        key: KEY,
        cursor: cursor(4),
    }
}

#[test]
fn a_stream_begins_at_once_and_then_says_where_it_is() {
    let mut stream = stream(request(), false);
    let opened = turn(10, |turn| stream.opened(turn));
    let [
        Command::Subscribe {
            filters,
            start,
            framing,
            echo: true,
            ..
        },
    ] = &opened.commands[..]
    else {
        panic!("one subscription");
    };
    assert_eq!(filters[0].as_str(), "t");
    assert_eq!(*start, Start::Earliest);
    assert!(matches!(framing, Framing::Shared(format) if format.id() == "sse/raw"));
    assert_eq!(opened.bytes, b"retry: 1510\n: tidings\n\n");
    let told = turn(0, |turn| stream.event(subscribed(), turn));
    assert_eq!(told.bytes, format!("id: {}\n\n", cursor(4)).as_bytes());
    let whole = [opened.bytes, told.bytes].concat();
    let reader = Reader::read(&whole);
    assert_eq!(reader.events, []);
    assert_eq!(reader.last_id, cursor(4).to_string());
    // The connection is opened once.
    assert!(turn(0, |turn| stream.opened(turn)).commands.is_empty());
}

#[test]
fn a_reader_is_told_where_and_when_to_renew_its_credential() {
    for gzip in [false, true] {
        let mut stream = stream(request(), gzip);
        stream.set_renewal("/v1/streams/x/auth".to_owned());
        let opened = turn(0, |turn| stream.opened(turn));
        let left = Duration::from_millis(59_900);
        let told = turn(0, |turn| stream.event(Event::Expiring { left }, turn));
        assert_eq!(told.ending, None);
        let mut whole = [opened.bytes, told.bytes].concat();
        if gzip {
            whole = gunzip(&whole);
        }
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(
            text.starts_with("retry: 1500\n: tidings\n: renew /v1/streams/x/auth\n\n"),
            "{text}"
        );
        let reader = Reader::read(&whole);
        let [event] = &reader.events[..] else {
            panic!("one event: {text}");
        };
        assert!(text.ends_with(
            "\n\nevent: expiring\ndata: {\"expires_in_ms\":59900,\"renew\":\"/v1/streams/x/auth\"}\n\n"
        ), "{text}");
        assert_eq!(reader.last_id, "", "it is no position: {event:?}");
    }
}

#[test]
fn readers_come_back_at_different_times() {
    let retry = |random| {
        let opened = turn(random, |turn| stream(request(), false).opened(turn));
        Reader::read(&opened.bytes).retry_ms.unwrap()
    };
    assert_eq!(retry(0), 1_500);
    assert_eq!(retry(2_999), 4_499);
    assert!((1_500..4_500).contains(&retry(u64::MAX)));
}

#[test]
fn padding_is_a_comment() {
    let padded = SseRequest {
        padding: true,
        ..request()
    };
    let opened = turn(0, |turn| stream(padded, false).opened(turn));
    assert!(opened.bytes.len() > 2_048);
    let reader = Reader::read(&opened.bytes);
    assert_eq!((reader.comments, reader.events.len()), (1, 0));
}

#[test]
fn heartbeats_come_early_and_never_late() {
    for (random, wait_ms) in [(0, 15_000), (1, 14_999), (3_749, 11_251), (3_750, 15_000)] {
        let mut stream = stream(request(), false);
        let opened = turn(random, |turn| stream.opened(turn));
        assert_eq!(opened.wake, Some(Tick(1_000 + wait_ms)));
        let beat = turn(random, |turn| stream.tick(turn));
        assert_eq!(beat.bytes, b": hb\n\n");
        assert_eq!(beat.wake, Some(Tick(1_000 + wait_ms)));
    }
}

#[test]
fn a_gap_is_an_event_whose_id_is_where_to_go_on() {
    let mut stream = stream(request(), false);
    turn(0, |turn| stream.opened(turn));
    let gap = Gap {
        reason: GapReason::LiveOnly,
        after: None,
        resume: cursor(9),
    };
    let told = turn(0, |turn| stream.event(Event::Gap { key: KEY, gap }, turn));
    let reader = Reader::read(&told.bytes);
    assert_eq!(reader.events[0].event, "gap");
    assert_eq!(reader.last_id, cursor(9).to_string());
    assert_eq!(told.ending, None);
}

#[test]
fn a_drain_says_when_to_come_back_and_ends() {
    let mut stream = stream(request(), false);
    turn(0, |turn| stream.opened(turn));
    turn(0, |turn| stream.event(subscribed(), turn));
    let refusal = Refusal::new(RefusalCode::ShuttingDown, "the server\nrestarts");
    let drain = Event::Drain {
        reconnect_after: Duration::from_millis(7_250),
        refusal: refusal.clone(),
    };
    let told = turn(0, |turn| stream.event(drain, turn));
    assert_eq!(told.ending, Some(Ending::AfterFlush));
    let reader = Reader::read(&told.bytes);
    assert_eq!(reader.retry_ms, Some(7_250));
    assert_eq!(reader.events[0].event, "drain");
    let json: serde_json::Value = serde_json::from_str(&reader.events[0].data).unwrap();
    assert_eq!(json["code"], "shutting-down");
    assert_eq!(json["message"], "the server\nrestarts");
    assert_eq!(json["reconnect_after_ms"], 7_250);
    // The last word is the last.
    assert!(turn(0, |turn| stream.tick(turn)).bytes.is_empty());
    let lost = Event::Lost { key: KEY, refusal };
    assert!(turn(0, |turn| stream.event(lost, turn)).bytes.is_empty());
}

#[test]
fn a_stream_that_cannot_go_on_says_why_and_when_to_come_back() {
    for refused in [true, false] {
        let mut stream = stream(request(), false);
        turn(0, |turn| stream.opened(turn));
        let refusal = Refusal::new(RefusalCode::Busy, "later");
        let event = if refused {
            Event::Refused { tag: TAG, refusal }
        } else {
            Event::Lost { key: KEY, refusal }
        };
        let told = turn(5, |turn| stream.event(event, turn));
        assert_eq!(told.ending, Some(Ending::AfterFlush));
        let reader = Reader::read(&told.bytes);
        assert_eq!(reader.events[0].event, "lost");
        assert!(reader.events[0].data.contains("\"busy\""));
        // The second of the refusal's `Retry-After`, and the jitter.
        assert_eq!(reader.retry_ms, Some(2_505));
    }
}

#[test]
fn a_compressed_stream_is_one_gzip_stream() {
    let mut stream = stream(request(), true);
    let opened = turn(0, |turn| stream.opened(turn));
    assert!(matches!(
        &opened.commands[..],
        [Command::Subscribe { framing: Framing::Shared(format), .. }] if format.id() == "sse/raw+gzip"
    ));
    let mut bytes = opened.bytes;
    bytes.extend(turn(0, |turn| stream.event(subscribed(), turn)).bytes);
    let mut frames = Vec::new();
    let message = message(5, "hello");
    let delivery = Delivery {
        key: KEY,
        message: &message,
        retained: false,
        own: false,
        redelivered: 0,
        now: message.time,
    };
    assert_eq!(stream.frame(delivery, &mut frames), Framed::Put);
    bytes.extend(frames.concat());
    bytes.extend(turn(0, |turn| stream.tick(turn)).bytes);
    let reader = Reader::read(&gunzip(&bytes));
    assert_eq!(reader.events[0].data, "hello");
    assert_eq!(reader.comments, 2);
}

#[test]
fn a_peer_says_nothing_but_that_it_is_gone() {
    let mut stream = stream(request(), false);
    let mut input = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
    let told = turn(0, |turn| stream.receive(&mut input, turn));
    assert!(input.is_empty() && told.bytes.is_empty() && told.commands.is_empty());
    let told = turn(0, |turn| stream.event(Event::PeerFinished, turn));
    assert_eq!(told.ending, Some(Ending::AtOnce));
}
