use serde_json::Value;
use tidings_types::Limits;

use super::*;
use crate::http::testing::request;
use crate::http::{Route, route};

fn document() -> Value {
    serde_json::from_slice(OPENAPI).unwrap()
}

/// A path that can be requested, with what its operations cannot do without.
fn concrete(template: &str) -> String {
    let path = template.replace("{topic}", "a/b").replace("{stream}", "x");
    match template {
        "/v1/subscribe" => format!("{path}?topic=a"),
        _ => path,
    }
}

#[test]
fn everything_in_the_description_routes() {
    let document = document();
    let mut operations = 0;
    let paths = document["paths"].as_object().unwrap();
    // What has servers of its own is on the admin listener.
    for (template, item) in paths.iter().filter(|(_, item)| item["servers"].is_null()) {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
        {
            let parts = request(&method.to_uppercase(), &concrete(template), &[]);
            let routed = route(&parts, &Limits::default());
            assert!(
                !matches!(routed, Err(_) | Ok(Route::Page(_) | Route::Preflight)),
                "{method} {template}: {routed:?}"
            );
            operations += 1;
        }
    }
    assert!(operations >= 12, "{operations}");
}

#[test]
fn everything_that_routes_is_in_the_description() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let templates = [
        "/v1/topics/{topic}",
        "/v1/topics",
        "/v1/publish",
        "/v1/subscribe",
        "/v1/ws",
        "/v1/streams/{stream}/auth",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ];
    let ours = paths.values().filter(|item| item["servers"].is_null());
    assert_eq!(ours.count(), templates.len());
    for template in templates {
        let uri = concrete(template);
        let path = uri.split('?').next().unwrap();
        for method in super::super::route::allowed(path).split(", ") {
            // `HEAD` goes with `GET`, `OPTIONS` with everything, and the document has no word for `QUERY`.
            if ["HEAD", "OPTIONS", "QUERY"].contains(&method) {
                continue;
            }
            let routed = route(&request(method, &uri, &[]), &Limits::default());
            assert!(routed.is_ok(), "{method} {template}");
            let described = paths[template].get(method.to_lowercase());
            assert!(described.is_some(), "{method} {template} is not described");
        }
    }
}

#[test]
fn every_reference_has_its_target() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target}");
                }
                members.values().for_each(|member| check(member, document));
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, document)),
            _ => {}
        }
    }
    let document = document();
    check(&document, &document);
}

#[test]
fn every_parameter_and_field_that_is_read_is_described() {
    let text = str::from_utf8(OPENAPI).unwrap();
    for name in [
        "as",
        "format",
        "limit",
        "wait",
        "echo",
        "gzip",
        "padding",
        "after",
        "last",
        "lastEventID",
        "Last-Event-ID",
        "filter",
        "topic",
        "Idempotency-Key",
        "Tidings-Event",
        "Tidings-Ttl",
        "Tidings-Retain",
        "Tidings-Header-{name}",
    ] {
        assert!(text.contains(&format!("\"name\": \"{name}\"")), "{name}");
    }
    let draft = &document()["components"]["schemas"]["Draft"]["properties"];
    let fields: Vec<_> = draft.as_object().unwrap().keys().cloned().collect();
    let expect = [
        "base64",
        "content_type",
        "data",
        "event",
        "headers",
        "key",
        "retain",
        "topic",
        "ttl",
    ];
    assert_eq!(fields, expect);
}
