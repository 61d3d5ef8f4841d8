//! Which of 100,000 filters match a topic.

use std::collections::HashMap;
use std::hint::black_box;

use tidings_hub::bench::Filters;
use tidings_types::{Topic, TopicFilter};

use super::turns::{COLUMNS, Case, Turns};
use crate::Options;
use crate::report::{Failure, Table};

const REGIONS: usize = 100;
/// Topics in a case's cycle: so many that the nodes on their way are not all in the nearest cache.
const TOPICS: usize = 4_096;

pub fn measure(options: &Options) -> Result<Table, Failure> {
    let count = if options.quick { 1_200 } else { 100_000 };
    let turns = Turns::new(options);
    let topics = topics(count)?;
    let texts = wildcard_filters(count)?;
    let wildcard = filters(&texts);
    let matched = check(&wildcard, &texts, &topics[..64])?;
    let every_topic = topics_of(0..count)?;
    let exact = filters(
        &every_topic
            .iter()
            .map(TopicFilter::exact)
            .collect::<Vec<_>>(),
    );
    let with = || format!("match, {count} filters with wildcards");
    let without = format!("match, {count} filters without wildcards");
    let rows = vec![
        against_look_up(with(), &wildcard, &every_topic, &topics).row(turns),
        against_scan(with(), &wildcard, &texts, &topics).row(turns),
        against_look_up(without, &exact, &every_topic, &topics).row(turns),
    ];
    Ok(Table {
        title: "Matching a topic with the filters of a shard".to_owned(),
        columns: COLUMNS.to_vec(),
        rows,
        notes: vec![format!(
            "Filters: a third each of `fleet/<region>/<device>/+`, `fleet/+/<device>/alarm` and \
             `fleet/<region>/<device>/#`. A topic matches {matched:.1} of them on average, which is checked \
             against each filter by itself."
        )],
    })
}

fn region(device: usize) -> usize {
    device % REGIONS
}

fn wildcard_filters(count: usize) -> Result<Vec<TopicFilter>, Failure> {
    let text = |index: usize| {
        let device = index / 3;
        match index % 3 {
            0 => format!("fleet/r{}/d{device}/+", region(device)),
            1 => format!("fleet/+/d{device}/alarm"),
            _ => format!("fleet/r{}/d{device}/#", region(device)),
        }
    };
    let filters = (0..count).map(|index| TopicFilter::new(text(index)));
    filters
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(format!("not a filter: {error}")))
}

fn topics_of(devices: impl Iterator<Item = usize>) -> Result<Vec<Topic>, Failure> {
    let text = |device| format!("fleet/r{}/d{device}/alarm", region(device));
    devices
        .map(|device| Topic::new(text(device)))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(format!("not a topic: {error}")))
}

/// Topics of devices that have filters, far apart from each other.
fn topics(filter_count: usize) -> Result<Vec<Topic>, Failure> {
    let devices = filter_count / 3;
    // A prime step spreads them over all devices.
    topics_of((0..TOPICS).map(|index| index * 7_919 % devices))
}

fn filters(texts: &[TopicFilter]) -> Filters {
    let mut filters = Filters::default();
    for text in texts {
        filters.insert(text);
    }
    filters
}

/// Compares with each filter by itself; gives how many matched on average.
fn check(filters: &Filters, texts: &[TopicFilter], topics: &[Topic]) -> Result<f64, Failure> {
    let mut matcher = filters.matcher();
    let mut total = 0;
    for topic in topics {
        let expect = texts.iter().filter(|filter| filter.matches(topic)).count();
        let found = matcher.matches(topic);
        if found != expect {
            let text = format!("{found} filters match {topic}, should be {expect}");
            return Err(Failure::new(text));
        }
        total += found;
    }
    Ok(total as f64 / topics.len() as f64)
}

fn look_up<'a>(exact: &[Topic], topics: &'a [Topic]) -> Box<dyn FnMut(u64) + 'a> {
    let texts = exact.iter().map(ToString::to_string);
    let map: HashMap<String, usize> = texts.zip(0..).collect();
    Box::new(move |times| {
        for topic in topics.iter().cycle().take(times as usize) {
            black_box(map.get(black_box(topic.as_str())));
        }
    })
}

/// A look-up by the whole name, in a table of as many names: what matching would cost without wildcards.
fn against_look_up<'a>(
    name: String,
    filters: &'a Filters,
    exact: &[Topic],
    topics: &'a [Topic],
) -> Case<'a> {
    Case {
        name,
        baseline_name: format!("look-up in a `HashMap` of {} topics", exact.len()),
        part: matches(filters, topics),
        baseline: look_up(exact, topics),
    }
}

/// The obvious way, with fewer filters so that it ends.
fn against_scan<'a>(
    name: String,
    filters: &'a Filters,
    texts: &'a [TopicFilter],
    topics: &'a [Topic],
) -> Case<'a> {
    let sample = &texts[..texts.len().min(1_000)];
    Case {
        name,
        baseline_name: format!("{} of the filters, one by one", sample.len()),
        part: matches(filters, topics),
        baseline: Box::new(move |times| {
            for topic in topics.iter().cycle().take(times as usize) {
                let found = sample.iter().filter(|filter| filter.matches(topic));
                black_box(found.count());
            }
        }),
    }
}

fn matches<'a>(filters: &'a Filters, topics: &'a [Topic]) -> Box<dyn FnMut(u64) + 'a> {
    let mut matcher = filters.matcher();
    Box::new(move |times| {
        for topic in topics.iter().cycle().take(times as usize) {
            black_box(matcher.matches(black_box(topic)));
        }
    })
}
