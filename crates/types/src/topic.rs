//! Topics and topic filters.
//!
//! A topic is UTF-8 text of levels separated by `/`, the same on every protocol. A filter is a topic whose
//! levels may be `+` (any one level) or, as its last level, `#` (the parent and everything below it). A
//! wildcard in the first level does not match topics that begin with `$` (MQTT-4.7.2-1).

use std::fmt;
use std::hash::Hash;

use bytestring::ByteString;

/// The longest topic or filter.
pub const TOPIC_BYTES_MAX: usize = 1024;
/// The most levels in a topic or filter.
pub const TOPIC_LEVELS_MAX: usize = 128;

/// Why a text is no topic, or no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// Nothing there.
    Empty,
    /// Over [`TOPIC_BYTES_MAX`].
    TooLong,
    /// Over [`TOPIC_LEVELS_MAX`].
    TooManyLevels,
    /// A control character (U+0000 to U+001F, U+007F to U+009F).
    Control,
    /// A wildcard in a topic.
    Wildcard,
    /// A `+` or `#` that does not stand alone in its level, or a `#` that is not last.
    MisplacedWildcard,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the topic is empty: name at least one level, as in `chat/lobby`",
            Self::TooLong => "the topic is longer than 1024 bytes: shorten it",
            Self::TooManyLevels => "the topic has more than 128 levels: use fewer `/`",
            Self::Control => "the topic holds a control character: remove it",
            Self::Wildcard => "`+` and `#` are wildcards and can only be subscribed to: publish to one topic by its full name",
            Self::MisplacedWildcard => {
                "a wildcard is misplaced: `+` stands alone in its level, and `#` stands alone as the last one"
            }
        })
    }
}

impl std::error::Error for TopicError {}

fn check_common(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(TopicError::Control);
    }
    if text.bytes().filter(|b| *b == b'/').count() >= TOPIC_LEVELS_MAX {
        return Err(TopicError::TooManyLevels);
    }
    Ok(())
}

/// The name of one stream of messages. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(ByteString);

impl Topic {
    /// Checks the text and takes it as a topic.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_common(&text)?;
        if text.bytes().any(|b| b == b'+' || b == b'#') {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text.
    #[must_use]
    pub fn text(&self) -> &ByteString {
        &self.0
    }

    /// The levels, in order; an empty level is one too.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether the topic begins with `$`: closed to wildcards in the first level, reserved for the server.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of topics, written with wildcards. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(ByteString);

impl TopicFilter {
    /// Checks the text and takes it as a filter.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_common(&text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let alone = level.len() == 1;
            let misplaced = (level.contains('+') && !alone)
                || (level.contains('#') && !(alone && levels.peek().is_none()));
            if misplaced {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(Self(text))
    }

    /// `#`: every topic that does not begin with `$`.
    #[must_use]
    pub fn all() -> Self {
        Self(ByteString::from_static("#"))
    }

    /// The filter that matches exactly this topic.
    #[must_use]
    pub fn exact(topic: &Topic) -> Self {
        Self(topic.0.clone())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels, in order.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether there is a wildcard in it.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.bytes().any(|b| b == b'+' || b == b'#')
    }

    /// The one topic that it matches, if it has no wildcard.
    #[must_use]
    pub fn as_topic(&self) -> Option<Topic> {
        (!self.has_wildcard()).then(|| Topic(self.0.clone()))
    }

    /// The text before the first level with a wildcard, with its last `/`: every topic that the filter
    /// matches begins with it, but for the parent of a `#`.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        match self.0.find(['+', '#']) {
            Some(at) => &self.0[..at],
            None => &self.0,
        }
    }

    /// Whether the topic is in the set.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.covers_levels(topic.as_str())
    }

    /// Whether every topic that `other` could match is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_levels(other.as_str())
    }

    fn covers_levels(&self, other: &str) -> bool {
        if other.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        if self.0 == "+/#" {
            // Every topic has a first level: this is `#` in other words.
            return true;
        }
        let mut mine = self.0.split('/');
        let mut theirs = other.split('/');
        loop {
            match (mine.next(), theirs.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some("#")) | (Some(_), None) | (None, Some(_)) => {
                    // `a/#` also matches `a`: the only way to go on past the end of the other.
                    return false;
                }
                (Some("+"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicFilter({})", self.0)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn topics_are_checked() {
        use TopicError::*;
        let long = "a".repeat(1025);
        let deep = "/".repeat(128);
        for (text, expect) in [
            ("a", Ok(())),
            ("a/b/c", Ok(())),
            ("/", Ok(())),
            ("a//b", Ok(())),
            ("$sys/x", Ok(())),
            ("käse/水", Ok(())),
            ("", Err(Empty)),
            (long.as_str(), Err(TooLong)),
            (deep.as_str(), Err(TooManyLevels)),
            ("a\0b", Err(Control)),
            ("a\nb", Err(Control)),
            ("a\u{85}b", Err(Control)),
            ("a/+", Err(Wildcard)),
            ("a/#", Err(Wildcard)),
            ("a+", Err(Wildcard)),
        ] {
            assert_eq!(Topic::new(text).map(|_| ()), expect, "{text:?}");
        }
        assert!(Topic::new("/".repeat(127)).is_ok());
    }

    #[test]
    fn filters_are_checked() {
        for (text, good) in [
            ("#", true),
            ("+", true),
            ("a/+/b", true),
            ("a/#", true),
            ("+/+/#", true),
            ("a", true),
            ("a#", false),
            ("a/#/b", false),
            ("a+", false),
            ("+a/b", false),
            ("##", false),
            ("++", false),
            ("", false),
        ] {
            assert_eq!(TopicFilter::new(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn filters_match_as_in_mqtt() {
        for (f, topic, expect) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "$sys", false),
            ("+/x", "$sys/x", false),
            ("$sys/#", "$sys/x", true),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("+", "/a", false),
            ("+/b/#", "a/b", true),
            ("+/b/#", "a/b/c/d", true),
            ("a/+/#", "a", false),
        ] {
            assert_eq!(
                filter(f).matches(&Topic::new(topic).unwrap()),
                expect,
                "{f} {topic}"
            );
        }
    }

    #[test]
    fn a_filter_is_covered_only_as_a_whole() {
        for (grant, wanted, expect) in [
            ("a/+", "a/#", false),
            ("a/#", "a/+", true),
            ("a/#", "a/#", true),
            ("#", "a/#", true),
            ("#", "#", true),
            ("+", "#", false),
            ("+/#", "#", true),
            ("+/#", "$sys/#", false),
            ("+/+/#", "#", false),
            ("#", "$sys/#", false),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a/+/c", true),
            ("a/b/c", "a/+/c", false),
            ("a/#", "a", true),
            ("+/b", "+/+", false),
            ("a/+/#", "a/#", false),
            ("+", "+", true),
        ] {
            assert_eq!(
                filter(grant).covers(&filter(wanted)),
                expect,
                "{grant} {wanted}"
            );
        }
    }

    #[test]
    fn literal_prefix_ends_before_the_wildcard() {
        for (f, expect) in [
            ("a/b", "a/b"),
            ("a/+/c", "a/"),
            ("a/#", "a/"),
            ("#", ""),
            ("+", ""),
        ] {
            assert_eq!(filter(f).literal_prefix(), expect);
        }
    }
}
