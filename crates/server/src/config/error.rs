//! What an operator is told when the configuration is wrong: everything at once, each with the key, the value,
//! where it came from, why it is wrong and what to write instead.

use std::fmt;
use std::io;

use tidings_types::TopicError;

use super::acme::AcmeReason;
use super::layers::Source;
use super::url::UrlError;

/// Why one value was not taken.
#[derive(Debug)]
pub enum Reason {
    /// The file is not there, or cannot be read.
    Unreadable(io::Error),
    /// The file is not TOML.
    Syntax(String),
    /// No option has this name.
    UnknownKey {
        /// The option that was probably meant.
        nearest: Option<String>,
    },
    /// The value is of the wrong kind.
    WrongType {
        /// What may be written.
        expected: String,
    },
    /// The number is too small.
    TooSmall {
        /// The least.
        min: String,
    },
    /// The number is too large.
    TooLarge {
        /// The most.
        max: String,
    },
    /// Not an origin.
    NotAnOrigin {
        /// The text.
        text: String,
    },
    /// A retention rule's topics are no topic filter.
    NotAFilter(TopicError),
    /// What should be a topic is none.
    NotATopic(TopicError),
    /// A retention rule without topics.
    NoTopics,
    /// An earlier retention rule takes every topic of this one.
    NeverMatches {
        /// The earlier rule's topics.
        earlier: String,
    },
    /// Two flags set it.
    SetTwice {
        /// The other flag.
        other: String,
    },
    /// `--set` without `=`.
    NotAnAssignment,
    /// The environment variable is not UTF-8.
    NotUtf8,
    /// It must not be below another option.
    Below {
        /// The other option.
        other: &'static str,
        /// Its value.
        value: String,
        /// Where that came from.
        source: Source,
    },
    /// It must be above another option.
    NotAbove {
        /// The other option.
        other: &'static str,
        /// Its value.
        value: String,
        /// Where that came from.
        source: Source,
    },
    /// Two options name keys for tokens.
    OneKeyOnly,
    /// The file's content is not what the option takes.
    NotCredentials(Box<dyn std::error::Error + Send + Sync>),
    /// Not the address of a server that may be asked.
    BadUrl(UrlError),
    /// It goes with another option.
    Needs {
        /// Why.
        why: &'static str,
        /// What to set.
        option: &'static str,
    },
    /// A listener open to other machines without credentials.
    OpenToAnyone,
    /// An admin listener open to other machines without a token.
    AdminOpenToAnyone,
    /// A listener with TLS, and no certificate.
    NoCertificate,
    /// It does nothing without another option, which is not set.
    Without {
        /// That option.
        other: &'static str,
    },
    /// An option of automatic certificates does not go together with another one.
    Acme(AcmeReason),
    /// No listener at all.
    NothingListens,
    /// Another listener has the address.
    SameAddress {
        /// That listener.
        other: &'static str,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot read the file: {error}"),
            Self::Syntax(message) => write!(f, "not TOML: {message}"),
            Self::UnknownKey { .. } => f.write_str("there is no such option"),
            Self::WrongType { .. } => f.write_str("not a value that this option takes"),
            Self::TooSmall { min } => write!(f, "below the least value, {min}"),
            Self::TooLarge { max } => write!(f, "above the greatest value, {max}"),
            Self::NotAnOrigin { text } => write!(f, "`{text}` is not an origin"),
            Self::NotAFilter(error) | Self::NotATopic(error) => write!(f, "{error}"),
            Self::NoTopics => f.write_str("the rule does not say which topics it is for"),
            Self::NeverMatches { earlier } => {
                write!(
                    f,
                    "the rule never applies: `{earlier}` above it takes all of its topics"
                )
            }
            Self::SetTwice { other } => write!(f, "set twice, also by {other}"),
            Self::NotAnAssignment => f.write_str("not an assignment"),
            Self::NotUtf8 => f.write_str("the value is not UTF-8"),
            Self::Below {
                other,
                value,
                source,
            } => {
                write!(f, "below {other}, which is {value} ({source})")
            }
            Self::NotAbove {
                other,
                value,
                source,
            } => {
                write!(f, "not above {other}, which is {value} ({source})")
            }
            Self::OneKeyOnly => {
                f.write_str("tokens are verified with one of secret, public key and JWKS document")
            }
            Self::NotCredentials(error) => write!(f, "cannot take the file: {error}"),
            Self::BadUrl(error) => write!(f, "{error}"),
            Self::Needs { why, .. } => f.write_str(why),
            Self::OpenToAnyone => f.write_str(
                "refused: other machines can reach this address, and no credentials are configured",
            ),
            Self::AdminOpenToAnyone => f.write_str(
                "refused: other machines can reach this address, and there is no token for it",
            ),
            Self::NoCertificate => f.write_str("TLS needs a certificate, and there is none"),
            Self::Without { other } => {
                write!(f, "this does nothing without {other}, which is not set")
            }
            Self::Acme(reason) => write!(f, "{reason}"),
            Self::NothingListens => f.write_str("nothing would listen"),
            Self::SameAddress { other } => write!(f, "{other} has the same address"),
        }
    }
}

impl Reason {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable(_) => "check the path and who may read it".to_owned(),
            Self::Syntax(_) => "see `tidings serve --print-config` for a file that parses".to_owned(),
            Self::UnknownKey { nearest: Some(name) } => format!("did you mean `{name}`?"),
            Self::UnknownKey { nearest: None } => {
                "`tidings serve --print-config` lists every option".to_owned()
            }
            Self::WrongType { expected } => format!("write {expected}"),
            Self::TooSmall { min } => format!("write at least {min}"),
            Self::TooLarge { max } => format!("write at most {max}"),
            Self::NotAnOrigin { .. } => {
                "write scheme, host and port and nothing behind them: https://app.example:8443".to_owned()
            }
            Self::NotAFilter(_) | Self::NotATopic(_) | Self::NotCredentials(_) | Self::BadUrl(_) => {
                return None;
            }
            Self::Needs { option, .. } => format!("set {option}"),
            Self::NoTopics => r#"add topics = "chat/#""#.to_owned(),
            Self::NeverMatches { .. } => "remove it, or move it above the other rule".to_owned(),
            Self::SetTwice { .. } => "keep one of them".to_owned(),
            Self::NotAnAssignment => "write --set key=value".to_owned(),
            Self::NotUtf8 => "write it as UTF-8".to_owned(),
            Self::Below { other, value, .. } => {
                format!("write at least {value}, or lower {other}")
            }
            Self::NotAbove { other, value, .. } => {
                format!("write more than {value}, or lower {other}")
            }
            Self::OpenToAnyone => {
                "listen on 127.0.0.1 behind a proxy, configure credentials (auth.passwords_file, auth.keys_file, auth.jwt_secret_file, auth.oidc_issuer or another of the section auth), or let anyone in with server.allow_anonymous = true (--allow-anonymous)".to_owned()
            }
            Self::AdminOpenToAnyone => {
                "make a token with `tidings token secret FILE` and set admin.token_file, or listen on 127.0.0.1".to_owned()
            }
            Self::NoCertificate => {
                "name the files with tls.certificates (--tls-cert cert.pem:key.pem), or let one be issued with tls.acme_domains (--acme push.example.org)".to_owned()
            }
            Self::Without { other } => format!("set {other}, or leave this away"),
            Self::OneKeyOnly => "set one of auth.jwt_secret_file, auth.jwt_public_key_file and auth.jwt_jwks_file".to_owned(),
            Self::Acme(reason) => reason.hint(),
            Self::NothingListens => "give http.listen, mqtt.listen or stomp.listen an address".to_owned(),
            Self::SameAddress { .. } => "give it another port".to_owned(),
        })
    }
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct ConfigError {
    /// The option, or what else was named.
    pub key: String,
    /// The value as TOML, if there is one.
    pub value: Option<String>,
    /// Where it was given.
    pub source: Source,
    /// Why it was not taken.
    pub reason: Reason,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}", self.key)?,
            None => f.write_str(&self.key)?,
        }
        write!(f, "  ({})\n    {}", self.source, self.reason)?;
        match self.reason.hint() {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Unreadable(error) => Some(error),
            Reason::NotAFilter(error) | Reason::NotATopic(error) => Some(error),
            _ => None,
        }
    }
}

/// Everything that is wrong with a configuration; at least one thing.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has an error:")?,
            count => write!(f, "the configuration has {count} errors:")?,
        }
        for error in &self.0 {
            write!(f, "\n\n  {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
