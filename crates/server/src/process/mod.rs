//! The process that the server runs in: its open-file limit, its signals, its log lines, its supervisor.

pub mod logging;
pub mod nofile;
pub mod sd;
pub mod sigxfsz;

pub use logging::{LevelSwitch, init_logging};
pub use nofile::{Nofile, raise_nofile};
pub use sigxfsz::ignore_sigxfsz;
