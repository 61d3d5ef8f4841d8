//! Micro benchmarks: single parts, in this process, each against the least that its work can cost.
//!
//! A case is two closures, the part and its baseline, which run in turns in the same process: what disturbs one
//! disturbs the other. The figure is the median of the rounds' ratios.

mod append;
mod frames;
mod matching;
mod read;
mod turns;

use mimalloc::MiMalloc;

use crate::Options;
use crate::report::{Failure, publish_section};

/// The server's allocator: the parts are to cost here what they cost there.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs all of them and reports.
pub fn run(options: &Options) -> Result<(), Failure> {
    let tables = [
        matching::measure(options)?,
        frames::measure(options)?,
        append::measure(options)?,
        read::measure(options)?,
    ];
    publish_section(options, "micro", &tables)
}
