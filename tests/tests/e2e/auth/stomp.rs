//! STOMP: login and passcode of the CONNECT.

use tidings_e2e::stomp::{Client, Frame};

use super::{Guarded, KINDS, PASSWORD};

#[track_caller]
fn open(guarded: &Guarded, headers: &[(&str, &str)]) -> (Client, Frame) {
    Client::try_open(guarded.server.stomp(), "1.2", headers).unwrap()
}

#[test]
fn every_kind_publishes_and_reads_what_it_is_granted_and_nothing_more() {
    let guarded = Guarded::start();
    for kind in KINDS {
        let (login, passcode) = guarded.login(kind);
        let signed_in = || open(&guarded, &[("login", login), ("passcode", passcode)]).0;
        let mut client = signed_in();
        client.subscribe("0", "/topic/own/#", &[]);
        client.publish("/topic/own/a", "x");
        assert_eq!(client.texts(1), ["x"], "{kind:?}");
        for (command, destination) in [
            ("SUBSCRIBE", "/topic/other"),
            ("SUBSCRIBE", "/topic/#"),
            ("SEND", "/topic/other"),
            ("SEND", "/topic/own/locked"),
        ] {
            let mut client = signed_in();
            let headers = [("destination", destination), ("id", "0")];
            client.send(&Frame::new(command, &headers, "")).unwrap();
            assert_eq!(
                client.error().expect("tidings-code"),
                "forbidden",
                "{destination}"
            );
        }
    }
}

#[test]
fn a_wrong_credential_is_answered_with_an_error() {
    let guarded = Guarded::start();
    for headers in [
        &[][..],
        &[("login", "ann"), ("passcode", "wrong")],
        &[("login", "ann")],
        &[("login", "bob"), ("passcode", PASSWORD)],
        &[("passcode", "wrong")],
    ] {
        let (mut client, answer) = open(&guarded, headers);
        assert_eq!(answer.command, "ERROR", "{headers:?}");
        assert_eq!(answer.expect("tidings-code"), "unauthorized");
        client.until_closed();
    }
    let (_, answer) = open(&guarded, &[("passcode", &guarded.token)]);
    assert_eq!(answer.command, "CONNECTED", "a token needs no login");
}

#[test]
fn frames_behind_the_connect_wait_until_it_is_known_who_sends_them() {
    let guarded = Guarded::start();
    let (mut client, _) = open(&guarded, &[("passcode", &guarded.token)]);
    client.subscribe("0", "/topic/own/a", &[]);
    let opened = tidings_e2e::http::connect(guarded.server.stomp());
    let mut stream = opened.unwrap();
    let headers = [
        ("login", "ann"),
        ("passcode", PASSWORD),
        ("accept-version", "1.2"),
    ];
    let mut bytes = Frame::new("CONNECT", &headers, "").bytes("1.0");
    bytes.extend(Frame::new("SEND", &[("destination", "/topic/own/a")], "early").bytes("1.2"));
    std::io::Write::write_all(&mut stream, &bytes).unwrap();
    assert_eq!(client.texts(1), ["early"]);
}
