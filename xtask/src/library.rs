//! `cargo xtask library`: the C library with its header and pkg-config file, as a package installs them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// What is asked for.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where programs will find it
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Below this directory instead of the root [default: target/libmemgov]
    #[arg(long, value_name = "DIR")]
    destdir: Option<PathBuf>,
}

const SONAME: &str = "libmemgov.so.0";

/// Builds and installs it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let root = arguments.destdir.clone().unwrap_or_else(staged);
    // Nothing of the daemon: a machine that only links programs need not have what its eBPF tier is built with.
    succeed(workspace::cargo().args(["build", "--release", "--package", "libmemgov"]))?;
    for file in install(&root, &arguments.prefix)? {
        println!("library: {}", file.display());
    }
    Ok(())
}

fn staged() -> PathBuf {
    workspace::target().join("libmemgov")
}

/// The example of each language where `memgov-systest` finds them, that in C built as a user would. Library and Rust example are built already.
pub fn clients() -> Result<()> {
    let prefix = Path::new("/usr/local");
    install(&staged(), prefix)?;
    let installed = staged().join("usr/local");
    let clients = workspace::release("clients");
    let examples = workspace::root().join("crates/libmemgov/examples");
    copy(&installed.join("lib").join(SONAME), &clients.join(SONAME))?;
    for name in ["frugal", "handler", "shrink"] {
        let python = format!("{name}.py");
        copy(&workspace::release("examples").join(name), &clients.join(format!("{name}-rust")))?;
        copy(&examples.join(&python), &clients.join(&python))?;
        let mut compile = compiler(&examples.join(format!("{name}.c")));
        compile.args(flags(&installed, &[])?).arg("-Wl,-rpath,$ORIGIN");
        succeed(compile.arg("-o").arg(clients.join(format!("{name}-c"))))?;
    }
    // As a program that brings the library along.
    let mut compile = compiler(&examples.join("frugal.c"));
    let flags = flags(&installed, &["--static"])?;
    compile.args(flags.iter().map(|flag| if flag == "-lmemgov" { "-l:libmemgov.a" } else { flag }));
    succeed(compile.arg("-o").arg(clients.join("frugal-static-c")))?;
    let header = installed.join("include/memgov.h");
    succeed(
        Command::new("clang++")
            .args(["-x", "c++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"])
            .arg(header),
    )
}

/// What compiles an example, without what it is linked with.
fn compiler(source: &Path) -> Command {
    let mut compile = Command::new("cc");
    compile.args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    compile.arg(source);
    compile
}

/// What pkg-config(1) says of the installed library.
fn flags(installed: &Path, how: &[&str]) -> Result<Vec<String>> {
    let mut ask = Command::new("pkg-config");
    ask.env("PKG_CONFIG_PATH", installed.join("lib/pkgconfig"));
    ask.arg(format!("--define-variable=prefix={}", installed.display()))
        .args(how)
        .args(["--cflags", "--libs", "memgov"]);
    let said = ask.output().context("starting pkg-config")?;
    ensure!(said.status.success(), "{ask:?}: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8_lossy(&said.stdout).split_whitespace().map(ToOwned::to_owned).collect())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn install(root: &Path, prefix: &Path) -> Result<Vec<PathBuf>> {
    let below = root.join(prefix.strip_prefix("/").unwrap_or(prefix));
    let (lib, include) = (below.join("lib"), below.join("include"));
    let source = workspace::root().join("crates/libmemgov");
    let version = env!("CARGO_PKG_VERSION");
    let template = source.join("memgov.pc.in");
    let template =
        fs::read_to_string(&template).with_context(|| format!("reading {}", template.display()))?;
    let described = template.replace("@PREFIX@", &prefix.display().to_string()).replace("@VERSION@", version);
    let shared = lib.join(format!("libmemgov.so.{version}"));
    let files = vec![
        copy(&workspace::release("libmemgov_c.so"), &shared)?,
        link(&shared, &lib.join(SONAME))?,
        link(Path::new(SONAME), &lib.join("libmemgov.so"))?,
        copy(&workspace::release("libmemgov_c.a"), &lib.join("libmemgov.a"))?,
        copy(&source.join("include/memgov.h"), &include.join("memgov.h"))?,
        write(&lib.join("pkgconfig/memgov.pc"), &described)?,
    ];
    Ok(files)
}

fn beside(to: &Path) -> Result<()> {
    let dir = to.parent().context("a file in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))
}

fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    beside(to)?;
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(to.to_owned())
}

/// A link in the same directory, whatever was there before.
fn link(target: &Path, at: &Path) -> Result<PathBuf> {
    let name = target.file_name().context("a file")?;
    if fs::symlink_metadata(at).is_ok() {
        fs::remove_file(at).with_context(|| format!("removing {}", at.display()))?;
    }
    symlink(name, at).with_context(|| format!("making {}", at.display()))?;
    Ok(at.to_owned())
}

fn write(to: &Path, text: &str) -> Result<PathBuf> {
    beside(to)?;
    fs::write(to, text).with_context(|| format!("writing {}", to.display()))?;
    Ok(to.to_owned())
}
