//! BEGIN, COMMIT and ABORT.

use tidings_ports::Framed;
use tidings_types::RefusalCode;

use super::testing::*;

/// A client with messages 1 to 3 of subscription 1, and the open transaction `t`.
fn begun() -> Client {
    let mut client = Client::connected("1.2");
    client.subscribe("id:s\ndestination:/queue/a\nack:client");
    for offset in 1..=3 {
        assert_eq!(client.offer(1, &message(offset, "a", "x"), 0), Framed::Put);
    }
    client.out();
    client.send("BEGIN\ntransaction:t\nreceipt:b\n\n\0");
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:b\n\n\0");
    client
}

const SEND: &str = "SEND\ndestination:/topic/b\ntransaction:t\n\ny\0";
const ACK: &str = "ACK\nid:1-2\ntransaction:t\n\n\0";
const COMMIT: &str = "COMMIT\ntransaction:t\nreceipt:c\n\n\0";
const ABORT: &str = "ABORT\ntransaction:t\nreceipt:a\n\n\0";

#[test]
fn a_commit_is_one_command() {
    let mut client = begun();
    client.send(format!(
        "{SEND}{ACK}NACK\nid:1-3\ntransaction:t\nrequeue:false\n\n\0"
    ));
    assert!(client.asked().is_empty());
    client.send(COMMIT);
    assert_eq!(
        client.asked(),
        ["publish #2 b=y Ack 1-1 Ack 1-2 Reject 1-3"]
    );
    assert_eq!(client.out(), "");
    client.published(2, 1);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:c\n\n\0");
    client.send("ACK\nid:1-1\n\n\0");
    assert!(client.asked().is_empty(), "it is covered");
    assert_eq!(client.ending, None);
}

#[test]
fn a_transaction_with_an_acknowledgement_that_no_longer_counts_is_refused() {
    // It was covered before; it was forgotten; its subscription has ended.
    let before = format!("ACK\nid:1-2\n\n\0{SEND}{}", ACK.replace("1-2", "1-1"));
    let ended = format!("UNSUBSCRIBE\nid:s\n\n\0{SEND}{ACK}");
    let claimed = format!("{SEND}{ACK}UNSUBSCRIBE\nid:s\n\n\0{COMMIT}");
    for (frames, receipt) in [(before, None), (ended, None), (claimed, Some("c"))] {
        let mut client = begun();
        client.send(&frames);
        let (code, receipt_id, detail) = client.error();
        assert_eq!((&*code, receipt_id.as_deref()), ("not-yours", receipt));
        assert!(
            detail.ends_with("; nothing of the transaction was committed"),
            "{detail}"
        );
        let asked = client.asked();
        let published = asked.iter().any(|line| line.starts_with("publish"));
        assert!(!published, "{asked:?}");
    }
    let mut client = begun();
    for offset in 4..=7 {
        assert_eq!(client.offer(1, &message(offset, "a", "x"), 0), Framed::Put);
    }
    client.out();
    client.send(ACK);
    assert_eq!(client.error().0, "not-yours");
}

#[test]
fn a_transaction_may_acknowledge_what_needs_it_not_or_what_it_covers() {
    let mut client = begun();
    client.subscribe("id:auto\ndestination:/topic/a");
    client.deliver(2, &message(4, "a", "x"));
    let within = |id| ACK.replace("1-2", id);
    client.send(within("2-4") + &within("1-3") + &within("1-2") + COMMIT);
    assert_eq!(client.asked(), ["publish #3 Ack 1-1 Ack 1-2 Ack 1-3"]);
    // Not with another verdict, nor in another transaction.
    for more in [
        within("1-1").replace("ACK", "NACK"),
        "BEGIN\ntransaction:u\n\n\0ACK\nid:1-1\ntransaction:u\n\n\0".to_owned(),
    ] {
        let mut client = begun();
        client.send(ACK.to_owned() + &more);
        assert_eq!(client.error().0, "not-yours", "{more}");
    }
}

#[test]
fn what_comes_behind_a_commit_that_settles_waits_for_it() {
    let mut client = begun();
    let next = "SEND\ndestination:/topic/b\n\nz\0";
    client.send(format!("{SEND}{ACK}{COMMIT}{next}"));
    assert_eq!(client.asked().len(), 1);
    client.published(2, 1);
    assert_eq!(client.asked(), ["publish #3 b=z"]);
    // Publishes alone keep their order in the log.
    client.send(format!("BEGIN\ntransaction:t\n\n\0{SEND}{COMMIT}{next}"));
    assert_eq!(client.asked(), ["publish #4 b=y", "publish #5 b=z"]);
}

#[test]
fn an_abort_leaves_everything_as_it_was() {
    let mut client = begun();
    client.send(format!("{SEND}{ACK}{ABORT}"));
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:a\n\n\0");
    assert!(client.asked().is_empty());
    client.send("ACK\nid:1-3\n\n\0");
    assert_eq!(client.asked(), ["Ack 1-1", "Ack 1-2", "Ack 1-3"]);
}

#[test]
fn what_a_transaction_has_a_verdict_on_is_left_out_by_others() {
    let mut client = begun();
    client.send(format!("{ACK}ACK\nid:1-3\n\n\0"));
    assert_eq!(client.asked(), ["Ack 1-3"]);
    client.send("ACK\nid:1-1\n\n\0");
    assert_eq!(client.error().0, "not-yours");
}

#[test]
fn frames_of_a_transaction_have_their_receipts_at_once() {
    let mut client = begun();
    client.send("SEND\ndestination:/topic/b\ntransaction:t\nreceipt:1\n\ny\0ACK\nid:1-1\ntransaction:t\nreceipt:2\n\n\0");
    assert_eq!(
        client.out(),
        "RECEIPT\nreceipt-id:1\n\n\0RECEIPT\nreceipt-id:2\n\n\0"
    );
}

#[test]
fn a_transaction_with_nothing_in_it_is_done_at_once() {
    let mut client = begun();
    client.send(COMMIT);
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:c\n\n\0");
    assert!(client.asked().is_empty());
    client.send("BEGIN\ntransaction:t\n\n\0");
    assert_eq!(client.ending, None, "its name is free again");
}

#[test]
fn a_refused_commit_says_that_nothing_was_committed() {
    let mut client = begun();
    client.send(format!("{ACK}{COMMIT}"));
    client.refused(2, RefusalCode::NotYours, "message 1 is another's");
    let (code, receipt, detail) = client.error();
    assert_eq!((&*code, receipt.as_deref()), ("not-yours", Some("c")));
    assert_eq!(
        detail,
        "message 1 is another's; nothing of the transaction was committed"
    );
}

#[test]
fn transactions_are_named_begun_once_and_known() {
    for frames in [
        "BEGIN\n\n\0",
        "BEGIN\ntransaction:\n\n\0",
        "COMMIT\n\n\0",
        "ABORT\n\n\0",
        "BEGIN\ntransaction:t\n\n\0",
        "COMMIT\ntransaction:u\n\n\0",
        "ABORT\ntransaction:u\n\n\0",
        "ABORT\ntransaction:t\n\n\0ABORT\ntransaction:t\n\n\0",
        "SEND\ndestination:/topic/a\ntransaction:u\n\n\0",
        "ACK\nid:1-1\ntransaction:u\n\n\0",
        "NACK\nid:1-1\ntransaction:u\n\n\0",
    ] {
        let mut client = begun();
        client.send(frames);
        let code = client.error().0;
        assert!(matches!(&*code, "bad-frame" | "bad-parameter"), "{frames}");
    }
}

#[test]
fn transactions_are_bounded() {
    let large = format!(
        "SEND\ndestination:/topic/b\ntransaction:t\n\n{}\0",
        "x".repeat(800)
    );
    let ack_all = "ACK\nid:1-3\ntransaction:t\n\n\0";
    let begin = |name| format!("BEGIN\ntransaction:{name}\n\n\0");
    for (frames, code) in [
        (SEND.repeat(5), "batch-too-large"),
        (SEND.repeat(2) + ack_all, "batch-too-large"),
        (large.repeat(2), "batch-too-large"),
        (begin("u") + &begin("v") + &begin("w"), "rate-limited"),
    ] {
        let mut client = begun();
        client.send(&frames);
        assert_eq!(client.error().0, code, "{frames}");
    }
    let mut client = begun();
    client.send(SEND.to_owned() + ack_all + COMMIT);
    assert_eq!(client.asked(), ["publish #2 b=y Ack 1-1 Ack 1-2 Ack 1-3"]);
}

#[test]
fn a_connection_that_ends_has_committed_nothing() {
    let mut client = begun();
    client.send(format!("{SEND}{ACK}DISCONNECT\nreceipt:d\n\n\0"));
    assert!(client.asked().is_empty());
    assert_eq!(client.out(), "RECEIPT\nreceipt-id:d\n\n\0");
}
