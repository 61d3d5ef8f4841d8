//! Connections: opened one by one in the blocking way, then read without waiting.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memmem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::report::Failure;

/// No answer takes this long unless something is wrong.
pub const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A connection whose small writes go out at once.
pub fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address)
        .map_err(|error| Failure::new(format!("cannot connect to {address}: {error}")))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Sends a request and reads until the needle is there; gives what was read.
pub fn ask(stream: &mut TcpStream, request: &[u8], until: &[u8]) -> Result<Vec<u8>, Failure> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while memmem::find(&answer, until).is_none() {
        let read = match stream.read(&mut buffer) {
            Ok(read) => read,
            Err(error) => return Err(unanswered(&error.to_string(), until, &answer)),
        };
        if read == 0 {
            return Err(unanswered("connection closed", until, &answer));
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    Ok(answer)
}

fn unanswered(why: &str, until: &[u8], answer: &[u8]) -> Failure {
    let until = String::from_utf8_lossy(until);
    let answer = String::from_utf8_lossy(answer);
    Failure::new(format!("waited for {until:?}, got {answer:?}: {why}"))
}

/// Opens a WebSocket; `headers` are whole lines of their own. Also gives the head of the answer.
pub fn websocket(
    address: SocketAddr,
    path: &str,
    headers: &str,
) -> Result<(TcpStream, String), Failure> {
    let mut stream = connect(address)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    );
    let answer = ask(&mut stream, request.as_bytes(), b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer).into_owned();
    if !head.starts_with("HTTP/1.1 101") {
        return Err(Failure::new(format!("no WebSocket at {path}: {head}")));
    }
    Ok((stream, head))
}

/// Reads what is there of a non-blocking socket, `None` if nothing is; the end of the connection is a failure.
pub fn read_ready(stream: &mut &TcpStream, buffer: &mut [u8]) -> Result<Option<usize>, Failure> {
    match stream.read(buffer) {
        Ok(0) => Err(Failure::new("the server closed a connection")),
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes all of it to a non-blocking socket, and waits while there is no room.
pub fn write_whole(stream: &mut &TcpStream, mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_for_room(stream)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for_room(stream: &TcpStream) -> Result<(), Failure> {
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    let timeout = Timespec::try_from(ANSWER_MAX).map_err(|_| Failure::new("no such timeout"))?;
    loop {
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => {
                let seconds = ANSWER_MAX.as_secs();
                return Err(Failure::new(format!(
                    "waited {seconds} s for room to write"
                )));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
