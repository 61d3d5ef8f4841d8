//! What remembered credentials are known by: digests that mean nothing outside this process.

use aws_lc_rs::hmac;

/// Stands for a credential.
pub type Digest = [u8; 32];

/// Makes digests.
#[derive(Clone)]
pub struct Seal(hmac::Key);

impl Seal {
    /// With a key that is drawn now.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The digest of these parts.
    pub fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            // The length keeps `ab` `c` and `a` `bc` apart.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}
