//! Calls of prctl(2) that another process answers: this one (seccomp_unotify(2), with calls that go on as if nothing had been: Linux 5.5). A process gives itself the filter,
//! hands the listener to whoever is to answer, and becomes its program; what it starts inherits the filter.

use super::Errno;
use super::sys::{self, FilterStep, check};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use rustix::io::{IoSlice, IoSliceMut, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::mem::MaybeUninit;
use std::ptr;

/// Option numbers whose calls are answered: what the over-high series called PR_GET_MEMCONTROL, and mainline PR_SET_SYSCALL_USER_DISPATCH …
pub const GET_MEMCONTROL: u32 = 59;
/// … and PR_SET_MEMCONTROL, there PR_PAC_SET_ENABLED_KEYS.
pub const SET_MEMCONTROL: u32 = 60;

/// linux/audit.h: by which convention a call was made.
pub const ARCH_X86_64: u32 = 0xc000_003e;
/// The other one that is looked at.
pub const ARCH_AARCH64: u32 = 0xc000_00b7;

// Classic BPF (linux/bpf_common.h): load a word of struct seccomp_data, compare it with a number, end.
const LOAD: u32 = 0x20;
const IF_EQUAL: u32 = 0x15;
const RETURN: u32 = 0x06;
// Where struct seccomp_data has them. The option is an int to the kernel, so the lower half of its 64 bits counts.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const OPTION: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };
// asm/unistd.h. Calls of x32 have bit 30 set, and so are none of these.
const PRCTL_X86_64: u32 = 157;
const PRCTL_AARCH64: u32 = 167;

/// The two calls wait for their answer, all others are left alone; so is everything by another convention (i386, x32, arm).
const FILTER: [FilterStep; 12] = [
    (LOAD, 0, 0, ARCH),
    (IF_EQUAL, 0, 2, ARCH_X86_64),
    (LOAD, 0, 0, NUMBER),
    (IF_EQUAL, 3, 7, PRCTL_X86_64),
    (IF_EQUAL, 0, 6, ARCH_AARCH64),
    (LOAD, 0, 0, NUMBER),
    (IF_EQUAL, 0, 4, PRCTL_AARCH64),
    (LOAD, 0, 0, OPTION),
    (IF_EQUAL, 1, 0, GET_MEMCONTROL),
    (IF_EQUAL, 0, 1, SET_MEMCONTROL),
    (RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    (RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
];

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which one.
    pub id: u64,
    /// The thread that made it, as this pid namespace has it; 0: it is not seen from here.
    pub tid: u32,
    /// By which convention.
    pub arch: u32,
    /// The option and what came with it. By value, so nobody changes them meanwhile.
    pub args: [u64; 5],
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns this.
    Value(u64),
    /// It fails.
    Failure(Errno),
    /// The kernel carries it out as if nobody had looked.
    GoOn,
}

/// Has calls of this thread, and of whatever it starts or becomes, wait for answers. Without CAP_SYS_ADMIN that takes no_new_privs, which is set then. `BUSY`: somebody
/// answers calls of this process already, and there can be one only.
pub fn intercept() -> Result<OwnedFd, Errno> {
    match install() {
        Err(Errno::ACCESS) => {
            rustix::thread::set_no_new_privs(true)?;
            install()
        }
        result => result,
    }
}

fn install() -> Result<OwnedFd, Errno> {
    // Signals wait until there is an answer, so that none makes a call fail with EINTR or be made twice; they do not before Linux 5.19, which refuses the flag.
    // This shuts nobody in, so it need not cost what a sandbox does (Speculative Store Bypass, before Linux 5.16).
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    match install_with(flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => install_with(flags),
        result => result,
    }
}

fn install_with(flags: libc::c_ulong) -> Result<OwnedFd, Errno> {
    let mut steps = sys::filter_program(&FILTER)?;
    let len = u16::try_from(FILTER.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its steps outlive the call, which copies them; the length is theirs.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, ptr::from_ref(&program)) };
    check(fd)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: a descriptor the kernel has just given to nobody else; it closes on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that was left open over exec and named on the command line. `BADF`: it is none, or one of the standard three.
pub fn adopt(number: i32) -> Result<OwnedFd, Errno> {
    if number < 3 {
        return Err(Errno::BADF);
    }
    // SAFETY: only asks for the flags of a number, open or not.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, and nothing in this program knows it by another way than this number, which is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives a descriptor to the process at the other end.
pub fn send_descriptor(socket: impl AsFd, descriptor: impl AsFd) -> Result<(), Errno> {
    let (mut space, fds) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [descriptor.as_fd()]);
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // One byte, because a message without any is none.
    let bytes = [IoSlice::new(&[0])];
    retry_on_intr(|| rustix::net::sendmsg(&socket, &bytes, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Waits for one; `None`: the other end was closed.
pub fn receive_descriptor(socket: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    let (mut space, mut byte) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [0]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(&mut byte)];
    retry_on_intr(|| rustix::net::recvmsg(&socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Where the calls come from. Once it is closed they fail with ENOSYS.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// From what [`intercept`] gave.
    pub const fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Waits for the next call; `None`: nobody is left who could make one.
    pub fn receive(&self) -> Result<Option<Call>, Errno> {
        loop {
            let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
            retry_on_intr(|| poll(&mut ready, None))?;
            if !ready[0].revents().contains(PollFlags::IN) {
                return Ok(None);
            }
            match self.next() {
                // Its caller was killed before it was received.
                Err(Errno::NOENT | Errno::INTR) => {}
                result => return result.map(Some),
            }
        }
    }

    fn next(&self) -> Result<Call, Errno> {
        // SAFETY: of numbers only, for which zero is as good as any; the kernel wants zeros.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one such structure, whose size is part of the request's number.
        let received =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        check(received.into())?;
        let [option, a, b, c, d, _] = call.data.args;
        Ok(Call { id: call.id, tid: call.pid, arch: call.data.arch, args: [option, a, b, c, d] })
    }

    /// Whether it still waits: then its thread is alive, and what was found under its number was about this thread.
    pub fn waits(&self, call: &Call) -> bool {
        // SAFETY: the kernel reads one u64, which outlives the call.
        let asked = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, ptr::from_ref(&call.id))
        };
        asked == 0
    }

    /// Answers it. `NOENT`: nobody waits any more.
    pub fn answer(&self, call: &Call, answer: Answer) -> Result<(), Errno> {
        let mut reply = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
        match answer {
            // The kernel's own calls return no more.
            Answer::Value(value) => reply.val = i64::try_from(value).unwrap_or(i64::MAX),
            Answer::Failure(errno) => reply.error = -errno.raw_os_error(),
            Answer::GoOn => {
                reply.flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1);
            }
        }
        // SAFETY: the kernel reads one such structure, which outlives the call.
        let sent = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
        check(sent.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCH_I386: u32 = 0x4000_0003;

    /// What the filter says of a call, as the kernel would run it.
    fn verdict(arch: u32, number: u32, option: u64) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCH => arch,
            OPTION => u32::try_from(option & 0xffff_ffff).unwrap(),
            other => panic!("reads at {other}"),
        };
        let (mut at, mut loaded) = (0, 0);
        loop {
            let (code, yes, no, operand) = FILTER[at];
            at += 1;
            match code {
                LOAD => loaded = word(operand),
                IF_EQUAL => at += usize::from(if loaded == operand { yes } else { no }),
                RETURN => return operand,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_filter_stops_two_calls_and_nothing_else() {
        for (arch, prctl) in [(ARCH_X86_64, 157), (ARCH_AARCH64, 167)] {
            for option in [59, 60, 1 << 32 | 59, u64::MAX << 32 | 60] {
                assert_eq!(
                    verdict(arch, prctl, option),
                    libc::SECCOMP_RET_USER_NOTIF,
                    "{arch:#x} {option:#x}"
                );
            }
            for option in [0, 58, 61, 59 << 32, u64::MAX] {
                assert_eq!(verdict(arch, prctl, option), libc::SECCOMP_RET_ALLOW, "{arch:#x} {option:#x}");
            }
            // Others of that convention, x32's prctl, and the other convention's number.
            for number in [0, 1, prctl + 1, prctl | 1 << 30, u32::MAX, 157 + 167 - prctl] {
                assert_eq!(verdict(arch, number, 59), libc::SECCOMP_RET_ALLOW, "{arch:#x} {number}");
            }
        }
        for number in [157, 167, 172] {
            assert_eq!(verdict(ARCH_I386, number, 60), libc::SECCOMP_RET_ALLOW, "i386 {number}");
        }
    }

    #[test]
    fn a_descriptor_goes_over_and_an_end_is_told() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_descriptor(&there, &writer).unwrap();
        let writer = receive_descriptor(&here).unwrap().expect("none came");
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(1));
        drop(there);
        assert!(receive_descriptor(&here).unwrap().is_none());
        assert!(adopt(2).is_err() && adopt(i32::MAX).is_err());
    }
}
