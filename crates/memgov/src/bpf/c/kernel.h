/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * The fields of the kernel's structures that are used, and nothing else: libbpf finds where they lie on the kernel at hand
 * (CO-RE). A name with ___ is another layout of the structure before it.
 */
#ifndef MEMGOV_KERNEL_H
#define MEMGOV_KERNEL_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef signed short __s16;
typedef unsigned int __u32;
typedef signed int __s32;
typedef unsigned long long __u64;
typedef signed long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* include/uapi/linux/bpf.h */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_MAP_TYPE_TASK_STORAGE 29
#define BPF_F_NO_PREALLOC 1
#define BPF_F_MMAPABLE 1024
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define ENOMEM 12
#define SIGKILL 9
#define OOM_SCORE_ADJ_MIN (-1000)

/* include/linux/sched.h, include/linux/mm.h, include/uapi/linux/sched.h: the same for many years */
#define PF_KTHREAD 0x00200000
#define PF_EXITING 0x00000004
#define VM_ACCESS 7 /* read, write, execute: the same bits as those of mprotect */
#define VM_WRITE 2
#define VM_SHARED 8
#define PROT_WRITE 2
#define CLONE_VM 0x00000100
#define CLONE_THREAD 0x00010000
/* include/uapi/linux/stat.h, include/uapi/linux/fcntl.h, include/linux/socket.h */
#define S_IFMT 0170000
#define S_IFIFO 0010000
#define F_SETPIPE_SZ 1031
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
/* include/linux/preempt.h: hard and soft interrupts being served, and NMI */
#define IN_INTERRUPT 0x00ff0100

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;
typedef atomic64_t atomic_long_t;

struct kernfs_node {
	__u64 id;
};

struct cgroup_subsys_state;

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_subsys_state *subsys[1];
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
	unsigned int flags;
};

enum cgroup_subsys_id {
	memory_cgrp_id = 4,
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
};

struct page_counter {
	atomic_long_t usage;
	unsigned long high;
	unsigned long max;
	unsigned long failcnt; /* v1 */
};

/* enum memcg_memory_event in include/linux/memcontrol.h: the order of memory.events */
#define MEMCG_HIGH 1
#define MEMCG_MAX 2
#define MEMCG_OOM 3
#define MEMCG_OOM_KILL 4

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct page_counter swap; /* v2 */
	bool oom_group;
	atomic_long_t memory_events[MEMCG_OOM_KILL + 1];
};

enum memcg_stat_item {
	/* pages of kernel memory; `kernel` in memory.stat */
	MEMCG_KMEM = 1,
};

/* before 6.2 */
struct mm_rss_stat {
	atomic_long_t count[4];
};

struct task_rss_stat {
	int count[4];
};

/* since 6.2 */
struct percpu_counter {
	__s64 count;
};

struct mm_struct {
	unsigned long flags;
	unsigned long total_vm; /* pages, likewise the next */
	unsigned long data_vm;
	unsigned long brk;
	int map_count;
	atomic_long_t pgtables_bytes;
	struct file *exe_file;
	struct task_struct *owner;
};

struct mm_struct___before_6_2 {
	struct mm_rss_stat rss_stat;
};

struct mm_struct___since_6_2 {
	struct percpu_counter rss_stat[4];
};

enum {
	MM_FILEPAGES = 0,
	MM_ANONPAGES = 1,
	MM_SHMEMPAGES = 3,
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct signal_struct {
	atomic_t live;
	short oom_score_adj;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	unsigned in_execve : 1;
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct css_set *cgroups;
	const struct cred *real_cred;
	__u64 start_boottime;
	char comm[16];
};

/* Not of x86: what a thread is doing is kept with it. */
struct thread_info {
	int preempt_count;
	struct {
		__u32 count;
	} preempt; /* arm64 */
};

struct task_struct___with_thread_info {
	struct thread_info thread_info;
};

struct task_struct___before_6_2 {
	struct task_rss_stat rss_stat;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
};

struct kernel_clone_args {
	__u64 flags;
};

struct super_block {
	__u32 s_dev;
};

struct inode {
	__u16 i_mode;
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct pipe_inode_info {
	unsigned int ring_size; /* pages */
};

struct sock_common {
	unsigned short skc_family;
};

struct sock {
	struct sock_common __sk_common;
	struct mem_cgroup *sk_memcg;
};

struct socket {
	struct sock *sk;
};

/* Only handed through. */
struct dentry;
struct msghdr;
struct msg_msg;
struct kern_ipc_perm;

struct oom_control {
	struct mem_cgroup *memcg;
};

struct linux_binprm;
struct kernel_clone_args;

/* since 6.2; before and after it the counter is a variable of its own */
struct pcpu_hot {
	int preempt_count;
};

#pragma clang attribute pop

extern const struct pcpu_hot pcpu_hot __ksym __weak;
extern const int __preempt_count __ksym __weak;

#endif
