//! What outlives the process: for each authority a folder with `account.json` (its name and key) and `certificate.pem` (the
//! key and the chain, in one file so that they are replaced together). Nobody else may read them.

use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tidings_auth::files;

use super::held::{Held, Unfit};
use crate::config::AcmeSettings;

/// Where it is kept.
#[derive(Debug)]
pub struct Store {
    /// `None`: in memory.
    place: Option<PathBuf>,
    /// The directory of the authority, and the account with it.
    account: Mutex<Option<(String, Account)>>,
}

/// An account's name and its key; secret.
#[derive(Clone)]
pub struct Account(pub String);

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(..)")
    }
}

/// Why something could not be taken up, or kept.
#[derive(Debug)]
pub enum StoreError {
    /// The file system says no.
    File(PathBuf, io::Error),
    /// The certificate is of no use.
    Unfit(PathBuf, Unfit),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Unfit(path, unfit) => write!(f, "{}: {unfit}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}

impl Store {
    /// In this folder, which need not be there yet; or in memory.
    pub fn new(place: Option<PathBuf>) -> Self {
        Self {
            place,
            account: Mutex::default(),
        }
    }

    /// Whether a restart forgets everything.
    pub fn is_in_memory(&self) -> bool {
        self.place.is_none()
    }

    /// The certificate of an earlier run.
    pub fn certificate(&self, settings: &AcmeSettings) -> Result<Option<Held>, StoreError> {
        let Some(path) = self.path(settings, "certificate.pem") else {
            return Ok(None);
        };
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let held = Held::from_pem(text.as_bytes(), settings);
        held.map(Some)
            .map_err(|unfit| StoreError::Unfit(path, unfit))
    }

    /// Keeps the key and the chain.
    pub fn keep_certificate(&self, settings: &AcmeSettings, pem: &str) -> Result<(), StoreError> {
        self.write(settings, "certificate.pem", pem)
    }

    /// The account with the authority.
    pub fn account(&self, settings: &AcmeSettings) -> Result<Option<Account>, StoreError> {
        let directory = settings.directory.as_deref().unwrap_or_default();
        let cached = self.cached().clone();
        if let Some((_, account)) = cached.filter(|(of, _)| of == directory) {
            return Ok(Some(account));
        }
        let Some(path) = self.path(settings, "account.json") else {
            return Ok(None);
        };
        Ok(read(&path)?.map(Account))
    }

    /// Keeps an account.
    pub fn keep_account(
        &self,
        settings: &AcmeSettings,
        account: Account,
    ) -> Result<(), StoreError> {
        let kept = self.write(settings, "account.json", &account.0);
        let directory = settings.directory.clone().unwrap_or_default();
        *self.cached() = Some((directory, account));
        kept
    }

    /// Forgets an account that the authority does not know.
    pub fn forget_account(&self, settings: &AcmeSettings) -> Result<(), StoreError> {
        *self.cached() = None;
        let Some(path) = self.path(settings, "account.json") else {
            return Ok(());
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::File(path, error))
            }
            _ => Ok(()),
        }
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Option<(String, Account)>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, settings: &AcmeSettings, file: &str) -> Option<PathBuf> {
        let directory = settings.directory.as_deref()?;
        Some(self.place.as_ref()?.join(folder_name(directory)).join(file))
    }

    fn write(&self, settings: &AcmeSettings, file: &str, text: &str) -> Result<(), StoreError> {
        let Some(path) = self.path(settings, file) else {
            return Ok(());
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        let written = made.and_then(|()| files::replace(&path, text));
        written.map_err(|error| StoreError::File(path, error))
    }
}

fn read(path: &Path) -> Result<Option<String>, StoreError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::File(path.to_owned(), error)),
    }
}

/// The authority's name as that of a folder: its URL without what no folder's name may have.
fn folder_name(directory: &str) -> String {
    let name = directory.trim_start_matches("https://");
    let permitted = |c: char| {
        if c.is_ascii_alphanumeric() || ".-".contains(c) {
            c
        } else {
            '_'
        }
    };
    name.chars().map(permitted).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn of(directory: &str) -> AcmeSettings {
        AcmeSettings {
            domains: vec!["example.org".to_owned()],
            directory: Some(directory.to_owned()),
            ..AcmeSettings::default()
        }
    }

    #[test]
    fn what_is_kept_is_for_its_owner_alone_and_for_one_authority() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("data/acme");
        let (one, other) = (
            of("https://one.example:1/dir?a=/b"),
            of("https://other.example/dir"),
        );
        let store = Store::new(Some(place.clone()));
        assert!(store.account(&one).unwrap().is_none());
        store
            .keep_account(&one, Account("secret".to_owned()))
            .unwrap();
        assert!(!format!("{store:?}").contains("secret"));
        let again = Store::new(Some(place.clone()));
        for store in [&store, &again] {
            assert_eq!(store.account(&one).unwrap().unwrap().0, "secret");
            assert!(store.account(&other).unwrap().is_none());
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let own = place.join("one.example_1_dir_a__b");
        assert_eq!([mode(&place), mode(&own)], [0o700, 0o700]);
        assert_eq!(mode(&own.join("account.json")), 0o600);

        std::fs::write(own.join("certificate.pem"), "garbage").unwrap();
        assert!(matches!(
            store.certificate(&one),
            Err(StoreError::Unfit(..))
        ));
        assert!(store.certificate(&other).unwrap().is_none());
        store.forget_account(&one).unwrap();
        store.forget_account(&one).unwrap();
        assert!(again.account(&one).unwrap().is_none());
    }

    #[test]
    fn in_memory_an_account_is_kept_for_as_long_as_the_process() {
        let store = Store::new(None);
        let settings = of("https://one.example/dir");
        store
            .keep_account(&settings, Account("secret".to_owned()))
            .unwrap();
        assert_eq!(store.account(&settings).unwrap().unwrap().0, "secret");
        store.keep_certificate(&settings, "pem").unwrap();
        assert!(store.certificate(&settings).unwrap().is_none());
    }
}
