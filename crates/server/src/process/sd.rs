//! Tells systemd how the server is doing (`sd_notify(3)`): one datagram to the socket in `NOTIFY_SOCKET`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It listens.
    Ready,
    /// It reads its configuration again; [`State::Ready`] follows.
    Reloading,
    /// It shuts down.
    Stopping,
}

impl State {
    fn text(self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Reloading => {
                // `Type=notify-reload` wants to know when, to tell this reload from an earlier one.
                let now = clock_gettime(ClockId::Monotonic);
                let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
                format!("RELOADING=1\nMONOTONIC_USEC={us}")
            }
            Self::Stopping => "STOPPING=1".to_owned(),
        }
    }
}

/// Tells the supervisor, if there is one: `false` is that there is none.
pub fn notify(state: State) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => {
            send(&socket, &state.text())?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_reaches_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        for (state, expect) in [
            (State::Ready, "READY=1"),
            (State::Reloading, "RELOADING=1\nMONOTONIC_USEC="),
            (State::Stopping, "STOPPING=1"),
        ] {
            send(path.as_os_str(), &state.text()).unwrap();
            let mut bytes = [0; 128];
            let len = supervisor.recv(&mut bytes).unwrap();
            let text = str::from_utf8(&bytes[..len]).unwrap();
            assert!(text.starts_with(expect), "{text}");
        }
    }

    #[test]
    fn socket_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(send(dir.path().join("none").as_os_str(), "READY=1").is_err());
    }
}
