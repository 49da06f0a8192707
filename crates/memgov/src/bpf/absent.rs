//! The tier of a build without the feature `bpf`: there is none. These types have no values, so nothing here runs but `load`.

use super::{
    Absent, Comm, Error, Event, ExemptBy, ExemptFile, GroupLimit, GroupRecord, HookStatus, Hooks, Hot, Lost,
    Options, Parts, Seeding, TaskLimit,
};
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::{Bytes, Time};
use rustix::fd::BorrowedFd;
use std::sync::Arc;

enum Never {}

/// As in a build with the feature `bpf`.
pub struct Tier(Never);
/// As in a build with the feature `bpf`.
pub struct Maps(Never);
/// As in a build with the feature `bpf`.
pub struct Events(Never);
/// As in a build with the feature `bpf`.
pub struct Attachments(Never);
/// As in a build with the feature `bpf`.
pub struct GroupPass(Never);
/// As in a build with the feature `bpf`.
pub struct RunStats(Never);

const WITHOUT: &str = "this memgov was built without the cargo feature `bpf`";

#[allow(missing_docs, reason = "documented where they do something")]
impl Tier {
    pub fn load(_: &Options) -> Result<Result<Self, Absent>, Error> {
        Ok(Err(Absent { reason: WITHOUT.to_owned() }))
    }
    pub fn into_parts(self) -> Parts {
        match self.0 {}
    }
    pub fn maps(&self) -> &Arc<Maps> {
        match self.0 {}
    }
    pub fn require(&mut self, _: Hooks) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn in_force(&self) -> Hooks {
        match self.0 {}
    }
    pub fn hooks(&self) -> Vec<HookStatus> {
        match self.0 {}
    }
    pub fn lost(&self) -> Lost {
        match self.0 {}
    }
    pub fn events(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
    pub fn drain(&mut self, _: &mut dyn FnMut(&Event) -> bool) {
        match self.0 {}
    }
}

impl std::ops::Deref for Tier {
    type Target = Maps;

    fn deref(&self) -> &Maps {
        match self.0 {}
    }
}

#[allow(missing_docs, reason = "documented where they do something")]
impl Maps {
    pub fn set_group(&self, _: GroupId, _: &GroupLimit) -> Hot {
        match self.0 {}
    }
    pub fn clear_group(&self, _: GroupId) -> Hot {
        match self.0 {}
    }
    pub fn set_process(&self, _: BorrowedFd<'_>, _: &TaskLimit) -> Hot {
        match self.0 {}
    }
    pub fn clear_process(&self, _: BorrowedFd<'_>) -> Hot {
        match self.0 {}
    }
    pub fn process(&self, _: BorrowedFd<'_>) -> Option<(u64, u64)> {
        match self.0 {}
    }
    pub fn protect(&self, _: &[Comm], _: &[ExemptFile]) -> Hot {
        match self.0 {}
    }
    pub fn exempt(&self, _: ProcessId, _: ExemptBy, _: bool) -> Hot {
        match self.0 {}
    }
    pub fn renew(&self, _: Time) {
        match self.0 {}
    }
    pub fn go_on(&self, _: Time) {
        match self.0 {}
    }
    pub fn end_lease(&self) {
        match self.0 {}
    }
    pub fn allow_kills(&self, _: u32) {
        match self.0 {}
    }
    pub fn allow_more_kills(&self, _: i64) {
        match self.0 {}
    }
    pub fn kills_left(&self) -> i64 {
        match self.0 {}
    }
    pub fn take_back_kills(&self) -> i64 {
        match self.0 {}
    }
    pub fn begin_generation(&self) {
        match self.0 {}
    }
    pub fn end_generation(&self) {
        match self.0 {}
    }
    pub fn denials_of(&self, _: GroupId) -> Option<u64> {
        match self.0 {}
    }
    pub fn kernel_denials_of(&self, _: GroupId) -> Option<u64> {
        match self.0 {}
    }
    pub fn squeeze(&self, _: &[GroupId], _: &[GroupId]) -> Hot {
        match self.0 {}
    }
    pub fn socket_refusals_of(&self, _: GroupId) -> Hot<u64> {
        match self.0 {}
    }
    pub fn kernel_usage(&self, _: GroupId) -> Option<Bytes> {
        match self.0 {}
    }
    pub fn seed_kernel(&self, _: GroupId, _: &mut dyn FnMut() -> Hot<Bytes>) -> Hot<Seeding> {
        match self.0 {}
    }
    pub fn sync_kernel(&self, _: GroupId, _: Bytes, _: &mut dyn FnMut() -> Hot<Bytes>) -> Hot<Seeding> {
        match self.0 {}
    }
}

#[allow(missing_docs, reason = "documented where they do something")]
impl Events {
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
    pub fn drain(&mut self, _: &mut dyn FnMut(&Event) -> bool) {
        match self.0 {}
    }
}

#[allow(missing_docs, reason = "documented where they do something")]
impl Attachments {
    pub fn maps(&self) -> &Maps {
        match self.0 {}
    }
    pub fn require(&mut self, _: Hooks) -> Result<(), Error> {
        match self.0 {}
    }
    pub fn in_force(&self) -> Hooks {
        match self.0 {}
    }
    pub fn hooks(&self) -> Vec<HookStatus> {
        match self.0 {}
    }
    pub fn lost(&self) -> Lost {
        match self.0 {}
    }
}

#[allow(missing_docs, reason = "documented where they do something")]
impl RunStats {
    pub fn enable() -> Result<Self, Error> {
        Err(Error(WITHOUT.to_owned()))
    }
}

#[allow(missing_docs, reason = "documented where they do something")]
impl GroupPass {
    pub fn load(_: BorrowedFd<'_>, _: u32) -> Result<Self, Absent> {
        Err(Absent { reason: WITHOUT.to_owned() })
    }
    pub fn read(&mut self) -> Hot<u64> {
        match self.0 {}
    }
    pub fn ids(&self) -> impl Iterator<Item = (u32, GroupId)> {
        std::iter::empty()
    }
    pub fn record(&self, _: u32) -> Option<GroupRecord> {
        match self.0 {}
    }
}
