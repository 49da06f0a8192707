//! The loop of a workload: wait for a command or for the next thing due, do it, say what came of it. After its start it
//! allocates nothing, so it lives on when every allocation is refused.
//!
//! It says `= ...` for an answer, `? ...` for a command that failed (with the errno), and `! ...` for what it noticed.

use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::children::{self, Path};
use super::command::{self, Command};
use super::growth::{Growth, Plan, Step, timed_step};
use super::hoard::{Calls, Hoard};
use super::innocent::Innocent;
use super::net::Net;
use super::pace;
use super::probe::{self, Probe};
use super::read::Read;
use super::text::{Channel, Input, LINE};
use crate::sys::connection::{Connection, Room};
use crate::sys::process::NO_LIMIT;
use crate::sys::{Errno, memory, now, process, signal};

/// Nanoseconds between two rounds of the probe while awaiting.
const PROBE_EVERY: u64 = 1_000_000;
/// Small, because all that is mapped counts when mlockall is asked for.
const THREAD_STACK: usize = 128 << 10;
/// Turns of the spinning loop between two looks at the input.
const SPIN_TURNS: u64 = 20_000;

/// What an agent is doing.
pub struct Agent {
    channel: Channel,
    growth: Growth,
    plan: Option<Plan>,
    next_step: u64,
    probe: Probe,
    awaiting: Option<(bool, u32)>,
    next_round: u64,
    innocent: Option<Innocent>,
    spinning: bool,
    turns: u64,
    linger: u64,
    yield_on: Option<(i32, u32)>,
    hoard: Hoard,
    calls: Option<Calls>,
    cached: Option<std::os::fd::OwnedFd>,
    net: Net,
    connection: Option<Connection>,
}

/// Runs an agent on standard input and output until told to exit or the input ends.
pub fn main(commands: &[String]) -> u8 {
    process::no_huge_pages();
    match Agent::new(Channel::Standard) {
        Ok(mut agent) => {
            agent.greet();
            for command in commands {
                agent.obey(command);
            }
            agent.run();
            0
        }
        Err(errno) => {
            Channel::Standard.say(format_args!("? start {errno}"));
            1
        }
    }
}

impl Agent {
    fn new(channel: Channel) -> Result<Self, Errno> {
        Ok(Self {
            channel,
            growth: Growth::new(),
            plan: None,
            next_step: 0,
            probe: Probe::prepare()?,
            awaiting: None,
            next_round: 0,
            innocent: None,
            spinning: false,
            turns: 0,
            linger: 0,
            yield_on: None,
            hoard: Hoard::default(),
            calls: None,
            cached: None,
            net: Net::default(),
            connection: None,
        })
    }

    fn greet(&self) {
        self.channel.say(format_args!("! ready {} {}", std::process::id(), process::thread_id()));
    }

    fn run(&mut self) {
        let (mut input, mut line) = (Input::new(), [0; LINE]);
        loop {
            if self.wait() && !input.fill(self.channel.input()) {
                return self.linger();
            }
            while let Some(end) = input.next_line(&mut line) {
                match std::str::from_utf8(&line[..end]) {
                    Ok(text) => self.obey(text),
                    Err(_) => self.channel.say(format_args!("? text {}", libc::EILSEQ)),
                }
            }
            self.work();
        }
    }

    /// Goes on with what it does for as long as it was told to, deaf.
    fn linger(&mut self) {
        let end = now() + self.linger;
        while now() < end {
            let due = self.next_due().unwrap_or(end).min(end);
            let nap = due.saturating_sub(now());
            std::thread::sleep(std::time::Duration::from_nanos(nap));
            self.work();
        }
    }

    /// Waits for input until something is due; says whether there is input (or its end).
    fn wait(&self) -> bool {
        let due = self.next_due().map(|due| due.saturating_sub(now()));
        let timeout = due.map(|nanos| Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
        });
        let mut watched = [PollFd::from_borrowed_fd(self.channel.input(), PollFlags::IN)];
        poll(&mut watched, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    fn next_due(&self) -> Option<u64> {
        let spin = self.spinning.then_some(0);
        let step = self.plan.map(|_| self.next_step);
        let round = self.awaiting.map(|_| self.next_round);
        let innocent = self.innocent.as_ref().map(Innocent::due);
        [spin, step, round, innocent].into_iter().flatten().min()
    }

    fn work(&mut self) {
        if self.spinning {
            self.turns = (0..SPIN_TURNS).fold(self.turns, |turns, _| std::hint::black_box(turns) + 1);
        }
        if let Some(plan) = self.plan
            && now() >= self.next_step
        {
            self.grow(&plan);
        }
        if let Some((refused, mask)) = self.awaiting
            && now() >= self.next_round
        {
            self.look(refused, mask);
        }
        if let Some((number, seen)) = self.yield_on
            && signal::counted(number) != seen
        {
            self.give_way(number);
        }
        if let Some(innocent) = &mut self.innocent
            && now() >= innocent.due()
        {
            innocent.work();
        }
    }

    fn grow(&mut self, plan: &Plan) {
        let (begin, step) = timed_step(&mut self.growth, plan);
        let held = self.growth.held();
        let end = now();
        self.next_step = end + plan.interval;
        match step {
            Step::Taken | Step::StillRefused => {}
            Step::Resumed => self.channel.say(format_args!("! resumed {end} {held}")),
            Step::Refused(errno) => self.channel.say(format_args!("! refused {end} {held} {errno}")),
            Step::Full => {
                self.plan = None;
                self.channel.say(format_args!("! full {end} {held}"));
            }
        }
        if let Some(usage) = self.growth.crossing() {
            self.channel.say(format_args!("! crossed {begin} {usage} {held}"));
        }
    }

    /// What a program that wants to live does when it is told that it is too large.
    fn give_way(&mut self, number: i32) {
        (self.plan, self.yield_on) = (None, Some((number, signal::counted(number))));
        let held = self.growth.held();
        match self.growth.shrink(0) {
            Ok(()) => self.channel.say(format_args!("! yielded {} {held}", now())),
            Err(errno) => self.channel.say(format_args!("? yield {errno}")),
        }
    }

    fn look(&mut self, refused: bool, mask: u32) {
        self.next_round = now() + PROBE_EVERY;
        if refused && !self.probe.is_refused() {
            return;
        }
        let results = self.probe.round();
        if results.all(mask, if refused { libc::ENOMEM } else { 0 }) {
            self.awaiting = None;
            let state = if refused { "all-refused" } else { "all-allowed" };
            self.channel.say(format_args!("! {state} {results}"));
        }
    }

    fn obey(&mut self, line: &str) {
        let Some(command) = command::parse(line) else {
            return self.channel.say(format_args!("? parse {}", libc::EINVAL));
        };
        if let Err(errno) = self.perform(command) {
            self.channel.say(format_args!("? {line} {errno}"));
        }
    }

    fn answer(&self, text: std::fmt::Arguments<'_>) -> Result<(), Errno> {
        self.channel.say(format_args!("= {text}"));
        Ok(())
    }

    fn done(&self, result: Result<(), Errno>) -> Result<(), Errno> {
        result.and_then(|()| self.answer(format_args!("{}", now())))
    }

    fn perform(&mut self, command: Command<'_>) -> Result<(), Errno> {
        match command {
            Command::Grow(plan) => (self.plan, self.next_step) = (Some(plan), 0),
            Command::Stop => self.plan = None,
            Command::Await { refused, mask } => (self.awaiting, self.next_round) = (Some((refused, mask)), 0),
            Command::YieldOn(number) => {
                signal::count_signal(number)?;
                self.yield_on = Some((number, signal::counted(number)));
            }
            Command::Linger(seconds) => self.linger = u64::from(seconds) * 1_000_000_000,
            Command::Spin(on) => self.spinning = on,
            Command::Innocent(interval) => self.innocent = Some(Innocent::new(interval)),
            Command::Watch(path, line) => self.growth.watch(open(path, libc::O_RDONLY)?, line),
            Command::File(path) => self.growth.use_file(open(path, libc::O_RDWR | libc::O_CREAT)?),
            Command::Shrink(upto) => return self.shrink(upto),
            Command::Hammer(plan, rounds) => return self.hammer(&plan, rounds),
            Command::Swarm(count, plan) => {
                let started = children::swarm(count, &plan, &mut self.growth)?;
                return self.answer(format_args!("{started}"));
            }
            Command::Probe => {
                let results = self.probe.round();
                return self.answer(format_args!("{results}"));
            }
            Command::AskByHelper(group, bytes) => {
                let (group, bytes) =
                    (open(group, libc::O_WRONLY)?, usize::try_from(bytes).map_err(|_| libc::EINVAL)?);
                return self.answer(format_args!("{}", memory::map_by_helper(group.as_raw_fd(), bytes)?));
            }
            Command::AskMuch(bytes) => {
                let errnos = probe::ask_much(usize::try_from(bytes).map_err(|_| libc::EINVAL)?);
                return self.answer(format_args!("{}", probe::Spaced(&errnos)));
            }
            Command::Read(what) => return self.read(&what),
            Command::Connect => self.connection = Some(Connection::new()?),
            Command::Talk(millis) => return self.talk(millis),
            Command::Room => return self.room(),
            Command::Fork(input, output) => return self.fork(None, input, output),
            Command::ForkInto(group, input, output) => return self.fork(Some(group), input, output),
            Command::Thread(input, output) => return self.thread(input, output),
            other => return self.about_kernel_memory(other),
        }
        self.done(Ok(()))
    }

    fn about_kernel_memory(&mut self, command: Command<'_>) -> Result<(), Errno> {
        match command {
            Command::Prepare(kind, count) => self.hoard.prepare(kind, count)?,
            Command::Hoard(kind, count) => {
                let (taken, errno) = self.hoard.take(kind, count);
                return self.answer(format_args!("{taken} {errno}"));
            }
            Command::LetGo => self.hoard.let_go()?,
            Command::PrepareCalls => self.calls = Some(Calls::prepare()?),
            Command::KernelCalls => {
                let calls = self.calls.as_ref().ok_or(libc::ESRCH)?;
                return self.answer(format_args!("{calls}"));
            }
            Command::GiveBack => {
                let calls = self.calls.as_ref().ok_or(libc::ESRCH)?;
                return self.answer(format_args!("{}", calls.give_back()));
            }
            other => return self.about_sockets(other),
        }
        self.done(Ok(()))
    }

    fn about_sockets(&mut self, command: Command<'_>) -> Result<(), Errno> {
        match command {
            Command::Flood(connections, most) => self.net.flood(connections, most)?,
            Command::Bounds => {
                let (locked, unsent) = crate::sys::net::bounded();
                return self.answer(format_args!("{locked} {unsent}"));
            }
            Command::Flooded => return self.answer(format_args!("{}", self.net.flooded())),
            Command::FloodEnd => self.net.end_flood(),
            Command::Serve(rest) => {
                return self.answer(format_args!("{}", Net::serve(Duration::from_millis(rest))?));
            }
            Command::Fetch(port) => self.net.fetch(port)?,
            Command::Fetched => {
                let (bytes, wrong) = self.net.fetched();
                return self.answer(format_args!("{bytes} {wrong} {}", now()));
            }
            Command::FetchEnd => self.net.end_fetch(),
            Command::Keep { buffers, unsent, bytes } => self.net.keep(buffers, unsent, bytes)?,
            Command::Datagrams(count, bytes) => self.net.datagrams(count, bytes)?,
            other => return self.about_itself(other),
        }
        self.done(Ok(()))
    }

    /// Answers how many nanoseconds it took.
    fn read(&mut self, what: &Read<'_>) -> Result<(), Errno> {
        let begin = now();
        self.cached = Some(what.run()?);
        self.answer(format_args!("{}", now() - begin))
    }

    fn talk(&mut self, millis: u64) -> Result<(), Errno> {
        let (begin, time) = (now(), millis.saturating_mul(1_000_000));
        let connection = self.connection.as_mut().ok_or(libc::ENOTCONN)?;
        let through = connection.talk(|| now() - begin >= time)?;
        self.answer(format_args!("{through}"))
    }

    fn room(&self) -> Result<(), Errno> {
        let Room { buffers, clamps, threshold } = self.connection.as_ref().ok_or(libc::ENOTCONN)?.room()?;
        let ([to, from], [clamp, other]) = (buffers, clamps);
        self.answer(format_args!("{to} {from} {clamp} {other} {threshold}"))
    }

    /// Memory that is given back is gone before the answer; growth stops with it.
    fn shrink(&mut self, upto: u64) -> Result<(), Errno> {
        self.plan = None;
        let shrunk = self.growth.shrink(upto);
        self.done(shrunk)
    }

    /// Answers how many rounds ended refused and how many full, and the most that was held.
    fn hammer(&mut self, plan: &Plan, rounds: u64) -> Result<(), Errno> {
        let (mut refused, mut full, mut most) = (0u64, 0u64, 0);
        for _ in 0..rounds {
            loop {
                match self.growth.step(plan) {
                    Step::Taken | Step::Resumed => continue,
                    Step::Refused(_) | Step::StillRefused => refused += 1,
                    Step::Full => full += 1,
                }
                break;
            }
            most = most.max(self.growth.held());
            self.growth.shrink(0)?;
        }
        self.answer(format_args!("{refused} {full} {most}"))
    }

    fn about_itself(&self, command: Command<'_>) -> Result<(), Errno> {
        match command {
            Command::Pace(call, calls, batches) => {
                let (least, median) = pace::measure(call, calls, batches)?;
                self.answer(format_args!("{least} {median}"))
            }
            Command::Held => self.answer(format_args!("{} {}", self.growth.held(), now())),
            Command::Usage => self.answer(format_args!("{}", self.growth.usage().ok_or(libc::ENOENT)?)),
            Command::Progress => self.answer(format_args!("{} {}", self.turns, now())),
            Command::Figures => {
                let [pieces, failures, p50, p99, max] = self.innocent.as_ref().ok_or(libc::ESRCH)?.figures();
                self.answer(format_args!("{pieces} {failures} {p50} {p99} {max}"))
            }
            Command::Brood(count, bytes) => self.answer(format_args!("{}", children::brood(count, bytes)?)),
            Command::Spawn(count) => self.answer(format_args!("{}", children::spawn(count)?)),
            Command::Counted(number) => self.answer(format_args!("{}", signal::counted(number))),
            Command::Reap(pid) => self.answer(format_args!("{}", process::wait(pid, 0)?.unwrap_or(0))),
            Command::Prctl(numbers) => {
                let (value, errno) = match process::prctl(numbers) {
                    Ok(value) => (value, 0),
                    Err(errno) => (0, errno),
                };
                self.answer(format_args!("{value} {errno}"))
            }
            Command::Jobs => self.answer(format_args!("{}", signal::job_control_notices())),
            Command::Groups => self.memory_group(),
            Command::Help => command::HELP.lines().try_for_each(|line| self.answer(format_args!("{line}"))),
            other => self.done(change_itself(other)),
        }
    }

    /// Its path in the memory hierarchy.
    fn memory_group(&self) -> Result<(), Errno> {
        let (file, mut text) = (open("/proc/self/cgroup", libc::O_RDONLY)?, [0; 4096]);
        let count = rustix::io::read(&file, &mut text).map_err(rustix::io::Errno::raw_os_error)?;
        let text = std::str::from_utf8(&text[..count]).map_err(|_| libc::EILSEQ)?;
        let line = |wanted: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':')?.1.split_once(':'))
                .find(|(name, _)| *name == wanted)
        };
        let path = line("memory").or_else(|| line("")).ok_or(libc::ENOENT)?.1;
        self.answer(format_args!("{path}"))
    }

    /// The child keeps what is held, and nothing of what its parent was doing.
    fn fork(&mut self, group: Option<&str>, input: &str, output: &str) -> Result<(), Errno> {
        let (input, output) =
            (Path::new(input).ok_or(libc::ENAMETOOLONG)?, Path::new(output).ok_or(libc::ENAMETOOLONG)?);
        let child = match group {
            None => process::fork()?,
            Some(group) => process::fork_into(&open(group, libc::O_RDONLY | libc::O_DIRECTORY)?)?,
        };
        if child != 0 {
            return self.answer(format_args!("{child} {}", now()));
        }
        let adopted = children::open_channel(&input, &output).and_then(|channel| children::adopt(&channel));
        if let Err(errno) = adopted {
            process::exit_now(errno);
        }
        self.channel = Channel::Standard;
        (self.plan, self.awaiting, self.innocent, self.spinning) = (None, None, None, false);
        self.greet();
        self.run();
        process::exit_now(0)
    }

    fn thread(&self, input: &str, output: &str) -> Result<(), Errno> {
        let (input, output) =
            (Path::new(input).ok_or(libc::ENAMETOOLONG)?, Path::new(output).ok_or(libc::ENAMETOOLONG)?);
        let body = move || {
            let Ok(channel) = children::open_channel(&input, &output) else { return };
            if let Ok(mut agent) = Self::new(channel) {
                agent.greet();
                agent.run();
            }
        };
        let started = std::thread::Builder::new().stack_size(THREAD_STACK).spawn(body);
        self.done(started.map(|_| ()).map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN)))
    }
}

fn open(path: &str, flags: i32) -> Result<std::os::fd::OwnedFd, Errno> {
    process::open(Path::new(path).ok_or(libc::ENAMETOOLONG)?.as_c(), flags)
}

/// Commands that change the process as a whole and need nothing of the agent.
fn change_itself(command: Command<'_>) -> Result<(), Errno> {
    match command {
        Command::Count(number) => signal::count_signal(number),
        Command::Block(number, on) => signal::block(number, on),
        Command::Ignore(number) => signal::ignore(number),
        Command::Exec => Err(process::exec_agent()),
        Command::ExecFile(path) => Err(process::exec(Path::new(path).ok_or(libc::ENAMETOOLONG)?.as_c())),
        Command::Name(name) => {
            process::set_name(Path::new(name).ok_or(libc::ENAMETOOLONG)?.as_c());
            Ok(())
        }
        Command::Become(user) => process::set_ids(user),
        Command::DropIpcLock => process::drop_ipc_lock(),
        Command::MemlockMax => {
            let (_, hard) = process::limits(0, process::Resource::MemLock)?;
            process::set_limits(0, process::Resource::MemLock, (NO_LIMIT, NO_LIMIT))
                .or_else(|_| process::set_limits(0, process::Resource::MemLock, (hard, hard)))
        }
        Command::Limit(resource, pair) => process::set_limits(0, resource, pair),
        Command::WorkIn(path) => {
            let path = Path::new(path).ok_or(libc::ENAMETOOLONG)?;
            rustix::process::chdir(path.as_c()).map_err(rustix::io::Errno::raw_os_error)
        }
        Command::ForkBomb => crate::sys::hoard::fork_bomb(),
        Command::Leave => process::exit_thread(),
        Command::Exit(code) => process::exit_now(code),
        _ => Err(libc::EINVAL),
    }
}
