//! The commands of the protocol. Parsing allocates nothing and keeps nothing: an agent under ENOMEM still understands.

use super::growth::{Kind, Plan};
use super::hoard;
use super::pace::Call;
use super::read::Read;
use crate::sys::process::{NO_LIMIT, Resource};

/// What `help` prints.
pub const HELP: &str = "\
grow KIND STEP INTERVAL_US UPTO | stop | shrink BYTES | free | hammer KIND STEP UPTO ROUNDS | pace CALL CALLS BATCHES | held | usage | watch FILE LINE | file PATH | cache|use PATH OFFSET BYTES [BYTES_A_SECOND] | connect | talk MILLIS | room
probe | ask-much BYTES | ask-by-helper GROUP BYTES | await refused|allowed [MASK] | spin | idle | progress | innocent INTERVAL_US | figures
count SIGNAL | yield-on SIGNAL | counted SIGNAL | block SIGNAL | unblock SIGNAL | ignore SIGNAL | jobs
fork IN OUT | fork-into GROUP IN OUT | brood COUNT BYTES | swarm COUNT KIND STEP INTERVAL_US UPTO | spawn COUNT | thread IN OUT | exec | exec-file PATH | prctl OPTION A B C D | reap PID | groups | name COMM | become UID | drop-ipc-lock | memlock-max
flood CONNECTIONS [BYTES_A_ROUND] | bounds | flooded | flood-end | serve | fetch PORT | fetched | fetch-end | keep RCVBUF SNDBUF UNSENT BYTES | datagrams COUNT BYTES
work-in PATH | prepare HOARD COUNT | hoard HOARD COUNT | let-go | kernel-calls-prepare | kernel-calls | give-back | fork-bomb
limit as|data|memlock SOFT|inf HARD|inf | linger SECONDS | leave | exit CODE";

/// One command.
pub enum Command<'a> {
    /// Start taking memory.
    Grow(Plan),
    /// So many times: take at full speed until refused or full, and give everything back.
    Hammer(Plan, u64),
    /// How long a call takes: so many, in so many batches.
    Pace(Call, u64, usize),
    /// Stop taking, keep what there is.
    Stop,
    /// Give back until so much is left.
    Shrink(u64),
    /// How much is held.
    Held,
    /// What the watched file says.
    Usage,
    /// Watch a usage file for a line.
    Watch(&'a str, u64),
    /// The file for steps of kind `file`.
    File(&'a str),
    /// Read part of a file.
    Read(Read<'a>),
    /// A TCP connection with itself.
    Connect,
    /// Send over it for so many milliseconds; how much went through.
    Talk(u64),
    /// What it has room for.
    Room,
    /// One round of the probe.
    Probe,
    /// Have a process that shares this address space go to the group of this `cgroup.procs` and map so much; the errno.
    AskByHelper(&'a str, u64),
    /// Each call once for so many bytes, between two for a little; the errno of each.
    AskMuch(u64),
    /// Probe until all calls of the mask are refused, or allowed again; then say when.
    Await {
        /// With ENOMEM, or not at all.
        refused: bool,
        /// Which of [`super::probe::CALLS`].
        mask: u32,
    },
    /// Use the processor.
    Spin(bool),
    /// How far spinning got.
    Progress,
    /// Be a neighbour.
    Innocent(u64),
    /// What the neighbour measured.
    Figures,
    /// Count a signal.
    Count(i32),
    /// How often it came.
    Counted(i32),
    /// Block or unblock it.
    Block(i32, bool),
    /// Ignore it.
    Ignore(i32),
    /// Stop and continue notices about children.
    Jobs,
    /// A child with its own channel.
    Fork(&'a str, &'a str),
    /// The same, born in the group of this directory (CLONE_INTO_CGROUP).
    ForkInto(&'a str, &'a str, &'a str),
    /// Children one after the other that take so much and end; how many died of a signal.
    Brood(u64, u64),
    /// So many children side by side, each of which grows by itself.
    Swarm(u64, Plan),
    /// So many programs one after the other (`vfork` and `exec`); how many ended as they should.
    Spawn(u64),
    /// A thread with its own channel.
    Thread(&'a str, &'a str),
    /// Become the same program anew.
    Exec,
    /// Become the program in this file.
    ExecFile(&'a str),
    /// prctl(2) with these numbers; what it returned (0 if it failed) and the errno (0 if it did not).
    Prctl([u64; 5]),
    /// Wait for a child that is ending; answers its raw status.
    Reap(i32),
    /// The first line of its `/proc/self/cgroup` that is about memory.
    Groups,
    /// Set `comm`.
    Name(&'a str),
    /// Become another user.
    Become(u32),
    /// Give up CAP_IPC_LOCK.
    DropIpcLock,
    /// Raise RLIMIT_MEMLOCK as far as allowed.
    MemlockMax,
    /// Set an own limit.
    Limit(Resource, (u64, u64)),
    /// Stop growing and give everything back when this signal comes.
    YieldOn(i32),
    /// After the end of the input go on for so many seconds.
    Linger(u32),
    /// End this thread alone.
    Leave,
    /// End.
    Exit(i32),
    /// Change the working directory.
    WorkIn(&'a str),
    /// What a hoard needs beforehand.
    Prepare(hoard::Kind, u64),
    /// Take kernel memory.
    Hoard(hoard::Kind, u64),
    /// Give back all that was hoarded.
    LetGo,
    /// What [`Command::KernelCalls`] needs beforehand.
    PrepareCalls,
    /// Each call that takes kernel memory, once.
    KernelCalls,
    /// Calls that give kernel memory back.
    GiveBack,
    /// Fork for good.
    ForkBomb,
    /// Fill so many connections that nobody reads.
    Flood(u64, u64),
    /// How many sockets have a buffer locked, and how many a bound for unsent data.
    Bounds,
    /// How much they took.
    Flooded,
    /// Close them.
    FloodEnd,
    /// Stream to whoever connects, as fast as it is read or with so many milliseconds between two pieces.
    Serve(u64),
    /// Read such a stream and check it.
    Fetch(u16),
    /// How far it came: bytes, and how many were wrong.
    Fetched,
    /// End it.
    FetchEnd,
    /// A connection with itself whose ends have these set, 0 for not, and so much is written that nobody reads.
    Keep {
        /// SO_RCVBUF and SO_SNDBUF.
        buffers: [u64; 2],
        /// TCP_NOTSENT_LOWAT.
        unsent: u64,
        /// Written.
        bytes: u64,
    },
    /// So many datagrams of so many bytes to a socket of its own that nobody reads.
    Datagrams(u64, usize),
    /// List the commands.
    Help,
}

/// Understands one line.
pub fn parse(line: &str) -> Option<Command<'_>> {
    let mut words = line.split_ascii_whitespace();
    let verb = words.next()?;
    let mut word = || words.next();
    let command = match verb {
        "grow" => Command::Grow(plan(&mut word)?),
        "swarm" => Command::Swarm(number(word()?)?, plan(&mut word)?),
        "hammer" => Command::Hammer(
            Plan { kind: Kind::named(word()?)?, step: number(word()?)?, interval: 0, upto: number(word()?)? },
            number(word()?)?,
        ),
        "pace" => {
            Command::Pace(Call::named(word()?)?, number(word()?)?, usize::try_from(number(word()?)?).ok()?)
        }
        "stop" => Command::Stop,
        "shrink" => Command::Shrink(number(word()?)?),
        "free" => Command::Shrink(0),
        "held" => Command::Held,
        "usage" => Command::Usage,
        "watch" => Command::Watch(word()?, number(word()?)?),
        "file" => Command::File(word()?),
        "cache" | "use" => Command::Read(Read {
            path: word()?,
            offset: number(word()?)?,
            bytes: number(word()?)?,
            rate: word().map_or(Some(NO_LIMIT), number)?,
            fresh: verb == "cache",
        }),
        "connect" => Command::Connect,
        "talk" => Command::Talk(number(word()?)?),
        "room" => Command::Room,
        "probe" => Command::Probe,
        "ask-by-helper" => Command::AskByHelper(word()?, number(word()?)?),
        "ask-much" => Command::AskMuch(number(word()?)?),
        "await" => Command::Await {
            refused: match word()? {
                "refused" => true,
                "allowed" => false,
                _ => return None,
            },
            mask: word().map_or(Some((1 << super::probe::LETTERS) - 1), |text| text.parse().ok())?,
        },
        "spin" => Command::Spin(true),
        "idle" => Command::Spin(false),
        "progress" => Command::Progress,
        "innocent" => Command::Innocent(number(word()?)?.checked_mul(1000)?),
        "figures" => Command::Figures,
        "fork" => Command::Fork(word()?, word()?),
        "fork-into" => Command::ForkInto(word()?, word()?, word()?),
        "brood" => Command::Brood(number(word()?)?, number(word()?)?),
        "spawn" => Command::Spawn(number(word()?)?),
        "thread" => Command::Thread(word()?, word()?),
        "exec" => Command::Exec,
        "exec-file" => Command::ExecFile(word()?),
        "prctl" => Command::Prctl([
            number(word()?)?,
            number(word()?)?,
            number(word()?)?,
            number(word()?)?,
            number(word()?)?,
        ]),
        "name" => Command::Name(line.split_once(' ')?.1),
        "groups" => Command::Groups,
        "limit" => Command::Limit(resource(word()?)?, (number(word()?)?, number(word()?)?)),
        "drop-ipc-lock" => Command::DropIpcLock,
        "memlock-max" => Command::MemlockMax,
        "become" => Command::Become(word()?.parse().ok()?),
        "jobs" => Command::Jobs,
        "work-in" => Command::WorkIn(word()?),
        "prepare" => Command::Prepare(hoard::Kind::named(word()?)?, number(word()?)?),
        "hoard" => Command::Hoard(hoard::Kind::named(word()?)?, number(word()?)?),
        "let-go" => Command::LetGo,
        "kernel-calls-prepare" => Command::PrepareCalls,
        "kernel-calls" => Command::KernelCalls,
        "give-back" => Command::GiveBack,
        "flood" => Command::Flood(number(word()?)?, word().map_or(Some(NO_LIMIT), number)?),
        "bounds" => Command::Bounds,
        "flooded" => Command::Flooded,
        "flood-end" => Command::FloodEnd,
        "serve" => Command::Serve(word().map_or(Some(0), number)?),
        "fetch" => Command::Fetch(word()?.parse().ok()?),
        "fetched" => Command::Fetched,
        "fetch-end" => Command::FetchEnd,
        "keep" => Command::Keep {
            buffers: [number(word()?)?, number(word()?)?],
            unsent: number(word()?)?,
            bytes: number(word()?)?,
        },
        "datagrams" => Command::Datagrams(number(word()?)?, word()?.parse().ok()?),
        "fork-bomb" => Command::ForkBomb,
        "leave" => Command::Leave,
        "help" => Command::Help,
        _ => with_a_number(verb, word()?.parse().ok()?)?,
    };
    Some(command)
}

fn with_a_number(verb: &str, number: i32) -> Option<Command<'_>> {
    Some(match verb {
        "count" => Command::Count(number),
        "counted" => Command::Counted(number),
        "block" => Command::Block(number, true),
        "unblock" => Command::Block(number, false),
        "ignore" => Command::Ignore(number),
        "reap" => Command::Reap(number),
        "exit" => Command::Exit(number),
        "yield-on" => Command::YieldOn(number),
        "linger" => Command::Linger(u32::try_from(number).ok()?),
        _ => return None,
    })
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::AddressSpace,
        "data" => Resource::Data,
        "memlock" => Resource::MemLock,
        _ => return None,
    })
}

fn plan<'a>(word: &mut impl FnMut() -> Option<&'a str>) -> Option<Plan> {
    Some(Plan {
        kind: Kind::named(word()?)?,
        step: number(word()?)?,
        interval: number(word()?)?.checked_mul(1000)?,
        upto: number(word()?)?,
    })
}

fn number(text: &str) -> Option<u64> {
    if text == "inf" { Some(NO_LIMIT) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_or_refused_whole() {
        assert!(matches!(
            parse("grow anon 1048576 10000 inf"),
            Some(Command::Grow(Plan {
                kind: Kind::Anon,
                step: 1_048_576,
                interval: 10_000_000,
                upto: NO_LIMIT
            }))
        ));
        assert!(matches!(parse("await refused"), Some(Command::Await { refused: true, mask: 0b11_1111 })));
        assert!(matches!(parse("await allowed 3"), Some(Command::Await { refused: false, mask: 3 })));
        assert!(matches!(
            parse("limit data 4096 inf"),
            Some(Command::Limit(Resource::Data, (4096, NO_LIMIT)))
        ));
        assert!(matches!(parse("block 10"), Some(Command::Block(10, true))));
        for bad in
            ["", "grow", "grow gold 1 1 1", "await", "count", "count ten", "limit cpu 1 1", "frobnicate 3"]
        {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn help_names_every_verb() {
        let verbs = [
            "grow",
            "await",
            "innocent",
            "figures",
            "drop-ipc-lock",
            "limit",
            "exit",
            "reap",
            "jobs",
            "become",
        ];
        for verb in verbs {
            assert!(HELP.contains(verb), "{verb}");
        }
    }
}
