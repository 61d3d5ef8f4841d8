use std::sync::Arc;

use tidings_ports::GapReason;
use tidings_types::{Draft, Offset, Storage, Topic};

use super::*;
use crate::http::compress;
use crate::http::testing::{EPOCH, commit, cursor, get, header, json, message, request};

fn history_request(start: Start) -> History {
    History {
        filters: vec![TopicFilter::new("t").unwrap()],
        start,
        limit: 2,
        wait: None,
    }
}

fn page(payloads: &[(u64, &str)], scanned_to: u64, at_head: bool) -> Page {
    let messages = payloads
        .iter()
        .map(|(offset, payload)| Arc::new(message(*offset, payload)))
        .collect();
    Page {
        messages,
        scanned_to: Offset(scanned_to),
        at_head,
        gap: None,
        gap_storage: Storage::Durable,
    }
}

const ALWAYS: Caching = Caching {
    now: Timestamp(1_000),
    age_max: None,
    is_public: true,
};

fn respond(parts: &Parts, start: Start, page: &Page, caching: Caching) -> Response<Bytes> {
    let found = Found {
        page,
        gap: None,
        epoch: EPOCH,
    };
    history(parts, &history_request(start), &found, caching)
}

#[test]
fn a_page_has_its_messages_and_where_to_read_on() {
    let parts = get("/v1/topics/t", &[]);
    let found = page(&[(3, "a"), (5, "b")], 5, false);
    let response = respond(&parts, Start::Earliest, &found, ALWAYS);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert_eq!(header(&response, "tidings-next"), Some("AQAAAAAAAAABBQ"));
    let body = json(&response);
    assert_eq!(body["messages"][0]["data"], "a");
    assert_eq!(body["messages"][1]["id"], "AQAAAAAAAAABBQ");
    assert_eq!(body["next"], "AQAAAAAAAAABBQ");
    assert_eq!(body["more"], true);
    assert_eq!(body.get("gap"), None);
}

#[test]
fn an_empty_page_says_where_to_read_on_too() {
    let response = respond(&get("/", &[]), Start::Latest, &page(&[], 5, true), ALWAYS);
    assert_eq!(
        response.body(),
        &b"{\"messages\":[],\"next\":\"AQAAAAAAAAABBQ\",\"more\":false}\n"[..]
    );
}

#[test]
fn a_gap_is_told_in_the_body_and_in_a_header() {
    let found = page(&[(9, "x")], 9, false);
    let gap = Gap {
        reason: GapReason::Retention,
        after: Some(cursor(1)),
        resume: cursor(8),
    };
    let found = Found {
        page: &found,
        gap: Some(&gap),
        epoch: EPOCH,
    };
    let request = history_request(Start::After(cursor(1)));
    let response = history(&get("/", &[]), &request, &found, ALWAYS);
    assert_eq!(header(&response, "tidings-gap"), Some("retention"));
    let body = json(&response);
    assert_eq!(body["gap"]["reason"], "retention");
    assert_eq!(body["gap"]["after"], cursor(1).to_string());
    assert_eq!(body["gap"]["resume"], cursor(8).to_string());
    // What is gone by now may be more tomorrow.
    assert_eq!(header(&response, "cache-control"), Some("public, no-cache"));
}

#[test]
fn only_a_full_page_after_a_cursor_is_immutable() {
    let after = Start::After(cursor(1));
    let full = page(&[(3, "a"), (5, "b")], 5, false);
    let head = page(&[(3, "a"), (5, "b")], 5, true);
    let for_ever = "public, max-age=31536000, immutable";
    for (start, page, expect) in [
        (after.clone(), &full, for_ever),
        (after.clone(), &page(&[], 5, false), for_ever),
        (after, &head, "public, no-cache"),
        (Start::Earliest, &full, "public, no-cache"),
        (Start::Latest, &head, "public, no-cache"),
        (Start::Last(2), &full, "public, no-cache"),
        (Start::Retained, &full, "public, no-cache"),
        (Start::Unknown, &full, "public, no-cache"),
    ] {
        let response = respond(&get("/", &[]), start.clone(), page, ALWAYS);
        assert_eq!(
            header(&response, "cache-control"),
            Some(expect),
            "{start:?}"
        );
        assert!(header(&response, "etag").is_some());
        let vary = header(&response, "vary").unwrap();
        assert!(vary.contains("Last-Event-ID") && vary.contains("Accept-Encoding"));
    }
}

#[test]
fn a_page_is_fresh_until_its_first_message_is_removed_by_age() {
    let mut draft = Draft::new(Topic::new("t").unwrap(), Bytes::new());
    draft.ttl = Some(Duration::from_mins(1));
    // Committed at 5 ms, so that it expires at 60,005 ms.
    let expiring = Page {
        messages: vec![Arc::new(commit(draft, 5))],
        ..page(&[], 5, false)
    };
    let kept = page(&[(5, "a"), (2_005, "b")], 2_005, false);
    let hours = |hours| Some(Duration::from_hours(hours));
    for (page, now, age_max, expect) in [
        (&expiring, 5, None, "public, max-age=60, immutable"),
        (
            &expiring,
            30_005,
            hours(24),
            "public, max-age=30, immutable",
        ),
        (&expiring, 60_004, None, "public, no-cache"),
        (&expiring, 70_000, None, "public, no-cache"),
        (&kept, 5, hours(1), "public, max-age=3600, immutable"),
        (
            &kept,
            1_800_005,
            hours(1),
            "public, max-age=1800, immutable",
        ),
        (&kept, 5, Some(Duration::ZERO), "public, no-cache"),
        (
            &kept,
            5,
            hours(24 * 400),
            "public, max-age=31536000, immutable",
        ),
    ] {
        let caching = Caching {
            now: Timestamp(now),
            age_max,
            ..ALWAYS
        };
        let response = respond(&get("/", &[]), Start::After(cursor(1)), page, caching);
        assert_eq!(
            header(&response, "cache-control"),
            Some(expect),
            "{now} {age_max:?}"
        );
    }
}

#[test]
fn a_page_that_was_read_with_a_credential_is_private() {
    let full = page(&[(3, "a")], 3, false);
    for (uri, headers) in [
        ("/", &["authorization: Bearer x"][..]),
        ("/", &["cookie: a=b"]),
        ("/?access_token=x", &[]),
    ] {
        let response = respond(&get(uri, headers), Start::After(cursor(1)), &full, ALWAYS);
        let expect = Some("private, max-age=31536000, immutable");
        assert_eq!(
            header(&response, "cache-control"),
            expect,
            "{uri} {headers:?}"
        );
    }
}

#[test]
fn a_page_that_not_everybody_may_read_is_private_whatever_the_head_shows() {
    let full = page(&[(3, "a")], 3, false);
    let caching = Caching {
        is_public: false,
        ..ALWAYS
    };
    let response = respond(&get("/", &[]), Start::After(cursor(1)), &full, caching);
    let expect = Some("private, max-age=31536000, immutable");
    assert_eq!(header(&response, "cache-control"), expect);
}

#[test]
fn an_unchanged_page_is_not_sent_again() {
    let one = page(&[(3, "a")], 3, true);
    let first = respond(&get("/", &[]), Start::Earliest, &one, ALWAYS);
    let tag = header(&first, "etag").unwrap().to_owned();
    let bare = tag.trim_matches('"');
    for (known, same) in [
        (tag.clone(), true),
        (format!("W/{tag}"), true),
        (format!("\"x\", {tag}"), true),
        (format!("\"{bare}-gzip\""), true),
        (format!("\"{bare}-br\""), true),
        (format!("\"{bare}-zstd\""), true),
        ("*".to_owned(), true),
        (format!("\"{bare}-lzma\""), false),
        (format!("\"{bare}x\""), false),
        ("\"x\"".to_owned(), false),
        (bare.to_owned(), false),
        (String::new(), false),
    ] {
        let parts = get("/", &[&format!("if-none-match: {known}")]);
        let response = respond(&parts, Start::Earliest, &one, ALWAYS);
        let expect = if same { 304 } else { 200 };
        assert_eq!(response.status(), expect, "{known}");
        assert_eq!(response.body().is_empty(), same);
        assert_eq!(header(&response, "cache-control"), Some("public, no-cache"));
        assert!(
            header(&response, "etag")
                .unwrap()
                .starts_with(&format!("\"{bare}"))
        );
    }
    // One message more is another page.
    let parts = get("/", &[&format!("if-none-match: {tag}")]);
    let two = page(&[(3, "a"), (4, "b")], 4, true);
    assert_eq!(respond(&parts, Start::Earliest, &two, ALWAYS).status(), 200);
    // So is the same page once there is more behind it.
    let behind = page(&[(3, "a")], 3, false);
    assert_eq!(
        respond(&parts, Start::Earliest, &behind, ALWAYS).status(),
        200
    );
}

#[test]
fn a_compressed_page_revalidates_by_its_own_tag() {
    let long = "text ".repeat(200);
    let found = page(&[(3, &long)], 3, true);
    for coding in ["gzip", "br", "zstd"] {
        let accept = format!("accept-encoding: {coding}");
        let parts = get("/", &[&accept]);
        let first = compress(&parts, respond(&parts, Start::Earliest, &found, ALWAYS));
        assert_eq!(header(&first, "content-encoding"), Some(coding));
        let tag = header(&first, "etag").unwrap();
        let parts = get("/", &[&accept, &format!("if-none-match: {tag}")]);
        let again = compress(&parts, respond(&parts, Start::Earliest, &found, ALWAYS));
        assert_eq!(again.status(), 304);
        assert_eq!(header(&again, "etag"), Some(tag));
        assert_eq!(header(&again, "content-encoding"), None);
    }
}

#[test]
fn only_get_is_conditional() {
    let found = page(&[(3, "a")], 3, true);
    let parts = request("POST", "/", &["if-none-match: *"]);
    let response = respond(&parts, Start::Earliest, &found, ALWAYS);
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "cache-control"), Some("no-store"));
}
