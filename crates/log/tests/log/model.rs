//! Random histories against a list of messages.

use std::time::Duration;

use proptest::prelude::*;
use tidings_ports::ReadFrom;
use tidings_types::{Durability, Offset, Retention, Storage, Topic, TopicFilter};

use super::common::*;

const TOPICS: [&str; 7] = ["a", "a/b", "a/c", "b", "cap/x", "cap/y", "mem/x"];
const FILTERS: [&str; 8] = ["a", "a/#", "a/+", "b", "#", "cap/#", "mem/x", "+/x"];
const CAP: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<(usize, bool, u8)>),
    Advance(u64),
    Keep,
    Reopen,
    Kill,
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let message = (0..TOPICS.len(), prop::bool::weighted(0.2), 0..200u8);
    let step = prop_oneof![
        12 => prop::collection::vec(message, 1..6).prop_map(Step::Publish),
        2 => (1..20_000u64).prop_map(Step::Advance),
        3 => Just(Step::Keep),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Clone, Debug)]
struct Known {
    offset: u64,
    topic: &'static str,
    text: String,
    time: u64,
    retain: bool,
}

#[derive(Default)]
struct Model {
    messages: Vec<Known>,
}

const AGE_MS: u64 = 30_000;
/// A stretch of the log goes as a whole.
const SLACK_MS: u64 = 1_000;

impl Model {
    /// What must be read, and what may be.
    fn history(&self, filter: &str, kept_at: u64) -> (Vec<u64>, Vec<u64>) {
        let filter = TopicFilter::new(filter).unwrap();
        let matching = self
            .messages
            .iter()
            .filter(|known| filter.matches(&Topic::new(known.topic).unwrap()));
        let newer = |known: &&Known| {
            let of_topic = self.messages.iter().filter(|m| m.topic == known.topic);
            of_topic.filter(|m| m.offset > known.offset).count()
        };
        let capped = matching.filter(|m| !m.topic.starts_with("cap") || newer(m) < CAP);
        let may: Vec<&Known> = capped
            .filter(|m| !m.topic.starts_with('a') || m.time + AGE_MS + SLACK_MS > kept_at)
            .collect();
        let must = may
            .iter()
            .filter(|m| !m.topic.starts_with('a') || m.time + AGE_MS > kept_at);
        let must = must.map(|m| m.offset).collect();
        (must, may.iter().map(|m| m.offset).collect())
    }

    fn retained(&self) -> Vec<(u64, String)> {
        let newest = TOPICS.iter().filter_map(|topic| {
            let of_topic = self.messages.iter().rev();
            let mut retained = of_topic.filter(|m| m.topic == *topic && m.retain);
            retained.next().filter(|m| !m.text.is_empty())
        });
        let mut found: Vec<_> = newest.map(|m| (m.offset, m.text.clone())).collect();
        found.sort();
        found
    }
}

fn rules(durability: Durability) -> tidings_log::LogConfig {
    let mut config = config(900);
    config.durability = durability;
    let aged = Retention {
        age_max: Some(Duration::from_millis(AGE_MS)),
        ..keep_all()
    };
    let capped = Retention {
        per_topic_max: Some(CAP as u64),
        ..keep_all()
    };
    rule(&mut config, "a/#", aged);
    rule(&mut config, "cap/#", capped);
    rule(&mut config, "mem/#", stored(Storage::Memory));
    config
}

fn check(log: &mut Log, model: &Model, kept_at: u64) -> Result<(), TestCaseError> {
    for filter in FILTERS {
        let (must, may) = model.history(filter, kept_at);
        for page in [2, 1_000] {
            let read = log.walk(filter, 0, page);
            let read: Vec<u64> = read.into_iter().map(|(at, _)| at).collect();
            prop_assert!(read.is_sorted_by(|a, b| a < b), "{} {:?}", filter, read);
            let lost = must.iter().find(|at| !read.contains(at));
            prop_assert!(lost.is_none(), "{} {:?} lacks {:?}", filter, read, lost);
            let stray = read.iter().find(|at| !may.contains(at));
            prop_assert!(stray.is_none(), "{} {:?} has {:?}", filter, read, stray);
        }
        let read = offsets(&log.page(&[filter], earliest(0)));
        for n in [1, 3] {
            let last = offsets(&log.page(&[filter], ReadFrom::Last(n)));
            let from = read.len().saturating_sub(n as usize);
            prop_assert_eq!(&last[..], &read[from..], "last {} of {}", n, filter);
        }
        // Whoever has a cursor gets all that came after it, or is told.
        let filter_set = TopicFilter::new(filter).unwrap();
        for cursor in model.messages.iter().map(|m| m.offset).step_by(3) {
            let page = log.page(&[filter], resume(cursor));
            let wanted = model
                .messages
                .iter()
                .filter(|m| m.offset > cursor && filter_set.matches(&Topic::new(m.topic).unwrap()));
            let wanted: Vec<u64> = wanted.map(|m| m.offset).collect();
            prop_assert!(
                page.gap.is_some() || offsets(&page) == wanted,
                "{filter} after {cursor}"
            );
        }
    }
    let from = ReadFrom::Retained { after: Offset(0) };
    prop_assert_eq!(texts(&log.page(&["#"], from)), model.retained());
    Ok(())
}

fn run(durability: Durability, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut log = Log::new(rules(durability));
    let mut model = Model::default();
    let (mut now, mut kept_at) = (START, START);
    for step in steps {
        match step {
            Step::Publish(messages) => {
                let drafts = messages.iter().map(|(topic, retain, size)| {
                    let text = "x".repeat(usize::from(*size));
                    let mut draft = draft(TOPICS[*topic], &text);
                    draft.retain = *retain;
                    draft
                });
                let receipts = log.try_publish(drafts.collect()).unwrap();
                for (receipt, (topic, retain, size)) in receipts.iter().zip(messages) {
                    model.messages.push(Known {
                        offset: receipt.cursor.offset.0,
                        topic: TOPICS[topic],
                        text: "x".repeat(usize::from(size)),
                        time: receipt.time.0,
                        retain,
                    });
                }
            }
            Step::Advance(ms) => {
                log.advance(Duration::from_millis(ms));
                now += ms;
            }
            Step::Keep => {
                log.core().keep();
                kept_at = now;
            }
            Step::Reopen | Step::Kill | Step::Crash(_) => {
                match step {
                    Step::Reopen => log.reopen(),
                    Step::Crash(seed) if durability == Durability::Sync => log.crash(seed),
                    _ => log.kill(),
                }
                kept_at = now;
                model.messages.retain(|m| !m.topic.starts_with("mem"));
            }
        }
        check(&mut log, &model, kept_at)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_as_the_model_says(steps in steps(), os: bool) {
        run(if os { Durability::Os } else { Durability::Sync }, steps)?;
    }
}
