//! ACK and NACK.

use tidings_ports::{Event, Framed, Tag};

use super::testing::*;

/// A client with messages 1 to `count` of subscription 1, whose id is `s`.
fn given(version: &str, ack: &str, count: u64) -> Client {
    let mut client = Client::connected(version);
    client.subscribe(&format!("id:s\ndestination:/queue/a\nack:{ack}"));
    for offset in 1..=count {
        assert_eq!(client.offer(1, &message(offset, "a", "x"), 0), Framed::Put);
    }
    client.out();
    client
}

/// The frame that settles a message.
fn frame(version: &str, command: &str, offset: u64, more: &str) -> String {
    let target = match version {
        "1.2" => format!("id:1-{offset}"),
        "1.1" => format!("subscription:s\nmessage-id:{}", at(offset)),
        _ => format!("message-id:{}", at(offset)),
    };
    format!("{command}\n{target}\n{more}\n\0")
}

#[test]
fn each_version_names_the_message_in_its_way() {
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = given(version, "client", 3);
        client.send(frame(version, "ACK", 2, ""));
        assert_eq!(client.asked(), ["Ack 1-1", "Ack 1-2"], "{version}");
        client.send(frame(version, "ACK", 3, ""));
        assert_eq!(client.asked(), ["Ack 1-3"]);
        assert_eq!(client.out(), "");
    }
}

#[test]
fn client_individual_settles_one_and_client_all_before_it() {
    for (ack, command, expect) in [
        ("client", "ACK", vec!["Ack 1-1", "Ack 1-2", "Ack 1-3"]),
        ("client", "NACK", vec!["Nack 1-1", "Nack 1-2", "Nack 1-3"]),
        ("client-individual", "ACK", vec!["Ack 1-3"]),
        ("client-individual", "NACK", vec!["Nack 1-3"]),
    ] {
        for version in ["1.1", "1.2"] {
            let mut client = given(version, ack, 4);
            client.send(frame(version, command, 3, ""));
            assert_eq!(client.asked(), expect, "{version} {ack} {command}");
        }
    }
}

#[test]
fn a_nack_without_requeue_gives_the_message_up() {
    for (more, expect) in [
        ("requeue:false\n", "Reject 1-1"),
        ("requeue:true\n", "Nack 1-1"),
    ] {
        let mut client = given("1.2", "client", 1);
        client.send(frame("1.2", "NACK", 1, more));
        assert_eq!(client.asked(), [expect]);
    }
    let mut client = given("1.2", "client", 1);
    client.send(frame("1.2", "ACK", 1, "requeue:false\n"));
    assert_eq!(client.asked(), ["Ack 1-1"], "an ACK has no such header");
}

#[test]
fn there_is_no_nack_in_1_0() {
    let mut client = given("1.0", "client", 1);
    client.send(frame("1.0", "NACK", 1, ""));
    assert_eq!(client.error().0, "bad-frame");
}

#[test]
fn the_receipt_of_an_acknowledgement_waits_until_the_last_is_durable() {
    let mut client = given("1.2", "client", 3);
    client.send(frame("1.2", "ACK", 3, "receipt:r\n"));
    assert_eq!(client.asked(), ["Ack 1-1", "Ack 1-2", "Ack 1-3 #2"]);
    assert_eq!(client.out(), "");
    client.tell(Event::Settled { tag: Tag(2) });
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:r\n\n\0");
}

#[test]
fn what_is_unknown_is_an_error() {
    for (version, frame) in [
        ("1.2", frame("1.2", "ACK", 9, "")),
        ("1.2", "ACK\nid:7-1\n\n\0".to_owned()),
        ("1.2", "ACK\nid:0-1\n\n\0".to_owned()),
        ("1.2", "ACK\nid:nonsense\n\n\0".to_owned()),
        ("1.2", "ACK\nid:1-x\n\n\0".to_owned()),
        ("1.1", frame("1.1", "ACK", 9, "")),
        (
            "1.1",
            "ACK\nsubscription:s\nmessage-id:what\n\n\0".to_owned(),
        ),
        ("1.0", frame("1.0", "ACK", 9, "")),
    ] {
        let mut client = given(version, "client", 2);
        client.send(&frame);
        assert_eq!(client.error().0, "not-yours", "{frame}");
        assert_eq!(client.asked(), ["refused not-yours"]);
    }
}

#[test]
fn headers_that_are_missing_are_an_error() {
    for (version, frame, name) in [
        ("1.2", "ACK\nmessage-id:1\nsubscription:s\n\n\0", "`id`"),
        ("1.1", "ACK\nsubscription:s\n\n\0", "`message-id`"),
        ("1.0", "ACK\n\n\0", "`message-id`"),
    ] {
        let mut client = given(version, "client", 1);
        client.send(frame);
        let (code, _, detail) = client.error();
        assert_eq!(code, "bad-frame");
        assert!(detail.contains(name), "{detail}");
    }
    let mut client = given("1.1", "client", 1);
    client.send(format!("ACK\nmessage-id:{}\n\n\0", at(1)));
    assert_eq!(client.error().0, "bad-frame");
}

#[test]
fn a_second_acknowledgement_is_an_error_unless_an_earlier_one_covered_the_message() {
    for command in ["ACK", "NACK"] {
        let mut client = given("1.2", "client-individual", 2);
        client.send(frame("1.2", "ACK", 1, ""));
        client.asked();
        client.send(frame("1.2", command, 1, ""));
        assert_eq!(client.error().0, "not-yours");
        for version in ["1.1", "1.2"] {
            let mut client = given(version, "client", 3);
            client.send(frame(version, "ACK", 2, ""));
            client.asked();
            client.send(frame(version, command, 1, "receipt:r\n"));
            assert_eq!(client.out(), "RECEIPT\nreceipt-id:r\n\n\0");
            assert!(client.asked().is_empty());
            client.send(frame(version, "ACK", 3, ""));
            assert_eq!(client.asked(), ["Ack 1-3"]);
        }
    }
}

#[test]
fn only_what_was_given_counts_as_past() {
    let auto = |version| {
        let mut client = Client::connected(version);
        client.subscribe("id:s\ndestination:/topic/a");
        client.deliver(1, &message(7, "a", "x"));
        client
    };
    let forgotten = |version| {
        let mut client = given(version, "client-individual", 7);
        client.asked();
        client
    };
    let mut other = at(7);
    other.epoch = tidings_types::Epoch(8);
    let other = format!("ACK\nsubscription:s\nmessage-id:{other}\n\n\0");
    let none = format!("ACK\nsubscription:none\nmessage-id:{}\n\n\0", at(1));
    for (mut client, frame) in [
        (auto("1.0"), frame("1.0", "ACK", 8, "")),
        (auto("1.1"), frame("1.1", "ACK", 8, "")),
        (auto("1.2"), frame("1.2", "ACK", 8, "")),
        (auto("1.0"), other.clone()),
        (auto("1.1"), other.clone()),
        (auto("1.1"), none.clone()),
        (given("1.0", "client", 7), other.clone()),
        (forgotten("1.1"), other),
        (forgotten("1.1"), none),
        (forgotten("1.1"), frame("1.1", "ACK", 8, "")),
        (forgotten("1.2"), frame("1.2", "ACK", 8, "")),
        (forgotten("1.2"), frame("1.2", "ACK", 0, "")),
    ] {
        client.send(&frame);
        assert_eq!(client.error().0, "not-yours", "{frame}");
    }
}

#[test]
fn of_what_has_ended_only_what_was_given_may_be_acknowledged() {
    for (offset, is_known) in [(2, true), (3, false)] {
        for version in ["1.0", "1.1"] {
            let mut client = given(version, "client", 2);
            client.send("UNSUBSCRIBE\nid:s\n\n\0");
            client.send(frame(version, "ACK", offset, ""));
            assert_eq!(client.ending.is_none(), is_known, "{version} {offset}");
        }
    }
    // The name may be another subscription's by now.
    let mut client = given("1.1", "client", 2);
    client.send("UNSUBSCRIBE\nid:s\n\n\0");
    client.subscribe("id:s\ndestination:/queue/a\nack:client");
    client.asked();
    client.send(frame("1.1", "ACK", 2, ""));
    assert_eq!(client.ending, None);
    assert!(client.asked().is_empty());
}

#[test]
fn so_many_ended_subscriptions_are_remembered() {
    let mut client = given("1.1", "client", 1);
    client.send("UNSUBSCRIBE\nid:s\n\n\0");
    for key in 2..18 {
        client.send(frame("1.1", "ACK", 1, ""));
        assert_eq!(client.ending, None, "{key}");
        let id = format!("id:{key}");
        client.subscribe(&format!("{id}\ndestination:/queue/a\nack:client"));
        client.send(format!("UNSUBSCRIBE\n{id}\n\n\0"));
        for command in client.commands() {
            if let tidings_ports::Command::Unsubscribe { tag, key, .. } = command {
                client.tell(Event::Unsubscribed { tag, key });
            }
        }
    }
    client.send(frame("1.1", "ACK", 1, ""));
    assert_eq!(client.error().0, "not-yours");
}

#[test]
fn a_message_whose_time_has_passed_may_still_be_acknowledged() {
    // Prefetch is 5: the queue took the first two back before it gave more.
    let mut client = given("1.2", "client-individual", 7);
    client.send(frame("1.2", "ACK", 1, "receipt:r\n"));
    assert!(client.asked().is_empty());
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:r\n\n\0");
    client.send(frame("1.2", "ACK", 3, ""));
    assert_eq!(client.asked(), ["Ack 1-3"]);
}

#[test]
fn a_message_that_comes_again_takes_its_new_place() {
    let mut client = given("1.2", "client", 3);
    assert_eq!(client.offer(1, &message(1, "a", "x"), 1), Framed::Put);
    client.send(frame("1.2", "ACK", 3, ""));
    assert_eq!(client.asked(), ["Ack 1-2", "Ack 1-3"]);
    client.send(frame("1.2", "ACK", 1, ""));
    assert_eq!(client.asked(), ["Ack 1-1"]);
}

#[test]
fn acknowledging_what_needs_none_or_has_ended_has_no_effect() {
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = Client::connected(version);
        client.subscribe("id:s\ndestination:/topic/a");
        client.deliver(1, &message(1, "a", "x"));
        client.send(frame(version, "ACK", 1, "receipt:r\n"));
        assert_eq!(client.out(), "RECEIPT\nreceipt-id:r\n\n\0");
        assert!(client.asked().is_empty());
    }
    for version in ["1.1", "1.2"] {
        let mut client = given(version, "client", 1);
        client.send("UNSUBSCRIBE\nid:s\n\n\0");
        client.asked();
        client.send(frame(version, "ACK", 1, ""));
        assert!(client.asked().is_empty());
        assert_eq!(client.ending, None);
    }
}
