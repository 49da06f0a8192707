//! Words for the numbers: the one place where reasons, orders and outcomes become text.

use memgov_decide::decision::{Decision, Family, Mechanism, Operation, Order, Outcome, Protected, Reason};
use memgov_decide::jobs::Wish;
use memgov_decide::policy::Kinds;
use memgov_decide::snapshot::{ProcessId, Untouchable};
use memgov_decide::units::Bytes;

use crate::serve::wire::{KernelFinding, KernelHolder, OrderKind};
use crate::terminal;

/// A byte string as a person may read it and a terminal may show it: invalid UTF-8, what a terminal would obey and
/// backslashes are escaped, so that a hostile group name can forge no log line.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if terminal::is_obeyed(c) || c == '\\' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// `rss.anon+rss.shmem`, as the configuration spells it.
pub fn kinds(kinds: Kinds) -> String {
    let names = [(kinds.anon, "rss.anon"), (kinds.file, "rss.file"), (kinds.shmem, "rss.shmem")];
    let chosen: Vec<&str> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    chosen.join("+")
}

/// Whom a kill of processes that belong together takes.
pub fn family(family: &Family) -> String {
    let mut text = String::from("all processes");
    if let Some(comm) = family.comm {
        text.push_str(&format!(" called {}", printable(super::event::comm(&comm))));
    }
    if let Some(session) = family.session {
        text.push_str(&format!(" of session {session}"));
    }
    if family.since.is_some() {
        text.push_str(" that have started since kernel memory began to grow");
    }
    if let Some(parent) = family.parent {
        text.push_str(&format!(", and pid {}, which starts them", parent.pid));
    }
    text
}

/// Whom a kill of a tree takes.
pub fn tree(root: ProcessId) -> String {
    format!("pid {} and all processes of the job that have come from it", root.pid)
}

/// A reason in one sentence. `group` is the path of the group that was compared.
pub fn reason(reason: &Reason, group: Option<&[u8]>) -> String {
    let of = group.map_or_else(String::new, |path| format!(" of {}", printable(path)));
    match *reason {
        Reason::Usage { usage, line, .. } => format!("usage {usage}{of} is over {line}"),
        Reason::Kernel { kernel, line, .. } => format!("kernel memory {kernel}{of} is over {line}"),
        Reason::Sockets { sockets, line, .. } => {
            format!("the buffers of sockets hold {sockets}{of}, over {line}")
        }
        Reason::Pool { pool, sockets, line, .. } => {
            let part = sockets.map(|held| format!(" ({held} in sockets)")).unwrap_or_default();
            format!("usage with sockets {pool}{of} is over {line}{part}")
        }
        Reason::Rss { kinds: which, rss, line } => format!("{} {rss} is over {line}", kinds(which)),
        Reason::UsageAndRss { usage, usage_line, kinds: which, rss, line, .. } => {
            format!("usage {usage}{of} is over {usage_line} and {} {rss} is over {line}", kinds(which))
        }
        Reason::Available { group: compared, available, line, falling } => {
            let of = if compared.is_some() { of } else { " on the host".to_owned() };
            let soon = falling.map(|rate| {
                let left = available.0.saturating_mul(1000) / rate.max(1);
                format!(", falling by {} a second: nothing would be left in {left} ms", Bytes(rate))
            });
            format!("available {available}{of} is under {line}{}", soon.unwrap_or_default())
        }
        Reason::Pressure { group: compared, stalled, line } => {
            let of = if compared.is_some() { of } else { " of the host".to_owned() };
            format!("tasks{of} wait for memory {stalled} of the time, over {line}")
        }
        Reason::Calm { stalled, until } if stalled > until => {
            format!("nobody is short of memory any more, though tasks wait for reclaim {stalled} of the time")
        }
        Reason::Calm { stalled, until } => {
            format!("tasks wait for memory {stalled} of the time, {until} or less")
        }
        Reason::Recovered { available, until } => format!("{available} are available again, {until} or more"),
        Reason::NoJob { considered: 0, .. } => "there is no job that could give way".into(),
        Reason::NoJob { considered, left_out } => format!(
            "none of {considered} jobs can give way: {left_out} ask to be left out or could not be killed, the rest hold nothing"
        ),
        Reason::Relieved { value, until } => format!("{value} is back at or under {until}"),
        Reason::RuleGone => "the rule or control is no longer in force".into(),
        Reason::TargetGone => "the target is gone".into(),
        Reason::BudgetSpent { budget } => {
            format!("the slowdown has used up its {}", humantime::format_duration(budget))
        }
        Reason::TooManyKills { count, window } => {
            format!("{count} kills within {}: no more are made", humantime::format_duration(window))
        }
        Reason::Protected(why) => protected(why).into(),
        Reason::FreeingPending { expected } => {
            format!("{expected} of an earlier kill are still on their way back")
        }
        Reason::HostShort { available, keep, amount } => {
            let left = available.map_or("an unknown amount".into(), |bytes| bytes.to_string());
            let besides = match amount {
                Bytes(0) => String::new(),
                amount => format!(", and {amount} were to be lent"),
            };
            format!("{left} of the host's memory can be spared, {keep} have to stay{besides}")
        }
        Reason::LoanDue { budget } => {
            format!("it was lent for {}, and that is over", humantime::format_duration(budget))
        }
        Reason::NobodyHoldsEnough { most, needed } => {
            format!(
                "none of its processes is known to hold enough of what has grown: {most} at most, {needed} needed"
            )
        }
        Reason::Answered { by } => format!("uid {by} has answered"),
        Reason::NoAnswer { within } => {
            format!("nobody has answered within {}", humantime::format_duration(within))
        }
    }
}

/// What a job asks for itself.
pub const fn wish(wish: Wish) -> &'static str {
    match wish {
        Wish::Prefer => "prefer",
        Wish::Avoid => "avoid",
        Wish::Omit => "omit",
    }
}

const fn protected(why: Protected) -> &'static str {
    match why {
        Protected::Fact(Untouchable::Init) => "pid 1 is never touched",
        Protected::Fact(Untouchable::Governor) => "memgov and its ancestors are never touched",
        Protected::Fact(Untouchable::Kernel) => "kernel threads are never touched",
        Protected::Never => "the target is on the never-list",
        Protected::OomScoreAdj => "the target has oom_score_adj -1000",
    }
}

/// The word for an order, as its JSON has it.
pub const fn order(order: OrderKind) -> &'static str {
    match order {
        OrderKind::Record => "record",
        OrderKind::DenyBegin => "deny-begin",
        OrderKind::DenySustain => "deny-sustain",
        OrderKind::DenyEnd => "deny-end",
        OrderKind::SlowBegin => "slow-begin",
        OrderKind::SlowSustain => "slow-sustain",
        OrderKind::SlowEnd => "slow-end",
        OrderKind::FreezeBegin => "freeze-begin",
        OrderKind::FreezeSustain => "freeze-sustain",
        OrderKind::FreezeEnd => "freeze-end",
        OrderKind::ReclaimBegin => "reclaim-begin",
        OrderKind::ReclaimSustain => "reclaim-sustain",
        OrderKind::ReclaimEnd => "reclaim-end",
        OrderKind::SqueezeBegin => "squeeze-begin",
        OrderKind::SqueezeSustain => "squeeze-sustain",
        OrderKind::SqueezeEnd => "squeeze-end",
        OrderKind::Shrink => "shrink",
        OrderKind::Signal => "signal",
        OrderKind::Kill => "kill",
        OrderKind::Relieved => "relieved",
        OrderKind::Denied => "denied",
        OrderKind::Oom => "oom",
        OrderKind::OomKill => "oom-kill",
        OrderKind::LendBegin => "lend-begin",
        OrderKind::LendEnd => "lend-end",
        OrderKind::Ask => "ask",
        OrderKind::Answered => "answered",
        OrderKind::Hook => "hook",
    }
}

/// All mechanisms, to find one by its word.
pub const MECHANISMS: [Mechanism; 15] = [
    Mechanism::Rlimit,
    Mechanism::CgroupFreeze,
    Mechanism::HoldGroup,
    Mechanism::V1Freezer,
    Mechanism::Sigstop,
    Mechanism::Pidfd,
    Mechanism::CgroupKill,
    Mechanism::PidsMax,
    Mechanism::Bpf,
    Mechanism::MemoryReclaim,
    Mechanism::LoweredLimit,
    Mechanism::RaisedLimit,
    Mechanism::TcpLimit,
    Mechanism::OomControl,
    Mechanism::SocketOptions,
];

/// All operations, to find one by its word.
pub const OPERATIONS: [Operation; 17] = [
    Operation::Prlimit,
    Operation::PidfdOpen,
    Operation::SendSignal,
    Operation::Freeze,
    Operation::MoveProcess,
    Operation::MakeGroup,
    Operation::ListProcesses,
    Operation::CgroupKill,
    Operation::ReadProcess,
    Operation::PidsMax,
    Operation::Ledger,
    Operation::Reclaim,
    Operation::Lend,
    Operation::Hook,
    Operation::TcpLimit,
    Operation::OomControl,
    Operation::Sockets,
];

/// The word for a mechanism.
pub const fn mechanism(by: Mechanism) -> &'static str {
    match by {
        Mechanism::Rlimit => "rlimit",
        Mechanism::CgroupFreeze => "cgroup.freeze",
        Mechanism::HoldGroup => "hold-group",
        Mechanism::V1Freezer => "v1-freezer",
        Mechanism::Sigstop => "sigstop",
        Mechanism::Pidfd => "pidfd",
        Mechanism::CgroupKill => "cgroup.kill",
        Mechanism::PidsMax => "pids.max",
        Mechanism::Bpf => "bpf",
        Mechanism::MemoryReclaim => "memory.reclaim",
        Mechanism::LoweredLimit => "lowered-limit",
        Mechanism::RaisedLimit => "raised-limit",
        Mechanism::TcpLimit => "tcp-limit",
        Mechanism::OomControl => "memory.oom_control",
        Mechanism::SocketOptions => "socket-options",
    }
}

/// The word for what failed.
pub const fn operation(at: Operation) -> &'static str {
    match at {
        Operation::Prlimit => "prlimit",
        Operation::PidfdOpen => "pidfd_open",
        Operation::SendSignal => "pidfd_send_signal",
        Operation::Freeze => "freeze",
        Operation::MoveProcess => "cgroup.procs write",
        Operation::MakeGroup => "mkdir",
        Operation::ListProcesses => "cgroup.procs read",
        Operation::CgroupKill => "cgroup.kill",
        Operation::ReadProcess => "/proc read",
        Operation::PidsMax => "pids.max write",
        Operation::Ledger => "ledger write",
        Operation::Reclaim => "reclaim",
        Operation::Lend => "limit write",
        Operation::Hook => "program",
        Operation::TcpLimit => "tcp limit write",
        Operation::OomControl => "memory.oom_control write",
        Operation::Sockets => "setsockopt",
    }
}

/// The symbolic name of an errno, or its number.
pub fn errno(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::ECANCELED => "ECANCELED",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => return format!("errno {errno}"),
    };
    name.into()
}

/// What came of it, in words.
pub fn outcome(outcome: &Outcome) -> String {
    let how_many = |n: u32| if n == 1 { "1 process".to_owned() } else { format!("{n} processes") };
    match *outcome {
        // A group as such, not processes of it.
        Outcome::Done { processes: 0, by } => format!("done by {}", mechanism(by)),
        Outcome::Partial { processes: 0, refused: 0, by, at, errno: e } => {
            format!("not all of it by {} ({}: {})", mechanism(by), operation(at), errno(e))
        }
        Outcome::Done { processes, by } => format!("done to {} by {}", how_many(processes), mechanism(by)),
        Outcome::Nothing => "nothing to do".into(),
        Outcome::Partial { processes, refused, by, at, errno: e } => format!(
            "done to {} by {}, refused by {} ({}: {})",
            how_many(processes),
            mechanism(by),
            how_many(refused),
            operation(at),
            errno(e)
        ),
        Outcome::Refused { at, errno: e } => format!("refused ({}: {})", operation(at), errno(e)),
        Outcome::Dead { processes, by, expected, .. } => {
            format!("{} dead by {}, {expected} on the way back", how_many(processes), mechanism(by))
        }
        Outcome::Pinned { freed, held } => {
            format!("pinned: a trial of reclaim got back {freed} of {held}, what is left is in use")
        }
        Outcome::Begun => "it runs".into(),
        Outcome::Ran(run) => super::event::run(run).sentence(),
        Outcome::Gone => "the target was gone".into(),
        Outcome::LedgerFull => "not done: the ledger has no room".into(),
        Outcome::DryRun => "dry run: nothing was touched".into(),
        Outcome::Withheld => "withheld".into(),
    }
}

/// What was found out about kernel memory, in words.
pub fn finding(found: &KernelFinding) -> String {
    let amount =
        |bytes: Option<u64>| bytes.map_or_else(|| "an unknown amount".into(), |it| Bytes(it).to_string());
    let mut said = match &found.cause {
        Some(cause) => {
            let because = match cause.grew_bytes.filter(|_| cause.by == "growth") {
                Some(grew) => format!("grew most, by {}", Bytes(grew)),
                None => format!("holds most, {}", Bytes(cause.bytes)),
            };
            format!("of {}, {} {because}", amount(found.kernel_bytes), cause.kind)
        }
        None => format!("{}, which the kernel does not divide by kind", amount(found.kernel_bytes)),
    };
    if let Some(trial) = &found.trial {
        let (freed, held) = (Bytes(trial.freed_bytes), Bytes(trial.held_bytes));
        said += &format!(" (pinned: a trial got back {freed} of {held})");
    } else if let Some(cause) = &found.cause {
        said += if cause.pinned { " (pinned: no reclaim gets it back)" } else { " (in part reclaimable)" };
    }
    match found.holders.first() {
        Some(worst) => said + "; held by " + &holder(worst),
        None => said + "; who held it is gone",
    }
}

/// Processes of one name, with what shows of their kernel memory.
pub fn holder(one: &KernelHolder) -> String {
    let many = |count: u64, what: &str| format!(", {count} {what}{}", if count == 1 { "" } else { "s" });
    let processes = if one.processes == 1 { "process" } else { "processes" };
    let mut said = format!("{} ({} {processes}", terminal::shown(&one.comm), one.processes);
    said += &many(one.threads, "thread");
    said += &one.descriptors.map(|count| many(count, "open file")).unwrap_or_default();
    said += &one.page_tables_bytes.map(|it| format!(", {} of page tables", Bytes(it))).unwrap_or_default();
    said + &format!(", the oldest pid {})", one.oldest_pid)
}

/// The log line of the over-high series, word for word:
/// `Cgroup: %s, Comm: %s, Pid: %d, Mem: %ld pages, %s`. The group is its last path component, `N/A` where only the
/// process's own memory was compared; Mem is the value last compared.
pub fn letter_line(
    decision: &Decision,
    group: Option<&[u8]>,
    comm: &[u8],
    pid: u32,
    page: Bytes,
) -> Option<String> {
    let action = match decision.order {
        Order::Deny { .. } => "Action: return ENOMEM on some syscalls",
        Order::Slow { .. } => "Action: slow down process",
        Order::Reclaim { .. } => "Action: reclaim memory",
        Order::Signal { .. } => "Action: send signal",
        Order::Kill { .. } => "Action: kill the process",
        Order::Freeze { .. } | Order::Record | Order::Relieved | Order::Lend { .. } => return None,
        Order::Squeeze { .. } => return None,
        Order::Ask { .. } | Order::Answered { .. } | Order::Hook => return None,
    };
    let (name, mem) = match decision.reason {
        Reason::Usage { usage, .. }
        | Reason::Kernel { kernel: usage, .. }
        | Reason::Sockets { sockets: usage, .. }
        | Reason::Pool { pool: usage, .. } => (last_component(group), usage),
        Reason::Rss { rss, .. } => ("N/A".into(), rss),
        Reason::UsageAndRss { rss, .. } => (last_component(group), rss),
        _ => return None,
    };
    let comm = if comm.is_empty() { "N/A".into() } else { printable(comm) };
    Some(format!("Cgroup: {name}, Comm: {comm}, Pid: {pid}, Mem: {} pages, {action}", mem.pages(page)))
}

fn last_component(path: Option<&[u8]>) -> String {
    let path = path.unwrap_or(b"/");
    printable(path.rsplit(|&b| b == b'/').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_cannot_forge_lines() {
        assert_eq!(printable(b"a\nb\x1b[31m\xff\\"), "a\\nb\\u{1b}[31m\\xff\\\\");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(printable("gr\u{fc}n".as_bytes()), "grün");
    }

    #[test]
    fn reasons_read_as_sentences() {
        let over = Reason::Rss {
            kinds: Kinds { anon: true, file: false, shmem: true },
            rss: Bytes::mib(65),
            line: Bytes::mib(64),
        };
        assert_eq!(reason(&over, None), "rss.anon+rss.shmem 65MiB is over 64MiB");
        let short = Reason::NobodyHoldsEnough { most: Bytes::kib(300), needed: Bytes::mib(4) };
        assert_eq!(
            reason(&short, None),
            "none of its processes is known to hold enough of what has grown: 300KiB at most, 4MiB needed"
        );
    }

    #[test]
    fn who_belongs_together_is_named() {
        let bomb = Family { comm: Some(*b"bo\nb\0\0\0\0\0\0\0\0\0\0\0\0"), ..Family::default() };
        let parent = Some(memgov_decide::snapshot::ProcessId { pid: 7, start: 1 });
        assert_eq!(family(&Family { session: Some(9), ..bomb }), "all processes called bo\\nb of session 9");
        assert_eq!(
            family(&Family { since: Some(100), parent, ..bomb }),
            "all processes called bo\\nb that have started since kernel memory began to grow, and pid 7, which starts them"
        );
    }
}
