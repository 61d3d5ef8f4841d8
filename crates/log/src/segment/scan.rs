//! Reading a segment file from front to back: at recovery, and to check it.

use crate::record::{
    BATCH_LEN, BatchHead, FRAME_LEN, Invalid, MessageHead, is_message, kind, open_batch, open_head,
    open_number, open_record,
};

use super::{HEADER_LEN, Header};

/// What a scan comes across, in order.
pub(crate) enum Visit<'a> {
    Batch {
        position: u32,
        head: BatchHead,
    },
    Message {
        position: u32,
        len: u32,
        head: MessageHead<'a>,
    },
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Behind the last valid batch.
    pub(crate) end: u32,
    /// The last offset that the seal names, if there is one.
    pub(crate) sealed: Option<u64>,
    /// The last message's offset; 0 if there is none.
    pub(crate) last: u64,
    pub(crate) last_time: u64,
    /// The newest RESERVE.
    pub(crate) ceiling: u64,
    /// What is wrong at `end`, if anything but zeros is there.
    pub(crate) broken: Option<Invalid>,
}

/// Visits every message of every valid batch, up to the first that is not valid.
pub(crate) fn scan(bytes: &[u8], header: &Header, mut visit: impl FnMut(Visit<'_>)) -> Scan {
    let mut found = Scan {
        end: HEADER_LEN,
        ceiling: header.ceiling,
        ..Scan::default()
    };
    while (found.end as usize) < bytes.len() && found.sealed.is_none() {
        if let Err(invalid) = scan_batch(bytes, header.magic, &mut found, &mut visit) {
            let rest = &bytes[found.end as usize..];
            if rest.iter().any(|byte| *byte != 0) {
                found.broken = Some(invalid);
            }
            break;
        }
    }
    found
}

fn scan_batch(
    bytes: &[u8],
    magic: u64,
    found: &mut Scan,
    visit: &mut impl FnMut(Visit<'_>),
) -> Result<(), Invalid> {
    let start = found.end as usize;
    let head = open_batch(&bytes[start..], magic)?;
    let body_start = start + BATCH_LEN;
    let body = bytes
        .get(body_start..body_start + head.bytes as usize)
        .ok_or(Invalid("a batch is cut off"))?;
    // A batch counts as a whole, so all of it is checked before any of it is used.
    let mut records = Vec::with_capacity((head.records as usize).min(body.len() / FRAME_LEN));
    let mut at = 0;
    while at < body.len() {
        let (kind, content, len) = open_record(&body[at..])?;
        let message = match kind {
            kind if is_message(kind) => Some(open_head(kind, content)?),
            _ => None,
        };
        records.push((kind, content, at, len, message));
        at += len;
    }
    if records.len() != head.records as usize {
        return Err(Invalid(
            "a batch has another number of records than it says",
        ));
    }
    visit(Visit::Batch {
        position: start as u32,
        head,
    });
    for (kind, content, at, len, message) in records {
        match (kind, message) {
            (_, Some(head)) => {
                found.last = head.offset;
                found.last_time = head.time;
                let (position, len) = ((body_start + at) as u32, len as u32);
                visit(Visit::Message {
                    position,
                    len,
                    head,
                });
            }
            (kind::RESERVE, None) => found.ceiling = found.ceiling.max(open_number(content)?),
            (kind::SEAL, None) => found.sealed = Some(open_number(content)?),
            _ => return Err(Invalid("a record has an unknown type")),
        }
    }
    found.end = (body_start + body.len()) as u32;
    Ok(())
}

/// Whether a batch behind an invalid one proves that the invalid one was whole on the disk once, so that it is
/// damaged, not torn: the position of that proof.
pub(crate) fn proof_of_damage(bytes: &[u8], magic: u64, invalid_at: u32) -> Option<u32> {
    let needle = magic.to_le_bytes();
    let from = invalid_at as usize + 1;
    let rest = bytes.get(from..)?;
    memchr::memmem::find_iter(rest, &needle).find_map(|found| {
        // The magic is the first thing in the body of a BATCH record.
        let start = (from + found).checked_sub(FRAME_LEN + 1)?;
        let head = open_batch(&bytes[start..], magic).ok()?;
        (start > invalid_at as usize && head.synced_to > invalid_at).then_some(start as u32)
    })
}
