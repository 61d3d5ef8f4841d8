//! What goes, what stays, and what is said about it.

use std::sync::Arc;
use std::time::Duration;

use tidings_log::storage::Storage as _;
use tidings_ports::ReadFrom;
use tidings_types::{Offset, Retention, Storage};

use super::common::*;

const RETAINED: ReadFrom = ReadFrom::Retained { after: Offset(0) };

#[test]
fn a_topic_keeps_its_newest_exactly_and_the_gap_is_exact() {
    let mut config = config(700);
    config.rules.default.per_topic_max = Some(3);
    let mut log = Log::new(config);
    let mut published = Vec::new();
    for number in 0..40 {
        let name = ["a", "b"][number % 2];
        published.push((name, log.publish(name, &number.to_string())));
        if number % 6 == 0 {
            log.core().keep();
        }
        if number % 10 == 9 {
            log.kill();
        }
        for name in ["a", "b"] {
            let own = published.iter().filter(|(known, _)| *known == name);
            let own: Vec<u64> = own.map(|(_, at)| *at).collect();
            let kept = &own[own.len().saturating_sub(3)..];
            assert_eq!(
                offsets(&log.page(&[name], earliest(0))),
                kept,
                "after {number}"
            );
            let lost = own.len().checked_sub(4).map_or(0, |at| own[at]);
            for cursor in 0..=number as u64 + 1 {
                let page = log.page(&[name], resume(cursor));
                assert_eq!(
                    page.gap.is_some(),
                    lost > cursor,
                    "{name} {number} {cursor}"
                );
                if page.gap.is_some() {
                    assert_eq!(page.gap, Some(Offset(kept[0])));
                }
            }
        }
    }
    let segments = log.files(".seg").len();
    assert!(segments < 6, "{segments} segments are left");
}

#[test]
fn age_removes_and_the_files_go() {
    let mut config = config(700);
    config.rules.default.age_max = Some(Duration::from_mins(1));
    let mut log = Log::new(config);
    for number in 0..40 {
        log.publish("t", &number.to_string());
        log.advance(Duration::from_secs(5));
    }
    log.core().keep();
    assert_eq!(log.all("t").first().unwrap(), "29");
    let page = log.page(&["t"], resume(10));
    assert_eq!(
        (page.gap, page.gap_storage),
        (Some(Offset(30)), Storage::Durable)
    );
    assert!(log.page(&["t"], resume(29)).gap.is_none());
    assert!(log.files(".seg").len() < 6);
    log.kill();
    assert_eq!(log.all("t").first().unwrap(), "29");
    assert!(log.page(&["t"], resume(28)).gap.is_some());
    assert!(log.page(&["t"], resume(29)).gap.is_none());
    log.advance(Duration::from_hours(1));
    log.core().keep();
    assert!(log.all("t").is_empty());
    let page = log.page(&["t"], resume(39));
    assert_eq!(page.gap, Some(Offset(40)), "all is gone: the head");
    assert!(log.page(&["t"], resume(40)).gap.is_none());
    assert_eq!(log.publish("t", "new"), 41);
    assert_eq!(log.all("t"), ["new"]);
}

#[test]
fn bytes_remove_the_oldest_of_the_class_only() {
    let mut config = config(2_000);
    let bounded = Retention {
        bytes_max: Some(3_000),
        ..keep_all()
    };
    rule(&mut config, "small/#", bounded);
    let mut log = Log::new(config);
    for number in 0..100 {
        log.publish(&format!("small/{}", number % 3), &format!("{number:060}"));
        log.publish("big", &number.to_string());
    }
    log.core().keep();
    let kept = log.all("small/#");
    assert!(kept.len() > 20 && kept.len() < 40, "{} kept", kept.len());
    assert_eq!(kept.last().unwrap(), &format!("{:060}", 99));
    assert_eq!(log.all("big").len(), 100);
    log.kill();
    assert_eq!(log.all("small/#"), kept);
    assert_eq!(log.all("big").len(), 100);
}

#[test]
fn a_memory_class_is_bounded_too() {
    let mut config = config(1_000);
    let bounded = Retention {
        storage: Storage::Memory,
        bytes_max: Some(3_000),
        ..keep_all()
    };
    rule(&mut config, "mem/#", bounded);
    let mut log = Log::new(config);
    for number in 0..500 {
        log.publish("mem/a", &format!("{number:060}"));
        if number % 20 == 0 {
            log.core().keep();
        }
    }
    log.core().keep();
    assert!(log.core().stats().bytes_memory < 6_000);
    assert_eq!(log.all("mem/a").last().unwrap(), &format!("{:060}", 499));
}

#[test]
fn the_retained_message_outlives_retention_restarts_and_compaction() {
    let mut config = config(700);
    config.rules.default.age_max = Some(Duration::from_mins(1));
    let mut log = Log::new(config);
    log.publish_draft(retained("r/a", "keep me"));
    log.publish_draft(retained("r/b", "replaced"));
    for round in 0..80 {
        log.publish("noise", &format!("{round:040}"));
        log.advance(Duration::from_secs(5));
        if round == 20 {
            log.publish_draft(retained("r/b", "new"));
        }
        if round % 4 == 0 {
            log.core().keep();
        }
        if round % 19 == 18 {
            log.kill();
        }
        let mut kept = payloads(&log.page(&["r/#"], RETAINED));
        kept.sort();
        let expect = if round < 20 { "replaced" } else { "new" };
        assert_eq!(kept, ["keep me", expect], "round {round}");
    }
    assert!(log.all("r/#").is_empty(), "they are not history");
    let segments = log.files(".seg").len();
    assert!(segments < 10, "{segments} segments are left");
}

#[test]
fn a_cleared_retained_message_never_comes_back() {
    let mut config = config(700);
    config.rules.default.age_max = Some(Duration::from_mins(1));
    rule(&mut config, "forever", keep_all());
    let mut log = Log::new(config);
    log.publish_draft(retained("r", "old"));
    for _ in 0..5 {
        log.publish("forever", &"x".repeat(100));
    }
    for round in 0..200 {
        if round == 10 {
            log.publish_draft(retained("r", ""));
        }
        log.publish("noise", &format!("{round:040}"));
        log.advance(Duration::from_secs(5));
        log.core().keep();
        if round % 7 == 6 {
            log.kill();
        }
        let kept = payloads(&log.page(&["r"], RETAINED));
        assert_eq!(kept.is_empty(), round >= 10, "round {round}");
    }
    assert_eq!(log.all("forever").len(), 5);
}

#[test]
fn retained_messages_come_in_pages() {
    let mut log = Log::new(config(700));
    for number in 0..10 {
        log.publish_draft(retained(&format!("r/{number}"), &number.to_string()));
        log.publish("noise", "x");
    }
    let mut found = Vec::new();
    let mut after = Offset(0);
    loop {
        let mut wanted = request(&["r/+", "r/#"], ReadFrom::Retained { after });
        wanted.messages_max = 3;
        let page = log.core().read(&wanted).unwrap();
        found.extend(payloads(&page));
        after = page.scanned_to;
        if page.at_head {
            break;
        }
    }
    assert_eq!(after, log.core().head());
    assert_eq!(found, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

/// Publishes with a key, lets the key's segment go, and retries after a restart.
fn a_key_survives(keep: &[&str]) {
    let mut config = config(700);
    config.rules.default.per_topic_max = Some(1);
    for name in keep {
        rule(&mut config, name, keep_all());
    }
    let mut log = Log::new(config);
    let first = log.publish_draft(keyed("t", "once", "k"));
    for name in keep {
        log.publish(name, "stays");
    }
    let file = log.files(".seg")[0].clone();
    let header = log.disk.content(&file).unwrap()[..64].to_vec();
    for number in 0..40 {
        log.publish("t", &format!("{number:040}"));
        log.core().keep();
    }
    let left = log
        .disk
        .content(&file)
        .map(|content| content[..64].to_vec());
    assert_ne!(left, Some(header), "the segment is gone or another one");
    assert_eq!(left.is_none(), keep.is_empty());
    assert_eq!(log.all("t").len(), 1);
    let mut without = Log {
        disk: log.disk.fork(),
        clock: Arc::clone(&log.clock),
        config: log.config.clone(),
        core: None,
    };
    without.disk.remove("keys").unwrap();
    without.open().unwrap();
    let again = without.publish_draft(keyed("t", "twice", "k"));
    assert!(!again.replayed, "nothing else on the disk has the key");
    for round in 0..3 {
        match round {
            0 => log.kill(),
            1 => log.crash(5),
            _ => log.reopen(),
        }
        let again = log.publish_draft(keyed("t", "twice", "k"));
        assert!(again.replayed, "round {round}");
        assert_eq!((again.cursor, again.time), (first.cursor, first.time));
    }
    let window = Duration::from_millis(log.config.limits.key_window_ms);
    log.advance(window + Duration::from_millis(1));
    log.kill();
    assert!(!log.publish_draft(keyed("t", "later", "k")).replayed);
}

#[test]
fn a_key_outlives_the_segment_of_its_message_when_that_is_dropped() {
    a_key_survives(&[]);
}

#[test]
fn a_key_outlives_the_segment_of_its_message_when_that_is_rewritten() {
    a_key_survives(&["stays"]);
}

#[test]
fn history_goes_when_its_rule_moves_a_topic_out_of_the_durable_log() {
    for storage in [Storage::Memory, Storage::None] {
        let mut log = Log::new(config(700));
        log.publish_draft(retained("t", "old"));
        log.publish("stays", "x");
        let old = log.publish("t", "older");
        let mut moved = config(700);
        rule(&mut moved, "t", stored(storage));
        log.config = moved;
        log.reopen();
        assert!(log.all("t").is_empty());
        assert!(payloads(&log.page(&["t"], RETAINED)).is_empty());
        assert!(log.page(&["t"], resume(old - 1)).gap.is_some());
        assert_eq!(log.all("stays"), ["x"]);
        let new = log.publish("t", "new");
        assert!(new > old);
        let expect: &[&str] = if storage == Storage::Memory {
            &["new"]
        } else {
            &[]
        };
        assert_eq!(log.all("t"), expect);
        for number in 0..30 {
            log.publish("stays", &number.to_string());
            log.core().keep();
        }
        assert_eq!(log.all("t"), expect);
    }
}

#[test]
fn the_newest_alive_are_found_behind_many_that_expired() {
    let mut log = Log::new(config(700));
    for number in 0..30_u64 {
        let mut draft = draft("t", &number.to_string());
        if number >= 10 {
            draft.ttl = Some(Duration::from_secs(1));
        }
        log.publish_draft(draft);
    }
    log.advance(Duration::from_secs(2));
    assert_eq!(
        payloads(&log.page(&["t"], ReadFrom::Last(3))),
        ["7", "8", "9"]
    );
}

#[test]
fn retained_messages_of_more_topics_than_a_page_come_oldest_first() {
    let mut log = Log::new(config(1 << 16));
    let names: Vec<String> = (0..150)
        .map(|number| format!("r/{:03}", (number * 67) % 150))
        .collect();
    for name in &names {
        log.publish_draft(retained(name, name));
    }
    let mut wanted = request(&["r/#", "r/+"], RETAINED);
    wanted.messages_max = 2;
    let page = log.core().read(&wanted).unwrap();
    assert_eq!(payloads(&page), names[..2]);
    assert!(!page.at_head);
}
