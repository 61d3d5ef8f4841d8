//! The permission file: rules that grant and deny topics by subject and claims.
//!
//! ```toml
//! [[rule]]
//! subject = "device-*"              # `*` is any text; absent: everybody who showed a credential
//! source = ["jwt"]                  # absent: every source but `anonymous`
//! claims = { role = "sensor" }      # each must be equal, or be in the claim's list
//! publish = ["devices/{sub}/#"]
//! subscribe = ["tenants/{claim.tenant}/+"]
//! deny = ["devices/+/secret"]       # or { publish = [..], subscribe = [..] }
//! ```
//!
//! All rules that fit add up, and what one denies no other grants. What no rule grants is denied.
//!
//! A value that is put into a filter stays within its level: one that is empty, begins with `$`, or holds `/`,
//! `+`, `#` or a control character refuses the whole credential, because a filter that is wider than its
//! author meant, or a `deny` that is left out, gives away topics. A claim that is missing grants nothing, and
//! refuses the credential where a `deny` needs it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};
use tidings_types::{Grants, Principal, TopicError, TopicFilter};
use toml::Spanned;

use crate::credential::{Reason, VOUCHERS};
use crate::files::{AtLine, line_at};
use crate::grants::DenyText;

/// Why a permission file is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermissionError {
    /// Not TOML, or not what is expected in it.
    Toml(String),
    /// A filter that is none.
    Filter {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: TopicError,
    },
    /// A `{..}` in a filter that is neither `{sub}` nor `{claim.NAME}`.
    Placeholder(String),
    /// A claim is to be equal to what no claim is compared with.
    ClaimValue(String),
    /// A source that there is not.
    Source(String),
    /// A rule that grants and denies nothing.
    Empty,
}

impl fmt::Display for PermissionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toml(message) => write!(f, "the permission file cannot be read: {message}"),
            Self::Source(text) => {
                write!(
                    f,
                    "`{text}` is no source: it is one of {}",
                    VOUCHERS.join(", ")
                )
            }
            Self::Filter { text, error } => write!(f, "`{text}` is no topic filter: {error}"),
            Self::Placeholder(text) => write!(
                f,
                "`{text}`: what is in braces is `{{sub}}` or `{{claim.NAME}}`, as in `devices/{{sub}}/#`"
            ),
            Self::ClaimValue(name) => write!(
                f,
                "the claim `{name}` can be compared with a text, a whole number, `true`, `false`, or a list of these"
            ),
            Self::Empty => f.write_str(
                "the rule grants and denies nothing: add `publish`, `subscribe` or `deny`",
            ),
        }
    }
}

impl std::error::Error for PermissionError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    subject: Option<String>,
    source: Option<Vec<String>>,
    #[serde(default)]
    claims: BTreeMap<String, toml::Value>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    deny: DenyText,
}

/// The rules of a permission file. The default has none and grants nothing.
#[derive(Debug, Default)]
pub struct Permissions {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    subject: Option<String>,
    source: Option<Vec<String>>,
    /// Each claim is one of these values.
    claims: Vec<(String, Vec<Value>)>,
    publish: Vec<Template>,
    subscribe: Vec<Template>,
    deny_publish: Vec<Template>,
    deny_subscribe: Vec<Template>,
}

impl Permissions {
    /// Reads the text of the file, and says what is wrong with each rule.
    pub fn parse(text: &str) -> Result<Self, Vec<AtLine<PermissionError>>> {
        let file: FileText = toml::from_str(text).map_err(|error| {
            vec![AtLine {
                line: line_at(text, error.span().map_or(0, |span| span.start)),
                error: PermissionError::Toml(error.message().to_owned()),
            }]
        })?;
        let mut rules = Vec::new();
        let mut wrong = Vec::new();
        for rule in file.rule {
            let line = line_at(text, rule.span().start);
            match Rule::parse(rule.into_inner()) {
                Ok(rule) => rules.push(rule),
                Err(error) => wrong.push(AtLine { line, error }),
            }
        }
        if wrong.is_empty() {
            Ok(Self { rules })
        } else {
            Err(wrong)
        }
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules grant and deny to a subject.
    pub(crate) fn grants(
        &self,
        subject: &str,
        source: &str,
        claims: &Map<String, Value>,
    ) -> Result<Grants, Reason> {
        let mut grants = Grants::default();
        let fits = |rule: &&Rule| rule.fits(subject, source, claims);
        for rule in self.rules.iter().filter(fits) {
            let allow = |templates: &[Template]| fill(templates, subject, claims, Missing::Skip);
            let deny = |templates: &[Template]| fill(templates, subject, claims, Missing::Refuse);
            grants.extend(Grants {
                publish: allow(&rule.publish)?,
                subscribe: allow(&rule.subscribe)?,
                deny_publish: deny(&rule.deny_publish)?,
                deny_subscribe: deny(&rule.deny_subscribe)?,
            });
        }
        Ok(grants)
    }
}

impl Rule {
    fn parse(text: RuleText) -> Result<Self, PermissionError> {
        let templates = |texts: &[String]| {
            texts
                .iter()
                .map(|text| Template::parse(text))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut sources = text.source.iter().flatten();
        if let Some(unknown) = sources.find(|one| !VOUCHERS.contains(&one.as_str())) {
            return Err(PermissionError::Source(unknown.clone()));
        }
        let (deny_publish, deny_subscribe) = text.deny.lists();
        let rule = Self {
            publish: templates(&text.publish)?,
            subscribe: templates(&text.subscribe)?,
            deny_publish: templates(deny_publish)?,
            deny_subscribe: templates(deny_subscribe)?,
            subject: text.subject,
            source: text.source,
            claims: text
                .claims
                .into_iter()
                .map(claim_values)
                .collect::<Result<_, _>>()?,
        };
        let lists = [&rule.publish, &rule.subscribe, &rule.deny_publish];
        if lists.iter().all(|list| list.is_empty()) && rule.deny_subscribe.is_empty() {
            return Err(PermissionError::Empty);
        }
        Ok(rule)
    }

    fn fits(&self, subject: &str, source: &str, claims: &Map<String, Value>) -> bool {
        let source_fits = match &self.source {
            Some(sources) => sources.iter().any(|one| one == source),
            // Nobody means strangers by saying nothing.
            None => source != Principal::ANONYMOUS,
        };
        let subject_fits = |pattern: &String| glob(pattern, subject);
        source_fits
            && self.subject.as_ref().is_none_or(subject_fits)
            && self
                .claims
                .iter()
                .all(|(name, values)| match claim(claims, name) {
                    Some(Value::Array(held)) => held.iter().any(|value| values.contains(value)),
                    Some(value) => values.contains(value),
                    None => false,
                })
    }
}

fn claim_values(
    (name, value): (String, toml::Value),
) -> Result<(String, Vec<Value>), PermissionError> {
    let scalar = |value: toml::Value| match value {
        toml::Value::String(text) => Ok(Value::from(text)),
        toml::Value::Integer(number) => Ok(Value::from(number)),
        toml::Value::Boolean(flag) => Ok(Value::from(flag)),
        _ => Err(PermissionError::ClaimValue(name.clone())),
    };
    let values = match value {
        toml::Value::Array(values) => values.into_iter().map(scalar).collect::<Result<_, _>>()?,
        value => vec![scalar(value)?],
    };
    Ok((name, values))
}

/// A claim by its name; `realm.role` is also `role` in `realm`, unless there is one with a dot in its name.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (outer, inner) = name.split_once('.')?;
    claim(claims.get(outer)?.as_object()?, inner)
}

/// Whether the text has the shape of the pattern, in which `*` is any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    // Each piece at its first place leaves the most for those after it; the last one ends the text.
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// What becomes of a filter whose claim is not there.
#[derive(Clone, Copy)]
enum Missing {
    Skip,
    Refuse,
}

/// A filter with places for the subject and for claims.
#[derive(Debug, PartialEq, Eq)]
struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Subject,
    Claim(String),
}

impl Template {
    fn parse(text: &str) -> Result<Self, PermissionError> {
        let unknown = || PermissionError::Placeholder(text.to_owned());
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            let (inside, after) = from
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'))
                .ok_or_else(unknown)?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match inside.strip_prefix("claim.") {
                _ if inside == "sub" => Part::Subject,
                Some(name) if !name.is_empty() && !name.contains('{') => {
                    Part::Claim(name.to_owned())
                }
                _ => return Err(unknown()),
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let template = Self(parts);
        let probe = template.with(|_| Some("x".to_owned())).unwrap_or_default();
        match TopicFilter::new(probe) {
            Ok(_) => Ok(template),
            Err(error) => Err(PermissionError::Filter {
                text: text.to_owned(),
                error,
            }),
        }
    }

    /// The text with the values in it; `None` if one is missing.
    fn with(&self, value: impl Fn(&Part) -> Option<String>) -> Option<String> {
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Subject | Part::Claim(_) => value(part),
        });
        texts.collect()
    }
}

fn fill(
    templates: &[Template],
    subject: &str,
    claims: &Map<String, Value>,
    missing: Missing,
) -> Result<Vec<TopicFilter>, Reason> {
    let mut filters = Vec::with_capacity(templates.len());
    for template in templates {
        // Every value there is must be fit to stand in a filter, also where another one is missing.
        for part in &template.0 {
            if value_of(part, subject, claims)?.is_some_and(|value| !fits_in_a_level(&value)) {
                return Err(Reason::Template);
            }
        }
        let text = template.with(|part| value_of(part, subject, claims).ok().flatten());
        match (text, missing) {
            (Some(text), _) => {
                filters.push(TopicFilter::new(text).map_err(|_| Reason::Template)?);
            }
            (None, Missing::Skip) => {}
            (None, Missing::Refuse) => return Err(Reason::Template),
        }
    }
    Ok(filters)
}

/// The value for a place; `None` if the claim is not there.
fn value_of(
    part: &Part,
    subject: &str,
    claims: &Map<String, Value>,
) -> Result<Option<String>, Reason> {
    match part {
        Part::Text(_) => Ok(None),
        Part::Subject => Ok(Some(subject.to_owned())),
        Part::Claim(name) => match claim(claims, name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Bool(flag)) => Ok(Some(flag.to_string())),
            Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
            Some(_) => Err(Reason::Template),
        },
    }
}

fn fits_in_a_level(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with('$')
        && !value.contains(['/', '+', '#'])
        && !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_subjects_fit_as_a_whole() {
        for (pattern, text, expect) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("*ab", "aab", true),
            ("a**b", "ab", true),
            ("*b*", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expect, "{pattern} {text}");
        }
    }
}
