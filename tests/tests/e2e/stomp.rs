//! STOMP over its own port and over WebSocket: with real clients, and with one that sends what it should not.

mod clients;
mod fault;
mod frames;
mod front;
mod properties;
mod queues;
mod shared;
mod topics;
mod transactions;

use tidings_e2e::Server;
use tidings_e2e::stomp::{Client, Frame};

/// Every version that is spoken.
const VERSIONS: [&str; 3] = ["1.0", "1.1", "1.2"];

#[track_caller]
fn open(server: &Server) -> Client {
    Client::open(server.stomp(), "1.2")
}

/// A SEND without a receipt.
fn sending(destination: &str, body: &str) -> Frame {
    Frame::new("SEND", &[("destination", destination)], body)
}
