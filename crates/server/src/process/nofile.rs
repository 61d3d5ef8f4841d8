//! The open-file limit: every connection is a file.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are no connections: the log's segments, listeners, event queues, standard streams.
pub const RESERVED: usize = 384;

/// The open-file limit of this process. A limit that the system does not set is `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nofile {
    /// What it was at the start.
    pub soft_before: u64,
    /// What it is.
    pub soft: u64,
    /// What it could be raised to by the administrator's leave.
    pub hard: u64,
}

impl Nofile {
    /// How many connections fit, with room left for the server's own files.
    #[must_use]
    pub fn connections(&self) -> usize {
        let files = usize::try_from(self.soft).unwrap_or(usize::MAX);
        // A limit below the reserve still serves someone, until the system says no.
        files.saturating_sub(RESERVED).max(files / 2)
    }
}

/// Raises the soft limit to the hard one. Without that, a common default allows 1,024 files.
///
/// Where the system refuses, the limit stays as it is and the error says why.
pub fn raise_nofile() -> (Nofile, io::Result<()>) {
    let before = getrlimit(Resource::Nofile);
    let open = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let wanted = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    let result = setrlimit(Resource::Nofile, wanted).map_err(io::Error::from);
    let after = getrlimit(Resource::Nofile);
    let nofile = Nofile {
        soft_before: open(before.current),
        soft: open(after.current),
        hard: open(after.maximum),
    };
    (nofile, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_raised_to_the_hard_one() {
        let (nofile, result) = raise_nofile();
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(nofile.soft, nofile.hard);
        assert!(nofile.soft_before <= nofile.soft);
    }

    #[test]
    fn connections_leave_room_for_the_servers_own_files() {
        for (soft, expect) in [(1_024, 640), (100, 50), (1_000_000, 999_616)] {
            let nofile = Nofile {
                soft_before: soft,
                soft,
                hard: soft,
            };
            assert_eq!(nofile.connections(), expect, "{soft}");
        }
    }
}
