//! Every measurement runs with tiny numbers, so that none breaks unnoticed: a load that does not get through to every
//! subscriber is an error.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The server that was built with the tests: `target/debug/compare` -> `target/debug/tidings`.
fn tidings() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDINGS_BIN") {
        return path.into();
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_compare")).with_file_name("tidings");
    assert!(
        binary.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first",
        binary.display()
    );
    binary
}

fn compare(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(arguments)
        .arg("--tidings")
        .arg(tidings())
        .output()
        .expect("the binary was built with this test");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn runs(subcommand: &str, rows: &[&str]) {
    let (succeeded, text) = compare(&[subcommand, "--quick"]);
    assert!(succeeded, "{text}");
    for row in rows {
        assert!(text.contains(row), "no {row:?} in:\n{text}");
    }
}

#[test]
fn fan_out_reaches_every_subscriber_over_every_protocol() {
    runs(
        "fanout",
        &[
            "| tidings SSE HTTP/2 ",
            "| tidings MQTT ",
            "| tidings MQTT QoS 1 ",
        ],
    );
}

#[test]
fn idle_connections_are_kept() {
    runs(
        "idle",
        &[
            "| tidings long-poll ",
            "| tidings MQTT ",
            "| tidings SSE, TLS ",
            "| tidings MQTT, TLS ",
        ],
    );
}

#[test]
fn publishes_are_acknowledged() {
    runs(
        "publish",
        &["| tidings, `tidings.v1` ", "| tidings, MQTT QoS 1 "],
    );
}

#[test]
fn returning_clients_get_what_they_missed() {
    runs("storm", &["| until all are live "]);
}

#[test]
fn every_topic_reaches_its_subscriber() {
    runs("topics", &["| tidings"]);
}

#[test]
fn compressed_messages_arrive() {
    runs("compress", &["| tidings"]);
}

#[test]
fn an_unknown_subcommand_is_refused() {
    let (succeeded, text) = compare(&["fanuot"]);
    assert!(!succeeded);
    assert!(text.contains("fanuot"), "{text}");
}
