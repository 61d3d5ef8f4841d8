//! nats-server with a stream on disk that is synced at every write.

use std::fs;
use std::process::Command;

use crate::Options;
use crate::peers::{Peer, loopback};
use crate::process::{Process, folder, free_port};
use crate::report::Failure;

/// Started with `sync_interval: always`; `None` if it is not installed.
pub fn start(options: &Options) -> Result<Option<Peer>, Failure> {
    // The Python package brings the binary, beside the interpreter.
    let binary = options.python.with_file_name("nats-server");
    let Ok(output) = Command::new(&binary).arg("--version").output() else {
        return Ok(None);
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let (folder, port) = (folder()?, free_port()?);
    let config = format!(
        "listen: 127.0.0.1:{port}\nlogfile: \"/dev/null\"\n\
         jetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
        folder.path().join("store").display()
    );
    let path = folder.path().join("nats.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(&binary);
    // The Go runtime is told of the one core that it has.
    command.arg("-c").arg(&path).env("GOMAXPROCS", "1");
    Ok(Some(Peer {
        certificate: None,
        version,
        process: Process::start(&command, loopback(port), folder)?,
        port,
    }))
}
