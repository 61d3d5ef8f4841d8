//! The timing loop: a part and its baseline in turns.

use std::time::{Duration, Instant};

use crate::Options;
use crate::spread::{Spread, short, time};

/// A part and the least that its work can cost.
pub struct Case<'a> {
    /// What is measured.
    pub name: String,
    /// What it is compared with.
    pub baseline_name: String,
    /// Does it so many times.
    pub part: Box<dyn FnMut(u64) + 'a>,
    /// Does the baseline so many times.
    pub baseline: Box<dyn FnMut(u64) + 'a>,
}

/// The columns of [`Case::row`].
pub const COLUMNS: [&str; 6] = [
    "part",
    "ratio, median (min..max)",
    "time",
    "per second",
    "baseline",
    "baseline's time",
];

/// How long and how often the closures run.
#[derive(Clone, Copy)]
pub struct Turns {
    turn: Duration,
    rounds: usize,
}

impl Turns {
    pub fn new(options: &Options) -> Self {
        if options.quick {
            return Self {
                turn: Duration::from_micros(200),
                rounds: 3,
            };
        }
        // Micro benchmarks are cheap to repeat: more rounds than the loads on a server have.
        Self {
            turn: Duration::from_millis(50),
            rounds: options.rounds.max(9),
        }
    }

    /// Times that make a turn long enough to be timed; what it runs for this also warms up.
    fn times(self, run: &mut dyn FnMut(u64)) -> u64 {
        let mut times = 1;
        loop {
            let elapsed = timed(run, times);
            if elapsed >= self.turn {
                return times;
            }
            let wanted = self.turn.as_nanos() / elapsed.as_nanos().max(1) + 1;
            times *= (wanted as u64).clamp(2, 100);
        }
    }
}

fn timed(run: &mut dyn FnMut(u64), times: u64) -> Duration {
    let begun = Instant::now();
    run(times);
    begun.elapsed()
}

impl Case<'_> {
    /// Runs both in turns: a row of [`COLUMNS`].
    pub fn row(mut self, turns: Turns) -> Vec<String> {
        let part_times = turns.times(&mut self.part);
        let baseline_times = turns.times(&mut self.baseline);
        let rounds = (0..turns.rounds).map(|_| {
            let part = nanoseconds_each(&mut self.part, part_times);
            (part, nanoseconds_each(&mut self.baseline, baseline_times))
        });
        let rounds: Vec<(f64, f64)> = rounds.collect();
        let part = Spread::of(rounds.iter().map(|(part, _)| *part)).median;
        let baseline = Spread::of(rounds.iter().map(|(_, baseline)| *baseline)).median;
        let ratio = Spread::of(rounds.iter().map(|(part, baseline)| part / baseline));
        vec![
            self.name,
            ratio.to_string(),
            time(part),
            short(1e9 / part),
            self.baseline_name,
            time(baseline),
        ]
    }
}

fn nanoseconds_each(run: &mut dyn FnMut(u64), times: u64) -> f64 {
    timed(run, times).as_nanos() as f64 / times as f64
}
