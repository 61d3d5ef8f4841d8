//! End to end: the real binary, over its wires.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, also in a function that tests share, it fails the test"
)]

mod abuse;
mod auth;
mod autobahn;
mod bad_input;
mod browser;
mod command_line;
mod crash;
mod floods;
mod http_api;
mod limits;
mod matrix;
mod mqtt;
mod packaging;
mod proxies;
mod quickstart;
mod remote;
mod retained;
mod shutdown;
mod slow_reader;
mod sse;
mod stomp;
mod storage_full;
mod tls;
mod websocket;
