//! Where things are in this checkout. Paths only: nothing is created here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Kernels, logs and scratch files of the virtual machines.
pub fn vm() -> PathBuf {
    target().join("vm")
}

/// A binary of the release build.
pub fn release(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// The release build of all that is shipped and tested. One command for everybody: another choice of packages has other features of libraries, and builds
/// those again.
pub fn release_build() -> Command {
    let mut build = cargo();
    build.args(["build", "--release", "--lib", "--bins"]);
    build.args(["frugal", "handler", "shrink"].iter().flat_map(|name| ["--example", name]));
    let packages =
        ["memgov", "memgov-files", "memgov-rescue", "memgov-systest", "libmemgov", "memgov-client"];
    build.args(packages.map(|name| format!("--package={name}")));
    build
}

/// The cargo that runs us, in the root of the checkout.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // Meant for this program; a build script or a test that reads them must see its own.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(name);
        }
    }
    cargo
}
