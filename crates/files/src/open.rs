//! Open files and directories, a bounded number of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::FileType;

use crate::caller::{Caller, Gate, Place};
use crate::desk::Subject;
use crate::events::Seen;
use crate::node::{Dir, File};

/// A file as it was opened.
#[derive(Debug)]
pub struct OpenFile {
    /// Where.
    pub dir: Arc<Dir>,
    /// Which.
    pub file: File,
    /// Who it was then: a group's inode, the start of a process or thread.
    pub id: u64,
    /// By whom: as of the kernel's own files, it is his rights that count, whoever writes.
    pub caller: Caller,
    /// In whose name the daemon is asked: his own, or that of the owner who has lent him his rights.
    pub name: Caller,
    /// What the last read from the start gave, so that a text read in pieces is one text.
    pub text: Mutex<Arc<str>>,
    /// How far the events were read.
    pub seen: AtomicU64,
}

impl OpenFile {
    /// Whom it is about.
    pub fn subject(&self) -> Option<Subject<'_>> {
        match &*self.dir {
            Dir::Group(path) => Some(Subject::Group(path, self.id)),
            Dir::Process(pid) => Some(Subject::Process(*pid, self.id)),
            Dir::Task(pid, tid) => Some(Subject::Thread(*pid, *tid, self.id)),
            _ => None,
        }
    }

    /// A text, from its start on.
    pub fn read(&self, text: Arc<str>, seen: Seen) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
        self.seen(seen);
    }

    /// Events are known up to there.
    pub fn seen(&self, seen: Seen) {
        self.seen.fetch_max(seen, Ordering::Relaxed);
    }
}

/// A directory's entries as they were when it was opened.
pub type Names = Vec<(OsString, FileType)>;

#[derive(Clone, Debug)]
enum Kept {
    File(Arc<OpenFile>),
    Names(Arc<Names>),
}

/// So many names may be kept of one user's open directories, and four times as many in all.
const MOST_NAMES: usize = 1 << 18;

/// The table.
#[derive(Debug)]
pub struct Handles {
    gate: Gate,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    table: HashMap<u64, (Kept, Place)>,
}

impl Default for Handles {
    fn default() -> Self {
        Self { gate: Gate::new(4096, 256, 256), inner: Mutex::default() }
    }
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, uid: u32, kept: Kept) -> Option<u64> {
        let place = self.gate.enter(uid)?;
        let mut inner = self.lock();
        inner.last += 1;
        let handle = inner.last;
        inner.table.insert(handle, (kept, place));
        Some(handle)
    }

    /// A handle for a file; `None`: this user has too many.
    pub fn file(&self, file: OpenFile) -> Option<u64> {
        self.keep(file.caller.uid, Kept::File(Arc::new(file)))
    }

    /// A handle for a directory; `None`: this user has too much open.
    pub fn names(&self, uid: u32, names: Names) -> Option<u64> {
        let (his, all) = self.kept_names(uid);
        if his + names.len() > MOST_NAMES || all + names.len() > 4 * MOST_NAMES {
            return None;
        }
        self.keep(uid, Kept::Names(Arc::new(names)))
    }

    /// Names that are kept for this user, and for all.
    fn kept_names(&self, uid: u32) -> (usize, usize) {
        let inner = self.lock();
        let names = inner.table.values().filter_map(|(kept, place)| match kept {
            Kept::Names(names) => Some((place.uid(), names.len())),
            Kept::File(_) => None,
        });
        names.fold((0, 0), |(his, all), (of, count)| (his + if of == uid { count } else { 0 }, all + count))
    }

    /// The file of a handle.
    pub fn get_file(&self, handle: u64) -> Option<Arc<OpenFile>> {
        match &self.lock().table.get(&handle)?.0 {
            Kept::File(file) => Some(Arc::clone(file)),
            Kept::Names(_) => None,
        }
    }

    /// The entries of a handle.
    pub fn get_names(&self, handle: u64) -> Option<Arc<Names>> {
        match &self.lock().table.get(&handle)?.0 {
            Kept::Names(names) => Some(Arc::clone(names)),
            Kept::File(_) => None,
        }
    }

    /// It is closed.
    pub fn close(&self, handle: u64) {
        let closed = self.lock().table.remove(&handle);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_given_back() {
        let handles = Handles::default();
        let first = handles.names(7, Names::new()).unwrap();
        while handles.names(7, Names::new()).is_some() {}
        assert!(handles.names(8, Names::new()).is_some(), "one user cannot take them all");
        handles.close(first);
        assert!(handles.get_names(first).is_none() && handles.get_file(first).is_none());
        assert!(handles.names(7, Names::new()).is_some());
    }

    #[test]
    fn names_are_bounded() {
        let handles = Handles::default();
        let many = || vec![(OsString::new(), FileType::Directory); MOST_NAMES / 2];
        let first = handles.names(7, many()).unwrap();
        assert!(handles.names(7, many()).is_some() && handles.names(7, many()).is_none());
        assert!(handles.names(8, many()).is_some(), "another's are not his");
        handles.close(first);
        assert!(handles.names(7, many()).is_some());
    }
}
