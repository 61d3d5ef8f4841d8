//! The floor: what it costs to give the same bytes to every socket and to do nothing else.
//!
//! It runs as a process of its own, like a server under test. A subscriber says `S` and hears the same back; then the
//! publisher says `P`. Each chunk that the publisher sends (four bytes of length, then the bytes) goes to every
//! subscriber in turn with one blocking `send()`, from the only thread.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::machine;
use crate::peers::loopback;
use crate::report::Failure;

/// What a subscriber says, and hears.
pub const SUBSCRIBER: u8 = b'S';
/// What the publisher says, and hears.
pub const PUBLISHER: u8 = b'P';
/// Far over what the measurement sends.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Serves as the floor until the publisher goes: `floor --port N`.
pub fn serve(arguments: &[String]) -> Result<(), Failure> {
    let port = match arguments {
        [name, port] if name == "--port" => port.parse().ok(),
        _ => None,
    };
    let port = port.ok_or_else(|| Failure::new("usage: compare floor --port N"))?;
    machine::allow_many_files();
    let listener = TcpListener::bind(loopback(port))?;
    let mut subscribers = Vec::new();
    let publisher = loop {
        let (mut stream, _) = listener.accept()?;
        let mut said = [0];
        // One that says nothing only wanted to know whether somebody listens.
        if stream.read(&mut said)? == 0 {
            continue;
        }
        stream.set_nodelay(true)?;
        stream.write_all(&said)?;
        match said[0] {
            SUBSCRIBER => subscribers.push(stream),
            PUBLISHER => break stream,
            other => return Err(Failure::new(format!("who says {other}?"))),
        }
    };
    match fan_out(publisher, &mut subscribers) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}

/// Until the publisher is gone, which is an unexpected end.
fn fan_out(mut publisher: TcpStream, subscribers: &mut [TcpStream]) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    loop {
        let mut length = [0; 4];
        publisher.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        let chunk = chunk
            .get_mut(..length)
            .ok_or_else(|| io::Error::other("a chunk is too long"))?;
        publisher.read_exact(chunk)?;
        for subscriber in &mut *subscribers {
            subscriber.write_all(chunk)?;
        }
    }
}
