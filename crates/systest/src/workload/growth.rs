//! Taking memory step by step and watching, by its own eyes, when the group goes over a line.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::sys::memory::{self, Mapping};
use crate::sys::{Errno, length, now};

/// The most steps held at once: 1 GiB in 64 KiB steps.
const MAX_STEPS: usize = 1 << 14;

/// What a step is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Mapped, then written page by page.
    Anon,
    /// Mapped and filled by one call.
    Populate,
    /// Mapped, then locked.
    Mlock,
    /// Anonymous, filled with what does not compress: on zram it takes what it takes.
    Noise,
    /// Shared memory.
    Shmem,
    /// Pages of a file, read through a mapping.
    File,
}

impl Kind {
    /// By its name in the protocol.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "anon" => Self::Anon,
            "populate" => Self::Populate,
            "mlock" => Self::Mlock,
            "noise" => Self::Noise,
            "shmem" => Self::Shmem,
            "file" => Self::File,
            _ => return None,
        })
    }
}

/// How to grow.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Of what.
    pub kind: Kind,
    /// Bytes a step.
    pub step: u64,
    /// Nanoseconds from the end of one step to the next; 0 is full speed.
    pub interval: u64,
    /// Stops there.
    pub upto: u64,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Taken.
    Taken,
    /// Taken, after having been refused.
    Resumed,
    /// Refused for the first time.
    Refused(Errno),
    /// Still refused.
    StillRefused,
    /// There is as much as was asked for.
    Full,
}

/// A file of the group and the line its number is compared with.
struct Watch {
    file: OwnedFd,
    line: u64,
    crossed: bool,
}

/// Everything taken.
pub struct Growth {
    steps: Box<[(usize, usize)]>,
    count: usize,
    held: u64,
    file: Option<OwnedFd>,
    file_end: u64,
    refused: bool,
    watch: Option<Watch>,
}

impl Growth {
    /// Nothing taken; room for all steps.
    pub fn new() -> Self {
        let steps = vec![(0, 0); MAX_STEPS].into_boxed_slice();
        Self { steps, count: 0, held: 0, file: None, file_end: 0, refused: false, watch: None }
    }
    /// Bytes held.
    pub const fn held(&self) -> u64 {
        self.held
    }
    /// The file that steps of kind `file` map.
    pub fn use_file(&mut self, file: OwnedFd) {
        self.file = Some(file);
        self.file_end = 0;
    }
    /// From now on the number in `file` is compared with `line` after each step.
    pub fn watch(&mut self, file: OwnedFd, line: u64) {
        self.watch = Some(Watch { file, line, crossed: false });
    }

    /// Takes one step.
    pub fn step(&mut self, plan: &Plan) -> Step {
        if self.held.saturating_add(plan.step) > plan.upto || self.count == MAX_STEPS {
            return Step::Full;
        }
        match self.take(plan.kind, length(plan.step)) {
            Ok(address) => {
                self.steps[self.count] = (address, length(plan.step));
                self.count += 1;
                self.held += plan.step;
                if std::mem::take(&mut self.refused) { Step::Resumed } else { Step::Taken }
            }
            Err(_) if self.refused => Step::StillRefused,
            Err(errno) => {
                self.refused = true;
                Step::Refused(errno)
            }
        }
    }

    fn take(&mut self, kind: Kind, size: usize) -> Result<usize, Errno> {
        let mapping = match kind {
            Kind::Anon | Kind::Mlock | Kind::Noise => Mapping::Anon,
            Kind::Populate => Mapping::Populate,
            Kind::Shmem => Mapping::Shared,
            Kind::File => self.next_of_file(size)?,
        };
        let address = memory::map(size, mapping)?;
        match kind {
            Kind::Anon | Kind::Shmem => memory::touch(address, size),
            Kind::Noise => memory::fill_with_noise(address, size),
            Kind::File => {
                self.file_end += size as u64;
                memory::read_pages(address, size);
            }
            Kind::Mlock => memory::lock(address, size).inspect_err(|_| {
                let _undone = memory::unmap(address, size);
            })?,
            Kind::Populate => {}
        }
        Ok(address)
    }

    fn next_of_file(&self, size: usize) -> Result<Mapping, Errno> {
        let file = self.file.as_ref().ok_or(libc::EBADF)?;
        rustix::fs::ftruncate(file, self.file_end + size as u64).map_err(rustix::io::Errno::raw_os_error)?;
        let offset = i64::try_from(self.file_end).map_err(|_| libc::EOVERFLOW)?;
        Ok(Mapping::File { fd: file.as_fd().as_raw_fd(), offset })
    }

    /// Gives the last steps back until no more than `upto` is held.
    pub fn shrink(&mut self, upto: u64) -> Result<(), Errno> {
        while self.held > upto && self.count > 0 {
            let (address, size) = self.steps[self.count - 1];
            memory::unmap(address, size)?;
            self.count -= 1;
            self.held -= size as u64;
        }
        // Clean pages of the file stay charged until they are cut off.
        if self.held == 0
            && let Some(file) = &self.file
        {
            self.file_end = 0;
            rustix::fs::ftruncate(file, 0).map_err(rustix::io::Errno::raw_os_error)?;
        }
        Ok(())
    }

    /// The usage, the first time it is seen over the line.
    pub fn crossing(&mut self) -> Option<u64> {
        let watch = self.watch.as_mut().filter(|watch| !watch.crossed)?;
        let usage = read_number(&watch.file)?;
        watch.crossed = usage > watch.line;
        watch.crossed.then_some(usage)
    }

    /// The number in the watched file.
    pub fn usage(&self) -> Option<u64> {
        read_number(&self.watch.as_ref()?.file)
    }
}

/// When a step that crosses the line began: the crossing cannot be earlier.
pub fn timed_step(growth: &mut Growth, plan: &Plan) -> (u64, Step) {
    let begin = now();
    (begin, growth.step(plan))
}

fn read_number(file: &OwnedFd) -> Option<u64> {
    let mut text = [0; 32];
    let count = rustix::io::pread(file, &mut text, 0).ok()?;
    std::str::from_utf8(&text[..count]).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_mark_and_gives_back() {
        let mut growth = Growth::new();
        for kind in ["anon", "populate", "shmem", "noise"] {
            let kind = Kind::named(kind).unwrap();
            let plan = Plan { kind, step: 65536, interval: 0, upto: 3 * 65536 + 100 };
            for _ in 0..3 {
                assert_eq!(growth.step(&plan), Step::Taken, "{kind:?}");
            }
            assert_eq!(growth.step(&plan), Step::Full, "{kind:?}");
            assert_eq!(growth.held(), 3 * 65536);
            growth.shrink(65536).unwrap();
            assert_eq!(growth.held(), 65536);
            growth.shrink(0).unwrap();
            assert_eq!(growth.held(), 0);
        }
        assert_eq!(Kind::named("swap"), None);
        let file = Plan { kind: Kind::File, step: 4096, interval: 0, upto: u64::MAX };
        assert_eq!(growth.step(&file), Step::Refused(libc::EBADF), "no file was named");
        assert_eq!(growth.step(&file), Step::StillRefused);
    }
}
