//! What is kept by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tidings_log::storage::{Faults, MemoryStorage, Storage as _};
use tidings_log::{LogConfig, LogCore};
use tidings_ports::{EngineHealth, PublishError, ReplyTo, Submission};
use tidings_types::{Draft, Durability};

use super::common::*;

/// Journals that are soon worth a snapshot.
fn small_journals() -> LogConfig {
    LogConfig {
        states_slack_bytes: 200,
        ..config(2_000)
    }
}

fn model(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

#[test]
fn the_newest_value_of_a_name_survives_whatever_ends_the_log() {
    for durability in [Durability::Sync, Durability::Os] {
        let mut config = small_journals();
        config.durability = durability;
        let mut log = Log::new(config);
        log.save(vec![set("a", "1"), set("b", "1"), set("c", "1")]);
        log.save(vec![set("a", "2"), forget("b"), forget("never there")]);
        log.save(vec![set("c", "2"), forget("c"), set("c", "3"), set("", "")]);
        let expect = model(&[("", ""), ("a", "2"), ("c", "3")]);
        for round in 0..6 {
            assert_eq!(log.states(), expect, "{durability:?} round {round}");
            assert_eq!(log.core().stats().states, 3);
            match round % 3 {
                0 => log.kill(),
                // What the system has not written yet is lost with the machine, as was promised.
                1 if durability == Durability::Sync => log.crash(round),
                _ => log.reopen(),
            }
        }
        log.save(vec![set("a", "3"), forget("c")]);
        log.kill();
        assert_eq!(log.states(), model(&[("", ""), ("a", "3")]));
    }
}

#[test]
fn of_several_changes_of_a_name_in_one_batch_only_the_newest_is_written() {
    let mut log = Log::new(config(2_000));
    let submissions = (0..100).map(|number: u32| Submission {
        drafts: Vec::new(),
        states: vec![set("a", &number.to_string()), set("b", "x")],
        reply: (number == 7).then_some(REPLY),
    });
    let commit = log.core().append(submissions.collect());
    assert_eq!(commit.answers.len(), 1, "one wants to know");
    assert!(commit.batch.is_none());
    assert_eq!(receipts(commit), Ok(Vec::new()));
    assert_eq!(log.core().stats().states_written, 2);
    assert_eq!(log.states(), model(&[("a", "99"), ("b", "x")]));
    log.save(vec![set("c", "x"), forget("c")]);
    log.save(vec![forget("c")]);
    assert_eq!(log.core().stats().states_written, 2, "nothing to forget");
}

#[test]
fn drafts_and_states_of_one_submission_come_together() {
    let mut log = Log::new(config(2_000));
    let receipts = log
        .try_save(vec![draft("t", "x")], vec![set("a", "1")])
        .unwrap();
    assert_eq!(receipts.len(), 1);
    // A replay appends nothing, and its states count all the same.
    for (number, replayed) in [(2, false), (3, true)] {
        let receipts = log
            .try_save(
                vec![keyed("t", "y", "k")],
                vec![set("a", &number.to_string())],
            )
            .unwrap();
        assert_eq!(receipts[0].replayed, replayed);
    }
    log.crash(1);
    assert_eq!(log.states(), model(&[("a", "3")]));
    assert_eq!(log.all("t"), ["x", "y"]);
}

#[test]
fn the_states_of_a_refused_submission_do_not_count() {
    let mut config = config(2_000);
    config.limits.topics_max = 1;
    let mut log = Log::new(config);
    log.try_save(vec![draft("t", "x")], vec![set("a", "1")])
        .unwrap();
    let refused = log.try_save(vec![draft("u", "x")], vec![set("a", "2")]);
    assert_eq!(refused, Err(PublishError::TooManyTopics));
    assert_eq!(log.states(), model(&[("a", "1")]));
    log.kill();
    assert_eq!(log.states(), model(&[("a", "1")]));
}

#[test]
fn a_crash_at_every_step_loses_no_state_and_separates_no_draft_from_its_states() {
    for durability in [Durability::Sync, Durability::Os] {
        let mut config = small_journals();
        config.durability = durability;
        for step in 0..260 {
            let mut log = Log::new(config.clone());
            log.disk.set_faults(Faults {
                operations_left: Some(step),
                ..Faults::default()
            });
            let (mut acknowledged, mut forgotten) = (0, false);
            for number in 1..=60u32 {
                let text = number.to_string();
                let mut states = vec![
                    set("newest", &text),
                    set(&format!("n{}", number % 7), &text),
                ];
                states.extend((number == 1).then(|| set("once", "x")));
                states.extend((number == 10).then(|| forget("once")));
                let drafts = match number % 3 {
                    0 => vec![draft("t", &text)],
                    _ => Vec::new(),
                };
                if log.try_save(drafts, states).is_ok() {
                    acknowledged = number;
                    forgotten = number >= 10;
                }
                if number % 4 == 0 {
                    log.core().keep();
                }
            }
            // With `os` the promise is for a crash of the process.
            match durability {
                Durability::Sync => log.crash(step * 17),
                Durability::Os => log.kill(),
            }
            let states = log.states();
            let number = |name: &str| states.get(name).map_or(0, |text| text.parse().unwrap());
            let newest: u32 = number("newest");
            assert!(
                newest >= acknowledged,
                "step {step}: {newest} {acknowledged}"
            );
            assert!(newest <= acknowledged + 1, "step {step}");
            if newest > 0 {
                assert_eq!(number(&format!("n{}", newest % 7)), newest, "step {step}");
            }
            for older in 1..=newest.min(7) {
                let name = format!("n{}", older % 7);
                assert!(number(&name) + 7 > newest, "step {step}: {name}");
            }
            assert!(!(forgotten && states.contains_key("once")), "step {step}");
            let last = log.all("t").last().map_or(0, |text| text.parse().unwrap());
            assert_eq!(
                last,
                newest - newest % 3,
                "step {step}: a draft without its state, or the reverse"
            );
            assert!(last + 3 > acknowledged, "step {step}");
            // And it goes on.
            log.save(vec![set("newest", "done")]);
            log.kill();
            assert_eq!(log.states()["newest"], "done", "step {step}");
        }
    }
}

#[test]
fn where_the_system_decides_when_to_write_a_crash_of_the_machine_takes_the_newest_changes_only() {
    let mut config = small_journals();
    config.durability = Durability::Os;
    let mut lost = 0;
    for seed in 0..200u64 {
        let mut log = Log::new(config.clone());
        for number in 1..=30u32 {
            let text = number.to_string();
            log.save(vec![set("a", &text), set("b", &text)]);
            if number == 12 {
                log.core().sync();
            }
            if u64::from(number) == seed % 30 {
                log.core().keep();
            }
        }
        log.crash(seed);
        let states = log.states();
        let newest: u32 = states["a"].parse().unwrap();
        assert!(newest >= 12, "seed {seed}: {newest} was synced");
        assert_eq!(states["a"], states["b"], "seed {seed}: a change is whole");
        lost += u32::from(newest < 30);
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn a_change_that_was_found_after_a_kill_survives_the_next_crash() {
    let mut unanswered = 0;
    for left in 0..40 {
        let mut log = Log::new(small_journals());
        log.save(vec![set("a", "0")]);
        log.disk.set_faults(Faults {
            operations_left: Some(left),
            ..Faults::default()
        });
        let mut answered = 0u32;
        while log
            .try_save(Vec::new(), vec![set("a", &(answered + 1).to_string())])
            .is_ok()
        {
            answered += 1;
        }
        log.kill();
        let found = log.states();
        unanswered += u32::from(found["a"] != answered.to_string());
        for seed in 0..8 {
            log.crash(left * 8 + seed);
            assert_eq!(log.states(), found, "crash after {left} operations");
        }
    }
    assert!(unanswered > 0);
}

#[test]
fn journals_are_replaced_by_snapshots_and_stay_small() {
    let mut config = small_journals();
    config.states_slack_bytes = 2_000;
    let mut log = Log::new(config);
    let mut expect = BTreeMap::new();
    for number in 0..2_000u32 {
        let (name, value) = (format!("name/{}", number % 40), number.to_string());
        log.save(vec![set(&name, &value)]);
        expect.insert(name, value);
        if number % 10 == 0 {
            log.core().keep();
        }
    }
    log.core().keep();
    let bytes = log.core().stats().bytes_stored;
    assert!(bytes < 9_000, "{bytes}");
    assert_eq!(log.files(".snapshot").len(), 1);
    assert!(log.files(".states").len() <= 2);
    assert!(
        log.files(".states")[0].as_str() > "00000000000000000005",
        "many journals came and went"
    );
    for round in 0..3 {
        assert_eq!(log.states(), expect, "round {round}");
        if round == 0 {
            log.reopen();
        } else {
            log.crash(round);
        }
    }
    assert_eq!(log.core().stats().states, 40);
}

#[test]
fn without_anyone_to_write_snapshots_the_journal_goes_on() {
    let mut log = Log::new(small_journals());
    for number in 0..300u32 {
        log.save(vec![set("a", &number.to_string()), set("b", "y")]);
    }
    log.save(vec![forget("b")]);
    // One snapshot was due since the first journal, and is of that time; what came after it is not lost by it.
    log.core().keep();
    assert_eq!(log.files(".snapshot").len(), 1);
    assert_eq!(log.states(), model(&[("a", "299")]));
    log.crash(4);
    assert_eq!(log.states(), model(&[("a", "299")]));
}

#[test]
fn a_full_disk_refuses_states_and_drafts_together_and_nothing_of_them_counts() {
    let mut refused_in_all = 0;
    for capacity in (0..8_000).step_by(61) {
        let mut log = Log::new(small_journals());
        let mut expect = BTreeMap::new();
        let mut texts = Vec::new();
        log.disk.set_faults(Faults {
            capacity: Some(capacity),
            ..Faults::default()
        });
        for number in 0..40u32 {
            let value = format!("{number:020}");
            let name = format!("n{}", number % 3);
            let drafts = match number % 4 {
                0 => vec![draft("t", &format!("{number:0200}"))],
                _ => Vec::new(),
            };
            let text = drafts.first().map(|draft: &Draft| draft.payload.clone());
            match log.try_save(drafts, vec![set(&name, &value)]) {
                Ok(_) => {
                    expect.insert(name, value);
                    texts.extend(text.map(|text| str::from_utf8(&text).unwrap().to_owned()));
                }
                Err(error) => {
                    assert_eq!(error, PublishError::StorageFull, "capacity {capacity}");
                    refused_in_all += 1;
                }
            }
            if number % 5 == 0 {
                log.core().keep();
            }
            assert_eq!(log.states(), expect, "capacity {capacity}");
        }
        for name in log.files(".states") {
            let begun = log.disk.content(&name).unwrap().len() >= 48;
            assert!(
                begun,
                "capacity {capacity}: a journal that was not begun is left"
            );
        }
        log.kill();
        assert_eq!(log.states(), expect, "capacity {capacity} after a kill");
        assert_eq!(log.all("t"), texts, "capacity {capacity}");
        log.crash(capacity);
        assert_eq!(log.states(), expect, "capacity {capacity} after a crash");
        log.save(vec![set("n0", "there is room again")]);
        assert_eq!(log.core().health(), EngineHealth::Writable);
    }
    assert!(refused_in_all > 500);
}

#[test]
fn states_alone_are_kept_beside_a_message_that_finds_no_room() {
    let mut log = Log::new(config(4_000));
    log.try_save(vec![draft("t", "x")], vec![set("a", "1"), set("b", "1")])
        .unwrap();
    let used: usize = log
        .disk
        .list()
        .unwrap()
        .iter()
        .map(|name| log.disk.content(name).unwrap().len())
        .sum();
    log.disk.set_faults(Faults {
        capacity: Some(used as u64 + 3_000),
        ..Faults::default()
    });
    let token = |token| Some(ReplyTo { token, ..REPLY });
    let alone = |number: u64, value: &str| Submission {
        drafts: Vec::new(),
        states: vec![set("a", value)],
        reply: token(number),
    };
    let large = Submission {
        drafts: vec![draft("t", &"x".repeat(10_000))],
        states: vec![set("a", "lost"), set("b", "lost")],
        reply: token(2),
    };
    let commit = log
        .core()
        .append(vec![alone(1, "2"), large, submission(vec![])]);
    let answers: Vec<_> = commit
        .answers
        .iter()
        .map(|(_, answer)| match answer {
            tidings_ports::Answer::Published(result) => result.clone(),
            tidings_ports::Answer::Read(_) => panic!("an answer to a read"),
        })
        .collect();
    let full = Err(PublishError::StorageFull);
    assert_eq!(answers, [Ok(vec![]), full, Ok(vec![])]);
    for round in 0..2 {
        assert_eq!(log.states(), model(&[("a", "2"), ("b", "1")]), "{round}");
        assert_eq!(log.all("t"), ["x"]);
        log.crash(round);
    }
}

#[test]
fn a_failed_sync_of_the_journal_ends_writing_for_good() {
    let mut log = Log::new(config(2_000));
    log.save(vec![set("a", "1")]);
    log.disk.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    let failed = |log: &mut Log| log.try_save(Vec::new(), vec![set("a", "2")]).unwrap_err();
    assert_eq!(failed(&mut log), PublishError::Failed);
    log.disk.set_faults(Faults::default());
    assert_eq!(failed(&mut log), PublishError::Failed);
    let refused = log.try_publish(vec![draft("t", "x")]);
    assert_eq!(refused, Err(PublishError::Failed));
    assert!(matches!(log.core().health(), EngineHealth::Failed(why) if why.contains(".states")));
    assert_eq!(log.states(), model(&[("a", "1")]));
    log.crash(2);
    log.save(vec![set("a", "3")]);
}

#[test]
fn a_snapshot_that_cannot_be_written_is_tried_again_later() {
    let mut log = Log::new(small_journals());
    let mut number = 0u32;
    let mut save = |log: &mut Log, count: u32| {
        for _ in 0..count {
            number += 1;
            log.save(vec![set("a", &number.to_string()), set("b", "x")]);
        }
        number.to_string()
    };
    save(&mut log, 12);
    assert_eq!(log.files(".states").len(), 2, "a snapshot is due");
    let used: usize = log
        .disk
        .list()
        .unwrap()
        .iter()
        .map(|name| log.disk.content(name).unwrap().len())
        .sum();
    log.disk.set_faults(Faults {
        capacity: Some(used as u64 + 10),
        ..Faults::default()
    });
    log.core().keep();
    assert!(log.files(".snapshot").is_empty());
    assert!(log.files(".tmp").is_empty());
    log.disk.set_faults(Faults::default());
    let newest = save(&mut log, 40);
    log.core().keep();
    assert_eq!(log.files(".snapshot").len(), 1);
    log.crash(9);
    assert_eq!(log.states(), model(&[("a", &newest), ("b", "x")]));
}

#[test]
fn in_memory_nothing_is_written_for_states() {
    let storage = Arc::new(MemoryStorage::default());
    let clock = Arc::new(tidings_ports::SystemClock::default());
    let mut core = LogCore::open_on(storage.clone(), config(2_000), clock).unwrap();
    for number in 0..100u32 {
        let commit = core.append(vec![Submission {
            drafts: Vec::new(),
            states: vec![set("a", &number.to_string())],
            reply: Some(REPLY),
        }]);
        assert_eq!(receipts(commit), Ok(Vec::new()));
        core.keep();
    }
    assert_eq!(core.states(), [("a".into(), "99".into())]);
    assert_eq!(storage.list().unwrap(), ["meta"]);
}

#[derive(Clone, Debug)]
enum Step {
    Save(Vec<(u8, Option<u8>)>, bool),
    Keep,
    Reopen,
    Kill,
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..12u8, prop::option::weighted(0.8, any::<u8>()));
    let step = prop_oneof![
        12 => (prop::collection::vec(change, 1..6), any::<bool>()).prop_map(|(c, d)| Step::Save(c, d)),
        3 => Just(Step::Keep),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_states_reads_as_a_map(steps in steps()) {
        let mut log = Log::new(small_journals());
        let mut expect: BTreeMap<String, String> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Save(changes, with_draft) => {
                    let mut states = Vec::new();
                    for (name, value) in changes {
                        let name = format!("n{name}");
                        if let Some(len) = value {
                            let value = "v".repeat(usize::from(len));
                            states.push(set(&name, &value));
                            expect.insert(name, value);
                        } else {
                            states.push(forget(&name));
                            expect.remove(&name);
                        }
                    }
                    let drafts = if with_draft { vec![draft("t", "x")] } else { Vec::new() };
                    log.try_save(drafts, states).unwrap();
                }
                Step::Keep => log.core().keep(),
                Step::Reopen => log.reopen(),
                Step::Kill => log.kill(),
                Step::Crash(seed) => log.crash(seed),
            }
            prop_assert_eq!(&log.states(), &expect);
        }
    }
}
