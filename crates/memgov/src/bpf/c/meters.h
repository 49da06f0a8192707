/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * Reading what is compared: usage of memory control groups and resident memory of a process.
 *
 * Groups are walked by the parents of the subsystem state, with typed loads that cost next to nothing: the same on v1 and v2, a
 * group without the memory controller is passed over as the kernel does, and no array of ancestors is needed.
 */
#ifndef MEMGOV_METERS_H
#define MEMGOV_METERS_H

#include "maps.h"

/* No group at this depth or below it has a limit: user space sets none there. Whoever is nested deeper is below those above all the same. */
#define MAX_DEPTH 64
/* Of a walk to the root. A group costs kernel memory, so nobody is nested deeper. */
#define MOST_STEPS (1 << 16)

/*
 * A clang that merges loads computes their offsets at run time, which the verifier refuses for typed pointers, and one that moves a load makes it
 * several; a value it knows nothing about after each of them keeps them where they are.
 */
#define KEEP_APART(value) asm volatile("" : "+r"(value))

/*
 * What a thread leads to, read once and before anything is decided. The verifier trusts the pointer to the running thread and those in a program's arguments, and since 6.2 each
 * load of a pointer from one that it trusts makes it look through the names of all the kernel's types up to four times (btf_nested_type_is_trusted in
 * kernel/bpf/verifier.c), in each state in which it comes by. That was three quarters of the time that loading took on 6.12. What these lead to in turn
 * is not asked about.
 */
struct self {
	struct task_struct *task;
	struct task_struct *leader;
	struct mm_struct *mm;
};

static __always_inline struct self self_of(struct task_struct *task)
{
	struct self self = { .task = task, .leader = task->group_leader };

	KEEP_APART(self.leader);
	self.mm = task->mm;
	KEEP_APART(self.mm);
	return self;
}

/* The group whose kernel memory a thread is charged to. */
static __always_inline struct cgroup_subsys_state *memory_of(struct task_struct *task)
{
	struct cgroup_subsys_state *css = task->cgroups->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)];

	KEEP_APART(css);
	return css;
}

/*
 * Whose memory a process maps and touches: of who owns its address space (get_mem_cgroup_from_mm in mm/memcontrol.c), which is another where a
 * child was cloned with CLONE_VM. User pages are charged to the owner's group, wherever the child is; kernel memory to the running one's. NULL while
 * nobody is left to own it: then the kernel charges the root, which has no line.
 */
static __always_inline struct task_struct *owner_of(const struct self *self)
{
	return self->mm->owner;
}

static __always_inline __u64 id_of(struct cgroup_subsys_state *css)
{
	return css->cgroup->kn->id;
}

/* The state is the first member of its mem_cgroup, but the verifier does not know what it is a member of: hence a read by helper. */
static __always_inline __u64 usage_of(struct cgroup_subsys_state *css)
{
	struct mem_cgroup *memcg = (void *)css;
	__s64 pages = 0;

	bpf_core_read(&pages, sizeof(pages), &memcg->memory.usage);
	return pages < 0 ? 0 : pages;
}

static __always_inline __u64 high_of(struct cgroup_subsys_state *css)
{
	struct mem_cgroup *memcg = (void *)css;
	unsigned long pages = ~0UL;

	bpf_core_read(&pages, sizeof(pages), &memcg->memory.high);
	/* PAGE_COUNTER_MAX is LONG_MAX pages' worth of bytes; nothing that large is meant as a line. */
	return pages >= (1ULL << 48) ? HIGH_MAX : pages;
}

/* Where a group's slot is. NULL: it has none. */
static __always_inline __u32 *place_of(__u64 id)
{
	return bpf_map_lookup_elem(&groups, &id);
}

/* Between the look for its place and this one the slot may have become another's. */
static __always_inline struct group_slot *slot_at(__u32 *place, __u64 id)
{
	struct group_slot *slot = bpf_map_lookup_elem(&slots, place);

	return slot && slot->id == id ? slot : NULL;
}

static __always_inline struct group_slot *slot_of(__u64 id)
{
	__u32 *place = place_of(id);

	return place ? slot_at(place, id) : NULL;
}

/* Read at each step, not counted down: a number that is another at each step keeps the verifier from seeing that all steps are alike. */
static __always_inline __u32 level_of(struct cgroup_subsys_state *css)
{
	return css->cgroup->level;
}

/* Whether a group with a slot can be at this depth; and whether one can be at it or above. */
static __always_inline bool governed(__u64 levels, __u32 level)
{
	return level < MAX_DEPTH && levels & (1ULL << level);
}

static __always_inline bool governed_above(__u64 levels, __u32 level)
{
	return level < MAX_DEPTH ? levels & (~0ULL >> (63 - level)) : levels;
}

/* Whether this group can have a slot. */
static __always_inline bool may_have_slot(__u64 id)
{
	return control.ids[id / 64 % ID_WORDS] & (1ULL << id % 64);
}

/* So many steps up are made one by one: a call of bpf_loop costs more than they do. */
#define FEW_STEPS 6

/* From this group up the first that can have a slot. NULL: none has. After a few steps whatever they led to. */
static __always_inline struct cgroup_subsys_state *nearest(struct cgroup_subsys_state *css, __u64 levels)
{
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < FEW_STEPS; i++) {
		__u32 level;

		if (!css)
			return NULL;
		level = level_of(css);
		if (!governed_above(levels, level))
			return NULL;
		if (governed(levels, level) && may_have_slot(id_of(css)))
			return css;
		css = css->parent;
	}
	return css;
}

/* Pages of a process by kind. */
struct resident {
	__u64 file;
	__u64 anon;
	__u64 shmem;
};

/* A counter may be below 0 for a moment. */
#define READ_KIND(into, load)                   \
	do {                                    \
		__s64 pages = (load);           \
		KEEP_APART(pages);              \
		(into) = pages > 0 ? pages : 0; \
	} while (0)

/*
 * Of the process that is running. Before 6.2 each thread keeps up to 64 pages to itself, and its own are
 * known here. Since then processors do, less than 32 pages each of each kind, and they are left out.
 */
static __always_inline struct resident resident_of(const struct self *self)
{
	struct resident resident;

	if (bpf_core_type_exists(struct mm_rss_stat)) {
		struct mm_struct___before_6_2 *mm = (void *)self->mm;
		struct task_struct___before_6_2 *own = (void *)self->task;
		__s64 all[4] = {};

		/* The verifier of these kernels does not follow an array of atomic_long_t: hence a read by helper. */
		bpf_core_read(&all, sizeof(all), &mm->rss_stat.count);
		READ_KIND(resident.file, all[MM_FILEPAGES] + own->rss_stat.count[MM_FILEPAGES]);
		READ_KIND(resident.anon, all[MM_ANONPAGES] + own->rss_stat.count[MM_ANONPAGES]);
		READ_KIND(resident.shmem, all[MM_SHMEMPAGES] + own->rss_stat.count[MM_SHMEMPAGES]);
	} else {
		struct mm_struct___since_6_2 *mm = (void *)self->mm;

		READ_KIND(resident.file, mm->rss_stat[MM_FILEPAGES].count);
		READ_KIND(resident.anon, mm->rss_stat[MM_ANONPAGES].count);
		READ_KIND(resident.shmem, mm->rss_stat[MM_SHMEMPAGES].count);
	}
	return resident;
}

/* The sum of the kinds. */
static __always_inline __u64 rss_of(const struct self *self, __u8 kinds)
{
	struct resident resident = resident_of(self);
	__u64 sum = 0;

	if (kinds & KIND_FILE)
		sum += resident.file;
	if (kinds & KIND_ANON)
		sum += resident.anon;
	if (kinds & KIND_SHMEM)
		sum += resident.shmem;
	return sum;
}

#endif
