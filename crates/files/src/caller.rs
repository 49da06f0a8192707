//! Who asks, and asking in his name: each request to the daemon is made by a thread of its own that has taken on the caller's effective ids, because the daemon
//! judges by those (SO_PEERCRED). The thread ends with its request, so there is no way back to get wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fuser::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The user who opened a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// His uid.
    pub uid: u32,
    /// His gid; of his further groups the file system is not told.
    pub gid: u32,
}

impl Caller {
    /// This thread becomes him as far as others are concerned. The real and saved ids stay root's, or he could signal and trace it.
    fn take_on(self) -> Result<(), Errno> {
        // -1 says to leave as it is, and that is root.
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err(Errno::EOVERFLOW);
        }
        let become_him = || {
            set_thread_groups(&[])?;
            set_thread_res_gid(None, Gid::from_raw(self.gid), None)?;
            set_thread_res_uid(None, Uid::from_raw(self.uid), None)
        };
        become_him().map_err(|errno: rustix::io::Errno| Errno::from_i32(errno.raw_os_error()))
    }
}

/// How many at one time: of all, and of one user who is not root.
#[derive(Debug)]
pub struct Gate {
    all: usize,
    /// Of them, kept free for root.
    for_root: usize,
    per_user: usize,
    inside: Arc<Mutex<HashMap<u32, usize>>>,
}

/// A place inside, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    uid: u32,
    inside: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Gate {
    /// With these bounds.
    pub fn new(all: usize, for_root: usize, per_user: usize) -> Self {
        Self { all, for_root, per_user, inside: Arc::default() }
    }

    /// A place for this user, if there is one.
    pub fn enter(&self, uid: u32) -> Option<Place> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = inside.values().sum();
        let his = inside.get(&uid).copied().unwrap_or(0);
        let free = match uid {
            0 => all < self.all,
            _ => all < self.all - self.for_root && his < self.per_user,
        };
        free.then(|| {
            inside.insert(uid, his + 1);
            Place { uid, inside: Arc::clone(&self.inside) }
        })
    }
}

impl Place {
    /// Whose it is.
    pub const fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        match inside.get_mut(&self.uid) {
            Some(his) if *his > 1 => *his -= 1,
            _ => drop(inside.remove(&self.uid)),
        }
    }
}

/// What such a thread does is shallow.
const STACK: usize = 256 << 10;

/// Does this in the caller's name and gives what came of it to `answer`. If there is no thread to be had `answer` is dropped, which is EIO to the caller.
pub fn on_behalf<T>(
    caller: Caller,
    place: Place,
    work: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
) {
    let body = move || {
        let result = caller.take_on().and_then(|()| work());
        // Before the answer: who has it may ask again at once.
        drop(place);
        answer(result);
    };
    let _no_thread = thread::Builder::new().name("asks".into()).stack_size(STACK).spawn(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_is_bounded_and_kept_open_for_root() {
        let gate = Gate::new(4, 1, 2);
        let first = gate.enter(7);
        let places = [gate.enter(7), gate.enter(8)];
        assert!(first.is_some() && places.iter().all(Option::is_some));
        assert!(gate.enter(7).is_none(), "two of one user");
        assert!(gate.enter(9).is_none(), "the last place is root's");
        let root = gate.enter(0);
        assert!(root.is_some() && gate.enter(0).is_none(), "four in all");
        drop(root);
        drop(first);
        assert!(gate.enter(7).is_some());
        drop(places);
        assert!(gate.inside.lock().unwrap().is_empty(), "users who are gone are forgotten");
    }

    #[test]
    fn minus_one_is_nobody() {
        for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
            assert_eq!(Caller { uid, gid }.take_on(), Err(Errno::EOVERFLOW));
        }
    }

    #[test]
    fn one_thread_changes_and_no_other() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root can take on anybody's ids.
        }
        let (send, seen) = std::sync::mpsc::channel();
        let place = Gate::new(1, 0, 1).enter(65534).unwrap();
        let ids = || Ok((rustix::process::geteuid().as_raw(), rustix::process::getuid().as_raw()));
        on_behalf(Caller { uid: 65534, gid: 65534 }, place, ids, move |ids| send.send(ids).unwrap());
        assert_eq!(seen.recv().unwrap(), Ok((65534, 0)));
        assert!(rustix::process::geteuid().is_root());
    }
}
