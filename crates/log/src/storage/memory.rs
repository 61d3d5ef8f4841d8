//! Files in memory: for topics with `storage = memory`, and for a server without a data directory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{Storage, StorageFile};

/// Files that live as long as this value, or their handles.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
}

impl MemoryStorage {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<MemoryFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.files().get(name).cloned();
        file.map_or(Err(io::ErrorKind::NotFound.into()), |file| Ok(file as _))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = Arc::new(MemoryFile::default());
        self.files().insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.files().remove(name);
        removed.map_or(Err(io::ErrorKind::NotFound.into()), |_| Ok(()))
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn describe(&self, name: &str) -> String {
        format!("{name} (in memory)")
    }
}

#[derive(Debug, Default)]
struct MemoryFile(RwLock<Vec<u8>>);

/// Copies out of a file's content.
pub(super) fn read_from(content: &[u8], buffer: &mut [u8], position: u64) -> io::Result<()> {
    let start = position as usize;
    let part = content.get(start..start.saturating_add(buffer.len()));
    buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

/// Copies into a file's content, which grows with zeros.
pub(super) fn write_into(content: &mut Vec<u8>, buffer: &[u8], position: u64) {
    let start = position as usize;
    if content.len() == start {
        content.extend_from_slice(buffer);
        return;
    }
    if content.len() < start + buffer.len() {
        content.resize(start + buffer.len(), 0);
    }
    content[start..start + buffer.len()].copy_from_slice(buffer);
}

impl StorageFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        read_from(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
            buffer,
            position,
        )
    }

    fn write_at(&self, buffer: &[u8], position: u64) -> io::Result<()> {
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        write_into(&mut content, buffer, position);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        content.resize(len as usize, 0);
        content.shrink_to_fit();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        // Memory is taken as it is written: a small log must stay small.
        Ok(())
    }
}
