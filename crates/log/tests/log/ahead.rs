//! Zeros that are written ahead of small batches: never over what is there, never more than room was taken for,
//! and no different to read from zeros that were not written.

use std::sync::Arc;

use tidings_log::storage::{BLOCK_BYTES, DirectoryStorage, Faults, Storage as _, StorageFile};
use tidings_log::{LogConfig, LogCore};
use tidings_ports::{PublishError, SystemClock};
use tidings_types::Durability;

use super::common::*;

/// Operations on the disk for one message of this many bytes.
fn operations_of(log: &mut Log, bytes: usize) -> u64 {
    let before = log.disk.operations();
    log.publish("t", &"x".repeat(bytes));
    log.disk.operations() - before
}

#[test]
fn zeros_are_written_once_for_many_small_batches() {
    let mut log = Log::new(config(8 << 20));
    log.publish("t", "the segment exists");
    let mut written = 0;
    for _ in 0..300 {
        match operations_of(&mut log, 1_000) {
            // The batch, and its sync.
            2 => {}
            3 => written += 1,
            more => panic!("{more} operations"),
        }
    }
    assert_eq!(written, 2, "300 KB are more than one step of 256 KiB");
}

#[test]
fn a_small_batch_between_large_ones_needs_no_zeros() {
    let mut log = Log::new(config(8 << 20));
    log.publish("t", "the segment exists");
    for number in 0..40 {
        let bytes = if number % 3 == 0 { 70_000 } else { 1_000 };
        assert_eq!(operations_of(&mut log, bytes), 2);
    }
}

#[test]
fn large_batches_and_those_that_are_not_synced_need_no_zeros() {
    let mut log = Log::new(config(8 << 20));
    log.publish("t", "the segment exists");
    for _ in 0..8 {
        assert_eq!(operations_of(&mut log, 70_000), 2);
    }
    let mut config = config(8 << 20);
    config.durability = Durability::Os;
    let mut log = Log::new(config);
    log.publish("t", "the segment exists");
    for _ in 0..300 {
        assert_eq!(operations_of(&mut log, 1_000), 1);
    }
}

#[test]
fn a_small_log_takes_no_more_room_for_zeros() {
    let mut log = Log::new(config(100_000));
    for _ in 0..6 {
        log.publish("t", "one");
    }
    let name = &log.files(".seg")[0];
    let content = log.disk.content(name).unwrap();
    assert_eq!(content.len(), 100_000);
    let blocks = 100_000 / BLOCK_BYTES;
    let unused = &content[1_000..];
    assert!(unused.iter().all(|byte| *byte == 0));
    // Up to the last whole block of a segment, batches are as cheap as in its middle.
    for _ in 0..blocks - 2 {
        assert_eq!(operations_of(&mut log, BLOCK_BYTES as usize - 200), 2);
    }
    assert_eq!(log.files(".seg").len(), 1);
}

#[test]
fn a_crash_at_every_step_of_segments_with_zeros_loses_nothing_that_was_acknowledged() {
    for step in 0..130 {
        let mut log = Log::new(config(20_000));
        log.disk.set_faults(Faults {
            operations_left: Some(step),
            ..Faults::default()
        });
        let mut acknowledged = Vec::new();
        for number in 0..60_usize {
            let text = format!("{number:0width$}", width = 40 + 131 * (number % 9));
            let states = vec![set("s", &text)];
            if log.try_save(vec![draft("t", &text)], states).is_ok() {
                acknowledged.push(text);
            }
        }
        for seed in [step * 31, step * 31 + 1] {
            log.crash(seed);
            let read = log.all("t");
            assert_eq!(read[..acknowledged.len()], acknowledged, "step {step}");
            assert!(read.len() <= acknowledged.len() + 1, "step {step}");
            acknowledged = read;
            acknowledged.push("after the crash".to_owned());
            log.publish("t", "after the crash");
        }
        log.kill();
        assert_eq!(log.all("t"), acknowledged, "step {step}");
    }
}

#[test]
fn a_disk_that_fills_up_ahead_of_the_log_loses_nothing() {
    for capacity in (300..60_000).step_by(1_777) {
        let mut log = Log::new(config(20_000));
        log.disk.set_faults(Faults {
            capacity: Some(capacity),
            ..Faults::default()
        });
        let mut expect = Vec::new();
        for number in 0..100_usize {
            let text = format!("{number:0width$}", width = 10 + 97 * (number % 13));
            match log.try_publish(vec![draft("t", &text)]) {
                Ok(_) => expect.push(text),
                Err(error) => assert_eq!(error, PublishError::StorageFull, "{capacity}"),
            }
        }
        log.disk.set_faults(Faults::default());
        log.publish("t", "room again");
        expect.push("room again".to_owned());
        assert_eq!(log.all("t"), expect, "{capacity}");
        log.crash(capacity);
        assert_eq!(log.all("t"), expect, "{capacity}");
    }
}

#[test]
fn zeros_in_a_file_leave_what_is_around_them() {
    let directory = tempfile::tempdir().unwrap();
    let storage = DirectoryStorage::open(directory.path()).unwrap();
    let file = storage.create("file").unwrap();
    let block = BLOCK_BYTES as usize;
    // More than is written at once, and the last block is cut short.
    let len = 100 * block + 100;
    file.allocate(len as u64).unwrap();
    let mut expect = vec![0; len];
    let mut write = |file: &dyn StorageFile, at: usize, byte: u8| {
        let text = vec![byte; 3 * block];
        file.write_at(&text, at as u64).unwrap();
        expect[at..at + text.len()].copy_from_slice(&text);
    };
    write(&*file, 0, b'a');
    write(&*file, 60 * block, b'b');
    file.write_zeros(3 * BLOCK_BYTES, 60 * BLOCK_BYTES).unwrap();
    file.write_zeros(63 * BLOCK_BYTES, 100 * BLOCK_BYTES)
        .unwrap();
    write(&*file, 4 * block - 7, b'c');
    file.sync().unwrap();
    for file in [file, storage.open("file").unwrap()] {
        let mut read = vec![1; len];
        file.read_at(&mut read, 0).unwrap();
        assert!(read == expect);
        assert_eq!(file.len().unwrap(), len as u64);
    }
}

#[test]
fn a_log_in_a_directory_reads_back_whatever_was_written_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = LogConfig::in_directory(directory.path());
    config.segment_bytes = 300_000;
    let clock = Arc::new(SystemClock::default());
    let mut expect = Vec::new();
    for round in 0..4_usize {
        let mut core = LogCore::open(config.clone(), clock.clone()).unwrap();
        for number in 0..40 {
            let text = format!("{number:0width$}", width = 1 + 997 * ((number + round) % 7));
            receipts(core.append(vec![submission(vec![draft("t", &text)])])).unwrap();
            expect.push(text);
        }
        let large = "l".repeat(70_000);
        receipts(core.append(vec![submission(vec![draft("t", &large)])])).unwrap();
        expect.push(large);
        // Every other time it is not closed, as if the process was killed.
        if round % 2 == 0 {
            core.close();
        }
    }
    let core = LogCore::open(config, clock).unwrap();
    let mut read = Vec::new();
    let mut at = 0;
    loop {
        let page = core.read(&request(&["t"], earliest(at))).unwrap();
        read.extend(payloads(&page));
        at = page.scanned_to.0;
        if page.at_head {
            break;
        }
    }
    assert!(read == expect);
}
