//! What is kept by name, only the newest value of each: a journal of changes, and now and then a snapshot.
//!
//! ```text
//! journal  = header | batch*          N.states     the changes since it was begun
//! snapshot = header | batch* | end    N.snapshot   every value as it was when journal N was begun
//! header   = "TIDINGSJ" (journal) or "TIDINGSN" (snapshot) | version u32 | epoch u64 | number u64
//!            | before u64 | magic u64 | crc32c u32                                        48 bytes
//! batch    = as in a segment, of STATE and FORGET records, and in a journal one WITH record if messages belong to
//!            it; its `first` counts the file's batches from 0
//! end      = a batch of one SEAL record, with the number of names
//! ```
//! `before` is the length of the journal before this one, all of which was on the disk when this one was begun; 0
//! in a snapshot. The newest snapshot and the journals from its number on make the values; what is older is
//! left over. A snapshot gets its name when all of it is on the disk, and older files go when that name is.
//!
//! A batch of a journal is on the disk before the messages that belong to it are written. WITH has the offset of the
//! last of these that are in segments: if opening finds that the segments do not reach it, the batch is void and
//! is cut off, with what follows, before an offset is handed out. If the messages find no room, it is cut off at once.
//!
//! Nothing here exists before the first state is kept. On a storage that is gone with the process, nothing is
//! written at all. With `durability = os` a crash of the machine may take the newest changes.

mod journal;
mod map;
mod recover;
mod scan;
mod snapshot;

pub(crate) use journal::Journal;
pub(crate) use map::{StateMap, Values};
pub(crate) use recover::{Recovered, has_files, load, recover};
pub(crate) use snapshot::keep_snapshot;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use tidings_types::codec::Input;

use crate::error::OpenError;
use crate::segment::FORMAT_VERSION;
use crate::storage::StorageFile;

const HEADER_LEN: usize = 48;
const JOURNAL_MAGIC: [u8; 8] = *b"TIDINGSJ";
const SNAPSHOT_MAGIC: [u8; 8] = *b"TIDINGSN";

/// The two kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Journal,
    Snapshot,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Journal => JOURNAL_MAGIC,
            Self::Snapshot => SNAPSHOT_MAGIC,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Journal => "states",
            Self::Snapshot => "snapshot",
        }
    }

    fn name(self, number: u64) -> String {
        format!("{number:020}.{}", self.suffix())
    }

    /// The number of a file of this kind, from its name.
    fn number(self, name: &str) -> Option<u64> {
        let (number, suffix) = name.split_once('.')?;
        let number = number.parse().ok()?;
        (suffix == self.suffix() && self.name(number) == name).then_some(number)
    }
}

/// The start of either file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    epoch: u64,
    number: u64,
    before: u64,
    magic: u64,
}

impl Header {
    fn encode(&self, kind: FileKind) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&kind.magic());
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        for number in [self.epoch, self.number, self.before, self.magic] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads a header. The version is judged before the checksum, as a newer one may be laid out differently.
    fn decode(bytes: &[u8], kind: FileKind, file: &str) -> Result<Self, OpenError> {
        let damaged = |what| OpenError::Damaged {
            file: file.to_owned(),
            offset: 0,
            what,
        };
        let cut = || damaged("the header of a file of states is cut off");
        let mut input = Input::new(bytes);
        if input.take(8).ok_or_else(cut)? != kind.magic() {
            return Err(damaged("it does not begin as a file of states does"));
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
                number: input.u64()?,
                before: input.u64()?,
                magic: input.u64()?,
            })
        })();
        let header = header.ok_or_else(cut)?;
        let crc = input.u32().ok_or_else(cut)?;
        if crc32c::crc32c(&bytes[..HEADER_LEN - 4]) != crc {
            return Err(damaged(
                "the checksum of the header of a file of states is wrong",
            ));
        }
        Ok(header)
    }
}

/// The journal that is appended to, for syncs in the background.
#[derive(Clone, Debug)]
pub(crate) struct ActiveJournal {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) len: u32,
    /// How much of the file is on the disk for sure.
    pub(crate) synced: Arc<AtomicU32>,
}

/// A snapshot that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct DueSnapshot {
    /// Of the journal that was begun when these were the values.
    number: u64,
    values: Arc<Values>,
    /// How many bytes of journals it stands for.
    covers: u64,
}

/// What the threads of a log share of all this.
#[derive(Debug, Default)]
pub(crate) struct States {
    pub(crate) map: StateMap,
    pub(crate) active: Option<ActiveJournal>,
    due: Option<DueSnapshot>,
    /// Bytes of journals that the newest snapshot does not stand for.
    uncovered: u64,
    /// After a snapshot that failed, none is tried before there are so many of them.
    not_before: u64,
    snapshot_bytes: u64,
}

impl States {
    /// Of all files that count.
    pub(crate) fn bytes(&self) -> u64 {
        self.uncovered + self.snapshot_bytes
    }

    /// Whether the journals are so much larger than what is live in them that a snapshot pays.
    fn wants_snapshot(&self, slack: u64) -> bool {
        let much = (2 * self.map.bytes() + slack).max(self.not_before);
        self.due.is_none() && self.uncovered > much && self.map.is_settled()
    }

    /// Journal `number` begins: a snapshot of what is there now is due.
    fn rotate(&mut self, number: u64) {
        self.due = self.map.lend().map(|values| DueSnapshot {
            number,
            values,
            covers: self.uncovered,
        });
    }

    /// No snapshot is tried for a while.
    fn put_off(&mut self, slack: u64) {
        self.due = None;
        self.not_before = self.uncovered + slack.max(1);
    }

    fn snapshot_kept(&mut self, bytes: u64) {
        if let Some(due) = self.due.take() {
            self.uncovered -= due.covers;
        }
        self.not_before = 0;
        self.snapshot_bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_byte_is_noticed() {
        let header = Header {
            epoch: 1,
            number: 2,
            before: 3,
            magic: 4,
        };
        for (kind, other) in [
            (FileKind::Journal, FileKind::Snapshot),
            (FileKind::Snapshot, FileKind::Journal),
        ] {
            let bytes = header.encode(kind);
            assert_eq!(bytes.len(), HEADER_LEN);
            assert_eq!(Header::decode(&bytes, kind, "x").unwrap(), header);
            assert!(Header::decode(&bytes, other, "x").is_err());
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 1;
                assert!(Header::decode(&broken, kind, "x").is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn names_of_files_read_back_and_others_are_none() {
        for (name, expect) in [
            ("00000000000000000012.states", Some(12)),
            ("12.states", None),
            ("00000000000000000012.snapshot", None),
            ("00000000000000000012.states.tmp", None),
            ("x.states", None),
        ] {
            assert_eq!(FileKind::Journal.number(name), expect, "{name}");
        }
        assert_eq!(
            FileKind::Snapshot.number(&FileKind::Snapshot.name(7)),
            Some(7)
        );
    }
}
