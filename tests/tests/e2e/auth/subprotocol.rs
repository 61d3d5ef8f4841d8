//! A token among the subprotocols that a page's WebSocket offers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tidings_e2e::peer::Peer;
use tidings_e2e::websocket::upgrade;

use super::Guarded;

#[test]
fn chromium_signs_in_without_a_header_on_every_websocket() {
    let guarded = Guarded::start();
    let own = format!("http://{}", guarded.server.address());
    let mut browser = Peer::node("browser_page.mjs", &[]);
    browser.ask(&json!({"goto": format!("{own}/healthz")}));
    for token in [&guarded.token, &guarded.key] {
        let found = browser.ask(&json!({"sockets": own, "token": token}))["done"].clone();
        assert_eq!(found["raw"], json!(["tidings.raw", "hello"]));
        assert_eq!(found["tidings"][0], "tidings.v1");
        assert!(
            found["tidings"][1]
                .as_str()
                .unwrap()
                .starts_with(r#"{"op":"ok""#)
        );
        assert_eq!(found["mqtt"][0], "mqtt");
        let connack = found["mqtt"][1].as_str().unwrap();
        assert!(
            connack.starts_with("32,") && connack.ends_with(",0,0"),
            "{connack}"
        );
        assert_eq!(found["stomp"][0], "v12.stomp");
        assert!(
            found["stomp"][1]
                .as_str()
                .unwrap()
                .starts_with("CONNECTED\n")
        );
    }
    let found = browser.ask(&json!({"sockets": own, "token": "wrong-Secret-9"}))["done"].clone();
    assert_eq!(
        (&found["raw"], &found["tidings"]),
        (&json!("error"), &json!("error"))
    );
    assert!(
        found["mqtt"][1].as_str().unwrap().ends_with(",0,134"),
        "{found}"
    );
    assert!(
        found["stomp"][1].as_str().unwrap().starts_with("ERROR\n"),
        "{found}"
    );
    guarded.assert_log_is_clean(&["wrong-Secret-9"]);
}

#[test]
fn one_token_is_taken_and_none_is_echoed() {
    let guarded = Guarded::start();
    let bearer = format!("bearer.{}", guarded.token);
    let encoded = format!(
        "base64url.bearer.{}",
        URL_SAFE_NO_PAD.encode(&guarded.token)
    );
    let open = |protocols: &[&str], authorization: Option<&str>| {
        let mut request = upgrade("/v1/ws").header("Sec-WebSocket-Protocol", &protocols.join(", "));
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        let opened = request.open(guarded.server.address()).unwrap();
        let chosen = opened.header("sec-websocket-protocol").map(str::to_owned);
        (opened.status, chosen)
    };
    let good = (101, Some("tidings.v1".to_owned()));
    assert_eq!(open(&["tidings.v1", &bearer], None), good);
    assert_eq!(open(&[&bearer, "tidings.v1"], None), good);
    assert_eq!(open(&["tidings.v1", &encoded], None), good);
    assert_eq!(open(&[&bearer], None), (101, None));
    assert_eq!(open(&["tidings.v1", "bearer.wrong"], None).0, 401);
    assert_eq!(open(&["tidings.v1", "bearer."], None).0, 401);
    assert_eq!(open(&["tidings.v1", "base64url.bearer.!"], None).0, 401);
    assert_eq!(open(&["tidings.v1", &bearer, &bearer], None).0, 400);
    assert_eq!(open(&["tidings.v1", &bearer, &encoded], None).0, 400);
    let authorization = format!("Bearer {}", guarded.token);
    assert_eq!(open(&["tidings.v1", &bearer], Some(&authorization)).0, 400);
    guarded.assert_log_is_clean(&[&encoded]);
    let mut peer = Peer::node("websocket.mjs", &[]);
    let url = guarded.server.ws_url("/v1/ws");
    let line = peer.ask(&json!({"open": url, "protocols": ["tidings.v1", bearer]}));
    assert_eq!(line["open"]["protocol"], "tidings.v1", "{line}");
}
