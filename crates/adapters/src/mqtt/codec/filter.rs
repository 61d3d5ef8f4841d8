//! Topic names and filters as clients send them (4.7, 4.8.2).
//!
//! What breaks a rule of MQTT is a violation. What MQTT permits but Tidings does not take (length, levels,
//! control characters) stays as text with the reason, so that the one message or subscription can be refused.

use bytestring::ByteString;
use tidings_types::{Topic, TopicError, TopicFilter};

use super::rule::Rule;
use super::version::Version;

/// A text that MQTT permits and Tidings does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// As it came.
    pub text: ByteString,
    /// Why not.
    pub error: TopicError,
}

/// A topic, or why it is none here (reason code 0x90).
pub type TopicName = Result<Topic, Unfit>;

/// A filter, or why it is none here (reason code 0x8F).
pub type FilterName = Result<TopicFilter, Unfit>;

/// What a client wants to subscribe to, or to unsubscribe from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedFilter {
    /// A subscription of its own.
    Plain(FilterName),
    /// `$share/{group}/{filter}`: one among the group's members gets each message (4.8.2).
    Share {
        /// The share name: not empty, no `/`, `+`, `#`.
        group: ByteString,
        /// What the group subscribes to.
        filter: FilterName,
    },
}

const SHARE: &str = "$share/";

impl RequestedFilter {
    /// Before 5.0 there were no shared subscriptions, and `$share/..` was a filter like any other. It means
    /// the same there as in 5.0 where it is well formed, as brokers agree; where it is not, it stays a filter.
    pub(super) fn parse(text: ByteString, version: Version) -> Result<Self, Rule> {
        let shared = text.strip_prefix(SHARE).map(split_share);
        match shared {
            Some(Ok((group, filter))) => Ok(Self::Share {
                group: text.slice_ref(group),
                filter: filter_name(text.slice_ref(filter)),
            }),
            Some(Err(rule)) if version == Version::V5 => Err(rule),
            Some(Err(_)) | None => {
                check_filter(&text)?;
                Ok(Self::Plain(filter_name(text)))
            }
        }
    }

    /// The filter without its share.
    pub fn filter(&self) -> &FilterName {
        match self {
            Self::Plain(filter) | Self::Share { filter, .. } => filter,
        }
    }
}

fn split_share(rest: &str) -> Result<(&str, &str), Rule> {
    let (group, filter) = rest.split_once('/').ok_or(Rule::ShareFilter)?;
    if group.is_empty() || group.contains(['+', '#']) {
        return Err(Rule::ShareName);
    }
    if filter.is_empty() {
        return Err(Rule::ShareFilter);
    }
    check_filter(filter)?;
    Ok((group, filter))
}

/// MQTT's own rules for filters.
fn check_filter(text: &str) -> Result<(), Rule> {
    if text.is_empty() {
        return Err(Rule::EmptyTopic);
    }
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        if level.contains('#') && !(level == "#" && last) {
            return Err(Rule::MisplacedHash);
        }
        if level.contains('+') && level != "+" {
            return Err(Rule::MisplacedPlus);
        }
    }
    Ok(())
}

fn filter_name(text: ByteString) -> FilterName {
    TopicFilter::new(text.clone()).map_err(|error| Unfit { text, error })
}

/// Takes a topic name that is not empty; a wildcard in it breaks `wildcard`.
pub(super) fn topic_name(text: ByteString, wildcard: Rule) -> Result<TopicName, Rule> {
    if text.is_empty() {
        return Err(Rule::EmptyTopic);
    }
    if text.contains(['+', '#']) {
        return Err(wildcard);
    }
    Ok(Topic::new(text.clone()).map_err(|error| Unfit { text, error }))
}
