//! Torn tails, flipped bytes, wrong versions, and crashes at every step.

use tidings_log::storage::{Faults, SimStorage, Storage as _};
use tidings_log::{LogConfig, LogCore, OpenError, verify};
use tidings_ports::ReadError;

use super::common::*;

fn open(disk: &SimStorage, log: &Log) -> Result<LogCore, OpenError> {
    let clock = std::sync::Arc::clone(&log.clock) as _;
    LogCore::open_on(std::sync::Arc::new(disk.clone()), log.config.clone(), clock)
}

fn on(disk: SimStorage, log: &Log) -> Log {
    let mut other = Log {
        core: None,
        clock: std::sync::Arc::clone(&log.clock),
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

#[test]
fn a_torn_tail_at_every_byte_of_the_last_batch_is_cut() {
    let mut log = Log::new(config(1 << 16));
    log.publish("t", "one");
    log.publish("t", "two");
    let name = &log.files(".seg")[0];
    let before = end_of(&log.disk.content(name).unwrap());
    log.try_publish(vec![draft("t", "three"), draft("u", "four")])
        .unwrap();
    log.core = None;
    let content = log.disk.content(name).unwrap();
    let end = end_of(&content);
    for cut in before..end {
        for zeros in [true, false] {
            let disk = log.disk.fork();
            let mut torn = content.clone();
            torn.truncate(cut);
            if zeros {
                torn.resize(content.len(), 0);
            }
            disk.set_content(name, torn);
            let mut other = on(disk, &log);
            assert_eq!(other.all("#"), ["one", "two"], "cut at {cut}");
            assert_eq!(
                other.publish("t", "again"),
                3,
                "the batch was never acknowledged"
            );
            other.kill();
            assert_eq!(other.all("#"), ["one", "two", "again"], "cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_byte_in_the_middle_is_refused_with_file_and_offset() {
    let mut log = Log::new(config(1 << 16));
    for number in 0..4 {
        log.publish("t", &number.to_string());
    }
    log.core = None;
    let name = log.files(".seg")[0].clone();
    let content = log.disk.content(&name).unwrap();
    let batch = (end_of(&content) - 64) / 4;
    for at in 0..64 + batch * 3 {
        let disk = log.disk.fork();
        let mut broken = content.clone();
        broken[at] ^= 0x20;
        disk.set_content(&name, broken);
        match open(&disk, &log) {
            Err(OpenError::Damaged { file, offset, .. }) => {
                assert!(file.contains(&name));
                assert!(
                    offset <= at as u64 && at as u64 <= offset + 200,
                    "{offset} {at}"
                );
            }
            Err(OpenError::UnknownVersion { .. }) if at < 12 => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn a_sealed_segment_with_a_flipped_byte_is_noticed_at_open_or_at_read() {
    let mut log = Log::new(config(600));
    for number in 0..30 {
        log.publish("t", &format!("{number:030}"));
    }
    log.core().keep();
    log.core.take().unwrap().close();
    let name = log.files(".seg")[1].clone();
    let mut content = log.disk.content(&name).unwrap();
    let at = content.len() / 2;
    content[at] ^= 1;
    log.disk.set_content(&name, content);
    let crashed = log.disk.fork();
    // After a clean end nothing is verified, so reading finds it, reads up to it, and counts it.
    log.open().unwrap();
    let mut at = 0;
    let error = loop {
        match log.try_read(&["t"], earliest(at)) {
            Ok(page) => at = page.scanned_to.0,
            Err(error) => break error,
        }
    };
    assert_eq!(error, ReadError::Storage);
    assert!(at > 0 && at < 30);
    assert_eq!(log.core().stats().read_errors, 1);
    // After a crash opening finds it.
    crashed.remove("clean").unwrap();
    let refused = open(&crashed, &log).unwrap_err();
    assert!(
        matches!(&refused, OpenError::Damaged { file, .. } if file.contains(&name)),
        "{refused}"
    );
}

#[test]
fn a_payload_cannot_pose_as_a_batch() {
    // Another log's whole segment as a payload: its batches are valid there, not here.
    let mut forger = Log::new(LogConfig {
        seed: Some(8),
        ..config(1 << 16)
    });
    forger.publish("t", "x");
    forger.publish("t", "y");
    let stolen = forger.disk.content(&forger.files(".seg")[0]).unwrap();
    let mut log = Log::new(config(1 << 16));
    let mut message = draft("t", "");
    message.payload = stolen[..end_of(&stolen)].to_vec().into();
    log.publish_draft(message);
    let name = log.files(".seg")[0].clone();
    let mut content = log.disk.content(&name).unwrap();
    content[64] ^= 1;
    log.core = None;
    log.disk.set_content(&name, content);
    log.open().unwrap();
    assert!(log.all("t").is_empty());
}

#[test]
fn an_unknown_version_and_another_logs_segment_are_refused() {
    let mut log = Log::new(config(1 << 16));
    log.publish("t", "x");
    log.core = None;
    let name = log.files(".seg")[0].clone();
    let disk = log.disk.fork();
    let mut content = log.disk.content(&name).unwrap();
    content[8] = 99;
    disk.set_content(&name, content);
    let refused = open(&disk, &log).unwrap_err();
    assert!(matches!(
        refused,
        OpenError::UnknownVersion { version: 99, .. }
    ));
    let mut other = Log::new(LogConfig {
        seed: Some(8),
        ..config(1 << 16)
    });
    other.publish("t", "x");
    log.disk
        .set_content(&name, other.disk.content(&name).unwrap());
    assert!(matches!(
        open(&log.disk, &log),
        Err(OpenError::Foreign { .. })
    ));
}

#[test]
fn a_crash_at_every_step_loses_nothing_that_was_acknowledged() {
    let mut config = config(700);
    let two = tidings_types::Retention {
        per_topic_max: Some(2),
        ..keep_all()
    };
    rule(&mut config, "two", two);
    for step in 0..160 {
        let mut log = Log::new(config.clone());
        log.disk.set_faults(Faults {
            operations_left: Some(step),
            ..Faults::default()
        });
        let mut acknowledged = Vec::new();
        for number in 0..40 {
            let name = if number % 4 == 0 { "all" } else { "two" };
            let text = format!("{number:040}");
            if let Ok(receipts) = log.try_publish(vec![draft(name, &text), retained("r", &text)]) {
                acknowledged.push((name, receipts[0].cursor.offset.0, text));
            }
            if number % 5 == 0 {
                log.core().keep();
            }
        }
        log.crash(step * 31);
        let find = |name: &str| {
            let found = acknowledged.iter().filter(|(known, ..)| *known == name);
            found
                .map(|(_, at, text)| (*at, text.clone()))
                .collect::<Vec<_>>()
        };
        let expect = find("all");
        let read = log.walk("all", 0, 5);
        assert_eq!(read[..expect.len()], expect, "step {step}");
        assert!(read.len() <= expect.len() + 1, "step {step}");
        if let Some((_, newest)) = find("two").last() {
            let read = log.all("two");
            assert!(
                read.contains(newest),
                "step {step}: {read:?} lacks {newest}"
            );
        }
        if let Some((_, _, text)) = acknowledged.last() {
            let from = tidings_ports::ReadFrom::Retained {
                after: tidings_types::Offset(0),
            };
            let kept = payloads(&log.page(&["r"], from));
            assert!(kept.len() == 1 && kept[0] >= *text, "step {step}");
        }
    }
}

#[test]
fn a_directory_is_locked_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = LogConfig::in_directory(directory.path());
    config.segment_bytes = 600;
    let clock = std::sync::Arc::new(tidings_ports::SystemClock::default());
    let mut core = LogCore::open(config.clone(), clock.clone()).unwrap();
    for number in 0..30 {
        receipts(core.append(vec![submission(vec![draft("t", &number.to_string())])])).unwrap();
    }
    let second = LogCore::open(config.clone(), clock.clone()).unwrap_err();
    let text = second.to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(
        text.contains(&directory.path().display().to_string()),
        "{text}"
    );
    assert!(matches!(
        verify(directory.path()),
        Err(OpenError::Locked { .. })
    ));
    core.close();
    let report = verify(directory.path()).unwrap();
    assert_eq!((report.messages, report.damaged.len()), (30, 0));
    let file = directory.path().join("00000000000000000001.seg");
    let mut content = std::fs::read(&file).unwrap();
    content[150] ^= 1;
    std::fs::write(&file, content).unwrap();
    let report = verify(directory.path()).unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].file, file.display().to_string());
    assert!(verify(&directory.path().join("none")).is_err());
}

#[test]
fn a_seal_that_was_found_after_a_kill_survives_the_next_crash() {
    let mut sealed = 0;
    for left in 0..60 {
        let mut log = Log::new(config(300));
        log.publish("t", "first");
        log.disk.set_faults(Faults {
            operations_left: Some(left),
            ..Faults::default()
        });
        let mut published = 1;
        while log.try_publish(vec![draft("t", &"x".repeat(60))]).is_ok() {
            published += 1;
        }
        log.kill();
        let found = log.all("t");
        assert!(found.len() >= published);
        for number in 0..4 {
            log.publish("t", &number.to_string());
        }
        sealed += usize::from(log.files(".seg").len() > 1);
        let before = log.all("t");
        for seed in 0..8 {
            log.crash(left * 8 + seed);
            assert_eq!(log.all("t"), before, "crash after {left} operations");
        }
    }
    assert!(sealed > 0);
}

#[test]
fn a_damaged_length_in_a_segment_that_is_read_through_is_an_error_and_not_its_end() {
    let mut log = Log::new(config(16 << 10));
    for _ in 0..8 {
        let batch = (0..100).map(|number| draft(&format!("t/{number}"), "some text"));
        log.try_publish(batch.collect()).unwrap();
    }
    log.core().keep();
    log.core.take().unwrap().close();
    let name = log.files(".seg")[0].clone();
    let content = log.disk.content(&name).unwrap();
    // The length of the first record, and of one in the middle that is found by its topic.
    let topic = content.windows(4).position(|text| text == b"t/50").unwrap();
    for at in [64, topic] {
        let disk = log.disk.fork();
        let mut broken = content.clone();
        let lengths = (0..=at).rev();
        let length = lengths
            .map(|start| &content[start..start + 4])
            .position(|bytes| bytes[2..] == [0, 0] && bytes[0] > 20)
            .map(|back| at - back)
            .unwrap();
        broken[length + 3] = 0x7f;
        disk.set_content(&name, broken);
        let mut other = on(disk, &log);
        assert_eq!(
            other.try_read(&["#"], earliest(0)).map(|page| page.at_head),
            Err(ReadError::Storage),
            "damage at {length}"
        );
    }
}
