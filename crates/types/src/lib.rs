//! The words of Tidings as types: what a topic, a message, a cursor, a refusal and a limit are.
//!
//! Everything here is a value. Nothing does I/O, reads a clock or takes a decision that belongs to the
//! hub. Every other crate imports this one, and this one imports none of them.

pub mod codec;
pub mod cursor;
pub mod limits;
pub mod message;
pub mod principal;
pub mod protocol;
pub mod refusal;
pub mod retention;
pub mod size;
pub mod time;
pub mod topic;

pub use cursor::{Cursor, Epoch, Offset};
pub use limits::Limits;
pub use message::{
    Batch, Draft, FormatId, FrameFormat, Message, Origin, PayloadFormat, Properties, Qos, Receipt,
};
pub use principal::{Grants, Principal, Voucher};
pub use protocol::Protocol;
pub use refusal::{Refusal, RefusalCode};
pub use retention::{Durability, Retention, RetentionRules, Storage};
pub use size::ByteSize;
pub use time::Timestamp;
pub use topic::{Topic, TopicError, TopicFilter};
