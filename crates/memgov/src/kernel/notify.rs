//! Being told that something happened: inotify on control files and group directories, and v1's usage thresholds. Hints
//! only: what is true is read from the files afterwards.

use super::{Errno, Error, file};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::ffi::CStr;
use std::io::Write as _;

/// What an [`Inotify`] has to say. `token` is what the caller gave when it asked to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'b> {
    /// A control file changed.
    Changed {
        /// Whose.
        token: u64,
    },
    /// A group was made below a watched directory.
    Created {
        /// Below which.
        token: u64,
        /// Its name.
        name: &'b [u8],
    },
    /// A group below a watched directory was removed.
    Removed {
        /// Below which.
        token: u64,
        /// Its name.
        name: &'b [u8],
    },
    /// What was watched is gone, and the watch with it. Not to be relied on: of a removed group the kernel tells only who watches
    /// its parent, so [`Inotify::unwatch`] is called for every group that is given up.
    Gone {
        /// What.
        token: u64,
    },
    /// The queue overflowed: look at everything.
    Overflow,
}

struct Watch {
    wd: i32,
    token: u64,
    directory: bool,
}

/// Watches on control files and group directories; at most as many as asked for.
pub struct Inotify {
    fd: OwnedFd,
    /// Sorted by `wd`, never beyond its capacity.
    watches: Vec<Watch>,
}

impl Inotify {
    /// An empty one with room for `capacity` watches, allocated now.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| Error::new("opening", "inotify", errno))?;
        Ok(Self { fd, watches: Vec::with_capacity(capacity) })
    }

    /// Watches a control file of an open group: `memory.events`, `cgroup.events`. `NOSPC`: no room here or (sysctl
    /// `fs.inotify.max_user_watches`) in the kernel. `EXIST`: watched already, with another token.
    pub fn watch_file(&mut self, dir: BorrowedFd<'_>, name: &CStr, token: u64) -> Result<(), Errno> {
        let path = file::ShortPath::of_fd(dir, name.to_bytes())?;
        self.add(path.as_c_str(), WatchFlags::MODIFY, token, false)
    }

    /// Watches an open group for groups made and removed directly below it.
    pub fn watch_children(&mut self, dir: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        let path = file::ShortPath::of_fd(dir, b".")?;
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        self.add(path.as_c_str(), flags, token, true)
    }

    fn add(&mut self, path: &CStr, flags: WatchFlags, token: u64, directory: bool) -> Result<(), Errno> {
        if self.watches.len() == self.watches.capacity() {
            return Err(Errno::NOSPC);
        }
        // MASK_CREATE: never silently replaces the watch of another token on the same file.
        let wd = inotify::add_watch(&self.fd, path, flags | WatchFlags::MASK_CREATE)?;
        let at = self.watches.partition_point(|watch| watch.wd < wd);
        self.watches.insert(at, Watch { wd, token, directory });
        Ok(())
    }

    /// Ends all watches of a token.
    pub fn unwatch(&mut self, token: u64) {
        let fd = &self.fd;
        self.watches.retain(|watch| {
            let keep = watch.token != token;
            if !keep {
                // It may be gone already, with what it watched.
                let _ = inotify::remove_watch(fd, watch.wd);
            }
            keep
        });
    }

    /// How many watches there are.
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Gives out what has happened, until nothing is left. `buffer` must hold the longest event: 512 bytes do.
    pub fn read(&mut self, buffer: &mut [u8], f: &mut dyn FnMut(Notice<'_>)) -> Result<(), Errno> {
        loop {
            let n = match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer)) {
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let mut rest = &buffer[..n];
            while let Some((event, tail)) = RawEvent::split(rest) {
                if let Some(notice) = self.notice(&event) {
                    f(notice);
                }
                rest = tail;
            }
        }
    }

    fn notice<'b>(&mut self, event: &RawEvent<'b>) -> Option<Notice<'b>> {
        if event.mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Notice::Overflow);
        }
        let at = self.watches.binary_search_by_key(&event.wd, |watch| watch.wd).ok()?;
        let Watch { token, directory, .. } = self.watches[at];
        if event.mask.contains(ReadFlags::IGNORED) {
            self.watches.remove(at);
            return Some(Notice::Gone { token });
        }
        if !directory {
            return event.mask.contains(ReadFlags::MODIFY).then_some(Notice::Changed { token });
        }
        // Files come and go with controllers; only groups matter.
        let name = event.name;
        if !event.mask.contains(ReadFlags::ISDIR) {
            None
        } else if event.mask.contains(ReadFlags::CREATE) {
            Some(Notice::Created { token, name })
        } else {
            event.mask.contains(ReadFlags::DELETE).then_some(Notice::Removed { token, name })
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct inotify_event`: wd, mask, cookie, length of the NUL-padded name.
struct RawEvent<'b> {
    wd: i32,
    mask: ReadFlags,
    name: &'b [u8],
}

impl<'b> RawEvent<'b> {
    fn split(bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let (wd, rest) = bytes.split_first_chunk::<4>()?;
        let (mask, rest) = rest.split_first_chunk::<4>()?;
        let (_cookie, rest) = rest.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_ne_bytes(*len)).ok()?)?;
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        let mask = ReadFlags::from_bits_retain(u32::from_ne_bytes(*mask));
        Some((Self { wd: i32::from_ne_bytes(*wd), mask, name: &name[..end] }, rest))
    }
}

/// A usage threshold of cgroup v1: readable when usage has crossed `bytes`, in either direction. v2 has none.
#[derive(Debug)]
pub struct Threshold(OwnedFd);

impl Threshold {
    /// On an open group of the v1 memory hierarchy; `NOENT` on v2.
    pub fn arm(dir: BorrowedFd<'_>, bytes: u64) -> Result<Self, Errno> {
        Self::register(dir, super::cgroup::v1::USAGE, Some(bytes))
    }

    /// Likewise, readable when the group is out of memory (`under_oom` of `memory.oom_control`); at once if it is.
    pub fn arm_oom(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        Self::register(dir, super::cgroup::v1::OOM_CONTROL, None)
    }

    fn register(dir: BorrowedFd<'_>, name: &std::ffi::CStr, at: Option<u64>) -> Result<Self, Errno> {
        let about = file::open_in(dir, name)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut order = [0; 48];
        let mut rest = &mut order[..];
        let (event_fd, about_fd) = (event.as_raw_fd(), about.as_raw_fd());
        match at {
            Some(bytes) => write!(rest, "{event_fd} {about_fd} {bytes}"),
            None => write!(rest, "{event_fd} {about_fd}"),
        }
        .map_err(|_| Errno::INVAL)?;
        let left = rest.len();
        let len = order.len() - left;
        file::write_in(dir, c"cgroup.event_control", &order[..len])?;
        // The kernel keeps what it needs: `about` may be closed.
        Ok(Self(event))
    }

    /// How often it was crossed since the last look. The removal of the group counts as one crossing.
    pub fn crossed(&self) -> Result<u64, Errno> {
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut count)) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN) => Ok(0),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Threshold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
