//! The log as its users see it.

#[cfg(test)]
mod log {
    mod ahead;
    mod common;
    mod contract;
    mod damage;
    mod engine;
    mod model;
    mod retention;
    mod states;
    mod states_damage;
    mod submissions;
}
