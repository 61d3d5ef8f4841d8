//! The small files beside the segments.
//!
//! ```text
//! meta  = "TIDINGSM" | version u32 | epoch u64 | magic u64 | key secret 16 bytes | crc32c u32
//! clean = "TIDINGSC" | next u64 | last base u64 | end u32 | journal u64 | journal end u32 | crc32c u32
//! keys  = "TIDINGSK" | (hash u128 | offset u64 | time u64)* | crc32c u32
//! ```
//! `clean` is there only while no process has the log open and the last one closed it: it names the next
//! offset and the ends of the newest segment and of the newest journal of states (0 if there is none; earlier
//! versions did not write the two), so that nothing has to be guessed. `keys` has the idempotency keys
//! of messages whose segments were removed within the keys' window.

use crate::error::OpenError;
use crate::segment::{FORMAT_VERSION, KeyMark, open_keys, put_keys};
use crate::storage::{Storage, read_all, replace};
use tidings_types::codec::Input;

const META: &str = "meta";
const META_MAGIC: [u8; 8] = *b"TIDINGSM";
const CLEAN: &str = "clean";
const CLEAN_MAGIC: [u8; 8] = *b"TIDINGSC";
const KEYS: &str = "keys";
const KEYS_MAGIC: [u8; 8] = *b"TIDINGSK";

/// The identity of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) epoch: u64,
    pub(crate) magic: u64,
    pub(crate) secret: [u8; 16],
}

/// How the last process left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clean {
    pub(crate) next: u64,
    pub(crate) last_base: u64,
    pub(crate) end: u32,
    /// The number of the newest journal of states, and its length.
    pub(crate) states: (u64, u32),
}

fn read(storage: &dyn Storage, name: &str) -> Result<Option<Vec<u8>>, OpenError> {
    let what = || format!("read {}", storage.describe(name));
    let file = match storage.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(what())(error)),
    };
    read_all(&*file).map(Some).map_err(OpenError::io(what()))
}

/// The body between magic and checksum.
fn checked(bytes: &[u8], magic: [u8; 8]) -> Option<Input<'_>> {
    let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let crc = u32::from_le_bytes(crc.try_into().ok()?);
    let body = content.strip_prefix(&magic)?;
    (crc32c::crc32c(content) == crc).then(|| Input::new(body))
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

impl Meta {
    /// Reads the identity; `None` if there is none yet.
    pub(crate) fn load(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        let Some(bytes) = read(storage, META)? else {
            return Ok(None);
        };
        let file = storage.describe(META);
        let version = bytes.get(8..12).and_then(|v| v.try_into().ok());
        let version = version.map_or(0, u32::from_le_bytes);
        if bytes.starts_with(&META_MAGIC) && version > FORMAT_VERSION {
            return Err(OpenError::UnknownVersion { file, version });
        }
        let meta = checked(&bytes, META_MAGIC).and_then(|mut input| {
            input.u32()?;
            Some(Self {
                epoch: input.u64()?,
                magic: input.u64()?,
                secret: input.take(16)?.try_into().ok()?,
            })
        });
        meta.map(Some).ok_or(OpenError::Damaged {
            file,
            offset: 0,
            what: "the file that identifies the log is not whole",
        })
    }

    /// Draws a new identity, from the operating system or for a simulation from a number, and stores it.
    pub(crate) fn create(storage: &dyn Storage, seed: Option<u64>) -> Result<Self, OpenError> {
        let mut random = [0u8; 32];
        match seed {
            Some(seed) => {
                for (at, part) in random.chunks_mut(8).enumerate() {
                    let number = seed
                        .wrapping_add(1)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * at as u64);
                    part.copy_from_slice(&number.to_le_bytes());
                }
            }
            None => getrandom::fill(&mut random).map_err(|error| {
                OpenError::io("draw a random epoch")(std::io::Error::other(error))
            })?,
        }
        let missing = || OpenError::io("draw a random epoch")(std::io::Error::other("too short"));
        let mut input = Input::new(&random);
        let meta = (|| {
            Some(Self {
                epoch: input.u64()?,
                magic: input.u64()?,
                secret: input.take(16)?.try_into().ok()?,
            })
        })();
        let meta = meta.ok_or_else(missing)?;
        let mut bytes = META_MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&random);
        replace(storage, META, &sealed(bytes))
            .map_err(OpenError::io(format!("write {}", storage.describe(META))))?;
        Ok(meta)
    }
}

impl Clean {
    /// Reads the mark. One that is not whole is none: the log then opens as after a crash.
    pub(crate) fn load(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        let bytes = read(storage, CLEAN)?;
        Ok(bytes.and_then(|bytes| {
            let mut input = checked(&bytes, CLEAN_MAGIC)?;
            Some(Self {
                next: input.u64()?,
                last_base: input.u64()?,
                end: input.u32()?,
                states: (|| Some((input.u64()?, input.u32()?)))().unwrap_or_default(),
            })
        }))
    }

    /// Removes the mark, before anything is written.
    pub(crate) fn clear(storage: &dyn Storage) -> std::io::Result<()> {
        match storage.remove(CLEAN) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            // An earlier removal may not have reached the disk.
            Ok(()) | Err(_) => storage.sync_names(),
        }
    }

    /// Leaves the mark, after everything is on the disk.
    pub(crate) fn store(self, storage: &dyn Storage) -> std::io::Result<()> {
        let mut bytes = CLEAN_MAGIC.to_vec();
        bytes.extend_from_slice(&self.next.to_le_bytes());
        bytes.extend_from_slice(&self.last_base.to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        bytes.extend_from_slice(&self.states.0.to_le_bytes());
        bytes.extend_from_slice(&self.states.1.to_le_bytes());
        replace(storage, CLEAN, &sealed(bytes))
    }
}

/// Reads the keys of messages that are gone, in offset order; none if there never were any.
pub(crate) fn load_keys(storage: &dyn Storage) -> Result<Vec<KeyMark>, OpenError> {
    let Some(bytes) = read(storage, KEYS)? else {
        return Ok(Vec::new());
    };
    let keys = checked(&bytes, KEYS_MAGIC).and_then(|input| open_keys(input.rest));
    keys.ok_or_else(|| OpenError::Damaged {
        file: storage.describe(KEYS),
        offset: 0,
        what: "the file with the idempotency keys is not whole",
    })
}

/// Replaces the keys of messages that are gone.
pub(crate) fn store_keys(storage: &dyn Storage, keys: &[KeyMark]) -> std::io::Result<()> {
    let mut bytes = KEYS_MAGIC.to_vec();
    put_keys(&mut bytes, keys);
    replace(storage, KEYS, &sealed(bytes))
}
