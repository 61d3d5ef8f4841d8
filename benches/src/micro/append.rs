//! Appending to the log: records made, indexed and written as one batch, and synced where that is asked for.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use tidings_log::{LogConfig, LogCore};
use tidings_ports::{ReplyTo, Submission, SystemClock};
use tidings_types::{Draft, Durability, Topic};

use super::turns::{COLUMNS, Case, Turns};
use crate::Options;
use crate::process::folder;
use crate::report::{Failure, Table};

pub const PAYLOAD_BYTES: usize = 256;
/// As large as a segment of the log, so that both files are allocated alike.
const FILE_BYTES: u64 = 64 << 20;

pub fn measure(options: &Options) -> Result<Table, Failure> {
    let turns = Turns::new(options);
    let mut rows = Vec::new();
    for (durability, batch) in [
        (Durability::Sync, 1),
        (Durability::Sync, 64),
        (Durability::Sync, 1_024),
        (Durability::Os, 1),
        (Durability::Os, 64),
        (Durability::Os, 1_024),
    ] {
        rows.push(row(durability, batch, turns)?);
    }
    Ok(Table {
        title: format!("Appending batches of messages with {PAYLOAD_BYTES} bytes to the log"),
        columns: COLUMNS.to_vec(),
        rows,
        notes: vec![
            "The time is for a whole batch. The baseline writes as many bytes as the log did to a file that is allocated in \
             advance, as the log's are, in one call, and with `sync` calls fdatasync."
                .to_owned(),
        ],
    })
}

/// A fresh log in the folder.
pub fn open(folder: &Path, durability: Durability) -> Result<LogCore, Failure> {
    let config = LogConfig {
        durability,
        ..LogConfig::in_directory(folder.join("log"))
    };
    LogCore::open(config, Arc::new(SystemClock::default()))
        .map_err(|error| Failure::new(format!("cannot open a log: {error}")))
}

/// What a shard would submit for one publish.
pub fn submission(topic: &Topic, payload: &Bytes) -> Submission {
    Submission {
        drafts: vec![Draft::new(topic.clone(), payload.clone())],
        states: Vec::new(),
        reply: Some(ReplyTo { shard: 0, token: 0 }),
    }
}

pub fn topic(index: usize) -> Result<Topic, Failure> {
    Topic::new(format!("bench/log/{index}")).map_err(|error| Failure::new(error.to_string()))
}

fn row(durability: Durability, batch: usize, turns: Turns) -> Result<Vec<String>, Failure> {
    let folder = folder()?;
    let mut log = open(folder.path(), durability)?;
    let topics = (0..64).map(topic).collect::<Result<Vec<_>, _>>()?;
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let mut append = move || {
        let submissions = topics.iter().cycle().take(batch);
        let commit = log.append(
            submissions
                .map(|topic| submission(topic, &payload))
                .collect(),
        );
        assert!(commit.batch.is_some(), "a batch was not committed");
        black_box(commit);
        log.stats().bytes_written
    };
    append();
    let before = append();
    let batch_bytes = (append() - before) as usize;
    let sync = durability == Durability::Sync;
    let mut plain = PlainFile::create(&folder.path().join("plain"), batch_bytes, sync)?;
    let (name, verb) = if sync {
        ("sync", "write and fdatasync")
    } else {
        ("os", "write")
    };
    let case = Case {
        name: format!("batch of {batch}, durability `{name}`"),
        baseline_name: format!("{verb} of its {batch_bytes} bytes"),
        part: Box::new(move |times| {
            for _ in 0..times {
                black_box(append());
            }
        }),
        baseline: Box::new(move |times| {
            for _ in 0..times {
                plain.write();
            }
        }),
    };
    Ok(case.row(turns))
}

/// What a log would be if it were nothing but a file.
struct PlainFile {
    file: File,
    chunk: Vec<u8>,
    end: u64,
    sync: bool,
}

impl PlainFile {
    fn create(path: &Path, chunk_bytes: usize, sync: bool) -> Result<Self, Failure> {
        let file = File::create(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
        Ok(Self {
            file,
            chunk: vec![b'x'; chunk_bytes],
            end: 0,
            sync,
        })
    }

    fn write(&mut self) {
        let written = self.file.write_all_at(&self.chunk, self.end);
        let synced = written.and_then(|()| {
            if self.sync {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        synced.expect("the folder of a measurement can be written");
        self.end += self.chunk.len() as u64;
        if self.end + self.chunk.len() as u64 > FILE_BYTES {
            // The log begins a new segment here; writing over old blocks would be cheaper than either.
            self.file
                .set_len(0)
                .and_then(|()| {
                    Ok(fallocate(
                        &self.file,
                        FallocateFlags::empty(),
                        0,
                        FILE_BYTES,
                    )?)
                })
                .expect("the folder of a measurement can be written");
            self.end = 0;
        }
    }
}
