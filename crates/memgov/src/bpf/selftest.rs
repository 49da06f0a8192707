//! Proof by refusal: that a program is attached says nothing about whether it is ever called. The calling thread asks to be refused, makes
//! the calls, and takes that back. Between the two nothing but those calls is made: everything would be refused.

use super::raw;
use super::record::{Control, StatId};
use super::trials::Trials;
use crate::kernel::Errno;
use std::sync::atomic::Ordering::SeqCst;

/// What a program must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// mmap and mremap. Not brk, which is the same hook: other threads of the daemon use the break, and putting it back takes what they were just given.
    MmapAddr,
    /// mprotect to writable.
    FileMprotect,
    /// clone.
    TaskAlloc,
    /// A plain file.
    InodeCreate,
    /// A directory.
    InodeMkdir,
    /// A FIFO.
    InodeMknod,
    /// A symbolic link.
    InodeSymlink,
    /// Another name.
    InodeLink,
    /// An attribute.
    InodeSetxattr,
    /// Descriptors: open, pipe, memfd.
    FileAlloc,
    /// A socket.
    SkAlloc,
    /// A message.
    SocketSendmsg,
    /// A queue of System V messages.
    MsgQueueAlloc,
    /// Such a message.
    MsgMsgAlloc,
    /// A set of System V semaphores.
    SemAlloc,
    /// A larger pipe.
    FileFcntl,
    /// Any mprotect, by the hook of kernel memory.
    KernelMprotect,
}

type Call = (&'static str, fn(&mut Trials) -> Result<(), Errno>);

impl Proof {
    fn calls(self) -> &'static [Call] {
        match self {
            Self::MmapAddr => {
                &[("mmap", |trials| trials.memory.mmap()), ("mremap", |trials| trials.memory.mremap())]
            }
            Self::FileMprotect | Self::KernelMprotect => &[("mprotect", |trials| trials.memory.mprotect())],
            Self::TaskAlloc => &[("clone", Trials::fork)],
            Self::InodeCreate => &[("creating a file", Trials::create)],
            Self::InodeMkdir => &[("mkdir", Trials::mkdir)],
            Self::InodeMknod => &[("mknod", Trials::mknod)],
            Self::InodeSymlink => &[("symlink", Trials::symlink)],
            Self::InodeLink => &[("link", Trials::link)],
            Self::InodeSetxattr => &[("setxattr", Trials::setxattr)],
            Self::FileAlloc => {
                &[("open", Trials::open), ("pipe", Trials::pipe), ("memfd_create", Trials::memfd)]
            }
            Self::SkAlloc => &[("socket", Trials::socket)],
            Self::SocketSendmsg => &[("send", Trials::send)],
            Self::MsgQueueAlloc => &[("msgget", |_| raw::message_queue())],
            Self::MsgMsgAlloc => &[("msgsnd", |_| raw::message())],
            Self::SemAlloc => &[("semget", |_| raw::semaphores())],
            Self::FileFcntl => &[("F_SETPIPE_SZ", Trials::enlarge_pipe)],
        }
    }

    /// Whether it needs more than memory to try on.
    fn on_files(self) -> bool {
        let by_itself =
            matches!(self, Self::MsgQueueAlloc | Self::MsgMsgAlloc | Self::SemAlloc | Self::TaskAlloc);
        !by_itself && !matches!(self, Self::MmapAddr | Self::FileMprotect | Self::KernelMprotect)
    }
}

/// At most so many calls a proof.
const CALLS: usize = 3;

/// Makes the calls, refused by `hook` and granted. `Err`: which did not go as it must.
pub(super) fn prove(proof: Proof, hook: StatId, control: &Control) -> Result<(), String> {
    let mut trials =
        Trials::new(proof.on_files()).map_err(|errno| format!("preparing the self-test: {errno}"))?;
    let calls = proof.calls();
    let mut refused = [Ok(()); CALLS];
    let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    // Only this hook: another that refuses the same call would prove nothing about it.
    control.selftest_hook.store(hook as u32, SeqCst);
    control.selftest_tid.store(thread, SeqCst);
    for (result, (_, call)) in refused.iter_mut().zip(calls) {
        *result = call(&mut trials);
    }
    control.selftest_tid.store(0, SeqCst);
    for (result, (name, call)) in refused.iter().zip(calls) {
        match result {
            Err(Errno::NOMEM) => {}
            // Of a kernel without the call nothing has to be refused.
            Err(Errno::NOSYS) => continue,
            Ok(()) => {
                return Err(format!("{name} was not refused in the self-test: the program is not called"));
            }
            Err(errno) => {
                return Err(format!("{name} failed with {errno} in the self-test, not with ENOMEM"));
            }
        }
        if let Err(errno) = call(&mut trials) {
            return Err(format!("{name} is refused ({errno}) although nothing is asked for"));
        }
    }
    Ok(())
}
