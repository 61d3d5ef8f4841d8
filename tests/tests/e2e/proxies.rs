//! Behind balancers and proxies: whose connections and requests are, and who is believed when it says so.

mod forwarded;
mod protocol;

use tidings_e2e::{PATIENCE, Server, eventually};

/// Whether a conversation was opened for a client at this address.
fn knows(server: &Server, address: &str) -> bool {
    let shown = format!("\"{address}\"");
    let is_it = |line: &String| line.contains("\"connected\"") && line.contains(&shown);
    server.log().iter().any(is_it)
}

#[track_caller]
fn await_client(server: &Server, address: &str) {
    eventually(address, PATIENCE, || knows(server, address));
}
