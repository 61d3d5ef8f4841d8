//! Enhanced authentication (5.0, 4.12): in the CONNECT, and again on an open connection, so that a client's
//! credential can be renewed without a new connection.
//!
//! Each method is one step of the client: its data is a credential, which the hub judges. A client that names a method
//! and sends no data is asked for them.

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{Credential, Secret};

use super::codec::{Auth, Authentication, Diagnostics, ReasonCode};

/// What a client's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// A token or a key, as it is.
    Bearer,
    /// The same, by the names that Azure Event Grid has for it.
    OAuth2Jwt,
    /// See there.
    CustomJwt,
    /// A token as SASL frames it (RFC 7628).
    OAuthBearer,
    /// A user and a password (RFC 4616).
    Plain,
}

impl Method {
    const ALL: [Self; 5] = [
        Self::Bearer,
        Self::OAuth2Jwt,
        Self::CustomJwt,
        Self::OAuthBearer,
        Self::Plain,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "BEARER",
            Self::OAuth2Jwt => "OAUTH2-JWT",
            Self::CustomJwt => "CUSTOM-JWT",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::Plain => "PLAIN",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The credential in a client's data, if they are of the method's form.
    fn credential(self, data: &[u8]) -> Option<Credential> {
        match self {
            Self::Bearer | Self::OAuth2Jwt | Self::CustomJwt => {
                (!data.is_empty()).then(|| Credential::Bearer(Secret::new(data)))
            }
            Self::OAuthBearer => oauth_bearer(data),
            Self::Plain => plain(data),
        }
    }
}

/// `n,a=user,` 0x01 `auth=Bearer` space, token, 0x01 0x01, with more pairs between the 0x01 (RFC 7628, 3.1). The token
/// says who the user is: `a=` is not looked at.
fn oauth_bearer(data: &[u8]) -> Option<Credential> {
    let text = std::str::from_utf8(data).ok()?;
    let (gs2, pairs) = text.split_once('\x01')?;
    // Without channel binding (RFC 5801, 4).
    let authzid = gs2.strip_prefix("n,").or_else(|| gs2.strip_prefix("y,"))?;
    let authzid = authzid.strip_suffix(',')?;
    let mut shown = pairs
        .strip_suffix("\x01\x01")?
        .split('\x01')
        .filter_map(|pair| pair.strip_prefix("auth="));
    let (Some(value), None) = (shown.next(), shown.next()) else {
        return None;
    };
    let (scheme, token) = value.split_once(' ')?;
    let is_good = (authzid.is_empty() || authzid.starts_with("a="))
        && scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty();
    is_good.then(|| Credential::Bearer(Secret::from(token)))
}

/// Whom to act for, user and password, with NUL between them (RFC 4616, 2). Nobody acts for another.
fn plain(data: &[u8]) -> Option<Credential> {
    let text = std::str::from_utf8(data).ok()?;
    let mut parts = text.split('\0');
    let (acted, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let is_good = parts.next().is_none() && (acted.is_empty() || acted == user);
    is_good.then(|| Credential::Password {
        user: user.to_owned(),
        password: Secret::from(password),
    })
}

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The client is asked for its data.
    Asked,
    /// The hub judges them.
    Judged,
    /// The client is who it says; it may begin anew.
    Done,
}

/// What to do after a client's packet.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Send this and wait.
    Challenge(Auth),
    /// Have this judged.
    Judge(Credential),
    /// It failed.
    Failed(ReasonCode),
}

/// The authentication of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// As the CONNECT named it; every AUTH names it again (MQTT-4.12.0-5).
    method: Method,
    step: Step,
}

impl Exchange {
    /// Begins with what a CONNECT says.
    pub(super) fn begin(first: &Authentication) -> Result<(Self, Outcome), ReasonCode> {
        let method = Method::of(&first.method).ok_or(ReasonCode::BadAuthenticationMethod)?;
        let step = Step::Done;
        let mut exchange = Self { method, step };
        let outcome = exchange.step(first.data.as_ref(), true);
        Ok((exchange, outcome))
    }

    /// Takes a client's AUTH.
    pub(super) fn take(&mut self, auth: &Auth) -> Outcome {
        let data = auth.authentication.data.as_ref();
        let is_same = auth.authentication.method == self.method.name();
        match (auth.reason, self.step) {
            (ReasonCode::Reauthenticate, Step::Done) if is_same => self.step(data, true),
            (ReasonCode::ContinueAuthentication, Step::Asked) if is_same => self.step(data, false),
            _ => Outcome::Failed(ReasonCode::ProtocolError),
        }
    }

    /// The client is who it says: what stands in the CONNACK, or in an AUTH.
    pub(super) fn done(&mut self) -> Authentication {
        self.step = Step::Done;
        self.answer()
    }

    fn answer(self) -> Authentication {
        Authentication {
            method: ByteString::from_static(self.method.name()),
            data: None,
        }
    }

    fn step(&mut self, data: Option<&Bytes>, may_ask: bool) -> Outcome {
        let Some(data) = data else {
            if !may_ask {
                return Outcome::Failed(ReasonCode::NotAuthorized);
            }
            self.step = Step::Asked;
            return Outcome::Challenge(Auth {
                reason: ReasonCode::ContinueAuthentication,
                authentication: self.answer(),
                diagnostics: Diagnostics::default(),
            });
        };
        self.step = Step::Judged;
        match self.method.credential(data) {
            Some(credential) => Outcome::Judge(credential),
            None => Outcome::Failed(ReasonCode::NotAuthorized),
        }
    }
}
