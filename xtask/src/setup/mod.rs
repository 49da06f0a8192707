//! What a fresh Debian machine lacks: programs by apt-get, rustup components, kernels for the virtual machines.
//! Says each thing it installs, asks the network for nothing that is already here, and never upgrades anything.

pub mod kernels;
pub mod peers;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// A program, or another file, and the Debian package that brings it.
pub struct Need {
    package: &'static str,
    /// Any of these says that it is here.
    programs: &'static [&'static str],
}

const QEMU: Need = Need { package: "qemu-system-x86", programs: &["/usr/bin/qemu-system-x86_64"] };
const UML: Need = Need { package: "user-mode-linux", programs: &["/usr/bin/linux.uml"] };
const BUSYBOX: Need = Need { package: "busybox-static", programs: &["/usr/bin/busybox", "/bin/busybox"] };
const DEPMOD: Need = Need { package: "kmod", programs: &["/usr/sbin/depmod", "/sbin/depmod"] };
const XZ: Need = Need { package: "xz-utils", programs: &["/usr/bin/xz"] };
const SETPRIV: Need = Need { package: "util-linux", programs: &["/usr/bin/setpriv"] };

/// Compiles the programs of the eBPF tier.
const CLANG: Need = Need { package: "clang", programs: &["/usr/bin/clang"] };
/// libbpf, which is linked in, is compiled from source with these.
const LIBELF: Need = Need { package: "libelf-dev", programs: &["/usr/include/libelf.h"] };
const ZLIB: Need = Need { package: "zlib1g-dev", programs: &["/usr/include/zlib.h"] };
const MAKE: Need = Need { package: "make", programs: &["/usr/bin/make"] };
const PKG_CONFIG: Need = Need { package: "pkg-config", programs: &["/usr/bin/pkg-config"] };

/// Runs the Python example of libmemgov.
const PYTHON: Need = Need { package: "python3", programs: &["/usr/bin/python3"] };

/// For building memgov with the eBPF tier.
pub const FOR_BUILDING: &[Need] = &[CLANG, LIBELF, ZLIB, MAKE, PKG_CONFIG];
/// For a virtual machine in QEMU.
pub const FOR_QEMU: &[Need] = &[QEMU, BUSYBOX, DEPMOD, XZ, SETPRIV];
/// For the examples of libmemgov.
pub const FOR_CLIENTS: &[Need] = &[PYTHON];
/// For user-mode Linux.
pub const FOR_UML: &[Need] = &[UML, BUSYBOX, SETPRIV];

/// Everything that `cargo xtask test` uses.
pub fn everything() -> Result<()> {
    rust_components()?;
    packages(FOR_BUILDING)?;
    packages(FOR_QEMU)?;
    packages(FOR_UML)?;
    packages(FOR_CLIENTS)?;
    peers::programs()?;
    for kernel in kernels::ALL {
        println!("setup: kernel {} in {}", kernel.series, kernels::fetch(kernel)?.dir.display());
    }
    println!("setup: everything is here");
    Ok(())
}

/// rustfmt and clippy: a minimal rustup profile leaves them out.
pub fn rust_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let here =
            workspace::cargo().args([subcommand, "--version"]).output().is_ok_and(|it| it.status.success());
        if !here {
            println!("setup: rustup component add {component}");
            succeed(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

/// Installs the packages whose programs are missing.
pub fn packages(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs
        .iter()
        .filter(|need| !need.programs.iter().any(|program| Path::new(program).exists()))
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing: {0}. Only root can install packages: apt-get install {0}", missing.join(" "));
    }
    if !missing.iter().all(|package| has_candidate(package)) {
        update_lists()?;
    }
    println!("setup: apt-get install {}", missing.join(" "));
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
    if succeed(&mut install).is_err() {
        // Lists that are too old name files which are no longer there.
        update_lists()?;
        succeed(&mut install)?;
    }
    for need in needs {
        let here = need.programs.iter().any(|program| Path::new(program).exists());
        ensure!(here, "{} was installed but brought none of {:?}", need.package, need.programs);
    }
    Ok(())
}

fn has_candidate(package: &str) -> bool {
    output(Command::new("apt-cache").args(["policy", package])).is_ok_and(|policy| {
        policy.lines().any(|line| line.contains("Candidate:") && !line.contains("(none)"))
    })
}

fn update_lists() -> Result<()> {
    println!("setup: apt-get update");
    succeed(apt_get().arg("update"))
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
