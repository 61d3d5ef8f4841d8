//! Enhanced authentication.

use tidings_ports::{Credential, Ending, Secret, SignOn};

use super::MqttOptions;
use super::testing::*;

const TOKEN_PEER: &str = "BEARER";

fn auth_with(reason: u8, method: &str, data: Option<&str>) -> Vec<u8> {
    let mut props = [&[0x15][..], &text(method)].concat();
    if let Some(data) = data {
        props.extend([&[0x16][..], &text(data)].concat());
    }
    packet(0xf0, &[&[reason], &properties(&[&props])])
}

fn auth(reason: u8, data: &str) -> Vec<u8> {
    auth_with(reason, TOKEN_PEER, Some(data))
}

fn method_connect(method: &str, data: Option<&str>) -> Vec<u8> {
    let mut props = [&[0x15][..], &text(method)].concat();
    if let Some(data) = data {
        props.extend([&[0x16][..], &text(data)].concat());
    }
    connect5("a", true, &[&props])
}

fn judged_peer(world: &mut World, shown: Credential) -> Peer {
    let options = MqttOptions {
        sign_on: SignOn::Judged,
        shown,
        ..world.options(super::Transport::Tcp)
    };
    world.open_with(options)
}

fn open(world: &mut World) -> Peer {
    judged_peer(world, Credential::Anonymous)
}

/// An AUTH of success, with the end that the tests' hub gives to everybody.
fn success(method: &str) -> Vec<u8> {
    let props = [&[0x15][..], &text(method), &user("tidings-expires", "90")].concat();
    packet(0xf0, &[&[0], &properties(&[&props])])
}

#[test]
fn every_method_reads_its_own_form() {
    for (method, data, reason) in [
        ("BEARER", "token", 0),
        ("OAUTH2-JWT", "token", 0),
        ("CUSTOM-JWT", "token", 0),
        ("BEARER", "wrong", 0x87),
        ("BEARER", "", 0x87),
        ("bearer", "token", 0x8c),
        ("SCRAM-SHA-256", "n,,n=a,r=b", 0x8c),
        ("PLAIN", "\0ann\0pw", 0),
        ("PLAIN", "ann\0ann\0pw", 0),
        ("PLAIN", "bob\0ann\0pw", 0x87),
        ("PLAIN", "\0ann\0wrong", 0x87),
        ("PLAIN", "\0ann", 0x87),
        ("PLAIN", "\0ann\0pw\0more", 0x87),
        (
            "OAUTHBEARER",
            "n,a=ann,\x01host=h\x01port=1\x01auth=Bearer t.o.k\x01\x01",
            0,
        ),
        ("OAUTHBEARER", "n,,\x01auth=bearer tok\x01\x01", 0),
        ("OAUTHBEARER", "y,,\x01auth=Bearer tok\x01\x01", 0),
        (
            "OAUTHBEARER",
            "p=tls-exporter,,\x01auth=Bearer tok\x01\x01",
            0x87,
        ),
        ("OAUTHBEARER", "n,,\x01auth=Bearer wrong\x01\x01", 0x87),
        ("OAUTHBEARER", "n,,\x01auth=Basic tok\x01\x01", 0x87),
        ("OAUTHBEARER", "n,,\x01auth=Bearer tok\x01", 0x87),
        (
            "OAUTHBEARER",
            "n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
            0x87,
        ),
        ("OAUTHBEARER", "token", 0x87),
    ] {
        let mut world = World::new();
        let mut peer = open(&mut world);
        let out = world.receive(&mut peer, &method_connect(method, Some(data)));
        assert_eq!((out[0], out[3]), (0x20, reason), "{method} {data:?}");
        let ending = (reason != 0).then_some(Ending::AfterFlush);
        assert_eq!(peer.ending, ending, "{method} {data:?}");
        if reason == 0 {
            let said = [&[0x15][..], &text(method)].concat();
            assert!(
                out.windows(said.len()).any(|it| it == said),
                "{}",
                hex(&out)
            );
        }
    }
}

#[test]
fn where_nobody_is_asked_every_method_that_is_known_is_accepted() {
    for (method, reason) in [("BEARER", 0), ("X", 0x8c)] {
        let mut world = World::new();
        let mut peer = world.open();
        let out = world.receive(&mut peer, &method_connect(method, Some("any")));
        assert_eq!((out[0], out[3]), (0x20, reason));
        if reason == 0 {
            let out = world.receive(&mut peer, &auth(0x19, "any"));
            assert_eq!((out[0], out[2]), (0xf0, 0));
        }
    }
}

#[test]
fn a_client_that_shows_no_data_is_asked_for_them() {
    let mut world = World::new();
    let mut peer = open(&mut world);
    let out = world.receive(&mut peer, &method_connect(TOKEN_PEER, None));
    assert_eq!(hex(&out), hex(&auth_with(0x18, TOKEN_PEER, None)));
    let out = world.receive(&mut peer, &auth(0x18, "token"));
    assert_eq!((out[0], out[3]), (0x20, 0));
    // Again, on the open connection, which goes on meanwhile.
    let out = world.receive(&mut peer, &auth_with(0x19, TOKEN_PEER, None));
    assert_eq!(hex(&out), hex(&auth_with(0x18, TOKEN_PEER, None)));
    assert_eq!(hex(&world.receive(&mut peer, &[0xc0, 0])), "d0 00");
    let out = world.receive(&mut peer, &auth(0x18, "token"));
    assert_eq!(hex(&out), hex(&success(TOKEN_PEER)));
}

#[test]
fn a_credential_is_renewed_on_the_open_connection() {
    let mut world = World::new();
    let mut peer = open(&mut world);
    let out = world.receive(&mut peer, &method_connect(TOKEN_PEER, Some("token")));
    let expires = user("tidings-expires", "90");
    assert!(
        out.windows(expires.len()).any(|it| it == expires),
        "the CONNACK says until when: {}",
        hex(&out)
    );
    for _ in 0..2 {
        let out = world.receive(&mut peer, &auth(0x19, "token"));
        assert_eq!(hex(&out), hex(&success(TOKEN_PEER)));
    }
    assert_eq!(peer.ending, None);
}

#[test]
fn authentication_that_fails_ends_the_connection() {
    let asked = || method_connect(TOKEN_PEER, None);
    let good = || method_connect(TOKEN_PEER, Some("token"));
    for (steps, first, reason) in [
        (vec![method_connect(TOKEN_PEER, Some("wrong"))], 0x20, 0x87),
        (vec![asked(), auth(0x18, "wrong")], 0x20, 0x87),
        (vec![asked(), auth_with(0x18, TOKEN_PEER, None)], 0x20, 0x87),
        (
            vec![asked(), auth_with(0x18, "PLAIN", Some("token"))],
            0x20,
            0x82,
        ),
        (vec![asked(), auth(0x19, "token")], 0x20, 0x82),
        (vec![good(), auth(0x18, "token")], 0xe0, 0x82),
        (vec![good(), auth(0x19, "wrong")], 0xe0, 0x87),
        (vec![good(), auth(0x19, "")], 0xe0, 0x87),
        (
            vec![good(), auth_with(0x19, "PLAIN", Some("\0a\0b"))],
            0xe0,
            0x82,
        ),
        (
            vec![connect5("a", true, &[]), auth(0x19, "token")],
            0x20,
            0x87,
        ),
        (vec![asked(), vec![0xc0, 0]], 0x20, 0x82),
        (vec![asked(), vec![0xc1, 0]], 0x20, 0x81),
    ] {
        let mut world = World::new();
        let mut peer = open(&mut world);
        let mut out = Vec::new();
        for step in &steps {
            if peer.ending.is_none() {
                out = world.receive(&mut peer, step);
            }
        }
        let said = if first == 0x20 { out[3] } else { out[2] };
        assert_eq!((out[0], said), (first, reason), "{}", hex(&steps[0]));
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
    }
}

#[test]
fn a_password_beside_a_method_is_refused() {
    let mut world = World::new();
    let mut peer = open(&mut world);
    let props = [&[0x15][..], &text(TOKEN_PEER), &[0x16], &text("token")].concat();
    let body = [
        &text("MQTT")[..],
        &[5, 0xc2, 0, 0],
        &properties(&[&props]),
        &text("a"),
        &text("ann"),
        &text("pw"),
    ]
    .concat();
    let out = world.receive(&mut peer, &packet(0x10, &[&body]));
    assert_eq!((out[0], out[3]), (0x20, 0x86));
}

#[test]
fn what_the_handshake_showed_counts_for_a_connect_that_shows_nothing() {
    let token = |text| Credential::Bearer(Secret::from(text));
    for (shown, connect, reason) in [
        (Credential::Anonymous, connect5("a", true, &[]), 0x87),
        (token("token"), connect5("a", true, &[]), 0),
        (token("wrong"), connect5("a", true, &[]), 0x86),
        (token("wrong"), method_connect(TOKEN_PEER, Some("token")), 0),
        (
            token("token"),
            method_connect(TOKEN_PEER, Some("wrong")),
            0x87,
        ),
        (token("token"), connect4("a", true), 0),
        (token("wrong"), connect4("a", true), 4),
    ] {
        let mut world = World::new();
        let mut peer = judged_peer(&mut world, shown);
        let out = world.receive(&mut peer, &connect);
        assert_eq!((out[0], out[3]), (0x20, reason), "{}", hex(&connect));
    }
}
