//! The same for people.

use std::io::{self, Write};

use memgov_decide::kernel_memory::Kind;
use memgov_decide::units::Bytes;

use super::super::output::{self, shown};
use super::meaning;
use crate::serve::wire::{KernelCause, KernelGroup, KernelHolder, KernelMemory};

/// Names that are shown of one group.
const HOLDERS: usize = 8;
/// Kinds that are shown of each group in the table of all.
const TOP: usize = 2;

fn amount(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".into(), |bytes| Bytes(bytes).to_string())
}

/// `+1.5MiB`, `-3B`, `0`.
fn growth(rate: Option<i64>) -> String {
    match rate {
        None => "?".into(),
        Some(0) => "0".into(),
        Some(rate) => format!("{}{}", if rate > 0 { '+' } else { '-' }, Bytes(rate.unsigned_abs())),
    }
}

/// `12.5%`.
fn share(part: u64, whole: u64) -> String {
    let permille = (u128::from(part) * 1000).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{}.{}%", permille / 10, permille % 10)
}

/// All groups, most kernel memory first.
pub(super) fn all(answer: &KernelMemory, out: &mut dyn Write) -> io::Result<()> {
    let twice = answer.interval_ns.is_some();
    let row = |group: &KernelGroup| {
        let mut row = vec![shown(&group.path), amount(group.kernel_bytes)];
        if twice {
            row.push(growth(group.growth_bytes_per_second));
        }
        row.extend([
            amount(group.own_bytes),
            amount(group.usage_bytes),
            group.processes_in_all.to_string(),
            group.removed_groups.map_or_else(|| "?".into(), |n| n.to_string()),
            top(group),
        ]);
        row
    };
    let (known, rest): (Vec<_>, Vec<_>) = answer.groups.iter().partition(|group| group.accounted);
    let mut columns =
        vec!["GROUP", "KERNEL", "GROWS/S", "OWN", "ALL MEMORY", "PROCESSES", "REMOVED", "MOST OF IT"];
    if !twice {
        columns.remove(2);
    }
    if !known.is_empty() {
        let rows: Vec<_> = known.into_iter().map(row).collect();
        output::table(out, &columns, &rows)?;
    }
    let mut reasons: Vec<(&str, u64)> = Vec::new();
    for why in rest.iter().filter_map(|group| group.why.as_deref()) {
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, count)) => *count += 1,
            None => reasons.push((why, 1)),
        }
    }
    for (why, count) in reasons {
        writeln!(out, "not accounted, {count} groups: {why}")?;
    }
    if let Some(removed) = answer.removed_groups {
        writeln!(out, "{}", removed_of_v1(removed))?;
    }
    if answer.left_out > 0 {
        writeln!(out, "{} groups and all below them were left out: too many, or too deep", answer.left_out)?;
    }
    Ok(())
}

fn removed_of_v1(removed: u64) -> String {
    format!(
        "{removed} removed groups of the whole hierarchy still hold memory (user memory, page cache above all); \
         cgroup v1 does not tell where"
    )
}

/// `slab_unreclaimable 35.0%, kernel_stack 14.7%`.
fn top(group: &KernelGroup) -> String {
    let whole = group.kernel_bytes.unwrap_or(0);
    if group.kinds.is_empty() {
        return if whole == 0 { "-".into() } else { "not divided (cgroup v1)".into() };
    }
    let mut kinds: Vec<_> = group.kinds.iter().filter(|kind| kind.bytes > 0).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    let shown: Vec<_> =
        kinds.iter().take(TOP).map(|kind| format!("{} {}", kind.kind, share(kind.bytes, whole))).collect();
    if shown.is_empty() { "-".into() } else { shown.join(", ") }
}

/// One group: a table by kind, what can come back, what removed groups left, who holds it.
pub(super) fn one(group: &KernelGroup, answer: &KernelMemory, out: &mut dyn Write) -> io::Result<()> {
    let path = shown(&group.path);
    if let Some(why) = &group.why {
        writeln!(out, "{path}: kernel memory is not accounted: {why}")?;
    } else {
        let grows = match group.growth_bytes_per_second {
            Some(rate) => format!("; {} a second", growth(Some(rate))),
            None => String::new(),
        };
        let all = group.usage_bytes.map(|usage| format!(", of {} in all", Bytes(usage))).unwrap_or_default();
        writeln!(out, "{path}: {} of kernel memory{all}{grows}", amount(group.kernel_bytes))?;
        kinds(group, out)?;
        cause(group.cause.as_ref(), out)?;
        peak(group, answer, out)?;
        below(group, out)?;
    }
    sockets(group, out)?;
    match group.removed_groups {
        Some(0) => writeln!(out, "removed:  no removed group below still holds memory")?,
        Some(count) => {
            let own = amount(group.own_usage_bytes);
            writeln!(
                out,
                "removed:  {count} removed groups below still hold user memory, page cache above all, within the {own} of all memory \
                 that no living group below holds"
            )?;
        }
        None => writeln!(
            out,
            "removed:  cgroup v1 does not tell of a group whether removed ones below still hold memory"
        )?,
    }
    holders(&group.holders, answer.interval_ns.is_some(), out)
}

fn kinds(group: &KernelGroup, out: &mut dyn Write) -> io::Result<()> {
    let whole = group.kernel_bytes.unwrap_or(0);
    if group.kinds.is_empty() {
        return writeln!(out, "by kind:  not known: cgroup v1 does not divide kernel memory");
    }
    let twice = group.kinds.iter().any(|kind| kind.growth_bytes_per_second.is_some());
    let mut kinds: Vec<_> = group.kinds.iter().collect();
    kinds.retain(|kind| kind.bytes > 0 || kind.growth_bytes_per_second.is_some_and(|rate| rate != 0));
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    let row = |kind: &&crate::serve::wire::KernelKind| {
        let mut row = vec![kind.kind.clone(), Bytes(kind.bytes).to_string(), share(kind.bytes, whole)];
        if twice {
            row.push(growth(kind.growth_bytes_per_second));
        }
        let known = Kind::ALL.into_iter().find(|it| it.name() == kind.kind);
        row.push(known.map(meaning).unwrap_or_default().into());
        row
    };
    let rows: Vec<_> = kinds.iter().map(row).collect();
    let columns = ["KIND", "HELD", "SHARE", "GROWS/S", "WHAT IT IS"];
    let without: Vec<&str> = columns.into_iter().filter(|column| *column != "GROWS/S").collect();
    output::table(out, if twice { &columns } else { &without }, &rows)?;
    writeln!(
        out,
        "reclaim:  gets back {} at the most; {} is pinned, whatever is reclaimed",
        amount(group.reclaimable_bytes),
        amount(group.pinned_bytes)
    )
}

fn cause(cause: Option<&KernelCause>, out: &mut dyn Write) -> io::Result<()> {
    let Some(KernelCause { kind, bytes, grew_bytes, by, pinned }) = cause else { return Ok(()) };
    let because = match (by.as_str(), grew_bytes) {
        ("growth", Some(grew)) => format!("grew most, by {}", Bytes(*grew)),
        _ => format!("holds most, {}", Bytes(*bytes)),
    };
    let back = if *pinned { "no reclaim gets it back" } else { "reclaim gets back what nobody uses of it" };
    writeln!(out, "cause:    {kind} {because}; {back}")
}

fn peak(group: &KernelGroup, answer: &KernelMemory, out: &mut dyn Write) -> io::Result<()> {
    if let Some(mark) = &group.mark {
        let grows = mark.growth_bytes_per_second.map_or_else(|| "?".into(), |rate| Bytes(rate).to_string());
        writeln!(
            out,
            "line:     {}{}, hit {} times since {}; grew by {grows} a second lately",
            Bytes(mark.line_bytes),
            if mark.only_tracks { " (tracked only: the group's limit is no higher)" } else { "" },
            mark.hits,
            mark.since.as_deref().unwrap_or("?")
        )?;
    }
    match group.peak_bytes {
        Some(peak) if group.mark.as_ref().is_some_and(|it| it.peak_by.as_deref() == Some("readings")) => {
            let mark = group.mark.as_ref();
            let at = mark.and_then(|it| it.peak_time.as_deref()).unwrap_or("?");
            writeln!(out, "peak:     {} at {at}, the highest of the daemon's readings", Bytes(peak))
        }
        Some(peak) => {
            writeln!(out, "peak:     {} since the group was made, or since --reset-peak", Bytes(peak))
        }
        None => writeln!(
            out,
            "peak:     not known: cgroup {} keeps none of kernel memory, and no daemon has a line for it",
            answer.memory
        ),
    }
}

fn below(group: &KernelGroup, out: &mut dyn Write) -> io::Result<()> {
    let Some(own) = group.own_bytes.map(Bytes) else { return Ok(()) };
    let groups = group.groups_below;
    match (groups, group.left_behind_bytes) {
        (_, Some(0)) => Ok(()),
        (0, None) => Ok(()),
        (_, Some(left)) => writeln!(
            out,
            "left:     {} held by no living group below, and no process is in the group itself: left by removed groups, or by \
             processes that ended or went elsewhere",
            Bytes(left)
        ),
        (_, None) => writeln!(
            out,
            "own:      {own} held by no group below ({groups} directly below it): by the group's own processes, or left by removed groups"
        ),
    }
}

fn sockets(group: &KernelGroup, out: &mut dyn Write) -> io::Result<()> {
    match (group.sockets_bytes.map(Bytes), group.sockets.as_str()) {
        (Some(bytes), "tcp") => {
            writeln!(
                out,
                "sockets:  {bytes} of TCP buffers, counted beside all other memory; cgroup v1 counts no others"
            )
        }
        (Some(bytes), _) => writeln!(out, "sockets:  {bytes} of buffers, counted beside kernel memory"),
        (None, "tcp") => writeln!(
            out,
            "sockets:  not known: cgroup v1 counts TCP buffers, and only of groups whose memory.kmem.tcp.limit_in_bytes was set"
        ),
        (None, _) => writeln!(
            out,
            "sockets:  not accounted (cgroup.memory=nosocket, or the controller is not enabled here)"
        ),
    }
}

fn holders(holders: &[KernelHolder], twice: bool, out: &mut dyn Write) -> io::Result<()> {
    if holders.is_empty() {
        return writeln!(out, "no process is in it or below it");
    }
    writeln!(out, "\nWho holds it, as far as that shows, the worst first:")?;
    let row = |holder: &KernelHolder| {
        let mut row = vec![shown(&holder.comm), holder.processes.to_string()];
        if twice {
            row.push(holder.born.map_or_else(String::new, |born| born.to_string()));
        }
        row.extend([
            holder.threads.to_string(),
            amount(holder.stacks_bytes),
            amount(holder.page_tables_bytes),
            holder.descriptors.map_or_else(|| "?".into(), |count| count.to_string()),
            holder.oldest_pid.to_string(),
        ]);
        row
    };
    let rows: Vec<_> = holders.iter().take(HOLDERS).map(row).collect();
    let columns =
        ["NAME", "PROCESSES", "NEW", "THREADS", "STACKS", "PAGE TABLES", "OPEN FILES", "OLDEST PID"];
    let without: Vec<&str> = columns.into_iter().filter(|column| *column != "NEW").collect();
    output::table(out, if twice { &columns } else { &without }, &rows)?;
    match holders.len().saturating_sub(HOLDERS) {
        0 => Ok(()),
        more => writeln!(out, "and {more} names more (--json has them)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn group(path: &str) -> KernelGroup {
        serde_json::from_value(json!({
            "path": path, "id": 7, "accounted": true, "kernel_bytes": 4 << 20, "growth_bytes_per_second": -2048,
            "kinds": [
                { "kind": "kernel_stack", "bytes": 1 << 20, "growth_bytes_per_second": 0, "release": "exit" },
                { "kind": "vmalloc", "bytes": 0, "growth_bytes_per_second": 0, "release": "let-go" },
                { "kind": "slab_reclaimable", "bytes": 3 << 20, "growth_bytes_per_second": -2048, "release": "reclaim" }
            ],
            "reclaimable_bytes": 3 << 20, "pinned_bytes": 1 << 20, "sockets_bytes": 0, "sockets": "all", "usage_bytes": 9 << 20,
            "own_bytes": 1 << 20, "left_behind_bytes": 1 << 20, "groups_below": 2, "removed_groups": 3, "processes": 0, "processes_in_all": 5,
            "cause": { "kind": "slab_reclaimable", "bytes": 3 << 20, "by": "holding", "pinned": false },
            "holders": [{ "comm": "foo\u{1b}[2J", "processes": 5, "born": 1, "oldest_pid": 9, "threads": 5, "page_tables_bytes": 4096 }]
        }))
        .unwrap()
    }

    fn answer(groups: Vec<KernelGroup>) -> KernelMemory {
        KernelMemory { memory: "v2".into(), interval_ns: Some(1), groups, left_out: 0, removed_groups: None }
    }

    fn shown_one(group: &KernelGroup) -> String {
        let mut out = Vec::new();
        one(group, &answer(Vec::new()), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_group_is_told_whole() {
        let text = shown_one(&group("/a"));
        for expected in [
            "/a: 4MiB of kernel memory, of 9MiB in all; -2KiB a second\n",
            "KIND              HELD  SHARE  GROWS/S  WHAT IT IS\nslab_reclaimable  3MiB  75.0%  -2KiB    dentries",
            "kernel_stack      1MiB  25.0%  0        one for each thread",
            "reclaim:  gets back 3MiB at the most; 1MiB is pinned",
            "cause:    slab_reclaimable holds most, 3MiB; reclaim gets back what nobody uses of it\n",
            "peak:     not known",
            "left:     1MiB held by no living group below",
            "removed:  3 removed groups below",
            "foo\\u{1b}[2J  5          1    5        ?       4KiB         ?           9\n",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
        assert!(!text.contains("vmalloc"), "what there is nothing of is left out\n{text}");
    }

    #[test]
    fn what_is_not_accounted_is_said_and_no_amount_is_shown() {
        let why = Some("started with cgroup.memory=nokmem".to_owned());
        let blank = KernelGroup { path: "/b".into(), sockets: "tcp".into(), why, ..KernelGroup::default() };
        let text = shown_one(&blank);
        assert!(
            text.starts_with("/b: kernel memory is not accounted: started with cgroup.memory=nokmem\n"),
            "{text}"
        );
        assert!(!text.contains("0B"), "{text}");
        let mut out = Vec::new();
        all(&answer(vec![group("/a"), blank.clone(), blank]), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(
                "/a     4MiB    -2KiB    1MiB  9MiB        5          3        slab_reclaimable 75.0%, "
            ),
            "{text}"
        );
        assert!(text.ends_with("not accounted, 2 groups: started with cgroup.memory=nokmem\n"), "{text}");
    }
}
