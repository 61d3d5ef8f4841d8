//! The machine that is measured on: its cores, and what it is.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::report::complain;

/// The core that servers have to themselves.
pub const SERVER_CPU: usize = 0;
/// The core of the load.
pub const LOAD_CPU: usize = 1;

/// The kernel's `USER_HZ`: 100 on every architecture that Linux has today.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// Keeps this thread, and those that it starts, off the server's core. With a single core nothing changes.
pub fn pin_to_load_cpu() {
    if !has_two_cores() {
        return;
    }
    let mut cores = CpuSet::new();
    cores.set(LOAD_CPU);
    if let Err(error) = sched_setaffinity(None, &cores) {
        complain(&format!("cannot keep off the server's core: {error}"));
    }
}

/// Whether server and load have a core each.
pub fn has_two_cores() -> bool {
    cores() >= 2
}

/// Raises the limit of open files as far as it goes, for us and the servers that we start.
pub fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        complain(&format!("cannot raise the limit of open files: {error}"));
    }
}

/// How long a core was not idle since the machine started, in seconds: user, system, interrupts and softirq of
/// everything that ran there (proc(5), `/proc/stat`).
pub fn busy_s(cpu: usize) -> f64 {
    fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|stat| parse_busy(&stat, cpu))
        .unwrap_or_default()
}

fn parse_busy(stat: &str, cpu: usize) -> Option<f64> {
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let ticks: Vec<f64> = line
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user already.
    let busy: f64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|field| ticks.get(*field))
        .sum();
    Some(busy / TICKS_PER_SECOND)
}

/// The machine in a line: processor, cores, memory, kernel.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let model = field(&read("/proc/cpuinfo"), "model name");
    let memory_kib: f64 = field(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = cores();
    let split = if has_two_cores() {
        format!("server on core {SERVER_CPU}, load on core {LOAD_CPU}")
    } else {
        "server and load share the only core".to_owned()
    };
    format!(
        "{model}, {cores} cores, {:.0} GiB, Linux {}; {split}",
        memory_kib / 1024.0 / 1024.0,
        kernel.trim()
    )
}

/// The cores of the machine, not those that this process is pinned to.
fn cores() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 10 200 5000 70 1 30 4 50 0\ncpu1 1 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(parse_busy(stat, 0), Some(3.45));
        assert_eq!(parse_busy(stat, 1), Some(0.01));
        assert_eq!(parse_busy(stat, 2), None);
    }

    #[test]
    fn this_machine_is_described() {
        assert!(cores() >= 1);
        assert!(describe().contains("Linux"), "{}", describe());
    }
}
