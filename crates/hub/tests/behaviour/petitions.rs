//! Permissions that no grant decides: what waits for them, and what they are good for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidings_hub::shard::Ended;
use tidings_ports::{Action, Expiry, Permission, Start, Until};
use tidings_types::{Grants, Refusal, RefusalCode};

use super::stage::{
    Heard, Peer, Stage, alter, authenticate, filter, keep, message, open, publish, save, subscribe,
    will,
};

const NAME: &str = "mqtt/sensor-7";

fn grants(publish: &[&str], subscribe: &[&str]) -> Grants {
    Grants {
        publish: publish.iter().map(|text| filter(text)).collect(),
        subscribe: subscribe.iter().map(|text| filter(text)).collect(),
        ..Grants::default()
    }
}

/// A stage whose peers may do what begins with `own`, but not `own/locked`, and not `shut`, and whose clerk is asked for the rest.
fn stage() -> Stage {
    let mut stage = Stage::new();
    stage.clerk.asks.store(true, Ordering::Relaxed);
    let mut granted = grants(&["own/#"], &["own/#"]);
    granted.deny_publish = vec![filter("own/locked"), filter("shut")];
    granted.deny_subscribe = vec![filter("own/locked"), filter("shut")];
    stage.permit(granted);
    stage
}

/// What is asked now, as `publish a`.
fn asked(stage: &Stage) -> Vec<String> {
    let petitions = stage.clerk.petitions.lock().unwrap();
    let wants = petitions.iter().flat_map(|(petition, _)| &petition.wants);
    wants
        .map(|(action, filter)| format!("{} {filter}", action.name()))
        .collect()
}

/// Answers the first petition, and runs: everything is permitted, nothing, or nobody can say.
fn answer(stage: &mut Stage, yes: Option<bool>) {
    let petition = stage.clerk.petitions.lock().unwrap().pop_front();
    let (petition, granted) = petition.expect("somebody asks");
    let mut all = Grants::default();
    for (action, filter) in petition.wants {
        match action {
            Action::Publish => all.publish.push(filter),
            Action::Subscribe => all.subscribe.push(filter),
        }
    }
    let permission: Permission = match yes {
        Some(true) => Ok(all),
        Some(false) => Ok(Grants::default()),
        None => Err(Refusal::new(RefusalCode::Busy, "nobody can say")),
    };
    granted(permission);
    stage.run();
}

fn watch(key: u32, topic: &str) -> tidings_ports::Command {
    subscribe(key, &[topic], Start::Latest, Until::Ended)
}

#[test]
fn a_command_waits_with_those_behind_it_and_each_is_answered_in_order() {
    for (yes, expect) in [
        (
            Some(true),
            vec![Heard::Published(1), Heard::Subscribed(2, 1)],
        ),
        (
            Some(false),
            vec![Heard::Refused(1, "forbidden"), Heard::Subscribed(2, 0)],
        ),
        (
            None,
            vec![Heard::Refused(1, "busy"), Heard::Subscribed(2, 0)],
        ),
    ] {
        let mut stage = stage();
        let peer = stage.connect(0);
        stage.say(&peer, publish(1, "a", None));
        stage.say(&peer, watch(2, "own/x"));
        stage.run();
        assert_eq!(asked(&stage), ["publish a"]);
        assert_eq!(peer.heard(), [], "nothing is done before");
        assert!(!stage.shards[0].wants_input(peer.id));
        answer(&mut stage, yes);
        let mut heard = peer.heard();
        heard.sort_by_key(|it| matches!(it, Heard::Subscribed(..)));
        let kinds = |heard: &[Heard]| heard.iter().map(std::mem::discriminant).collect::<Vec<_>>();
        assert_eq!(kinds(&heard), kinds(&expect), "{heard:?}");
        assert_eq!(heard[0], expect[0]);
        assert!(stage.shards[0].wants_input(peer.id));
    }
}

#[test]
fn grants_and_denials_decide_without_asking_and_the_servers_own_topics_are_nobodys() {
    let mut stage = stage();
    let peer = stage.connect(0);
    let refused = |tag| Heard::Refused(tag, "forbidden");
    for (command, expect) in [
        (publish(1, "own/a", None), Heard::Published(1)),
        (publish(2, "own/locked", None), refused(2)),
        (publish(3, "$sys/a", None), refused(3)),
        (publish(8, "shut", None), refused(8)),
        (watch(9, "shut"), refused(9)),
        (watch(4, "own/a"), Heard::Subscribed(4, 1)),
        (watch(5, "own/#"), refused(5)),
        (watch(6, "#"), refused(6)),
        (watch(7, "$sys/#"), refused(7)),
    ] {
        stage.say(&peer, command);
        stage.run();
        assert_eq!(asked(&stage), [""; 0]);
        assert_eq!(peer.heard(), [expect]);
    }
    assert!(stage.clerk.petitions.lock().unwrap().is_empty());
}

#[test]
fn a_permission_counts_for_the_command_that_asked() {
    let mut stage = stage();
    let peer = stage.connect(0);
    for tag in 1..3 {
        stage.say(&peer, publish(tag, "a", None));
        stage.run();
        assert_eq!(asked(&stage), ["publish a"], "{tag}");
        answer(&mut stage, Some(true));
        assert_eq!(peer.heard(), [Heard::Published(tag)]);
    }
}

#[test]
fn several_filters_are_asked_about_at_once_and_what_a_subscription_has_is_not_asked_again() {
    let mut stage = stage();
    let peer = stage.connect(0);
    stage.say(
        &peer,
        subscribe(1, &["a", "own/x", "b/+", "a"], Start::Latest, Until::Ended),
    );
    stage.run();
    assert_eq!(asked(&stage), ["subscribe a", "subscribe b/+"]);
    answer(&mut stage, Some(true));
    assert_eq!(peer.heard(), [Heard::Subscribed(1, 0)]);
    stage.say(&peer, alter(2, 1, &["a", "b/+", "c"]));
    stage.run();
    assert_eq!(asked(&stage), ["subscribe c"]);
    answer(&mut stage, Some(false));
    assert_eq!(peer.heard(), [Heard::Refused(2, "forbidden")]);
    // Less than it has needs no word from anybody.
    stage.say(&peer, alter(3, 1, &["a"]));
    stage.run();
    assert_eq!((asked(&stage).len(), peer.heard().len()), (0, 1));
}

fn publisher(stage: &mut Stage) -> Peer {
    let peer = stage.connect_home(NAME);
    stage.say(&peer, open(NAME, false));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Session(None)]);
    peer
}

#[test]
fn a_will_is_asked_about_when_it_is_left_and_then_it_is_published() {
    let mut stage = stage();
    let reader = stage.connect(0);
    stage.say(&reader, watch(9, "own/#"));
    stage.run();
    let peer = publisher(&mut stage);
    let with_will = |tag| {
        keep(
            Some(tag),
            save("s", Expiry::Never, Some(will("b", Duration::ZERO))),
        )
    };
    stage.say(&peer, with_will(1));
    stage.run();
    assert_eq!(asked(&stage), ["publish b"]);
    answer(&mut stage, Some(true));
    // The same will again was permitted before.
    stage.say(&peer, with_will(2));
    stage.run();
    assert_eq!(asked(&stage), [""; 0]);
    assert_eq!(peer.heard(), [Heard::Saved(1), Heard::Saved(2)]);
    stage.disconnect(&peer);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.sum(|metrics| metrics.wills.get()), 1);
}

#[test]
fn what_was_asked_before_a_farewell_is_still_done() {
    let mut stage = stage();
    let peer = stage.connect(0);
    stage.say(&peer, publish(1, "a", None));
    stage.run();
    stage.shards[0].peer_finished(peer.id);
    assert_eq!(stage.shards[0].ended(peer.id), Ended::No);
    answer(&mut stage, Some(true));
    assert_eq!(stage.shards[0].ended(peer.id), Ended::AfterFlush);
    assert_eq!(
        stage.sum(|metrics| metrics.protocols.iter().map(|it| it.published.get()).sum()),
        1
    );
}

#[test]
fn an_answer_that_comes_too_late_counts_for_nothing() {
    let mut stage = stage();
    let peer = stage.connect(0);
    stage.say(&peer, publish(1, "a", None));
    stage.run();
    stage.disconnect(&peer);
    let other = stage.connect(0);
    answer(&mut stage, Some(true));
    assert_eq!(other.heard(), []);
    assert_eq!(
        stage.sum(|metrics| metrics.protocols.iter().map(|it| it.published.get()).sum()),
        0
    );
}

#[test]
fn a_renewal_asks_again_for_what_only_the_clerk_permitted() {
    for (yes, expect) in [
        (Some(true), None),
        (Some(false), Some(Heard::Lost)),
        (None, Some(Heard::Lost)),
    ] {
        let mut stage = stage();
        let peer = stage.connect(0);
        stage.say(&peer, watch(1, "a"));
        stage.run();
        answer(&mut stage, Some(true));
        stage.say(&peer, authenticate(2));
        let same = (*stage.principal).clone();
        stage.judge(Ok(same));
        assert_eq!(asked(&stage), ["subscribe a"]);
        assert_eq!(
            peer.heard(),
            [Heard::Subscribed(1, 0), Heard::Authenticated(2)]
        );
        answer(&mut stage, yes);
        assert_eq!(peer.heard(), expect.clone().into_iter().collect::<Vec<_>>());
        stage.permit(grants(&["a"], &[]));
        stage.publish("a");
        stage.run();
        let messages = if expect.is_none() {
            vec![message(1, "a")]
        } else {
            vec![]
        };
        assert_eq!(peer.heard(), messages);
    }
}

#[test]
fn files_that_are_read_again_and_grant_the_same_have_nobody_asked_again() {
    let mut stage = stage();
    let peer = stage.connect(0);
    stage.say(&peer, watch(1, "a"));
    stage.run();
    answer(&mut stage, Some(true));
    let own = (*stage.principal).clone();
    for (granted, expect) in [
        (own.grants.clone(), &[][..]),
        (grants(&[], &[]), &["subscribe a"]),
    ] {
        stage.change(&own.name, Some(granted));
        stage.recheck();
        stage.run();
        assert_eq!(asked(&stage), expect);
    }
}
