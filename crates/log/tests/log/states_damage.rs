//! Torn and damaged files of states.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_log::storage::{SimStorage, Storage as _};
use tidings_log::{LogConfig, LogCore, OpenError, verify};
use tidings_ports::Submission;
use tidings_types::Durability;

use super::common::*;

const FIRST: &str = "00000000000000000001.states";

fn open(disk: &SimStorage, log: &Log) -> Result<LogCore, OpenError> {
    let clock = Arc::clone(&log.clock) as _;
    LogCore::open_on(Arc::new(disk.clone()), log.config.clone(), clock)
}

fn on(disk: SimStorage, log: &Log) -> Log {
    let mut other = Log {
        core: None,
        clock: Arc::clone(&log.clock),
        config: log.config.clone(),
        disk,
    };
    other.open().unwrap();
    other
}

/// Where the content of a file ends that has zeros behind it.
fn end_of(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn values(log: &mut Log) -> Vec<String> {
    let states = log.states().into_iter();
    states
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// A log with journals, a snapshot, and journals after it; it was not closed.
fn with_a_snapshot() -> (Log, BTreeMap<String, String>) {
    let mut log = Log::new(LogConfig {
        states_slack_bytes: 300,
        ..config(1 << 16)
    });
    for number in 0..20 {
        log.save(vec![set("a", &number.to_string()), set("b", "x")]);
    }
    log.core().keep();
    // Rotates, and nobody writes that snapshot.
    for number in 0..40 {
        log.save(vec![set("a", &number.to_string()), set("c", "x")]);
    }
    let states = log.states();
    log.core = None;
    assert_eq!(log.files(".snapshot").len(), 1);
    assert_eq!(log.files(".states").len(), 2);
    (log, states)
}

#[test]
fn a_torn_tail_at_every_byte_of_the_last_change_is_cut() {
    let mut log = Log::new(config(1 << 16));
    log.save(vec![set("a", "1")]);
    log.save(vec![set("b", "1")]);
    let before = end_of(&log.disk.content(FIRST).unwrap());
    log.save(vec![set("a", "2"), forget("b"), set("c", "1")]);
    log.core = None;
    let content = log.disk.content(FIRST).unwrap();
    for cut in before..end_of(&content) {
        for zeros in [true, false] {
            let disk = log.disk.fork();
            let mut torn = content.clone();
            torn.truncate(cut);
            if zeros {
                torn.resize(content.len(), 0);
            }
            disk.set_content(FIRST, torn);
            let mut other = on(disk, &log);
            assert_eq!(values(&mut other), ["a=1", "b=1"], "cut at {cut}");
            other.save(vec![set("b", "2")]);
            other.kill();
            assert_eq!(values(&mut other), ["a=1", "b=2"], "cut at {cut}");
        }
    }
}

/// Whether the second submission of the tests below is there, all of it or nothing of it.
fn second(log: &mut Log, place: &str) -> bool {
    let texts: Vec<String> = log.all("t").into_iter().take(3).collect();
    let states = values(log);
    let whole = texts.ends_with(&["y".into(), "z".into()]);
    let none = !texts.iter().any(|text| text == "y" || text == "z");
    assert!(whole || none, "{place}: {texts:?}");
    let expect: &[&str] = if whole {
        &["a=2", "b=2"]
    } else {
        &["a=1", "c=1"]
    };
    assert_eq!(states, expect, "{place}");
    whole
}

/// A log with two submissions, not closed; its journal and its segment, and where the second begins in each.
fn with_two_submissions() -> (Log, [(String, usize); 2]) {
    let mut log = Log::new(config(1 << 16));
    log.try_save(vec![draft("t", "x")], vec![set("a", "1"), set("c", "1")])
        .unwrap();
    let names = [FIRST.to_owned(), log.files(".seg")[0].clone()];
    let ends = names.map(|name| {
        let end = end_of(&log.disk.content(&name).unwrap());
        (name, end)
    });
    log.try_save(
        vec![draft("t", "y"), draft("t", "z")],
        vec![set("a", "2"), set("b", "2"), forget("c")],
    )
    .unwrap();
    log.core = None;
    (log, ends)
}

#[test]
fn a_submission_torn_at_every_byte_of_either_file_is_there_whole_or_not_at_all() {
    let (log, [(journal, journal_before), (segment, segment_before)]) = with_two_submissions();
    let (states, records) = (
        log.disk.content(&journal).unwrap(),
        log.disk.content(&segment).unwrap(),
    );
    let (states_end, records_end) = (end_of(&states), end_of(&records));
    let torn = |content: &[u8], cut: usize, zeros: bool| {
        let mut torn = content[..cut].to_vec();
        torn.resize(if zeros { content.len() } else { cut }, 0);
        torn
    };
    // The journal is on the disk before anything is written to the segment.
    let journals = (journal_before..states_end).map(|cut| (cut, segment_before));
    let segments = (segment_before..=records_end).map(|cut| (states_end, cut));
    for (states_cut, records_cut) in journals.chain(segments) {
        for zeros in [true, false] {
            let disk = log.disk.fork();
            disk.set_content(&journal, torn(&states, states_cut, zeros));
            disk.set_content(&segment, torn(&records, records_cut, zeros));
            let mut other = on(disk, &log);
            let place = format!("cut at {states_cut} and {records_cut}");
            let found = second(&mut other, &place);
            assert_eq!(found, records_cut == records_end, "{place}");
            // Its offsets are handed out again.
            for _ in 0..4 {
                other.publish("t", "w");
                other.kill();
                assert_eq!(second(&mut other, &place), found, "{place}");
            }
            other.save(vec![set("a", "3"), forget("b")]);
            other.crash(1);
            assert_eq!(other.states()["a"], "3", "{place}");
        }
    }
}

#[test]
fn a_crash_at_every_step_of_opening_brings_no_state_back_whose_message_is_lost() {
    let (log, [_, (segment, before)]) = with_two_submissions();
    let mut records = log.disk.content(&segment).unwrap();
    // Torn, so that opening has to cut both files.
    records[before + 60..].fill(0);
    let mut opened = 0;
    for step in 0..30 {
        for seed in 0..4 {
            let disk = log.disk.fork();
            disk.set_content(&segment, records.clone());
            disk.set_faults(tidings_log::storage::Faults {
                operations_left: Some(step),
                ..Default::default()
            });
            if let Ok(mut core) = open(&disk, &log) {
                opened += 1;
                core.append(vec![submission(vec![draft("t", "w"), draft("t", "w")])]);
            }
            disk.reboot(seed);
            let mut other = on(disk, &log);
            let place = format!("step {step}");
            assert!(!second(&mut other, &place));
            other.publish("t", "w");
            other.publish("t", "w");
            other.crash(seed);
            assert!(!second(&mut other, &place));
        }
    }
    assert!((4..116).contains(&opened), "{opened}");
}

#[test]
fn where_the_system_decides_when_to_write_states_of_lost_messages_end_the_journal() {
    let mut log = Log::new(LogConfig {
        durability: Durability::Os,
        ..config(1 << 16)
    });
    let mut segment = Vec::new();
    for number in ["1", "2", "3"] {
        log.try_save(vec![draft("t", number)], vec![set("a", number)])
            .unwrap();
        if number == "1" {
            segment = log.disk.content(&log.files(".seg")[0]).unwrap();
        }
        // The third change says that the second was on the disk.
        log.core().sync();
    }
    log.core = None;
    log.disk.set_content(&log.files(".seg")[0], segment);
    log.kill();
    assert_eq!(
        (log.all("t"), values(&mut log)),
        (vec!["1".into()], vec!["a=1".into()])
    );
    log.save(vec![set("b", "4")]);
    log.kill();
    assert_eq!(values(&mut log), ["a=1", "b=4"]);
}

#[test]
fn a_message_that_is_missing_after_a_clean_end_is_damage() {
    let (mut log, [_, (segment, before)]) = with_two_submissions();
    log.reopen();
    log.core.take().unwrap().close();
    let mut records = log.disk.content(&segment).unwrap();
    records.truncate(before);
    let disk = log.disk.fork();
    disk.set_content(&segment, records);
    let refused = open(&disk, &log).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { file, .. } if file.contains(&segment)));
    // The mark of the clean end knows no segment that was begun later.
    disk.remove(&segment).unwrap();
    let refused = open(&disk, &log).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { file, .. } if file.contains(FIRST)));
}

#[test]
fn what_was_cut_off_with_a_torn_tail_never_comes_back() {
    let mut log = Log::new(LogConfig {
        durability: Durability::Os,
        ..config(1 << 16)
    });
    let mut ends = Vec::new();
    for value in ["1", "2", "3"] {
        log.save(vec![set("a", value)]);
        ends.push(end_of(&log.disk.content(FIRST).unwrap()));
    }
    log.core = None;
    // A machine may write the pages of a file in any order before it crashes.
    let mut content = log.disk.content(FIRST).unwrap();
    content[ends[0]..ends[1]].fill(0);
    log.disk.set_content(FIRST, content);
    log.kill();
    assert_eq!(values(&mut log), ["a=1"]);
    log.save(vec![set("a", "4")]);
    log.kill();
    assert_eq!(values(&mut log), ["a=4"], "and not the 3 behind it");
}

#[test]
fn a_flipped_byte_in_the_middle_is_refused_with_file_and_offset() {
    let (log, _) = with_a_snapshot();
    let names = [log.files(".snapshot"), log.files(".states")].concat();
    for name in names {
        let content = log.disk.content(&name).unwrap();
        let end = end_of(&content);
        // A flip in the last change of the newest journal looks torn.
        let last = if name == log.files(".states")[1] {
            150
        } else {
            0
        };
        for at in 0..end - last {
            let disk = log.disk.fork();
            let mut broken = content.clone();
            broken[at] ^= 0x20;
            disk.set_content(&name, broken);
            match open(&disk, &log) {
                Err(OpenError::Damaged { file, offset, .. }) => {
                    assert!(file.contains(&name), "{name} byte {at}: {file}");
                    assert!(offset <= at as u64, "{name} byte {at}: {offset}");
                    assert!(at as u64 <= offset + 250, "{name} byte {at}: {offset}");
                }
                Err(OpenError::UnknownVersion { .. }) if at < 12 => {}
                other => panic!("{name} byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_missing_or_shortened_file_is_refused() {
    let (log, states) = with_a_snapshot();
    let journals = log.files(".states");
    for name in &journals {
        let disk = log.disk.fork();
        disk.remove(name).unwrap();
        let opened = open(&disk, &log);
        if *name == journals[0] {
            let refused = opened.unwrap_err();
            assert!(matches!(refused, OpenError::Damaged { file, .. } if file.contains(name)));
        }
    }
    let older = log.disk.content(&journals[0]).unwrap();
    let disk = log.disk.fork();
    disk.set_content(&journals[0], older[..end_of(&older) - 1].to_vec());
    assert!(matches!(open(&disk, &log), Err(OpenError::Damaged { .. })));
    // After a clean end, the newest journal is known, and where it ends.
    let mut closed = on(log.disk.fork(), &log);
    closed.reopen();
    assert_eq!(closed.states(), states);
    closed.core.take().unwrap().close();
    let newest = closed.disk.content(&journals[1]).unwrap();
    for content in [Some(&newest[..end_of(&newest) - 1]), Some(&[]), None] {
        let disk = closed.disk.fork();
        match content {
            Some(content) => disk.set_content(&journals[1], content.to_vec()),
            None => disk.remove(&journals[1]).unwrap(),
        }
        let refused = open(&disk, &log).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Damaged { file, .. } if file.contains(&journals[1])),
            "{refused}"
        );
    }
}

#[test]
fn a_journal_that_was_created_and_not_begun_is_removed() {
    let (log, states) = with_a_snapshot();
    let next = "00000000000000000004.states";
    assert!(log.files(".states").iter().all(|name| name.as_str() < next));
    let header = log.disk.content(&log.files(".states")[1]).unwrap();
    for content in [&[][..], &header[..20], &[0; 100]] {
        let disk = log.disk.fork();
        disk.set_content(next, content.to_vec());
        let mut other = on(disk, &log);
        assert_eq!(other.states(), states);
        other.save(vec![set("a", "again")]);
        other.kill();
        assert_eq!(other.states()["a"], "again");
    }
}

#[test]
fn another_logs_states_and_states_without_a_log_are_refused() {
    let (log, _) = with_a_snapshot();
    let name = log.files(".states")[0].clone();
    let mut other = Log::new(LogConfig {
        seed: Some(8),
        ..config(1 << 16)
    });
    other.save(vec![set("a", "x")]);
    let disk = other.disk.fork();
    disk.set_content(FIRST, log.disk.content(&name).unwrap());
    assert!(matches!(open(&disk, &log), Err(OpenError::Foreign { .. })));
    let disk = log.disk.fork();
    disk.remove("meta").unwrap();
    assert!(matches!(open(&disk, &log), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_directory_from_before_there_were_states_opens() {
    let mut log = Log::new(config(1 << 16));
    log.publish("t", "x");
    log.core.take().unwrap().close();
    // The mark of a clean end was shorter.
    let clean = log.disk.content("clean").unwrap();
    let mut old = clean[..8 + 8 + 8 + 4].to_vec();
    old.extend_from_slice(&crc32c::crc32c(&old).to_le_bytes());
    log.disk.set_content("clean", old);
    log.open().unwrap();
    assert_eq!(log.publish("t", "y"), 2, "the exact place is known");
    assert!(log.states().is_empty() && log.files(".states").is_empty());
    log.save(vec![set("a", "1")]);
    log.reopen();
    assert_eq!(values(&mut log), ["a=1"]);
}

#[test]
fn files_of_states_are_verified() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = LogConfig::in_directory(directory.path());
    config.states_slack_bytes = 300;
    let clock = Arc::new(tidings_ports::SystemClock::default());
    let mut core = LogCore::open(config, clock).unwrap();
    for number in 0..30u32 {
        core.append(vec![Submission {
            drafts: vec![draft("t", "x")],
            states: vec![set("a", &number.to_string())],
            reply: None,
        }]);
    }
    core.keep();
    core.close();
    let whole = verify(directory.path()).unwrap();
    assert!(whole.damaged.is_empty() && whole.torn.is_empty());
    assert_eq!(whole.messages, 30);
    let files = std::fs::read_dir(directory.path()).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|ext| ext == "states" || ext == "snapshot")
    });
    assert!(files.len() >= 2);
    for file in files {
        let content = std::fs::read(&file).unwrap();
        let mut broken = content.clone();
        broken[60] ^= 1;
        std::fs::write(&file, broken).unwrap();
        let report = verify(directory.path()).unwrap();
        let damaged: Vec<_> = report.damaged.iter().map(|d| d.file.clone()).collect();
        assert_eq!(damaged, [file.display().to_string()]);
        std::fs::write(&file, content).unwrap();
    }
    assert_eq!(
        verify(directory.path()).unwrap(),
        whole,
        "nothing was changed"
    );
}

#[test]
fn a_check_tells_states_of_lost_messages_from_damage() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig::in_directory(directory.path());
    let open = || {
        let clock = Arc::new(tidings_ports::SystemClock::default());
        LogCore::open(config.clone(), clock).unwrap()
    };
    let mut core = open();
    for number in ["1", "2"] {
        let commit = core.append(vec![Submission {
            states: vec![set("a", number)],
            ..submission(vec![draft("t", number)])
        }]);
        receipts(commit).unwrap();
    }
    drop(core);
    let segment = directory.path().join("00000000000000000001.seg");
    let content = std::fs::read(&segment).unwrap();
    let end = end_of(&content);
    let changed = |at: usize| {
        let mut changed = content.clone();
        changed[at] ^= 1;
        std::fs::write(&segment, changed).unwrap();
        verify(directory.path()).unwrap()
    };
    let names = |of: &[tidings_log::Damage]| -> Vec<String> {
        let files = of.iter().map(|damage| damage.file.clone());
        files
            .map(|file| file[file.len() - 6..].to_owned())
            .collect()
    };
    let report = changed(end - 1);
    assert_eq!(names(&report.torn), ["01.seg", "states"]);
    assert!(report.damaged.is_empty());
    let report = changed(100);
    assert!(
        report.torn.is_empty(),
        "of a damaged segment nobody knows how far it went"
    );
    assert_eq!(names(&report.damaged), ["01.seg"]);
    changed(end - 1);
    let core = open();
    assert_eq!(core.states(), [("a".into(), "1".into())]);
    core.close();
    let report = verify(directory.path()).unwrap();
    assert!(report.torn.is_empty() && report.damaged.is_empty());
}
