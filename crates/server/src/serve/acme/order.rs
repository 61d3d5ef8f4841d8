//! One order, from the account to the certificate (RFC 8555, 7).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account as Session, AccountCredentials, AuthorizationStatus, ChallengeHandle, ChallengeType,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::challenges::{Proof, Showing, Shown, proof};
use super::held::{Held, Unfit};
use super::store::{Account, StoreError};
use super::web::{Web, WebError};
use super::{Acme, Outcome};
use crate::config::AcmeSettings;
use crate::serve::tls::{TlsError, read};

/// How often the authority is asked whether it is done, at first twice a second.
const ASKING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_mins(2));

/// Characters that are told of what the authority says.
const TOLD_MAX: usize = 2_000;

/// Why there is no certificate.
#[derive(Debug)]
pub enum OrderError {
    /// The authority said no, or nothing that makes sense.
    Acme(instant_acme::Error),
    /// It offers no challenge of the kind.
    NotOffered {
        /// For this name.
        domain: String,
        /// What was wanted.
        proof: Proof,
    },
    /// It did not find the names at this server.
    NotProved(Vec<String>),
    /// It took too long.
    TooSlow,
    /// A file of the options.
    File(TlsError),
    /// A file of our own.
    Store(StoreError),
    /// A key, a request or a challenge's certificate could not be made.
    NotMade(rcgen::Error),
    /// A challenge could not be shown.
    NotShown(rustls::Error),
    /// What was issued is of no use.
    Unfit(Unfit),
    /// The runtime ends.
    Ending,
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acme(instant_acme::Error::Api(problem)) => f.write_str(&told(problem)),
            Self::Acme(error) => write!(f, "{error}"),
            Self::NotOffered { domain, proof } => {
                let proof = proof.name();
                write!(
                    f,
                    "the authority does not offer {proof} for {domain} (tls.acme_challenge)"
                )
            }
            Self::NotProved(reasons) if reasons.is_empty() => f.write_str(
                "the authority did not find the names at this server, and does not say why",
            ),
            Self::NotProved(reasons) => f.write_str(&reasons.join("; ")),
            Self::TooSlow => f.write_str("the authority takes too long"),
            Self::File(error) => write!(f, "{error}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::NotMade(error) => write!(f, "{error}"),
            Self::NotShown(error) => write!(f, "a challenge cannot be shown: {error}"),
            Self::Unfit(unfit) => write!(f, "what was issued is of no use: {unfit}"),
            Self::Ending => f.write_str("the server goes down"),
        }
    }
}

impl std::error::Error for OrderError {}

impl OrderError {
    /// What it counts as.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Acme(instant_acme::Error::Other(error)) if error.is::<WebError>() => {
                Outcome::Unreachable
            }
            Self::Acme(_) | Self::NotOffered { .. } | Self::NotProved(_) | Self::TooSlow => {
                Outcome::Refused
            }
            Self::File(_)
            | Self::Store(_)
            | Self::NotMade(_)
            | Self::NotShown(_)
            | Self::Unfit(_)
            | Self::Ending => Outcome::Failed,
        }
    }
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        Self::Acme(error)
    }
}

/// What the authority says (RFC 8555, 6.7).
fn told(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let detail = problem.detail.as_deref().unwrap_or("no detail");
    let mut texts = vec![format!("{detail} ({kind})")];
    texts.extend(problem.subproblems.iter().map(ToString::to_string));
    // It goes into the log as it is.
    let text = texts.join("; ");
    text.chars()
        .filter(|c| !c.is_control())
        .take(TOLD_MAX)
        .collect()
}

/// Gets a certificate, and keeps it. It is not held yet.
pub async fn certificate(
    acme: &Arc<Acme>,
    settings: &AcmeSettings,
    web: &Web,
) -> Result<Held, OrderError> {
    let identifiers = settings.domains.iter().cloned().map(Identifier::Dns);
    let identifiers: Vec<_> = identifiers.collect();
    let wanted = NewOrder::new(&identifiers);
    let session = known(acme, settings, web).await?;
    let mut order = match session.new_order(&wanted).await {
        Err(instant_acme::Error::Api(problem)) if is_unknown_account(&problem) => {
            tracing::warn!(
                "the certificate authority does not know the account: another one is made"
            );
            on_disk(acme, settings, |acme, settings| {
                acme.store.forget_account(settings)
            })
            .await?;
            register(acme, settings, web)
                .await?
                .new_order(&wanted)
                .await?
        }
        order => order?,
    };
    let showing = acme.challenges.show();
    prove(&mut order, acme.proof(settings), &showing).await?;
    drop(showing);
    let key = KeyPair::generate().map_err(OrderError::NotMade)?;
    order
        .finalize_csr(&request(settings, &key).map_err(OrderError::NotMade)?)
        .await?;
    let chain = order.poll_certificate(&ASKING).await?;
    let text = key.serialize_pem() + &chain;
    let held = Held::from_pem(text.as_bytes(), settings).map_err(OrderError::Unfit)?;
    let kept = on_disk(acme, settings, move |acme, settings| {
        acme.store.keep_certificate(settings, &text)
    });
    if let Err(error) = kept.await {
        // It is good for as long as the server runs.
        tracing::error!(%error, "the certificate could not be stored");
    }
    Ok(held)
}

/// Runs something that reads or writes files.
async fn on_disk<T: Send + 'static>(
    acme: &Arc<Acme>,
    settings: &AcmeSettings,
    work: impl FnOnce(&Acme, &AcmeSettings) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, OrderError> {
    let (acme, settings) = (Arc::clone(acme), settings.clone());
    let done = tokio::task::spawn_blocking(move || work(&acme, &settings)).await;
    done.map_err(|_| OrderError::Ending)?
        .map_err(OrderError::Store)
}

/// The account of earlier orders, or a new one.
async fn known(
    acme: &Arc<Acme>,
    settings: &AcmeSettings,
    web: &Web,
) -> Result<Session, OrderError> {
    let found = on_disk(acme, settings, |acme, settings| {
        acme.store.account(settings)
    })
    .await?;
    let credentials = found.map(|Account(text)| serde_json::from_str::<AccountCredentials>(&text));
    match credentials {
        Some(Ok(credentials)) => {
            let builder = Session::builder_with_http(Box::new(web.clone()));
            Ok(builder.from_credentials(credentials).await?)
        }
        Some(Err(error)) => {
            tracing::warn!(%error, "the stored account cannot be read: another one is made");
            register(acme, settings, web).await
        }
        None => register(acme, settings, web).await,
    }
}

async fn register(
    acme: &Arc<Acme>,
    settings: &AcmeSettings,
    web: &Web,
) -> Result<Session, OrderError> {
    let contact = settings.contact.clone().map(|contact| {
        if contact.contains(':') {
            contact
        } else {
            format!("mailto:{contact}")
        }
    });
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let account = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = settings.directory.clone().unwrap_or_default();
    let binding = binding(settings).map_err(OrderError::File)?;
    let builder = Session::builder_with_http(Box::new(web.clone()));
    let made = builder
        .create(&account, directory.clone(), binding.as_ref())
        .await;
    let (session, credentials) = made?;
    tracing::info!(
        directory,
        account = session.id(),
        "an account with the certificate authority is made, which agrees to its terms of service"
    );
    let text = serde_json::to_string(&credentials).map_err(instant_acme::Error::Json)?;
    let kept = on_disk(acme, settings, move |acme, settings| {
        acme.store.keep_account(settings, Account(text))
    });
    if let Err(error) = kept.await {
        tracing::error!(%error, "the account with the certificate authority could not be stored");
    }
    Ok(session)
}

/// The key that binds a new account to one that the authority knows (RFC 8555, 7.3.4).
fn binding(settings: &AcmeSettings) -> Result<Option<ExternalAccountKey>, TlsError> {
    let (Some(kid), Some(path)) = (&settings.eab_kid, &settings.eab_key_file) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let text = read(&path)?;
    let text = text
        .trim_ascii()
        .strip_suffix(b"==")
        .unwrap_or(text.trim_ascii());
    let text = text.strip_suffix(b"=").unwrap_or(text);
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(key) if !key.is_empty() => Ok(Some(ExternalAccountKey::new(kid.clone(), &key))),
        _ => Err(TlsError::NotAKey { path }),
    }
}

/// Whether the files of the options can be used.
pub fn check(settings: &AcmeSettings) -> Result<(), TlsError> {
    if settings.is_on() {
        binding(settings)?;
        Web::open(settings)?;
    }
    Ok(())
}

fn is_unknown_account(problem: &Problem) -> bool {
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

/// Shows the authority what it asks for, and waits until it has looked.
async fn prove(order: &mut Order, proof: Proof, showing: &Showing<'_>) -> Result<(), OrderError> {
    let kind = match proof {
        Proof::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Proof::Http01 => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        // One that is left from an earlier order may still count.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let domain = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(OrderError::NotOffered { domain, proof });
        };
        let shown = shown(domain, proof, &challenge).map_err(OrderError::NotMade)?;
        showing.add(shown).map_err(OrderError::NotShown)?;
        challenge.set_ready().await?;
    }
    match order.poll_ready(&ASKING).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) => Err(OrderError::NotProved(why(order).await)),
        Err(error) => match why(order).await {
            reasons if reasons.is_empty() => Err(error.into()),
            reasons => Err(OrderError::NotProved(reasons)),
        },
    }
}

fn shown(
    domain: String,
    kind: Proof,
    challenge: &ChallengeHandle<'_>,
) -> Result<Shown, rcgen::Error> {
    let authorization = challenge.key_authorization();
    Ok(match kind {
        Proof::TlsAlpn01 => Shown::Certificate {
            key: proof(&domain, authorization.digest().as_ref())?,
            domain,
        },
        Proof::Http01 => Shown::Text {
            token: challenge.token.clone(),
            authorization: authorization.as_str().to_owned(),
        },
    })
}

/// What the authority found where it looked.
async fn why(order: &mut Order) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let problems = authorization
            .challenges
            .iter()
            .filter_map(|challenge| challenge.error.as_ref());
        let domain = authorization.identifier().to_string();
        reasons.extend(problems.map(|problem| format!("{domain}: {}", told(problem))));
    }
    reasons
}

/// A request for a certificate (RFC 2986) with the names as alternative names and nothing else.
fn request(settings: &AcmeSettings, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(settings.domains.clone())?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}
