//! Who peers are: what waits for it, and what ends with it.

use std::sync::Arc;
use std::time::Duration;

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
    let renewed = [
        Heard::Authenticated(1),
        Heard::Refused(2, "unauthorized"),
        Heard::Authenticated(3),
    ];
    assert_eq!(peer.heard(), renewed, "its old end does not count");
    stage.pass(Duration::from_secs(3));
    assert_eq!(peer.heard(), [Heard::Other], "goodbye, once");
    stage.pass(Duration::from_secs(3));
    assert_eq!(peer.heard(), []);
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
