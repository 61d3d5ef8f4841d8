use tidings_ports::TopicInfo;
use tidings_types::Timestamp;

use super::*;
use crate::http::testing::{EPOCH, cursor, get, header, json, request};

fn receipt(offset: u64, replayed: bool) -> Receipt {
    Receipt {
        cursor: cursor(offset),
        time: Timestamp(7),
        replayed,
    }
}

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

#[test]
fn receipts_say_what_was_committed() {
    let one = topic("a/käse %?");
    let response = published(&[receipt(5, false)], std::slice::from_ref(&one));
    assert_eq!(response.status(), 201);
    assert_eq!(
        response.body(),
        "{\"id\":\"AQAAAAAAAAABBQ\",\"topic\":\"a/käse %?\",\"time\":7}\n".as_bytes()
    );
    let expect = format!(
        "/v1/topics/a/k%C3%A4se%20%25%3F?after={}&limit=1",
        cursor(4)
    );
    assert_eq!(header(&response, "location"), Some(expect.as_str()));
    let replayed = json(&published(&[receipt(5, true)], &[one]));
    assert_eq!(replayed["replayed"], true);
}

#[test]
fn the_location_reads_the_message() {
    use crate::http::{Route, route};
    let response = published(&[receipt(5, false)], &[topic("a/käse %")]);
    let location = header(&response, "location").unwrap();
    match route(&get(location, &[]), &tidings_types::Limits::default()) {
        Ok(Route::History(history)) => {
            assert_eq!(history.filters[0].as_str(), "a/käse %");
            assert_eq!(history.start, tidings_ports::Start::After(cursor(4)));
            assert_eq!(history.limit, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_has_its_receipts_in_order() {
    let response = published_batch(
        &[receipt(5, false), receipt(6, true)],
        &[topic("a"), topic("b")],
    );
    assert_eq!(response.status(), 201);
    assert_eq!(header(&response, "location"), None);
    let body = json(&response);
    assert_eq!(body["messages"][0]["topic"], "a");
    assert_eq!(body["messages"][1]["id"], cursor(6).to_string());
    assert_eq!(body["messages"][1]["replayed"], true);
}

#[test]
fn every_refusal_is_a_problem_document() {
    for code in RefusalCode::ALL {
        let response = problem(&Refusal::new(*code, "say \"please\"\n"));
        assert_eq!(response.status().as_u16(), code.http_status());
        assert_eq!(
            header(&response, "content-type"),
            Some("application/problem+json")
        );
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"));
        let after = code.retry_after_s().map(|seconds| seconds.to_string());
        assert_eq!(header(&response, "retry-after"), after.as_deref());
        let body = json(&response);
        assert_eq!(body["type"], format!("urn:tidings:problem:{}", code.slug()));
        assert_eq!(body["title"], code.title());
        assert_eq!(body["status"], code.http_status());
        assert_eq!(body["detail"], "say \"please\"\n");
        assert_eq!(body["code"], code.slug());
    }
}

#[test]
fn problems_carry_the_headers_that_their_status_demands() {
    let upgrade = problem(&Refusal::new(RefusalCode::UpgradeRequired, ""));
    assert_eq!(header(&upgrade, "sec-websocket-version"), Some("13"));
    assert_eq!(header(&upgrade, "upgrade"), Some("websocket"));
    assert_eq!(header(&upgrade, "connection"), Some("upgrade"));
    let unauthorized = problem(&Refusal::new(RefusalCode::Unauthorized, ""));
    assert_eq!(
        header(&unauthorized, "www-authenticate"),
        Some("Bearer realm=\"tidings\"")
    );
    let wrong = Refusal::new(RefusalCode::MethodNotAllowed, "");
    let response = refused(&request("DELETE", "/v1/publish", &[]), &wrong);
    assert_eq!(header(&response, "allow"), Some("POST, OPTIONS"));
    let response = refused(&get("/", &[]), &Refusal::new(RefusalCode::NotFound, ""));
    assert_eq!(header(&response, "allow"), None);
}

#[test]
fn topics_are_listed_with_their_newest_message() {
    let entry = |name: &str, retained| TopicInfo {
        topic: topic(name),
        messages: 2,
        last: Offset(5),
        last_time: Timestamp(9),
        retained,
    };
    let mut page = TopicsPage {
        topics: vec![entry("a", true), entry("b\"", false)],
        more: true,
    };
    let body = json(&topics(EPOCH, &page));
    let first = serde_json::json!({
        "topic": "a", "messages": 2, "last": "AQAAAAAAAAABBQ", "time": 9, "retained": true
    });
    assert_eq!(body["topics"][0], first);
    assert_eq!(body["topics"][1]["retained"], false);
    assert_eq!(body["next"], "b\"");
    page.more = false;
    assert_eq!(json(&topics(EPOCH, &page)).get("next"), None);
    assert_eq!(
        topics(EPOCH, &TopicsPage::default()).body(),
        &b"{\"topics\":[]}\n"[..]
    );
}

#[test]
fn readiness_follows_the_log_and_the_drain() {
    let failed = EngineHealth::Failed("cannot sync".to_owned());
    for (engine, draining, status, word) in [
        (&EngineHealth::Writable, false, 200, "ready"),
        (&EngineHealth::Writable, true, 503, "draining"),
        (&EngineHealth::Full, false, 200, "read-only"),
        (&failed, false, 503, "failed"),
    ] {
        let response = ready(engine, draining);
        assert_eq!(response.status(), status);
        assert_eq!(json(&response)["status"], word);
        assert_eq!(json(&response)["log"], engine.to_string());
    }
    assert_eq!(json(&health())["status"], "ok");
}

#[test]
fn pages_are_locked_down() {
    let mut headers = HeaderMap::new();
    page_headers(&mut headers);
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["x-frame-options"], "DENY");
    assert_eq!(headers["referrer-policy"], "no-referrer");
}

#[test]
fn pages_are_as_they_were_given() {
    let response = page("application/json", Bytes::from_static(b"{}"));
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"));
}
