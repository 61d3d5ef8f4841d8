//! `[[retention]]` tables: what is kept of the topics that a filter matches.

use std::path::Path;
use std::sync::Arc;

use tidings_types::{Retention, TopicFilter};

use super::error::Reason;
use super::given::Given;
use super::layers::{Layers, Source};
use super::nearest::nearest;
use super::options::{OptionSpec, find};
use super::slot::Slot;
use super::toml_file::{Entry, RuleEntries};

/// A key of a rule with the field that it sets.
type RuleField = (&'static str, for<'a> fn(&'a mut Retention) -> Slot<'a>);

/// What a rule may say besides its topics; the same names and meanings as in `[retention_default]`.
pub const FIELDS: &[RuleField] = &[
    ("storage", |rule| Slot::Choice(&mut rule.storage)),
    ("age_max", |rule| Slot::SpanOrOff(&mut rule.age_max)),
    ("bytes_max", |rule| Slot::BytesOrOff(&mut rule.bytes_max)),
    ("per_topic_max", |rule| {
        Slot::CountOrOff(&mut rule.per_topic_max)
    }),
];

/// The option of `[retention_default]` that describes a rule's key.
pub fn default_of(name: &str) -> Option<&'static OptionSpec> {
    find(&format!("retention_default.{name}")).map(|(_, spec)| spec)
}

/// Reads a rule. What it does not say is as in `[retention_default]`. `None` if something is wrong, which is
/// recorded.
pub fn rule(
    rule: RuleEntries,
    path: &Arc<Path>,
    layers: &mut Layers,
) -> Option<(TopicFilter, Retention)> {
    let at = |line| Source::File {
        path: Arc::clone(path),
        line,
    };
    let errors_before = layers.errors.len();
    let mut filter = None;
    let mut retention = layers.config.retention.default;
    let has_topics = rule.entries.iter().any(|entry| entry.key == "topics");
    for entry in rule.entries {
        let result = if entry.key == "topics" {
            topics(&entry.given).map(|found| filter = Some(found))
        } else {
            field(&entry, &mut retention)
        };
        if let Err(reason) = result {
            let key = format!("retention.{}", entry.key);
            layers.wrong(key, Some(entry.given.to_string()), at(entry.line), reason);
        }
    }
    if !has_topics {
        layers.wrong(
            "retention.topics".to_owned(),
            None,
            at(rule.line),
            Reason::NoTopics,
        );
    }
    if layers.errors.len() > errors_before {
        return None;
    }
    filter.map(|filter| (filter, retention))
}

fn topics(given: &Given) -> Result<TopicFilter, Reason> {
    let text = given.text().ok_or_else(|| Reason::WrongType {
        expected: r#"one topic filter as text: "chat/#""#.to_owned(),
    })?;
    TopicFilter::new(text).map_err(Reason::NotAFilter)
}

fn field(entry: &Entry, retention: &mut Retention) -> Result<(), Reason> {
    let known = FIELDS.iter().find(|(name, _)| *name == entry.key);
    if let (Some((_, slot)), Some(spec)) = (known, default_of(&entry.key)) {
        return slot(retention).set(&entry.given, spec.range);
    }
    let names = FIELDS.iter().map(|(name, _)| *name).chain(["topics"]);
    let nearest = nearest(&entry.key, names).map(str::to_owned);
    Err(Reason::UnknownKey { nearest })
}
