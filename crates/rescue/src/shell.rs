//! A session: lines in, each a command that is carried out here. Nothing is allocated, and only `run` needs a fork.

use std::fmt::{self, Write};
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::file::Name;
use crate::place::Places;
use crate::sys::{self, MOST_WORDS, Words};
use crate::terminal::{LINE, Terminal};
use crate::text::{Shown, Text, Why, number, words};
use crate::{act, look};

const HELP: &str = "\
free                    memory of the host, its pressure, limits of processes
ps [N]                  the N largest processes (10)
groups [N]              the N largest control groups (10)
kill [-SIGNAL] PID...   a signal, KILL if none is named
killgroup GROUP         kills all in a control group and below it; GROUP as `groups` shows it
freeze GROUP            stops all of it; thaw GROUP lets it go on
write FILE TEXT         as echo TEXT > FILE: write /proc/sysrq-trigger f, write /proc/sys/vm/drop_caches 3
cat FILE, ls DIR        64 KiB of it at the most
run PROGRAM [WORD]...   a program, if there is memory and a process number for it; it cannot be taken by the OOM killer
exit                    leaves the shell, which waits for the next
All but `run` is done by this process, which was started and locked in memory before.
";

/// Until who sits there leaves.
pub fn session(places: &Places, terminal: &mut Terminal) {
    let mut line = [0; LINE];
    // Once he is gone every write fails: seen below.
    let _ = writeln!(terminal, "memgov rescue shell, pid {}: `help` has the commands", std::process::id());
    loop {
        terminal.write(b"rescue# ");
        let Some(length) = terminal.line(&mut line) else { return };
        match command(places, &line[..length], terminal) {
            Ok(true) if !terminal.is_gone() => {}
            _ => return,
        }
    }
}

/// Carries one out; `false`: it was the last.
fn command(places: &Places, line: &[u8], out: &mut Terminal) -> Result<bool, fmt::Error> {
    let mut rest = words(line);
    let Some(name) = rest.next() else { return Ok(true) };
    let count =
        |word: Option<&[u8]>| word.and_then(number).and_then(|n| usize::try_from(n).ok()).unwrap_or(10);
    match name {
        b"exit" | b"quit" | b"logout" => return Ok(false),
        b"help" | b"?" => out.write_str(HELP)?,
        b"free" => look::free(places, out)?,
        b"ps" | b"top" => look::processes(places, count(rest.next()), out)?,
        b"groups" => look::groups(places, count(rest.next()), out)?,
        b"kill" => act::kill(rest, out)?,
        b"run" => run(rest, out)?,
        b"killgroup" | b"freeze" | b"thaw" | b"cat" | b"ls" | b"write" => on_one(places, name, line, out)?,
        _ => writeln!(
            out,
            "{}: not a command of this shell: `help` has them, `run` starts programs",
            Shown(name)
        )?,
    }
    Ok(true)
}

/// Commands about one group or file, which may have blanks in its name if nothing stands behind it.
fn on_one(places: &Places, name: &[u8], line: &[u8], out: &mut Terminal) -> fmt::Result {
    let behind = line.trim_ascii_start().get(name.len()..).unwrap_or_default().trim_ascii();
    if behind.is_empty() {
        return writeln!(out, "{}: what? `help` says", Shown(name));
    }
    let too_long = |out: &mut Terminal| writeln!(out, "that name is too long");
    match name {
        b"killgroup" => act::kill_group(places, behind, out),
        b"freeze" | b"thaw" => act::freeze(places, behind, name == b"freeze", out),
        b"write" => {
            let end = behind.iter().position(u8::is_ascii_whitespace).unwrap_or(behind.len());
            match Name::<LINE>::new(&behind[..end]) {
                Some(path) => act::write_file(path.as_c(), behind[end..].trim_ascii(), out),
                None => too_long(out),
            }
        }
        _ => match Name::<LINE>::new(behind) {
            Some(path) if name == b"ls" => look::list(path.as_c(), out),
            Some(path) => look::cat(path.as_c(), out),
            None => too_long(out),
        },
    }
}

/// `run PROGRAM [WORD]...`: waits for it.
fn run<'a>(line: impl Iterator<Item = &'a [u8]>, out: &mut Terminal) -> fmt::Result {
    const NO_NAME: Option<Name<256>> = None;
    let mut names = [NO_NAME; MOST_WORDS];
    for (count, word) in line.enumerate() {
        let Some(place) = names.get_mut(count) else {
            return writeln!(out, "no more than {} words", MOST_WORDS);
        };
        *place = Name::new(word);
        if place.is_none() {
            return writeln!(out, "a word is longer than 255 bytes");
        }
    }
    let mut words = Words::new();
    for name in names.iter().flatten() {
        // As many places as names.
        let _ = words.push(name.as_c());
    }
    let Some(Some(first)) = names.first() else {
        return writeln!(out, "run PROGRAM [WORD]...: which program?");
    };
    let Some(program) = find(first.as_c().to_bytes()) else {
        return writeln!(out, "{}: no such program", Shown(first.as_c().to_bytes()));
    };
    match sys::spawn(program.as_c(), &words, out) {
        Ok(pid) => wait(pid, out),
        Err(errno) => writeln!(out, "there is no room for another process now: {}", Why(errno)),
    }
}

/// Where the program is: a path as it stands, else in the usual directories.
fn find(name: &[u8]) -> Option<Name<320>> {
    if name.contains(&b'/') {
        return Name::new(name);
    }
    const DIRS: [&[u8]; 6] =
        [b"/usr/local/sbin/", b"/usr/local/bin/", b"/usr/sbin/", b"/usr/bin/", b"/sbin/", b"/bin/"];
    DIRS.iter().find_map(|dir| {
        let mut path = Text::<320>::new();
        let whole = path.push(dir) && path.push(name);
        let path = Name::new(path.bytes()).filter(|_| whole)?;
        accessat(CWD, path.as_c(), Access::EXEC_OK, AtFlags::empty()).is_ok().then_some(path)
    })
}

/// Until it ends, or who started it goes: then it is killed.
fn wait(pid: i32, out: &mut Terminal) -> fmt::Result {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    if let Ok(child) = pidfd_open(pid, PidfdFlags::empty()) {
        loop {
            let peer = out.peer();
            let mut fds = [
                PollFd::new(&child, PollFlags::IN),
                PollFd::from_borrowed_fd(peer.as_fd(), PollFlags::RDHUP),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                Ok(_) if !fds[0].revents().is_empty() => break,
                _ => {}
            }
            let _ = sys::kill(pid.as_raw_nonzero().get(), libc::SIGKILL);
            break;
        }
    }
    let ended = loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    match ended {
        Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
            (Some(127), _) => writeln!(out, "status 127: perhaps it could not be executed"),
            (Some(0), _) => Ok(()),
            (Some(code), _) => writeln!(out, "status {code}"),
            (None, Some(signal)) => writeln!(out, "ended by signal {signal}"),
            (None, None) => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    thread_local! {
        static ALLOCATED: Cell<u32> = const { Cell::new(0) };
    }

    struct Counting;

    // SAFETY: the system's allocator does the work.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATED.set(ALLOCATED.get() + 1);
            // SAFETY: as asked.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            // SAFETY: as asked.
            unsafe { System.dealloc(at, layout) }
        }
    }

    #[global_allocator]
    static COUNTING: Counting = Counting;

    /// What is said to these lines, and how often memory was asked for meanwhile.
    fn said_to(lines: &str) -> (String, u32) {
        let places = Places::find().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (peer, _kept) = UnixStream::pair().unwrap();
        let output = theirs.try_clone().unwrap();
        let mut terminal = Terminal::new(
            OwnedFd::from(theirs),
            output.try_clone().unwrap().into(),
            output.into(),
            peer.into(),
        );
        ours.write_all(lines.as_bytes()).unwrap();
        let mut heard = ours.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = String::new();
            heard.read_to_string(&mut said).map(|_| said)
        });
        let before = ALLOCATED.get();
        session(&places, &mut terminal);
        let count = ALLOCATED.get() - before;
        drop(terminal);
        (reader.join().unwrap().unwrap(), count)
    }

    #[test]
    fn nothing_is_allocated_whatever_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "a\x1b[2J\tb\nc").unwrap();
        let file = file.display();
        let lines = format!(
            "help\nfree\nps 40\ngroups 40\nps x\ncat {file}\ncat /nothing\ncat /\nls {dir}\nls /nothing\nwrite {file} new text\n\
             write /nothing/at/all x\nfreeze /no such group\nthaw\nkillgroup /no such group\nkillgroup /../x\nkill\nkill x 1 0 -5 99999999999\n\
             kill -NOSUCH 5\nrun\nrun echo $HOME 'a b'\nrun nosuchprogram\nrun false\n\x1b[31mnonsense\n\n{long}\nexit\n",
            dir = dir.path().display(),
            long = "x".repeat(5000),
        );
        let (said, count) = said_to(&lines);
        for part in [
            "killgroup GROUP",
            "total ",
            " processes;",
            "a?[2J\tb\nc",
            "No such file or directory",
            "written",
            "$HOME 'a b'",
            "nosuchprogram: no such program",
            "status 1",
            "?[31mnonsense: not a command",
            "no such signal",
        ] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
        assert!(!said.contains('\u{1b}'), "{said}");
        assert_eq!(count, 0, "allocations");
    }

    #[test]
    fn a_group_is_below_the_root_and_no_way_out_of_it() {
        let (said, _) = said_to("killgroup /\nkillgroup ..\nkillgroup /a/../..\nexit\n");
        assert_eq!(said.matches("not valid (EINVAL)").count(), 3, "{said}");
    }
}
