//! The waiting side: made ready before the trouble, then one session after the other.

use std::fs;
use std::io::{IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{geteuid, setpriority_process};

use crate::place::Places;
use crate::terminal::Terminal;
use crate::{shell, sys};

/// What is kept for it on v2 (`memory.min`): what it has, and some for a program that it starts.
const OWN_MEMORY: &str = "16777216";
/// Its group there, where nobody has given it one.
const OWN_GROUP: &str = "memgov.rescue";
/// Ahead of a fork bomb.
const AHEAD: i32 = -15;
/// So long somebody who has connected may take to hand over his terminal.
const HELLO: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Waits at `socket` for good.
pub fn serve(socket: &Path) -> Result<()> {
    ensure!(sys::standard_files_are_open(), "standard input, output and error must be open");
    let listener = listen(socket)?;
    let places = Places::find()?;
    let group = own_group(&places);
    protect();
    // systemd is told when there is one; an error is not worth ending for.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let place = group.as_ref().map_or_else(String::new, |group| format!(", in {}", group.display()));
    println!("memgov-rescue: ready at {}{place}", socket.display());
    std::io::stdout().flush().context("standard output")?;
    loop {
        // Who has gone again, or has no terminal, is no reason to end.
        if let Ok((stream, _)) = listener.accept()
            && let Some(mut terminal) = welcome(stream)
        {
            shell::session(&places, &mut terminal);
        }
    }
}

fn listen(socket: &Path) -> Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    ensure!(
        UnixStream::connect(socket).is_err(),
        "another rescue shell is waiting at {}: end it first, or take another --socket",
        socket.display()
    );
    // Left by one that was killed: nobody answers there.
    if let Err(error) = fs::remove_file(socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("removing {}, which nobody serves", socket.display()));
    }
    // Closed to all others from its first moment on.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(before);
    let listener = listener.with_context(|| format!("listening at {}", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("closing {} to others", socket.display()))?;
    Ok(listener)
}

/// On v2, if it was started in the root group, a group of its own with memory of its own. Under systemd the unit says so (`MemoryMin=`).
fn own_group(places: &Places) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let memory = places.memory.as_ref().filter(|memory| memory.usage == c"memory.current")?;
    if !own.lines().any(|line| line == "0::/") {
        return None;
    }
    let mount = std::str::from_utf8(memory.mount.bytes()).ok()?;
    let group = Path::new(mount).join(OWN_GROUP);
    let made = fs::create_dir(&group).or_else(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    let kept = made
        .and_then(|()| fs::write(group.join("memory.min"), OWN_MEMORY))
        .and_then(|()| fs::write(group.join("cgroup.procs"), "0"));
    match kept {
        Ok(()) => Some(group),
        Err(error) => {
            eprintln!("memgov-rescue: {}: {error}; no memory is kept for it", group.display());
            let _ = fs::remove_dir(&group);
            None
        }
    }
}

/// Each is asked for, and done without where it is refused, which is said.
fn protect() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("memgov-rescue: oom_score_adj -1000: {error}; the kernel's OOM killer may take it");
    }
    if let Err(errno) = setpriority_process(None, AHEAD) {
        eprintln!("memgov-rescue: nice {AHEAD}: {errno}; on a busy machine it may be slow");
    }
    touch_stack();
    if let Err(errno) = sys::lock_all() {
        eprintln!(
            "memgov-rescue: mlockall: {errno}; its pages may be away when they are needed (CAP_IPC_LOCK or LimitMEMLOCK=infinity helps)"
        );
    }
}

/// What a stack has once been is locked with the rest; what it grows by later would have to be found then. The walk through deep groups takes some 150 KiB.
#[inline(never)]
fn touch_stack() {
    let mut deep = [0u8; 512 << 10];
    deep.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&mut deep);
}

/// Takes the terminal of who has connected, if he may. Not root's own is nobody's business here: the socket is closed to others, and this is looked at again.
fn welcome(stream: UnixStream) -> Option<Terminal> {
    let stream = OwnedFd::from(stream);
    let who = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    if !(who.uid.is_root() || who.uid == geteuid()) {
        return None;
    }
    let mut fds = [PollFd::new(&stream, PollFlags::IN)];
    if poll(&mut fds, Some(&HELLO)).ok()? == 0 {
        return None;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut files = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    })?;
    let (input, output, errors) = (files.next()?, files.next()?, files.next()?);
    Some(Terminal::new(input, output, errors, stream))
}
