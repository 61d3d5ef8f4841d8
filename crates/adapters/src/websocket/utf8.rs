//! UTF-8 validation of a text that arrives in pieces (RFC 6455 8.1).
//!
//! A wrong byte is found in the piece that holds it, also within a code point that is not complete yet
//! (`F4 90` is wrong without its last two bytes). Whole pieces are validated by `simdutf8`.

/// The text is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

/// What is known of a text so far: valid, up to a code point of which the first bytes are here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// `pending[..len]` is a valid beginning of one code point.
    pending: [u8; 4],
    /// At most 3.
    len: u8,
}

impl Utf8 {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NotUtf8> {
        while self.len > 0 {
            let Some((first, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.pending[usize::from(self.len)] = *first;
            self.len += 1;
            bytes = rest;
            if is_whole(&self.pending[..usize::from(self.len)])? {
                self.len = 0;
            }
            debug_assert!(self.len < 4);
        }
        let (whole, tail) = bytes.split_at(bytes.len() - open_tail(bytes));
        simdutf8::basic::from_utf8(whole).map_err(|_| NotUtf8)?;
        if !tail.is_empty() {
            is_whole(tail)?;
            self.pending[..tail.len()].copy_from_slice(tail);
            self.len = tail.len() as u8;
        }
        Ok(())
    }

    /// Whether the text may end here.
    pub(super) fn is_complete(self) -> bool {
        self.len == 0
    }
}

/// Whether the bytes are whole code points; an error if nothing that follows can make them so.
fn is_whole(bytes: &[u8]) -> Result<bool, NotUtf8> {
    match str::from_utf8(bytes) {
        Ok(_) => Ok(true),
        Err(error) if error.error_len().is_none() => Ok(false),
        Err(_) => Err(NotUtf8),
    }
}

/// How many bytes at the end look like the beginning of a code point that goes on.
fn open_tail(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let needs = match bytes[bytes.len() - back] {
            0x80..0xc0 => continue,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
            0..0x80 => 1,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: &[&[u8]] = &[
        b"",
        b"plain",
        "κόσμε, Grüße, 日本語, 🦀🎉 end".as_bytes(),
        "\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}".as_bytes(),
        b"\xff",
        b"ab\xc0\x80",
        b"ab\xed\xa0\x80cd",
        b"\xf4\x90\x80\x80",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xf4\x90\x80\x80edited",
        b"\xf0\x9f\xa6",
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"0123456789012345678901234567890123456789\xe2\x82",
    ];

    /// The first length at which no continuation can make the text valid.
    fn doomed_at(text: &[u8]) -> Option<usize> {
        (1..=text.len()).find(|len| is_whole(&text[..*len]).is_err())
    }

    #[test]
    fn a_text_split_at_every_byte_is_judged_as_soon_as_possible() {
        for text in TEXTS {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let mut state = Utf8::default();
                    let cuts = [0..first, first..second, second..text.len()];
                    let judged = cuts.into_iter().find_map(|cut| {
                        let end = cut.end;
                        state.feed(&text[cut]).is_err().then_some(end)
                    });
                    let expect = doomed_at(text).map(|at| {
                        let ends = [first, second, text.len()];
                        *ends.iter().find(|end| **end >= at).unwrap()
                    });
                    assert_eq!(judged, expect, "{text:x?} at {first} and {second}");
                    if judged.is_none() {
                        assert_eq!(
                            state.is_complete(),
                            str::from_utf8(text).is_ok(),
                            "{text:x?}"
                        );
                    }
                }
            }
        }
    }
}
