//! What a log is opened with.

use std::path::PathBuf;

use tidings_types::{Durability, Limits, RetentionRules, Storage};

/// The size at which a segment of the durable log is sealed.
const SEGMENT_BYTES: u32 = 64 << 20;

/// Where the durable part of the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this directory.
    Directory(PathBuf),
    /// In memory: gone with the process, a new epoch each time.
    Memory,
}

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Where it is.
    pub place: Place,
    /// When a message counts as committed.
    pub durability: Durability,
    /// What is kept, by topic. A rule with `storage = memory` and no `bytes_max` keeps 64 MiB.
    pub rules: RetentionRules,
    /// Bounds on queues, topics and keys.
    pub limits: Limits,
    /// The size at which a segment is sealed; a larger batch makes a larger segment.
    pub segment_bytes: u32,
    /// The same for topics with `storage = memory`.
    pub memory_segment_bytes: u32,
    /// After an unclean end, how much of the newest data is verified before the log opens; older segments
    /// are verified as they are read, and by [`crate::verify`].
    pub verify_bytes_max: u64,
    /// The journal of states may be larger than twice what is live in it by this before a snapshot replaces it.
    pub states_slack_bytes: u64,
    /// Where the epoch of a new log comes from: the operating system, or this number, for simulations.
    pub seed: Option<u64>,
}

/// What a rule with `storage = memory` and no `bytes_max` keeps, so that memory stays bounded.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

impl LogConfig {
    /// Gives every rule for memory a bound.
    pub(crate) fn bounded(mut self) -> Self {
        let rules = self.rules.rules.iter_mut().map(|(_, rule)| rule);
        for rule in rules.chain([&mut self.rules.default]) {
            if rule.storage == Storage::Memory {
                rule.bytes_max.get_or_insert(MEMORY_BYTES_MAX);
            }
        }
        self
    }

    /// The defaults, in a directory.
    #[must_use]
    pub fn in_directory(path: impl Into<PathBuf>) -> Self {
        Self {
            place: Place::Directory(path.into()),
            ..Self::in_memory()
        }
    }

    /// The defaults, in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            place: Place::Memory,
            durability: Durability::default(),
            rules: RetentionRules::default(),
            limits: Limits::default(),
            segment_bytes: SEGMENT_BYTES,
            memory_segment_bytes: 4 << 20,
            verify_bytes_max: 1 << 30,
            states_slack_bytes: 4 << 20,
            seed: None,
        }
    }
}
