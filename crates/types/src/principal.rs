//! Who a peer is, what it may do, and for how long.

use crate::{Timestamp, Topic, TopicFilter};

/// What a principal may publish to and subscribe to. What is denied is denied whatever else is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Topics that may be published to.
    pub publish: Vec<TopicFilter>,
    /// Topics that may be read.
    pub subscribe: Vec<TopicFilter>,
    /// Topics that may not be published to.
    pub deny_publish: Vec<TopicFilter>,
    /// Topics that may not be read.
    pub deny_subscribe: Vec<TopicFilter>,
}

impl Grants {
    /// May publish and subscribe everywhere but on `$` topics, which a leading wildcard never covers.
    #[must_use]
    pub fn everything() -> Self {
        let all = TopicFilter::all();
        Self {
            publish: vec![all.clone()],
            subscribe: vec![all],
            ..Self::default()
        }
    }

    /// Whether a message may be published to the topic.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|grant| grant.matches(topic))
            && !self.deny_publish.iter().any(|deny| deny.matches(topic))
    }

    /// Whether every topic that the filter could match may be read. The filter is judged as a whole: a
    /// grant on `a/+` does not give `a/#`, and a filter with one denied topic in it is refused.
    #[must_use]
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.subscribe.iter().any(|grant| grant.covers(filter))
            && !self.deny_subscribe.iter().any(|deny| deny.overlaps(filter))
    }

    /// Adds what another source grants and denies.
    pub fn extend(&mut self, other: Self) {
        self.publish.extend(other.publish);
        self.subscribe.extend(other.subscribe);
        self.deny_publish.extend(other.deny_publish);
        self.deny_subscribe.extend(other.deny_subscribe);
    }

    /// How many filters there are in all lists.
    #[must_use]
    pub fn filters(&self) -> usize {
        self.publish.len()
            + self.subscribe.len()
            + self.deny_publish.len()
            + self.deny_subscribe.len()
    }
}

impl TopicFilter {
    /// Whether some topic is in both sets. It errs on the safe side: `+` and `/#` have the empty text in
    /// common, which is no topic, and the topics in common may all be longer than a topic can be.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let closed = |one: &Self, two: &Self| {
            one.as_str().starts_with('$') && two.as_str().starts_with(['+', '#'])
        };
        if closed(self, other) || closed(other, self) {
            return false;
        }
        let mut mine = self.levels();
        let mut theirs = other.levels();
        loop {
            match (mine.next(), theirs.next()) {
                // Whatever is left of the other, nothing included, is below the `#` or its parent.
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(a), Some(b)) if a == "+" || b == "+" || a == b => {}
                _ => return false,
            }
        }
    }
}

/// What a principal rests on: whether it is still good can be asked again later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voucher {
    /// Which reading of the configuration it was judged by; 0 is none.
    pub judged_by: u64,
    /// Tells the entry of a file that vouches for it from every other, and from what that entry was before. It means
    /// something in this process alone.
    pub entry: Option<u64>,
    /// When the credential was issued, if it says so (a token's `iat`).
    pub issued: Option<Timestamp>,
}

/// An identity with its grants and its end. Shared by all that one peer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name in logs, and the subject of permission rules.
    pub name: String,
    /// What it may do.
    pub grants: Grants,
    /// From when on it is nobody, and its connections end; `None` is never.
    pub expires: Option<Timestamp>,
    /// What vouches for it: the metrics label, and what tells equal names of different sources apart.
    pub source: &'static str,
    /// The public name of the very credential (a key's id, a token's `jti`, a certificate's fingerprint), to revoke it by.
    pub credential: Option<String>,
    /// What it rests on.
    pub voucher: Voucher,
}

impl Principal {
    /// The source of a principal that showed no credential.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// The identity of a peer that showed no credential, where that is permitted.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: Self::ANONYMOUS.to_owned(),
            grants: Grants::everything(),
            expires: None,
            source: Self::ANONYMOUS,
            credential: None,
            voucher: Voucher::default(),
        }
    }

    /// The source of a principal that a client certificate names.
    pub const CERTIFICATE: &'static str = "certificate";

    /// The source of a peer that has not said who it is.
    pub const NOBODY: &'static str = "nobody";

    /// A peer that has still to say who it is: it may do nothing. It has until the end for it.
    #[must_use]
    pub fn nobody(expires: Option<Timestamp>) -> Self {
        Self {
            name: Self::NOBODY.to_owned(),
            grants: Grants::default(),
            expires,
            source: Self::NOBODY,
            credential: None,
            voucher: Voucher::default(),
        }
    }

    /// Whether it has still to say who it is.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.source == Self::NOBODY
    }

    /// Whether its end has come.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    /// The rules of MQTT 4.7 word by word, over levels.
    fn naive_match(filter: &[&str], topic: &[&str], first: bool) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((&"#", _)), None) => !first,
            (Some((&"#", _)), Some((level, _))) => !(first && level.starts_with('$')),
            (Some((&"+", rest)), Some((level, below))) => {
                !(first && level.starts_with('$')) && naive_match(rest, below, false)
            }
            (Some((wanted, rest)), Some((level, below))) => {
                wanted == level && naive_match(rest, below, false)
            }
            _ => false,
        }
    }

    fn naive(filter: &TopicFilter, topic: &str) -> bool {
        let filter: Vec<&str> = filter.levels().collect();
        let topic: Vec<&str> = topic.split('/').collect();
        naive_match(&filter, &topic, true)
    }

    /// Every text of one to four levels over a small alphabet, the empty one too. `z` is in no filter.
    fn topics() -> Vec<String> {
        let alphabet = ["a", "b", "", "$s", "z"];
        let mut texts: Vec<String> = Vec::new();
        let mut longest: Vec<String> = alphabet.map(str::to_owned).to_vec();
        for _ in 0..4 {
            texts.extend(longest.clone());
            longest = longest
                .iter()
                .flat_map(|text| alphabet.map(|level| format!("{text}/{level}")))
                .collect();
        }
        texts
    }

    fn any_filter() -> impl Strategy<Value = TopicFilter> {
        let level = select(vec!["a", "b", "", "$s", "+", "+"]);
        (vec(level, 1..4), any::<bool>())
            .prop_map(|(mut levels, deep)| {
                if deep {
                    let last = levels.len() - 1;
                    levels[last] = "#";
                }
                levels.join("/")
            })
            .prop_filter_map("an empty text", |text| TopicFilter::new(text).ok())
    }

    #[test]
    fn filters_overlap_when_a_topic_is_in_both() {
        for (one, two, expect) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a/#", "a", true),
            ("a/#", "a/+/c", true),
            ("+/b", "a/+", true),
            ("+/b", "a/c", false),
            ("a/+", "a", false),
            ("a/+/#", "a", false),
            ("#", "+/x", true),
            ("#", "$sys/x", false),
            ("+/x", "$sys/+", false),
            ("$sys/#", "$sys/+", true),
            ("+/+", "/", true),
        ] {
            assert_eq!(filter(one).overlaps(&filter(two)), expect, "{one} {two}");
            assert_eq!(filter(two).overlaps(&filter(one)), expect, "{two} {one}");
        }
    }

    #[test]
    fn what_is_denied_stays_denied() {
        let grants = Grants {
            publish: vec![filter("a/#")],
            subscribe: vec![filter("a/#"), filter("a/secret")],
            deny_publish: vec![filter("a/+/locked")],
            deny_subscribe: vec![filter("a/secret")],
        };
        for (topic, expect) in [("a/b", true), ("a/b/locked", false), ("b", false)] {
            assert_eq!(
                grants.may_publish(&Topic::new(topic).unwrap()),
                expect,
                "{topic}"
            );
        }
        for (wanted, expect) in [
            ("a/b", true),
            ("a/b/+", true),
            ("a/+", false),
            ("a/#", false),
            ("a/secret", false),
        ] {
            assert_eq!(grants.may_subscribe(&filter(wanted)), expect, "{wanted}");
        }
    }

    #[test]
    fn a_principal_ends_at_its_end() {
        let mut someone = Principal::anonymous();
        assert!(!someone.has_ended(Timestamp(u64::MAX)));
        someone.expires = Some(Timestamp(10));
        assert!(!someone.has_ended(Timestamp(9)));
        assert!(someone.has_ended(Timestamp(10)));
    }

    proptest! {
        #[test]
        fn overlap_agrees_with_looking_at_every_topic(one in any_filter(), two in any_filter()) {
            let common = topics().iter().any(|topic| naive(&one, topic) && naive(&two, topic));
            prop_assert_eq!(one.overlaps(&two), common);
        }

        #[test]
        fn no_topic_more_than_granted_can_be_reached(
            allow in vec(any_filter(), 0..4),
            deny in vec(any_filter(), 0..3),
            wanted in any_filter(),
        ) {
            let grants = Grants {
                publish: allow.clone(),
                subscribe: allow.clone(),
                deny_publish: deny.clone(),
                deny_subscribe: deny.clone(),
            };
            let may = |topic: &str| {
                allow.iter().any(|grant| naive(grant, topic))
                    && !deny.iter().any(|deny| naive(deny, topic))
            };
            let read = grants.may_subscribe(&wanted);
            let mut forbidden = false;
            for text in topics() {
                let Ok(topic) = Topic::new(text.as_str()) else { continue };
                prop_assert_eq!(grants.may_publish(&topic), may(&text));
                forbidden |= naive(&wanted, &text) && !may(&text);
            }
            prop_assert!(!(read && forbidden), "{} reads too much", wanted);
            // Not refused without a reason either: one grant has it all, and no deny touches it.
            let covered = allow.iter().any(|grant| grant.covers(&wanted));
            let denied = topics()
                .iter()
                .any(|topic| naive(&wanted, topic) && deny.iter().any(|deny| naive(deny, topic)));
            prop_assert_eq!(read, covered && !denied);
        }
    }
}
