use super::*;
use crate::http::testing::{get, header, request};

fn cors() -> Cors {
    Cors::new([
        "https://App.example",
        "https://*.example.org",
        "http://localhost:3000",
    ])
    .unwrap()
}

fn applied(cors: &Cors, origin: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    cors.apply(&get("/", &[&format!("origin: {origin}")]), &mut headers);
    headers
}

#[test]
fn listed_origins_may_read() {
    for (origin, permitted, credentials) in [
        ("https://app.example", true, true),
        ("http://localhost:3000", true, true),
        ("https://a.example.org", true, false),
        ("https://a.b.example.org", true, false),
        ("https://example.org", false, false),
        ("http://a.example.org", false, false),
        ("https://.example.org", false, false),
        ("https://evilexample.org", false, false),
        ("https://a.example.org.evil.com", false, false),
        ("https://a.example.org:8443", false, false),
        ("http://app.example", false, false),
        ("https://app.example:444", false, false),
        ("null", false, false),
        ("", false, false),
    ] {
        let headers = applied(&cors(), origin);
        let shown = headers.get("access-control-allow-origin");
        assert_eq!(shown.is_some(), permitted, "{origin}");
        assert!(shown.is_none_or(|shown| shown == origin));
        let shown = headers.contains_key("access-control-allow-credentials");
        assert_eq!(shown, credentials, "{origin}");
        let exposed = headers.contains_key("access-control-expose-headers");
        assert_eq!(exposed, permitted, "{origin}");
        assert_eq!(headers["vary"], "Origin", "{origin}");
    }
}

#[test]
fn a_star_permits_everyone_without_credentials() {
    let any = Cors::new(["*", "https://app.example"]).unwrap();
    let headers = applied(&any, "https://other.example");
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert!(!headers.contains_key("access-control-allow-credentials"));
    let headers = applied(&any, "https://app.example");
    assert_eq!(
        headers["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(headers["access-control-allow-credentials"], "true");
}

#[test]
fn without_a_list_nothing_is_said() {
    assert_eq!(
        applied(&Cors::default(), "https://app.example"),
        HeaderMap::new()
    );
    let mut headers = HeaderMap::new();
    cors().apply(&get("/", &[]), &mut headers);
    // A cache must keep what it got without an origin apart all the same.
    assert_eq!(headers.len(), 1);
    assert_eq!(headers["vary"], "Origin");
}

#[test]
fn entries_are_checked() {
    for (entry, good) in [
        ("*", true),
        ("https://example.com", true),
        ("https://example.com:443", true),
        ("http://[::1]:8080", true),
        ("https://*.example.com", true),
        ("https://*.example.com:8443", true),
        ("example.com", false),
        ("https://", false),
        ("https://example.com/", false),
        ("https://example.com/path", false),
        ("https://example.com?x", false),
        ("https://me@example.com", false),
        ("https://*", false),
        ("https://*example.com", false),
        ("https://a.*.com", false),
        ("https://*.*.com", false),
        ("https://exa mple.com", false),
        ("", false),
    ] {
        assert_eq!(Cors::new([entry]).is_ok(), good, "{entry}");
    }
    // The default port is no part of an origin as browsers write it.
    let cors = Cors::new(["https://example.com:443"]).unwrap();
    assert!(applied(&cors, "https://example.com").contains_key("access-control-allow-origin"));
}

#[test]
fn preflights_permit_the_methods_and_any_header() {
    let parts = request(
        "OPTIONS",
        "/v1/topics/a",
        &[
            "origin: https://app.example",
            "access-control-request-method: POST",
            "access-control-request-headers: authorization, tidings-header-x, b@d,",
        ],
    );
    let response = cors().preflight(&parts);
    assert_eq!(response.status(), 204);
    assert!(response.body().is_empty());
    let methods = Some("GET, HEAD, POST, PUT, OPTIONS");
    assert_eq!(header(&response, "access-control-allow-methods"), methods);
    let names = Some("authorization, tidings-header-x");
    assert_eq!(header(&response, "access-control-allow-headers"), names);
    assert_eq!(header(&response, "access-control-max-age"), Some("7200"));
    assert_eq!(
        header(&response, "access-control-allow-credentials"),
        Some("true")
    );
    assert_eq!(header(&response, "access-control-expose-headers"), None);
}

#[test]
fn other_preflights_say_the_methods_alone() {
    for headers in [
        &[
            "origin: https://evil.example",
            "access-control-request-method: POST",
        ][..],
        &["origin: https://app.example"],
        &[],
    ] {
        let response = cors().preflight(&request("OPTIONS", "/v1/publish", headers));
        assert_eq!(response.status(), 204);
        assert_eq!(header(&response, "allow"), Some("POST, OPTIONS"));
        assert_eq!(
            header(&response, "access-control-allow-methods"),
            None,
            "{headers:?}"
        );
    }
}

#[test]
fn pages_of_other_origins_may_not_write() {
    for (method, headers, good) in [
        ("POST", &[][..], true),
        ("POST", &["origin: https://app.example"], true),
        ("POST", &["origin: https://evil.example"], false),
        ("PUT", &["origin: https://evil.example"], false),
        ("QUERY", &["origin: null"], false),
        ("GET", &["origin: https://evil.example"], true),
        ("OPTIONS", &["origin: https://evil.example"], true),
        (
            "POST",
            &["origin: http://127.0.0.1:8080", "host: 127.0.0.1:8080"],
            true,
        ),
        (
            "POST",
            &["origin: http://Push.example", "host: push.example:80"],
            true,
        ),
        (
            "POST",
            &["origin: https://push.example:443", "host: push.example"],
            true,
        ),
        (
            "POST",
            &["origin: http://push.example", "host: push.example:8080"],
            false,
        ),
    ] {
        let admitted = cors().admit(&request(method, "/v1/topics/a", headers));
        assert_eq!(admitted.is_ok(), good, "{method} {headers:?}");
        if let Err(refusal) = admitted {
            assert_eq!(refusal.code, RefusalCode::BadOrigin);
        }
    }
}

#[test]
fn a_wildcard_lists_nobody() {
    let cors = Cors::new(["*", "https://*.example.com", "https://app.example"]).unwrap();
    assert!(cors.lists("https://app.example"));
    for origin in ["https://x.example.com", "https://other.example", "null"] {
        assert!(!cors.lists(origin), "{origin}");
    }
}
