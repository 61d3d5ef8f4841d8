//! Frames of a WebSocket client (RFC 6455, 5): masked ones out, unmasked ones in.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// What a frame is (RFC 6455, 5.2), but for continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// The end.
    Close,
    /// To be answered.
    Ping,
    /// The answer.
    Pong,
}

impl Opcode {
    const fn bits(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

/// Why the server closes (RFC 6455, 7.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseFrame {
    /// 1005 if the frame had none.
    pub code: u16,
    /// For people.
    pub reason: String,
}

/// A whole message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Valid UTF-8, as its bytes.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The server closes.
    Close(CloseFrame),
}

/// The server breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A reserved bit without an extension.
    Reserved,
    /// An opcode that is not defined, or a continuation of nothing, or none where one is due.
    Opcode,
    /// A server's frame with a mask (5.1).
    Masked,
    /// A control frame that is fragmented or over 125 bytes (5.5).
    Control,
    /// A 64-bit length with its top bit set, or not the shortest spelling (5.2).
    Length,
    /// A message over the limit.
    TooLarge,
    /// Text, or a close reason, that is not UTF-8.
    Text,
    /// A close frame of one byte, or with a code that never travels.
    Close,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "a frame has a reserved bit set",
            Self::Opcode => "a frame has an opcode that it cannot have here",
            Self::Masked => "a frame of the server is masked",
            Self::Control => "a control frame is fragmented or too long",
            Self::Length => "a frame's length is not validly written",
            Self::TooLarge => "a message is larger than this client takes",
            Self::Text => "text is not valid UTF-8",
            Self::Close => "a close frame is not valid",
        })
    }
}

impl std::error::Error for FrameError {}

/// Appends one whole frame, masked (RFC 6455, 5.3).
pub fn encode_frame(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    out.reserve(payload.len() + 14);
    out.push(0x80 | opcode.bits());
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 0x7e);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 0x7f);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    for (at, byte) in out[start..].iter_mut().enumerate() {
        *byte ^= mask[at & 3];
    }
}

/// Takes frames from the front of a buffer and joins fragments.
#[derive(Debug)]
pub struct Decoder {
    /// The message whose last fragment is awaited; its length is at most `message_bytes_max`.
    fragments: Option<(Opcode, BytesMut)>,
    message_bytes_max: usize,
}

struct Head {
    fin: bool,
    opcode: u8,
    payload_bytes: usize,
    own_bytes: usize,
}

impl Decoder {
    /// Takes messages of up to so many bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            fragments: None,
            message_bytes_max,
        }
    }

    /// The next message or control frame, or `None` if the buffer does not hold the whole of it yet.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Received>, FrameError> {
        while let Some(head) = self.head(buffer)? {
            if buffer.len() < head.own_bytes + head.payload_bytes {
                return Ok(None);
            }
            buffer.advance(head.own_bytes);
            let payload = buffer.split_to(head.payload_bytes);
            if let Some(received) = self.frame(&head, payload)? {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    fn head(&self, buffer: &[u8]) -> Result<Option<Head>, FrameError> {
        let [first, second, rest @ ..] = buffer else {
            return Ok(None);
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(FrameError::Reserved);
        }
        if second & 0x80 != 0 {
            return Err(FrameError::Masked);
        }
        let short = second & 0x7f;
        if opcode >= 8 && (!fin || short > 125) {
            return Err(FrameError::Control);
        }
        let (len, head_len) = match short {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        let shortest = match head_len {
            4 => len > 125,
            10 => len > 0xffff && len >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(FrameError::Length);
        }
        let held = self.fragments.as_ref().map_or(0, |(_, held)| held.len());
        let room = self.message_bytes_max.saturating_sub(held);
        match usize::try_from(len) {
            Ok(len) if opcode >= 8 || len <= room => Ok(Some(Head {
                fin,
                opcode,
                payload_bytes: len,
                own_bytes: head_len,
            })),
            _ => Err(FrameError::TooLarge),
        }
    }

    fn frame(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Received>, FrameError> {
        let opcode = match (head.opcode, &mut self.fragments) {
            (0, Some((_, joined))) => {
                joined.extend_from_slice(&payload);
                if !head.fin {
                    return Ok(None);
                }
                return match self.fragments.take() {
                    Some((opcode, whole)) => message(opcode, whole).map(Some),
                    None => Err(FrameError::Opcode),
                };
            }
            (1, None) => Opcode::Text,
            (2, None) => Opcode::Binary,
            (8, _) => return close(&payload).map(|close| Some(Received::Close(close))),
            (9, _) => return Ok(Some(Received::Ping(payload.freeze()))),
            (10, _) => return Ok(Some(Received::Pong(payload.freeze()))),
            _ => return Err(FrameError::Opcode),
        };
        if head.fin {
            return message(opcode, payload).map(Some);
        }
        self.fragments = Some((opcode, payload));
        Ok(None)
    }
}

fn message(opcode: Opcode, payload: BytesMut) -> Result<Received, FrameError> {
    let payload = payload.freeze();
    match opcode {
        Opcode::Text if str::from_utf8(&payload).is_err() => Err(FrameError::Text),
        Opcode::Text => Ok(Received::Text(payload)),
        _ => Ok(Received::Binary(payload)),
    }
}

fn close(payload: &[u8]) -> Result<CloseFrame, FrameError> {
    let (code, reason) = match payload {
        [] => {
            return Ok(CloseFrame {
                code: 1005,
                reason: String::new(),
            });
        }
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        [_] => return Err(FrameError::Close),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::Close);
    }
    let reason = str::from_utf8(reason).map_err(|_| FrameError::Text)?;
    Ok(CloseFrame {
        code,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
