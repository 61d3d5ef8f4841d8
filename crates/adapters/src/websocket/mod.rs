//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692): the handshake, the frames, and two conversations
//! over them.
//!
//! - [`RawConversation`]: one topic, payloads only.
//! - [`TidingsConversation`]: the JSON protocol `tidings.v1`.
//!
//! Everything is pure. A connection keeps no deflate state and, while idle, no buffer; what it costs is written
//! down in a test. `WIRE.md` beside this file says which rule of the specifications is kept where.

mod codec;
mod deflate;
mod extension;
mod format;
mod frame;
mod handshake;
mod link;
mod mask;
mod origin;
mod raw;
#[cfg(test)]
pub(crate) mod testing;
mod tidings;
mod utf8;

pub use codec::{Decoder, Incoming, Rules, Violation};
pub use extension::{Deflate, ExtensionError};
pub use frame::{CONTROL_BYTES_MAX, Opcode, REASON_BYTES_MAX, close, deflated_frame, frame, ping};
pub use handshake::{Accepted, HandshakeOptions, accept};
pub(crate) use link::{Link, Received};
pub use origin::{OriginError, Origins};
pub use raw::{RAW_SUBPROTOCOL, RawConversation, RawOptions};
pub use tidings::{SUBPROTOCOL, TidingsConversation};
