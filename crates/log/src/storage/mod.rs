//! Where the log's files are: a flat directory of named files behind a trait, so that the same log runs on a
//! disk, in memory, and on a simulated disk that loses what was not synced.
//!
//! Invariant of every implementation: what was written before a successful `sync` survives a crash, and a
//! name survives once `sync_names` returned after its creation, renaming or removal. Nothing else does.

mod directory;
mod memory;
mod sim;

pub use directory::{DirectoryStorage, LockError};
pub use memory::MemoryStorage;
pub use sim::{Faults, SimStorage};

use std::fmt;
use std::io;
use std::sync::Arc;

/// One open file. Stays readable after its name was removed.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Fills the buffer from this position; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
    /// Writes all of the buffer at this position.
    fn write_at(&self, buffer: &[u8], position: u64) -> io::Result<()>;
    /// Makes what was written survive a crash (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts, or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reserves room up to this length, which reads as zeros. Does nothing where that is not supported.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Writes zeros over room that was reserved and never written, so that a file system that keeps apart what
    /// is reserved and what is written has nothing to note when that room is used and synced. Both ends are
    /// multiples of [`BLOCK_BYTES`]. Does nothing where that is no gain.
    fn write_zeros(&self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }
}

/// What file systems write as one: a part of it they have to read first.
pub const BLOCK_BYTES: u64 = 4096;

/// A flat directory of files.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Creates an empty file, in place of one of the same name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Renames a file, in place of one of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renamings and removals survive a crash.
    fn sync_names(&self) -> io::Result<()>;
    /// Whether nothing of it outlives the process, so that writing what is in memory anyway is for nothing.
    fn is_volatile(&self) -> bool {
        false
    }
    /// A file's name as an operator knows it, for messages.
    fn describe(&self, name: &str) -> String;
}

/// Whether an error says that the storage, a size limit, or the number of open files is exhausted: nothing is
/// broken, and a later try may succeed.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    let files = matches!(
        errno,
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    );
    files
        || matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
}

/// Whether a file's name ends in a dot and this.
pub(crate) fn has_suffix(name: &str, suffix: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end == suffix)
}

/// All bytes of a file.
pub(crate) fn read_all(file: &dyn StorageFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a small file so that a crash leaves the old content or the new.
pub(crate) fn replace(storage: &dyn Storage, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let file = storage.create(&temporary)?;
    file.write_at(content, 0)?;
    file.sync()?;
    storage.rename(&temporary, name)?;
    storage.sync_names()
}
