//! The admin listener's options.

use std::net::SocketAddr;

/// The `admin` options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOptions {
    /// Where it listens; `None` is nowhere.
    pub listen: Option<SocketAddr>,
    /// Where it listens with TLS; `None` is nowhere.
    pub tls: Option<SocketAddr>,
    /// A file with the token that it asks for.
    pub token_file: Option<String>,
    /// How much may be revoked at a time.
    pub revocations_max: usize,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self {
            listen: None,
            tls: None,
            token_file: None,
            revocations_max: 10_000,
        }
    }
}
