//! What the end-to-end tests share: a real server process, and small blocking clients that show every byte.
//!
//! Nothing here is used by the server, and nothing here imports it: the tests know Tidings by its binary and
//! its wires alone. The clients are blocking and straightforward on purpose; real clients (curl, a browser,
//! Node's `ws`, the Autobahn cases) stand beside them.

pub mod acme;
pub mod backend;
pub mod http;
pub mod http2;
pub mod issuer;
pub mod metrics;
pub mod mqtt;
pub mod peer;
pub mod server;
pub mod sse;
pub mod stomp;
pub mod tls;
pub mod tools;
pub mod websocket;

use std::time::{Duration, Instant};

pub use server::{Options, Server};

/// The longest that anything in a test may take, unless it says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds, asking again and again; fails the test when it does not within the time.
///
/// # Panics
///
/// When the time is over.
#[track_caller]
pub fn eventually(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a closure on a thread of its own.
///
/// The one owner of threads in the tests.
pub fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(work)
}
