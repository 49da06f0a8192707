//! Kernel modules for a virtual machine: the ones asked for and those they need, in the order to load them.
//! Reads modules.dep and modules.builtin of the unpacked kernel; a name that is neither is an error.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Machine;
use super::cpio::Archive;

/// Puts the machine's modules into the archive, and /etc/modules.list, which process 1 loads.
pub fn add(archive: &mut Archive, machine: &Machine) -> Result<()> {
    let mut list = String::new();
    if !machine.modules.is_empty() {
        let dir = machine.kernel.modules()?;
        let read = |name: &str| {
            fs::read_to_string(dir.join(name))
                .with_context(|| format!("reading {}", dir.join(name).display()))
        };
        let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
        for file in in_order(&machine.modules, &dependencies, &builtin)? {
            let path = format!("/lib/modules/{}", file.trim_end_matches(".xz"));
            archive.file(&path, 0o644, &unpacked(&dir.join(&file))?)?;
            list.push_str(&path);
            list.push('\n');
        }
    }
    archive.file("/etc/modules.list", 0o644, list.as_bytes())
}

fn unpacked(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(file).output().context("starting xz")?;
        ensure!(output.status.success(), "xz -dc {}: {}", file.display(), output.status);
        return Ok(output.stdout);
    }
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

/// Files to load, each after what it needs. Built-in modules need no file.
fn in_order(wanted: &[String], dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let mut files: Vec<String> = Vec::new();
    for name in wanted {
        if builtin.lines().any(|line| is(line, name)) {
            continue;
        }
        let line = dependencies.lines().find(|line| is(line.split(':').next().unwrap_or_default(), name));
        let (file, needs) = line
            .and_then(|line| line.split_once(':'))
            .with_context(|| format!("this kernel has no module {name}"))?;
        // modules.dep lists the nearest first; the deepest has to be loaded first.
        for file in needs.split_whitespace().rev().chain([file]) {
            if !files.iter().any(|it| it == file) {
                files.push(file.to_owned());
            }
        }
    }
    Ok(files)
}

/// `-` and `_` are the same in names of modules.
fn is(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split(".ko").next().unwrap_or_default();
    stem.replace('-', "_") == name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/fuse/fuse.ko.xz:\nkernel/mm/zsmalloc.ko.xz:\n\
        kernel/drivers/block/zram/zram.ko.xz: kernel/mm/zsmalloc.ko.xz\n\
        kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko kernel/lib/base.ko\n";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    fn order(names: &[&str]) -> Result<Vec<String>> {
        in_order(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), DEP, BUILTIN)
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let zram = ["kernel/mm/zsmalloc.ko.xz", "kernel/drivers/block/zram/zram.ko.xz"];
        assert_eq!(order(&["zram", "zsmalloc"]).unwrap(), zram);
        assert_eq!(order(&["ext4"]).unwrap().first().unwrap(), "kernel/lib/base.ko");
    }

    #[test]
    fn built_in_is_not_missing_and_missing_is_not_silent() {
        assert!(order(&["virtio-pci"]).unwrap().is_empty());
        assert!(order(&["nosuch"]).is_err());
    }
}
