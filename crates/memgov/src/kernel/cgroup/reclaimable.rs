//! What of a group's usage the kernel can have back: page cache and reclaimable slab. Both versions' lines of `memory.stat` become one small
//! text, which is what a trace keeps: the whole file has forty lines of which three matter.

use crate::kernel::layout::MemoryVersion;
use crate::kernel::text;
use memgov_decide::units::Bytes;

/// The name of that text in a trace.
pub(super) const FRAME: &str = "memory.stat:reclaimable";

/// The lines, and what each is called on v1, where it is of the group and those below it (`total_…`, memcg1_stat_format in
/// mm/memcontrol-v1.c). v1 does not tell kinds of slab.
const LINES: [(&[u8], Option<&[u8]>); 3] = [
    (b"inactive_file ", Some(b"total_inactive_file ")),
    (b"active_file ", Some(b"total_active_file ")),
    (b"slab_reclaimable ", None),
];

/// Those lines, copied.
pub(super) struct Said {
    bytes: [u8; 192],
    length: usize,
}

impl Default for Said {
    fn default() -> Self {
        Self { bytes: [0; 192], length: 0 }
    }
}

impl Said {
    pub(super) fn collect(&mut self, stat: &[u8], version: MemoryVersion) {
        for line in stat.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let wanted = LINES.iter().any(|(v2, v1)| match version {
                MemoryVersion::V2 => line.starts_with(v2),
                MemoryVersion::V1 => v1.is_some_and(|v1| line.starts_with(v1)),
            });
            if wanted && let Some(place) = self.bytes.get_mut(self.length..self.length + line.len()) {
                place.copy_from_slice(line);
                self.length += line.len();
            }
        }
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Their sum. `None` unless both kinds of page cache are there: half of it would look like a shortage.
pub(super) fn parse(lines: &[u8]) -> Option<Bytes> {
    let value = |(v2, v1): &(&[u8], Option<&[u8]>)| {
        let keys = [Some(*v2), *v1];
        keys.into_iter().flatten().find_map(|key| text::keyed(lines, key.strip_suffix(b" ")?))
    };
    let (inactive, active) = (value(&LINES[0])?, value(&LINES[1])?);
    let slab = value(&LINES[2]).unwrap_or_default();
    Some(Bytes(inactive) + Bytes(active) + Bytes(slab))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_it_in_their_own_words() {
        let v2 = b"anon 9\nfile 30\ninactive_anon 5\ninactive_file 10\nactive_file 20\nunevictable 0\nslab_reclaimable 4\nslab 7\n";
        let v1 = b"cache 30\ninactive_file 1\nactive_file 2\ntotal_cache 30\ntotal_inactive_file 10\ntotal_active_file 20\n";
        for (text, version, sum) in [(&v2[..], MemoryVersion::V2, 34), (&v1[..], MemoryVersion::V1, 30)] {
            let mut said = Said::default();
            said.collect(text, version);
            assert_eq!(parse(said.text()), Some(Bytes(sum)), "{}", String::from_utf8_lossy(said.text()));
        }
        assert_eq!(parse(b"inactive_file 10\n"), None);
        assert_eq!(parse(b"inactive_file 10\nactive_file 2"), None, "cut off");
        let mut said = Said::default();
        said.collect(&b"inactive_file 1\n".repeat(100), MemoryVersion::V2);
        assert!(said.text().len() <= 192 && said.text().ends_with(b"\n"));
    }
}
