//! Sizes in bytes, written with or without a unit.

use std::{fmt, str::FromStr};

/// The units, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A number of bytes, written without or with a unit: `4096`, `512 MiB`, `8GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// The text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a size is a number of bytes or has a unit of B, KiB, MiB, GiB or TiB, as in 512 MiB")]
pub(crate) struct NoSize;

impl FromStr for ByteSize {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let count: u64 = count.parse().map_err(|_| NoSize)?;
        let unit = match unit.trim_start() {
            "" => 1,
            name => {
                let known = UNITS.iter().find(|(known, _)| *known == name);
                known.ok_or(NoSize)?.1
            }
        };
        count.checked_mul(unit).map(Self).ok_or(NoSize)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact =
            (UNITS.iter()).find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (name, unit) = exact.unwrap_or(&("B", 1));
        write!(f, "{} {name}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4097", 4_097),
            ("17 B", 17),
            ("64KiB", 65_536),
            (" 512  MiB ", 512 << 20),
            ("8GiB", 8 << 30),
            ("1 TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5 GiB",
            "8GB",
            "8 gib",
            "8 Gi",
            "1 MiB 1",
            "18446744073709551616",
            "17179869184 GiB",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(NoSize), "{text}");
        }
    }

    #[test]
    fn a_size_is_printed_exactly_and_parsed_back() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1_023, "1023 B"),
            (1_536, "1536 B"),
            (1 << 20, "1 MiB"),
            (1_536 << 20, "1536 MiB"),
            (u64::MAX, "18446744073709551615 B"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
    }
}
