//! Unmasking of client frames (RFC 6455 5.3), in place.

/// Applies the mask to the bytes and returns it rotated, so that the next bytes of the same frame can follow.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let word = u32::from_ne_bytes(mask);
    // Eight bytes are two periods of the mask, so that every chunk gets the same word and the compiler can
    // use vector registers.
    let wide = (u64::from(word) << 32) | u64::from(word);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Ok(eight) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ wide).to_ne_bytes());
        }
    }
    let rest = chunks.into_remainder();
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    let mut next = mask;
    next.rotate_left(rest.len() % 4);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unmasking_in_pieces_equals_the_formula(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            mask: [u8; 4],
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let expect: Vec<u8> =
                bytes.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
            let mut found = bytes.clone();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut key, mut from) = (mask, 0);
            for cut in cuts {
                key = unmask(&mut found[from..cut], key);
                from = cut;
            }
            prop_assert_eq!(found, expect);
        }
    }
}
