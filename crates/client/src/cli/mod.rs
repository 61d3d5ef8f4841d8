//! The command line's `pub`, `sub`, `bench` and `health`: their options, and functions that carry them out.
//!
//! Each function builds its own single-threaded runtime, blocks until it is done, and returns the exit code:
//! 0 done, 1 refused or failed, 2 used wrongly.

mod args;
mod health;
mod lines;
mod publish;
mod subscribe;
pub(crate) mod terminal;

pub use args::{
    BenchArgs, BenchWhat, HealthArgs, Load, PubArgs, QosLevel, SubArgs, SubscribeWire, Wire,
};
pub(crate) use args::{MQTT_URL_DEFAULT, URL_DEFAULT};
pub use health::health;
pub use publish::publish;
pub use subscribe::subscribe;

pub use crate::bench::bench;
