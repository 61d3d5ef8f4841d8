//! Checks between options, once each is right for itself.

use super::acme;
use super::auth::ClientCertificates;
use super::error::Reason;
use super::layers::{Layers, Source};
use super::options::find;

/// How two options must stand to each other.
struct Relation {
    /// The larger one.
    key: &'static str,
    /// The smaller one.
    other: &'static str,
    /// Whether they may be equal.
    equal: bool,
}

const fn at_least(key: &'static str, other: &'static str) -> Relation {
    Relation {
        key,
        other,
        equal: true,
    }
}

const RELATIONS: &[Relation] = &[
    // The largest message must fit a batch, a batch the queue to the log, a message each way out of it.
    at_least("limits.batch_bytes_max", "limits.message_bytes_max"),
    at_least("limits.submit_bytes_max", "limits.batch_bytes_max"),
    at_least("limits.submit_messages_max", "limits.batch_messages_max"),
    at_least("limits.inbox_bytes_max", "limits.message_bytes_max"),
    // A peer that answers every heartbeat must not be taken for dead.
    Relation {
        key: "limits.silence_ms_max",
        other: "limits.heartbeat_ms",
        equal: false,
    },
    at_least(
        "limits.connections_max",
        "limits.connections_per_address_max",
    ),
];

/// Records everything that is wrong between options. An option that was wrong for itself has its default here
/// and is left out.
pub fn check(layers: &mut Layers) {
    for relation in RELATIONS {
        check_relation(layers, relation);
    }
    check_auth(layers);
    check_needs(layers);
    check_cookie(layers);
    check_listeners(layers);
    check_acme(layers);
    check_rules(layers);
}

fn check_cookie(layers: &mut Layers) {
    let Some(name) = layers.config.auth.cookie.clone() else {
        return;
    };
    if tidings_adapters::http::is_cookie_name(&name) {
        return;
    }
    let key = "auth.cookie";
    let source = layers.provenance.of(key).clone();
    let expected =
        "a cookie's name, as in \"__Host-session\", without spaces, `;` and `=`".to_owned();
    let reason = Reason::WrongType { expected };
    layers.wrong(key.to_owned(), Some(format!("{name:?}")), source, reason);
}

fn check_relation(layers: &mut Layers, relation: &Relation) {
    let wrong_already = |key: &str| layers.errors.iter().any(|error| error.key == key);
    if wrong_already(relation.key) || wrong_already(relation.other) {
        return;
    }
    let (Some((_, spec)), Some((_, other))) = (find(relation.key), find(relation.other)) else {
        return;
    };
    let slot = (spec.slot)(&mut layers.config);
    let (number, text) = (slot.number(), slot.toml());
    let slot = (other.slot)(&mut layers.config);
    let (other_number, value) = (slot.number(), slot.toml());
    let source = layers.provenance.of(relation.other).clone();
    let reason = match (number, other_number) {
        (Some(a), Some(b)) if a < b && relation.equal => Reason::Below {
            other: relation.other,
            value,
            source,
        },
        (Some(a), Some(b)) if a <= b && !relation.equal => Reason::NotAbove {
            other: relation.other,
            value,
            source,
        },
        _ => return,
    };
    let source = layers.provenance.of(relation.key).clone();
    layers.wrong(relation.key.to_owned(), Some(text), source, reason);
}

/// The files of the `auth` options are there, and right.
fn check_auth(layers: &mut Layers) {
    let local = layers.config.auth.authenticator().err();
    let remote = layers.config.auth.remote().err();
    for (key, reason) in local.into_iter().chain(remote).flatten() {
        let value = find(key).map(|(_, spec)| (spec.slot)(&mut layers.config).toml());
        let source = layers.provenance.of(key).clone();
        layers.wrong(key.to_owned(), value, source, reason);
    }
}

/// What does nothing without another option is a mistake: its author believes that it does.
fn check_needs(layers: &mut Layers) {
    let config = &layers.config;
    let certificates = config.auth.client_certificates != ClientCertificates::Off;
    let no_client_ca = config.tls.client_ca.is_none();
    let protocol = !config.proxy.protocol.is_empty();
    let wrong = [
        (
            "auth.client_certificates",
            "tls.client_ca",
            certificates && no_client_ca,
        ),
        (
            "tls.client_crl",
            "tls.client_ca",
            config.tls.client_crl.is_some() && no_client_ca,
        ),
        (
            "proxy.protocol",
            "proxy.trusted",
            protocol && config.proxy.trusted.is_empty(),
        ),
        (
            "admin.token_file",
            "admin.listen",
            config.admin.token_file.is_some()
                && config.admin.listen.is_none()
                && config.admin.tls.is_none(),
        ),
    ];
    for (key, other, is_wrong) in wrong {
        if is_wrong && !layers.errors.iter().any(|error| error.key == other) {
            let value = find(key).map(|(_, spec)| (spec.slot)(&mut layers.config).toml());
            let source = layers.provenance.of(key).clone();
            layers.wrong(key.to_owned(), value, source, Reason::Without { other });
        }
    }
}

/// The options of automatic certificates fit each other and the listeners.
fn check_acme(layers: &mut Layers) {
    for (key, reason) in acme::check(&layers.config) {
        let value = find(key).map(|(_, spec)| (spec.slot)(&mut layers.config).toml());
        let source = layers.provenance.of(key).clone();
        layers.wrong(key.to_owned(), value, source, reason);
    }
}

/// A listener that other machines can reach needs credentials, or the word that none are wanted.
fn check_listeners(layers: &mut Layers) {
    let listeners = [
        ("http.listen", layers.config.http),
        ("http.tls", layers.config.https),
        ("mqtt.listen", layers.config.mqtt),
        ("mqtt.tls", layers.config.mqtts),
        ("stomp.listen", layers.config.stomp),
        ("stomp.tls", layers.config.stomps),
        ("admin.listen", layers.config.admin.listen),
        ("admin.tls", layers.config.admin.tls),
    ];
    check_admin(layers);
    for (key, address) in &listeners[..6] {
        let key = *key;
        let Some(address) = address else { continue };
        if !address.ip().to_canonical().is_loopback()
            && !layers.config.allow_anonymous
            && !layers.config.auth.has_source()
        {
            let value = Some(format!("\"{address}\""));
            let source = layers.provenance.of(key).clone();
            layers.wrong(key.to_owned(), value, source, Reason::OpenToAnyone);
        }
    }
    let wrong_already = |key: &str| layers.errors.iter().any(|error| error.key == key);
    let acme = layers.config.tls.acme.is_on() || wrong_already("tls.acme_domains");
    if layers.config.tls.certificates.is_empty() && !acme && !wrong_already("tls.certificates") {
        let secured = |(key, address): &&(&str, Option<_>)| {
            ["http.tls", "mqtt.tls", "stomp.tls", "admin.tls"].contains(key) && address.is_some()
        };
        if let Some((key, Some(address))) = listeners.iter().find(secured) {
            let value = Some(format!("\"{address}\""));
            let source = layers.provenance.of(key).clone();
            layers.wrong((*key).to_owned(), value, source, Reason::NoCertificate);
        }
    }
    if listeners[..6].iter().all(|(_, address)| address.is_none()) {
        let key = "http.listen";
        let source = layers.provenance.of(key).clone();
        let value = Some(r#""off""#.to_owned());
        layers.wrong(key.to_owned(), value, source, Reason::NothingListens);
    }
    for (at, (key, address)) in listeners.into_iter().enumerate() {
        let Some(address) = address.filter(|address| address.port() != 0) else {
            continue;
        };
        let same = |(_, earlier): &&(_, Option<_>)| *earlier == Some(address);
        if let Some((other, _)) = listeners[..at].iter().find(same) {
            let source = layers.provenance.of(key).clone();
            let value = Some(format!("\"{address}\""));
            layers.wrong(key.to_owned(), value, source, Reason::SameAddress { other });
        }
    }
}

/// The admin listener needs a token where other machines can reach it.
fn check_admin(layers: &mut Layers) {
    let admin = &layers.config.admin;
    let token_file = admin.token_file.as_ref().map(|path| format!("\"{path}\""));
    if let Err(error) = admin.token() {
        let source = layers.provenance.of("admin.token_file").clone();
        let reason = Reason::Unreadable(error);
        return layers.wrong("admin.token_file".to_owned(), token_file, source, reason);
    }
    let listeners = [("admin.listen", admin.listen), ("admin.tls", admin.tls)];
    for (key, address) in listeners {
        let Some(address) = address.filter(|it| !it.ip().to_canonical().is_loopback()) else {
            continue;
        };
        if token_file.is_none() {
            let source = layers.provenance.of(key).clone();
            let value = Some(format!("\"{address}\""));
            layers.wrong(key.to_owned(), value, source, Reason::AdminOpenToAnyone);
        }
    }
}

/// The first rule that matches decides, so a rule whose topics an earlier one covers is a mistake.
fn check_rules(layers: &mut Layers) {
    let rules = &layers.config.retention.rules;
    let mut found: Vec<(String, String, Source)> = Vec::new();
    for (index, (filter, _)) in rules.iter().enumerate() {
        let earlier = rules[..index]
            .iter()
            .find(|(earlier, _)| earlier.covers(filter));
        if let Some((earlier, _)) = earlier {
            let source = layers.provenance.rules[index].clone();
            found.push((filter.to_string(), earlier.to_string(), source));
        }
    }
    for (topics, earlier, source) in found {
        let reason = Reason::NeverMatches { earlier };
        layers.wrong(
            "retention.topics".to_owned(),
            Some(format!("\"{topics}\"")),
            source,
            reason,
        );
    }
}
