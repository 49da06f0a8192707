//! What can be done: signals to processes and groups, freezing, a word written into a file. None of it takes a new process.

use std::ffi::CStr;
use std::fmt::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::{Errno, read, retry_on_intr};
use rustix::process::{Pid, Signal, kill_process};

use crate::file::{self, Name};
use crate::place::{Freezer, Places};
use crate::sys;
use crate::terminal::Terminal;
use crate::text::{self, Shown, Why};

/// Rounds over the processes of a group: who is forked in the meantime is found in the next.
const ROUNDS: usize = 50;

/// `kill [-SIGNAL] PID...`
pub fn kill<'a>(words: impl Iterator<Item = &'a [u8]>, out: &mut Terminal) -> fmt::Result {
    let mut words = words.peekable();
    let named = words.next_if(|word| word.starts_with(b"-")).map(|word| &word[1..]);
    let signal = match named.map(text::signal) {
        None => libc::SIGKILL,
        Some(Some(signal)) => signal,
        Some(None) => {
            return writeln!(
                out,
                "no such signal: KILL, TERM, STOP, CONT, HUP, INT, QUIT, USR1, USR2 or 1 to 64"
            );
        }
    };
    let mut any = false;
    for word in words {
        any = true;
        let pid = text::number(word).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let Some(pid) = pid else {
            writeln!(out, "{}: not a process number", Shown(word))?;
            continue;
        };
        if let Some(why) = spare(pid) {
            writeln!(out, "{pid}: {why}")?;
            continue;
        }
        match sys::kill(pid, signal) {
            Ok(()) => writeln!(out, "{pid}: sent {signal}")?,
            Err(errno) => writeln!(out, "{pid}: {}", Why(errno))?,
        }
    }
    if any { Ok(()) } else { writeln!(out, "kill [-SIGNAL] PID...: which process?") }
}

/// Whom nobody can mean, and why.
fn spare(pid: i32) -> Option<&'static str> {
    match pid {
        1 => Some("that is pid 1: without it the machine stops"),
        _ if u32::try_from(pid) == Ok(std::process::id()) => Some("that is this shell"),
        _ => None,
    }
}

/// The group in this hierarchy, by the path that `groups` shows.
fn group(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let below = path.strip_prefix(b"/").unwrap_or(path);
    if below.is_empty() || below.split(|&b| b == b'/').any(|part| part == b"..") {
        return Err(Errno::INVAL);
    }
    let name = Name::<1024>::new(below).ok_or(Errno::NAMETOOLONG)?;
    file::open(root.as_fd(), name.as_c(), OFlags::DIRECTORY)
}

/// `freeze GROUP` and `thaw GROUP`.
pub fn freeze(places: &Places, path: &[u8], on: bool, out: &mut Terminal) -> fmt::Result {
    let Some(Freezer { root, file, words, .. }) = &places.freezer else {
        return writeln!(out, "no hierarchy that can freeze groups is mounted");
    };
    let word = words[usize::from(!on)].as_bytes();
    let name = Name::<64>::new(file.as_bytes());
    let done = name.ok_or(Errno::INVAL).and_then(|name| {
        let dir = group(root, path)?;
        // This shell is to go on.
        if on && holds(&dir, std::process::id()) {
            Err(Errno::BUSY)
        } else {
            file::put(&dir, name.as_c(), word)
        }
    });
    match done {
        Ok(()) => writeln!(out, "{}: {} written to {file}", Shown(path), Shown(word)),
        Err(Errno::BUSY) => writeln!(out, "{}: this shell is in it", Shown(path)),
        Err(errno) => writeln!(out, "{}: {}", Shown(path), Why(errno)),
    }
}

/// Whether the group, not those below it, has this process. What cannot be read has not.
fn holds(dir: &OwnedFd, pid: u32) -> bool {
    let mut found = false;
    let _ = each_process(dir, &mut |it| found |= it == pid);
    found
}

/// Each process that `cgroup.procs` lists.
fn each_process(dir: &OwnedFd, each: &mut dyn FnMut(u32)) -> Result<(), Errno> {
    let file = file::open(dir, c"cgroup.procs", OFlags::empty())?;
    let (mut buffer, mut number) = ([0; 4096], None::<u32>);
    loop {
        let count = retry_on_intr(|| read(&file, &mut buffer))?;
        for &byte in &buffer[..count] {
            match byte {
                b'0'..=b'9' => {
                    let digit = u32::from(byte - b'0');
                    number = Some(number.unwrap_or(0).wrapping_mul(10).wrapping_add(digit));
                }
                _ => number.take().into_iter().for_each(&mut *each),
            }
        }
        if count == 0 {
            number.take().into_iter().for_each(each);
            return Ok(());
        }
    }
}

/// `killgroup GROUP`: all in it and below it.
pub fn kill_group(places: &Places, path: &[u8], out: &mut Terminal) -> fmt::Result {
    let Some(memory) = &places.memory else { return writeln!(out, "no memory control groups are mounted") };
    let dir = match group(&memory.root, path) {
        Ok(dir) => dir,
        Err(errno) => return writeln!(out, "{}: {}", Shown(path), Why(errno)),
    };
    let mut killed = 0;
    for round in 0..ROUNDS {
        let mut sent = 0;
        // A member that must not die is passed over by killing one by one.
        kill_below(&dir, &mut sent, 0);
        killed += if round == 0 { sent } else { 0 };
        if sent == 0 {
            return writeln!(out, "{}: {killed} processes killed, none left", Shown(path));
        }
        let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 });
    }
    writeln!(out, "{}: {killed} processes killed, some are still there", Shown(path))
}

fn kill_below(dir: &OwnedFd, sent: &mut u32, depth: usize) {
    const DEPTH: usize = 48;
    let _ = each_process(dir, &mut |pid| {
        let pid = i32::try_from(pid).ok().filter(|pid| spare(*pid).is_none()).and_then(Pid::from_raw);
        if pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()) {
            *sent += 1;
        }
    });
    if depth < DEPTH {
        let _ = file::entries(dir, &mut |name, is_dir| {
            if let (true, Ok(below)) = (is_dir, file::open(dir, name, OFlags::DIRECTORY | OFlags::NOFOLLOW)) {
                kill_below(&below, sent, depth + 1);
            }
            true
        });
    }
}

/// `write FILE TEXT`: as `echo TEXT > FILE`.
pub fn write_file(path: &CStr, value: &[u8], out: &mut Terminal) -> fmt::Result {
    match file::put(rustix::fs::CWD, path, value) {
        Ok(()) => writeln!(out, "{}: written", Shown(path.to_bytes())),
        Err(errno) => writeln!(out, "{}: {}", Shown(path.to_bytes()), Why(errno)),
    }
}
