//! Connecting, heart-beats, limits, and the ends of a connection.

use std::time::Duration;

use tidings_ports::{Command, Conversation as _, Credential, Ending, Event, Framed, Secret, Tag};
use tidings_types::{Refusal, RefusalCode};

use super::testing::*;
use super::{StompConversation, Transport};

fn fresh() -> Client {
    Client::new(Transport::Tcp, limits())
}

#[test]
fn the_highest_common_version_is_spoken() {
    for (headers, version) in [
        ("", "1.0"),
        ("accept-version:1.0\n", "1.0"),
        ("accept-version:1.1\nhost:x\n", "1.1"),
        ("accept-version:1.0,1.1,1.2\nhost:x\n", "1.2"),
        ("accept-version:1.2,9.9\n", "1.2"),
        ("login:a\npasscode:b\naccept-version:1.1\n", "1.1"),
    ] {
        for command in ["CONNECT", "STOMP"] {
            let mut client = fresh();
            client.send(format!("{command}\n{headers}\n\0"));
            let out = client.out();
            let expect = format!("CONNECTED\nversion:{version}\nsession:");
            assert!(out.starts_with(&expect), "{out}");
            assert!(out.contains(&format!("\nserver:tidings/{}\n", env!("CARGO_PKG_VERSION"))));
            assert_eq!(out.contains("\nheart-beat:10000,10000\n"), version != "1.0");
            assert!(out.ends_with("\n\n\0"), "{out}");
            assert!(client.asked().is_empty());
            assert_eq!(client.ending, None);
        }
    }
}

#[test]
fn a_client_without_a_common_version_is_told_what_is_spoken() {
    let mut client = fresh();
    client.send("CONNECT\naccept-version:2.0\nhost:x\n\n\0SEND\ndestination:/topic/a\n\n\0");
    let out = client.out();
    assert!(
        out.starts_with("ERROR\n") && out.contains("\nversion:1.0,1.1,1.2\n"),
        "{out}"
    );
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    assert_eq!(client.asked(), ["refused bad-version"]);
}

#[test]
fn nothing_comes_before_connect_and_no_second_one() {
    let mut client = fresh();
    client.send("SEND\ndestination:/topic/a\nreceipt:1\n\nhello\0");
    assert_eq!(client.error().0, "bad-frame");
    assert_eq!(client.asked(), ["refused bad-frame"]);
    let mut client = Client::connected("1.2");
    client.send("CONNECT\naccept-version:1.2\nhost:x\n\n\0");
    assert_eq!(client.error().0, "bad-frame");
}

#[test]
fn what_is_not_stomp_is_closed_without_a_word() {
    let mut client = fresh();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.out(), "");
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    assert_eq!(client.asked(), ["refused bad-frame"]);
}

#[test]
fn a_connect_that_does_not_come_ends_the_connection() {
    let mut client = fresh();
    client.send("\n\nCONN");
    client.tick(4_999);
    assert_eq!(client.ending, None);
    assert_eq!(client.wake.unwrap().0, 6_000);
    client.tick(1);
    assert_eq!(client.out(), "");
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    assert_eq!(client.asked(), ["refused request-timeout"]);
}

#[test]
fn heart_beats_go_out_on_time_also_between_messages() {
    let mut client = fresh();
    client.send("CONNECT\naccept-version:1.2\nhost:x\nheart-beat:0,20000\n\n\0");
    client.out();
    for _ in 0..3 {
        let due = client.wake.unwrap().0 - client.now.0;
        assert!((15_000..=17_500).contains(&due), "{due}");
        client.tick(due - 1);
        assert_eq!(client.out(), "");
        client.tick(1);
        assert_eq!(client.out(), "\n");
    }
}

#[test]
fn without_heart_beats_nothing_is_sent_or_awaited() {
    for header in ["", "heart-beat:0,0\n"] {
        let mut client = fresh();
        client.send(format!("CONNECT\naccept-version:1.2\nhost:x\n{header}\n\0"));
        client.out();
        client.tick(100_000_000);
        assert_eq!(client.out(), "");
        assert_eq!(client.ending, None);
    }
}

#[test]
fn a_client_is_cut_off_after_three_missed_heart_beats_and_any_byte_counts() {
    let mut client = fresh();
    client.send("CONNECT\naccept-version:1.1\nhost:x\nheart-beat:10000,0\n\n\0");
    client.out();
    client.tick(29_999);
    client.send("\n");
    client.tick(29_999);
    client.send("SEND\ndesti");
    client.tick(29_999);
    assert_eq!(client.ending, None);
    client.is_slow = true;
    client.tick(1);
    client.is_slow = false;
    assert_eq!(
        client.ending, None,
        "it takes bytes while its own are left unread"
    );
    client.tick(30_000);
    let (code, _, detail) = client.error();
    assert_eq!(code, "silent");
    assert!(detail.contains("10000 ms"), "{detail}");
    assert_eq!(client.asked(), ["refused silent"]);
}

#[test]
fn a_heart_beat_header_that_is_none_is_an_error() {
    let mut client = fresh();
    client.send("CONNECT\naccept-version:1.2\nhost:x\nheart-beat:often\n\n\0");
    assert_eq!(client.error().0, "bad-parameter");
}

#[test]
fn limits_end_the_connection_with_the_receipt_of_the_frame() {
    let many = "h:1\n".repeat(20);
    let long = "x".repeat(2_000);
    let body = "x".repeat(1_001);
    for (frame, code) in [
        (format!("SEND\nreceipt:9\n{many}\n\0"), "head-too-large"),
        (format!("SEND\nreceipt:9\na:{long}\n\n\0"), "head-too-large"),
        (
            format!("SEND\nreceipt:9\ndestination:/topic/a\n\n{body}\0"),
            "message-too-large",
        ),
        (
            "SEND\nreceipt:9\ndestination:/topic/a\ncontent-length:1001\n\n".to_owned(),
            "message-too-large",
        ),
    ] {
        let mut client = Client::connected("1.2");
        client.send(&frame);
        let (got, receipt, _) = client.error();
        assert_eq!((&*got, receipt.as_deref()), (code, Some("9")), "{frame}");
        assert_eq!(client.asked(), [format!("refused {code}")]);
    }
}

#[test]
fn a_drain_says_when_to_come_back() {
    let mut client = Client::connected("1.2");
    client.tell(Event::Drain {
        reconnect_after: Duration::from_millis(1_500),
        refusal: Refusal::new(RefusalCode::ShuttingDown, "come back: soon"),
    });
    assert_eq!(
        client.out(),
        "ERROR\nmessage:The server is restarting\ntidings-code:shutting-down\ncontent-type:text/plain\ntidings-reconnect-ms:1500\ncontent-length:15\n\ncome back: soon\0"
    );
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    assert!(client.asked().is_empty(), "the hub counted it");
}

#[test]
fn a_subscription_that_is_lost_ends_the_connection() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a");
    client.tell(Event::Lost {
        key: tidings_ports::SubscriptionKey(1),
        refusal: Refusal::new(RefusalCode::StorageFailed, "unreadable"),
    });
    let (code, _, detail) = client.error();
    assert_eq!((&*code, &*detail), ("storage-failed", "unreadable"));
}

#[test]
fn a_client_that_closed_its_side_gets_its_answers_first() {
    let mut client = Client::connected("1.2");
    client.send("SEND\ndestination:/topic/a\nreceipt:1\n\nx\0");
    client.tell(Event::PeerFinished);
    assert_eq!(client.ending, None);
    client.published(1, 1);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:1\n\n\0");
    assert_eq!(client.ending, Some(Ending::AfterFlush));
}

#[test]
fn what_follows_a_farewell_is_not_looked_at() {
    let mut client = Client::connected("1.2");
    client.subscribe("id:1\ndestination:/topic/a\nack:client");
    client.send("SEND\n\n\0SEND\ndestination:/topic/a\n\n\0");
    assert_eq!(client.error().0, "bad-frame");
    assert_eq!(client.asked(), ["refused bad-frame"]);
    let framed = client.offer(1, &message(1, "a", "x"), 0);
    assert_eq!(framed, Framed::Full, "a queue gives it to another one");
}

#[test]
fn an_idle_connection_is_small() {
    let size = size_of::<StompConversation>();
    assert!(size <= 288, "{size}");
    let mut client = Client::connected("1.2");
    client.send("SEND\ndestination:/topic/a\nreceipt:1\n\n\0");
    assert!(client.conversation.work.is_some());
    client.published(1, 1);
    assert!(client.conversation.work.is_none());
    assert_eq!(client.conversation.protocol().name(), "stomp");
    assert!(client.conversation.wants_each());
}

/// The credential that the hub is asked to judge, as text, and its tag.
#[track_caller]
fn judged(client: &mut Client) -> (String, Tag) {
    let text = |secret: &Secret| secret.expose_text().unwrap().to_owned();
    match &client.commands()[..] {
        [Command::Authenticate { tag, credential }] => {
            let shown = match credential {
                Credential::Bearer(token) => text(token),
                Credential::Password { user, password } => format!("{user} {}", text(password)),
                other => format!("{other:?}"),
            };
            (shown, *tag)
        }
        _ => panic!("one credential is judged"),
    }
}

fn accepted(tag: Tag) -> Event {
    Event::Authenticated {
        tag,
        expires: None,
        left: Some(Duration::from_millis(90_500)),
    }
}

fn signed_in() -> Client {
    let mut client = Client::judged(Credential::Anonymous);
    client.send("CONNECT\naccept-version:1.2\nhost:x\npasscode:t\n\n\0");
    let (_, tag) = judged(&mut client);
    client.tell(accepted(tag));
    assert!(client.out().contains("\ntidings-expires:90\n"));
    client
}

#[test]
fn what_the_handshake_showed_counts_for_a_connect_that_shows_nothing() {
    let token = || Credential::Bearer(Secret::from("cookie"));
    for (shown, headers, expect) in [
        (token(), "", "cookie"),
        (token(), "passcode:t\n", "t"),
        (token(), "login:ann\npasscode:pw\n", "ann pw"),
        (token(), "login:ann\n", "ann "),
        (Credential::Anonymous, "", "Anonymous"),
    ] {
        let mut client = Client::judged(shown);
        client.send(format!(
            "CONNECT\naccept-version:1.2\nhost:x\n{headers}\n\0"
        ));
        assert_eq!(judged(&mut client).0, expect, "{headers}");
    }
}

#[test]
fn a_send_to_auth_renews_and_is_no_message() {
    for (headers, body, expect) in [
        ("", "tok", "tok"),
        ("passcode:tok\n", "", "tok"),
        ("login:ann\npasscode:pw\n", "", "ann pw"),
    ] {
        let mut client = signed_in();
        client.send(format!(
            "SEND\ndestination:/auth\nreceipt:7\n{headers}\n{body}\0"
        ));
        let (shown, tag) = judged(&mut client);
        assert_eq!(shown, expect);
        assert_eq!(client.out(), "", "not before it is judged");
        client.tell(accepted(tag));
        assert_eq!(
            client.out(),
            "RECEIPT\nreceipt-id:7\ntidings-expires:90\n\n\0"
        );
        assert_eq!(client.ending, None);
    }
    let mut client = signed_in();
    client.send("SEND\ndestination:/auth\n\ntok\0");
    let (_, tag) = judged(&mut client);
    client.tell(accepted(tag));
    assert_eq!(client.out(), "", "no receipt was asked for");
    client.tell(Event::Expiring {
        left: Duration::from_mins(1),
    });
    assert_eq!(client.out(), "", "STOMP has no word for it");
}

#[test]
fn a_renewal_that_is_refused_ends_the_connection() {
    let mut client = signed_in();
    client.send("SEND\ndestination:/auth\nreceipt:7\n\nwrong\0");
    let (_, tag) = judged(&mut client);
    client.refused(tag.0, RefusalCode::Unauthorized, "no");
    assert_eq!(client.error().0, "unauthorized");
    assert_eq!(client.ending, Some(Ending::AfterFlush));
    for (headers, body, code) in [
        ("passcode:a\n", "b", "bad-request"),
        ("transaction:t\n", "b", "bad-parameter"),
    ] {
        let mut client = signed_in();
        client.send(format!("SEND\ndestination:/auth\n{headers}\n{body}\0"));
        assert_eq!(client.error().0, code);
    }
    let mut open = Client::connected("1.2");
    open.send("SEND\ndestination:/auth\nreceipt:7\n\nany\0");
    assert_eq!(open.out(), "RECEIPT\nreceipt-id:7\n\n\0", "nobody is asked");
}
