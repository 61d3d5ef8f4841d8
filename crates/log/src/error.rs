//! Why a log cannot be opened.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a log cannot be opened, or checked. Nothing was changed on the disk, but for a torn tail that may have been cut.
#[derive(Debug)]
pub enum OpenError {
    /// Another process holds the directory.
    Locked {
        /// The directory.
        directory: PathBuf,
        /// What the other process wrote of itself: its id, or nothing.
        pid: String,
    },
    /// A newer version wrote it.
    UnknownVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// Bytes that were written and synced are not what they were.
    Damaged {
        /// The file.
        file: String,
        /// The position in it.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A segment belongs to another log.
    Foreign {
        /// The file.
        file: String,
    },
    /// The operating system failed.
    Io {
        /// What was tried, as in `read segment ...`.
        what: String,
        /// Its error.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { directory, pid } => {
                write!(f, "the data directory {} is in use", directory.display())?;
                if !pid.is_empty() {
                    write!(f, " by process {pid}")?;
                }
                f.write_str(": stop that process, or choose another directory with `--data`")
            }
            Self::UnknownVersion { file, version } => write!(
                f,
                "{file} has format version {version}, which this version of tidings does not know: use the version that wrote it"
            ),
            Self::Damaged { file, offset, what } => write!(
                f,
                "{file} is damaged at byte {offset}: {what}. Restore the data directory from a copy, or look at the extent of it with `tidings check --data DIR`, or move this file out of the directory and accept that its messages are lost"
            ),
            Self::Foreign { file } => write!(
                f,
                "{file} belongs to another log: move it out of the data directory"
            ),
            Self::Io { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
