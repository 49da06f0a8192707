//! Numbers and lines in kernel text. Strict: a number that may have been cut off by a short read is not a number.

/// A decimal number and nothing else; no sign, no blanks, no overflow.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// As [`number`], for what the kernel keeps in 32 bits.
pub(crate) fn number32(text: &[u8]) -> Option<u32> {
    u32::try_from(number(text)?).ok()
}

/// The complete lines of a text; what follows the last newline was cut off, and is not given out.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&b| b == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

/// The only line of a one-line file; `None` if it is cut off or if there is more.
pub(crate) fn only_line(text: &[u8]) -> Option<&[u8]> {
    let line = text.strip_suffix(b"\n")?;
    (!line.contains(&b'\n')).then_some(line)
}

/// The words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty())
}

/// The value of `key` in `key value` lines; `None` where the key is absent.
pub(crate) fn keyed(text: &[u8], key: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| number(line.strip_prefix(key)?.strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_number_is_no_number() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["", "18446744073709551616", "-1", "+1", " 1", "1 ", "0x1", "1\0"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(only_line(b"12\n"), Some(&b"12"[..]));
        assert_eq!(only_line(b"12"), None);
        assert_eq!(only_line(b"1\n2\n"), None);
        assert_eq!(lines(b"a\nb\nc").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(keyed(b"oom 1\noom_kill 2\n", b"oom_kill"), Some(2));
        assert_eq!(keyed(b"oom 1\noom_kill 2", b"oom_kill"), None);
        assert_eq!(keyed(b"oom_kill 2\n", b"oom"), None);
    }
}
