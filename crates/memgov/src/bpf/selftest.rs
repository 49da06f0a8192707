//! Proof by refusal: that a program is attached says nothing about whether it is ever called. The calling thread asks to be refused, makes
//! the calls, and takes that back. Between the two nothing but those calls is made: everything would be refused.

use super::raw::Trials;
use super::record::Control;
use crate::kernel::Errno;
use std::sync::atomic::Ordering::SeqCst;

/// What a program must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// mmap, brk and mremap.
    MmapAddr,
    /// mprotect to writable.
    FileMprotect,
}

type Call = (&'static str, fn(&mut Trials) -> Result<(), Errno>);

impl Proof {
    fn calls(self) -> &'static [Call] {
        match self {
            Self::MmapAddr => &[
                ("mmap", |trials| trials.mmap()),
                ("brk", |trials| trials.brk()),
                ("mremap", |trials| trials.mremap()),
            ],
            Self::FileMprotect => &[("mprotect", |trials| trials.mprotect())],
        }
    }
}

/// At most so many calls a proof.
const CALLS: usize = 3;

/// Makes the calls, refused and granted. `Err`: which did not go as it must.
pub(super) fn prove(proof: Proof, control: &Control) -> Result<(), String> {
    let mut trials = Trials::new().map_err(|errno| format!("memory for the self-test: {errno}"))?;
    let calls = proof.calls();
    let mut refused = [Ok(()); CALLS];
    let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    control.selftest_tid.store(thread, SeqCst);
    for (result, (_, call)) in refused.iter_mut().zip(calls) {
        *result = call(&mut trials);
    }
    control.selftest_tid.store(0, SeqCst);
    for (result, (name, call)) in refused.iter().zip(calls) {
        match result {
            Err(Errno::NOMEM) => {}
            Ok(()) => {
                return Err(format!("{name} was not refused in the self-test: the program is not called"));
            }
            Err(errno) => {
                return Err(format!("{name} failed with {errno} in the self-test, not with ENOMEM"));
            }
        }
        if let Err(errno) = call(&mut trials) {
            return Err(format!("{name} is refused ({errno}) although nothing is asked for"));
        }
    }
    Ok(())
}
