//! API keys: `tdg_<id>_<secret><checksum>`, and the TOML file that they are kept in.
//!
//! The prefix and the checksum are there so that a scanner finds a leaked key, and takes nothing else for
//! one: `tdg_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}`, of which the last six characters are the CRC-32C of what
//! stands before them. The secret has 256 bits, so that its plain SHA-256 can be kept: nobody guesses it,
//! and a login costs nothing.
//!
//! ```toml
//! [[key]]
//! id = "4fTq0ZxKb81a"
//! name = "billing"
//! sha256 = "<64 hexadecimal digits>"
//! publish = ["orders/#"]
//! deny = ["orders/+/internal"]
//! created_s = 1790000000
//! expires_s = 1800000000
//! revoked = true
//! ```

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tidings_types::{Grants, Principal, Timestamp};
use toml::Spanned;

use crate::credential::{
    Credential, Identity, NAME_BYTES_MAX, Reason, Renewed, Source, Verdict, is_name,
};
use crate::files::{AtLine, line_at};
use crate::grants::{DenyText, GrantError, GrantsText};
use crate::random::{ALPHABET, NoRandomness, random_text};
use crate::secret::{Secret, mark, same};

const PREFIX: &str = "tdg_";
const ID_CHARS: usize = 12;
const SECRET_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 6;

/// Why a key file is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFileError {
    /// Not TOML, or not what is expected in it.
    Toml(String),
    /// An id that no key has.
    Id,
    /// The id is there twice.
    Duplicate,
    /// A name that no principal has.
    Name,
    /// No SHA-256 in hexadecimal.
    Digest,
    /// A grant that is none.
    Grant(GrantError),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toml(message) => write!(f, "the key file cannot be read: {message}"),
            Self::Id => write!(
                f,
                "`id` is {ID_CHARS} letters and digits: create the key anew"
            ),
            Self::Duplicate => f.write_str("this `id` is there twice: remove one"),
            Self::Name => write!(
                f,
                "`name` has 1 to {NAME_BYTES_MAX} bytes and no control character: choose another one"
            ),
            Self::Digest => f.write_str("`sha256` is 64 hexadecimal digits: create the key anew"),
            Self::Grant(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyFileError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    key: Vec<Spanned<KeyText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    id: Spanned<String>,
    name: String,
    sha256: String,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    deny: DenyText,
    #[serde(default, rename = "created_s")]
    _created_s: u64,
    expires_s: Option<u64>,
    revoked: Option<Spanned<bool>>,
}

#[derive(Debug)]
struct Key {
    name: String,
    sha256: [u8; 32],
    grants: Grants,
    expires: Option<Timestamp>,
    revoked: bool,
}

/// A key file, read.
#[derive(Debug)]
pub struct KeyFile {
    keys: HashMap<String, Key>,
}

impl KeyFile {
    /// The metrics label of the source.
    pub const LABEL: &'static str = "key";

    /// Reads the text of the file, and says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<AtLine<KeyFileError>>> {
        let mut keys = HashMap::new();
        let mut wrong = Vec::new();
        for written in read(text).map_err(|error| vec![error])? {
            let line = line_at(text, written.get_ref().id.span().start);
            let id = written.get_ref().id.get_ref().clone();
            match check(written.into_inner()) {
                Ok(_) if keys.contains_key(&id) => wrong.push(AtLine {
                    line,
                    error: KeyFileError::Duplicate,
                }),
                Ok(key) => {
                    keys.insert(id, key);
                }
                Err(error) => wrong.push(AtLine { line, error }),
            }
        }
        if wrong.is_empty() {
            Ok(Self { keys })
        } else {
            Err(wrong)
        }
    }

    /// How many keys there are, revoked ones too.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

fn read(text: &str) -> Result<Vec<Spanned<KeyText>>, AtLine<KeyFileError>> {
    match toml::from_str::<FileText>(text) {
        Ok(file) => Ok(file.key),
        Err(error) => Err(AtLine {
            line: line_at(text, error.span().map_or(0, |span| span.start)),
            error: KeyFileError::Toml(error.message().to_owned()),
        }),
    }
}

fn check(text: KeyText) -> Result<Key, KeyFileError> {
    let id = text.id.get_ref();
    if id.len() != ID_CHARS || !is_alphanumeric(id) {
        return Err(KeyFileError::Id);
    }
    if !is_name(&text.name) {
        return Err(KeyFileError::Name);
    }
    let grants = GrantsText {
        publish: text.publish,
        subscribe: text.subscribe,
        deny: text.deny,
    };
    Ok(Key {
        name: text.name,
        sha256: from_hex(&text.sha256).ok_or(KeyFileError::Digest)?,
        grants: grants.parse().map_err(KeyFileError::Grant)?,
        expires: text.expires_s.map(|s| Timestamp(s.saturating_mul(1_000))),
        revoked: text.revoked.is_some_and(Spanned::into_inner),
    })
}

fn is_alphanumeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    if text.len() != 64 || !is_alphanumeric(text) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// The id and the secret of a key, if the text is one.
fn split(text: &str) -> Option<(&str, &str)> {
    let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let shaped = id.len() == ID_CHARS
        && rest.len() == SECRET_CHARS + CHECKSUM_CHARS
        && is_alphanumeric(id)
        && is_alphanumeric(rest);
    if !shaped {
        return None;
    }
    let (body, written) = text.split_at(text.len() - CHECKSUM_CHARS);
    (checksum(body) == written).then_some((id, &rest[..SECRET_CHARS]))
}

fn checksum(body: &str) -> String {
    let mut rest = crc32c::crc32c(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// Whether a text is a key, by its shape and checksum.
#[must_use]
pub fn is_key(text: &str) -> bool {
    split(text).is_some()
}

impl Source for KeyFile {
    fn label(&self) -> &'static str {
        Self::LABEL
    }

    fn is_slow(&self, _credential: &Credential) -> bool {
        false
    }

    fn verify(&self, credential: &Credential, now: Timestamp) -> Verdict {
        let Some((id, secret)) = credential.token().and_then(split) else {
            return Verdict::NotMine;
        };
        // The id is public: that it takes a little longer to refuse a known one tells nothing.
        let Some(key) = self.keys.get(id) else {
            return Verdict::Refused(Reason::Key);
        };
        if !same(digest(&SHA256, secret.as_bytes()).as_ref(), &key.sha256) {
            return Verdict::Refused(Reason::Key);
        }
        match key.identity(id, now) {
            Ok(identity) => Verdict::Accepted(Box::new(identity)),
            Err(reason) => Verdict::Refused(reason),
        }
    }

    fn renew(&self, principal: &Principal, now: Timestamp) -> Renewed {
        let id = principal.credential.as_deref().unwrap_or_default();
        let key = self.keys.get(id);
        let Some(key) = key.filter(|key| Some(key.mark()) == principal.voucher.entry) else {
            return Renewed::Gone(Reason::Revoked);
        };
        match key.identity(id, now) {
            Ok(identity) => Renewed::Identity(Box::new(identity)),
            Err(reason) => Renewed::Gone(reason),
        }
    }
}

impl Key {
    /// Who has it, unless its time is over.
    fn identity(&self, id: &str, now: Timestamp) -> Result<Identity, Reason> {
        if self.revoked {
            return Err(Reason::Revoked);
        }
        if self.expires.is_some_and(|end| end <= now) {
            return Err(Reason::Expired);
        }
        Ok(Identity {
            name: self.name.clone(),
            grants: self.grants.clone(),
            expires: self.expires,
            credential: Some(id.to_owned()),
            entry: Some(self.mark()),
            ..Identity::default()
        })
    }

    /// Another secret, or another name, is another key.
    fn mark(&self) -> u64 {
        mark(&[&self.sha256, self.name.as_bytes()])
    }
}

/// Why the key file was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyEditError {
    /// The file, or the new key, is not right.
    File(AtLine<KeyFileError>),
    /// There is no such key.
    Unknown,
    /// The file is written in a way that cannot be changed without touching the rest.
    Unwritable,
    /// No random secret.
    Randomness(NoRandomness),
}

impl fmt::Display for KeyEditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Unknown => f.write_str("there is no such key in the file: check the id"),
            Self::Unwritable => f.write_str(
                "the file is not written as `[[key]]` tables with one value a line: edit it by hand",
            ),
            Self::Randomness(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyEditError {}

/// What a new key is for.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// The name of who has it. Several keys may have one name, while one is replaced by the next.
    pub name: String,
    /// What it may do.
    pub grants: GrantsText,
    /// Its end.
    pub expires: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Debug)]
pub struct Created {
    /// The file with the key in it; all that was there stays as it is.
    pub text: String,
    /// The public id.
    pub id: String,
    /// The key itself. It is nowhere else, and cannot be had again.
    pub key: Secret,
}

#[derive(Serialize)]
struct KeyLines<'a> {
    id: &'a str,
    name: &'a str,
    sha256: String,
    created_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_s: Option<u64>,
    #[serde(flatten)]
    grants: &'a GrantsText,
}

#[derive(Serialize)]
struct KeyTable<'a> {
    key: [KeyLines<'a>; 1],
}

/// Makes a key and adds it to the text of the file.
pub fn create(text: &str, new: &NewKey, now: Timestamp) -> Result<Created, KeyEditError> {
    let id = random_text(ID_CHARS).map_err(KeyEditError::Randomness)?;
    let secret = Secret::new(random_text(SECRET_CHARS).map_err(KeyEditError::Randomness)?);
    let mut key = format!("{PREFIX}{id}_").into_bytes();
    key.extend_from_slice(secret.expose());
    let sum = checksum(std::str::from_utf8(&key).unwrap_or_default());
    key.extend_from_slice(sum.as_bytes());
    let table = KeyTable {
        key: [KeyLines {
            id: &id,
            name: &new.name,
            sha256: to_hex(digest(&SHA256, secret.expose()).as_ref()),
            created_s: now.0 / 1_000,
            expires_s: new.expires.map(|end| end.0 / 1_000),
            grants: &new.grants,
        }],
    };
    let table = toml::to_string(&table).map_err(|_| KeyEditError::Unwritable)?;
    let mut text = text.to_owned();
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(&table);
    check_whole(&text)?;
    Ok(Created {
        text,
        id,
        key: Secret::new(key),
    })
}

/// The text of the file with the key revoked. A key that is revoked already stays so.
pub fn revoke(text: &str, id: &str) -> Result<String, KeyEditError> {
    let keys = read(text).map_err(KeyEditError::File)?;
    let found = keys
        .iter()
        .map(Spanned::get_ref)
        .find(|key| key.id.get_ref() == id);
    let key = found.ok_or(KeyEditError::Unknown)?;
    let mut changed = text.to_owned();
    if let Some(flag) = &key.revoked {
        changed.replace_range(flag.span(), "true");
    } else {
        let end = key.id.span().end;
        let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at);
        changed.insert_str(line_end, "\nrevoked = true");
    }
    let revoked = check_whole(&changed)
        .ok()
        .and_then(|file| file.keys.get(id).map(|key| key.revoked));
    if revoked == Some(true) {
        Ok(changed)
    } else {
        Err(KeyEditError::Unwritable)
    }
}

fn check_whole(text: &str) -> Result<KeyFile, KeyEditError> {
    KeyFile::parse(text).map_err(|mut wrong| KeyEditError::File(wrong.swap_remove(0)))
}
