//! Bytes of a client into the MQTT decoder, in pieces of one size.
//!
//! The first byte of an input is the state (3, 4 or 5: after a CONNECT of 3.1, 3.1.1 or 5.0; anything else:
//! before it), the second the size of the pieces, the rest what the client sends. The corpus is made from the
//! tables of the codec's tests, which also replay it.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidings_adapters::mqtt::codec::{Decoder, PacketLimits};

const LIMITS: PacketLimits = PacketLimits {
    packet_bytes_max: 1 << 16,
    items_max: 8,
};

fuzz_target!(|input: &[u8]| {
    let &[state, step, ref wire @ ..] = input else {
        return;
    };
    let mut decoder = Decoder::new(LIMITS);
    let connect: &[u8] = match state {
        3 => b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a",
        4 => b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        5 => b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00",
        _ => b"",
    };
    let mut buffer = BytesMut::from(connect);
    let found = decoder.decode(&mut buffer);
    assert!(matches!(found, Ok(packet) if packet.is_some() != connect.is_empty()));
    for piece in wire.chunks(usize::from(step).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.clone();
            match decoder.decode(&mut buffer) {
                Ok(Some(_)) => assert_eq!(Some(before.len() - buffer.len()), announced(&before)),
                Ok(None) => {
                    assert_eq!(before, buffer);
                    break;
                }
                Err(violation) => {
                    assert!(violation.farewell().is_none_or(|bytes| bytes.len() <= 5));
                    return;
                }
            }
        }
    }
});

/// The length that the first packet announces.
fn announced(wire: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (index, byte) in wire.iter().skip(1).take(4).enumerate() {
        length += usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(length + index + 2);
        }
    }
    None
}
