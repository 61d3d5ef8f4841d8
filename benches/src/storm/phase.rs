//! What the two threads of a storm tell each other.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// How far a round is; it only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Only the live subscribers are there.
    Quiet,
    /// Clients come back.
    Storm,
    /// All of them are live.
    After,
    /// Nothing more is to be published to them.
    Stop,
    /// Nothing more is.
    Stopped,
    /// The round is over, or failed.
    End,
}

const PHASES: [Phase; 6] = [
    Phase::Quiet,
    Phase::Storm,
    Phase::After,
    Phase::Stop,
    Phase::Stopped,
    Phase::End,
];

/// Shared by the two threads.
#[derive(Debug, Default)]
pub struct Shared {
    phase: AtomicU8,
    /// The number of the newest message of the storm's topic.
    newest: AtomicU32,
}

impl Shared {
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Acquire))]
    }

    /// Goes on to a phase, if it is not further already.
    pub fn go_on(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    pub fn end(&self) {
        self.go_on(Phase::End);
    }

    pub fn newest(&self) -> u32 {
        self.newest.load(Ordering::Acquire)
    }

    pub fn set_newest(&self, number: u32) {
        self.newest.store(number, Ordering::Release);
    }
}
