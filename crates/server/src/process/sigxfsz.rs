//! SIGXFSZ: a write past the file size limit raises it, and by default it ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

/// Makes a write past `RLIMIT_FSIZE` fail with `EFBIG`, which the log answers as a full disk, instead of
/// ending the process (`setrlimit(2)`).
pub fn ignore_sigxfsz() -> io::Result<()> {
    // Safe Rust has no way to say "ignore". A signal that is caught and only noted comes to the same: the
    // write returns its error, and that is where it is counted.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn process_survives_the_signal() {
        ignore_sigxfsz().unwrap();
        // Without the line above, this ends the test's process.
        kill_process(getpid(), Signal::XFSZ).unwrap();
    }
}
