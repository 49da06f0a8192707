//! Virtual machines: a Debian kernel and an initramfs made on the spot, run without privileges and without KVM.
//! A machine either says how its command ended, or the run failed: an oops, a panic, silence and time over are failures
//! whatever was printed before. The log of both consoles is kept when it failed.

mod console;
mod cpio;
mod emulator;
mod initramfs;
mod modules;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use emulator::{Emulation, Hierarchy, Kernel};
pub use session::run_command;

use crate::setup::peers;
use crate::{setup, workspace};

/// A machine to boot.
pub struct Machine {
    /// Names its log and its scratch directory.
    pub name: String,
    /// Which kernel.
    pub kernel: Kernel,
    /// Which cgroup version.
    pub cgroup: Hierarchy,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Use KVM; the run fails where that does not work.
    pub kvm: bool,
    /// How its processors are emulated.
    pub emulation: Emulation,
    /// Modules to load.
    pub modules: Vec<String>,
    /// More words for the kernel's command line.
    pub append: Vec<String>,
    /// Go to /usr/local/bin, with their libraries.
    pub programs: Vec<PathBuf>,
    /// Files of this machine and where they go.
    pub files: Vec<(PathBuf, String)>,
    /// Everything together may take this long.
    pub limit: Duration,
}

/// What a machine is booted for.
pub enum Session {
    /// One command with its words.
    Command(Vec<String>),
    /// A shell for whoever sits at the terminal.
    Shell,
}

#[derive(clap::Args)]
#[command(after_help = "Without CMD: a shell. Ctrl-C goes to the command; a second one ends the machine.\n\
    With --kernel uml: the kernel of Debian's user-mode-linux, one processor, no PSI, no BTF, no modules.")]
pub struct Arguments {
    /// Which kernel to boot
    #[arg(long, default_value = "6.12")]
    kernel: Kernel,
    /// Which cgroup version to mount
    #[arg(long, default_value = "v2")]
    cgroup: Hierarchy,
    /// Memory of the machine, such as 768M or 2G
    #[arg(long, default_value = "1G", value_parser = mebibytes)]
    mem: u32,
    /// Use KVM; never assumed, because /dev/kvm may be there and not work
    #[arg(long)]
    kvm: bool,
    /// How its processors are emulated; `multi` is faster, and unsafe where programs are attached to the kernel
    #[arg(long, default_value = "single")]
    emulation: Emulation,
    /// A kernel module to load, with what it needs (may be repeated)
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Have iperf3, nginx, curl, ip and tc in the machine, and load the modules for links with a delay
    #[arg(long)]
    peers: bool,
    /// A word for the kernel's command line (may be repeated)
    #[arg(long, value_name = "WORD")]
    append: Vec<String>,
    /// A file to have in the machine (may be repeated)
    #[arg(long = "file", value_name = "FROM:TO", value_parser = file)]
    files: Vec<(PathBuf, String)>,
    /// End the machine after this many seconds (a shell may stay)
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    limit: u64,
    /// Do not build memgov and memgov-systest, and leave them out
    #[arg(long)]
    bare: bool,
    /// The command and its words
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// `cargo xtask vm`.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut programs = if arguments.bare { Vec::new() } else { build_programs()? };
    let mut modules = arguments.modules.clone();
    if arguments.peers {
        programs.extend(peers::programs()?);
        modules.extend(peers::MODULES.map(str::to_owned));
    }
    let machine = Machine {
        name: format!("vm-{}-{}", arguments.kernel.name(), arguments.cgroup.name()),
        kernel: arguments.kernel,
        cgroup: arguments.cgroup,
        memory_mib: arguments.mem,
        kvm: arguments.kvm,
        emulation: arguments.emulation,
        modules,
        append: arguments.append.clone(),
        programs,
        files: arguments.files.clone(),
        limit: Duration::from_secs(arguments.limit),
    };
    if arguments.command.is_empty() {
        return session::shell(&machine).map(|()| ExitCode::SUCCESS);
    }
    attended(&machine, arguments.command.clone())
}

/// Runs a command for someone who watches: its output is ours, its exit status too, and Ctrl-C reaches it.
pub fn attended(machine: &Machine, words: Vec<String>) -> Result<ExitCode> {
    let outcome = run_command(machine, words, true, &mut |line| println!("{line}"))?;
    if let Some(trouble) = &outcome.trouble {
        outcome.print_log();
        anyhow::bail!("{}: {trouble}", machine.name);
    }
    eprintln!(
        "{}: booted in {:.1} s, {:.1} s in all",
        machine.name,
        outcome.boot.unwrap_or_default().as_secs_f64(),
        outcome.total.as_secs_f64()
    );
    Ok(outcome.code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The release build of what goes into a machine.
pub fn build_programs() -> Result<Vec<PathBuf>> {
    setup::packages(setup::FOR_BUILDING)?;
    let mut build = workspace::release_build();
    let status = build.status().context("starting cargo build")?;
    ensure!(status.success(), "cargo build --release: {status}");
    Ok(["memgov", "memgov-files", "memgov-rescue", "memgov-systest"].map(workspace::release).to_vec())
}

fn mebibytes(text: &str) -> Result<u32, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "M" | "MiB" => 1,
        "G" | "GiB" => 1024,
        _ => return Err("a size needs a unit: 768M or 1G".to_owned()),
    };
    number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|mebibytes| (128..=65536).contains(mebibytes))
        .ok_or_else(|| "between 128M and 64G".to_owned())
}

fn file(text: &str) -> Result<(PathBuf, String), String> {
    let (from, to) = text.split_once(':').ok_or("FROM:TO is needed")?;
    Ok((from.into(), to.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_a_unit_and_sense() {
        assert_eq!(mebibytes("512M"), Ok(512));
        assert_eq!(mebibytes("2GiB"), Ok(2048));
        for wrong in ["", "M", "512", "1T", "16M", "9999999999G", "4194304G", "-1G"] {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }
}
