//! Work queues: each message goes to one member, until it is done.

use std::time::Duration;

use bytestring::ByteString;
use tidings_hub::home_shard;
use tidings_log::storage::Faults;
use tidings_ports::{
    Command, Expiry, Framed, Framing, Group, Settle, Start, SubscriptionKey, Tag, Until, Verdict,
};
use tidings_types::{Grants, Limits, Offset};

use super::stage::{Heard, Peer, SHARDS, Stage, draft, filter, message};

pub const HOUR: Duration = Duration::from_hours(1);
pub const NAME: &str = "jobs";

pub fn join_with(start: Start, prefetch: u32, expiry: Expiry) -> Command {
    Command::Subscribe {
        tag: Tag(0),
        key: SubscriptionKey(0),
        filters: vec![filter("job/#"), filter("job/+")],
        start,
        framing: Framing::Own,
        echo: true,
        until: Until::Ended,
        group: Some(Group {
            name: ByteString::from_static(NAME),
            prefetch,
            expiry,
            ack_timeout: None,
        }),
    }
}

pub fn join(prefetch: u32) -> Command {
    join_with(Start::Latest, prefetch, Expiry::After(HOUR))
}

pub fn ack(offset: Offset) -> Command {
    settle(offset, Verdict::Ack)
}

pub fn nack(offset: Offset) -> Command {
    settle(offset, Verdict::Nack)
}

fn settle(offset: Offset, verdict: Verdict) -> Command {
    Command::Settle {
        tag: None,
        settle: Settle {
            key: SubscriptionKey(0),
            offset,
            verdict,
        },
    }
}

pub fn again(topic: &str, redelivered: u32) -> Heard {
    Heard::Message {
        key: 0,
        topic: topic.to_owned(),
        retained: false,
        own: false,
        redelivered,
    }
}

/// A member on this shard, which has joined.
pub fn member(stage: &mut Stage, shard: usize, prefetch: u32) -> Peer {
    let peer = stage.connect(shard);
    stage.say(&peer, join(prefetch));
    stage.run();
    assert!(matches!(peer.heard_first(), Heard::Subscribed(..)));
    peer
}

pub fn jobs(stage: &mut Stage, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        stage.publish(&format!("job/{number}"));
        stage.run();
    }
}

pub fn last(peer: &Peer) -> Offset {
    *peer.mind().offsets.last().unwrap()
}

pub fn topics(peer: &Peer) -> Vec<String> {
    let topics = peer.heard().into_iter().map(|heard| match heard {
        Heard::Message { topic, .. } => topic,
        other => format!("{other:?}"),
    });
    topics.collect()
}

#[test]
fn members_on_all_shards_get_each_message_once_and_in_turn() {
    let mut stage = Stage::new();
    let one = member(&mut stage, 0, 10);
    let two = member(&mut stage, 1, 10);
    jobs(&mut stage, 1..=6);
    stage.publish("other");
    stage.run();
    assert_eq!(topics(&one), ["job/1", "job/3", "job/5"]);
    assert_eq!(topics(&two), ["job/2", "job/4", "job/6"]);
}

#[test]
fn a_member_holds_no_more_than_its_prefetch() {
    for tail_bytes_max in [0, 1 << 20] {
        let mut stage = Stage::with(Limits {
            tail_bytes_max,
            ..Limits::default()
        });
        let peer = member(&mut stage, 1 - home_shard(NAME, SHARDS), 2);
        jobs(&mut stage, 1..=20);
        assert_eq!(topics(&peer), ["job/1", "job/2"]);
        for number in 3..=20 {
            let offsets = peer.mind().offsets.clone();
            stage.say(&peer, ack(offsets[number - 3]));
            stage.run();
        }
        let rest: Vec<String> = (3..=20).map(|number| format!("job/{number}")).collect();
        let got = topics(&peer);
        // From the log it takes several at a time.
        assert!(got.len() >= rest.len() - 1, "{got:?}");
        assert_eq!(got[..], rest[..got.len()]);
    }
}

#[test]
fn what_a_member_leaves_behind_goes_to_the_others_at_once() {
    let mut stage = Stage::new();
    let one = member(&mut stage, 0, 10);
    let two = member(&mut stage, 1, 10);
    jobs(&mut stage, 1..=4);
    let first = one.mind().offsets[0];
    stage.say(&one, ack(first));
    stage.run();
    stage.disconnect(&one);
    stage.run();
    let expect = [message(0, "job/2"), message(0, "job/4"), again("job/3", 1)];
    assert_eq!(two.heard(), expect);
    stage.say(
        &two,
        Command::Unsubscribe {
            tag: Tag(0),
            key: SubscriptionKey(0),
            forget: false,
        },
    );
    let three = member(&mut stage, 0, 10);
    let expect = [again("job/2", 1), again("job/3", 2), again("job/4", 1)];
    assert_eq!(three.heard(), expect);
}

#[test]
fn a_nacked_message_goes_first_and_to_another_member() {
    let mut stage = Stage::new();
    let one = member(&mut stage, 0, 1);
    jobs(&mut stage, 1..=3);
    assert_eq!(one.heard(), [message(0, "job/1")]);
    // There is nobody else.
    stage.say(&one, nack(last(&one)));
    stage.run();
    assert_eq!(one.heard(), [again("job/1", 1)]);
    let two = member(&mut stage, 1, 1);
    stage.say(&two, ack(last(&two)));
    stage.run();
    assert_eq!(topics(&two), ["job/2", "job/3"]);
    stage.say(&one, nack(last(&one)));
    stage.say(&two, ack(last(&two)));
    stage.run();
    let (one, two) = (one.heard(), two.heard());
    assert!(
        one == [again("job/1", 2)] || two == [again("job/1", 2)],
        "{one:?} {two:?}"
    );
}

#[test]
fn a_full_member_gives_back_without_counting() {
    let mut stage = Stage::new();
    let one = member(&mut stage, 0, 10);
    let two = member(&mut stage, 1, 10);
    one.mind().judges = [Framed::Full].into();
    jobs(&mut stage, 1..=3);
    assert_eq!(one.heard(), []);
    let mut got = topics(&two);
    got.sort();
    assert_eq!(got, ["job/1", "job/2", "job/3"]);
    assert_eq!(stage.sum(|metrics| metrics.redelivered.get()), 0);
    stage.say(&one, Command::Unblock(SubscriptionKey(0)));
    stage.run();
    jobs(&mut stage, 4..=5);
    assert_eq!(one.heard().len(), 1);
}

#[test]
fn a_full_outbox_pauses_a_member_until_it_drains() {
    let mut stage = Stage::with(Limits {
        outbox_bytes_max: 200,
        ..Limits::default()
    });
    let one = member(&mut stage, 0, 1);
    for number in 1..=3 {
        jobs(&mut stage, number..=number);
        let offsets = one.mind().offsets.clone();
        if let Some(offset) = offsets.last() {
            stage.say(&one, ack(*offset));
        }
        stage.run();
    }
    assert_eq!(topics(&one), ["job/1", "job/2"]);
    stage.drain(&one);
    stage.run();
    assert_eq!(one.heard(), [message(0, "job/3")]);
}

#[test]
fn what_was_not_acknowledged_before_a_crash_comes_again_and_nothing_is_skipped() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 3);
    jobs(&mut stage, 1..=5);
    let offsets = peer.mind().offsets.clone();
    stage.say(&peer, ack(offsets[1]));
    stage.run();
    stage.pass(Duration::from_secs(1));
    // This one is too late to be on record.
    let offsets = peer.mind().offsets.clone();
    stage.say(&peer, ack(offsets[0]));
    assert_eq!(topics(&peer), ["job/1", "job/2", "job/3", "job/4"]);
    stage.crash();
    let peer = stage.connect(1);
    stage.say(&peer, join(10));
    stage.run();
    let mut heard = peer.heard();
    let at = heard
        .iter()
        .position(|heard| matches!(heard, Heard::Subscribed(..)));
    assert_eq!(at, Some(0));
    heard.remove(0);
    let expect = [
        again("job/1", 1),
        again("job/3", 1),
        again("job/4", 1),
        again("job/5", 1),
    ];
    assert_eq!(heard, expect);
}

#[test]
fn a_queue_without_members_keeps_its_place_until_it_expires() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 10);
    jobs(&mut stage, 1..=1);
    stage.say(&peer, ack(last(&peer)));
    stage.run();
    stage.disconnect(&peer);
    stage.run();
    jobs(&mut stage, 2..=3);
    stage.pass(HOUR / 2);
    stage.crash();
    assert_eq!(stage.kept(), ["queue/jobs"]);
    let peer = member(&mut stage, 0, 10);
    assert_eq!(peer.heard(), [message(0, "job/2"), message(0, "job/3")]);
    stage.disconnect(&peer);
    stage.run();
    stage.pass(HOUR);
    assert_eq!(stage.kept(), [""; 0]);
    let peer = member(&mut stage, 0, 10);
    assert_eq!(peer.heard(), [], "a new one starts at the latest");
}

#[test]
fn a_queue_that_ends_with_its_last_member_leaves_nothing() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, join_with(Start::Latest, 1, Expiry::WithConnection));
    stage.run();
    jobs(&mut stage, 1..=1);
    stage.pass(Duration::from_secs(1));
    assert_eq!(peer.heard(), [Heard::Subscribed(0, 0), message(0, "job/1")]);
    assert_eq!(stage.kept(), [""; 0]);
    stage.disconnect(&peer);
    stage.run();
    assert_eq!(stage.sum(|metrics| metrics.queues.get()), 0);
    assert_eq!(stage.sum(|metrics| metrics.subscriptions.get()), 0);
    assert_eq!(stage.sum(|metrics| metrics.catching_up.get()), 0);
}

#[test]
fn the_start_counts_for_a_new_queue_only() {
    let mut stage = Stage::new();
    jobs(&mut stage, 1..=4);
    let one = stage.connect(0);
    stage.say(&one, join_with(Start::Last(2), 10, Expiry::Never));
    stage.run();
    assert_eq!(
        one.heard(),
        [
            Heard::Subscribed(0, 2),
            message(0, "job/3"),
            message(0, "job/4")
        ]
    );
    let two = stage.connect(1);
    stage.say(&two, join_with(Start::Earliest, 10, Expiry::Never));
    stage.run();
    assert_eq!(two.heard(), [Heard::Subscribed(0, 4)]);
}

#[test]
fn members_are_admitted_and_agree_on_the_filters() {
    let mut stage = Stage::new();
    let _one = member(&mut stage, 0, 1);
    let two = stage.connect(1);
    let mut other = join(1);
    if let Command::Subscribe { filters, .. } = &mut other {
        *filters = vec![filter("else")];
    }
    stage.say(&two, other);
    stage.run();
    assert_eq!(two.heard(), [Heard::Refused(0, "bad-request")]);
    stage.say(&two, join(0));
    assert_eq!(two.heard(), [Heard::Refused(0, "bad-parameter")]);
    stage.permit(Grants {
        publish: vec![],
        subscribe: vec![filter("else")],
        ..Grants::default()
    });
    let three = stage.connect(1);
    stage.say(&three, join(1));
    assert_eq!(three.heard(), [Heard::Refused(0, "forbidden")]);
}

#[test]
fn expired_messages_and_those_that_no_log_has_are_passed_over() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    let mut short = draft("job/short");
    short.ttl = Some(Duration::from_millis(50));
    jobs(&mut stage, 1..=1);
    stage.publish_draft(short);
    stage.run();
    stage.clock.advance_ms(100);
    jobs(&mut stage, 2..=2);
    stage.say(&peer, ack(last(&peer)));
    stage.run();
    assert_eq!(topics(&peer), ["job/1", "job/2"]);
    assert_eq!(stage.sum(|metrics| metrics.expired.get()), 1);
}

#[test]
fn unwanted_and_unfit_messages_are_done() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    peer.mind().judges = [Framed::Unwanted, Framed::Unfit, Framed::Held].into();
    jobs(&mut stage, 1..=4);
    assert_eq!(peer.heard(), [message(0, "job/3"), Heard::Held]);
}

#[test]
fn a_member_holds_no_more_bytes_than_an_inbox() {
    let mut stage = Stage::with(Limits {
        inbox_bytes_max: 2_000,
        ..Limits::default()
    });
    let peer = member(&mut stage, 0, 100);
    for _ in 0..5 {
        let mut big = draft("job/big");
        big.payload = vec![b'x'; 900].into();
        stage.publish_draft(big);
    }
    stage.run();
    stage.drain(&peer);
    assert_eq!(peer.heard().len(), 1);
    stage.say(&peer, ack(last(&peer)));
    stage.run();
    assert_eq!(peer.heard().len(), 1);
}

#[test]
fn a_log_that_takes_nothing_any_more_does_not_keep_a_shard_busy() {
    let mut stage = Stage::new();
    let peer = member(&mut stage, 0, 1);
    stage.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    stage.disconnect(&peer);
    stage.run();
    stage.pass(Duration::from_secs(1));
    let late = stage.connect(0);
    stage.say(&late, join(1));
    stage.run();
    assert_eq!(late.heard(), [Heard::Refused(0, "storage-failed")]);
}

#[test]
fn a_queue_that_ends_with_its_last_member_ends_with_the_server() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, join_with(Start::Latest, 1, Expiry::WithConnection));
    stage.run();
    stage.crash();
    jobs(&mut stage, 1..=2);
    let peer = stage.connect(0);
    stage.say(&peer, join_with(Start::Latest, 10, Expiry::WithConnection));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Subscribed(0, 2)]);
    stage.crash();
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.kept(), [""; 0]);
    assert_eq!(stage.sum(|metrics| metrics.queues.get()), 0);
}

#[test]
fn a_queue_is_kept_as_long_as_any_of_its_members_asked_for() {
    let mut stage = Stage::new();
    let one = member(&mut stage, 0, 10);
    let two = stage.connect(1);
    stage.say(&two, join_with(Start::Latest, 10, Expiry::WithConnection));
    stage.run();
    stage.disconnect(&one);
    stage.disconnect(&two);
    stage.run();
    jobs(&mut stage, 1..=1);
    let one = member(&mut stage, 0, 10);
    assert_eq!(one.heard(), [message(0, "job/1")]);
}

#[test]
fn a_member_with_room_gets_the_backlog_while_others_take_their_time() {
    let mut stage = Stage::with(Limits {
        tail_bytes_max: 0,
        ..Limits::default()
    });
    let _slow = [member(&mut stage, 0, 1), member(&mut stage, 1, 1)];
    let quick = member(&mut stage, 0, 1);
    jobs(&mut stage, 1..=6);
    for number in 3..=6 {
        assert_eq!(topics(&quick), [format!("job/{number}")]);
        stage.say(&quick, ack(last(&quick)));
        stage.run();
        stage.pass(Duration::from_secs(1));
    }
}

#[test]
fn who_joins_a_queue_whose_log_cannot_be_read_is_refused() {
    let mut stage = Stage::new();
    jobs(&mut stage, 1..=4);
    stage.engine.be_damaged(true);
    let peer = stage.connect(0);
    stage.say(&peer, join_with(Start::Last(2), 10, Expiry::Never));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Refused(0, "storage-failed")]);
}
