//! TLS on every listener. The client libraries are with their protocols: tests whose names end in `over_tls`.

mod abuse;
mod acme;
mod certificates;
mod guide;
mod identity;
mod tidings;
mod wires;

use std::process::Command;

use tidings_e2e::Server;
use tidings_e2e::tls::Authority;
use tidings_e2e::tools;

/// curl that trusts the authority and nobody else.
fn curl(authority: &Authority, arguments: &[&str]) -> Command {
    let mut command = tools::curl(&["--cacert", &authority.ca_argument()]);
    command.args(arguments);
    command
}

/// How many handshakes failed for this reason.
fn failures(server: &Server, reason: &str) -> u64 {
    let label = format!("\"{reason}\"");
    server.metric("tidings_tls_handshake_failures_total", &label) as u64
}
