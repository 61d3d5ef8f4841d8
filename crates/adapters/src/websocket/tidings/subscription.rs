//! From a `subscribe` request to a subscription, and what is remembered of it.

use std::time::Duration;

use tidings_ports::{Expiry, Group, Settle, Start, SubscriptionKey, Verdict};
use tidings_types::{Cursor, Epoch, Limits, Refusal, RefusalCode, TopicFilter};

use super::answer::Answer;
use super::request::{Field, Op, Request, bad_field};
use crate::query;

/// The longest name of a group.
const GROUP_BYTES_MAX: usize = 256;
/// The hub gives a member no more messages at a time than that.
const PREFETCH_MAX: u32 = 10_000;

/// What a `subscribe` asks for.
pub(super) struct Wish {
    /// At least one.
    pub(super) filters: Vec<TopicFilter>,
    pub(super) start: Start,
    pub(super) echo: bool,
    pub(super) group: Option<Wanted>,
}

/// The work queue to take part in.
pub(super) struct Wanted {
    /// As the peer named it.
    pub(super) name: Box<str>,
    /// As the hub knows it.
    pub(super) group: Group,
}

impl Wish {
    pub(super) fn read(request: &Request<'_>, limits: &Limits) -> Result<Self, Refusal> {
        let filters = filters(request, limits)?;
        let start = start(request, limits)?;
        let echo = request.get(Field::Echo, "true or false")?;
        let group = group(request, &filters, limits)?;
        let (start, echo) = match &group {
            None => (start.unwrap_or(Start::Latest), echo.unwrap_or(true)),
            Some(_) if start == Some(Start::Retained) => {
                let expected = "a cursor, `earliest` or `latest` in a work queue, of which retained messages are no part";
                return Err(bad_field(Field::After, expected));
            }
            Some(_) if echo == Some(false) => {
                let expected = "left out with `group`: a work queue gives each message to one member, whoever published it";
                return Err(bad_field(Field::Echo, expected));
            }
            // What was published before the first worker came is work too.
            Some(_) => (start.unwrap_or(Start::Earliest), true),
        };
        Ok(Self {
            filters,
            start,
            echo,
            group,
        })
    }
}

/// A subscription that was asked for, and has not ended.
pub(super) struct Subscription {
    pub(super) key: SubscriptionKey,
    /// At least one.
    pub(super) filters: Box<[TopicFilter]>,
    /// Set if it takes part in a work queue.
    membership: Option<Box<Membership>>,
}

struct Membership {
    /// As the peer named it.
    group: Box<str>,
    /// Of the log that its messages are of; known once the subscription is there.
    epoch: Option<Epoch>,
}

impl Subscription {
    pub(super) fn new(
        key: SubscriptionKey,
        filters: &[TopicFilter],
        group: Option<Box<str>>,
    ) -> Self {
        let membership = group.map(|group| Box::new(Membership { group, epoch: None }));
        Self {
            key,
            filters: filters.into(),
            membership,
        }
    }

    /// The work queue that it takes part in, as the peer named it.
    pub(super) fn group(&self) -> Option<&str> {
        self.membership.as_deref().map(|it| &*it.group)
    }

    /// Whether it is what the wish asks for, apart from the start.
    pub(super) fn is(&self, wish: &Wish) -> bool {
        let group = wish.group.as_ref().map(|it| &*it.name);
        self.filters[..] == wish.filters && self.group() == group
    }

    /// The hub has begun it, after this position.
    pub(super) fn begun(&mut self, cursor: Cursor) {
        if let Some(membership) = &mut self.membership {
            membership.epoch = Some(cursor.epoch);
        }
    }

    /// Says which subscription an object is about.
    pub(super) fn name(&self, answer: Answer) -> Answer {
        let answer = answer.plain("sub", self.key.0);
        let answer = match &*self.filters {
            [only] => answer.text("topic", only.as_str()),
            several => answer.texts("topics", several.iter().map(TopicFilter::as_str)),
        };
        match self.group() {
            Some(group) => answer.text("group", group),
            None => answer,
        }
    }

    /// The verdict of an `ack` or a `nack` on a message of this subscription.
    fn settle(&self, message: Cursor, verdict: Verdict) -> Result<Settle, Refusal> {
        let Some(membership) = &self.membership else {
            let detail = format!(
                "sub {} takes part in no work queue, and its messages are not acknowledged: subscribe with `group`",
                self.key.0
            );
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        };
        if membership.epoch != Some(message.epoch) {
            let detail = "`message` is of another log, and so did not come by this subscription";
            return Err(Refusal::new(RefusalCode::NotYours, detail));
        }
        Ok(Settle {
            key: self.key,
            offset: message.offset,
            verdict,
        })
    }
}

/// What an `ack` or a `nack` says of which message.
pub(super) fn settle(
    request: &Request<'_>,
    subscriptions: &[Subscription],
) -> Result<Settle, Refusal> {
    const SUB: &str = "the number that the subscribe's answer gave";
    const MESSAGE: &str = "the `id` of a message, exactly as it carried it";
    let sub: u32 = request
        .get(Field::Sub, SUB)?
        .ok_or_else(|| bad_field(Field::Sub, SUB))?;
    let message: String = request
        .get(Field::Message, MESSAGE)?
        .ok_or_else(|| bad_field(Field::Message, MESSAGE))?;
    let message: Cursor = message.parse().map_err(|_| {
        let detail = format!("`message` must be {MESSAGE}");
        Refusal::new(RefusalCode::BadCursor, detail)
    })?;
    let verdict = match request.op {
        Op::Ack => Verdict::Ack,
        _ if request.get(Field::Requeue, "true or false")? == Some(false) => Verdict::Reject,
        _ => Verdict::Nack,
    };
    let subscription = subscriptions.iter().find(|it| it.key.0 == sub);
    subscription
        .ok_or_else(unknown_subscription)?
        .settle(message, verdict)
}

pub(super) fn unknown_subscription() -> Refusal {
    let detail = "there is no such subscription: name it as `sub` from the subscribe's answer, or, to unsubscribe, as its only `topic`";
    Refusal::new(RefusalCode::NotFound, detail)
}

/// What a `subscribe` subscribes to.
fn filters(request: &Request<'_>, limits: &Limits) -> Result<Vec<TopicFilter>, Refusal> {
    let topic: Option<String> = request.get(Field::Topic, "a string")?;
    let topics: Option<Vec<String>> = request.get(Field::Topics, "a list of strings")?;
    let texts = match (topic, topics) {
        (Some(topic), None) => vec![topic],
        (None, Some(topics)) if !topics.is_empty() => topics,
        _ => {
            let expected = "there, or `topics` with at least one, but not both";
            return Err(bad_field(Field::Topic, expected));
        }
    };
    if texts.len() > limits.filters_per_subscription_max {
        let detail = format!(
            "`topics` has {} entries, more than the {} of `limits.filters_per_subscription_max`: use wildcards, or several subscriptions",
            texts.len(),
            limits.filters_per_subscription_max
        );
        return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
    }
    texts
        .into_iter()
        .map(|text| {
            TopicFilter::new(text)
                .map_err(|error| Refusal::new(RefusalCode::BadFilter, error.to_string()))
        })
        .collect()
}

/// Where a `subscribe` starts, if it says so.
fn start(request: &Request<'_>, limits: &Limits) -> Result<Option<Start>, Refusal> {
    let after: Option<String> =
        request.get(Field::After, "a cursor, `earliest`, `latest` or `retained`")?;
    let last: Option<u64> = request.get(Field::Last, "a whole number")?;
    match (after, last) {
        (Some(_), Some(_)) => Err(bad_field(Field::Last, "alone: leave out `after`")),
        (Some(after), None) => query::parse_start(&after).map(Some),
        (None, None) => Ok(None),
        (None, Some(0)) => Ok(Some(Start::Latest)),
        (None, Some(last)) if last <= limits.last_messages_max => Ok(Some(Start::Last(last))),
        (None, Some(_)) => {
            let expected = format!(
                "at most {} (`limits.last_messages_max`)",
                limits.last_messages_max
            );
            Err(bad_field(Field::Last, &expected))
        }
    }
}

/// The work queue that a `subscribe` takes part in.
fn group(
    request: &Request<'_>,
    filters: &[TopicFilter],
    limits: &Limits,
) -> Result<Option<Wanted>, Refusal> {
    let name: Option<Box<str>> = request.get(Field::Group, "a string")?;
    let prefetch = prefetch(request, limits)?;
    let ack_timeout = ack_timeout(request, limits)?;
    let Some(name) = name else {
        return match (prefetch, ack_timeout) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(only_with_group(Field::Prefetch)),
            (None, Some(_)) => Err(only_with_group(Field::AckTimeout)),
        };
    };
    let odd = |char: char| matches!(char, '/' | '+' | '#') || char.is_control();
    if name.is_empty() || name.len() > GROUP_BYTES_MAX || name.contains(odd) {
        let expected =
            format!("1 to {GROUP_BYTES_MAX} bytes without `/`, `+`, `#` and control characters");
        return Err(bad_field(Field::Group, &expected));
    }
    let [filter] = filters else {
        let expected = "one topic or filter with `group`: subscribe once for each work queue";
        return Err(bad_field(Field::Topics, expected));
    };
    let group = Group {
        name: Group::shared_name(&name, filter),
        prefetch: prefetch.unwrap_or(limits.prefetch.clamp(1, PREFETCH_MAX)),
        expiry: Expiry::Never,
        ack_timeout,
    };
    Ok(Some(Wanted { name, group }))
}

fn prefetch(request: &Request<'_>, limits: &Limits) -> Result<Option<u32>, Refusal> {
    let expected = format!(
        "a whole number from 1 to {PREFETCH_MAX}; it is {} unless told (`limits.prefetch`)",
        limits.prefetch
    );
    let prefetch: Option<u32> = request.get(Field::Prefetch, &expected)?;
    match prefetch {
        Some(prefetch) if !(1..=PREFETCH_MAX).contains(&prefetch) => {
            Err(bad_field(Field::Prefetch, &expected))
        }
        prefetch => Ok(prefetch),
    }
}

fn ack_timeout(request: &Request<'_>, limits: &Limits) -> Result<Option<Duration>, Refusal> {
    let longest = Duration::from_millis(limits.ack_ms_max);
    let expected = format!(
        "a number of seconds above 0, and at most {} (`limits.ack_ms_max`)",
        longest.as_secs_f64()
    );
    let Some(seconds) = request.get::<f64>(Field::AckTimeout, &expected)? else {
        return Ok(None);
    };
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|timeout| !timeout.is_zero() && *timeout <= longest)
        .map(Some)
        .ok_or_else(|| bad_field(Field::AckTimeout, &expected))
}

/// A field that means something in a work queue alone.
pub(super) fn only_with_group(field: Field) -> Refusal {
    bad_field(field, "left out here: it is for subscriptions with `group`")
}
