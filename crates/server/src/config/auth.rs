//! Who may come in: the `auth` options, and what their files come to.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tidings_auth::files::AtLine;
use tidings_auth::jwt::{Algorithm, Jwt, JwtRules, KeyError, KeySet, VerifyingKey};
use tidings_auth::keys::KeyFile;
use tidings_auth::passwords::PasswordFile;
use tidings_auth::{Authenticator, Permissions, Secret, Source};

use super::error::Reason;
use super::remote::{RemoteOptions, RemotePlan};

/// The algorithms that a public key is tried for: it fits one kind of them.
const PUBLIC: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Which name in a client certificate says whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None: certificates say nothing of who a peer is.
    #[default]
    Off,
    /// The common name of the subject (RFC 5280, 4.1.2.6).
    SubjectCn,
    /// The alternative name that is a host (RFC 5280, 4.2.1.6).
    SanDns,
    /// The alternative name that is an address of mail.
    SanEmail,
    /// The alternative name that is a URI.
    SanUri,
}

/// The `auth` options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthOptions {
    /// A password file.
    pub passwords_file: Option<String>,
    /// A file of API keys.
    pub keys_file: Option<String>,
    /// A file with a secret that signs tokens.
    pub jwt_secret_file: Option<String>,
    /// A PEM file with a public key whose other half signs tokens.
    pub jwt_public_key_file: Option<String>,
    /// A JWKS document.
    pub jwt_jwks_file: Option<String>,
    /// The algorithm of the secret, or of the public key.
    pub jwt_algorithm: Option<String>,
    /// The accepted `iss`.
    pub jwt_issuer: Option<String>,
    /// The accepted `aud`.
    pub jwt_audience: Option<String>,
    /// How wrong the clocks may be.
    pub jwt_leeway: Duration,
    /// Who else is asked.
    pub remote: RemoteOptions,
    /// A permission file.
    pub permissions_file: Option<String>,
    /// Whether, and by which name, client certificates say who peers are.
    pub client_certificates: ClientCertificates,
    /// Whether peers without a credential are let in where there are sources.
    pub anonymous: bool,
    /// The cookie that may have a token or a key.
    pub cookie: Option<String>,
    /// How long before its credential ends a peer is told, or half of its time if that is less; 0 is never.
    pub expiry_notice_ms: u64,
    /// Failed logins from one address that cost it nothing; 0 never slows down.
    pub failures_max: u32,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            passwords_file: None,
            keys_file: None,
            jwt_secret_file: None,
            jwt_public_key_file: None,
            jwt_jwks_file: None,
            jwt_algorithm: None,
            jwt_issuer: None,
            jwt_audience: None,
            jwt_leeway: JwtRules::default().leeway,
            remote: RemoteOptions::default(),
            permissions_file: None,
            client_certificates: ClientCertificates::Off,
            anonymous: false,
            cookie: None,
            expiry_notice_ms: 60_000,
            failures_max: 5,
        }
    }
}

/// What is wrong with an option, or with the file that it names.
pub type Wrong = (&'static str, Reason);

impl AuthOptions {
    /// Whether there is something to check credentials against.
    #[must_use]
    pub fn has_source(&self) -> bool {
        self.passwords_file.is_some()
            || self.keys_file.is_some()
            || self.has_jwt()
            || self.client_certificates != ClientCertificates::Off
            || self.remote.has_source()
    }

    fn has_jwt(&self) -> bool {
        self.jwt_secret_file.is_some()
            || self.jwt_public_key_file.is_some()
            || self.jwt_jwks_file.is_some()
    }

    /// Reads the files. On error, everything that is wrong with them.
    pub fn authenticator(&self) -> Result<Authenticator, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        // Keys and tokens are known by their shape, so a password is looked up last.
        if let Some(path) = &self.keys_file {
            match parse("auth.keys_file", path, KeyFile::parse) {
                Ok(keys) => sources.push(Box::new(keys)),
                Err(errors) => wrong.extend(errors),
            }
        }
        match self.jwt() {
            Ok(jwt) => sources.extend(jwt.map(|jwt| Box::new(jwt) as Box<dyn Source>)),
            Err(errors) => wrong.extend(errors),
        }
        if let Some(path) = &self.passwords_file {
            match parse("auth.passwords_file", path, PasswordFile::parse) {
                Ok(users) => sources.push(Box::new(users)),
                Err(errors) => wrong.extend(errors),
            }
        }
        let mut permissions = Permissions::default();
        if let Some(path) = &self.permissions_file {
            match parse("auth.permissions_file", path, Permissions::parse) {
                Ok(read) => permissions = read,
                Err(errors) => wrong.extend(errors),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        // Without a source nobody could show anything that is believed.
        let anonymous = self.anonymous || !self.has_source();
        Ok(Authenticator {
            sources,
            certificates: self.client_certificates != ClientCertificates::Off,
            permissions,
            anonymous,
            ..Authenticator::default()
        })
    }

    fn jwt(&self) -> Result<Option<Jwt>, Vec<Wrong>> {
        let given: Vec<(&'static str, &String)> = [
            ("auth.jwt_secret_file", &self.jwt_secret_file),
            ("auth.jwt_public_key_file", &self.jwt_public_key_file),
            ("auth.jwt_jwks_file", &self.jwt_jwks_file),
        ]
        .into_iter()
        .filter_map(|(key, path)| Some((key, path.as_ref()?)))
        .collect();
        let [(key, path)] = given[..] else {
            return match given.first() {
                None => Ok(None),
                Some((key, _)) => Err(vec![(*key, Reason::OneKeyOnly)]),
            };
        };
        let one = |reason| vec![(key, reason)];
        let content = fs::read(path).map(Secret::new);
        let content = content.map_err(|error| one(Reason::Unreadable(error)))?;
        let algorithm = self.algorithm()?;
        let keys = match key {
            "auth.jwt_secret_file" => secret_key(&content, algorithm),
            "auth.jwt_public_key_file" => public_key(content.expose(), algorithm),
            _ => KeySet::from_jwks(content.expose()).map(|jwks| jwks.keys),
        };
        let keys = keys.map_err(|error| one(Reason::NotCredentials(Box::new(error))))?;
        let rules = self.rules(self.jwt_issuer.as_ref());
        Ok(Some(Jwt { keys, rules }))
    }

    fn rules(&self, issuer: Option<&String>) -> JwtRules {
        JwtRules {
            issuers: issuer.into_iter().cloned().collect(),
            audiences: self.jwt_audience.iter().cloned().collect(),
            leeway: self.jwt_leeway,
            ..JwtRules::default()
        }
    }

    /// What is asked of the claims of tokens that other servers vouch for.
    #[must_use]
    pub fn remote_rules(&self) -> JwtRules {
        self.rules(
            self.remote
                .oidc_issuer
                .as_ref()
                .or(self.jwt_issuer.as_ref()),
        )
    }

    /// Who else is asked. On error, everything that is wrong with the options.
    pub fn remote(&self) -> Result<RemotePlan, Vec<Wrong>> {
        let is_guarded = self.has_source() || self.permissions_file.is_some();
        self.remote.plan(self.jwt_audience.as_deref(), is_guarded)
    }

    fn algorithm(&self) -> Result<Option<Algorithm>, Vec<Wrong>> {
        let parsed = self.jwt_algorithm.as_deref().map(str::parse).transpose();
        parsed.map_err(|_| {
            let expected = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA";
            let reason = Reason::WrongType {
                expected: expected.to_owned(),
            };
            vec![("auth.jwt_algorithm", reason)]
        })
    }
}

/// A secret without the line end that editors and `echo` put behind it.
#[must_use]
pub fn trim_line_end(secret: &Secret) -> Secret {
    let bytes = secret.expose();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    Secret::new(bytes.strip_suffix(b"\r").unwrap_or(bytes))
}

fn secret_key(secret: &Secret, algorithm: Option<Algorithm>) -> Result<KeySet, KeyError> {
    let algorithm = algorithm.unwrap_or(Algorithm::HS256);
    let key = VerifyingKey::from_secret(&trim_line_end(secret), algorithm, None)?;
    KeySet::new(vec![key])
}

fn public_key(pem: &[u8], algorithm: Option<Algorithm>) -> Result<KeySet, KeyError> {
    let read = |algorithm| VerifyingKey::from_pem(pem, algorithm, None);
    let key = match algorithm {
        Some(algorithm) => read(algorithm)?,
        None => PUBLIC
            .into_iter()
            .find_map(|algorithm| read(algorithm).ok())
            .ok_or(KeyError::Pem(Algorithm::RS256))?,
    };
    KeySet::new(vec![key])
}

fn parse<T, E: std::error::Error + Send + Sync + 'static>(
    key: &'static str,
    path: &str,
    parse: impl Fn(&str) -> Result<T, Vec<AtLine<E>>>,
) -> Result<T, Vec<Wrong>> {
    let text = fs::read_to_string(Path::new(path))
        .map_err(|error| vec![(key, Reason::Unreadable(error))])?;
    parse(&text).map_err(|errors| {
        let wrong = |error| (key, Reason::NotCredentials(Box::new(error)));
        errors.into_iter().map(wrong).collect()
    })
}
