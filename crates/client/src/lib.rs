//! A client of Tidings that reconnects and resumes by itself.

mod bench;
pub mod cli;
