//! Processes and threads a workload makes: each runs the same protocol on a channel of its own, two FIFOs named by whoever
//! asked for it.

use std::ffi::CStr;
use std::fmt::Write;

use super::growth::{Growth, Plan, Step};
use super::text::{Channel, Line};
use crate::sys::{Errno, memory, process};

/// A path as the kernel takes it, in a fixed buffer.
pub struct Path(Line);

impl Path {
    /// `None` if it is too long.
    pub fn new(text: &str) -> Option<Self> {
        let mut line = Line::new();
        line.write_str(text).and_then(|()| line.write_char('\0')).ok()?;
        Some(Self(line))
    }
    /// With its NUL.
    pub fn as_c(&self) -> &CStr {
        CStr::from_bytes_until_nul(self.0.as_bytes()).unwrap_or(c"")
    }
}

/// Opens the FIFOs of a new agent. Whoever asked has both open already, so neither call waits.
pub fn open_channel(input: &Path, output: &Path) -> Result<Channel, Errno> {
    Ok(Channel::Fifos(
        process::open(input.as_c(), libc::O_RDONLY)?,
        process::open(output.as_c(), libc::O_WRONLY)?,
    ))
}

/// Children one after the other, each with so much memory of its own for a moment; how many died of a signal.
pub fn brood(count: u64, bytes: u64) -> Result<u64, Errno> {
    let mut died = 0;
    for _ in 0..count {
        let child = process::fork()?;
        if child == 0 {
            let length = usize::try_from(bytes).unwrap_or(0);
            let taken = memory::map(length, memory::Mapping::Anon).map(|at| memory::touch(at, length));
            process::exit_now(taken.err().unwrap_or(0));
        }
        let status = process::wait(child, 0)?.unwrap_or(0);
        died += u64::from(libc::WIFSIGNALED(status));
    }
    Ok(died)
}

/// So many children side by side, each of which grows by the plan, with its own copy of what its parent has, and then holds it. They end with their parent.
pub fn swarm(count: u64, plan: &Plan, growth: &mut Growth) -> Result<u64, Errno> {
    for _ in 0..count {
        if process::fork()? == 0 {
            process::die_with_parent();
            let rest = std::time::Duration::from_nanos(plan.interval);
            while growth.step(plan) != Step::Full {
                std::thread::sleep(rest);
            }
            loop {
                std::thread::sleep(std::time::Duration::from_secs(3600));
            }
        }
    }
    Ok(count)
}

/// So many programs, each started and waited for; how many ended with 0.
pub fn spawn(count: u64) -> Result<u64, Errno> {
    let mut well = 0;
    for _ in 0..count {
        let status = process::wait(process::spawn_self(c"leave-at-once")?, 0)?.unwrap_or(0);
        well += u64::from(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    }
    Ok(well)
}

/// In a new process the channel becomes standard input and output, so that it outlives exec.
pub fn adopt(channel: &Channel) -> Result<(), Errno> {
    if let Channel::Fifos(input, output) = channel {
        use std::os::fd::AsFd;
        process::replace_stdio(input.as_fd(), 0)?;
        process::replace_stdio(output.as_fd(), 1)?;
    }
    Ok(())
}
