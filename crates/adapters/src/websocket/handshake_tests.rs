use super::*;
use http::{Request, Version};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn request(extra: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::get("/v1/ws");
    let base = [
        ("host", "localhost:8080"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
    ];
    for (name, value) in base {
        if !extra.iter().any(|(other, _)| *other == name) {
            builder = builder.header(name, value);
        }
    }
    for (name, value) in extra.iter().filter(|(_, value)| *value != "-") {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

fn judge(extra: &[(&str, &str)]) -> Result<Accepted, RefusalCode> {
    let options = HandshakeOptions {
        subprotocols: &["tidings.v1", "other"],
        origins: &Origins::same_origin(),
        deflate: true,
    };
    accept(&request(extra), options).map_err(|refusal| refusal.code)
}

#[test]
fn the_specifications_key_gives_its_accept_value() {
    // RFC 6455 1.3.
    let head = judge(&[]).unwrap().response_head();
    let expect = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(head, expect);
}

#[test]
fn headers_are_lists_in_any_case() {
    for extra in [
        &[("upgrade", "WebSocket")][..],
        &[("upgrade", "h2c, websocket")],
        &[("connection", "keep-alive, UPGRADE")],
        &[("connection", "keep-alive"), ("connection", "upgrade")],
        &[("sec-websocket-version", " 13 ")],
    ] {
        assert!(judge(extra).is_ok(), "{extra:?}");
    }
}

#[test]
fn each_requirement_has_its_refusal() {
    for (extra, code) in [
        (&[("upgrade", "-")][..], RefusalCode::UpgradeRequired),
        (&[("upgrade", "websockets")], RefusalCode::UpgradeRequired),
        (&[("connection", "-")], RefusalCode::BadRequest),
        (&[("connection", "close")], RefusalCode::BadRequest),
        (
            &[("sec-websocket-version", "-")],
            RefusalCode::UpgradeRequired,
        ),
        (
            &[("sec-websocket-version", "8")],
            RefusalCode::UpgradeRequired,
        ),
        (
            &[("sec-websocket-version", "13, 8")],
            RefusalCode::UpgradeRequired,
        ),
        (&[("host", "-")], RefusalCode::BadRequest),
        (&[("sec-websocket-key", "-")], RefusalCode::BadRequest),
        (&[("sec-websocket-key", "short")], RefusalCode::BadRequest),
        (
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZTE=")],
            RefusalCode::BadRequest,
        ),
        (
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j")],
            RefusalCode::BadRequest,
        ),
        (
            &[("sec-websocket-key", KEY), ("sec-websocket-key", KEY)],
            RefusalCode::BadRequest,
        ),
        (
            &[("origin", "https://evil.example")],
            RefusalCode::BadOrigin,
        ),
        (&[("origin", "null")], RefusalCode::BadOrigin),
        (
            &[("sec-websocket-protocol", "a b")],
            RefusalCode::BadRequest,
        ),
        (
            &[("sec-websocket-extensions", "permessage-deflate;")],
            RefusalCode::BadRequest,
        ),
    ] {
        assert_eq!(judge(extra), Err(code), "{extra:?}");
    }
    let options = HandshakeOptions {
        subprotocols: &[],
        origins: &Origins::any(),
        deflate: false,
    };
    let mut post = request(&[]);
    *post.method_mut() = Method::POST;
    let refusal = accept(&post, options).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::MethodNotAllowed);
    let mut old = request(&[]);
    *old.version_mut() = Version::HTTP_10;
    let refusal = accept(&old, options).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::BadVersion);
}

#[test]
fn a_page_of_the_same_host_may_connect() {
    assert!(judge(&[("origin", "http://localhost:8080")]).is_ok());
}

#[test]
fn the_servers_preferred_subprotocol_is_chosen_among_the_offered() {
    for (offered, expect) in [
        (&["tidings.v1"][..], Some("tidings.v1")),
        (&["other, tidings.v1"], Some("tidings.v1")),
        (&["other", "x"], Some("other")),
        (&["x, y"], None),
        (&["TIDINGS.V1"], None),
        (&[""], None),
        (&[], None),
    ] {
        let extra: Vec<(&str, &str)> = offered
            .iter()
            .map(|value| ("sec-websocket-protocol", *value))
            .collect();
        let accepted = judge(&extra).unwrap();
        assert_eq!(accepted.subprotocol, expect, "{offered:?}");
        let header = accepted
            .headers
            .iter()
            .find(|(name, _)| *name == SEC_WEBSOCKET_PROTOCOL)
            .map(|(_, value)| value.as_str());
        assert_eq!(header, expect);
    }
}

#[test]
fn compression_is_agreed_on_over_several_header_lines_unless_it_is_off() {
    let offers = [
        ("sec-websocket-extensions", "x-other; a=1"),
        (
            "sec-websocket-extensions",
            "permessage-deflate; server_max_window_bits=11",
        ),
    ];
    let accepted = judge(&offers).unwrap();
    assert_eq!(accepted.deflate.map(Deflate::window_bits), Some(11));
    let head = accepted.response_head();
    let expect = "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=11\r\n";
    assert!(str::from_utf8(&head).unwrap().contains(expect));

    let options = HandshakeOptions {
        subprotocols: &[],
        origins: &Origins::any(),
        deflate: false,
    };
    let accepted = accept(&request(&offers), options).unwrap();
    assert_eq!(accepted.deflate, None);
    assert_eq!(accepted.headers.len(), 3);
}
