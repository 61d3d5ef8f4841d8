//! A small WebSocket client (RFC 6455) without extensions: the codec, which does no I/O, and a connection.

mod codec;
mod connection;

pub use codec::{CloseFrame, Decoder, FrameError, Opcode, Received, encode_frame};
#[cfg(test)]
pub(crate) use connection::accept;
pub use connection::{WebSocket, WebSocketError};
