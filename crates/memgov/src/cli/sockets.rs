//! `memgov status --sockets GROUP`: who holds how much in the buffers of sockets, read from the kernel's lists. No daemon is needed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memgov_decide::units::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::output::{self, shown};
use super::{Exit, kernel};
use crate::kernel::cgroup::Switches;
use crate::kernel::{Layout, MemoryVersion};
use crate::observe::sockets::{Held, SocketSurvey, survey};
use crate::serve::wire::{self, GroupSockets, HeldSocket, SocketHolder};

/// Sockets that are shown to people; all of them are in JSON.
const SHOWN: usize = 64;

pub(super) fn answer(
    group: &OsStr,
    as_json: bool,
    daemon: Option<PathBuf>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let layout = Layout::detect(Path::new("/"))?;
    let path = group.as_bytes();
    let found = survey(&layout, path).map_err(|error| {
        let (code, help) = kernel::refusal(&error);
        Exit::with(code, format!("{error}{help}"))
    })?;
    let mut answer = shape(path, &found);
    answer.refused = count_of(daemon, &answer.path);
    if as_json {
        output::json(out, &answer)?;
    } else {
        text(&answer, out)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Refusals {
    refused: Option<u64>,
}

/// What memgov counts, if it runs and does.
fn count_of(daemon: Option<PathBuf>, path: &str) -> Option<u64> {
    let asked = json!({ "path": path });
    let counted = super::connect(daemon).and_then(|mut it| it.call("GetSocketRefusals", asked));
    counted.ok().and_then(|Refusals { refused }| refused)
}

fn shape(path: &[u8], found: &SocketSurvey) -> GroupSockets {
    let sum = |of: fn(&crate::kernel::sock_diag::SocketMemory) -> u64| {
        found.held.iter().filter_map(|held| held.socket.memory.as_ref().map(of)).sum()
    };
    GroupSockets {
        memory: if found.version == MemoryVersion::V1 { "v1" } else { "v2" }.into(),
        path: wire::text(path),
        id: found.id,
        charged_bytes: found.charged.map(|bytes| bytes.0),
        unaccounted: found.charged.is_none().then(|| why(found.version).into()),
        refused: None,
        throttled: found.throttled,
        apart: found.version == MemoryVersion::V1,
        receive_bytes: sum(|memory| memory.receives()),
        send_bytes: sum(|memory| memory.sends()),
        sockets: found.held.iter().map(socket).collect(),
        processes: found.processes,
        unread_processes: found.unread,
        others: found.others,
        namespaces: found.namespaces,
        unknown: found.unknown.clone(),
    }
}

/// Why there is no number.
fn why(version: MemoryVersion) -> &'static str {
    match version {
        MemoryVersion::V2 if Switches::of_this_boot().no_sockets => {
            "this kernel was started with cgroup.memory=nosocket: it charges no group for sockets"
        }
        MemoryVersion::V1 => {
            "cgroup v1 counts the buffers of TCP only of groups for which a limit was written, and of no socket that was made before: a rule with the meter \
             `sockets` or `usage+sockets` has it counted"
        }
        MemoryVersion::V2 => {
            "memory.stat of this group has no `sock`: the memory controller is not enabled for it"
        }
    }
}

fn socket(held: &Held) -> HeldSocket {
    let (socket, memory) = (&held.socket, held.socket.memory);
    HeldSocket {
        inode: socket.inode,
        cookie: socket.cookie,
        kind: socket.kind.name().into(),
        state: socket.state_name().into(),
        local: socket.local.map(|address| address.to_string()),
        remote: socket.remote.map(|address| address.to_string()),
        receive_bytes: memory.map(|memory| memory.receives()),
        receive_buffer_bytes: memory.map(|memory| memory.receive_buffer),
        send_bytes: memory.map(|memory| memory.sends()),
        send_buffer_bytes: memory.map(|memory| memory.send_buffer),
        holders: held
            .holders
            .iter()
            .map(|holder| SocketHolder { pid: holder.pid, comm: wire::text(name(&holder.comm)) })
            .collect(),
    }
}

fn name(comm: &[u8; 16]) -> &[u8] {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    &comm[..end]
}

fn text(answer: &GroupSockets, out: &mut dyn Write) -> io::Result<()> {
    let bytes = |amount: u64| Bytes(amount).to_string();
    let charged = match (answer.charged_bytes, &answer.unaccounted) {
        (Some(amount), _) if answer.apart => format!("charged {} (TCP, beside usage)", bytes(amount)),
        (Some(amount), _) => format!("charged {} (part of usage)", bytes(amount)),
        (None, _) => "charged ?".to_owned(),
    };
    writeln!(
        out,
        "{}: {charged}; in buffers received {}, to be sent {}; {} sockets of {} processes in {} network namespaces",
        shown(&answer.path),
        bytes(answer.receive_bytes),
        bytes(answer.send_bytes),
        answer.sockets.len(),
        answer.processes,
        answer.namespaces
    )?;
    if let Some(why) = &answer.unaccounted {
        writeln!(out, "unaccounted: {why}")?;
    }
    match answer.refused {
        Some(count) => writeln!(out, "refused by the kernel: {count} times")?,
        None => writeln!(
            out,
            "refused by the kernel: ? (memgov counts it while a rule squeezes sockets, with the tier bpf)"
        )?,
    }
    if let Some(count) = answer.throttled {
        writeln!(out, "kept small by the kernel, under pressure: {count} times")?;
    }
    for what in &answer.unknown {
        writeln!(out, "unknown: {what}")?;
    }
    if answer.unread_processes > 0 {
        writeln!(out, "unknown: the sockets of {} processes of other users", answer.unread_processes)?;
    }
    if answer.sockets.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let rows: Vec<_> = answer.sockets.iter().take(SHOWN).map(row).collect();
    let columns = ["KIND", "STATE", "RECEIVED", "OF", "TO SEND", "OF", "LOCAL", "REMOTE", "HELD BY"];
    output::table(out, &columns, &rows)?;
    match answer.sockets.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "and {more} more with less (all of them: --json)"),
    }
}

fn row(socket: &HeldSocket) -> Vec<String> {
    let amount = |bytes: Option<u64>| bytes.map_or_else(|| "?".into(), |bytes| Bytes(bytes).to_string());
    let holders: Vec<_> =
        socket.holders.iter().map(|holder| format!("{} {}", holder.pid, shown(&holder.comm))).collect();
    let address = |address: &Option<String>| address.clone().unwrap_or_default();
    vec![
        socket.kind.clone(),
        socket.state.clone(),
        amount(socket.receive_bytes),
        amount(socket.receive_buffer_bytes.map(u64::from)),
        amount(socket.send_bytes),
        amount(socket.send_buffer_bytes.map(u64::from)),
        address(&socket.local),
        address(&socket.remote),
        holders.join(", "),
    ]
}
