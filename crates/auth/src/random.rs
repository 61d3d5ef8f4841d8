//! Texts that nobody can guess.

use std::fmt;

use zeroize::Zeroizing;

use crate::secret::Secret;

/// Letters and digits: no word break in it, so that a double click selects a key.
pub(crate) const ALPHABET: &[u8; 62] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The machine's source of randomness failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the system gives no random bytes: check that /dev/urandom is there, and try again",
        )
    }
}

impl std::error::Error for NoRandomness {}

/// Random letters and digits, 5.95 bits each.
pub(crate) fn random_text(length: usize) -> Result<String, NoRandomness> {
    let mut text = String::with_capacity(length);
    let mut bytes = Zeroizing::new([0_u8; 64]);
    while text.len() < length {
        getrandom::fill(bytes.as_mut()).map_err(|_| NoRandomness)?;
        // 248 is 4 x 62: whatever is over it would make the first letters likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let letters = fair.map(|byte| char::from(ALPHABET[usize::from(*byte % 62)]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

/// A secret of 512 bits, long enough to sign tokens with HS512.
pub fn random_secret() -> Result<Secret, NoRandomness> {
    random_text(86).map(Secret::new)
}
