//! Grants as they are written in tokens and files.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidings_types::{Grants, TopicError, TopicFilter};

/// The most filters that one principal may have, granted and denied together: each is tried on each
/// publish.
pub const GRANT_FILTERS_MAX: usize = 1_000;

/// Grants as text: the `tidings` claim of a token, and what a key has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantsText {
    /// Filters of topics that may be published to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Filters of topics that may be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<String>,
    /// What may not, whatever is granted.
    #[serde(default, skip_serializing_if = "DenyText::is_empty")]
    pub deny: DenyText,
}

/// What is denied: a list for both ways, or one list for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`deny` is a list of topic filters, or a table with `publish` and `subscribe`"
)]
pub enum DenyText {
    /// Neither published to nor read.
    Both(Vec<String>),
    /// One list for each way.
    Each(DenyEach),
}

/// What is denied, each way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyEach {
    /// Filters of topics that may not be published to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Filters of topics that may not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<String>,
}

impl Default for DenyText {
    fn default() -> Self {
        Self::Both(Vec::new())
    }
}

impl DenyText {
    /// Whether nothing is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Both(both) => both.is_empty(),
            Self::Each(each) => each.publish.is_empty() && each.subscribe.is_empty(),
        }
    }

    /// The two lists: publish, subscribe.
    pub(crate) fn lists(&self) -> (&[String], &[String]) {
        match self {
            Self::Both(both) => (both, both),
            Self::Each(each) => (&each.publish, &each.subscribe),
        }
    }
}

/// A text among grants that is no filter, or too many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// No filter.
    Filter {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: TopicError,
    },
    /// Over [`GRANT_FILTERS_MAX`].
    TooMany,
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { text, error } => write!(f, "`{text}` is no topic filter: {error}"),
            Self::TooMany => write!(
                f,
                "there are more than {GRANT_FILTERS_MAX} topic filters: use wildcards"
            ),
        }
    }
}

impl std::error::Error for GrantError {}

impl GrantsText {
    /// Checks every filter. One bad entry fails all: a `deny` that was left out would widen the rest.
    pub fn parse(&self) -> Result<Grants, GrantError> {
        let filters = |texts: &[String]| {
            texts
                .iter()
                .map(|text| {
                    TopicFilter::new(text.as_str()).map_err(|error| GrantError::Filter {
                        text: text.clone(),
                        error,
                    })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let (deny_publish, deny_subscribe) = self.deny.lists();
        let grants = Grants {
            publish: filters(&self.publish)?,
            subscribe: filters(&self.subscribe)?,
            deny_publish: filters(deny_publish)?,
            deny_subscribe: filters(deny_subscribe)?,
        };
        if grants.filters() > GRANT_FILTERS_MAX {
            return Err(GrantError::TooMany);
        }
        Ok(grants)
    }
}
