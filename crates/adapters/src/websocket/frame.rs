//! Frames to a client (RFC 6455 5.2): never masked, never fragmented, header and payload in one buffer.

use bytes::{BufMut, Bytes, BytesMut};

/// The longest payload of a control frame (RFC 6455 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// The longest reason of a close frame: what its two bytes of code leave of a control frame.
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

pub(super) const FIN: u8 = 0x80;
pub(super) const RSV1: u8 = 0x40;

/// What a frame is (RFC 6455 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message.
    Continuation = 0x0,
    /// A message that is UTF-8 text.
    Text = 0x1,
    /// A message of bytes.
    Binary = 0x2,
    /// The goodbye.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xa,
}

impl Opcode {
    /// The opcode of a frame's first byte; `None` if it is reserved.
    #[must_use]
    pub fn of(first: u8) -> Option<Self> {
        Some(match first & 0x0f {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Whether it is a control frame, which may stand between the fragments of a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// An unfragmented frame.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    build(FIN | opcode as u8, payload)
}

/// An unfragmented frame whose payload is deflated (RFC 7692 6.1: RSV1).
#[must_use]
pub fn deflated_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    build(FIN | RSV1 | opcode as u8, payload)
}

/// An empty ping.
#[must_use]
pub fn ping() -> Bytes {
    Bytes::from_static(&[FIN | Opcode::Ping as u8, 0])
}

/// A close frame; no code is an empty one. The reason is cut at a character, to what fits.
#[must_use]
pub fn close(code: Option<u16>, reason: &str) -> Bytes {
    let Some(code) = code else {
        return frame(Opcode::Close, &[]);
    };
    let mut payload = Vec::with_capacity(CONTROL_BYTES_MAX);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(cut(reason).as_bytes());
    frame(Opcode::Close, &payload)
}

/// As much of the text as a close frame's reason holds, whole characters only.
fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

fn build(first: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(10 + payload.len());
    out.put_u8(first);
    // The shortest of the three forms, as RFC 6455 5.2 requires.
    match payload.len() {
        len @ ..=125 => out.put_u8(len as u8),
        len @ ..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        for (len, expect) in [
            (0, vec![0x82, 0]),
            (1, vec![0x82, 1]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (65_535, vec![0x82, 126, 0xff, 0xff]),
            (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let out = frame(Opcode::Binary, &vec![7; len]);
            assert_eq!(out[..expect.len()], expect[..], "{len}");
            assert_eq!(out.len(), expect.len() + len);
            assert!(out[expect.len()..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn frames_are_written_as_the_specification_shows_them() {
        for (out, expect) in [
            (frame(Opcode::Text, b"Hello"), &b"\x81\x05Hello"[..]),
            (frame(Opcode::Pong, b"Hello"), b"\x8a\x05Hello"),
            (deflated_frame(Opcode::Text, b"\x00"), b"\xc1\x01\x00"),
            (ping(), b"\x89\x00"),
            (close(None, "not sent"), b"\x88\x00"),
            (close(Some(1000), ""), b"\x88\x02\x03\xe8"),
            (close(Some(1012), "bye"), b"\x88\x05\x03\xf4bye"),
        ] {
            assert_eq!(out, expect);
        }
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let out = close(Some(1008), &"ä".repeat(100));
        assert_eq!(out[1], 124, "61 characters of two bytes, and the code");
        assert!(str::from_utf8(&out[4..]).is_ok());
        let out = close(Some(1008), &"a".repeat(200));
        assert_eq!(out[1], 125);
    }
}
