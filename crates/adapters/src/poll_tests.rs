use super::*;
use crate::http::testing::{cursor, header, json, message};

struct Turned {
    commands: Vec<Command>,
    frames: Vec<Bytes>,
    ending: Option<Ending>,
    wake: Option<Tick>,
}

fn turn(now: u64, step: impl FnOnce(&mut Turn<'_>)) -> Turned {
    let (mut commands, mut frames) = (Vec::new(), Vec::new());
    let mut turn = Turn {
        now: Tick(now),
        is_slow: false,
        random: 7,
        commands: &mut commands,
        frames: &mut frames,
        ending: None,
        wake: None,
    };
    step(&mut turn);
    let (ending, wake) = (turn.ending, turn.wake);
    Turned {
        commands,
        frames,
        ending,
        wake,
    }
}

fn poll() -> PollConversation {
    let filters = vec![TopicFilter::new("t").unwrap()];
    PollConversation::new(filters, cursor(4), Duration::from_secs(30))
}

fn envelope(offset: u64, payload: &str) -> Bytes {
    message(offset, payload).frame(&JsonEnvelope)
}

#[test]
fn a_poll_subscribes_after_its_position_and_ends_when_the_time_has_passed() {
    let mut poll = poll();
    let opened = turn(1_000, |turn| poll.opened(turn));
    assert_eq!(opened.wake, Some(Tick(31_000)));
    let [Command::Subscribe { start, framing, .. }] = &opened.commands[..] else {
        panic!("one subscription");
    };
    assert_eq!(*start, Start::After(cursor(4)));
    assert!(matches!(framing, Framing::Shared(format) if format.id() == "json/envelope"));
    let early = turn(30_999, |turn| poll.tick(turn));
    assert_eq!((early.ending, early.wake), (None, Some(Tick(31_000))));
    let late = turn(31_000, |turn| poll.tick(turn));
    assert_eq!(late.ending, Some(Ending::AfterFlush));
    let response = polled(&late.frames, cursor(4));
    assert_eq!(response.status(), 200);
    let expect = format!("{{\"messages\":[],\"next\":\"{}\"}}\n", cursor(4));
    assert_eq!(response.body(), expect.as_bytes());
    assert_eq!(header(&response, "cache-control"), Some("no-store"));
}

#[test]
fn the_next_position_is_after_the_last_frame_that_is_sent() {
    // A payload may look like anything, also like an envelope.
    let frames = [envelope(5, "a"), envelope(9, "{\"id\":\"x\"}")];
    let response = polled(&frames, cursor(4));
    assert_eq!(
        header(&response, "tidings-next"),
        Some(&*cursor(9).to_string())
    );
    let body = json(&response);
    assert_eq!(body["next"], cursor(9).to_string());
    assert_eq!(body["messages"][0]["data"], "a");
    assert_eq!(
        json(&polled(&frames[..1], cursor(4)))["next"],
        cursor(5).to_string()
    );
}

#[test]
fn a_gap_is_an_answer_that_goes_on_behind_it() {
    for reason in [
        GapReason::Retention,
        GapReason::UnknownCursor,
        GapReason::LiveOnly,
        GapReason::Restart,
    ] {
        let gap = Gap {
            reason,
            after: (reason != GapReason::UnknownCursor).then(|| cursor(4)),
            resume: cursor(8),
        };
        let told = turn(0, |turn| poll().event(Event::Gap { key: KEY, gap }, turn));
        assert_eq!(told.ending, Some(Ending::AfterFlush));
        let response = polled(&told.frames, cursor(4));
        assert_eq!(header(&response, "tidings-gap"), Some(reason.name()));
        let body = json(&response);
        assert_eq!(body["next"], cursor(8).to_string());
        assert_eq!(body["gap"]["reason"], reason.name());
        assert_eq!(
            body["gap"]["after"].is_null(),
            reason == GapReason::UnknownCursor
        );
        // Messages that came before it are sent without it, and the next request is told.
        let frames = [envelope(5, "a"), told.frames[0].clone(), envelope(9, "b")];
        let body = json(&polled(&frames, cursor(4)));
        assert_eq!(body["messages"].as_array().unwrap().len(), 1);
        assert_eq!(body["next"], cursor(5).to_string());
        assert_eq!(body.get("gap"), None);
    }
}

#[test]
fn a_refusal_is_a_problem() {
    let refusal = Refusal::new(RefusalCode::ShuttingDown, "come \"back\"");
    let told = turn(0, |turn| {
        let reconnect_after = Duration::from_secs(1);
        poll().event(
            Event::Drain {
                reconnect_after,
                refusal: refusal.clone(),
            },
            turn,
        );
    });
    assert_eq!(told.ending, Some(Ending::AfterFlush));
    let response = polled(&told.frames, cursor(4));
    assert_eq!(response.status(), 503);
    assert_eq!(json(&response)["detail"], "come \"back\"");
    // Messages that are there are not lost over it.
    let frames = [envelope(5, "a"), told.frames[0].clone()];
    assert_eq!(polled(&frames, cursor(4)).status(), 200);
}

#[test]
fn a_peer_that_is_gone_ends_the_wait_and_its_bytes_are_dropped() {
    let told = turn(0, |turn| poll().event(Event::PeerFinished, turn));
    assert_eq!(told.ending, Some(Ending::AtOnce));
    let mut input = BytesMut::from(&b"GET / HTTP/1.1"[..]);
    turn(0, |turn| poll().receive(&mut input, turn));
    assert!(input.is_empty());
}
