//! Debian's own kernels, unpacked from their packages into target/vm/kernels/SERIES once.
//! Nothing is installed on this machine: a package is fetched, unpacked below target/, and never run here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{apt_get, output, succeed, update_lists};
use crate::workspace;

/// depmod is in sbin, which is not in everyone's PATH.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A kernel series and the Debian package that always depends on its newest build.
pub struct Series {
    /// "6.1": also the name of its folder.
    pub series: &'static str,
    newest: &'static str,
}

/// cgroup v1 and v2: Debian 12's own.
pub const LINUX_6_1: &Series = &Series { series: "6.1", newest: "linux-image-amd64" };
/// Memory on cgroup v2 only: from Debian 12's backported kernels.
pub const LINUX_6_12: &Series = &Series { series: "6.12", newest: "linux-image-6.12-amd64" };
/// All of them.
pub const ALL: [&Series; 2] = [LINUX_6_1, LINUX_6_12];

/// An unpacked kernel package.
pub struct Kernel {
    /// Its root: boot/ and lib/modules/ are below.
    pub dir: PathBuf,
    /// As `uname -r` says it.
    pub release: String,
}

impl Kernel {
    /// The bootable image.
    pub fn image(&self) -> PathBuf {
        self.dir.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Its modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }

    /// `None` when it is not there, or not whole.
    fn find(dir: &Path) -> Option<Self> {
        let release = fs::read_to_string(dir.join("release")).ok()?.trim().to_owned();
        let kernel = Self { dir: dir.to_owned(), release };
        (kernel.image().is_file() && kernel.modules().is_dir()).then_some(kernel)
    }
}

/// The kernel of this series; from the network only when it is not here.
pub fn fetch(series: &Series) -> Result<Kernel> {
    let dir = workspace::vm().join("kernels").join(series.series);
    if let Some(kernel) = Kernel::find(&dir) {
        return Ok(kernel);
    }
    let half = dir.with_file_name(format!("{}.partial.{}", series.series, std::process::id()));
    let unpacked = unpack_newest(series, &half);
    if unpacked.is_err() {
        let _ = fs::remove_dir_all(&half);
    }
    unpacked.with_context(|| format!("fetching a {} kernel", series.series))?;
    // Whole or not at all: the name appears when everything is in place.
    let _ = fs::remove_dir_all(&dir);
    fs::rename(&half, &dir).with_context(|| format!("renaming {}", half.display()))?;
    Kernel::find(&dir).with_context(|| format!("{} has no kernel in it", dir.display()))
}

fn unpack_newest(series: &Series, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    let package = match resolve(series) {
        Ok(package) => package,
        Err(_) => {
            update_lists()?;
            resolve(series)?
        }
    };
    println!("setup: fetching {package} (70-110 MB)");
    if download(&package, into).is_err() {
        update_lists()?;
        download(&resolve(series)?, into)?;
    }
    let deb = only_file(into, |name| name.ends_with(".deb"))?;
    println!("setup: unpacking it into {}", workspace::vm().join("kernels").join(series.series).display());
    succeed(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
    fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))?;
    let image = only_file(&into.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let release = name.trim_start_matches("vmlinuz-");
    // The package runs depmod when it is installed; we want its answer here, for `--module`.
    succeed(Command::new("depmod").env("PATH", SYSTEM_PATH).arg("-b").arg(into).arg(release))?;
    fs::write(into.join("release"), release).context("writing the release file")
}

pub(super) fn download(package: &str, into: &Path) -> Result<()> {
    // As root apt drops to a user who may not write here, and warns that it then does not: expected.
    succeed(apt_get().args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(into))
}

/// The package that the metapackage depends on now.
fn resolve(series: &Series) -> Result<String> {
    let depends = output(Command::new("apt-cache").args(["depends", series.newest]))?;
    newest_of(&depends, series.series)
        .with_context(|| format!("{} does not depend on a {} kernel here", series.newest, series.series))
}

fn newest_of(depends: &str, series: &str) -> Option<String> {
    let prefix = format!("linux-image-{series}.");
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with(&prefix))
        .map(str::to_owned)
}

pub(super) fn only_file(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    ensure!(found.len() < 2, "{} has {} files where one is meant", dir.display(), found.len());
    found.pop().with_context(|| format!("{} lacks the file we look for", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_what_the_metapackage_depends_on() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(newest_of(depends, "6.1").as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest_of(depends, "6.12"), None);
    }

    #[test]
    fn series_6_1_is_not_6_12() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.12.117+deb13-amd64\n";
        assert_eq!(newest_of(depends, "6.1"), None);
    }

    #[test]
    fn a_half_unpacked_kernel_is_no_kernel() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib/modules/6.1.0")).unwrap();
        assert!(Kernel::find(dir.path()).is_none());
        fs::write(dir.path().join("release"), "6.1.0\n").unwrap();
        assert!(Kernel::find(dir.path()).is_none());
        fs::create_dir(dir.path().join("boot")).unwrap();
        fs::write(dir.path().join("boot/vmlinuz-6.1.0"), "").unwrap();
        assert_eq!(Kernel::find(dir.path()).unwrap().release, "6.1.0");
    }
}
