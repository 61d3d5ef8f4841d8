//! Real files in a directory, held with a lock against a second process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::{Storage, StorageFile, is_full};

const LOCK: &str = "lock";
/// The magic numbers of ext4 and XFS (statfs(2)). A file system that never overwrites gains nothing from zeros.
const IN_PLACE: [u64; 2] = [0xef53, 0x5846_5342];

/// Aligned as writes past the page cache must be (open(2), `O_DIRECT`).
#[repr(align(4096))]
struct Zeros([u8; 64 << 10]);
static ZEROS: Zeros = Zeros([0; 64 << 10]);

/// Why a directory could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it.
    Held {
        /// What that process wrote into the lock file: its id, if it got that far.
        pid: String,
    },
    /// It cannot be created or opened.
    Io(io::Error),
}

/// Files in a directory. The lock is held until this is dropped.
#[derive(Debug)]
pub struct DirectoryStorage {
    path: PathBuf,
    directory: File,
    /// Whether its file system writes in place, and pays for the first write to room that was reserved.
    in_place: bool,
    _lock: File,
}

impl DirectoryStorage {
    /// Creates the directory if need be, and locks it.
    pub fn open(path: &Path) -> Result<Self, LockError> {
        if !path.is_dir() {
            std::fs::create_dir_all(path).map_err(LockError::Io)?;
            sync_parent(path).map_err(LockError::Io)?;
        }
        let directory = File::open(path).map_err(LockError::Io)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(LockError::Io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The holder's id only makes the message better; the lock itself decides.
                if lock.read_to_string(&mut pid).is_err() {
                    pid.clear();
                }
                let pid = pid.trim().to_owned();
                return Err(LockError::Held { pid });
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        let noted = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        match noted {
            Ok(()) => {}
            // A full disk can be read.
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "cannot write the process id into the lock file");
            }
            Err(error) => return Err(LockError::Io(error)),
        }
        let in_place = rustix::fs::fstatfs(&directory)
            .is_ok_and(|found| IN_PLACE.contains(&(found.f_type as u64)));
        Ok(Self {
            path: path.to_owned(),
            directory,
            in_place,
            _lock: lock,
        })
    }
}

/// Makes a new directory's name survive a crash.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    File::open(parent)?.sync_all()
}

impl Storage for DirectoryStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(DiskFile {
            file,
            in_place: self.in_place,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(DiskFile {
            file,
            in_place: self.in_place,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    in_place: bool,
}

/// Zeros the file from one place to another, at once if it can be.
fn write_all_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let mut left = to - from;
        let mut slices = Vec::new();
        while left > 0 {
            let part = left.min(ZEROS.0.len() as u64);
            slices.push(IoSlice::new(&ZEROS.0[..part as usize]));
            left -= part;
        }
        match rustix::io::pwritev(file, &slices, from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => from += written as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

impl StorageFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, position)
    }

    fn write_at(&self, buffer: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(buffer, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let none = FallocateFlags::empty();
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, none, 0, len)) {
            // The file grows as it is written instead.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        if !self.in_place {
            return Ok(());
        }
        // Past the page cache: through it, zeros cost more than they save. That is a property of an open file, and
        // others read by this one, so the same file is opened once more, by whatever name it has now.
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        write_all_zeros(&file, from, to)
    }
}
