//! The only permission check, and the limits on what a peer may ask.
//!
//! `Admitted` has no constructor outside this module: what is not admitted cannot reach the engine or a
//! subscription.

use bytestring::ByteString;
use tidings_ports::{Action, Start};
use tidings_types::{Draft, Limits, Origin, Principal, Refusal, RefusalCode, Topic, TopicFilter};

/// Something that passed the gate.
#[derive(Clone, Debug)]
pub struct Admitted<T>(T);

impl<T> Admitted<T> {
    /// What was admitted, to look at.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// What was admitted.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Admitted<Draft> {
    /// A draft that was admitted before it was kept durably.
    pub(crate) fn kept(draft: Draft) -> Self {
        Self(draft)
    }

    /// The draft, alone, with the origin of who it is published for and a key against publishing it twice.
    pub(crate) fn publication(&self, origin: Origin, key: ByteString) -> Admitted<Vec<Draft>> {
        let mut draft = self.0.clone();
        draft.origin = origin;
        draft.key = Some(key);
        Admitted(vec![draft])
    }
}

/// A message that a work queue gave up: it was admitted when it was published.
pub(crate) fn dead_letter(draft: Draft) -> Admitted<Vec<Draft>> {
    Admitted(vec![draft])
}

/// Admits a draft to be published later, on behalf of who is gone by then.
pub fn will(
    principal: &Principal,
    draft: Draft,
    limits: &Limits,
) -> Result<Admitted<Draft>, Refusal> {
    check_size(&draft, limits)?;
    check_publish(principal, &draft)?;
    Ok(Admitted(draft))
}

/// Admits drafts to be published together.
pub fn publish(
    principal: &Principal,
    drafts: Vec<Draft>,
    limits: &Limits,
) -> Result<Admitted<Vec<Draft>>, Refusal> {
    if drafts.is_empty() {
        return Err(Refusal::new(
            RefusalCode::BadRequest,
            "there is no message to publish: send at least one",
        ));
    }
    if drafts.len() > limits.batch_messages_max {
        let detail = format!(
            "{} messages in one batch; at most {} are taken (limits.batch_messages_max): split it",
            drafts.len(),
            limits.batch_messages_max
        );
        return Err(Refusal::new(RefusalCode::BatchTooLarge, detail));
    }
    for draft in &drafts {
        check_size(draft, limits)?;
        check_publish(principal, draft)?;
    }
    Ok(Admitted(drafts))
}

fn check_size(draft: &Draft, limits: &Limits) -> Result<(), Refusal> {
    let too_large = |unit: &str, size: usize, max: usize, limit: &str| {
        let topic = &draft.topic;
        let detail = format!(
            "the message to `{topic}` has {size} {unit}, at most {max} are taken (limits.{limit})"
        );
        Err(Refusal::new(RefusalCode::MessageTooLarge, detail))
    };
    if draft.payload.len() > limits.message_bytes_max {
        return too_large(
            "bytes",
            draft.payload.len(),
            limits.message_bytes_max,
            "message_bytes_max",
        );
    }
    let headers = &draft.properties.headers;
    if headers.len() > limits.message_headers_max {
        return too_large(
            "headers",
            headers.len(),
            limits.message_headers_max,
            "message_headers_max",
        );
    }
    let properties = draft.properties.size();
    if properties > limits.message_header_bytes_max {
        return too_large(
            "bytes of headers",
            properties,
            limits.message_header_bytes_max,
            "message_header_bytes_max",
        );
    }
    match &draft.key {
        Some(key) if key.is_empty() || key.len() > limits.key_bytes_max => Err(Refusal::new(
            RefusalCode::BadParameter,
            format!(
                "an idempotency key has 1 to {} bytes (limits.key_bytes_max)",
                limits.key_bytes_max
            ),
        )),
        _ => Ok(()),
    }
}

/// What a publish to the topic asks for, if no grant of the principal's decides it. Topics of the server's own are
/// open to nobody who is not granted them by name.
#[must_use]
pub fn undecided_publish(principal: &Principal, topic: &Topic) -> Option<(Action, TopicFilter)> {
    let grants = &principal.grants;
    let matches = |filter: &TopicFilter| filter.matches(topic);
    let decided = grants.publish.iter().any(matches) || grants.deny_publish.iter().any(matches);
    let asked = !decided && !topic.is_reserved() && !principal.is_nobody();
    asked.then(|| (Action::Publish, TopicFilter::exact(topic)))
}

/// The same for a subscription.
#[must_use]
pub fn undecided_subscribe(
    principal: &Principal,
    filter: &TopicFilter,
) -> Option<(Action, TopicFilter)> {
    let grants = &principal.grants;
    let decided = grants.subscribe.iter().any(|grant| grant.covers(filter))
        || grants
            .deny_subscribe
            .iter()
            .any(|deny| deny.overlaps(filter));
    let asked = !decided && !filter.as_str().starts_with('$') && !principal.is_nobody();
    asked.then(|| (Action::Subscribe, filter.clone()))
}

/// Who has not said who it is may do nothing, and is told that it should.
fn check_somebody(principal: &Principal) -> Result<(), Refusal> {
    if principal.is_nobody() {
        let detail = "say who you are first: send a password, a key or a token";
        return Err(Refusal::new(RefusalCode::Unauthorized, detail));
    }
    Ok(())
}

fn check_publish(principal: &Principal, draft: &Draft) -> Result<(), Refusal> {
    if principal.grants.may_publish(&draft.topic) {
        return Ok(());
    }
    check_somebody(principal)?;
    let detail = if draft.topic.is_reserved() {
        format!(
            "topics that begin with `$` are the server's own: publish to another one than `{}`",
            draft.topic
        )
    } else {
        format!("`{}` may not publish to `{}`", principal.name, draft.topic)
    };
    Err(Refusal::new(RefusalCode::Forbidden, detail))
}

/// Filters with a start, for a subscription or a read.
#[derive(Debug)]
pub struct Wanted {
    /// At least one.
    pub filters: Vec<TopicFilter>,
    /// Where to start.
    pub start: Start,
}

/// Admits a subscription, or a read of the log.
pub fn subscribe(
    principal: &Principal,
    wanted: Wanted,
    limits: &Limits,
) -> Result<Admitted<Wanted>, Refusal> {
    check_filters(principal, &wanted.filters, limits)?;
    if let Start::Last(n) = wanted.start {
        check_last(n, limits)?;
    }
    Ok(Admitted(wanted))
}

fn check_last(n: u64, limits: &Limits) -> Result<(), Refusal> {
    if n > 0 && n <= limits.last_messages_max {
        return Ok(());
    }
    let max = limits.last_messages_max;
    let detail = format!("`last` is 1 to {max} (limits.last_messages_max)");
    Err(Refusal::new(RefusalCode::BadParameter, detail))
}

fn check_filters(
    principal: &Principal,
    filters: &[TopicFilter],
    limits: &Limits,
) -> Result<(), Refusal> {
    if filters.is_empty() {
        return Err(Refusal::new(
            RefusalCode::BadFilter,
            "no topic is named: name at least one",
        ));
    }
    if filters.len() > limits.filters_per_subscription_max {
        let detail = format!(
            "{} topics in one subscription; at most {} are taken (limits.filters_per_subscription_max): use a wildcard, or several subscriptions",
            filters.len(),
            limits.filters_per_subscription_max
        );
        return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
    }
    check_grants(principal, filters)
}

/// Whether every one of the filters may be read as a whole.
pub(crate) fn check_grants(principal: &Principal, filters: &[TopicFilter]) -> Result<(), Refusal> {
    if let Some(filter) = filters
        .iter()
        .find(|filter| !principal.grants.may_subscribe(filter))
    {
        check_somebody(principal)?;
        let detail = if filter.as_str().starts_with('$') {
            format!("topics that begin with `$` are the server's own: `{filter}` is closed")
        } else {
            format!("`{}` may not subscribe to `{filter}`", principal.name)
        };
        return Err(Refusal::new(RefusalCode::Forbidden, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn draft(topic: &str, payload: usize) -> Draft {
        Draft::new(Topic::new(topic).unwrap(), Bytes::from(vec![b'x'; payload]))
    }

    #[test]
    fn drafts_over_a_limit_are_refused_with_its_name() {
        let limits = Limits {
            message_bytes_max: 10,
            batch_messages_max: 2,
            ..Limits::default()
        };
        let someone = Principal::anonymous();
        let mut keyed = draft("a", 1);
        keyed.key = Some(ByteString::from("k".repeat(257)));
        let mut heavy = draft("a", 1);
        heavy.properties.headers =
            vec![(ByteString::from("h"), ByteString::from("v".repeat(9000)))];
        for (drafts, expect) in [
            (vec![draft("a", 10)], None),
            (vec![draft("a", 11)], Some(RefusalCode::MessageTooLarge)),
            (
                vec![draft("a", 1), draft("a", 1), draft("a", 1)],
                Some(RefusalCode::BatchTooLarge),
            ),
            (vec![], Some(RefusalCode::BadRequest)),
            (vec![draft("$sys/x", 1)], Some(RefusalCode::Forbidden)),
            (vec![keyed], Some(RefusalCode::BadParameter)),
            (vec![heavy], Some(RefusalCode::MessageTooLarge)),
        ] {
            let got = publish(&someone, drafts, &limits)
                .err()
                .map(|refusal| refusal.code);
            assert_eq!(got, expect);
        }
    }

    #[test]
    fn subscriptions_are_judged_by_the_filter_as_a_whole() {
        let limits = Limits::default();
        let mut someone = Principal::anonymous();
        someone.grants.subscribe = vec![TopicFilter::new("a/+").unwrap()];
        for (filter, start, good) in [
            ("a/b", Start::Latest, true),
            ("a/+", Start::Earliest, true),
            ("a/#", Start::Latest, false),
            ("$sys/#", Start::Latest, false),
            ("a/b", Start::Last(0), false),
            ("a/b", Start::Last(10_001), false),
        ] {
            let wanted = Wanted {
                filters: vec![TopicFilter::new(filter).unwrap()],
                start,
            };
            assert_eq!(
                subscribe(&someone, wanted, &limits).is_ok(),
                good,
                "{filter}"
            );
        }
    }
}
