//! What the server's process costs, read from `/proc` (proc(5)).

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::Load;
use crate::url::ServerUrl;

/// The kernel's `USER_HZ`: 100 on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process on this machine.
#[derive(Debug)]
pub(super) struct Server {
    folder: PathBuf,
}

/// CPU time since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    /// In its own code.
    pub(super) user_s: f64,
    /// In the kernel on its behalf.
    pub(super) system_s: f64,
}

impl Cpu {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            user_s: self.user_s - earlier.user_s,
            system_s: self.system_s - earlier.system_s,
        }
    }
}

impl Server {
    /// The process that the options name, or else the one that listens on the URL's port.
    pub(super) fn find(load: &Load, url: &ServerUrl) -> Option<Self> {
        let folder = match load.pid {
            Some(pid) => load.proc.join(pid.to_string()),
            None => listener(&load.proc, url.port())?,
        };
        let server = Self { folder };
        server.cpu()?;
        Some(server)
    }

    /// Its CPU time; `None` if it is gone, or not to be seen.
    pub(super) fn cpu(&self) -> Option<Cpu> {
        parse_cpu(&fs::read_to_string(self.folder.join("stat")).ok()?)
    }

    /// Its memory in bytes, what it shares with others counted in proportion.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        parse_pss(&fs::read_to_string(self.folder.join("smaps_rollup")).ok()?)
    }
}

/// Fields 14 and 15. The second field is the command in parentheses and may hold anything, also these.
fn parse_cpu(stat: &str) -> Option<Cpu> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some(Cpu {
        user_s: seconds()?,
        system_s: seconds()?,
    })
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The process that has the listening socket of a port.
fn listener(proc: &Path, port: u16) -> Option<PathBuf> {
    let tables = ["net/tcp", "net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(proc.join(table)).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let sockets: Vec<PathBuf> = inodes
        .iter()
        .map(|inode| PathBuf::from(format!("socket:[{inode}]")))
        .collect();
    fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let is_pid = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit());
        let folder = entry.path();
        (is_pid && has_open(&folder, &sockets)).then_some(folder)
    })
}

fn has_open(folder: &Path, sockets: &[PathBuf]) -> bool {
    let Ok(files) = fs::read_dir(folder.join("fd")) else {
        return false;
    };
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| sockets.contains(&target))
}

/// The inodes of the sockets that listen on the port.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let is_it = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTEN;
            is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_whatever_the_command_is_called() {
        let stat = "42 (a) b (c) R 1 42 42 0 -1 4194304 100 0 0 0 250 75 0 0 20 0 4 0 100 1000 50";
        let expect = Cpu {
            user_s: 2.5,
            system_s: 0.75,
        };
        assert_eq!(parse_cpu(stat), Some(expect));
        assert_eq!(parse_cpu("gone"), None);
    }

    #[test]
    fn the_proportional_memory_is_read() {
        let rollup = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:   900 kB\nPss:    512 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(parse_pss(rollup), Some(512 * 1024));
        assert_eq!(parse_pss(""), None);
    }

    #[test]
    fn only_the_listening_socket_of_the_port_is_taken() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0\n\
            1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0\n";
        assert_eq!(listening(table, 8080), ["111"]);
        assert!(listening(table, 80).is_empty());
    }

    #[test]
    fn this_process_is_found_by_the_port_that_it_listens_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = super::listener(Path::new("/proc"), port).unwrap();
        let pid = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(pid, std::process::id().to_string());
        let server = Server { folder };
        assert!(server.cpu().is_some() && server.memory_bytes() > Some(0));
    }
}
