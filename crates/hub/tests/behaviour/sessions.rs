//! Opening, saving, taking over and ending sessions.

use std::time::Duration;

use tidings_ports::{Engine, Expiry, Start, Until};
use tidings_types::Limits;

use super::stage::{Heard, Peer, Stage, keep, message, open, publish, save, subscribe};

const NAME: &str = "mqtt/sensor-7";
const HOUR: Duration = Duration::from_hours(1);

fn opened(stage: &mut Stage, fresh: bool) -> (Peer, Heard) {
    let peer = stage.connect_home(NAME);
    stage.say(&peer, open(NAME, fresh));
    let heard = peer.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    (peer, heard[0].clone())
}

fn state(text: &str) -> Heard {
    Heard::Session(Some(text.to_owned()))
}

const NEW: Heard = Heard::Session(None);

#[test]
fn a_session_comes_back_with_its_state_also_after_a_crash() {
    let mut stage = Stage::new();
    let (peer, session) = opened(&mut stage, false);
    assert_eq!(session, NEW);
    stage.say(&peer, keep(Some(1), save("one", Expiry::After(HOUR), None)));
    assert_eq!(peer.heard(), [], "not before it is durable");
    stage.run();
    assert_eq!(peer.heard(), [Heard::Saved(1)]);
    stage.disconnect(&peer);
    let (peer, session) = opened(&mut stage, false);
    assert_eq!(session, state("one"));
    stage.say(&peer, keep(None, save("two", Expiry::After(HOUR), None)));
    stage.run();
    stage.crash();
    assert_eq!(opened(&mut stage, false).1, state("two"));
    assert_eq!(stage.sum(|metrics| metrics.sessions_connected.get()), 1);
    assert_eq!(stage.sum(|metrics| metrics.sessions_offline.get()), 0);
}

#[test]
fn a_fresh_session_has_nothing_of_the_old_one() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("old", Expiry::Never, None)));
    stage.disconnect(&peer);
    stage.run();
    assert_eq!(stage.kept(), ["session/mqtt/sensor-7"]);
    let (peer, session) = opened(&mut stage, true);
    assert_eq!(session, NEW);
    stage.run();
    assert_eq!(stage.kept(), [""; 0]);
    stage.disconnect(&peer);
    assert_eq!(opened(&mut stage, false).1, NEW);
}

#[test]
fn the_last_words_of_a_closed_connection_count() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("early", Expiry::Never, None)));
    let last = vec![
        keep(None, save("late", Expiry::Never, None)),
        publish(9, "farewell", None),
    ];
    peer.mind().answers.insert("closed", last);
    stage.disconnect(&peer);
    assert_eq!(peer.heard(), [Heard::Closed]);
    let watcher = stage.connect(0);
    stage.say(
        &watcher,
        subscribe(0, &["#"], Start::Earliest, Until::Ended),
    );
    stage.run();
    assert!(watcher.heard().contains(&message(0, "farewell")));
    assert_eq!(opened(&mut stage, false).1, state("late"));
}

#[test]
fn who_takes_a_session_over_gets_the_state_that_the_other_saves_at_last() {
    let mut stage = Stage::new();
    let (old, _) = opened(&mut stage, false);
    stage.say(&old, subscribe(0, &["#"], Start::Latest, Until::Ended));
    stage.say(&old, keep(None, save("early", Expiry::Never, None)));
    old.heard();
    let last = vec![keep(None, save("late", Expiry::Never, None))];
    old.mind().answers.insert("taken over", last);
    let (new, session) = opened(&mut stage, false);
    assert_eq!(session, state("late"));
    assert_eq!(old.heard(), [Heard::TakenOver]);
    // The old one is over: it gets no message, and what it still saves is not the session's any more.
    let late = vec![keep(None, save("too late", Expiry::Never, None))];
    old.mind().answers.insert("closed", late);
    stage.publish("a");
    stage.run();
    stage.disconnect(&old);
    assert_eq!(old.heard(), [Heard::Closed]);
    stage.disconnect(&new);
    assert_eq!(opened(&mut stage, false).1, state("late"));
    assert_eq!(stage.sum(|metrics| metrics.sessions_taken_over.get()), 1);
    assert_eq!(stage.sum(|metrics| metrics.sessions_connected.get()), 1);
}

#[test]
fn a_connection_that_has_said_goodbye_saves_before_it_is_taken_over() {
    let mut stage = Stage::new();
    let (old, _) = opened(&mut stage, false);
    stage.say(&old, keep(None, save("early", Expiry::Never, None)));
    stage.shards[old.shard].peer_finished(old.id);
    let last = vec![keep(None, save("late", Expiry::Never, None))];
    old.mind().answers.insert("closed", last);
    assert_eq!(opened(&mut stage, false).1, state("late"));
    stage.disconnect(&old);
    assert_eq!(old.heard(), [Heard::Other, Heard::Closed], "closed once");
}

#[test]
fn a_session_that_ends_with_its_connection_is_never_written() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("a", Expiry::WithConnection, None)));
    stage.say(
        &peer,
        keep(Some(1), save("b", Expiry::WithConnection, None)),
    );
    assert_eq!(peer.heard(), [Heard::Saved(1)]);
    stage.say(
        &peer,
        publish(2, "a", Some(save("c", Expiry::WithConnection, None))),
    );
    stage.run();
    assert_eq!(stage.engine.stats().states_written, 0);
    let (_, session) = opened(&mut stage, false);
    assert_eq!(session, NEW, "taken over, and over");
}

#[test]
fn a_session_expires_when_nobody_comes_back_in_time() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("a", Expiry::After(HOUR), None)));
    stage.disconnect(&peer);
    stage.pass(Duration::from_secs(3599));
    let (peer, session) = opened(&mut stage, false);
    assert_eq!(session, state("a"));
    stage.pass(HOUR * 3);
    stage.disconnect(&peer);
    stage.pass(HOUR / 2);
    stage.crash();
    stage.pass(HOUR / 4);
    assert_eq!(stage.kept().len(), 1, "its time runs on over a restart");
    stage.pass(HOUR / 4);
    assert_eq!(stage.kept(), [""; 0]);
    assert_eq!(opened(&mut stage, false).1, NEW);
    assert_eq!(stage.sum(|metrics| metrics.sessions_expired.get()), 1);
}

#[test]
fn a_session_whose_server_died_is_alone_from_the_restart_on() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(Some(1), save("a", Expiry::After(HOUR), None)));
    stage.run();
    stage.clock.advance_ms(10 * HOUR.as_millis() as u64);
    stage.crash();
    stage.pass(HOUR / 2);
    stage.crash();
    stage.pass(HOUR / 4);
    assert_eq!(stage.kept().len(), 1);
    stage.pass(HOUR / 4);
    assert_eq!(stage.kept(), [""; 0]);
}

#[test]
fn a_publish_is_answered_when_the_state_that_goes_with_it_is_kept_too() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(
        &peer,
        publish(3, "a", Some(save("with", Expiry::Never, None))),
    );
    assert_eq!(peer.heard(), []);
    stage.run();
    assert_eq!(peer.heard(), [Heard::Published(3)]);
    stage.crash();
    assert_eq!(opened(&mut stage, false).1, state("with"));
}

#[test]
fn saves_that_nobody_waits_for_are_written_together() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    for _ in 0..100 {
        stage.say(&peer, keep(None, save("a", Expiry::Never, None)));
    }
    stage.run();
    assert_eq!(stage.engine.stats().states_written, 2);
}

#[test]
fn the_end_of_a_connection_is_one_write() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("a", Expiry::Never, None)));
    stage.run();
    let before = stage.engine.stats().states_written;
    let last = vec![keep(None, save("b", Expiry::Never, None))];
    peer.mind().answers.insert("closed", last);
    stage.disconnect(&peer);
    stage.run();
    assert_eq!(stage.engine.stats().states_written, before + 1);
    stage.crash();
    assert_eq!(opened(&mut stage, false).1, state("b"));
}

#[test]
fn saves_outlast_a_log_that_is_busy() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.engine.be_busy(true);
    stage.say(&peer, keep(Some(1), save("a", Expiry::Never, None)));
    stage.say(&peer, publish(2, "a", Some(save("b", Expiry::Never, None))));
    assert_eq!(peer.heard(), [Heard::Refused(2, "busy")]);
    stage.engine.be_busy(false);
    stage.pass(Duration::from_millis(100));
    assert_eq!(peer.heard(), [Heard::Saved(1)]);
    stage.crash();
    assert_eq!(
        opened(&mut stage, false).1,
        state("a"),
        "nothing of what was refused"
    );
}

#[test]
fn limits_on_sessions_are_refused_by_their_names() {
    let mut stage = Stage::with(Limits {
        sessions_max: 1,
        session_bytes_max: 4,
        ..Limits::default()
    });
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(Some(1), save("12345", Expiry::Never, None)));
    stage.say(&peer, open(NAME, false));
    stage.say(
        &peer,
        publish(2, "a", Some(save("12345", Expiry::Never, None))),
    );
    let other = stage.connect_home("mqtt/other");
    stage.say(&other, open("mqtt/other", false));
    stage.say(&other, keep(Some(3), save("", Expiry::Never, None)));
    stage.run();
    assert_eq!(
        peer.heard(),
        [
            Heard::Refused(1, "session-too-large"),
            Heard::Refused(0, "bad-request"),
            Heard::Refused(2, "session-too-large"),
        ]
    );
    assert_eq!(
        other.heard(),
        [
            Heard::Refused(0, "too-many-sessions"),
            Heard::Refused(3, "bad-request")
        ]
    );
    stage.disconnect(&peer);
    stage.say(&other, open("mqtt/other", false));
    assert_eq!(other.heard(), [NEW]);
}

#[test]
fn a_sessions_messages_are_its_own_on_every_connection() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("", Expiry::Never, None)));
    stage.say(&peer, publish(1, "a", None));
    stage.run();
    stage.crash();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, subscribe(0, &["#"], Start::Earliest, Until::Ended));
    stage.run();
    let own = peer
        .heard()
        .into_iter()
        .any(|heard| matches!(heard, Heard::Message { own: true, .. }));
    assert!(own);
}

#[test]
fn a_shard_that_closes_hands_everything_to_the_log() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("a", Expiry::Never, None)));
    stage.say(&peer, keep(None, save("b", Expiry::Never, None)));
    let last = vec![keep(None, save("c", Expiry::Never, None))];
    peer.mind().answers.insert("closed", last);
    stage.shards[peer.shard].close();
    stage.commit();
    stage.crash();
    assert_eq!(opened(&mut stage, false).1, state("c"));
}

#[test]
fn what_was_to_be_written_is_written_though_a_publish_with_more_is_refused() {
    let mut stage = Stage::new();
    let (peer, _) = opened(&mut stage, false);
    stage.say(&peer, keep(None, save("one", Expiry::Never, None)));
    // The first is under way, so this one waits.
    stage.say(&peer, keep(None, save("two", Expiry::Never, None)));
    stage.engine.be_busy(true);
    let more = save("three", Expiry::Never, None);
    stage.say(&peer, publish(1, "a", Some(more)));
    stage.engine.be_busy(false);
    stage.run();
    stage.pass(Duration::from_secs(1));
    stage.crash();
    assert_eq!(opened(&mut stage, false).1, state("two"));
}
