//! What there is to see: memory of the host, its largest processes and control groups, a file, a directory.

use std::ffi::CStr;
use std::fmt::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::{Errno, read, retry_on_intr};

use crate::file::{self, Name};
use crate::place::{Memory, Places};
use crate::terminal::Terminal;
use crate::text::{self, Shown, Size, Text, Why};

/// So many are shown at the most.
pub const MOST: usize = 40;
/// So deep groups are looked at; the kernel's own bound is memory.
const DEPTH: usize = 48;

/// The largest so far, largest first.
struct Top<T: Copy, const N: usize> {
    all: [Option<(u64, T)>; N],
    wanted: usize,
}

impl<T: Copy, const N: usize> Top<T, N> {
    fn new(wanted: usize) -> Self {
        Self { all: [None; N], wanted: wanted.clamp(1, N) }
    }

    fn has_room_for(&self, size: u64) -> bool {
        self.all[self.wanted - 1].is_none_or(|(least, _)| size > least)
    }

    fn put(&mut self, size: u64, value: T) {
        if !self.has_room_for(size) {
            return;
        }
        let at = self.all[..self.wanted].iter().position(|it| it.is_none_or(|(other, _)| size > other));
        let at = at.unwrap_or(self.wanted - 1);
        self.all[at..self.wanted].rotate_right(1);
        self.all[at] = Some((size, value));
    }
}

/// `free`: what the host has.
pub fn free(places: &Places, out: &mut Terminal) -> fmt::Result {
    let mut buffer = [0; 8192];
    match file::all(places.proc.as_fd(), c"meminfo", &mut buffer) {
        Ok(file) => {
            let of = |name| Size(text::value(file, name).unwrap_or(0) * 1024);
            writeln!(
                out,
                "total {}, available {}, free {}",
                of(b"MemTotal"),
                of(b"MemAvailable"),
                of(b"MemFree")
            )?;
            writeln!(
                out,
                "anonymous {}, shared {}, page cache {}",
                of(b"AnonPages"),
                of(b"Shmem"),
                of(b"Cached")
            )?;
            writeln!(out, "kernel: slab {}, of it unreclaimable {}", of(b"Slab"), of(b"SUnreclaim"))?;
            writeln!(out, "swap {}, free {}", of(b"SwapTotal"), of(b"SwapFree"))?;
        }
        Err(errno) => writeln!(out, "/proc/meminfo: {}", Why(errno))?,
    }
    for name in [c"pressure/memory", c"loadavg", c"sys/kernel/threads-max", c"sys/kernel/pid_max"] {
        let mut buffer = [0; 512];
        let Ok(file) = file::all(places.proc.as_fd(), name, &mut buffer) else { continue };
        for line in file.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            writeln!(out, "/proc/{}: {}", Shown(name.to_bytes()), Shown(line))?;
        }
    }
    Ok(())
}

/// `ps [N]`: the largest processes, by what of them is in memory.
pub fn processes(places: &Places, wanted: usize, out: &mut Terminal) -> fmt::Result {
    let mut top: Top<u32, MOST> = Top::new(wanted);
    let (mut count, mut all) = (0u32, 0u64);
    let each = &mut |name: &CStr, _: bool| {
        let pid = text::number(name.to_bytes()).and_then(|pid| u32::try_from(pid).ok());
        if let Some(pid) = pid {
            let resident = resident(places, name).unwrap_or(0);
            (count, all) = (count + 1, all + resident);
            top.put(resident, pid);
        }
        true
    };
    if let Err(errno) =
        file::open(places.proc.as_fd(), c".", OFlags::DIRECTORY).and_then(|dir| file::entries(&dir, each))
    {
        return writeln!(out, "/proc: {}", Why(errno));
    }
    writeln!(out, "{:>8} {:>6} {:>11} {:>11} {:>6}  NAME", "PID", "UID", "IN MEMORY", "IN SWAP", "OOM")?;
    for (resident, pid) in top.all.into_iter().flatten() {
        process(places, pid, resident, out)?;
    }
    writeln!(out, "{count} processes; {} in memory, what they share counted each time", Size(all))
}

fn resident(places: &Places, pid: &CStr) -> Option<u64> {
    let mut path = Text::<32>::new();
    write!(path, "{}/statm", pid.to_str().ok()?).ok()?;
    let mut buffer = [0; 128];
    let file = file::all(places.proc.as_fd(), Name::<40>::new(path.bytes())?.as_c(), &mut buffer).ok()?;
    text::number(text::words(file).nth(1)?).map(|pages| pages * places.page)
}

fn process(places: &Places, pid: u32, resident: u64, out: &mut Terminal) -> fmt::Result {
    let (mut status, mut score) = ([0; 4096], [0; 32]);
    let read = |name: &str, buffer: &mut [u8]| {
        let mut path = Text::<40>::new();
        write!(path, "{pid}/{name}").ok()?;
        file::all(places.proc.as_fd(), Name::<48>::new(path.bytes())?.as_c(), buffer).ok().map(<[u8]>::len)
    };
    // It may be gone by now.
    let Some(status_length) = read("status", &mut status) else { return Ok(()) };
    let score_length = read("oom_score_adj", &mut score).unwrap_or(0);
    let status = &status[..status_length];
    let name = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Name:\t"));
    let uid = text::value(status, b"Uid").unwrap_or(0);
    let swap = text::value(status, b"VmSwap").unwrap_or(0) * 1024;
    let score = score[..score_length].trim_ascii();
    writeln!(
        out,
        "{pid:>8} {uid:>6} {:>11} {:>11} {:>6}  {}",
        Size(resident),
        Size(swap),
        std::str::from_utf8(score).unwrap_or("?"),
        Shown(name.unwrap_or(b"?"))
    )
}

/// A path that is shown; deeper ones are cut.
type Path = Text<200>;

/// `groups [N]`: the largest control groups, each with all below it.
pub fn groups(places: &Places, wanted: usize, out: &mut Terminal) -> fmt::Result {
    let Some(memory) = &places.memory else { return writeln!(out, "no memory control groups are mounted") };
    let mut top: Top<([u8; 200], usize), MOST> = Top::new(wanted);
    let mut path = Path::new();
    let mut seen = 0;
    match file::open(memory.root.as_fd(), c".", OFlags::DIRECTORY) {
        Ok(root) => walk(memory, &root, &mut path, 0, &mut |path, usage| {
            seen += 1;
            let mut shown = [0; 200];
            shown[..path.len()].copy_from_slice(path.bytes());
            top.put(usage, (shown, path.len()));
        }),
        Err(errno) => return writeln!(out, "{}: {}", Shown(memory.mount.bytes()), Why(errno)),
    }
    writeln!(out, "{:>11}  GROUP", "USAGE")?;
    for (usage, (path, length)) in top.all.into_iter().flatten() {
        writeln!(out, "{:>11}  {}", Size(usage), Shown(&path[..length]))?;
    }
    writeln!(out, "{seen} groups")
}

fn walk(memory: &Memory, dir: &OwnedFd, path: &mut Path, depth: usize, each: &mut dyn FnMut(&Path, u64)) {
    let mut buffer = [0; 64];
    // The root has no usage of its own on v2.
    let usage =
        file::all(dir, memory.usage, &mut buffer).ok().and_then(|file| text::number(file.trim_ascii()));
    if let Some(usage) = usage.filter(|_| depth > 0) {
        each(path, usage);
    }
    if depth == DEPTH {
        return;
    }
    // What cannot be read, or is removed meanwhile, has nothing to show.
    let _ = file::entries(dir, &mut |name, is_dir| {
        if let (true, Ok(below)) = (is_dir, file::open(dir, name, OFlags::DIRECTORY | OFlags::NOFOLLOW)) {
            let before = path.len();
            path.push(b"/");
            path.push(name.to_bytes());
            walk(memory, &below, path, depth + 1, each);
            path.truncate(before);
        }
        true
    });
}

/// `cat FILE`: up to 64 KiB of it.
pub fn cat(path: &CStr, out: &mut Terminal) -> fmt::Result {
    const PIECES: usize = 64;
    let file = match file::open(rustix::fs::CWD, path, OFlags::empty()) {
        Ok(file) => file,
        Err(errno) => return writeln!(out, "{}: {}", Shown(path.to_bytes()), Why(errno)),
    };
    let mut buffer = [0; 1024];
    let mut last = b'\n';
    for _ in 0..PIECES {
        match retry_on_intr(|| read(&file, &mut buffer)) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(count) => {
                show(&buffer[..count], out)?;
                last = buffer[count - 1];
            }
            Err(errno) => return writeln!(out, "{}: {}", Shown(path.to_bytes()), Why(errno)),
        }
    }
    if last == b'\n' { Ok(()) } else { writeln!(out) }
}

/// Lines stay lines.
fn show(bytes: &[u8], out: &mut Terminal) -> fmt::Result {
    let mut lines = bytes.split(|&b| b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let end = if lines.peek().is_some() { "\n" } else { "" };
        for (i, part) in line.split(|&b| b == b'\t').enumerate() {
            write!(out, "{}{}", if i > 0 { "\t" } else { "" }, Shown(part))?;
        }
        out.write_str(end)?;
    }
    Ok(())
}

/// `ls DIR`: the names in it, directories with a slash.
pub fn list(path: &CStr, out: &mut Terminal) -> fmt::Result {
    let each = &mut |name: &CStr, is_dir: bool| {
        writeln!(out, "{}{}", Shown(name.to_bytes()), if is_dir { "/" } else { "" }).is_ok()
    };
    let done = file::open(rustix::fs::CWD, path, OFlags::DIRECTORY).and_then(|dir| file::entries(&dir, each));
    match done {
        Ok(()) => Ok(()),
        Err(errno) => writeln!(out, "{}: {}", Shown(path.to_bytes()), Why(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_in_order() {
        let mut top: Top<u32, 4> = Top::new(3);
        for (size, value) in [(5, 1), (9, 2), (1, 3), (7, 4), (9, 5)] {
            top.put(size, value);
        }
        let kept: Vec<_> = top.all.into_iter().flatten().collect();
        assert_eq!(kept, [(9, 2), (9, 5), (7, 4)]);
    }
}
