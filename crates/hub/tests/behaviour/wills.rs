//! Wills: when they are published, and that they are published once.

use std::time::Duration;

use tidings_ports::{Expiry, Start, Until};
use tidings_types::Grants;

use super::stage::{Heard, Peer, Stage, filter, keep, message, open, save, subscribe, will};

const NAME: &str = "mqtt/sensor-7";
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

/// A peer with a session and a will.
fn testator(stage: &mut Stage, expiry: Expiry, delay: Duration) -> Peer {
    let peer = stage.connect_home(NAME);
    stage.say(&peer, open(NAME, false));
    let save = save("", expiry, Some(will("will", delay)));
    stage.say(&peer, keep(Some(1), save));
    stage.run();
    assert_eq!(peer.heard().last(), Some(&Heard::Saved(1)));
    peer
}

/// How many wills were published so far, as the log has them.
fn published(stage: &mut Stage) -> usize {
    stage.run();
    let watcher = stage.connect(0);
    stage.say(
        &watcher,
        subscribe(0, &["will"], Start::Earliest, Until::CaughtUp),
    );
    stage.run();
    let heard = watcher.heard();
    stage.disconnect(&watcher);
    heard.iter().filter(|it| **it == message(0, "will")).count()
}

#[test]
fn a_will_is_published_once_when_the_connection_is_gone() {
    for (expiry, delay, wait) in [
        (Expiry::WithConnection, Duration::ZERO, Duration::ZERO),
        (Expiry::WithConnection, HOUR, Duration::ZERO),
        (Expiry::After(HOUR), Duration::ZERO, Duration::ZERO),
        (Expiry::After(HOUR), MINUTE, MINUTE),
        (Expiry::After(MINUTE), HOUR, MINUTE),
        (Expiry::Never, MINUTE, MINUTE),
    ] {
        let mut stage = Stage::new();
        let peer = testator(&mut stage, expiry, delay);
        assert_eq!(published(&mut stage), 0);
        stage.disconnect(&peer);
        if wait > Duration::ZERO {
            stage.pass(wait.saturating_sub(Duration::from_secs(1)));
            assert_eq!(published(&mut stage), 0, "{expiry:?} {delay:?}");
            stage.pass(Duration::from_secs(1));
        }
        assert_eq!(published(&mut stage), 1, "{expiry:?} {delay:?}");
        stage.pass(HOUR * 2);
        stage.crash();
        stage.pass(HOUR * 2);
        assert_eq!(published(&mut stage), 1, "{expiry:?} {delay:?}");
        let forever = usize::from(expiry == Expiry::Never);
        assert_eq!(stage.kept().len(), forever);
    }
}

#[test]
fn a_will_that_is_taken_back_is_not_published() {
    let mut stage = Stage::new();
    let peer = testator(&mut stage, Expiry::After(HOUR), Duration::ZERO);
    stage.say(&peer, keep(None, save("", Expiry::After(HOUR), None)));
    stage.disconnect(&peer);
    stage.pass(HOUR * 2);
    assert_eq!(published(&mut stage), 0);
}

#[test]
fn who_comes_back_in_time_stops_the_will() {
    let mut stage = Stage::new();
    let peer = testator(&mut stage, Expiry::After(HOUR), MINUTE);
    stage.disconnect(&peer);
    stage.pass(MINUTE / 2);
    let back = stage.connect_home(NAME);
    stage.say(&back, open(NAME, false));
    stage.pass(HOUR);
    assert_eq!(published(&mut stage), 0);
    stage.disconnect(&back);
    stage.pass(HOUR * 2);
    assert_eq!(published(&mut stage), 0, "it was the other connection's");
}

#[test]
fn a_will_outlives_the_server_and_is_published_once_after_it() {
    for expiry in [Expiry::WithConnection, Expiry::After(HOUR), Expiry::Never] {
        let mut stage = Stage::new();
        testator(&mut stage, expiry, MINUTE);
        stage.crash();
        let at_once = usize::from(expiry == Expiry::WithConnection);
        stage.pass(MINUTE / 2);
        assert_eq!(published(&mut stage), at_once, "{expiry:?}");
        stage.pass(MINUTE);
        assert_eq!(published(&mut stage), 1, "{expiry:?}");
        stage.crash();
        stage.pass(HOUR);
        assert_eq!(published(&mut stage), 1, "{expiry:?}");
    }
}

#[test]
fn a_crash_between_the_will_and_its_receipt_does_not_repeat_it() {
    let mut stage = Stage::new();
    let peer = testator(&mut stage, Expiry::After(HOUR), Duration::ZERO);
    stage.disconnect(&peer);
    // It is in the log; the shard does not know.
    stage.commit();
    stage.crash();
    stage.pass(MINUTE);
    assert_eq!(published(&mut stage), 1);
}

#[test]
fn who_takes_over_stops_only_a_will_that_has_a_delay() {
    for (delay, fresh, expiry, expect) in [
        (Duration::ZERO, false, Expiry::After(HOUR), 1),
        (MINUTE, false, Expiry::After(HOUR), 0),
        (MINUTE, true, Expiry::After(HOUR), 1),
        (MINUTE, false, Expiry::WithConnection, 1),
    ] {
        let mut stage = Stage::new();
        testator(&mut stage, expiry, delay);
        let new = stage.connect_home(NAME);
        stage.say(&new, open(NAME, fresh));
        stage.pass(HOUR);
        assert_eq!(
            published(&mut stage),
            expect,
            "{delay:?} {fresh} {expiry:?}"
        );
    }
}

#[test]
fn a_fresh_start_publishes_the_will_that_waits() {
    let mut stage = Stage::new();
    let peer = testator(&mut stage, Expiry::After(HOUR), MINUTE);
    stage.disconnect(&peer);
    let new = stage.connect_home(NAME);
    stage.say(&new, open(NAME, true));
    assert_eq!(published(&mut stage), 1);
}

#[test]
fn a_will_is_judged_when_it_is_saved() {
    let mut stage = Stage::new();
    stage.permit(Grants {
        publish: vec![filter("a")],
        subscribe: vec![filter("#")],
        ..Grants::default()
    });
    let peer = stage.connect_home(NAME);
    stage.say(&peer, open(NAME, false));
    let forbidden = || save("x", Expiry::Never, Some(will("will", Duration::ZERO)));
    stage.say(&peer, keep(Some(1), forbidden()));
    stage.say(&peer, keep(None, forbidden()));
    stage.say(&peer, super::stage::publish(2, "a", Some(forbidden())));
    stage.run();
    let expect = [
        Heard::Session(None),
        Heard::Refused(1, "forbidden"),
        Heard::Refused(2, "forbidden"),
    ];
    assert_eq!(peer.heard(), expect);
    stage.disconnect(&peer);
    assert_eq!(published(&mut stage), 0);
}

#[test]
fn a_will_waits_for_a_log_that_is_busy() {
    let mut stage = Stage::new();
    let peer = testator(&mut stage, Expiry::After(HOUR), Duration::ZERO);
    stage.engine.be_busy(true);
    stage.disconnect(&peer);
    stage.pass(Duration::from_millis(100));
    stage.engine.be_busy(false);
    stage.pass(Duration::from_millis(100));
    assert_eq!(published(&mut stage), 1);
    assert_eq!(stage.sum(|metrics| metrics.wills.get()), 1);
}

#[test]
fn who_comes_back_too_late_does_not_stop_the_will() {
    let mut stage = Stage::new();
    let peer = testator(&mut stage, Expiry::After(HOUR), MINUTE);
    stage.disconnect(&peer);
    stage.run();
    stage.clock.advance_ms(60_000);
    // No timer has fired since.
    let back = stage.connect_home(NAME);
    stage.say(&back, open(NAME, false));
    assert_eq!(published(&mut stage), 1);
    stage.pass(HOUR * 2);
    assert_eq!(published(&mut stage), 1);
}

#[test]
fn who_comes_back_first_after_a_crash_does_not_stop_a_will_without_a_delay() {
    let mut stage = Stage::new();
    testator(&mut stage, Expiry::After(HOUR), Duration::ZERO);
    stage.crash();
    let back = stage.connect_home(NAME);
    stage.say(&back, open(NAME, false));
    assert_eq!(published(&mut stage), 1);
}

#[test]
fn a_crash_at_a_take_over_does_not_lose_a_will_that_is_due() {
    for fresh in [false, true] {
        for commits in 0..=2 {
            let mut stage = Stage::new();
            testator(&mut stage, Expiry::After(HOUR), Duration::ZERO);
            let new = stage.connect_home(NAME);
            let kept = save("new", Expiry::After(HOUR), None);
            new.mind()
                .answers
                .insert("session", vec![keep(Some(1), kept)]);
            stage.say(&new, open(NAME, fresh));
            for _ in 0..commits {
                stage.commit_first();
            }
            stage.crash();
            stage.pass(MINUTE);
            assert_eq!(published(&mut stage), 1, "{fresh} {commits}");
        }
    }
}
