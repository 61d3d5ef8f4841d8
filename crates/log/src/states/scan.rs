//! Reading a file of states from front to back, a stretch at a time.

use std::io;

use crate::record::{BATCH_LEN, Invalid, kind, open_batch, open_number, open_record, open_state};
use crate::storage::StorageFile;

use super::HEADER_LEN;

/// What is wrong with a batch that is whole, and whose messages are lost.
pub(super) const UNMET: Invalid = Invalid("the messages that belong to it are not there");
/// So much is read at once, or one batch if that is larger.
const WINDOW_BYTES: usize = 1 << 20;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Behind the last valid batch.
    pub(super) end: u64,
    /// Valid batches.
    pub(super) batches: u64,
    /// How many names the end says there are, in a snapshot that has one.
    pub(super) names: Option<u64>,
    /// What is wrong at `end`, if anything but zeros is there.
    pub(super) broken: Option<Invalid>,
}

/// Names, each with its new value.
type Changes<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

/// A file, of which a part is in memory.
struct Window<'a> {
    file: &'a dyn StorageFile,
    /// Nothing behind this is read.
    len: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// These bytes of the file; `None` if it ends before.
    fn get(&mut self, position: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let end = position + len as u64;
        if end > self.len {
            return Ok(None);
        }
        if position < self.at || end > self.at + self.bytes.len() as u64 {
            let wanted = (len.max(WINDOW_BYTES) as u64).min(self.len - position);
            self.bytes.resize(wanted as usize, 0);
            self.file.read_at(&mut self.bytes, position)?;
            self.at = position;
        }
        let start = (position - self.at) as usize;
        Ok(self.bytes.get(start..start + len))
    }

    fn is_zero_from(&mut self, mut position: u64) -> io::Result<bool> {
        while position < self.len {
            let len = (self.len - position).min(WINDOW_BYTES as u64);
            let part = self.get(position, len as usize)?;
            if part.is_none_or(|part| part.iter().any(|byte| *byte != 0)) {
                return Ok(false);
            }
            position += len;
        }
        Ok(true)
    }
}

/// Hands on every change of every valid batch before `len`, up to the first batch that is not valid, or that belongs
/// to a message behind `reached`.
pub(super) fn scan(
    file: &dyn StorageFile,
    len: u64,
    magic: u64,
    reached: u64,
    mut change: impl FnMut(&str, Option<&[u8]>),
) -> io::Result<Scan> {
    let mut window = Window {
        file,
        len,
        at: 0,
        bytes: Vec::new(),
    };
    let mut found = Scan {
        end: HEADER_LEN as u64,
        ..Scan::default()
    };
    while found.end < len && found.names.is_none() {
        if let Err(invalid) = batch(&mut window, magic, reached, &mut found, &mut change)? {
            if !window.is_zero_from(found.end)? {
                found.broken = Some(invalid);
            }
            break;
        }
    }
    Ok(found)
}

fn batch(
    window: &mut Window<'_>,
    magic: u64,
    reached: u64,
    found: &mut Scan,
    change: &mut impl FnMut(&str, Option<&[u8]>),
) -> io::Result<Result<(), Invalid>> {
    let Some(head) = window.get(found.end, BATCH_LEN)? else {
        return Ok(Err(Invalid("a batch's head is cut off")));
    };
    let head = match open_batch(head, magic) {
        Ok(head) if head.first == found.batches => head,
        Ok(_) => return Ok(Err(Invalid("a batch is not the one that follows"))),
        Err(invalid) => return Ok(Err(invalid)),
    };
    let start = found.end + BATCH_LEN as u64;
    let Some(body) = window.get(start, head.bytes as usize)? else {
        return Ok(Err(Invalid("a batch is cut off")));
    };
    let end = start + u64::from(head.bytes);
    Ok(
        records(body, head.records, reached).map(|(changes, names)| {
            for (name, value) in changes {
                change(name, value);
            }
            found.names = names;
            found.batches += 1;
            found.end = end;
        }),
    )
}

/// The changes in a batch, and the number of names if it is the end of a snapshot. A batch counts as a whole, so all
/// of it is checked before any of it is handed on.
fn records(body: &[u8], count: u32, reached: u64) -> Result<(Changes<'_>, Option<u64>), Invalid> {
    let mut changes = Vec::new();
    let (mut at, mut seen, mut names, mut with) = (0, 0, None, 0);
    while at < body.len() {
        let (kind, content, len) = open_record(&body[at..])?;
        match kind {
            kind::SEAL => names = Some(open_number(content)?),
            kind::WITH => with = open_number(content)?,
            _ => changes.push(open_state(kind, content)?),
        }
        (at, seen) = (at + len, seen + 1);
    }
    if seen != count {
        return Err(Invalid(
            "a batch has another number of records than it says",
        ));
    }
    if with > reached {
        return Err(UNMET);
    }
    Ok((changes, names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, BatchHead};
    use crate::storage::{MemoryStorage, Storage as _};

    #[test]
    fn a_batch_of_a_message_that_is_not_there_ends_the_scan_before_any_of_it_counts() {
        let mut content = vec![0; HEADER_LEN];
        for (first, with) in [None, Some(5), Some(9), None].into_iter().enumerate() {
            let mut batch = vec![0; BATCH_LEN];
            record::put_state(&mut batch, &format!("{first}"), Some(b"x"));
            // Wherever in the batch it is.
            if let Some(with) = with {
                record::put_with(&mut batch, with);
            }
            record::put_state(&mut batch, &format!("{first}+"), None);
            let head = BatchHead {
                records: 2 + u32::from(with.is_some()),
                bytes: (batch.len() - BATCH_LEN) as u32,
                synced_to: 0,
                first: first as u64,
            };
            record::finish_batch(&mut batch, 7, head);
            content.extend(batch);
        }
        let file = MemoryStorage::default().create("x").unwrap();
        file.write_at(&content, 0).unwrap();
        for (reached, batches) in [(0, 1), (4, 1), (5, 2), (8, 2), (9, 4), (u64::MAX, 4)] {
            let mut names = Vec::new();
            let len = content.len() as u64;
            let found = scan(&*file, len, 7, reached, |name, _| {
                names.push(name.to_owned());
            });
            let found = found.unwrap();
            assert_eq!((found.batches, names.len() as u64), (batches, 2 * batches));
            let broken = (batches < 4).then_some(UNMET);
            assert_eq!((found.broken, found.end == len), (broken, batches == 4));
        }
    }
}
