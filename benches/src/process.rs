//! A server under test: a child process with a core of its own, and what it costs.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::machine::{SERVER_CPU, TICKS_PER_SECOND, has_two_cores};
use crate::report::{Failure, complain};

const READY_MAX: Duration = Duration::from_secs(15);
const END_MAX: Duration = Duration::from_secs(10);
const SETTLE_MAX: Duration = Duration::from_millis(400);
const SETTLE_STEP: Duration = Duration::from_millis(4);
/// The part of a core that a server may use and count as idle: its own timers.
const SETTLED_SHARE: f64 = 0.03;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a stopped server's output may fill of an error message.
const OUTPUT_SHOWN: usize = 2_000;

/// CPU time of a server since it started, all its processes together, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(clippy::struct_field_names, reason = "they end in their unit")]
pub struct Cpu {
    /// In its own code. The kernel splits user from system by sampling: good over seconds only.
    pub user_s: f64,
    /// In the kernel on its behalf.
    pub system_s: f64,
    /// Both, to the nanosecond.
    pub total_s: f64,
}

impl Cpu {
    /// What was used since.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user_s: self.user_s - earlier.user_s,
            system_s: self.system_s - earlier.system_s,
            total_s: self.total_s - earlier.total_s,
        }
    }

    /// The sum.
    pub fn and(self, other: Self) -> Self {
        Self {
            user_s: self.user_s + other.user_s,
            system_s: self.system_s + other.system_s,
            total_s: self.total_s + other.total_s,
        }
    }
}

/// A running server. Dropped, it and the processes that it started are gone, and its folder too.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its configuration and what it stores; lives as long as the process.
    folder: TempDir,
}

impl Process {
    /// Starts the command on the server's core and waits until it accepts connections at `ready`. What the server
    /// prints goes to a file in `folder`, for the message of a server that does not come up.
    pub fn start(command: &Command, ready: SocketAddr, folder: TempDir) -> Result<Self, Failure> {
        let output = fs::File::create(folder.path().join("output"))?;
        let mut pinned = pinned(command);
        pinned
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let name = command.get_program().to_string_lossy().into_owned();
        let child = pinned
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start {name}: {error}")))?;
        let mut process = Self { child, folder };
        let deadline = Instant::now() + READY_MAX;
        while TcpStream::connect(ready).is_err() {
            if let Some(status) = process.child.try_wait()? {
                let said = process.output();
                return Err(Failure::new(format!("{name} stopped: {status}\n{said}")));
            }
            if Instant::now() > deadline {
                let said = process.output();
                let text = format!("{name} does not listen at {ready}\n{said}");
                return Err(Failure::new(text));
            }
            sleep(LOOK_EVERY);
        }
        Ok(process)
    }

    /// The end of what it printed.
    pub fn output(&self) -> String {
        let bytes = fs::read(self.folder.path().join("output")).unwrap_or_default();
        let start = bytes.len().saturating_sub(OUTPUT_SHOWN);
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    /// Its CPU time so far, with that of the kernel's softirq thread of its core: whether the network's part of a
    /// `send()` runs within the call or in that thread is up to how busy the core is, and only together are they
    /// what the sending cost. Threads that have ended count in the split, not in the total.
    pub fn cpu(&self) -> Cpu {
        let softirq = softirq_thread(SERVER_CPU);
        self.pids()
            .into_iter()
            .chain(softirq)
            .map(cpu_of)
            .fold(Cpu::default(), Cpu::and)
    }

    /// Waits until it does nothing: until none of its threads wants to run and its CPU time stands still, or nearly
    /// so, as a server's own timers may run.
    pub fn settle(&self) {
        self.settle_within(SETTLE_MAX);
    }

    /// The same for one that may have much to do still.
    pub fn settle_within(&self, longest: Duration) {
        let family = self.pids();
        let total = || -> f64 { family.iter().copied().map(total_s_of).sum() };
        let deadline = Instant::now() + longest;
        let mut before = total();
        while Instant::now() < deadline {
            sleep(SETTLE_STEP);
            let now = total();
            let idle = now - before < SETTLE_STEP.as_secs_f64() * SETTLED_SHARE;
            // One that something else keeps off the core has a CPU time that stands still, too.
            if idle && !family.iter().copied().any(wants_to_run) {
                return;
            }
            before = now;
        }
    }

    /// Its memory in bytes, what it shares with others counted in proportion.
    pub fn pss_bytes(&self) -> u64 {
        self.pids()
            .into_iter()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
            .filter_map(|rollup| parse_pss(&rollup))
            .sum()
    }

    /// It and all that it started.
    fn pids(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let parents = parents();
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            let children = parents.iter().filter(|(_, of)| *of == parent);
            family.extend(children.map(|(pid, _)| *pid));
            next += 1;
        }
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.pids();
        signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + END_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(LOOK_EVERY);
        }
        // What is still there was started by the server and did not end with it. The first is our own child,
        // which is only killed while it is not waited for, so that its number cannot be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        let alive = parents();
        for pid in &family[1..] {
            // An orphan has another parent now; a number that was given to another process is not ours.
            let ours = |(found, parent): &(u32, u32)| {
                found == pid && (*parent == 1 || family.contains(parent))
            };
            if alive.iter().any(ours) {
                signal(*pid, Signal::KILL);
            }
        }
    }
}

/// The command on the server's core. It ends with us whatever ends us (`prctl(PR_SET_PDEATHSIG)`): asked to, not
/// killed, as the signal comes to the first process alone, which then ends its workers.
fn pinned(command: &Command) -> Command {
    let mut pinned = Command::new("setpriv");
    pinned.args(["--pdeathsig", "TERM"]);
    if has_two_cores() {
        pinned.args(["taskset", "-c", &SERVER_CPU.to_string()]);
    }
    pinned.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        pinned.current_dir(folder);
    }
    pinned
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        match kill_process(pid, signal) {
            // One that is gone already is what we want.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => complain(&format!("cannot end process {pid}: {error}")),
        }
    }
}

/// The kernel's thread for the softirq of a core.
fn softirq_thread(cpu: usize) -> Option<u32> {
    static FOUND: OnceLock<Option<u32>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let name = format!("ksoftirqd/{cpu}\n");
        let entries = fs::read_dir("/proc").ok()?;
        let mut pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found == name)
        })
    })
}

/// Every process of the machine with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = after_name(&stat)?.nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

fn cpu_of(pid: u32) -> Cpu {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (user_s, system_s) = parse_split(&stat).unwrap_or_default();
    Cpu {
        user_s,
        system_s,
        total_s: total_s_of(pid),
    }
}

/// Whether any thread is on a core or waits for one.
fn wants_to_run(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .any(|stat| after_name(&stat).and_then(|mut fields| fields.next()) == Some("R"))
}

/// To the nanosecond, of the threads that are there.
fn total_s_of(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let total_ns: f64 = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|line| line.split_ascii_whitespace().next()?.parse::<f64>().ok())
        .sum();
    total_ns / 1e9
}

/// The fields of `/proc/PID/stat` from the third on. The second is the name in parentheses, and may hold anything.
fn after_name(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    let (_, after) = stat.rsplit_once(')')?;
    Some(after.split_ascii_whitespace())
}

fn parse_split(stat: &str) -> Option<(f64, f64)> {
    let mut fields = after_name(stat)?.skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some((seconds()?, seconds()?))
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// A port of the loopback that nothing listened on a moment ago.
pub fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}

/// A fresh folder for a server.
pub fn folder() -> Result<TempDir, Failure> {
    Ok(tempfile::Builder::new()
        .prefix("tidings-bench-")
        .tempdir()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_whatever_the_process_is_called() {
        let stat = "42 (a) b (c) R 7 42 42 0 -1 4194304 100 0 0 0 250 75 0 0 20 0 4 0 100 1000 50";
        assert_eq!(parse_split(stat), Some((2.5, 0.75)));
        assert_eq!(after_name(stat).and_then(|mut f| f.nth(1)), Some("7"));
        assert_eq!(parse_pss("Rss: 9 kB\nPss:    512 kB\n"), Some(512 * 1024));
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option >&2; exit 3"]);
        let ready = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let failure = Process::start(&command, ready, folder().unwrap()).unwrap_err();
        assert!(failure.to_string().contains("no such option"), "{failure}");
    }
}
