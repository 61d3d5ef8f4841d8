//! Which other servers are asked who peers are and what they may do: the `auth` options for that, checked.

use std::fs;
use std::time::Duration;

use tidings_auth::Secret;

use super::auth::{Wrong, trim_line_end};
use super::error::Reason;
use super::url::ServerUrl;

/// The sources, in the order in which they are asked where `auth.order` does not say otherwise: what is known here
/// before what somebody else knows.
pub const SOURCES: &[&str] = &["key", "jwt", "jwks", "password", "introspection", "callout"];

/// The options as they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// The order of the sources.
    pub order: Vec<String>,
    /// Where an issuer's keys are.
    pub jwks_url: Option<String>,
    /// An `OpenID` issuer, who says where its keys are.
    pub oidc_issuer: Option<String>,
    /// The longest that keys are used without asking for newer ones.
    pub jwks_age_max: Duration,
    /// The shortest between two requests for keys that a token asks for.
    pub jwks_refetch: Duration,
    /// Where tokens are introspected.
    pub introspection_url: Option<String>,
    /// Who this server is there.
    pub introspection_client_id: Option<String>,
    /// A file with its secret there.
    pub introspection_client_secret_file: Option<String>,
    /// The longest that an answer is taken for the same token.
    pub introspection_cache_max: Duration,
    /// Where the backend says who a peer is.
    pub callout_connect_url: Option<String>,
    /// Where the backend says what a peer may do.
    pub callout_permission_url: Option<String>,
    /// A file with a token that the backend knows this server by.
    pub callout_token_file: Option<String>,
    /// The longest that the backend may take.
    pub callout_time_max: Duration,
    /// The longest that an issuer may take.
    pub time_max: Duration,
    /// Authorities to trust besides the system's.
    pub ca_file: Option<String>,
    /// Whether other machines are asked without TLS.
    pub http_insecure: bool,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            order: SOURCES.iter().map(|&name| name.to_owned()).collect(),
            jwks_url: None,
            oidc_issuer: None,
            jwks_age_max: Duration::from_hours(1),
            jwks_refetch: Duration::from_secs(10),
            introspection_url: None,
            introspection_client_id: None,
            introspection_client_secret_file: None,
            introspection_cache_max: Duration::from_secs(30),
            callout_connect_url: None,
            callout_permission_url: None,
            callout_token_file: None,
            callout_time_max: Duration::from_secs(3),
            time_max: Duration::from_secs(5),
            ca_file: None,
            http_insecure: false,
        }
    }
}

/// Where an issuer's keys are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysPlace {
    /// Here.
    Jwks(ServerUrl),
    /// Where the issuer's discovery document says.
    Issuer {
        /// Its name.
        issuer: String,
        /// Its discovery document.
        document: ServerUrl,
    },
}

/// Keys of an issuer that are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysPlan {
    /// From where.
    pub place: KeysPlace,
    /// The longest that they are used without asking for newer ones.
    pub age_max: Duration,
    /// The shortest between two requests that tokens ask for.
    pub refetch: Duration,
    /// Whether the issuer's keys may be asked for without TLS.
    pub insecure: bool,
}

/// A server that introspects tokens.
#[derive(Clone, Debug)]
pub struct IntrospectionPlan {
    /// Where.
    pub url: ServerUrl,
    /// Who this server is there, and its secret.
    pub client: Option<(String, Secret)>,
    /// The longest that an answer is taken for the same token.
    pub cache_max: Duration,
}

/// The user's backend.
#[derive(Clone, Debug)]
pub struct CalloutPlan {
    /// Where.
    pub url: ServerUrl,
    /// What it knows this server by.
    pub token: Option<Secret>,
}

/// Everybody who is asked.
#[derive(Clone, Debug, Default)]
pub struct RemotePlan {
    /// For keys.
    pub keys: Option<KeysPlan>,
    /// For tokens.
    pub introspection: Option<IntrospectionPlan>,
    /// For credentials.
    pub connect: Option<CalloutPlan>,
    /// For permissions.
    pub permission: Option<CalloutPlan>,
    /// The content of the file with authorities.
    pub ca: Option<Vec<u8>>,
    /// The longest that an issuer may take.
    pub time_max: Duration,
    /// The longest that the backend may take.
    pub callout_time_max: Duration,
}

impl RemotePlan {
    /// Whether anybody is asked.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.keys.is_some()
            || self.introspection.is_some()
            || self.connect.is_some()
            || self.permission.is_some()
    }
}

impl RemoteOptions {
    /// Whether credentials are checked by asking somebody.
    #[must_use]
    pub fn has_source(&self) -> bool {
        self.jwks_url.is_some()
            || self.oidc_issuer.is_some()
            || self.introspection_url.is_some()
            || self.callout_connect_url.is_some()
    }

    /// Which source comes before which: its place in the order, or behind it.
    #[must_use]
    pub fn place_of(&self, source: &str) -> usize {
        let ordered = self.order.iter().position(|name| name == source);
        ordered.unwrap_or_else(|| {
            let usual = SOURCES.iter().position(|name| *name == source);
            self.order.len() + usual.unwrap_or(SOURCES.len())
        })
    }

    /// Checks the options, and reads the files. On error, everything that is wrong.
    pub fn plan(&self, audience: Option<&str>, is_guarded: bool) -> Result<RemotePlan, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let ca = self
            .ca_file
            .as_deref()
            .and_then(|path| taken(&mut wrong, "auth.remote_ca_file", authorities(path)));
        let plan = RemotePlan {
            keys: self.keys(audience, &mut wrong),
            introspection: self.introspection(&mut wrong),
            connect: self.callout(
                "auth.callout_connect_url",
                self.callout_connect_url.as_deref(),
                &mut wrong,
            ),
            permission: self.callout(
                "auth.callout_permission_url",
                self.callout_permission_url.as_deref(),
                &mut wrong,
            ),
            ca,
            time_max: self.time_max,
            callout_time_max: self.callout_time_max,
        };
        if plan.permission.is_some() && !is_guarded {
            let why = "nobody says who peers are, so there is nobody to ask about";
            wrong.push(("auth.callout_permission_url", Reason::Needs { why, option: "a source of credentials (auth.callout_connect_url, auth.keys_file, auth.jwt_jwks_url)" }));
        }
        if wrong.is_empty() {
            Ok(plan)
        } else {
            Err(wrong)
        }
    }

    fn keys(&self, audience: Option<&str>, wrong: &mut Vec<Wrong>) -> Option<KeysPlan> {
        let place = match (&self.jwks_url, &self.oidc_issuer) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                let why = "the issuer says itself where its keys are (auth.oidc_issuer)";
                wrong.push((
                    "auth.jwt_jwks_url",
                    Reason::Needs {
                        why,
                        option: "one of the two",
                    },
                ));
                return None;
            }
            (Some(url), None) => {
                let url = ServerUrl::parse(url, self.http_insecure).map_err(Reason::BadUrl);
                KeysPlace::Jwks(taken(wrong, "auth.jwt_jwks_url", url)?)
            }
            (None, Some(issuer)) => {
                // OpenID Connect Discovery 1.0, 4.1: a slash at the end is not doubled.
                let document = format!(
                    "{}/.well-known/openid-configuration",
                    issuer.trim_end_matches('/')
                );
                let document =
                    ServerUrl::parse(&document, self.http_insecure).map_err(Reason::BadUrl);
                if audience.is_none() {
                    let why =
                        "an issuer has tokens for others too, and each of them could be used here";
                    wrong.push((
                        "auth.oidc_issuer",
                        Reason::Needs {
                            why,
                            option: "auth.jwt_audience",
                        },
                    ));
                }
                KeysPlace::Issuer {
                    issuer: issuer.clone(),
                    document: taken(wrong, "auth.oidc_issuer", document)?,
                }
            }
        };
        Some(KeysPlan {
            place,
            age_max: self.jwks_age_max,
            refetch: self.jwks_refetch,
            insecure: self.http_insecure,
        })
    }

    fn introspection(&self, wrong: &mut Vec<Wrong>) -> Option<IntrospectionPlan> {
        let url = self.introspection_url.as_deref()?;
        let url = ServerUrl::parse(url, self.http_insecure).map_err(Reason::BadUrl);
        let url = taken(wrong, "auth.introspection_url", url);
        let client = match (
            &self.introspection_client_id,
            &self.introspection_client_secret_file,
        ) {
            (Some(id), Some(path)) => {
                let key = "auth.introspection_client_secret_file";
                taken(wrong, key, secret(path)).map(|secret| (id.clone(), secret))
            }
            (None, None) => None,
            (Some(_), None) => {
                let why = "the client has a name and no secret";
                let option = "auth.introspection_client_secret_file";
                wrong.push((
                    "auth.introspection_client_id",
                    Reason::Needs { why, option },
                ));
                None
            }
            (None, Some(_)) => {
                let (why, option) = (
                    "the client has a secret and no name",
                    "auth.introspection_client_id",
                );
                wrong.push((
                    "auth.introspection_client_secret_file",
                    Reason::Needs { why, option },
                ));
                None
            }
        };
        Some(IntrospectionPlan {
            url: url?,
            client,
            cache_max: self.introspection_cache_max,
        })
    }

    fn callout(
        &self,
        key: &'static str,
        url: Option<&str>,
        wrong: &mut Vec<Wrong>,
    ) -> Option<CalloutPlan> {
        let url = ServerUrl::parse(url?, self.http_insecure).map_err(Reason::BadUrl);
        let token = self.callout_token_file.as_deref();
        let token = token.and_then(|path| taken(wrong, "auth.callout_token_file", secret(path)));
        Some(CalloutPlan {
            url: taken(wrong, key, url)?,
            token,
        })
    }
}

fn taken<T>(wrong: &mut Vec<Wrong>, key: &'static str, read: Result<T, Reason>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(reason) => {
            // Two options may name one file.
            if wrong.iter().all(|(other, _)| *other != key) {
                wrong.push((key, reason));
            }
            None
        }
    }
}

/// A secret of one line that can stand in a header.
fn secret(path: &str) -> Result<Secret, Reason> {
    let secret = fs::read(path)
        .map(Secret::new)
        .map_err(Reason::Unreadable)?;
    let secret = trim_line_end(&secret);
    let is_line =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if secret.expose_text().is_some_and(is_line) {
        Ok(secret)
    } else {
        Err(Reason::WrongType {
            expected: "a secret of one line of printable ASCII into the file".to_owned(),
        })
    }
}

fn authorities(path: &str) -> Result<Vec<u8>, Reason> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let pem = fs::read(path).map_err(Reason::Unreadable)?;
    let mut roots = rustls::RootCertStore::empty();
    let good =
        CertificateDer::pem_slice_iter(&pem).all(|it| it.is_ok_and(|it| roots.add(it).is_ok()));
    if good && !roots.is_empty() {
        Ok(pem)
    } else {
        Err(Reason::WrongType {
            expected: "the certificates of authorities, in PEM, into the file".to_owned(),
        })
    }
}
