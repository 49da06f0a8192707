//! `memgov status --kernel`: kernel memory by kind, read from the kernel's files. No daemon is needed; one that runs is asked for the peaks and hits it keeps.

mod text;

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memgov_decide::kernel_memory::{Breakdown, Holding, Kind, Release};
use memgov_decide::kernel_memory::{diagnose, offenders};
use memgov_decide::units::Bytes;

use super::{Exit, output};
use crate::kernel::{Errno, GroupDir, Layout, MemoryVersion};
use crate::observe::kernel_memory::{Account, Survey, holdings, survey};
use crate::record::event::{cause, holder};
use crate::serve::client::{Client, ClientError};
use crate::serve::failure::{FailureKind, exit};
use crate::serve::wire::{self, KernelGroup, KernelMemory};

/// What was asked for.
#[derive(Debug)]
pub(super) struct Question<'q> {
    /// One group, or all of them.
    pub(super) group: Option<&'q OsStr>,
    /// Read twice, this far apart.
    pub(super) interval: Option<Duration>,
    /// Set the peak back before reading.
    pub(super) reset_peak: bool,
    pub(super) json: bool,
}

/// Two readings, or one.
struct Readings {
    before: Option<(Survey, Vec<Holding>)>,
    now: (Survey, Vec<Holding>),
}

impl Question<'_> {
    pub(super) fn answer(&self, socket: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<()> {
        let layout = Layout::detect(Path::new("/"))?;
        let mut daemon = super::connect(socket).ok();
        if self.reset_peak {
            self.reset(&layout, daemon.as_mut())?;
        }
        let before = match self.interval {
            Some(interval) => {
                let before = self.read(&layout)?;
                std::thread::sleep(interval);
                Some(before)
            }
            None => None,
        };
        let readings = Readings { before, now: self.read(&layout)? };
        let mut answer = self.shape(&readings);
        // An older one, or one that is busy, adds nothing.
        if let Some(Reply { status }) =
            daemon.and_then(|mut it| it.call("Status", serde_json::json!({})).ok())
        {
            add_marks(&mut answer, status.kernel);
        }
        if self.json {
            output::json(out, &answer)?;
        } else if self.group.is_some() {
            answer.groups.iter().try_for_each(|group| text::one(group, &answer, out))?;
        } else {
            text::all(&answer, out)?;
        }
        Ok(())
    }

    fn path(&self) -> &[u8] {
        self.group.map_or(b"/", OsStrExt::as_bytes)
    }

    fn read(&self, layout: &Layout) -> anyhow::Result<(Survey, Vec<Holding>)> {
        let survey = survey(layout, self.path()).map_err(|error| self.refusal(error))?;
        let held = match self.group {
            Some(_) => holdings(layout, &survey.accounts),
            None => Vec::new(),
        };
        Ok((survey, held))
    }

    /// By the daemon, which keeps one of groups that a rule has a line for, and has the kernel forget its own; else the kernel's alone.
    fn reset(&self, layout: &Layout, daemon: Option<&mut Client>) -> anyhow::Result<()> {
        let shown = output::shown(&wire::text(self.path()));
        let path = serde_json::json!({ "path": wire::text(self.path()) });
        let refused = match daemon.map(|daemon| daemon.call::<serde_json::Value>("ResetKernelPeak", path)) {
            Some(Ok(_)) => return Ok(()),
            Some(Err(ClientError::Refused(failure))) => Some(failure),
            Some(Err(_)) | None => None,
        };
        if let Some(failure) = refused.filter(|failure| failure.kind == FailureKind::PermissionDenied) {
            return Err(ClientError::Refused(failure).into());
        }
        let group = GroupDir::open(layout, self.path()).map_err(|error| self.refusal(error))?;
        group.reset_kernel_peak().map_err(|errno| match errno {
            Errno::OPNOTSUPP => Exit::with(
                exit::FAILED,
                "there is no peak to set back: cgroup v2 keeps none of kernel memory (memory.peak is of all memory), and a daemon \
                 only of groups that a rule has a line for (meter = \"kernel\")",
            ),
            Errno::ACCESS | Errno::PERM => Exit::with(
                exit::PERMISSION,
                format!("memory.kmem.max_usage_in_bytes of {shown} is not yours to write: {errno}"),
            ),
            errno => Exit::with(exit::FAILED, format!("writing memory.kmem.max_usage_in_bytes of {shown}: {errno}")),
        })
    }

    fn refusal(&self, error: crate::kernel::Error) -> anyhow::Error {
        let (code, help) = refusal(&error);
        Exit::with(code, format!("{error}{help}"))
    }

    fn shape(&self, readings: &Readings) -> KernelMemory {
        let (now, held) = &readings.now;
        let before = readings.before.as_ref();
        let shape = |account: &Account| {
            let then = before.and_then(|(survey, _)| survey.accounts.iter().find(|it| it.id == account.id));
            let seconds = before.map(|(survey, _)| now.at.since(survey.at));
            group(account, then.zip(seconds), now)
        };
        let mut groups: Vec<KernelGroup> = match self.group {
            Some(_) => now.accounts.iter().take(1).map(shape).collect(),
            None => now.accounts.iter().map(shape).collect(),
        };
        if let (Some(_), Some(group), Some(account)) = (self.group, groups.first_mut(), now.accounts.first())
        {
            let then = before.and_then(|(survey, _)| survey.accounts.first());
            let kind = diagnose(then.map(|it| &it.breakdown), &account.breakdown).map(|it| it.kind);
            let before = before.map(|(_, held)| held.as_slice());
            let ranked = offenders(before, held, kind);
            group.holders = ranked.iter().map(|one| holder(one, before.is_some())).collect();
        }
        groups.sort_by(|a, b| b.kernel_bytes.cmp(&a.kernel_bytes).then_with(|| a.path.cmp(&b.path)));
        KernelMemory {
            memory: if now.version == MemoryVersion::V1 { "v1" } else { "v2" }.into(),
            interval_ns: before.map(|(survey, _)| nanos(now.at.since(survey.at))),
            groups,
            left_out: now.left_out as u64,
            removed_groups: now.removed,
        }
    }
}

/// The exit code for a group that cannot be read, and what to do.
pub(super) fn refusal(error: &crate::kernel::Error) -> (u8, &'static str) {
    let code = match error.errno() {
        Some(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => exit::NO_TARGET,
        Some(Errno::INVAL) => exit::USAGE,
        Some(Errno::ACCESS | Errno::PERM) => exit::PERMISSION,
        _ => exit::FAILED,
    };
    let help = match code {
        exit::NO_TARGET => "; `memgov status --kernel` lists the groups there are",
        exit::USAGE => "; a group is a path from the root of the memory hierarchy: /a/b",
        _ => "",
    };
    (code, help)
}

#[derive(serde::Deserialize)]
struct Reply {
    status: wire::Status,
}

/// What the daemon keeps of these groups. Where the kernel keeps a peak, or growth was measured, that stands.
fn add_marks(answer: &mut KernelMemory, marks: Vec<wire::KernelMark>) {
    for mark in marks {
        let wire::Target::Group { id, .. } = mark.target else { continue };
        if let Some(group) = answer.groups.iter_mut().find(|group| group.id == id && group.accounted) {
            group.peak_bytes = group.peak_bytes.or(mark.peak_bytes);
            group.mark = Some(mark);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `now` less `then`, in a second.
fn rate(then: Option<Bytes>, now: Option<Bytes>, passed: Duration) -> Option<i64> {
    let change = i128::from(now?.0) - i128::from(then?.0);
    let nanos = i128::try_from(passed.as_nanos()).ok().filter(|nanos| *nanos > 0)?;
    i64::try_from(change * 1_000_000_000 / nanos).ok()
}

fn group(account: &Account, before: Option<(&Account, Duration)>, survey: &Survey) -> KernelGroup {
    let now = &account.breakdown;
    let of = |what: &dyn Fn(&Breakdown) -> Option<Bytes>| {
        before.and_then(|(then, passed)| rate(what(&then.breakdown), what(now), passed))
    };
    let raw = |amount: Option<Bytes>| amount.map(|amount| amount.0);
    let kinds = now.kinds().map(|(kind, held)| wire::KernelKind {
        kind: kind.name().into(),
        bytes: held.0,
        growth_bytes_per_second: of(&|it: &Breakdown| it.of(kind)),
        release: release(kind.release()).into(),
    });
    let sockets = match survey.version {
        MemoryVersion::V1 => "tcp",
        MemoryVersion::V2 => "all",
    };
    KernelGroup {
        path: wire::text(&account.path),
        id: account.id.0,
        accounted: account.accounting.why().is_none(),
        why: account.accounting.why().map(Into::into),
        kernel_bytes: raw(now.total),
        growth_bytes_per_second: of(&|it: &Breakdown| it.total),
        peak_bytes: raw(account.peak),
        kinds: kinds.collect(),
        reclaimable_bytes: raw(now.reclaimable()),
        pinned_bytes: raw(now.pinned()),
        sockets_bytes: raw(now.sockets),
        sockets: sockets.into(),
        usage_bytes: raw(account.usage),
        own_bytes: raw(account.own()),
        own_usage_bytes: raw(account.own_usage()),
        left_behind_bytes: raw(account.left_behind()),
        groups_below: account.below.groups,
        removed_groups: account.dying,
        processes: account.processes,
        processes_in_all: account.processes_in_all,
        mark: None,
        cause: diagnose(before.map(|(then, _)| &then.breakdown), now).map(cause),
        holders: Vec::new(),
    }
}

/// As in JSON.
const fn release(release: Release) -> &'static str {
    match release {
        Release::Reclaim => "reclaim",
        Release::Exit => "exit",
        Release::LetGo => "let-go",
    }
}

/// What a kind is, and when it comes back, for people.
fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Stacks => "one for each thread; back when threads end",
        Kind::PageTables => "of address spaces; back when they are unmapped, or their processes end",
        Kind::SecondaryPageTables => "of virtual machines and IOMMUs; back when those end",
        Kind::Percpu => {
            "a copy for each processor: groups below, BPF maps, mounts; back when those are removed"
        }
        Kind::Vmalloc => "large tables: descriptors of processes with many, BPF; back when those are closed",
        Kind::SlabReclaimable => "dentries and inodes above all; reclaim gets back those that nobody uses",
        Kind::SlabUnreclaimable => {
            "open files, tasks, mappings, sockets, files of tmpfs; back when they are let go"
        }
        Kind::Zswap => "user memory swapped out, compressed; reclaim writes it out",
        Kind::Other => "whole pages: contents of pipes, top levels of page tables; back when they are let go",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_sign_and_no_reading_has_no_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(Some(Bytes(10)), Some(Bytes(4)), second * 2), Some(-3));
        assert_eq!(rate(Some(Bytes(4)), Some(Bytes(10)), second / 2), Some(12));
        assert_eq!(rate(None, Some(Bytes(10)), second), None);
        assert_eq!(rate(Some(Bytes(0)), Some(Bytes(1)), Duration::ZERO), None);
        assert_eq!(
            rate(Some(Bytes(0)), Some(Bytes(u64::MAX)), Duration::from_nanos(1)),
            None,
            "no number for it"
        );
    }
}
