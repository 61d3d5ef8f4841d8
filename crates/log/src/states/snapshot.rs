//! Writes a snapshot beside the journals, and removes what it stands for. Only who keeps the log calls this.

use std::io;

use crate::record::{self, BATCH_LEN, BatchHead};
use crate::state::{Shared, count};
use crate::storage::{Storage, StorageFile, is_full};

use super::{DueSnapshot, FileKind, Header};

/// Values are put into batches of about this size.
const BATCH_BYTES: usize = 256 << 10;
/// So much is synced at once: a sync of all of it would hold up the log's own.
const SYNC_BYTES: u64 = 8 << 20;

/// Writes the snapshot that is due, if one is. If that fails, the journals stay, and nothing is lost.
pub(crate) fn keep_snapshot(shared: &Shared) {
    let due = shared.states().due.clone();
    let Some(due) = due else {
        return;
    };
    let storage = std::sync::Arc::clone(&shared.state().durable.storage);
    let number = due.number;
    let name = FileKind::Snapshot.name(number);
    let kept = store(shared, &*storage, &name, &due);
    // Only now can the values be changed in place again.
    drop(due);
    match kept {
        Ok(bytes) => shared.states().snapshot_kept(bytes),
        Err(error) => {
            let slack = shared.config.states_slack_bytes;
            shared.states().put_off(slack);
            let file = storage.describe(&name);
            if !is_full(&error) {
                tracing::warn!(file, %error, "cannot write a snapshot of the states; their journals stay");
            }
            return;
        }
    }
    if let Err(error) = remove_older(&*storage, number) {
        let file = storage.describe(&name);
        tracing::warn!(file, %error, "cannot remove the files that a snapshot of the states stands for");
    }
}

fn store(shared: &Shared, storage: &dyn Storage, name: &str, due: &DueSnapshot) -> io::Result<u64> {
    let temporary = format!("{name}.tmp");
    let written = storage
        .create(&temporary)
        .and_then(|file| write(shared, &*file, due));
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => match storage.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => return Err(error),
        },
    };
    storage.rename(&temporary, name)?;
    storage.sync_names()?;
    count(&shared.counters.bytes_written, bytes);
    Ok(bytes)
}

/// A file that is written from front to back.
struct Output<'a> {
    file: &'a dyn StorageFile,
    magic: u64,
    len: u64,
    unsynced: u64,
    batches: u64,
    buffer: Vec<u8>,
    records: u32,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn batch(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        let head = BatchHead {
            records: self.records,
            bytes: (self.buffer.len() - BATCH_LEN) as u32,
            // A snapshot counts as a whole, so no batch has to prove the one before it.
            synced_to: 0,
            first: self.batches,
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        record::finish_batch(&mut buffer, self.magic, head);
        self.put(&buffer)?;
        buffer.truncate(BATCH_LEN);
        (self.buffer, self.records) = (buffer, 0);
        self.batches += 1;
        Ok(())
    }
}

fn write(shared: &Shared, file: &dyn StorageFile, due: &DueSnapshot) -> io::Result<u64> {
    let header = Header {
        epoch: shared.epoch.0,
        number: due.number,
        before: 0,
        magic: shared.magic,
    };
    let mut out = Output {
        file,
        magic: shared.magic,
        len: 0,
        unsynced: 0,
        batches: 0,
        buffer: vec![0; BATCH_LEN],
        records: 0,
    };
    out.put(&header.encode(FileKind::Snapshot))?;
    for (name, value) in due.values.iter() {
        record::put_state(&mut out.buffer, name, Some(value));
        out.records += 1;
        if out.buffer.len() >= BATCH_BYTES {
            out.batch()?;
        }
    }
    out.batch()?;
    record::put_seal(&mut out.buffer, due.values.len() as u64);
    out.records = 1;
    out.batch()?;
    file.sync()?;
    count(&shared.counters.syncs, 1);
    Ok(out.len)
}

/// Removes what the snapshot of this number stands for.
fn remove_older(storage: &dyn Storage, number: u64) -> io::Result<()> {
    let mut names = storage.list()?;
    names.sort_unstable();
    for name in names {
        let kinds = [FileKind::Journal, FileKind::Snapshot];
        let of = kinds.into_iter().find_map(|kind| kind.number(&name));
        if of.is_some_and(|of| of < number) {
            storage.remove(&name)?;
        }
    }
    storage.sync_names()
}
