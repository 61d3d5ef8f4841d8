//! Segments: the files that a chain of the log consists of, and what is known of their content.
//!
//! ```text
//! header = "TIDINGSL" | version u32 | epoch u64 | base u64 | id u64 | magic u64 | ceiling u64
//!          | covers_to u64 | crc32c u32                                              64 bytes
//! ```
//! `base` is the first offset that can be in it, and its name. `id` differs between all segments that ever
//! had that name, so that an index file of an older one is not taken for its own. `magic` begins each batch: it is
//! random and secret, so that no payload can pose as a batch in a search behind damage. `ceiling` repeats the newest
//! RESERVE. `covers_to` is set in a compacted segment: it stands for all older files up to that offset.

mod index_file;
mod memory_index;
mod scan;

pub(crate) use index_file::{
    FileIndex, Identity, Opened as OpenedIndex, encode_index, open_keys, put_keys,
};
pub(crate) use memory_index::{MARK_MS, MemoryIndex, NewPosting};
pub(crate) use scan::{Scan, Visit, proof_of_damage, scan};

use std::io;
use std::sync::{Arc, Mutex};

use tidings_types::{Topic, TopicFilter};

use crate::error::OpenError;
use crate::storage::StorageFile;
use tidings_types::codec::Input;

pub(crate) const HEADER_LEN: u32 = 64;
/// The version of everything in the data directory.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"TIDINGSL";

/// The start of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) epoch: u64,
    pub(crate) base: u64,
    pub(crate) id: u64,
    pub(crate) magic: u64,
    pub(crate) ceiling: u64,
    pub(crate) covers_to: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        for number in [
            self.epoch,
            self.base,
            self.id,
            self.magic,
            self.ceiling,
            self.covers_to,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads a header. The version is judged before the checksum, as a newer one may be laid out differently.
    pub(crate) fn decode(bytes: &[u8], file: &str) -> Result<Self, OpenError> {
        let damaged = |what| OpenError::Damaged {
            file: file.to_owned(),
            offset: 0,
            what,
        };
        let cut = || damaged("the segment's header is cut off");
        let mut input = Input::new(bytes);
        if input.take(8).ok_or_else(cut)? != MAGIC {
            return Err(damaged("it does not begin as a segment does"));
        }
        let version = input.u32().ok_or_else(cut)?;
        if version != FORMAT_VERSION && version != 0 {
            return Err(OpenError::UnknownVersion {
                file: file.to_owned(),
                version,
            });
        }
        let header = (|| {
            Some(Self {
                epoch: input.u64()?,
                base: input.u64()?,
                id: input.u64()?,
                magic: input.u64()?,
                ceiling: input.u64()?,
                covers_to: input.u64()?,
            })
        })();
        let header = header.ok_or_else(cut)?;
        let crc = input.u32().ok_or_else(cut)?;
        if crc32c::crc32c(&bytes[..HEADER_LEN as usize - 4]) != crc {
            return Err(damaged("the checksum of the segment's header is wrong"));
        }
        Ok(header)
    }
}

/// The name of the segment file with this base.
pub(crate) fn segment_name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// The name of its index file.
pub(crate) fn index_name(base: u64) -> String {
    format!("{base:020}.idx")
}

/// Where one message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) offset: u64,
    /// Its number in its topic.
    pub(crate) ordinal: u64,
    /// Of its record in the file.
    pub(crate) position: u32,
    /// Of its record, whole.
    pub(crate) len: u32,
}

/// A batch that begins a stretch of the file, for finding a place by offset or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The first message at or after the position has at least this offset.
    pub(crate) offset: u64,
    pub(crate) position: u32,
    /// No message up to the next mark is younger.
    pub(crate) until: u64,
}

/// A message with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyMark {
    pub(crate) hash: u128,
    pub(crate) offset: u64,
    pub(crate) time: u64,
}

/// The newest message of a topic that was published as retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetainMark {
    pub(crate) offset: u64,
    /// It had no payload: it took the retained message away.
    pub(crate) clears: bool,
}

/// One topic in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) topic: Topic,
    /// The first of its postings in the index.
    pub(crate) start: u32,
    /// How many there are; at least 1.
    pub(crate) count: u32,
    pub(crate) first_ordinal: u64,
    pub(crate) last_offset: u64,
    pub(crate) last_ordinal: u64,
    pub(crate) last_time: u64,
    /// The topic's message before the first one; 0 if there was none.
    pub(crate) prev: u64,
    /// Between two of its postings there were others once: the offset of the last of those, and the ordinal
    /// after it. 0 if not.
    pub(crate) hole: (u64, u64),
    /// Of its records together.
    pub(crate) bytes: u64,
    pub(crate) retain: Option<RetainMark>,
}

/// What is in a segment.
#[derive(Debug)]
pub(crate) enum Index {
    /// Until its file is written.
    Memory(MemoryIndex),
    File(FileIndex),
}

impl Index {
    pub(crate) fn find(&self, topic: &str) -> io::Result<Option<Entry>> {
        match self {
            Self::Memory(index) => Ok(index.find(topic)),
            Self::File(index) => index.find(topic),
        }
    }

    /// The topics that match any of the filters, each once; in no order.
    pub(crate) fn matching(&self, filters: &[TopicFilter]) -> io::Result<Vec<Entry>> {
        match self {
            Self::Memory(index) => Ok(index.matching(filters)),
            Self::File(index) => index.matching(filters),
        }
    }

    /// All topics, in no order.
    pub(crate) fn entries(&self) -> io::Result<Vec<Entry>> {
        match self {
            Self::Memory(index) => Ok(index.entries()),
            Self::File(index) => index.entries(),
        }
    }

    /// Up to `limit` postings of a topic, beginning with the one of this number.
    pub(crate) fn postings(
        &self,
        entry: &Entry,
        from: u32,
        limit: u32,
    ) -> io::Result<Vec<Posting>> {
        let limit = limit.min(entry.count.saturating_sub(from));
        match self {
            Self::Memory(index) => Ok(index.postings(entry, from, limit)),
            Self::File(index) => index.postings(entry, from, limit),
        }
    }

    /// All postings of these topics together, in no order.
    pub(crate) fn all_postings(&self, entries: &[Entry]) -> io::Result<Vec<Vec<Posting>>> {
        match self {
            Self::Memory(index) => Ok(entries
                .iter()
                .map(|entry| index.postings(entry, 0, entry.count))
                .collect()),
            Self::File(index) => index.all_postings(entries),
        }
    }

    /// The number of the topic's first posting after this offset.
    pub(crate) fn lower_bound(&self, entry: &Entry, after: u64) -> io::Result<u32> {
        let (mut low, mut high) = (0, entry.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let posting = self.postings(entry, middle, 1)?;
            if posting
                .first()
                .is_some_and(|posting| posting.offset <= after)
            {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    pub(crate) fn marks(&self) -> &[Mark] {
        match self {
            Self::Memory(index) => &index.marks,
            Self::File(index) => index.marks(),
        }
    }

    /// The idempotency keys of its messages, in offset order.
    pub(crate) fn keys(&self) -> io::Result<Vec<KeyMark>> {
        match self {
            Self::Memory(index) => Ok(index.keys.clone()),
            Self::File(index) => index.keys(),
        }
    }

    /// Whether any message has a time to live.
    pub(crate) fn expiring(&self) -> bool {
        match self {
            Self::Memory(index) => index.expiring,
            Self::File(index) => index.expiring(),
        }
    }
}

/// The last mark at or before this offset: where a scan for what is after it begins.
pub(crate) fn mark_before(marks: &[Mark], offset: u64) -> u32 {
    let after = marks.partition_point(|mark| mark.offset <= offset);
    match after {
        0 => HEADER_LEN,
        _ => marks[after - 1].position,
    }
}

/// A segment that is not appended to any more.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) base: u64,
    pub(crate) id: u64,
    /// The last offset that it stands for.
    pub(crate) last: u64,
    /// Bytes in the file.
    pub(crate) len: u32,
    /// Of its last message.
    pub(crate) last_time: u64,
    /// In records of messages, live or not.
    pub(crate) record_bytes: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) index: Index,
    /// By class: bytes of records that are still live, or more.
    pub(crate) live: Mutex<Vec<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_byte_is_noticed() {
        let header = Header {
            epoch: 1,
            base: 2,
            id: 3,
            magic: 4,
            ceiling: 5,
            covers_to: 6,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_LEN as usize);
        assert_eq!(Header::decode(&bytes, "x").unwrap(), header);
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert!(Header::decode(&broken, "x").is_err(), "byte {at}");
        }
    }

    #[test]
    fn marks_find_the_stretch_before_an_offset() {
        let mark = |offset, position| Mark {
            offset,
            position,
            until: 0,
        };
        let marks = [mark(10, 64), mark(20, 900)];
        for (offset, expect) in [(0, 64), (10, 64), (19, 64), (20, 900), (99, 900)] {
            assert_eq!(mark_before(&marks, offset), expect);
        }
    }
}
