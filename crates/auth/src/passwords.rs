//! The password file: `user:hash` a line, as `htpasswd -B` and `tidings passwd` write it.
//!
//! Argon2id (PHC strings) and bcrypt (`$2a$`, `$2b$`, `$2y$`) are taken. Everything else is an error when the
//! file is read, because a fast hash that is guessed is worse than a server that does not start. Blank lines
//! and lines that begin with `#` are kept and not looked at.

use std::collections::HashMap;
use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::digest::{SHA256, digest};
use tidings_types::{Principal, Timestamp};

use crate::credential::{Credential, Identity, Reason, Renewed, Source, Verdict, is_name};
use crate::files::AtLine;
use crate::random::NoRandomness;
use crate::secret::{Secret, mark};

/// The longest password. Hashing takes longer for longer ones, and nobody types more.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// The most memory that one Argon2id hash may take, in KiB: a login must not take the server's.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 256 << 10;
/// The most passes of an Argon2id hash.
pub const ARGON2_PASSES_MAX: u32 = 16;
/// The highest bcrypt cost: some seconds.
pub const BCRYPT_COST_MAX: u32 = 16;

/// What new hashes cost: 19 MiB, two passes, one lane (OWASP's Password Storage Cheat Sheet).
fn new_params() -> Params {
    Params::default()
}

/// Why a line of the file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordLineError {
    /// No `:` in it.
    NoColon,
    /// No user name: empty, too long, with a control character or a space around it.
    User,
    /// The user has a line already.
    Duplicate {
        /// The other line.
        first: usize,
    },
    /// A hash of another scheme, or a password in clear.
    Scheme,
    /// A hash of a known scheme that does not parse.
    Hash,
    /// A hash that takes more time or memory than permitted.
    TooExpensive,
}

impl fmt::Display for PasswordLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("this is not `user:hash`: write it with `tidings passwd`"),
            Self::User => f.write_str(
                "the user name is empty, longer than 256 bytes, or has a control character or a space around it: choose another one",
            ),
            Self::Duplicate { first } => {
                write!(f, "the user has a password on line {first} already: remove one")
            }
            Self::Scheme => f.write_str(
                "the hash is neither Argon2id (`$argon2id$`) nor bcrypt (`$2y$`, `$2b$`, `$2a$`): set the password anew with `tidings passwd`, or with `htpasswd -B`",
            ),
            Self::Hash => f.write_str(
                "the hash is damaged: set the password anew with `tidings passwd`",
            ),
            Self::TooExpensive => write!(
                f,
                "the hash takes too long or too much memory (at most {ARGON2_MEMORY_KIB_MAX} KiB and {ARGON2_PASSES_MAX} passes, or bcrypt cost {BCRYPT_COST_MAX}): set the password anew with `tidings passwd`"
            ),
        }
    }
}

impl std::error::Error for PasswordLineError {}

enum Hash {
    Argon2id(Box<PasswordHash>),
    Bcrypt(String),
}

impl Hash {
    fn parse(text: &str) -> Result<Self, PasswordLineError> {
        if text.starts_with("$argon2id$") {
            let hash = PasswordHash::new(text).map_err(|_| PasswordLineError::Hash)?;
            let params = Params::try_from(&hash).map_err(|_| PasswordLineError::Hash)?;
            if hash.salt.is_none() || hash.hash.is_none() {
                return Err(PasswordLineError::Hash);
            }
            if params.m_cost() > ARGON2_MEMORY_KIB_MAX || params.t_cost() > ARGON2_PASSES_MAX {
                return Err(PasswordLineError::TooExpensive);
            }
            return Ok(Self::Argon2id(Box::new(hash)));
        }
        // `$2x$` marks hashes of a faulty implementation; they are not equal to the others'.
        if ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| PasswordLineError::Hash)?;
            return match parts.get_cost() {
                ..4 => Err(PasswordLineError::Hash),
                4..=BCRYPT_COST_MAX => Ok(Self::Bcrypt(text.to_owned())),
                _ => Err(PasswordLineError::TooExpensive),
            };
        }
        Err(PasswordLineError::Scheme)
    }

    /// Whether it is the password's hash; `None` if that could not be found out.
    fn verify(&self, password: &[u8]) -> Option<bool> {
        match self {
            Self::Argon2id(hash) => match Argon2::default().verify_password(password, &**hash) {
                Ok(()) => Some(true),
                Err(password_hash::Error::PasswordInvalid) => Some(false),
                Err(_) => None,
            },
            // bcrypt looks at the first 72 bytes only, whoever made the hash.
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).ok(),
        }
    }

    /// A password that is set anew has another salt, also if it is the same one.
    fn mark(&self) -> u64 {
        match self {
            Self::Argon2id(hash) => mark(&[hash.to_string().as_bytes()]),
            Self::Bcrypt(hash) => mark(&[hash.as_bytes()]),
        }
    }

    fn identity(&self, user: &str) -> Identity {
        Identity {
            name: user.to_owned(),
            entry: Some(self.mark()),
            ..Identity::default()
        }
    }
}

/// A password file, read.
pub struct PasswordFile {
    users: HashMap<String, usize>,
    hashes: Vec<Hash>,
    /// What decides whose hash is computed for a user that there is not. Unknown outside, and the same
    /// as long as the file is.
    seed: Vec<u8>,
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordFile({} users)", self.hashes.len())
    }
}

fn is_line_of_a_user(line: &str) -> bool {
    !(line.trim().is_empty() || line.starts_with('#'))
}

impl PasswordFile {
    /// The metrics label of the source.
    pub const LABEL: &'static str = "password";

    /// Reads the text of the file, and says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<AtLine<PasswordLineError>>> {
        let mut users = HashMap::new();
        let mut hashes = Vec::new();
        let mut lines: Vec<usize> = Vec::new();
        let mut wrong = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if !is_line_of_a_user(line) {
                continue;
            }
            match parse_line(line, &users, &lines) {
                Ok((user, hash)) => {
                    users.insert(user, hashes.len());
                    hashes.push(hash);
                    lines.push(index + 1);
                }
                Err(error) => wrong.push(AtLine {
                    line: index + 1,
                    error,
                }),
            }
        }
        if wrong.is_empty() {
            Ok(Self {
                users,
                hashes,
                seed: digest(&SHA256, text.as_bytes()).as_ref().to_vec(),
            })
        } else {
            Err(wrong)
        }
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.hashes.len()
    }

    /// Whose hash is computed for a user that there is not: always the same one for a name, so that the
    /// time for it looks like that of a user, in a file with hashes of different costs too.
    fn decoy(&self, user: &str) -> Option<&Hash> {
        let mut text = self.seed.clone();
        text.extend_from_slice(user.as_bytes());
        let first = digest(&SHA256, &text).as_ref().first_chunk().copied();
        let number = u64::from_le_bytes(first.unwrap_or_default());
        let count = u64::try_from(self.hashes.len()).unwrap_or(u64::MAX);
        let index = number.checked_rem(count)?;
        self.hashes.get(usize::try_from(index).ok()?)
    }
}

fn parse_line(
    line: &str,
    users: &HashMap<String, usize>,
    lines: &[usize],
) -> Result<(String, Hash), PasswordLineError> {
    let (user, hash) = line.split_once(':').ok_or(PasswordLineError::NoColon)?;
    if !is_user(user) {
        return Err(PasswordLineError::User);
    }
    if let Some(index) = users.get(user) {
        let first = lines.get(*index).copied().unwrap_or_default();
        return Err(PasswordLineError::Duplicate { first });
    }
    Ok((user.to_owned(), Hash::parse(hash.trim_end())?))
}

fn is_user(user: &str) -> bool {
    is_name(user) && !user.contains(':') && !user.starts_with('#') && user.trim() == user
}

/// Whether somebody can have this password. bcrypt ends one at a NUL, so that it would be equal to its
/// beginning.
fn is_password(password: &[u8]) -> bool {
    (1..=PASSWORD_BYTES_MAX).contains(&password.len()) && !password.contains(&0)
}

impl Source for PasswordFile {
    fn label(&self) -> &'static str {
        Self::LABEL
    }

    fn is_slow(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Password { user, password } => {
                is_user(user) && is_password(password.expose())
            }
            _ => false,
        }
    }

    fn verify(&self, credential: &Credential, _now: Timestamp) -> Verdict {
        let Credential::Password { user, password } = credential else {
            return Verdict::NotMine;
        };
        // Nobody in the file, which everybody may know. It may still be a token, shown as a password.
        if !self.is_slow(credential) {
            return Verdict::NotMine;
        }
        let known = self
            .users
            .get(user)
            .and_then(|index| self.hashes.get(*index));
        let Some(hash) = known.or_else(|| self.decoy(user)) else {
            return Verdict::NotMine;
        };
        match (hash.verify(password.expose()), known) {
            (None, _) => Verdict::Refused(Reason::Unavailable),
            // The decoy is another user's: that its password is right says nothing.
            (Some(_), None) => Verdict::NotMine,
            (Some(false), Some(_)) => Verdict::Refused(Reason::Password),
            (Some(true), Some(hash)) => Verdict::Accepted(Box::new(hash.identity(user))),
        }
    }

    fn renew(&self, principal: &Principal, _now: Timestamp) -> Renewed {
        let index = self.users.get(&principal.name);
        let hash = index.and_then(|index| self.hashes.get(*index));
        match hash.filter(|hash| Some(hash.mark()) == principal.voucher.entry) {
            Some(hash) => Renewed::Identity(Box::new(hash.identity(&principal.name))),
            None => Renewed::Gone(Reason::Revoked),
        }
    }
}

/// Why the password file was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordEditError {
    /// No user name, or one that a line cannot hold.
    User,
    /// Empty, over [`PASSWORD_BYTES_MAX`], or with a NUL.
    Password,
    /// There is no such user.
    Unknown,
    /// No random salt.
    Randomness(NoRandomness),
    /// The hash could not be computed: no memory for it.
    Hashing,
}

impl fmt::Display for PasswordEditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str(
                "a user name has 1 to 256 bytes, no `:`, no control character, no `#` in front and no space around it: choose another one",
            ),
            Self::Password => write!(
                f,
                "a password has 1 to {PASSWORD_BYTES_MAX} bytes and no NUL: choose another one"
            ),
            Self::Unknown => f.write_str("there is no such user in the file: check the name"),
            Self::Randomness(error) => error.fmt(f),
            Self::Hashing => f.write_str(
                "the password could not be hashed: 19 MiB of memory are needed for it",
            ),
        }
    }
}

impl std::error::Error for PasswordEditError {}

/// The text of the file with the user's password set, and whether the user was there before. All other
/// lines stay as they are. Takes as long as a login.
pub fn set(text: &str, user: &str, password: &Secret) -> Result<(String, bool), PasswordEditError> {
    if !is_user(user) {
        return Err(PasswordEditError::User);
    }
    if !is_password(password.expose()) {
        return Err(PasswordEditError::Password);
    }
    let line = format!("{user}:{}", hash(password)?);
    let (mut kept, found) = without(text, user, Some(&line));
    if !found {
        kept.push_str(&line);
        kept.push('\n');
    }
    Ok((kept, found))
}

/// The text of the file without the user.
pub fn remove(text: &str, user: &str) -> Result<String, PasswordEditError> {
    match without(text, user, None) {
        (kept, true) => Ok(kept),
        (_, false) => Err(PasswordEditError::Unknown),
    }
}

/// The text with the first of the user's lines replaced and the others left out, and whether there was one.
fn without(text: &str, user: &str, replacement: Option<&str>) -> (String, bool) {
    let mut kept = String::with_capacity(text.len() + 128);
    let mut found = false;
    for line in text.lines() {
        let theirs =
            is_line_of_a_user(line) && line.split_once(':').is_some_and(|(name, _)| name == user);
        let line = match (theirs, found) {
            (false, _) => Some(line),
            (true, false) => replacement,
            (true, true) => None,
        };
        found |= theirs;
        if let Some(line) = line {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    (kept, found)
}

fn hash(password: &Secret) -> Result<PasswordHash, PasswordEditError> {
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt).map_err(|_| PasswordEditError::Randomness(NoRandomness))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, new_params())
        .hash_password_with_salt(password.expose(), &salt)
        .map_err(|_| PasswordEditError::Hashing)
}
