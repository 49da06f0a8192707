//! Swap on zram (Documentation/admin-guide/blockdev/zram.rst) for one test: made, in use, and taken away again.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::sys::memory::PAGE;
use crate::sys::swap;

const DEVICE: &CStr = c"/dev/zram0";
const FILES: &str = "/sys/block/zram0";

/// While it lives the machine swaps there.
pub struct Zram {
    on: bool,
}

impl Zram {
    /// Whether this kernel has one.
    pub fn is_there() -> bool {
        Path::new(FILES).exists()
    }

    /// Swap of this size. What it takes in memory is what pages come to on it.
    pub fn start(bytes: u64) -> Result<Self> {
        write("disksize", &bytes.to_string())?;
        // From here on there is something to take away, whatever fails.
        let mut zram = Self { on: false };
        let path = DEVICE.to_str()?;
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &header(bytes)?))
            .with_context(|| format!("writing the first page of {path}"))?;
        swap::on(DEVICE).map_err(|errno| anyhow!("swapon {path}: errno {errno}"))?;
        zram.on = true;
        Ok(zram)
    }

    /// Bytes of memory that it takes now (`mem_used_total` of `mm_stat`).
    pub fn takes(&self) -> Result<u64> {
        let path = format!("{FILES}/mm_stat");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let number = text.split_whitespace().nth(2).and_then(|word| word.parse().ok());
        number.with_context(|| format!("{path} says {text:?}"))
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if self.on
            && let Err(errno) = swap::off(DEVICE)
        {
            eprintln!("swapoff {DEVICE:?}: errno {errno}");
        }
        if let Err(error) = write("reset", "1") {
            eprintln!("{error:#}");
        }
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = format!("{FILES}/{file}");
    fs::write(&path, text).with_context(|| format!("writing {text} to {path}"))
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
