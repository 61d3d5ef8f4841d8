//! What README shows a newcomer.

use std::io::{BufRead, BufReader, Write};

use serde_json::Value;
use tidings_e2e::server::tidings;
use tidings_e2e::tools::{Background, curl, stdout};
use tidings_e2e::{Options, Server};

fn lines_of(program: &mut Background) -> impl Iterator<Item = String> + use<> {
    let stdout = program.child().stdout.take().expect("the output is piped");
    BufReader::new(stdout).lines().map_while(Result::ok)
}

#[test]
fn what_curl_publishes_reaches_curl_as_an_event() {
    let server = Server::start(Options::default());
    let receipt = stdout(&mut curl(&["-d", "hello", &server.url("/v1/topics/demo")]));
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(receipt["topic"], "demo");

    let url = server.url("/v1/topics/demo?after=earliest");
    let mut subscriber =
        Background::start(&mut curl(&["-N", &url, "-H", "Accept: text/event-stream"]));
    let mut lines = lines_of(&mut subscriber);
    let id = format!("id: {}", receipt["id"].as_str().unwrap());
    assert!(
        lines.any(|line| line == id),
        "the id is the cursor of the receipt"
    );
    assert_eq!(lines.next().as_deref(), Some("data: hello"));

    stdout(&mut curl(&[
        "-d",
        "and now live",
        &server.url("/v1/topics/demo"),
    ]));
    assert!(lines.any(|line| line == "data: and now live"));
}

#[test]
fn pub_publishes_each_line_in_order_and_sub_prints_them() {
    let server = Server::start(Options::default());
    let url = server.url("");
    let mut publisher = Background::start(&mut tidings(&["pub", "demo", "--lines", "--url", &url]));
    let mut input = publisher.stdin();
    let texts: Vec<String> = (0..500).map(|n| format!("line {n} of a log")).collect();
    for text in &texts {
        writeln!(input, "{text}").unwrap();
    }

    let arguments = [
        "sub", "demo", "--after", "earliest", "--count", "500", "--url", &url,
    ];
    let printed = stdout(&mut tidings(&arguments));
    assert_eq!(printed.lines().collect::<Vec<_>>(), texts);

    drop(input);
    assert!(
        publisher.child().wait().unwrap().success(),
        "it ends with its input"
    );
}

#[test]
fn pub_without_lines_publishes_one_message() {
    let server = Server::start(Options::default());
    let url = server.url("");
    stdout(&mut tidings(&["pub", "demo", "one message", "--url", &url]));
    let json = stdout(&mut tidings(&[
        "sub", "demo", "--last", "1", "--count", "1", "--json", "--url", &url,
    ]));
    let message: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(message["data"], "one message");
    assert_eq!(message["topic"], "demo");
}

#[test]
fn sub_as_a_member_of_a_group_prints_what_no_other_member_printed() {
    let server = Server::start(Options::default());
    let url = server.url("");
    let texts: Vec<String> = (0..100).map(|n| format!("job {n}")).collect();
    server.publish_batch("jobs/a", &texts);
    let mut printed = String::new();
    for count in ["1", "30", "69"] {
        printed += &stdout(&mut tidings(&[
            "sub", "jobs/#", "--group", "workers", "--count", count, "--url", &url,
        ]));
    }
    let mut printed: Vec<&str> = printed.lines().collect();
    printed.sort_by_key(|line| texts.iter().position(|text| text == line));
    assert_eq!(printed, texts);
}

#[test]
fn sub_over_sse_prints_the_same() {
    let server = Server::start(Options::default());
    let url = server.url("");
    server.publish("a/b", "over sse");
    let printed = stdout(&mut tidings(&[
        "sub",
        "a/#",
        "--after",
        "earliest",
        "--count",
        "1",
        "--protocol",
        "sse",
        "--url",
        &url,
    ]));
    assert_eq!(printed, "over sse\n");
}

#[test]
fn pub_and_sub_live_through_a_restart_without_loss() {
    let mut server = Server::start(Options::default());
    let url = server.url("");
    let mut subscriber = Background::start(&mut tidings(&[
        "sub", "demo", "--after", "earliest", "--count", "300", "--url", &url,
    ]));
    let mut publisher = Background::start(&mut tidings(&["pub", "demo", "--lines", "--url", &url]));
    let mut input = publisher.stdin();
    let mut lines = lines_of(&mut subscriber);
    let mut received = Vec::new();
    for part in 0..3 {
        for n in 0..100 {
            writeln!(input, "{}", part * 100 + n).unwrap();
        }
        // Some of the part has arrived, and some is still under way.
        received.push(lines.next().unwrap());
        match part {
            0 => server.kill(),
            1 => {
                server.terminate();
                server.wait();
            }
            _ => break,
        }
        server = server.restart();
    }
    received.extend(lines);
    let expect: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(received, expect);
}
