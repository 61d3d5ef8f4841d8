//! What work queues give up, when it meets crashes, a busy log and the end of its queue.

use std::time::Duration;

use bytestring::ByteString;
use tidings_hub::{Shard, home_shard};
use tidings_log::storage::Faults;
use tidings_ports::{Command, Expiry, Settle, Start, SubscriptionKey, Tag, Verdict};
use tidings_types::{Limits, Offset};

use super::queues::{NAME, again, jobs, join, join_with, last, member, topics};
use super::stage::{Heard, Peer, SHARDS, Stage, draft};
use super::verdicts::{settle, stored, told, transaction};

fn second() -> Duration {
    Duration::from_secs(1)
}

/// A stage on which everything that was delivered has to be read from the log again.
fn forgetful() -> Stage {
    Stage::with(Limits {
        tail_bytes_max: 0,
        ..Limits::default()
    })
}

/// A transaction that finds no room on a stage that is full.
fn too_big(settle: &[Settle]) -> Command {
    let mut command = transaction(settle);
    if let Command::Publish { drafts, .. } = &mut command {
        drafts[0].payload = vec![b'x'; 1_000_000].into();
        *drafts = vec![drafts[0].clone(); 3];
    }
    command
}

fn forget() -> Command {
    Command::Unsubscribe {
        tag: Tag(0),
        key: SubscriptionKey(0),
        forget: true,
    }
}

fn is_heard(peer: &Peer, what: &Heard) -> bool {
    peer.heard().contains(what)
}

#[test]
fn what_was_rejected_durably_goes_to_no_member_after_a_crash() {
    for (is_transaction, answer) in [(false, Heard::Settled(3)), (true, Heard::Published(7))] {
        for shard in 0..SHARDS {
            let mut stage = forgetful();
            let peer = member(&mut stage, shard, 10);
            jobs(&mut stage, 1..=1);
            peer.heard();
            let offset = last(&peer);
            let command = if is_transaction {
                transaction(&[settle(offset, Verdict::Reject)])
            } else {
                told(3, offset, Verdict::Reject)
            };
            stage.say(&peer, command);
            // The letter waits for a read, which is not answered.
            while !is_heard(&peer, &answer) {
                stage.commit();
                stage.take_inboxes();
            }
            stage.crash();
            let peer = member(&mut stage, shard, 10);
            stage.pass(second());
            assert_eq!(peer.heard(), []);
            let letters = stored(&mut stage, &["dead-letter/#"]);
            assert_eq!(letters, ["dead-letter/job/1"]);
        }
    }
}

#[test]
fn what_a_queue_gave_up_is_published_though_the_queue_ends() {
    for expiry in [Expiry::WithConnection, Expiry::Never] {
        let mut stage = forgetful();
        let peer = stage.connect(0);
        stage.say(&peer, join_with(Start::Latest, 10, expiry));
        stage.run();
        jobs(&mut stage, 1..=1);
        let offset = last(&peer);
        stage.say(&peer, told(3, offset, Verdict::Reject));
        stage.say(&peer, forget());
        stage.disconnect(&peer);
        stage.take_inboxes();
        // Another queue of this name has nothing to do with it.
        let peer = stage.connect(0);
        stage.say(&peer, join_with(Start::Latest, 10, expiry));
        stage.run();
        let letters = stored(&mut stage, &["dead-letter/#"]);
        assert_eq!(letters, ["dead-letter/job/1"]);
        assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 1);
        stage.publish("job/2");
        stage.run();
        peer.heard_first();
        assert_eq!(topics(&peer), ["job/2"]);
    }
}

#[test]
fn a_queue_that_cannot_publish_what_it_gives_up_hands_out_no_more() {
    let mut stage = Stage::new();
    for number in 0..1_200 {
        stage.publish(&format!("job/{number}"));
        if number % 10 == 0 {
            stage.run();
        }
    }
    stage.run();
    let peer = stage.connect(0);
    stage.say(&peer, join_with(Start::Earliest, 10, Expiry::Never));
    stage.run();
    let mut rejected = 0;
    for (busy, expect) in [(true, 1_000..1_011), (false, 1_200..1_201)] {
        stage.engine.be_busy(busy);
        for _ in 0..300 {
            let offsets: Vec<Offset> = peer.mind().offsets.drain(..).collect();
            for offset in offsets {
                rejected += 1;
                let settle = settle(offset, Verdict::Reject);
                stage.say(&peer, Command::Settle { tag: None, settle });
            }
            stage.drain(&peer);
            stage.take_inboxes();
            stage.clock.advance_ms(1_000);
            stage.shards.iter_mut().for_each(Shard::tick);
            stage.read();
            stage.commit();
        }
        assert!(expect.contains(&rejected), "{rejected}");
    }
    assert_eq!(stage.sum(|metrics| metrics.dead_letters.get()), 1_200);
}

#[test]
fn a_message_of_a_transaction_takes_its_place_until_that_is_through() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    jobs(&mut stage, 1..=2);
    stage.pass(second());
    let offset = last(&peer);
    peer.heard();
    stage.fill_up();
    stage.say(&peer, too_big(&[settle(offset, Verdict::Ack)]));
    stage.run();
    stage.set_faults(Faults::default());
    stage.pass(second());
    assert_eq!(peer.heard(), [Heard::Refused(7, "storage-full")]);
    stage.say(&peer, transaction(&[settle(offset, Verdict::Ack)]));
    stage.run();
    assert_eq!(topics(&peer), ["Published(7)", "job/2"]);
}

#[test]
fn a_verdict_on_a_queue_that_is_forgotten_is_answered_when_that_is_durable() {
    for shard in 0..SHARDS {
        let mut stage = Stage::new();
        let peer = member(&mut stage, shard, 10);
        jobs(&mut stage, 1..=1);
        stage.pass(second());
        peer.heard();
        // The first write is under way, so that both are in the next one.
        let offset = last(&peer);
        stage.engine.be_busy(true);
        stage.say(&peer, told(3, offset, Verdict::Ack));
        stage.say(&peer, forget());
        for _ in 0..4 {
            stage.take_inboxes();
        }
        assert_eq!(peer.heard(), []);
        stage.engine.be_busy(false);
        stage.pass(second());
        assert_eq!(peer.heard(), [Heard::Settled(3), Heard::Unsubscribed]);
        assert_eq!(stage.kept(), [""; 0]);
    }
}

#[test]
fn a_transaction_over_a_queue_that_was_forgotten_lets_its_successor_alone() {
    let mut stage = Stage::new();
    let home = home_shard(NAME, SHARDS);
    let away = 1 - home;
    let one = member(&mut stage, away, 10);
    jobs(&mut stage, 1..=1);
    let offset = last(&one);
    stage.say(&one, transaction(&[settle(offset, Verdict::Ack)]));
    stage.shards[home].take_inbox();
    stage.commit();
    stage.take_inboxes();
    stage.take_inboxes();
    stage.say(&one, forget());
    stage.shards[home].take_inbox();
    // It is carried out, and its own shard does not look yet.
    stage.commit();
    let two = stage.connect(home);
    stage.say(&two, join_with(Start::Earliest, 10, Expiry::Never));
    for _ in 0..3 {
        stage.commit();
        stage.read();
        stage.shards[home].take_inbox();
    }
    assert_eq!(topics(&two), ["Subscribed(0, 0)", "job/1"]);
    stage.say(&two, too_big(&[settle(offset, Verdict::Ack)]));
    stage.commit();
    stage.shards[home].take_inbox();
    stage.fill_up();
    stage.take_inboxes();
    stage.take_inboxes();
    stage.run();
    assert_eq!(two.heard(), [Heard::Refused(7, "storage-full")]);
    stage.set_faults(Faults::default());
    stage.pass(second());
    stage.disconnect(&two);
    let mut join = join(10);
    if let Command::Subscribe {
        group: Some(group), ..
    } = &mut join
    {
        group.expiry = Expiry::Never;
    }
    let three = stage.connect(home);
    stage.say(&three, join);
    stage.run();
    three.heard_first();
    assert_eq!(three.heard(), [again("job/1", 1)]);
}

#[test]
fn queues_that_are_due_at_once_have_their_turns() {
    const QUEUES: u32 = 600;
    let mut stage = Stage::with(Limits {
        subscriptions_per_connection_max: QUEUES as usize,
        outbox_bytes_max: 1 << 20,
        ..Limits::default()
    });
    let peer = stage.connect(0);
    for number in 0..QUEUES {
        let mut join = join(1);
        if let Command::Subscribe {
            key,
            group: Some(group),
            ..
        } = &mut join
        {
            *key = SubscriptionKey(number);
            group.name = ByteString::from(number.to_string());
            group.ack_timeout = Some(second());
        }
        stage.say(&peer, join);
    }
    stage.run();
    stage.pass(second());
    stage.publish_draft(draft("job/1"));
    stage.run();
    assert_eq!(peer.mind().offsets.len(), QUEUES as usize);
    let mut late = Vec::new();
    for _ in 0..9 {
        stage.pass(Duration::from_millis(if late.is_empty() { 999 } else { 1 }));
        late.push(stage.sum(|metrics| metrics.queue_late.get()));
    }
    assert!(late.contains(&512), "{late:?}");
    assert_eq!(late.last(), Some(&u64::from(QUEUES)));
}
