//! Verdicts on messages of work queues: when they count, what becomes of messages that nobody can use, and
//! verdicts that count together with a publish.

use std::time::Duration;

use tidings_log::storage::Faults;
use tidings_ports::{Command, Expiry, Settle, Start, SubscriptionKey, Tag, Until, Verdict};
use tidings_types::{Limits, Offset};

use super::queues::{HOUR, NAME, ack, again, jobs, join, join_with, last, member, nack, topics};
use super::stage::{Heard, Peer, SHARDS, Stage, draft, message, subscribe};

const KEY: SubscriptionKey = SubscriptionKey(0);

pub fn settle(offset: Offset, verdict: Verdict) -> Settle {
    Settle {
        key: KEY,
        offset,
        verdict,
    }
}

pub fn told(tag: u64, offset: Offset, verdict: Verdict) -> Command {
    Command::Settle {
        tag: Some(Tag(tag)),
        settle: settle(offset, verdict),
    }
}

/// Publishes `done`, and settles with it.
pub fn transaction(settle: &[Settle]) -> Command {
    Command::Publish {
        tag: Tag(7),
        drafts: vec![draft("done")],
        save: None,
        settle: settle.to_vec(),
    }
}

fn listener(stage: &mut Stage, filters: &[&str]) -> Peer {
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(1, filters, Start::Latest, Until::Ended));
    stage.run();
    peer.heard();
    peer
}

/// All that the log has on these topics.
pub fn stored(stage: &mut Stage, filters: &[&str]) -> Vec<String> {
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(1, filters, Start::Earliest, Until::Ended));
    stage.run();
    let mut heard = topics(&peer);
    heard.retain(|text| !text.starts_with("Subscribed"));
    stage.disconnect(&peer);
    heard
}

#[test]
fn a_verdict_with_a_tag_is_answered_once_it_is_durable() {
    for shard in 0..SHARDS {
        let mut stage = Stage::new();
        let peer = member(&mut stage, shard, 10);
        jobs(&mut stage, 1..=2);
        let offset = peer.mind().offsets[0];
        peer.heard();
        stage.say(&peer, told(3, offset, Verdict::Ack));
        stage.take_inboxes();
        assert_eq!(peer.heard(), []);
        stage.run();
        assert_eq!(peer.heard(), [Heard::Settled(3)]);
        stage.crash();
        let peer = member(&mut stage, shard, 10);
        assert_eq!(peer.heard(), [again("job/2", 1)]);
    }
}

#[test]
fn a_verdict_that_cannot_be_kept_is_refused() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=1);
    peer.heard();
    stage.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    let offset = last(&peer);
    stage.say(&peer, told(3, offset, Verdict::Ack));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Refused(3, "storage-failed")]);
}

#[test]
fn a_verdict_on_what_is_no_work_queues_is_refused() {
    let mut stage = Stage::new();
    let peer = listener(&mut stage, &["a"]);
    stage.say(&peer, told(3, Offset(1), Verdict::Ack));
    assert_eq!(peer.heard(), [Heard::Refused(3, "bad-request")]);
}

#[test]
fn a_message_that_is_kept_for_too_long_goes_to_another_member() {
    let mut stage = Stage::new();
    let mut quick = join(1);
    if let Command::Subscribe {
        group: Some(group), ..
    } = &mut quick
    {
        group.ack_timeout = Some(Duration::from_secs(5));
    }
    let one = stage.connect(0);
    stage.say(&one, quick);
    stage.run();
    jobs(&mut stage, 1..=1);
    one.heard();
    let offset = last(&one);
    let two = member(&mut stage, 1, 1);
    stage.pass(Duration::from_secs(4));
    assert_eq!(two.heard(), []);
    stage.pass(Duration::from_secs(1));
    assert_eq!(two.heard(), [again("job/1", 1)]);
    assert_eq!(stage.sum(|metrics| metrics.queue_late.get()), 1);
    // What the first one says now is of no effect, and no error: it has room again.
    stage.say(&one, told(4, offset, Verdict::Ack));
    stage.run();
    assert_eq!(one.heard(), [Heard::Settled(4)]);
    assert_eq!(stage.sum(|metrics| metrics.queue_strays.get()), 1);
    jobs(&mut stage, 2..=2);
    assert_eq!(topics(&one), ["job/2"]);
    // The second one has the server's time.
    stage.say(&one, ack(last(&one)));
    stage.pass(HOUR);
    assert_eq!(topics(&one), ["job/1"]);
}

#[test]
fn what_is_delivered_too_often_goes_to_the_dead_letter_topic_once() {
    let mut stage = Stage::with(Limits {
        deliveries_max: 3,
        ..Limits::default()
    });
    let peer = member(&mut stage, 1, 10);
    let listener = listener(&mut stage, &["dead-letter/#"]);
    jobs(&mut stage, 1..=1);
    for _ in 0..3 {
        stage.pass(Duration::from_secs(1));
        let offset = last(&peer);
        stage.say(&peer, nack(offset));
        stage.run();
    }
    let expect = [message(0, "job/1"), again("job/1", 1), again("job/1", 2)];
    assert_eq!(peer.heard(), expect);
    assert_eq!(topics(&listener), ["dead-letter/job/1"]);
    assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 1);
    // A crash before the queue's record says so gives it up once more, and that is the same letter.
    stage.crash();
    for _ in 0..2 {
        let peer = member(&mut stage, 1, 10);
        assert_eq!(peer.heard(), []);
        let letters = stored(&mut stage, &["dead-letter/#"]);
        assert_eq!(letters, ["dead-letter/job/1"]);
        stage.pass(Duration::from_secs(1));
        stage.crash();
    }
}

#[test]
fn what_is_rejected_goes_to_the_dead_letter_topic_at_once_also_from_the_log() {
    for tail_bytes_max in [0, 1 << 20] {
        let mut stage = Stage::with(Limits {
            tail_bytes_max,
            ..Limits::default()
        });
        let peer = member(&mut stage, 0, 10);
        jobs(&mut stage, 1..=2);
        let offset = peer.mind().offsets[0];
        stage.say(&peer, told(1, offset, Verdict::Reject));
        stage.disconnect(&peer);
        stage.run();
        assert_eq!(
            stored(&mut stage, &["dead-letter/#"]),
            ["dead-letter/job/1"]
        );
        let peer = member(&mut stage, 0, 10);
        assert_eq!(peer.heard(), [again("job/2", 1)]);
    }
}

#[test]
fn a_dead_letter_that_finds_no_room_waits_for_it() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    let mut job = draft("job/1");
    job.payload = vec![b'x'; 1_000_000].into();
    stage.publish_draft(job.clone());
    // The segment is full, nearly.
    job.topic = draft("other").topic;
    job.payload.truncate(900_000);
    stage.publish_draft(job);
    stage.run();
    stage.fill_up();
    let offset = last(&peer);
    stage.say(
        &peer,
        Command::Settle {
            tag: None,
            settle: settle(offset, Verdict::Reject),
        },
    );
    stage.run();
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 0);
    stage.set_faults(Faults::default());
    stage.pass(Duration::from_secs(2));
    stage.drain(&peer);
    assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 1);
    assert_eq!(
        stored(&mut stage, &["dead-letter/#"]),
        ["dead-letter/job/1"]
    );
}

#[test]
fn a_queue_over_dead_letters_makes_none() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    let mut join = join_with(Start::Latest, 10, Expiry::Never);
    if let Command::Subscribe { filters, .. } = &mut join {
        *filters = vec![super::stage::filter("#")];
    }
    stage.say(&peer, join);
    stage.run();
    stage.publish("dead-letter/job/1");
    stage.run();
    let offset = last(&peer);
    stage.say(&peer, told(1, offset, Verdict::Reject));
    stage.run();
    assert_eq!(stage.sum(|metrics| metrics.dead_dropped.get()), 1);
    assert_eq!(stored(&mut stage, &["#"]), ["dead-letter/job/1"]);
}

#[test]
fn a_publish_and_verdicts_happen_together_or_not_at_all() {
    let mut outcomes = [0; 2];
    // Everything up to and with step `steps` happens before the crash.
    for steps in 0..8 {
        for shard in 0..SHARDS {
            let mut stage = Stage::new();
            let peer = member(&mut stage, shard, 10);
            jobs(&mut stage, 1..=3);
            stage.pass(Duration::from_secs(1));
            let offsets = peer.mind().offsets.clone();
            peer.heard();
            let verdicts = [
                settle(offsets[0], Verdict::Ack),
                settle(offsets[1], Verdict::Nack),
            ];
            stage.say(&peer, transaction(&verdicts));
            for step in 0..steps {
                if step % 2 == 0 {
                    stage.commit();
                } else {
                    stage.take_inboxes();
                }
            }
            let answered = peer.heard().contains(&Heard::Published(7));
            stage.crash();
            let peer = member(&mut stage, shard, 10);
            let jobs = topics(&peer);
            let done = stored(&mut stage, &["done"]).len();
            let expect: &[&str] = match done {
                0 => &["job/1", "job/2", "job/3"],
                _ => &["job/2", "job/3"],
            };
            assert_eq!(jobs, expect, "after {steps} steps");
            assert!(done == 1 || !answered, "after {steps} steps");
            outcomes[done] += 1;
            stage.pass(Duration::from_secs(1));
            assert_eq!(stage.kept(), [format!("queue/{NAME}")]);
        }
    }
    assert!(outcomes.iter().all(|count| *count >= 4), "{outcomes:?}");
}

#[test]
fn after_a_transaction_nothing_is_left_of_it() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=2);
    let offsets = peer.mind().offsets.clone();
    peer.heard();
    let verdicts = [
        settle(offsets[0], Verdict::Ack),
        settle(offsets[1], Verdict::Reject),
    ];
    stage.say(&peer, transaction(&verdicts));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Published(7)]);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.kept(), [format!("queue/{NAME}")]);
    let mut stored = stored(&mut stage, &["done", "dead-letter/#"]);
    stored.sort();
    assert_eq!(stored, ["dead-letter/job/2", "done"]);
}

#[test]
fn a_transaction_without_drafts_settles() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=1);
    let offset = last(&peer);
    peer.heard();
    let mut command = transaction(&[settle(offset, Verdict::Ack)]);
    if let Command::Publish { drafts, .. } = &mut command {
        drafts.clear();
    }
    stage.say(&peer, command);
    stage.run();
    assert_eq!(peer.heard(), [Heard::Published(7)]);
    stage.crash();
    let peer = member(&mut stage, 0, 10);
    assert_eq!(peer.heard(), []);
}

#[test]
fn a_transaction_over_a_message_that_went_to_another_is_refused_whole() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=2);
    let offsets = peer.mind().offsets.clone();
    peer.heard();
    stage.say(&peer, ack(offsets[1]));
    let verdicts: Vec<Settle> = offsets.iter().map(|it| settle(*it, Verdict::Ack)).collect();
    stage.say(&peer, transaction(&verdicts));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Refused(7, "not-yours")]);
    assert_eq!(stored(&mut stage, &["done"]), [""; 0]);
    // The other one is still its own.
    stage.say(&peer, told(8, offsets[0], Verdict::Ack));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Settled(8)]);
    assert_eq!(stage.sum(|metrics| metrics.queue_strays.get()), 1);
}

#[test]
fn a_transaction_that_finds_no_room_leaves_everything_as_it_was() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=1);
    stage.pass(Duration::from_secs(1));
    let offset = last(&peer);
    peer.heard();
    stage.fill_up();
    let mut big = transaction(&[settle(offset, Verdict::Ack)]);
    if let Command::Publish { drafts, .. } = &mut big {
        drafts[0].payload = vec![b'x'; 1_000_000].into();
        *drafts = vec![drafts[0].clone(); 3];
    }
    stage.say(&peer, big);
    stage.run();
    assert_eq!(peer.heard(), [Heard::Refused(7, "storage-full")]);
    stage.set_faults(Faults::default());
    stage.pass(Duration::from_secs(2));
    stage.say(&peer, transaction(&[settle(offset, Verdict::Ack)]));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Published(7)]);
    assert_eq!(stored(&mut stage, &["done"]), ["done"]);
}

#[test]
fn a_member_that_leaves_in_the_middle_of_a_transaction_takes_nothing_back() {
    let mut stage = Stage::new();
    let other = member(&mut stage, 1, 10);
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=2);
    let offset = last(&peer);
    other.heard();
    stage.say(&peer, transaction(&[settle(offset, Verdict::Ack)]));
    stage.disconnect(&peer);
    stage.run();
    assert_eq!(other.heard(), []);
    assert_eq!(stored(&mut stage, &["done"]), ["done"]);
}

#[test]
fn a_queue_is_forgotten_when_its_last_member_says_so() {
    let mut stage = Stage::new();
    let one = member(&mut stage, 0, 10);
    let two = member(&mut stage, 1, 10);
    jobs(&mut stage, 1..=2);
    for peer in [&one, &two] {
        assert_eq!(stage.kept(), [format!("queue/{NAME}")]);
        let leave = Command::Unsubscribe {
            tag: Tag(0),
            key: KEY,
            forget: true,
        };
        stage.say(peer, leave);
        stage.run();
    }
    assert_eq!(stage.kept(), [""; 0]);
    let peer = member(&mut stage, 0, 10);
    assert_eq!(peer.heard(), []);
}

#[test]
fn a_queue_is_on_record_from_the_first_member_that_wants_it_kept() {
    let mut stage = Stage::new();
    let one = stage.connect(0);
    stage.say(&one, join_with(Start::Latest, 10, Expiry::WithConnection));
    stage.run();
    assert_eq!(stage.kept(), [""; 0]);
    let two = stage.connect(1);
    stage.say(&two, join(10));
    stage.take_inboxes();
    assert_eq!(two.heard(), []);
    stage.run();
    assert_eq!(two.heard(), [Heard::Subscribed(0, 0)]);
    assert_eq!(stage.kept(), [format!("queue/{NAME}")]);
}

#[test]
fn each_subscription_gets_its_copy_where_the_protocol_wants_it() {
    for (wants_each, expect) in [(false, 1), (true, 3)] {
        let mut stage = Stage::new();
        stage.publish("a/b");
        stage.run();
        for start in [Start::Latest, Start::Earliest] {
            let peer = stage.connect_wanting(0, wants_each);
            for (key, filter) in [(1, "a/b"), (2, "a/+"), (3, "#")] {
                stage.say(
                    &peer,
                    subscribe(key, &[filter], start.clone(), Until::Ended),
                );
            }
            stage.run();
            if start == Start::Latest {
                stage.publish("a/b");
                stage.run();
            }
            let mut heard = topics(&peer);
            heard.retain(|text| text == "a/b");
            let each = if start == Start::Latest { 1 } else { 2 };
            assert_eq!(heard.len(), expect * each);
        }
    }
}
