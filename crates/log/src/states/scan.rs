//! Reading a file of states from front to back, a stretch at a time.

use std::io;

use crate::record::{BATCH_LEN, Invalid, kind, open_batch, open_number, open_record, open_state};
use crate::storage::StorageFile;

use super::HEADER_LEN;

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

/// Hands on every change of every valid batch before `len`, up to the first batch that is not valid.
pub(super) fn scan(
    file: &dyn StorageFile,
    len: u64,
    magic: u64,
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
        if let Err(invalid) = batch(&mut window, magic, &mut found, &mut change)? {
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
    Ok(records(body, head.records, found, change).map(|()| {
        found.batches += 1;
        found.end = start + u64::from(head.bytes);
    }))
}

/// A batch counts as a whole, so all of it is checked before any of it is handed on.
fn records(
    body: &[u8],
    count: u32,
    found: &mut Scan,
    change: &mut impl FnMut(&str, Option<&[u8]>),
) -> Result<(), Invalid> {
    let mut changes = Vec::new();
    let (mut at, mut seen, mut names) = (0, 0, None);
    while at < body.len() {
        let (kind, content, len) = open_record(&body[at..])?;
        match kind {
            kind::SEAL => names = Some(open_number(content)?),
            _ => changes.push(open_state(kind, content)?),
        }
        (at, seen) = (at + len, seen + 1);
    }
    if seen != count {
        return Err(Invalid(
            "a batch has another number of records than it says",
        ));
    }
    found.names = names;
    for (name, value) in changes {
        change(name, value);
    }
    Ok(())
}
