//! The hub and the log together, from a seed: slow peers, overflowing inboxes, storage faults, crashes and
//! restarts, checked against a naive model.
//!
//! One thread drives everything: which peer reads, when the log commits, when a read is answered, when the disk
//! fails. A failing seed is a failing test that can be run again:
//! `TIDINGS_SIM_SEED=17 cargo test -p tidings-hub --test simulation`. `TIDINGS_SIM_SEEDS=20000` runs more of them.

#![expect(clippy::unwrap_used, reason = "a test says with it what must hold")]

#[expect(dead_code, reason = "the behaviour tests use all of it")]
mod engine;
mod model;
mod peer;
mod session;
mod worker;
mod world;

use world::World;

/// Seeds in an ordinary run.
const SEEDS: u64 = 3_000;

fn run(seed: u64) -> world::Tally {
    let mut world = World::new(seed);
    for _ in 0..world.steps() {
        world.step();
    }
    world.settle();
    world.check_end();
    world.tally()
}

#[test]
fn every_subscription_sees_everything_once_in_order_or_is_told_of_a_gap() {
    if let Ok(seed) = std::env::var("TIDINGS_SIM_SEED") {
        run(seed.parse().expect("a number"));
        return;
    }
    let seeds = std::env::var("TIDINGS_SIM_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let mut told = world::Tally::default();
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(
            result.is_ok(),
            "seed {seed} failed: run it again with TIDINGS_SIM_SEED={seed}"
        );
        told.add(&result.unwrap_or_default());
    }
    // The run means something only if what it is about happened.
    told.check();
}
