//! The protocols of Tidings, one folder each, and what they share.
//!
//! Everything here is pure: bytes and events in, commands and frames out. Nothing sees a socket, a clock, a
//! permission, the engine, another session or another protocol.

pub mod envelope;
pub mod http;
pub mod mqtt;
pub mod poll;
pub mod query;
pub mod sse;
pub mod stomp;
mod transport;
pub mod websocket;
