//! Deflate and inflate of single messages (RFC 7692 7.2).
//!
//! Both directions run with `no_context_takeover`, so no state outlives a message. One deflater per window
//! size and one inflater exist per thread (about 270 KB and 45 KB), none per connection, and a deflated frame
//! is the same for every subscriber with the same window.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::extension::Deflate;

/// A payload shorter than this is not worth a deflater's reset and is sent as it is, which RFC 7692 6
/// permits for every message.
pub(super) const DEFLATE_BYTES_MIN: usize = 96;

/// What a sync flush ends with; it does not travel (RFC 7692 7.2.1).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The tail put back, and a final empty block behind it. The inflater reaches the end of the stream exactly
/// after these bytes if, and only if, the message ended on a block boundary: a truncated one is found.
const END_OF_MESSAGE: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Between speed (1) and size (9). A message is deflated once for all its subscribers, but on a shard.
const LEVEL: Compression = Compression::new(4);

/// The scratch buffer is given back to the allocator when a message made it larger than this.
const SCRATCH_BYTES_KEPT: usize = 256 << 10;

/// Windows of 2^9 to 2^15 bytes.
const WINDOWS: usize = (Deflate::WINDOW_BITS_MAX - Deflate::WINDOW_BITS_MIN + 1) as usize;

#[derive(Default)]
struct Pool {
    deflaters: [Option<Compress>; WINDOWS],
    inflater: Option<Decompress>,
    scratch: Vec<u8>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Why a message could not be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    /// Not deflate, truncated, or with bytes after its final block.
    Corrupt,
    /// It inflates to more than the limit; what was inflated so far is gone.
    TooLarge,
}

/// Deflates a payload and hands it over without the flush tail; `None` if deflating does not make it shorter.
pub(super) fn deflated<T>(
    payload: &[u8],
    deflate: Deflate,
    take: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    POOL.with_borrow_mut(|pool| {
        let bits = deflate.window_bits();
        let slot = &mut pool.deflaters[usize::from(bits - Deflate::WINDOW_BITS_MIN)];
        let deflater =
            slot.get_or_insert_with(|| Compress::new_with_window_bits(LEVEL, false, bits));
        deflater.reset();
        let out = &mut pool.scratch;
        out.clear();
        // Deflating stops where it would not help any more: the output never needs to be larger.
        out.reserve(payload.len() + FLUSH_TAIL.len() + 1);
        let room = out.capacity();
        let status = deflater.compress_vec(payload, out, FlushCompress::Sync);
        let complete = status.is_ok()
            && deflater.total_in() == payload.len() as u64
            && out.len() < room
            && out.ends_with(&FLUSH_TAIL);
        let len = out.len().saturating_sub(FLUSH_TAIL.len());
        let taken = (complete && len < payload.len()).then(|| take(&out[..len]));
        if out.capacity() > SCRATCH_BYTES_KEPT {
            *out = Vec::new();
        }
        taken
    })
}

/// Inflates a message to at most `bytes_max`. The peer's window may be any size.
pub(super) fn inflate(payload: &[u8], bytes_max: usize) -> Result<Bytes, InflateError> {
    if payload.is_empty() {
        // RFC 7692 7.2.3.6 has one zero byte for an empty message; nothing at all can mean nothing else.
        return Ok(Bytes::new());
    }
    POOL.with_borrow_mut(|pool| {
        let inflater = pool
            .inflater
            .get_or_insert_with(|| Decompress::new_with_window_bits(false, 15));
        inflater.reset(false);
        let guess = payload.len().saturating_mul(3).clamp(256, 64 << 10);
        let mut out = Vec::with_capacity(guess.min(bytes_max.saturating_add(1)));
        let end = inflate_part(inflater, payload, &mut out, bytes_max)?;
        match end {
            // A final block in the message itself (RFC 7692 7.2.3.4): then at most the header of the empty
            // block that a sender adds, so that there is a tail to leave out.
            Some(rest) if rest.is_empty() || rest == [0] => {}
            Some(_) => return Err(InflateError::Corrupt),
            None => {
                let len = out.len();
                let end = inflate_part(inflater, &END_OF_MESSAGE, &mut out, bytes_max)?;
                // A truncated stored block would take the tail for its bytes.
                if out.len() != len || end.is_none_or(|rest| !rest.is_empty()) {
                    return Err(InflateError::Corrupt);
                }
            }
        }
        // The payload may stay in memory for long: it does not keep what it does not use.
        out.shrink_to_fit();
        Ok(out.into())
    })
}

/// Inflates all of `part`; the rest of it if the stream ended before.
fn inflate_part<'a>(
    inflater: &mut Decompress,
    mut part: &'a [u8],
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<Option<&'a [u8]>, InflateError> {
    loop {
        if out.len() == out.capacity() {
            // One byte over the limit shows that the limit is passed.
            let growth = out
                .len()
                .max(256)
                .min((bytes_max + 1).saturating_sub(out.len()));
            out.reserve_exact(growth);
        }
        let (before_in, before_out) = (inflater.total_in(), out.len());
        let status = inflater
            .decompress_vec(part, out, FlushDecompress::None)
            .map_err(|_| InflateError::Corrupt)?;
        let taken = (inflater.total_in() - before_in) as usize;
        part = &part[taken..];
        if out.len() > bytes_max {
            return Err(InflateError::TooLarge);
        }
        let room = out.len() < out.capacity();
        match status {
            Status::StreamEnd => return Ok(Some(part)),
            _ if part.is_empty() && room => return Ok(None),
            _ if taken == 0 && out.len() == before_out && room => {
                return Err(InflateError::Corrupt);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Deflate as any client may do it: one stream, sync flush, tail removed.
    fn client_deflate(payload: &[u8], bits: u8) -> Vec<u8> {
        let mut deflater = Compress::new_with_window_bits(Compression::best(), false, bits);
        let mut out = Vec::with_capacity(payload.len() * 2 + 64);
        deflater
            .compress_vec(payload, &mut out, FlushCompress::Sync)
            .unwrap();
        assert!(out.ends_with(&FLUSH_TAIL));
        out.truncate(out.len() - 4);
        out
    }

    /// Inflate as a client with a window of this size does, in pieces so small that only the window can
    /// supply earlier bytes.
    fn client_inflate(deflated: &[u8], bits: u8) -> Vec<u8> {
        let mut inflater = Decompress::new_with_window_bits(false, bits);
        let input = [deflated, &FLUSH_TAIL].concat();
        let mut out = Vec::new();
        let mut at = 0;
        loop {
            let mut piece = Vec::with_capacity(64);
            inflater
                .decompress_vec(&input[at..], &mut piece, FlushDecompress::None)
                .unwrap();
            at = inflater.total_in() as usize;
            if piece.is_empty() && at == input.len() {
                return out;
            }
            out.extend_from_slice(&piece);
        }
    }

    fn words(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut out = Vec::new();
        while out.len() < len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            out.extend_from_slice(format!("word{} ", (state >> 20) & 0x3ff).as_bytes());
        }
        out.truncate(len);
        out
    }

    #[test]
    fn a_client_with_the_agreed_window_inflates_every_message() {
        for bits in Deflate::WINDOW_BITS_MIN..=Deflate::WINDOW_BITS_MAX {
            let deflate = Deflate::with_window_bits(bits).unwrap();
            for len in [1, 20, 96, 500, 5_000, 70_000, 300_000] {
                let payload = words(len);
                let found = deflated(&payload, deflate, <[u8]>::to_vec);
                if let Some(found) = found {
                    assert!(found.len() < len);
                    assert!(client_inflate(&found, bits) == payload, "{bits} {len}");
                } else {
                    assert!(len < 100, "{bits} {len}: should have become shorter");
                }
            }
        }
    }

    #[test]
    fn what_deflating_does_not_shorten_is_left_alone() {
        let mut state = 7u64;
        let noise: Vec<u8> = (0..4_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let deflate = Deflate::with_window_bits(15).unwrap();
        assert_eq!(deflated(&noise, deflate, <[u8]>::len), None);
        assert_eq!(deflated(b"", deflate, <[u8]>::len), None);
    }

    #[test]
    fn messages_of_the_specification_inflate() {
        for (payload, expect) in [
            // RFC 7692 7.2.3.1, 7.2.3.3 (no compression), 7.2.3.4 (final block), 7.2.3.5 (two blocks).
            (&b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..], &b"Hello"[..]),
            (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
            (
                b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
                b"Hello",
            ),
            (b"\x00", b""),
            (b"", b""),
        ] {
            assert_eq!(inflate(payload, 100).unwrap(), expect, "{payload:x?}");
        }
    }

    #[test]
    fn what_is_not_a_whole_deflated_message_is_refused() {
        for payload in [
            &b"\xff\xff\xff"[..],
            b"\x07",
            b"\xf2\x48\xcd",
            b"\xf2\x48\xcd\xc9\xc9",
            b"\x00\x05\x00\xfa\xff\x48",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x01",
            b"\x00\x05\x00\x00\x00Hello",
        ] {
            assert_eq!(
                inflate(payload, 100),
                Err(InflateError::Corrupt),
                "{payload:x?}"
            );
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_limit() {
        let bomb = client_deflate(&vec![0; 50_000_000], 15);
        assert!(bomb.len() < 60_000);
        assert_eq!(inflate(&bomb, 1 << 20), Err(InflateError::TooLarge));
        let exact = client_deflate(&vec![0; 1 << 20], 15);
        assert_eq!(inflate(&exact, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(inflate(&exact, (1 << 20) - 1), Err(InflateError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_a_client_deflates_inflates_to_the_same(
            payload in proptest::collection::vec(0u8..20, 0..3000),
            bits in 9u8..=15,
        ) {
            let out = inflate(&client_deflate(&payload, bits), payload.len()).unwrap();
            prop_assert_eq!(out.as_ref(), payload);
        }

        #[test]
        fn any_bytes_inflate_within_the_limit_or_not_at_all(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(out) = inflate(&payload, 1000) {
                prop_assert!(out.len() <= 1000);
            }
        }
    }
}
