//! Destinations: `/topic/..` and `/queue/..`, and the topics of Tidings behind them.
//!
//! What stands behind the prefix is a topic. Without any `/` in it, dots separate its levels, as users of other
//! brokers write them. Percent-escapes are undone in each level, so that `%2E` is a dot that separates nothing. In a
//! filter a level `*` or `+` is any one level, and `#` as the last one is the rest.

use std::borrow::Cow;

use tidings_types::{Refusal, RefusalCode, Topic, TopicError, TopicFilter};

use crate::query::percent_decode;

const SUPPORTED: &str =
    "write `/topic/..` for every subscriber, or `/queue/..` for one consumer of a work queue";

/// What is done with the messages of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every subscriber gets them.
    Topic,
    /// Its consumers share them.
    Queue,
}

/// How the levels are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    Slash,
    Dot,
}

/// What a destination is, without its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) kind: Kind,
    pub(super) separator: Separator,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Topic => "/topic/",
            Self::Queue => "/queue/",
        }
    }
}

/// The topic of a destination to publish to.
pub(super) fn topic(destination: &str) -> Result<Topic, Refusal> {
    let (manner, rest) = split(destination)?;
    if levels(manner, rest).any(|level| level == "*") {
        return Err(bad_topic(TopicError::Wildcard));
    }
    let text = decoded(manner, rest, Cow::Borrowed)?;
    Topic::new(text).map_err(bad_topic)
}

/// What a destination subscribes to.
pub(super) fn filter(destination: &str) -> Result<(Manner, TopicFilter), Refusal> {
    let (manner, rest) = split(destination)?;
    let wildcard = |level| Cow::Borrowed(if level == "*" { "+" } else { level });
    let text = decoded(manner, rest, wildcard)?;
    let filter = TopicFilter::new(text).map_err(|error| {
        let detail = format!("`{}`: {error}", shown(destination));
        Refusal::new(RefusalCode::BadFilter, detail)
    })?;
    Ok((manner, filter))
}

fn bad_topic(error: TopicError) -> Refusal {
    Refusal::new(RefusalCode::BadTopic, error.to_string())
}

fn split(destination: &str) -> Result<(Manner, &str), Refusal> {
    for kind in [Kind::Topic, Kind::Queue] {
        if let Some(rest) = destination.strip_prefix(kind.prefix()) {
            let separator = if rest.contains('.') && !rest.contains('/') {
                Separator::Dot
            } else {
                Separator::Slash
            };
            return Ok((Manner { kind, separator }, rest));
        }
    }
    let detail = format!(
        "there is no destination `{}` here: {SUPPORTED}",
        shown(destination)
    );
    Err(Refusal::new(RefusalCode::BadTopic, detail))
}

/// As much of a peer's text as is worth repeating.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

fn levels(manner: Manner, rest: &str) -> impl Iterator<Item = &str> {
    rest.split(match manner.separator {
        Separator::Slash => '/',
        Separator::Dot => '.',
    })
}

fn decoded<'a>(
    manner: Manner,
    rest: &'a str,
    of_level: impl Fn(&'a str) -> Cow<'a, str>,
) -> Result<String, Refusal> {
    let mut text = String::with_capacity(rest.len());
    for (at, level) in levels(manner, rest).enumerate() {
        if at > 0 {
            text.push('/');
        }
        let level = of_level(level);
        text.push_str(&percent_decode(&level, "the destination")?);
    }
    Ok(text)
}

/// The destination of a topic: one that gives the same topic again.
pub(super) fn write(manner: Manner, topic: &Topic) -> String {
    let text = topic.as_str();
    let dotted = manner.separator == Separator::Dot;
    // In a topic of one level a dot would separate.
    let escapes_dots = dotted || !text.contains('/');
    let mut out = String::with_capacity(text.len() + 8);
    out.push_str(manner.kind.prefix());
    for (at, level) in topic.levels().enumerate() {
        if at > 0 {
            out.push(if dotted { '.' } else { '/' });
        }
        if level == "*" {
            out.push_str("%2A");
            continue;
        }
        for c in level.chars() {
            match c {
                '%' => out.push_str("%25"),
                '.' if escapes_dots => out.push_str("%2E"),
                c => out.push(c),
            }
        }
    }
    out
}

/// The topic of a `reply-to`, whose answer may be awaited at any topic.
pub(super) fn reply_topic(reply_to: &str) -> Result<Topic, Refusal> {
    topic(reply_to).map_err(|mut refusal| {
        refusal.detail.push_str(" (`reply-to`)");
        refusal
    })
}
