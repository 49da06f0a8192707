//! Everything reversible is written down here before it is made, and crossed out after it is undone, so that a `kill -9` at any
//! moment leaves nothing behind that the next start, `memgov restore` or the guardian could not put back.
//!
//! The file is made whole when it is opened: writing down allocates neither memory nor disk space. One `pwrite` a slot; the
//! slot that puts an entry in force goes last. One daemon a file: a second one is refused by the lock.

mod format;
mod undo;

pub use format::{Entry, Freezer, GroupLimit, HOLD_PREFIX, Lowered, LoweredLimits, MAX_PATH, OwnedEntry};
pub use undo::{Undone, Verdict, put_back};

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

use crate::kernel::{Errno, Error};
use format::{Header, SLOT};

/// Slots of a ledger unless told otherwise: 4 MiB.
pub const SLOTS: u32 = 8192;
const MOST_SLOTS: u32 = 1 << 20;
/// How long [`Ledger::open`] waits for the lock: a guardian may still be putting things back.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The place of an entry in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(u32);

impl Place {
    /// Of what stands in no ledger.
    const NONE: Self = Self(u32::MAX);
}

/// An entry that somebody who is no longer there has left in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where it stands.
    pub place: Place,
    /// What was done.
    pub entry: OwnedEntry,
}

/// A file found where the ledger belongs, which is none of this version: kept, not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it was found.
    pub found: PathBuf,
    /// Where it is now.
    pub kept: PathBuf,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, kept) = (self.found.display(), self.kept.display());
        write!(
            f,
            "{found} is no ledger of this version of memgov; nothing in it was undone, it is kept as {kept}"
        )
    }
}

/// What is known of a slot without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// An entry of so many slots begins here.
    Head(u16),
    /// It goes on here.
    Rest,
}

/// An open, locked ledger.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    slots: Vec<Slot>,
    entries: u32,
    hint: usize,
    set_aside: Option<SetAside>,
}

impl Ledger {
    /// Opens or makes the ledger at `path`, with what an earlier memgov of this boot left in force. A ledger of another boot is
    /// emptied: what it tells of did not survive. `WOULDBLOCK`: another memgov has it.
    pub fn open(path: &Path) -> Result<(Self, Vec<Leftover>), Error> {
        Self::open_sized(path, SLOTS)
    }

    /// As [`Ledger::open`], with so many slots if it is made anew.
    pub fn open_sized(path: &Path, slots: u32) -> Result<(Self, Vec<Leftover>), Error> {
        let boot = boot_id()?;
        let mut set_aside = None;
        loop {
            let file = open_locked(path, LOCK_PATIENCE)?;
            let error = |op, source| Error::new(op, path, source);
            let (mut head, size) = ([0; SLOT], file.metadata().map_err(|e| error("reading", e))?.len());
            let wanted = if size == 0 {
                slots
            } else {
                // A file shorter than a header reads as one that is not ours.
                let _ = file.read_exact_at(&mut head, 0);
                match format::read_header(&head, &boot, MOST_SLOTS) {
                    Header::Ours { slots: there, this_boot: true } => there,
                    Header::Ours { this_boot: false, .. } => slots,
                    Header::Foreign => {
                        set_aside = Some(move_aside(path)?);
                        continue;
                    }
                }
            };
            let header = format::header(wanted, &boot);
            if head != header {
                file.set_len(0).map_err(|e| error("emptying", e))?;
            }
            let length = (u64::from(wanted) + 1) * SLOT as u64;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length)
                .map_err(|e| error("allocating", e.into()))?;
            file.write_all_at(&header, 0).map_err(|e| error("writing", e))?;
            let mut ledger = Self {
                file,
                path: path.to_owned(),
                slots: vec![Slot::Free; wanted as usize],
                entries: 0,
                hint: 0,
                set_aside,
            };
            let leftovers = ledger.leftovers()?;
            for leftover in &leftovers {
                ledger.occupy(leftover.place, leftover.entry.borrow().slots().unwrap_or(1));
            }
            return Ok((ledger, leftovers));
        }
    }

    /// What stands in a ledger, without the lock and without changing a byte: `memgov restore --dry-run`.
    pub fn peek(path: &Path) -> Result<Vec<Leftover>, Error> {
        let bytes = std::fs::read(path).map_err(|e| Error::new("reading", path, e))?;
        let (head, rest) = bytes.split_at(bytes.len().min(SLOT));
        match format::read_header(head, &boot_id()?, MOST_SLOTS) {
            Header::Ours { slots, this_boot: true } => Ok(scan(rest, slots)),
            Header::Ours { .. } | Header::Foreign => Ok(Vec::new()),
        }
    }

    /// The open, locked file, for another process to read and cross out; the lock lasts until both are gone.
    pub(super) fn second_handle(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|e| Error::new("duplicating", &self.path, e))
    }

    /// What [`Ledger::second_handle`] gave, in the process it was given to.
    pub(super) fn inherited(file: File) -> Result<Self, Error> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .unwrap_or_else(|_| PathBuf::from("the ledger"));
        let mut head = [0; SLOT];
        file.read_exact_at(&mut head, 0).map_err(|e| Error::new("reading", &path, e))?;
        match format::read_header(&head, &boot_id()?, MOST_SLOTS) {
            Header::Ours { slots, this_boot: true } => {
                let slots = vec![Slot::Free; slots as usize];
                Ok(Self { file, path, slots, entries: 0, hint: 0, set_aside: None })
            }
            _ => Err(Error::new("reading", path, std::io::Error::other("not the ledger in force"))),
        }
    }

    /// For a guardian whose memgov is dead: takes the lock, or gives it away; whether that went well.
    pub(super) fn lock(&self, take: bool) -> bool {
        let how = if take { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::Unlock };
        rustix::fs::flock(&self.file, how).is_ok()
    }

    /// The file that was found in the ledger's place, if that was none.
    pub fn set_aside(&self) -> Option<&SetAside> {
        self.set_aside.as_ref()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entries in force, as far as this process has written them.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Reads the file: the truth also in the guardian, which has only the file.
    pub fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let mut bytes = vec![0; self.slots.len() * SLOT];
        self.file
            .read_exact_at(&mut bytes, SLOT as u64)
            .map_err(|source| Error::new("reading", &self.path, source))?;
        Ok(scan(&bytes, u32::try_from(self.slots.len()).unwrap_or(MOST_SLOTS)))
    }

    /// Writes an entry down. Only when this has returned `Ok` may the change be made. `NOSPC`: no room.
    pub fn record(&mut self, entry: &Entry<'_>) -> Result<Place, Errno> {
        let wanted = entry.slots().ok_or(Errno::NAMETOOLONG)?;
        let place = self.find_free(wanted).ok_or(Errno::NOSPC)?;
        // The head last: until it stands there, none of the rest counts.
        for part in (0..wanted).rev() {
            self.write(place, part, entry)?;
        }
        self.occupy(place, wanted);
        self.hint = place.0 as usize + wanted;
        Ok(place)
    }

    /// Changes the lowered limits of an entry in place.
    pub fn set_limits(&mut self, place: Place, entry: &Entry<'_>) -> Result<(), Errno> {
        self.write(place, 0, entry)
    }

    /// Notes that a slowed group or process is stopped by memgov from now on, or no longer is.
    pub fn set_now(&mut self, place: Place, now: bool) -> Result<(), Errno> {
        self.amend(place, |head| format::set_now(head, now))
    }

    /// Notes the inode of a hold group, now that it is made.
    pub fn set_inode(&mut self, place: Place, inode: u64) -> Result<(), Errno> {
        self.amend(place, |head| format::set_inode(head, inode))
    }

    /// Notes what a group's limit was and is set to from now on.
    pub fn set_group_limit(&mut self, place: Place, before: u64, set: u64) -> Result<(), Errno> {
        self.amend(place, |head| format::set_group_limit(head, before, set))
    }

    fn amend(&mut self, place: Place, change: impl FnOnce(&mut [u8; SLOT])) -> Result<(), Errno> {
        let mut head = [0; SLOT];
        let offset = (u64::from(place.0) + 1) * SLOT as u64;
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(self.file.as_fd(), &mut head[..], offset))?;
        if n != SLOT {
            return Err(Errno::IO);
        }
        change(&mut head);
        self.put(place.0, &head)
    }

    /// Crosses an entry out, after what it tells of has been undone.
    pub fn erase(&mut self, place: Place) -> Result<(), Errno> {
        self.put(place.0, &[0; SLOT])?;
        let from = place.0 as usize;
        if let Some(Slot::Head(slots)) = self.slots.get(from).copied() {
            self.slots[from..from + usize::from(slots)].fill(Slot::Free);
            self.entries = self.entries.saturating_sub(1);
        }
        Ok(())
    }

    fn find_free(&self, wanted: usize) -> Option<Place> {
        let fits = |from: &usize| {
            self.slots.get(*from..from + wanted).is_some_and(|run| run.iter().all(|s| *s == Slot::Free))
        };
        let hint = self.hint.min(self.slots.len());
        let from = (hint..self.slots.len()).find(fits).or_else(|| (0..hint).find(fits))?;
        u32::try_from(from).ok().map(Place)
    }

    fn occupy(&mut self, place: Place, slots: usize) {
        let from = place.0 as usize;
        if let Some(run) = self.slots.get_mut(from..from + slots) {
            run.fill(Slot::Rest);
            run[0] = Slot::Head(u16::try_from(slots).unwrap_or(u16::MAX));
            self.entries += 1;
        }
    }

    fn write(&self, place: Place, part: usize, entry: &Entry<'_>) -> Result<(), Errno> {
        let at = place.0 + u32::try_from(part).map_err(|_| Errno::OVERFLOW)?;
        self.put(at, &entry.encode(part, at))
    }

    fn put(&self, at: u32, bytes: &[u8; SLOT]) -> Result<(), Errno> {
        let offset = (u64::from(at) + 1) * SLOT as u64;
        let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(self.file.as_fd(), bytes, offset))?;
        if n == SLOT { Ok(()) } else { Err(Errno::IO) }
    }
}

fn scan(slots: &[u8], most: u32) -> Vec<Leftover> {
    (0..most)
        .filter_map(|at| Some(Leftover { place: Place(at), entry: format::decode(slots, at)?.0 }))
        .collect()
}

/// Opens and locks the file that stands at `path` at the end: whoever moves it aside or removes it meanwhile is followed.
fn open_locked(path: &Path, patience: Duration) -> Result<File, Error> {
    let until = Instant::now() + patience;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0))
            .open(path)
            .map_err(|e| Error::new("opening", path, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(errno) => return Err(Error::new("locking (another memgov has it?)", path, errno)),
        }
        let opened = file.metadata().map_err(|e| Error::new("reading", path, e))?;
        if !opened.is_file() {
            return Err(Error::new("opening", path, std::io::Error::other("not a regular file")));
        }
        if std::fs::symlink_metadata(path).is_ok_and(|there| there.ino() == opened.ino()) {
            file.set_permissions(PermissionsExt::from_mode(0o600))
                .map_err(|e| Error::new("protecting", path, e))?;
            return Ok(file);
        }
    }
}

fn move_aside(path: &Path) -> Result<SetAside, Error> {
    for n in 1u32.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".aside-{n}"));
        let kept = PathBuf::from(name);
        if !kept.exists() {
            std::fs::rename(path, &kept).map_err(|e| Error::new("moving aside", path, e))?;
            return Ok(SetAside { found: path.to_owned(), kept });
        }
    }
    Err(Error::new("moving aside", path, Errno::EXIST))
}

fn boot_id() -> Result<[u8; 36], Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read(path).map_err(|e| Error::new("reading", path, e))?;
    text.get(..36).and_then(|id| id.try_into().ok()).ok_or_else(|| Error::new("reading", path, Errno::IO))
}
