//! Who the client says it is.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What is shown to the server with each connection. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A token or an API key.
    Token(String),
    /// A user with a password.
    User(String, String),
}

impl Login {
    /// Reads `user:password`.
    pub fn user(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        Some(Self::User(user.to_owned(), password.to_owned()))
    }

    /// The value of `Authorization`.
    pub(crate) fn authorization(&self) -> String {
        match self {
            Self::Token(token) => format!("Bearer {token}"),
            Self::User(user, password) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
        }
    }

    /// The user name, if there is one, and the password of an MQTT CONNECT.
    pub(crate) fn parts(&self) -> (Option<&str>, &str) {
        match self {
            Self::Token(token) => (None, token),
            Self::User(user, password) => (Some(user), password),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}
