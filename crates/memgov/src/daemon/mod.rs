//! The daemon: starts everything, runs the loop, and leaves the system as it was found. The only module that knows all
//! four steps.

mod announce;
mod answers;
mod deaths;
mod desk;
mod examiner;
mod exemptions;
mod files;
mod governing;
mod handling;
mod happenings;
mod inside;
mod jobs;
mod protection;
mod questions;
mod queue;
mod signals;
mod succession;
#[cfg(test)]
mod tests;
mod view;
mod worth;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use memgov_decide::decision::Mechanism;
use memgov_decide::governor::{Bounds, Governor};
use memgov_decide::policy::{Action, Policy, Step};
use memgov_decide::snapshot::{Host, Snapshot};
use memgov_decide::units::Bytes;

use crate::act::{self, Actor, Ledger};
use crate::bpf::{Hook, Hooks};
use crate::config::Config;
use crate::kernel::capabilities::{OtherKiller, others};
use crate::kernel::{Layout, MemoryVersion, proc, sys};
use crate::observe::{Observer, Own};
use crate::record::trace::Tape;
use crate::record::{Journal, journal, text};
use crate::serve::{self, Governed, wire};
use crate::terminal;
use desk::{Desk, InForce};
use governing::{Buffers, Counts, Governing};
use queue::{Asker, Request};
use succession::Succession;

/// Name of the ledger in the state directory.
pub const LEDGER: &str = "ledger";
/// Name of the control socket in the state directory.
pub const SOCKET: &str = "control.sock";
/// Name of the journal in the state directory.
pub const JOURNAL: &str = "events.jsonl";

/// What the command line says; it outweighs the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Where ledger, journal and socket are.
    pub state_dir: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// Decide and record, touch nothing.
    pub dry_run: bool,
    /// Write a trace here.
    pub trace: Option<PathBuf>,
    /// Where enforcement is done.
    pub tier: Option<crate::config::Tier>,
    /// Where the letters' files are mounted.
    pub files: Option<crate::config::Files>,
}

/// How long shrinks are waited for at the end. They end with the process in any case, and whatever limit one has lowered the guardian raises.
const SHRINKS_END: Duration = Duration::from_secs(5);

/// A line on stderr, which is the system journal under systemd. A closed stderr ends nothing.
fn say(line: &str) {
    terminal::complain(line);
}

/// Governs until SIGTERM or SIGINT, then puts everything back.
///
/// # Errors
/// If the configuration is invalid, another daemon holds the state directory, or something needed cannot be had.
pub fn run(options: Options) -> anyhow::Result<()> {
    let layout = Layout::detect(Path::new("/"))?;
    let config = desk::load(&options.config, &layout)?;
    for note in &config.warnings {
        say(&format!("memgov: note: {note}"));
    }
    for OtherKiller { name, pid, does, advice } in others(Path::new("/proc")) {
        say(&format!(
            "memgov: {name} runs (pid {pid}) and {does}: two kill twice for one shortage. To do: {advice}"
        ));
    }
    let dry_run = options.dry_run || config.settings.dry_run;
    let state = options.state_dir.clone().unwrap_or_else(|| config.settings.state_dir.clone());
    make_state_dir(&state)?;
    let (ledger, undone) = open_ledger(&state)?;
    undo_strays(&layout);
    let signals = signals::open()?;
    let socket = options.socket.clone().or_else(|| config.settings.socket.clone());
    let socket = socket.unwrap_or_else(|| state.join(SOCKET));
    let files = options.files.as_ref().unwrap_or(&config.settings.files);
    let files = files::mount_point(files, &state).filter(|_| !dry_run);
    let mut files = files.and_then(|mount| files::Files::begin(mount, socket.clone()));
    let own_group = protection::Protection::put_on(&layout, dry_run);
    // After what memgov does for itself: what the guardian inherits of that it needs as much.
    let succession = Succession::begin(&ledger, config.settings.lease);
    let paths = Paths { state, socket };
    let mut started = Started::new(&options, config, layout, paths, ledger, succession, signals)?;
    started.governing.actor.take_over(&undone);
    if let Some(files) = &mut files {
        files.watch(own_group.home().map(Path::to_owned));
    }
    let result = started.govern();
    started.stop(own_group, files);
    result
}

fn make_state_dir(state: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(state)
        .with_context(|| format!("creating {}", state.display()))
}

fn open_ledger(state: &Path) -> anyhow::Result<(Ledger, Vec<act::Undone>)> {
    let mut undone = Vec::new();
    let (mut ledger, leftovers) = Ledger::open(&state.join(LEDGER))?;
    if let Some(aside) = ledger.set_aside() {
        say(&format!("memgov: {aside}"));
    }
    if !leftovers.is_empty() {
        say(&format!("memgov: undoing {} changes of a run before this one", leftovers.len()));
        undone = ledger.undo(leftovers);
        for undone in &undone {
            say(&format!("memgov: {undone}"));
        }
    }
    Ok((ledger, undone))
}

/// What a ledger told of that is lost.
fn undo_strays(layout: &Layout) {
    let strays = act::strays::find(layout);
    if strays.cut_short {
        say("memgov: too many groups to look through them all for what a lost ledger has left behind");
    }
    for undone in act::ledger::put_back(strays.entries) {
        say(&format!("memgov: in no ledger: {undone}"));
    }
}

/// Where things of this daemon's are.
struct Paths {
    state: PathBuf,
    socket: PathBuf,
}

/// Everything that runs, in the order in which it is ended.
struct Started {
    governing: Governing,
    serving: Option<serve::Serving>,
    ready: String,
    watchdog: Option<Duration>,
    asker: Asker,
    desk: Arc<Desk>,
    succession: Arc<Succession>,
    chores: Option<(SyncSender<Chore>, Receiver<Chore>)>,
}

/// What may block, and is done on a thread of its own.
enum Chore {
    Reload,
    Prune,
    /// Attach the programs that are needed and no others.
    Attach,
    /// The guardian has died.
    Bereaved,
}

impl Started {
    fn new(
        options: &Options,
        config: Config,
        layout: Layout,
        Paths { state, socket }: Paths,
        ledger: Ledger,
        succession: Succession,
        signals: rustix::fd::OwnedFd,
    ) -> anyhow::Result<Self> {
        let settings = config.settings.clone();
        let dry_run = options.dry_run || settings.dry_run;
        let bounds = Bounds {
            groups: settings.max_groups,
            processes: settings.max_processes,
            controls: settings.max_processes,
            ..Bounds::default()
        };
        let mut snap = Snapshot::with_capacity(bounds.groups, bounds.processes);
        snap.host = host();
        let sentry = succession.sentry();
        let guardian = sentry.as_ref().map(|sentry| sentry.pid);
        let mut observer = Observer::new(layout.clone(), own(guardian), bounds.groups, bounds.processes)?;
        let mut actor =
            Actor::new(&layout, ledger, act_options(&config.policy, &settings, dry_run, guardian))?;
        let ready = rehearse(&mut actor, &layout, dry_run);
        let tier = options.tier.unwrap_or(settings.tier);
        let (inside, events, attached) =
            inside::load(tier, &settings, &config.policy.never, &own(guardian).pids, dry_run)?;
        if let Some(events) = &events {
            observer.also_wait_for(events.fd(), governing::INSIDE)?;
            inside::read_in_one_pass(&mut observer, settings.max_groups);
        }
        let ready = format!("{ready}; tier {}", attached.status(dry_run).name);
        actor.enforce_inside(inside);
        if let Some(heart) = succession.heart() {
            actor.beat(heart);
        }
        let attached = Arc::new(attached);
        // A number names one decision in all that is kept, also after a restart.
        let next = journal::numbers_after(&state.join(JOURNAL));
        let rule_names = config.policy.rules.iter().map(|r| r.name.as_str().into()).collect();
        let governor = Governor::new(config.policy.clone(), bounds).counting_from(next);
        let buffers = Buffers::new(&bounds);
        // What the rules need, before anything is said to be ready; later the chores thread does it.
        let stood = governor.stands_version();
        if let Some(inside) = actor.inside() {
            inside.renew(sys::now());
            inside.in_force(attached.require(inside::hooks(governor.stands())));
        }
        // From here on other threads are started.
        let locked = protection::Locked::settle();
        let tape = match options.trace.as_ref().or(settings.trace.as_ref()) {
            Some(path) => Tape::create(path, &snap.host, next)?,
            None => Tape::default(),
        };
        let (journal, recorder) = Journal::start(Some(state.join(JOURNAL)), snap.host.page)
            .context("starting the recording thread")?;
        let (asker, requests, request_bell) = queue::queue()?;
        observer.also_wait_for(rustix::fd::AsFd::as_fd(&*request_bell), governing::REQUESTS)?;
        observer.also_wait_for(rustix::fd::AsFd::as_fd(&signals), governing::SIGNALS)?;
        let for_reclaim = asker.clone();
        actor.reclaim_by(Box::new(move || Box::new(jobs::LoopBook(for_reclaim.clone()))));
        if !dry_run && reclaims(&config.policy) {
            actor.reclaim_ready();
        }
        if let Some(outputs) = recorder.findings() {
            actor.tell_output_by(Arc::new(move |id, output| {
                // Nobody records any more: memgov ends.
                let _ = outputs.written(id.0, &output);
            }));
        }
        actor.plan(governor.policy());
        actor.count_sockets(governor.policy().asks_for_sockets());
        actor.squeeze_ready(governor.policy().squeezes(), governor.policy().never.clone());
        let counts = Arc::new(Counts::default());
        let (chores, todo) = sync_channel(4);
        let (reload, prune) = (chores.clone(), chores.clone());
        let (attach, bereave) = (chores.clone(), chores.clone());
        let hierarchy = layout.clone();
        let desk = Arc::new(Desk {
            asker: asker.clone(),
            journal: Arc::clone(&journal),
            layout,
            attached,
            config_path: options.config.clone(),
            dry_run: options.dry_run,
            counts: Arc::clone(&counts),
            started: sys::now(),
            in_force: Mutex::new(InForce {
                config,
                group_rules: Vec::new(),
                set_jobs: Vec::new(),
                reload_error: None,
            }),
            clients_lost: OnceLock::new(),
            jobs: jobs::Jobs::new(hierarchy.clone(), asker.clone()),
            handlers: actor.handlers(),
        });
        let serving = serve::start(&socket, Arc::clone(&desk) as Arc<dyn Governed>, serve::Limits::default())
            .with_context(|| format!("listening on {}", socket.display()))?;
        let waker = serving.waker();
        // There is one serving thread, so this is set once.
        let _ = desk.clients_lost.set(Box::new(serving.losses()));
        journal.find_groups_by(Box::new(move |id| crate::kernel::cgroup::find(&hierarchy, id)));
        let for_handlers = waker.clone();
        desk.handlers.ring_by(Box::new(move || for_handlers.wake()));
        journal.on_news(Box::new(move || waker.wake()));
        announce::start(&journal);
        if let Some(findings) = recorder.findings() {
            examiner::start(&desk, findings);
        }
        let mut governing = Governing {
            snap,
            governor,
            observer,
            actor,
            recorder,
            tape,
            heart: succession.heart(),
            guardian: None,
            requests,
            request_bell,
            signals,
            reload: Box::new(move || {
                // One is enough: a second before the first is done would read the same files.
                let _ = reload.try_send(Chore::Reload);
            }),
            prune: Box::new(move || {
                // None lost that matters: the next group that goes asks again, and so does the next rule that is set.
                let _ = prune.try_send(Chore::Prune);
            }),
            attach: Box::new(move || attach.try_send(Chore::Attach).is_ok()),
            events,
            heard: Vec::with_capacity(governing::HEARD),
            deaf_until: None,
            other_rules: false,
            elsewhere: memgov_decide::governor::Elsewhere::No,
            happenings: happenings::Happenings::default(),
            stood,
            bereave: Box::new(move || bereave.try_send(Chore::Bereaved).is_ok()),
            rule_names,
            counts,
            lease: settings.lease,
            locked,
            buffers,
        };
        if let Some(sentry) = sentry {
            governing.post(sentry);
        }
        Ok(Self {
            governing,
            serving: Some(serving),
            ready,
            watchdog: sd_notify::watchdog_enabled(),
            asker,
            desk,
            succession: Arc::new(succession),
            chores: Some((chores, todo)),
        })
    }

    fn govern(&mut self) -> anyhow::Result<()> {
        let Governing { observer, snap, governor, tape, .. } = &mut self.governing;
        snap.advance(sys::now());
        snap.ticks = Some(sys::boot_ticks());
        tape.tick(snap.at, snap.ticks);
        observer.scan(snap, governor, tape);
        if let Some((_, todo)) = self.chores.take() {
            let (desk, succession) = (Arc::clone(&self.desk), Arc::clone(&self.succession));
            std::thread::Builder::new()
                .name("memgov-chores".into())
                .spawn(move || chores(&todo, &desk, &succession))
                .context("starting the chores thread")?;
        }
        if let Some(interval) = self.watchdog {
            watch(self.asker.clone(), interval)?;
        }
        let rules = self.governing.governor.policy().rules.len();
        say(&format!("memgov: ready ({rules} rules; {})", self.ready));
        // Not started by systemd: nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        protection::Protection::go_ahead();
        self.governing.run()?;
        Ok(())
    }

    /// Shrinks are called off, and what they ask the loop for meanwhile is answered.
    fn end_shrinks(&mut self) {
        self.desk.jobs.stop();
        self.governing.actor.end_threads();
        let until = sys::now() + SHRINKS_END;
        while (self.desk.jobs.busy() || !self.governing.actor.threads_ended()) && sys::now() < until {
            if !self.governing.answer() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    /// Gives everything back: first what is held, then the doors, then memgov's own protection.
    fn stop(mut self, protection: protection::Protection, files: Option<files::Files>) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if let Some(files) = &files {
            files.dismiss();
        }
        self.end_shrinks();
        // How programs of hooks were ended.
        self.governing.reap(sys::now());
        let released = self.governing.actor.release_all();
        if released.failed > 0 {
            say(&format!(
                "memgov: {} changes could not be undone; `memgov restore` tries again",
                released.failed
            ));
        }
        self.serving.take();
        // What could not be undone here the guardian tries once more, when memgov is gone.
        if released.failed == 0 {
            self.succession.end();
        }
        if let Some(files) = files {
            files.wait_gone();
        }
        // After the guardian, which may be in memgov's own group too.
        protection.take_off();
        say(&format!("memgov: stopped, {} released", released.count));
    }
}

/// Whether some rule asks for reclaim, or for what may have to be reclaimed to be had back.
fn reclaims(policy: &Policy) -> bool {
    let asks = |step: &Step| matches!(step.action, Action::Reclaim(_) | Action::Lend(_));
    policy.rules.iter().flat_map(|rule| &rule.steps).any(asks)
}

/// What this host calls itself.
fn host() -> Host {
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok().map(Bytes::kib)
    });
    Host { page: Bytes(sys::page_size()), cpus: sys::cpus(), memory }
}

/// memgov, its guardian and everything it was started from.
fn own(guardian: Option<u32>) -> Own {
    let mut pids = Vec::new();
    let mut buffer = [0; proc::STAT_BUFFER];
    let mut pid = std::process::id();
    while pid > 0 && !pids.contains(&pid) {
        pids.push(pid);
        pid = proc::read_stat(pid, &mut buffer).map_or(0, |stat| stat.ppid);
    }
    Own { pids, guardian }
}

fn act_options(
    policy: &Policy,
    settings: &crate::config::Settings,
    dry_run: bool,
    guardian: Option<u32>,
) -> act::Options {
    act::Options {
        dry_run,
        max_processes: settings.max_processes,
        never: policy.never.clone(),
        guardian,
        ..act::Options::default()
    }
}

/// Runs the fatal path once while nothing is at stake, and says what works.
fn rehearse(actor: &mut Actor, layout: &Layout, dry_run: bool) -> String {
    let memory = match layout.version {
        MemoryVersion::V1 => "memory on cgroup v1",
        MemoryVersion::V2 => "memory on cgroup v2",
    };
    if dry_run {
        return format!("{memory}; dry run: nothing is touched");
    }
    let findings = actor.rehearse();
    for finding in findings.iter().filter(|f| f.result.is_err()) {
        say(&format!("memgov: rehearsal: {finding}"));
    }
    let works = findings.iter().filter(|f| f.result.is_ok()).count();
    format!("{memory}; rehearsal: {works} of {} work", findings.len())
}

/// How each action is carried out on a host laid out like this, with these programs in the kernel: what comes first does it wherever it can.
fn mechanisms(layout: &Layout, inside: Hooks) -> Vec<wire::Mechanism> {
    let deny = match inside.has(Hook::Deny) {
        // Whatever locks memory is refused from outside all the same.
        true => vec![Mechanism::Bpf, Mechanism::Rlimit],
        false => vec![Mechanism::Rlimit],
    };
    let sends = inside.has(Hook::Rss) || inside.has(Hook::Charge);
    let signal = || sends.then_some(Mechanism::Bpf).into_iter();
    let slow = match (layout.version, &layout.freezer, &layout.unified) {
        (MemoryVersion::V2, ..) => vec![Mechanism::CgroupFreeze, Mechanism::HoldGroup],
        (MemoryVersion::V1, Some(_), _) => vec![Mechanism::V1Freezer],
        (MemoryVersion::V1, None, Some(_)) => vec![Mechanism::HoldGroup],
        (MemoryVersion::V1, None, None) => vec![Mechanism::Sigstop],
    };
    let kill = match layout.version {
        MemoryVersion::V2 => vec![Mechanism::CgroupKill, Mechanism::Pidfd],
        MemoryVersion::V1 => vec![Mechanism::Pidfd],
    };
    let words = |by: Vec<Mechanism>| by.into_iter().map(text::mechanism).collect::<Vec<_>>().join(", ");
    let by_signal = signal().chain([Mechanism::Pidfd]).collect();
    let kill = signal().chain(kill).collect();
    let reclaim = vec![Actor::reclaims_by(layout)];
    let lend = vec![Mechanism::RaisedLimit];
    let all = [("deny", deny), ("slow", slow), ("reclaim", reclaim), ("lend", lend)];
    all.into_iter()
        .chain([("signal", by_signal), ("kill", kill)])
        .map(|(action, by)| wire::Mechanism { action: action.into(), by: words(by) })
        .collect()
}

/// Does what may block, one at a time, until nobody is left to ask for it.
fn chores(todo: &Receiver<Chore>, desk: &Desk, succession: &Succession) {
    let age = if desk.attached.is_there() { exemptions::AGE } else { Duration::MAX };
    loop {
        let chore = match todo.recv_timeout(age) {
            Ok(chore) => chore,
            Err(RecvTimeoutError::Timeout) => {
                desk.follow_executables();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match chore {
            Chore::Reload => match desk.reload() {
                Ok(reloaded) => say(&format!("memgov: reloaded, {} rules in force", reloaded.rules)),
                Err(failure) => say(&format!("memgov: reload refused, {failure}")),
            },
            Chore::Prune => desk.prune(),
            Chore::Attach => desk.attach(),
            Chore::Bereaved => succession.replace(&desk.asker),
        }
    }
}

/// Keeps systemd's watchdog content for as long as the loop answers.
fn watch(asker: Asker, interval: Duration) -> anyhow::Result<()> {
    let pet = move || loop {
        std::thread::sleep(interval / 3);
        if asker.ask(|reply| Request::Ping { reply }).is_ok() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    };
    if interval < Duration::from_millis(30) {
        bail!("WatchdogSec={interval:?} is too short to be kept");
    }
    std::thread::Builder::new()
        .name("memgov-watchdog".into())
        .spawn(pet)
        .context("starting the watchdog thread")?;
    Ok(())
}
