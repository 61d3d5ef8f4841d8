//! MQTT: user name and password of the CONNECT.

use tidings_e2e::mqtt::{Client, Connect, Publish};

use super::{Guarded, KINDS, Kind, PASSWORD, mint};

/// The reason of the CONNACK.
#[track_caller]
fn reason(guarded: &Guarded, connect: &Connect) -> u8 {
    let opened = Client::try_open(guarded.server.mqtt(), connect);
    opened.unwrap().1.reason()
}

#[test]
fn every_kind_publishes_and_reads_what_it_is_granted_and_nothing_more() {
    let guarded = Guarded::start();
    for kind in KINDS {
        let (user, password) = guarded.login(kind);
        for connect in [Connect::v5("a"), Connect::v3("a")] {
            let denied = if connect.version == 5 { 0x87 } else { 0x80 };
            let is_5 = connect.version == 5;
            let connect = connect.login(user, password);
            let (mut client, _) = Client::open(guarded.server.mqtt(), &connect);
            let filters = [("own/#", 1), ("#", 1), ("+/a", 0), ("other", 0)];
            assert_eq!(
                client.subscribe(&filters),
                [1, denied, denied, denied],
                "{kind:?}"
            );
            client.publish(&Publish::new("own/a", "x").qos(1, 7));
            assert_eq!(client.receive().text(), "x");
            if is_5 {
                client.send(&Publish::new("own/locked", "x").qos(1, 8));
                assert_eq!(
                    client.answer(tidings_e2e::mqtt::kind::PUBACK).reason(),
                    0x87
                );
            }
            client.leave();
        }
    }
    let locked = guarded.server.metric("tidings_refusals_total", "forbidden");
    assert!(locked >= 21.0, "{locked}");
}

#[test]
fn a_wrong_credential_is_refused_with_the_right_code() {
    let guarded = Guarded::start();
    for (user, password) in [
        ("ann", "wrong"),
        ("ann", ""),
        ("bob", PASSWORD),
        ("", PASSWORD),
        ("ann", "tdg_wrong"),
    ] {
        assert_eq!(
            reason(&guarded, &Connect::v5("a").login(user, password)),
            0x86,
            "{user}"
        );
        assert_eq!(
            reason(&guarded, &Connect::v3("a").login(user, password)),
            4,
            "{user}"
        );
    }
    assert_eq!(reason(&guarded, &Connect::v5("a")), 0x87);
    assert_eq!(reason(&guarded, &Connect::v3("a")), 5);
    let sessions = guarded.server.metric("tidings_sessions_connected", "");
    assert!(sessions < 0.5, "{sessions}");
}

#[test]
fn a_session_belongs_to_who_made_it() {
    let guarded = Guarded::start();
    let (user, password) = guarded.login(Kind::Password);
    let kept = Connect::v5("mine").kept().login(user, password);
    let (mut client, _) = Client::open(guarded.server.mqtt(), &kept);
    client.subscribe(&[("own/#", 1)]);
    let other = mint(&guarded.path("secret"), "eve", "1h");
    // While its owner is there, and when it is away, and after the server has forgotten all but its log.
    let mut guarded = guarded;
    for round in 0..3 {
        for connect in [
            Connect::v5("mine"),
            Connect::v5("mine").kept(),
            Connect::v3("mine"),
        ] {
            let refused = if connect.version == 5 { 0x87 } else { 5 };
            assert_eq!(
                reason(&guarded, &connect.login("eve", &other)),
                refused,
                "{round}"
            );
        }
        match round {
            0 => client.ping(),
            1 => {
                let Guarded {
                    server,
                    folder,
                    key,
                    token,
                } = guarded;
                let server = server.restart();
                guarded = Guarded {
                    server,
                    folder,
                    key,
                    token,
                };
            }
            _ => {}
        }
    }
    let (_, present) = Client::open(guarded.server.mqtt(), &kept);
    assert!(present, "its owner finds it as it was");
}
