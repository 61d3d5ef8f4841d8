//! STOMP frames from and to bytes, for 1.0, 1.1 and 1.2.
//!
//! Pure: no session, no hub, no clock. What a peer sends comes out of [`Decoder`] as [`Item`]s, whose frames keep
//! every rule that one frame alone can break; a broken rule is a [`Violation`] that knows its section of the
//! specification and what the server has to answer. [`Encoder`] writes frames; a message for many subscribers is
//! written once, behind a short head for each of them.
//!
//! ```text
//! SEND LF                              command        | a CR may stand before
//! destination:/topic/a LF              header         | every LF up to the body
//! LF                                   end of headers
//! any bytes NUL                        body
//! LF LF                                heart-beats
//! ```
//!
//! Where the specifications leave room, or clients do not follow them, these hold:
//!
//! - CR LF ends a line in every version, as with most servers, though only 1.2 says so. Any other CR is refused
//!   from 1.2 on and in the frame that connects; before, it is a byte like others, since nothing escapes it.
//! - A colon in a value need not be escaped: the first one ends the name.
//! - CONNECT and CONNECTED have no escapes (Value Encoding). STOMP has those of 1.2: only these two are excepted,
//!   it is never sent to a server of 1.0, and clients that send it do escape.
//! - Values of 1.0 lose the spaces around them, as its examples need; those of 1.1 and 1.2 never do. A CONNECT is
//!   of 1.0 if its `accept-version` has nothing newer.
//! - 1.0 ignores the body of a frame that should have none; later versions refuse it.
//! - `content-length` may have spaces around it in every version, and may be repeated if it says the same.
//! - NUL cannot stand in a header, though the grammar has room for it: most clients would end the frame there.
//!
//! Rules that need more than one frame, or that ask for a header (`destination`, `id`, `host`), belong to the
//! conversation.

mod command;
mod decoder;
mod encoder;
mod escape;
mod frame;
mod head;
mod rule;
mod version;

pub use command::{Command, Sender};
pub use decoder::{Decoder, Limits};
pub use encoder::{Encoder, HEART_BEAT, OutboundMessage};
pub use frame::{Frame, Header, Headers, Item};
pub use rule::{Answer, Rule, Violation};
pub use version::Version;
#[cfg(test)]
pub(in crate::stomp) mod testing;
