//! Programs that talk over a network with a delay in it, for tests that are about sockets, and what makes such a network. All but one are installed;
//! nginx is unpacked below target/ and found by its path: its package starts a web server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::kernels::{download, only_file};
use super::{Need, packages, succeed, update_lists};
use crate::workspace;

const IPERF: Need = Need { package: "iperf3", programs: &["/usr/bin/iperf3"] };
const CURL: Need = Need { package: "curl", programs: &["/usr/bin/curl"] };
/// Busybox has an `ip` without namespaces, and a `tc` without netem.
const IPROUTE: Need = Need { package: "iproute2", programs: &["/sbin/tc", "/usr/sbin/tc"] };
/// The libraries nginx is linked with that no other program here brings.
const PCRE: Need = Need { package: "libpcre2-8-0", programs: &["/usr/lib/x86_64-linux-gnu/libpcre2-8.so.0"] };
const SSL: Need = Need { package: "libssl3", programs: &["/usr/lib/x86_64-linux-gnu/libssl.so.3"] };

const INSTALLED: &[Need] = &[IPERF, CURL, IPROUTE, PCRE, SSL];
/// The same on every Debian.
const PROGRAMS: [[&str; 2]; 4] = [
    ["/usr/bin/iperf3", "/usr/bin/iperf3"],
    ["/usr/bin/curl", "/usr/bin/curl"],
    ["/usr/bin/ip", "/bin/ip"],
    ["/usr/sbin/tc", "/sbin/tc"],
];

/// Modules of the kernel under test: links between namespaces, and delay.
pub const MODULES: [&str; 2] = ["veth", "sch_netem"];

/// Sets up what is missing; where the programs are.
pub fn programs() -> Result<Vec<PathBuf>> {
    packages(INSTALLED)?;
    let found = PROGRAMS.map(|places| places.map(PathBuf::from).into_iter().find(|path| path.exists()));
    let mut found = found.into_iter().collect::<Option<Vec<_>>>().context("iperf3, curl, ip or tc")?;
    found.push(nginx()?);
    Ok(found)
}

/// From the network only when it is not here.
fn nginx() -> Result<PathBuf> {
    let dir = workspace::vm().join("nginx");
    let program = dir.join("usr/sbin/nginx");
    if program.is_file() {
        return Ok(program);
    }
    let half = dir.with_file_name(format!("nginx.partial.{}", std::process::id()));
    let unpacked = unpack(&half);
    if unpacked.is_err() {
        let _ = fs::remove_dir_all(&half);
    }
    unpacked.context("fetching nginx")?;
    // Whole or not at all, as the kernels.
    let _ = fs::remove_dir_all(&dir);
    fs::rename(&half, &dir).with_context(|| format!("renaming {}", half.display()))?;
    Ok(program)
}

fn unpack(into: &PathBuf) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    println!("setup: fetching nginx (0.5 MB), unpacked and not installed");
    if download("nginx", into).is_err() {
        update_lists()?;
        download("nginx", into)?;
    }
    let deb = only_file(into, |name| name.ends_with(".deb"))?;
    succeed(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
    fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))
}
