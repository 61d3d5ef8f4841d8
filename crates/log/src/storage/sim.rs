//! A simulated disk for deterministic tests: it can fill up, fail, crash at any operation, and after a crash
//! it has what was synced plus an arbitrary part of what was not.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::{read_from, write_into};
use super::{Storage, StorageFile};

/// What goes wrong. All of it is off by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Writes and creations fail as "full" once the files would be larger than this together.
    pub capacity: Option<u64>,
    /// The sync of a file fails when this many more have succeeded, and each one after it.
    pub syncs_left: Option<u64>,
    /// Every operation that changes something fails when this many more have succeeded: the machine is down
    /// until [`SimStorage::reboot`].
    pub operations_left: Option<u64>,
}

/// A disk in memory that can be crashed.
#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    /// What a running process sees, by file number.
    files: Vec<SimContent>,
    names: BTreeMap<String, usize>,
    /// The names that survive a crash for sure, and what was done to them since.
    names_synced: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    faults: Faults,
    bytes_read: u64,
    operations: u64,
    generation: u64,
}

#[derive(Debug, Default)]
struct SimContent {
    now: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
}

/// A step of the splitmix64 generator.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl SimStorage {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.disk().faults = faults;
    }

    /// Bytes that were read from files so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.disk().bytes_read
    }

    /// Operations that changed something so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Cuts the power, and clears the faults. What was not synced is kept, torn or lost as the seed says. Handles from before
    /// the crash fail from now on.
    pub fn reboot(&self, seed: u64) {
        let mut disk = self.disk();
        let mut state = seed;
        disk.faults = Faults::default();
        disk.generation += 1;
        // A prefix of the changes to names: file systems journal them in order.
        let keep = random(&mut state) as usize % (disk.name_changes.len() + 1);
        let changes = std::mem::take(&mut disk.name_changes);
        let mut names = std::mem::take(&mut disk.names_synced);
        for change in changes.into_iter().take(keep) {
            change.apply(&mut names);
        }
        disk.names = names.clone();
        disk.names_synced = names;
        for file in &mut disk.files {
            file.crash(&mut state);
        }
    }

    /// Kills the process but not the machine: nothing is lost, old handles fail, the faults are cleared.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.faults = Faults::default();
        disk.generation += 1;
    }

    /// A file's content as a running process sees it.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        let number = *disk.names.get(name)?;
        Some(disk.files[number].now.clone())
    }

    /// Replaces a file's content, durably, behind the log's back.
    pub fn set_content(&self, name: &str, content: Vec<u8>) {
        let mut disk = self.disk();
        let file = SimContent {
            synced: content.clone(),
            now: content,
            since: Vec::new(),
        };
        let number = disk.files.len();
        disk.files.push(file);
        disk.names.insert(name.to_owned(), number);
        disk.names_synced.insert(name.to_owned(), number);
    }

    /// A disk with the same content, as it stands.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = Self::default();
        let disk = self.disk();
        for (name, number) in &disk.names {
            copy.set_content(name, disk.files[*number].now.clone());
        }
        drop(disk);
        copy
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, number) => {
                // A rename is one step: the file's other name goes with it.
                names.retain(|_, known| *known != number);
                names.insert(name, number);
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl SimContent {
    fn crash(&mut self, state: &mut u64) {
        let mut content = std::mem::take(&mut self.synced);
        for change in self.since.drain(..) {
            let luck = random(state) % 4;
            match change {
                Change::Resize(len) if luck != 0 => content.resize(len as usize, 0),
                Change::Write(at, bytes) if luck == 1 => {
                    let torn = random(state) as usize % (bytes.len() + 1);
                    write_into(&mut content, &bytes[..torn], at);
                }
                Change::Write(at, bytes) if luck > 1 => write_into(&mut content, &bytes, at),
                Change::Resize(_) | Change::Write(..) => {}
            }
        }
        self.now.clone_from(&content);
        self.synced = content;
    }
}

impl Disk {
    fn change(&mut self, generation: u64) -> io::Result<()> {
        if generation != self.generation {
            return Err(io::Error::other("a handle from before the crash"));
        }
        if let Some(left) = &mut self.faults.operations_left {
            if *left == 0 {
                return Err(io::Error::other("the simulated machine is down"));
            }
            *left -= 1;
        }
        self.operations += 1;
        Ok(())
    }

    fn room(&self, more: u64) -> io::Result<()> {
        let used: u64 = self
            .names
            .values()
            .map(|number| self.files[*number].now.len() as u64)
            .sum();
        match self.faults.capacity {
            Some(capacity) if used + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl Storage for SimStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let disk = self.disk();
        let number = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: Arc::clone(&self.disk),
            number,
            generation: disk.generation,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk();
        let generation = disk.generation;
        disk.change(generation)?;
        let number = disk.files.len();
        disk.files.push(SimContent::default());
        disk.names.insert(name.to_owned(), number);
        disk.name_changes
            .push(NameChange::Set(name.to_owned(), number));
        Ok(Arc::new(SimFile {
            disk: Arc::clone(&self.disk),
            number,
            generation,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let generation = disk.generation;
        disk.change(generation)?;
        let number = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), number);
        disk.name_changes
            .push(NameChange::Set(to.to_owned(), number));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let generation = disk.generation;
        disk.change(generation)?;
        disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        disk.name_changes.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut disk = self.disk();
        let generation = disk.generation;
        disk.change(generation)?;
        disk.names_synced = disk.names.clone();
        disk.name_changes.clear();
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("{name} (simulated)")
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    number: usize,
    generation: u64,
}

impl SimFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.bytes_read += buffer.len() as u64;
        read_from(&disk.files[self.number].now, buffer, position)
    }

    fn write_at(&self, buffer: &[u8], position: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change(self.generation)?;
        let len = disk.files[self.number].now.len() as u64;
        disk.room((position + buffer.len() as u64).saturating_sub(len))?;
        let file = &mut disk.files[self.number];
        write_into(&mut file.now, buffer, position);
        file.since.push(Change::Write(position, buffer.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change(self.generation)?;
        if let Some(left) = &mut disk.faults.syncs_left {
            if *left == 0 {
                return Err(io::Error::other("simulated sync failure"));
            }
            *left -= 1;
        }
        let file = &mut disk.files[self.number];
        file.synced.clone_from(&file.now);
        file.since.clear();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change(self.generation)?;
        let old = disk.files[self.number].now.len() as u64;
        disk.room(len.saturating_sub(old))?;
        let file = &mut disk.files[self.number];
        file.now.resize(len as usize, 0);
        file.since.push(Change::Resize(len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().files[self.number].now.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? < len {
            self.set_len(len)?;
        }
        Ok(())
    }

    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        self.write_at(&vec![0; (to - from) as usize], from)
    }
}
