//! Who peers are: what waits for it, and what ends with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings_hub::Renewal;
use tidings_ports::{Expiry, Start, Until};
use tidings_types::{Grants, Principal, Refusal, RefusalCode, Timestamp};

use super::stage::{
    Heard, Stage, authenticate, filter, keep, message, open, publish, save, subscribe,
};

const NAME: &str = "mqtt/sensor-7";

/// Somebody with this name who may do everything.
fn somebody(name: &str, expires: Option<Timestamp>) -> Principal {
    Principal {
        name: name.to_owned(),
        source: "key",
        expires,
        ..Principal::anonymous()
    }
}

fn no() -> Refusal {
    Refusal::new(RefusalCode::Unauthorized, "no")
}

/// A stage whose peers have still to say who they are.
fn closed_stage() -> Stage {
    let mut stage = Stage::new();
    stage.principal = Arc::new(Principal::nobody(None));
    stage
}

#[test]
fn commands_wait_until_it_is_known_who_the_peer_is() {
    for (judged, expect) in [
        (
            Ok(somebody("ann", None)),
            vec![Heard::Authenticated(1), Heard::Subscribed(2, 0)],
        ),
        (
            Err(no()),
            vec![
                Heard::Refused(1, "unauthorized"),
                Heard::Refused(2, "unauthorized"),
            ],
        ),
    ] {
        let mut stage = closed_stage();
        let peer = stage.connect(0);
        stage.say(&peer, authenticate(1));
        stage.say(&peer, subscribe(2, &["a"], Start::Latest, Until::Ended));
        stage.run();
        assert_eq!(peer.heard(), [], "nothing is done before");
        assert!(!stage.shards[0].wants_input(peer.id));
        stage.judge(judged);
        assert_eq!(peer.heard(), expect);
        assert!(stage.shards[0].wants_input(peer.id));
    }
}

#[test]
fn nobody_may_do_anything() {
    let mut stage = closed_stage();
    let peer = stage.connect(0);
    stage.say(&peer, publish(1, "a", None));
    stage.say(&peer, subscribe(2, &["a"], Start::Latest, Until::Ended));
    stage.run();
    let refused = [
        Heard::Refused(1, "unauthorized"),
        Heard::Refused(2, "unauthorized"),
    ];
    assert_eq!(peer.heard(), refused);
}

#[test]
fn a_principal_ends_when_it_says_unless_it_is_renewed() {
    let mut stage = closed_stage();
    let peer = stage.connect(0);
    let end = |s: u64| Some(Timestamp(1_000_000 + s * 1_000));
    stage.say(&peer, authenticate(1));
    stage.judge(Ok(somebody("ann", end(10))));
    stage.pass(Duration::from_secs(9));
    stage.say(&peer, authenticate(2));
    stage.judge(Ok(somebody("eve", end(99))));
    stage.say(&peer, authenticate(3));
    stage.judge(Ok(somebody("ann", end(20))));
    stage.pass(Duration::from_secs(9));
    let soon = |s| Heard::Expiring(Duration::from_secs(s));
    let renewed = [
        Heard::Authenticated(1),
        soon(1),
        Heard::Refused(2, "unauthorized"),
        Heard::Authenticated(3),
        soon(2),
    ];
    assert_eq!(peer.heard(), renewed, "its old end does not count");
    stage.pass(Duration::from_secs(3));
    assert_eq!(peer.heard(), [Heard::Other], "goodbye, once");
    stage.pass(Duration::from_secs(3));
    assert_eq!(peer.heard(), []);
}

#[test]
fn a_peer_is_told_once_before_its_end_and_again_after_a_renewal() {
    let mut stage = closed_stage();
    let peer = stage.connect(0);
    let end = |s: u64| Some(Timestamp(1_000_000 + s * 1_000));
    stage.say(&peer, authenticate(1));
    stage.judge(Ok(somebody("ann", end(600))));
    let told = |stage: &mut Stage, seconds: u64| {
        for _ in 0..seconds {
            stage.pass(Duration::from_secs(1));
        }
        peer.heard()
    };
    assert_eq!(told(&mut stage, 539), [Heard::Authenticated(1)]);
    // A minute before, but for the width of the wheel's slots.
    let soon = told(&mut stage, 2);
    assert!(
        matches!(soon[..], [Heard::Expiring(left)] if left >= Duration::from_secs(59)),
        "{soon:?}"
    );
    assert_eq!(told(&mut stage, 30), [], "once");
    stage.say(&peer, authenticate(2));
    stage.judge(Ok(somebody("ann", end(591))));
    // Twenty seconds: it is told at the half, not at once.
    let later = told(&mut stage, 15);
    assert!(
        matches!(later[..], [Heard::Authenticated(2), Heard::Expiring(left)] if left < Duration::from_secs(11)),
        "{later:?}"
    );
    assert_eq!(told(&mut stage, 6), [Heard::Other], "goodbye");
}

/// Moves the end of a peer's connection from another shard.
fn renew(stage: &mut Stage, peer: &super::stage::Peer, principal: Principal) -> Renewed {
    let outcome = Arc::new(Mutex::new(None));
    let told = Arc::clone(&outcome);
    let renewal = Renewal {
        principal: Arc::new(principal),
        outcome: Box::new(move |outcome| *told.lock().unwrap() = Some(outcome)),
    };
    stage.shards[1].renew(peer.shard, peer.id, renewal);
    stage.run();
    let outcome = outcome.lock().unwrap().take();
    outcome.expect("it is told").map_err(|refusal| refusal.code)
}

type Renewed = Result<Option<Timestamp>, RefusalCode>;

#[test]
fn an_end_is_moved_from_another_shard_by_the_same_user_alone() {
    let mut stage = Stage::new();
    let end = |s: u64| Some(Timestamp(1_000_000 + s * 1_000));
    stage.principal = Arc::new(somebody("ann", end(10)));
    let peer = stage.connect(0);
    for (key, topic) in [(1, "a"), (2, "b")] {
        stage.say(&peer, subscribe(key, &[topic], Start::Latest, Until::Ended));
    }
    stage.run();
    peer.heard();
    let unauthorized = Err(RefusalCode::Unauthorized);
    assert_eq!(
        renew(&mut stage, &peer, somebody("eve", end(99))),
        unauthorized
    );
    assert_eq!(
        renew(&mut stage, &peer, somebody("ann", end(0))),
        unauthorized
    );
    let other_source = Principal {
        source: "jwt",
        ..somebody("ann", end(99))
    };
    assert_eq!(renew(&mut stage, &peer, other_source), unauthorized);
    let grants = Grants {
        subscribe: vec![filter("a")],
        ..Grants::default()
    };
    let less = Principal {
        grants,
        ..somebody("ann", end(20))
    };
    assert_eq!(renew(&mut stage, &peer, less), Ok(end(20)));
    assert_eq!(peer.heard(), [Heard::Lost], "what is not granted any more");
    stage.pass(Duration::from_secs(11));
    assert_eq!(
        peer.heard().len(),
        1,
        "the old end does not count; the new one is told of"
    );
    stage.pass(Duration::from_secs(10));
    assert_eq!(peer.heard(), [Heard::Other]);
    let gone = Err(RefusalCode::NotFound);
    assert_eq!(renew(&mut stage, &peer, somebody("ann", end(99))), gone);
    stage.disconnect(&peer);
    let next = stage.connect(0);
    assert_eq!(next.id.slot(), peer.id.slot());
    assert_eq!(
        renew(&mut stage, &peer, somebody("ann", end(99))),
        gone,
        "another one's place"
    );
}

#[test]
fn what_a_renewal_does_not_grant_any_more_is_lost() {
    let mut stage = closed_stage();
    let peer = stage.connect(0);
    stage.say(&peer, authenticate(1));
    stage.judge(Ok(somebody("ann", None)));
    for (key, topic) in [(2, "a"), (3, "b")] {
        stage.say(&peer, subscribe(key, &[topic], Start::Latest, Until::Ended));
    }
    stage.run();
    assert_eq!(peer.heard().len(), 3);
    stage.say(&peer, authenticate(4));
    let grants = Grants {
        subscribe: vec![filter("a")],
        publish: vec![filter("#")],
        ..Grants::default()
    };
    stage.judge(Ok(Principal {
        grants,
        ..somebody("ann", None)
    }));
    assert_eq!(peer.heard(), [Heard::Authenticated(4), Heard::Lost]);
    stage.principal = Arc::new(Principal::anonymous());
    for topic in ["a", "b"] {
        stage.publish(topic);
    }
    stage.run();
    assert_eq!(peer.heard(), [message(2, "a")]);
}

#[test]
fn a_session_is_that_of_who_made_it_also_after_a_crash() {
    let mut stage = Stage::new();
    stage.principal = Arc::new(somebody("ann", None));
    let peer = stage.connect_home(NAME);
    stage.say(&peer, open(NAME, false));
    stage.say(&peer, keep(Some(1), save("state", Expiry::Never, None)));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Session(None), Heard::Saved(1)]);
    for round in 0..2 {
        stage.principal = Arc::new(somebody("eve", None));
        for fresh in [false, true] {
            let other = stage.connect_home(NAME);
            stage.say(&other, open(NAME, fresh));
            assert_eq!(other.heard(), [Heard::Refused(0, "forbidden")], "{round}");
        }
        if round == 0 {
            assert_eq!(peer.heard(), [], "nobody took it over");
            stage.crash();
        }
    }
    stage.principal = Arc::new(somebody("ann", None));
    let back = stage.connect_home(NAME);
    stage.say(&back, open(NAME, false));
    assert_eq!(back.heard(), [Heard::Session(Some("state".to_owned()))]);
}

#[test]
fn what_a_peer_shows_takes_the_place_of_its_certificate_but_not_of_a_session() {
    let end = Timestamp(1_000_000 + 10_000);
    let holder = || Principal {
        source: Principal::CERTIFICATE,
        ..somebody("pump", Some(end))
    };
    let mut stage = closed_stage();
    stage.principal = Arc::new(holder());
    let peer = stage.connect(0);
    stage.say(&peer, authenticate(1));
    stage.judge(Ok(somebody("ann", None)));
    assert_eq!(peer.heard(), [Heard::Authenticated(1)]);
    // And stays in its place.
    stage.say(&peer, authenticate(2));
    stage.judge(Ok(holder()));
    assert_eq!(peer.heard(), [Heard::Refused(2, "unauthorized")]);

    let peer = stage.connect_home(NAME);
    stage.say(&peer, open(NAME, false));
    stage.run();
    peer.heard();
    stage.say(&peer, authenticate(2));
    stage.judge(Ok(somebody("ann", None)));
    assert_eq!(peer.heard(), [Heard::Refused(2, "unauthorized")]);
}
