//! Bytes of a peer into the STOMP decoder, in pieces of one size and all at once.
//!
//! The first byte of an input is the state (0 to 3: a client's bytes before CONNECT, and after it in 1.0, 1.1 and
//! 1.2; 4 to 7: a server's), the second the size of the pieces, the rest what the peer sends. The corpus is made
//! from the tables of the codec's tests, which also replay it.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidings_adapters::stomp::codec::{
    Command, Decoder, Frame, Item, Limits, Sender, Version, Violation,
};

const LIMITS: Limits = Limits {
    header_count_max: 8,
    header_line_bytes_max: 48,
    header_bytes_max: 128,
    body_bytes_max: 1 << 15,
};

fuzz_target!(|input: &[u8]| {
    let &[state, step, ref wire @ ..] = input else {
        return;
    };
    let pieces = drive(state, wire, usize::from(step).max(1));
    let whole = drive(state, wire, wire.len().max(1));
    assert_eq!(pieces, whole, "the pieces do not matter");
});

/// The frames that a wire brings, and how it ends.
fn drive(state: u8, wire: &[u8], step: usize) -> (Vec<Frame>, Option<Violation>) {
    let sender = if state % 8 < 4 {
        Sender::Client
    } else {
        Sender::Server
    };
    let mut decoder = Decoder::new(sender, LIMITS);
    if let Some(before) = (state % 4).checked_sub(1) {
        decoder.set_version(Version::ALL[usize::from(before)]);
    }
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in wire.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(item)) => {
                    assert!(buffer.len() < before);
                    let Item::Frame(frame) = item else { continue };
                    assert!(frame.headers.len() <= LIMITS.header_count_max);
                    assert!(frame.body.len() <= LIMITS.body_bytes_max);
                    if let Some(version) = opened(&frame) {
                        decoder.set_version(version);
                    }
                    frames.push(frame);
                }
                Ok(None) => {
                    assert!(buffer.len() <= LIMITS.body_bytes_max.max(LIMITS.header_bytes_max));
                    break;
                }
                Err(violation) => {
                    let farewell = violation.farewell().unwrap_or_default();
                    assert!(farewell.len() <= 256 + LIMITS.header_line_bytes_max);
                    return (frames, Some(violation));
                }
            }
        }
    }
    (frames, None)
}

/// The version that a frame opens a connection with.
fn opened(frame: &Frame) -> Option<Version> {
    let name = match frame.command {
        Command::Connected => "version",
        Command::Connect | Command::Stomp => "accept-version",
        _ => return None,
    };
    Version::choose(frame.headers.get(name).map(|value| &**value), &Version::ALL)
}
