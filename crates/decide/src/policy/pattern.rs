//! Patterns for the paths of groups and programs.

/// A path pattern as systemd and shells write it: `*` any run of bytes but `/`, `**` any run, `?` one byte but `/`,
/// `\` takes away the meaning of the byte behind it, everything else means itself. Matches the whole text. `/a/*` is the children of `/a`, `/a/**` everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<[u8]>);

impl Pattern {
    /// Every text is a pattern.
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
    /// A pattern for one path and nothing else, whatever bytes the path has.
    pub fn literal(path: &[u8]) -> Self {
        Self(
            path.iter()
                .flat_map(|&b| if matches!(b, b'*' | b'?' | b'\\') { vec![b'\\', b] } else { vec![b] })
                .collect(),
        )
    }
    /// The text it was made from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// Whether all of `text` matches. Linear in practice and never worse than quadratic; allocates nothing.
    pub fn matches(&self, text: &[u8]) -> bool {
        // Of many patterns for one path each, paths begin alike: most are told apart by their ends.
        !differ(self.0.iter().rev(), text.iter().rev()) && glob(&self.0, text)
    }
    /// Whether a path below the directory `dir` could match: decides which directories are worth watching.
    pub fn may_match_below(&self, dir: &[u8]) -> bool {
        if differ(self.0.iter(), dir.iter()) {
            return false;
        }
        let mut pattern = components(&self.0).filter(|c| !c.is_empty());
        for component in dir.split(|&b| b == b'/').filter(|c| !c.is_empty()) {
            match pattern.next() {
                None => return false,
                Some(wanted) if wanted.windows(2).any(|w| w == b"**") => return true,
                Some(wanted) if !glob(wanted, component) => return false,
                Some(_) => {}
            }
        }
        pattern.next().is_some()
    }
}

/// The parts of a pattern between its slashes. One behind a backslash is a slash all the same.
fn components(pattern: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(pattern);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|&byte| byte == b'/') else { return rest.take() };
        rest = Some(&text[end + 1..]);
        let backslashes = text[..end].iter().rev().take_while(|&&byte| byte == b'\\').count();
        Some(&text[..end - backslashes % 2])
    })
}

/// Whether the two part before the pattern has anything that is not matched by itself alone. (Read from its end, a byte behind a backslash is.)
fn differ<'a>(pattern: impl Iterator<Item = &'a u8>, text: impl Iterator<Item = &'a u8>) -> bool {
    pattern.take_while(|byte| !matches!(byte, b'*' | b'?' | b'\\')).zip(text).any(|(is, wanted)| is != wanted)
}

/// Greedy matching with one point of return for `*` and one for `**`: when `*` cannot go on because of a `/`,
/// the last `**` takes one byte more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    /// Where to go on in the pattern, and from which byte of the text.
    type Return = Option<(usize, usize)>;
    let (mut star, mut deep): (Return, Return) = (None, None);
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        match pattern.get(p) {
            Some(b'*') if pattern.get(p + 1) == Some(&b'*') => {
                deep = Some((p + 2, t));
                star = None;
                p += 2;
                continue;
            }
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') if t < text.len() && text[t] != b'/' => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some(b'\\') if p + 1 < pattern.len() && text.get(t) == Some(&pattern[p + 1]) => {
                (p, t) = (p + 2, t + 1);
                continue;
            }
            Some(b'\\') if p + 1 < pattern.len() => {}
            Some(&byte) if byte != b'?' && text.get(t) == Some(&byte) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        if let Some((after, from)) = star
            && from < text.len()
            && text[from] != b'/'
        {
            star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else if let Some((after, from)) = deep
            && from < text.len()
        {
            deep = Some((after, from + 1));
            star = None;
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_that_can_hold_a_match_are_watched() {
        let below = |pattern: &str, dir: &str| Pattern::new(pattern).may_match_below(dir.as_bytes());
        assert!(
            below("/a/*", "/") && below("/a/*", "/a") && below("/a/**", "/a/b/c") && below("/**/x", "/q")
        );
        assert!(!below("/a/*", "/b") && !below("/a/*", "/a/b") && !below("/a", "/a"));
        assert!(below("/*/*\\/a", "/\\/*") && below("/a\\\\/b", "/a\\") && !below("/a\\\\/b", "/a"));
    }

    #[test]
    fn a_literal_matches_itself_only() {
        for path in ["/a*b", "/a?", "/a\\b", "/**", "/plain"] {
            assert!(Pattern::literal(path.as_bytes()).matches(path.as_bytes()), "{path}");
        }
        assert!(!Pattern::literal(b"/a*b").matches(b"/axb"));
        assert!(!Pattern::literal(b"/**").matches(b"/x"));
    }

    #[test]
    fn patterns_match_as_paths_do() {
        let yes = [
            ("/a/*", "/a/b"),
            ("/a/**", "/a/b/c"),
            ("/a/**/d", "/a/b/c/d"),
            ("/a?c", "/abc"),
            ("/", "/"),
            ("/usr/bin/ld*", "/usr/bin/ld.bfd"),
            ("/**/x*y", "/a/xb/x/xay"),
            ("/a/*", "/a/b\nc"),
            ("**", ""),
        ];
        for (pattern, text) in yes {
            assert!(Pattern::new(pattern).matches(text.as_bytes()), "{pattern} should match {text}");
        }
        let no = [
            ("/a/*", "/a/b/c"),
            ("/a/*", "/a"),
            ("/a", "/a/"),
            ("/a?c", "/a/c"),
            ("", "x"),
            ("/**/z", "/a/b"),
        ];
        for (pattern, text) in no {
            assert!(!Pattern::new(pattern).matches(text.as_bytes()), "{pattern} should not match {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_short_look_changes_nothing(pattern in r"(/[ab*?\\]{0,3}){0,4}", path in r"(/[ab\\*]{1,2}){1,4}") {
            let wanted = Pattern::new(&pattern);
            proptest::prop_assert_eq!(wanted.matches(path.as_bytes()), glob(pattern.as_bytes(), path.as_bytes()));
            // Whatever matches is looked for in every directory above it.
            if wanted.matches(path.as_bytes()) {
                for (at, _) in path.match_indices('/').skip(1) {
                    proptest::prop_assert!(wanted.may_match_below(&path.as_bytes()[..at]), "{}", &path[..at]);
                }
                proptest::prop_assert!(wanted.may_match_below(b"/"));
            }
        }

        #[test]
        fn a_path_is_matched_by_its_own_pattern_alone(path in r"(/[ab*?\\]{1,2}){1,4}", other in r"(/[ab*?\\]{1,2}){1,4}") {
            let only_it = Pattern::literal(path.as_bytes());
            proptest::prop_assert!(only_it.matches(path.as_bytes()));
            proptest::prop_assert_eq!(only_it.matches(other.as_bytes()), path == other);
        }
    }
}
