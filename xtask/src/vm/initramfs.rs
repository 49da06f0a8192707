//! The root file system of a virtual machine: busybox, the given programs with the libraries they name, a few users,
//! the modules asked for, and process 1. Holds nothing else of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use super::{Machine, Session, modules};

/// Users that tests may become: two that do not trust each other, and one named as in the examples.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:build:/tmp:/bin/sh\n\
alice:x:1001:1001:alice:/tmp:/bin/sh\nbob:x:1002:1002:bob:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nbuild:x:1000:\nalice:x:1001:\nbob:x:1002:\nnogroup:x:65534:\n";

/// Builds it for this machine and session.
pub fn build(machine: &Machine, session: &Session, console: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["/bin", "/dev", "/proc", "/sys", "/run", "/usr/bin", "/usr/local/bin", "/var/lib", "/sbin"] {
        archive.directory(dir, 0o755)?;
    }
    archive.directory("/root", 0o700)?;
    archive.directory("/tmp", 0o1777)?;
    archive.file("/init", 0o755, include_bytes!("init.sh"))?;
    archive.file("/etc/passwd", 0o644, PASSWD.as_bytes())?;
    archive.file("/etc/group", 0o644, GROUP.as_bytes())?;
    archive.file("/etc/vm.conf", 0o644, configuration(machine, session, console).as_bytes())?;
    if let Session::Command(words) = session {
        archive.file("/etc/vm.command", 0o644, command(words).as_bytes())?;
    }
    program(&mut archive, &busybox()?, "/bin/busybox")?;
    for path in &machine.programs {
        let name = path.file_name().context("a program has a name")?.to_string_lossy();
        program(&mut archive, path, &format!("/usr/local/bin/{name}"))?;
    }
    for (from, to) in &machine.files {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        archive.file(to, mode(from)?, &content)?;
    }
    modules::add(&mut archive, machine)?;
    archive.finish()
}

fn busybox() -> Result<PathBuf> {
    ["/usr/bin/busybox", "/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .context("busybox is missing: cargo xtask setup")
}

fn mode(path: &Path) -> Result<u32> {
    let meta = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(meta.permissions().mode() & 0o7777)
}

fn program(archive: &mut Archive, from: &Path, to: &str) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    archive.file(to, 0o755, &content)?;
    if !content.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let listed = Command::new("ldd").arg(from).output().context("starting ldd")?;
    let text = String::from_utf8_lossy(&listed.stdout);
    for library in libraries(&text).with_context(|| format!("libraries of {}", from.display()))? {
        if !archive.contains(library) {
            let content = fs::read(library).with_context(|| format!("reading {library}"))?;
            archive.file(library, 0o755, &content)?;
        }
    }
    Ok(())
}

/// The files that `ldd` found, the dynamic loader included. None for a static program.
fn libraries(ldd: &str) -> Result<Vec<&str>> {
    let mut found = Vec::new();
    for line in ldd.lines().map(str::trim) {
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        ensure!(!path.starts_with("not found"), "{name} was not found");
        // "linux-vdso.so.1 (0x7ffd)" is in no file, "statically linked" is no path.
        if let Some((path, _)) = path.rsplit_once(" (0x").filter(|(path, _)| path.starts_with('/')) {
            found.push(path);
        }
    }
    Ok(found)
}

fn configuration(machine: &Machine, session: &Session, console: &str) -> String {
    let interactive = if matches!(session, Session::Shell) { "yes" } else { "no" };
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let size = rustix::termios::tcgetwinsize(std::io::stdin())
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map(|size| format!("rows {} cols {}", size.ws_row, size.ws_col))
        .unwrap_or_default();
    [
        ("VM_NAME", machine.name.as_str()),
        ("VM_CGROUP", machine.cgroup.name()),
        ("VM_CONSOLE", console),
        ("VM_INTERACTIVE", interactive),
        ("VM_SIZE", &size),
        ("TERM", &term),
    ]
    .iter()
    .map(|(name, value)| format!("{name}={}\n", quoted(value)))
    .collect()
}

/// What init.sh runs. It becomes the command, so that a signal that ends it is seen.
fn command(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("exec {}\n", words.join(" "))
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_gets_back_every_word() {
        let words =
            ["printf", "%s|", "a b", "", "it's", "$HOME `id` \\ \"", "new\nline", "*"].map(str::to_owned);
        let output = Command::new("sh").arg("-c").arg(command(&words)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b||it's|$HOME `id` \\ \"|new\nline|*|");
    }

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(ldd).unwrap(),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tstatically linked\n").unwrap(), Vec::<&str>::new());
        assert_eq!(libraries("").unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn a_missing_library_is_an_error_and_not_a_smaller_image() {
        assert!(libraries("\tlibelf.so.1 => not found\n").is_err());
    }
}
