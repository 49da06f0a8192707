//! The system tests: `memgov-systest run` on this machine and in the virtual machines, its results as rows and failures.

use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use super::report::Report;
use super::summary::Summary;
use crate::progress::heading;
use crate::setup::peers;
use crate::supervise::{self, End, OnInterrupt};
use crate::vm::{self, Emulation, Hierarchy, Kernel, Machine};
use crate::{interrupt, workspace};

/// Where the system tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// This machine, whatever it is
    Host,
    /// Debian 6.12, cgroup v2
    #[value(name = "6.12-v2")]
    Linux612V2,
    /// Debian 6.1, cgroup v2
    #[value(name = "6.1-v2")]
    Linux61V2,
    /// Debian 6.1, cgroup v1
    #[value(name = "6.1-v1")]
    Linux61V1,
    /// User-mode Linux, cgroup v2: no PSI, no BTF, one processor
    Uml,
    /// Debian 6.12, cgroup v2, enforcement inside the kernel
    #[value(name = "6.12-v2-bpf")]
    Linux612V2Bpf,
    /// Debian 6.1, cgroup v2, enforcement inside the kernel
    #[value(name = "6.1-v2-bpf")]
    Linux61V2Bpf,
    /// Debian 6.1, cgroup v1, enforcement inside the kernel
    #[value(name = "6.1-v1-bpf")]
    Linux61V1Bpf,
    /// Debian 6.12, cgroup v2: what enforcement inside the kernel costs, in instructions
    #[value(name = "6.12-v2-cost")]
    Linux612V2Cost,
    /// Debian 6.1, cgroup v2: what enforcement inside the kernel costs, in instructions
    #[value(name = "6.1-v2-cost")]
    Linux61V2Cost,
}

/// What a target is: its name, and what memgov-systest is told.
struct Facts {
    name: &'static str,
    /// `None` for this machine.
    boots: Option<(Kernel, Hierarchy)>,
    /// As memgov-systest names the machine and the tier.
    machine: &'static str,
    tier: &'static str,
    emulation: Emulation,
}

impl Target {
    /// All, in the order they run: what takes longest first, and beside this machine one whose processor is emulated in one thread.
    pub const ALL: [Self; 10] = [
        Self::Host,
        Self::Linux612V2Bpf,
        Self::Linux61V2Bpf,
        Self::Linux61V1Bpf,
        Self::Linux612V2Cost,
        Self::Linux61V2Cost,
        Self::Linux612V2,
        Self::Linux61V2,
        Self::Linux61V1,
        Self::Uml,
    ];

    fn facts(self) -> Facts {
        use Hierarchy::{V1, V2};
        use Kernel::{Linux61, Linux612, Uml};
        let of = |name, boots: Option<(Kernel, Hierarchy)>, machine, tier| {
            let emulation = match (tier, boots) {
                (PORTABLE, Some((_, cgroup))) => Emulation::of(cgroup),
                _ => Emulation::Single,
            };
            Facts { name, boots, machine, tier, emulation }
        };
        let counting = |facts| Facts { emulation: Emulation::Counting, ..facts };
        match self {
            Self::Host => of("host", None, "host", PORTABLE),
            Self::Linux612V2 => of("6.12-v2", Some((Linux612, V2)), "6.12-v2", PORTABLE),
            Self::Linux61V2 => of("6.1-v2", Some((Linux61, V2)), "6.1-v2", PORTABLE),
            Self::Linux61V1 => of("6.1-v1", Some((Linux61, V1)), "6.1-v1", PORTABLE),
            Self::Uml => of("uml", Some((Uml, V2)), "uml", PORTABLE),
            Self::Linux612V2Bpf => of("6.12-v2-bpf", Some((Linux612, V2)), "6.12-v2", BPF),
            Self::Linux61V2Bpf => of("6.1-v2-bpf", Some((Linux61, V2)), "6.1-v2", BPF),
            Self::Linux61V1Bpf => of("6.1-v1-bpf", Some((Linux61, V1)), "6.1-v1", BPF),
            Self::Linux612V2Cost => counting(of("6.12-v2-cost", Some((Linux612, V2)), "6.12-v2", BPF)),
            Self::Linux61V2Cost => counting(of("6.1-v2-cost", Some((Linux61, V2)), "6.1-v2", BPF)),
        }
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Run only when named by `--only`, or with `--thorough`: what is shown on 6.12 is shown there once more, and a run of everything has to end in its time.
    pub fn waits(self) -> bool {
        matches!(self, Self::Linux61V2Bpf | Self::Linux61V1Bpf | Self::Linux612V2Cost | Self::Linux61V2Cost)
    }

    /// Whether programs are in it that talk over a network: a squeeze is from outside in either tier.
    pub fn has_peers(self) -> bool {
        let Facts { boots, tier, .. } = self.facts();
        tier == PORTABLE && boots.is_some_and(|(kernel, _)| kernel != Kernel::Uml)
    }

    /// `None` for this machine.
    pub fn boots(self) -> Option<(Kernel, Hierarchy)> {
        self.facts().boots
    }
}

const PORTABLE: &str = "portable";
const BPF: &str = "bpf";
/// The tests that are about instructions.
const COUNTED: &str = "instructions_";

/// How to run them.
pub struct Options<'a> {
    pub filter: Option<&'a str>,
    pub thorough: bool,
    pub limit: Duration,
    pub kvm: bool,
}

/// Runs the targets, at most `jobs` at a time; results in the order of the targets. This machine's tests wait for most of their time and measure how long: an emulated one beside them
/// gives way to them.
pub fn run(targets: &[Target], jobs: usize, options: &Options<'_>) -> Result<Summary> {
    let next = Mutex::new(targets.iter().copied().enumerate());
    let done: Mutex<Vec<(usize, Result<Summary>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, targets.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let Some((at, next)) = next.lock().ok().and_then(|mut next| next.next()) else {
                        return;
                    };
                    let results = interrupt::check().and_then(|()| target(next, options));
                    if let Ok(mut done) = done.lock() {
                        done.push((at, results));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    anyhow::ensure!(done.len() == targets.len(), "a thread that ran a target did not come to its end");
    done.sort_by_key(|(at, _)| *at);
    let mut summary = Summary::default();
    for (_, results) in done {
        summary.add(results?);
    }
    Ok(summary)
}

fn target(target: Target, options: &Options<'_>) -> Result<Summary> {
    let name = target.name();
    heading(format_args!("{name}: system tests"));
    let start = Instant::now();
    let mut report = Report::new(name);
    let (trouble, code) = match target.boots() {
        None => on_this_machine(options, &mut report)?,
        Some((kernel, cgroup)) => in_a_machine(target, kernel, cgroup, options, &mut report)?,
    };
    anyhow::ensure!(interrupt::count() == 0, "interrupted");
    let mut summary = report.finish(trouble.as_deref(), code);
    heading(format_args!("{name}: {:.1} s in all", start.elapsed().as_secs_f64()));
    // What no test accounts for, booting for the most part, belongs to the first row.
    let counted: Duration = summary.rows.iter().map(|row| row.took).sum();
    if let Some(first) = summary.rows.first_mut() {
        first.took += start.elapsed().saturating_sub(counted);
    }
    Ok(summary)
}

fn words(target: Target, memgov: &str, options: &Options<'_>) -> Vec<String> {
    let Facts { machine, tier, .. } = target.facts();
    let words = ["run", "--target", machine, "--tier", tier, "--memgov", memgov];
    let mut words = words.map(str::to_owned).to_vec();
    // Everything else takes minutes by a clock that counts.
    let counted = (target.facts().emulation == Emulation::Counting).then_some(COUNTED);
    let filter = options.filter.or(counted);
    words.extend(options.thorough.then(|| "--all".to_owned()));
    words.extend(filter.iter().flat_map(|filter| ["--filter".to_owned(), (*filter).to_owned()]));
    words
}

fn on_this_machine(options: &Options<'_>, report: &mut Report) -> Result<(Option<String>, Option<i32>)> {
    let mut command = Command::new(workspace::release("memgov-systest"));
    command.args(words(Target::Host, &workspace::release("memgov").to_string_lossy(), options));
    let end = supervise::run(command, options.limit, OnInterrupt::End, &mut |_, line| report.line(line))?;
    let trouble = (!matches!(end, End::Exited(_))).then(|| end.to_string());
    Ok((trouble, end.code()))
}

fn in_a_machine(
    target: Target,
    kernel: Kernel,
    cgroup: Hierarchy,
    options: &Options<'_>,
    report: &mut Report,
) -> Result<(Option<String>, Option<i32>)> {
    let mut programs =
        ["memgov", "memgov-files", "memgov-rescue", "memgov-systest"].map(workspace::release).to_vec();
    // Page cache that can be reclaimed takes a block device; a dentry bomb a real file system, which looks for its checksums by name; the letters' files fuse; and a machine that swaps zram or a disk. The kernel lists
    // sockets by modules too.
    let mut modules = vec![
        "null_blk",
        "crc32c_generic",
        "ext4",
        "loop",
        "fuse",
        "zram",
        "virtio_pci",
        "virtio_blk",
        "tcp_diag",
        "udp_diag",
        "unix_diag",
    ];
    if kernel == Kernel::Uml {
        modules.clear();
    }
    if target.has_peers() {
        programs.extend(peers::programs()?);
        modules.extend(peers::MODULES);
    }
    let machine = Machine {
        name: target.name().to_owned(),
        kernel,
        cgroup,
        memory_mib: 1024,
        kvm: options.kvm && kernel != Kernel::Uml,
        emulation: target.facts().emulation,
        modules: modules.into_iter().map(str::to_owned).collect(),
        append: Vec::new(),
        programs,
        files: Vec::new(),
        limit: options.limit,
    };
    let mut command = vec!["memgov-systest".to_owned()];
    command.extend(words(target, "/usr/local/bin/memgov", options));
    let outcome = vm::run_command(&machine, command, false, &mut |line| report.line(line))?;
    if let Some(boot) = outcome.boot {
        println!("{}: booted in {:.1} s", target.name(), boot.as_secs_f64());
    }
    if outcome.trouble.is_some() {
        outcome.print_log();
    } else if outcome.code != Some(0) {
        println!("{}: the log is in {}", target.name(), outcome.log().display());
    }
    Ok((outcome.trouble, outcome.code))
}
