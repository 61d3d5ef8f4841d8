//! Opens the files of states: what is whole, what a crash tore, and what is damaged.
//!
//! What can be wrong without anything being lost: the newest journal's last batches are torn, or it was created
//! and not begun; it ends in batches whose messages a crash took; files are there that a newer snapshot stands for.
//! All else is damage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::StateChange;

use crate::appender::{OpenFile, Room};
use crate::error::OpenError;
use crate::meta::{Clean, Meta};
use crate::segment::proof_of_damage;
use crate::storage::{Storage, StorageFile, read_all};
use crate::verify::Damage;

use super::journal::{Resumed, active};
use super::scan::{UNMET, scan};
use super::{FileKind, HEADER_LEN, Header, StateMap, States};

/// What the files hold. Nothing was changed.
#[derive(Default)]
pub(crate) struct Loaded {
    map: StateMap,
    /// What is not whole; behind the first of it nothing was read.
    pub(crate) damaged: Option<Damage>,
    /// The end of the newest journal that a crash tore, or whose messages it took.
    pub(crate) torn: Option<Damage>,
    /// Of all files that count.
    pub(crate) bytes: u64,
    newest: Option<Newest>,
    leftovers: Vec<String>,
    snapshot_bytes: u64,
    uncovered: u64,
}

/// The journal to go on with.
struct Newest {
    name: String,
    number: u64,
    file: Arc<dyn StorageFile>,
    end: u32,
    len: u64,
    batches: u64,
}

/// The states of a log that is opened.
#[derive(Default)]
pub(crate) struct Recovered {
    pub(crate) states: States,
    pub(crate) resumed: Option<Resumed>,
}

struct Found {
    name: String,
    header: Header,
    file: Arc<dyn StorageFile>,
    len: u64,
}

/// Why loading stops.
enum Stop {
    Damaged(Damage),
    Error(OpenError),
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { file, offset, what } => {
                Self::Damaged(Damage { file, offset, what })
            }
            error => Self::Error(error),
        }
    }
}

/// Whether any of these is a file of states.
pub(crate) fn has_files(names: &[String]) -> bool {
    !numbered(names, FileKind::Journal).is_empty()
        || !numbered(names, FileKind::Snapshot).is_empty()
}

fn numbered(names: &[String], kind: FileKind) -> BTreeMap<u64, String> {
    let numbers = names.iter();
    numbers
        .filter_map(|name| Some((kind.number(name)?, name.clone())))
        .collect()
}

/// Reads all values, of a log whose segments reach this offset.
pub(crate) fn load(
    storage: &dyn Storage,
    names: &[String],
    meta: Meta,
    clean: Option<Clean>,
    reached: u64,
) -> Result<Loaded, OpenError> {
    let mut loading = Loading {
        storage,
        meta,
        clean: clean.map_or((0, 0), |clean| clean.states),
        reached,
        loaded: Loaded::default(),
    };
    match loading.all(names) {
        Ok(()) => {}
        Err(Stop::Damaged(damage)) => loading.loaded.damaged = Some(damage),
        Err(Stop::Error(error)) => return Err(error),
    }
    Ok(loading.loaded)
}

/// Reads all values, cuts off what a crash tore or made void, removes what is left over, and refuses damage. What
/// was cut is gone for good when this returns, so the offsets that it waited for can be handed out again.
pub(crate) fn recover(
    storage: &dyn Storage,
    names: &[String],
    meta: Meta,
    clean: Option<Clean>,
    reached: u64,
) -> Result<Recovered, OpenError> {
    let loaded = load(storage, names, meta, clean, reached)?;
    if let Some(Damage { file, offset, what }) = loaded.damaged {
        return Err(OpenError::Damaged { file, offset, what });
    }
    for name in &loaded.leftovers {
        let what = format!("remove {}", storage.describe(name));
        storage.remove(name).map_err(OpenError::io(what))?;
    }
    let mut states = States {
        map: loaded.map,
        uncovered: loaded.uncovered,
        snapshot_bytes: loaded.snapshot_bytes,
        ..States::default()
    };
    let Some(newest) = loaded.newest else {
        return Ok(Recovered {
            states,
            resumed: None,
        });
    };
    let name = storage.describe(&newest.name);
    if let Some(Damage { file, offset, what }) = loaded.torn {
        let bytes = newest.len - offset;
        tracing::warn!(
            file,
            offset,
            bytes,
            what,
            "the last write of states was cut short by a crash and is cut off"
        );
        let cut = newest.file.set_len(offset);
        cut.map_err(OpenError::io(format!("cut the torn end off {file}")))?;
    }
    // What was found shows as kept, but it may be in the page cache only, and so may the cut.
    let synced = newest.file.sync();
    synced.map_err(OpenError::io(format!("sync {name}")))?;
    let open = OpenFile {
        name,
        base: newest.number,
        room: Room::taken(newest.file.len().unwrap_or(0)),
        file: newest.file,
        len: newest.end,
        synced: Arc::new(AtomicU32::new(newest.end)),
        sealed: false,
    };
    states.active = Some(active(&open));
    let resumed = Some(Resumed {
        file: open,
        batches: newest.batches,
    });
    Ok(Recovered { states, resumed })
}

struct Loading<'a> {
    storage: &'a dyn Storage,
    meta: Meta,
    /// The journal at a clean end, and its length.
    clean: (u64, u32),
    /// The last offset in the segments.
    reached: u64,
    loaded: Loaded,
}

impl Loading<'_> {
    fn damage(&self, name: &str, offset: u64, what: &'static str) -> Stop {
        Stop::Damaged(Damage {
            file: self.storage.describe(name),
            offset,
            what,
        })
    }

    fn all(&mut self, names: &[String]) -> Result<(), Stop> {
        let snapshots = numbered(names, FileKind::Snapshot);
        let mut journals = numbered(names, FileKind::Journal);
        let snapshot = snapshots.last_key_value().map(|(number, _)| *number);
        let first = snapshot.unwrap_or(1);
        let older = |of: &BTreeMap<u64, String>| {
            let older = of.range(..first).map(|(_, name)| name.clone());
            older.collect::<Vec<_>>()
        };
        self.loaded.leftovers = [older(&snapshots), older(&journals)].concat();
        if let Some((number, name)) = snapshots.last_key_value() {
            self.snapshot(name, *number)?;
        }
        let mut journals = journals.split_off(&first);
        let mut found = Vec::new();
        if let Some((number, name)) = journals.pop_last() {
            match self.newest_header(&name, number)? {
                Some(newest) => found.push(newest),
                None => self.loaded.leftovers.push(name),
            }
        }
        for (number, name) in journals.iter().rev() {
            let journal = self.open(name, FileKind::Journal, *number);
            found.push(journal?);
        }
        found.reverse();
        self.check_numbers(first, snapshot.is_some(), &found)?;
        let ends: Vec<u64> = found
            .iter()
            .skip(1)
            .map(|next| next.header.before)
            .collect();
        for (journal, end) in found.iter().zip(ends) {
            self.older(journal, end)?;
        }
        match found.pop() {
            Some(newest) => self.newest(newest),
            None => Ok(()),
        }
    }

    /// Every journal from the first that counts up to the newest must be there.
    fn check_numbers(&self, first: u64, required: bool, found: &[Found]) -> Result<(), Stop> {
        let last = found.last().map_or(0, |newest| newest.header.number);
        let last = last.max(self.clean.0).max(if required { first } else { 0 });
        let mut numbers = found.iter().map(|journal| journal.header.number);
        for wanted in first..=last {
            if numbers.next() != Some(wanted) {
                let name = FileKind::Journal.name(wanted);
                return Err(self.damage(&name, 0, "this journal of states is missing"));
            }
        }
        Ok(())
    }

    fn open(&self, name: &str, kind: FileKind, number: u64) -> Result<Found, Stop> {
        let described = self.storage.describe(name);
        let failed = |what| OpenError::io(format!("{what} {described}"));
        let file = self.storage.open(name).map_err(failed("open"))?;
        let len = file.len().map_err(failed("open"))?;
        let mut bytes = vec![0; HEADER_LEN.min(len as usize)];
        file.read_at(&mut bytes, 0).map_err(failed("read"))?;
        let header = Header::decode(&bytes, kind, &described)?;
        if header.epoch != self.meta.epoch || header.number != number {
            return Err(OpenError::Foreign { file: described }.into());
        }
        Ok(Found {
            name: name.to_owned(),
            header,
            file,
            len,
        })
    }

    /// The newest journal; `None` if it was created but never begun.
    fn newest_header(&self, name: &str, number: u64) -> Result<Option<Found>, Stop> {
        let damage = match self.open(name, FileKind::Journal, number) {
            Err(Stop::Damaged(damage)) => damage,
            opened => return opened.map(Some),
        };
        let what = || format!("read {}", self.storage.describe(name));
        let read = self.storage.open(name).and_then(|file| read_all(&*file));
        let bytes = read.map_err(OpenError::io(what()))?;
        let rest = bytes.get(HEADER_LEN..).unwrap_or_default();
        let begun = rest.iter().any(|byte| *byte != 0);
        if begun || self.clean.0 == number {
            return Err(Stop::Damaged(damage));
        }
        Ok(None)
    }

    fn scan(&mut self, found: &Found, len: u64, reached: u64) -> Result<super::scan::Scan, Stop> {
        let map = &mut self.loaded.map;
        let scan = scan(
            &*found.file,
            len,
            self.meta.magic,
            reached,
            |name, value| {
                // Copies, as a part would keep all of what was read in memory.
                map.apply(StateChange {
                    name: ByteString::from(name),
                    value: value.map(Bytes::copy_from_slice),
                });
            },
        );
        let what = format!("read {}", self.storage.describe(&found.name));
        let scan = scan.map_err(OpenError::io(what))?;
        self.loaded.bytes += found.len;
        Ok(scan)
    }

    fn snapshot(&mut self, name: &str, number: u64) -> Result<(), Stop> {
        let found = self.open(name, FileKind::Snapshot, number)?;
        let scan = self.scan(&found, found.len, u64::MAX)?;
        if let Some(invalid) = scan.broken {
            return Err(self.damage(name, scan.end, invalid.0));
        }
        if scan.names != Some(self.loaded.map.names()) || scan.end != found.len {
            return Err(self.damage(name, scan.end, "it does not end as a snapshot does"));
        }
        self.loaded.snapshot_bytes = found.len;
        Ok(())
    }

    /// A journal that another one follows, which says how long this one is. All of it counts: the messages that
    /// belong to it were written before the other was begun.
    fn older(&mut self, found: &Found, end: u64) -> Result<(), Stop> {
        let scan = self.scan(found, end.min(found.len), u64::MAX)?;
        if let Some(invalid) = scan.broken {
            return Err(self.damage(&found.name, scan.end, invalid.0));
        }
        if scan.end != end {
            let what = "it ends before the place where the next journal begins";
            return Err(self.damage(&found.name, scan.end, what));
        }
        self.loaded.uncovered += end;
        Ok(())
    }

    fn newest(&mut self, found: Found) -> Result<(), Stop> {
        let scan = self.scan(&found, found.len, self.reached)?;
        let (number, clean_end) = self.clean;
        if number == found.header.number && scan.end < u64::from(clean_end) {
            let what = scan.broken.map_or(
                "it ends before the place where the log was closed",
                |invalid| invalid.0,
            );
            return Err(self.damage(&found.name, scan.end, what));
        }
        let end = u32::try_from(scan.end)
            .map_err(|_| self.damage(&found.name, 0, "it is larger than a journal can be"))?;
        if let Some(invalid) = scan.broken {
            let damage = self.damage(&found.name, scan.end, invalid.0);
            // With `durability = os` a crash may take messages, and leave batches behind the one that is void.
            if invalid != UNMET {
                let what = format!("read {}", self.storage.describe(&found.name));
                let bytes = read_all(&*found.file).map_err(OpenError::io(what))?;
                if proof_of_damage(&bytes, self.meta.magic, end).is_some() {
                    return Err(damage);
                }
            }
            if let Stop::Damaged(torn) = damage {
                self.loaded.torn = Some(torn);
            }
        }
        self.loaded.uncovered += scan.end;
        self.loaded.newest = Some(Newest {
            name: found.name,
            number: found.header.number,
            file: found.file,
            end,
            len: found.len,
            batches: scan.batches,
        });
        Ok(())
    }
}
