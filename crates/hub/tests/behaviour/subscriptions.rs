//! Judging messages, altering filters, and subscriptions that end by themselves.

use bytes::Bytes;
use tidings_ports::{Command, Engine, Framed, Framing, Start, SubscriptionKey, Tag, Until};
use tidings_types::{Grants, Limits};

use super::stage::{
    Heard, Stage, TextOnly, alter, draft, filter, message, publish, retained, subscribe,
};

fn unblock(key: u32) -> Command {
    Command::Unblock(SubscriptionKey(key))
}

fn subscribed(tag: u64, at: u64) -> Heard {
    Heard::Subscribed(tag, at)
}

#[test]
fn a_full_conversation_is_offered_the_same_message_again_after_unblock() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["#"], Start::Latest, Until::Ended));
    peer.mind().judges = [Framed::Put, Framed::Full].into();
    for topic in ["a", "b", "c"] {
        stage.publish(topic);
    }
    stage.run();
    assert_eq!(peer.heard(), [subscribed(0, 0), message(0, "a")]);
    // Room in the outbox is not what it waits for.
    stage.drain(&peer);
    stage.run();
    assert_eq!(peer.heard(), []);
    peer.mind().judges = [Framed::Put, Framed::Full].into();
    stage.say(&peer, unblock(0));
    assert_eq!(peer.heard(), [message(0, "b")]);
    stage.say(&peer, unblock(0));
    assert_eq!(peer.heard(), [message(0, "c")]);
    stage.publish("d");
    stage.run();
    assert_eq!(peer.heard(), [message(0, "d")]);
    assert_eq!(stage.sum(|metrics| metrics.catching_up.get()), 0);
}

#[test]
fn a_full_conversation_goes_on_from_the_log_when_memory_has_let_go() {
    let mut stage = Stage::with(Limits {
        tail_bytes_max: 0,
        page_messages_max: 100,
        ..Limits::default()
    });
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["#"], Start::Latest, Until::Ended));
    peer.mind().judges = [Framed::Full].into();
    for _ in 0..30 {
        stage.publish("a");
        stage.run();
    }
    peer.heard();
    for _ in 0..15 {
        peer.mind().judges = [Framed::Put, Framed::Put, Framed::Full].into();
        stage.say(&peer, unblock(0));
        stage.run();
    }
    stage.say(&peer, unblock(0));
    stage.run();
    assert_eq!(peer.heard().len(), 30);
    assert!(peer.mind().offsets.is_sorted());
    // It takes two at a time, so that whole pages would be read in vain.
    assert!(stage.engine.stats().messages_read < 30 * 10);
}

#[test]
fn unwanted_and_unfit_messages_are_passed_over_and_only_the_unfit_count() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(
        &peer,
        subscribe(0, &["#", "+"], Start::Latest, Until::Ended),
    );
    peer.mind().judges = [Framed::Unwanted, Framed::Unfit].into();
    for topic in ["a", "b", "c"] {
        stage.publish(topic);
    }
    stage.run();
    assert_eq!(peer.heard(), [subscribed(0, 0), message(0, "c")]);
    assert_eq!(stage.sum(|metrics| metrics.unframed.get()), 1);
    let delivered = |metrics: &tidings_hub::Metrics| metrics.protocols[4].delivered.get();
    assert_eq!(stage.sum(delivered), 1);
}

#[test]
fn held_is_told_once_after_everything_that_came_together() {
    let mut stage = Stage::new();
    stage.publish("old");
    stage.run();
    let peer = stage.connect(0);
    peer.mind().judges = [Framed::Held].into();
    stage.say(&peer, subscribe(0, &["#"], Start::Earliest, Until::Ended));
    stage.run();
    let expect = [subscribed(0, 0), message(0, "old"), Heard::Held];
    assert_eq!(peer.heard(), expect);
    peer.mind().judges = [Framed::Held, Framed::Put, Framed::Held].into();
    for topic in ["a", "b", "c"] {
        stage.publish(topic);
    }
    stage.run();
    let expect = [
        message(0, "a"),
        message(0, "b"),
        message(0, "c"),
        Heard::Held,
    ];
    assert_eq!(peer.heard(), expect);
}

#[test]
fn a_format_leaves_messages_that_it_cannot_share_to_the_conversation() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    let Command::Subscribe {
        tag,
        key,
        filters,
        start,
        until,
        ..
    } = subscribe(0, &["#"], Start::Latest, Until::Ended)
    else {
        unreachable!()
    };
    stage.say(
        &peer,
        Command::Subscribe {
            tag,
            key,
            filters,
            start,
            framing: Framing::Shared(&TextOnly),
            echo: true,
            until,
            group: None,
        },
    );
    let mut binary = draft("binary");
    binary.payload = Bytes::from_static(b"\xff");
    binary.format = tidings_types::PayloadFormat::Binary;
    stage.publish("text");
    stage.publish_draft(binary);
    stage.run();
    assert_eq!(peer.heard(), [subscribed(0, 0), message(0, "binary")]);
    assert_eq!(stage.drain(&peer), "payload".len() + "frame;".len());
}

#[test]
fn a_conversation_that_hears_of_a_gap_can_frame_the_message_behind_it() {
    let mut stage = Stage::with(Limits {
        tail_bytes_max: 0,
        ..Limits::default()
    });
    let early = stage.connect(0);
    stage.say(&early, subscribe(0, &["a"], Start::Latest, Until::Ended));
    let before = early.mind().cursors[0];
    for topic in ["live/a", "text", "text"] {
        stage.publish(topic);
        stage.run();
    }
    let peer = stage.connect(0);
    let alter = alter(1, 0, &["#"]);
    peer.mind().answers.insert("gap", vec![alter]);
    let mut asked = subscribe(0, &["#"], Start::After(before), Until::Ended);
    if let Command::Subscribe { framing, .. } = &mut asked {
        *framing = Framing::Shared(&TextOnly);
    }
    stage.say(&peer, asked);
    stage.run();
    let heard = peer.heard();
    assert!(heard.contains(&Heard::Gap), "{heard:?}");
    // What was shared was not offered.
    let texts = [message(0, "text"), message(0, "text")];
    assert!(heard.ends_with(&texts), "{heard:?}");
}

#[test]
fn own_messages_are_marked_as_such() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["#"], Start::Latest, Until::Ended));
    stage.say(&peer, publish(1, "mine", None));
    stage.publish("theirs");
    stage.run();
    let mine = Heard::Message {
        key: 0,
        topic: "mine".to_owned(),
        retained: false,
        own: true,
        redelivered: 0,
    };
    let expect = [
        subscribed(0, 0),
        Heard::Published(1),
        mine,
        message(0, "theirs"),
    ];
    assert_eq!(peer.heard(), expect);
}

#[test]
fn altered_filters_count_from_the_position_that_is_answered() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a"], Start::Latest, Until::Ended));
    stage.publish("a");
    stage.publish("b");
    stage.run();
    stage.say(&peer, alter(7, 0, &["b", "c"]));
    for topic in ["a", "b", "c"] {
        stage.publish(topic);
    }
    stage.run();
    let expect = [
        subscribed(0, 0),
        message(0, "a"),
        subscribed(7, 2),
        message(0, "b"),
        message(0, "c"),
    ];
    assert_eq!(peer.heard(), expect);
}

#[test]
fn what_was_committed_but_not_brought_yet_is_before_the_answer() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a"], Start::Latest, Until::Ended));
    stage.publish("a");
    stage.publish("b");
    stage.commit();
    stage.say(&peer, alter(7, 0, &["a", "b"]));
    stage.run();
    let heard = peer.heard();
    // The conversation tells by the position that `b` is older than its filter.
    assert_eq!(heard[..2], [subscribed(0, 0), subscribed(7, 2)]);
    assert!(heard.contains(&message(0, "a")));
}

#[test]
fn a_page_that_was_asked_for_with_other_filters_hides_nothing_of_the_new_ones() {
    let mut stage = Stage::with(Limits {
        tail_bytes_max: 0,
        ..Limits::default()
    });
    for topic in ["a", "b", "a"] {
        stage.publish(topic);
    }
    stage.run();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a"], Start::Earliest, Until::Ended));
    // The read is under way, and finds what comes after the alteration too.
    stage.say(&peer, alter(7, 0, &["a", "b"]));
    for topic in ["b", "a", "b"] {
        stage.publish(topic);
    }
    stage.commit();
    stage.take_inboxes();
    stage.run();
    let expect = [
        subscribed(0, 0),
        subscribed(7, 3),
        message(0, "a"),
        message(0, "a"),
        message(0, "b"),
        message(0, "a"),
        message(0, "b"),
    ];
    assert_eq!(peer.heard(), expect);
}

#[test]
fn what_was_before_an_alteration_is_not_taken_for_delivered() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a"], Start::Latest, Until::Ended));
    stage.publish("b");
    stage.run();
    stage.say(&peer, alter(7, 0, &["a", "b"]));
    stage.publish("b");
    stage.run();
    assert_eq!(
        peer.heard(),
        [subscribed(0, 0), subscribed(7, 1), message(0, "b")]
    );
    stage.say(&peer, subscribe(1, &["b"], Start::Earliest, Until::Ended));
    stage.run();
    assert_eq!(peer.heard(), [subscribed(1, 0), message(1, "b")]);
}

#[test]
fn an_altered_subscription_that_was_full_goes_on_with_the_new_filters() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["#"], Start::Latest, Until::Ended));
    peer.mind().judges = [Framed::Full].into();
    stage.publish("a");
    stage.publish("b");
    stage.run();
    stage.say(&peer, alter(7, 0, &["b"]));
    stage.say(&peer, unblock(0));
    let expect = [subscribed(0, 0), subscribed(7, 2), message(0, "b")];
    assert_eq!(peer.heard(), expect);
}

#[test]
fn an_alteration_is_refused_as_a_whole() {
    let mut stage = Stage::new();
    stage.permit(Grants {
        publish: vec![filter("#")],
        subscribe: vec![filter("a/#")],
        ..Grants::default()
    });
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a/1"], Start::Latest, Until::Ended));
    stage.say(&peer, alter(7, 0, &["a/2", "b"]));
    stage.say(&peer, alter(8, 0, &[]));
    stage.say(&peer, alter(9, 5, &["a/2"]));
    stage.publish("a/1");
    stage.publish("a/2");
    stage.run();
    let expect = [
        subscribed(0, 0),
        Heard::Refused(7, "forbidden"),
        Heard::Refused(8, "bad-filter"),
        Heard::Refused(9, "bad-request"),
        message(0, "a/1"),
    ];
    assert_eq!(peer.heard(), expect);
}

#[test]
fn retained_messages_are_told_beside_what_is_live_and_then_it_ends() {
    let mut stage = Stage::new();
    stage.publish_draft(retained("a/1"));
    stage.publish("a/2");
    stage.publish_draft(retained("a/3"));
    stage.run();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a/#"], Start::Earliest, Until::Ended));
    stage.run();
    peer.heard();
    // All of it was delivered before, and is told again.
    stage.say(
        &peer,
        subscribe(1, &["a/#"], Start::Retained, Until::CaughtUp),
    );
    stage.publish_draft(retained("a/1"));
    stage.run();
    let old = |topic: &str| Heard::Message {
        key: 1,
        topic: topic.to_owned(),
        retained: true,
        own: false,
        redelivered: 0,
    };
    let heard = peer.heard();
    // What was retained anew meanwhile comes once: as what it is, a new message.
    for expect in [
        subscribed(1, 3),
        old("a/3"),
        Heard::CaughtUp(1),
        message(0, "a/1"),
    ] {
        assert!(heard.contains(&expect), "{expect:?} in {heard:?}");
    }
    stage.publish("a/4");
    stage.run();
    assert_eq!(peer.heard(), [message(0, "a/4")]);
    assert_eq!(stage.sum(|metrics| metrics.subscriptions.get()), 1);
    assert_eq!(stage.sum(|metrics| metrics.catching_up.get()), 0);
}

#[test]
fn one_that_ends_when_it_has_caught_up_delivers_all_that_was_committed() {
    let mut stage = Stage::new();
    stage.publish("a");
    stage.run();
    // The feed has not brought this one yet.
    stage.publish("b");
    stage.commit();
    let peer = stage.connect(0);
    stage.say(
        &peer,
        subscribe(1, &["#"], Start::Earliest, Until::CaughtUp),
    );
    stage.run();
    stage.publish("c");
    stage.run();
    let expect = [
        subscribed(1, 0),
        message(1, "a"),
        message(1, "b"),
        Heard::CaughtUp(1),
    ];
    assert_eq!(peer.heard(), expect);
    stage.say(&peer, subscribe(2, &["#"], Start::Latest, Until::CaughtUp));
    stage.run();
    assert_eq!(peer.heard(), [subscribed(2, 3), Heard::CaughtUp(2)]);
}

#[test]
fn one_that_ends_when_it_has_caught_up_waits_for_a_full_peer() {
    let mut stage = Stage::new();
    for topic in ["a", "b", "c"] {
        stage.publish(topic);
    }
    stage.run();
    let peer = stage.connect(0);
    peer.mind().judges = [Framed::Put, Framed::Full].into();
    stage.say(&peer, subscribe(1, &["#"], Start::Last(2), Until::CaughtUp));
    stage.run();
    assert_eq!(peer.heard(), [subscribed(1, 1), message(1, "b")]);
    stage.say(&peer, unblock(1));
    stage.run();
    assert_eq!(peer.heard(), [message(1, "c"), Heard::CaughtUp(1)]);
    // Its key is free again.
    stage.say(&peer, subscribe(1, &["#"], Start::Latest, Until::Ended));
    stage.say(
        &peer,
        Command::Unsubscribe {
            tag: Tag(1),
            key: SubscriptionKey(1),
            forget: false,
        },
    );
    assert_eq!(peer.heard(), [subscribed(1, 3), Heard::Unsubscribed]);
}

#[test]
fn a_retained_message_does_not_come_after_the_one_that_replaced_it() {
    let mut stage = Stage::new();
    stage.publish_draft(retained("t"));
    stage.publish_draft(retained("u"));
    stage.run();
    let peer = stage.connect(0);
    stage.say(
        &peer,
        subscribe(0, &["t", "u"], Start::Latest, Until::Ended),
    );
    stage.say(
        &peer,
        subscribe(1, &["t", "u"], Start::Retained, Until::CaughtUp),
    );
    stage.read();
    stage.publish_draft(retained("t"));
    stage.publish("u");
    stage.commit();
    stage.take_inboxes();
    let heard = peer.heard();
    let expect = [
        Heard::Subscribed(0, 2),
        Heard::Subscribed(1, 2),
        message(0, "t"),
        message(0, "u"),
        Heard::Message {
            key: 1,
            topic: "u".to_owned(),
            retained: true,
            own: false,
            redelivered: 0,
        },
        Heard::CaughtUp(1),
    ];
    assert_eq!(heard, expect);
}

#[test]
fn altered_filters_count_from_their_answer_on_while_the_newest_are_looked_for() {
    let mut stage = Stage::new();
    let peer = stage.connect(0);
    stage.say(&peer, subscribe(0, &["a"], Start::Last(5), Until::Ended));
    stage.say(&peer, alter(7, 0, &["a", "b"]));
    assert_eq!(peer.heard(), [Heard::Subscribed(7, 0)]);
    stage.publish("b");
    stage.publish("a");
    stage.run();
    let expect = [Heard::Subscribed(0, 0), message(0, "b"), message(0, "a")];
    assert_eq!(peer.heard(), expect);
}
