//! Checks a data directory without changing it: every checksum of every segment and of what is kept by name.

use std::path::Path;
use std::sync::Arc;

use crate::config::LogConfig;
use crate::core::storage_of;
use crate::error::OpenError;
use crate::meta::{Clean, Meta, load_keys};
use crate::segment::{Header, Visit, proof_of_damage, scan};
use crate::states;
use crate::storage::{Storage, has_suffix, read_all};

/// A place where bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The position in it.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segment files.
    pub segments: u64,
    /// Messages that are whole, those included that retention has removed but not yet wiped.
    pub messages: u64,
    /// Bytes of segments and of files of states.
    pub bytes: u64,
    /// What is not whole. Behind the first damage of a file, nothing of that file is counted.
    pub damaged: Vec<Damage>,
    /// The newest segment, or the newest journal of states, ends in a write that a crash tore, or that belongs to
    /// one: opening the log cuts it off.
    pub torn: Vec<Damage>,
}

/// Checks the log in a directory. It must not be open.
pub fn verify(directory: &Path) -> Result<Report, OpenError> {
    // Opening would create what is not there.
    std::fs::metadata(directory).map_err(OpenError::io(format!("open {}", directory.display())))?;
    let storage = storage_of(&LogConfig::in_directory(directory))?;
    verify_on(&storage)
}

fn verify_on(storage: &Arc<dyn Storage>) -> Result<Report, OpenError> {
    let mut report = Report::default();
    let meta = Meta::load(&**storage)?;
    let mut names = storage
        .list()
        .map_err(OpenError::io("list the data directory"))?;
    let all = names.clone();
    let mut reached = 0;
    names.retain(|name| has_suffix(name, "seg"));
    names.sort_unstable();
    for (at, name) in names.iter().enumerate() {
        let file = storage.describe(name);
        let read = storage.open(name).and_then(|file| read_all(&*file));
        let bytes = read.map_err(OpenError::io(format!("read {file}")))?;
        report.segments += 1;
        report.bytes += bytes.len() as u64;
        let newest = at + 1 == names.len();
        let damage = |offset: u64, what| Damage {
            file: file.clone(),
            offset,
            what,
        };
        let header = match Header::decode(&bytes, &file) {
            Ok(header) => header,
            Err(OpenError::Damaged { offset, what, .. }) => {
                report.damaged.push(damage(offset, what));
                continue;
            }
            Err(error) => return Err(error),
        };
        if meta.is_none_or(|meta| meta.epoch != header.epoch) {
            return Err(OpenError::Foreign { file });
        }
        let found = scan(&bytes, &header, |visit| {
            report.messages += u64::from(matches!(visit, Visit::Message { .. }));
        });
        let end = u64::from(found.end);
        reached = reached
            .max(found.last)
            .max(header.base - 1)
            .max(header.covers_to);
        match found.broken {
            Some(invalid)
                if newest && proof_of_damage(&bytes, header.magic, found.end).is_none() =>
            {
                report.torn.push(damage(end, invalid.0));
            }
            Some(invalid) => report.damaged.push(damage(end, invalid.0)),
            None if !newest && found.sealed.is_none() => {
                report.damaged.push(damage(end, "it ends before its seal"));
            }
            None => {}
        }
    }
    // Of damaged segments it is not known how far they reached.
    if !report.damaged.is_empty() {
        reached = u64::MAX;
    }
    verify_states(&**storage, &all, meta, reached, &mut report)?;
    match load_keys(&**storage) {
        Ok(_) => {}
        Err(OpenError::Damaged { file, offset, what }) => {
            report.damaged.push(Damage { file, offset, what });
        }
        Err(error) => return Err(error),
    }
    Ok(report)
}

fn verify_states(
    storage: &dyn Storage,
    names: &[String],
    meta: Option<Meta>,
    reached: u64,
    report: &mut Report,
) -> Result<(), OpenError> {
    let Some(meta) = meta else {
        // The segments, if there are any, are refused for this.
        return Ok(());
    };
    let loaded = states::load(storage, names, meta, Clean::load(storage)?, reached)?;
    report.bytes += loaded.bytes;
    report.damaged.extend(loaded.damaged);
    report.torn.extend(loaded.torn);
    Ok(())
}
