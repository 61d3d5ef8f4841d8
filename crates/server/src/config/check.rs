//! Checks between options, once each is right for itself.

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
    check_listeners(layers);
    check_rules(layers);
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
    let Err(wrong) = layers.config.auth.authenticator() else {
        return;
    };
    for (key, reason) in wrong {
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
    ];
    for (key, address) in listeners {
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
    if layers.config.tls.certificates.is_empty() && !wrong_already("tls.certificates") {
        let secured = |(key, address): &&(&str, Option<_>)| {
            ["http.tls", "mqtt.tls", "stomp.tls"].contains(key) && address.is_some()
        };
        if let Some((key, Some(address))) = listeners.iter().find(secured) {
            let value = Some(format!("\"{address}\""));
            let source = layers.provenance.of(key).clone();
            layers.wrong((*key).to_owned(), value, source, Reason::NoCertificate);
        }
    }
    if listeners.iter().all(|(_, address)| address.is_none()) {
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
