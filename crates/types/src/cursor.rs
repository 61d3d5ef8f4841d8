//! Positions in the log.
//!
//! The text of a cursor is base64url without padding of: version byte `1`, the epoch as 8 bytes big endian,
//! the offset as an unsigned LEB128 varint. Clients treat it as opaque; the version byte lets an engine with
//! several partitions carry a vector of offsets later.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A position in the log's one order. Offsets grow; they may have gaps; 0 is before the first message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// Before the first message.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The identity of one log. A new log draws a new one at random and never uses an old one again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// A place to resume from: the last message that was seen, and the log that it was seen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log.
    pub epoch: Epoch,
    /// The last message seen.
    pub offset: Offset,
}

/// The text is not a cursor that this version wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorError;

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a cursor: pass an id exactly as a message or a page carried it, or `earliest`, or `latest`")
    }
}

impl std::error::Error for CursorError {}

const VERSION: u8 = 1;
/// Version, epoch, and a varint of at most ten bytes.
const BYTES_MAX: usize = 1 + 8 + 10;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; BYTES_MAX];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.epoch.0.to_be_bytes());
        let mut len = 9;
        let mut rest = self.offset.0;
        while rest >= 0x80 {
            bytes[len] = (rest as u8) | 0x80;
            rest >>= 7;
            len += 1;
        }
        bytes[len] = rest as u8;
        let mut text = [0u8; BYTES_MAX.div_ceil(3) * 4];
        let written = URL_SAFE_NO_PAD
            .encode_slice(&bytes[..=len], &mut text)
            .map_err(|_| fmt::Error)?;
        f.write_str(str::from_utf8(&text[..written]).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let mut bytes = [0u8; BYTES_MAX + 2];
        if text.len() > BYTES_MAX.div_ceil(3) * 4 {
            return Err(CursorError);
        }
        let len = URL_SAFE_NO_PAD
            .decode_slice(text, &mut bytes)
            .map_err(|_| CursorError)?;
        let bytes = &bytes[..len];
        if len < 10 || bytes[0] != VERSION {
            return Err(CursorError);
        }
        let epoch = u64::from_be_bytes(bytes[1..9].try_into().map_err(|_| CursorError)?);
        let mut offset = 0u64;
        for (at, byte) in bytes[9..].iter().enumerate() {
            let part = u64::from(byte & 0x7f);
            let shifted = part.checked_shl(7 * at as u32).ok_or(CursorError)?;
            if shifted >> (7 * at as u32) != part {
                return Err(CursorError);
            }
            offset |= shifted;
            if byte & 0x80 == 0 {
                let cursor = Self {
                    epoch: Epoch(epoch),
                    offset: Offset(offset),
                };
                // One text per position: a longer spelling of the same number is refused.
                let minimal = *byte != 0 || at == 0;
                return if at + 10 == len && minimal {
                    Ok(cursor)
                } else {
                    Err(CursorError)
                };
            }
        }
        Err(CursorError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursor_text_parses_back(epoch: u64, offset: u64) {
            let cursor = Cursor { epoch: Epoch(epoch), offset: Offset(offset) };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn any_text_that_parses_is_the_one_spelling(text in "[A-Za-z0-9_-]{0,32}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        for text in [
            "",
            "1",
            "latest",
            "AQ",
            "AgAAAAAAAAABBQ",
            "AQAAAAAAAAABhQA",
            "AQAAAAAAAAABBQ==",
            "ü",
            &"A".repeat(500),
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
    }
}
