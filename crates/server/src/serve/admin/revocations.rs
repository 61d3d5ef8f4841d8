//! Who is not let in any more, whatever is shown: the list, what it is asked, and the file that keeps it.
//!
//! The list is small and is written as a whole, beside the log, in the place of the one before. What is added counts
//! at once and is kept a moment later; what is taken away is kept first: a crash in between leaves it revoked.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use tidings_auth::files;
use tidings_types::{Principal, Refusal, RefusalCode, Timestamp};

/// The name of the file in the directory of the log.
const FILE: &str = "revocations.json";
/// The version of the file that this writes and reads.
const VERSION: u32 = 1;

/// One entry. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Its number.
    pub id: u64,
    /// Everything of this principal, or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// this very credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Only of this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Tokens of the subject that were issued then or later are good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<u64>,
    /// From then on it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// What the operator says of it; peers are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was made.
    pub created: u64,
}

impl Revocation {
    fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now.0)
    }

    /// Whether it is about a principal that has its subject, or its credential.
    fn fits(&self, principal: &Principal, now: Timestamp) -> bool {
        let is_new = match (self.issued_before, principal.voucher.issued) {
            (Some(before), Some(issued)) => issued.0 >= before,
            _ => false,
        };
        let source = self.source.as_deref();
        source.is_none_or(|source| source == principal.source) && !is_new && !self.is_over(now)
    }

    /// Whether it is about the same as another one.
    fn is_like(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.credential == other.credential
            && self.source == other.source
    }
}

/// The file, and the list in it.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    next: u64,
    revocations: Vec<Revocation>,
}

/// Why the file of an earlier run cannot be used.
#[derive(Debug)]
pub enum UnreadableError {
    /// It cannot be read.
    Io(PathBuf, io::Error),
    /// It is not what was written.
    Content(PathBuf, String),
}

impl fmt::Display for UnreadableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(
                f,
                "cannot read what was revoked: {}: {error}",
                path.display()
            ),
            Self::Content(path, error) => write!(
                f,
                "cannot take what was revoked from {}: {error}; repair it, or remove it and revoke again",
                path.display()
            ),
        }
    }
}

/// The list, to look in.
#[derive(Debug, Default)]
struct List {
    next: u64,
    entries: BTreeMap<u64, Revocation>,
    subjects: HashMap<String, Vec<u64>>,
    credentials: HashMap<String, Vec<u64>>,
}

impl List {
    fn index(&mut self, of: &Revocation) -> &mut Vec<u64> {
        match (&of.subject, &of.credential) {
            (Some(subject), _) => self.subjects.entry(subject.clone()).or_default(),
            (None, credential) => {
                let credential = credential.clone().unwrap_or_default();
                self.credentials.entry(credential).or_default()
            }
        }
    }

    fn insert(&mut self, revocation: Revocation) {
        let id = revocation.id;
        self.next = self.next.max(id + 1);
        let index = self.index(&revocation);
        if !index.contains(&id) {
            index.push(id);
        }
        self.entries.insert(id, revocation);
    }

    fn remove(&mut self, id: u64) {
        let Some(revocation) = self.entries.remove(&id) else {
            return;
        };
        let index = self.index(&revocation);
        index.retain(|it| *it != id);
        if index.is_empty() {
            if let Some(subject) = &revocation.subject {
                self.subjects.remove(subject);
            }
            if let Some(credential) = &revocation.credential {
                self.credentials.remove(credential);
            }
        }
    }

    fn forget_what_is_over(&mut self, now: Timestamp) {
        let over = self.entries.values().filter(|it| it.is_over(now));
        let over: Vec<u64> = over.map(|it| it.id).collect();
        for id in over {
            self.remove(id);
        }
    }

    fn like(&self, new: &Revocation) -> Option<&Revocation> {
        let index = match (&new.subject, &new.credential) {
            (Some(subject), _) => self.subjects.get(subject),
            (None, Some(credential)) => self.credentials.get(credential),
            (None, None) => None,
        };
        let mut entries = index.into_iter().flatten();
        entries.find_map(|id| self.entries.get(id).filter(|it| it.is_like(new)))
    }

    fn is_revoked(&self, principal: &Principal, now: Timestamp) -> bool {
        let credential = principal.credential.as_deref();
        let of_credential = credential.and_then(|credential| self.credentials.get(credential));
        let of_subject = self.subjects.get(&principal.name);
        let mut entries = of_subject.into_iter().chain(of_credential).flatten();
        entries.any(|id| {
            let entry = self.entries.get(id);
            entry.is_some_and(|it| it.fits(principal, now))
        })
    }
}

/// What is revoked.
pub struct Revocations {
    list: RwLock<List>,
    max: usize,
    /// Where it is kept; `None` keeps it in memory.
    file: Option<PathBuf>,
    /// Held by whoever writes the file.
    writing: Mutex<()>,
}

impl Revocations {
    /// Those of an earlier run, from the directory of the log; with none, they are kept in memory. At most `max`.
    pub fn open(folder: Option<PathBuf>, max: usize) -> Result<Self, UnreadableError> {
        let file = folder.map(|folder| folder.join(FILE));
        let mut list = List {
            next: 1,
            ..List::default()
        };
        if let Some(path) = &file {
            let kept = match std::fs::read(path) {
                Ok(bytes) => {
                    parse(&bytes).map_err(|error| UnreadableError::Content(path.clone(), error))?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Kept {
                    version: VERSION,
                    next: 1,
                    revocations: Vec::new(),
                },
                Err(error) => return Err(UnreadableError::Io(path.clone(), error)),
            };
            list.next = kept.next;
            for revocation in kept.revocations {
                list.insert(revocation);
            }
        }
        Ok(Self {
            list: RwLock::new(list),
            max,
            file,
            writing: Mutex::new(()),
        })
    }

    fn list(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn list_mut(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody is not to be let in.
    pub fn is_revoked(&self, principal: &Principal, now: Timestamp) -> bool {
        self.list().is_revoked(principal, now)
    }

    /// How many there are, perhaps with some that are over.
    pub fn len(&self) -> usize {
        self.list().entries.len()
    }

    /// All of them.
    pub fn all(&self, now: Timestamp) -> Vec<Revocation> {
        let list = self.list();
        let entries = list.entries.values().filter(|it| !it.is_over(now));
        entries.cloned().collect()
    }

    /// Adds one, which counts from now on; its number is given here. One about the same is replaced, and keeps its number.
    /// [`Revocations::keep`] has to follow.
    pub fn add(&self, mut new: Revocation) -> Result<(Revocation, Added), Refusal> {
        let now = Timestamp(new.created);
        let mut list = self.list_mut();
        list.forget_what_is_over(now);
        let added = if let Some(old) = list.like(&new) {
            new.id = old.id;
            Added::Replaced
        } else {
            if list.entries.len() >= self.max {
                let detail = format!(
                    "{} revocations are in force, the most that are permitted (admin.revocations_max): lift old ones, or give them an end",
                    self.max
                );
                return Err(Refusal::new(RefusalCode::Forbidden, detail));
            }
            new.id = list.next;
            Added::New
        };
        list.insert(new.clone());
        Ok((new, added))
    }

    /// Writes what is in force. Blocks until it is on the disk.
    pub fn keep(&self) -> io::Result<()> {
        let writing = self.writing.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        self.write_without(None)
    }

    /// Takes one away, and says whether it was there. Blocks until that is on the disk; with an error it stays.
    pub fn lift(&self, id: u64) -> io::Result<bool> {
        let writing = self.writing.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        if !self.list().entries.contains_key(&id) {
            return Ok(false);
        }
        self.write_without(Some(id))?;
        self.list_mut().remove(id);
        Ok(true)
    }

    fn write_without(&self, id: Option<u64>) -> io::Result<()> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let kept = {
            let list = self.list();
            let entries = list.entries.values().filter(|it| Some(it.id) != id);
            Kept {
                version: VERSION,
                next: list.next,
                revocations: entries.cloned().collect(),
            }
        };
        let text = serde_json::to_string(&kept).map_err(io::Error::other)?;
        files::replace(path, &text)
    }
}

/// Whether an entry is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// There was none like it.
    New,
    /// It stands for one about the same.
    Replaced,
}

fn parse(bytes: &[u8]) -> Result<Kept, String> {
    let kept: Kept = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if kept.version != VERSION {
        return Err(format!("its version is {}, not {VERSION}", kept.version));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_types::Voucher;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn principal(name: &str, source: &'static str, credential: Option<&str>) -> Principal {
        Principal {
            name: name.to_owned(),
            source,
            credential: credential.map(str::to_owned),
            ..Principal::anonymous()
        }
    }

    fn of_subject(subject: &str) -> Revocation {
        Revocation {
            id: 0,
            subject: Some(subject.to_owned()),
            credential: None,
            source: None,
            issued_before: None,
            until: None,
            reason: None,
            created: NOW,
        }
    }

    fn of_credential(credential: &str) -> Revocation {
        Revocation {
            subject: None,
            credential: Some(credential.to_owned()),
            ..of_subject("")
        }
    }

    #[test]
    fn what_is_revoked_is_a_subject_or_a_credential_perhaps_of_one_source_until_its_end() {
        let list = Revocations::open(None, 10).unwrap();
        let revoked = |who: &Principal, at: u64| list.is_revoked(who, Timestamp(at));
        let ann = principal("ann", "jwt", Some("j1"));
        assert!(!revoked(&ann, NOW));
        let only_keys = Revocation {
            source: Some("key".to_owned()),
            ..of_subject("ann")
        };
        let ended = Revocation {
            until: Some(NOW + 10),
            ..of_credential("j1")
        };
        list.add(only_keys).unwrap();
        assert!(!revoked(&ann, NOW) && revoked(&principal("ann", "key", None), NOW));
        let (ended, _) = list.add(ended).unwrap();
        assert!(revoked(&ann, NOW + 9) && !revoked(&ann, NOW + 10));
        assert!(!revoked(&principal("j1", "jwt", Some("ann")), NOW));
        assert_eq!(list.all(Timestamp(NOW + 10)).len(), 1);
        assert!(list.lift(ended.id).unwrap() && !list.lift(ended.id).unwrap());
        assert!(!revoked(&ann, NOW));
    }

    #[test]
    fn tokens_that_were_issued_later_are_good_and_what_does_not_say_when_is_not() {
        let list = Revocations::open(None, 10).unwrap();
        let everything_so_far = Revocation {
            issued_before: Some(NOW),
            ..of_subject("ann")
        };
        list.add(everything_so_far).unwrap();
        for (issued, expect) in [
            (None, true),
            (Some(NOW - 1), true),
            (Some(NOW), false),
            (Some(NOW + 1), false),
        ] {
            let who = Principal {
                voucher: Voucher {
                    issued: issued.map(Timestamp),
                    ..Voucher::default()
                },
                ..principal("ann", "jwt", None)
            };
            assert_eq!(list.is_revoked(&who, Timestamp(NOW)), expect, "{issued:?}");
        }
    }

    #[test]
    fn there_are_so_many_and_no_more_and_the_same_one_counts_once() {
        let list = Revocations::open(None, 2).unwrap();
        let (first, added) = list.add(of_subject("a")).unwrap();
        assert_eq!(added, Added::New);
        list.add(Revocation {
            until: Some(NOW + 5),
            ..of_credential("a")
        })
        .unwrap();
        let (again, added) = list.add(of_subject("a")).unwrap();
        assert_eq!((again.id, added), (first.id, Added::Replaced));
        let refused = list.add(of_subject("b")).unwrap_err();
        assert!(
            refused.detail.contains("admin.revocations_max"),
            "{refused}"
        );
        let later = Revocation {
            created: NOW + 5,
            ..of_subject("b")
        };
        list.add(later).unwrap();
        assert_eq!(list.len(), 2, "what is over makes room");
    }

    #[test]
    fn what_was_kept_is_there_again_and_numbers_are_not_used_twice() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Revocations::open(Some(folder.path().to_owned()), 10).unwrap();
        let list = open();
        let (ann, _) = list.add(of_subject("ann")).unwrap();
        let (bob, _) = list.add(of_credential("bob")).unwrap();
        list.keep().unwrap();
        assert!(list.lift(bob.id).unwrap());
        let list = open();
        assert_eq!(list.all(Timestamp(NOW)), [ann]);
        let (eve, _) = list.add(of_subject("eve")).unwrap();
        assert!(eve.id > bob.id);
        std::fs::write(folder.path().join(FILE), "{\"version\":2}").unwrap();
        let error = Revocations::open(Some(folder.path().to_owned()), 10);
        assert!(error.is_err_and(|error| error.to_string().contains(FILE)));
    }

    #[test]
    fn what_could_not_be_written_stays_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let list = Arc::new(Revocations::open(Some(gone), 10).unwrap());
        let (ann, _) = list.add(of_subject("ann")).unwrap();
        assert!(list.keep().is_err() && list.lift(ann.id).is_err());
        assert!(list.is_revoked(&principal("ann", "jwt", None), Timestamp(NOW)));
    }
}
