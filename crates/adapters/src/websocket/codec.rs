//! Frames from a client become messages (RFC 6455 5 to 8, RFC 7692 6.2).
//!
//! A frame that is complete in the input is unmasked where it lies. Of a larger one the bytes are taken as they
//! come, so that invalid UTF-8 is found at once and nothing is copied twice; the announced length is judged
//! against the limits before its first byte is taken. Between calls the input holds less than a frame's
//! header and a control frame's payload.
//!
//! Invariant: the bytes kept never exceed the limits in [`Rules`], and an idle decoder is one pointer.

use bytes::{Buf, Bytes, BytesMut};
use tidings_types::RefusalCode;

use super::deflate::{self, InflateError};
use super::frame::{CONTROL_BYTES_MAX, FIN, Opcode, RSV1};
use super::mask::unmask;
use super::utf8::Utf8;

/// A payload at least this long keeps the read buffer that it lies in; a shorter one is copied out, so that it
/// does not hold a whole buffer for as long as it stays in memory.
const SHARE_BYTES_MIN: usize = 16 << 10;

/// What a connection's frames are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The payload of one message, after inflating.
    pub message_bytes_max: usize,
    /// Whether permessage-deflate was agreed on, and RSV1 may be set.
    pub deflate: bool,
}

impl Rules {
    /// The payload of one message as it travels. Deflate may make it a little longer: five bytes for each
    /// stored block, and some at its ends.
    fn wire_bytes_max(self, deflated: bool) -> usize {
        let slack = if deflated {
            self.message_bytes_max / 256 + 64
        } else {
            0
        };
        self.message_bytes_max.saturating_add(slack)
    }
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message of valid UTF-8.
    Text(Bytes),
    /// A message of bytes.
    Binary(Bytes),
    /// To be answered by a pong with the same payload.
    Ping(Bytes),
    /// A sign of life.
    Pong,
    /// The goodbye, with its code if it has one. Nothing after it counts.
    Close(Option<u16>),
}

macro_rules! violations {
    ($($(#[$doc:meta])* $name:ident $code:ident $text:literal,)*) => {
        /// How a client broke the protocol. The connection ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Violation {
            $($(#[$doc])* $name,)*
        }

        impl Violation {
            /// The row of the refusal table, with the close code.
            #[must_use]
            pub const fn code(self) -> RefusalCode {
                match self { $(Self::$name => RefusalCode::$code,)* }
            }

            /// The reason in the close frame.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

violations! {
    /// RFC 6455 5.2: RSV2 or RSV3; or RSV1 without compression, on a later fragment or a control frame.
    ReservedBit BadFrame "a reserved bit is set that no extension defines here",
    /// RFC 6455 5.2.
    ReservedOpcode BadFrame "the opcode is reserved",
    /// RFC 6455 5.1.
    Unmasked BadFrame "a client must mask its frames",
    /// RFC 6455 5.5.
    FragmentedControl BadFrame "a control frame cannot be fragmented",
    /// RFC 6455 5.5.
    LongControl BadFrame "a control frame is longer than 125 bytes",
    /// RFC 6455 5.2.
    LongLength BadFrame "the length is not in its shortest form",
    /// RFC 6455 5.2.
    LengthTopBit BadFrame "the top bit of the length is set",
    /// RFC 6455 5.4.
    NothingToContinue BadFrame "there is no message to continue",
    /// RFC 6455 5.4.
    MessageUnfinished BadFrame "a message began before the one before it ended",
    /// RFC 6455 5.5.1: one byte of payload.
    ShortClose BadFrame "a close frame holds one byte",
    /// RFC 6455 7.4.
    BadCloseCode BadFrame "the close code may not be sent",
    /// RFC 6455 5.5.1.
    BadCloseText BadText "the close reason is not UTF-8",
    /// RFC 6455 8.1.
    BadText BadText "a text message is not UTF-8: send bytes as a binary message",
    /// RFC 7692 7.2.2.
    BadDeflate BadFrame "a message does not inflate",
    /// RFC 6455 7.4.1.
    TooLarge MessageTooLarge "the message is larger than the server takes: send less at once",
}

/// One client's frames, between two reads. See the head of the file.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

/// A message of which not everything is here.
#[derive(Debug)]
struct Partial {
    text: bool,
    deflated: bool,
    utf8: Utf8,
    payload: Vec<u8>,
    /// The frame that is being taken; `None` between two fragments.
    frame: Option<OpenFrame>,
}

#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    /// Payload bytes to come.
    rest: usize,
    /// The mask for the next of them.
    mask: [u8; 4],
    /// Whether it is the message's last.
    fin: bool,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    fin: bool,
    deflated: bool,
    opcode: Opcode,
    /// Of the payload; within the limits.
    len: usize,
    mask: [u8; 4],
    /// Of the header itself.
    size: usize,
}

impl Decoder {
    /// Takes the next message or control frame from the front of the input; `None` if more bytes are needed.
    pub fn next(
        &mut self,
        input: &mut BytesMut,
        rules: Rules,
    ) -> Result<Option<Incoming>, Violation> {
        loop {
            if let Some(partial) = self.partial.as_mut().filter(|it| it.frame.is_some()) {
                match partial.absorb(input)? {
                    Absorbed::Starved => return Ok(None),
                    Absorbed::Fragment => {}
                    Absorbed::Message => return self.finish(rules).map(Some),
                }
            }
            let Some(header) = self.header(input, rules)? else {
                return Ok(None);
            };
            let complete = input.len() >= header.size + header.len;
            if header.opcode.is_control() {
                if !complete {
                    return Ok(None);
                }
                let payload = take_payload(input, header);
                return control(header.opcode, &payload).map(Some);
            }
            if complete && header.fin && self.partial.is_none() {
                return whole_message(input, header, rules).map(Some);
            }
            self.open(input, header);
        }
    }

    /// The bytes that are kept of an incomplete message.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.partial.as_ref().map_or(0, |it| it.payload.capacity())
    }

    fn header(&self, input: &[u8], rules: Rules) -> Result<Option<Header>, Violation> {
        let &[first, second, ref rest @ ..] = input else {
            return Ok(None);
        };
        let (opcode, deflated) = self.judge_start(first, second, rules)?;
        let Some((len, extra)) = length(second & 0x7f, rest)? else {
            return Ok(None);
        };
        let before = self.partial.as_ref().map_or(0, |it| it.payload.len());
        let deflated_message = self.partial.as_ref().map_or(deflated, |it| it.deflated);
        let room = rules
            .wire_bytes_max(deflated_message)
            .saturating_sub(before);
        if !opcode.is_control() && len > room as u64 {
            return Err(Violation::TooLarge);
        }
        let Some(mask) = rest.get(extra..extra + 4) else {
            return Ok(None);
        };
        Ok(Some(Header {
            fin: first & FIN != 0,
            deflated,
            opcode,
            len: len as usize,
            mask: [mask[0], mask[1], mask[2], mask[3]],
            size: 2 + extra + 4,
        }))
    }

    /// What the first two bytes alone decide.
    fn judge_start(
        &self,
        first: u8,
        second: u8,
        rules: Rules,
    ) -> Result<(Opcode, bool), Violation> {
        let opcode = Opcode::of(first).ok_or(Violation::ReservedOpcode)?;
        let starts_message = matches!(opcode, Opcode::Text | Opcode::Binary);
        let permitted = if rules.deflate && starts_message {
            RSV1
        } else {
            0
        };
        if first & 0x70 & !permitted != 0 {
            return Err(Violation::ReservedBit);
        }
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        if opcode.is_control() {
            if first & FIN == 0 {
                return Err(Violation::FragmentedControl);
            }
            if usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
                return Err(Violation::LongControl);
            }
        } else if starts_message && self.partial.is_some() {
            return Err(Violation::MessageUnfinished);
        } else if !starts_message && self.partial.is_none() {
            return Err(Violation::NothingToContinue);
        }
        Ok((opcode, first & RSV1 != 0))
    }

    /// Begins to take a data frame.
    fn open(&mut self, input: &mut BytesMut, header: Header) {
        input.advance(header.size);
        let partial = self.partial.get_or_insert_with(|| {
            Box::new(Partial {
                text: header.opcode == Opcode::Text,
                deflated: header.deflated,
                utf8: Utf8::default(),
                payload: Vec::new(),
                frame: None,
            })
        });
        partial.frame = Some(OpenFrame {
            rest: header.len,
            mask: header.mask,
            fin: header.fin,
        });
    }

    fn finish(&mut self, rules: Rules) -> Result<Incoming, Violation> {
        let Some(partial) = self.partial.take() else {
            return Err(Violation::NothingToContinue);
        };
        if partial.deflated {
            return inflated(&partial.payload, partial.text, rules);
        }
        if partial.text && !partial.utf8.is_complete() {
            return Err(Violation::BadText);
        }
        Ok(message(partial.text, partial.payload.into()))
    }
}

enum Absorbed {
    /// The input is used up and the frame goes on.
    Starved,
    /// The frame is complete, the message is not.
    Fragment,
    /// The message is complete.
    Message,
}

impl Partial {
    /// Takes what is there of the open frame.
    fn absorb(&mut self, input: &mut BytesMut) -> Result<Absorbed, Violation> {
        let Some(mut frame) = self.frame else {
            return Ok(Absorbed::Fragment);
        };
        let len = frame.rest.min(input.len());
        let bytes = &mut input[..len];
        frame.mask = unmask(bytes, frame.mask);
        if self.text && !self.deflated {
            self.utf8.feed(bytes).map_err(|_| Violation::BadText)?;
        }
        grow(&mut self.payload, len, frame.rest);
        self.payload.extend_from_slice(bytes);
        input.advance(len);
        frame.rest -= len;
        if frame.rest > 0 {
            self.frame = Some(frame);
            return Ok(Absorbed::Starved);
        }
        self.frame = None;
        Ok(if frame.fin {
            Absorbed::Message
        } else {
            Absorbed::Fragment
        })
    }
}

/// Makes room for `len` bytes by doubling, but never for more than the open frame still brings: what a peer
/// only announces costs nothing, and a finished payload is not half empty.
fn grow(payload: &mut Vec<u8>, len: usize, frame_rest: usize) {
    let free = payload.capacity() - payload.len();
    if free < len {
        payload.reserve_exact(payload.capacity().clamp(len, frame_rest.max(len)));
    }
}

/// The payload length and how many bytes of `rest` spell it (RFC 6455 5.2).
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let (len, size, minimum) = match short {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2, 126),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8, 1 << 16),
            None => return Ok(None),
        },
        len => (u64::from(len), 0, 0),
    };
    if len >> 63 != 0 {
        return Err(Violation::LengthTopBit);
    }
    if len < minimum {
        return Err(Violation::LongLength);
    }
    Ok(Some((len, size)))
}

/// Takes a complete frame off the input and gives its payload, unmasked.
fn take_payload(input: &mut BytesMut, header: Header) -> Bytes {
    input.advance(header.size);
    unmask(&mut input[..header.len], header.mask);
    if header.len >= SHARE_BYTES_MIN {
        return input.split_to(header.len).freeze();
    }
    let payload = Bytes::copy_from_slice(&input[..header.len]);
    input.advance(header.len);
    payload
}

/// A message in one frame, all of it in the input: the common case.
fn whole_message(
    input: &mut BytesMut,
    header: Header,
    rules: Rules,
) -> Result<Incoming, Violation> {
    let text = header.opcode == Opcode::Text;
    if header.deflated {
        input.advance(header.size);
        let payload = &mut input[..header.len];
        unmask(payload, header.mask);
        let message = inflated(payload, text, rules);
        input.advance(header.len);
        return message;
    }
    let payload = take_payload(input, header);
    if text && simdutf8::basic::from_utf8(&payload).is_err() {
        return Err(Violation::BadText);
    }
    Ok(message(text, payload))
}

fn message(text: bool, payload: Bytes) -> Incoming {
    if text {
        Incoming::Text(payload)
    } else {
        Incoming::Binary(payload)
    }
}

fn inflated(payload: &[u8], text: bool, rules: Rules) -> Result<Incoming, Violation> {
    let payload =
        deflate::inflate(payload, rules.message_bytes_max).map_err(|error| match error {
            InflateError::Corrupt => Violation::BadDeflate,
            InflateError::TooLarge => Violation::TooLarge,
        })?;
    if text && simdutf8::basic::from_utf8(&payload).is_err() {
        return Err(Violation::BadText);
    }
    Ok(message(text, payload))
}

fn control(opcode: Opcode, payload: &Bytes) -> Result<Incoming, Violation> {
    match opcode {
        Opcode::Ping => Ok(Incoming::Ping(payload.clone())),
        Opcode::Close => close_code(payload).map(Incoming::Close),
        _ => Ok(Incoming::Pong),
    }
}

/// RFC 6455 5.5.1 and 7.4.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Violation::ShortClose)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::BadCloseCode);
    }
    if str::from_utf8(reason).is_err() {
        return Err(Violation::BadCloseText);
    }
    Ok(Some(code))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
