//! What is counted of the admin listener.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was wrong, or asked for what there is not.
    Refused,
    /// It had no token, or a wrong one.
    Unauthorized,
    /// It came from a page in a browser, or to a name that is not this machine's.
    Foreign,
    /// It could not be done, or not be kept.
    Failed,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::Refused,
        Self::Unauthorized,
        Self::Foreign,
        Self::Failed,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unauthorized => "unauthorized",
            Self::Foreign => "foreign",
            Self::Failed => "failed",
        }
    }
}

/// How often.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Outcome::ALL.len()]);

impl Counts {
    /// Counts one.
    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// How often.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Relaxed)
    }
}
