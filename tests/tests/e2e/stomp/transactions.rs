//! Transactions: all of it, or nothing.

use tidings_e2e::stomp::{Client, Frame};
use tidings_e2e::{Options, Server};

use super::{VERSIONS, open, sending};

fn control(command: &str, transaction: &str) -> Frame {
    Frame::new(command, &[("transaction", transaction)], "")
}

/// A SEND in a transaction.
fn step(transaction: &str, body: &str) -> Frame {
    sending("/topic/t", body).header("transaction", transaction)
}

#[test]
fn what_is_committed_comes_as_a_whole_and_what_is_aborted_never() {
    let mut server = Server::start(Options::default());
    let mut watcher = open(&server);
    watcher.subscribe("1", "/topic/t", &[]);
    for version in VERSIONS {
        let mut client = Client::open(server.stomp(), version);
        for name in ["yes", "no", "open"] {
            client.ask(control("BEGIN", name));
        }
        for n in 0..5 {
            for name in ["yes", "no", "open"] {
                client.ask(step(name, &format!("{name} {n}")));
            }
        }
        client.publish("/topic/t", "outside");
        client.ask(control("ABORT", "no"));
        client.ask(control("COMMIT", "yes"));
        // What is open when the connection ends is not committed.
        client.leave();
        let expect = ["outside", "yes 0", "yes 1", "yes 2", "yes 3", "yes 4"];
        assert_eq!(watcher.texts(6), expect, "{version}");
    }
    let before = server.history("t").len();
    server.kill();
    server = server.restart();
    assert_eq!(server.history("t").len(), before);
    assert_eq!(before, 18);
}

#[test]
fn acknowledgements_count_with_the_messages_of_their_transaction() {
    let mut server = Server::start(Options::default().argument("--shards").argument("2"));
    let individual = [("ack", "client-individual")];
    let mut client = open(&server);
    client.subscribe("1", "/queue/in", &individual);
    for n in 0..3 {
        client.publish("/queue/in", n.to_string());
    }
    let messages: Vec<Frame> = (0..3).map(|_| client.message()).collect();
    for (name, message, end) in [("a", &messages[0], "COMMIT"), ("b", &messages[1], "ABORT")] {
        client.ask(control("BEGIN", name));
        let ack = client.verdict("ACK", message);
        client.ask(ack.header("transaction", name));
        client.ask(step(name, &format!("done {}", message.text())));
        client.ask(control(end, name));
    }
    server.kill();
    server = server.restart();
    let done = server.history("t");
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(done[0]["data"], "done 0");
    let mut client = open(&server);
    client.subscribe("1", "/queue/in", &individual);
    let again = [client.message(), client.message()];
    let mut texts = again.each_ref().map(Frame::text);
    texts.sort();
    assert_eq!(texts, ["1", "2"]);
    assert!(again.iter().all(|it| it.get("redelivered") == Some("true")));
}

#[test]
fn after_an_abort_the_message_is_still_the_clients() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    client.subscribe("1", "/queue/in", &[("ack", "client-individual")]);
    client.publish("/queue/in", "job");
    let message = client.message();
    client.ask(control("BEGIN", "t"));
    let ack = client.verdict("ACK", &message);
    client.ask(ack.header("transaction", "t"));
    client.ask(control("ABORT", "t"));
    client.ack(&message);
    client.publish("/queue/in", "next");
    assert_eq!(client.message().text(), "next");
}

#[test]
fn a_commit_with_a_message_that_is_not_the_clients_any_more_does_nothing() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    let headers = [("ack", "client-individual"), ("x-ack-timeout", "200")];
    client.subscribe("1", "/queue/in", &headers);
    client.publish("/queue/in", "job");
    let message = client.message();
    client.ask(control("BEGIN", "t"));
    let ack = client.verdict("ACK", &message);
    client.ask(ack.header("transaction", "t"));
    client.ask(step("t", "done"));
    let mut other = open(&server);
    other.subscribe("1", "/queue/in", &[("ack", "client-individual")]);
    let taken = other.message();
    client
        .send(&control("COMMIT", "t").header("receipt", "c"))
        .unwrap();
    let error = client.error();
    assert_eq!(error.expect("tidings-code"), "not-yours");
    assert_eq!(error.expect("receipt-id"), "c");
    assert!(error.text().contains("nothing"), "{error:?}");
    assert_eq!(server.history("t").len(), 0);
    other.ack(&taken);
}

#[test]
fn transactions_are_bounded() {
    let options = Options::default()
        .set("limits.transaction_steps_max", 3)
        .set("limits.message_bytes_max", 1_000)
        .set("limits.batch_bytes_max", 3_000)
        .set("limits.publishes_in_flight_max", 3);
    let server = Server::start(options);
    let mut client = open(&server);
    client.ask(control("BEGIN", "t"));
    for n in 0..3 {
        client.ask(step("t", &n.to_string()));
    }
    client.send(&step("t", "one too many")).unwrap();
    assert_eq!(client.error().expect("tidings-code"), "batch-too-large");

    // The bytes of all that are open count together.
    let mut client = open(&server);
    for name in ["a", "b"] {
        client.ask(control("BEGIN", name));
        client.ask(step(name, &"x".repeat(900)));
    }
    for name in ["a", "b"] {
        client.send(&step(name, &"x".repeat(900))).unwrap();
    }
    assert_eq!(client.error().expect("tidings-code"), "batch-too-large");

    let mut client = open(&server);
    for n in 0..3 {
        client.ask(control("BEGIN", &n.to_string()));
    }
    client.send(&control("BEGIN", "one too many")).unwrap();
    assert_eq!(client.error().expect("tidings-code"), "rate-limited");
    assert_eq!(server.history("t").len(), 0);
}
