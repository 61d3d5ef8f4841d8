//! The commands of `docs/security.md`, as they stand there.

use std::path::Path;
use std::process::Command;

use tidings_e2e::server::binary;
use tidings_e2e::tools::{folder, stdout};
use tidings_e2e::{Options, Server};

/// The address that the guide's commands are written for.
const USUAL: &str = "http://127.0.0.1:8080";
/// What a reader sees of the commands, without what they print besides.
const SHELL: &str = r#"set -e
tidings() { case "$1" in sub) command "$BIN" "$@" --count 1 --url "$URL";; *) command "$BIN" "$@";; esac; }
curl() { command curl --silent --output /dev/null --write-out '%{http_code}\n' "$@"; }
"#;

#[track_caller]
fn shell(script: &str, within: &Path, url: &str) -> String {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{SHELL}{script}")])
        .current_dir(within)
        .env("BIN", binary())
        .env("URL", url);
    stdout(&mut command)
}

#[test]
fn the_guide_leads_to_tokens_and_permissions() {
    let guide = folder().join("../docs/security.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let blocks: Vec<&str> = guide
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let (files, serve) = blocks[0].split_once("tidings serve").unwrap();
    let place = tempfile::tempdir().unwrap();
    shell(files, place.path(), "");
    let mut options = Options::default();
    for setting in serve.split("--set").skip(1) {
        let (key, file) = setting.trim().split_once('=').unwrap();
        options = options.set(key, place.path().join(file).display());
    }
    let server = Server::start(options);
    let url = server.url("");
    let seen = shell(&blocks[1].replace(USUAL, &url), place.path(), &url);
    assert_eq!(seen, "201\n201\n403\nhi\n");
}
