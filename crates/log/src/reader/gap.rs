//! Whether something that matched is gone since a cursor.

use tidings_types::{RetentionRules, Storage as Class, Topic, TopicFilter};

use crate::state::State;

use super::{Reader, Trouble};

/// Topics with a `per_topic_max` that one read looks up; if none of so many shows, a gap is assumed.
const LOOK_UPS_MAX: usize = 256;

/// A topic of which a `per_topic_max` may have removed something after the cursor.
struct Suspect {
    topic: Topic,
    storage: Class,
    /// The first ordinal that is left.
    floor: u64,
}

impl Reader<'_> {
    /// Where the topics are kept of which something after the cursor is gone, if there are any. Never misses
    /// one; for topics that were forgotten, and for what a restart took, it may say so although nothing of
    /// these filters was there.
    pub(super) fn gap_after(&self, cursor: u64) -> Result<Option<Class>, Trouble> {
        let mut live_only = false;
        let mut suspects = Vec::new();
        {
            let state = self.shared.state();
            for filter in self.filters {
                for (topic, known) in state.table.matching(filter, None) {
                    if known.removed_to > cursor {
                        if known.storage != Class::None {
                            return Ok(Some(Class::Durable));
                        }
                        live_only = true;
                    }
                    let floor = state.table.floor_of(known).ordinal;
                    if known.last_offset > cursor && floor > known.first_ordinal {
                        if suspects.len() == LOOK_UPS_MAX {
                            return Ok(Some(Class::Durable));
                        }
                        suspects.push(Suspect {
                            topic: topic.clone(),
                            storage: known.storage,
                            floor,
                        });
                    }
                }
                match self.forgotten_after(&state, filter, cursor) {
                    Some(Class::None) => live_only = true,
                    Some(_) => return Ok(Some(Class::Durable)),
                    None => {}
                }
            }
        }
        for suspect in suspects {
            if self.was_cut(&suspect, cursor)? {
                return Ok(Some(Class::Durable));
            }
        }
        let rules = &self.shared.config.rules;
        let durable = |filter: &TopicFilter| can_match(rules, filter, Class::Durable);
        if cursor < self.shared.lost_to && self.filters.iter().any(durable) {
            return Ok(Some(Class::Durable));
        }
        if cursor < self.shared.start {
            if self
                .filters
                .iter()
                .any(|f| can_match(rules, f, Class::Memory))
            {
                return Ok(Some(Class::Memory));
            }
            live_only |= self
                .filters
                .iter()
                .any(|f| can_match(rules, f, Class::None));
        }
        Ok(live_only.then_some(Class::None))
    }

    fn forgotten_after(&self, state: &State, filter: &TopicFilter, cursor: u64) -> Option<Class> {
        let rules = &self.shared.config.rules;
        let storage = |class: usize| rules.class(class).storage;
        if let Some(topic) = filter.as_topic() {
            if state.table.get(&topic).is_some() {
                return None;
            }
            let class = rules.class_of(&topic);
            return (state.table.classes[class].forgotten_to > cursor).then(|| storage(class));
        }
        let forgot = |class: &usize| {
            let overlap = rules
                .rules
                .get(*class)
                .is_none_or(|(rule, _)| overlaps(rule, filter));
            overlap && state.table.classes[*class].forgotten_to > cursor
        };
        let mut classes = (0..state.table.classes.len()).filter(forgot).map(storage);
        classes
            .clone()
            .find(|class| *class != Class::None)
            .or(classes.next())
    }

    /// Whether the first message after the cursor that is still in a file is before the topic's first that is
    /// left.
    fn was_cut(&self, suspect: &Suspect, cursor: u64) -> Result<bool, Trouble> {
        let (sealed, in_active) = {
            let state = self.shared.state();
            let chain = state.chain(suspect.storage);
            let in_active = chain.active.as_ref().and_then(|active| {
                let entry = active.index.find(suspect.topic.as_str())?;
                let at = active.index.lower_bound(&entry, cursor);
                active.index.postings(&entry, at, 1).first().copied()
            });
            (std::sync::Arc::clone(&chain.sealed), in_active)
        };
        let from = sealed.partition_point(|segment| segment.last <= cursor);
        for segment in &sealed[from..] {
            let trouble = Trouble::io(&segment.name, 0);
            let found = segment
                .index
                .find(suspect.topic.as_str())
                .map_err(&trouble)?;
            let Some(entry) = found.filter(|entry| entry.last_offset > cursor) else {
                continue;
            };
            let at = segment
                .index
                .lower_bound(&entry, cursor)
                .map_err(&trouble)?;
            let postings = segment.index.postings(&entry, at, 1).map_err(&trouble)?;
            return Ok(postings
                .first()
                .is_some_and(|first| first.ordinal < suspect.floor));
        }
        Ok(in_active.is_some_and(|first| first.ordinal < suspect.floor))
    }
}

/// Whether a topic that matches the filter could be kept there.
fn can_match(rules: &RetentionRules, filter: &TopicFilter, storage: Class) -> bool {
    if let Some(topic) = filter.as_topic() {
        return rules.of(&topic).storage == storage;
    }
    let mut rest = rules.rules.iter();
    let by_rule = rest.any(|(rule, kept)| kept.storage == storage && overlaps(rule, filter));
    by_rule || rules.default.storage == storage
}

/// Whether a topic could match both.
fn overlaps(a: &TopicFilter, b: &TopicFilter) -> bool {
    if a.as_str().starts_with('$') && b.as_str().starts_with(['+', '#'])
        || b.as_str().starts_with('$') && a.as_str().starts_with(['+', '#'])
    {
        return false;
    }
    let (mut a, mut b) = (a.levels(), b.levels());
    loop {
        match (a.next(), b.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_overlap_if_one_topic_could_match_both() {
        for (a, b, expect) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "b/#", false),
            ("a/+", "a/b/c", false),
            ("#", "x/y", true),
            ("$sys/#", "#", false),
            ("+/x", "$sys/x", false),
        ] {
            let filter = |text| TopicFilter::new(text).unwrap();
            assert_eq!(overlaps(&filter(a), &filter(b)), expect, "{a} {b}");
            assert_eq!(overlaps(&filter(b), &filter(a)), expect, "{b} {a}");
        }
    }
}
