//! Comparing what must not be seen.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use aws_lc_rs::constant_time::verify_slices_are_equal;
pub use tidings_ports::Secret;

/// Whether two byte strings are equal, in a time that depends on nothing but their lengths.
pub(crate) fn same(one: &[u8], two: &[u8]) -> bool {
    verify_slices_are_equal(one, two).is_ok()
}

/// Stands for an entry of a file, to find out later whether it is the same one. It is made under a key of this process,
/// so that it says nothing of the entry to others.
#[must_use]
pub fn mark(parts: &[&[u8]]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(parts)
}
