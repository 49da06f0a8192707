//! What shows of the kernel memory that processes hold: threads, page tables, descriptors.

use std::path::Path;

use memgov_decide::kernel_memory::Holding;
use memgov_decide::units::Bytes;

use crate::kernel::{Errno, GroupDir, Layout, file, proc, text};

use super::Account;

/// The processes of these groups, each as far as it shows. Kernel threads are left out, and those that end meanwhile.
pub fn holdings(layout: &Layout, accounts: &[Account]) -> Vec<Holding> {
    some_holdings(layout, accounts, usize::MAX).0
}

/// The same of so many processes at the most, and how many there were beyond.
pub fn some_holdings(layout: &Layout, accounts: &[Account], most: usize) -> (Vec<Holding>, usize) {
    let stack = stack_size();
    let mut buffer = vec![0; 16 << 10];
    let mut pids = Vec::new();
    for account in accounts.iter().filter(|account| account.processes > 0) {
        // Gone meanwhile: so are its processes.
        if let Ok(dir) = GroupDir::open(layout, &account.path) {
            let _gone = dir.for_each_pid(&mut buffer, &mut |pid| pids.push(pid));
        }
    }
    let known = pids.iter().take(most).filter_map(|&pid| holding(pid, stack, &mut buffer).ok());
    (known.collect(), pids.len().saturating_sub(most))
}

fn holding(pid: u32, stack: Option<Bytes>, buffer: &mut [u8]) -> Result<Holding, Errno> {
    let stat = proc::read_stat(pid, buffer)?;
    if stat.kernel_thread {
        // What the kernel takes for itself is charged to nobody.
        return Err(Errno::SRCH);
    }
    // One that has ended has given up stack and address space and waits to be asked for its exit code.
    let threads = if stat.has_ended() { 0 } else { stat.threads };
    let mut page_tables = proc::read_status(pid, buffer)?.kernel.page_tables;
    if stat.is_headless() {
        // The others still have the address space.
        let survivor = proc::surviving_thread(pid, buffer).ok_or(Errno::SRCH)?;
        page_tables = proc::read_status(survivor, buffer)?.kernel.page_tables;
    }
    Ok(Holding {
        process: stat.id(),
        comm: stat.comm,
        threads,
        stacks: stack.map(|stack| Bytes(stack.0.saturating_mul(u64::from(threads)))),
        page_tables,
        descriptors: proc::descriptors(pid),
    })
}

/// The stack of a thread in the kernel (THREAD_SIZE). No file says it: `KernelStack` of `/proc/meminfo` is that of all threads, of which
/// `/proc/loadavg` has the number. `None`: the two do not fit together.
pub fn stack_size() -> Option<Bytes> {
    let read = |path| file::whole(Path::new(path)).ok();
    size_of_one(&read("/proc/meminfo")?, &read("/proc/loadavg")?)
}

/// Threads come and go between the two files, idle ones are in the first only, and those that have ended and were not asked for are in the second
/// only: so the power of two that it is close to. No 64-bit kernel has less than 16 KiB; where that comes out most threads have ended.
fn size_of_one(meminfo: &[u8], loadavg: &[u8]) -> Option<Bytes> {
    let stacks = text::lines(meminfo).find_map(|line| line.strip_prefix(b"KernelStack:"))?;
    let stacks = text::number(text::words(stacks).next()?)?.checked_mul(1024)?;
    let threads = text::words(loadavg).nth(3)?.split(|&byte| byte == b'/').nth(1).and_then(text::number)?;
    let each = stacks.checked_div(threads)?;
    (14..=17).map(|power| 1u64 << power).find(|size| each.abs_diff(*size) <= size / 4).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_of_one_thread_is_a_power_of_two_or_not_known() {
        let size = |kib: u64, loadavg: &str| {
            let meminfo = format!("MemTotal: 4 kB\nKernelStack: {kib:>10} kB\nPageTables: 9 kB\n");
            size_of_one(meminfo.as_bytes(), loadavg.as_bytes()).map(|it| it.0)
        };
        assert_eq!(size(5260, "5.92 3.46 2.45 6/329 7753\n"), Some(16384));
        assert_eq!(size(5260 + 300, "5.92 3.46 2.45 6/329 7753\n"), Some(16384), "idle threads");
        assert_eq!(size(10_400, "0 0 0 1/325 9\n"), Some(32768), "a kernel with KASAN");
        assert_eq!(size(1300, "0 0 0 1/325 9\n"), None, "three of four are zombies");
        assert_eq!(size(5260, "0 0 0 1/220 9\n"), None, "between two");
        assert_eq!(size(5260, "0 0 0 1/0 9\n"), None);
        assert_eq!(size(5260, ""), None);
    }

    #[test]
    fn this_process_is_seen_to_hold_something() {
        let kept: Vec<_> = (0..40).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let mut buffer = vec![0; 16 << 10];
        let own = holding(std::process::id(), stack_size(), &mut buffer).unwrap();
        assert!(own.descriptors.unwrap() >= kept.len() as u64, "{own:?}");
        assert!(own.threads >= 1 && own.page_tables.unwrap().0 >= 4096, "{own:?}");
    }
}
