//! SUBSCRIBE and UNSUBSCRIBE.

use tidings_ports::{Command, Framed, Framing, Until};
use tidings_types::RefusalCode;

use super::testing::*;

/// What a SUBSCRIBE asks for, without `subscribe #1 1 to `, or its refusal.
fn wanted(version: &str, headers: &str) -> Result<String, String> {
    let mut client = Client::connected(version);
    client.send(format!("SUBSCRIBE\nreceipt:r\n{headers}\n\n\0"));
    if client.ending.is_some() {
        let (code, receipt, detail) = client.error();
        assert_eq!(receipt.as_deref(), Some("r"));
        assert!(!detail.is_empty());
        return Err(code);
    }
    let asked = client.asked().pop().unwrap();
    Ok(asked.strip_prefix("subscribe #1 1 to ").unwrap().to_owned())
}

#[track_caller]
fn check(version: &str, headers: &str, expect: Result<&str, &str>) {
    let got = wanted(version, headers);
    let got = got.as_deref().map_err(|code| &**code);
    assert_eq!(got, expect, "{version} {headers}");
}

#[test]
fn destinations_are_filters() {
    for (destination, expect) in [
        ("/topic/a/b", Ok("a/b Latest")),
        ("/topic/a.b", Ok("a/b Latest")),
        ("/topic/a.*", Ok("a/+ Latest")),
        ("/topic/a/*/c", Ok("a/+/c Latest")),
        ("/topic/+/c", Ok("+/c Latest")),
        ("/topic/*.c.#", Ok("+/c/# Latest")),
        ("/topic/#", Ok("# Latest")),
        ("/topic/a%2Eb", Ok("a.b Latest")),
        ("/topic/%2A", Ok("* Latest")),
        ("/topic/a*b", Ok("a*b Latest")),
        ("/topic/a.#.b", Err("bad-filter")),
        ("/topic/a+", Err("bad-filter")),
        ("/topic/", Err("bad-filter")),
        ("a/b", Err("bad-topic")),
        ("/exchange/a", Err("bad-topic")),
        ("/temp-queue/a", Err("bad-topic")),
    ] {
        check("1.2", &format!("id:1\ndestination:{destination}"), expect);
    }
}

#[test]
fn each_kind_of_subscription_is_what_it_asks_for() {
    let own = "own/0000000000000301 x5 WithConnection";
    for (headers, expect) in [
        ("destination:/topic/a", "a Latest"),
        ("destination:/topic/a\nack:auto", "a Latest"),
        (
            "destination:/topic/a\nack:client",
            &format!("a Latest as {own}"),
        ),
        (
            "destination:/topic/a\nack:client-individual",
            &format!("a Latest as {own}"),
        ),
        (
            "destination:/topic/a\ndurable:true\nauto-delete:false\nx-queue-name:me",
            "a Latest as durable/me x5 After(60s)",
        ),
        (
            "destination:/topic/a\ndurable:true\ndurable-name:me\nack:client",
            "a Latest as durable/me x5 After(60s)",
        ),
        (
            "destination:/topic/a\nactivemq.subscriptionName:me",
            "a Latest as durable/me x5 After(60s)",
        ),
        ("destination:/topic/a\ndurable:false", "a Latest"),
        (
            "destination:/queue/a.b",
            "a/b Earliest as share/queue/a/b x5 Never",
        ),
        (
            "destination:/queue/a\ndurable:true\nack:client\nx-group:g",
            "a Earliest as share/g/a x5 Never",
        ),
        (
            "destination:/queue/a/*\nx-after:latest",
            "a/+ Latest as share/queue/a/+ x5 Never",
        ),
        (
            "destination:/queue/a\nprefetch-count:1\nx-ack-timeout:1500",
            "a Earliest as share/queue/a x1 Never in 1.5s",
        ),
        (
            "destination:/queue/a\nactivemq.prefetchSize:99999",
            "a Earliest as share/queue/a x10000 Never",
        ),
        (
            "destination:/queue/a\nprefetch-count:0\nexclusive:false",
            "a Earliest as share/queue/a x5 Never",
        ),
        (
            "destination:/queue/a\nauto-delete:true",
            "a Earliest as share/queue/a x5 WithConnection",
        ),
        (
            "destination:/queue/a\nauto-delete:false\nx-expires:1500",
            "a Earliest as share/queue/a x5 After(1.5s)",
        ),
        ("destination:/topic/a\necho:false", "a Latest no echo"),
        ("destination:/topic/a\nno-local:true", "a Latest no echo"),
        (
            "destination:/topic/a\necho:true\nno-local:false",
            "a Latest",
        ),
    ] {
        check("1.2", &format!("id:s1\n{headers}"), Ok(expect));
    }
}

#[test]
fn a_subscription_starts_where_it_is_told() {
    let cursor = at(5).to_string();
    let after = format!("x-after:{cursor}");
    let started = format!("a After({:?})", at(5));
    for (headers, expect) in [
        ("x-after:earliest", Ok("a Earliest")),
        ("x-after:latest", Ok("a Latest")),
        ("x-after:retained", Ok("a Retained")),
        ("x-after:last:3", Ok("a Last(3)")),
        ("x-after:last:0", Ok("a Latest")),
        (&after, Ok(&*started)),
        ("x-stream-offset:first", Ok("a Earliest")),
        ("x-stream-offset:last", Ok("a Last(1)")),
        ("x-stream-offset:next", Ok("a Latest")),
        ("x-after:soon", Err("bad-cursor")),
        ("x-after:last:x", Err("bad-parameter")),
        ("x-after:last:10001", Err("bad-parameter")),
        ("x-stream-offset:offset=5", Err("bad-parameter")),
        ("x-stream-offset:timestamp=5", Err("bad-parameter")),
        ("ack:client\nx-after:retained", Err("bad-parameter")),
    ] {
        check(
            "1.2",
            &format!("id:1\ndestination:/topic/a\n{headers}"),
            expect,
        );
    }
}

#[test]
fn each_version_has_its_rules() {
    for (version, headers, expect) in [
        ("1.0", "destination:/topic/a", Ok("a Latest")),
        ("1.0", "id:1\ndestination:/topic/a", Ok("a Latest")),
        (
            "1.0",
            "destination:/topic/a\nack:client-individual",
            Err("bad-parameter"),
        ),
        ("1.1", "destination:/topic/a", Err("bad-frame")),
        ("1.2", "destination:/topic/a", Err("bad-frame")),
        ("1.2", "id:1", Err("bad-frame")),
        (
            "1.2",
            "id:1\ndestination:/topic/a\nack:maybe",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/topic/a\nselector:x = 1",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/queue/a\nx-group:a/b",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/queue/a\nx-group:",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/topic/a\nx-group:g",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/queue/a\nprefetch-count:-1",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/queue/a\nx-ack-timeout:0",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/queue/a\nexclusive:true",
            Err("bad-parameter"),
        ),
        (
            "1.2",
            "id:1\ndestination:/queue/a\nx-expires:0",
            Err("bad-parameter"),
        ),
    ] {
        check(version, headers, expect);
    }
}

#[test]
fn a_durable_subscription_has_a_name_of_its_own() {
    for headers in [
        "id:sub-0\ndurable:true",
        "id:sub-0\ndurable:true\ndurable-name:",
        "id:sub-0\nactivemq.subscriptionName:",
    ] {
        let mut client = Client::connected("1.2");
        client.send(format!("SUBSCRIBE\ndestination:/topic/a\n{headers}\n\n\0"));
        let (code, _, detail) = client.error();
        assert_eq!(code, "bad-parameter");
        assert!(detail.contains("`durable-name`"), "{detail}");
    }
    // A queue has a name.
    let headers = "id:1\ndestination:/queue/a\ndurable:true";
    check("1.2", headers, Ok("a Earliest as share/queue/a x5 Never"));
}

#[test]
fn what_gives_each_message_to_one_gives_it_its_sender_too() {
    for headers in [
        "destination:/queue/a",
        "destination:/topic/a\ndurable:true\ndurable-name:me",
        "destination:/topic/a\nack:client",
        "destination:/topic/a\nack:client-individual",
    ] {
        for (header, name) in [("no-local:true", "`no-local`"), ("echo:false", "`echo`")] {
            let mut client = Client::connected("1.2");
            client.send(format!("SUBSCRIBE\nid:1\n{headers}\n{header}\n\n\0"));
            let (code, _, detail) = client.error();
            assert_eq!(code, "bad-parameter");
            assert!(
                detail.contains(name) && detail.contains("leave it away"),
                "{detail}"
            );
        }
    }
}

#[test]
fn an_id_has_a_limit() {
    for (size, expect) in [(255, Ok("a Latest")), (256, Err("bad-parameter"))] {
        let headers = format!("id:{}\ndestination:/topic/a", "x".repeat(size));
        for version in ["1.0", "1.2"] {
            check(version, &headers, expect);
        }
    }
}

#[test]
fn messages_are_framed_here_and_each_subscription_gets_its_own() {
    let mut client = Client::connected("1.2");
    client.send(
        "SUBSCRIBE\nid:1\ndestination:/topic/a\n\n\0SUBSCRIBE\nid:2\ndestination:/topic/a\n\n\0",
    );
    for command in client.commands() {
        let Command::Subscribe { framing, until, .. } = command else {
            panic!("another command");
        };
        assert!(matches!(framing, Framing::Own));
        assert_eq!(until, Until::Ended);
    }
}

#[test]
fn an_id_is_unique_until_it_is_unsubscribed() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a");
    client.send("UNSUBSCRIBE\nid:1\n\n\0");
    client.subscribe("id:1\ndestination:/topic/a");
    client.send("SUBSCRIBE\nid:1\ndestination:/topic/b\nreceipt:5\n\n\0");
    let (code, receipt, _) = client.error();
    assert_eq!((&*code, receipt.as_deref()), ("bad-parameter", Some("5")));
}

#[test]
fn own_queues_of_one_read_have_different_names() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a\nack:client");
    let frame = |id| format!("SUBSCRIBE\nid:{id}\nack:client\ndestination:/topic/a\n\n\0");
    client.send(&(frame(2) + &frame(3)));
    let second = client.commands();
    client.subscribed(2, 2);
    let third = client.commands();
    let name = |commands: &[Command]| match commands {
        [Command::Subscribe { group, .. }] => group.as_ref().unwrap().name.clone(),
        _ => panic!("not one subscription"),
    };
    assert_ne!(name(&second), name(&third));
}

#[test]
fn what_comes_behind_a_queue_subscription_waits_for_it() {
    let mut client = Client::connected("1.2");
    client.send("SUBSCRIBE\nid:1\ndestination:/topic/a\n\n\0SUBSCRIBE\nid:2\ndestination:/queue/a\nreceipt:q\n\n\0SEND\ndestination:/topic/a\n\nx\0");
    assert_eq!(client.asked().len(), 2);
    client.subscribed(1, 1);
    assert!(client.asked().is_empty());
    client.subscribed(2, 2);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:q\n\n\0");
    assert_eq!(client.asked(), ["publish #3 a=x"]);
}

#[test]
fn receipts_come_with_the_answers() {
    let mut client = Client::connected("1.2");
    client.send(
        "SUBSCRIBE\nid:1\ndestination:/topic/a\nreceipt:s\n\n\0UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0",
    );
    assert_eq!(
        client.asked(),
        ["subscribe #1 1 to a Latest", "unsubscribe #2 1"]
    );
    assert_eq!(client.out(), "");
    client.subscribed(1, 1);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:s\n\n\0");
    client.tell(tidings_ports::Event::Unsubscribed {
        tag: tidings_ports::Tag(2),
        key: tidings_ports::SubscriptionKey(1),
    });
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:u\n\n\0");
}

#[test]
fn a_refused_subscription_ends_the_connection() {
    let mut client = Client::connected("1.2");
    client.send("SUBSCRIBE\nid:1\ndestination:/queue/a\nreceipt:s\n\n\0");
    client.refused(1, RefusalCode::TooManySessions, "full");
    let (code, receipt, detail) = client.error();
    assert_eq!(
        (&*code, receipt.as_deref(), &*detail),
        ("too-many-sessions", Some("s"), "full")
    );
}

#[test]
fn subscriptions_are_bounded() {
    let mut client = Client::connected("1.2");
    for id in 0..4 {
        client.subscribe(&format!("id:{id}\ndestination:/topic/a"));
    }
    client.send("SUBSCRIBE\nid:4\ndestination:/topic/a\n\n\0");
    assert_eq!(client.error().0, "too-many-subscriptions");
}

#[test]
fn a_subscription_is_ended_by_its_name() {
    let mut client = Client::connected("1.0");
    client.subscribe("destination:/topic/a.b");
    client.subscribe("id:1\ndestination:/topic/a.b");
    client.send("UNSUBSCRIBE\ndestination:/topic/a.b\n\n\0UNSUBSCRIBE\nid:1\n\n\0");
    assert_eq!(client.asked(), ["unsubscribe #3 1", "unsubscribe #4 2"]);
    assert_eq!(client.offer(1, &message(1, "a/b", ""), 0), Framed::Full);
    for (version, frame, code) in [
        (
            "1.0",
            "UNSUBSCRIBE\ndestination:/topic/x\n\n\0",
            "not-found",
        ),
        ("1.0", "UNSUBSCRIBE\n\n\0", "bad-frame"),
        (
            "1.1",
            "UNSUBSCRIBE\ndestination:/topic/x\n\n\0",
            "bad-frame",
        ),
        ("1.2", "UNSUBSCRIBE\nid:7\n\n\0", "not-found"),
    ] {
        let mut client = Client::connected(version);
        client.send(frame);
        assert_eq!(client.error().0, code, "{frame}");
    }
}

#[test]
fn a_durable_subscription_is_forgotten_if_that_is_said() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a\ndurable:true\ndurable-name:me");
    client.send("UNSUBSCRIBE\nid:1\ndurable:true\n\n\0");
    assert_eq!(client.asked(), ["unsubscribe #2 1 forget"]);
}
