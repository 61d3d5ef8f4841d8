//! Byte counts as people write them: `64KiB`, `1 MiB`, `1000`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// The text is not a byte count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteSizeError;

impl fmt::Display for ByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a size: write a whole number of bytes, or one with a unit such as 64KiB, 1MiB, 2GB")
    }
}

impl std::error::Error for ByteSizeError {}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let text = text.trim();
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().map_err(|_| ByteSizeError)?;
        let unit = unit.trim().to_ascii_lowercase();
        if unit.is_empty() {
            return Ok(Self(number));
        }
        let factor = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(ByteSizeError)?
            .1;
        number.checked_mul(factor).map(Self).ok_or(ByteSizeError)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides the count exactly, so that the text parses back to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1u64 << 10),
        ] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_and_without_units() {
        for (text, expect) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("64KiB", Some(65536)),
            ("1 MiB", Some(1 << 20)),
            ("2gb", Some(2_000_000_000)),
            ("7b", Some(7)),
            ("", None),
            ("KiB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(text.parse::<ByteSize>().ok().map(|s| s.0), expect, "{text}");
        }
    }

    #[test]
    fn printed_sizes_parse_back() {
        for bytes in [0, 1, 1023, 1024, 1025, 1 << 20, (1 << 30) + 1, 3 << 40] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
