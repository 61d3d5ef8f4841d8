//! Who the client says it is.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What is shown to the server with each connection. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A token or an API key.
    Token(String),
    /// A token in a file, which is read again for each connection, and when the server says that the token ends.
    TokenFile(TokenFile),
    /// A user with a password.
    User(String, String),
}

/// A file with a token, or an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenFile {
    path: PathBuf,
    /// As it was first: shown while the file cannot be read.
    first: String,
}

impl TokenFile {
    /// Reads it for the first time. An error if it has no token.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            first: read(path)?,
            path: path.to_owned(),
        })
    }

    /// The token that is in it now.
    pub(crate) fn token(&self) -> String {
        read(&self.path).unwrap_or_else(|_| self.first.clone())
    }
}

fn read(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let detail = "it has to have a token, on one line";
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    Ok(token.to_owned())
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
            Self::TokenFile(file) => format!("Bearer {}", file.token()),
            Self::User(user, password) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
        }
    }

    /// The user name, if there is one, and the password of an MQTT CONNECT.
    pub(crate) fn parts(&self) -> (Option<&str>, Cow<'_, str>) {
        match self {
            Self::Token(token) => (None, token.into()),
            Self::TokenFile(file) => (None, file.token().into()),
            Self::User(user, password) => (Some(user), password.into()),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}
