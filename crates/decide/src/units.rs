//! Quantities with their unit in the type: [`Bytes`], [`Limit`], [`Time`]. Parsing refuses a bare number, because
//! `limit = 100` has meant bytes, kilobytes, pages and megabytes in this field, and each mistake cost somebody a server.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An amount of memory. Arithmetic saturates: a wrapped limit would be a silent catastrophe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }
    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }
    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }
    /// Rounded up to whole pages, as the kernel accounts.
    pub const fn round_up(self, page: Self) -> Self {
        Self(self.0.div_ceil(page.0).saturating_mul(page.0))
    }
    /// The number of whole pages in this amount.
    pub const fn pages(self, page: Self) -> u64 {
        self.0 / page.0
    }
    /// `self - other`, 0 at the least.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Exact where a binary unit divides the amount, rounded to one decimal otherwise: `64MiB`, `1.5GiB`, `3B`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (size, unit) in UNITS {
            if self.0 >= size {
                if self.0.is_multiple_of(size) {
                    return f.pad(&format!("{}{unit}", self.0 / size));
                }
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return f.pad(&format!("{}.{}{unit}", tenths / 10, tenths % 10));
            }
        }
        f.pad(&format!("{}B", self.0))
    }
}

/// Why a text is not a quantity; the caller adds the file, the key and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// `100`: nobody can know what was meant.
    #[error("`{0}` has no unit; write for example `{0}MiB`")]
    NoUnit(String),
    /// `100 parsecs`.
    #[error(
        "unknown unit `{0}`; use B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of 1000)"
    )]
    UnknownUnit(String),
    /// `abc`, `-5MiB`, the empty text.
    #[error("`{0}` is not an amount of memory; write for example `64MiB`")]
    NotANumber(String),
    /// More than 2^64 - 1 bytes.
    #[error("`{0}` is more than 16 EiB")]
    TooLarge(String),
}

impl std::str::FromStr for Bytes {
    type Err = QuantityError;

    /// A decimal number, fractions allowed, and a unit. `K`, `M`, `G`, `T` mean powers of 1024, as in cgroup files.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim());
        let not_a_number = || QuantityError::NotANumber(text.to_owned());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
            return Err(not_a_number());
        }
        let scale: u128 = match unit {
            "" => return Err(QuantityError::NoUnit(text.to_owned())),
            "B" => 1,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            other => return Err(QuantityError::UnknownUnit(other.to_owned())),
        };
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let whole: u128 = whole.parse().map_err(|_| too_large())?;
        let mut bytes = whole.checked_mul(scale).ok_or_else(too_large)?;
        if !fraction.is_empty() {
            // More digits than a byte can tell apart are cut, not refused.
            let fraction = &fraction[..fraction.len().min(18)];
            let digits: u128 = fraction.parse().map_err(|_| not_a_number())?;
            bytes += digits * scale / 10u128.pow(u32::try_from(fraction.len()).unwrap_or(18));
        }
        u64::try_from(bytes).map(Bytes).map_err(|_| too_large())
    }
}

/// A limit as cgroup files give it: an amount, or `max` for none. Never a number that stands for "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// At most so much.
    At(Bytes),
    /// `max`: no limit. Sorts above every amount.
    Max,
}

impl Limit {
    /// The amount, if there is one.
    pub const fn bytes(self) -> Option<Bytes> {
        match self {
            Self::At(bytes) => Some(bytes),
            Self::Max => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(bytes) => bytes.fmt(f),
            Self::Max => f.pad("max"),
        }
    }
}

/// A moment of the monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds. Given to `decide`, never read by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Further than any deadline.
    pub const FAR: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_exact() {
        assert_eq!("64MiB".parse(), Ok(Bytes::mib(64)));
        assert_eq!("1.5 GiB".parse(), Ok(Bytes(3 << 29)));
        assert_eq!("10MB".parse(), Ok(Bytes(10_000_000)));
        assert_eq!("4K".parse(), Ok(Bytes(4096)));
        assert_eq!("100".parse::<Bytes>(), Err(QuantityError::NoUnit("100".into())));
        assert!(matches!("1 parsec".parse::<Bytes>(), Err(QuantityError::UnknownUnit(_))));
        for bad in ["", "-5MiB", "MiB", ".MiB", "1.MiB", "1.2.3MiB", "0x10MiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
        assert_eq!("16777216TiB".parse::<Bytes>(), Err(QuantityError::TooLarge("16777216TiB".into())));
    }

    #[test]
    fn shown_as_read() {
        for text in ["64MiB", "1.5GiB", "3B", "1TiB"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        assert_eq!(Bytes(1_000_001).round_up(Bytes(4096)), Bytes(1_003_520));
        assert!(Limit::Max > Limit::At(Bytes(u64::MAX)));
    }
}
