//! Subscriptions that end early, messages that reach nobody, and queues that are in the way of others.

use std::time::Duration;

use bytestring::ByteString;
use tidings_hub::home_shard;
use tidings_log::storage::Faults;
use tidings_ports::{
    Command, Expiry, Framed, ReadFrom, ReadRequest, Start, SubscriptionKey, Tag, Until, Verdict,
};
use tidings_types::Limits;

use super::queues::{NAME, again, jobs, join, join_with, last, member, nack, topics};
use super::stage::{Heard, SHARDS, Stage, draft, filter, message, open, publish, subscribe};
use super::verdicts::{settle, stored, told, transaction};

fn second() -> Duration {
    Duration::from_secs(1)
}

fn end(forget: bool) -> Command {
    Command::Unsubscribe {
        tag: Tag(5),
        key: SubscriptionKey(0),
        forget,
    }
}

/// A member of a queue of this name, which is kept.
fn join_named(name: &str) -> Command {
    let mut join = join_with(Start::Latest, 1, Expiry::Never);
    if let Command::Subscribe {
        group: Some(group), ..
    } = &mut join
    {
        group.name = ByteString::from(name);
    }
    join
}

#[test]
fn a_start_with_the_newest_is_answered_though_it_is_ended_before_they_are_read() {
    let mut stage = Stage::new();
    jobs(&mut stage, 1..=3);
    let peer = stage.connect(0);
    let newest = subscribe(0, &["job/#"], Start::Last(2), Until::Ended);
    stage.say(&peer, newest);
    stage.say(&peer, end(false));
    assert_eq!(peer.heard(), [Heard::Subscribed(0, 0), Heard::Unsubscribed]);
    stage.run();
    assert_eq!(peer.heard(), []);
    assert_eq!(stage.sum(|metrics| metrics.catching_up.get()), 0);
}

#[test]
fn a_member_that_leaves_before_it_has_joined_is_answered_twice() {
    for shard in 0..SHARDS {
        for (forget, kept) in [(true, vec![]), (false, vec!["queue/jobs"])] {
            let mut stage = Stage::new();
            let peer = stage.connect(shard);
            stage.say(&peer, join(1));
            stage.say(&peer, end(forget));
            // The key is free again.
            stage.say(&peer, subscribe(0, &["else"], Start::Latest, Until::Ended));
            assert_eq!(peer.heard(), [Heard::Subscribed(0, 0)]);
            stage.run();
            assert_eq!(peer.heard(), [Heard::Subscribed(0, 0), Heard::Unsubscribed]);
            assert_eq!(stage.kept(), kept);
            stage.disconnect(&peer);
            assert_eq!(stage.sum(|metrics| metrics.subscriptions.get()), 0);
        }
    }
}

#[test]
fn a_member_that_leaves_before_it_is_refused_is_answered_twice() {
    for forget in [false, true] {
        let mut stage = Stage::new();
        let _other = member(&mut stage, 0, 1);
        let peer = stage.connect(1 - home_shard(NAME, SHARDS));
        let mut wrong = join(1);
        if let Command::Subscribe { filters, .. } = &mut wrong {
            *filters = vec![filter("else")];
        }
        stage.say(&peer, wrong);
        stage.say(&peer, end(forget));
        stage.run();
        let expect = [Heard::Refused(0, "bad-request"), Heard::Unsubscribed];
        assert_eq!(peer.heard(), expect);
    }
}

#[test]
fn a_connection_that_ends_while_its_member_leaves_takes_it_along() {
    let mut stage = Stage::new();
    let peer = stage.connect(1 - home_shard(NAME, SHARDS));
    stage.say(&peer, join(1));
    stage.say(&peer, end(false));
    stage.disconnect(&peer);
    stage.run();
    assert_eq!(stage.sum(|metrics| metrics.subscriptions.get()), 0);
    jobs(&mut stage, 1..=1);
    let peer = member(&mut stage, 0, 1);
    assert_eq!(peer.heard(), [message(0, "job/1")]);
}

#[test]
fn who_forgets_a_queue_that_others_have_is_answered_at_once() {
    let mut stage = Stage::new();
    let home = home_shard(NAME, SHARDS);
    let (one, _two) = (member(&mut stage, home, 1), member(&mut stage, 0, 1));
    stage.engine.be_busy(true);
    stage.say(&one, end(true));
    assert_eq!(one.heard(), [Heard::Unsubscribed]);
}

#[test]
fn who_forgets_a_queue_is_refused_if_that_cannot_be_written() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    stage.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    stage.say(&peer, end(true));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Refused(5, "storage-failed")]);
    stage.say(&peer, end(true));
    assert_eq!(peer.heard(), [Heard::Refused(5, "bad-request")]);
}

#[test]
fn a_peer_whose_bytes_are_left_unread_is_slow_until_the_tick_after() {
    let mut stage = Stage::with(Limits {
        outbox_bytes_max: 200,
        publishes_in_flight_max: 1,
        ..Limits::default()
    });
    let peer = stage.connect(0);
    peer.mind().wake_ms = Some(1_000);
    stage.say(&peer, subscribe(0, &["#"], Start::Latest, Until::Ended));
    stage.pass(2 * second());
    for _ in 0..4 {
        stage.publish("job/1");
        stage.run();
    }
    // Nobody writes a byte meanwhile.
    stage.pass(2 * second());
    stage.pass(2 * second());
    stage.drain(&peer);
    stage.run();
    stage.drain(&peer);
    stage.pass(2 * second());
    stage.pass(2 * second());
    let was_slow = std::mem::take(&mut peer.mind().was_slow);
    assert_eq!(was_slow, [false, true, true, true, false]);
    // The same while too many publishes are under way.
    stage.say(&peer, publish(1, "other", None));
    stage.pass(2 * second());
    stage.drain(&peer);
    stage.pass(2 * second());
    stage.pass(2 * second());
    let was_slow = std::mem::take(&mut peer.mind().was_slow);
    assert_eq!(was_slow, [true, true, false]);
}

#[test]
fn what_no_member_saw_does_not_count_however_often_it_is_handed_out() {
    let mut stage = Stage::new();
    let home = home_shard(NAME, SHARDS);
    let first = member(&mut stage, home, 1);
    stage.disconnect(&first);
    jobs(&mut stage, 1..=1);
    for _ in 0..25 {
        let peer = stage.connect(1 - home);
        peer.mind().judges = [Framed::Full].into();
        stage.say(&peer, join(1));
        stage.run();
        peer.heard();
        stage.say(&peer, Command::Unblock(SubscriptionKey(0)));
        // It is handed out, and its member leaves before it is there.
        stage.shards[home].take_inbox();
        stage.say(&peer, end(false));
        stage.shards[home].take_inbox();
        stage.run();
        assert_eq!(peer.heard(), [Heard::Unsubscribed]);
    }
    let peer = member(&mut stage, 0, 1);
    assert_eq!(peer.heard(), [message(0, "job/1")]);
    assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 0);
}

/// A message is handed to a member that leaves before it is there; its shard has not seen that yet.
fn handed_to_nobody(stage: &mut Stage) {
    let home = home_shard(NAME, SHARDS);
    let gone = member(stage, 1 - home, 1);
    stage.publish("job/1");
    stage.commit();
    stage.shards[home].take_inbox();
    stage.say(&gone, end(false));
}

#[test]
fn what_was_not_seen_is_corrected_though_another_member_has_it() {
    let mut stage = Stage::with(Limits {
        deliveries_max: 2,
        ..Limits::default()
    });
    let home = home_shard(NAME, SHARDS);
    handed_to_nobody(&mut stage);
    let peer = stage.connect(home);
    stage.say(&peer, join(1));
    stage.shards[home].take_inbox();
    stage.commit();
    stage.shards[home].take_inbox();
    peer.heard_first();
    assert_eq!(peer.heard(), [again("job/1", 1)]);
    stage.run();
    stage.say(&peer, nack(last(&peer)));
    stage.run();
    assert_eq!(peer.heard(), [again("job/1", 2)]);
    stage.say(&peer, nack(last(&peer)));
    stage.run();
    assert_eq!(peer.heard(), []);
    let letters = stored(&mut stage, &["dead-letter/#"]);
    assert_eq!(letters, ["dead-letter/job/1"]);
}

#[test]
fn what_was_not_seen_is_given_up_no_more_unless_the_log_has_it() {
    let mut stage = Stage::with(Limits {
        deliveries_max: 1,
        ..Limits::default()
    });
    let home = home_shard(NAME, SHARDS);
    let peer = member(&mut stage, home, 1);
    // The one who stays has enough to do.
    stage.publish("job/0");
    stage.run();
    assert_eq!(peer.heard(), [message(0, "job/0")]);
    handed_to_nobody(&mut stage);
    stage.engine.be_busy(true);
    stage.say(&peer, told(3, last(&peer), Verdict::Ack));
    stage.take_inboxes();
    stage.take_inboxes();
    stage.engine.be_busy(false);
    stage.pass(second());
    let heard = peer.heard();
    assert!(heard.contains(&message(0, "job/1")), "{heard:?}");
    assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 0);
}

#[test]
fn what_a_conversation_kept_and_dropped_does_not_count() {
    for is_transaction in [false, true] {
        let mut stage = Stage::new();
        let peer = member(&mut stage, 0, 1);
        peer.mind().judges = [Framed::Held, Framed::Full].into();
        jobs(&mut stage, 1..=1);
        let offset = last(&peer);
        stage.say(
            &peer,
            if is_transaction {
                transaction(&[settle(offset, Verdict::Unseen)])
            } else {
                told(3, offset, Verdict::Unseen)
            },
        );
        stage.run();
        let other = member(&mut stage, 1, 1);
        assert_eq!(other.heard(), [message(0, "job/1")]);
    }
}

#[test]
fn a_dead_letter_has_no_headers_of_an_earlier_one() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    let mut job = draft("job/1");
    let header = |name: &str| (ByteString::from(name), ByteString::from("forged"));
    job.properties.headers = ["Tidings-Dead-Topic", "tidings-dead-x", "tidings-deadline"]
        .map(header)
        .to_vec();
    stage.publish_draft(job);
    stage.run();
    stage.say(&peer, told(3, last(&peer), Verdict::Reject));
    stage.run();
    let request = ReadRequest {
        filters: vec![filter("dead-letter/#")].into(),
        from: ReadFrom::Last(1),
        messages_max: 1,
        bytes_max: 10_000,
    };
    let page = stage.engine.look(&request).unwrap();
    let headers = &page.messages[0].properties.headers;
    let names: Vec<&str> = headers.iter().map(|(name, _)| &**name).collect();
    let expect = [
        "tidings-deadline",
        "tidings-dead-topic",
        "tidings-dead-message",
        "tidings-dead-queue",
        "tidings-dead-deliveries",
        "tidings-dead-reason",
    ];
    assert_eq!(names, expect);
    assert_eq!(headers[1].1, *"job/1");
}

#[test]
fn every_member_is_told_once_of_what_its_queue_missed() {
    let mut stage = Stage::with(Limits {
        tail_bytes_max: 0,
        ..Limits::default()
    });
    let live = || {
        let mut join = join_with(Start::Latest, 1, Expiry::Never);
        if let Command::Subscribe { filters, .. } = &mut join {
            *filters = vec![filter("live/#")];
        }
        join
    };
    let peers = [stage.connect(0), stage.connect(1)];
    for peer in &peers {
        stage.say(peer, live());
        stage.run();
    }
    for topic in ["live/1", "live/2", "live/3", "other"] {
        stage.publish(topic);
        stage.run();
    }
    for peer in &peers {
        let offset = last(peer);
        stage.say(peer, told(3, offset, Verdict::Ack));
        stage.run();
        stage.pass(second());
    }
    let missed = stage.sum(|metrics| metrics.queue_missed.get());
    assert!(missed > 0);
    for peer in &peers {
        let gaps = topics(peer).iter().filter(|it| *it == "Gap").count();
        assert_eq!(gaps as u64, missed);
    }
    assert_eq!(stage.sum(|metrics| metrics.gaps[2].get()), missed);
}

#[test]
fn a_member_is_told_of_a_gap_after_it_has_joined() {
    for shard in 0..SHARDS {
        let mut stage = Stage::new();
        let peer = stage.connect(shard);
        stage.say(&peer, join_with(Start::Unknown, 1, Expiry::Never));
        stage.run();
        assert_eq!(peer.heard(), [Heard::Subscribed(0, 0), Heard::Gap]);
    }
}

#[test]
fn queues_are_bounded_apart_from_sessions() {
    let mut stage = Stage::with(Limits {
        queues_max: 1,
        sessions_max: 1,
        ..Limits::default()
    });
    let peer = stage.connect(0);
    stage.say(&peer, join_named("one"));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Subscribed(0, 0)]);
    let other = stage.connect(1);
    stage.say(&other, join_named("two"));
    stage.run();
    assert_eq!(other.heard(), [Heard::Refused(0, "too-many-sessions")]);
    let device = stage.connect_home("mqtt/one");
    stage.say(&device, open("mqtt/one", false));
    stage.run();
    assert_eq!(device.heard(), [Heard::Session(None)]);
    stage.say(&peer, end(true));
    stage.run();
    stage.say(&other, join_named("two"));
    stage.run();
    assert_eq!(other.heard(), [Heard::Subscribed(0, 0)]);
}

#[test]
fn a_letters_name_is_not_told_by_its_queue_and_offset_alone() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    jobs(&mut stage, 1..=1);
    let offset = last(&peer);
    let mut hasher = siphasher::sip::SipHasher13::new();
    std::hash::Hasher::write(&mut hasher, b"queue/jobs");
    let hash = std::hash::Hasher::finish(&hasher);
    let mut forged = draft("dead-letter/job/1");
    forged.key = Some(format!("dead-letter/{hash:016x}/{}", offset.0).into());
    stage.publish_draft(forged);
    stage.run();
    stage.say(&peer, told(3, offset, Verdict::Reject));
    stage.run();
    let letters = stored(&mut stage, &["dead-letter/#"]);
    assert_eq!(letters, ["dead-letter/job/1"; 2]);
}
