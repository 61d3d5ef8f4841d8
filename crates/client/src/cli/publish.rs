//! `tidings`.
use std::process::ExitCode;

use super::PubArgs;

/// Stub.
pub fn publish(_args: PubArgs) -> ExitCode {
    ExitCode::FAILURE
}
