//! Stub.
use std::process::ExitCode;

use crate::cli::BenchArgs;

/// Stub.
pub fn bench(_args: BenchArgs) -> ExitCode {
    ExitCode::FAILURE
}
