//! What every engine promises, on the embedded one.

use std::time::Duration;

use tidings_log::storage::Faults;
use tidings_ports::{EngineHealth, PublishError, ReadFrom, TopicsQuery};
use tidings_types::{Draft, Durability, Offset, Qos, Storage, TopicFilter};

use super::common::*;

#[test]
fn what_is_published_is_read_in_order_by_any_filter() {
    let mut log = Log::new(config(1 << 20));
    for (name, text) in [
        ("a/x", "1"),
        ("b", "2"),
        ("a/y", "3"),
        ("a", "4"),
        ("a/x", "5"),
    ] {
        log.publish(name, text);
    }
    for (filters, expect) in [
        (&["a/x"][..], &["1", "5"][..]),
        (&["a/#"], &["1", "3", "4", "5"]),
        (&["a/+", "b"], &["1", "2", "3", "5"]),
        (&["#", "a/x", "a/x"], &["1", "2", "3", "4", "5"]),
        (&["c"], &[]),
    ] {
        let page = log.page(filters, earliest(0));
        assert_eq!(payloads(&page), expect, "{filters:?}");
        assert!(page.at_head && page.gap.is_none());
        assert_eq!(page.scanned_to, Offset(5));
    }
    let page = log.page(&["a/x"], ReadFrom::Last(1));
    assert_eq!(payloads(&page), ["5"]);
    let page = log.page(&["a/#"], ReadFrom::Last(2));
    assert_eq!(payloads(&page), ["4", "5"]);
    let page = log.page(&["nothing"], ReadFrom::Last(2));
    assert!(page.messages.is_empty() && page.at_head);
}

#[test]
fn a_page_keeps_its_bounds_and_says_where_to_read_on() {
    let mut log = Log::new(config(600));
    for number in 0..20 {
        log.publish("t", &format!("{number:050}"));
    }
    let mut wanted = request(&["t"], earliest(3));
    wanted.bytes_max = 1;
    let page = log.core().read(&wanted).unwrap();
    assert_eq!(offsets(&page), [4], "one message at least");
    assert_eq!((page.scanned_to, page.at_head), (Offset(4), false));
    wanted.bytes_max = 1 << 20;
    wanted.messages_max = 5;
    let page = log.core().read(&wanted).unwrap();
    assert_eq!(offsets(&page), [4, 5, 6, 7, 8]);
    let whole: Vec<u64> = log.walk("#", 0, 3).iter().map(|(at, _)| *at).collect();
    assert_eq!(whole, (1..=20).collect::<Vec<_>>());
}

#[test]
fn everything_is_there_after_closing_and_after_a_kill() {
    let mut log = Log::new(config(500));
    let epoch = log.core().epoch();
    for number in 0..30 {
        log.publish(["a", "b", "c/d"][number % 3], &number.to_string());
        if number % 7 == 0 {
            log.core().keep();
        }
    }
    assert!(log.files(".seg").len() > 2 && !log.files(".idx").is_empty());
    let before = log.walk("#", 0, 100);
    for round in 0..4 {
        if round % 2 == 0 {
            log.reopen();
        } else {
            log.kill();
        }
        assert_eq!(log.walk("#", 0, 100), before, "round {round}");
        assert_eq!(log.all("b").len(), 10);
        assert_eq!(log.core().epoch(), epoch);
    }
    assert_eq!(log.publish("a", "next"), 31);
}

#[test]
fn an_index_file_that_is_lost_or_damaged_is_rebuilt() {
    let mut log = Log::new(config(500));
    for number in 0..30 {
        log.publish("a", &number.to_string());
    }
    log.core().keep();
    let before = log.walk("a", 0, 100);
    let indexes = log.files(".idx");
    assert!(indexes.len() > 1);
    let mut content = log.disk.content(&indexes[0]).unwrap();
    content[20] ^= 1;
    log.disk.set_content(&indexes[0], content);
    log.disk.set_content(&indexes[1], Vec::new());
    log.kill();
    assert_eq!(log.walk("a", 0, 100), before);
}

#[test]
fn the_same_key_gives_the_same_receipt_within_its_window_and_across_restarts() {
    let mut log = Log::new(config(500));
    let window = Duration::from_millis(log.config.limits.key_window_ms);
    let first = log.publish_draft(keyed("t", "a", "k"));
    assert!(!first.replayed);
    let other = log.publish_draft(keyed("u", "a", "k"));
    assert!(!other.replayed, "a key belongs to its topic");
    for round in 0..3 {
        let again = log.publish_draft(keyed("t", "b", "k"));
        assert!(again.replayed, "round {round}");
        assert_eq!((again.cursor, again.time), (first.cursor, first.time));
        for _ in 0..10 {
            log.publish("filler", "0123456789");
        }
        log.core().keep();
        if round == 0 { log.reopen() } else { log.kill() }
    }
    log.advance(window + Duration::from_millis(1));
    assert!(!log.publish_draft(keyed("t", "c", "k")).replayed);
    assert_eq!(log.all("t"), ["a", "c"]);
}

#[test]
fn a_key_twice_in_one_batch_is_one_message() {
    let mut log = Log::new(config(500));
    let twice = vec![keyed("t", "a", "k"), keyed("t", "b", "k")];
    let receipts = log.try_publish(twice).unwrap();
    assert_eq!(receipts[0].cursor, receipts[1].cursor);
    assert!(receipts[1].replayed);
    assert_eq!(log.all("t"), ["a"]);
}

#[test]
fn more_topics_than_permitted_are_refused_whole_and_known_ones_go_on() {
    let mut config = config(500);
    config.limits.topics_max = 2;
    let mut log = Log::new(config);
    log.publish("a", "1");
    let refused = log.try_publish(vec![draft("b", "2"), draft("c", "3")]);
    assert_eq!(refused.unwrap_err(), PublishError::TooManyTopics);
    log.publish("b", "4");
    assert!(log.try_publish(vec![draft("c", "5")]).is_err());
    assert_eq!(log.publish("a", "6"), 3);
    assert_eq!(log.all("#"), ["1", "4", "6"]);
}

#[test]
fn expired_messages_are_not_read_and_last_counts_without_them() {
    let mut log = Log::new(config(500));
    for number in 0..10 {
        let mut draft = draft("t", &number.to_string());
        draft.ttl = (number % 2 == 1).then_some(Duration::from_secs(1));
        log.publish_draft(draft);
    }
    assert_eq!(log.all("t").len(), 10);
    log.advance(Duration::from_secs(2));
    assert_eq!(log.all("t"), ["0", "2", "4", "6", "8"]);
    let page = log.page(&["t"], ReadFrom::Last(2));
    assert_eq!(payloads(&page), ["6", "8"]);
}

#[test]
fn live_only_and_memory_topics_show_as_gaps_with_their_reason() {
    let mut config = config(500);
    rule(&mut config, "live/#", stored(Storage::None));
    rule(&mut config, "mem/#", stored(Storage::Memory));
    let mut log = Log::new(config);
    let start = log.publish("d", "1");
    log.publish("mem/a", "2");
    log.publish("live/a", "3");
    assert_eq!(log.all("#"), ["1", "2"]);
    let gap = |log: &mut Log, filter: &str| {
        let page = log.page(&[filter], resume(start));
        page.gap.map(|_| page.gap_storage)
    };
    assert_eq!(gap(&mut log, "live/a"), Some(Storage::None));
    assert_eq!(gap(&mut log, "#"), Some(Storage::None));
    assert_eq!(gap(&mut log, "live/b"), None);
    assert_eq!(gap(&mut log, "mem/a"), None);
    assert_eq!(gap(&mut log, "d"), None);
    log.kill();
    assert_eq!(log.all("#"), ["1"]);
    assert_eq!(gap(&mut log, "mem/a"), Some(Storage::Memory));
    assert_eq!(gap(&mut log, "live/a"), Some(Storage::None));
    assert_eq!(gap(&mut log, "d"), None);
    let head = log.core().head().0;
    assert!(log.page(&["#"], resume(head)).gap.is_none());
}

#[test]
fn an_offset_is_never_handed_out_twice_whatever_was_lost() {
    for durability in [Durability::Sync, Durability::Os] {
        let mut config = config(2_000);
        config.durability = durability;
        rule(&mut config, "live/#", stored(Storage::None));
        rule(&mut config, "mem/#", stored(Storage::Memory));
        let mut log = Log::new(config);
        let mut highest = 0;
        for round in 0..40u64 {
            for number in 0..5 {
                let name = ["d", "live/a", "mem/a"][(round as usize + number) % 3];
                let offset = log.publish(name, "x");
                assert!(offset > highest, "{durability:?} round {round}");
                highest = offset;
            }
            match round % 3 {
                0 => log.crash(round),
                1 => log.reopen(),
                _ => log.kill(),
            }
            assert!(
                log.core().head().0 >= highest,
                "{durability:?} round {round}"
            );
        }
    }
}

#[test]
fn a_clean_restart_leaves_no_gap_for_who_was_at_the_head() {
    let mut config = config(2_000);
    rule(&mut config, "live/#", stored(Storage::None));
    let mut log = Log::new(config);
    let head = log.publish("live/a", "x");
    log.reopen();
    assert_eq!(log.core().head().0, head);
    assert!(log.page(&["#"], resume(head)).gap.is_none());
}

#[test]
fn a_failed_sync_ends_writing_for_good_and_reading_goes_on() {
    let mut log = Log::new(config(1 << 20));
    log.publish("t", "kept");
    log.disk.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    let failed = |log: &mut Log| log.try_publish(vec![draft("t", "lost")]).unwrap_err();
    assert_eq!(failed(&mut log), PublishError::Failed);
    log.disk.set_faults(Faults::default());
    assert_eq!(
        failed(&mut log),
        PublishError::Failed,
        "even if syncs work again"
    );
    assert!(matches!(log.core().health(), EngineHealth::Failed(_)));
    assert_eq!(log.all("t"), ["kept"]);
    log.crash(1);
    assert_eq!(log.all("t")[0], "kept");
    log.publish("t", "again");
}

#[test]
fn a_full_disk_refuses_and_recovers_and_reading_goes_on() {
    let mut log = Log::new(config(4_000));
    log.publish("t", "1");
    log.disk.set_faults(Faults {
        capacity: Some(4_300),
        ..Faults::default()
    });
    let filling = "x".repeat(1_000);
    let mut stored = 1;
    while log.try_publish(vec![draft("t", &filling)]).is_ok() {
        stored += 1;
        assert!(stored < 100);
    }
    assert_eq!(log.core().health(), EngineHealth::Full);
    for name in ["t", "new"] {
        let refused = log.try_publish(vec![keyed(name, &filling, "k")]);
        assert_eq!(refused.unwrap_err(), PublishError::StorageFull);
    }
    assert_eq!(log.all("#").len(), stored);
    log.disk.set_faults(Faults::default());
    let receipt = log.publish_draft(keyed("t", &filling, "k"));
    assert!(!receipt.replayed, "a refused key is not remembered");
    assert_eq!(receipt.cursor.offset.0, stored as u64 + 1);
    assert_eq!(log.core().health(), EngineHealth::Writable);
    log.kill();
    assert_eq!(log.all("#").len(), stored + 1);
}

#[test]
fn the_newest_of_a_topic_cost_no_reading_of_other_topics() {
    let mut log = Log::new(config(200_000));
    let filling = "x".repeat(1_000);
    for number in 0..1_000 {
        log.publish("noise", &filling);
        if number % 100 == 0 {
            log.publish("quiet", &number.to_string());
        }
    }
    log.core().keep();
    log.reopen();
    let before = log.disk.bytes_read();
    let page = log.page(&["quiet"], ReadFrom::Last(5));
    assert_eq!(payloads(&page), ["500", "600", "700", "800", "900"]);
    let page = log.page(&["quiet"], resume(500));
    assert_eq!(page.messages.len(), 5);
    let read = log.disk.bytes_read() - before;
    assert!(read < 20_000, "{read} bytes read");
}

#[test]
fn topics_are_listed_with_what_can_be_read() {
    let mut config = config(500);
    let two = tidings_types::Retention {
        per_topic_max: Some(2),
        ..keep_all()
    };
    rule(&mut config, "two", two);
    let mut log = Log::new(config);
    for name in ["one", "two", "two", "two"] {
        log.publish_draft(retained(name, "x"));
    }
    for _ in 0..2 {
        let page = log.core().topics(&TopicsQuery {
            filter: TopicFilter::all(),
            after: None,
            limit: 10,
        });
        let found: Vec<_> = page
            .topics
            .iter()
            .map(|info| {
                (
                    info.topic.as_str(),
                    info.messages,
                    info.last.0,
                    info.retained,
                )
            })
            .collect();
        assert_eq!(found, [("one", 1, 1, true), ("two", 2, 4, true)]);
        log.kill();
    }
}

#[test]
fn long_and_wide_segments_read_the_same_from_memory_and_from_index_files() {
    let mut log = Log::new(config(100_000));
    let mut published = Vec::new();
    for number in 0..6_000usize {
        let name = match number % 3 {
            0 => "long".to_owned(),
            1 => format!("wide/{:03}", number % 201),
            _ => format!("other/{:03}", number % 201),
        };
        let offset = log.publish(&name, &number.to_string());
        published.push((name, offset));
    }
    for round in 0..2 {
        for (filter, page) in [
            ("long", 10),
            ("wide/#", 50),
            ("#", 100),
            ("+/007", 3),
            ("+", 1_000),
        ] {
            let matching = TopicFilter::new(filter).unwrap();
            let expect = published
                .iter()
                .filter(|(name, _)| matching.matches(&topic(name)));
            let expect: Vec<u64> = expect.map(|(_, at)| *at).collect();
            let read = log.walk(filter, 0, page).into_iter();
            let read: Vec<u64> = read.map(|(at, _)| at).collect();
            assert_eq!(read, expect, "{filter} round {round}");
            let last = offsets(&log.page(&[filter], ReadFrom::Last(900)));
            assert_eq!(
                last,
                expect[expect.len().saturating_sub(900)..],
                "{filter} round {round}"
            );
        }
        log.core().keep();
        assert!(log.files(".idx").len() > 3);
    }
}

#[test]
fn who_may_have_missed_what_a_crash_took_is_told_where_the_system_decides_when_to_write() {
    for (durability, expect) in [(Durability::Os, true), (Durability::Sync, false)] {
        let mut config = config(1 << 16);
        config.durability = durability;
        let mut log = Log::new(config);
        let seen = log.publish("t", "x");
        log.crash(3);
        let page = log.page(&["t"], resume(seen));
        assert_eq!(page.gap.is_some(), expect, "{durability:?}");
        let head = log.core().head().0;
        assert!(log.page(&["t"], resume(head)).gap.is_none());
    }
}

#[test]
fn a_disk_stays_full_until_something_is_written_to_it() {
    let mut config = config(1 << 16);
    rule(&mut config, "live/#", stored(Storage::None));
    let mut log = Log::new(config);
    log.publish("live/a", "reserves");
    log.disk.set_faults(Faults {
        capacity: Some(80_000),
        ..Faults::default()
    });
    let filling = "x".repeat(1 << 17);
    assert!(log.try_publish(vec![draft("t", &filling)]).is_err());
    log.publish("live/a", "needs no room");
    assert_eq!(log.core().health(), EngineHealth::Full);
    log.disk.set_faults(Faults::default());
    log.publish("t", "x");
    assert_eq!(log.core().health(), EngineHealth::Writable);
}

#[test]
fn the_qos_of_a_message_is_kept_wherever_it_is_stored() {
    let mut config = config(2_000);
    rule(&mut config, "mem/#", stored(Storage::Memory));
    let mut log = Log::new(config);
    let levels = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
    for name in ["d", "mem/a"] {
        for qos in levels {
            log.publish_draft(Draft {
                qos,
                ..retained(name, "x")
            });
        }
    }
    let qos = |log: &mut Log, filter: &str| {
        let page = log.page(&[filter], earliest(0));
        let read: Vec<Qos> = page.messages.iter().map(|message| message.qos).collect();
        read
    };
    assert_eq!(qos(&mut log, "mem/a"), levels);
    for _ in 0..2 {
        assert_eq!(qos(&mut log, "d"), levels);
        let from = ReadFrom::Retained { after: Offset(0) };
        let page = log.page(&["d"], from);
        assert_eq!(page.messages[0].qos, Qos::ExactlyOnce);
        log.kill();
    }
    // Rewritten segments keep it, too.
    let mut config = log.config.clone();
    let one = tidings_types::Retention {
        per_topic_max: Some(1),
        ..keep_all()
    };
    rule(&mut config, "churn", one);
    let mut log = Log::new(config);
    log.publish_draft(Draft {
        qos: Qos::AtMostOnce,
        ..draft("kept", "x")
    });
    for number in 0..200 {
        log.publish("churn", &format!("{number:050}"));
    }
    for _ in 0..3 {
        log.core().keep();
    }
    assert!(log.files(".seg").len() < 5, "segments were compacted");
    assert_eq!(qos(&mut log, "kept"), [Qos::AtMostOnce]);
    log.kill();
    assert_eq!(qos(&mut log, "kept"), [Qos::AtMostOnce]);
}
