//! Swap on zram (Documentation/admin-guide/blockdev/zram.rst) for one test.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::swap::Swap;

const DEVICE: &CStr = c"/dev/zram0";
const FILES: &str = "/sys/block/zram0";

/// While it lives the machine swaps there.
pub struct Zram(Option<Swap>);

impl Zram {
    /// Whether this kernel has one.
    pub fn is_there() -> bool {
        Path::new(FILES).exists()
    }

    /// Swap of this size. What it takes in memory is what pages come to on it.
    pub fn start(bytes: u64) -> Result<Self> {
        write("disksize", &bytes.to_string())?;
        // From here on there is something to take away, whatever fails.
        let mut zram = Self(None);
        zram.0 = Some(Swap::start(DEVICE, bytes)?);
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
        drop(self.0.take());
        if let Err(error) = write("reset", "1") {
            eprintln!("{error:#}");
        }
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = format!("{FILES}/{file}");
    fs::write(&path, text).with_context(|| format!("writing {text} to {path}"))
}
