//! What was seen in the moment before a kill, read out of the kernel's own words. Behind the loop.

use std::collections::BTreeMap;

use super::{event, text as words};
use crate::act::situation::{GroupSeen, NUMBERS, Situation};
use crate::kernel::psi::{self, Pressure};
use crate::kernel::text;
use crate::serve::wire;

/// Of `memory.stat`, in bytes: what the usage consists of. With `total_`: v1, the group with all below it.
const KINDS: [&[u8]; 28] = [
    b"anon",
    b"file",
    b"kernel",
    b"shmem",
    b"slab",
    b"slab_reclaimable",
    b"slab_unreclaimable",
    b"kernel_stack",
    b"pagetables",
    b"percpu",
    b"vmalloc",
    b"sock",
    b"zswap",
    b"zswapped",
    b"swapcached",
    b"file_mapped",
    b"file_dirty",
    b"file_writeback",
    b"unevictable",
    b"total_cache",
    b"total_rss",
    b"total_shmem",
    b"total_swap",
    b"total_mapped_file",
    b"total_dirty",
    b"total_writeback",
    b"total_unevictable",
    b"total_inactive_file",
];

/// Of `/proc/meminfo`.
const HOST: [&[u8]; 15] = [
    b"MemTotal",
    b"MemFree",
    b"MemAvailable",
    b"Buffers",
    b"Cached",
    b"AnonPages",
    b"Shmem",
    b"Slab",
    b"SReclaimable",
    b"Mlocked",
    b"Dirty",
    b"Writeback",
    b"SwapTotal",
    b"SwapFree",
    b"Zswap",
];

/// Of `/proc/vmstat`: what begins like this.
const COUNTERS: [&[u8]; 8] = [
    b"oom_kill",
    b"allocstall",
    b"pgscan_kswapd",
    b"pgscan_direct",
    b"pgsteal_kswapd",
    b"pgsteal_direct",
    b"pswp",
    b"workingset_refault",
];

/// Its shown form.
pub(super) fn shown(seen: &Situation) -> wire::Situation {
    let groups = [&seen.target, &seen.short].into_iter().filter_map(group).collect();
    let processes = seen.largest.iter().flatten().map(|process| wire::ProcessSeen {
        pid: process.who.pid,
        start: process.who.start,
        comm: words::printable(event::comm(&process.comm)),
        anon_bytes: process.rss.anon.map(|bytes| bytes.0),
        file_bytes: process.rss.file.map(|bytes| bytes.0),
        shmem_bytes: process.rss.shmem.map(|bytes| bytes.0),
    });
    wire::Situation {
        groups,
        host: wire::HostSeen {
            memory_bytes: meminfo(seen.meminfo.as_bytes()),
            counters: counters(seen.vmstat.as_bytes()),
            pressure: pressure(seen.pressure.as_bytes()),
        },
        processes: processes.collect(),
        processes_looked_at: seen.looked_at,
        processes_left_out: seen.left_out,
    }
}

fn group(seen: &GroupSeen) -> Option<wire::GroupSeen> {
    let path = seen.path.as_ref()?;
    let mut memory = named(seen.stat.as_bytes(), |name| KINDS.contains(&name));
    let mut limits = BTreeMap::new();
    for (name, number) in NUMBERS.into_iter().zip(&seen.numbers) {
        // `max` is no number; nor is what v1 says where there is no limit, which is more than there are addresses.
        let value = text::only_line(number.as_bytes()).and_then(text::number);
        let Some(value) = value.filter(|&value| value < NO_LIMIT) else { continue };
        let name = words::printable(name.to_bytes());
        let of_use = name.ends_with("current") || name.contains("usage");
        if of_use { &mut memory } else { &mut limits }.insert(name, value);
    }
    Some(wire::GroupSeen {
        path: words::printable(path),
        memory_bytes: memory,
        limits_bytes: limits,
        events: named(seen.events.as_bytes(), |_| true),
        pressure: pressure(seen.pressure.as_bytes()),
    })
}

/// v1 says `PAGE_COUNTER_MAX` in pages, rounded down to bytes (include/linux/page_counter.h).
const NO_LIMIT: u64 = 1 << 62;

/// `name value` lines.
fn named(stat: &[u8], wanted: impl Fn(&[u8]) -> bool) -> BTreeMap<String, u64> {
    let pairs = text::lines(stat).filter_map(|line| {
        let mut parts = text::words(line);
        let (name, value) = (parts.next()?, text::number(parts.next()?)?);
        wanted(name).then(|| (words::printable(name), value))
    });
    pairs.collect()
}

/// `Name:   1024 kB` lines.
fn meminfo(lines: &[u8]) -> BTreeMap<String, u64> {
    let pairs = text::lines(lines).filter_map(|line| {
        let mut parts = text::words(line);
        let name = parts.next()?.strip_suffix(b":").filter(|name| HOST.contains(name))?;
        let kib = text::number(parts.next()?)?;
        Some((words::printable(name), kib.checked_mul(1024)?))
    });
    pairs.collect()
}

fn counters(vmstat: &[u8]) -> BTreeMap<String, u64> {
    named(vmstat, |name| COUNTERS.iter().any(|begin| name.starts_with(begin)))
}

fn pressure(lines: &[u8]) -> Option<wire::PressureSeen> {
    let Pressure { some: Some(some), full } = psi::parse(lines) else { return None };
    let full = full.unwrap_or(psi::Stall { avg10: 0, avg60: 0, avg300: 0, total: Default::default() });
    Some(wire::PressureSeen {
        some_avg10_per_10000: some.avg10,
        some_avg60_per_10000: some.avg60,
        some_total_ns: memgov_decide::trend::nanos(some.total),
        full_avg10_per_10000: full.avg10,
        full_avg60_per_10000: full.avg60,
        full_total_ns: memgov_decide::trend::nanos(full.total),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_read_and_nothing_else() {
        let stat = b"anon 4096\nfile 8192\nkernel 12288\npgfault 7\nshmem 1x\nsock 0\ntotal_rss 5\ntotal_pgfault 9\nslab 3";
        let read = named(stat, |name| KINDS.contains(&name));
        let expected = [("anon", 4096), ("file", 8192), ("kernel", 12288), ("sock", 0), ("total_rss", 5)];
        assert_eq!(
            read,
            expected.map(|(name, value)| (name.to_owned(), value)).into(),
            "the last is cut off"
        );
        let read =
            meminfo(b"MemTotal:       2 kB\nMemFree:  1 kB\nHugepagesize: 2048 kB\nSwapFree: 0 kB\nSlab: 4");
        let expected = [("MemFree", 1024), ("MemTotal", 2048), ("SwapFree", 0)];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value)).into());
        let read = counters(
            b"nr_free_pages 5\noom_kill 3\nallocstall_normal 2\npgscan_direct 1\npgscan_direct_throttle 0\n",
        );
        assert_eq!(read.values().sum::<u64>(), 6);
        assert_eq!(read.len(), 4);
    }

    #[test]
    fn pressure_is_in_hundredths_of_a_percent() {
        let text = b"some avg10=12.34 avg60=1.00 avg300=0.00 total=5000\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
        let seen = pressure(text).unwrap();
        assert_eq!((seen.some_avg10_per_10000, seen.full_avg10_per_10000), (1234, 50));
        assert_eq!((seen.some_total_ns, seen.full_total_ns), (5_000_000, 7_000));
        assert_eq!(pressure(b""), None);
    }

    #[test]
    fn what_was_not_looked_at_is_not_shown() {
        let nothing = shown(&Situation::default());
        assert_eq!(nothing, wire::Situation::default());
    }
}
