//! `cargo xtask demo`: builds memgov and lets `memgov-systest demo` show it, here or in a virtual machine.
//! The demo itself is in crates/systest; this only starts it and waits until it has cleaned up.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::supervise::{self, End};
use crate::vm::{self, Emulation, Hierarchy, Kernel, Machine};
use crate::{interrupt, workspace};

#[derive(clap::Args)]
pub struct Arguments {
    /// In a virtual machine: Debian's 6.12 kernel with cgroup v2
    #[arg(long)]
    vm: bool,
}

/// The demo takes under two minutes; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);
/// Emulation is several times slower.
const VM_LIMIT: Duration = Duration::from_secs(600);

/// `cargo xtask demo`.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.vm { in_a_machine() } else { here() }
}

fn here() -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo governs real processes in control groups of its own, which needs root: run it with sudo, \
         or without root in a virtual machine: cargo xtask demo --vm"
    );
    vm::build_programs()?;
    interrupt::check()?;
    let mut demo = Command::new(workspace::release("memgov-systest"));
    demo.arg("demo").arg("--memgov").arg(workspace::release("memgov"));
    let end = supervise::run_on_our_output(demo, LIMIT)?;
    if !matches!(end, End::Exited(_)) {
        eprintln!("xtask: the demo was {end}; `memgov restore` undoes what it may have left");
    }
    Ok(end.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn in_a_machine() -> Result<ExitCode> {
    let machine = Machine {
        name: "demo".to_owned(),
        kernel: Kernel::Linux612,
        cgroup: Hierarchy::V2,
        memory_mib: 1024,
        kvm: false,
        emulation: Emulation::of(Hierarchy::V2),
        modules: Vec::new(),
        append: Vec::new(),
        programs: vm::build_programs()?,
        files: Vec::new(),
        limit: VM_LIMIT,
    };
    interrupt::check()?;
    let words = ["memgov-systest", "demo", "--memgov", "/usr/local/bin/memgov"];
    vm::attended(&machine, words.map(str::to_owned).to_vec())
}
