//! What is said about memgov itself: where it keeps its state, how much room it has, how fast it looks.

use std::path::PathBuf;
use std::time::Duration;

use memgov_decide::policy::{KillBudget, Pace};

use super::error::{At, Findings};
use super::text::SettingsText;
use super::words;

/// Where state and socket live unless said otherwise.
pub const STATE_DIR: &str = "/run/memgov";

/// Where enforcement is done. A rule means the same in both tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Inside the kernel where this kernel and these privileges allow it, else portable
    Auto,
    /// By limits, signals and the freezer only
    #[default]
    Portable,
    /// Inside the kernel, and do not start without
    Bpf,
}

impl Tier {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Portable => "portable",
            Self::Bpf => "bpf",
        }
    }
}

/// Instead of a path: nowhere.
const OFF: &str = "off";

/// The part of `[memgov]` that is not policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Holds the ledger and, unless `socket` says otherwise, the control socket.
    pub state_dir: PathBuf,
    /// The control socket, if it is not `control.sock` in `state_dir`.
    pub socket: Option<PathBuf>,
    /// Decide and record, touch nothing.
    pub dry_run: bool,
    /// Rows for groups.
    pub max_groups: u32,
    /// Rows for processes.
    pub max_processes: u32,
    /// The guardian undoes everything when the daemon has not moved for so long.
    pub lease: Duration,
    /// Write a trace here.
    pub trace: Option<PathBuf>,
    /// Where enforcement is done.
    pub tier: Tier,
    /// Where the letters' files are mounted.
    pub files: Files,
}

/// Where the letters' files are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// In the state directory.
    #[default]
    InStateDir,
    /// Here.
    At(PathBuf),
    /// Nowhere.
    Off,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: STATE_DIR.into(),
            socket: None,
            dry_run: false,
            max_groups: 2048,
            max_processes: 4096,
            lease: Duration::from_secs(10),
            trace: None,
            tier: Tier::Portable,
            files: Files::default(),
        }
    }
}

/// Puts what one file says over what was said before: a drop-in changes single keys.
pub(crate) fn apply(
    text: &SettingsText,
    settings: &mut Settings,
    pace: &mut Pace,
    kills: &mut KillBudget,
    findings: &mut Findings<'_>,
) {
    path(text.state_dir.as_ref(), findings, &mut |p| settings.state_dir = p);
    path(text.socket.as_ref(), findings, &mut |p| settings.socket = Some(p));
    path(text.trace.as_ref(), findings, &mut |p| settings.trace = Some(p));
    if let Some(typed) = &text.tier {
        match [Tier::Auto, Tier::Portable, Tier::Bpf].into_iter().find(|tier| tier.name() == typed.it) {
            Some(tier) => settings.tier = tier,
            None => {
                let known = [Tier::Auto, Tier::Portable, Tier::Bpf].map(Tier::name);
                findings.error(typed.at, super::text::none_of("tier", &typed.it, &known, &[]));
            }
        }
    }
    match text.files.as_ref() {
        Some(word) if word.it == OFF => settings.files = Files::Off,
        word => path(word, findings, &mut |p| settings.files = Files::At(p)),
    }
    if let Some(At { it, .. }) = text.dry_run {
        settings.dry_run = it;
    }
    count(text.max_groups.as_ref(), 16..=1 << 20, findings, &mut settings.max_groups);
    count(text.max_processes.as_ref(), 16..=1 << 22, findings, &mut settings.max_processes);
    count(text.kills_count.as_ref(), 1..=1 << 20, findings, &mut kills.count);
    time(text.kills_window.as_ref(), findings, &mut kills.window);
    time(text.fastest.as_ref(), findings, &mut pace.fastest);
    time(text.slowest.as_ref(), findings, &mut pace.slowest);
    time(text.lease.as_ref(), findings, &mut settings.lease);
    if let Some(at) = text.lease.as_ref().filter(|_| settings.lease < Duration::from_secs(1)) {
        findings.error(at.at, "a lease under 1s would take a busy daemon for a dead one");
    }
    if let Some(at) = text.fastest.as_ref().filter(|_| pace.fastest < Duration::from_millis(1)) {
        findings.error(at.at, "looking more often than every 1ms costs more than it sees");
    }
    if let Some(at) = text.slowest.as_ref().or(text.fastest.as_ref())
        && pace.slowest < pace.fastest
    {
        let (slowest, fastest) = (words::duration_text(pace.slowest), words::duration_text(pace.fastest));
        findings.error(at.at, format!("`slowest` ({slowest}) is less than `fastest` ({fastest})"));
    }
}

fn path(typed: Option<&At<String>>, findings: &mut Findings<'_>, set: &mut dyn FnMut(PathBuf)) {
    match typed {
        Some(word) if word.it.starts_with('/') && !word.it.contains('\0') => set(PathBuf::from(&word.it)),
        Some(word) => {
            findings.error(word.at, "must be an absolute path: the daemon has no working directory")
        }
        None => {}
    }
}

fn count(
    typed: Option<&At<i64>>,
    range: std::ops::RangeInclusive<u32>,
    findings: &mut Findings<'_>,
    into: &mut u32,
) {
    let Some(typed) = typed else { return };
    match u32::try_from(typed.it).ok().filter(|n| range.contains(n)) {
        Some(n) => *into = n,
        None => {
            findings.error(typed.at, format!("must be from {} to {}", range.start(), range.end()));
        }
    }
}

fn time(typed: Option<&At<String>>, findings: &mut Findings<'_>, into: &mut Duration) {
    if let Some(typed) = typed
        && let Some(time) = findings.check(typed.at, words::span(&typed.it))
    {
        *into = time;
    }
}
