//! What was revoked ends, wherever it is on its way in.

use std::sync::Arc;

use proptest::prelude::*;
use tidings_ports::{Start, Until};
use tidings_types::{Grants, Principal};

use super::stage::{Heard, Peer, Stage, authenticate, filter, message, subscribe};

/// More connections than are asked for in one turn.
const MANY: usize = 5_000;

fn somebody(name: &str) -> Principal {
    Principal {
        name: name.to_owned(),
        source: "key",
        ..Principal::anonymous()
    }
}

fn connect(stage: &mut Stage, shard: usize, name: &str) -> Peer {
    stage.principal = Arc::new(somebody(name));
    stage.connect(shard)
}

/// A peer that has still to sign in.
fn newcomer(stage: &mut Stage, shard: usize) -> Peer {
    stage.principal = Arc::new(Principal::nobody(None));
    stage.connect(shard)
}

#[test]
fn connections_of_who_is_revoked_end_on_every_shard_and_no_others() {
    let mut stage = Stage::new();
    let ann = [0, 1].map(|shard| connect(&mut stage, shard, "ann"));
    let eve = [0, 1].map(|shard| connect(&mut stage, shard, "eve"));
    stage.change("ann", None);
    let ended = stage.recheck();
    assert_eq!(*ended.lock().unwrap(), None);
    stage.run();
    assert_eq!(*ended.lock().unwrap(), Some(2));
    assert!(ann.iter().all(|peer| peer.heard() == [Heard::Other]));
    assert!(eve.iter().all(|peer| peer.heard().is_empty()));
    let again = stage.recheck();
    stage.run();
    assert_eq!(*again.lock().unwrap(), Some(0), "goodbye is said once");
}

#[test]
fn thousands_of_connections_are_asked_for_in_several_turns() {
    let mut stage = Stage::new();
    let peers: Vec<Peer> = (0..MANY).map(|_| connect(&mut stage, 0, "ann")).collect();
    stage.change("ann", None);
    let ended = stage.recheck();
    stage.take_inboxes();
    assert_eq!(*ended.lock().unwrap(), None, "not all in one turn");
    // A second one begins anew, and both are told.
    let second = stage.recheck();
    stage.run();
    assert!(peers.iter().all(|peer| peer.heard() == [Heard::Other]));
    assert_eq!(*ended.lock().unwrap(), Some(MANY as u64));
    assert!(second.lock().unwrap().is_some());
}

#[test]
fn subscriptions_that_are_not_granted_any_more_end_and_the_connection_stays() {
    let mut stage = Stage::new();
    let peer = connect(&mut stage, 0, "ann");
    for (key, topic) in [(2, "a"), (3, "b")] {
        stage.say(&peer, subscribe(key, &[topic], Start::Latest, Until::Ended));
    }
    stage.run();
    assert_eq!(peer.heard().len(), 2);
    let grants = Grants {
        subscribe: vec![filter("a")],
        ..Grants::default()
    };
    stage.change("ann", Some(grants));
    let ended = stage.recheck();
    stage.run();
    assert_eq!(*ended.lock().unwrap(), Some(0));
    assert_eq!(peer.heard(), [Heard::Lost]);
    stage.principal = Arc::new(Principal::anonymous());
    for topic in ["a", "b"] {
        stage.publish(topic);
    }
    stage.run();
    assert_eq!(peer.heard(), [message(2, "a")]);
    stage.say(&peer, subscribe(4, &["c"], Start::Latest, Until::Ended));
    stage.run();
    assert_eq!(peer.heard(), [Heard::Refused(4, "forbidden")]);
}

#[test]
fn who_is_revoked_while_a_renewal_is_judged_does_not_come_back_by_it() {
    let mut stage = Stage::new();
    let peer = connect(&mut stage, 0, "ann");
    stage.say(&peer, authenticate(1));
    stage.change("ann", None);
    stage.recheck();
    stage.run();
    assert_eq!(peer.heard(), [Heard::Other]);
    stage.judge(Ok(somebody("eve")));
    assert_eq!(peer.heard(), []);
}

/// A step of the world between the moment when somebody comes, and when all is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Revoke,
    Tell,
    ShowCredential,
    Judge,
    Connect,
    Turn,
}

proptest! {
    /// However the steps of being let in and of being revoked fall between each other, nobody who is revoked stays.
    #[test]
    fn nobody_slips_through_between_being_judged_and_being_there(
        order in Just([
            Step::ShowCredential, Step::Judge, Step::Revoke, Step::Tell, Step::Connect, Step::Turn, Step::Turn,
        ]).prop_shuffle(),
    ) {
        let mut stage = Stage::new();
        let signing_on = newcomer(&mut stage, 1);
        let (mut shown, mut judged, mut there) = (false, false, None);
        let (mut revoked, mut told) = (false, false);
        for step in order {
            match step {
                Step::Revoke => {
                    stage.change("ann", None);
                    revoked = true;
                }
                Step::Tell if revoked => {
                    stage.recheck();
                    told = true;
                }
                Step::ShowCredential => {
                    stage.say(&signing_on, authenticate(1));
                    shown = true;
                }
                Step::Judge if shown => {
                    stage.judge_without_telling(Ok(somebody("ann")));
                    judged = true;
                }
                Step::Connect => there = Some(connect(&mut stage, 0, "ann")),
                Step::Turn => stage.take_inboxes(),
                Step::Tell | Step::Judge => {}
            }
        }
        if shown && !judged {
            stage.judge_without_telling(Ok(somebody("ann")));
        }
        if !revoked {
            stage.change("ann", None);
        }
        // Whoever revokes tells everybody afterwards, once.
        if !told {
            stage.recheck();
        }
        stage.run();
        let heard = there.unwrap().heard();
        prop_assert_eq!(heard, [Heard::Other]);
        let heard = signing_on.heard();
        prop_assert!(
            heard == [Heard::Refused(1, "unauthorized")] || heard == [Heard::Authenticated(1), Heard::Other],
            "{:?}", heard
        );
    }
}

/// The same where it is told before the peer is there: what comes later is asked for by itself.
#[test]
fn who_was_judged_before_and_comes_after_all_shards_were_told_is_refused() {
    let mut stage = Stage::new();
    let signing_on = newcomer(&mut stage, 1);
    stage.say(&signing_on, authenticate(1));
    stage.change("ann", None);
    let ended = stage.recheck();
    stage.take_inboxes();
    assert_eq!(*ended.lock().unwrap(), Some(0));
    stage.judge(Ok(somebody("ann")));
    assert_eq!(signing_on.heard(), [Heard::Refused(1, "unauthorized")]);
    let late = connect(&mut stage, 0, "ann");
    assert_eq!(late.heard(), [Heard::Other]);
}
