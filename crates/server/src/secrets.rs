//! `tidings passwd`, `tidings key` and `tidings token`: making what peers sign in with.
//!
//! Passwords come from standard input, never from an argument: other users of the machine see those.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tidings_auth::jwt::{Algorithm, KeyError, MintError, Minting, SigningKey, inspect, mint};
use tidings_auth::keys::{self, KeyEditError, NewKey};
use tidings_auth::passwords::{self, PasswordEditError};
use tidings_auth::{DenyText, GrantsText, NoRandomness, Secret, files, random_secret};
use tidings_ports::{Clock as _, SystemClock};
use tidings_types::Timestamp;

use crate::config::{millis, trim_line_end};

/// The longest text that is read from standard input.
const INPUT_BYTES_MAX: u64 = 64 << 10;

/// `tidings passwd`.
#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// The password file; it is made if it is not there
    pub file: PathBuf,
    /// The user, whose password is read from standard input
    pub user: String,
    /// Take the user out of the file
    #[arg(long)]
    pub delete: bool,
}

/// What a key or token grants.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Grant publishing to topics that match this; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub publish: Vec<String>,
    /// Grant subscribing to topics that match this; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub subscribe: Vec<String>,
    /// Deny both on topics that match this, whatever else is granted; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub deny: Vec<String>,
    /// How long it is good, as in 15m, 12h or 90d
    #[arg(long, value_name = "TIME")]
    pub expires_in: Option<String>,
}

/// `tidings key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key, add its hash to a file, and print it, once.
    New {
        /// The key file; it is made if it is not there
        file: PathBuf,
        /// The name of who gets it
        name: String,
        /// What it may do.
        #[command(flatten)]
        grants: GrantArgs,
    },
    /// Revoke an API key.
    Revoke {
        /// The key file
        file: PathBuf,
        /// The key's id: what is between the `_` of `tdg_<id>_..`
        id: String,
    },
}

/// `tidings token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Write a random secret that signs tokens to a new file.
    Secret {
        /// The file
        file: PathBuf,
    },
    /// Make a token (JWT) and print it.
    Mint(Box<MintArgs>),
    /// Print what a token says, without asking whether it is genuine.
    Inspect {
        /// The token; standard input if left out
        token: Option<String>,
    },
}

/// `tidings token mint`.
#[derive(Debug, Args)]
pub struct MintArgs {
    /// The name of who gets it (`sub`)
    pub subject: String,
    /// Sign with the secret in this file
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "private_key_file"
    )]
    pub secret_file: Option<PathBuf>,
    /// Sign with the private key in this PEM file
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "secret_file",
        requires = "algorithm"
    )]
    pub private_key_file: Option<PathBuf>,
    /// The algorithm; HS256 for a secret
    #[arg(long, value_name = "NAME")]
    pub algorithm: Option<String>,
    /// Who it is of (`iss`)
    #[arg(long)]
    pub issuer: Option<String>,
    /// Who it is for (`aud`); may be repeated
    #[arg(long)]
    pub audience: Vec<String>,
    /// What it may do.
    #[command(flatten)]
    pub grants: GrantArgs,
}

/// Why nothing was made.
#[derive(Debug)]
pub enum SecretsError {
    /// A file, or standard input.
    File(PathBuf, io::Error),
    /// The password file.
    Password(PasswordEditError),
    /// The key file.
    Key(KeyEditError),
    /// What signs.
    Signing(KeyError),
    /// The token.
    Token(MintError),
    /// No random numbers.
    Randomness(NoRandomness),
    /// Not a time.
    Time(String),
    /// Not an algorithm.
    Algorithm(String),
}

impl fmt::Display for SecretsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Password(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::Signing(error) => error.fmt(f),
            Self::Token(error) => error.fmt(f),
            Self::Randomness(error) => error.fmt(f),
            Self::Time(text) => write!(f, "`{text}` is not a time: write it as 15m, 12h or 90d"),
            Self::Algorithm(text) => {
                write!(
                    f,
                    "`{text}` is not an algorithm: use HS256, RS256, ES256 or EdDSA"
                )
            }
        }
    }
}

impl std::error::Error for SecretsError {}

/// Sets a user's password, or takes the user out. What to say of it.
pub fn passwd(args: &PasswdArgs) -> Result<String, SecretsError> {
    let text = read_if_there(&args.file)?;
    let (text, done) = if args.delete {
        let text = passwords::remove(&text, &args.user).map_err(SecretsError::Password)?;
        (text, "removed")
    } else {
        let password = ask_for_password()?;
        let (text, was_there) =
            passwords::set(&text, &args.user, &password).map_err(SecretsError::Password)?;
        (text, if was_there { "changed" } else { "added" })
    };
    replace(&args.file, &text)?;
    Ok(format!("{done}: {}\n", args.user))
}

/// Makes or revokes a key. What to print.
pub fn key(command: KeyCommand) -> Result<String, SecretsError> {
    match command {
        KeyCommand::New { file, name, grants } => {
            let now = SystemClock::default().now();
            let new = NewKey {
                name,
                expires: expires(&grants, now)?,
                grants: granted(grants),
            };
            let text = read_if_there(&file)?;
            let created = keys::create(&text, &new, now).map_err(SecretsError::Key)?;
            replace(&file, &created.text)?;
            Ok(line(&created.key))
        }
        KeyCommand::Revoke { file, id } => {
            let text = keys::revoke(&read_if_there(&file)?, &id).map_err(SecretsError::Key)?;
            replace(&file, &text)?;
            Ok(format!(
                "revoked: {id}; a running server takes it on SIGHUP\n"
            ))
        }
    }
}

/// Makes a token, or looks into one. What to print.
pub fn token(command: TokenCommand) -> Result<String, SecretsError> {
    match command {
        TokenCommand::Secret { file } => {
            if file.exists() {
                let error = io::ErrorKind::AlreadyExists.into();
                return Err(SecretsError::File(file, error));
            }
            let secret = random_secret().map_err(SecretsError::Randomness)?;
            replace(&file, &line(&secret))?;
            Ok(format!("written: {}\n", file.display()))
        }
        TokenCommand::Mint(args) => minted(*args),
        TokenCommand::Inspect { token } => {
            let token = match token {
                Some(token) => Secret::new(token),
                None => input()?,
            };
            let inspection = inspect(&token).map_err(SecretsError::Token)?;
            let parts = [&inspection.header, &inspection.claims];
            Ok(parts
                .map(|part| format!("{}\n", serde_json::Value::Object(part.clone())))
                .concat())
        }
    }
}

fn minted(args: MintArgs) -> Result<String, SecretsError> {
    let name = args.algorithm.as_deref().unwrap_or("HS256");
    let algorithm: Algorithm = name
        .parse()
        .map_err(|_| SecretsError::Algorithm(name.to_owned()))?;
    let path = args.secret_file.as_ref().or(args.private_key_file.as_ref());
    let path = path.map_or(Path::new(""), PathBuf::as_path);
    let content = fs::read(path).map_err(|error| SecretsError::File(path.to_owned(), error))?;
    let content = Secret::new(content);
    let key = if args.secret_file.is_some() {
        SigningKey::from_secret(&trim_line_end(&content), algorithm, None)
    } else {
        SigningKey::from_pem(&content, algorithm, None)
    };
    let key = key.map_err(SecretsError::Signing)?;
    let now = SystemClock::default().now();
    // A token that is good for ever cannot be taken back.
    let hour = now.plus(std::time::Duration::from_hours(1));
    let minting = Minting {
        subject: args.subject,
        issuer: args.issuer,
        audience: args.audience,
        issued: now,
        expires: Some(expires(&args.grants, now)?.unwrap_or(hour)),
        grants: granted(args.grants),
        grants_claim: "tidings".to_owned(),
        ..Minting::default()
    };
    mint(&key, &minting)
        .map(|token| line(&token))
        .map_err(SecretsError::Token)
}

fn expires(args: &GrantArgs, now: Timestamp) -> Result<Option<Timestamp>, SecretsError> {
    let Some(text) = &args.expires_in else {
        return Ok(None);
    };
    let span = millis(text).ok_or_else(|| SecretsError::Time(text.clone()))?;
    Ok(Some(now.plus(std::time::Duration::from_millis(span))))
}

fn granted(args: GrantArgs) -> GrantsText {
    GrantsText {
        publish: args.publish,
        subscribe: args.subscribe,
        deny: DenyText::Both(args.deny),
    }
}

fn line(secret: &Secret) -> String {
    format!("{}\n", secret.expose_text().unwrap_or_default())
}

fn read_if_there(path: &Path) -> Result<String, SecretsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(SecretsError::File(path.to_owned(), error)),
    }
}

fn replace(path: &Path, text: &str) -> Result<(), SecretsError> {
    files::replace(path, text).map_err(|error| SecretsError::File(path.to_owned(), error))
}

/// Standard input, without its line end.
fn input() -> Result<Secret, SecretsError> {
    let wrong = |error| SecretsError::File(PathBuf::from("standard input"), error);
    let mut bytes = Vec::new();
    if io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(wrong)?;
        bytes = line.into_bytes();
    } else {
        let mut limited = io::stdin().lock().take(INPUT_BYTES_MAX);
        limited.read_to_end(&mut bytes).map_err(wrong)?;
    }
    Ok(trim_line_end(&Secret::new(bytes)))
}

/// Reads a password, from a terminal without showing it.
fn ask_for_password() -> Result<Secret, SecretsError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return input();
    }
    let wrong =
        |error: rustix::io::Errno| SecretsError::File(PathBuf::from("the terminal"), error.into());
    eprint!("password: ");
    let shown = tcgetattr(&stdin).map_err(wrong)?;
    let mut hidden = shown.clone();
    hidden.local_modes -= LocalModes::ECHO;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(wrong)?;
    let password = input();
    tcsetattr(&stdin, OptionalActions::Flush, &shown).map_err(wrong)?;
    eprintln!();
    password
}
