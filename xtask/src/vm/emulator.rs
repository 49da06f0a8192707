//! The two ways to run a kernel as a program: QEMU, and user-mode Linux. Both get the same shape: standard input and
//! output are the command's terminal, standard error is the kernel's console, so that neither garbles the other.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use super::Machine;
use crate::setup::{self, kernels};
use crate::supervise;

/// A kernel to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian 6.1: cgroup v2 and v1
    #[value(name = "6.1")]
    Linux61,
    /// Debian 6.12: memory on cgroup v2 only
    #[value(name = "6.12")]
    Linux612,
    /// user-mode Linux 6.1: one processor, no PSI, no BTF, no BPF LSM
    #[value(name = "uml")]
    Uml,
}

/// Which cgroup version the machine mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hierarchy {
    /// One unified hierarchy with every controller
    V2,
    /// A hierarchy a controller
    V1,
    /// As v1, and the unified hierarchy without controllers beside it
    Hybrid,
}

impl Hierarchy {
    /// As on the command line and in init.sh.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
        }
    }
}

/// How QEMU emulates the processors. The kernel rewrites its own text while other processors run it: when programs are attached to its functions, and
/// whenever the v1 freezer switches a static branch (`freezer_active` in kernel/freezer.c). QEMU 7.2 with a thread a processor can miss that: a processor then
/// runs on into a breakpoint that nobody knows of any more (seen as int3 oopses, and as soft lockups in get_signal). One thread for all cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emulation {
    /// One thread for all processors: slower, and safe for kernel text that changes.
    Single,
    /// One a processor.
    Multi,
    /// One thread, and a clock that counts: each instruction of the guest is a nanosecond, so that two runs of the same code take the same time
    /// whatever else this machine does. The slowest.
    Counting,
}

impl Emulation {
    /// What the hierarchy needs.
    pub const fn of(cgroup: Hierarchy) -> Self {
        match cgroup {
            Hierarchy::V2 => Self::Multi,
            Hierarchy::V1 | Hierarchy::Hybrid => Self::Single,
        }
    }

    const fn acceleration(self) -> &'static str {
        match self {
            Self::Single | Self::Counting => "tcg,thread=single",
            Self::Multi => "tcg,thread=multi",
        }
    }
}

impl Kernel {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux61 => "6.1",
            Self::Linux612 => "6.12",
            Self::Uml => "uml",
        }
    }

    fn series(self) -> Option<&'static kernels::Series> {
        match self {
            Self::Linux61 => Some(kernels::LINUX_6_1),
            Self::Linux612 => Some(kernels::LINUX_6_12),
            Self::Uml => None,
        }
    }

    /// Sets up what this kernel needs on this machine; refuses what it cannot do.
    pub fn prepare(self, cgroup: Hierarchy) -> Result<()> {
        ensure!(
            self != Self::Linux612 || cgroup == Hierarchy::V2,
            "Debian's 6.12 has no memory controller for cgroup v1: take --kernel 6.1 for --cgroup {}",
            cgroup.name()
        );
        match self.series() {
            Some(series) => {
                setup::packages(setup::FOR_QEMU)?;
                kernels::fetch(series).map(drop)
            }
            None => setup::packages(setup::FOR_UML),
        }
    }

    /// The directory of its modules.
    pub fn modules(self) -> Result<PathBuf> {
        match self.series() {
            Some(series) => Ok(kernels::fetch(series)?.modules()),
            None => bail!("modules for user-mode Linux are not supported"),
        }
    }

    /// The device that is the command's terminal, as the guest calls it.
    pub fn console(self) -> &'static str {
        match self {
            Self::Linux61 | Self::Linux612 => "/dev/ttyS1",
            Self::Uml => "/dev/tty0",
        }
    }

    /// The command that is this machine.
    pub fn command(self, machine: &Machine, initramfs: &Path, scratch: &Path) -> Result<Command> {
        match self.series() {
            Some(series) => qemu(machine, self, &kernels::fetch(series)?.image(), initramfs, scratch),
            None => uml(machine, initramfs, scratch),
        }
    }
}

/// Both kernels: stop at the first oops, and keep the root file system out of tmpfs, where every file counts as shared
/// memory, so that a mapped file is a file as on a real machine.
/// `memgov.machine=own` tells memgov-systest that all of this machine's memory may be used up.
const APPEND: &str = "panic=-1 oops=panic rootfstype=ramfs loglevel=6 memgov.machine=own";

/// How the guest is told that its clock counts instructions: memgov-systest looks for it.
const COUNTING: &str = " memgov.clock=instructions";

/// With a clock that counts instructions 6.1 never gets to see its second processor ("smp: Bringing up secondary CPUs" is the last it says).
fn processors(machine: &Machine, kernel: Kernel) -> u8 {
    if machine.emulation == Emulation::Counting && kernel == Kernel::Linux61 { 1 } else { 2 }
}

/// nice(1): a third of the share of who has not been made to wait.
const NICENESS: &str = "5";

/// A machine with this module has a disk that the tests may do with as they like: nothing, until it is written.
const DISK_MODULE: &str = "virtio_blk";
const DISK_BYTES: u64 = 1 << 30;

fn disk(scratch: &Path) -> Result<String> {
    let path = scratch.join("disk");
    let made = std::fs::File::create(&path).and_then(|file| file.set_len(DISK_BYTES));
    made.with_context(|| format!("making {}", path.display()))?;
    Ok(format!("file={},format=raw,if=virtio,cache=unsafe", path.display()))
}

fn qemu(
    machine: &Machine,
    kernel: Kernel,
    image: &Path,
    initramfs: &Path,
    scratch: &Path,
) -> Result<Command> {
    let mut append = format!("console=ttyS0 {APPEND} psi=1 swapaccount=1");
    for word in &machine.append {
        append.push(' ');
        append.push_str(word);
    }
    // It takes a processor for as long as it runs; who measures time on this machine meanwhile goes first.
    let mut qemu = supervise::dies_with_us("nice");
    qemu.args(["-n", NICENESS, "qemu-system-x86_64"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
    // Only when asked for: /dev/kvm may open and still not work.
    if machine.kvm {
        qemu.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        qemu.args(["-accel", machine.emulation.acceleration(), "-cpu", "max"]);
        if machine.emulation == Emulation::Counting {
            append.push_str(COUNTING);
            // Nobody waits: while all processors idle the clock jumps to what comes next.
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
    }
    qemu.args(["-smp", &processors(machine, kernel).to_string(), "-m", &format!("{}M", machine.memory_mib)]);
    if machine.modules.iter().any(|module| module == DISK_MODULE) {
        qemu.args(["-drive", &disk(scratch)?]);
    }
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs).args(["-append", &append]);
    qemu.args([
        "-serial",
        "file:/dev/stderr",
        "-chardev",
        "stdio,id=command,signal=off",
        "-serial",
        "chardev:command",
    ]);
    Ok(qemu)
}

fn uml(machine: &Machine, initramfs: &Path, scratch: &Path) -> Result<Command> {
    ensure!(!machine.kvm, "user-mode Linux is a program and knows no KVM");
    // Its helper processes outlive it when it is killed; a PID namespace takes them along. That takes root.
    let mut uml = if rustix::process::geteuid().is_root() {
        let mut unshare = supervise::dies_with_us("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--", "linux.uml"]);
        unshare
    } else {
        supervise::dies_with_us("linux.uml")
    };
    uml.arg(format!("mem={}M", machine.memory_mib));
    uml.arg(format!("initrd={}", initramfs.display())).arg("rdinit=/init");
    // con0: the command's terminal; ssl0, which the guest calls ttyS0: the kernel's console.
    uml.args(["con=null", "con0=fd:0,fd:1", "ssl=null", "ssl0=null,fd:2", "console=ttyS0"]);
    uml.args(APPEND.split(' ')).args(&machine.append);
    uml.arg(format!("uml_dir={}/", scratch.display())).arg("umid=uml");
    Ok(uml)
}
