//! The index of a sealed segment on disk, so that a log opens without reading its messages, and memory holds
//! little of it.
//!
//! ```text
//! file      = postings | directory | fences | keys | marks | footer
//! posting   = offset u64 | ordinal u64 | position u32 | len u32     a topic's are together, in offset order
//! directory = entries in the order of their topics' names, in blocks of about 4 KiB
//! entry     = topic text | start, count, first ordinal, last offset, last ordinal, last time, prev,
//!             hole offset, hole ordinal, bytes varints | retain u8 (0, 1 set, 2 cleared) | its offset varint
//! fence     = first topic of the block text | position of the block u32
//! key       = hash u128 | offset u64 | time u64
//! mark      = offset u64 | position u32 | until u64
//! footer    = lengths of the five parts u32 | segment id u64 | segment len u32 | last u64 | last time u64
//!             | expiring u8 | crc32c u32 of all before | "TIDIDX01"
//! ```
//! Memory holds the fences and the marks; postings and directory blocks are read when they are needed.

use std::io;
use std::sync::Arc;

use tidings_types::{Topic, TopicFilter};

use crate::storage::{StorageFile, read_all};
use tidings_types::codec::{Input, put_bytes, put_varint};

use super::memory_index::MemoryIndex;
use super::{Entry, KeyMark, Mark, Posting, RetainMark};

const POSTING_LEN: usize = 24;
const KEY_LEN: usize = 32;
const BLOCK_LEN: usize = 4 << 10;
const MAGIC: &[u8; 8] = b"TIDIDX01";
const FOOTER_LEN: usize = 5 * 4 + 8 + 4 + 8 + 8 + 1 + 4 + 8;
/// A topic with more postings than this is not read whole with its neighbours.
const SMALL: u32 = 1 << 16;

/// Which segment an index belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) len: u32,
    pub(crate) last: u64,
    pub(crate) last_time: u64,
}

/// An index on disk.
#[derive(Debug)]
pub(crate) struct FileIndex {
    file: Arc<dyn StorageFile>,
    directory: u32,
    directory_end: u32,
    /// The first topic of each block, and where the block begins.
    fences: Vec<(Topic, u32)>,
    marks: Vec<Mark>,
    /// Position and length of the keys.
    keys: (u32, u32),
    expiring: bool,
}

/// The encoded keys.
pub(crate) fn put_keys(out: &mut Vec<u8>, keys: &[KeyMark]) {
    out.reserve(keys.len() * KEY_LEN);
    for key in keys {
        out.extend_from_slice(&key.hash.to_le_bytes());
        out.extend_from_slice(&key.offset.to_le_bytes());
        out.extend_from_slice(&key.time.to_le_bytes());
    }
}

/// Reads encoded keys; `None` if the last is not whole.
pub(crate) fn open_keys(bytes: &[u8]) -> Option<Vec<KeyMark>> {
    let key = |bytes| {
        let mut input = Input::new(bytes);
        Some(KeyMark {
            hash: input.u128()?,
            offset: input.u64()?,
            time: input.u64()?,
        })
    };
    bytes.chunks(KEY_LEN).map(key).collect()
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, start: u32) {
    put_bytes(out, entry.topic.as_str().as_bytes());
    for number in [
        u64::from(start),
        u64::from(entry.count),
        entry.first_ordinal,
        entry.last_offset,
        entry.last_ordinal,
        entry.last_time,
        entry.prev,
        entry.hole.0,
        entry.hole.1,
        entry.bytes,
    ] {
        put_varint(out, number);
    }
    match entry.retain {
        None => out.push(0),
        Some(retain) => {
            out.push(if retain.clears { 2 } else { 1 });
            put_varint(out, retain.offset);
        }
    }
}

fn open_entry(input: &mut Input<'_>) -> Option<Entry> {
    let topic = Topic::new(input.text()?).ok()?;
    Some(Entry {
        topic,
        start: input.varint()? as u32,
        count: input.varint()? as u32,
        first_ordinal: input.varint()?,
        last_offset: input.varint()?,
        last_ordinal: input.varint()?,
        last_time: input.varint()?,
        prev: input.varint()?,
        hole: (input.varint()?, input.varint()?),
        bytes: input.varint()?,
        retain: match input.u8()? {
            0 => None,
            kind => Some(RetainMark {
                clears: kind == 2,
                offset: input.varint()?,
            }),
        },
    })
}

/// The content of an index file.
pub(crate) fn encode_index(index: &MemoryIndex, identity: Identity) -> Vec<u8> {
    let mut entries = index.entries();
    entries.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    let mut out = Vec::with_capacity(index.len() * POSTING_LEN + entries.len() * 64);
    let (mut directory, mut fences) = (Vec::new(), Vec::new());
    let (mut start, mut block) = (0, usize::MAX);
    for entry in &entries {
        for posting in index.postings(entry, 0, entry.count) {
            out.extend_from_slice(&posting.offset.to_le_bytes());
            out.extend_from_slice(&posting.ordinal.to_le_bytes());
            out.extend_from_slice(&posting.position.to_le_bytes());
            out.extend_from_slice(&posting.len.to_le_bytes());
        }
        if block == usize::MAX || directory.len() - block >= BLOCK_LEN {
            block = directory.len();
            put_bytes(&mut fences, entry.topic.as_str().as_bytes());
            fences.extend_from_slice(&(block as u32).to_le_bytes());
        }
        put_entry(&mut directory, entry, start);
        start += entry.count;
    }
    let mut keys = Vec::new();
    put_keys(&mut keys, &index.keys);
    let mut marks = Vec::with_capacity(index.marks.len() * 20);
    for mark in &index.marks {
        marks.extend_from_slice(&mark.offset.to_le_bytes());
        marks.extend_from_slice(&mark.position.to_le_bytes());
        marks.extend_from_slice(&mark.until.to_le_bytes());
    }
    let lens = [
        out.len(),
        directory.len(),
        fences.len(),
        keys.len(),
        marks.len(),
    ];
    for part in [directory, fences, keys, marks] {
        out.extend_from_slice(&part);
    }
    for len in lens {
        out.extend_from_slice(&(len as u32).to_le_bytes());
    }
    out.extend_from_slice(&identity.id.to_le_bytes());
    out.extend_from_slice(&identity.len.to_le_bytes());
    out.extend_from_slice(&identity.last.to_le_bytes());
    out.extend_from_slice(&identity.last_time.to_le_bytes());
    out.push(u8::from(index.expiring));
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.extend_from_slice(MAGIC);
    out
}

/// An index file that was read whole.
pub(crate) struct Opened {
    pub(crate) index: FileIndex,
    pub(crate) identity: Identity,
    pub(crate) entries: Vec<Entry>,
    pub(crate) keys: Vec<KeyMark>,
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index file is damaged")
}

impl FileIndex {
    /// Reads and checks an index file.
    pub(crate) fn open(file: Arc<dyn StorageFile>) -> io::Result<Opened> {
        let bytes = read_all(&*file)?;
        Self::parse(file, &bytes).ok_or_else(damaged)
    }

    fn parse(file: Arc<dyn StorageFile>, bytes: &[u8]) -> Option<Opened> {
        let footer = bytes.len().checked_sub(FOOTER_LEN)?;
        let mut input = Input::new(&bytes[footer..]);
        let mut lens = [0usize; 5];
        for len in &mut lens {
            *len = input.u32()? as usize;
        }
        let identity = Identity {
            id: input.u64()?,
            len: input.u32()?,
            last: input.u64()?,
            last_time: input.u64()?,
        };
        let expiring = input.u8()? == 1;
        let sound = input.u32()? == crc32c::crc32c(&bytes[..bytes.len() - 12])
            && input.rest == MAGIC
            && lens.iter().sum::<usize>() == footer;
        if !sound {
            return None;
        }
        let mut parts = Input::new(bytes);
        parts.take(lens[0])?;
        let mut directory = Input::new(parts.take(lens[1])?);
        let mut entries = Vec::new();
        while !directory.rest.is_empty() {
            entries.push(open_entry(&mut directory)?);
        }
        let mut fence = Input::new(parts.take(lens[2])?);
        let mut fences = Vec::new();
        while !fence.rest.is_empty() {
            fences.push((Topic::new(fence.text()?).ok()?, fence.u32()?));
        }
        let keys = open_keys(parts.take(lens[3])?)?;
        let mut marks = Input::new(parts.take(lens[4])?);
        let marks = std::iter::from_fn(|| {
            Some(Mark {
                offset: marks.u64()?,
                position: marks.u32()?,
                until: marks.u64()?,
            })
        });
        let keys_at: usize = lens[..3].iter().sum();
        let index = Self {
            marks: marks.collect(),
            file,
            directory: lens[0] as u32,
            directory_end: (lens[0] + lens[1]) as u32,
            fences,
            keys: (keys_at as u32, lens[3] as u32),
            expiring,
        };
        Some(Opened {
            index,
            identity,
            entries,
            keys,
        })
    }

    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    pub(super) fn keys(&self) -> io::Result<Vec<KeyMark>> {
        let (start, len) = self.keys;
        let mut bytes = vec![0; len as usize];
        self.file.read_at(&mut bytes, u64::from(start))?;
        open_keys(&bytes).ok_or_else(damaged)
    }

    pub(super) fn expiring(&self) -> bool {
        self.expiring
    }

    /// Entries of blocks `from..to`.
    fn blocks(&self, from: usize, to: usize) -> io::Result<Vec<Entry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let start = self.directory + self.fences[from].1;
        let end = match self.fences.get(to) {
            Some((_, at)) => self.directory + at,
            None => self.directory_end,
        };
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_at(&mut bytes, u64::from(start))?;
        let mut input = Input::new(&bytes);
        let mut entries = Vec::new();
        while !input.rest.is_empty() {
            entries.push(open_entry(&mut input).ok_or_else(damaged)?);
        }
        Ok(entries)
    }

    pub(super) fn find(&self, topic: &str) -> io::Result<Option<Entry>> {
        let block = self
            .fences
            .partition_point(|(first, _)| first.as_str() <= topic);
        if block == 0 {
            return Ok(None);
        }
        let entries = self.blocks(block - 1, block)?;
        Ok(entries
            .into_iter()
            .find(|entry| entry.topic.as_str() == topic))
    }

    pub(super) fn matching(&self, filters: &[TopicFilter]) -> io::Result<Vec<Entry>> {
        let mut found: Vec<Entry> = Vec::new();
        for filter in filters {
            if !filter.has_wildcard() {
                found.extend(self.find(filter.as_str())?);
                continue;
            }
            let prefix = filter.literal_prefix();
            // `a/#` matches `a` too, which stands before all that begin with `a/`, and not next to them.
            if let Some(parent) = prefix.strip_suffix('/') {
                let parent = self.find(parent)?;
                found.extend(parent.filter(|entry| filter.matches(&entry.topic)));
            }
            let from = self
                .fences
                .partition_point(|(first, _)| first.as_str() < prefix);
            let to = self.fences.partition_point(|(first, _)| {
                first.as_str() < prefix || first.as_str().starts_with(prefix)
            });
            let mut entries = self.blocks(from.saturating_sub(1), to)?;
            entries.retain(|entry| {
                entry.topic.as_str().starts_with(prefix) && filter.matches(&entry.topic)
            });
            found.extend(entries);
        }
        if filters.len() > 1 {
            found.sort_unstable_by_key(|entry| entry.start);
            found.dedup_by_key(|entry| entry.start);
        }
        Ok(found)
    }

    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        self.blocks(0, self.fences.len())
    }

    fn read_postings(&self, start: u32, count: u32) -> io::Result<Vec<Posting>> {
        let mut bytes = vec![0; count as usize * POSTING_LEN];
        self.file
            .read_at(&mut bytes, u64::from(start) * POSTING_LEN as u64)?;
        let mut input = Input::new(&bytes);
        let postings = std::iter::from_fn(|| {
            Some(Posting {
                offset: input.u64()?,
                ordinal: input.u64()?,
                position: input.u32()?,
                len: input.u32()?,
            })
        });
        Ok(postings.collect())
    }

    pub(super) fn postings(
        &self,
        entry: &Entry,
        from: u32,
        limit: u32,
    ) -> io::Result<Vec<Posting>> {
        self.read_postings(entry.start + from, limit)
    }

    /// Topics that stand together in the file are read together.
    pub(super) fn all_postings(&self, entries: &[Entry]) -> io::Result<Vec<Vec<Posting>>> {
        let mut result = Vec::with_capacity(entries.len());
        let mut at = 0;
        while at < entries.len() {
            let start = entries[at].start;
            let mut count = entries[at].count;
            let mut next = at + 1;
            while next < entries.len() && count < SMALL && entries[next].start == start + count {
                count += entries[next].count;
                next += 1;
            }
            let postings = self.read_postings(start, count)?;
            let mut rest = postings.as_slice();
            for entry in &entries[at..next] {
                let (own, others) = rest.split_at(entry.count as usize);
                result.push(own.to_vec());
                rest = others;
            }
            at = next;
        }
        Ok(result)
    }
}
