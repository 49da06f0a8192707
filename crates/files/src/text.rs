//! What a write says. Pure: bytes in, a [`Command`] or EINVAL out, and nothing is half understood.

use fuser::Errno;
use memgov_decide::control::MemControl;
use memgov_decide::units::Bytes;

use crate::node::{File, Metered};

/// The longest number with its sign, prefix and white space is shorter.
const MOST_NUMBER: usize = 64;

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Usage to get to.
    Shrink(u64),
    /// A line; `None`: none.
    Limit(Metered, Option<u64>),
    /// As a job: lower is given up first.
    Priority(i32),
    /// As a job; `None`: as the configuration has it.
    Reservation(Option<u64>),
    /// Kept under the hard limit; `None`: as the configuration has it.
    OomReserve(Option<u64>),
    /// Peak and hits of kernel memory start anew.
    ResetKernel,
    /// A process's control.
    Control(MemControl),
}

impl Command {
    /// What these bytes, written to this file, ask for.
    pub fn parse(file: File, bytes: &[u8], page: u64) -> Result<Self, Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
        // What is longer is refused, not cut; the letter's own file says itself how much it looks at.
        if file != File::Memctl && text.len() > MOST_NUMBER {
            return Err(Errno::EINVAL);
        }
        match file {
            File::Shrink => size(text).map(Self::Shrink),
            File::Limit(of) => {
                let line = amount(text);
                // What is read where there is no limit says when it is written back that there is none.
                line.map(|line| Self::Limit(of, line.filter(|&bytes| bytes < unlimited(page))))
            }
            // As the kernel's own: whatever is written.
            File::KernelPeak | File::KernelFailures => Some(Self::ResetKernel),
            File::Memctl => MemControl::from_text(text, Bytes(page)).ok().map(Self::Control),
            File::Priority => signed(text).map(Self::Priority),
            File::Reservation => amount(text).map(Self::Reservation),
            File::OomReserve => amount(text).map(Self::OomReserve),
            File::KernelUsage | File::KernelStat | File::SocketUsage | File::Events => None,
        }
        .ok_or(Errno::EINVAL)
    }
}

/// As a v1 kernel shows that there is no limit, on a machine with this page size: PAGE_COUNTER_MAX pages.
pub const fn unlimited(page: u64) -> u64 {
    i64::MAX.unsigned_abs() / page * page
}

/// An amount, or -1 for none.
fn amount(text: &str) -> Option<Option<u64>> {
    if text.trim_ascii() == "-1" { Some(None) } else { size(text).map(Some) }
}

/// An amount as the kernel's memparse() takes it: base by prefix, and one letter of K to E in either case. An overflow is refused, which wraps there.
fn size(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    let (number, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (text.get(..text.len() - 1)?, 10),
        b'M' => (text.get(..text.len() - 1)?, 20),
        b'G' => (text.get(..text.len() - 1)?, 30),
        b'T' => (text.get(..text.len() - 1)?, 40),
        b'P' => (text.get(..text.len() - 1)?, 50),
        // A hexadecimal digit where the number is one, as there.
        b'E' if !is_hexadecimal(text) => (text.get(..text.len() - 1)?, 60),
        _ => (text, 0),
    };
    number_of(number)?.checked_mul(1 << shift)
}

/// simple_strtol() with base 0, of 32 bits: what does not fit is refused, which is cut there.
fn signed(text: &str) -> Option<i32> {
    let text = text.trim_ascii();
    let (digits, sign) = text.strip_prefix('-').map_or((text, 1), |digits| (digits, -1));
    let number = i64::try_from(number_of(digits)?).ok()?;
    i32::try_from(sign * number).ok()
}

fn is_hexadecimal(text: &str) -> bool {
    text.starts_with("0x") || text.starts_with("0X")
}

/// simple_strtoull() with base 0: no sign, no space.
fn number_of(text: &str) -> Option<u64> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    // from_str_radix takes a plus sign.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, base).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::OF_GROUP;
    use proptest::prelude::*;

    fn all() -> impl Iterator<Item = File> {
        OF_GROUP.into_iter().chain([File::Memctl])
    }

    #[test]
    fn amounts() {
        let table: [(&str, Option<u64>); 22] = [
            ("0", Some(0)),
            ("400M\n", Some(400 << 20)),
            ("  16k ", Some(16 << 10)),
            ("1G", Some(1 << 30)),
            ("0x10M", Some(16 << 20)),
            ("0X1e", Some(0x1e)),
            ("010", Some(8)),
            ("1E", Some(1 << 60)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("16E", None),
            ("", None),
            ("\n", None),
            ("M", None),
            ("0x", None),
            ("08", None),
            ("-1", None),
            ("+1", None),
            ("0x+1", None),
            ("400MB", None),
            ("1 M", None),
            ("1\0", None),
        ];
        for (text, expected) in table {
            assert_eq!(size(text), expected, "{text:?}");
        }
        assert_eq!(amount("-1\n"), Some(None));
        assert_eq!(amount("-2"), None);
        assert_eq!(amount("4k"), Some(Some(4096)));
    }

    #[test]
    fn what_a_job_is_worth() {
        let table: [(&str, Option<i32>); 16] = [
            ("0", Some(0)),
            ("-1\n", Some(-1)),
            (" 300 ", Some(300)),
            ("0x10", Some(16)),
            ("-0x10", Some(-16)),
            ("-010", Some(-8)),
            ("2147483647", Some(i32::MAX)),
            ("-2147483648", Some(i32::MIN)),
            ("2147483648", None),
            ("-2147483649", None),
            ("18446744073709551615", None),
            ("--1", None),
            ("- 1", None),
            ("+1", None),
            ("1K", None),
            ("", None),
        ];
        for (text, expected) in table {
            let parsed = Command::parse(File::Priority, text.as_bytes(), 4096);
            assert_eq!(parsed, expected.map(Command::Priority).ok_or(Errno::EINVAL), "{text:?}");
        }
        let reserved = |text: &str| Command::parse(File::Reservation, text.as_bytes(), 4096);
        assert_eq!(reserved("64M\n"), Ok(Command::Reservation(Some(64 << 20))));
        assert_eq!(reserved("0"), Ok(Command::Reservation(Some(0))), "0 is said, and not taken back");
        assert_eq!(reserved("-1"), Ok(Command::Reservation(None)));
        assert_eq!(reserved("-2"), Err(Errno::EINVAL));
    }

    #[test]
    fn memctl_is_the_letters() {
        let parse = |text: &str| Command::parse(File::Memctl, text.as_bytes(), 4096);
        let Ok(Command::Control(control)) = parse("0x01010a03 1000001 5000\n") else { panic!("refused") };
        assert_eq!(control.text(), "16845315 1003520 8192\n");
        for refused in ["", "1", "1 2", "5 0 0", "x 0 0", "0x800000 0 0", "0x4000 0 0", "1 -1 0"] {
            assert_eq!(parse(refused), Err(Errno::EINVAL), "{refused:?}");
        }
        // DIRECT without a kind or a plimit, and limits beside NONE, are refused and forgotten by the letter's prctl, not by its file.
        for (taken, shown) in [("0x20001 0 0", "131073 0 0\n"), ("0 1 1", "0 4096 4096\n")] {
            let Ok(Command::Control(control)) = parse(taken) else { panic!("{taken} refused") };
            assert_eq!(control.text(), shown);
        }
        let longer = format!("{:<79} and more", "1 2 3");
        assert_eq!(parse(&longer), parse("1 2 3"), "no more than 79 bytes are looked at");
        assert_eq!(parse(&format!("1 2 {:>76}", 33)), Err(Errno::EINVAL), "a number that is cut there");
    }

    #[test]
    fn a_reset_is_whatever_is_written() {
        for file in [File::KernelPeak, File::KernelFailures] {
            assert_eq!(Command::parse(file, b"0\n", 4096), Ok(Command::ResetKernel));
            assert_eq!(Command::parse(file, &[b'0'; 65], 4096), Err(Errno::EINVAL));
        }
        assert_eq!(Command::parse(File::Events, b"0", 4096), Err(Errno::EINVAL));
    }

    #[test]
    fn no_limit_is_the_kernels_number() {
        assert_eq!(unlimited(4096), 9_223_372_036_854_771_712);
        let of_64k = Command::parse(File::Limit(Metered::Kernel), b"9223372036854710272", 65536);
        assert_eq!(of_64k, Ok(Command::Limit(Metered::Kernel, None)), "of the machine's page size");
    }

    #[test]
    fn a_line_is_of_its_own_file() {
        for of in [Metered::Kernel, Metered::Sockets] {
            let parse = |text: &str| Command::parse(File::Limit(of), text.as_bytes(), 4096);
            assert_eq!(parse("8M\n"), Ok(Command::Limit(of, Some(8 << 20))));
            for none in ["-1", "9223372036854771712\n", "9223372036854775807", "0xffffffffffffffff"] {
                assert_eq!(parse(none), Ok(Command::Limit(of, None)), "{none}");
            }
            let most = 9_223_372_036_854_771_711;
            assert_eq!(parse(&most.to_string()), Ok(Command::Limit(of, Some(most))));
        }
        assert_eq!(Command::parse(File::SocketUsage, b"0", 4096), Err(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for file in all() {
                let parsed = Command::parse(file, &bytes, 4096);
                prop_assert!(parsed.is_ok() || parsed == Err(Errno::EINVAL));
                prop_assert!(parsed.is_err() || bytes.len() <= MOST_NUMBER || file == File::Memctl);
            }
        }

        #[test]
        fn what_looks_like_a_number_does_not_panic(text in "[-+ 0-9xXa-fkKmMgGtTpPeE]{0,24}") {
            for file in all() {
                let _either = Command::parse(file, text.as_bytes(), 4096);
            }
        }

        #[test]
        fn numbers_come_back_in_each_base(number: u64) {
            for text in [format!("{number}"), format!("{number:#x}"), format!("0{number:o}"), format!("{number}\n")] {
                prop_assert_eq!(size(&text), Some(number), "{}", text);
            }
        }

        #[test]
        fn priorities_come_back_in_each_base(number: i32) {
            let (sign, size) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
            for text in [format!("{number}"), format!("{sign}{size:#x}"), format!("{sign}0{size:o}\n")] {
                prop_assert_eq!(signed(&text), Some(number), "{}", text);
            }
        }

        #[test]
        fn letters_scale(number in 0u64..1 << 14, at in 0usize..4) {
            let text = format!("{number}{}", ["K", "m", "G", "t"][at]);
            prop_assert_eq!(size(&text), Some(number << (10 * (at + 1))));
        }

        #[test]
        fn controls_come_back(action in 0u32..5, signal in 0u32..64, kinds in 0u32..8, climit in 0u64..1 << 40, plimit in 1u64..1 << 40) {
            let word = action | signal << 8 | kinds << 24;
            let parse = |text: String| Command::parse(File::Memctl, text.as_bytes(), 4096);
            let Ok(Command::Control(once)) = parse(format!("{word:#x} {climit} {plimit}")) else { panic!("refused") };
            prop_assert_eq!(once.word(), word);
            prop_assert_eq!(parse(once.text()), Ok(Command::Control(once)));
        }
    }
}
