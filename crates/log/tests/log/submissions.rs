//! Drafts and states of one submission are one unit, whatever goes wrong between the two files.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidings_log::LogConfig;
use tidings_log::storage::{Faults, Storage as _};
use tidings_ports::{Answer, EngineHealth, PublishError, ReplyTo, Submission};
use tidings_types::{Durability, Receipt, Storage};

use super::common::*;

/// Small files, and topics of every storage: `d`, `m` and `n`.
fn mixed(durability: Durability) -> LogConfig {
    let mut config = LogConfig {
        states_slack_bytes: 200,
        durability,
        ..config(2_000)
    };
    rule(&mut config, "m", stored(Storage::Memory));
    rule(&mut config, "n", stored(Storage::None));
    config
}

fn used(log: &Log) -> u64 {
    let names = log.disk.list().unwrap();
    let len = |name: &String| log.disk.content(name).unwrap().len() as u64;
    names.iter().map(len).sum()
}

fn left(operations: u64) -> Faults {
    Faults {
        operations_left: Some(operations),
        ..Faults::default()
    }
}

fn newest(log: &mut Log) -> String {
    log.states()["a"].clone()
}

#[test]
fn states_count_with_what_is_stored_durably_and_alone_if_nothing_is() {
    for (topics, needs_record) in [
        (&["d", "m", "n"][..], true),
        (&["m", "d"], true),
        (&["n", "d", "n"], true),
        (&["m", "n"], false),
        (&["m"], false),
        (&["n"], false),
    ] {
        let mut outcomes = BTreeSet::new();
        for step in 0..12 {
            let mut log = Log::new(mixed(Durability::Sync));
            // With a reservation, and a segment that has a message.
            let first = ["m", "n", "d"].map(|topic| draft(topic, "x"));
            log.try_save(first.to_vec(), vec![set("a", "1")]).unwrap();
            log.disk.set_faults(left(step));
            let drafts = topics.iter().map(|topic| draft(topic, "y")).collect();
            let saved = log.try_save(drafts, vec![set("a", "2"), set("b", "2")]);
            log.kill();
            let durable = log.all("d") == ["x", "y"];
            let states = newest(&mut log) == "2";
            assert_eq!(states, log.states().contains_key("b"), "{topics:?} {step}");
            if needs_record {
                assert_eq!(durable, states, "{topics:?} {step}");
            }
            assert!(states || saved.is_err(), "{topics:?} {step}");
            outcomes.insert((saved.is_ok(), states));
        }
        let all = [(false, false), (false, true), (true, true)];
        assert_eq!(outcomes, BTreeSet::from(all), "{topics:?}");
    }
}

#[test]
fn the_states_of_a_replay_count_alone() {
    for step in 0..6 {
        let mut log = Log::new(mixed(Durability::Sync));
        log.try_save(vec![keyed("d", "x", "k")], vec![set("a", "1")])
            .unwrap();
        log.disk.set_faults(left(step));
        let saved = log.try_save(vec![keyed("d", "y", "k")], vec![set("a", "2")]);
        log.kill();
        let states = newest(&mut log) == "2";
        assert_eq!(states, step >= 1, "its write is the first operation");
        assert_eq!(saved.is_ok(), step >= 2, "and its sync the second");
        assert_eq!(log.all("d"), ["x"]);
    }
}

#[test]
fn states_whose_message_found_no_room_stay_away_when_its_offset_is_given_again() {
    let mut refused = 0;
    for durability in [Durability::Sync, Durability::Os] {
        for (step, seed) in (0..24).flat_map(|step| (0..40).map(move |seed| (step, seed))) {
            let mut log = Log::new(mixed(durability));
            log.try_save(vec![draft("d", "x")], vec![set("a", "1")])
                .unwrap();
            // So that only what follows is lost with the machine.
            log.core().sync();
            // Room for the states and for a small message.
            log.disk.set_faults(Faults {
                capacity: Some(used(&log) + 900),
                ..left(step)
            });
            let large = draft("d", &"y".repeat(6_000));
            let saved = log.try_save(vec![large], vec![set("a", "lost"), set("b", "lost")]);
            assert!(saved.is_err(), "step {step}");
            refused += u32::from(saved == Err(PublishError::StorageFull));
            let small = log.try_publish(vec![draft("d", "z")]).is_ok();
            log.core().sync();
            let small = small && log.core().health() == EngineHealth::Writable;
            for round in 0..2 {
                log.crash(seed + round);
                assert_eq!(newest(&mut log), "1", "{durability:?} {step} {seed}");
                assert!(!log.states().contains_key("b"));
                let texts = log.all("d");
                assert_eq!(texts[0], "x");
                assert!(!small || texts.len() > 1, "{durability:?} {step} {seed}");
                log.publish("d", "again");
            }
        }
    }
    assert!(refused > 320);
}

#[test]
fn after_a_failed_sync_a_submission_is_found_whole_or_not_at_all() {
    let mut outcomes = BTreeSet::new();
    for syncs in 0..3 {
        for seed in 0..60 {
            let mut log = Log::new(mixed(Durability::Sync));
            log.try_save(vec![draft("d", "x")], vec![set("a", "1")])
                .unwrap();
            log.disk.set_faults(Faults {
                syncs_left: Some(syncs),
                ..Faults::default()
            });
            let drafts = vec![draft("d", "y"), draft("d", "z")];
            let saved = log.try_save(drafts, vec![set("a", "2"), set("b", "2")]);
            assert_eq!(saved.is_ok(), syncs == 2, "one sync for each file");
            log.crash(seed);
            let found = newest(&mut log) == "2";
            outcomes.insert((syncs, found));
            for round in 0..3 {
                let texts = log.all("d");
                assert_eq!(
                    texts.iter().any(|text| text == "y"),
                    found,
                    "{syncs} {seed}"
                );
                assert_eq!(
                    texts.iter().any(|text| text == "z"),
                    found,
                    "{syncs} {seed}"
                );
                assert_eq!(newest(&mut log) == "2", found, "{syncs} {seed}");
                assert_eq!(log.states().contains_key("b"), found, "{syncs} {seed}");
                for _ in 0..3 {
                    log.publish("d", "given its offset");
                }
                log.crash(round);
            }
        }
    }
    for expect in [(0, false), (1, false), (1, true), (2, true)] {
        assert!(outcomes.contains(&expect), "{outcomes:?}");
    }
}

/// What to submit, and how many of each.
#[derive(Clone, Debug)]
struct Plan {
    durable: u8,
    memory: bool,
    none: bool,
    states: u8,
    /// Instead of the drafts, one with this idempotency key.
    key: Option<u8>,
    large: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Plan>),
    Keep,
}

/// What goes wrong, what is done until then, and how it ends.
#[derive(Clone, Debug)]
struct Round {
    room: Option<u16>,
    operations: Option<u8>,
    syncs: Option<u8>,
    steps: Vec<Step>,
    end: End,
    /// Opening it is cut short as well.
    opening: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    Crash(u64),
    Reopen,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let key = prop::option::weighted(0.2, 0..3u8);
    let flag = prop::bool::weighted(0.2);
    let plan = (0..3u8, flag, flag, 0..4u8, key, flag).prop_map(
        |(durable, memory, none, states, key, large)| Plan {
            durable,
            memory,
            none,
            states,
            key,
            large,
        },
    );
    let step = prop_oneof![
        6 => prop::collection::vec(plan, 1..4).prop_map(Step::Append),
        1 => Just(Step::Keep),
    ];
    let end = prop_oneof![
        2 => Just(End::Kill),
        4 => any::<u64>().prop_map(End::Crash),
        1 => Just(End::Reopen),
    ];
    let room = prop::option::weighted(0.3, 0..6_000u16);
    let operations = prop::option::weighted(0.5, 0..60u8);
    let syncs = prop::option::weighted(0.2, 0..20u8);
    let opening = prop::option::weighted(0.2, 0..12u8);
    let steps = prop::collection::vec(step, 1..12);
    let round = (room, operations, syncs, steps, end, opening).prop_map(
        |(room, operations, syncs, steps, end, opening)| Round {
            room,
            operations,
            syncs,
            steps,
            end,
            opening,
        },
    );
    prop::collection::vec(round, 1..6)
}

/// A submission, and what is known of it.
#[derive(Debug)]
struct Sent {
    key: Option<u8>,
    /// Payloads on `d`; none if these drafts turned out to be there before.
    texts: Vec<String>,
    /// Names of its own. It sets the shared one as well.
    names: Vec<String>,
    /// `None` if it is unknown until the log is opened again.
    kept: Option<bool>,
}

fn plan_to_send(number: usize, plan: &Plan) -> (Sent, Submission) {
    let text = |at: u8| format!("{number}.{at}");
    let width = if plan.large { 700 } else { 0 };
    let fill = |at: u8| format!("{:-<width$}", text(at));
    let texts: Vec<String> = match plan.key {
        Some(_) => vec![fill(0)],
        None => (0..plan.durable).map(fill).collect(),
    };
    let mut drafts: Vec<_> = texts.iter().map(|text| draft("d", text)).collect();
    if let Some(key) = plan.key {
        drafts[0].key = Some(format!("k{key}").into());
    }
    if plan.memory {
        drafts.insert(0, draft("m", "x"));
        drafts.push(draft("m", "y"));
    }
    drafts.extend(plan.none.then(|| draft("n", "x")));
    let states = if drafts.is_empty() {
        plan.states.max(1)
    } else {
        plan.states
    };
    let names: Vec<String> = (0..states).map(|at| format!("s{number}.{at}")).collect();
    let mut changes: Vec<_> = names.iter().map(|name| set(name, "x")).collect();
    if states > 0 {
        changes.push(set("newest", &number.to_string()));
    }
    let sent = Sent {
        key: plan.key,
        texts,
        names,
        kept: None,
    };
    let reply = Some(ReplyTo {
        token: number as u64,
        ..REPLY
    });
    let submission = Submission {
        drafts,
        states: changes,
        reply,
    };
    (sent, submission)
}

/// Appends these together, and notes what was answered.
fn append(log: &mut Log, all: &mut Vec<Sent>, plans: &[Plan]) -> Result<(), TestCaseError> {
    let mut submissions = Vec::new();
    for plan in plans {
        let (sent, submission) = plan_to_send(all.len(), plan);
        all.push(sent);
        submissions.push(submission);
    }
    let answers = log.core().append(submissions).answers;
    prop_assert_eq!(answers.len(), plans.len());
    for (reply, answer) in answers {
        let Answer::Published(result) = answer else {
            panic!("an answer to a read");
        };
        let sent = &mut all[usize::try_from(reply.token).unwrap()];
        sent.kept = match result {
            Ok(receipts) => {
                let replayed = |receipt: &Receipt| receipt.replayed;
                if sent.key.is_some() && receipts.iter().any(replayed) {
                    sent.texts.clear();
                }
                Some(true)
            }
            Err(PublishError::Failed) => None,
            Err(_) => Some(false),
        };
    }
    Ok(())
}

/// All or none of these, or `None` if there are none of them.
fn whole(of: &[String], has: impl Fn(&String) -> bool) -> Result<Option<bool>, TestCaseError> {
    let found = of.iter().filter(|one| has(one)).count();
    prop_assert!(found == 0 || found == of.len(), "{found} of {of:?}");
    Ok((!of.is_empty()).then_some(found > 0))
}

/// Compares what the log has with what is known; `settled` if nothing is unknown any more.
fn check(log: &mut Log, all: &mut [Sent], settled: bool) -> Result<(), TestCaseError> {
    let texts = log.all("d");
    let kept: BTreeSet<&String> = texts.iter().collect();
    prop_assert_eq!(kept.len(), texts.len(), "a message is there twice");
    let states: BTreeMap<String, String> = log.states();
    let held: BTreeSet<Option<u8>> = all
        .iter()
        .filter(|sent| sent.key.is_some() && sent.texts.iter().any(|text| kept.contains(text)))
        .map(|sent| sent.key)
        .collect();
    for sent in all.iter_mut() {
        if sent.kept.is_none() && !settled {
            continue;
        }
        let mut drafts = whole(&sent.texts, |text| kept.contains(text))?;
        let names = whole(&sent.names, |name| states.contains_key(name))?;
        if sent.kept.is_none() && drafts == Some(false) && held.contains(&sent.key) {
            // It may have been a replay.
            (drafts, sent.texts) = (None, Vec::new());
        }
        let found: BTreeSet<bool> = [drafts, names, sent.kept].into_iter().flatten().collect();
        prop_assert!(found.len() < 2, "{drafts:?} {names:?} {sent:?}");
        sent.kept = Some(found.contains(&true));
    }
    if settled {
        let last = all
            .iter()
            .rposition(|sent| !sent.names.is_empty() && sent.kept == Some(true));
        let expect = last.map(|last| last.to_string());
        prop_assert_eq!(states.get("newest"), expect.as_ref());
    }
    Ok(())
}

fn run(durability: Durability, rounds: Vec<Round>) -> Result<(), TestCaseError> {
    let mut log = Log::new(mixed(durability));
    let mut all = Vec::new();
    for round in rounds {
        log.disk.set_faults(Faults {
            capacity: round.room.map(|room| used(&log) + u64::from(room)),
            operations_left: round.operations.map(u64::from),
            syncs_left: round.syncs.map(u64::from),
        });
        for step in &round.steps {
            match step {
                Step::Append(plans) => {
                    append(&mut log, &mut all, plans)?;
                    check(&mut log, &mut all, false)?;
                }
                Step::Keep => log.core().keep(),
            }
        }
        // With `os` the promise is for a crash of the process.
        let end = |log: &mut Log| match round.end {
            End::Crash(seed) if durability == Durability::Sync => {
                log.core = None;
                log.disk.reboot(seed);
            }
            End::Reopen => {
                if let Some(core) = log.core.take() {
                    core.close();
                }
                log.disk.kill();
            }
            End::Kill | End::Crash(_) => {
                log.core = None;
                log.disk.kill();
            }
        };
        end(&mut log);
        if let Some(operations) = round.opening {
            log.disk.set_faults(left(u64::from(operations)));
            // It may come through.
            drop(log.open());
            end(&mut log);
        }
        log.open().unwrap();
        check(&mut log, &mut all, true)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_submission_is_whole_or_not_there_whatever_happens(rounds in rounds(), os: bool) {
        let durability = if os { Durability::Os } else { Durability::Sync };
        run(durability, rounds)?;
    }
}
