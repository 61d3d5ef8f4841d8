use std::time::Duration;

use tidings_types::Cursor;

use super::*;
use crate::http::testing::{Seeded, cursor, get, request};
use crate::sse::Format;

const ID: &str = "AQAAAAAAAAABBQ";
const SSE: &str = "accept: text/event-stream";

fn read(parts: &Parts) -> Result<Route, Refusal> {
    route(parts, &Limits::default())
}

/// What a route is, in a line, or the slug of its refusal.
fn line(parts: &Parts) -> String {
    let names = |filters: &[TopicFilter]| {
        let names: Vec<_> = filters.iter().map(TopicFilter::as_str).collect();
        names.join(" ")
    };
    match read(parts) {
        Ok(Route::Publish(topic)) => format!("publish {topic}"),
        Ok(Route::Stream(stream)) => format!("stream {}", names(&stream.filters)),
        Ok(Route::History(history)) => format!("history {}", names(&history.filters)),
        Ok(Route::RawSocket(raw)) => format!("socket {}", raw.filter),
        Ok(Route::Page(path)) => format!("page {path}"),
        Ok(Route::Topics(query)) => format!("topics {}", query.filter),
        Ok(route) => format!("{route:?}"),
        Err(refusal) => refusal.code.slug().to_owned(),
    }
}

/// The same topic in two places.
const TWICE: &str = "/v1/subscribe?topic=a&topic=b/%2B&topic=a";

#[test]
fn paths_and_methods_route() {
    for (method, uri, expect) in [
        ("POST", "/v1/topics/a", "publish a"),
        ("PUT", "/v1/topics/a/b/c", "publish a/b/c"),
        ("POST", "/v1/topics//a//", "publish /a//"),
        ("POST", "/v1/topics/a%2Fb%20c", "publish a/b c"),
        ("POST", "/v1/topics/100%2525", "publish 100%25"),
        ("POST", "/v1/topics/%e6%b0%b4", "publish 水"),
        ("POST", "/v1/topics/a?after=nonsense", "publish a"),
        ("POST", "http://host:1/v1/topics/a", "publish a"),
        ("POST", "/v1/topics/a/+", "bad-topic"),
        ("POST", "/v1/topics/a/%23", "bad-topic"),
        ("POST", "/v1/topics/", "bad-topic"),
        ("POST", "/v1/topics/a%00", "bad-topic"),
        ("POST", "/v1/topics/a%0Ab", "bad-topic"),
        ("POST", "/v1/topics/%ff", "bad-text"),
        ("POST", "/v1/topics/%f", "bad-request"),
        ("GET", "/v1/topics/a", "history a"),
        ("HEAD", "/v1/topics/a", "history a"),
        ("GET", "/v1/topics/a/+/%23", "history a/+/#"),
        ("GET", "/v1/topics/a%2B", "bad-filter"),
        ("GET", "/v1/topics/", "bad-filter"),
        ("DELETE", "/v1/topics/a", "method-not-allowed"),
        ("PATCH", "/v1/topics/a", "method-not-allowed"),
        ("GET", "/v1/topics", "topics #"),
        ("GET", "/v1/topics?filter=a/%2B", "topics a/+"),
        ("GET", "/v1/topics?filter=a%2B", "bad-filter"),
        ("GET", "/v1/topics?after=%00", "bad-parameter"),
        ("POST", "/v1/topics", "method-not-allowed"),
        ("POST", "/v1/publish", "PublishBatch"),
        ("GET", "/v1/publish", "method-not-allowed"),
        ("GET", TWICE, "stream a b/+"),
        ("GET", "/v1/subscribe?topic=a&as=json", "history a"),
        ("GET", "/v1/subscribe?topic=a&as=ws", "bad-parameter"),
        ("GET", "/v1/subscribe", "bad-parameter"),
        ("GET", "/v1/subscribe?topic=", "bad-filter"),
        ("GET", "/v1/subscribe?topic=%ff", "bad-text"),
        ("POST", "/v1/subscribe", "StreamFromBody"),
        ("QUERY", "/v1/subscribe", "StreamFromBody"),
        ("PUT", "/v1/subscribe", "method-not-allowed"),
        ("GET", "/v1/ws", "TidingsSocket"),
        ("CONNECT", "https://host/v1/ws", "TidingsSocket"),
        ("CONNECT", "https://host/v1/topics/a", "socket a"),
        ("CONNECT", "https://host/v1/publish", "method-not-allowed"),
        ("CONNECT", "host:443", "not-found"),
        ("POST", "/v1/ws", "method-not-allowed"),
        ("GET", "/healthz", "Health"),
        ("HEAD", "/healthz", "Health"),
        ("GET", "/readyz", "Ready"),
        ("GET", "/metrics", "Metrics"),
        ("GET", "/openapi.json", "OpenApi"),
        ("GET", "/", "page /"),
        ("GET", "/console.js?v=1", "page /console.js"),
        ("POST", "/", "not-found"),
        ("GET", "/v1", "not-found"),
        ("GET", "/v1/", "not-found"),
        ("GET", "/v1/other", "not-found"),
        ("POST", "/v1/publish/", "not-found"),
        ("OPTIONS", "/v1/topics/a", "Preflight"),
        ("OPTIONS", "*", "Preflight"),
        ("TRACE", "/healthz", "method-not-allowed"),
    ] {
        assert_eq!(line(&request(method, uri, &[])), expect, "{method} {uri}");
    }
}

#[test]
fn other_protocols_have_paths_of_their_own() {
    for (method, uri, expect) in [
        ("GET", "/mqtt", "MqttSocket"),
        ("CONNECT", "https://host/mqtt", "MqttSocket"),
        ("POST", "/mqtt", "method-not-allowed"),
        ("GET", "/mqtt/", "page /mqtt/"),
        ("GET", "/stomp", "StompSocket"),
        ("CONNECT", "https://host/stomp", "StompSocket"),
        ("POST", "/stomp", "method-not-allowed"),
    ] {
        assert_eq!(line(&request(method, uri, &[])), expect, "{method} {uri}");
    }
}

#[test]
fn the_representation_is_negotiated() {
    for (uri, headers, expect) in [
        ("/v1/topics/a", &[SSE][..], "stream a"),
        (
            "/v1/topics/a",
            &["accept: text/event-stream, */*"],
            "stream a",
        ),
        ("/v1/topics/a", &["accept: application/json"], "history a"),
        ("/v1/topics/a", &["accept: */*"], "history a"),
        (
            "/v1/topics/a",
            &["accept: text/html, */*;q=0.8"],
            "history a",
        ),
        (
            "/v1/topics/a",
            &["accept: application/json, text/event-stream"],
            "stream a",
        ),
        (
            "/v1/topics/a",
            &["accept: application/json, text/event-stream;q=0.5"],
            "history a",
        ),
        ("/v1/topics/a", &["accept: text/*"], "stream a"),
        ("/v1/topics/a", &["accept: image/png"], "not-acceptable"),
        ("/v1/topics/a?as=json", &[SSE], "history a"),
        ("/v1/topics/a?as=sse", &["accept: image/png"], "stream a"),
        ("/v1/topics/a?as=xml", &[], "bad-parameter"),
        ("/v1/topics/a?as=ws", &[], "socket a"),
        ("/v1/topics/a", &["upgrade: WebSocket"], "socket a"),
        ("/v1/topics/a", &["upgrade: h2c, websocket"], "socket a"),
        ("/v1/topics/a", &["upgrade: h2c"], "history a"),
        (
            "/v1/subscribe?topic=a",
            &["accept: application/json"],
            "history a",
        ),
        (
            "/v1/subscribe?topic=a",
            &["accept: image/png"],
            "not-acceptable",
        ),
    ] {
        assert_eq!(line(&get(uri, headers)), expect, "{uri} {headers:?}");
    }
    // An upgrade is a GET's business alone (RFC 6455, 4.1).
    let head = request("HEAD", "/v1/topics/a", &["upgrade: websocket"]);
    assert_eq!(line(&head), "history a");
}

#[test]
fn starts_come_from_the_header_then_its_spellings_then_after_then_last() {
    let five = Start::After(cursor(5));
    let after = |text: &str| format!("last-event-id: {text}");
    let other = Cursor {
        offset: tidings_types::Offset(6),
        ..cursor(5)
    };
    let six = Start::After(other);
    for (query, header, expect) in [
        ("", None, Ok(Start::Latest)),
        (&format!("after={ID}"), None, Ok(five.clone())),
        ("after=earliest", None, Ok(Start::Earliest)),
        ("after=retained", None, Ok(Start::Retained)),
        ("after=nonsense", None, Err(RefusalCode::BadCursor)),
        ("after=", None, Err(RefusalCode::BadCursor)),
        ("last=7", None, Ok(Start::Last(7))),
        ("last=0", None, Ok(Start::Latest)),
        ("last=10001", None, Err(RefusalCode::BadParameter)),
        ("last=x", None, Err(RefusalCode::BadParameter)),
        (
            "last=1&after=earliest",
            None,
            Err(RefusalCode::BadParameter),
        ),
        (&format!("lastEventID={ID}"), None, Ok(five.clone())),
        (&format!("lastEventId={ID}"), None, Ok(five.clone())),
        (&format!("last_event_id={ID}"), None, Ok(five.clone())),
        (
            &format!("Last-Event-ID={ID}&after=earliest"),
            None,
            Ok(five.clone()),
        ),
        ("lastEventId=&after=earliest", None, Ok(Start::Earliest)),
        ("lastEventId=nonsense", None, Ok(Start::Unknown)),
        ("after=earliest", Some(after(ID)), Ok(five.clone())),
        ("after=nonsense", Some(after(ID)), Ok(five.clone())),
        (
            &format!("lastEventID={ID}"),
            Some(after(&other.to_string())),
            Ok(six),
        ),
        ("last=7", Some(after(ID)), Ok(five)),
        ("after=latest", Some(after("nonsense")), Ok(Start::Unknown)),
        ("after=latest", Some(after("\u{ff}")), Ok(Start::Unknown)),
        ("after=earliest", Some(after("")), Ok(Start::Earliest)),
    ] {
        let headers: Vec<&str> = header.as_deref().into_iter().chain([SSE]).collect();
        let start = match read(&get(&format!("/v1/topics/a?{query}"), &headers)) {
            Ok(Route::Stream(stream)) => Ok(stream.start),
            Ok(route) => panic!("{route:?}"),
            Err(refusal) => Err(refusal.code),
        };
        assert_eq!(start, expect, "{query} {header:?}");
    }
}

#[test]
fn streams_have_a_format_that_fits_their_filters() {
    for (uri, expect) in [
        ("/v1/topics/a?as=sse", Format::Raw),
        ("/v1/topics/+?as=sse", Format::Envelope),
        ("/v1/topics/a?as=sse&format=json", Format::Envelope),
        ("/v1/topics/+?as=sse&format=raw", Format::Raw),
        ("/v1/subscribe?topic=a&topic=b", Format::Envelope),
        ("/v1/subscribe?topic=a&topic=a", Format::Raw),
    ] {
        match read(&get(uri, &[])) {
            Ok(Route::Stream(stream)) => assert_eq!(stream.format, expect, "{uri}"),
            other => panic!("{other:?}"),
        }
    }
    let refusal = read(&get("/v1/topics/a?as=sse&format=xml", &[])).unwrap_err();
    assert!(refusal.detail.contains("`format`"));
}

#[test]
fn streams_are_compressed_for_who_accepts_it() {
    for (query, accept, expect) in [
        ("", None, false),
        ("", Some("accept-encoding: gzip, br"), true),
        ("", Some("accept-encoding: br"), false),
        ("&gzip=false", Some("accept-encoding: gzip"), false),
        ("&gzip=true", None, true),
        ("&gzip", None, true),
        ("&gzip=true", Some("accept-encoding: gzip;q=0"), false),
    ] {
        let headers: Vec<&str> = accept.into_iter().collect();
        match read(&get(&format!("/v1/topics/a?as=sse{query}"), &headers)) {
            Ok(Route::Stream(stream)) => assert_eq!(stream.gzip, expect, "{query} {accept:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn history_takes_limit_and_wait() {
    let secs = Duration::from_secs;
    for (query, expect) in [
        ("", Ok((Start::Earliest, 100, None))),
        ("limit=7", Ok((Start::Earliest, 7, None))),
        ("limit=1000", Ok((Start::Earliest, 1000, None))),
        ("limit=0", Err("`limit`")),
        ("limit=1001", Err("limits.page_messages_max")),
        ("limit=x", Err("`limit`")),
        ("last=5", Ok((Start::Last(5), 5, None))),
        ("last=5000", Ok((Start::Last(5000), 1000, None))),
        ("last=5000&limit=3", Ok((Start::Last(5000), 3, None))),
        ("wait=30s", Ok((Start::Latest, 100, Some(secs(30))))),
        (
            "wait=30&after=earliest",
            Ok((Start::Earliest, 100, Some(secs(30)))),
        ),
        ("wait=0", Ok((Start::Earliest, 100, None))),
        ("wait=56s", Err("limits.poll_wait_ms_max")),
        ("wait=soon", Err("`wait`")),
        (
            "utm_source=x&limit=7&limit=x",
            Ok((Start::Earliest, 7, None)),
        ),
        ("%ff=%ff&limit=7", Ok((Start::Earliest, 7, None))),
        ("limit=%ff", Err("`limit`")),
    ] {
        let read = read(&get(&format!("/v1/topics/a?{query}"), &[]));
        match (read, expect) {
            (Ok(Route::History(read)), Ok(expect)) => {
                assert_eq!((read.start, read.limit, read.wait), expect, "{query}");
            }
            (Err(refusal), Err(word)) => assert!(refusal.detail.contains(word), "{refusal}"),
            (read, expect) => panic!("{query}: {read:?} and not {expect:?}"),
        }
    }
}

#[test]
fn raw_sockets_take_echo() {
    for (query, expect) in [("", true), ("?echo=false", false), ("?echo=1", true)] {
        let parts = get(&format!("/v1/topics/a{query}"), &["upgrade: websocket"]);
        match read(&parts) {
            Ok(Route::RawSocket(raw)) => assert_eq!(raw.echo, expect),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        line(&get("/v1/topics/a?as=ws&echo=no", &[])),
        "bad-parameter"
    );
}

#[test]
fn more_filters_than_the_limit_are_refused() {
    let uri = |count: usize| {
        let topics: Vec<String> = (0..count).map(|at| format!("topic={at}")).collect();
        format!("/v1/subscribe?{}", topics.join("&"))
    };
    let limits = Limits {
        filters_per_subscription_max: 3,
        ..Limits::default()
    };
    assert!(route(&get(&uri(3), &[]), &limits).is_ok());
    let refusal = route(&get(&uri(4), &[]), &limits).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::TooManySubscriptions);
    assert!(
        refusal
            .detail
            .contains("limits.filters_per_subscription_max")
    );
}

const FORM: &str = "content-type: application/x-www-form-urlencoded";
const JSON: &str = "content-type: application/json; charset=utf-8";

fn read_stream(query: &str, headers: &[&str], body: &str) -> Result<String, RefusalCode> {
    let parts = request("POST", &format!("/v1/subscribe{query}"), headers);
    let body = Bytes::copy_from_slice(body.as_bytes());
    let read = stream_from_body(&parts, &body, &Limits::default());
    read.map_err(|refusal| refusal.code).map(|stream| {
        let names: Vec<_> = stream.filters.iter().map(TopicFilter::as_str).collect();
        format!("{} {:?} {:?}", names.join(" "), stream.start, stream.format)
    })
}

#[test]
fn streams_take_their_topics_from_a_form_or_json() {
    let retained = r#"{"topics":["a","b"],"after":"retained"}"#;
    let last = r#"{"topics":["a"],"last":3,"format":"json"}"#;
    let earliest = r#"{"topics":["a"],"after":"earliest"}"#;
    let form = "topic=a&topic=b%2F%2B&after=earliest\r\n";
    for (query, headers, body, expect) in [
        ("", &[FORM][..], form, "a b/+ Earliest Envelope"),
        ("", &[], "topic=a", "a Latest Raw"),
        (
            "?topic=c&last=2",
            &[FORM],
            "topic=a",
            "c a Last(2) Envelope",
        ),
        ("", &[JSON], retained, "a b Retained Envelope"),
        ("", &[JSON], last, "a Last(3) Envelope"),
        ("?after=latest", &[JSON], earliest, "a Latest Raw"),
    ] {
        let read = read_stream(query, headers, body);
        assert_eq!(read.as_deref(), Ok(expect), "{body:?}");
    }
}

#[test]
fn bodies_that_are_no_list_of_topics_are_refused() {
    use RefusalCode::{
        BadFilter, BadJson, BadParameter, BadText, NotAcceptable, UnsupportedMediaType,
    };
    let accept = "accept: application/json";
    for (query, headers, body, expect) in [
        ("", &[JSON][..], r#"{"topics":[]}"#, BadParameter),
        ("", &[JSON], r#"{"topics":["a"],"from":1}"#, BadJson),
        ("", &[JSON], r#"{"topics":"a"}"#, BadJson),
        ("", &[JSON], "", BadJson),
        ("", &[FORM], "after=earliest", BadParameter),
        ("", &[FORM], "topic=a&topic=b%2B%2B", BadFilter),
        ("", &["content-type: text/csv"], "a,b", UnsupportedMediaType),
        ("", &[FORM, accept], "topic=a", NotAcceptable),
        ("?as=ws", &[FORM], "topic=a", NotAcceptable),
    ] {
        assert_eq!(read_stream(query, headers, body), Err(expect), "{body:?}");
    }
    let parts = request("POST", "/v1/subscribe", &[]);
    let body = Bytes::from_static(b"topic=\xff");
    let refusal = stream_from_body(&parts, &body, &Limits::default()).unwrap_err();
    assert_eq!(refusal.code, BadText);
}

#[test]
fn bodies_are_bounded_by_their_route() {
    let limits = Limits::default();
    let max = |method, uri| {
        let route = route(&request(method, uri, &[]), &limits).unwrap();
        body_bytes_max(&route, &limits)
    };
    assert_eq!(max("POST", "/v1/topics/a"), limits.message_bytes_max);
    assert_eq!(max("POST", "/v1/publish"), limits.batch_bytes_max);
    assert_eq!(max("GET", "/v1/topics/a"), 0);
    // The longest list of the longest topics fits.
    let longest = limits.filters_per_subscription_max * (1024 * 3 + "topic=&".len());
    assert!(max("POST", "/v1/subscribe") >= longest);
}

#[test]
fn credentials_do_not_reach_the_log() {
    for (uri, expect) in [
        ("/v1/ws", "/v1/ws"),
        ("/v1/ws?a=1&b", "/v1/ws?a=1&b"),
        ("/v1/ws?access_token=secret", "/v1/ws?access_token=REDACTED"),
        (
            "/v1/ws?a=1&access_token=se=cret&b=2",
            "/v1/ws?a=1&access_token=REDACTED&b=2",
        ),
        ("/v1/ws?Access_Token=secret", "/v1/ws?Access_Token=REDACTED"),
        (
            "/v1/ws?access%5Ftoken=secret",
            "/v1/ws?access%5Ftoken=REDACTED",
        ),
        ("/v1/ws?%ff=secret", "/v1/ws?%ff=REDACTED"),
        ("/v1/ws?access_token=", "/v1/ws?access_token="),
        (
            "http://me:secret@host/v1/ws?token=secret",
            "/v1/ws?token=REDACTED",
        ),
    ] {
        assert_eq!(redact(&uri.parse().unwrap()), expect);
    }
}

#[test]
fn no_request_makes_routing_panic() {
    let mut random = Seeded(0x7469_6469_6e67_7301);
    let limits = Limits {
        filters_per_subscription_max: 4,
        ..Limits::default()
    };
    let mut routed = 0;
    for _ in 0..20_000 {
        let seed = [
            "/v1/topics/a%2Fb?after=AQAAAAAAAAABBQ&limit=5&wait=3s&as=json",
            "/v1/subscribe?topic=a&topic=b%2F%23&last=5&format=raw&gzip=true&padding=1",
            "/v1/topics?filter=a&after=b&limit=7",
        ][random.below(3)];
        let uri = random.mutate(seed.as_bytes());
        let Ok(uri) = Uri::try_from(uri.as_slice()) else {
            continue;
        };
        let mut parts = get("/", &[SSE]);
        parts.method =
            [Method::GET, Method::POST, Method::HEAD, Method::CONNECT][random.below(4)].clone();
        assert!(redact(&uri).starts_with(uri.path()));
        parts.uri = uri;
        let id = random.mutate(ID.as_bytes());
        if let Ok(id) = http::HeaderValue::from_bytes(&id) {
            parts.headers.insert("last-event-id", id);
        }
        routed += usize::from(route(&parts, &limits).is_ok());
        let body = random.mutate(br#"{"topics":["a","b"],"after":"earliest","last":5}"#);
        let is_form = random.below(2) == 0;
        if !is_form {
            parts.headers.insert(
                CONTENT_TYPE,
                http::HeaderValue::from_static("application/json"),
            );
        }
        if let Ok(stream) = stream_from_body(&parts, &Bytes::from(body), &limits) {
            assert!((1..=4).contains(&stream.filters.len()));
        }
    }
    assert!(
        routed > 1_000,
        "the mutations are too wild to test anything: {routed}"
    );
}
