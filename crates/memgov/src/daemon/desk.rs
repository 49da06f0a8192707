//! What the control socket asks of the daemon, on the serving thread: the loop is asked only for what only it knows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use memgov_decide::control::MemControl;
use memgov_decide::policy::{GroupPolicy, MAX_RULES, Over, Pattern, Policy};
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::{Bytes, Limit, Time};

use super::answers::StatusBuffer;
use super::governing::Counts;
use super::queue::{Asker, NewPolicy, Request};
use super::view;
use super::worth::SetJob;
use crate::config::{self, Config, ConfigErrors, describe};
use crate::kernel::{GroupDir, Layout, MemoryVersion, Reading, proc, sys};
use crate::record::{Journal, text};
use crate::serve::shrink::{self, Shrinking};
use crate::serve::{Failure, FailureKind, From, Governed, GroupFacts, GroupRule, ProcessFacts, wire};

/// Where things are and who asks whom.
pub(super) struct Desk {
    pub asker: Asker,
    pub journal: Arc<Journal>,
    pub layout: Layout,
    pub attached: Arc<super::inside::Attached>,
    pub config_path: PathBuf,
    /// `--dry-run` on the command line outlasts reloads.
    pub dry_run: bool,
    pub counts: Arc<Counts>,
    pub started: Time,
    pub in_force: Mutex<InForce>,
    /// Asks the serving thread, once there is one, for the clients it has lost.
    pub clients_lost: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    pub jobs: super::jobs::Jobs,
    pub handlers: Arc<crate::act::hook::Handlers>,
}

/// What is in force, as it was asked for.
pub(super) struct InForce {
    pub config: Config,
    pub group_rules: Vec<SetRule>,
    pub set_jobs: Vec<SetJob>,
    pub reload_error: Option<String>,
}

/// So long an answer waits for programs that are attached for it. With what the loop may take before, less than clients wait.
const ATTACHING: Duration = Duration::from_secs(6);
/// Rules on groups that one user who is not root may have: the table is for all.
const RULES_A_USER: usize = 16;

/// A rule set on a running group.
#[derive(Clone)]
pub(super) struct SetRule {
    id: GroupId,
    path: Box<[u8]>,
    by: u32,
    rule: GroupRule,
}

impl InForce {
    /// The configuration's policy with the rules that were set since, and what was said of jobs.
    pub fn policy(&self) -> Policy {
        let mut policy = self.config.policy.clone();
        for set in &self.group_rules {
            policy.rules.push(set.rule.rule.clone());
            if let Some(high) = set.rule.high {
                // In front: the first match wins.
                let only_it = vec![Pattern::literal(&set.path)];
                let high = Some(high);
                let of_high = GroupPolicy { groups: only_it, high, ..GroupPolicy::default() };
                policy.groups.insert(0, of_high);
            }
        }
        policy.put_first(self.set_jobs.iter().map(SetJob::policy));
        policy
    }
}

impl Desk {
    pub(super) fn lock(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a rule is about kernel memory.
    pub fn has_lines_for_kernel_memory(&self) -> bool {
        let in_force = self.lock();
        let set = in_force.group_rules.iter().map(|set| &set.rule.rule);
        let mut rules = in_force.config.policy.rules.iter().chain(set);
        rules.any(|rule| rule.when.group.is_some_and(Over::is_kernel))
    }

    /// By the command line, or by the configuration.
    fn runs_dry(&self, in_force: &InForce) -> bool {
        self.dry_run || in_force.config.settings.dry_run
    }

    fn put_in_force(&self, in_force: &InForce) -> Result<(), Failure> {
        self.put(in_force, false)
    }

    /// `of_jobs`: only what was said of jobs has changed.
    pub(super) fn put(&self, in_force: &InForce, of_jobs: bool) -> Result<(), Failure> {
        let policy = in_force.policy();
        if policy.rules.len() > MAX_RULES {
            return Err(FailureKind::TableFull.because(format!("more than {MAX_RULES} rules")));
        }
        let rule_names = policy.rules.iter().map(|r| r.name.as_str().into()).collect();
        let dry_run = self.runs_dry(in_force);
        let new = Box::new(NewPolicy { policy, rule_names, dry_run, of_jobs });
        self.asker.ask(|reply| Request::SetPolicy { new, reply })?;
        self.attach();
        Ok(())
    }

    /// Has the kernel do by itself what is asked for now, so that whoever set it finds it in force. The loop sees to it too, in
    /// its own time; what fails here, or takes too long, is enforced from outside.
    pub fn attach(&self) {
        if self.attached.is_there() {
            self.attached.follow_need(&self.asker, ATTACHING);
        }
    }

    /// Executables on the never-list may have been replaced since they were last looked for (a package was upgraded).
    pub fn follow_executables(&self) {
        if self.attached.is_there() {
            let never = self.lock().config.policy.never.clone();
            self.attached.follow(&never);
        }
    }

    /// Whether the group something was set on is still the one of that path.
    pub(super) fn is_there(&self, path: &[u8], id: GroupId) -> bool {
        GroupDir::open(&self.layout, path).is_ok_and(|dir| dir.id() == id)
    }

    /// Takes away what was set on groups that are gone, before another group of the same path can be taken for them.
    pub fn prune(&self) {
        let mut in_force = self.lock();
        let said = |failure| super::say(&format!("memgov: what was set on groups that are gone: {failure}"));
        let before = in_force.group_rules.len();
        in_force.group_rules.retain(|set| self.is_there(&set.path, set.id));
        if in_force.group_rules.len() < before {
            self.put_in_force(&in_force).unwrap_or_else(said);
        }
        // One after the other: each is told to a trace in its own way.
        let before = in_force.set_jobs.len();
        in_force.set_jobs.retain(|set| self.is_there(&set.path, set.id));
        if in_force.set_jobs.len() < before {
            self.put(&in_force, true).unwrap_or_else(said);
        }
    }

    fn open(&self, path: &[u8]) -> Result<GroupDir, Failure> {
        GroupDir::open(&self.layout, path).map_err(|e| FailureKind::NoSuchGroup.because(e.to_string()))
    }

    /// The least limit on a group and all above it.
    fn least_limit(&self, path: &[u8], highs: &Policy) -> Option<Limit> {
        let mut least = Limit::Max;
        let mut buffer = [0; 4096];
        let mut at = path;
        while at.len() > 1 {
            let mut reading = Reading::default();
            let dir = GroupDir::open(&self.layout, at).ok()?;
            dir.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).ok()?;
            if dir.has_memory() {
                least = least.min(reading.max?);
            }
            if let Some(high) = highs.high(at).or(reading.high) {
                least = least.min(high);
            }
            let cut = at.iter().rposition(|&b| b == b'/')?;
            at = &at[..cut];
        }
        Some(least)
    }

    fn rule_meaning(&self, source: &wire::Source) -> Option<String> {
        let wire::Source::Rule { rule } = source else { return None };
        let policy = self.lock().policy();
        let rule = policy.rules.iter().find(|r| r.name == *rule)?;
        let outside = describe::only_from_outside(rule).filter(|_| self.attached.is_there());
        let outside = outside.map(|said| format!(" (tier bpf: {said})")).unwrap_or_default();
        let refuses = describe::only_refuses(rule.when.meter(), &rule.steps);
        let not_met = if refuses { format!(" ({})", describe::NOT_MET) } else { String::new() };
        Some(describe::rule(rule) + &outside + &not_met)
    }
}

impl Governed for Desk {
    fn page(&self) -> Bytes {
        Bytes(sys::page_size())
    }

    fn status(&self) -> Result<wire::Status, Failure> {
        let buffer = Box::new(StatusBuffer::new());
        let mut buffer = self.asker.ask(|reply| Request::Status { buffer, reply })?;
        let in_force = self.lock();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(wire::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ns: buffer.at.0.saturating_sub(self.started.0),
            dry_run: self.runs_dry(&in_force),
            memory: match self.layout.version {
                MemoryVersion::V1 => "v1".into(),
                MemoryVersion::V2 => "v2".into(),
            },
            mechanisms: super::mechanisms(&self.layout, self.attached.in_force()),
            tier: self.attached.status(self.runs_dry(&in_force)),
            files: in_force.config.files.iter().map(|f| f.display().to_string()).collect(),
            reload_error: in_force.reload_error.clone(),
            rules: view::rules(&in_force.policy(), &buffer),
            episodes: buffer.episodes.iter().map(|e| view::episode(e, buffer.at)).collect(),
            holds: buffer.holds.iter_mut().map(view::hold).collect(),
            denials: buffer.refused.iter().map(view::denials).collect(),
            kernel: buffer.kernel.iter().map(|mark| view::kernel(mark, &self.layout)).collect(),
            controls: buffer
                .controls
                .iter()
                .map(|(who, c)| wire::Control::new(who.pid, who.start, *c))
                .collect(),
            truncated: buffer.left_out,
            watched: wire::Watched {
                groups: buffer.groups as u64,
                processes: buffer.processes as u64,
                controls: buffer.all_controls as u64,
            },
            guardian: Some(self.counts.guardian.load(Ordering::Relaxed)).filter(|&pid| pid != 0),
            guardians_lost: count(&self.counts.guardians_lost),
            lost: wire::Losses {
                groups: buffer.lost.groups,
                processes: buffer.lost.processes,
                events: buffer.lost.events,
                decisions: buffer.decisions_lost,
                records: self.journal.dropped(),
                happenings: buffer.happenings_left_out,
                standing: buffer.standing_left_out,
                sockets: buffer.squeezed.beyond,
                clients: self.clients_lost.get().map_or(0, |lost| lost()),
            },
            counts: wire::Counts {
                ticks: count(&self.counts.ticks),
                decisions: count(&self.counts.decisions),
                kills: count(&self.counts.kills),
                sockets_squeezed: buffer.squeezed.squeezes,
                sockets_released: buffer.squeezed.releases,
                sockets_refused: buffer.squeezed.refused,
                refused: count(&self.counts.refused),
            },
            jobs: self.set_jobs(&in_force),
            questions: match self.runs_dry(&in_force) {
                // It asks nobody.
                true => Vec::new(),
                false => buffer.questions.iter().map(|it| view::question(it, buffer.at)).collect(),
            },
        })
    }

    fn process(&self, pid: u32) -> Result<ProcessFacts, Failure> {
        let none = || FailureKind::NoSuchProcess.because(format!("there is no process {pid}"));
        let mut buffer = [0; 4096];
        let stat = proc::read_stat(pid, &mut buffer).map_err(|_| none())?;
        let status = proc::read_status(pid, &mut buffer).map_err(|_| none())?;
        // A thread has a directory of its own; the control is its process's.
        if status.tgid.is_some_and(|tgid| tgid != pid) {
            let tgid = status.tgid.unwrap_or(pid);
            let text = format!("{pid} is a thread of process {tgid}; controls belong to processes");
            return Err(FailureKind::NoSuchProcess.because(text));
        }
        if let Some(what) = never_governed(&stat, std::process::id()) {
            let text = format!("process {pid} is {what}: it cannot be governed");
            return Err(FailureKind::NoSuchProcess.because(text));
        }
        Ok(ProcessFacts { id: stat.id(), uids: status.uids })
    }

    fn group(&self, path: &[u8]) -> Result<GroupFacts, Failure> {
        let dir = self.open(path)?;
        if path == b"/" {
            return Err(FailureKind::NoSuchGroup.because("the root group cannot be governed"));
        }
        let in_force = self.lock();
        let ruled_by = in_force.group_rules.iter().find(|r| r.id == dir.id()).map(|r| r.by);
        Ok(GroupFacts {
            path: path.into(),
            id: dir.id(),
            owner: dir.owner(),
            owner_above: parent_of(path).and_then(|above| self.open(above).ok()?.owner()),
            limit: self.least_limit(path, &in_force.config.policy),
            ruled_by,
            said_by: in_force.set_jobs.iter().find(|set| set.id == dir.id()).map(|set| set.by),
        })
    }

    fn control_get(&self, who: ProcessId) -> Result<MemControl, Failure> {
        self.asker.ask(|reply| Request::GetControl { who, reply }).map(Option::unwrap_or_default)
    }

    fn control_set(&self, who: ProcessId, control: MemControl, by: u32) -> Result<(), Failure> {
        self.asker.ask(|reply| Request::SetControl { who, control, by, reply })??;
        self.attach();
        Ok(())
    }

    fn control_clear(&self, who: ProcessId) -> Result<(), Failure> {
        self.asker.ask(|reply| Request::ClearControl { who, reply })
    }

    fn group_rule_get(&self, group: &GroupFacts) -> Result<Option<wire::GroupRule>, Failure> {
        let in_force = self.lock();
        Ok(in_force.group_rules.iter().find(|r| r.id == group.id).map(|r| r.rule.request.clone()))
    }

    fn group_rule_set(&self, group: &GroupFacts, rule: GroupRule, by: u32) -> Result<(), Failure> {
        let own = self.layout.own.memory.as_deref().unwrap_or(b"/");
        if own.starts_with(&group.path) && (own.len() == group.path.len() || own[group.path.len()] == b'/') {
            return Err(
                FailureKind::InvalidRule.because("memgov itself is in this group: it cannot be governed")
            );
        }
        let mut in_force = self.lock();
        let former = in_force.group_rules.clone();
        in_force.group_rules.retain(|r| r.id != group.id && self.is_there(&r.path, r.id));
        if by != 0 && in_force.group_rules.iter().filter(|r| r.by == by).count() >= RULES_A_USER {
            in_force.group_rules = former;
            return Err(
                FailureKind::TableFull.because(format!("a user may have {RULES_A_USER} rules on groups"))
            );
        }
        in_force.group_rules.push(SetRule { id: group.id, path: group.path.clone(), by, rule });
        self.put_in_force(&in_force).inspect_err(|_| in_force.group_rules = former)
    }

    fn group_rule_clear(&self, group: &GroupFacts) -> Result<(), Failure> {
        let mut in_force = self.lock();
        let former = in_force.group_rules.clone();
        in_force.group_rules.retain(|r| r.id != group.id);
        self.put_in_force(&in_force).inspect_err(|_| in_force.group_rules = former)
    }

    fn kernel_mark(&self, group: &GroupFacts) -> Result<Option<wire::KernelMark>, Failure> {
        let mark = self.asker.ask(|reply| Request::KernelMark { group: group.id, reply })?;
        Ok(mark.map(|mark| view::kernel(&mark, &self.layout)))
    }

    fn socket_refusals(&self, group: &GroupFacts) -> Result<Option<u64>, Failure> {
        self.attached.socket_refusals(group.id).map_err(|errno| {
            FailureKind::Internal.because(format!("reading the count of refused charges: {errno}"))
        })
    }

    fn kernel_peak_reset(&self, group: &GroupFacts) -> Result<(), Failure> {
        if !self.asker.ask(|reply| Request::ResetKernelPeak { group: group.id, reply })? {
            let path = text::printable(&group.path);
            let why =
                format!("no rule has a line for kernel memory of {path}, so memgov keeps no peak of it");
            return Err(FailureKind::NoSuchRule.because(why));
        }
        let dir = self.open(&group.path)?;
        match dir.reset_kernel_peak() {
            // v2 keeps none.
            Ok(()) | Err(crate::kernel::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => {
                Err(FailureKind::Internal.because(format!("memory.kmem.max_usage_in_bytes: {errno}")))
            }
        }
    }

    fn events(&self, from: From, most: usize) -> Result<wire::Events, Failure> {
        let after = match from {
            From::Start => 0,
            From::After(id) => self.journal.cursor_after(id),
            From::Cursor(cursor) => cursor,
            From::Now => self.journal.cursor(),
        };
        let mut excerpt = self.journal.since(after, most);
        if !matches!(from, From::Cursor(_)) {
            excerpt.missed = 0;
        }
        Ok(wire::Events { events: excerpt.events, missed: excerpt.missed, cursor: excerpt.cursor })
    }

    fn group_of(&self, who: ProcessId) -> Option<String> {
        let mut buffer = [0; 4096];
        let path = proc::memory_group(&self.layout, who.pid, &mut buffer).ok()?;
        // Read after the path: whoever has the pid now had it then.
        proc::is_there(who).then(|| wire::text(&path))
    }

    fn explain(&self, id: u64) -> Result<wire::Explanation, Failure> {
        let (event, episode) = self.journal.episode_of(id).ok_or_else(|| {
            FailureKind::NoSuchDecision.because(format!("decision {id} is not known, or no longer kept"))
        })?;
        let (before, mut after): (Vec<_>, Vec<_>) = episode.into_iter().partition(|e| e.id < id);
        after.retain(|e| e.id > id);
        Ok(wire::Explanation { meaning: self.rule_meaning(&event.source), event, before, after })
    }

    fn reload(&self) -> Result<wire::Reloaded, Failure> {
        let loaded = load(&self.config_path, &self.layout);
        // New rules may look for groups that nobody looked for before.
        self.prune();
        let mut in_force = self.lock();
        let config = loaded.map_err(|errors| {
            let text = errors.to_string();
            in_force.reload_error = Some(text.clone());
            FailureKind::InvalidConfig.because(format!("the old rules stay in force:\n{text}"))
        })?;
        let former = std::mem::replace(&mut in_force.config, config);
        if let Err(failure) = self.put_in_force(&in_force) {
            in_force.config = former;
            in_force.reload_error = Some(failure.to_string());
            return Err(failure);
        }
        in_force.reload_error = None;
        let config = &in_force.config;
        self.attached.protect(&config.policy.never);
        Ok(wire::Reloaded {
            files: config.files.iter().map(|f| f.display().to_string()).collect(),
            rules: config.policy.rules.len() as u64,
            notes: config.warnings.iter().map(ToString::to_string).collect(),
        })
    }
}

impl Shrinking for Desk {
    fn shrink(&self, group: &GroupFacts, asked: &shrink::Request, by: u32) -> Result<shrink::Job, Failure> {
        if self.runs_dry(&self.lock()) {
            return Err(FailureKind::InvalidShrink.because("the daemon runs dry: it touches nothing"));
        }
        self.jobs.begin(group, asked, by)
    }

    fn shrink_get(&self, id: u64) -> Result<shrink::Job, Failure> {
        self.jobs.get(id)
    }

    fn shrinks(&self) -> Result<Vec<shrink::Job>, Failure> {
        Ok(self.jobs.list())
    }

    fn shrink_cancel(&self, id: u64) -> Result<shrink::Job, Failure> {
        self.jobs.cancel(id)
    }
}

/// The group above.
fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let cut = path.iter().rposition(|&byte| byte == b'/')?;
    Some(if cut == 0 { b"/" } else { &path[..cut] })
}

/// What a process is that no control could ever act on, `own` being the daemon. (The daemon's ancestors are not among them:
/// they are not touched, but their children take their control over.)
fn never_governed(stat: &proc::Stat, own: u32) -> Option<&'static str> {
    match stat {
        _ if stat.pid == 1 => Some("pid 1"),
        _ if stat.pid == own => Some("memgov itself"),
        // The one child the daemon has; the name tells it from orphans where the daemon is the init of a container.
        _ if stat.ppid == own && stat.comm.starts_with(GUARDIAN) => Some("memgov's guardian"),
        _ if stat.kernel_thread => Some("a kernel thread"),
        _ if stat.has_ended() => Some("a zombie"),
        _ => None,
    }
}

/// What the guardian calls itself, as far as the kernel keeps it.
const GUARDIAN: &[u8] = b"memgov-guardian";

/// Reads the configuration, and says what of it cannot have its full effect here.
pub(super) fn load(path: &Path, layout: &Layout) -> Result<Config, ConfigErrors> {
    let config = config::load(path)?;
    let own = layout.own.memory.as_deref().unwrap_or(b"/");
    for rule in config.rules_covering(own) {
        super::say(&format!(
            "memgov: rule `{}` covers memgov's own group {}: memgov itself is never touched",
            rule.name,
            text::printable(own)
        ));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memgov_and_its_guardian_cannot_be_governed() {
        let stat = |line: &str| proc::parse_stat(line.as_bytes()).unwrap();
        let rest = "1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 500 0 0";
        let own = 70;
        let verdict = |pid: u32, comm: &str, ppid: u32| {
            never_governed(&stat(&format!("{pid} ({comm}) S {ppid} {rest}")), own)
        };
        assert_eq!(verdict(1, "init", 0), Some("pid 1"));
        assert_eq!(verdict(70, "memgov", 1), Some("memgov itself"));
        assert_eq!(verdict(71, "memgov-guardian", 70), Some("memgov's guardian"));
        assert_eq!(verdict(72, "memgov-guardian", 1), None, "a name alone protects nobody");
        assert_eq!(verdict(73, "orphan", 70), None);
    }
}
