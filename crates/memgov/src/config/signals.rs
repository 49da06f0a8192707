//! Names of signals, realtime ones too, as glibc numbers them on Linux (x86, arm: signal(7)).

/// glibc keeps 32 and 33 for itself.
const RT_MIN: u8 = 34;
const RT_MAX: u8 = 64;

const NAMES: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    // Second names: found when reading, never when writing.
    ("IOT", 6),
    ("POLL", 29),
];

/// A name (`SIGUSR1`, `usr1`, `SIGRTMIN+3`, `SIGRTMAX-1`) or a number from 1 to 64.
///
/// # Errors
/// Says what signals are called.
pub fn parse(word: &str) -> Result<u8, String> {
    let unknown = || {
        let shown = super::table::cut(word);
        format!("unknown signal `{shown}`; write SIGUSR1, SIGRTMIN+3 or a number from 1 to 64")
    };
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return word.parse().ok().filter(|n| (1..=RT_MAX).contains(n)).ok_or_else(unknown);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(number);
    }
    let offset = |text: &str, sign: char| -> Option<u8> {
        match text.strip_prefix(sign) {
            None if text.is_empty() => Some(0),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        }
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').and_then(|n| RT_MIN.checked_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').and_then(|n| RT_MAX.checked_sub(n))
    } else {
        None
    };
    number.filter(|n| (RT_MIN..=RT_MAX).contains(n)).ok_or_else(unknown)
}

/// The name of a signal, as [`parse`] reads it.
pub fn name(signal: u8) -> String {
    match NAMES.iter().find(|(_, number)| *number == signal) {
        Some((name, _)) => format!("SIG{name}"),
        None if signal == RT_MIN => "SIGRTMIN".into(),
        None if signal == RT_MAX => "SIGRTMAX".into(),
        None if (RT_MIN..RT_MAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RT_MIN),
        None => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_name_that_reads_back() {
        for signal in 1..=64 {
            assert_eq!(parse(&name(signal)), Ok(signal), "{}", name(signal));
            assert_eq!(parse(&signal.to_string()), Ok(signal));
        }
    }

    #[test]
    fn names_are_glibcs() {
        for (word, number) in [
            ("SIGUSR1", 10),
            ("usr1", 10),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("rtmax", 64),
        ] {
            assert_eq!(parse(word), Ok(number), "{word}");
        }
        for word in [
            "",
            "0",
            "65",
            "999",
            "SIG",
            "SIGFOO",
            "SIGRTMIN+31",
            "SIGRTMAX-31",
            "SIGRTMIN-1",
            "RTMIN+x",
            "+1",
        ] {
            assert!(parse(word).is_err(), "{word}");
        }
    }
}
