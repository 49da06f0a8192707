//! The newc cpio format, as the kernel reads an initramfs: directories and files.
//! Entries are root's, in the order they are added; parents are added before what is in them. No clock: the same
//! content gives the same bytes.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use anyhow::{Context, Result, ensure};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// A directory. Adding it again does nothing.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let name = self.prepare(path)?;
        if self.names.contains(&name) { Ok(()) } else { self.entry(name, DIRECTORY | mode, &[]) }
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let name = self.prepare(path)?;
        self.entry(name, FILE | mode, content)
    }

    /// True when something of that name is in already.
    pub fn contains(&self, path: &str) -> bool {
        self.names.contains(path.trim_matches('/'))
    }

    /// The whole archive, closed and padded.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.names.clear();
        self.entry("TRAILER!!!".to_owned(), 0, &[])?;
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        Ok(self.bytes)
    }

    /// The name as the archive spells it, with every parent in place.
    fn prepare(&mut self, path: &str) -> Result<String> {
        let plain = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let name = path.trim_matches('/').to_owned();
        ensure!(
            plain && !name.is_empty() && !name.contains('\0'),
            "{path:?} cannot be a name in an initramfs"
        );
        for (at, _) in name.match_indices('/') {
            if !self.names.contains(&name[..at]) {
                self.entry(name[..at].to_owned(), DIRECTORY | 0o755, &[])?;
            }
        }
        Ok(name)
    }

    fn entry(&mut self, name: String, mode: u32, content: &[u8]) -> Result<()> {
        let size =
            u32::try_from(content.len()).with_context(|| format!("{name}: newc files end at 4 GiB"))?;
        let name_size = u32::try_from(name.len() + 1).context("name too long")?;
        ensure!(!self.names.contains(&name), "{name} is in the initramfs twice");
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let inode = u32::try_from(self.names.len() + 1).context("too many files")?;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime, size, device major and minor, rdev major and minor, name size, check
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        self.names.insert(name);
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.file("/init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.directory("/tmp", 0o1777).unwrap();
        archive.file("/etc/deep/empty", 0o600, b"").unwrap();
        archive.file("/etc/deep/foo) Z \n", 0o644, b"hostile").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_header_is_newc() {
        let bytes = sample();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(bytes.len() % 512, 0);
        // mode, size, name size, name, content at the next multiple of four
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[54..62], b"0000000a");
        assert_eq!(&bytes[94..102], b"00000005");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..126], b"#!/bin/sh\n");
    }

    #[test]
    fn busybox_or_cpio_unpacks_what_was_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let program = ["/usr/bin/cpio", "/usr/bin/busybox", "/bin/busybox"]
            .into_iter()
            .find(|it| Path::new(it).exists());
        let program = program.expect("cargo xtask setup installs busybox");
        let mut command = Command::new(program);
        if program.ends_with("busybox") {
            command.arg("cpio");
        }
        let mut child =
            command.args(["-i", "-d"]).current_dir(dir.path()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(dir.path().join("init")).unwrap(), b"#!/bin/sh\n");
        assert_eq!(std::fs::read(dir.path().join("etc/deep/foo) Z \n")).unwrap(), b"hostile");
        assert_eq!(std::fs::read(dir.path().join("etc/deep/empty")).unwrap(), b"");
    }

    #[test]
    fn a_name_twice_or_out_of_the_tree_is_refused() {
        let mut archive = Archive::default();
        archive.file("/a", 0o644, b"").unwrap();
        assert!(archive.file("a", 0o644, b"").is_err());
        assert!(archive.file("/../etc/passwd", 0o644, b"").is_err());
        assert!(archive.directory("/", 0o755).is_err());
        assert!(archive.directory("/a/../b", 0o755).is_err());
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::default();
        archive.file("/x/y/one", 0o644, b"").unwrap();
        archive.file("/x/y/two", 0o644, b"").unwrap();
        assert!(archive.contains("/x/y") && archive.contains("x"));
        let text = String::from_utf8_lossy(&archive.bytes).into_owned();
        assert_eq!(text.matches("x/y\0").count(), 1);
        assert!(text.find("x/y\0") < text.find("x/y/one\0"));
    }
}
