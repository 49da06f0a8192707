//! The programs and the ways to attach each, the preferred one first. Nothing here decides when.

use super::load::Source;
use super::record::StatId;
use super::selftest::Proof;
use super::{Hook, How};

/// One program and the ways to attach it.
pub(super) struct Program {
    /// What it is attached to.
    pub name: &'static str,
    pub set: Option<Hook>,
    pub stat: StatId,
    pub source: Source,
    pub ways: &'static [(How, &'static str)],
    pub proof: Option<Proof>,
}

type Ways = &'static [(How, &'static str)];

const fn telling(name: &'static str, set: Option<Hook>, stat: StatId, source: Source, ways: Ways) -> Program {
    Program { name, set, stat, source, ways, proof: None }
}

const fn refusing(name: &'static str, stat: StatId, proof: Proof, ways: Ways) -> Program {
    Program { name, set: Some(Hook::Deny), stat, source: Source::Deny, ways, proof: Some(proof) }
}

const fn ceiling(name: &'static str, stat: StatId, proof: Proof, ways: Ways) -> Program {
    Program { name, set: Some(Hook::Kernel), stat, source: Source::Ceiling, ways, proof: Some(proof) }
}

/// By lsm, and behind it by fmod_ret, where bpf is not among the security modules. A program by fmod_ret is not run while another run of it stands still on the
/// same processor (kernel preemption; `bpf_prog_check_recur` in include/linux/bpf_verifier.h), and what it should have refused is let through; lsm programs
/// know no such exception.
macro_rules! twice {
    ($name:literal) => {
        &[(How::Lsm, concat!($name, "_lsm")), (How::FmodRet, concat!($name, "_fmod"))]
    };
}

/// In the order they are attached: what follows limits comes first, so that no child is missed, and what counts before what
/// refuses by the count.
#[rustfmt::skip]
pub(super) static PROGRAMS: [Program; 32] = [
    telling("task_newtask", None, StatId::Fork, Source::Life, &[(How::Tracepoint, "fork_inherits")]),
    telling("begin_new_exec", None, StatId::Exec, Source::Life, &[(How::Fentry, "exec_keeps")]),
    telling("sched_process_exit", None, StatId::Exit, Source::Life, &[(How::Tracepoint, "exit_tells")]),
    refusing("security_mmap_addr", StatId::MmapAddr, Proof::MmapAddr, twice!("mmap_addr")),
    refusing("security_file_mprotect", StatId::FileMprotect, Proof::FileMprotect, twice!("file_mprotect")),
    telling("page_counter_try_charge", Some(Hook::Charge), StatId::Charge, Source::Charge, &[(How::Fexit, "charge")]),
    telling("page_counter_charge", Some(Hook::Charge), StatId::Charge, Source::Charge, &[(How::Fexit, "charge_all_the_same")]),
    telling("rss_stat", Some(Hook::Rss), StatId::Rss, Source::Rss, &[(How::Tracepoint, "rss_changes")]),
    telling("out_of_memory", Some(Hook::Oom), StatId::Oom, Source::Oom, &[(How::Fentry, "oom_enters")]),
    telling("mark_victim", Some(Hook::Oom), StatId::Victim, Source::Oom, &[(How::Tracepoint, "oom_takes")]),
    telling("security_sock_graft", Some(Hook::Sockets), StatId::Accept, Source::Sockets, &[(How::Fentry, "accepted")]),
    telling("inet_sock_set_state", Some(Hook::Sockets), StatId::Connect, Source::Sockets, &[(How::Tracepoint, "connected")]),
    // The second name of this and of the next is that of kernels since 6.18.
    telling("mem_cgroup_charge_skmem", Some(Hook::Sockets), StatId::SocketCharge, Source::Sockets,
        &[(How::Fexit, "charge_sockets"), (How::Fexit, "charge_sockets_6_18")]),
    telling("__mod_memcg_state", Some(Hook::Kernel), StatId::KernelMemory, Source::Counter,
        &[(How::Fentry, "kernel_memory"), (How::Fentry, "kernel_memory_6_18")]),
    telling("kernel_clone", Some(Hook::Kernel), StatId::KernelForks, Source::Forks, &[(How::Fentry, "fork_begins")]),
    telling("kernel_clone (return)", Some(Hook::Kernel), StatId::KernelForks, Source::Forks, &[(How::Fexit, "fork_fails")]),
    telling("task_newtask (forks)", Some(Hook::Kernel), StatId::KernelForks, Source::Forks, &[(How::Tracepoint, "fork_succeeds")]),
    ceiling("security_task_alloc", StatId::TaskAlloc, Proof::TaskAlloc, twice!("task_alloc")),
    ceiling("security_inode_create", StatId::InodeCreate, Proof::InodeCreate, twice!("inode_create")),
    ceiling("security_inode_mkdir", StatId::InodeMkdir, Proof::InodeMkdir, twice!("inode_mkdir")),
    ceiling("security_inode_mknod", StatId::InodeMknod, Proof::InodeMknod, twice!("inode_mknod")),
    ceiling("security_inode_symlink", StatId::InodeSymlink, Proof::InodeSymlink, twice!("inode_symlink")),
    ceiling("security_inode_link", StatId::InodeLink, Proof::InodeLink, twice!("inode_link")),
    ceiling("security_inode_setxattr", StatId::InodeSetxattr, Proof::InodeSetxattr, twice!("inode_setxattr")),
    ceiling("security_file_alloc", StatId::FileAlloc, Proof::FileAlloc, twice!("file_alloc")),
    ceiling("security_sk_alloc", StatId::SkAlloc, Proof::SkAlloc, twice!("sk_alloc")),
    ceiling("security_socket_sendmsg", StatId::SocketSendmsg, Proof::SocketSendmsg, twice!("socket_sendmsg")),
    ceiling("security_msg_queue_alloc", StatId::MsgQueueAlloc, Proof::MsgQueueAlloc, twice!("msg_queue_alloc")),
    ceiling("security_msg_msg_alloc", StatId::MsgMsgAlloc, Proof::MsgMsgAlloc, twice!("msg_msg_alloc")),
    ceiling("security_sem_alloc", StatId::SemAlloc, Proof::SemAlloc, twice!("sem_alloc")),
    ceiling("security_file_fcntl", StatId::FileFcntl, Proof::FileFcntl, twice!("file_fcntl")),
    ceiling("security_file_mprotect", StatId::KernelMprotect, Proof::KernelMprotect, twice!("kernel_mprotect")),
];

/// The names of the programs that follow limits, which are loaded with the maps.
pub(super) fn programs_of_life() -> Vec<&'static str> {
    let life = PROGRAMS.iter().filter(|program| program.set.is_none());
    life.flat_map(|program| program.ways).map(|(_, name)| *name).collect()
}

/// The programs of a file that are attached this way and are no alternatives to each other.
pub(super) fn programs_of(source: Source, how: How) -> Vec<&'static str> {
    let own = PROGRAMS.iter().filter(|program| program.source == source);
    own.filter_map(|program| program.ways.iter().find(|(it, _)| *it == how)).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::load;

    #[test]
    fn every_way_is_a_program_and_every_program_a_way() {
        let objects = [Source::Life, Source::Deny, Source::Counter].map(|source| load::open(source).unwrap());
        let names = objects.iter().flat_map(|object| object.progs());
        let mut there: Vec<String> = names.map(|it| it.name().to_string_lossy().into_owned()).collect();
        let ways = PROGRAMS.iter().flat_map(|it| it.ways);
        let mut named: Vec<String> = ways.map(|(_, name)| (*name).to_owned()).collect();
        there.sort();
        named.sort();
        assert_eq!(there, named);
    }

    #[test]
    fn a_program_has_one_name() {
        let mut names: Vec<&str> = PROGRAMS.iter().flat_map(|it| it.ways).map(|(_, name)| *name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn what_refuses_is_proven() {
        for program in &PROGRAMS {
            let refuses = program.ways.iter().any(|(how, _)| matches!(how, How::FmodRet | How::Lsm));
            assert_eq!(refuses, program.proof.is_some(), "{}", program.name);
        }
    }
}
