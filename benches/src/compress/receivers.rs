//! Subscribers that count WebSocket frames: what is in them need not be readable.

use std::net::TcpStream;
use std::thread::yield_now;
use std::time::Instant;

use crate::link::{ANSWER_MAX, read_ready};
use crate::report::Failure;

/// Sockets that are looked at while a message goes out.
const PROBES: usize = 16;
const READ_BYTES: usize = 64 << 10;

/// Counts the messages in a stream of a server's frames (RFC 6455 5.2).
#[derive(Debug, Default)]
struct Frames {
    /// The part of a frame's head that was read.
    head: Vec<u8>,
    /// What is left of its payload.
    rest: usize,
    /// Whether the frame ends a message.
    ends_message: bool,
}

impl Frames {
    /// How many messages end in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut messages = 0;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                bytes = &bytes[taken..];
                self.rest -= taken;
            } else {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                let Some(len) = payload_len(&self.head) else {
                    continue;
                };
                // FIN, and not a control frame.
                self.ends_message = self.head[0] & 0x80 != 0 && self.head[0] & 0x08 == 0;
                self.head.clear();
                self.rest = len;
            }
            if self.rest == 0 {
                messages += u64::from(self.ends_message);
                self.ends_message = false;
            }
        }
        messages
    }
}

/// The length that a whole head names; `None` while a part of it is missing.
fn payload_len(head: &[u8]) -> Option<usize> {
    match (head.get(1)? & 0x7f, head.get(2..)?) {
        (126, [a, b]) => Some(usize::from(u16::from_be_bytes([*a, *b]))),
        (127, long) => Some(u64::from_be_bytes(long.try_into().ok()?) as usize),
        (126, _) => None,
        (len, _) => Some(usize::from(len)),
    }
}

#[derive(Debug)]
struct Receiver {
    stream: TcpStream,
    frames: Frames,
    received: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Receivers {
    all: Vec<Receiver>,
    /// Messages that each must have by now.
    expected: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Receivers {
    /// Opens so many.
    pub fn open(
        count: usize,
        mut open: impl FnMut() -> Result<TcpStream, Failure>,
    ) -> Result<Self, Failure> {
        let mut receivers = Vec::with_capacity(count);
        for _ in 0..count {
            let stream = open()?;
            stream.set_nonblocking(true)?;
            receivers.push(Receiver {
                stream,
                frames: Frames::default(),
                received: 0,
            });
        }
        Ok(Self {
            all: receivers,
            expected: 0,
            bytes: 0,
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Says that one more message is on its way to each.
    pub fn expect_one(&mut self) {
        self.expected += 1;
    }

    /// What all of them have read, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until a few of them, the first and the last included, have what is expected.
    pub fn wait_for_probes(&mut self) -> Result<(), Failure> {
        let last = self.all.len() - 1;
        for probe in 0..PROBES {
            // The last first: it usually has it last.
            self.wait_for(last - probe * last / (PROBES - 1))?;
        }
        Ok(())
    }

    /// Reads every socket empty; each has exactly what is expected then.
    pub fn drain(&mut self) -> Result<(), Failure> {
        for number in 0..self.all.len() {
            self.wait_for(number)?;
            while self.read(number)? {}
            if self.all[number].received != self.expected {
                return Err(self.wrong(number));
            }
        }
        Ok(())
    }

    fn wait_for(&mut self, number: usize) -> Result<(), Failure> {
        let begun = Instant::now();
        while self.all[number].received < self.expected {
            if !self.read(number)? {
                // Sleeping for it would have the server wake us.
                yield_now();
                if begun.elapsed() > ANSWER_MAX {
                    return Err(self.wrong(number));
                }
            }
        }
        Ok(())
    }

    /// Whether there was something.
    fn read(&mut self, number: usize) -> Result<bool, Failure> {
        let receiver = &mut self.all[number];
        let Some(read) = read_ready(&mut &receiver.stream, &mut self.buffer)? else {
            return Ok(false);
        };
        self.bytes += read as u64;
        receiver.received += receiver.frames.count(&self.buffer[..read]);
        Ok(true)
    }

    fn wrong(&self, number: usize) -> Failure {
        Failure::new(format!(
            "subscriber {number} has {} messages, should have {}",
            self.all[number].received, self.expected
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_reads_are_cut() {
        let mut stream = Vec::new();
        // A short text, a ping, an empty text, a deflated one of 300 bytes, two fragments.
        stream.extend_from_slice(b"\x81\x02hi\x89\x01x\x81\x00");
        stream.extend_from_slice(b"\xc1\x7e\x01\x2c");
        stream.extend_from_slice(&[0x81; 300]);
        stream.extend_from_slice(b"\x01\x01a\x80\x01b");
        stream.extend_from_slice(b"\x82\x7f\0\0\0\0\0\x01\0\0");
        stream.extend_from_slice(&vec![0; 65_536]);
        for step in [1, 2, 3, 7, 100, stream.len()] {
            let mut frames = Frames::default();
            let counts = stream.chunks(step).map(|part| frames.count(part));
            assert_eq!(counts.sum::<u64>(), 5, "{step}");
        }
    }
}
