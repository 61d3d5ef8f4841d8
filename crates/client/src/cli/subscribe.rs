//! `tidings`.
use std::process::ExitCode;

use super::SubArgs;

/// Stub.
pub fn subscribe(_args: SubArgs) -> ExitCode {
    ExitCode::FAILURE
}
