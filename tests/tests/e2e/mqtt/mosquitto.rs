//! `mosquitto_pub` and `mosquitto_sub`, in 3.1, 3.1.1 and 5.

use std::io::{BufRead, BufReader, Write};
use std::process::Command;

use serde_json::json;
use tidings_e2e::tools::{Background, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

use super::{numbered, texts};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

fn mosquitto(program: &str, server: &Server, arguments: &[&str]) -> Command {
    let address = server.mqtt();
    let mut command = Command::new(program);
    command
        .args(["-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .args(arguments);
    command
}

#[track_caller]
fn publish(server: &Server, arguments: &[&str]) {
    stdout(&mut mosquitto("mosquitto_pub", server, arguments));
}

/// Runs until it has received what it was told to; a minute is too long.
#[track_caller]
fn subscribe(server: &Server, arguments: &[&str]) -> Vec<String> {
    let command = &mut mosquitto("mosquitto_sub", server, arguments);
    let text = stdout(command.args(["-W", "60"]));
    text.lines().map(str::to_owned).collect()
}

/// A `mosquitto_sub` in the background whose subscription was acknowledged.
struct Follower {
    /// Killed when this is dropped.
    program: Background,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Follower {
    /// The next message as it is printed; nothing when the program has ended.
    fn line(&mut self) -> Option<String> {
        self.lines.next()
    }

    /// Kills the program; what it has printed can still be read.
    fn kill(&mut self) {
        self.program
            .child()
            .kill()
            .expect("the program can be killed");
    }

    /// What is printed until the program ends.
    fn rest(self) -> Vec<String> {
        self.lines.collect()
    }
}

/// Starts one, and waits until it says that it is subscribed.
#[track_caller]
fn follow(server: &Server, arguments: &[&str]) -> Follower {
    // Into a pipe it would write when its buffer is full.
    let mut command = Command::new("stdbuf");
    let subscriber = mosquitto("mosquitto_sub", server, arguments);
    command
        .args(["-o", "L"])
        .arg(subscriber.get_program())
        .args(subscriber.get_args())
        .arg("-d");
    let mut program = Background::start(&mut command);
    let stdout = program.child().stdout.take().expect("the output is piped");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let subscribed = lines.find(|line| line.starts_with("Subscribed ("));
    assert!(subscribed.is_some(), "mosquitto_sub is not subscribed");
    Follower {
        program,
        // With `-d` it also tells of every packet.
        lines: Box::new(lines.filter(|line| !line.starts_with("Client "))),
    }
}

#[test]
fn every_version_publishes_and_receives_at_every_qos() {
    let server = Server::start(Options::default());
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = format!("{version}/{qos}");
            let follow_arguments = ["-V", version, "-t", "#", "-q", qos, "-v", "-C", "3"];
            let follower = follow(&server, &follow_arguments);
            let on = ["-V", version, "-t", &topic, "-q", qos];
            for (count, text) in [(1, "one"), (2, "two")] {
                publish(&server, &[&on[..], &["-m", text]].concat());
                // At QoS 0 the program ends before the server has taken what it sent.
                eventually("the message is stored", PATIENCE, || {
                    texts(&server, &topic).len() == count
                });
            }
            server.publish(&topic, "over http");
            let received = follower.rest();
            let expect = ["one", "two", "over http"].map(|text| format!("{topic} {text}"));
            assert_eq!(received, expect);
            assert_eq!(texts(&server, &topic), ["one", "two", "over http"]);
        }
    }
}

#[test]
fn lines_of_a_file_are_published_in_order() {
    let server = Server::start(Options::default());
    let expect = numbered("line", 500);
    let arguments = ["-V", "mqttv5", "-t", "lines", "-q", "2", "-l"];
    let mut publisher = Background::start(&mut mosquitto("mosquitto_pub", &server, &arguments));
    let mut input = publisher.stdin();
    for line in &expect {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    assert!(publisher.child().wait().unwrap().success());
    assert_eq!(texts(&server, "lines"), expect);
}

#[test]
fn retained_messages_are_found_by_a_wildcard() {
    let server = Server::start(Options::default());
    for (topic, text) in [
        ("r/a", "old"),
        ("r/b", "b"),
        ("r/a/deep", "deep"),
        ("r/a", "a"),
    ] {
        publish(&server, &["-t", topic, "-m", text, "-r", "-q", "1"]);
    }
    super::post(&server, "r/c", "from http", &[("Tidings-Retain", "true")]);
    server.publish("r/d", "not retained");
    for version in VERSIONS {
        for (filter, expect) in [
            ("r/+", &["r/a a", "r/b b", "r/c from http"][..]),
            ("r/a/#", &["r/a a", "r/a/deep deep"]),
            ("#", &["r/a a", "r/a/deep deep", "r/b b", "r/c from http"]),
        ] {
            let count = expect.len().to_string();
            let arguments = ["-V", version, "-t", filter, "-v", "-C", &count, "-q", "1"];
            let mut got = subscribe(&server, &arguments);
            got.sort();
            assert_eq!(got, expect, "{version} {filter}");
        }
    }
}

#[test]
fn properties_cross_to_http_and_back() {
    let server = Server::start(Options::default());
    let property = |name, value| ["-D", "publish", name, value];
    publish(
        &server,
        &[
            &["-V", "mqttv5", "-t", "props", "-m", "{}", "-q", "1"][..],
            &property("content-type", "application/json"),
            &["-D", "publish", "user-property", "room", "4"],
        ]
        .concat(),
    );
    let message = server.history("props").remove(0);
    assert_eq!(message["content_type"], "application/json", "{message}");
    assert_eq!(message["headers"], json!({"room": "4"}), "{message}");
}

#[test]
fn a_persistent_client_gets_what_it_missed() {
    let server = Server::start(Options::default());
    for version in VERSIONS {
        let me = [
            "-V", version, "-c", "-i", version, "-t", "away/#", "-q", "2",
        ];
        subscribe(&server, &[&me[..], &["-E"]].concat());
        let expect = numbered(version, 30);
        server.publish_batch("away/a", &expect);
        let got = subscribe(&server, &[&me[..], &["-C", "30"]].concat());
        assert_eq!(got, expect);
    }
}

#[test]
fn the_will_of_a_killed_client_is_published() {
    let server = Server::start(Options::default());
    let watcher = follow(&server, &["-t", "wills/+", "-v", "-C", "2", "-q", "1"]);
    for version in ["mqttv311", "mqttv5"] {
        let topic = format!("wills/{version}");
        let arguments = [
            "-V",
            version,
            "-t",
            "x",
            "--will-topic",
            &topic,
            "--will-payload",
            "gone",
            "--will-qos",
            "1",
        ];
        // Killed when it is dropped.
        drop(follow(&server, &arguments));
    }
    let received = watcher.rest();
    assert_eq!(received, ["wills/mqttv311 gone", "wills/mqttv5 gone"]);
}

#[test]
fn members_of_a_shared_subscription_share_the_messages() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let member = ["-V", "mqttv5", "-t", "$share/g/jobs/#", "-q", "1"];
    let mut first = follow(&server, &member);
    let mut second = follow(&server, &member);
    let expect = numbered("job", 40);
    server.publish_batch("jobs/a", &expect);
    // Both print as they receive; one that leaves lets the other go on.
    let mut got: Vec<String> = (0..5).map_while(|_| first.line()).collect();
    got.extend((0..5).map_while(|_| second.line()));
    assert_eq!(got.len(), 10, "each member gets some: {got:?}");
    first.kill();
    got.extend(first.rest());
    server.publish("jobs/a", "end");
    while let Some(text) = second.line() {
        if text == "end" {
            break;
        }
        got.push(text);
    }
    got.sort();
    got.dedup();
    let mut expect = expect;
    expect.sort();
    assert_eq!(got, expect);
}

#[test]
fn a_subscription_starts_behind_a_cursor_of_http() {
    let server = Server::start(Options::default());
    server.publish("after", "seen");
    let cursor = server.publish("after", "seen too");
    server.publish("after", "missed");
    let got = subscribe(
        &server,
        &[
            &["-V", "mqttv5", "-t", "after", "-q", "1", "-C", "1"][..],
            &["-D", "subscribe", "user-property", "tidings-after", &cursor],
        ]
        .concat(),
    );
    assert_eq!(got, ["missed"]);
}
