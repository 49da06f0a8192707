/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * What the programs and user space share: map values and event records. `record.rs` mirrors every struct here, and a test
 * compares the two through the BTF of the compiled programs. Only fixed-size fields, no padding left to the compiler.
 */
#ifndef MEMGOV_RECORD_H
#define MEMGOV_RECORD_H

/* "No line": nothing is above it. */
#define NO_LINE (~0ULL)
/* group_slot.high: the kernel's own memory.high counts. */
#define HIGH_OF_KERNEL (~0ULL)
/* A line that is never crossed, whatever the climit on top of it. */
#define HIGH_MAX (~0ULL - 1)

#define PROTECTED_NAMES 32
#define COMM_LEN 16
/* Groups whose sockets are squeezed at once. */
#define MOST_SQUEEZED 64
/* Words of 64 bits of control.ids. */
#define ID_WORDS 64

/* Written by user space through mmap, read by every program. */
struct control {
	/* CLOCK_MONOTONIC; after it no program acts. */
	__u64 lease_until_ns;
	/* Bit n: some group at depth n has a line for usage, or a high. Where no bit fits, programs leave at once. */
	__u64 levels;
	/* Bit n: some group at depth n has a line for kernel memory. Likewise, for the programs about that. */
	__u64 kernel_levels;
	/* At least so far between two Denied events of one group or process, and between two of each kind of crossing. */
	__u64 event_gap_ns;
	/* Field 22 of /proc/PID/stat counts in these. */
	__u64 ns_per_tick;
	/* This thread is refused by this hook (enum hook), whatever it holds: the self-test. */
	__u32 selftest_tid;
	__u32 selftest_hook;
	/* Some process has a limit, or had one. */
	__u32 tasks;
	/* So many names are in use. */
	__u32 protected_count;
	/* bytes */
	__u32 page_size;
	/* So many executables are exempt. */
	__u32 exempt_files;
	/* So many may be killed here; each takes one. The loop takes back what is left before it decides on kills itself. */
	__s64 kills_left;
	/* Which policy is in force: a rule's line that was told for an earlier one is looked at no more. */
	__u32 generation;
	/* Raised whenever other groups have a line for kernel memory: what processors remember of that is worth nothing then. */
	__u32 kernel_generation;
	/* So many groups are in the map of that name. */
	__u32 squeezed;
	__u32 unused;
	char protected_names[PROTECTED_NAMES][COMM_LEN];
	/* Bit n: a group whose id is n, modulo all bits, has a line. Where it is not set none has, and nothing need be looked up. */
	__u64 ids[ID_WORDS];
};

/* One group with a limit, in a mapped array. The first half is user space's to write, the second the programs'. */
struct group_slot {
	__u64 id; /* 0: free */
	__u64 deny_line; /* pages of usage: refused over it */
	__u64 tell_line; /* pages of usage: crossing it is told */
	__u64 kernel_line; /* pages of kernel memory: refused over it */
	__u64 kernel_tell_line; /* pages of kernel memory: crossing it is told */
	__u64 high; /* pages, HIGH_OF_KERNEL or HIGH_MAX */
	__u64 tag;
	__u32 level;
	__u32 kernel_seeded; /* kernel_pages is the whole, not only what was added since somebody began to count */

	__u64 denials;
	__u64 kernel_denials;
	__u64 told_ns; /* the last Denied event */
	__u64 kernel_told_ns; /* the last KernelDenied event */
	__u64 crossed_ns; /* the last Crossed event */
	__u64 kernel_crossed_ns; /* the last KernelCrossed event */
	__u32 crossed; /* over tell_line, and told so */
	__u32 kernel_crossed;
	/* Kept by the live counter. Below 0 for moments, and before it is seeded: what was there before can go away too. */
	__s64 kernel_pages;
	/* Pages that calls of fork under way are going to need... */
	__s64 kernel_pending;
	/* ...and the least that was since somebody looked: what never goes away belongs to no call that still runs. */
	__s64 kernel_pending_least;
};

enum action {
	ACTION_NONE,
	ACTION_DENY,
	ACTION_SIGNAL,
	ACTION_KILL,
	ACTION_TELL,
};

/* task_limit.kinds */
#define KIND_ANON 1u
#define KIND_FILE 2u
#define KIND_SHMEM 4u

/* task_limit.flags */
#define TASK_HIGH 1u /* group_line is the climit above memory.high, not an amount */
#define TASK_HELD 8u /* refused whatever it holds; not inherited */
#define TASK_RULE 16u /* of a rule, and not of the process's own choice */

/* What a process is held to, in the storage of its first thread. */
struct task_limit {
	__u64 group_line; /* pages; NO_LINE: the condition names no group */
	__u64 rss_line; /* pages; NO_LINE: it names no resident memory */
	__u64 group; /* the group whose usage is meant, or the last whose memory.high is; 0: the nearest, or all */
	__u64 tag;
	__u8 action; /* enum action */
	__u8 signal;
	__u8 kinds;
	__u8 flags;
	__u32 sent; /* has been signalled, killed, or told of */
	__u32 generation; /* control.generation it was told for */
	__u32 unused;

	__u64 denials;
	__u64 told_ns;
	__u64 crossed_ns; /* the last CrossedOwn event */
	__u64 room_until_ns; /* CLOCK_MONOTONIC; so long after exec a little is let be */
};

enum event_kind {
	EVENT_CROSSED = 1,
	EVENT_DENIED,
	EVENT_SIGNALLED,
	EVENT_KILLED,
	EVENT_OOM_ENTER,
	EVENT_OOM_VICTIM,
	EVENT_EXIT,
	EVENT_CROSSED_OWN,
	EVENT_KERNEL_CROSSED, /* usage and limit are of kernel memory, likewise in the next */
	EVENT_KERNEL_DENIED,
	EVENT_BIRTH, /* a connection, in this squeezed group or below it: nothing else is told */
};

struct event {
	__u32 kind; /* enum event_kind */
	__u32 tgid;
	__u64 start_ns; /* CLOCK_BOOTTIME */
	__u64 group;
	__u64 tag; /* OOM_ENTER, OOM_VICTIM: so many before it in this group were not told */
	__u64 usage; /* pages */
	__u64 limit; /* pages */
	__u64 rss_anon; /* pages, likewise the next two; NO_LINE: not looked at */
	__u64 rss_file;
	__u64 rss_shmem;
	__u64 at_ns; /* CLOCK_MONOTONIC */
	__u32 signal;
	__u32 hook; /* enum hook */
	__u32 uid; /* real, of the process */
	__u32 own; /* DENIED: by its own line, not by a group's */
	char comm[COMM_LEN];
};

struct exempt_key {
	__u64 start_ticks;
	__u32 tgid;
	__u32 unused;
};

/*
 * An executable whose processes are exempt: inode number, and device as the kernel keeps it (include/linux/kdev_t.h: major << 20 | minor).
 * The value: those of real uids under this.
 */
struct exempt_file {
	__u64 inode;
	__u64 device;
};

/* Indices of the statistics. */
enum hook {
	HOOK_MMAP_ADDR,
	HOOK_FILE_MPROTECT,
	HOOK_CHARGE,
	HOOK_RSS,
	HOOK_OOM,
	HOOK_VICTIM,
	HOOK_FORK,
	HOOK_EXEC,
	HOOK_EXIT,
	HOOK_LOST_EVENTS, /* calls: no room in the ring */
	HOOK_LOST_CHILDREN, /* calls: a child could not be given its parent's limit */
	HOOK_KERNEL_MEMORY,
	HOOK_TASK_ALLOC,
	HOOK_INODE_CREATE,
	HOOK_INODE_MKDIR,
	HOOK_INODE_MKNOD,
	HOOK_INODE_SYMLINK,
	HOOK_INODE_LINK,
	HOOK_INODE_SETXATTR,
	HOOK_FILE_ALLOC,
	HOOK_SK_ALLOC,
	HOOK_SOCKET_SENDMSG,
	HOOK_FILE_FCNTL,
	HOOK_KERNEL_MPROTECT,
	HOOK_KERNEL_FORKS,
	HOOK_MSG_QUEUE_ALLOC,
	HOOK_MSG_MSG_ALLOC,
	HOOK_SEM_ALLOC,
	HOOK_ACCEPT,
	HOOK_CONNECT,
	HOOK_SOCKET_CHARGE,
	HOOK_COUNT,
};

struct hook_stats {
	__u64 calls;
	__u64 acted;
};

/* One reading of a group by the iterator; amounts in pages, limits as the kernel keeps them (LONG_MAX / page size: none). */
struct group_record {
	__u64 id;
	__u64 usage;
	__u64 high;
	__u64 max;
	__u64 swap; /* v1: memory and swap together */
	__u64 failcnt; /* v1 */
	__u64 high_events;
	__u64 max_events;
	__u64 oom_events;
	__u64 oom_kills;
	__u64 oom_group;
};

/* How far a pass got. Zeroed by user space before it. */
struct group_pass {
	__u64 seen; /* groups with the memory controller; those past the end of the array are only counted */
	__u64 complete;
};

#endif
