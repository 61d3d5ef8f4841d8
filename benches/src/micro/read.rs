//! Reading pages from the log.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tidings_log::LogCore;
use tidings_ports::{Page, ReadFrom, ReadRequest};
use tidings_types::{Durability, Offset, Topic, TopicFilter};

use super::append::{PAYLOAD_BYTES, open, submission, topic};
use super::turns::{COLUMNS, Case, Turns};
use crate::Options;
use crate::process::folder;
use crate::report::{Failure, Table};

const TOPICS: usize = 100;
const BATCH: usize = 1_000;
const PAGE_BYTES_MAX: usize = 4 << 20;

pub fn measure(options: &Options) -> Result<Table, Failure> {
    let turns = Turns::new(options);
    let messages = if options.quick { 4_000 } else { 200_000 };
    let folder = folder()?;
    let mut log = open(folder.path(), Durability::Os)?;
    let before = log.stats().bytes_written;
    fill(&mut log, messages)?;
    let record_bytes = (log.stats().bytes_written - before) / messages as u64;
    let plain = folder.path().join("plain");
    std::fs::write(&plain, vec![b'x'; record_bytes as usize * messages])?;
    let file = File::open(&plain)?;
    let one = TopicFilter::exact(&topic(7)?);
    let all = TopicFilter::all();
    let wildcard =
        TopicFilter::new("bench/+/7").map_err(|error| Failure::new(error.to_string()))?;
    let mut rows = Vec::new();
    for (what, filter, page) in [
        ("every topic", &all, 100),
        ("every topic", &all, 1_000),
        ("one topic of 100", &one, 30),
        ("a wildcard that matches one topic of 100", &wildcard, 30),
    ] {
        let read = Read {
            log: &log,
            filter,
            page,
            head: messages as u64,
        };
        rows.push(case(what, read, &file, record_bytes)?.row(turns));
    }
    Ok(Table {
        title: format!("Reading pages from a log of {messages} messages with {PAYLOAD_BYTES} bytes"),
        columns: COLUMNS.to_vec(),
        rows,
        notes: vec![
            "The time is for a whole page, from places all over the log that the page cache holds. The baseline reads as \
             many bytes of a plain file into a new buffer, in one call."
                .to_owned(),
        ],
    })
}

fn fill(log: &mut LogCore, messages: usize) -> Result<(), Failure> {
    let topics = (0..TOPICS).map(topic).collect::<Result<Vec<Topic>, _>>()?;
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    for _ in 0..messages / BATCH {
        let submissions = topics.iter().cycle().take(BATCH);
        log.append(
            submissions
                .map(|topic| submission(topic, &payload))
                .collect(),
        );
    }
    if log.head() < Offset(messages as u64) {
        return Err(Failure::new("the log did not take every message"));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Read<'a> {
    log: &'a LogCore,
    filter: &'a TopicFilter,
    page: usize,
    head: u64,
}

impl Read<'_> {
    /// A page from somewhere in the first quarter.
    fn at(self, turn: u64) -> Page {
        let request = ReadRequest {
            filters: Arc::from([self.filter.clone()]),
            from: ReadFrom::After {
                offset: Offset(turn * 7_919 % (self.head / 4)),
                resume: false,
            },
            messages_max: self.page,
            bytes_max: PAGE_BYTES_MAX,
        };
        self.log
            .read(&request)
            .expect("the log of a measurement can be read")
    }
}

fn case<'a>(
    what: &str,
    read: Read<'a>,
    file: &'a File,
    record_bytes: u64,
) -> Result<Case<'a>, Failure> {
    let found = read.at(1).messages.len();
    if found != read.page {
        let text = format!("a page of {} messages has {found}", read.page);
        return Err(Failure::new(text));
    }
    let page_bytes = record_bytes * read.page as u64;
    let (mut turn, mut baseline_turn) = (0, 0);
    Ok(Case {
        name: format!("page of {}, {what}", read.page),
        baseline_name: format!("pread of {page_bytes} bytes"),
        part: Box::new(move |times| {
            for _ in 0..times {
                turn += 1;
                black_box(read.at(turn));
            }
        }),
        baseline: Box::new(move |times| {
            for _ in 0..times {
                baseline_turn += 1;
                let mut buffer = vec![0; page_bytes as usize];
                let start = baseline_turn * 7_919 % (read.head / 4) * record_bytes;
                file.read_exact_at(&mut buffer, start)
                    .expect("the file of a measurement can be read");
                black_box(buffer);
            }
        }),
    })
}
