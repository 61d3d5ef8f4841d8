//! The payloads of a measurement, and how receivers find them.
//!
//! A payload ends with `@T`, 16 hexadecimal digits of the time of publishing in ns on this process's clock, and 8 of
//! the message's number. It is text that every protocol here carries as it is, so that a receiver only has to search
//! the bytes that it reads; that the marker is last means that the payload was there as a whole.

use memchr::memmem::Finder;

const MARK: &[u8] = b"@T";
/// Mark, time and number.
const MARKER_BYTES: usize = 2 + 16 + 8;

/// A payload of the length, or of the marker's if that is longer.
pub fn payload(bytes: usize, time_ns: u64, number: u32) -> String {
    let filling = bytes.saturating_sub(MARKER_BYTES);
    format!("{:x<filling$}@T{time_ns:016x}{number:08x}", "")
}

/// The room in front of what is read where the rest of the last read goes.
pub const CARRY_MAX: usize = MARKER_BYTES - 1;

/// The end of what one connection read last, if a marker may begin in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carry {
    bytes: [u8; CARRY_MAX],
    /// At most `CARRY_MAX`.
    len: usize,
}

/// Finds markers.
#[derive(Debug)]
pub struct Scanner {
    finder: Finder<'static>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            finder: Finder::new(MARK),
        }
    }
}

impl Scanner {
    /// Calls `found` with the time and number of each marker in `buffer[CARRY_MAX..CARRY_MAX + read]` and what was
    /// carried over, which is put in front of it.
    pub fn scan(
        &self,
        carry: &mut Carry,
        buffer: &mut [u8],
        read: usize,
        mut found: impl FnMut(u64, u32),
    ) {
        let start = CARRY_MAX - carry.len;
        buffer[start..CARRY_MAX].copy_from_slice(&carry.bytes[..carry.len]);
        let bytes = &buffer[start..CARRY_MAX + read];
        let mut at = 0;
        while let Some(next) = self.finder.find(&bytes[at..]) {
            let mark = at + next;
            let Some(marker) = bytes.get(mark..mark + MARKER_BYTES) else {
                at = mark;
                break;
            };
            match (hex(&marker[2..18]), hex(&marker[18..])) {
                (Some(time_ns), Some(number)) => {
                    found(time_ns, number as u32);
                    at = mark + MARKER_BYTES;
                }
                _ => at = mark + MARK.len(),
            }
        }
        // From an incomplete marker on, or a last byte that may begin one.
        let rest = &bytes[at..];
        let keep = match self.finder.find(rest) {
            Some(mark) => rest.len() - mark,
            None => usize::from(rest.ends_with(b"@")),
        };
        carry.len = keep.min(CARRY_MAX);
        carry.bytes[..carry.len].copy_from_slice(&rest[rest.len() - carry.len..]);
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    for digit in digits {
        number = (number << 4) | u64::from(char::from(*digit).to_digit(16)?);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(input: &[u8], step: usize) -> Vec<(u64, u32)> {
        let scanner = Scanner::default();
        let mut carry = Carry::default();
        let mut buffer = vec![0; CARRY_MAX + step];
        let mut found = Vec::new();
        for part in input.chunks(step) {
            buffer[CARRY_MAX..CARRY_MAX + part.len()].copy_from_slice(part);
            scanner.scan(&mut carry, &mut buffer, part.len(), |time, number| {
                found.push((time, number));
            });
        }
        found
    }

    #[test]
    fn markers_are_found_wherever_reads_are_cut() {
        let mut input = b"@T@ @Tnot hexadecimal digits".to_vec();
        let mut expect = Vec::new();
        for number in 0..20 {
            let time = u64::MAX - u64::from(number);
            input.extend_from_slice(payload(40, time, number).as_bytes());
            input.extend_from_slice(b"\"}\x81~\n\n@");
            expect.push((time, number));
        }
        for step in 1..=input.len() {
            assert_eq!(scanned(&input, step), expect, "{step}");
        }
    }

    #[test]
    fn a_payload_has_the_length_that_was_asked_for() {
        assert_eq!(payload(128, 1, 2).len(), 128);
        assert_eq!(payload(1, 1, 2), "@T000000000000000100000002");
    }
}
