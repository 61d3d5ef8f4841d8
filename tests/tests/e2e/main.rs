//! End to end: the real binary, over its wires.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, also in a function that tests share, it fails the test"
)]

mod auth;
mod autobahn;
mod bad_input;
mod browser;
mod command_line;
mod crash;
mod floods;
mod http_api;
mod matrix;
mod mqtt;
mod quickstart;
mod retained;
mod shutdown;
mod slow_reader;
mod sse;
mod stomp;
mod storage_full;
mod tls;
mod websocket;
