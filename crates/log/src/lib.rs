//! The embedded durable log of Tidings: one order of offsets over all topics, in segment files.
//!
//! Layers, from the disk up: [`storage`] (files, real, in memory or simulated), `record` (the bytes of a
//! message), `segment` (a file of batches, its index), `appender` (the end of a chain of segments), `writer`
//! (submissions in, one commit out), `reader` (pages), `keeper` (retention, indexes, compaction), `recovery`
//! (opening), `states` (what is kept by name beside the messages). [`LogCore`] is all of it without threads; [`EmbeddedEngine`] puts threads around it.
//!
//! Two chains share the one order: topics with `storage = durable` are in files of the data directory, topics
//! with `storage = memory` in files in memory; `storage = none` takes an offset and is written nowhere.

mod appender;
mod config;
mod core;
mod engine;
mod error;
mod keeper;
mod keys;
mod meta;
mod reader;
mod record;
mod recovery;
mod segment;
mod state;
mod states;
pub mod storage;
mod table;
mod verify;
mod writer;

pub use config::{LogConfig, Place};
pub use core::LogCore;
pub use engine::EmbeddedEngine;
pub use error::OpenError;
pub use verify::{Damage, Report, verify};
