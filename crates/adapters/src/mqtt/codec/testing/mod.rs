//! What the codec's tests share: the tables of packets, and a decoder in the state that each needs.

mod samples;
mod violations_connect;
mod violations_connected;

use bytes::BytesMut;

use super::{Decoder, Packet, PacketLimits, Version, Violation};

pub(super) use samples::samples;

/// Small enough that the tables can go over them.
pub(super) const LIMITS: PacketLimits = PacketLimits {
    packet_bytes_max: 1 << 16,
    items_max: 8,
};

/// What a server does with a packet that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Close without a word.
    Close,
    /// A CONNACK of 3.1.1 with this return code, then close.
    ReturnCode(u8),
    /// A CONNACK of 5.0 with this reason code, then close.
    Connack(u8),
    /// A DISCONNECT of 5.0 with this reason code, then close.
    Disconnect(u8),
}

/// A packet that breaks a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Violating {
    pub(super) name: &'static str,
    /// The version of the CONNECT before it; `None` if it comes first.
    pub(super) state: Option<Version>,
    pub(super) bytes: &'static [u8],
    /// The statement that it breaks.
    pub(super) statement: &'static str,
    pub(super) outcome: Outcome,
}

/// A valid packet.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) name: &'static str,
    /// The version of the CONNECT before it; `None` if it is the CONNECT.
    pub(super) state: Option<Version>,
    pub(super) bytes: &'static [u8],
    pub(super) packet: Packet,
}

/// Rows of `state outcome(code) "statement" "name" b"bytes";`.
macro_rules! violations {
    ($($state:ident $outcome:ident $(($code:literal))? $statement:literal $name:literal $bytes:literal;)*) => {
        pub(in crate::mqtt::codec) const ROWS: &[Violating] = &[$(Violating {
            name: $name,
            state: violations!(@state $state),
            bytes: $bytes,
            statement: $statement,
            outcome: violations!(@outcome $outcome $($code)?),
        },)*];
    };
    (@state before) => { None };
    (@state v3) => { Some(Version::V3) };
    (@state v4) => { Some(Version::V4) };
    (@state v5) => { Some(Version::V5) };
    (@outcome close) => { Outcome::Close };
    (@outcome return_code $code:literal) => { Outcome::ReturnCode($code) };
    (@outcome connack $code:literal) => { Outcome::Connack($code) };
    (@outcome disconnect $code:literal) => { Outcome::Disconnect($code) };
}
use violations;

/// Every packet that breaks a rule.
pub(super) fn violating() -> impl Iterator<Item = &'static Violating> {
    violations_connect::ROWS
        .iter()
        .chain(violations_connected::ROWS)
}

/// The shortest CONNECT of a version.
pub(super) const fn connect_bytes(version: Version) -> &'static [u8] {
    match version {
        Version::V3 => b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a",
        Version::V4 => b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        Version::V5 => b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00",
    }
}

/// A decoder that has seen the CONNECT, if there was one.
pub(super) fn decoder(state: Option<Version>) -> Decoder {
    let mut decoder = Decoder::new(LIMITS);
    if let Some(version) = state {
        let mut input = BytesMut::from(connect_bytes(version));
        assert!(matches!(decoder.decode(&mut input), Ok(Some(_))));
        assert!(input.is_empty());
    }
    decoder
}

/// Everything that a decoder finds in bytes that come in pieces, and how it ends.
pub(super) fn decode_pieces<'a>(
    mut decoder: Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Option<Violation>, usize) {
    let mut input = BytesMut::new();
    let mut found = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(packet)) => found.push(packet),
                Ok(None) => break,
                Err(violation) => return (found, Some(violation), input.len()),
            }
        }
    }
    (found, None, input.len())
}
