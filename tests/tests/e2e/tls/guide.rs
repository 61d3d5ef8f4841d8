//! The commands of `docs/security.md`, as they stand there.

use std::process::Command;

use tidings_e2e::server::binary;
use tidings_e2e::tools::{Background, folder, stdout};
use tidings_e2e::{PATIENCE, eventually};

/// The shell commands of the part of the guide under this heading, block by block.
fn blocks(heading: &str) -> Vec<String> {
    let guide = folder().join("../docs/security.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, part) = guide.split_once(heading).expect("the guide has this part");
    let part = part.split("\n### ").next().unwrap();
    let blocks = part.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_three_steps_of_the_guide_work() {
    let [certificate, serve, clients] = &blocks("### In three steps\n")[..] else {
        panic!("there are not three steps");
    };
    let scratch = tempfile::tempdir().unwrap();
    // Other processes may have the usual ports; nothing else is changed.
    let ports = tidings_e2e::server::free_ports::<3>();
    let own = |text: &str| {
        let usual = ["8443", "8883", "61614"];
        let ports = usual.iter().zip(ports);
        ports.fold(text.to_owned(), |text, (usual, port)| {
            text.replace(usual, &port.to_string())
        })
    };
    let shell = |text: &str| {
        let mut command = Command::new("bash");
        command.args(["-euc", text]).current_dir(scratch.path());
        command
    };
    stdout(&mut shell(certificate));
    let tidings = binary().display().to_string();
    let serve = own(serve).replace("tidings serve", &format!("exec {tidings} serve"));
    let serve = serve.trim_end().to_owned() + " --http off --mqtt off --stomp off";
    let _server = Background::start(&mut shell(&serve));
    let ready = own("curl -s --cacert cert.pem https://localhost:8443/readyz");
    eventually("the server is ready", PATIENCE, || {
        shell(&ready).status().unwrap().success()
    });
    let told = stdout(&mut shell(&own(clients)));
    assert!(
        told.contains("\"hello\"") && told.contains("\"from mqtt\""),
        "{told}"
    );
}
