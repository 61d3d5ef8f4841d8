//! Every way in which a request is refused, and that the connection goes on.

use serde_json::json;
use tidings_ports::Command;

use super::tests::{answers, open, send};

/// An error answer with this code whose message holds the text, and nothing else but its count.
#[track_caller]
fn check_error(request: &str, code: &str, text: &str) {
    let mut driver = open();
    let out = send(&mut driver, request);
    let found = answers(&out);
    assert_eq!(found.len(), 1, "{request}");
    assert_eq!(found[0]["op"], "error");
    assert_eq!(found[0]["code"], code, "{request}: {}", found[0]);
    let message = found[0]["message"].as_str().unwrap();
    assert!(message.contains(text), "{request}: {message}");
    assert!(
        matches!(&out.commands[..], [Command::Refused(refused)] if refused.code.slug() == code)
    );
    assert_eq!(out.ending, None);
    // The connection goes on.
    let out = send(&mut driver, r#"{"op":"ping"}"#);
    assert_eq!(answers(&out), [json!({"op": "ok"})]);
}

/// A request, and the code and a part of the message of the error that answers it.
const REFUSED: &[(&str, &str, &str)] = &[
    ("", "bad-json", "JSON object"),
    ("hello", "bad-json", "JSON object"),
    ("[1]", "bad-json", "JSON object"),
    (r#"{"op":"ping"} {"#, "bad-json", "trailing"),
    (
        r#"{"op":"ping","op":"ping"}"#,
        "bad-json",
        "`op` stands twice",
    ),
    (
        "{}",
        "bad-parameter",
        "auth, subscribe, unsubscribe, publish, ack, nack, ping",
    ),
    (r#"{"op":7}"#, "bad-parameter", "`op` must be a string"),
    (
        r#"{"op":"subcribe"}"#,
        "bad-parameter",
        "did you mean `subscribe`?",
    ),
    (r#"{"op":"dance"}"#, "bad-parameter", "known are auth"),
    (
        r#"{"op":"publish","topci":"t"}"#,
        "bad-parameter",
        "`topci` is not a known field for `publish`: did you mean `topic`?",
    ),
    (
        r#"{"op":"subscribe","retain":true}"#,
        "bad-parameter",
        "`retain` is not a known field for `subscribe`",
    ),
    (r#"{"op":"ping","x":1}"#, "bad-parameter", "it has none"),
    (
        r#"{"op":"ping","id":1.5}"#,
        "bad-parameter",
        "an integer of 64 bits, or a string",
    ),
    (
        r#"{"op":"ping","id":[1]}"#,
        "bad-parameter",
        "an integer of 64 bits, or a string",
    ),
    (
        r#"{"op":"ping","id":99999999999999999999}"#,
        "bad-parameter",
        "an integer of 64 bits, or a string",
    ),
    (
        r#"{"op":"auth","token":5}"#,
        "bad-parameter",
        "`token` must be a string",
    ),
    (
        r#"{"op":"subscribe"}"#,
        "bad-parameter",
        "`topic` must be there",
    ),
    (
        r#"{"op":"subscribe","topics":[]}"#,
        "bad-parameter",
        "at least one",
    ),
    (
        r#"{"op":"subscribe","topic":"a","topics":["b"]}"#,
        "bad-parameter",
        "not both",
    ),
    (
        r#"{"op":"subscribe","topics":["a","b","c"]}"#,
        "too-many-subscriptions",
        "`limits.filters_per_subscription_max`",
    ),
    (
        r#"{"op":"subscribe","topic":"a+"}"#,
        "bad-filter",
        "misplaced",
    ),
    (
        r#"{"op":"subscribe","topic":"a","after":"nonsense"}"#,
        "bad-cursor",
        "cursor",
    ),
    (
        r#"{"op":"subscribe","topic":"a","last":1,"after":"latest"}"#,
        "bad-parameter",
        "`last` must be alone",
    ),
    (
        r#"{"op":"subscribe","topic":"a","last":-1}"#,
        "bad-parameter",
        "whole number",
    ),
    (
        r#"{"op":"subscribe","topic":"a","last":10001}"#,
        "bad-parameter",
        "at most 10000",
    ),
    (
        r#"{"op":"unsubscribe"}"#,
        "bad-parameter",
        "`sub` must be there",
    ),
    (
        r#"{"op":"unsubscribe","sub":4}"#,
        "not-found",
        "no such subscription",
    ),
    (
        r#"{"op":"unsubscribe","topic":"a"}"#,
        "not-found",
        "no such subscription",
    ),
    (
        r#"{"op":"subscribe","topic":"a","grup":"w"}"#,
        "bad-parameter",
        "did you mean `group`?",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","ack_timout":5}"#,
        "bad-parameter",
        "did you mean `ack_timeout`?",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":7}"#,
        "bad-parameter",
        "`group` must be a string",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":""}"#,
        "bad-parameter",
        "`group` must be 1 to 256 bytes",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"a/b"}"#,
        "bad-parameter",
        "without `/`",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"a\u0000b"}"#,
        "bad-parameter",
        "control characters",
    ),
    (
        r#"{"op":"subscribe","topics":["a","b"],"group":"w"}"#,
        "bad-parameter",
        "`topics` must be one topic or filter",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","after":"retained"}"#,
        "bad-parameter",
        "`after` must be",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","echo":false}"#,
        "bad-parameter",
        "`echo` must be left out",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","prefetch":0}"#,
        "bad-parameter",
        "`prefetch` must be a whole number from 1 to 10000; it is 64 unless told",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","prefetch":10001}"#,
        "bad-parameter",
        "from 1 to 10000",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","prefetch":-1}"#,
        "bad-parameter",
        "from 1 to 10000",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","ack_timeout":0}"#,
        "bad-parameter",
        "seconds above 0, and at most 1800",
    ),
    (
        r#"{"op":"subscribe","topic":"a","group":"w","ack_timeout":1800.1}"#,
        "bad-parameter",
        "`limits.ack_ms_max`",
    ),
    (
        r#"{"op":"subscribe","topic":"a","prefetch":5}"#,
        "bad-parameter",
        "`prefetch` must be left out here",
    ),
    (
        r#"{"op":"subscribe","topic":"a","ack_timeout":5}"#,
        "bad-parameter",
        "`ack_timeout` must be left out here",
    ),
    (
        r#"{"op":"ack","message":"AQAAAAAAAAABBQ"}"#,
        "bad-parameter",
        "`sub` must be the number",
    ),
    (
        r#"{"op":"ack","sub":1}"#,
        "bad-parameter",
        "`message` must be the `id`",
    ),
    (
        r#"{"op":"ack","sub":1,"message":"earliest"}"#,
        "bad-cursor",
        "exactly as it carried it",
    ),
    (
        r#"{"op":"ack","sub":1,"message":"AQAAAAAAAAABBQ"}"#,
        "not-found",
        "no such subscription",
    ),
    (
        r#"{"op":"ack","sub":1,"message":"AQAAAAAAAAABBQ","requeue":true}"#,
        "bad-parameter",
        "`requeue` is not a known field for `ack`",
    ),
    (
        r#"{"op":"nack","sub":1,"message":"AQAAAAAAAAABBQ","requeue":1}"#,
        "bad-parameter",
        "`requeue` must be true or false",
    ),
    (
        r#"{"op":"publish","data":"x"}"#,
        "bad-parameter",
        "`topic` must be there",
    ),
    (
        r#"{"op":"publish","topic":"a/#","data":"x"}"#,
        "bad-topic",
        "wildcards",
    ),
    (
        r#"{"op":"publish","topic":"","data":"x"}"#,
        "bad-topic",
        "empty",
    ),
    (
        r#"{"op":"publish","topic":"a"}"#,
        "bad-parameter",
        "`data` must be there",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","base64":""}"#,
        "bad-parameter",
        "leave out `data`",
    ),
    (
        r#"{"op":"publish","topic":"a","base64":"*"}"#,
        "bad-parameter",
        "base64",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"\ud800"}"#,
        "bad-json",
        "surrogate",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","ttl":0}"#,
        "bad-parameter",
        "seconds",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","ttl":-1}"#,
        "bad-parameter",
        "seconds",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","ttl":"5"}"#,
        "bad-parameter",
        "seconds",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","retain":1}"#,
        "bad-parameter",
        "true or false",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","key":""}"#,
        "bad-parameter",
        "1 to 10 bytes",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","key":"01234567890"}"#,
        "bad-parameter",
        "1 to 10 bytes",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","event":"a\nb"}"#,
        "bad-parameter",
        "`event` must be",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","content_type":""}"#,
        "bad-parameter",
        "`content_type` must be",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","headers":{"a":1}}"#,
        "bad-parameter",
        "`headers` must be an object",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","headers":{"a":"b\r\nc"}}"#,
        "bad-parameter",
        "control",
    ),
    (
        r#"{"op":"publish","topic":"a","data":"x","headers":{"a":["1","2","3"]}}"#,
        "bad-parameter",
        "at most 2",
    ),
];

#[test]
fn a_request_that_is_not_understood_is_an_error_that_says_what_to_do() {
    for (request, code, text) in REFUSED {
        check_error(request, code, text);
    }
    let large = "x".repeat(101);
    check_error(
        &format!(r#"{{"op":"publish","topic":"a","data":"{large}"}}"#),
        "message-too-large",
        "101 bytes",
    );
    let wide = "x".repeat(51);
    check_error(
        &format!(r#"{{"op":"publish","topic":"a","data":"","headers":{{"a":"{wide}"}}}}"#),
        "bad-parameter",
        "smaller",
    );
}
