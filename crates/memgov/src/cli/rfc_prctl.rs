//! `memgov exec --rfc-prctl`: prctl(60, word, climit, plimit, 0) and prctl(59, item, 0, 0, 0) of a command, as the over-high series had them, answered by
//! memgov. Mainline has given both numbers to others since, and calls in its form go on to the kernel.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::anyhow;
use memgov_decide::control::MemControl;
use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::Bytes;
use rustix::fs::Uid;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::set_thread_res_uid;
use serde_json::{Value, json};

use super::target::ControlReply;
use crate::kernel::seccomp::{self, Answer, Call, Listener};
use crate::kernel::{Errno, proc, sys};
use crate::serve::client::Client;
use crate::terminal;

/// So many of the letter's calls are answered at once: one that the daemon keeps waiting delays no other, until it is this many. Mainline's are none of them.
const DESKS: usize = 4;

/// What a call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The letter's PR_SET_MEMCONTROL.
    Set { word: u64, climit: u64, plimit: u64 },
    /// Its PR_GET_MEMCONTROL.
    Get(Item),
    /// Mainline's, or nobody's: the kernel knows what it is.
    Mainline,
}

/// PR_MEMGET_…
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Action,
    Climit,
    Plimit,
}

/// Whose form a call has. `dispatching`: its thread has switched syscall user dispatch on by the same number, and so may want it off.
fn form(call: &Call, dispatching: bool) -> Form {
    let [option, first, rest @ ..] = call.args;
    match u32::try_from(option & 0xffff_ffff) {
        Ok(seccomp::GET_MEMCONTROL) => item(first, rest, dispatching),
        // Mainline has no fifth argument either, and refuses one.
        Ok(seccomp::SET_MEMCONTROL) if rest[2] == 0 && !is_about_keys(call) => {
            Form::Set { word: first, climit: rest[0], plimit: rest[1] }
        }
        _ => Form::Mainline,
    }
}

/// PR_SET_SYSCALL_USER_DISPATCH takes a mode, a range of addresses and a selector. On (1, and 2 since Linux 6.16) with neither is of no use to anybody, the program
/// could make no call any more; off (0) has neither, and looks like the letter's PR_MEMGET_ACTION.
fn item(item: u64, rest: [u64; 3], dispatching: bool) -> Form {
    match item {
        _ if rest != [0; 3] => Form::Mainline,
        0 if dispatching => Form::Mainline,
        0 => Form::Get(Item::Action),
        1 => Form::Get(Item::Climit),
        2 => Form::Get(Item::Plimit),
        _ => Form::Mainline,
    }
}

/// Whether a call of mainline's form switches syscall user dispatch on or off; `None`: the kernel refuses it (kernel/entry/syscall_user_dispatch.c). Of addresses
/// that a selector cannot have only the kernel's are known here.
fn switch(call: &Call) -> Option<bool> {
    let [option, mode, from, length, selector] = call.args;
    if option & 0xffff_ffff != u64::from(seccomp::GET_MEMCONTROL) || selector >> 63 == 1 {
        return None;
    }
    let empty = from.wrapping_add(length) <= from;
    match mode {
        0 => (call.args[2..] == [0; 3]).then_some(false),
        1 => (from == 0 || !empty).then_some(true),
        2 => (!empty).then_some(true),
        _ => None,
    }
}

/// PR_PAC_SET_ENABLED_KEYS, which arm64 has alone: a set of four keys, and which of them to enable. As a word of the letter, 5 to 15 is no action, and a
/// climit of so few bytes is nobody's. Only keys 1 to 4 (as a number), none of them enabled, looks like an action without limits, and is taken as that.
fn is_about_keys(call: &Call) -> bool {
    let [_, keys, enabled, rest @ ..] = call.args;
    let possible = keys <= 0xf && enabled & !keys == 0 && rest == [0; 2];
    call.arch == seccomp::ARCH_AARCH64 && possible && (keys > 4 || enabled != 0)
}

/// The way by which the child hands its listener over.
#[derive(Debug)]
pub(super) struct Door {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Door {
    /// One whose other end stays open over exec.
    pub(super) fn make() -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
        Ok(Self { ours, theirs })
    }

    /// The number of the child's end.
    pub(super) fn number(&self) -> String {
        self.theirs.as_raw_fd().to_string()
    }

    /// Once the child has been started: takes its listener and answers, in threads of its own, as long as this process lives. Where that fails the child is told, and ends.
    pub(super) fn attend(self, socket: PathBuf) -> io::Result<()> {
        let Self { ours, theirs } = self;
        // Ours must be the last copy, or the end of the child would not be seen.
        drop(theirs);
        let receive = move || {
            if let Err(error) = open(&ours, socket) {
                terminal::complain(&format!("memgov: calls of the command are not answered: {error}"));
            }
        };
        thread::Builder::new().name("rfc-prctl".into()).spawn(receive).map(drop)
    }
}

fn open(ours: &OwnedFd, socket: PathBuf) -> io::Result<()> {
    // The child has said why it hands nothing over, and its exit code says the rest.
    let Some(listener) = seccomp::receive_descriptor(ours)? else { return Ok(()) };
    let desk = Arc::new(Desk { listener: Listener::new(listener), socket });
    let (letters, waiting) = channel();
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..DESKS {
        let (desk, waiting) = (Arc::clone(&desk), Arc::clone(&waiting));
        thread::Builder::new().name("rfc-prctl".into()).spawn(move || desk.serve(&waiting))?;
    }
    rustix::io::write(ours, &[1])?;
    Porter { desk, letters, switched: HashSet::new() }.serve();
    Ok(())
}

/// In the child, before it becomes the command: from here on its calls are answered, or it does not start.
pub(super) fn hand_over(number: i32) -> anyhow::Result<()> {
    let door = seccomp::adopt(number)?;
    let listener = seccomp::intercept().map_err(|errno| match errno {
        Errno::BUSY => anyhow!(
            "calls of this command are answered by somebody else already, and there can be one only (seccomp_unotify(2)): \
             another --rfc-prctl, or a container's runtime"
        ),
        other => anyhow!("seccomp: {other}; it takes Linux 5.5 with CONFIG_SECCOMP_FILTER"),
    })?;
    seccomp::send_descriptor(&door, &listener)?;
    match rustix::io::retry_on_intr(|| rustix::io::read(&door, &mut [0; 1]))? {
        0 => Err(anyhow!("nobody would answer the calls of the command")),
        _ => Ok(()),
    }
}

/// Receives every call. Mainline's go on at once, however many of the letter's wait for the daemon.
struct Porter {
    desk: Arc<Desk>,
    letters: Sender<(Call, Form)>,
    /// Threads that have switched syscall user dispatch on.
    switched: HashSet<ProcessId>,
}

impl Porter {
    fn serve(&mut self) {
        while let Ok(Some(call)) = self.desk.listener.receive() {
            match form(&call, self.has_switched(&call)) {
                Form::Mainline => {
                    self.remember(&call);
                    self.desk.answer(&call, Answer::GoOn);
                }
                form => {
                    // Fails only if no desk is left: then nobody else would answer.
                    if self.letters.send((call, form)).is_err() {
                        self.desk.answer(&call, Answer::Failure(Errno::NOSYS));
                    }
                }
            }
        }
    }

    fn has_switched(&self, call: &Call) -> bool {
        !self.switched.is_empty() && thread_of(call).is_some_and(|thread| self.switched.contains(&thread))
    }

    /// Keeps in mind which threads have switched it on. Children do not inherit it. exec ends it, which nobody tells of: one question goes to the kernel then.
    fn remember(&mut self, call: &Call) {
        let Some(on) = switch(call) else { return };
        let Some(thread) = thread_of(call) else { return };
        self.switched.retain(|&known| known != thread && proc::is_there(known));
        if on {
            self.switched.insert(thread);
        }
    }
}

/// Where the letter's calls are answered. When the last thread that has it ends the listener is closed, so that no caller waits for nobody.
struct Desk {
    listener: Listener,
    /// The daemon's.
    socket: PathBuf,
}

impl Desk {
    fn serve(&self, waiting: &Mutex<Receiver<(Call, Form)>>) {
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        while let Ok((call, form)) = next() {
            let answer = self.ask(&call, form).map_or_else(Answer::Failure, Answer::Value);
            self.answer(&call, answer);
        }
    }

    fn answer(&self, call: &Call, answer: Answer) {
        // Fails only if the caller was killed meanwhile.
        let _ = self.listener.answer(call, answer);
    }

    /// What the daemon says, asked as the user the caller is: it may do for itself what it might without this, and no more.
    fn ask(&self, call: &Call, form: Form) -> Result<u64, Errno> {
        if let Form::Set { word, climit, plimit } = form {
            let page = Bytes(sys::page_size());
            MemControl::from_word(word, Bytes(climit), Bytes(plimit), page).map_err(|_| Errno::INVAL)?;
        }
        let (pid, uid) = caller(call.tid)?;
        if !self.listener.waits(call) {
            return Err(Errno::SRCH);
        }
        let mut client = connect_as(uid, &self.socket)?;
        let failed = |error: crate::serve::client::ClientError| Errno::from_raw_os_error(error.errno());
        match form {
            Form::Set { word, climit, plimit } => {
                let asked =
                    json!({ "pid": pid, "word": word, "climit_bytes": climit, "plimit_bytes": plimit });
                client.call::<Value>("SetControl", asked).map(|_| 0).map_err(failed)
            }
            Form::Get(item) => {
                let reply: ControlReply = client.call("GetControl", json!({ "pid": pid })).map_err(failed)?;
                Ok(match item {
                    Item::Action => reply.control.word.into(),
                    Item::Climit => reply.control.climit_bytes,
                    Item::Plimit => reply.control.plimit_bytes,
                })
            }
            Form::Mainline => Err(Errno::NOSYS),
        }
    }
}

fn thread_of(call: &Call) -> Option<ProcessId> {
    proc::identify(call.tid, &mut [0; proc::STAT_BUFFER]).ok()
}

/// The process a thread belongs to, and its effective user.
fn caller(tid: u32) -> Result<(u32, u32), Errno> {
    match proc::read_status(tid, &mut [0; proc::STATUS_BUFFER]) {
        Ok(status) => {
            let [_, effective, ..] = status.uids.ok_or(Errno::SRCH)?;
            Ok((status.tgid.ok_or(Errno::SRCH)?, effective))
        }
        Err(Errno::NOENT) => Err(Errno::SRCH),
        Err(errno) => Err(errno),
    }
}

/// A connection made as another user, whom the daemon takes it for (SO_PEERCRED has the effective uid at connect(2)). Of this thread alone: the kernel keeps
/// them by thread.
fn connect_as(uid: u32, socket: &Path) -> Result<Client, Errno> {
    let own = rustix::process::geteuid();
    let become_user = |uid: Uid| set_thread_res_uid(None, uid, None);
    if own.as_raw() != uid {
        become_user(Uid::from_raw(uid))?;
    }
    let client = Client::connect(socket);
    if own.as_raw() != uid {
        // The saved uid is still ours, so that this is always allowed.
        become_user(own)?;
    }
    client.map_err(|error| Errno::from_raw_os_error(error.errno()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arch: u32, args: [u64; 5]) -> Call {
        Call { id: 1, tid: 2, arch, args }
    }

    fn x86(args: [u64; 5]) -> Form {
        form(&call(seccomp::ARCH_X86_64, args), false)
    }

    fn arm(args: [u64; 5]) -> Form {
        form(&call(seccomp::ARCH_AARCH64, args), false)
    }

    #[test]
    fn the_letters_forms_are_known_on_both() {
        for form in [x86, arm] {
            assert_eq!(form([59, 0, 0, 0, 0]), Form::Get(Item::Action));
            assert_eq!(form([59, 1, 0, 0, 0]), Form::Get(Item::Climit));
            assert_eq!(form([59, 2, 0, 0, 0]), Form::Get(Item::Plimit));
            let set = Form::Set { word: 0x0101_0a03, climit: 1_000_001, plimit: 5000 };
            assert_eq!(form([60, 0x0101_0a03, 1_000_001, 5000, 0]), set);
            assert_eq!(form([60, 0, 0, 0, 0]), Form::Set { word: 0, climit: 0, plimit: 0 });
            assert_eq!(form([60, 4, 0, 0, 0]), Form::Set { word: 4, climit: 0, plimit: 0 });
            assert_eq!(form([60, 1, 8 << 20, 0, 0]), Form::Set { word: 1, climit: 8 << 20, plimit: 0 });
        }
    }

    #[test]
    fn syscall_user_dispatch_is_mainlines() {
        for form in [x86, arm] {
            for args in [[59, 1, 0x1000, 0x2000, 0], [59, 1, 0, 0, 0x5000], [59, 2, 0x1000, 0x2000, 0x5000]] {
                assert_eq!(form(args), Form::Mainline, "{args:x?}");
            }
            // What both refuse, the kernel does.
            for args in [[59, 3, 0, 0, 0], [59, u64::MAX, 0, 0, 0], [59, 1 << 32, 0, 0, 0], [59, 0, 0, 0, 1]]
            {
                assert_eq!(form(args), Form::Mainline, "{args:x?}");
            }
        }
    }

    #[test]
    fn off_is_mainlines_for_a_thread_that_switched_it_on() {
        let off = call(seccomp::ARCH_X86_64, [59, 0, 0, 0, 0]);
        assert_eq!((form(&off, false), form(&off, true)), (Form::Get(Item::Action), Form::Mainline));
        let item = call(seccomp::ARCH_X86_64, [59, 1, 0, 0, 0]);
        assert_eq!(form(&item, true), Form::Get(Item::Climit));
        let switches = |args| switch(&call(seccomp::ARCH_X86_64, args));
        for on in
            [[59, 1, 0, 1 << 47, 0], [59, 1, 0, 0, 0x5000], [59, 1, 0x1000, 1, 0], [59, 2, 0x1000, 1, 0]]
        {
            assert_eq!(switches(on), Some(true), "{on:x?}");
        }
        assert_eq!(switches([59, 0, 0, 0, 0]), Some(false));
        for refused in [
            [59, 0, 0, 1, 0],
            [59, 1, 8, 0, 0],
            [59, 1, 8, u64::MAX, 0],
            [59, 1, 0, 0, u64::MAX],
            [59, 2, 0, 0, 8],
            [59, 3, 0, 0, 8],
            [60, 1, 0, 0, 0],
        ] {
            assert_eq!(switches(refused), None, "{refused:x?}");
        }
    }

    #[test]
    fn keys_are_mainlines_where_there_are_any() {
        for args in [[60, 0xf, 0x2, 0, 0], [60, 0xf, 0, 0, 0], [60, 1, 1, 0, 0], [60, 5, 4, 0, 0]] {
            assert_eq!(arm(args), Form::Mainline, "{args:x?}");
            assert!(matches!(x86(args), Form::Set { .. }), "{args:x?}");
        }
        // More than keys can be: the letter's.
        for args in [[60, 1, 2, 0, 0], [60, 3, 3, 4096, 0], [60, 0x10, 0, 0, 0]] {
            assert!(matches!(arm(args), Form::Set { .. }), "{args:x?}");
        }
        // Both refuse a fifth argument.
        assert_eq!(x86([60, 1, 0, 0, 1]), Form::Mainline);
    }

    #[test]
    fn a_caller_is_its_process_and_its_effective_user() {
        let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let found = thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            assert_ne!(tid, own);
            caller(tid)
        });
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(found.join().unwrap(), Ok((std::process::id(), user)));
        assert_eq!(caller(0), Err(Errno::SRCH));
    }

    /// Numbers at the edges of what calls are told apart by, and any.
    fn number() -> impl proptest::strategy::Strategy<Value = u64> {
        proptest::prop_oneof![
            0..16u64,
            59..61u64,
            (u64::MAX - 2)..=u64::MAX,
            (1u64 << 32)..(1 << 32) + 64,
            proptest::prelude::any::<u64>()
        ]
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_called_has_a_form(args in proptest::array::uniform5(number()), on in proptest::prelude::any::<bool>()) {
            for arch in [seccomp::ARCH_X86_64, seccomp::ARCH_AARCH64, 0] {
                let call = call(arch, args);
                let known = [59, 60].contains(&(args[0] & 0xffff_ffff));
                let form = form(&call, on);
                proptest::prop_assert!(known || form == Form::Mainline, "{args:x?}");
                // What switches dispatch on is never taken for the letter's.
                proptest::prop_assert!(switch(&call) != Some(true) || form == Form::Mainline, "{args:x?}");
            }
        }
    }
}
