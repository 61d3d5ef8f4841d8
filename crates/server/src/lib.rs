//! The server.

pub mod cli;
pub mod config;
pub mod process;
pub mod secrets;
pub mod serve;
