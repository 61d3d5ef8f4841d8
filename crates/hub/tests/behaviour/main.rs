//! What a shard does for a conversation, step by step: one test for each promise of the contract.

#![expect(clippy::unwrap_used, reason = "a test says with it what must hold")]

#[expect(dead_code, reason = "the simulation uses all of it")]
#[path = "../simulation/engine.rs"]
mod engine;
mod identity;
mod leaving;
mod letters;
mod petitions;
mod queues;
mod recheck;
mod sessions;
mod stage;
mod subscriptions;
mod verdicts;
mod wills;
