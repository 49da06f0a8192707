//! What the lines from a virtual machine mean: when it had booted, how its command ended, what its kernel complained of.
//! Only the kernel's own console counts for complaints: a command can print what it likes.

/// One line of the command's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// The kernel and process 1 are done, the command starts.
    Booted,
    /// The command printed this. `last` is what it printed before it ended without a newline.
    Text(&'a str),
    /// The command ended with this exit status, after printing `last` without a newline.
    Ended {
        /// 128 + n for signal n.
        code: i32,
        /// Often empty.
        last: &'a str,
    },
}

/// Reads one line of the command's console.
pub fn said(line: &str) -> Said<'_> {
    if line == "@@BOOTED" {
        return Said::Booted;
    }
    let ended = line.rsplit_once("@@EXIT ").and_then(|(last, code)| Some((last, code.parse().ok()?)));
    match ended {
        Some((last, code)) => Said::Ended { code, last },
        None => Said::Text(line),
    }
}

/// True when this line of the kernel log says that the kernel itself failed. Programs that fail, warnings, and lockups
/// that emulation on a busy machine brings about are not meant.
pub fn kernel_failed(line: &str) -> bool {
    let text = without_time(line);
    ["Kernel panic - ", "Oops: ", "BUG: ", "kernel BUG at ", "Internal error: "]
        .iter()
        .any(|it| text.starts_with(it))
        || (text.contains(": 0000 [#") && !text.starts_with("traps: "))
}

/// True when the kernel has said its last word.
pub fn switched_off(line: &str) -> bool {
    let text = without_time(line);
    text == "reboot: Power down" || text == "reboot: System halted"
}

/// "[    2.870109] text" -> "text"
fn without_time(line: &str) -> &str {
    line.strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .filter(|(time, _)| time.trim().bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        .map_or(line, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_marker_is_found_behind_an_unfinished_line() {
        assert_eq!(said("@@EXIT 0"), Said::Ended { code: 0, last: "" });
        assert_eq!(said("half a line@@EXIT 137"), Said::Ended { code: 137, last: "half a line" });
    }

    #[test]
    fn other_lines_are_text() {
        for line in ["", "@@EXIT", "@@EXIT soon", "@@EXIT 1 2", "@@TEST a passed 1 portable", "x @@BOOTED"] {
            assert_eq!(said(line), Said::Text(line));
        }
        assert_eq!(said("@@BOOTED"), Said::Booted);
    }

    #[test]
    fn a_failing_kernel_is_seen() {
        for line in [
            "[   12.345678] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)",
            "[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    1.000000] Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[    1.0] general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP",
        ] {
            assert!(kernel_failed(line), "{line}");
        }
    }

    #[test]
    fn a_failing_program_is_not_a_failing_kernel() {
        for line in [
            "[   12.3] Memory cgroup out of memory: Killed process 77 (BUG: ) total-vm:1kB, UID:0",
            "[   12.3] traps: hog[77] general protection fault ip:55d0 sp:7ffe error:0 in hog[55d0+1000]",
            "[   40.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [hog:77]",
            "[    2.2]   \"trace_clock=local\"",
            "[   12.3] hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        ] {
            assert!(!kernel_failed(line), "{line}");
        }
    }
}
