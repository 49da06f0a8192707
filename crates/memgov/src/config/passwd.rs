//! User names from a passwd(5) file. Read from the file and not through NSS: NSS may ask the network, and a governor
//! that waits for LDAP at start is no governor. Users known only there are written as numbers.

/// Names and uids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(Vec<(String, u32)>);

impl Users {
    /// Lines that are not of the form `name:x:uid:...` are passed over, as libc does.
    pub fn parse(text: &[u8]) -> Self {
        let line = |line: &[u8]| {
            let mut fields = std::str::from_utf8(line).ok()?.split(':');
            let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?);
            let plain = !name.is_empty() && !name.starts_with(['#', '+', '-']);
            plain.then_some((name.to_owned(), uid.parse().ok()?))
        };
        Self(text.split(|&b| b == b'\n').filter_map(line).collect())
    }

    /// The uid of a name (the first, if there are more), or a number taken as it is.
    ///
    /// # Errors
    /// Says where it looked.
    pub fn uid(&self, word: &str) -> Result<u32, String> {
        if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) {
            // 2^32-1 is "no uid" to the kernel.
            let valid = word.parse().ok().filter(|&uid| uid != u32::MAX);
            return valid.ok_or_else(|| format!("`{}` is not a uid", super::table::cut(word)));
        }
        let found = self.0.iter().find(|(name, _)| name == word);
        found.map(|(_, uid)| *uid).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            let near = super::table::nearest(word, &known);
            let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            format!(
                "no user `{}` in /etc/passwd (users known only to NSS: write the number){near}",
                super::table::cut(word)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_lines_are_passed_over() {
        let users = Users::parse(b"root:x:0:0::/:/bin/sh\n\xff\xfe:x:1\n+nis::\n#build:x:7\nbad:x:-1\nshort:x\n:x:3\nbuild:x:1001:\nbuild:x:5\n");
        assert_eq!((users.uid("root"), users.uid("build"), users.uid("42")), (Ok(0), Ok(1001), Ok(42)));
        for unknown in ["", "bad", "short", "nis", "#build", "4294967295", "99999999999", "-1"] {
            assert!(users.uid(unknown).is_err(), "{unknown}");
        }
        assert!(users.uid("biuld").unwrap_err().contains("did you mean `build`"));
    }
}
