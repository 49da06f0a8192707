//! Swap of this machine for one test, on a device: made, in use, and taken away again.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::sys::memory::PAGE;
use crate::sys::swap;

/// A disk of the machine that the tests may do with as they like (cargo xtask vm --module virtio_pci --module virtio_blk).
const DISK: &CStr = c"/dev/vda";

/// While it lives the machine swaps there.
pub struct Swap(&'static CStr);

impl Swap {
    /// On the first so many bytes of a device.
    pub fn start(device: &'static CStr, bytes: u64) -> Result<Self> {
        let path = device.to_str()?;
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &header(bytes)?))
            .with_context(|| format!("writing the first page of {path}"))?;
        swap::on(device).map_err(|errno| anyhow!("swapon {path}: errno {errno}"))?;
        Ok(Self(device))
    }

    /// On the disk.
    pub fn on_disk(bytes: u64) -> Result<Self> {
        Self::start(DISK, bytes)
    }

    /// Whether there is such a disk.
    pub fn has_disk() -> bool {
        DISK.to_str().is_ok_and(|path| Path::new(path).exists())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Err(errno) = swap::off(self.0) {
            eprintln!("swapoff {:?}: errno {errno}", self.0);
        }
    }
}

/// The first page of swap (`union swap_header` in include/linux/swap.h), as mkswap(8) writes it: not every machine of the tests has that program.
fn header(bytes: u64) -> std::io::Result<Vec<u8>> {
    let last = u32::try_from(bytes / PAGE as u64 - 1).map_err(std::io::Error::other)?;
    let mut page = vec![0; PAGE];
    page[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    page[1028..1032].copy_from_slice(&last.to_ne_bytes());
    page[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    Ok(page)
}
