//! Seeing to it that there is a good certificate, for as long as the server runs.

use std::sync::Arc;
use std::time::Duration;

use tidings_types::Timestamp;
use tokio::time::timeout;

use super::held::Held;
use super::order::{self, OrderError};
use super::schedule;
use super::web::Web;
use super::{Acme, Outcome};
use crate::config::AcmeSettings;
use crate::serve::Shared;

/// How long one order may take.
const ORDER_MAX: Duration = Duration::from_mins(10);
/// How often the clock is looked at: it may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_hours(1);

/// What is known of failures since the last success.
#[derive(Default)]
struct Setback {
    failures: u32,
    /// Times in a row that the authority could not be reached, which say nothing of what it would answer.
    unreachable: u32,
    /// The authority is not asked before.
    until: Timestamp,
    /// The authority wants it so.
    told: bool,
}

/// Orders certificates when they are due. It ends with the runtime.
pub async fn keep(shared: Arc<Shared>) {
    let acme = Arc::clone(&shared.tls.acme);
    let mut setback = Setback::default();
    announce(&acme);
    loop {
        let settings = acme.settings();
        let now = shared.clock.now();
        let due = acme.due(&settings).map(|due| due.max(setback.until));
        if due.is_some_and(|due| due <= now) {
            attempt(&shared, &acme, &settings, &mut setback).await;
            continue;
        }
        let pause = due.map_or(LOOK, |due| due.since(now).min(LOOK));
        if timeout(pause, acme.reloaded.notified()).await.is_ok() {
            // Whoever reads the options again may have put something right; but what an authority says counts.
            if !setback.told || acme.settings() != settings {
                setback = Setback::default();
            }
        }
    }
}

fn announce(acme: &Acme) {
    let settings = acme.settings();
    if !settings.is_on() {
        return;
    }
    let domains = settings.domains.join(", ");
    if acme.is_waiting() {
        tracing::warn!(
            domains,
            directory = settings.directory,
            challenge = acme.proof(&settings).name(),
            "there is no certificate for these names yet: one is asked for, and until it is here, handshakes fail \
             that want it"
        );
    } else {
        tracing::info!(domains, "the stored certificate is in use");
    }
    if acme.store.is_in_memory() {
        tracing::warn!(
            "the log is in memory, and so is the certificate: every start asks the authority for another one, and \
             authorities limit how often"
        );
    }
}

async fn attempt(
    shared: &Shared,
    acme: &Arc<Acme>,
    settings: &AcmeSettings,
    setback: &mut Setback,
) {
    let (result, told) = ask(acme, settings).await;
    let now = shared.clock.now();
    let outcome = match &result {
        Ok(_) => Outcome::Issued,
        Err(error) => error.outcome(),
    };
    if let Ok(held) = &result
        && held.due(settings) > now
    {
        *setback = Setback::default();
    } else {
        let (mut failures, mut unreachable) = (setback.failures, 0);
        let counter = match outcome {
            Outcome::Unreachable => {
                unreachable = setback.unreachable;
                &mut unreachable
            }
            _ => &mut failures,
        };
        *counter = counter.saturating_add(1);
        let in_a_row = *counter;
        let random = getrandom::u64().unwrap_or_default();
        let pause = schedule::pause(in_a_row, outcome, told, random);
        *setback = Setback {
            failures,
            unreachable,
            until: now.plus(pause),
            told: told.is_some(),
        };
    }
    let next_s = setback.until.since(now).as_secs();
    match result {
        Ok(held) => {
            let domains = settings.domains.join(", ");
            let days = held.until().since(now).as_secs() / 86_400;
            // Settings that have changed meanwhile are looked at next; nobody is shown what they do not want at all.
            if acme.is_on() {
                acme.hold(Some(held));
            }
            tracing::info!(
                domains,
                days,
                "a certificate was issued: new connections get it"
            );
            if setback.failures > 0 {
                tracing::error!(
                    next_s,
                    "it is to be renewed already: is this machine's clock right?"
                );
            }
        }
        Err(error) => tracing::error!(
            %error,
            result = outcome.name(),
            next_s,
            "no certificate was issued"
        ),
    }
    // Whoever sees the count finds what it counts.
    acme.count(outcome);
}

/// Asks the authority; gives also how long that wants to be left alone.
async fn ask(
    acme: &Arc<Acme>,
    settings: &AcmeSettings,
) -> (Result<Held, OrderError>, Option<Duration>) {
    let wanted = settings.clone();
    let web = match tokio::task::spawn_blocking(move || Web::open(&wanted)).await {
        Ok(Ok(web)) => web,
        Ok(Err(error)) => return (Err(OrderError::File(error)), None),
        Err(_) => return (Err(OrderError::Ending), None),
    };
    let order = Box::pin(order::certificate(acme, settings, &web));
    let ordered = timeout(ORDER_MAX, order).await;
    (
        ordered.unwrap_or(Err(OrderError::TooSlow)),
        web.told_to_wait(),
    )
}
